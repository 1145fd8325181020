//! SecureAuth Identity Store as far as its sheet describes it.

use crate::world::{Answered, client, send};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use identity_simulator::switches::*;
use identity_simulator::{
    Control, Options, SecureAuthCredential, SecureAuthUserEdit, SecureAuthUserSeed, Seed, Settings, Simulator, Switches, is_marked,
};
use reqwest::{Client, Method};
use serde_json::{Value, json};

const USER: &str = "cafec0de-1111-4222-8333-444444444444";
const EXTENSION: &str = "urn:ietf:params:scim:schemas:extension:secureauth:2.0:User";

struct Store {
    simulator: Simulator,
    control: Control,
    client: Client,
    pair: SecureAuthCredential,
}

impl Store {
    async fn new() -> Self {
        let user = SecureAuthUserSeed { id: USER.to_owned(), ..SecureAuthUserSeed::default() };
        let seed = Seed { secure_auth: vec![user], ..Seed::default() };
        let simulator = Simulator::start(Options { seed, ..Options::default() }).await.expect("a simulator");
        let control = simulator.control();
        let pair = control.secure_auth_user(USER).await.expect("a user").newest().expect("a credential").clone();
        Self { client: client(simulator.ca_pem()), control, simulator, pair }
    }

    async fn switch(&self, switches: Switches) {
        self.control.set_switches(&switches).await.expect("set");
    }

    async fn token_call(&self, method: Method, store: &str, pair: &SecureAuthCredential) -> Answered {
        let url = format!("{}/api/v1/privy/ids/{store}/g3/token", self.simulator.urls().secure_auth);
        send(self.client.request(method, url).basic_auth(&pair.client_id, Some(&pair.client_secret))).await
    }

    async fn status_of(&self, pair: &SecureAuthCredential) -> u16 {
        self.token_call(Method::POST, "default", pair).await.status.as_u16()
    }

    async fn token(&self, pair: &SecureAuthCredential) -> String {
        let answer = self.token_call(Method::POST, "default", pair).await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
    }

    async fn me(&self, store: &str, token: &str) -> Answered {
        let url = format!("{}/api/v1/ismanager/ids/{store}/Me", self.simulator.urls().secure_auth);
        send(self.client.get(url).bearer_auth(token)).await
    }

    async fn credentials(&self, token: &str) -> Vec<Value> {
        let body = self.me("default", token).await.json();
        body[EXTENSION]["apiCredentials"].as_array().expect("credentials").clone()
    }
}

#[tokio::test]
async fn a_pair_is_built_like_the_documented_example_and_marked() {
    let store = Store::new().await;
    let SecureAuthCredential { date, client_id, client_secret, .. } = &store.pair;
    assert_eq!((client_id.len(), client_secret.len(), date.to_string().len()), (120, 244, 19));
    let decoded = String::from_utf8(BASE64_STANDARD.decode(client_id).expect("base64")).expect("text");
    assert!(decoded.starts_with(&format!("api-cred.{USER}.")), "{decoded}");
    assert!(is_marked(client_id) && is_marked(client_secret));
    let secrets = store.control.secrets().await.expect("secrets");
    assert!([client_id, client_secret].iter().all(|value| secrets.iter().any(|secret| secret.value == **value)));
}

#[tokio::test]
async fn a_token_comes_by_post_and_by_get_unless_one_is_refused() {
    let store = Store::new().await;
    for (position, post, get) in
        [(SecureAuthTokenMethod::Both, 200, 200), (SecureAuthTokenMethod::Get, 405, 200), (SecureAuthTokenMethod::Post, 200, 405)]
    {
        store.switch(Switches { secure_auth_token_method: position, ..Switches::default() }).await;
        for (method, expected) in [(Method::POST, post), (Method::GET, get)] {
            let answer = store.token_call(method.clone(), "default", &store.pair).await;
            assert_eq!(answer.status, expected, "{position:?} {method}");
            if expected == 200 {
                assert_eq!(answer.json().as_object().expect("an object").keys().collect::<Vec<_>>(), ["access_token"]);
            }
        }
    }
    let count = store.control.calls().await.expect("counts").of_tenant("default", "secure_auth.token");
    assert_eq!(count.answered, 6);
    assert_eq!(store.control.secure_auth_tokens(USER).await.expect("tokens").len(), 4);
    let last = store.control.last_token_request("default", &store.pair.client_id).await.expect("a request");
    assert_eq!((last.method.as_str(), last.count), ("GET", 6));
}

#[tokio::test]
async fn the_lifetime_of_a_token_may_be_told_or_stand_in_it() {
    let store = Store::new().await;
    let short = Settings { secure_auth_expires_in: 60, ..Settings::default() };
    store.control.set_settings(&short).await.expect("set");
    store.switch(Switches { secure_auth_token_answer: SecureAuthTokenAnswer::WithLifetime, ..Switches::default() }).await;
    let body = store.token_call(Method::POST, "default", &store.pair).await.json();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(60)));
    store.switch(Switches { secure_auth_token_answer: SecureAuthTokenAnswer::Jwt, ..Switches::default() }).await;
    let token = store.token(&store.pair).await;
    assert!(token.split('.').count() == 3 && is_marked(&token));
    assert_eq!(store.me("default", &token).await.status, 200);
    let later = Settings { clock_offset_seconds: 61, ..short };
    store.control.set_settings(&later).await.expect("set");
    assert_eq!(store.me("default", &token).await.status, 401);
}

#[tokio::test]
async fn me_shows_the_pair_and_an_address_nobody_should_follow() {
    let store = Store::new().await;
    let token = store.token(&store.pair).await;
    let body = store.me("default", &token).await.json();
    assert_eq!((&body["id"], &body["meta"]["resourceType"]), (&json!(USER), &json!("User")));
    assert!(body["meta"]["location"].as_str().expect("text").starts_with("http://g3-iscim-"));
    let entry = json!({
        "date": store.pair.date.to_string(), "clientId": store.pair.client_id, "clientSecret": store.pair.client_secret,
    });
    assert_eq!(store.credentials(&token).await, [entry]);
    store.switch(Switches { secure_auth_date: SecureAuthDate::Number, ..Switches::default() }).await;
    assert_eq!(store.credentials(&token).await[0]["date"], json!(store.pair.date));
}

#[tokio::test]
async fn an_invalid_token_is_refused_in_every_wording() {
    let store = Store::new().await;
    let answer = store.me("default", "nonsense").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (401, json!({"message": "Access token is invalid"})));
    for (position, expected) in [(SecureAuthInvalidTokenStatus::BadRequest, 400), (SecureAuthInvalidTokenStatus::Forbidden, 403)] {
        store
            .switch(Switches {
                secure_auth_invalid_token_status: position,
                secure_auth_error_bodies: SecureAuthErrorBodies::Text,
                ..Switches::default()
            })
            .await;
        let answer = store.me("default", "nonsense").await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (expected, "Access token is invalid"));
    }
}

#[tokio::test]
async fn a_wrong_pair_a_wrong_store_and_a_missing_privilege_differ() {
    let store = Store::new().await;
    let wrong = SecureAuthCredential { client_secret: "wrong".to_owned(), ..store.pair.clone() };
    assert_eq!(store.status_of(&wrong).await, 401);
    let token = store.token(&store.pair).await;
    for (position, expected) in
        [(SecureAuthWrongStore::Forbidden, 403), (SecureAuthWrongStore::NotFound, 404), (SecureAuthWrongStore::BadRequest, 400)]
    {
        store.switch(Switches { secure_auth_wrong_store: position, ..Switches::default() }).await;
        assert_eq!(store.token_call(Method::POST, "other", &store.pair).await.status, expected);
        assert_eq!(store.me("other", &token).await.status, expected);
    }
    let plain = SecureAuthUserEdit { developer: Some(false), ..SecureAuthUserEdit::default() };
    store.control.edit_secure_auth_user(USER, &plain).await.expect("edited");
    assert_eq!(store.me("default", &store.token(&store.pair).await).await.status, 403);
    store.switch(Switches { secure_auth_missing_privilege: SecureAuthMissingPrivilege::AtToken, ..Switches::default() }).await;
    assert_eq!(store.status_of(&store.pair).await, 403);
}

#[tokio::test]
async fn a_regenerated_pair_is_later_and_ends_or_leaves_the_old_one_as_switched() {
    let store = Store::new().await;
    let token = store.token(&store.pair).await;
    let second = store.control.regenerate_secure_auth(USER).await.expect("regenerated");
    assert!(second.date > store.pair.date);
    assert_eq!((store.status_of(&store.pair).await, store.status_of(&second).await), (401, 200));
    assert_eq!(store.credentials(&token).await.len(), 2, "the old token lives on and shows both");
    store
        .switch(Switches {
            secure_auth_old_pair: SecureAuthOldPair::Kept,
            secure_auth_regeneration: SecureAuthRegeneration::Replaced,
            ..Switches::default()
        })
        .await;
    let third = store.control.regenerate_secure_auth(USER).await.expect("regenerated");
    assert_eq!((store.status_of(&second).await, store.status_of(&third).await), (200, 200));
    let listed = store.credentials(&token).await;
    assert_eq!((listed.len(), &listed[0]["clientId"]), (1, &json!(third.client_id)));
    let settings = Settings { secure_auth_grace_milliseconds: 3_600_000, ..Settings::default() };
    store.control.set_settings(&settings).await.expect("set");
    store
        .switch(Switches {
            secure_auth_old_pair: SecureAuthOldPair::EndsAfterGrace,
            secure_auth_old_tokens: SecureAuthOldTokens::End,
            ..Switches::default()
        })
        .await;
    store.control.regenerate_secure_auth(USER).await.expect("regenerated");
    assert_eq!(store.status_of(&third).await, 200, "within its grace");
    assert_eq!(store.me("default", &token).await.status, 401, "its tokens ended");
    let end = SecureAuthUserEdit { end_credentials: true, revoke_tokens: true, ..SecureAuthUserEdit::default() };
    let user = store.control.edit_secure_auth_user(USER, &end).await.expect("edited");
    for pair in &user.credentials {
        assert_eq!(store.status_of(pair).await, 401);
    }
}

#[tokio::test]
async fn the_newest_pair_is_found_and_works_in_every_position() {
    for (position, switches) in Switches::positions_of("secure_auth_") {
        let store = Store::new().await;
        store.switch(switches).await;
        let token = async |pair: &SecureAuthCredential| {
            let mut answer = store.token_call(Method::POST, "default", pair).await;
            if answer.status == 405 {
                answer = store.token_call(Method::GET, "default", pair).await;
            }
            answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{position}: {}", answer.text)).to_owned()
        };
        let first = token(&store.pair).await;
        assert_eq!(store.credentials(&first).await.len(), 1, "{position}");
        let new = store.control.regenerate_secure_auth(USER).await.expect("regenerated");
        let listed = store.credentials(&token(&new).await).await;
        let date = |entry: &Value| entry["date"].as_str().map_or(entry["date"].as_u64(), |text| text.parse().ok());
        let newest = listed.iter().max_by_key(|entry| date(entry)).expect("an entry");
        assert_eq!(newest["clientSecret"], json!(new.client_secret), "{position}");
    }
}
