//! Where tokens come from, each source end to end: what is sent, and what the token says.

mod providers;

use std::collections::BTreeMap;

use identity_simulator::{
    Action, ApplicationSeed, AssertionIssuer, CustomIdentityProvider, KeySeed, OAuthClientSeed, OAuthRefreshTokenSeed, OidcServerSeed,
    OidcSettings, Rule, SecureAuthUserSeed, User, VERIFY, VerificationKey, When,
};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use stage::{IAM, Operator, PROVIDER, Stage, TENANT, eventually, token_condition, token_message};

use crate::fixtures::{claims, client_of_verify, key_file, provide};
use crate::ledger::{WINDOW, restart_costs_nothing, tally};

const SECRET: &str = "cafec0de-secret-of-orders";

fn secret_ref(name: &str) -> Value {
    json!({ "secretRef": { "name": name } })
}

async fn values(stage: &Stage, name: &str) -> BTreeMap<String, String> {
    stage.secret_values(name).await.expect("the Secret is there")
}

/// A server with a client, a user and somebody whose assertions it takes; its provider is called `server`.
async fn with_server(stage: &Stage, settings: OidcSettings) {
    let key = VerificationKey { pem: Some(key_file("rsa-2048.pub.pem")), ..VerificationKey::default() };
    let client = OAuthClientSeed { client_id: "orders".into(), secret: Some(SECRET.into()), ..OAuthClientSeed::default() };
    let server = OidcServerSeed {
        id: "main".into(),
        clients: vec![client],
        users: vec![User { username: "ann".into(), password: "cafec0de-password-of-ann".into(), ..User::default() }],
        assertion_issuers: vec![AssertionIssuer { issuer: "machines".into(), public_keys: vec![key], subjects: ["ann".to_owned()].into() }],
        settings,
    };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", SECRET)]).await;
    stage.secret("ann", &[("username", "ann"), ("password", "cafec0de-password-of-ann")]).await;
    stage.secret("key", &[("private_key", &key_file("rsa-2048.pem"))]).await;
    let issuer = format!("{}/tenants/main", stage.simulator.urls().oidc);
    provide(stage, "server", json!({ "oidc": { "issuer": issuer, "credentials": secret_ref("pair") } })).await;
}

fn by_password() -> Value {
    json!({ "type": "Password", "password": secret_ref("ann"), "scopes": ["openid"] })
}

fn by_assertion() -> Value {
    json!({ "type": "JwtBearer", "scopes": ["openid"], "assertion": { "signed": {
        "privateKey": secret_ref("key"), "issuer": "machines", "subject": "ann",
    } } })
}

/// Promises 2 and 10: the ID token of a user is published beside the access token; one that nobody signed is refused, and nothing is changed.
#[tokio::test]
async fn an_identity_token_is_published_for_a_users_grant_and_never_one_that_nobody_signed() {
    let stage = Stage::new("identity").await;
    with_server(&stage, OidcSettings::default()).await;
    let _operator = stage.operator().await;
    let rows = [("password", by_password()), ("assertion", by_assertion())];
    for (name, grant) in &rows {
        let spec = json!({ "providerRef": { "name": "server" }, "grant": grant, "secret": { "name": format!("{name}-token"), "identityToken": true } });
        stage.token(name, spec).await;
        stage.token_ready(name).await;
        let published = values(&stage, &format!("{name}-token")).await;
        assert_eq!(claims(&published["id_token"])["aud"], json!("orders"), "{name}");
        assert_ne!(published["id_token"], published["token"], "{name}");
        assert!(!published.keys().any(|key| key.contains("refresh")), "{name}: a refresh token is never published");
    }
    let settings = OidcSettings { unsigned_id_tokens: true, ..OidcSettings::default() };
    stage.control.set_oidc_settings("main", &settings).await.expect("set");
    for (name, _) in &rows {
        let held = stage.stored_secret(&format!("{name}-token")).await.data;
        stage.ask_for_token(name, "another").await;
        let refused = stage
            .token_where(name, "says that nobody signed it", |token| {
                token_condition(token, "Fresh") == Some(("False", "UnexpectedResponse"))
            })
            .await;
        assert_eq!(token_condition(&refused, "Ready").map(|(status, _)| status), Some("True"), "{name}: the published one lives");
        assert!(token_message(&refused, "Fresh").is_some_and(|said| said.contains("no signed ID token")), "{name}");
        assert_eq!(stage.stored_secret(&format!("{name}-token")).await.data, held, "{name}");
    }
    let spec =
        json!({ "providerRef": { "name": "server" }, "grant": by_password(), "secret": { "name": "new-token", "identityToken": true } });
    stage.token("new", spec).await;
    stage.token_reason("new", "UnexpectedResponse").await;
    assert!(stage.secret_values("new-token").await.is_none(), "nothing is published");
}

/// App ID: an assertion of the tenant's custom identity provider is exchanged for a token of its subject, by a client of the operator's and by a
/// pair in a Secret.
#[tokio::test]
async fn app_id_exchanges_an_assertion_that_the_operator_signs() {
    let stage = Stage::new("asserted").await;
    let provider = CustomIdentityProvider { active: true, public_key: key_file("rsa-2048.pub.pem") };
    stage.control.set_custom_identity_provider(TENANT, &provider).await.expect("set");
    stage.secret("key", &[("private_key", &key_file("rsa-2048.pem"))]).await;
    let by_hand = ApplicationSeed { name: "by hand".into(), ..ApplicationSeed::default() };
    let by_hand = stage.control.add_application(TENANT, &by_hand).await.expect("added");
    stage.secret("pair", &[("client_id", &by_hand.client_id), ("client_secret", by_hand.secret.as_deref().expect("a secret"))]).await;
    stage.provider().await;
    let _operator = stage.operator().await;
    stage.application("storefront", json!({})).await;
    let ours = stage.ready("storefront").await.status.and_then(|status| status.client_id).expect("an id");
    let grant = json!({ "type": "JwtBearer", "assertion": { "signed": {
        "privateKey": secret_ref("key"), "issuer": "https://people.example.com", "subject": "ann",
    } } });
    let sources = [
        ("by-client", json!({ "clientRef": { "name": "storefront" } }), ours),
        ("by-pair", json!({ "providerRef": { "name": PROVIDER }, "credentials": secret_ref("pair") }), by_hand.client_id.clone()),
    ];
    for (name, mut spec, client) in sources {
        spec["grant"] = grant.clone();
        spec["secret"] = json!({ "identityToken": true });
        stage.token(name, spec).await;
        stage.token_ready(name).await;
        let sent = stage.control.last_token_request(TENANT, &client).await.expect("asked");
        assert_eq!(sent.field("grant_type"), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"), "{name}");
        let published = values(&stage, name).await;
        let said = claims(&published["token"]);
        assert_eq!(said["aud"], json!([client]), "{name}: {said}");
        assert!(claims(&published["id_token"])["sub"].is_string(), "{name}");
    }
}

/// Promise 6: another process in the place of the first asks nobody and writes nothing, whatever a token comes from.
///
/// Traps: T25.
#[tokio::test]
async fn a_restart_costs_nothing_whatever_a_token_comes_from() {
    let stage = Stage::new("peace").await;
    with_server(&stage, OidcSettings::default()).await;
    let client = client_of_verify("machine", SECRET);
    stage.control.add_oauth_client(VERIFY, &client).await.expect("added");
    stage.secret("machine", &[("client_id", "machine"), ("client_secret", SECRET)]).await;
    let user = stage.control.add_secure_auth_user(&SecureAuthUserSeed::default()).await.expect("added");
    let newest = user.newest().expect("a credential");
    stage.secret("person", &[("clientId", &newest.client_id), ("clientSecret", &newest.client_secret)]).await;
    let sign_in = OAuthRefreshTokenSeed {
        token: Some("cafec0de-first-refresh-token".into()),
        client_id: "orders".into(),
        subject: "ann".into(),
        scope: "openid".into(),
        ..OAuthRefreshTokenSeed::default()
    };
    stage.control.add_refresh_token("main", &sign_in).await.expect("added");
    stage.secret("first", &[("refresh_token", "cafec0de-first-refresh-token")]).await;
    let own = KeySeed { id: "own".into(), value: "cafec0de-own-key".into(), ..KeySeed::default() };
    stage.control.add_key(&own).await.expect("added");
    stage.secret("own-key", &[("apikey", &own.value)]).await;
    let urls = stage.simulator.urls();
    provide(&stage, "verify", json!({ "verify": { "url": urls.verify, "credentials": secret_ref("machine") } })).await;
    let store = json!({ "url": urls.secure_auth, "credentials": secret_ref("person"), "lifetime": "1h" });
    provide(&stage, "store", json!({ "secureAuth": store })).await;
    stage.iam().await;
    stage.provider().await;
    let operator = stage.operator().await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let of = |provider: &str| json!({ "providerRef": { "name": provider } });
    let with = |provider: &str, more: Value| {
        let mut spec = of(provider);
        stage::merge(&mut spec, more);
        spec
    };
    let refresh = json!({ "type": "RefreshToken", "refreshToken": secret_ref("first") });
    let rows = [
        ("t-iam", of(IAM)),
        ("t-own-key", with(IAM, json!({ "credentials": secret_ref("own-key") }))),
        ("t-client", json!({ "clientRef": { "name": "storefront" } })),
        ("t-verify", of("verify")),
        ("t-store", of("store")),
        ("t-verify-pair", with("verify", json!({ "credentials": secret_ref("machine") }))),
        ("t-store-pair", with("store", json!({ "credentials": secret_ref("person") }))),
        ("t-server", of("server")),
        ("t-pair", with("server", json!({ "credentials": secret_ref("pair") }))),
        ("t-password", with("server", json!({ "grant": by_password() }))),
        ("t-assertion", with("server", json!({ "grant": by_assertion() }))),
        ("t-refresh", with("server", json!({ "grant": refresh }))),
    ];
    for (name, spec) in &rows {
        stage.token(name, spec.clone()).await;
        stage.token_ready(name).await;
    }
    for provider in ["verify", "store", "server", IAM, PROVIDER] {
        stage.ready_provider(provider).await;
    }
    let (_operator, ledger) = restart_costs_nothing(&stage, operator).await;
    for (name, _) in &rows {
        stage.token_ready(name).await;
    }
    assert_eq!((ledger.writes(), ledger.operations().await), Default::default());
}

/// What may be wrong with the discovery document of Verify.
fn faults(elsewhere: &str) -> Vec<(&'static str, Action)> {
    let answer = |status: u16, kind: &str, body: String| Action::Answer {
        when: When::BeforeCommit,
        status,
        headers: [("Content-Type".to_owned(), kind.to_owned())].into(),
        body,
    };
    let json = "application/json";
    let document = |endpoint: &str| json!({ "issuer": "https://verify.example.com/oauth2", "token_endpoint": endpoint }).to_string();
    vec![
        ("missing", answer(404, json, "{}".into())),
        ("broken", answer(500, json, "{}".into())),
        ("page", answer(200, "text/html", "<html>sign in</html>".into())),
        ("cut", answer(200, json, r#"{"issuer": "https://veri"#.into())),
        ("empty", answer(200, json, "{}".into())),
        ("elsewhere", answer(200, json, document(elsewhere))),
        ("plain", answer(200, json, document("http://127.0.0.1/oauth2/token"))),
        ("dropped", Action::Drop { when: When::BeforeCommit }),
    ]
}

/// Promises 3 and 8: whatever is wrong with Verify's discovery document, tokens come from the endpoints that are known, at a few calls more at
/// first and none later, and no credential goes to another host.
#[tokio::test]
async fn whatever_verify_says_of_its_endpoints_tokens_come_from_its_own_host() {
    let stage = Stage::new("discovery").await;
    let client = client_of_verify("machine", SECRET);
    stage.control.add_oauth_client(VERIFY, &client).await.expect("added");
    stage.secret("machine", &[("client_id", "machine"), ("client_secret", SECRET)]).await;
    let _operator: Operator = stage.operator().await;
    let urls = stage.simulator.urls();
    let elsewhere = format!("{}/token", urls.oidc_elsewhere);
    for (name, fault) in faults(&elsewhere) {
        let rule = stage.control.inject(&Rule::every("verify.discovery", fault)).await.expect("accepted");
        stage.control.clear_journal().await.expect("cleared");
        provide(&stage, name, json!({ "verify": { "url": urls.verify, "credentials": secret_ref("machine") } })).await;
        stage.ready_provider(name).await;
        stage.token(name, json!({ "providerRef": { "name": name } })).await;
        stage.token_ready(name).await;
        let first = values(&stage, name).await["token"].clone();
        stage.ask_for_token(name, "another").await;
        eventually("another one comes", async || values(&stage, name).await["token"] != first).await;
        let token = values(&stage, name).await["token"].clone();
        let applications = format!("{}/v1.0/applications", urls.verify);
        let answer = stage.http().get(applications).bearer_auth(token).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{name}");
        let calls = tally(&stage.control.journal().await.expect("answered").into_iter().map(|call| call.operation).collect::<Vec<_>>());
        let discoveries = calls.get("verify.discovery").copied().unwrap_or_default();
        assert!((1..=6).contains(&discoveries), "{name}: {discoveries} looks at the document");
        assert_eq!(calls["verify.token"], 3, "{name}: the provider's own, the first and another one: {calls:?}");
        assert!(calls.keys().all(|operation| operation.starts_with("verify.")), "{name}: {calls:?}");
        stage.control.remove_fault(rule.id).await.expect("it goes");
        stage.tokens().delete(name, &DeleteParams::default()).await.expect("deleted");
        stage.providers().delete(name, &DeleteParams::default()).await.expect("deleted");
    }
}

/// Promise 10: a service that hangs keeps nobody from hearing that the published token has ended.
#[tokio::test]
async fn a_token_that_ends_while_the_service_hangs_says_so() {
    let stage = Stage::new("hang").await;
    with_server(&stage, OidcSettings { expires_in: 4, ..OidcSettings::default() }).await;
    let _operator = stage.operator().await;
    stage.ready_provider("server").await;
    stage.token("caller", json!({ "providerRef": { "name": "server" } })).await;
    stage.token_ready("caller").await;
    let rule = stage.control.inject(&Rule::next("oidc.token", Action::Hold { when: When::BeforeCommit })).await.expect("accepted");
    stage.control.wait_for_fault(rule.id).await.expect("it is asked");
    let ended = stage.token_reason("caller", "TokenExpired").await;
    assert!(token_message(&ended, "Ready").is_some_and(|said| said.contains("has not answered yet")), "{ended:?}");
    assert_eq!(token_condition(&ended, "SecretPublished"), Some(("False", "TokenExpired")));
    stage.control.remove_fault(rule.id).await.expect("it goes on");
    stage.token_ready("caller").await;
}

/// A server may grant less than it was asked for, and says so (RFC 6749, section 3.3): the token is published, and status tells.
#[tokio::test]
async fn a_token_that_is_good_for_less_than_was_asked_for_is_published_and_says_so() {
    let stage = Stage::new("narrow").await;
    with_server(&stage, OidcSettings::default()).await;
    let _operator = stage.operator().await;
    stage.ready_provider("server").await;
    let reply = json!({ "access_token": "cafec0de-narrow", "token_type": "Bearer", "expires_in": 3600, "scope": "orders.read" });
    let narrow = Action::Answer { when: When::BeforeCommit, status: 200, headers: [].into(), body: reply.to_string() };
    let rule = stage.control.inject(&Rule::every("oidc.token", narrow)).await.expect("accepted");
    let spec = json!({ "providerRef": { "name": "server" }, "grant": { "scopes": ["orders.read", "orders.write"] } });
    stage.token("caller", spec).await;
    let token = stage.token_ready("caller").await;
    assert_eq!(token_condition(&token, "Fresh"), Some(("True", "ScopesNotGranted")));
    assert_eq!(values(&stage, "caller").await["scope"], "orders.read");
    stage.control.remove_fault(rule.id).await.expect("it goes");
    stage.ask_for_token("caller", "another").await;
    stage.token_where("caller", "is good for all", |token| token_condition(token, "Fresh") == Some(("True", "Refreshed"))).await;
}

/// Promise 6: what the service has refused of an object's own is sent once for each change that concerns it, and not because its provider comes
/// and goes.
#[tokio::test]
async fn a_credential_of_an_object_that_was_refused_is_sent_once_for_each_change() {
    let stage = Stage::new("refused").await;
    with_server(&stage, OidcSettings::default()).await;
    let issuer = format!("{}/tenants/main", stage.simulator.urls().oidc);
    // Without a credential of its own it asks for no token.
    provide(&stage, "bare", json!({ "oidc": { "issuer": issuer } })).await;
    stage.secret("wrong", &[("client_id", "orders"), ("client_secret", "cafec0de-of-nobody")]).await;
    let _operator = stage.operator().await;
    for provider in ["server", "bare"] {
        stage.ready_provider(provider).await;
    }
    let sent = stage.calls("oidc.token").await;
    let refused = async |times: u64, after: &str| {
        let is_refused = |token: &cloud_identity_operator::api::AccessToken| {
            token.status.as_ref().and_then(|status| status.failures) == i32::try_from(times).ok()
                && token_condition(token, "Ready") == Some(("False", "InvalidClient"))
        };
        stage.token_where("caller", after, is_refused).await;
        tokio::time::sleep(WINDOW).await;
        assert_eq!(stage.calls("oidc.token").await, sent + times, "{after}");
    };
    stage.token("caller", json!({ "providerRef": { "name": "bare" }, "credentials": secret_ref("wrong") })).await;
    refused(1, "made").await;
    stage.providers().delete("bare", &DeleteParams::default()).await.expect("deleted");
    stage.token_reason("caller", "ProviderNotFound").await;
    provide(&stage, "bare", json!({ "oidc": { "issuer": issuer } })).await;
    stage.ready_provider("bare").await;
    refused(2, "the provider was made anew").await;
    stage.secret("wrong", &[("client_id", "orders"), ("client_secret", "cafec0de-of-nobody-either")]).await;
    refused(3, "another secret").await;
}
