//! Every status from 300 to 599, for each call whose answer could be taken for absence.

use cloud_identity_operator::api::AppIdApplication;
use identity_simulator::{Action, Rule, When};
use serde_json::json;
use stage::{Operator, OperatorOptions, Stage, condition, observed};

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
