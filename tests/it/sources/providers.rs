//! What becomes of tokens when their provider changes, fails or works again, and what the provider says itself.

use std::collections::BTreeMap;

use identity_simulator::{Action, KeySeed, OAuthClientSeed, OidcServerSeed, OidcSettings, Rule, SecureAuthUserSeed, VerificationKey, When};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stage::{IAM, Stage, eventually, token_condition};

use super::{secret_ref, values, with_server};
use crate::{
    fixtures::{claims, key_file, provide, token_endpoint},
    ledger::{Ledger, WINDOW, tally},
};

/// Promise 6 and the schedule: another credential of a provider replaces all tokens that it brought at once, one call each; the same one touched, or
/// another budget, replaces none.
///
/// Traps: T24.
#[tokio::test]
async fn another_credential_of_a_provider_replaces_its_tokens_at_once_and_the_same_one_touched_none() {
    const TOKENS: usize = 6;
    let stage = Stage::new("replaced").await;
    let next = KeySeed { id: "next".into(), value: "cafec0de-next-api-key".into(), ..KeySeed::default() };
    stage.control.add_key(&next).await.expect("added");
    stage.iam().await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let names: Vec<String> = (0..TOKENS).map(|number| format!("token-{number}")).collect();
    for name in &names {
        stage.token(name, json!({ "providerRef": { "name": IAM } })).await;
    }
    let mut before = BTreeMap::new();
    for name in &names {
        stage.token_ready(name).await;
        before.insert(name.clone(), values(&stage, name).await);
    }
    let published = async || {
        let mut published = BTreeMap::new();
        for name in &names {
            published.insert(name.clone(), values(&stage, name).await);
        }
        published
    };
    let credential = stage.iam_document(IAM)["spec"]["iam"]["apiKey"]["secretRef"]["name"].as_str().expect("a name").to_owned();
    // Touched: its version is noted, and that is all.
    let ledger = Ledger::open(&stage).await;
    stage.patch_secret(&credential, json!({ "metadata": { "labels": { "team": "shop" } } })).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.operations().await, published().await == before), (Vec::new(), true), "touched");
    let mut document = stage.iam_document(IAM);
    document["spec"]["budget"] = json!({ "requestsPerSecond": 7 });
    stage.apply(&document).await.expect("accepted");
    tokio::time::sleep(WINDOW).await;
    let asked = tally(&ledger.operations().await);
    assert!(asked.get("iam.token").is_none_or(|calls| *calls <= 1), "no token but the provider's own: {asked:?}");
    assert!(published().await == before, "another budget");
    assert!(!tally(&ledger.writes()).contains_key("patch secrets"));
    // Another key.
    let ledger = Ledger::open(&stage).await;
    stage.secret(&credential, &[("apikey", &next.value)]).await;
    eventually("each is replaced", async || published().await.iter().all(|(name, now)| before[name] != *now)).await;
    tokio::time::sleep(WINDOW).await;
    let writes = tally(&ledger.writes());
    assert_eq!(writes["patch secrets"], TOKENS, "{writes:?}");
    let calls = tally(&ledger.operations().await)["iam.token"];
    assert!((TOKENS..=TOKENS + 1).contains(&calls), "{calls} calls: one for each, and one for the provider itself");
}

/// The console makes another credential: the provider says which of the two cases it is.
#[tokio::test]
async fn a_credential_that_was_made_anew_in_the_console_is_told_by_the_providers_health() {
    use identity_simulator::{Switches, switches::SecureAuthOldPair};
    for (old, reason) in [(SecureAuthOldPair::Kept, "CredentialsRegenerated"), (SecureAuthOldPair::EndsAtOnce, "InvalidClient")] {
        let stage = Stage::new("console").await;
        stage.control.set_switches(&Switches { secure_auth_old_pair: old, ..Switches::default() }).await.expect("set");
        let user = stage.control.add_secure_auth_user(&SecureAuthUserSeed::default()).await.expect("added");
        let newest = user.newest().expect("a credential");
        stage.secret("person", &[("clientId", &newest.client_id), ("clientSecret", &newest.client_secret)]).await;
        let _operator = stage.operator().await;
        let url = &stage.simulator.urls().secure_auth;
        let store = json!({ "url": url, "credentials": secret_ref("person"), "lifetime": "12s" });
        provide(&stage, "store", json!({ "secureAuth": store })).await;
        stage.ready_provider("store").await;
        stage.token("caller", json!({ "providerRef": { "name": "store" } })).await;
        stage.token_ready("caller").await;
        let held = values(&stage, "caller").await;
        stage.control.regenerate_secure_auth(&user.id).await.expect("made");
        // Nobody changes anything in the cluster: where the old pair has ended, the next fetch tells; where it lives, the provider's next look.
        if old == SecureAuthOldPair::Kept {
            eventually("tokens go on coming", async || values(&stage, "caller").await != held).await;
            let look = Patch::Merge(json!({ "spec": { "secureAuth": { "lifetime": "13s" } } }));
            stage.providers().patch("store", &PatchParams::default(), &look).await.expect("accepted");
        } else {
            let fails = |token: &_| token_condition(token, "Fresh") == Some(("False", "InvalidClient"));
            stage.token_where("caller", "says that the pair is refused", fails).await;
            assert_eq!(values(&stage, "caller").await, held, "the published one stays");
        }
        stage.provider_where("store", "says so", |provider| stage::provider_condition(provider, "Ready") == Some(("False", reason))).await;
    }
}

/// Promises 3 and 10: an outage that outlasts the tokens is over for all of them when it is over for the provider, which is looked at within
/// a minute, however long each of them has failed.
///
/// Traps: T28.
#[tokio::test]
async fn when_a_service_is_back_whoever_has_nothing_left_gets_a_token_soon() {
    let stage = Stage::new("outage").await;
    with_server(&stage, OidcSettings { expires_in: 12, ..OidcSettings::default() }).await;
    let _operator = stage.operator().await;
    stage.ready_provider("server").await;
    let names = ["one", "two", "three"];
    for name in names {
        stage.token(name, json!({ "providerRef": { "name": "server" } })).await;
        stage.token_ready(name).await;
    }
    let rule = stage.control.inject(&Rule::every("oidc", Action::Drop { when: When::BeforeCommit })).await.expect("accepted");
    for name in names {
        let ended = |token: &cloud_identity_operator::api::AccessToken| {
            let waits = token.status.as_ref().and_then(|status| status.next_action_at.as_ref());
            // By itself it would not be tried again for a while.
            token_condition(token, "SecretPublished") == Some(("False", "TokenExpired"))
                && waits.is_some_and(|at| at.0.duration_since(jiff::Timestamp::now()).as_secs() > 50)
        };
        stage.token_where(name, "has ended, and waits for a minute", ended).await;
    }
    stage
        .provider_where("server", "says what is wrong", |provider| {
            stage::provider_condition(provider, "Ready") == Some(("False", "ServiceUnavailable"))
        })
        .await;
    stage.control.remove_fault(rule.id).await.expect("it goes");
    let begun = std::time::Instant::now();
    for name in names {
        stage.token_ready(name).await;
    }
    assert!(begun.elapsed().as_secs() < 60, "it took {:?}", begun.elapsed());
}

/// A provider that asks in another way, or another tenant of the same host, or signs with another key, has its tokens replaced at once; what the
/// Secret holds stands for what the objects say.
#[tokio::test]
async fn a_provider_that_is_led_elsewhere_or_signs_with_another_key_has_its_tokens_replaced_at_once() {
    let stage = Stage::new("elsewhere").await;
    let public = |name: &str| VerificationKey { pem: Some(key_file(name)), ..VerificationKey::default() };
    for id in ["main", "other"] {
        let keys = vec![public("p256.pub.pem"), public("rsa-2048.pub.pem")];
        let client = OAuthClientSeed { client_id: "orders".into(), public_keys: keys, ..OAuthClientSeed::default() };
        let server = OidcServerSeed { id: id.into(), clients: vec![client], ..OidcServerSeed::default() };
        stage.control.add_oidc_server(&server).await.expect("added");
    }
    stage.secret("id", &[("client_id", "orders")]).await;
    stage.secret("key", &[("private_key", &key_file("p256.pem"))]).await;
    let operator = stage.operator().await;
    let lead_to = async |tenant: &str| {
        let signs = json!({ "method": "PrivateKeyJwt", "privateKey": secret_ref("key"), "algorithm": "ES256" });
        let server = json!({ "tokenEndpoint": token_endpoint(&stage, tenant).await, "credentials": secret_ref("id"), "clientAuthentication": signs });
        provide(&stage, "server", json!({ "oidc": server })).await;
    };
    lead_to("main").await;
    stage.token("caller", json!({ "providerRef": { "name": "server" } })).await;
    stage.token_ready("caller").await;
    stage.ready_provider("server").await;
    let issuer = async || claims(&values(&stage, "caller").await["token"])["iss"].as_str().unwrap_or_default().to_owned();
    assert!(issuer().await.ends_with("/main"), "{}", issuer().await);
    lead_to("other").await;
    eventually("the token is the other tenant's", async || issuer().await.ends_with("/other")).await;
    stage.token_ready("caller").await;
    let before = values(&stage, "caller").await;
    // Another text, whatever key that is.
    stage.secret("key", &[("private_key", &key_file("p256.sec1.pem"))]).await;
    eventually("another key, another token", async || values(&stage, "caller").await != before).await;
    stage.token_ready("caller").await;
    // One that cannot be used, put there while nobody runs.
    operator.kill().await;
    stage.secret("key", &[("private_key", &key_file("p256.encrypted.pem"))]).await;
    let _operator = stage.operator().await;
    let fails = |provider: &_| stage::provider_condition(provider, "Ready") == Some(("False", "CredentialsInvalid"));
    stage.provider_where("server", "says what is wrong with the key", fails).await;
}

/// Promise 10: whether IAM takes a key is found out by asking, not by the token that it gave before, which lives for an hour.
#[tokio::test]
async fn a_key_that_iam_no_longer_takes_is_told_by_the_provider() {
    let stage = Stage::new("taken-away").await;
    stage.iam().await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let locked = Action::Answer { when: When::BeforeCommit, status: 401, headers: [].into(), body: "{}".into() };
    stage.control.inject(&Rule::every("iam.token", locked)).await.expect("accepted");
    // What looks at it within two seconds of another look shares that.
    let mut rate = 100;
    eventually("the provider says that the key is not taken", async || {
        rate += 1;
        let look = Patch::Merge(json!({ "spec": { "budget": { "requestsPerSecond": rate } } }));
        let provider = stage.providers().patch(IAM, &PatchParams::default(), &look).await.expect("accepted");
        stage::provider_condition(&provider, "Ready") == Some(("False", "Unauthorized"))
    })
    .await;
}

/// A token of another account than the provider's is not what the spec asks for, whoever's key got it.
#[tokio::test]
async fn a_token_of_another_account_than_the_providers_is_not_published() {
    let stage = Stage::new("account").await;
    let key =
        KeySeed { value: "cafec0de-of-another-account".into(), account: "fedcba9876543210fedcba9876543210".into(), ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("added");
    stage.secret("another-key", &[("apikey", &key.value)]).await;
    let _operator = stage.operator().await;
    let mut document = stage.iam_document(IAM);
    document["spec"]["iam"]["apiKey"] = secret_ref("another-key");
    document["spec"]["iam"]["accountId"] = json!("0123456789abcdef0123456789abcdef");
    stage.apply(&document).await.expect("accepted");
    stage
        .provider_where(IAM, "says so", |provider| stage::provider_condition(provider, "Ready") == Some(("False", "AccountMismatch")))
        .await;
    for (name, spec) in [("own", json!({})), ("mine", json!({ "credentials": secret_ref("another-key") }))] {
        let mut whole = json!({ "providerRef": { "name": IAM } });
        stage::merge(&mut whole, spec);
        stage.token(name, whole).await;
        stage.token_reason(name, "AccountMismatch").await;
        assert!(stage.secret_values(name).await.is_none(), "{name}");
    }
}
