//! The same for registrations: the main story, and every trouble.

use cloud_identity_operator::api::AppIdApplication;
use identity_simulator::{
    Access, AccessRole, Action, ApplicationEdit, ApplicationSeed, CallWait, KeyEdit, KeySeed, RoleSeed, Rule, When, switches::ErrorBodies,
};
use serde_json::json;
use stage::{API_KEY, PROVIDER, Stage, TENANT, condition};

use super::{ROLE, Told, add_role, becomes_ready, begin, is, is_gone, is_ready, provider_is, status_client, sure, verdict};

/// Create with scopes, role and redirect URI, rename, use, restart in peace, delete.
pub(super) async fn main_story(stage: &Stage) -> Told {
    // The role grants a scope of somebody else's application: the token that the credential is tried with holds it.
    let api = ApplicationSeed { name: "api".into(), scopes: ["read".to_owned()].into(), ..ApplicationSeed::default() };
    let api = stage.control.add_application(TENANT, &api).await.expect("added");
    let access = vec![Access { application_id: api.client_id, scopes: api.scopes }];
    let role = RoleSeed { name: ROLE.into(), access, ..RoleSeed::default() };
    stage.control.add_role(TENANT, &role).await.expect("the role is made");
    let operator = stage.operator().await;
    stage.provider().await;
    let chronicle = stage.chronicle().await;
    let spec =
        json!({ "displayName": "shop", "scopes": ["orders.read"], "roles": [ROLE], "redirectUris": ["https://shop.example.com/callback"] });
    stage.application("storefront", spec).await;
    let object = chronicle.find("storefront", "is ready", is_ready).await?;
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
    let is_renamed = |object: &AppIdApplication| is_ready(object) && object.metadata.generation == Some(2);
    chronicle.find("storefront", "is renamed", is_renamed).await?;
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

    is_gone(stage, "storefront").await?;
    let left = stage.registered().await;
    sure(!left.iter().any(|application| application.name == "store"), &format!("left: {left:?}"))?;
    let listed = stage.control.redirect_uris(TENANT).await.expect("the simulator answers");
    sure(listed["redirectUris"] == json!([]), &format!("left: {listed:?}"))?;
    let status = stage.control.tenant(TENANT).await.expect("the simulator answers");
    sure(status.roles.len() == 1, "the tenant's role is its own")
}

/// A public client: no secret, nothing to try.
pub(super) async fn single_page_app(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    stage.application("page", json!({ "type": "SinglePageApp", "redirectUris": ["https://page.example.com/"] })).await;
    becomes_ready(stage, "page").await?;
    let object = stage.applications().get("page").await.expect("it is there");
    sure(condition(&object, "Verified") == Some(("Unknown", "NotApplicable")), "something was tried")?;
    let values = stage.secret_values("page").await.unwrap_or_default();
    let (registered, host) = (stage.registered().await, stage.app_id_url());
    sure(!values.contains_key("secret") && registered.len() == 1 && registered[0].secret.is_none(), &format!("{registered:?}"))?;
    sure(values.get("clientId") == Some(&registered[0].client_id), "another client")?;
    sure(values.get("profilesUrl") == Some(&host), &format!("addresses: {values:?}"))?;
    is_gone(stage, "page").await?;
    sure(stage.registered().await.is_empty(), "it is left")
}

/// Somebody removed the application at the service; then the object is deleted.
pub(super) async fn removed_at_the_service(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    stage.application("storefront", json!({})).await;
    becomes_ready(stage, "storefront").await?;
    let id = status_client(stage, "storefront").await;
    stage.control.remove_application(TENANT, &id).await.expect("removed");
    is_gone(stage, "storefront").await?;
    let events = stage.events(&stage.namespace, "storefront").await;
    sure(events.iter().all(|(reason, _)| reason != "Orphaned"), &format!("{events:?}"))?;
    sure(stage.calls("app_id.applications.create").await == 1, "it was registered again")
}

/// An id to adopt that is no client id at all.
pub(super) async fn malformed_id(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    stage.application("odd", json!({ "adopt": { "clientId": "no-client-id" } })).await;
    is(stage, "odd", "RemoteMissing").await?;
    sure(stage.calls("app_id.applications.create").await == 0, "something was registered")?;
    is_gone(stage, "odd").await
}

/// The tenant has no room for another application, and then it has.
pub(super) async fn full_tenant(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    let theirs = ApplicationSeed { name: "theirs".into(), ..ApplicationSeed::default() };
    let theirs = stage.control.add_application(TENANT, &theirs).await.expect("added");
    let settings = stage.control.settings().await.expect("the simulator answers");
    let full = identity_simulator::Settings { applications_per_tenant: 1, ..settings };
    stage.control.set_settings(&full).await.expect("set");
    stage.application("late", json!({})).await;
    // A refusal without a word is all that can be told then.
    let is_silent = stage.control.switches().await.expect("the simulator answers").error_bodies == ErrorBodies::Empty;
    let first = is(stage, "late", if is_silent { "Rejected" } else { "LimitReached" }).await;
    sure(stage.registered().await == [theirs.clone()], "the tenant changed")?;
    stage.control.remove_application(TENANT, &theirs.client_id).await.expect("removed");
    stage.patch_application("late", json!({ "displayName": "better" })).await.expect("accepted");
    becomes_ready(stage, "late").await?;
    sure(stage.registered().await.len() == 1, "not one")?;
    first
}

/// The tenant was changed too often today, and then it may be changed again.
pub(super) async fn changes_used_up(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    stage.application("first", json!({})).await;
    becomes_ready(stage, "first").await?;
    let settings = stage.control.settings().await.expect("the simulator answers");
    stage.control.set_settings(&identity_simulator::Settings { changes_per_tenant: 1, ..settings.clone() }).await.expect("set");
    stage.application("second", json!({})).await;
    let reason = verdict(stage, "second").await?;
    // A 429 cannot be told from a rate limit.
    let told = sure(["LimitReached", "RateLimited"].contains(&reason.as_str()), &format!("second is {reason}, not LimitReached"));
    sure(stage.registered().await.len() == 1, "it was registered")?;
    stage.control.set_settings(&settings).await.expect("set");
    stage.patch_application("second", json!({ "displayName": "better" })).await.expect("accepted");
    becomes_ready(stage, "second").await?;
    sure(stage.registered().await.len() == 2, "not two")?;
    told
}

/// A call into the rate limit delays things, and nobody has to do anything.
pub(super) async fn limited(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    add_role(stage).await;
    let settings = stage.control.settings().await.expect("the simulator answers");
    let slow = identity_simulator::Settings { management_calls_per_second: 2, block_milliseconds: 1500, ..settings };
    stage.control.set_settings(&slow).await.expect("set");
    stage.application("hasty", json!({ "scopes": ["orders.read"], "roles": [ROLE] })).await;
    let reason = verdict(stage, "hasty").await?;
    stage.control.set_settings(&settings).await.expect("set");
    sure(["RateLimited", "ServiceUnavailable", "RenameFailed"].contains(&reason.as_str()), &format!("hasty is {reason}"))?;
    becomes_ready(stage, "hasty").await?;
    sure(stage.calls("app_id.applications.create").await >= 1 && stage.registered().await.len() == 1, "not one")
}

/// Keys that IAM does not know, has disabled, or lets expire.
pub(super) async fn bad_keys(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    let access = || [(TENANT.to_owned(), AccessRole::Writer)].into();
    let disabled = KeySeed { value: "cafec0de-a-disabled-key".into(), enabled: false, access: access(), ..KeySeed::default() };
    let expired = KeySeed {
        value: "cafec0de-an-expired-key".into(),
        expires_at: Some(jiff::Timestamp::UNIX_EPOCH),
        access: access(),
        ..KeySeed::default()
    };
    for key in [&disabled, &expired] {
        stage.control.add_key(key).await.expect("the key is made");
    }
    for key in ["cafec0de-a-key-nobody-knows", &disabled.value, &expired.value] {
        stage.secret("ibm-api-key", &[("apikey", key)]).await;
        provider_is(stage, "False", "Unauthorized").await.map_err(|flaw| format!("{key}: {flaw}"))?;
        stage.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
        provider_is(stage, "True", "Ready").await.map_err(|flaw| format!("after {key}: {flaw}"))?;
    }
    Ok(())
}

/// A key that may only read makes nothing, loses nothing, and is told from a good one; with its rights back all is well.
pub(super) async fn readers_key(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    add_role(stage).await;
    stage.application("storefront", json!({ "scopes": ["orders.read"], "roles": [] })).await;
    becomes_ready(stage, "storefront").await?;
    let (before, right) = (stage.registered().await, stage.secret_values("storefront").await);
    let rights = |role| KeyEdit { access: Some([(TENANT.to_owned(), role)].into()), ..KeyEdit::default() };
    let key = stage.control.keys().await.expect("keys")[0].id.clone();
    stage.control.edit_key(&key, &rights(AccessRole::Reader)).await.expect("edited");
    stage.patch_application("storefront", json!({ "scopes": ["orders.read", "orders.write"], "roles": [ROLE] })).await.expect("accepted");
    stage.application("new", json!({})).await;
    for name in ["storefront", "new"] {
        let reason = verdict(stage, name).await?;
        // Both say: give it the role Writer.
        sure(["WriterRoleRequired", "ReaderRoleRequired"].contains(&reason.as_str()), &format!("{name} is {reason}"))?;
    }
    sure(stage.registered().await == before, "something was changed")?;
    stage.secrets().delete("storefront", &Default::default()).await.expect("deleted");
    // The service shows the secret to a reader, or it does not: what comes back is right or nothing.
    stage.control.wait_for_calls(&CallWait::answered("app_id.applications.get", 2)).await.expect("it is looked for");
    let values = stage.secret_values("storefront").await;
    sure(values.is_none() || values == right, "a Secret without its credential was written")?;
    stage.control.edit_key(&key, &rights(AccessRole::Writer)).await.expect("edited");
    for name in ["storefront", "new"] {
        stage.patch_application(name, json!({ "displayName": format!("{name}-again") })).await.expect("accepted");
        becomes_ready(stage, name).await?;
    }
    sure(stage.secret_values("storefront").await == right, "the credential was not kept")?;
    sure(stage.registered().await.len() == 2, "not two")
}

/// A provider for a tenant that is not there.
pub(super) async fn tenant_nobody_knows(stage: &Stage) -> Told {
    let budget = stage::OperatorOptions { deletion_budget: "3s".into(), ..Default::default() };
    let _operator = stage.operator_with(budget).await;
    let mut document = stage.provider_document(PROVIDER);
    document["spec"]["appId"]["tenantId"] = json!("99999999-2222-4333-8444-555555555555");
    stage.apply(&document).await.expect("accepted");
    provider_is(stage, "False", "TenantNotFound").await?;
    stage.application("lost", json!({})).await;
    let chronicle = stage.chronicle().await;
    chronicle.find("lost", "is not ready", |object| condition(object, "Ready").is_some_and(|(status, _)| status == "False")).await?;
    sure(stage.control.calls().await.expect("the simulator answers").of("app_id").committed == 0, "something was changed")?;
    is_gone(stage, "lost").await
}

/// A role goes between the look at the roles and its assignment.
pub(super) async fn role_that_goes(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    add_role(stage).await;
    let hold = Rule::next("app_id.application_roles.set", Action::Hold { when: When::BeforeCommit });
    let hold = stage.control.inject(&hold).await.expect("accepted");
    stage.application("storefront", json!({ "roles": [ROLE] })).await;
    stage.control.wait_for_fault(hold.id).await.expect("it is held");
    let role = stage.control.roles(TENANT).await.expect("roles")[0].id.clone();
    stage.control.remove_role(TENANT, &role).await.expect("removed");
    stage.control.release(hold.id).await.expect("released");
    let first = is(stage, "storefront", "RoleNotFound").await;
    add_role(stage).await;
    stage.patch_application("storefront", json!({ "displayName": "again" })).await.expect("accepted");
    becomes_ready(stage, "storefront").await?;
    sure(stage.registered().await.len() == 1 && stage.registered().await[0].roles.len() == 1, "not one, or without its role")?;
    first
}

/// The secret is replaced at the service right before the credential is tried.
pub(super) async fn secret_that_changes(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    let hold = stage.control.inject(&Rule::next("app_id.token", Action::Hold { when: When::BeforeCommit })).await.expect("accepted");
    stage.application("storefront", json!({})).await;
    stage.control.wait_for_fault(hold.id).await.expect("it is held");
    let id = stage.registered().await[0].client_id.clone();
    let edit = ApplicationEdit { secret: Some("cafec0de-another-secret".into()), ..ApplicationEdit::default() };
    stage.control.edit_application(TENANT, &id, &edit).await.expect("edited");
    stage.control.release(hold.id).await.expect("released");
    is(stage, "storefront", "InvalidClient").await?;
    stage.patch_application("storefront", json!({ "displayName": "again" })).await.expect("accepted");
    becomes_ready(stage, "storefront").await?;
    let values = stage.secret_values("storefront").await.unwrap_or_default();
    sure(values.get("secret").map(String::as_str) == Some("cafec0de-another-secret"), "another credential")
}
