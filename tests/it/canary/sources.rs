//! The secrets of every source of access tokens, and what becomes of them when a service quotes them.

use base64::Engine;
use identity_simulator::{
    Action, AssertionIssuer, OAuthClientSeed, OAuthRefreshTokenSeed, OidcServerSeed, OidcSettings, Rule, SecureAuthCredential,
    SecureAuthUserSeed, User, VERIFY, VerificationKey, When,
};
use serde_json::{Value, json};
use stage::{Operator, OperatorOptions, Stage, eventually, provider_condition, token_condition};

use super::{collect, forbidden, quoting};
use crate::fixtures::{key_file, provide};

const SERVER: &str = "main";
const SECRET: &str = "cafec0de-secret-of-a-client";
const PASSWORD: &str = "cafec0de-password-of-ann";

/// What nobody may see of the private keys: the lines of the one, the members of the other.
fn private_parts() -> Vec<String> {
    let pem = key_file("rsa-2048.pem");
    let jwk: Value = serde_json::from_str(&key_file("p256.jwk")).expect("JSON");
    let lines = pem.lines().filter(|line| line.len() > 20 && !line.starts_with('-')).map(ToOwned::to_owned);
    lines.chain([jwk["d"].as_str().expect("a private part").to_owned()]).collect()
}

/// An assertion that somebody else has signed.
fn assertion(issuer: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({ "iss": "machines", "sub": "ann", "aud": issuer, "iat": now, "exp": now + 3000, "note": "cafec0de-claim" });
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(key_file("rsa-2048.pem").as_bytes()).expect("a key");
    let header = jsonwebtoken::Header { kid: Some("rsa-2048".into()), ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256) };
    jsonwebtoken::encode(&header, &claims, &key).expect("signed")
}

/// One source of tokens.
struct Source {
    name: &'static str,
    operation: &'static str,
    spec: Value,
    /// What its service could quote.
    known: Vec<String>,
}

struct Scene {
    stage: Stage,
    issuer: String,
    credential: SecureAuthCredential,
}

impl Scene {
    /// The services with everything that they know, and the Secrets.
    async fn set() -> Self {
        let stage = Stage::new("canary-sources").await;
        let public = |name: &str| VerificationKey {
            pem: Some(key_file(&format!("{name}.pub.pem"))),
            key_id: Some(name.to_owned()),
            ..VerificationKey::default()
        };
        let client = |id: &str, secret: Option<&str>| OAuthClientSeed {
            client_id: id.into(),
            secret: secret.map(ToOwned::to_owned),
            entitlements: ["readAppConfig".to_owned()].into(),
            ..OAuthClientSeed::default()
        };
        let signer = OAuthClientSeed { public_keys: vec![public("rsa-2048"), public("p256")], ..client("signer", None) };
        let trusted = AssertionIssuer { issuer: "machines".into(), public_keys: vec![public("rsa-2048")], ..AssertionIssuer::default() };
        let server = OidcServerSeed {
            id: SERVER.into(),
            clients: vec![client("orders", Some(SECRET)), signer],
            users: vec![User { username: "ann".into(), password: PASSWORD.into(), ..User::default() }],
            assertion_issuers: vec![trusted],
            settings: OidcSettings { reuse_revokes_family: true, ..OidcSettings::default() },
        };
        stage.control.add_oidc_server(&server).await.expect("added");
        stage.control.add_oauth_client(VERIFY, &client("machine", Some(SECRET))).await.expect("added");
        let user = stage.control.add_secure_auth_user(&SecureAuthUserSeed::default()).await.expect("added");
        let credential = user.newest().expect("a credential").clone();
        let issuer = format!("{}/tenants/{SERVER}", stage.simulator.urls().oidc);
        for (name, values) in [
            ("pair", [("client_id", "orders"), ("client_secret", SECRET)]),
            ("machine", [("client_id", "machine"), ("client_secret", SECRET)]),
            ("caller", [("client_id", &credential.client_id), ("client_secret", &credential.client_secret)]),
            ("ann", [("username", "ann"), ("password", PASSWORD)]),
        ] {
            stage.secret(name, &values).await;
        }
        stage.secret("signer", &[("client_id", "signer")]).await;
        stage.secret("pem", &[("private_key", &key_file("rsa-2048.pem"))]).await;
        stage.secret("jwk", &[("private_key", &key_file("p256.jwk"))]).await;
        stage.secret("no-key", &[("private_key", "cafec0de-private key")]).await;
        stage.secret("assertion", &[("assertion", &assertion(&issuer))]).await;
        Self { stage, issuer, credential }
    }

    async fn provide(&self, name: &str, mut service: Value) {
        service["budget"] = json!({ "requestsPerSecond": 1000, "concurrency": 16 });
        provide(&self.stage, name, service).await;
    }

    async fn provide_all(&self) {
        let of = |name: &str| json!({ "secretRef": { "name": name } });
        let urls = self.stage.simulator.urls();
        let signed = |key: &str, id: &str, algorithm: &str| {
            let how = json!({ "method": "PrivateKeyJwt", "privateKey": of(key), "keyId": id, "algorithm": algorithm });
            json!({ "oidc": { "issuer": self.issuer, "credentials": of("signer"), "clientAuthentication": how } })
        };
        let posted = json!({ "method": "ClientSecretPost" });
        let oidc = json!({ "issuer": self.issuer, "credentials": of("pair") });
        self.provide("server", json!({ "oidc": oidc })).await;
        self.provide("posted", json!({ "oidc": stage_merged(oidc, json!({ "clientAuthentication": posted })) })).await;
        self.provide("pem", signed("pem", "rsa-2048", "RS256")).await;
        self.provide("jwk", signed("jwk", "p256", "ES256")).await;
        self.provide("verify", json!({ "verify": { "url": urls.verify, "credentials": of("machine") } })).await;
        self.provide("store", json!({ "secureAuth": { "url": urls.secure_auth, "credentials": of("caller") } })).await;
        for name in ["server", "posted", "pem", "jwk", "verify", "store"] {
            self.stage.ready_provider(name).await;
        }
        self.provide("no-key", signed("no-key", "rsa-2048", "RS256")).await;
        let is_told = |provider: &_| provider_condition(provider, "Ready").is_some_and(|(_, reason)| reason == "CredentialsInvalid");
        self.stage.provider_where("no-key", "says that the key is none", is_told).await;
    }

    /// Somebody signs in, and puts the refresh token into a Secret; the spec that uses it.
    async fn signed_in(&self, name: &str) -> (String, Value) {
        let first = format!("cafec0de-first-refresh-token-of-{name}");
        let seed = OAuthRefreshTokenSeed {
            token: Some(first.clone()),
            client_id: "orders".into(),
            subject: name.into(),
            scope: "openid orders".into(),
            ..OAuthRefreshTokenSeed::default()
        };
        self.stage.control.add_refresh_token(SERVER, &seed).await.expect("added");
        self.stage.secret(&format!("{name}-first"), &[("refresh_token", &first)]).await;
        let grant = json!({ "type": "RefreshToken", "refreshToken": { "secretRef": { "name": format!("{name}-first") } } });
        (first, json!({ "providerRef": { "name": "server" }, "grant": grant }))
    }

    fn sources(&self) -> Vec<Source> {
        const OIDC: &str = "oidc.token";
        let of = |name: &str| json!({ "secretRef": { "name": name } });
        let source = |name, operation, provider: &str, more: Value, known: &[&str]| Source {
            name,
            operation,
            spec: stage_merged(json!({ "providerRef": { "name": provider } }), more),
            known: known.iter().map(|known| (*known).to_owned()).collect(),
        };
        let password =
            json!({ "grant": { "type": "Password", "password": of("ann"), "scopes": ["openid"] }, "secret": { "identityToken": true } });
        let bearer = json!({ "grant": { "type": "JwtBearer", "assertion": of("assertion") } });
        let own = json!({ "privateKey": of("pem"), "issuer": "machines", "subject": "ann", "keyId": "rsa-2048" });
        let own = json!({ "grant": { "type": "JwtBearer", "assertion": { "signed": own } } });
        let texts = json!({ "header": "{{ authorization }}", "basic": "{{ ('x:' ~ token)|b64encode }}", "json": "{{ token|tojson }}" });
        let template = json!({ "secret": { "template": texts } });
        let (id, secret) = (self.credential.client_id.as_str(), self.credential.client_secret.as_str());
        vec![
            source("basic", OIDC, "server", template.clone(), &[SECRET]),
            source("post", OIDC, "posted", json!({}), &[SECRET]),
            source("by-pem", OIDC, "pem", json!({}), &["cafec0de-of-a-signature"]),
            source("by-jwk", OIDC, "jwk", json!({}), &["cafec0de-of-a-signature"]),
            source("password", OIDC, "server", password, &[PASSWORD, SECRET]),
            source("by-assertion", OIDC, "server", bearer, &[&assertion(&self.issuer)]),
            source("own", OIDC, "server", own, &["cafec0de-of-a-signature"]),
            source("verify", "verify.token", "verify", template.clone(), &[SECRET]),
            source("store", "secure_auth.token", "store", template, &[id, secret]),
        ]
    }

    /// A token whose service answers in words full of what it knows.
    async fn quoted(&self, name: &str, operation: &str, spec: &Value, secret: &str, status: u16) {
        let answer = match status {
            // As the standards have it, with a code that is known.
            400 => Action::Answer {
                when: When::BeforeCommit,
                status,
                headers: [("Content-Type".to_owned(), "application/json".to_owned())].into(),
                body: json!({ "error": "invalid_grant", "error_description": format!("{secret} is no good"), "error_uri": secret })
                    .to_string(),
            },
            _ => quoting(secret, status),
        };
        let fault = self.stage.control.inject(&Rule::every(operation, answer)).await.expect("accepted");
        self.stage.token(name, spec.clone()).await;
        let has_failed = |token: &cloud_identity_operator::api::AccessToken| {
            token_condition(token, "Ready").is_some_and(|(status, reason)| status == "False" && reason != "InProgress")
        };
        self.stage.token_where(name, "has failed", has_failed).await;
        self.stage.control.wait_for_fault(fault.id).await.expect("it is met");
        self.stage.control.remove_fault(fault.id).await.expect("it goes");
        let suspend = json!({ "suspend": true });
        self.stage.token(name, stage_merged(spec.clone(), suspend)).await;
    }
}

fn stage_merged(mut base: Value, more: Value) -> Value {
    stage::merge(&mut base, more);
    base
}

async fn operator(stage: &Stage) -> Operator {
    let options = OperatorOptions { log_filter: "trace".into(), namespace: stage.namespace.clone(), ..OperatorOptions::default() };
    stage.operator_with(options).await
}

/// A sign-in whose refresh token is replaced twice, found again by another process, and refused in the end.
async fn story_of_a_refresh_token(scene: &Scene, first: Operator) -> (Operator, String) {
    let stage = &scene.stage;
    let (_, spec) = scene.signed_in("user").await;
    stage.token("user", spec).await;
    stage.token_ready("user").await;
    let published = async || stage.secret_values("user").await.expect("there")["token"].clone();
    let again = async |word: &str| {
        let before = published().await;
        stage.ask_for_token("user", word).await;
        eventually("another token is published", async || published().await != before).await;
        stage.token_ready("user").await;
    };
    again("first").await;
    let log = first.kill().await;
    let second = operator(stage).await;
    again("second").await;
    // What came last is refused, in words that hold it.
    let current = stage.secret_values("user-state").await.expect("there")["refresh_token"].clone();
    let body = json!({ "error": "invalid_grant", "error_description": format!("the refresh token {current} is spent") });
    let answer = Action::Answer { when: When::BeforeCommit, status: 400, headers: Default::default(), body: body.to_string() };
    stage.control.inject(&Rule::next("oidc.token", answer)).await.expect("accepted");
    stage.ask_for_token("user", "third").await;
    let is_refused = |token: &_| token_condition(token, "Fresh") == Some(("False", "ReauthorizationRequired"));
    stage.token_where("user", "says that somebody must sign in", is_refused).await;
    (second, log)
}

/// Promise 8, for every source of tokens: first and later refresh tokens, passwords, private keys as PEM and JWK, assertions, ID tokens, both
/// halves of a credential of SecureAuth, and what templates make of tokens; also when the service quotes them.
///
/// Traps: T50.
#[tokio::test]
async fn no_secret_of_any_source_of_tokens_shows_up_anywhere_whatever_its_service_says() {
    let scene = Scene::set().await;
    let stage = &scene.stage;
    let operator = operator(stage).await;
    scene.provide_all().await;
    for Source { name, spec, .. } in scene.sources() {
        stage.token(name, spec).await;
        stage.token_ready(name).await;
    }
    let (operator, former_log) = story_of_a_refresh_token(&scene, operator).await;
    // What refuses a credential comes last.
    for status in [500, 200, 401, 400] {
        for Source { name, operation, spec, known } in scene.sources() {
            for (number, secret) in known.iter().enumerate() {
                scene.quoted(&format!("{name}-{number}-{status}"), operation, &spec, secret, status).await;
            }
        }
        let name = format!("user-{status}");
        let (first, spec) = scene.signed_in(&name).await;
        scene.quoted(&name, "oidc.token", &spec, &first, status).await;
    }
    // The console makes another credential, and the former one is worth nothing.
    let wrong = [("client_id", "cafec0de-another-half"), ("client_secret", "cafec0de-the-other-half")];
    stage.secret("caller", &wrong).await;
    let is_told = |provider: &_| provider_condition(provider, "Ready").is_some_and(|(is, _)| is == "False");
    stage.provider_where("store", "says that the credential is no good", is_told).await;

    let mut own = private_parts();
    own.extend([operator.token().to_owned(), stage.secret_values("assertion").await.expect("there")["assertion"].clone()]);
    for (name, keys) in [
        ("basic", &["token", "authorization", "header", "basic", "json"][..]),
        ("store", &["token", "header", "basic", "json"]),
        ("password", &["token", "id_token"]),
        ("user", &["token"]),
        ("user-state", &["refresh_token"]),
    ] {
        let values = stage.secret_values(name).await.expect("published");
        // What any header begins with is no secret.
        own.extend(keys.iter().map(|key| values[*key].trim_start_matches("Bearer ").trim_matches('"').to_owned()));
    }
    let issued = stage.control.oauth_refresh_tokens(SERVER, "orders").await.expect("listed");
    assert!(issued.iter().filter(|token| token.subject == "user").count() >= 4, "the first one, and what came in its place");
    own.extend(issued.into_iter().map(|token| token.token));
    own.extend([scene.credential.client_id.clone(), scene.credential.client_secret.clone()]);
    let forbidden = forbidden(stage, &own).await;
    for leak in private_parts().iter().chain([&scene.credential.client_id, &scene.credential.client_secret]) {
        let leak = base64::engine::general_purpose::STANDARD.encode(format!("someone:{leak}"));
        assert!(!forbidden.search("a leak", &leak).is_empty(), "the search finds what it should");
    }
    let mut places = collect(stage, &operator).await;
    places.push(("the log of the first process".to_owned(), former_log));
    assert!(places[0].1.contains("TRACE") && places[0].1.len() > 100_000, "the log is at trace level");
    let hits: Vec<String> = places.iter().flat_map(|(place, text)| forbidden.search(place, text)).collect();
    assert!(hits.is_empty(), "{} hits:\n{}", hits.len(), hits[..hits.len().min(40)].join("\n"));
}
