//! A private, real Kubernetes control plane for tests and the demo.
//!
//! etcd, kube-apiserver with RBAC and kube-controller-manager run on the loopback interface with
//! their own certificates, free ports and a data directory of their own:
//!
//! ```no_run
//! # async fn example() -> Result<(), control_plane::Error> {
//! use control_plane::ControlPlane;
//!
//! let control_plane = ControlPlane::shared().await?;
//! let namespace = control_plane.create_namespace("story").await?;
//! let client = control_plane.admin_client();
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! No process and no file of a control plane outlives the process that started it, however that
//! process ends: by return, panic, Ctrl-C or SIGKILL.
//!
//! # Assumptions
//!
//! The programs exist: `make control-plane` provides them, or the variable `CONTROL_PLANE_BIN` names
//! a directory that holds all five. Nothing here builds or downloads, and
//! what is missing is an error, never a skipped test.

mod audit;
mod certificates;
mod control_plane;
mod error;
mod kubeconfig;
mod programs;
mod servers;
mod supervisor;

pub use audit::{Audit, AuditEvent, AuditEvents, Mark};
pub use control_plane::{Builder, ControlPlane};
pub use error::Error;

/// Makes aws-lc-rs the TLS provider of this process, unless one was chosen already.
///
/// kube needs a chosen provider as soon as two are linked in. Starting a control plane calls this.
pub fn install_crypto_provider() {
    // The error says that a provider is installed, which is all that is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
