//! The real kubectl, as a user has it.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::Stage;

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether it succeeded.
    pub success: bool,
    /// Its output.
    pub output: String,
    /// What it said beside.
    pub errors: String,
}

impl Said {
    /// The output of a program that succeeded without a word beside.
    ///
    /// # Panics
    ///
    /// When it failed, or warned.
    pub fn quietly(self) -> String {
        assert!(self.success && self.errors.is_empty(), "{}{}", self.output, self.errors);
        self.output
    }
}

/// Runs a program to its end, with something to read.
///
/// # Panics
///
/// When it cannot be run.
pub async fn run(command: std::process::Command, input: &str) -> Said {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let feed = async {
        // A program that does not read its input has its reasons.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.expect("the program ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { success: output.status.success(), output: text(&output.stdout), errors: text(&output.stderr) }
}

impl Stage {
    /// Runs kubectl as the administrator, in the stage's namespace.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub async fn kubectl(&self, arguments: &[&str]) -> Said {
        self.kubectl_with(arguments, "").await
    }

    /// Runs kubectl with something to read (`-f -`).
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.control_plane.kubectl_command();
        command.args(["--namespace", &self.namespace]).args(arguments);
        run(command, input).await
    }
}

/// Documents as kubectl reads them.
#[must_use]
pub fn documents<'a>(list: impl IntoIterator<Item = &'a Value>) -> String {
    list.into_iter().map(|document| format!("---\n{document}\n")).collect()
}
