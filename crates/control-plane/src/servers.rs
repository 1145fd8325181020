//! The three servers: how each is called and what it is told.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::certificates::Certificates;
use crate::kubeconfig::write_private;
use crate::programs::Programs;

pub(crate) const ETCD: &str = "etcd";
pub(crate) const API_SERVER: &str = "kube-apiserver";
pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// The controllers that objects depend on; nothing here runs Pods.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    serviceaccount-token-controller,root-ca-certificate-publisher-controller,clusterrole-aggregation-controller";

/// How much of a log an error quotes: enough for a Go stack's first lines and the flags' complaint.
const QUOTED_LOG_LINES: usize = 20;

/// The two ports that clients must know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) api_server: u16,
}

impl Ports {
    /// Ports that are free now. Somebody else may take one before our server does.
    pub(crate) fn find() -> Result<Self, Error> {
        // Both are held at once, lest the second be the first again.
        let etcd = TcpListener::bind(("127.0.0.1", 0)).map_err(Error::Port)?;
        let api_server = TcpListener::bind(("127.0.0.1", 0)).map_err(Error::Port)?;
        let port_of = |listener: TcpListener| listener.local_addr().map(|address| address.port());
        Ok(Self { etcd: port_of(etcd).map_err(Error::Port)?, api_server: port_of(api_server).map_err(Error::Port)? })
    }
}

/// The data directory and what lies in it.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    directory: PathBuf,
}

impl Layout {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.file("audit.log")
    }

    pub(crate) fn administrator_kubeconfig(&self) -> PathBuf {
        self.file("administrator.kubeconfig")
    }

    pub(crate) fn controller_manager_kubeconfig(&self) -> PathBuf {
        self.file("kube-controller-manager.kubeconfig")
    }

    pub(crate) fn write_certificates(&self, certificates: &Certificates) -> Result<(), Error> {
        write_private(&self.file("authority.crt"), &certificates.authority.pem())?;
        write_private(&self.file("serving.crt"), &certificates.serving.certificate)?;
        write_private(&self.file("serving.key"), &certificates.serving.key)?;
        write_private(&self.file("tokens.pub"), &certificates.token_key.public_key_pem())?;
        write_private(&self.file("tokens.key"), &certificates.token_key.serialize_pem())
    }

    /// The last lines that a server printed.
    pub(crate) fn end_of_log(&self, server: &str) -> String {
        let log = fs::read(self.file(&format!("{server}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(QUOTED_LOG_LINES)..].join("\n")
    }

    pub(crate) fn write_etcd_command(&self, programs: &Programs, ports: Ports) -> Result<(), Error> {
        let url = format!("http://127.0.0.1:{}", ports.etcd);
        // One member talks to no peer, so any port will do and none needs to be known.
        let peer_url = "http://127.0.0.1:0";
        let flags = [
            format!("--data-dir={}", self.file("etcd").display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
            // The only member waits this long for another candidate: half a second less per start.
            "--heartbeat-interval=10".into(),
            "--election-timeout=100".into(),
            "--quota-backend-bytes=4294967296".into(),
        ];
        self.write_command(ETCD, &programs.etcd, &flags)
    }

    pub(crate) fn write_api_server_command(&self, programs: &Programs, ports: Ports, additional_flags: &[String]) -> Result<(), Error> {
        let file = |name: &str| self.file(name).display().to_string();
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd),
            format!("--secure-port={}", ports.api_server),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            "--endpoint-reconciler-type=none".into(),
            format!("--tls-cert-file={}", file("serving.crt")),
            format!("--tls-private-key-file={}", file("serving.key")),
            format!("--client-ca-file={}", file("authority.crt")),
            "--authorization-mode=RBAC".into(),
            format!("--service-account-key-file={}", file("tokens.pub")),
            format!("--service-account-signing-key-file={}", file("tokens.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
            "--allow-privileged=true".into(),
            format!("--audit-policy-file={}", file("audit-policy.json")),
            format!("--audit-log-path={}", self.audit_log().display()),
            // An event is on disk before its request is answered: exact counts rest on this.
            "--audit-log-mode=blocking".into(),
            // Megabytes. The log must not be rotated (at 100 by default): marks are offsets in it.
            "--audit-log-maxsize=1000000".into(),
        ];
        flags.extend_from_slice(additional_flags);
        self.write_command(API_SERVER, &programs.api_server, &flags)
    }

    pub(crate) fn write_controller_manager_command(&self, programs: &Programs) -> Result<(), Error> {
        let flags = [
            format!("--kubeconfig={}", self.controller_manager_kubeconfig().display()),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={}", self.file("tokens.key").display()),
            format!("--root-ca-file={}", self.file("authority.crt").display()),
            // Serves nothing: one port less to find.
            "--secure-port=0".into(),
            format!("--controllers={CONTROLLERS}"),
            // Many tests share it, and each waits for its own namespaces and owned objects: twenty requests a second, the usual allowance,
            // would make them wait for each other.
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
            "--concurrent-namespace-syncs=20".into(),
        ];
        self.write_command(CONTROLLER_MANAGER, &programs.controller_manager, &flags)
    }

    /// The supervisor runs a server by the name of this file, at every start alike.
    fn write_command(&self, server: &str, program: &Path, flags: &[String]) -> Result<(), Error> {
        let mut command = format!("exec {}", quote(&program.display().to_string()));
        for flag in flags {
            command.push_str(" \\\n  ");
            command.push_str(&quote(flag));
        }
        command.push('\n');
        write_private(&self.file(&format!("{server}.command")), &command)
    }
}

/// A word that the shell takes as it is.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_reaches_the_program_unchanged() {
        let word = r#"it's $HOME "and" \n `more`"#;
        let script = format!("printf %s {}", quote(word));
        let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
