//! The operator's process.
//!
//! # Guarantees
//!
//! * It ends with the value, and with us, also when we are killed: a shell beside it reads a pipe whose other end only we hold, and at the end
//!   of its input kills the operator and removes its log.
//! * However it ends, its log is searched for the marks of secret values and for its own token: a hit fails the test.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use crate::{Error, Forbidden, eventually};

/// Leaves a watcher behind and becomes the operator, under the same process id. The watcher reads the pipe: a line says that the operator
/// is gone already, the end of input that we are. `read` and `kill` are the shell's own.
const SCRIPT: &str = r#"
log=$1
shift
exec 3<&0 </dev/null
{ read -r _ <&3 || { kill -KILL $$; /bin/rm -f "$log"; }; } >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"#;

/// How the operator is started.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// Namespaces to watch; empty: the stage's.
    pub watch_namespaces: Vec<String>,
    /// Watch every namespace.
    pub all_namespaces: bool,
    /// The operator's own namespace.
    pub namespace: String,
    /// Whether a Lease decides.
    pub leader_election: bool,
    /// `--drift-interval`.
    pub drift_interval: String,
    /// `--deletion-budget`.
    pub deletion_budget: String,
    /// `--log-filter`.
    pub log_filter: String,
    /// `--allow-local-addresses`.
    pub allow_local_addresses: bool,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
}

impl Default for OperatorOptions {
    fn default() -> Self {
        Self {
            watch_namespaces: Vec::new(),
            all_namespaces: false,
            namespace: crate::SYSTEM.into(),
            leader_election: false,
            drift_interval: "0".into(),
            deletion_budget: "10m".into(),
            log_filter: "info,cloud_identity_operator=debug".into(),
            allow_local_addresses: true,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

impl OperatorOptions {
    /// Watches one namespace.
    #[must_use]
    pub fn watching(mut self, namespace: &str) -> Self {
        self.watch_namespaces = vec![namespace.to_owned()];
        self
    }
}

/// A running operator; killed when dropped.
pub struct Operator {
    child: Child,
    /// The write end of the watcher's pipe. Nobody else has it: it is closed on exec.
    watcher: std::fs::File,
    log: PathBuf,
    token: String,
    kept: bool,
}

impl Operator {
    /// Starts it. It says nothing about being ready: tests wait for what it does.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub async fn start(binary: &Path, kubeconfig: &Path, options: &OperatorOptions) -> Result<Self, Error> {
        let log = std::env::temp_dir().join(format!("cloud-identity-operator-{}.log", uuid::Uuid::new_v4()));
        let output = std::fs::File::create(&log)?;
        let mut command = Command::new("/bin/sh");
        command
            .env_clear()
            .env("KUBECONFIG", kubeconfig)
            .envs(options.environment.iter().cloned())
            .args(["-c", SCRIPT, "operator-supervisor"])
            .args([&log, binary])
            .args(["run", "--metrics-address", "127.0.0.1:0"])
            .args(["--namespace", &options.namespace])
            .args(["--leader-election", if options.leader_election { "true" } else { "false" }])
            .args(["--drift-interval", &options.drift_interval])
            .args(["--deletion-budget", &options.deletion_budget])
            .args(["--log-filter", &options.log_filter])
            .args(["--allow-local-addresses", if options.allow_local_addresses { "true" } else { "false" }])
            .args(&options.arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        if !options.all_namespaces {
            command.args(["--watch-namespaces", &options.watch_namespaces.join(",")]);
        }
        let mut child = command.spawn()?;
        let pipe = child.stdin.take().ok_or("the operator has an input")?;
        Ok(Self { child, watcher: pipe.into_owned_fd()?.into(), log, token: token_in(kubeconfig), kept: false })
    }

    /// Process id.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the operator runs")
    }

    /// The token of its ServiceAccount.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The most memory it ever had in RAM, in bytes (`VmHWM`).
    ///
    /// # Panics
    ///
    /// When the process has ended.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.kibibytes("status", "VmHWM:") * 1024
    }

    /// The memory that it has now, in bytes; what it shares with other processes counts by its share (`Pss`).
    ///
    /// # Panics
    ///
    /// When the process has ended.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.kibibytes("smaps_rollup", "Pss:") * 1024
    }

    fn kibibytes(&self, file: &str, name: &str) -> u64 {
        let text = self.kernel_says(file);
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap_or_default()
    }

    fn kernel_says(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).expect("the operator runs")
    }

    /// How long it has kept a processor busy so far: what others do meanwhile does not count.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let stat = self.kernel_says("stat");
        // After the name in parentheses; user and system time, in ticks of 10 ms (`USER_HZ`).
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        Duration::from_millis(fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap_or_default() * 10).sum())
    }

    /// Everything it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The file that its log is written to.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The address where it serves metrics, once it does.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn metrics_address(&self) -> String {
        let mut found = String::new();
        eventually("the operator serves metrics", async || {
            let log = self.log();
            let address = log.lines().find(|line| line.contains("serving metrics")).and_then(|line| line.split("address").nth(1));
            // In text `address=…`, in JSON `"address":"…"`.
            let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ':';
            let rest = address.unwrap_or_default().trim_start_matches(['=', '"', ':']);
            found = rest.chars().take_while(|c| is_part(*c)).collect();
            !found.is_empty()
        })
        .await;
        found
    }

    /// Asks its HTTP server; answers status and body.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let address = self.metrics_address().await;
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// Waits until it knows everything and works.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn working(&self) {
        self.logged("everything is known; working").await;
    }

    /// Waits until a line of its log holds a text.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn logged(&self, text: &str) {
        eventually(&format!("the operator's log says {text:?}"), async || self.log().contains(text)).await;
    }

    /// Kills it (SIGKILL), as a crash would, and waits until it is gone.
    pub async fn kill(mut self) -> String {
        drop(self.child.kill().await);
        self.log()
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not stop in time.
    pub async fn stop(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.expect("it stops in time").expect("it can be waited for")
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(crate::PATIENCE, self.child.wait()).await.expect("it ends in time").expect("it can be waited for")
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Freezes it (SIGSTOP).
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Keeps the log file, for a look after a failure.
    pub fn keep_log(&mut self) {
        self.kept = true;
    }

    fn signal(&self, name: &str) {
        if let Some(pid) = self.child.id() {
            // std cannot send signals, and unsafe code is forbidden here.
            drop(std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status());
        }
    }

    /// Kills it, if need be, and returns when it is gone: what it logged is complete then.
    fn end(&mut self) {
        drop(self.child.start_kill());
        while matches!(self.child.try_wait(), Ok(None)) {
            // There is no runtime to wait with when a value is dropped; the kernel needs less than this.
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its process id may be somebody else's from now on.
        drop(writeln!(self.watcher, "gone"));
    }
}

/// The bearer token in a kubeconfig; empty when there is none.
fn token_in(kubeconfig: &Path) -> String {
    let text = std::fs::read_to_string(kubeconfig).unwrap_or_default();
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    words.filter(|word| word.starts_with("eyJ")).max_by_key(|word| word.len()).unwrap_or_default().to_owned()
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.end();
        let log = self.log();
        if !self.kept {
            drop(std::fs::remove_file(&self.log));
        }
        let leaks = Forbidden::marks().and([self.token.clone()]).search("the operator's log", &log);
        if std::thread::panicking() {
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("--- the operator's log ends ---\n{}\n---", tail.join("\n"));
            if !leaks.is_empty() {
                eprintln!("and it holds secrets: {leaks:#?}");
            }
        } else {
            assert!(leaks.is_empty(), "{leaks:#?}");
        }
    }
}
