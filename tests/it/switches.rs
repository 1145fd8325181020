//! What the services' documents leave open: the main story passes whatever the answer is.

use futures::{StreamExt, stream};
use identity_simulator::Switches;
use serde_json::json;
use stage::{PATIENCE, PROVIDER, Stage, TENANT, condition, observed};

/// The tenant's role that the story assigns.
const ROLE: &str = "shopper";

/// Create with scopes, role and redirect URI, rename, use, restart in peace, delete.
async fn story(position: &'static str, switches: Switches) -> Result<(), String> {
    let stage = Stage::new("switches").await;
    let sure = |holds: bool, flaw: &str| if holds { Ok(()) } else { Err(format!("{position}: {flaw}")) };
    stage.control.set_switches(&switches).await.expect("the switches are set");
    let role = identity_simulator::RoleSeed { name: ROLE.into(), ..Default::default() };
    stage.control.add_role(TENANT, &role).await.expect("the role is made");
    let operator = stage.operator().await;
    stage.provider().await;
    let chronicle = stage.chronicle().await;
    let spec =
        json!({ "displayName": "shop", "scopes": ["orders.read"], "roles": [ROLE], "redirectUris": ["https://shop.example.com/callback"] });
    stage.application("storefront", spec).await;
    let is_ready =
        |object: &cloud_identity_operator::api::AppIdApplication| condition(object, "Ready") == Some(("True", "Ready")) && observed(object);
    let object = chronicle.find("storefront", "is ready", is_ready).await.map_err(|flaw| format!("{position}: {flaw}"))?;
    sure(condition(&object, "Verified") == Some(("True", "Verified")), "the credential was not tried")?;
    let registered = stage.registered().await;
    let ours: Vec<_> = registered.iter().filter(|application| application.name == "shop").collect();
    sure(ours.len() == 1, &format!("registered: {registered:?}"))?;
    let values = stage.secret_values("storefront").await.unwrap_or_default();
    sure(values.get("clientId") == Some(&ours[0].client_id) && values.get("secret") == ours[0].secret.as_ref(), "another credential")?;
    sure(ours[0].scopes.contains("orders.read") && ours[0].roles.len() == 1, &format!("scopes and roles: {:?}", ours[0]))?;
    let listed = stage.control.redirect_uris(TENANT).await.expect("the simulator answers");
    sure(listed["redirectUris"] == json!(["https://shop.example.com/callback"]), &format!("redirect URIs: {listed:?}"))?;

    stage.patch_application("storefront", json!({ "displayName": "store", "scopes": ["orders.write"] })).await.expect("accepted");
    let is_renamed = |object: &cloud_identity_operator::api::AppIdApplication| is_ready(object) && object.metadata.generation == Some(2);
    chronicle.find("storefront", "is renamed", is_renamed).await.map_err(|flaw| format!("{position}: {flaw}"))?;
    let registered = stage.registered().await;
    let ours: Vec<_> = registered.iter().filter(|application| application.name == "store").collect();
    sure(ours.len() == 1, &format!("renamed: {registered:?}"))?;
    sure(ours[0].scopes.iter().eq(["orders.write"]), &format!("scopes: {:?}", ours[0].scopes))?;
    let provider = stage.providers().get(PROVIDER).await.expect("it is there");
    sure(stage::provider_condition(&provider, "Ready") == Some(("True", "Ready")), &format!("the provider: {:?}", provider.status))?;

    let before = stage.secrets().get("storefront").await.expect("it is there");
    operator.stop().await;
    stage.control.clear_journal().await.expect("cleared");
    let operator = stage.operator().await;
    operator.working().await;
    // A window: a restart does nothing.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let counts = stage.control.calls().await.expect("the simulator answers");
    sure(counts.total.received == 0, &format!("a restart called {:?}", counts.operations))?;
    sure(stage.secrets().get("storefront").await.expect("it is there") == before, "a restart touched the Secret")?;

    stage.applications().delete("storefront", &Default::default()).await.expect("accepted");
    let gone = tokio::time::timeout(PATIENCE, async {
        while stage.applications().get_opt("storefront").await.expect("the API server answers").is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    sure(gone.await.is_ok(), "the deletion does not end")?;
    let left = stage.registered().await;
    sure(!left.iter().any(|application| application.name == "store"), &format!("left: {left:?}"))?;
    let listed = stage.control.redirect_uris(TENANT).await.expect("the simulator answers");
    sure(listed["redirectUris"] == json!([]), &format!("left: {listed:?}"))?;
    let status = stage.control.tenant(TENANT).await.expect("the simulator answers");
    sure(status.roles.len() == 1, "the tenant's role is its own")
}

/// Promises 1 to 7: nothing that is only inferred about the services decides whether the operator works.
/// Traps: T04, T06, T25.
#[tokio::test]
async fn the_main_story_passes_in_every_position_of_every_switch() {
    let positions = Switches::positions();
    assert!(positions.len() >= 60, "{}", positions.len());
    let flaws: Vec<String> = stream::iter(positions)
        .map(|(position, switches)| story(position, switches))
        .buffer_unordered(8)
        .filter_map(|result| futures::future::ready(result.err()))
        .collect()
        .await;
    assert!(flaws.is_empty(), "{} positions fail:\n{}", flaws.len(), flaws.join("\n"));
}
