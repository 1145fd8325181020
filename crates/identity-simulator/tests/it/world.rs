//! One valid world: a tenant, a key that may write to it, a key that may read it.

use identity_simulator::{AccessRole, Control, KeySeed, Options, Seed, Settings, Simulator, Switches, TenantSeed};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) const TENANT: &str = "11111111-2222-4333-8444-555555555555";
pub(crate) const WRITER: &str = "cafec0de-writer-key";
pub(crate) const READER: &str = "cafec0de-reader-key";

pub(crate) struct World {
    pub(crate) simulator: Simulator,
    pub(crate) control: Control,
    pub(crate) client: Client,
    pub(crate) writer: String,
}

pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answered {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    Answered { status, headers, text: response.text().await.expect("a body") }
}

pub(crate) fn client(ca_pem: &str) -> Client {
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificate = reqwest::Certificate::from_pem(ca_pem.as_bytes()).expect("a certificate");
    Client::builder().tls_certs_only([certificate]).no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

fn key(value: &str, role: AccessRole) -> KeySeed {
    KeySeed { value: value.to_owned(), access: BTreeMap::from([(TENANT.to_owned(), role)]), ..KeySeed::default() }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Switches::default(), Settings { management_calls_per_second: 0, ..Settings::default() }).await
    }

    pub(crate) async fn with_switches(switches: Switches) -> Self {
        Self::with(switches, Settings { management_calls_per_second: 0, ..Settings::default() }).await
    }

    pub(crate) async fn with(switches: Switches, settings: Settings) -> Self {
        let seed = Seed {
            tenants: vec![TenantSeed { id: TENANT.to_owned(), ..TenantSeed::default() }],
            keys: vec![key(WRITER, AccessRole::Writer), key(READER, AccessRole::Reader)],
            switches: Some(switches),
            settings: Some(settings),
            ..Seed::default()
        };
        let simulator = Simulator::start(Options { seed, ..Options::default() }).await.expect("a simulator");
        let client = client(simulator.ca_pem());
        let mut world = Self { control: simulator.control(), simulator, client, writer: String::new() };
        world.writer = world.iam_token(WRITER).await;
        world
    }

    pub(crate) fn app_id(&self) -> String {
        self.simulator.urls().regions["us-south"].clone()
    }

    pub(crate) fn management(&self) -> String {
        format!("{}/management/v4/{TENANT}", self.app_id())
    }

    pub(crate) fn oauth(&self) -> String {
        format!("{}/oauth/v4/{TENANT}", self.app_id())
    }

    pub(crate) fn iam_request(&self, key: &str) -> RequestBuilder {
        let form = [("grant_type", "urn:ibm:params:oauth:grant-type:apikey"), ("apikey", key)];
        self.client.post(format!("{}/identity/token", self.simulator.urls().iam)).form(&form)
    }

    pub(crate) async fn iam_token(&self, key: &str) -> String {
        let answer = send(self.iam_request(key)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.management())).bearer_auth(&self.writer)
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        send(self.call(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answered {
        send(self.call(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answered {
        send(self.call(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answered {
        send(self.call(Method::DELETE, path)).await
    }

    /// Registers an application over the wire.
    pub(crate) async fn register(&self, name: &str) -> Value {
        let answer = self.post("/applications", json!({"name": name})).await;
        assert!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        answer.json()
    }

    pub(crate) fn token_request(&self, application: &Value) -> RequestBuilder {
        let secret = application["secret"].as_str();
        self.client.post(format!("{}/token", self.oauth())).basic_auth(application["clientId"].as_str().expect("an id"), secret)
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let applications = self.control.applications(TENANT).await.expect("applications");
        applications.into_iter().map(|application| application.name).collect()
    }
}

/// The claims of a token, checked by a library that is not the simulator's, against the key set of its issuer.
pub(crate) fn verified(token: &str, keys: &Value) -> (jsonwebtoken::Header, Value) {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    let header = decode_header(token).expect("a header");
    let keys = keys["keys"].as_array().expect("keys");
    let key = keys.iter().find(|key| key["kid"].as_str() == header.kid.as_deref()).expect("the key of the token");
    let part = |name: &str| key[name].as_str().unwrap_or_else(|| panic!("no {name}"));
    let key = match header.alg {
        Algorithm::ES256 => DecodingKey::from_ec_components(part("x"), part("y")),
        _ => DecodingKey::from_rsa_components(part("n"), part("e")),
    };
    let key = key.expect("a key");
    let mut validation = Validation::new(header.alg);
    assert!(matches!(header.alg, Algorithm::RS256 | Algorithm::ES256));
    validation.validate_aud = false;
    let data = decode::<Value>(token, &key, &validation).expect("a good signature");
    (header, data.claims)
}
