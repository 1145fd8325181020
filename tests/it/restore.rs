//! What a backup brings back is recognised by proof, and never by what anybody can write down.

use std::time::Duration;

use cloud_identity_operator::api::AppIdApplication;
use identity_simulator::{ApplicationKind, ApplicationSeed};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use stage::{Stage, TENANT, condition, eventually, message, observed};

/// Long enough to see that something does not happen: a pass takes a few milliseconds.
const WINDOW: Duration = Duration::from_secs(2);

fn client_id(object: &AppIdApplication) -> String {
    object.status.as_ref().and_then(|status| status.client_id.clone()).expect("a client id")
}

/// What a backup program keeps of a Secret: everything but what belongs to the old cluster, and no owner.
fn backup(secret: &Secret) -> Secret {
    let mut copy = secret.clone();
    let meta = &mut copy.metadata;
    (meta.uid, meta.resource_version, meta.owner_references, meta.managed_fields, meta.creation_timestamp) = (None, None, None, None, None);
    copy
}

/// The object is lost with its status and finalizer; the Secret comes back from a backup, then the object, with a new UID.
async fn lose(stage: &Stage, name: &str) -> Secret {
    let secret = stage.stored_secret(name).await;
    stage.patch(name, json!({ "metadata": { "finalizers": null } })).await;
    stage.delete(name).await;
    eventually("the Secret is collected", async || stage.secret_values(name).await.is_none()).await;
    backup(&secret)
}

async fn restore(stage: &Stage, secret: &Secret) {
    stage.secrets().create(&PostParams::default(), secret).await.expect("the backup is restored");
}

/// A stage whose object was lost while no operator ran; returns the client id and the Secret's backup.
async fn lost(prefix: &str, spec: Value) -> (Stage, String, Secret) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let operator = stage.operator().await;
    stage.application("storefront", spec).await;
    let id = client_id(&stage.ready("storefront").await);
    drop(operator.kill().await);
    let secret = lose(&stage, "storefront").await;
    (stage, id, secret)
}

/// Promises 1 and 2: a backup restored with new UIDs and without owner references leads to no new registration.
#[tokio::test]
async fn a_restored_object_and_secret_find_their_registration_again() {
    let (stage, id, secret) = lost("restored", json!({ "secret": { "layout": "OAuth" } })).await;
    restore(&stage, &secret).await;
    stage.application("storefront", json!({ "secret": { "layout": "OAuth" } })).await;
    let before = stage.secret_values("storefront").await;
    let _operator = stage.operator().await;
    let ready = stage.ready("storefront").await;
    assert_eq!(client_id(&ready), id);
    assert_eq!(stage.secret_values("storefront").await, before);
    assert!(stage.event("storefront", "Readopted").await.contains(&id));
    let owned = stage.stored_secret("storefront").await;
    assert_eq!(owned.owner_references()[0].uid, ready.uid().unwrap_or_default());
    assert_eq!((stage.registered().await.len(), stage.calls("app_id.applications.create").await), (1, 1));
    stage.delete("storefront").await;
    assert_eq!(stage.registered().await, [], "it is ours: deletion removes it");
}

/// Promise 4: annotations can be forged and client ids are public: a Secret that names somebody's client shows and changes nothing of theirs.
///
/// Traps: T14.
#[tokio::test]
async fn a_forged_secret_neither_shows_nor_takes_somebody_elses_application() {
    let stage = Stage::new("forged").await;
    stage.provider().await;
    let _operator = stage.operator().await;
    stage.application("victim", json!({})).await;
    let victim = client_id(&stage.ready("victim").await);
    let theirs = stage
        .control
        .add_application(TENANT, &ApplicationSeed { name: "by hand".into(), ..ApplicationSeed::default() })
        .await
        .expect("added");
    let before = stage.registered().await;
    let cluster = stage.stored_secret("victim").await.annotations()["cloudidentity.dev/cluster"].clone();
    for (name, id) in [("held", victim.as_str()), ("foreign", theirs.client_id.as_str())] {
        let forged = json!({ "metadata": { "name": name, "annotations": {
            "cloudidentity.dev/client-id": id, "cloudidentity.dev/cluster": cluster, "cloudidentity.dev/tenant": TENANT,
            "cloudidentity.dev/object": format!("AppIdApplication/{}/{name}", stage.namespace),
            "cloudidentity.dev/object-uid": "00000000-0000-4000-8000-000000000000" } },
            "stringData": { "clientId": id, "secret": "cafec0de-guessed" } });
        restore(&stage, &serde_json::from_value(forged).expect("valid")).await;
        let secret = stage.stored_secret(name).await;
        stage.application(name, json!({ "displayName": "mine now" })).await;
        let refused = stage.reason(name, "Unproven").await;
        assert!(refused.status.as_ref().is_some_and(|status| status.client_id.is_none()), "{name}");
        tokio::time::sleep(WINDOW).await;
        assert_eq!(stage.stored_secret(name).await, secret, "{name}");
        stage.delete(name).await;
        assert_eq!(stage.registered().await, before, "{name}");
    }
    stage.ready("victim").await;
}

/// Promise 4: an annotation forged on the object's own Secret does not lead to somebody else's application either.
///
/// Traps: T14.
#[tokio::test]
async fn a_forged_client_id_on_an_owned_secret_is_put_right() {
    let stage = Stage::new("ownforged").await;
    stage.provider().await;
    let operator = stage.operator().await;
    let theirs = stage
        .control
        .add_application(TENANT, &ApplicationSeed { name: "by hand".into(), ..ApplicationSeed::default() })
        .await
        .expect("added");
    stage.application("storefront", json!({})).await;
    let id = client_id(&stage.ready("storefront").await);
    let right = stage.secret_values("storefront").await;
    let forged = json!({ "metadata": { "annotations": { "cloudidentity.dev/client-id": theirs.client_id } } });
    stage.patch_secret("storefront", forged.clone()).await;
    eventually("the annotation is right again", async || {
        stage.stored_secret("storefront").await.annotations()["cloudidentity.dev/client-id"] == id
    })
    .await;
    // The same with the status gone, so that only the Secret speaks.
    drop(operator.kill().await);
    stage.patch_secret("storefront", forged).await;
    wipe_status(&stage, "storefront").await;
    let _operator = stage.operator().await;
    stage.application_where("storefront", "was looked at", observed).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.secret_values("storefront").await, right, "nothing of theirs is shown");
    assert!(stage.registered().await.contains(&theirs));
}

async fn wipe_status(stage: &Stage, name: &str) {
    let wiped = json!([{ "op": "replace", "path": "/status", "value": {} }]);
    let patch = Patch::<()>::Json(serde_json::from_value(wiped).expect("a patch"));
    stage.applications().patch_status(name, &PatchParams::default(), &patch).await.expect("wiped");
}

/// Promises 1 and 2: a status that somebody wiped is found again from the Secret, with the operator running and without.
#[tokio::test]
async fn a_wiped_status_is_recovered_without_a_new_registration() {
    let stage = Stage::new("wiped").await;
    stage.provider().await;
    let operator = stage.operator().await;
    stage.application("storefront", json!({ "scopes": ["orders.read"] })).await;
    let id = client_id(&stage.ready("storefront").await);
    let values = stage.secret_values("storefront").await;
    wipe_status(&stage, "storefront").await;
    assert_eq!(client_id(&stage.ready("storefront").await), id);
    drop(operator.kill().await);
    wipe_status(&stage, "storefront").await;
    let _operator = stage.operator().await;
    assert_eq!(client_id(&stage.ready("storefront").await), id);
    assert_eq!(stage.secret_values("storefront").await, values);
    assert_eq!((stage.registered().await.len(), stage.calls("app_id.applications.create").await), (1, 1));
}

/// Promise 4: a single-page app has no secret that could prove anything: it is taken over only when asked for.
#[tokio::test]
async fn a_restored_single_page_app_is_unproven_until_adopted() {
    let (stage, id, secret) = lost("spa", json!({ "type": "SinglePageApp" })).await;
    restore(&stage, &secret).await;
    stage.application("storefront", json!({ "type": "SinglePageApp" })).await;
    let _operator = stage.operator().await;
    let refused = stage.reason("storefront", "Unproven").await;
    assert!(message(&refused).contains("adopt"), "{}", message(&refused));
    stage.application("storefront", json!({ "type": "SinglePageApp", "adopt": { "clientId": id } })).await;
    let ready = stage.ready("storefront").await;
    assert_eq!((client_id(&ready), ready.status.and_then(|status| status.adopted)), (id, Some(true)));
    assert_eq!(stage.registered().await.len(), 1);
    assert_eq!(stage.stored_secret("storefront").await.owner_references().len(), 1);
}

/// Promises 5 and 10: a restored Secret whose registration is gone is said so; nothing is registered over it.
#[tokio::test]
async fn a_restored_secret_without_a_registration_says_so_and_deleting_it_registers_anew() {
    let (stage, id, secret) = lost("gone", json!({})).await;
    stage.control.remove_application(TENANT, &id).await.expect("removed");
    restore(&stage, &secret).await;
    stage.application("storefront", json!({})).await;
    let _operator = stage.operator().await;
    let refused = stage.reason("storefront", "RestoredRegistrationGone").await;
    assert!(message(&refused).contains(&id), "{}", message(&refused));
    assert_eq!(stage.calls("app_id.applications.create").await, 1, "only the first one");
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user deletes it");
    assert_ne!(client_id(&stage.ready("storefront").await), id);
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 4: what bears another cluster's mark is left alone unless the object asks for that very application.
///
/// Traps: T08.
#[tokio::test]
async fn another_clusters_secret_is_refused_unless_its_application_is_adopted() {
    let (stage, id, mut secret) = lost("cluster", json!({})).await;
    secret.metadata.annotations.get_or_insert_default().insert("cloudidentity.dev/cluster".into(), "another-cluster".into());
    restore(&stage, &secret).await;
    stage.application("storefront", json!({})).await;
    let before = stage.stored_secret("storefront").await;
    let _operator = stage.operator().await;
    let refused = stage.reason("storefront", "SecretConflict").await;
    assert!(message(&refused).contains("another cluster"), "{}", message(&refused));
    assert_eq!(stage.stored_secret("storefront").await, before);
    stage.application("storefront", json!({ "adopt": { "clientId": id } })).await;
    assert_eq!(client_id(&stage.ready("storefront").await), id);
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 4: a retained Secret is taken up again by an object of the same name.
#[tokio::test]
async fn a_retained_secret_is_taken_up_again_by_an_object_of_that_name() {
    let stage = Stage::new("again").await;
    stage.provider().await;
    let _operator = stage.operator().await;
    stage.application("storefront", json!({ "deletionPolicy": "Retain" })).await;
    let id = client_id(&stage.ready("storefront").await);
    stage.delete("storefront").await;
    stage.application("storefront", json!({})).await;
    let ready = stage.ready("storefront").await;
    assert_eq!(client_id(&ready), id);
    assert_eq!(condition(&ready, "Verified"), Some(("True", "Verified")));
    assert!(!stage.stored_secret("storefront").await.annotations().contains_key("cloudidentity.dev/retained-from"));
    let kinds: Vec<_> = stage.registered().await.into_iter().map(|application| application.kind).collect();
    assert_eq!(kinds, [ApplicationKind::RegularWebApp]);
}
