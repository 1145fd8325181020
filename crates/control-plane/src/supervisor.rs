//! The shell that keeps the servers and outlives us just long enough to remove them.
//!
//! ```text
//! our process ──pipe──▶ sh (own process group) ──▶ etcd, kube-apiserver, kube-controller-manager
//! ```
//!
//! The write end of the pipe exists in our process only, because Rust opens pipes close-on-exec. So
//! the kernel closes it however we end, the shell reads the end of its input, kills the servers and
//! removes the data directory. Ctrl-C does not reach the shell: it has a process group of its own.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = include_str!("supervisor.sh");

/// The process id of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerId(u32);

/// Starts, stops and watches servers. Dropping it returns when none of them and no file is left.
///
/// Its calls block, each for some milliseconds at most: a control plane must be usable from every
/// runtime of a test binary, and an asynchronous pipe belongs to the runtime that opened it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shell: Child,
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Supervisor {
    /// Starts the shell, which makes the data directory. It is an error if that exists already.
    pub(crate) fn start(data_directory: &Path) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "control-plane-supervisor"])
            .arg(data_directory)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let commands = shell.stdin.take();
        let replies = shell.stdout.take().map(BufReader::new).ok_or(io::ErrorKind::BrokenPipe)?;
        let mut supervisor = Self { shell, commands, replies };
        supervisor.read_reply()?;
        Ok(supervisor)
    }

    /// Runs `<name>.command` of the data directory; what it prints goes to `<name>.log`.
    pub(crate) fn start_server(&mut self, name: &str) -> io::Result<ServerId> {
        let reply = self.ask("start", name)?;
        let id = reply.parse().map_err(|_| io::Error::other(format!("no process id: {reply}")))?;
        Ok(ServerId(id))
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&mut self, server: ServerId) -> io::Result<()> {
        self.ask("kill", server.0).map(drop)
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, server: ServerId) -> io::Result<()> {
        self.ask("pause", server.0).map(drop)
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self, server: ServerId) -> io::Result<()> {
        self.ask("resume", server.0).map(drop)
    }

    pub(crate) fn is_running(&mut self, server: ServerId) -> io::Result<bool> {
        Ok(self.ask("check", server.0)? == "running")
    }

    fn ask(&mut self, command: &str, subject: impl std::fmt::Display) -> io::Result<String> {
        let commands = self.commands.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(commands, "{command} {subject}")?;
        self.read_reply()
    }

    fn read_reply(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("done", result) => Ok(result.to_owned()),
            ("failed", reason) => Err(io::Error::other(reason.to_owned())),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.commands.take());
        // The shell ends after everything else has.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn data_directory() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("control-plane-supervisor-{}", uuid::Uuid::new_v4()))
    }

    #[test]
    fn an_existing_directory_is_refused_and_left_alone() {
        let directory = data_directory();
        fs::create_dir(&directory).unwrap();
        let error = Supervisor::start(&directory).unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
        assert!(directory.exists());
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_server_that_ended_by_itself_is_not_running() {
        let directory = data_directory();
        let mut supervisor = Supervisor::start(&directory).unwrap();
        fs::write(directory.join("brief.command"), "echo gone; exit 1").unwrap();
        let server = supervisor.start_server("brief").unwrap();
        while supervisor.is_running(server).unwrap() {}
        assert_eq!(fs::read_to_string(directory.join("brief.log")).unwrap(), "gone\n");
    }

    #[test]
    fn dropping_it_kills_even_a_paused_server_that_ignores_signals() {
        let directory = data_directory();
        let mut supervisor = Supervisor::start(&directory).unwrap();
        let script = "trap '' TERM INT HUP; while :; do sleep 1; done";
        fs::write(directory.join("stubborn.command"), script).unwrap();
        let server = supervisor.start_server("stubborn").unwrap();
        supervisor.pause(server).unwrap();
        assert!(supervisor.is_running(server).unwrap());
        drop(supervisor);
        assert!(!directory.exists());
    }

    #[test]
    fn a_signal_to_the_shell_is_the_end_too() {
        let directory = data_directory();
        let mut supervisor = Supervisor::start(&directory).unwrap();
        let script = format!("kill -TERM {}", supervisor.shell.id());
        assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
        supervisor.shell.wait().unwrap();
        assert!(!directory.exists());
        assert!(supervisor.start_server("late").is_err());
    }
}
