//! Clients and assertions that are proven by a signature.

use identity_simulator::{AssertionIssuer, OAuthClientSeed, OidcServerSeed, OidcSettings, VerificationKey};
use serde_json::{Value, json};
use stage::{Operator, Stage, eventually, provider_condition, token_message};

use super::{SECRET, issuer, pair, provide, published};
use crate::{
    fixtures::{claims, key_file},
    ledger::{Ledger, WINDOW},
};

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
    tokio::time::sleep(WINDOW).await;
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
