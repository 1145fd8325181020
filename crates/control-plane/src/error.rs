//! What can go wrong around a control plane.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a control plane could not be started or used.
///
/// Its `Debug` is the message with all causes: that is what a test that unwraps it shows.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The servers, kubectl or helm are not there.
    #[error("the control plane's programs were not found: {reason}")]
    ProgramsMissing {
        /// What was looked for, and how to get it.
        reason: String,
    },

    /// A file of the data directory could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },

    /// The shell that keeps the servers could not be started or has ended.
    #[error("talking to the supervisor of the servers")]
    Supervisor(#[source] std::io::Error),

    /// No port could be reserved.
    #[error("looking for a free port")]
    Port(#[source] std::io::Error),

    /// Keys or certificates could not be made.
    #[error("making certificates")]
    Certificates(#[from] rcgen::Error),

    /// A server ended by itself before it was ready.
    #[error("{server} ended before it was ready; the end of its log:\n{log}")]
    ServerEnded {
        /// Which one.
        server: &'static str,
        /// The last lines that it wrote.
        log: String,
    },

    /// A server runs, but did not become ready.
    #[error("{server} was not ready after {} s; the end of its log:\n{log}", waited.as_secs())]
    ServerNotReady {
        /// Which one.
        server: &'static str,
        /// How long it had.
        waited: Duration,
        /// The last lines that it wrote.
        log: String,
    },

    /// The API server refused a request, or did not answer.
    #[error("{action}")]
    Kubernetes {
        /// What was being done.
        action: String,
        /// The client's error.
        source: Box<kube::Error>,
    },

    /// What was asked for did not happen in time.
    #[error("{expected} did not happen within {} s", waited.as_secs())]
    Overdue {
        /// What should have happened.
        expected: String,
        /// How long it had.
        waited: Duration,
    },

    /// A line of the audit log is not an event.
    #[error("reading an event of the audit log: {line}")]
    AuditLine {
        /// The line.
        line: String,
        /// Why it is none.
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn kubernetes(action: impl Into<String>, source: kube::Error) -> Self {
        Self::Kubernetes { action: action.into(), source: Box::new(source) }
    }

    /// Whether another attempt with other ports may succeed.
    pub(crate) fn is_address_in_use(&self) -> bool {
        matches!(self, Self::ServerEnded { log, .. } if log.contains("address already in use"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
