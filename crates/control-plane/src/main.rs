//! Starts a control plane, says how to reach it, and keeps it until Ctrl-C.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Parser;
use control_plane::ControlPlane;
use tokio::signal::unix::{SignalKind, signal};

/// A private, real Kubernetes control plane, kept until Ctrl-C.
#[derive(Parser)]
struct Arguments {
    /// Where its data lies; must not exist, and is removed at the end
    #[arg(long, value_name = "PATH")]
    data_directory: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { data_directory } = Arguments::parse();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let end = async {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    };
    tokio::select! {
        result = run(data_directory) => result,
        () = end => Ok(()),
    }
}

async fn run(data_directory: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let mut builder = ControlPlane::builder();
    if let Some(directory) = data_directory {
        builder = builder.data_directory(directory);
    }
    let control_plane = builder.start().await?;
    let mut output = io::stdout();
    writeln!(output, "export KUBECONFIG={}", control_plane.admin_kubeconfig().display())?;
    output.flush()?;
    std::future::pending().await
}
