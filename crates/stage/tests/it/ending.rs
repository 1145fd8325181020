//! However the operator of a test ends, and however the test does: no process stays, no file, and no secret in a log goes unnoticed.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;
use stage::{Operator, OperatorOptions, eventually, operator_binary};

/// Set for the process that starts an operator and is killed.
const KUBECONFIG_OF_THE_VICTIM: &str = "STAGE_TEST_KUBECONFIG";

/// A file that goes with the value.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).expect("written");
        Self(path)
    }

    /// A program that stands in for the operator.
    fn program(text: &str) -> Self {
        let file = Self::new("program", &format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o700)).expect("it can be run");
        file
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Leads to an API server that takes connections and never answers: the operator waits for it.
fn kubeconfig_to(listener: &TcpListener) -> File {
    let server = format!("http://{}", listener.local_addr().expect("it listens"));
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "silent",
        "clusters": [{ "name": "silent", "cluster": { "server": server } }],
        "users": [{ "name": "nobody", "user": { "token": "eyJ-a-token-of-nobody-at-all" } }],
        "contexts": [{ "name": "silent", "context": { "cluster": "silent", "user": "nobody" } }],
    });
    File::new("kubeconfig", &document.to_string())
}

/// Whether any process has this in its arguments.
fn is_mentioned(text: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("processes can be listed");
    let mut arguments = processes.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    arguments.any(|arguments| String::from_utf8_lossy(&arguments).contains(text))
}

/// The test starts itself as a second process, which holds an operator until it is killed.
#[tokio::test]
async fn no_operator_and_no_log_is_left_after_sigkill_of_the_test() {
    if let Some(kubeconfig) = std::env::var_os(KUBECONFIG_OF_THE_VICTIM) {
        let options = OperatorOptions::default().watching("nowhere");
        let operator =
            Operator::start(&operator_binary().expect("it is built"), Path::new(&kubeconfig), &options).await.expect("it starts");
        writeln!(std::io::stdout(), "\noperator {} {}", operator.pid(), operator.log_file().display()).expect("somebody reads");
        return std::future::pending().await;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let kubeconfig = kubeconfig_to(&listener);
    let mut victim = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "ending::no_operator_and_no_log_is_left_after_sigkill_of_the_test", "--nocapture"])
        .env(KUBECONFIG_OF_THE_VICTIM, &kubeconfig.0)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(victim.stdout.take().expect("a pipe")).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("operator ")).expect("it says what it started");
    let words: Vec<&str> = line.split(' ').collect();
    let (process, log) = (PathBuf::from(format!("/proc/{}/cmdline", words[1])), words[2]);
    eventually("the operator runs", async || {
        std::fs::read(&process).is_ok_and(|arguments| String::from_utf8_lossy(&arguments).contains("cloud-identity-operator\0run"))
    })
    .await;
    assert!(Path::new(log).exists());
    victim.kill().expect("it is killed");
    victim.wait().expect("it is gone");
    eventually("no process and no file is left", async || {
        std::fs::read(&process).map_or(true, |arguments| arguments.is_empty()) && !is_mentioned(log) && !Path::new(log).exists()
    })
    .await;
}

#[tokio::test]
async fn nothing_is_left_of_a_frozen_operator_that_is_dropped() {
    let program = File::program("trap '' TERM; echo up; exec sleep 600");
    let operator = Operator::start(&program.0, Path::new("/nonexistent"), &OperatorOptions::default()).await.expect("it starts");
    operator.logged("up").await;
    operator.freeze();
    let (process, log) = (format!("/proc/{}", operator.pid()), operator.log_file().to_owned());
    drop(operator);
    assert!(!Path::new(&process).exists() && !log.exists());
    eventually("the shell beside it is gone", async || !is_mentioned(&log.display().to_string())).await;
}

#[tokio::test]
async fn the_status_with_which_an_operator_ends_is_its_own() {
    let program = File::program("exit 7");
    let mut operator = Operator::start(&program.0, Path::new("/nonexistent"), &OperatorOptions::default()).await.expect("it starts");
    assert_eq!(operator.ended().await.code(), Some(7));
}

#[tokio::test]
async fn a_secret_in_its_log_fails_the_test_however_the_operator_ends() {
    let token = "eyJ-a-token-of-an-operator-that-tells";
    let kubeconfig = File::new("kubeconfig", &json!({ "token": token }).to_string());
    let lines = [
        ("a value", "key=cafec0de-told"),
        ("its bytes", "[99, 97, 102, 101, 99, 48, 100, 101, 45, 116]"),
        ("its digits", "63616665633064652D74"),
        ("a client secret", "Y2FmZWMwZGUtdG9sZA=="),
        ("its own token", token),
    ];
    for (what, line) in lines {
        let program = File::program(&format!("trap 'exit 0' TERM; echo '{line}'; echo up; while :; do sleep 0.05; done"));
        for ending in ["kill", "stop", "drop"] {
            let operator = Operator::start(&program.0, &kubeconfig.0, &OperatorOptions::default()).await.expect("it starts");
            operator.logged("up").await;
            let end = tokio::spawn(async move {
                match ending {
                    "kill" => drop(operator.kill().await),
                    "stop" => drop(operator.stop().await),
                    _ => drop(operator),
                }
            });
            let panic = end.await.expect_err("the test fails").into_panic();
            let said = panic.downcast_ref::<String>().expect("a text");
            assert!(said.contains("the operator's log: a text of") && !said.contains(line), "{what}, {ending}: {said}");
        }
    }
}
