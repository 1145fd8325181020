//! `AccessToken`: a Secret that holds a valid token, from IAM and from App ID.

mod budget;
mod changes;
mod costs;
mod schedule;
mod sources;
mod versions;

use std::collections::BTreeMap;

use identity_simulator::{KeySeed, Settings};
use serde_json::{Value, json};
use stage::{IAM, Operator, Stage};

/// What a first token costs, and every later one.
const WRITES_OF_A_TOKEN: [&str; 2] = ["patch secrets", "patch accesstokens/status"];

/// A stage with a provider for IAM that was found working; its tokens live as long as told.
async fn with_iam(prefix: &str, seconds: i64) -> (Stage, Operator) {
    let stage = Stage::new(prefix).await;
    lifetime(&stage, seconds).await;
    stage.iam().await;
    let operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    (stage, operator)
}

async fn lifetime(stage: &Stage, seconds: i64) {
    let settings = stage.control.settings().await.expect("the simulator answers");
    stage.control.set_settings(&Settings { iam_expires_in: seconds, app_id_expires_in: seconds, ..settings }).await.expect("set");
}

fn of_iam() -> Value {
    json!({ "providerRef": { "name": IAM } })
}

/// What asks for a token with an API key of the namespace's own, of the id `own`.
async fn with_own_key(stage: &Stage) -> Value {
    let key = KeySeed { id: "own".into(), value: "cafec0de-own-key".into(), ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("added");
    stage.secret("own-key", &[("apikey", "cafec0de-own-key")]).await;
    json!({ "providerRef": { "name": IAM }, "credentials": { "secretRef": { "name": "own-key" } } })
}

async fn values(stage: &Stage, name: &str) -> BTreeMap<String, String> {
    stage.secret_values(name).await.expect("the Secret is there")
}
