//! Servers that answer what they should not, or not at all.

use identity_simulator::{Action, OidcSettings, Rule, When};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stage::{eventually, provider_condition, token_condition, token_message};

use super::{SECRET, issuer, pair, provide, published, with_server};
use crate::ledger::{Ledger, tally};

/// Promise 6: a server that answers with the token that it gave before causes no write, and is asked again in time.
///
/// Traps: T22.
#[tokio::test]
async fn a_cached_token_is_not_written_again_and_the_next_one_comes_before_it_ends() {
    let settings = OidcSettings { same_token: true, expires_in: 12, ..OidcSettings::default() };
    let (stage, _operator) = with_server("cached", settings).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage.ready_provider("server").await;
    stage.token("orders", json!({ "providerRef": { "name": "server" } })).await;
    stage.token_ready("orders").await;
    let first = published(&stage, "orders").await;
    let ledger = Ledger::open(&stage).await;
    let reused = stage.token_where("orders", "was answered with the same token", |token| {
        token_condition(token, "Fresh").is_some_and(|(_, reason)| reason == "TokenReused")
    });
    reused.await;
    assert!(!tally(&ledger.writes()).contains_key("patch secrets"), "{:?}", ledger.writes());
    assert_eq!(published(&stage, "orders").await, first);
    eventually("the next token is published", async || published(&stage, "orders").await != first).await;
}

/// Promises 2 and 10: replies that are not what they should be change nothing and say so.
#[tokio::test]
async fn absurd_replies_change_nothing_and_are_named() {
    let (stage, _operator) = with_server("absurd", OidcSettings::default()).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage.ready_provider("server").await;
    stage.token("orders", json!({ "providerRef": { "name": "server" } })).await;
    stage.token_ready("orders").await;
    let held = stage.stored_secret("orders").await;
    let ask = async |word: &str| stage.ask_for_token("orders", word).await;
    let failing = async |word: &'static str, reason: &str, part: &str| {
        let token =
            stage.token_where("orders", word, |token| token_condition(token, "Fresh").is_some_and(|(_, said)| said == reason)).await;
        let said = token_message(&token, "Fresh").expect("a message").to_owned();
        assert!(said.contains(part), "{word}: {said}");
        assert_eq!(stage.stored_secret("orders").await.data, held.data, "{word}");
    };
    let set = async |settings: OidcSettings| stage.control.set_oidc_settings("main", &settings).await.expect("set");
    set(OidcSettings { token_length: 700_000, ..OidcSettings::default() }).await;
    ask("too large").await;
    failing("too large", "TokenTooLarge", "nothing was changed").await;
    set(OidcSettings { token_type: "mac".into(), ..OidcSettings::default() }).await;
    ask("another type").await;
    failing("another type", "UnexpectedResponse", "Bearer").await;
    set(OidcSettings { errors_with_ok: true, ..OidcSettings::default() }).await;
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", "cafec0de-wrong")]).await;
    failing("an error with status 200", "InvalidClient", "invalid_client").await;
    set(OidcSettings::default()).await;
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", SECRET)]).await;
    stage
        .token_where("orders", "is fresh again", |token| token_condition(token, "Fresh").is_some_and(|(status, _)| status == "True"))
        .await;
}

/// Mix-ups of servers: another issuer, an endpoint that moves to another host.
#[tokio::test]
async fn a_server_that_is_not_the_one_that_was_meant_is_not_asked() {
    let (stage, _operator) = with_server("mixed-up", OidcSettings { slash_after_issuer: true, ..OidcSettings::default() }).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage
        .provider_where("server", "says that the issuer is another", |provider| {
            provider_condition(provider, "Ready").is_some_and(|(_, reason)| reason == "IssuerMismatch")
        })
        .await;
    assert_eq!(stage.calls("oidc.token").await, 0, "no credential was sent");
    let expected = json!({ "issuer": issuer(&stage), "expectedIssuer": format!("{}/", issuer(&stage)), "credentials": pair() });
    provide(&stage, "server", json!({ "oidc": expected })).await;
    stage.ready_provider("server").await;
    // The document now names another host: a person has to say that this is right.
    let elsewhere = OidcSettings { slash_after_issuer: true, endpoints_elsewhere: true, ..OidcSettings::default() };
    stage.control.set_oidc_settings("main", &elsewhere).await.expect("set");
    let calls = stage.calls("oidc.token").await;
    let mut again = expected.clone();
    again["lifetime"] = json!("9m");
    provide(&stage, "server", json!({ "oidc": again })).await;
    stage
        .provider_where("server", "says that the endpoints have changed", |provider| {
            provider_condition(provider, "Ready").is_some_and(|(_, reason)| reason == "EndpointsChanged")
        })
        .await;
    assert_eq!(stage.calls("oidc.token").await, calls, "no credential was sent");
    let accept = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/accept-endpoints": "localhost" } } }));
    stage.providers().patch("server", &PatchParams::default(), &accept).await.expect("accepted");
    stage.ready_provider("server").await;
}

/// A lost connection, again and again: the published token stays, and the next one comes as soon as it can.
#[tokio::test]
async fn a_dead_server_costs_nobody_a_token_that_lives() {
    let (stage, _operator) = with_server("dead", OidcSettings { expires_in: 20, ..OidcSettings::default() }).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage.ready_provider("server").await;
    stage.token("orders", json!({ "providerRef": { "name": "server" } })).await;
    stage.token_ready("orders").await;
    let first = published(&stage, "orders").await;
    let dead = Rule::every("oidc.token", Action::Drop { when: When::BeforeCommit });
    stage.control.inject(&dead).await.expect("accepted");
    stage
        .token_where("orders", "says that it is not fresh", |token| {
            token_condition(token, "Fresh").is_some_and(|(status, _)| status == "False")
        })
        .await;
    assert_eq!(published(&stage, "orders").await, first);
    stage.control.clear_faults().await.expect("mended");
    eventually("the next one is there", async || published(&stage, "orders").await != first).await;
    let recovered = stage.token_ready("orders").await;
    assert_eq!(token_condition(&recovered, "Ready").map(|(status, _)| status), Some("True"));
    assert!(stage.event("orders", "Refreshed").await.contains("again"));
}

/// Promise 9: a discovery document that is not served any more ends nobody's tokens, as long as the endpoint that it named gives them.
#[tokio::test]
async fn a_discovery_document_that_is_gone_costs_nobody_a_token() {
    let (stage, _operator) = with_server("undiscovered", OidcSettings::default()).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage.ready_provider("server").await;
    for name in ["one", "two"] {
        stage.token(name, json!({ "providerRef": { "name": "server" } })).await;
        stage.token_ready(name).await;
    }
    let before = published(&stage, "two").await;
    let answer = |status| Action::Answer { when: When::BeforeCommit, status, headers: [].into(), body: "{}".into() };
    stage.control.inject(&Rule::every("oidc.discovery", answer(403))).await.expect("accepted");
    let reads = stage.calls("oidc.discovery").await;
    stage.control.inject(&Rule::next("oidc.token", answer(404))).await.expect("accepted");
    // Its token endpoint may have moved, so that the document is asked for.
    stage.ask_for_token("one", "now").await;
    stage
        .token_where("one", "is told that there is no document", |token| {
            token_condition(token, "Fresh").is_some_and(|(status, _)| status == "False")
        })
        .await;
    assert!(stage.calls("oidc.discovery").await > reads, "it was asked for");
    stage.ask_for_token("two", "now").await;
    eventually("the next one is there", async || published(&stage, "two").await != before).await;
}
