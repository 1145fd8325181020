//! `identity-simulator`: the simulator as a process of its own.
//!
//! Prints one line of JSON with its URLs once it serves, and ends on SIGTERM, SIGINT or, when asked to, at the end of its input.

use clap::Parser;
use identity_simulator::{Options, Seed, Simulator, StartError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

/// Simulates IBM Cloud IAM, App ID, Verify, SecureAuth identity stores and generic OAuth 2.0 servers on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the services listen; port 0 for free ports, another one for that and those after it
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the control API listens
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// The host in all URLs; the address to listen at by default
    #[arg(long)]
    host: Option<String>,
    /// A region of App ID, with a listener of its own (may be given several times)
    #[arg(long = "region", default_values_t = ["us-south".to_owned(), "eu-de".to_owned()])]
    regions: Vec<String>,
    /// Write the certificate of the generated authority to this file
    #[arg(long)]
    ca_out: Option<PathBuf>,
    /// Tenants, keys, servers, clients, users, switches and settings to start with (JSON or YAML)
    #[arg(long)]
    seed: Option<PathBuf>,
    /// End when standard input is closed, so that no process is left when the parent is killed
    #[arg(long)]
    exit_with_stdin: bool,
}

/// Why the process ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot understand {}", .0.display())]
    Parse(PathBuf, #[source] Box<serde_saphyr::Error>),
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot print the URLs")]
    Print(#[source] io::Error),
    #[error("cannot listen for signals")]
    Signal(#[source] io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            tracing::error!("{message}");
            // Also where no log is wanted.
            let _unheard = writeln!(io::stderr(), "identity-simulator: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    let Arguments { listen, control, host, regions, ca_out, seed, exit_with_stdin } = arguments;
    let seed = match seed {
        Some(path) => read_seed(&path)?,
        None => Seed::default(),
    };
    let host = host.unwrap_or_else(|| listen.ip().to_string());
    let simulator = Simulator::start(Options { listen, control, host, regions, seed }).await?;
    if let Some(path) = ca_out {
        std::fs::write(&path, simulator.ca_pem()).map_err(|error| Error::Write(path, error))?;
    }
    print_urls(&simulator).map_err(Error::Print)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
        () = end_of_input(), if exit_with_stdin => {}
    }
    // A blocked read of standard input would keep the runtime from ending.
    std::process::exit(0)
}

/// YAML contains JSON.
fn read_seed(path: &Path) -> Result<Seed, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::Read(path.to_owned(), error))?;
    serde_saphyr::from_str(&text).map_err(|error| Error::Parse(path.to_owned(), Box::new(error)))
}

fn print_urls(simulator: &Simulator) -> io::Result<()> {
    let mut line = serde_json::to_string(simulator.urls())?;
    line.push('\n');
    let mut output = io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.flush()
}

async fn end_of_input() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 256];
    while matches!(input.read(&mut buffer).await, Ok(length) if length > 0) {}
}
