//! Tokens of IBM Verify, SecureAuth and any OAuth 2.0 server, each used at the service as its reader would use it.

mod ended;
mod replies;
mod signing;

use identity_simulator::{
    OAuthClientSeed, OidcServerSeed, OidcSettings, SecureAuthUserSeed, Switches, VERIFY,
    switches::{SecureAuthTokenMethod, VerifyDiscoveredEndpoints, VerifyGenerations},
};
use serde_json::{Value, json};
use stage::{Operator, Stage, eventually, token_condition};

use crate::fixtures::{self, client_of_verify};

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
