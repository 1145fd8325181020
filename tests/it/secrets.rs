//! The published Secret: whose it is, what is in it, and that it never goes away because of us.

mod conflicts;
mod layouts;

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use stage::{Stage, condition, eventually, message, observed};

use crate::fixtures::tried;

/// Long enough to see that something does not happen: a pass takes a few milliseconds.
const WINDOW: Duration = Duration::from_secs(2);

async fn with_operator(prefix: &str) -> (Stage, stage::Operator) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let operator = stage.operator().await;
    stage.provider_ready().await;
    (stage, operator)
}

/// Promise 2: whatever is done to the Secret is put right, with the same client, and the Secret is never deleted for it.
///
/// Traps: T01, T06.
#[tokio::test]
async fn an_edited_secret_is_repaired_in_place_and_foreign_keys_in_it_stay() {
    let (stage, _operator) = with_operator("repair").await;
    stage
        .application("storefront", json!({ "secret": { "labels": { "team": "shop" }, "annotations": { "example.com/note": "hello" } } }))
        .await;
    let uid = stage.ready("storefront").await.uid();
    stage
        .patch_secret(
            "storefront",
            json!({ "stringData": { "added-by-a-person": "cafec0de-stays" }, "metadata": { "labels": { "theirs": "stays" } } }),
        )
        .await;
    let right = stage.stored_secret("storefront").await;
    let watch = stage.watch_secret("storefront").await;
    for (change, reason) in [
        (json!({ "stringData": { "secret": "cafec0de-edited" } }), "a value was edited"),
        (json!({ "data": { "clientId": null } }), "a key was removed"),
        (json!({ "metadata": { "ownerReferences": null } }), "the owner reference was removed"),
        (json!({ "metadata": { "labels": { "cloudidentity.dev/kind": null, "team": "other" } } }), "labels were removed and edited"),
    ] {
        stage.patch_secret("storefront", change).await;
        eventually(&format!("the Secret is right again after {reason}"), async || {
            let now = stage.stored_secret("storefront").await;
            now.data == right.data
                && now.labels() == right.labels()
                && now.annotations() == right.annotations()
                && now.owner_references() == right.owner_references()
        })
        .await;
    }
    assert_eq!(stage.stored_secret("storefront").await.uid(), right.uid());
    assert_eq!(stage.secret_values("storefront").await.expect("there")["added-by-a-person"], "cafec0de-stays");
    assert_eq!(watch.count("DELETED"), 0);
    assert_eq!(stage.applications().get("storefront").await.expect("there").uid(), uid);
    assert_eq!((stage.calls("app_id.applications.create").await, stage.calls("app_id.applications.delete").await), (1, 0));
    assert_eq!(stage.event("storefront", "SecretRepaired").await, "put the Secret storefront back");
}

/// Promise 2: a Secret that somebody deleted comes back with the same credential.
///
/// Traps: T01.
#[tokio::test]
async fn a_deleted_secret_comes_back_with_the_same_client_and_nothing_is_registered_or_deleted() {
    let (stage, operator) = with_operator("restore").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let right = stage.secret_values("storefront").await;
    let changes = stage.remote_changes().await;
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user deletes it");
    eventually("the Secret is back", async || stage.secret_values("storefront").await == right).await;
    stage.ready("storefront").await;
    // And the same while nobody watches.
    drop(operator.kill().await);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user deletes it");
    let _operator = stage.operator().await;
    eventually("the Secret is back after a restart", async || stage.secret_values("storefront").await == right).await;
    assert_eq!(stage.remote_changes().await, changes, "nothing was changed at the service");
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 10: who suspends an object whose Secret then goes is told so, and gets it back.
#[tokio::test]
async fn a_suspended_object_without_its_secret_is_not_ready() {
    let (stage, _operator) = with_operator("suspended").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let right = stage.secret_values("storefront").await;
    stage.application("storefront", json!({ "suspend": true })).await;
    let suspended = stage.reason("storefront", "Suspended").await;
    assert_eq!(condition(&suspended, "Ready"), Some(("True", "Suspended")));
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("somebody deletes it");
    let without = stage.reason("storefront", "SecretMissing").await;
    assert_eq!(condition(&without, "Ready"), Some(("False", "SecretMissing")));
    assert_eq!(condition(&without, "SecretPublished"), Some(("False", "SecretMissing")));
    tokio::time::sleep(WINDOW).await;
    assert!(stage.secret_values("storefront").await.is_none(), "suspended means: no write of the Secret");
    stage.application("storefront", json!({ "suspend": false })).await;
    stage.ready("storefront").await;
    assert_eq!(stage.secret_values("storefront").await, right);
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promises 1 and 2: while the API server takes no Secret, the one registration is kept, also by a process that started meanwhile.
///
/// Traps: T05, T07.
#[tokio::test]
async fn a_secret_that_cannot_be_written_costs_neither_a_second_registration_nor_the_credential() {
    let (stage, operator) = with_operator("quota").await;
    let quotas: Api<ResourceQuota> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let quota = json!({ "metadata": { "name": "full" }, "spec": { "hard": { "secrets": "1" } } });
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).expect("valid")).await.expect("accepted");
    // No quota controller runs here: what it would find is said by hand.
    let full = json!({ "status": { "hard": { "secrets": "1" }, "used": { "secrets": "1" } } });
    quotas.patch_status("full", &PatchParams::default(), &Patch::Merge(&full)).await.expect("accepted");
    stage.application("storefront", json!({})).await;
    let refused = stage.reason("storefront", "SecretRejected").await;
    assert!(message(&refused).contains("exceeded quota"), "{}", message(&refused));
    assert_eq!(condition(&refused, "SecretPublished").map(|(status, _)| status), Some("False"));
    let id = refused.status.and_then(|status| status.client_id).expect("the registration is recorded");
    tried(&stage, "storefront", 2).await;
    drop(operator.kill().await);
    let _operator = stage.operator().await;
    tried(&stage, "storefront", 3).await;
    assert_eq!(stage.secret_values("storefront").await, None, "no partial Secret");
    quotas.delete("full", &DeleteParams::default()).await.expect("freed");
    let ready = stage.ready("storefront").await;
    assert_eq!(condition(&ready, "Verified"), Some(("True", "Verified")));
    assert_eq!(stage.secret_values("storefront").await.expect("published")["clientId"], id);
    assert_eq!((stage.registered().await.len(), stage.calls("app_id.applications.create").await), (1, 1));
}

/// Promise 4: labels and annotations follow the spec; what a person added stays.
#[tokio::test]
async fn labels_and_annotations_follow_the_spec() {
    let (stage, _operator) = with_operator("labels").await;
    stage.application("storefront", json!({ "secret": { "labels": { "a": "1", "b": "2" }, "annotations": { "c": "3" } } })).await;
    stage.ready("storefront").await;
    stage.patch_secret("storefront", json!({ "metadata": { "labels": { "person": "p" }, "annotations": { "person": "p" } } })).await;
    stage.application("storefront", json!({ "secret": { "labels": { "b": "4" } } })).await;
    stage.ready("storefront").await;
    let secret = stage.stored_secret("storefront").await;
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    assert_eq!(
        (label("a"), label("b"), label("person"), label("cloudidentity.dev/kind")),
        (None, Some("4"), Some("p"), Some("AppIdApplication"))
    );
    assert!(!secret.annotations().contains_key("c") && secret.annotations().contains_key("person"));
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
}

/// Promises 2 and 4: whatever else is changed, the secret stays, at the service and in the Secret; the operator owns nothing but its own fields.
///
/// Traps: T12, T42.
#[tokio::test]
async fn changing_any_other_field_changes_neither_the_credential_nor_the_generation() {
    let (stage, _operator) = with_operator("fields").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let before = (stage.registered().await[0].secret.clone(), stage.secret_values("storefront").await.expect("there")["secret"].clone());
    let specs = [
        json!({ "displayName": "Storefront" }),
        json!({ "displayName": "Storefront", "scopes": ["orders.read"] }),
        json!({ "displayName": "Storefront", "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] }),
        json!({ "deletionPolicy": "Retain" }),
        json!({}),
    ];
    let mut generation = 1;
    for spec in specs {
        stage.application("storefront", spec).await;
        let object = stage.ready("storefront").await;
        generation += 1;
        assert_eq!(object.metadata.generation, Some(generation), "only the user changes the generation");
        assert!(observed(&object));
    }
    let values = stage.secret_values("storefront").await.expect("there");
    assert_eq!((stage.registered().await[0].secret.clone(), values["secret"].clone()), before);
    assert_eq!(stage.registered().await[0].name, "storefront");
    let object = stage.applications().get("storefront").await.expect("there");
    let ours: Vec<_> = object.managed_fields().iter().filter(|entry| entry.manager.as_deref() == Some("cloud-identity-operator")).collect();
    assert_eq!(ours.len(), 2, "{ours:?}");
    for entry in ours {
        let fields = &entry.fields_v1.as_ref().expect("fields").0;
        let expected = match entry.subresource.as_deref() {
            Some("status") => vec!["f:status"],
            _ => vec!["f:metadata"],
        };
        assert_eq!(fields.as_object().expect("a map").keys().collect::<Vec<_>>(), expected);
        if entry.subresource.is_none() {
            let metadata = &fields["f:metadata"];
            assert_eq!(metadata.as_object().expect("a map").keys().collect::<Vec<_>>(), ["f:annotations", "f:finalizers"]);
            assert_eq!(metadata["f:annotations"], json!({ "f:cloudidentity.dev/tenant": {} }));
        }
    }
}
