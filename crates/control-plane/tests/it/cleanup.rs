//! Nothing is left, however the process that uses a control plane ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use control_plane::{ControlPlane, Error};

const PROGRAM: &str = env!("CARGO_BIN_EXE_control-plane");

/// A process that uses a control plane of its own.
struct User {
    process: Child,
    data_directory: PathBuf,
}

impl User {
    fn start() -> Self {
        let data_directory = unused_directory();
        let process = Command::new(PROGRAM).arg("--data-directory").arg(&data_directory).stdout(Stdio::piped()).spawn().unwrap();
        Self { process, data_directory }
    }

    fn wait_until_ready(&mut self) {
        let output = self.process.stdout.as_mut().unwrap();
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(line.starts_with("export KUBECONFIG="), "{line:?}");
        let servers = processes_that_mention(&self.data_directory);
        for server in ["/etcd", "/kube-apiserver", "/kube-controller-manager"] {
            assert!(servers.iter().any(|command| command.contains(server)), "{server} runs: {servers:?}");
        }
    }

    fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.process.id());
        assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
    }

    /// The process must be gone at last; a process that mentions the directory is one of ours.
    fn assert_nothing_is_left(mut self) {
        self.process.wait().unwrap();
        wait_until("no process and no file is left", || is_gone(&self.data_directory));
    }
}

fn unused_directory() -> PathBuf {
    std::env::temp_dir().join(format!("control-plane-test-{}", uuid::Uuid::new_v4().simple()))
}

fn is_gone(data_directory: &Path) -> bool {
    !data_directory.exists() && processes_that_mention(data_directory).is_empty()
}

/// The command lines of processes with the directory in them.
fn processes_that_mention(directory: &Path) -> Vec<String> {
    let listing = match fs::read_dir("/proc") {
        Ok(entries) => entries
            .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
            .map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
            .collect(),
        Err(_) => {
            let output = Command::new("ps").args(["-axww", "-o", "command="]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
        }
    };
    let directory = directory.display().to_string();
    listing.into_iter().filter(|command| command.contains(&directory)).collect()
}

fn wait_until(expected: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "not after 30 s: {expected}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_left_after_sigkill() {
    let mut user = User::start();
    user.wait_until_ready();
    user.signal("KILL");
    user.assert_nothing_is_left();
}

#[test]
fn nothing_is_left_when_ctrl_c_returns() {
    let mut user = User::start();
    user.wait_until_ready();
    user.signal("INT");
    assert!(user.process.wait().unwrap().success());
    assert!(is_gone(&user.data_directory), "it waits for the end of the servers");
}

#[test]
fn nothing_is_left_after_sigkill_at_any_moment_of_the_start() {
    for file in ["", "etcd.command", "etcd.log", "kube-apiserver.log", "audit.log"] {
        let mut user = User::start();
        let awaited = user.data_directory.join(file);
        wait_until(&format!("{} exists", awaited.display()), || awaited.exists());
        user.process.kill().unwrap();
        user.assert_nothing_is_left();
    }
}

#[tokio::test]
async fn nothing_is_left_after_a_panic() {
    let data_directory = unused_directory();
    let builder = ControlPlane::builder().without_controller_manager().data_directory(&data_directory);
    let test = tokio::spawn(async move {
        let _control_plane = builder.start().await.unwrap();
        panic!("as a failed assertion would");
    });
    assert!(test.await.unwrap_err().is_panic());
    assert!(is_gone(&data_directory));
}

#[tokio::test]
async fn a_start_that_fails_quotes_the_log_and_leaves_nothing() {
    let data_directory = unused_directory();
    let builder = ControlPlane::builder().data_directory(&data_directory).api_server_flag("--no-such-flag");
    let error = builder.start().await.unwrap_err();
    assert!(matches!(error, Error::ServerEnded { server: "kube-apiserver", .. }), "{error}");
    assert!(error.to_string().contains("unknown flag: --no-such-flag"), "{error}");
    assert!(is_gone(&data_directory));
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let data_directory = unused_directory();
    let start = ControlPlane::builder().data_directory(&data_directory).start();
    assert!(tokio::time::timeout(Duration::from_millis(500), start).await.is_err());
    assert!(is_gone(&data_directory));
}

#[test]
fn missing_programs_are_an_error_that_names_them() {
    let output = Command::new(PROGRAM).env("CONTROL_PLANE_BIN", "/nonexistent").output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(message.contains("/nonexistent has no etcd, kube-apiserver"), "{message}");
}
