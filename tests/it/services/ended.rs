//! Tokens and credentials that the service ends before their time.

use identity_simulator::{Action, OidcSettings, Rule, SecureAuthUserSeed, VERIFY, When};
use serde_json::{Value, json};
use stage::{Stage, eventually, provider_condition, token_condition};

use super::{SECRET, issuer, pair, provide, published, with_server};
use crate::{
    fixtures::client_of_verify,
    ledger::{Ledger, WINDOW},
};

/// A look at the service with a token that has been ended before its time: as the service tells it, by 401 or in its own way.
fn ended(status: u16, message: &str) -> Action {
    let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
    Action::Answer { when: When::BeforeCommit, status, headers, body: json!({ "message": message }).to_string() }
}

/// Promise 9: a token that was ended with what it came from is fetched anew at its next use, once, whichever way the service tells it; a user
/// who may not do something is no such case.
///
/// Traps: T23, T28.
#[tokio::test]
async fn a_token_that_was_ended_early_is_fetched_anew_once_when_a_provider_is_looked_at() {
    let stage = Stage::new("ended").await;
    let user = stage.control.add_secure_auth_user(&SecureAuthUserSeed::default()).await.expect("added");
    let newest = user.newest().expect("a credential").clone();
    stage.secret("secure-pair", &[("clientId", &newest.client_id), ("clientSecret", &newest.client_secret)]).await;
    let client = client_of_verify("machine", SECRET);
    stage.control.add_oauth_client(VERIFY, &client).await.expect("added");
    stage.secret("verify-pair", &[("client_id", "machine"), ("client_secret", SECRET)]).await;
    let urls = stage.simulator.urls();
    let secure_auth = json!({ "secureAuth": { "url": urls.secure_auth, "credentials": { "secretRef": { "name": "secure-pair" } } } });
    let verify = json!({ "verify": { "url": urls.verify, "credentials": { "secretRef": { "name": "verify-pair" } } } });
    let _operator = stage.operator().await;
    let invalid = "Access token is invalid";
    let rows = [
        ("secure-401", &secure_auth, "secure_auth.token", "secure_auth.me", ended(401, "no"), Some("Unauthorized")),
        ("secure-400", &secure_auth, "secure_auth.token", "secure_auth.me", ended(400, invalid), Some("Unauthorized")),
        ("secure-403", &secure_auth, "secure_auth.token", "secure_auth.me", ended(403, invalid), Some("Unauthorized")),
        ("verify-401", &verify, "verify.token", "verify.applications.list", ended(401, "no"), Some("Unauthorized")),
    ];
    for (name, service, token, look, answer, reason) in rows {
        let counts = async || (stage.calls(token).await, stage.calls(look).await);
        stage.control.clear_journal().await.expect("cleared");
        stage.control.inject(&Rule::next(look, answer.clone())).await.expect("accepted");
        provide(&stage, name, (*service).clone()).await;
        stage.ready_provider(name).await;
        assert_eq!(counts().await, (2, 2), "{name}: one more token, one more look");
        stage.control.clear_journal().await.expect("cleared");
        let always = stage.control.inject(&Rule::every(look, answer)).await.expect("accepted");
        let refused = format!("{name}-always");
        provide(&stage, &refused, (*service).clone()).await;
        stage
            .provider_where(&refused, "says that its credential is refused", |provider| {
                provider_condition(provider, "Ready").map(|(_, reason)| reason) == reason
            })
            .await;
        // A window: nothing further may happen in it.
        tokio::time::sleep(WINDOW).await;
        assert_eq!(counts().await, (2, 2), "{name}: and no third");
        stage.control.remove_fault(always.id).await.expect("it goes");
    }
    // What a user may not do is no matter of the token.
    stage.control.clear_journal().await.expect("cleared");
    let always = stage.control.inject(&Rule::every("secure_auth.me", ended(403, "Forbidden"))).await.expect("accepted");
    provide(&stage, "no-right", secure_auth.clone()).await;
    stage
        .provider_where("no-right", "says that a right is missing", |provider| {
            provider_condition(provider, "Ready").is_some_and(|(_, reason)| reason == "DeveloperPrivilegeMissing")
        })
        .await;
    assert_eq!((stage.calls("secure_auth.token").await, stage.calls("secure_auth.me").await), (1, 1));
    stage.control.remove_fault(always.id).await.expect("it goes");
}

/// Promise 3: the operator never uses a token that it publishes, so that only its reader learns that it was revoked; whoever asks for another
/// one gets one, by one call and one write. And a refusal of the credential itself is not repeated: it would only be refused again.
///
/// Traps: T23, T28.
#[tokio::test]
async fn a_revoked_token_is_replaced_by_one_call_for_whoever_asks_and_a_refused_credential_is_presented_once() {
    let (stage, _operator) = with_server("revoked-token", OidcSettings::default()).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage.ready_provider("server").await;
    stage.token("orders", json!({ "providerRef": { "name": "server" } })).await;
    stage.token_ready("orders").await;
    let encoded: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let is_active = async |token: &str| {
        let introspect = stage.http().post(format!("{}/introspect", issuer(&stage))).basic_auth("orders", Some(&encoded));
        let told: Value = introspect.form(&[("token", token)]).send().await.expect("an answer").json().await.expect("JSON");
        told["active"] == json!(true)
    };
    let first = published(&stage, "orders").await;
    assert!(is_active(&first).await);
    stage.control.revoke_oauth("main", &first).await.expect("revoked");
    assert!(!is_active(&first).await);
    let ledger = Ledger::open(&stage).await;
    stage.ask_for_token("orders", "the former was revoked").await;
    eventually("another one is published", async || published(&stage, "orders").await != first).await;
    assert!(is_active(&published(&stage, "orders").await).await);
    eventually("status says so", async || ledger.writes() == ["patch secrets", "patch accesstokens/status"]).await;
    let calls = async || ledger.operations().await.into_iter().filter(|operation| operation == "oidc.token").count();
    assert_eq!(calls().await, 1);
    // The credential of the whole tenant is revoked: one call, and what is published stays.
    let second = published(&stage, "orders").await;
    let ledger = Ledger::open(&stage).await;
    stage.control.inject(&Rule::every("oidc.token", ended(401, "no"))).await.expect("accepted");
    stage.ask_for_token("orders", "and this one, too").await;
    stage
        .token_where("orders", "says that the client is refused", |token| {
            token_condition(token, "Fresh").is_some_and(|(_, reason)| reason == "InvalidClient")
        })
        .await;
    // A window: nothing further may happen in it. The provider, in doubt, looks for itself, once.
    tokio::time::sleep(WINDOW).await;
    let calls = ledger.operations().await.into_iter().filter(|operation| operation == "oidc.token").count();
    assert!((1..=2).contains(&calls), "{calls} calls");
    assert_eq!(published(&stage, "orders").await, second);
}
