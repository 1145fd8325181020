//! Kubeconfig files.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Error;
use crate::certificates::Identity;

/// How a kubeconfig proves who its user is.
pub(crate) enum Credentials<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

/// Who uses which server; everything inline, so that the file works wherever it is copied.
pub(crate) struct Kubeconfig<'a> {
    pub(crate) server: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) user: &'a str,
    pub(crate) credentials: Credentials<'a>,
    pub(crate) namespace: &'a str,
}

impl Kubeconfig<'_> {
    /// Writes the file, readable by its owner alone.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        // JSON is YAML, and needs no quoting rules of its own.
        write_private(path, &format!("{:#}\n", self.to_json()))
    }

    fn to_json(&self) -> Value {
        let user = match self.credentials {
            Credentials::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.certificate),
                "client-key-data": STANDARD.encode(&identity.key),
            }),
            Credentials::Token(token) => json!({ "token": token }),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "control-plane", "cluster": {
                "server": self.server,
                "certificate-authority-data": STANDARD.encode(self.authority),
            }}],
            "users": [{ "name": self.user, "user": user }],
            "contexts": [{ "name": "control-plane", "context": {
                "cluster": "control-plane",
                "user": self.user,
                "namespace": self.namespace,
            }}],
            "current-context": "control-plane",
        })
    }
}

/// Writes a new file that only its owner may read.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|source| Error::File { action: "writing", path: path.to_owned(), source })
}
