//! The binary.

use identity_simulator::{Control, Urls};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

fn start(seed: &std::path::Path) -> (Child, Urls) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_identity-simulator"))
        .args(["--exit-with-stdin", "--seed"])
        .arg(seed)
        .arg("--ca-out")
        .arg(seed.with_extension("pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
    let urls = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    (child, urls)
}

#[tokio::test]
async fn the_binary_prints_its_urls_serves_its_seed_and_ends_with_its_input() {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let seed = directory.join("seed.yaml");
    let text = "tenants:\n  - id: one\n    region: eu-de\nkeys:\n  - value: cafec0de-key\n    access: {one: Writer}\nsettings:\n  latency_milliseconds: 1\n";
    std::fs::File::create(&seed).and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
    let (mut child, urls) = start(&seed);
    let state = Control::new(&urls.control).state().await.expect("a state");
    assert_eq!(state.tenants["one"].region, "eu-de");
    assert_eq!(state.settings.latency_milliseconds, 1);
    let ca_pem = std::fs::read_to_string(seed.with_extension("pem")).expect("the authority");
    let keys = crate::world::client(&ca_pem).get(format!("{}/identity/keys", urls.iam)).send().await.expect("an answer");
    assert_eq!(keys.status(), 200);
    drop(child.stdin.take());
    assert!(child.wait().expect("ended").success());
    std::fs::remove_dir_all(&directory).expect("removed");
}
