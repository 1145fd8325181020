//! Tokens of an OpenID provider that nobody here wrote: what the simulator may have misunderstood, this server has not.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use stage::{Operator, Stage, eventually, provider_condition, token_condition, token_message};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::sdk::sdks;

/// What form-encoding changes is in the id and in the secret of this client.
const BASIC: (&str, &str) = ("shop & co: 50%/+=?", "cafec0de-secret of a: client%/+=&?");
const POST: (&str, &str) = ("poster %2B+ & co", "cafec0de-secret of a: poster%/+=&?");
/// Asks what the server thinks of a token.
const AUDITOR: (&str, &str) = ("auditor", "cafec0de-secret-of-the-auditor");
/// A resource whose tokens are JWTs.
const ORDERS: &str = "https://orders.example.com/";
/// A resource whose tokens end soon.
const SHORT: &str = "https://short.example.com/";

/// A resource for which the server has no time.
const BUSY: &str = "https://busy.example.com/";

/// The server. It ends with this value, and with this program however that ends: its input closes.
struct Server {
    issuer: String,
    authority: String,
    /// Of a person who has signed in for the client that says so.
    refresh_token: Option<String>,
    http: reqwest::Client,
    _child: Child,
    _input: ChildStdin,
}

impl Server {
    async fn start(directory: &Path, clients: &[Value]) -> Self {
        let (authority, certificate, key) = certificate();
        let auditor = with_secret(AUDITOR, "client_secret_basic");
        let signed_in = clients.iter().find(|client| client["grant_types"] == json!(["refresh_token"])).map(|client| &client["client_id"]);
        let settings = json!({
            "signed_in": signed_in,
            "certificate": certificate, "key": key,
            "clients": clients.iter().cloned().chain([auditor]).collect::<Vec<_>>(),
            "resources": {
                ORDERS: { "format": "jwt", "seconds": 3600, "scope": "orders.read orders.write" },
                SHORT: { "format": "opaque", "seconds": 8 },
                BUSY: { "refusal": "TemporarilyUnavailable" },
            },
        });
        let mut node = Command::new("node");
        node.arg(directory.join("oidc-server.mjs")).kill_on_drop(true);
        let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("node starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(format!("{settings}\n").as_bytes()).await.expect("the server reads");
        let mut errors = child.stderr.take().expect("a pipe");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let Some(line) = output.next_line().await.expect("text") else {
            let mut said = String::new();
            errors.read_to_string(&mut said).await.expect("text");
            panic!("the server did not start: {said}");
        };
        // Nobody reads its remarks, but they must not fill the pipe.
        tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
        let ready: Value = serde_json::from_str(&line).expect("JSON");
        let trusted = reqwest::Certificate::from_pem(authority.as_bytes()).expect("a certificate");
        let http = reqwest::Client::builder().tls_certs_only([trusted]).build().expect("a client");
        let refresh_token = ready["refresh_token"].as_str().map(ToOwned::to_owned);
        let issuer = ready["issuer"].as_str().expect("an issuer").into();
        Self { issuer, authority, refresh_token, http, _child: child, _input: input }
    }

    /// What the server itself says of a token.
    async fn introspect(&self, token: &str) -> Value {
        let (id, secret) = AUDITOR;
        let call = self.http.post(format!("{}/token/introspection", self.issuer)).basic_auth(id, Some(secret)).form(&[("token", token)]);
        call.send().await.expect("an answer").json().await.expect("JSON")
    }

    /// The claims of a JWT that one of the server's published keys signed, for this audience.
    async fn verified(&self, token: &str, audience: &str) -> jsonwebtoken::errors::Result<Value> {
        let keys: JwkSet = self.http.get(format!("{}/jwks", self.issuer)).send().await.expect("an answer").json().await.expect("keys");
        let header = jsonwebtoken::decode_header(token)?;
        let key = keys.find(header.kid.as_deref().expect("a key id")).expect("a published key");
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Ok(jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
    }
}

/// An authority, and a certificate of its for 127.0.0.1 with its key; PEM.
fn certificate() -> (String, String, String) {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "authority of the server");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("an authority");
    let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.signed_by(&key, &authority).expect("a certificate");
    (authority.pem(), certificate.pem(), key.serialize_pem())
}

fn with_secret((id, secret): (&str, &str), method: &str) -> Value {
    json!({ "client_id": id, "client_secret": secret, "token_endpoint_auth_method": method })
}

/// A stage beside a server that knows these clients. The pair of [`BASIC`] is in the Secret `pair`.
async fn with_server(prefix: &str, directory: &Path, clients: &[Value]) -> (Stage, Server, Operator) {
    let stage = Stage::new(prefix).await;
    let server = Server::start(directory, clients).await;
    stage.config_map("server-ca", &[("ca.crt", &server.authority)]).await;
    pair(&stage, "pair", BASIC).await;
    let operator = stage.operator().await;
    (stage, server, operator)
}

async fn pair(stage: &Stage, name: &str, (id, secret): (&str, &str)) {
    stage.secret(name, &[("client_id", id), ("client_secret", secret)]).await;
}

async fn provide(stage: &Stage, server: &Server, name: &str, credentials: &str, authentication: Option<Value>) {
    let mut oidc = json!({ "issuer": server.issuer, "credentials": { "secretRef": { "name": credentials } } });
    if let Some(authentication) = authentication {
        oidc["clientAuthentication"] = authentication;
    }
    let document = json!({
        "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
        "metadata": { "name": name, "namespace": stage.namespace },
        "spec": {
            "oidc": oidc,
            "tls": { "caBundle": { "configMapRef": { "name": "server-ca" } } },
            "budget": { "requestsPerSecond": 1000, "concurrency": 16 },
        },
    });
    stage.apply(&document).await.expect("the provider is accepted");
}

async fn published(stage: &Stage, name: &str) -> BTreeMap<String, String> {
    stage.secret_values(name).await.expect("the Secret is there")
}

/// Every way to prove who a client is, checked by others: encoding, assertions, their audiences, and that none is sent twice.
#[tokio::test]
async fn a_real_server_lets_in_every_client_however_it_authenticates() {
    let Some(directory) = sdks("a_real_server_lets_in_every_client_however_it_authenticates").await else {
        return;
    };
    let mut clients = vec![with_secret(BASIC, "client_secret_basic"), with_secret(POST, "client_secret_post")];
    let mut signers = Vec::new();
    for (algorithm, kind, audience, key_id) in [
        ("RS256", &rcgen::PKCS_RSA_SHA256, "Issuer", None),
        ("PS256", &rcgen::PKCS_RSA_SHA256, "TokenEndpoint", Some("key of 2026")),
        ("ES256", &rcgen::PKCS_ECDSA_P256_SHA256, "Both", None),
    ] {
        let (name, key) = (algorithm.to_lowercase(), KeyPair::generate_for(kind).expect("a key"));
        clients.push(json!({
            "client_id": name, "public_key": key.public_key_pem(), "key_id": key_id,
            "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": algorithm,
        }));
        let mut authentication = json!({
            "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": name } }, "algorithm": algorithm, "audience": audience,
        });
        if let Some(id) = key_id {
            authentication["keyId"] = json!(id);
        }
        signers.push((name, key.serialize_pem(), authentication));
    }
    let (stage, server, _operator) = with_server("real", &directory, &clients).await;
    pair(&stage, "post", POST).await;
    provide(&stage, &server, "basic", "pair", None).await;
    provide(&stage, &server, "post", "post", Some(json!({ "method": "ClientSecretPost" }))).await;
    let mut expected = vec![("basic".to_owned(), BASIC.0.to_owned()), ("post".to_owned(), POST.0.to_owned())];
    for (name, key, authentication) in signers {
        stage.secret(&name, &[("client_id", &name), ("private_key", &key)]).await;
        provide(&stage, &server, &name, &name, Some(authentication)).await;
        expected.push((name.clone(), name));
    }
    for (name, _) in &expected {
        stage.token(&format!("{name}-token"), json!({ "providerRef": { "name": name } })).await;
    }
    for (name, id) in &expected {
        stage.ready_provider(name).await;
        let token = format!("{name}-token");
        stage.token_ready(&token).await;
        let first = published(&stage, &token).await["token"].clone();
        let told = server.introspect(&first).await;
        assert_eq!((&told["active"], &told["client_id"]), (&json!(true), &json!(id)), "{name}: {told}");
        stage.ask_for_token(&token, "again").await;
        eventually("another token is published", async || published(&stage, &token).await["token"] != first).await;
        let told = server.introspect(&published(&stage, &token).await["token"]).await;
        assert_eq!(told["active"], json!(true), "{name}: {told}");
    }
}

/// A resource server would take the token: the server's own key signed it, for this resource and scope.
#[tokio::test]
async fn a_jwt_of_a_real_server_verifies_against_its_keys_for_the_resource_and_no_other() {
    let Some(directory) = sdks("a_jwt_of_a_real_server_verifies_against_its_keys_for_the_resource_and_no_other").await else {
        return;
    };
    let (stage, server, _operator) = with_server("real", &directory, &[with_secret(BASIC, "client_secret_basic")]).await;
    provide(&stage, &server, "server", "pair", None).await;
    let grant = json!({ "resources": [ORDERS], "scopes": ["orders.read"] });
    stage.token("orders", json!({ "providerRef": { "name": "server" }, "grant": grant })).await;
    let ready = stage.token_ready("orders").await;
    let secret = published(&stage, "orders").await;
    let claims = server.verified(&secret["token"], ORDERS).await.expect("the token verifies");
    assert_eq!((&claims["client_id"], &claims["scope"]), (&json!(BASIC.0), &json!("orders.read")));
    assert_eq!(secret["scope"], "orders.read");
    assert!(server.verified(&secret["token"], SHORT).await.is_err(), "it is for nothing else");
    let end = ready.status.and_then(|status| status.expires_at).expect("an end").0.as_second();
    let late = end - claims["exp"].as_i64().expect("an end");
    // Both are whole seconds, and the token was on its way for a moment.
    assert!((-1..=5).contains(&late), "the status says that it ends {late} s later than it does");
}

/// Promise 3, by the server's own clock and word.
///
/// Traps: T21.
#[tokio::test]
async fn a_short_token_of_a_real_server_is_replaced_while_the_server_still_takes_it() {
    let Some(directory) = sdks("a_short_token_of_a_real_server_is_replaced_while_the_server_still_takes_it").await else {
        return;
    };
    let (stage, server, _operator) = with_server("real", &directory, &[with_secret(BASIC, "client_secret_basic")]).await;
    provide(&stage, &server, "server", "pair", None).await;
    stage.token("short", json!({ "providerRef": { "name": "server" }, "grant": { "resources": [SHORT] } })).await;
    let mut status = stage.token_ready("short").await.status.expect("a status");
    let mut told = server.introspect(&published(&stage, "short").await["token"]).await;
    for round in ["first", "second"] {
        assert_eq!((&told["active"], &told["aud"]), (&json!(true), &json!(SHORT)), "{round}: {told}");
        let before = status.last_refreshed_at.clone();
        let replaced = stage
            .token_where("short", "was replaced", |token| token.status.as_ref().is_some_and(|status| status.last_refreshed_at > before));
        let now = replaced.await.status.expect("a status");
        assert!(now.last_refreshed_at < status.expires_at, "{round}: {now:?} after {status:?}");
        let next = server.introspect(&published(&stage, "short").await["token"]).await;
        let (begin, end) = (next["iat"].as_i64().expect("a beginning"), told["exp"].as_i64().expect("an end"));
        assert!(begin < end, "{round}: issued at {begin}, when the former had ended at {end}");
        (status, told) = (now, next);
    }
    assert_eq!(told["active"], json!(true), "{told}");
}

/// A server that takes everything back when a spent refresh token comes goes on giving tokens: none came twice.
#[tokio::test]
async fn a_real_server_that_replaces_refresh_tokens_never_sees_one_twice() {
    let Some(directory) = sdks("a_real_server_that_replaces_refresh_tokens_never_sees_one_twice").await else {
        return;
    };
    let mut client = with_secret(BASIC, "client_secret_basic");
    client["grant_types"] = json!(["refresh_token"]);
    let (stage, server, operator) = with_server("real", &directory, &[client]).await;
    // The provider names no client of its own: this one may do nothing but use its refresh token.
    let document = json!({
        "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
        "metadata": { "name": "server", "namespace": stage.namespace },
        "spec": { "oidc": { "issuer": server.issuer }, "tls": { "caBundle": { "configMapRef": { "name": "server-ca" } } } },
    });
    stage.apply(&document).await.expect("the provider is accepted");
    let token = server.refresh_token.as_deref().expect("somebody has signed in");
    stage.secret("seed", &[("refresh_token", token)]).await;
    let grant = json!({ "type": "RefreshToken", "refreshToken": { "secretRef": { "name": "seed" } } });
    let spec = json!({ "providerRef": { "name": "server" }, "credentials": { "secretRef": { "name": "pair" } }, "grant": grant });
    stage.token("ann", spec).await;
    stage.token_ready("ann").await;
    let mut operator = Some(operator);
    for round in ["first", "second", "third"] {
        let before = published(&stage, "ann").await["token"].clone();
        let told = server.introspect(&before).await;
        assert_eq!((&told["active"], &told["sub"]), (&json!(true), &json!("ann")), "{round}: {told}");
        stage.ask_for_token("ann", round).await;
        eventually("another token is published", async || published(&stage, "ann").await["token"] != before).await;
        if let Some(running) = operator.take() {
            drop(running.kill().await);
            operator = Some(stage.operator().await);
        }
    }
    // The first one is spent: whoever uses it again ends the sign-in.
    let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
    let call = server.http.post(format!("{}/token", server.issuer)).basic_auth(encoded(BASIC.0), Some(encoded(BASIC.1))).form(&form);
    assert_eq!(call.send().await.expect("an answer").status(), 400);
    stage.ask_for_token("ann", "stolen").await;
    stage
        .token_where("ann", "says that somebody must sign in", |token| {
            token_condition(token, "Fresh") == Some(("False", "ReauthorizationRequired"))
        })
        .await;
}

/// As RFC 6749 wants both halves of HTTP Basic.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Promise 10. A refusal is said in the server's own words, and costs nobody else anything.
#[tokio::test]
async fn what_a_real_server_refuses_is_named_and_its_provider_goes_on() {
    let Some(directory) = sdks("what_a_real_server_refuses_is_named_and_its_provider_goes_on").await else {
        return;
    };
    let key = || KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let signer = json!({
        "client_id": "signer", "public_key": key().public_key_pem(),
        "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "RS256",
    });
    let (stage, server, _operator) = with_server("real", &directory, &[with_secret(BASIC, "client_secret_basic"), signer]).await;
    provide(&stage, &server, "server", "pair", None).await;
    stage.ready_provider("server").await;
    pair(&stage, "wrong-pair", (BASIC.0, "cafec0de-wrong")).await;
    let own = json!({ "providerRef": { "name": "server" }, "credentials": { "secretRef": { "name": "wrong-pair" } } });
    stage.token("wrong", own).await;
    let unknown = json!({ "resources": ["https://nowhere.example.com/"] });
    stage.token("nowhere", json!({ "providerRef": { "name": "server" }, "grant": unknown })).await;
    for (name, reason, code) in [("wrong", "InvalidClient", "invalid_client"), ("nowhere", "Rejected", "invalid_target")] {
        let refused = stage.token_reason(name, reason).await;
        assert_eq!(token_condition(&refused, "Ready"), Some(("False", reason)));
        let said = token_message(&refused, "Ready").expect("a message");
        assert!(said.contains(code), "{said}");
        assert!(stage.secret_values(name).await.is_none(), "there is no token to publish");
    }
    stage.token("fine", json!({ "providerRef": { "name": "server" } })).await;
    stage.token_ready("fine").await;
    let provider = stage.providers().get("server").await.expect("there");
    assert_eq!(provider_condition(&provider, "Ready"), Some(("True", "Ready")));
    // Somebody else's key: the server refuses the signature.
    stage.secret("signer", &[("client_id", "signer"), ("private_key", &key().serialize_pem())]).await;
    let authentication = json!({ "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": "signer" } } });
    provide(&stage, &server, "forged", "signer", Some(authentication)).await;
    stage
        .provider_where("forged", "says that its key is not accepted", |provider| {
            provider_condition(provider, "Ready") == Some(("False", "InvalidClient"))
        })
        .await;
    pair(&stage, "wrong-pair", BASIC).await;
    stage.token_ready("wrong").await;
}

/// Codes that are longer than what could be a credential are words all the same: RFC 6749 has several.
#[tokio::test]
async fn a_long_code_of_a_real_server_is_named_and_understood_too() {
    let Some(directory) = sdks("a_long_code_of_a_real_server_is_named_and_understood_too").await else {
        return;
    };
    let (stage, server, _operator) = with_server("real", &directory, &[with_secret(BASIC, "client_secret_basic")]).await;
    provide(&stage, &server, "server", "pair", None).await;
    stage.secret("signed", &[("assertion", "cafec0de-assertion")]).await;
    let bearer = json!({ "type": "JwtBearer", "assertion": { "secretRef": { "name": "signed" } } });
    stage.token("bearer", json!({ "providerRef": { "name": "server" }, "grant": bearer })).await;
    stage.token("busy", json!({ "providerRef": { "name": "server" }, "grant": { "resources": [BUSY] } })).await;
    let mut said = Vec::new();
    for (name, reason, code) in
        [("bearer", "Rejected", "unsupported_grant_type"), ("busy", "ServiceUnavailable", "temporarily_unavailable")]
    {
        let refused = stage.token_where(name, "was refused", |token| token_condition(token, "Fresh").is_some_and(|(is, _)| is == "False"));
        let refused = refused.await;
        let message = token_message(&refused, "Ready").expect("a message").to_owned();
        let as_it_should = token_condition(&refused, "Ready") == Some(("False", reason)) && message.contains(code);
        said.extend((!as_it_should).then(|| format!("{name}: {:?}: {message}", token_condition(&refused, "Ready"))));
    }
    assert_eq!(said, Vec::<String>::new());
}
