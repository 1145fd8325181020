//! IBM's own SDKs, unchanged, as clients of the simulator.

use crate::world::{WRITER, World};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Where the SDKs are installed; none when Node or Python is missing, which is an error in CI.
async fn sdks(tests: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/sdk.sh");
    let output = Command::new("bash").arg(script).stderr(Stdio::inherit()).output().await.expect("bash");
    match output.status.code() {
        Some(0) => Some(PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())),
        Some(2) if std::env::var("CI").as_deref() != Ok("true") => {
            // Not eprintln!: what a passing test prints by that is never shown.
            writeln!(std::io::stderr(), "LEFT OUT, because Node or Python is missing: {tests}").expect("somebody reads");
            None
        }
        _ => panic!("hack/sdk.sh failed: {}", output.status),
    }
}

async fn run(command: &mut Command) -> serde_json::Value {
    let output = command.output().await.expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.lines().last().expect("a line")).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Writes the authority where the SDKs can read it.
fn authority(world: &World, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.pem", std::process::id()));
    std::fs::write(&path, world.simulator.ca_pem()).expect("written");
    path
}

#[tokio::test]
async fn the_node_sdk_fetches_a_token_and_lets_it_in() {
    let Some(directory) = sdks("the_node_sdk_fetches_a_token_and_lets_it_in").await else {
        return;
    };
    let world = World::new().await;
    let application = world.register("one").await;
    let mut node = Command::new("node");
    node.arg(directory.join("app-id.cjs"))
        .env("NODE_EXTRA_CA_CERTS", authority(&world, "node"))
        .env("clientId", application["clientId"].as_str().expect("an id"))
        .env("secret", application["secret"].as_str().expect("a secret"))
        .env("oauthServerUrl", application["oAuthServerUrl"].as_str().expect("an address"));
    let result = run(&mut node).await;
    assert_eq!(result["tokenType"], "Bearer");
    let calls = world.control.calls().await.expect("counts");
    assert_eq!((calls.of("app_id.token").answered, calls.of("app_id.jwks").answered), (1, 1));
}

#[tokio::test]
async fn the_python_sdk_fetches_an_iam_token() {
    let Some(directory) = sdks("the_python_sdk_fetches_an_iam_token").await else {
        return;
    };
    let world = World::new().await;
    let authority = authority(&world, "python");
    let mut python = Command::new(directory.join("venv/bin/python"));
    python
        .arg(directory.join("iam.py"))
        .env("REQUESTS_CA_BUNDLE", &authority)
        .env("SSL_CERT_FILE", &authority)
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("IAM_APIKEY", WRITER)
        .env("IAM_AUTH_URL", &world.simulator.urls().iam);
    let result = run(&mut python).await;
    assert_eq!(result["parts"], 3);
}
