//! Tokens of IBM Verify, SecureAuth and any OAuth 2.0 server, each used at the service as its reader would use it.

use identity_simulator::{
    Action, AssertionIssuer, OAuthClientSeed, OidcServerSeed, OidcSettings, Rule, SecureAuthUserSeed, Switches, VERIFY, VerificationKey,
    When,
    switches::{SecureAuthTokenMethod, VerifyDiscoveredEndpoints, VerifyGenerations},
};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stage::{Operator, Stage, eventually, provider_condition, token_condition, token_message};

use crate::fixtures::{self, claims, client_of_verify, key_file};
use crate::ledger::{Ledger, WINDOW, tally};

/// Secret of every client here.
const SECRET: &str = "cafec0de-secret of a: client%/+=";

async fn provide(stage: &Stage, name: &str, mut service: Value) {
    service["budget"] = json!({ "requestsPerSecond": 1000, "concurrency": 16 });
    fixtures::provide(stage, name, service).await;
}

fn pair() -> Value {
    json!({ "secretRef": { "name": "pair" } })
}

fn issuer(stage: &Stage) -> String {
    format!("{}/tenants/main", stage.simulator.urls().oidc)
}

async fn with_server(prefix: &str, settings: OidcSettings) -> (Stage, Operator) {
    let stage = Stage::new(prefix).await;
    let client = OAuthClientSeed { client_id: "orders".into(), secret: Some(SECRET.into()), ..OAuthClientSeed::default() };
    let server = OidcServerSeed { id: "main".into(), clients: vec![client], settings, ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", SECRET)]).await;
    let operator = stage.operator().await;
    (stage, operator)
}

async fn published(stage: &Stage, name: &str) -> String {
    stage.secret_values(name).await.expect("the Secret is there")["token"].clone()
}

/// Verify: the token lists applications. Its discovery document tells where tokens come from; where it leads nowhere, they come all the same.
#[tokio::test]
async fn a_token_of_verify_lists_applications_whichever_generation_of_endpoints_the_tenant_has() {
    use VerifyDiscoveredEndpoints::{OpenId, Own};
    let stage = Stage::new("verify").await;
    let client = client_of_verify("machine", SECRET);
    stage.control.add_oauth_client(VERIFY, &client).await.expect("added");
    stage.secret("pair", &[("clientId", "machine"), ("clientSecret", SECRET)]).await;
    let _operator = stage.operator().await;
    let url = &stage.simulator.urls().verify;
    for (index, (generations, endpoints, path)) in [
        (VerifyGenerations::default(), Own, "/oauth2/token"),
        (VerifyGenerations::default(), OpenId, "/oidc/endpoint/default/token"),
        (VerifyGenerations::Oldest, Own, "/v1.0/endpoint/default/token"),
        (VerifyGenerations::Oldest, OpenId, "/v1.0/endpoint/default/token"),
    ]
    .into_iter()
    .enumerate()
    {
        let switches = Switches { verify_generations: generations, verify_discovered_endpoints: endpoints, ..Switches::default() };
        stage.control.set_switches(&switches).await.expect("set");
        for (way, authentication) in [("post", json!(null)), ("basic", json!({ "method": "ClientSecretBasic" }))] {
            let name = format!("{way}-{index}");
            let mut verify = json!({ "url": url, "credentials": pair() });
            if !authentication.is_null() {
                verify["clientAuthentication"] = authentication;
            }
            provide(&stage, &name, json!({ "verify": verify })).await;
            stage.token(&name, json!({ "providerRef": { "name": name } })).await;
            let ready = stage.token_ready(&name).await;
            assert!(ready.status.expect("a status").expires_at.is_some());
            let token = published(&stage, &name).await;
            let answer = stage.http().get(format!("{url}/v1.0/applications")).bearer_auth(token).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{name}");
            stage.ready_provider(&name).await;
            assert_eq!(stage.control.last_token_request(VERIFY, "machine").await.expect("a request").path, path, "{name}");
        }
    }
}

/// SecureAuth: the token reads its own user; the lifetime, which the service does not tell, is the provider's.
#[tokio::test]
async fn a_token_of_secure_auth_reads_its_user_and_is_replaced_at_the_interval_of_the_provider() {
    let stage = Stage::new("secureauth").await;
    let user = stage.control.add_secure_auth_user(&SecureAuthUserSeed::default()).await.expect("added");
    let newest = user.newest().expect("a credential").clone();
    stage.secret("pair", &[("clientId", &newest.client_id), ("clientSecret", &newest.client_secret)]).await;
    let url = &stage.simulator.urls().secure_auth;
    stage
        .control
        .set_switches(&Switches { secure_auth_token_method: SecureAuthTokenMethod::Get, ..Switches::default() })
        .await
        .expect("set");
    let _operator = stage.operator().await;
    provide(&stage, "store", json!({ "secureAuth": { "url": url, "credentials": pair(), "lifetime": "10s" } })).await;
    stage.ready_provider("store").await;
    stage.token("caller", json!({ "providerRef": { "name": "store" } })).await;
    let ready = stage.token_ready("caller").await;
    assert_eq!(token_condition(&ready, "Fresh"), Some(("True", "LifetimeUnknown")));
    let secret = stage.secret_values("caller").await.expect("there");
    assert_eq!(secret.keys().collect::<Vec<_>>(), ["authorization", "scope", "token", "token_type"], "nobody knows when it ends");
    let me = format!("{url}/api/v1/ismanager/ids/default/Me");
    let answer = stage.http().get(me).bearer_auth(&secret["token"]).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    eventually("it is replaced at half of the interval", async || published(&stage, "caller").await != secret["token"]).await;
    // Neither half of the credential is shown anywhere: the id gives the secret away.
    let shown = serde_json::to_string(&stage.tokens().get("caller").await.expect("there").status).expect("JSON");
    assert!(!shown.contains(&newest.client_id));
}

/// Any server: what is asked for is sent as the standards say, and introspection knows the token.
#[tokio::test]
async fn a_token_of_any_server_is_what_was_asked_for() {
    let (stage, _operator) = with_server("oidc", OidcSettings::default()).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    // Its own check asks for a token, too.
    stage.ready_provider("server").await;
    let grant = json!({
        "scopes": ["orders.read", "orders.write"], "audiences": ["https://orders.example.com"],
        "resources": ["https://a.example.com", "https://b.example.com"], "parameters": [{ "name": "tenant_hint", "value": "shop & co" }],
    });
    stage.token("orders", json!({ "providerRef": { "name": "server" }, "grant": grant })).await;
    stage.token_ready("orders").await;
    let sent = stage.control.last_token_request("main", "orders").await.expect("asked");
    assert_eq!(sent.field("grant_type"), Some("client_credentials"));
    assert_eq!(sent.field("scope"), Some("orders.read orders.write"));
    assert_eq!(sent.all("resource"), ["https://a.example.com", "https://b.example.com"]);
    assert_eq!((sent.field("audience"), sent.field("tenant_hint")), (Some("https://orders.example.com"), Some("shop & co")));
    assert!(sent.field("client_secret").is_none(), "HTTP Basic");
    let token = published(&stage, "orders").await;
    let introspect = stage.http().post(format!("{}/introspect", issuer(&stage)));
    // Both halves are form-encoded first (RFC 6749, section 2.3.1).
    let encoded: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let answer = introspect.basic_auth("orders", Some(encoded)).form(&[("token", token)]).send().await.expect("an answer");
    let told: Value = answer.json().await.expect("JSON");
    assert_eq!(told["active"], json!(true), "{told}");
}

/// A client proves by a signature who it is; no secret travels, and no assertion is sent twice.
#[tokio::test]
async fn a_client_signs_with_every_algorithm_and_for_every_audience() {
    let stage = Stage::new("signing").await;
    let (rsa, rsa_public) = key_pair(&rcgen::PKCS_RSA_SHA256);
    let (curve, curve_public) = key_pair(&rcgen::PKCS_ECDSA_P256_SHA256);
    let public = |pem: &str| VerificationKey { pem: Some(pem.to_owned()), ..VerificationKey::default() };
    let client = OAuthClientSeed {
        client_id: "signer".into(),
        public_keys: vec![public(&rsa_public), public(&curve_public)],
        ..OAuthClientSeed::default()
    };
    let server = OidcServerSeed { id: "main".into(), clients: vec![client], ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("id", &[("client_id", "signer")]).await;
    stage.secret("rsa", &[("private_key", &rsa)]).await;
    stage.secret("curve", &[("private_key", &curve)]).await;
    let _operator = stage.operator().await;
    for (algorithm, key, audience) in [("RS256", "rsa", "Issuer"), ("PS256", "rsa", "TokenEndpoint"), ("ES256", "curve", "Both")] {
        let name = algorithm.to_lowercase();
        let authentication = json!({
            "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": key } }, "algorithm": algorithm, "audience": audience,
        });
        let oidc =
            json!({ "issuer": issuer(&stage), "credentials": { "secretRef": { "name": "id" } }, "clientAuthentication": authentication });
        provide(&stage, &name, json!({ "oidc": oidc })).await;
        stage.token(&name, json!({ "providerRef": { "name": name } })).await;
        stage.token_ready(&name).await;
        let sent = stage.control.last_token_request("main", "signer").await.expect("asked");
        assert!(sent.field("client_secret").is_none() && sent.field("client_assertion").is_some(), "{algorithm}");
    }
    let wrong = json!({ "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": "curve" } }, "algorithm": "RS256" });
    let oidc = json!({ "issuer": issuer(&stage), "credentials": { "secretRef": { "name": "id" } }, "clientAuthentication": wrong });
    provide(&stage, "wrong", json!({ "oidc": oidc })).await;
    stage
        .provider_where("wrong", "says that the key does not fit", |provider| {
            provider_condition(provider, "Ready").is_some_and(|(_, reason)| reason == "CredentialsInvalid")
        })
        .await;
}

/// A private key as JWK does what it does as PEM, and brings its own name.
#[tokio::test]
async fn a_client_signs_with_a_jwk() {
    let stage = Stage::new("signing").await;
    let public = |name: &str| VerificationKey {
        pem: Some(key_file(&format!("{name}.pub.pem"))),
        key_id: Some(name.to_owned()),
        ..VerificationKey::default()
    };
    let client =
        OAuthClientSeed { client_id: "signer".into(), public_keys: vec![public("rsa-2048"), public("p256")], ..OAuthClientSeed::default() };
    let server = OidcServerSeed { id: "main".into(), clients: vec![client], ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("id", &[("client_id", "signer")]).await;
    for name in ["rsa-2048", "rsa-1024", "p256", "p384"] {
        stage.secret(name, &[("private_key", &key_file(&format!("{name}.jwk")))]).await;
    }
    let _operator = stage.operator().await;
    let provide_with = async |name: &str, key: &str, algorithm: &str| {
        let authentication = json!({ "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": key } }, "algorithm": algorithm });
        let oidc =
            json!({ "issuer": issuer(&stage), "credentials": { "secretRef": { "name": "id" } }, "clientAuthentication": authentication });
        provide(&stage, name, json!({ "oidc": oidc })).await;
    };
    for (name, key, algorithm) in [("rs", "rsa-2048", "RS256"), ("ps", "rsa-2048", "PS256"), ("es", "p256", "ES256")] {
        provide_with(name, key, algorithm).await;
        stage.token(name, json!({ "providerRef": { "name": name } })).await;
        stage.token_ready(name).await;
    }
    for (name, key, algorithm, said) in [
        ("small", "rsa-1024", "RS256", "no RSA key of 2048"),
        ("curve", "p384", "ES256", "no key of the curve P-256"),
        ("other", "p256", "RS256", "no RSA key"),
    ] {
        provide_with(name, key, algorithm).await;
        let refused = stage.provider_where(name, "says that the key does not fit", |provider| {
            provider_condition(provider, "Ready").is_some_and(|(_, reason)| reason == "CredentialsInvalid")
        });
        let conditions = refused.await.status.expect("a status").conditions;
        let message = conditions.iter().find(|condition| condition.type_ == "Ready").map(|ready| ready.message.clone());
        assert!(message.as_ref().is_some_and(|message| message.contains(said)), "{name}: {message:?}");
    }
}

/// A grant whose assertion the operator signs itself: in whose name, for whom and with what the spec says, a new one for each request.
#[tokio::test]
async fn an_assertion_that_the_operator_signs_gets_a_token_for_its_subject() {
    let settings = OidcSettings { expires_in: 8, ..OidcSettings::default() };
    let (stage, _operator) = with_server_that_trusts("asserting", settings).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage.ready_provider("server").await;
    for (name, file) in [("pem", "rsa-2048.pem"), ("jwk", "p256.jwk")] {
        stage.secret(name, &[("private_key", &key_file(file))]).await;
    }
    let of =
        |signed: Value| json!({ "providerRef": { "name": "server" }, "grant": { "type": "JwtBearer", "assertion": { "signed": signed } } });
    let ledger = Ledger::open(&stage).await;
    let more = json!({ "tenant": "shop" });
    let pem = json!({ "privateKey": { "secretRef": { "name": "pem" } }, "issuer": "machines", "subject": "ann", "keyId": "rsa-2048", "lifetime": "2m", "claims": more });
    stage.token("by-pem", of(pem)).await;
    stage.token_ready("by-pem").await;
    let read = async || {
        let sent = stage.control.last_token_request("main", "orders").await.expect("asked");
        assert_eq!(sent.field("grant_type"), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
        claims(sent.field("assertion").expect("an assertion"))
    };
    let first = read().await;
    assert_eq!((&first["iss"], &first["sub"], &first["tenant"]), (&json!("machines"), &json!("ann"), &json!("shop")));
    assert_eq!(first["aud"], json!(issuer(&stage)));
    let (begin, end) = (first["iat"].as_i64().expect("a time"), first["exp"].as_i64().expect("a time"));
    assert_eq!(end - begin, 120);
    assert!((jiff::Timestamp::now().as_second() - begin).abs() <= 5, "{begin}");
    assert_eq!(claims(&published(&stage, "by-pem").await)["sub"], json!("ann"));
    let before = published(&stage, "by-pem").await;
    eventually("the token is replaced on schedule", async || published(&stage, "by-pem").await != before).await;
    assert_ne!(read().await["jti"], first["jti"], "no assertion is sent twice");
    assert!(ledger.operations().await.iter().all(|operation| operation == "oidc.token"), "{:?}", ledger.operations().await);
    // The client's own name is the default for both, and a JWK brings its name.
    let audience = format!("{}/token", issuer(&stage));
    let jwk = json!({ "privateKey": { "secretRef": { "name": "jwk" } }, "algorithm": "ES256", "audience": audience });
    stage.token("by-jwk", of(jwk)).await;
    stage.token_ready("by-jwk").await;
    eventually("the assertion of the client itself was taken", async || {
        let sent = read().await;
        (&sent["iss"], &sent["sub"], &sent["aud"]) == (&json!("orders"), &json!("orders"), &json!(audience))
    })
    .await;
}

/// Promises 2 and 10: a key that cannot sign is told before any call, one that is not known is not repeated often, and a better one is used at
/// once.
///
/// Traps: T28.
#[tokio::test]
async fn a_key_of_an_assertion_that_is_wrong_is_told_and_a_better_one_used_at_once() {
    let (stage, _operator) = with_server_that_trusts("asserting", OidcSettings::default()).await;
    provide(&stage, "server", json!({ "oidc": { "issuer": issuer(&stage), "credentials": pair() } })).await;
    stage.ready_provider("server").await;
    stage.secret("key", &[("private_key", &key_file("rsa-1024.pem"))]).await;
    let signed = json!({ "privateKey": { "secretRef": { "name": "key" } }, "issuer": "machines", "subject": "ann", "keyId": "rsa-2048" });
    let spec = json!({ "providerRef": { "name": "server" }, "grant": { "type": "JwtBearer", "assertion": { "signed": signed } } });
    let ledger = Ledger::open(&stage).await;
    stage.token("signed", spec).await;
    let refused = stage.token_reason("signed", "CredentialsInvalid").await;
    let said = token_message(&refused, "Ready").expect("a message");
    assert!(said.contains("the Secret key in the namespace") && said.contains("no RSA key of 2048"), "{said}");
    assert_eq!(ledger.operations().await, Vec::<String>::new(), "nothing was sent");
    // One that can sign and that nobody knows.
    stage.secret("key", &[("private_key", &key_pair(&rcgen::PKCS_RSA_SHA256).0)]).await;
    stage.token_reason("signed", "InvalidGrant").await;
    let asked = ledger.operations().await.len();
    tokio::time::sleep(crate::ledger::WINDOW).await;
    assert_eq!(ledger.operations().await.len(), asked, "it is not presented again for half an hour");
    stage.secret("key", &[("private_key", &key_file("rsa-2048.jwk"))]).await;
    stage.token_ready("signed").await;
    let first = published(&stage, "signed").await;
    // Touched, and the same: no call.
    let ledger = Ledger::open(&stage).await;
    stage.patch_secret("key", json!({ "metadata": { "labels": { "team": "shop" } } })).await;
    eventually("its version is noted", async || ledger.writes() == ["patch accesstokens/status"]).await;
    assert_eq!((ledger.operations().await, published(&stage, "signed").await), (Vec::new(), first.clone()));
    // The same key in another form is another Secret: a new token comes at once.
    stage.secret("key", &[("private_key", &key_file("rsa-2048.pkcs1.pem"))]).await;
    eventually("a changed key brings another token", async || published(&stage, "signed").await != first).await;
    stage.token_ready("signed").await;
}

/// A server that takes assertions of `machines`, for `ann` only, and of the client `orders` itself.
async fn with_server_that_trusts(prefix: &str, settings: OidcSettings) -> (Stage, Operator) {
    let stage = Stage::new(prefix).await;
    let public = |name: &str| VerificationKey {
        pem: Some(key_file(&format!("{name}.pub.pem"))),
        key_id: Some(name.to_owned()),
        ..VerificationKey::default()
    };
    let client = OAuthClientSeed { client_id: "orders".into(), secret: Some(SECRET.into()), ..OAuthClientSeed::default() };
    let trusted = vec![
        AssertionIssuer { issuer: "machines".into(), public_keys: vec![public("rsa-2048")], subjects: ["ann".to_owned()].into() },
        AssertionIssuer { issuer: "orders".into(), public_keys: vec![public("p256")], ..AssertionIssuer::default() },
    ];
    let server =
        OidcServerSeed { id: "main".into(), clients: vec![client], assertion_issuers: trusted, settings, ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("pair", &[("client_id", "orders"), ("client_secret", SECRET)]).await;
    let operator = stage.operator().await;
    (stage, operator)
}

fn key_pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let pair = rcgen::KeyPair::generate_for(algorithm).expect("a key");
    (pair.serialize_pem(), pair.public_key_pem())
}

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
    let ask = async |word: &str| {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/refresh": word } } }));
        stage.tokens().patch("orders", &PatchParams::default(), &patch).await.expect("accepted");
    };
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
