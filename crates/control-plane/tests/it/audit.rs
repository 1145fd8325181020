//! The audit log as a means to count.

use std::time::Duration;

use control_plane::{AuditEvents, ControlPlane};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::cluster::{client_of, create_service_account};

fn secret(name: &str) -> Secret {
    serde_json::from_value(json!({ "metadata": { "name": name }, "stringData": { "key": "value" } })).unwrap()
}

async fn work(client: Client) {
    let secrets: Api<Secret> = Api::default_namespaced(client);
    for number in 0..7 {
        secrets.create(&PostParams::default(), &secret(&format!("number-{number}"))).await.unwrap();
    }
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    secrets.patch("number-0", &PatchParams::default(), &label).await.unwrap();
    secrets.list(&ListParams::default()).await.unwrap();
    for number in 0..5 {
        secrets.get(&format!("number-{number}")).await.unwrap();
    }
    secrets.get("absent").await.unwrap_err();
    let mut watch = secrets.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    watch.next().await.unwrap().unwrap();
    for number in 0..3 {
        secrets.delete(&format!("number-{number}"), &DeleteParams::default()).await.unwrap();
    }
}

fn with_verb(events: &AuditEvents, verb: &str) -> usize {
    events.only(|event| event.verb == verb).len()
}

#[tokio::test]
async fn every_request_of_a_service_account_is_counted_once_as_soon_as_it_has_returned() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let namespace = control_plane.create_namespace("audit").await.unwrap();
    create_service_account(control_plane, &namespace, "worker", Some("edit")).await;
    let client = client_of(control_plane, &namespace, "worker").await;
    let audit = control_plane.audit();

    let mark = audit.mark().unwrap();
    work(client).await;
    let events = audit.since(mark).unwrap().by_service_account(&namespace, "worker");

    assert_eq!(with_verb(&events, "create"), 7, "{events}");
    assert_eq!(with_verb(&events, "patch"), 1, "{events}");
    assert_eq!(with_verb(&events, "delete"), 3, "{events}");
    assert_eq!(events.writes().len(), 11, "{events}");
    assert_eq!(with_verb(&events, "list"), 1, "{events}");
    assert_eq!(with_verb(&events, "get"), 6, "{events}");
    assert_eq!(with_verb(&events, "watch"), 1, "{events}");
    assert_eq!(events.reads().len(), 8, "{events}");
    assert_eq!(events.only(|event| event.response_code == 404).len(), 1, "{events}");
    assert_eq!(events.in_namespace(&namespace).of_resource("secrets").len(), events.len(), "{events}");
    let after = audit.mark().unwrap();
    assert!(audit.since(after).unwrap().by_service_account(&namespace, "worker").is_empty());
}

#[tokio::test]
async fn a_refused_watch_is_counted_once() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let namespace = control_plane.create_namespace("audit").await.unwrap();
    create_service_account(control_plane, &namespace, "stranger", None).await;
    let secrets: Api<Secret> = Api::default_namespaced(client_of(control_plane, &namespace, "stranger").await);
    let mark = control_plane.audit().mark().unwrap();
    assert!(secrets.watch(&WatchParams::default(), "0").await.is_err());
    let events = control_plane.audit().since(mark).unwrap().by_service_account(&namespace, "stranger");
    assert_eq!(events.len(), 1, "{events}");
    assert_eq!(events[0].response_code, 403);
}

#[tokio::test]
async fn requests_made_at_the_same_time_are_all_counted() {
    let control_plane = ControlPlane::shared().await.unwrap();
    let namespace = control_plane.create_namespace("audit").await.unwrap();
    create_service_account(control_plane, &namespace, "crowd", Some("edit")).await;
    let client = client_of(control_plane, &namespace, "crowd").await;
    let mark = control_plane.audit().mark().unwrap();
    let creations = (0..200).map(|number| {
        let secrets: Api<Secret> = Api::default_namespaced(client.clone());
        async move { secrets.create(&PostParams::default(), &secret(&format!("number-{number}"))).await }
    });
    let created = futures::stream::iter(creations).buffer_unordered(32).filter(|result| {
        let succeeded = result.is_ok();
        async move { succeeded }
    });
    assert_eq!(created.count().await, 200);
    let events = control_plane.audit().since(mark).unwrap().by_service_account(&namespace, "crowd");
    assert_eq!(events.writes().len(), 200);
    // A large answer is cut in parts, the first of which are sent while it is being written.
    let mark = control_plane.audit().mark().unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(client);
    assert_eq!(secrets.list(&ListParams::default()).await.unwrap().items.len(), 200);
    let events = control_plane.audit().since(mark).unwrap().by_service_account(&namespace, "crowd");
    assert_eq!(events.reads().len(), 1, "{events}");
}

#[tokio::test]
async fn what_a_client_sent_is_recorded_when_asked_for() {
    let builder = ControlPlane::builder().without_controller_manager().audit_request_bodies();
    let control_plane = builder.start().await.unwrap();
    let namespace = control_plane.create_namespace("bodies").await.unwrap();
    let events = control_plane.audit().all().unwrap().of_resource("namespaces").writes();
    let event = events.iter().find(|event| event.name == namespace).unwrap();
    let body = event.request_object.as_ref().unwrap();
    assert_eq!(body["metadata"]["name"], json!(namespace));
    // Without kube-controller-manager there is nobody to wait for.
    let lifetime = Duration::from_secs(600);
    let error = control_plane.kubeconfig_for_service_account(&namespace, "default", lifetime).await.unwrap_err();
    assert!(format!("{error:?}").contains("not found"), "{error:?}");
}
