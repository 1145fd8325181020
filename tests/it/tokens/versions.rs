//! What an operator of another version left behind.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stage::eventually;

use super::{lifetime, of_iam, values, with_own_key};
use crate::{
    ledger::{Ledger, WINDOW, restart_costs_nothing, tally},
    refresh_tokens::{self, reuses, seed_of, sign_in},
};

/// What a token costs after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    Nothing,
    /// A write of status.
    Status,
    /// A call and what follows a token: a write of its Secret, and one of status.
    Token,
}

/// A change of the status that this version writes, and what it costs a token of the provider's credential, one of a credential of its own,
/// and one of a refresh token.
fn of_another_version() -> Vec<(&'static str, Value, [Cost; 3])> {
    use Cost::{Nothing, Status, Token};
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Ready", "message": "a token is published", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    vec![
        ("no-status", json!(null), [Token; 3]),
        ("no-generation", json!({ "observedGeneration": null }), [Status; 3]),
        ("no-secret-version", json!({ "secretVersion": null }), [Status; 3]),
        ("no-secret-ref", json!({ "secretRef": null }), [Nothing; 3]),
        ("no-tenant", json!({ "tenant": null }), [Nothing; 3]),
        ("fewer-conditions", json!({ "conditions": [ready] }), [Status; 3]),
        ("no-conditions", json!({ "conditions": null }), [Status; 3]),
        ("no-end", json!({ "expiresAt": null }), [Nothing; 3]),
        ("no-publication", json!({ "lastRefreshedAt": null }), [Nothing; 3]),
        ("no-schedule", json!({ "refreshAt": null }), [Token; 3]),
        ("no-times", json!({ "expiresAt": null, "refreshAt": null, "lastRefreshedAt": null }), [Token; 3]),
        ("no-source", json!({ "issuedFor": null }), [Token; 3]),
        // Of what was not noted, nobody can say whether it has changed.
        ("no-credentials", json!({ "issuedFor": { "credentials": null } }), [Nothing, Token, Token]),
        ("no-own-credential", json!({ "issuedFor": { "providerCredentials": null } }), [Token, Nothing, Token]),
        ("no-use", json!({ "refreshToken": null }), [Nothing; 3]),
        ("more-fields", json!({ "ofTheNextVersion": { "list": [1] }, "issuedFor": { "ofTheNextVersion": "one" } }), [Nothing; 3]),
    ]
}

/// Promises 2, 3 and 6: a status that another version wrote costs one call at most, and only where it does not say what the published token is
/// good for. That stays until another one is there; no refresh token is used twice, now or later; and after one restart nothing is left to do.
///
/// Traps: T26.
#[tokio::test]
async fn a_status_of_another_version_costs_one_call_at_most_and_no_published_token_and_no_sign_in() {
    let stage = refresh_tokens::with_server("versions", 3600).await;
    lifetime(&stage, 3600).await;
    stage.iam().await;
    let own = with_own_key(&stage).await;
    let operator = stage.operator().await;
    let (mut rows, mut before, mut watches) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (what, change, costs) in of_another_version() {
        let names = ["iam", "own", "user"].map(|source| format!("{what}-{source}"));
        sign_in(&stage, &names[2], &seed_of(&names[2])).await;
        let specs = [of_iam(), own.clone(), refresh_tokens::spec(&names[2])];
        for ((name, spec), cost) in names.into_iter().zip(specs).zip(costs) {
            stage.token(&name, spec).await;
            rows.push((name, change.clone(), cost));
        }
    }
    for (name, ..) in &rows {
        stage.token_ready(name).await;
        before.insert(name.clone(), values(&stage, name).await);
        watches.push(stage.watch_secret(name).await);
    }
    for provider in ["server", stage::IAM] {
        stage.ready_provider(provider).await;
    }
    assert!(operator.stop().await.success());
    for (name, change, _) in &rows {
        let change = Patch::Merge(json!({ "status": change }));
        stage.tokens().patch_status(name, &PatchParams::default(), &change).await.expect("the status is accepted");
    }
    let ledger = Ledger::open(&stage).await;
    let operator = stage.operator().await;
    operator.working().await;
    for (name, ..) in &rows {
        stage.token_ready(name).await;
    }
    tokio::time::sleep(WINDOW).await;
    let (mut flaws, mut expected) = (Vec::new(), BTreeMap::new());
    for (name, _, cost) in &rows {
        let writes = ledger.events().writes().only(|event| event.name == *name);
        let (secrets, statuses) = (writes.of_resource("secrets").iter().count(), writes.of_resource("accesstokens").iter().count());
        let is_the_same = values(&stage, name).await == before[name];
        let is = match (secrets, statuses, is_the_same) {
            (0, 0, true) => Some(Cost::Nothing),
            (0, 1, true) => Some(Cost::Status),
            (1, 1, false) => Some(Cost::Token),
            _ => None,
        };
        if is != Some(*cost) {
            flaws.push(format!("{name}: {secrets} writes of its Secret, {statuses} of status, the same token {is_the_same}, not {cost:?}"));
        }
        if *cost == Cost::Token {
            let operation = if name.ends_with("-user") { "oidc.token" } else { "iam.token" };
            *expected.entry(operation.to_owned()).or_insert(0) += 1;
        }
    }
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
    let calls: Vec<String> = ledger.operations().await.into_iter().filter(|operation| operation.ends_with(".token")).collect();
    assert_eq!(tally(&calls), expected, "one call for each");
    assert!(watches.iter().all(|watch| watch.count("DELETED") == 0), "what is published is never taken away");
    let (_operator, _) = restart_costs_nothing(&stage, operator).await;
    // What nobody knows of an earlier use of a refresh token keeps none from being used.
    for (name, ..) in rows.iter().filter(|(name, ..)| name.ends_with("-user")) {
        let held = values(&stage, name).await;
        stage.ask_for_token(name, "now").await;
        eventually(&format!("{name} is replaced"), async || values(&stage, name).await != held).await;
        stage.token_ready(name).await;
        assert_eq!(reuses(&stage, name).await, 0, "{name}");
    }
}
