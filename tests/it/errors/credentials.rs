//! The provider's own credential: every form of it, and what happens when it changes, is missing, or may too little.

use std::time::{Duration, Instant};

use futures::future::join_all;
use identity_simulator::{AccessRole, Action, KeyEdit, KeySeed, Rule, When};
use serde_json::{Value, json};
use stage::{API_KEY, PROVIDER, Stage, TENANT, condition, merge, observed, provider_condition};

/// "At once" on a slow machine: far less than any wait after a refusal.
const AT_ONCE: Duration = Duration::from_secs(20);

async fn provider_is(stage: &Stage, name: &str, status: &str, reason: &str) {
    let what = format!("is {status}/{reason}");
    stage.provider_where(name, &what, |object| provider_condition(object, "Ready") == Some((status, reason))).await;
}

fn refusal(status: u16, body: &str) -> Action {
    Action::Answer {
        when: When::BeforeCommit,
        status,
        headers: [("Content-Type".to_owned(), "application/json".to_owned())].into(),
        body: body.to_owned(),
    }
}

/// What IBM hands out works as it is: the raw key, the downloaded file, and a service binding in every form.
#[tokio::test]
async fn every_form_of_a_credential_works() {
    let stage = Stage::new("forms").await;
    let _operator = stage.operator().await;
    let file = json!({ "name": "operator", "description": "", "createdAt": "2026-01-01T00:00+0000", "apikey": API_KEY }).to_string();
    let management = format!("{}/management/v4/{TENANT}", stage.app_id_url());
    let binding = json!({ "apikey": API_KEY, "managementUrl": management, "tenantId": TENANT, "version": 4 });
    let by_key = |secret: &str, key: Option<&str>| {
        let mut document = stage.provider_document(secret);
        document["spec"]["appId"]["iam"]["apiKey"]["secretRef"] = match key {
            Some(key) => json!({ "name": secret, "key": key }),
            None => json!({ "name": secret }),
        };
        document
    };
    let by_binding = |secret: &str, key: Option<&str>| {
        let mut document = stage.provider_document(secret);
        let mut reference = json!({ "name": secret });
        if let Some(key) = key {
            merge(&mut reference, json!({ "key": key }));
        }
        document["spec"]["appId"] = json!({ "binding": { "secretRef": reference }, "iam": { "url": stage.simulator.urls().iam } });
        document
    };
    type Form = (&'static str, Vec<(&'static str, String)>, Value);
    let forms: Vec<Form> = vec![
        ("raw", vec![("apikey", API_KEY.to_owned())], by_key("raw", None)),
        ("newline", vec![("apikey", format!("  {API_KEY}\n"))], by_key("newline", None)),
        ("file", vec![("apikey", file.clone())], by_key("file", None)),
        ("file-by-name", vec![("key.json", format!("{file}\n"))], by_key("file-by-name", Some("key.json"))),
        ("binding-object", vec![("binding", binding.to_string())], by_binding("binding-object", None)),
        ("binding-wrapped", vec![("binding", json!({ "credentials": binding }).to_string())], by_binding("binding-wrapped", None)),
        ("binding-list", vec![("key", json!([{ "credentials": binding }]).to_string())], by_binding("binding-list", Some("key"))),
        (
            "binding-flat",
            vec![("apikey", API_KEY.to_owned()), ("managementUrl", management.clone()), ("tenantId", format!("{TENANT}\n"))],
            by_binding("binding-flat", None),
        ),
    ];
    for (name, values, document) in &forms {
        let values: Vec<(&str, &str)> = values.iter().map(|(key, value)| (*key, value.as_str())).collect();
        stage.secret(name, &values).await;
        stage.apply(document).await.expect("the provider is accepted");
    }
    join_all(forms.iter().map(|(name, _, _)| provider_is(&stage, name, "True", "Ready"))).await;
    assert_eq!(stage.calls("iam.token").await, 1, "one key, one token, whoever uses it and however it is written");
    stage.application("storefront", json!({ "providerRef": { "name": "binding-list" } })).await;
    stage.ready("storefront").await;
}

/// Promises 2 and 10: a key that goes bad is noticed at once, costs no Secret, and a good one is taken up at once.
/// Traps: T28, T58.
#[tokio::test]
async fn a_replaced_key_is_noticed_at_once_for_worse_and_for_better() {
    let stage = Stage::new("replaced").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.application("storefront", json!({})).await;
    let before = stage.ready("storefront").await;
    let secret = stage.secrets().get("storefront").await.expect("it is published");
    provider_is(&stage, PROVIDER, "True", "Ready").await;

    let since = Instant::now();
    stage.secret("ibm-api-key", &[("apikey", "cafec0de-a-key-nobody-knows")]).await;
    provider_is(&stage, PROVIDER, "False", "Unauthorized").await;
    // What needs nothing of the service is left in peace; what does says why it cannot go on.
    stage.patch_application("storefront", json!({ "displayName": "two" })).await.expect("accepted");
    stage.reason("storefront", "Unauthorized").await;
    assert!(since.elapsed() < AT_ONCE, "the bad key was noticed after {:?}", since.elapsed());

    // Refused for good, not only because the key is new: the next attempt of itself is half an hour away.
    let refused = stage.control.inject(&Rule::every("app_id.applications.get", refusal(401, "{}"))).await.expect("accepted");
    stage.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
    provider_is(&stage, PROVIDER, "True", "Ready").await;
    stage.control.wait_for_fault(refused.id).await.expect("the application was tried");
    let far = |object: &cloud_identity_operator::api::AppIdApplication| {
        let next = object.status.as_ref().and_then(|status| status.next_action_at.as_ref());
        next.is_some_and(|at| at.0 > jiff::Timestamp::now() + Duration::from_secs(1200))
    };
    stage.application_where("storefront", "waits for half an hour", far).await;
    stage.control.remove_fault(refused.id).await.expect("it goes");

    let another = KeySeed {
        value: "cafec0de-another-good-key".into(),
        access: [(TENANT.to_owned(), AccessRole::Writer)].into(),
        ..KeySeed::default()
    };
    stage.control.add_key(&another).await.expect("the key is made");
    let since = Instant::now();
    stage.secret("ibm-api-key", &[("apikey", "cafec0de-another-good-key")]).await;
    let after = stage.ready("storefront").await;
    assert!(since.elapsed() < AT_ONCE, "the good key was taken up after {:?}", since.elapsed());
    provider_is(&stage, PROVIDER, "True", "Ready").await;
    assert_eq!(before.status.and_then(|status| status.client_id), after.status.and_then(|status| status.client_id));
    assert_eq!(stage.secrets().get("storefront").await.expect("it is there"), secret, "the Secret was not touched");
    let counts = stage.control.calls().await.expect("the simulator answers");
    assert_eq!((counts.of("app_id.applications.create").committed, counts.of("app_id.applications.delete").received), (1, 0));
}

/// Promise 10: what is missing or unreadable is said on provider and application, and both work as soon as it is there.
/// Traps: T30.
#[tokio::test]
async fn a_credential_that_comes_late_is_waited_for() {
    let stage = Stage::new("late").await;
    let _operator = stage.operator().await;
    let mut document = stage.provider_document(PROVIDER);
    document["spec"]["appId"]["iam"]["apiKey"]["secretRef"]["name"] = json!("late-key");
    stage.apply(&document).await.expect("the provider is accepted");
    stage.application("storefront", json!({})).await;
    provider_is(&stage, PROVIDER, "False", "CredentialsNotFound").await;
    stage.reason("storefront", "CredentialsNotFound").await;
    stage.secret("late-key", &[("another", "cafec0de-value")]).await;
    stage
        .provider_where(PROVIDER, "says which key is missing", |object| {
            let conditions = object.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|is| is.type_ == "Ready" && is.reason == "CredentialsNotFound" && is.message.contains("apikey"))
        })
        .await;
    stage.secret("late-key", &[("apikey", "{\"no\": \"key\"}")]).await;
    provider_is(&stage, PROVIDER, "False", "CredentialsInvalid").await;
    stage.reason("storefront", "CredentialsInvalid").await;
    assert_eq!(stage.control.calls().await.expect("the simulator answers").total.received, 0, "nobody was asked");
    let since = Instant::now();
    stage.secret("late-key", &[("apikey", API_KEY)]).await;
    provider_is(&stage, PROVIDER, "True", "Ready").await;
    stage.ready("storefront").await;
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
}

/// Promise 10: a key that may only read is told apart from a broken one, and nothing is registered with it.
/// Traps: T04, T30.
#[tokio::test]
async fn a_key_that_may_only_read_says_which_role_it_lacks() {
    let stage = Stage::new("reader").await;
    let _operator = stage.operator().await;
    let reads = [(TENANT.to_owned(), AccessRole::Reader)].into();
    let key = KeySeed { id: "reader".into(), value: "cafec0de-reader".into(), access: reads, ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("the key is made");
    stage.secret("ibm-api-key", &[("apikey", "cafec0de-reader")]).await;
    stage.provider().await;
    let provider = stage
        .provider_where(PROVIDER, "may not register", |object| {
            provider_condition(object, "CanRegister") == Some(("False", "WriterRoleRequired"))
        })
        .await;
    assert_eq!(provider_condition(&provider, "Ready"), Some(("True", "Ready")), "it can be read");
    let next = provider.status.and_then(|status| status.next_action_at).expect("it is looked at again");
    assert!(next.0 > jiff::Timestamp::now());
    stage.application("storefront", json!({})).await;
    let refused = stage.reason("storefront", "WriterRoleRequired").await;
    assert!(refused.status.and_then(|status| status.next_action_at).is_some_and(|at| at.0 > jiff::Timestamp::now()));
    assert!(stage.secret_values("storefront").await.is_none(), "there is nothing to publish");
    assert!(stage.registered().await.is_empty());
    let writes = [(TENANT.to_owned(), AccessRole::Writer)].into();
    stage.control.edit_key("reader", &KeyEdit { access: Some(writes), ..KeyEdit::default() }).await.expect("the right is given");
    stage.patch_application("storefront", json!({ "displayName": "try again" })).await.expect("accepted");
    stage.ready("storefront").await;
    assert_eq!(stage.registered().await.len(), 1);
}

/// A token that is revoked before its time is replaced once, and a key that is refused for good is not hammered.
/// Traps: T23, T28.
#[tokio::test]
async fn a_revoked_token_is_replaced_once_and_no_more() {
    let stage = Stage::new("revoked").await;
    let _operator = stage.operator().await;
    stage.provider().await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    provider_is(&stage, PROVIDER, "True", "Ready").await;
    stage.control.clear_journal().await.expect("cleared");
    stage.control.inject(&Rule::next("app_id.applications.get", refusal(401, "{}"))).await.expect("accepted");
    stage.patch_application("storefront", json!({ "displayName": "two" })).await.expect("accepted");
    stage.ready("storefront").await;
    assert_eq!((stage.calls("iam.token").await, stage.calls("app_id.applications.get").await), (1, 2), "one new token, one repetition");

    stage.control.clear_journal().await.expect("cleared");
    stage.control.inject(&Rule::every("app_id", refusal(401, "{}"))).await.expect("accepted");
    stage.patch_application("storefront", json!({ "displayName": "three" })).await.expect("accepted");
    stage.reason("storefront", "Unauthorized").await;
    // A window: nothing further may happen in it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.calls("app_id.applications.get").await, 2, "one repetition, then peace");
    // The provider, in doubt, is probed in the same way: a token, a list, another token, the list again.
    let (tokens, calls) = (stage.calls("iam.token").await, stage.calls("app_id").await);
    assert!(tokens <= 2 && calls <= 4, "{tokens} tokens, {calls} calls");
}

/// A key that IAM does not know yet, because it is new, is a matter of seconds and not of half an hour.
/// Traps: T58.
#[tokio::test]
async fn a_key_that_is_not_active_yet_works_without_anybody_doing_anything() {
    let stage = Stage::new("not-yet").await;
    let _operator = stage.operator().await;
    let access = [(TENANT.to_owned(), AccessRole::Writer)].into();
    let key = KeySeed { value: "cafec0de-young".into(), access, visible_after_milliseconds: 6000, ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("the key is made");
    stage.secret("ibm-api-key", &[("apikey", "cafec0de-young")]).await;
    stage.provider().await;
    stage.application("storefront", json!({})).await;
    let waiting = stage.reason("storefront", "Unauthorized").await;
    let next = waiting.status.and_then(|status| status.next_action_at).expect("it is tried again");
    assert!(next.0 < jiff::Timestamp::now() + Duration::from_secs(60), "soon: {next:?}");
    let ready = stage.ready("storefront").await;
    assert!(observed(&ready) && condition(&ready, "Verified") == Some(("True", "Verified")));
    provider_is(&stage, PROVIDER, "True", "Ready").await;
}
