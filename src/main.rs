//! The `cloud-identity-operator` binary.

use std::{io::Write, process::ExitCode, sync::Arc};

use clap::Parser;
use cloud_identity_operator::{
    api,
    cli::{Cli, Command, LogFormat, Run},
    controller::{
        clock::Clock,
        context::Settings,
        run::{self, RunOptions},
    },
    metrics::Metrics,
    provider::http::HttpSettings,
    reasons, server,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "leaving");
            let _ = writeln!(std::io::stderr(), "cloud-identity-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<(), AnyError> {
    let mut out = std::io::stdout();
    match command {
        Command::Crds { directory } => {
            for (name, text) in api::generated_files()? {
                match &directory {
                    Some(directory) => std::fs::write(directory.join(name), text)?,
                    None => write!(out, "---\n{text}")?,
                }
            }
            Ok(())
        }
        Command::Reasons => Ok(write!(out, "{}", reasons::documentation())?),
        Command::Run(options) => {
            // One TLS provider for the whole process: two would make the first client panic.
            drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
            log(&options)?;
            // One thread does it all: the program waits for others, and threads that hand work to each other cost it more than they give.
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(operate(*options))
        }
    }
}

fn log(options: &Run) -> Result<(), AnyError> {
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log_filter).map_err(|error| format!("--log-filter: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

async fn operate(options: Run) -> Result<(), AnyError> {
    let Run {
        namespace,
        instance,
        metrics_address,
        watch_namespaces,
        cluster_providers,
        leader_election,
        drift_interval,
        deletion_budget,
        provider_hosts,
        iam_hosts,
        iam_token_file,
        allow_local_addresses,
        ca_file,
        ..
    } = options;
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        }
    });
    let metrics = Arc::new(Metrics::default());
    server::serve(metrics_address, metrics.clone()).await?;
    let config = kube::Config::infer().await?;
    let clock = Arc::new(Clock::default());
    let client = run::plain_client(config.clone(), &clock)?;
    let settings = Settings {
        namespace: namespace.unwrap_or_else(|| config.default_namespace.clone()),
        cluster_uid: run::cluster_uid(&client).await?,
        watch_namespaces: watch_namespaces.into_iter().filter(|namespace| !namespace.is_empty()).collect(),
        drift_interval,
        deletion_budget,
        http: HttpSettings {
            allow_local_addresses,
            allowed_hosts: provider_hosts.into_iter().filter(|host| !host.is_empty()).collect(),
            iam_hosts: iam_hosts.into_iter().filter(|host| !host.is_empty()).collect(),
            iam_token_file,
            extra_roots: ca_file.map(std::fs::read).transpose()?.unwrap_or_default(),
        },
        instance: instance.unwrap_or_else(default_instance),
    };
    run::run(config, RunOptions { settings, leader_election, cluster_providers, clock }, metrics, stop).await?;
    Ok(())
}

fn default_instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
