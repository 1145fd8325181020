//! IBM Verify as its sheet describes it.

use crate::keys::{ClientKey, claims};
use crate::world::{Answered, client, send};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use identity_simulator::switches::*;
use identity_simulator::{
    Control, OAuthClientEdit, OAuthClientSeed, Options, Seed, Simulator, Switches, TokenForm, VERIFY, VerifyApplicationSeed, is_marked,
};
use jsonwebtoken::Algorithm;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

const CLIENT: &str = "machine";
const SECRET: &str = "cafec0de-machine-secret";
const CREDENTIALS: &[(&str, &str)] = &[("grant_type", "client_credentials")];
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const PATHS: [&str; 3] = ["/oauth2", "/oidc/endpoint/default", "/v1.0/endpoint/default"];

struct Verify {
    simulator: Simulator,
    control: Control,
    client: Client,
}

impl Verify {
    async fn new() -> Self {
        Self::with(Switches::default()).await
    }

    async fn with(switches: Switches) -> Self {
        let machine = OAuthClientSeed {
            client_id: CLIENT.to_owned(),
            secret: Some(SECRET.to_owned()),
            name: "machine".to_owned(),
            entitlements: ["readAppConfig".to_owned(), "manageAPIClients".to_owned()].into(),
            ..OAuthClientSeed::default()
        };
        let applications = ["one", "two"].map(|name| VerifyApplicationSeed { name: name.to_owned(), ..VerifyApplicationSeed::default() });
        let seed =
            Seed { verify_clients: vec![machine], verify_applications: applications.to_vec(), switches: Some(switches), ..Seed::default() };
        let simulator = Simulator::start(Options { seed, ..Options::default() }).await.expect("a simulator");
        Self { control: simulator.control(), client: client(simulator.ca_pem()), simulator }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.simulator.urls().verify)
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    async fn token(&self, form: &[(&str, &str)]) -> Answered {
        send(self.post("/oauth2/token").basic_auth(CLIENT, Some(SECRET)).form(form)).await
    }

    async fn access_token(&self) -> String {
        let answer = self.token(CREDENTIALS).await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
    }

    async fn get(&self, path: &str, token: &str) -> Answered {
        send(self.client.get(self.url(path)).bearer_auth(token)).await
    }
}

#[tokio::test]
async fn each_generation_has_its_paths_and_a_disabled_one_is_not_found_in_plain_text() {
    let verify = Verify::new().await;
    for (generations, enabled) in [
        (VerifyGenerations::All, [true, true, true]),
        (VerifyGenerations::Current, [true, false, false]),
        (VerifyGenerations::Legacy, [false, true, true]),
        (VerifyGenerations::Oldest, [false, false, true]),
    ] {
        verify.control.set_switches(&Switches { verify_generations: generations, ..Switches::default() }).await.expect("set");
        for (path, is_enabled) in PATHS.iter().zip(enabled) {
            let document = send(verify.client.get(verify.url(&format!("{path}/.well-known/openid-configuration")))).await;
            let token = send(verify.post(&format!("{path}/token")).basic_auth(CLIENT, Some(SECRET)).form(CREDENTIALS)).await;
            if is_enabled {
                assert_eq!(document.json()["token_endpoint"], json!(verify.url(&format!("{path}/token"))), "{generations:?} {path}");
                let issuer = if *path == "/oauth2" { "/oauth2" } else { "/oidc/endpoint/default" };
                assert_eq!(document.json()["issuer"], json!(verify.url(issuer)), "{generations:?} {path}");
                assert_eq!(token.status, 200, "{generations:?} {path}");
                continue;
            }
            for answer in [document, token] {
                assert_eq!((answer.status.as_u16(), answer.text.as_str()), (404, "404 page not found"), "{generations:?} {path}");
                assert!(answer.headers["content-type"].to_str().expect("text").starts_with("text/plain"));
            }
        }
    }
    let elsewhere = Switches { verify_discovered_endpoints: VerifyDiscoveredEndpoints::Oldest, ..Switches::default() };
    verify.control.set_switches(&elsewhere).await.expect("set");
    let document = send(verify.client.get(verify.url("/oauth2/.well-known/openid-configuration"))).await;
    assert_eq!(document.json()["token_endpoint"], json!(verify.url("/v1.0/endpoint/default/token")));
    assert!(document.headers["x-correlation-id"].to_str().expect("text").starts_with("CORR_ID-"));
}

#[tokio::test]
async fn a_token_is_opaque_lives_two_hours_and_has_a_grant() {
    let verify = Verify::new().await;
    let answer = verify.token(CREDENTIALS).await;
    let body = answer.json();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(7200)));
    assert!(body["grant_id"].is_string());
    for absent in ["scope", "id_token", "refresh_token"] {
        assert!(body.get(absent).is_none(), "{absent}");
    }
    let token = body["access_token"].as_str().expect("a token");
    assert!(token.split('.').count() == 3 && is_marked(token), "{token}");
    let legacy = send(verify.post("/oidc/endpoint/default/token").basic_auth(CLIENT, Some(SECRET)).form(CREDENTIALS)).await.json();
    assert_eq!(legacy["access_token"].as_str().map(str::len), Some(40));
    let edit = OAuthClientEdit { expires_in: Some(30), access_tokens: Some(TokenForm::Jwt), ..OAuthClientEdit::default() };
    verify.control.edit_oauth_client(VERIFY, CLIENT, &edit).await.expect("edited");
    let body = verify.token(CREDENTIALS).await.json();
    assert_eq!(body["expires_in"], json!(30));
    let keys = send(verify.client.get(verify.url("/oauth2/jwks"))).await.json();
    let (_, claims) = crate::world::verified(body["access_token"].as_str().expect("a token"), &keys);
    assert_eq!(claims["sub"], json!(CLIENT));
    assert_eq!(verify.control.oauth_tokens(VERIFY, CLIENT).await.expect("tokens").len(), 3);
}

#[tokio::test]
async fn who_asks_for_openid_gets_an_unsigned_id_token_unless_switched() {
    let verify = Verify::new().await;
    let form = [("grant_type", "client_credentials"), ("scope", "openid")];
    let body = verify.token(&form).await.json();
    assert_eq!(body["scope"], json!("openid"));
    let token = body["id_token"].as_str().expect("a token");
    let parts: Vec<&str> = token.split('.').collect();
    let decoded = |part: &str| serde_json::from_slice::<Value>(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON");
    assert_eq!((decoded(parts[0]), parts[2]), (json!({"alg": "none"}), ""));
    let claims = decoded(parts[1]);
    assert_eq!((&claims["sub"], &claims["aud"], &claims["realmName"]), (&json!(CLIENT), &json!(CLIENT), &json!("cloudIdentityRealm")));
    assert!(claims["ext"].as_str().expect("a string").contains("tenantId"));
    let absent = Switches { verify_id_token: VerifyIdToken::Absent, ..Switches::default() };
    verify.control.set_switches(&absent).await.expect("set");
    assert!(verify.token(&form).await.json().get("id_token").is_none());
}

#[tokio::test]
async fn every_refusal_of_a_token_has_its_message_id() {
    let verify = Verify::new().await;
    let endpoint = || verify.post("/oauth2/token");
    let (wrong, both) =
        ([("client_id", CLIENT), ("client_secret", "x"), ("grant_type", "client_credentials")], [("client_secret", SECRET)]);
    for (request, status, error, id, reason) in [
        (endpoint().form(&wrong), 401, "invalid_client", "CSIAQ0155E", "wrong secret"),
        (endpoint().basic_auth("nobody", Some("x")).form(CREDENTIALS), 401, "invalid_client", "CSIAQ0155E", "unknown client"),
        (endpoint().form(CREDENTIALS), 400, "invalid_request", "CSIAQ0013E", "no client"),
        (endpoint().basic_auth(CLIENT, Some(SECRET)).form(&[("x", "y")]), 400, "invalid_request", "CSIAQ0158E", "no grant"),
        (endpoint().basic_auth(CLIENT, Some(SECRET)).form(&[("grant_type", "magic")]), 400, "unsupported_grant_type", "", "unknown grant"),
        (endpoint().basic_auth(CLIENT, Some(SECRET)).form(&[("grant_type", "password")]), 400, "unauthorized_client", "", "other grant"),
        (endpoint().basic_auth(CLIENT, Some(SECRET)).form(&both), 400, "invalid_request", "", "two ways"),
    ] {
        let answer = send(request).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (status, &json!(error)), "{reason}");
        assert!(answer.json()["error_description"].as_str().expect("a text").starts_with(id), "{reason}");
    }
    let off = OAuthClientEdit { enabled: Some(false), ..OAuthClientEdit::default() };
    let token = verify.access_token().await;
    verify.control.edit_oauth_client(VERIFY, CLIENT, &off).await.expect("edited");
    assert_eq!(verify.token(CREDENTIALS).await.status, 401);
    assert_eq!(verify.get("/v1.0/applications", &token).await.status, 200, "its tokens live on");
    let switches = Switches { verify_invalid_client_status: VerifyInvalidClientStatus::BadRequest, ..Switches::default() };
    verify.control.set_switches(&switches).await.expect("set");
    assert_eq!(verify.token(CREDENTIALS).await.status, 400);
}

#[tokio::test]
async fn an_assertion_is_for_issuer_or_endpoint_or_both_and_once_only_where_the_client_says_so() {
    let verify = Verify::new().await;
    let (issuer, endpoint) = (verify.url("/oauth2"), verify.url("/oauth2/token"));
    let key = ClientKey::new(Algorithm::RS256);
    for (id, one_time_assertions) in [("once", true), ("often", false)] {
        let public_keys = vec![key.public()];
        let seed = OAuthClientSeed { client_id: id.to_owned(), public_keys, one_time_assertions, ..OAuthClientSeed::default() };
        verify.control.add_oauth_client(VERIFY, &seed).await.expect("added");
    }
    let request = async |id: &str, assertion: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
        ];
        send(verify.post("/oauth2/token").form(&form)).await
    };
    for audience in [json!(issuer), json!(endpoint), json!([issuer, endpoint])] {
        assert_eq!(request("once", &key.sign(&claims("once", "once", audience.clone()))).await.status, 200, "{audience}");
    }
    let (once, often) = (key.sign(&claims("once", "once", issuer.as_str())), key.sign(&claims("often", "often", issuer.as_str())));
    for (id, assertion, expected) in [("once", &once, 200), ("once", &once, 401), ("often", &often, 200), ("often", &often, 200)] {
        assert_eq!(request(id, assertion).await.status, expected, "{id}");
    }
    let sent = verify.control.last_token_request(VERIFY, "often").await.expect("a request");
    assert_eq!((sent.field("client_assertion"), sent.count), (Some(often.as_str()), 2));
    assert_eq!(request("once", &key.sign(&claims("once", "once", "https://other.test"))).await.status, 401);
    let forged = request("once", &ClientKey::new(Algorithm::ES256).sign(&claims("once", "once", issuer.as_str()))).await;
    assert_eq!(forged.status, 400);
    assert!(forged.json()["error_description"].as_str().expect("a text").starts_with("CSIAQ0197E"));
}

#[tokio::test]
async fn a_token_is_introspected_and_revoked_by_its_client_only() {
    let verify = Verify::new().await;
    let token = verify.access_token().await;
    let call = |path: &'static str, secret: &'static str, token: String| {
        send(verify.post(path).basic_auth(CLIENT, Some(secret)).form(&[("token", token)]))
    };
    let active = call("/oauth2/introspect", SECRET, token.clone()).await.json();
    assert_eq!((&active["active"], &active["grant_type"], &active["sub"]), (&json!(true), &json!("client_credentials"), &json!(CLIENT)));
    assert_eq!(call("/oauth2/introspect", SECRET, "nonsense".to_owned()).await.json(), json!({"active": false}));
    let refused = call("/oauth2/introspect", "wrong", token.clone()).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]), (401, &json!("request_unauthorized")));
    let revoked = call("/oauth2/revoke", SECRET, token.clone()).await;
    assert_eq!((revoked.status.as_u16(), revoked.text.as_str()), (200, ""));
    assert_eq!(call("/oauth2/introspect", SECRET, token.clone()).await.json(), json!({"active": false}));
    assert_eq!(verify.get("/v1.0/applications", &token).await.status, 401);
}

#[tokio::test]
async fn the_administration_refuses_without_a_body_whoever_lacks_a_token_or_an_entitlement() {
    let verify = Verify::new().await;
    let token = verify.access_token().await;
    for path in ["/v1.0/applications", "/v1.0/apiclients", "/appaccess/v1.0/applications", "/apisecurity/v1.0/apiclients"] {
        assert_eq!(verify.get(path, &token).await.status, 200, "{path}");
    }
    let nothing = OAuthClientEdit { entitlements: Some([].into()), ..OAuthClientEdit::default() };
    verify.control.edit_oauth_client(VERIFY, CLIENT, &nothing).await.expect("edited");
    for path in ["/v1.0/applications", "/v1.0/apiclients"] {
        for (token, expected) in [("nonsense", 401), (token.as_str(), 403)] {
            let answer = verify.get(path, token).await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (expected, ""), "{path}");
        }
    }
    let counts = verify.control.calls().await.expect("counts");
    assert_eq!(counts.of_tenant(VERIFY, "verify.applications.list").answered, 4);
}

#[tokio::test]
async fn applications_have_no_id_but_a_link_and_come_in_pages() {
    let verify = Verify::new().await;
    let token = verify.access_token().await;
    let body = verify.get("/v1.0/applications?limit=1&page=2", &token).await.json();
    let applications = body["_embedded"]["applications"].as_array().expect("applications");
    assert_eq!((applications.len(), &body["totalCount"], &applications[0]["name"]), (1, &json!(2), &json!("two")));
    assert!(applications[0].get("id").is_none());
    let link = applications[0]["_links"]["self"]["href"].as_str().expect("a link");
    let id: u64 = link.rsplit('/').next().expect("a segment").parse().expect("a number");
    assert!(id > 1 << 53);
    assert_eq!(applications[0]["applicationState"], json!(true));
    let switches = Switches { verify_total_count: VerifyTotalCount::Embedded, verify_flags: VerifyFlags::Text, ..Switches::default() };
    verify.control.set_switches(&switches).await.expect("set");
    let body = verify.get("/v1.0/applications?search=q%3Don", &token).await.json();
    assert!(body.get("totalCount").is_none());
    assert_eq!((&body["_embedded"]["totalCount"], &body["_embedded"]["applications"][0]["applicationState"]), (&json!(1), &json!("true")));
}

#[tokio::test]
async fn api_clients_show_secrets_only_to_who_may_manage_them() {
    let verify = Verify::new().await;
    let token = verify.access_token().await;
    let body = verify.get("/v1.0/apiclients?pagination=count%3D1%26page%3D1%26limit%3D1", &token).await.json();
    assert_eq!((&body["total"], &body["limit"], &body["apiClients"][0]["clientSecret"]), (&json!(1), &json!(1), &json!(SECRET)));
    let filtered = verify.get("/v1.0/apiclients?filter=!clientSecret", &token).await.json();
    assert!(filtered["apiClients"][0].get("clientSecret").is_none());
    let reader = OAuthClientEdit { entitlements: Some(["readAPIClients".to_owned()].into()), ..OAuthClientEdit::default() };
    verify.control.edit_oauth_client(VERIFY, CLIENT, &reader).await.expect("edited");
    for (position, expected) in [
        (VerifyHiddenSecret::Absent, None),
        (VerifyHiddenSecret::Null, Some(Value::Null)),
        (VerifyHiddenSecret::Masked, Some(json!("********"))),
    ] {
        verify.control.set_switches(&Switches { verify_hidden_secret: position, ..Switches::default() }).await.expect("set");
        let body = verify.get("/v1.0/apiclients", &token).await.json();
        assert_eq!(body["apiClients"][0].get("clientSecret").cloned(), expected, "{position:?}");
    }
    let bare = Switches { verify_client_list: VerifyClientList::Bare, ..Switches::default() };
    verify.control.set_switches(&bare).await.expect("set");
    assert!(verify.get("/v1.0/apiclients", &token).await.json().is_array());
}

#[tokio::test]
async fn from_discovery_to_an_administrators_read_in_every_position() {
    for (position, switches) in Switches::positions_of("verify_") {
        let verify = Verify::with(switches).await;
        let mut body = None;
        for path in PATHS {
            let document = send(verify.client.get(verify.url(&format!("{path}/.well-known/openid-configuration")))).await;
            if document.status == 404 {
                continue;
            }
            let endpoint = document.json()["token_endpoint"].as_str().expect("an endpoint").to_owned();
            let request = verify.client.post(endpoint).basic_auth(CLIENT, Some(SECRET));
            let answer = send(request.form(&[("grant_type", "client_credentials"), ("scope", "openid")])).await;
            assert_eq!(answer.status, 200, "{position}: {}", answer.text);
            body = Some(answer.json());
            break;
        }
        let body = body.unwrap_or_else(|| panic!("{position}: there is no discovery"));
        let token = body["access_token"].as_str().expect("a token");
        assert_eq!((&body["expires_in"], is_marked(token)), (&json!(7200), true), "{position}");
        assert_eq!(verify.get("/v1.0/applications", token).await.status, 200, "{position}");
    }
}
