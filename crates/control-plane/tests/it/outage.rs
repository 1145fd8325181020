//! An API server that dies, freezes and returns.

use std::time::Duration;

use control_plane::ControlPlane;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;

#[tokio::test]
async fn a_killed_api_server_returns_with_its_data_and_its_record_on_the_same_port() {
    let control_plane = ControlPlane::builder().without_controller_manager().start().await.unwrap();
    let namespace = control_plane.create_namespace("kept").await.unwrap();
    let client = control_plane.admin_client();
    let namespaces: Api<Namespace> = Api::all(client);
    let before = control_plane.audit().all().unwrap();

    control_plane.kill_api_server().unwrap();
    assert!(namespaces.get(&namespace).await.is_err());
    control_plane.restart_api_server().await.unwrap();
    assert!(namespaces.get_opt(&namespace).await.unwrap().is_some());
    let after = control_plane.audit().all().unwrap();
    assert_eq!(before[..], after[..before.len()]);

    control_plane.pause_api_server().unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(500), namespaces.get(&namespace)).await;
    assert!(answer.is_err(), "a frozen server answers nothing");
    control_plane.resume_api_server().unwrap();
    assert!(namespaces.get_opt(&namespace).await.unwrap().is_some());
}
