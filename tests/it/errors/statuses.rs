//! Every status from 300 to 599, for each call whose answer could be taken for absence.

use cloud_identity_operator::api::AppIdApplication;
use identity_simulator::{Action, KeySeed, OAuthClientSeed, OidcServerSeed, Rule, When};
use serde_json::json;
use stage::{Operator, OperatorOptions, Stage, condition, merge, observed, token_condition, token_message};

const CREATE: &str = "app_id.applications.create";
const DELETE: &str = "app_id.applications.delete";
const GET: &str = "app_id.applications.get";
const LIST: &str = "app_id.applications.list";

/// Every status once. Three hundreds take turns: failures of the service in a row would pause the tenant.
fn statuses() -> impl Iterator<Item = u16> {
    (0..100).flat_map(|last| [300 + last, 400 + last, 500 + last])
}

fn answer(status: u16) -> Action {
    let mut headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    if status == 429 {
        headers.push(("Retry-After".to_owned(), "1".to_owned()));
    }
    Action::Answer { when: When::BeforeCommit, status, headers: headers.into_iter().collect(), body: r#"{"message":"not found"}"#.into() }
}

/// One registered application, and an operator that has to look at it again for every change of its spec.
struct Subject {
    stage: Stage,
    _operator: Operator,
    client_id: String,
    fault: Option<u64>,
}

impl Subject {
    async fn new(prefix: &str) -> Self {
        let stage = Stage::new(prefix).await;
        let options = OperatorOptions { deletion_budget: "10h".into(), ..OperatorOptions::default() };
        let operator = stage.operator_with(options).await;
        stage.provider().await;
        stage.provider_ready().await;
        stage.application("storefront", json!({})).await;
        let client_id = stage.ready("storefront").await.status.and_then(|status| status.client_id).expect("it is registered");
        Self { stage, _operator: operator, client_id, fault: None }
    }

    /// From now on every call of `operation` is answered with `status`; the answer before this one goes.
    async fn meets(&mut self, operation: &str, status: u16) {
        let rule = Rule::every(operation, answer(status));
        let rule = if operation == LIST { rule } else { rule.path_contains(&self.client_id) };
        let fault = self.stage.control.inject(&rule).await.expect("accepted");
        self.mend().await;
        self.fault = Some(fault.id);
    }

    async fn mend(&mut self) {
        if let Some(fault) = self.fault.take() {
            self.stage.control.remove_fault(fault).await.expect("it goes");
        }
    }

    /// What a pass comes to that meets `status` at every call of `operation`.
    async fn verdict(&mut self, operation: &str, status: u16) -> AppIdApplication {
        self.meets(operation, status).await;
        let changed = self.change(&format!("name-{status}")).await;
        // The pause after 429 is waited for.
        let object = self
            .stage
            .application_where("storefront", &format!("met {status} at {operation}"), |object| {
                let said = condition(object, "Ready")
                    .is_some_and(|(_, reason)| reason != "InProgress" && (reason != "RateLimited" || status == 429));
                said && observed(object) && object.metadata.generation >= changed.metadata.generation
            })
            .await;
        let fault = self.stage.control.fault(self.fault.expect("it is set")).await.expect("it is known");
        assert!(fault.fired > 0, "{status}: nobody called {operation}");
        object
    }

    async fn change(&self, display_name: &str) -> AppIdApplication {
        self.stage.patch_application("storefront", json!({ "displayName": display_name })).await.expect("accepted")
    }

    /// Nothing was made, nothing deleted, and status still names the registration.
    async fn still_stands(&self, object: &AppIdApplication, what: &str) {
        let status = object.status.clone().unwrap_or_default();
        assert_eq!(status.client_id.as_ref(), Some(&self.client_id), "{what}");
        assert_eq!(status.missing_since, None, "{what}: nobody said that it is gone");
        assert_ne!(condition(object, "Ready").map(|(_, reason)| reason), Some("ConfirmingAbsence"), "{what}");
    }

    async fn counts(&self) -> (u64, u64) {
        let counts = self.stage.control.calls().await.expect("the simulator answers");
        (counts.of(CREATE).received, counts.of(DELETE).committed)
    }
}

/// Promise 5: no status of a look, not even 404 while the list still holds the application, costs a registration or a Secret.
/// Traps: T02, T07.
#[tokio::test]
async fn no_status_of_a_look_is_taken_for_absence() {
    let mut subject = Subject::new("look").await;
    let secret = subject.stage.stored_secret("storefront").await;
    for status in statuses() {
        let object = subject.verdict(GET, status).await;
        subject.still_stands(&object, &format!("look {status}")).await;
        let is_ready = condition(&object, "Ready").is_some_and(|(ready, _)| ready == "True");
        // 404 alone means that the list is asked, and that one holds the application.
        assert_eq!(is_ready, status == 404, "{status}: {:?}", condition(&object, "Ready"));
    }
    subject.mend().await;
    subject.change("after all").await;
    subject.stage.ready("storefront").await;
    assert_eq!(subject.counts().await, (1, 0));
    assert_eq!(subject.stage.stored_secret("storefront").await, secret, "the Secret was not touched");
    assert_eq!(subject.stage.registered().await[0].name, "after all");
}

/// Promise 5: a look that finds nothing proves nothing while the list is not read, whatever it answers.
/// Traps: T02, T03, T07.
#[tokio::test]
async fn no_status_of_the_list_confirms_absence() {
    let mut subject = Subject::new("list").await;
    let secret = subject.stage.stored_secret("storefront").await;
    let hidden = Rule::every(GET, answer(404)).path_contains(&subject.client_id);
    let hidden = subject.stage.control.inject(&hidden).await.expect("accepted");
    for status in statuses() {
        let object = subject.verdict(LIST, status).await;
        subject.still_stands(&object, &format!("list {status}")).await;
        assert_eq!(condition(&object, "Ready").map(|(ready, _)| ready), Some("False"), "{status}");
    }
    subject.stage.control.remove_fault(hidden.id).await.expect("it goes");
    subject.mend().await;
    subject.change("after all").await;
    subject.stage.ready("storefront").await;
    assert_eq!(subject.counts().await, (1, 0));
    assert_eq!(subject.stage.stored_secret("storefront").await, secret, "the Secret was not touched");
}

/// Promises 5 and 7: no status of a deletion lets the object go while the list still holds its application.
/// Traps: T02, T19.
#[tokio::test]
async fn no_status_of_a_deletion_lets_the_object_go() {
    let mut subject = Subject::new("delete").await;
    subject.meets(DELETE, 500).await;
    subject.stage.applications().delete("storefront", &Default::default()).await.expect("accepted");
    for status in statuses() {
        let object = subject.verdict(DELETE, status).await;
        subject.still_stands(&object, &format!("deletion {status}")).await;
        let (ready, reason) = condition(&object, "Ready").expect("there is one");
        assert!(ready == "False" && reason != "Deleting", "{status}: {reason}");
        assert!(object.metadata.finalizers.is_some_and(|finalizers| !finalizers.is_empty()), "{status}: it was let go");
    }
    assert_eq!(subject.counts().await, (1, 0));
    assert_eq!(subject.stage.registered().await.len(), 1);
    subject.mend().await;
    subject.change("at last").await;
    subject.stage.gone("storefront").await;
    assert_eq!(subject.counts().await, (1, 1));
}

/// A token that lives for an hour, of a provider that leads to `service`.
async fn published(stage: &Stage, name: &str, service: serde_json::Value) {
    let mut document = stage.iam_document(name);
    document["spec"].as_object_mut().expect("an object").remove("iam");
    merge(&mut document["spec"], service);
    stage.apply(&document).await.expect("the provider is accepted");
    stage.ready_provider(name).await;
    let own = json!({ "secretRef": { "name": format!("own-{name}") } });
    stage.token(name, json!({ "providerRef": { "name": name }, "credentials": own })).await;
    stage.token_ready(name).await;
}

/// Meets every status in a call for another token, and looks at the published one each time.
async fn meets_every_status(stage: &Stage, name: &str, operation: &str, body_contains: Option<&str>) {
    let secret = stage.stored_secret(name).await;
    for status in statuses() {
        let rule = Rule::every(operation, answer(status));
        let rule = body_contains.map_or(rule.clone(), |text| rule.body_contains(text));
        let fault = stage.control.inject(&rule).await.expect("accepted");
        stage.ask_for_token(name, &format!("status-{status}")).await;
        let met = format!("met {status} at {operation}");
        let token = stage.token_where(name, &met, |token| {
            let tried_for = token.status.as_ref().and_then(|status| status.tried_for.as_ref()?.request.clone());
            let failed = token_condition(token, "Fresh")
                .is_some_and(|(fresh, reason)| fresh == "False" && (reason != "RateLimited" || status == 429));
            failed && tried_for == Some(format!("status-{status}"))
        });
        let token = token.await;
        assert!(stage.control.fault(fault.id).await.expect("it is known").fired > 0, "{status}: nobody called {operation}");
        assert_eq!(token_condition(&token, "Ready"), Some(("True", "Ready")), "{met}: the token lives");
        let said = token_message(&token, "Fresh").expect("a message");
        assert!(said.contains("valid until"), "{met}: {said}");
        let next = token.status.and_then(|status| status.next_action_at).expect("it is tried again");
        assert!(next.0 > jiff::Timestamp::now() - std::time::Duration::from_secs(5), "{met}: {next:?}");
        stage.control.remove_fault(fault.id).await.expect("it goes");
    }
    assert_eq!(stage.stored_secret(name).await, secret, "the Secret was not touched");
    stage.ask_for_token(name, "after all").await;
    stage
        .token_where(name, "is fresh after all", |token| {
            let asked = token.status.as_ref().and_then(|status| status.issued_for.as_ref()?.request.as_deref());
            asked == Some("after all") && token_condition(token, "Fresh").is_some_and(|(status, _)| status == "True")
        })
        .await;
    assert_ne!(stage.stored_secret(name).await.data, secret.data, "it was replaced by the first good answer");
}

/// Promises 2 and 3: whatever status the call for another token meets, the published one stays bit for bit and Ready, and the object says
/// until when it lives.
///
/// Traps: T02, T07, T30.
#[tokio::test]
async fn no_status_of_a_call_for_a_token_takes_the_published_one_away() {
    let stage = Stage::new("token-statuses").await;
    let key = KeySeed { id: "own".into(), value: "cafec0de-own-key".into(), ..KeySeed::default() };
    stage.control.add_key(&key).await.expect("added");
    stage.secret("own-iam", &[("apikey", "cafec0de-own-key")]).await;
    let client = OAuthClientSeed { client_id: "orders".into(), secret: Some("cafec0de-orders".into()), ..OAuthClientSeed::default() };
    let server = OidcServerSeed { id: "main".into(), clients: vec![client], ..OidcServerSeed::default() };
    stage.control.add_oidc_server(&server).await.expect("added");
    stage.secret("own-oidc", &[("client_id", "orders"), ("client_secret", "cafec0de-orders")]).await;
    let _operator = stage.operator().await;
    let urls = stage.simulator.urls();
    published(&stage, "iam", json!({ "iam": { "url": urls.iam, "apiKey": { "secretRef": { "name": "ibm-api-key" } } } })).await;
    published(&stage, "oidc", json!({ "oidc": { "issuer": format!("{}/tenants/main", urls.oidc) } })).await;
    tokio::join!(
        meets_every_status(&stage, "iam", "iam.token", Some("cafec0de-own-key")),
        meets_every_status(&stage, "oidc", "oidc.token", None)
    );
}
