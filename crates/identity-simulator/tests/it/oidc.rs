//! Generic OAuth 2.0 servers as the RFCs have them, and as some are.

use crate::keys::{ClientKey, claims};
use crate::world::{Answered, client, send, verified};
use identity_simulator::{
    Action, AssertionIssuer, BasicSpelling, ClientAuthentication, Control, DiscoveryPlace, Framing, LifetimeAnswer, MissingTarget,
    OAuthClientEdit, OAuthClientSeed, OAuthRefreshTokenSeed, OidcServerSeed, OidcSettings, Options, Rule, Settings, SigningAlgorithm,
    Simulator, TokenForm, User, VERIFY, VerificationKey, When, is_marked,
};
use jsonwebtoken::Algorithm;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

const SERVER: &str = "main";
const CLIENT: &str = "orders";
const SECRET: &str = "cafec0de-orders-secret";
const PASSWORD: &str = "cafec0de-anns-password";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const CREDENTIALS: &[(&str, &str)] = &[("grant_type", "client_credentials")];
const SIGN_IN: &[(&str, &str)] = &[("grant_type", "password"), ("username", "ann"), ("password", PASSWORD)];

struct Server {
    simulator: Simulator,
    control: Control,
    client: Client,
}

impl Server {
    async fn new() -> Self {
        Self::with(OidcSettings::default()).await
    }

    /// One server with one client and one user.
    async fn with(settings: OidcSettings) -> Self {
        let simulator = Simulator::start(Options::default()).await.expect("a simulator");
        let server = Self { control: simulator.control(), client: client(simulator.ca_pem()), simulator };
        let seed = OidcServerSeed {
            id: SERVER.to_owned(),
            clients: vec![OAuthClientSeed { client_id: CLIENT.to_owned(), secret: Some(SECRET.to_owned()), ..OAuthClientSeed::default() }],
            users: vec![User {
                username: "ann".to_owned(),
                password: PASSWORD.to_owned(),
                id: "subject-of-ann".to_owned(),
                ..User::default()
            }],
            settings,
            ..OidcServerSeed::default()
        };
        server.control.add_oidc_server(&seed).await.expect("added");
        server
    }

    async fn set(&self, settings: OidcSettings) {
        self.control.set_oidc_settings(SERVER, &settings).await.expect("set");
    }

    fn issuer(&self) -> String {
        format!("{}/tenants/{SERVER}", self.simulator.urls().oidc)
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}/{path}", self.issuer()))
    }

    async fn token(&self, form: &[(&str, &str)]) -> Answered {
        send(self.post("token").basic_auth(CLIENT, Some(SECRET)).form(form)).await
    }

    async fn refresh(&self, token: &str) -> Answered {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    async fn introspect(&self, token: &str) -> Value {
        send(self.post("introspect").basic_auth(CLIENT, Some(SECRET)).form(&[("token", token)])).await.json()
    }

    async fn keys(&self) -> Value {
        send(self.client.get(format!("{}/jwks", self.issuer()))).await.json()
    }

    async fn get(&self, path: &str) -> Answered {
        send(self.client.get(format!("{}{path}", self.simulator.urls().oidc))).await
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[tokio::test]
async fn client_credentials_bring_a_signed_marked_token_and_nothing_of_a_user() {
    let server = Server::new().await;
    let answer = server.token(&[("grant_type", "client_credentials"), ("scope", "read write"), ("audience", "https://api.test")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        (&answer.headers["cache-control"], &answer.headers["pragma"]),
        (&"no-store".parse().expect("a value"), &"no-cache".parse().expect("a value"))
    );
    let body = answer.json();
    assert_eq!((&body["token_type"], &body["expires_in"], &body["scope"]), (&json!("Bearer"), &json!(3600), &json!("read write")));
    assert!(body.get("refresh_token").is_none() && body.get("id_token").is_none());
    let token = text(&body["access_token"]);
    let (header, claims) = verified(token, &server.keys().await);
    assert_eq!(header.alg, Algorithm::RS256);
    assert_eq!((&claims["iss"], &claims["sub"], &claims["aud"]), (&json!(server.issuer()), &json!(CLIENT), &json!("https://api.test")));
    assert!(is_marked(token));
    let tokens = server.control.oauth_tokens(SERVER, CLIENT).await.expect("tokens");
    assert_eq!((tokens.len(), tokens[0].token.as_str(), tokens[0].scope.as_str()), (1, token, "read write"));
    let count = server.control.calls().await.expect("counts").of_tenant(SERVER, "oidc.token");
    assert_eq!(count.answered, 1);
}

#[tokio::test]
async fn a_client_authenticates_in_one_way_at_a_time_and_only_as_it_may() {
    let server = Server::new().await;
    let post = [("client_id", CLIENT), ("client_secret", SECRET), ("grant_type", "client_credentials")];
    assert_eq!(send(server.post("token").form(&post)).await.status, 200);
    let both = send(server.post("token").basic_auth(CLIENT, Some(SECRET)).form(&post)).await;
    assert_eq!((both.status.as_u16(), &both.json()["error"]), (400, &json!("invalid_request")));
    let wrong = send(server.post("token").basic_auth(CLIENT, Some("wrong")).form(CREDENTIALS)).await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["error"]), (401, &json!("invalid_client")));
    assert!(wrong.headers.contains_key("www-authenticate"));
    let only_post = OAuthClientEdit { authentication: Some([ClientAuthentication::ClientSecretPost].into()), ..OAuthClientEdit::default() };
    server.control.edit_oauth_client(SERVER, CLIENT, &only_post).await.expect("edited");
    assert_eq!(server.token(CREDENTIALS).await.status, 401);
    assert_eq!(send(server.post("token").form(&post)).await.status, 200);
}

#[tokio::test]
async fn the_halves_of_basic_are_form_encoded_unless_set_otherwise() {
    let server = Server::new().await;
    let (id, secret) = ("id: %+/=é", "cafec0de-: %+/=é");
    let seed = OAuthClientSeed { client_id: id.to_owned(), secret: Some(secret.to_owned()), ..OAuthClientSeed::default() };
    server.control.add_oauth_client(SERVER, &seed).await.expect("added");
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let request = |id: &str, secret: &str| send(server.post("token").basic_auth(id, Some(secret)).form(CREDENTIALS));
    assert_eq!(request(&encoded(id), &encoded(secret)).await.status, 200);
    assert_eq!(request(id, secret).await.status, 401);
    server.set(OidcSettings { basic: BasicSpelling::Raw, ..OidcSettings::default() }).await;
    let seed = OAuthClientSeed { client_id: "id %+/=é".to_owned(), ..seed };
    server.control.add_oauth_client(SERVER, &seed).await.expect("added");
    assert_eq!(request("id %+/=é", secret).await.status, 200);
    assert_eq!(request(&encoded("id %+/=é"), &encoded(secret)).await.status, 401);
    let last = server.control.last_token_request(SERVER, "id %+/=é").await.expect("a request");
    assert_eq!((last.names(), last.count), (vec!["grant_type"], 1));
    assert_eq!(server.control.oauth_tokens(SERVER, id).await.expect("tokens").len(), 1);
}

#[tokio::test]
async fn an_assertion_of_the_client_is_taken_once_if_its_claims_and_signature_are_good() {
    let server = Server::new().await;
    let (issuer, endpoint) = (server.issuer(), format!("{}/token", server.issuer()));
    for algorithm in [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256] {
        let (key, other) = (ClientKey::new(algorithm), ClientKey::new(Algorithm::ES256));
        let id = format!("{algorithm:?}");
        let seed = OAuthClientSeed { client_id: id.clone(), public_keys: vec![key.public()], ..OAuthClientSeed::default() };
        assert_eq!(server.control.add_oauth_client(SERVER, &seed).await.expect("added").secret, None);
        let request = async |assertion: &str| {
            let form = [("grant_type", "client_credentials"), ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)];
            send(server.post("token").form(&form)).await.status.as_u16()
        };
        let good = key.sign(&claims(&id, &id, issuer.as_str()));
        assert_eq!(request(&good).await, 200, "{id}");
        assert_eq!(request(&good).await, 401, "{id}: a second time");
        assert_eq!(request(&key.sign(&claims(&id, &id, endpoint.as_str()))).await, 200, "{id}: for the token endpoint");
        assert_eq!(request(&key.sign(&claims(&id, &id, json!([issuer, endpoint])))).await, 200, "{id}: for both");
        let mut over = claims(&id, &id, issuer.as_str());
        over["exp"] = json!(1);
        let mut nameless = claims(&id, &id, issuer.as_str());
        nameless["jti"] = Value::Null;
        for (assertion, reason) in [
            (key.sign(&claims(&id, &id, "https://elsewhere.test")), "for somebody else"),
            (key.sign(&claims("another", &id, issuer.as_str())), "by somebody else"),
            (key.sign(&claims(&id, CLIENT, issuer.as_str())), "of a client without keys"),
            (key.sign(&over), "over"),
            (key.sign(&nameless), "without jti"),
            (other.sign(&claims(&id, &id, issuer.as_str())), "with another key"),
            ("no.such.assertion".to_owned(), "nonsense"),
        ] {
            assert_eq!(request(&assertion).await, 401, "{id}: {reason}");
        }
    }
}

#[tokio::test]
async fn a_key_is_replaced_by_its_name_while_both_are_known() {
    let server = Server::new().await;
    let (old, new) = (ClientKey::new(Algorithm::ES256).named("old"), ClientKey::new(Algorithm::ES256).named("new"));
    let seed = OAuthClientSeed {
        client_id: "signer".to_owned(),
        public_keys: vec![old.public(), VerificationKey { key_id: Some("new".to_owned()), pem: None, jwk: Some(new.jwk()) }],
        ..OAuthClientSeed::default()
    };
    server.control.add_oauth_client(SERVER, &seed).await.expect("added");
    let request = async |key: &ClientKey| {
        let assertion = key.sign(&claims("signer", "signer", server.issuer()));
        let form =
            [("grant_type", "client_credentials"), ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.as_str())];
        send(server.post("token").form(&form)).await.status.as_u16()
    };
    assert_eq!((request(&old).await, request(&new).await), (200, 200));
    let only_new = OAuthClientEdit { public_keys: Some(vec![new.public()]), ..OAuthClientEdit::default() };
    server.control.edit_oauth_client(SERVER, "signer", &only_new).await.expect("edited");
    let renamed = old.named("new");
    assert_eq!((request(&renamed).await, request(&new).await), (401, 200));
    assert_eq!(request(&new.named("other")).await, 401, "a key under another name");
    let useless = VerificationKey { pem: Some("nonsense".to_owned()), ..VerificationKey::default() };
    let edit = OAuthClientEdit { public_keys: Some(vec![useless]), ..OAuthClientEdit::default() };
    assert!(server.control.edit_oauth_client(SERVER, "signer", &edit).await.is_err());
}

#[tokio::test]
async fn a_refresh_token_from_elsewhere_works_until_it_is_over_and_only_for_its_client() {
    let server = Server::new().await;
    let seed = OAuthRefreshTokenSeed {
        token: Some("cafec0de-from-a-browser".to_owned()),
        client_id: CLIENT.to_owned(),
        subject: "subject-of-ann".to_owned(),
        scope: "read".to_owned(),
        expires_in: Some(60),
        ..OAuthRefreshTokenSeed::default()
    };
    server.control.add_refresh_token(SERVER, &seed).await.expect("added");
    server
        .control
        .add_oauth_client(SERVER, &OAuthClientSeed { client_id: "thief".to_owned(), ..OAuthClientSeed::default() })
        .await
        .expect("added");
    let secret = server.control.oauth_server(SERVER).await.expect("a server").clients["thief"].secret.clone();
    let form = [("grant_type", "refresh_token"), ("refresh_token", "cafec0de-from-a-browser")];
    let stolen = send(server.post("token").basic_auth("thief", secret).form(&form)).await;
    assert_eq!(stolen.json()["error"], json!("invalid_grant"));
    let body = server.token(&form).await.json();
    assert_eq!(body["scope"], json!("read"));
    let later = Settings { clock_offset_seconds: 61, ..Settings::default() };
    server.control.set_settings(&later).await.expect("set");
    assert_eq!(server.refresh(text(&body["refresh_token"])).await.json()["error"], json!("invalid_grant"));
    assert!(server.control.add_refresh_token(SERVER, &OAuthRefreshTokenSeed { client_id: "nobody".to_owned(), ..seed }).await.is_err());
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_may_revoke_the_family() {
    let server = Server::new().await;
    let body = server.token(SIGN_IN).await.json();
    let (_, identity) = verified(text(&body["id_token"]), &server.keys().await);
    assert_eq!((&identity["sub"], &identity["aud"]), (&json!("subject-of-ann"), &json!(CLIENT)));
    let first = text(&body["refresh_token"]).to_owned();
    let renewed = server.refresh(&first).await.json();
    let second = text(&renewed["refresh_token"]).to_owned();
    assert!(renewed["id_token"].is_string());
    let reused = server.refresh(&first).await;
    assert_eq!((reused.status.as_u16(), &reused.json()["error"]), (400, &json!("invalid_grant")));
    let third = text(&server.refresh(&second).await.json()["refresh_token"]).to_owned();
    server.set(OidcSettings { reuse_revokes_family: true, ..OidcSettings::default() }).await;
    assert_eq!(server.refresh(&first).await.status, 400);
    assert_eq!(server.refresh(&third).await.status, 400, "the family is revoked");
    assert_eq!(server.introspect(text(&renewed["access_token"])).await, json!({"active": false}));
    let tokens = server.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("tokens");
    let seen: Vec<_> = tokens.iter().map(|token| (token.token.as_str(), token.spent, token.revoked)).collect();
    assert_eq!(seen, [(first.as_str(), true, true), (second.as_str(), true, true), (third.as_str(), false, true)]);
    assert!(tokens.iter().all(|token| token.family == tokens[0].family && is_marked(&token.token)));
}

#[tokio::test]
async fn a_refresh_token_goes_on_working_where_rotation_is_off() {
    let server = Server::with(OidcSettings { rotation: false, ..OidcSettings::default() }).await;
    let token = text(&server.token(SIGN_IN).await.json()["refresh_token"]).to_owned();
    for _ in 0..2 {
        let renewed = server.refresh(&token).await;
        assert_eq!(renewed.status, 200);
        assert!(renewed.json().get("refresh_token").is_none());
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_refresh_leaves_the_client_with_a_spent_token() {
    let server = Server::new().await;
    let token = text(&server.token(SIGN_IN).await.json()["refresh_token"]).to_owned();
    let lost = Rule::next("oidc.token", Action::Drop { when: When::AfterCommit }).tenant(SERVER).body_contains("refresh_token");
    let fault = server.control.inject(&lost).await.expect("injected");
    let form = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
    assert!(server.post("token").basic_auth(CLIENT, Some(SECRET)).form(&form).send().await.is_err());
    server.control.wait_for_fault(fault.id).await.expect("fired");
    assert_eq!(server.refresh(&token).await.json()["error"], json!("invalid_grant"));
    assert_eq!(server.control.oauth_refresh_tokens(SERVER, CLIENT).await.expect("tokens").len(), 2);
    let broken = Rule::next("oidc", Action::Truncate { keep: 10, framing: Framing::Consistent });
    server.control.inject(&broken).await.expect("injected");
    assert_eq!(server.token(CREDENTIALS).await.text.len(), 10);
}

#[tokio::test]
async fn a_refresh_may_narrow_the_scope_but_not_widen_it() {
    let server = Server::new().await;
    let mut form = SIGN_IN.to_vec();
    form.push(("scope", "read write"));
    let token = text(&server.token(&form).await.json()["refresh_token"]).to_owned();
    let renew =
        async |token: &str, scope: &str| server.token(&[("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)]).await;
    assert_eq!(renew(&token, "read admin").await.json()["error"], json!("invalid_scope"));
    let narrow = renew(&token, "read").await.json();
    assert_eq!(narrow["scope"], json!("read"));
    assert_eq!(renew(text(&narrow["refresh_token"]), "read write").await.json()["scope"], json!("read write"));
}

#[tokio::test]
async fn an_assertion_of_a_trusted_issuer_brings_a_users_tokens_once() {
    let server = Server::new().await;
    let key = ClientKey::new(Algorithm::ES256);
    let trusted =
        AssertionIssuer { issuer: "https://people.test".to_owned(), public_keys: vec![key.public()], subjects: ["bob".to_owned()].into() };
    server.control.set_assertion_issuers(SERVER, &[trusted]).await.expect("set");
    let request = async |assertion: &str| server.token(&[("grant_type", JWT_BEARER), ("assertion", assertion)]).await;
    let good = key.sign(&claims("https://people.test", "bob", server.issuer()));
    let body = request(&good).await.json();
    let (_, access) = verified(text(&body["access_token"]), &server.keys().await);
    assert_eq!(access["sub"], json!("bob"));
    assert!(body["id_token"].is_string() && body.get("refresh_token").is_none());
    for (assertion, reason) in [
        (good, "a second time"),
        (key.sign(&claims("https://people.test", "eve", server.issuer())), "for another subject"),
        (key.sign(&claims("https://others.test", "bob", server.issuer())), "by another issuer"),
        (key.sign(&claims("https://people.test", "bob", "https://others.test")), "for another server"),
        (ClientKey::new(Algorithm::ES256).sign(&claims("https://people.test", "bob", server.issuer())), "with another key"),
    ] {
        assert_eq!(request(&assertion).await.json()["error"], json!("invalid_grant"), "{reason}");
    }
}

#[tokio::test]
async fn the_metadata_are_at_one_place_only() {
    let server = Server::new().await;
    let places = [
        (DiscoveryPlace::OpenId, "/tenants/main/.well-known/openid-configuration"),
        (DiscoveryPlace::OAuth, "/.well-known/oauth-authorization-server/tenants/main"),
        (DiscoveryPlace::OpenIdInserted, "/.well-known/openid-configuration/tenants/main"),
    ];
    for (set, _) in places {
        server.set(OidcSettings { discovery: set, ..OidcSettings::default() }).await;
        for (place, path) in places {
            let answer = server.get(path).await;
            assert_eq!(answer.status, if place == set { 200 } else { 404 }, "{set:?} {path}");
            if place == set {
                assert_eq!(answer.json()["issuer"], json!(server.issuer()));
                assert_eq!(answer.json()["token_endpoint"], json!(format!("{}/token", server.issuer())));
            }
        }
    }
    let counts = server.control.calls().await.expect("counts");
    assert_eq!((counts.of("oidc.discovery").answered, counts.of("oidc.discovery.oauth").answered), (9, 3));
    server.set(OidcSettings { slash_after_issuer: true, announced_authentication: vec![], ..OidcSettings::default() }).await;
    let document = server.get("/tenants/main/.well-known/openid-configuration").await.json();
    assert_eq!(document["issuer"], json!(format!("{}/", server.issuer())));
    assert!(document.get("token_endpoint_auth_methods_supported").is_none());
}

#[tokio::test]
async fn the_endpoints_may_be_at_another_host_and_only_there() {
    let server = Server::with(OidcSettings { endpoints_elsewhere: true, ..OidcSettings::default() }).await;
    let document = server.get("/tenants/main/.well-known/openid-configuration").await.json();
    let endpoint = text(&document["token_endpoint"]);
    assert!(endpoint.starts_with(&server.simulator.urls().oidc_elsewhere) && !endpoint.contains("127.0.0.1"), "{endpoint}");
    assert_eq!(server.token(CREDENTIALS).await.status, 404);
    let request = server.client.post(endpoint).basic_auth(CLIENT, Some(SECRET)).form(CREDENTIALS);
    assert_eq!(send(request).await.status, 200);
    server.set(OidcSettings::default()).await;
    let request = server.client.post(endpoint).basic_auth(CLIENT, Some(SECRET)).form(CREDENTIALS);
    assert_eq!(send(request).await.status, 404);
}

#[tokio::test]
async fn the_lifetime_is_told_in_every_form() {
    let server = Server::new().await;
    let edit = OAuthClientEdit { expires_in: Some(60), ..OAuthClientEdit::default() };
    server.control.edit_oauth_client(SERVER, CLIENT, &edit).await.expect("edited");
    for (lifetime, expected) in [
        (LifetimeAnswer::Number, json!(60)),
        (LifetimeAnswer::Text, json!("60")),
        (LifetimeAnswer::Absent, Value::Null),
        (LifetimeAnswer::Zero, json!(0)),
        (LifetimeAnswer::Negative, json!(-1)),
        (LifetimeAnswer::Huge, json!(1_099_511_627_776_i64)),
    ] {
        server.set(OidcSettings { lifetime, ..OidcSettings::default() }).await;
        assert_eq!(server.token(CREDENTIALS).await.json()["expires_in"], expected, "{lifetime:?}");
    }
}

#[tokio::test]
async fn answers_may_be_as_strange_as_set() {
    let server = Server::new().await;
    let scoped = [("grant_type", "client_credentials"), ("scope", "read write")];
    server.set(OidcSettings { narrower_scope: true, token_type: "mac".to_owned(), ..OidcSettings::default() }).await;
    let body = server.token(&scoped).await.json();
    assert_eq!((&body["scope"], &body["token_type"]), (&json!("read"), &json!("mac")));
    for access_tokens in [TokenForm::Jwt, TokenForm::Opaque] {
        server.set(OidcSettings { access_tokens, token_length: 1_200_000, ..OidcSettings::default() }).await;
        let body = server.token(&scoped).await.json();
        let token = text(&body["access_token"]);
        assert!(token.len() >= 1_200_000 && token.len() < 1_300_000 && is_marked(token), "{access_tokens:?}: {}", token.len());
    }
    server.set(OidcSettings { errors_with_ok: true, ..OidcSettings::default() }).await;
    let answer = server.token(&[("grant_type", "magic")]).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (200, &json!("unsupported_grant_type")));
    for status in [400, 401, 403] {
        let settings = OidcSettings { invalid_client_status: status, invalid_client_challenge: false, ..OidcSettings::default() };
        server.set(settings).await;
        let answer = send(server.post("token").basic_auth(CLIENT, Some("wrong")).form(CREDENTIALS)).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (status, &json!("invalid_client")));
        assert!(!answer.headers.contains_key("www-authenticate"));
    }
    server.set(OidcSettings { unsigned_id_tokens: true, ..OidcSettings::default() }).await;
    let body = server.token(SIGN_IN).await.json();
    assert!(text(&body["id_token"]).ends_with('.'));
}

#[tokio::test]
async fn who_asks_again_may_be_answered_the_same_token_until_it_is_over() {
    let server = Server::new().await;
    let token = async || text(&server.token(CREDENTIALS).await.json()["access_token"]).to_owned();
    assert_ne!(token().await, token().await);
    server.set(OidcSettings { same_token: true, access_tokens: TokenForm::Opaque, ..OidcSettings::default() }).await;
    let same = token().await;
    assert_eq!(token().await, same);
    let later = Settings { clock_offset_seconds: 1800, ..Settings::default() };
    server.control.set_settings(&later).await.expect("set");
    let left = server.token(CREDENTIALS).await.json()["expires_in"].as_i64().expect("a number");
    assert!((1700..=1800).contains(&left), "{left}");
    let over = Settings { clock_offset_seconds: 3601, ..Settings::default() };
    server.control.set_settings(&over).await.expect("set");
    assert_ne!(token().await, same);
}

#[tokio::test]
async fn targets_are_kept_in_order_and_unknown_or_missing_ones_refused_where_set() {
    let server = Server::new().await;
    let form = [
        ("grant_type", "client_credentials"),
        ("resource", "https://a.test/x"),
        ("resource", "urn:b"),
        ("audience", "c"),
        ("shoe_size", "44"),
        ("empty", ""),
    ];
    let body = server.token(&form).await.json();
    let (_, claims) = verified(text(&body["access_token"]), &server.keys().await);
    assert_eq!(claims["aud"], json!(["c", "https://a.test/x", "urn:b"]));
    let sent = server.control.last_token_request(SERVER, CLIENT).await.expect("a request");
    let expected: Vec<_> = form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(sent.fields, expected);
    assert_eq!((sent.field("shoe_size"), sent.all("resource")), (Some("44"), vec!["https://a.test/x", "urn:b"]));
    for resource in ["relative/path", "https://a.test/#fragment"] {
        let answer = server.token(&[("grant_type", "client_credentials"), ("resource", resource)]).await;
        assert_eq!(answer.json()["error"], json!("invalid_target"), "{resource}");
    }
    let edit =
        OAuthClientEdit { targets: Some(["c".to_owned()].into()), scopes: Some(["read".to_owned()].into()), ..OAuthClientEdit::default() };
    server.control.edit_oauth_client(SERVER, CLIENT, &edit).await.expect("edited");
    for (field, value, error) in [("audience", "d", "invalid_target"), ("scope", "write", "invalid_scope")] {
        let answer = server.token(&[("grant_type", "client_credentials"), (field, value)]).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (400, &json!(error)));
    }
    assert_eq!(server.token(CREDENTIALS).await.json()["scope"], json!("read"));
    server.set(OidcSettings { missing_target: MissingTarget::AccessDenied, ..OidcSettings::default() }).await;
    let answer = server.token(CREDENTIALS).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (403, &json!("access_denied")));
}

#[tokio::test]
async fn a_request_that_is_no_proper_form_is_refused() {
    let server = Server::new().await;
    let basic = || server.post("token").basic_auth(CLIENT, Some(SECRET));
    for (request, error, reason) in [
        (basic().form(&[("scope", "read")]), "invalid_request", "no grant type"),
        (basic().form(&[("grant_type", "client_credentials"), ("scope", "a"), ("scope", "b")]), "invalid_request", "twice"),
        (basic().json(&json!({"grant_type": "client_credentials"})), "invalid_request", "JSON"),
        (basic().form(&[("grant_type", "password"), ("username", "ann"), ("password", "wrong")]), "invalid_grant", "wrong password"),
        (basic().form(&[("grant_type", "password"), ("username", "ann")]), "invalid_request", "no password"),
    ] {
        let answer = send(request).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (400, &json!(error)), "{reason}");
    }
    let answer = send(server.client.get(format!("{}/token", server.issuer()))).await;
    assert_eq!((answer.status.as_u16(), &answer.headers["allow"]), (405, &"POST".parse().expect("a value")));
    let only_sign_in = OAuthClientEdit { grants: Some(["password".to_owned()].into()), ..OAuthClientEdit::default() };
    server.control.edit_oauth_client(SERVER, CLIENT, &only_sign_in).await.expect("edited");
    assert_eq!(server.token(CREDENTIALS).await.json()["error"], json!("unauthorized_client"));
}

#[tokio::test]
async fn a_token_is_active_until_it_is_revoked_by_its_client_or_by_us() {
    let server = Server::with(OidcSettings { access_tokens: TokenForm::Opaque, ..OidcSettings::default() }).await;
    let token = text(&server.token(CREDENTIALS).await.json()["access_token"]).to_owned();
    let active = server.introspect(&token).await;
    assert_eq!((&active["active"], &active["client_id"], &active["sub"]), (&json!(true), &json!(CLIENT), &json!(CLIENT)));
    assert_eq!(server.introspect("nonsense").await, json!({"active": false}));
    assert_eq!(send(server.post("introspect").form(&[("token", token.as_str())])).await.status, 401);
    let revoke = |token: String| send(server.post("revoke").basic_auth(CLIENT, Some(SECRET)).form(&[("token", token)]));
    assert_eq!(revoke("nonsense".to_owned()).await.status, 200);
    assert_eq!(revoke(token.clone()).await.status, 200);
    assert_eq!(server.introspect(&token).await, json!({"active": false}));
    let signed_in = server.token(SIGN_IN).await.json();
    assert_eq!(server.introspect(text(&signed_in["refresh_token"])).await["active"], json!(true));
    server.control.revoke_oauth(SERVER, text(&signed_in["refresh_token"])).await.expect("revoked");
    assert_eq!(server.introspect(text(&signed_in["access_token"])).await, json!({"active": false}));
    assert_eq!(server.refresh(text(&signed_in["refresh_token"])).await.status, 400);
    assert!(server.control.revoke_oauth(SERVER, "nonsense").await.is_err());
}

#[tokio::test]
async fn a_client_that_is_disabled_or_has_another_secret_is_a_stranger() {
    let server = Server::new().await;
    let edit = |edit: OAuthClientEdit| async { server.control.edit_oauth_client(SERVER, CLIENT, &{ edit }).await.map(|_| ()) };
    edit(OAuthClientEdit { enabled: Some(false), ..OAuthClientEdit::default() }).await.expect("edited");
    assert_eq!(server.token(CREDENTIALS).await.status, 401);
    edit(OAuthClientEdit { enabled: Some(true), secret: Some("cafec0de-other".to_owned()), ..OAuthClientEdit::default() })
        .await
        .expect("edited");
    assert_eq!(server.token(CREDENTIALS).await.status, 401);
    edit(OAuthClientEdit { secret: Some(SECRET.to_owned()), ..OAuthClientEdit::default() }).await.expect("edited");
    assert_eq!(server.token(CREDENTIALS).await.status, 200);
    assert!(edit(OAuthClientEdit { secret: Some("plain".to_owned()), ..OAuthClientEdit::default() }).await.is_err());
    server.control.remove_oauth_client(SERVER, CLIENT).await.expect("removed");
    assert_eq!(server.token(CREDENTIALS).await.status, 401);
}

#[tokio::test]
async fn tokens_are_signed_with_the_curve_where_set() {
    let server = Server::new().await;
    let fast = Settings { signing: SigningAlgorithm::Es256, ..Settings::default() };
    server.control.set_settings(&fast).await.expect("set");
    let body = server.token(CREDENTIALS).await.json();
    let (header, _) = verified(text(&body["access_token"]), &server.keys().await);
    assert_eq!(header.alg, Algorithm::ES256);
    assert_eq!(server.introspect(text(&body["access_token"])).await["active"], json!(true));
}

#[tokio::test]
async fn a_reset_leaves_only_verifys_server() {
    let server = Server::new().await;
    server.control.reset().await.expect("reset");
    let state = server.control.state().await.expect("a state");
    assert_eq!(state.servers.keys().collect::<Vec<_>>(), [VERIFY]);
    assert_eq!(server.token(CREDENTIALS).await.status, 404);
}
