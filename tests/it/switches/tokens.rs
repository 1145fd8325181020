//! The same for tokens of IBM Verify and SecureAuth: they are used as their readers use them, and trouble ends in its condition.

use cloud_identity_operator::api::IdentityProvider;
use identity_simulator::{
    Action, OAuthClientSeed, Rule, SecureAuthCredential, SecureAuthUser, SecureAuthUserEdit, SecureAuthUserSeed, VERIFY, VerificationKey,
    VerifyApplicationSeed, When,
};
use serde_json::{Value, json};
use stage::{Operator, PATIENCE, Stage, token_condition};

use crate::fixtures::{self, client_of_verify, key_file};

use super::{PROVIDER, Told, provider_is, sure};

const MACHINE: &str = "machine";
const SECRET: &str = "cafec0de-secret-of-a-machine";

/// Until the operator has looked at the provider as it is now.
async fn is_observed(stage: &Stage) {
    let generation = stage.providers().get(PROVIDER).await.expect("it is there").metadata.generation;
    let is_observed = |provider: &IdentityProvider| provider.status.as_ref().is_some_and(|status| status.observed_generation == generation);
    stage.provider_where(PROVIDER, "is observed", is_observed).await;
}

/// A token is there, and whoever reads it may use it.
async fn is_used(stage: &Stage, name: &str, url: &str) -> Told {
    stage.token(name, json!({ "providerRef": { "name": PROVIDER } })).await;
    let chronicle = stage.token_chronicle().await;
    chronicle.find(name, "is ready", |token| token_condition(token, "Ready") == Some(("True", "Ready"))).await?;
    let token = stage.secret_values(name).await.unwrap_or_default().remove("token").unwrap_or_default();
    let answer = stage.http().get(url).bearer_auth(token).send().await.expect("an answer");
    sure(answer.status() == 200, &format!("{name}: the service answered {}", answer.status()))
}

async fn token_says(stage: &Stage, name: &str, reasons: &[&str]) -> Told {
    let says = |token: &_| token_condition(token, "Fresh").is_some_and(|(_, reason)| reasons.contains(&reason));
    stage.token_chronicle().await.find(name, &format!("says one of {reasons:?}"), says).await.map(drop)
}

fn verify(stage: &Stage, authentication: Value) -> Value {
    let url = &stage.simulator.urls().verify;
    let credentials = json!({ "secretRef": { "name": "pair" } });
    json!({ "verify": { "url": url, "credentials": credentials, "clientAuthentication": authentication } })
}

async fn with_verify(stage: &Stage) -> Operator {
    let public = |name: &str| VerificationKey { pem: Some(key_file(name)), ..VerificationKey::default() };
    let client = OAuthClientSeed { public_keys: vec![public("rsa-2048.pub.pem")], ..client_of_verify(MACHINE, SECRET) };
    stage.control.add_oauth_client(VERIFY, &client).await.expect("added");
    stage.secret("pair", &[("client_id", MACHINE), ("client_secret", SECRET)]).await;
    stage.operator().await
}

/// By secret in the form and in the header, and by a signature: the token lists applications.
pub(super) async fn token_of_verify(stage: &Stage) -> Told {
    let _operator = with_verify(stage).await;
    stage.control.add_verify_application(&VerifyApplicationSeed::default()).await.expect("added");
    stage.secret("key", &[("private_key", &key_file("rsa-2048.pem"))]).await;
    let signed = json!({ "method": "PrivateKeyJwt", "privateKey": { "secretRef": { "name": "key" } } });
    let applications = format!("{}/v1.0/applications", stage.simulator.urls().verify);
    for (name, authentication) in
        [("form", json!({ "method": "ClientSecretPost" })), ("header", json!({ "method": "ClientSecretBasic" })), ("signed", signed)]
    {
        fixtures::provide(stage, PROVIDER, verify(stage, authentication)).await;
        is_observed(stage).await;
        is_used(stage, name, &applications).await?;
        provider_is(stage, "True", "Ready").await?;
        let sent = stage.control.last_token_request(VERIFY, MACHINE).await.expect("asked");
        let (secret, assertion) = (sent.field("client_secret").is_some(), sent.field("client_assertion").is_some());
        sure((secret, assertion) == (name == "form", name == "signed"), &format!("{name}: another way to say who it is"))?;
    }
    Ok(())
}

/// A secret and a key that Verify does not know: said once, and what is published stays.
pub(super) async fn refused_by_verify(stage: &Stage) -> Told {
    let _operator = with_verify(stage).await;
    let applications = format!("{}/v1.0/applications", stage.simulator.urls().verify);
    fixtures::provide(stage, PROVIDER, verify(stage, json!({ "method": "ClientSecretPost" }))).await;
    is_used(stage, "caller", &applications).await?;
    let held = stage.secret_values("caller").await;
    stage.secret("pair", &[("client_id", MACHINE), ("client_secret", "cafec0de-another-secret")]).await;
    token_says(stage, "caller", &["InvalidClient"]).await?;
    provider_is(stage, "False", "InvalidClient").await?;
    stage.secret("key", &[("private_key", &key_file("p256.jwk"))]).await;
    let signed = json!({ "method": "PrivateKeyJwt", "algorithm": "ES256", "privateKey": { "secretRef": { "name": "key" } } });
    fixtures::provide(stage, PROVIDER, verify(stage, signed)).await;
    is_observed(stage).await;
    provider_is(stage, "False", "InvalidClient").await?;
    sure(stage.secret_values("caller").await == held, "the published token was touched")?;
    stage.secret("pair", &[("client_id", MACHINE), ("client_secret", SECRET)]).await;
    fixtures::provide(stage, PROVIDER, verify(stage, json!({ "method": "ClientSecretPost" }))).await;
    is_observed(stage).await;
    provider_is(stage, "True", "Ready").await?;
    is_used(stage, "caller", &applications).await
}

struct Store {
    _operator: Operator,
    user: SecureAuthUser,
    me: String,
}

async fn put(stage: &Stage, credential: &SecureAuthCredential) {
    stage.secret("pair", &[("clientId", &credential.client_id), ("clientSecret", &credential.client_secret)]).await;
}

async fn provide_store(stage: &Stage, store: &str, lifetime: &str) {
    let url = &stage.simulator.urls().secure_auth;
    let credentials = json!({ "secretRef": { "name": "pair" } });
    fixtures::provide(
        stage,
        PROVIDER,
        json!({ "secureAuth": { "url": url, "idsId": store, "credentials": credentials, "lifetime": lifetime } }),
    )
    .await;
}

async fn with_store(stage: &Stage, seed: SecureAuthUserSeed) -> Store {
    let user = stage.control.add_secure_auth_user(&seed).await.expect("added");
    put(stage, user.newest().expect("a credential")).await;
    let me = format!("{}/api/v1/ismanager/ids/default/Me", stage.simulator.urls().secure_auth);
    Store { _operator: stage.operator().await, user, me }
}

/// The token reads its own user, and a token that is taken back between two calls is fetched anew.
pub(super) async fn token_of_a_store(stage: &Stage) -> Told {
    let store = with_store(stage, SecureAuthUserSeed::default()).await;
    let hold = Rule::next("secure_auth.me", Action::Hold { when: When::BeforeCommit });
    let hold = stage.control.inject(&hold).await.expect("accepted");
    provide_store(stage, "default", "10m").await;
    stage.control.wait_for_fault(hold.id).await.expect("it is held");
    let revoke = SecureAuthUserEdit { revoke_tokens: true, ..SecureAuthUserEdit::default() };
    stage.control.edit_secure_auth_user(&store.user.id, &revoke).await.expect("edited");
    stage.control.release(hold.id).await.expect("released");
    provider_is(stage, "True", "Ready").await?;
    is_used(stage, "caller", &store.me).await
}

/// A pair that is none; the right one is used at once.
pub(super) async fn refused_by_a_store(stage: &Stage) -> Told {
    let store = with_store(stage, SecureAuthUserSeed::default()).await;
    let right = store.user.newest().expect("a credential");
    put(stage, &SecureAuthCredential { client_secret: "cafec0de-wrong".into(), ..right.clone() }).await;
    provide_store(stage, "default", "10m").await;
    provider_is(stage, "False", "InvalidClient").await?;
    put(stage, right).await;
    provider_is(stage, "True", "Ready").await?;
    is_used(stage, "caller", &store.me).await
}

/// A user of another store, and one without the privilege. Some statuses do not tell the one from the other, nor from a wrong pair.
pub(super) async fn wrong_store(stage: &Stage) -> Told {
    let store = with_store(stage, SecureAuthUserSeed::default()).await;
    provide_store(stage, "elsewhere", "10m").await;
    let said = ["WrongIdentityStore", "DeveloperPrivilegeMissing", "InvalidClient"];
    stage
        .provider_where(PROVIDER, "says that something is wrong", |provider| {
            stage::provider_condition(provider, "Ready").is_some_and(|(status, reason)| status == "False" && said.contains(&reason))
        })
        .await;
    stage.providers().delete(PROVIDER, &Default::default()).await.expect("deleted");
    provide_store(stage, "default", "10m").await;
    provider_is(stage, "True", "Ready").await?;
    is_used(stage, "caller", &store.me).await
}

pub(super) async fn missing_privilege(stage: &Stage) -> Told {
    let store = with_store(stage, SecureAuthUserSeed { developer: false, ..SecureAuthUserSeed::default() }).await;
    provide_store(stage, "default", "10m").await;
    provider_is(stage, "False", "DeveloperPrivilegeMissing").await?;
    let grant = SecureAuthUserEdit { developer: Some(true), ..SecureAuthUserEdit::default() };
    stage.control.edit_secure_auth_user(&store.user.id, &grant).await.expect("edited");
    provide_store(stage, "default", "11m").await;
    is_observed(stage).await;
    provider_is(stage, "True", "Ready").await?;
    is_used(stage, "caller", &store.me).await
}

/// The console makes another credential. While the old one works the provider says that there is a newer one; when it has ended, that it is
/// refused. The published token stays, and the new credential is used at once.
pub(super) async fn made_anew_in_the_console(stage: &Stage) -> Told {
    let store = with_store(stage, SecureAuthUserSeed::default()).await;
    provide_store(stage, "default", "10m").await;
    provider_is(stage, "True", "Ready").await?;
    is_used(stage, "caller", &store.me).await?;
    let held = stage.secret_values("caller").await;
    let newest = stage.control.regenerate_secure_auth(&store.user.id).await.expect("made");
    let old = stage.control.secure_auth_user(&store.user.id).await.expect("there").credentials[0].clone();
    let works = old.ends_at.is_none_or(|end| end > jiff::Timestamp::now());
    let reason = if works { "CredentialsRegenerated" } else { "InvalidClient" };
    // A change of the lifetime is looked at with a probe.
    provide_store(stage, "default", "11m").await;
    is_observed(stage).await;
    provider_is(stage, "False", reason).await?;
    if !works {
        // Its tokens say so at the next fetch.
        stage.ask_for_token("caller", "now").await;
        token_says(stage, "caller", &["InvalidClient"]).await?;
        sure(stage.secret_values("caller").await == held, "the published token was touched")?;
    }
    put(stage, &newest).await;
    provider_is(stage, "True", "Ready").await?;
    let until = tokio::time::Instant::now() + PATIENCE;
    while stage.secret_values("caller").await == held {
        sure(tokio::time::Instant::now() < until, "the new credential brings no other token")?;
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    is_used(stage, "caller", &store.me).await
}
