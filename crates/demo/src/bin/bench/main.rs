//! `make bench`: the operator on the real control plane, counted and timed from outside the operator.
//!
//! The simulator's rate limits are off, and the providers' budget is raised: what is measured is the operator.

mod applications;
mod common;
mod machine;
mod refreshes;
mod tokens;

use clap::Parser;

use common::{Bench, Error};

/// Measures the operator. Without `--only-applications`, `--tokens`, `--refreshes` and `--round` everything is measured, else what they name.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measures applications, and nothing that is not named.
    #[arg(long)]
    only_applications: bool,
    /// Tenants.
    #[arg(long, default_value_t = 5)]
    tenants: usize,
    /// Applications of each tenant (App ID allows 200).
    #[arg(long, default_value_t = 200)]
    applications: usize,
    /// Milliseconds that the simulator adds to each answer.
    #[arg(long, default_value_t = 20)]
    latency: u64,
    /// Secrets of others that are made afterwards.
    #[arg(long, default_value_t = 20_000)]
    foreign_secrets: usize,
    /// So many tokens are fetched for the first time; several numbers: one after the other.
    #[arg(long, value_delimiter = ',')]
    tokens: Vec<usize>,
    /// So many tokens of a short life are kept fresh; several numbers: one after the other.
    #[arg(long, value_delimiter = ',')]
    refreshes: Vec<usize>,
    /// Seconds of that life.
    #[arg(long, default_value_t = 30)]
    lifetime: u32,
    /// So many tokens of 300 s are replaced once.
    #[arg(long)]
    round: Option<usize>,
    /// Providers that the tokens are spread over, each with an API key of its own.
    #[arg(long, default_value_t = 5)]
    providers: usize,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = Arguments::parse();
    let is_all = !arguments.only_applications && arguments.tokens.is_empty() && arguments.refreshes.is_empty() && arguments.round.is_none();
    if is_all {
        arguments.tokens = vec![1000, 10_000];
        arguments.refreshes = vec![1500, 2500];
        arguments.round = Some(1000);
    }
    let bench = Bench::set().await?;
    if is_all || arguments.only_applications {
        applications::measure(&bench, &arguments).await?;
    }
    for count in &arguments.tokens {
        tokens::measure(&bench, &arguments, *count).await?;
    }
    for count in &arguments.refreshes {
        refreshes::sustained(&bench, &arguments, *count).await?;
    }
    if let Some(count) = arguments.round {
        refreshes::one_round(&bench, &arguments, count).await?;
    }
    Ok(())
}
