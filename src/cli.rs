//! Every flag and variable, in one place; nobody else reads the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns identity into plain Kubernetes objects.
#[derive(Debug, Parser)]
#[command(name = "cloud-identity-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator. Connects by the usual rules: in-cluster, else KUBECONFIG.
    Run(Box<Run>),
    /// Print the custom resource definitions.
    Crds {
        /// Write them into this directory instead, one file each.
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Print the documentation of every reason.
    Reasons,
}

/// How to run.
#[derive(Debug, Args)]
pub struct Run {
    /// The operator's own namespace: its lease, and the Secrets of ClusterIdentityProviders. Default: the mounted ServiceAccount's, else the kubeconfig's.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,
    /// Name of this process in the lease and in events. Default: host name and process id.
    #[arg(long, env = "POD_NAME")]
    pub instance: Option<String>,
    /// Where metrics and health are served; port 0 picks a free one and prints it.
    #[arg(long, env = "METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Namespaces to watch, separated by commas. Default: all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Whether ClusterIdentityProviders (and labels of namespaces) may be read.
    #[arg(long, env = "CLUSTER_PROVIDERS", default_value_t = true, action = clap::ArgAction::Set)]
    pub cluster_providers: bool,
    /// Whether a Lease decides which process acts; `false` for one process on a laptop.
    #[arg(long, env = "LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// How often everything at the services is looked at, for example 1h; 0 turns it off.
    #[arg(long, env = "DRIFT_INTERVAL", default_value = "1h", value_parser = duration)]
    pub drift_interval: Duration,
    /// How long a failing deletion is tried before the registration is given up.
    #[arg(long, env = "DELETION_BUDGET", default_value = "10m", value_parser = duration)]
    pub deletion_budget: Duration,
    /// Hosts that providers may name, separated by commas. Default: all.
    #[arg(long, env = "PROVIDER_HOSTS", value_delimiter = ',')]
    pub provider_hosts: Vec<String>,
    /// Allow providers at loopback and link-local addresses. For the demo and for tests only.
    #[arg(long, env = "ALLOW_LOCAL_ADDRESSES", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub allow_local_addresses: bool,
    /// PEM certificates to trust besides the built-in roots.
    #[arg(long, env = "SSL_CERT_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Hosts besides IBM's own IAM that get the token of the operator's own account (trusted profiles), separated by commas.
    #[arg(long, env = "IAM_HOSTS", value_delimiter = ',')]
    pub iam_hosts: Vec<String>,
    /// Where the token of the operator's own account for IAM lies (audience `iam`).
    #[arg(long, env = "IAM_TOKEN_FILE", default_value = "/var/run/secrets/iam/token")]
    pub iam_token_file: PathBuf,
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Which log lines are written, for example `info` or `cloud_identity_operator=debug`.
    #[arg(long, env = "LOG_FILTER", default_value = "info")]
    pub log_filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let signed: jiff::SignedDuration = text.parse().map_err(|_| format!("{text:?} is not a duration such as 90s, 10m or 1h"))?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative"))
}
