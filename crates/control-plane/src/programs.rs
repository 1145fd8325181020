//! Where the servers, kubectl and helm are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

const NAMES: [&str; 5] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm"];

/// The script that builds the programs and knows where they are.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/control-plane.sh");

/// The five programs, all present.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) etcd: PathBuf,
    pub(crate) api_server: PathBuf,
    pub(crate) controller_manager: PathBuf,
    pub(crate) kubectl: PathBuf,
    pub(crate) helm: PathBuf,
}

impl Programs {
    /// Takes `CONTROL_PLANE_BIN` when it is set, else what `make control-plane` provides.
    pub(crate) fn find() -> Result<Self, Error> {
        match env::var_os("CONTROL_PLANE_BIN") {
            Some(directory) => Self::in_directory(Path::new(&directory)),
            None => Self::in_directory(&built_directory()?),
        }
    }

    fn in_directory(directory: &Path) -> Result<Self, Error> {
        let missing: Vec<_> = NAMES.into_iter().filter(|name| !directory.join(name).is_file()).collect();
        if !missing.is_empty() {
            let reason = format!("{} has no {}", directory.display(), missing.join(", "));
            return Err(Error::ProgramsMissing { reason });
        }
        let [etcd, api_server, controller_manager, kubectl, helm] = NAMES.map(|name| directory.join(name));
        Ok(Self { etcd, api_server, controller_manager, kubectl, helm })
    }
}

/// Asks the script, so that the rule for the cache's place exists once.
fn built_directory() -> Result<PathBuf, Error> {
    let output = Command::new(SCRIPT).args(["--print-dir", "--no-build"]).output().map_err(|source| Error::File {
        action: "running",
        path: SCRIPT.into(),
        source,
    })?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::ProgramsMissing { reason });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let error = Programs::in_directory(Path::new("/nonexistent")).unwrap_err();
        let expected = "/nonexistent has no etcd, kube-apiserver, kube-controller-manager, kubectl, helm";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
