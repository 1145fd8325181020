//! What the services' documents leave open: every story ends well, or in the right condition, whatever the answer is.

mod tokens;

use std::collections::BTreeSet;

use cloud_identity_operator::api::AppIdApplication;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use identity_simulator::{
    Access, AccessRole, Action, ApplicationEdit, ApplicationSeed, CallWait, KeyEdit, KeySeed, RoleSeed, Rule, Switches, When,
    switches::ErrorBodies,
};
use serde_json::json;
use stage::{API_KEY, PATIENCE, PROVIDER, Stage, TENANT, condition, observed};

/// The tenant's role that the story assigns.
const ROLE: &str = "shopper";

/// What a story says when it is told: nothing, or what is wrong.
type Told = Result<(), String>;

fn sure(holds: bool, flaw: &str) -> Told {
    if holds { Ok(()) } else { Err(flaw.to_owned()) }
}

fn is_ready(object: &AppIdApplication) -> bool {
    condition(object, "Ready") == Some(("True", "Ready")) && observed(object)
}

async fn add_role(stage: &Stage) {
    let role = RoleSeed { name: ROLE.into(), ..RoleSeed::default() };
    stage.control.add_role(TENANT, &role).await.expect("the role is made");
}

/// The first verdict on an application in its present generation: the reason of `Ready`, whether it is true or false.
async fn verdict(stage: &Stage, name: &str) -> Result<String, String> {
    let has_verdict = |object: &AppIdApplication| {
        let under_way = ["InProgress", "Unknown", "ProviderNotReady", "ConfirmingAbsence"];
        observed(object) && condition(object, "Ready").is_some_and(|(_, reason)| !under_way.contains(&reason))
    };
    let chronicle = stage.chronicle().await;
    let generation = stage.applications().get(name).await.expect("it is there").metadata.generation;
    let object = chronicle.find(name, "has a verdict", |object| object.metadata.generation == generation && has_verdict(object)).await?;
    Ok(condition(&object, "Ready").map(|(_, reason)| reason.to_owned()).unwrap_or_default())
}

async fn is(stage: &Stage, name: &str, wanted: &str) -> Told {
    let reason = verdict(stage, name).await?;
    sure(reason == wanted, &format!("{name} is {reason}, not {wanted}"))
}

async fn becomes_ready(stage: &Stage, name: &str) -> Told {
    stage.chronicle().await.find(name, "is ready", is_ready).await.map(drop)
}

async fn provider_is(stage: &Stage, status: &str, reason: &str) -> Told {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let provider = stage.providers().get(PROVIDER).await.expect("it is there");
        if stage::provider_condition(&provider, "Ready") == Some((status, reason)) {
            return Ok(());
        }
        sure(tokio::time::Instant::now() < until, &format!("the provider is not {reason}: {:?}", provider.status))?;
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
}

async fn is_gone(stage: &Stage, name: &str) -> Told {
    stage.applications().delete(name, &Default::default()).await.expect("accepted");
    let gone = tokio::time::timeout(PATIENCE, async {
        while stage.applications().get_opt(name).await.expect("the API server answers").is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    sure(gone.await.is_ok(), "the deletion does not end")
}

/// A working provider and the operator.
async fn begin(stage: &Stage) -> Result<stage::Operator, String> {
    let operator = stage.operator().await;
    stage.provider().await;
    provider_is(stage, "True", "Ready").await?;
    Ok(operator)
}

async fn status_client(stage: &Stage, name: &str) -> String {
    let object = stage.applications().get(name).await.expect("it is there");
    object.status.and_then(|status| status.client_id).unwrap_or_default()
}

/// Create with scopes, role and redirect URI, rename, use, restart in peace, delete.
async fn main_story(stage: &Stage) -> Told {
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
async fn single_page_app(stage: &Stage) -> Told {
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
async fn removed_at_the_service(stage: &Stage) -> Told {
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
async fn malformed_id(stage: &Stage) -> Told {
    let _operator = begin(stage).await?;
    stage.application("odd", json!({ "adopt": { "clientId": "no-client-id" } })).await;
    is(stage, "odd", "RemoteMissing").await?;
    sure(stage.calls("app_id.applications.create").await == 0, "something was registered")?;
    is_gone(stage, "odd").await
}

/// The tenant has no room for another application, and then it has.
async fn full_tenant(stage: &Stage) -> Told {
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
async fn changes_used_up(stage: &Stage) -> Told {
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
async fn limited(stage: &Stage) -> Told {
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
async fn bad_keys(stage: &Stage) -> Told {
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
async fn readers_key(stage: &Stage) -> Told {
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
async fn tenant_nobody_knows(stage: &Stage) -> Told {
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
async fn role_that_goes(stage: &Stage) -> Told {
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
async fn secret_that_changes(stage: &Stage) -> Told {
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

/// A story, and the switches that it reaches beside those of the main one. It is told in every position of them, and in the default one.
struct Story {
    name: &'static str,
    reaches: &'static [&'static str],
    tell: for<'a> fn(&'a Stage) -> BoxFuture<'a, Told>,
}

const STORIES: &[Story] = &[
    Story {
        name: "single-page app",
        reaches: &["single_page_answer", "type_after_registration"],
        tell: |stage| single_page_app(stage).boxed(),
    },
    Story {
        name: "removed at the service",
        reaches: &["missing_application_deleted", "error_bodies"],
        tell: |stage| removed_at_the_service(stage).boxed(),
    },
    Story { name: "malformed id", reaches: &["malformed_client_id", "error_bodies"], tell: |stage| malformed_id(stage).boxed() },
    Story {
        name: "full tenant",
        reaches: &["limit_status", "error_bodies", "service_credential_client"],
        tell: |stage| full_tenant(stage).boxed(),
    },
    Story { name: "changes used up", reaches: &["changes_limit_status"], tell: |stage| changes_used_up(stage).boxed() },
    Story { name: "limited", reaches: &["rate_limit_status", "retry_after"], tell: |stage| limited(stage).boxed() },
    Story {
        name: "bad keys",
        reaches: &["iam_unknown_key_status", "iam_disabled_key_status", "iam_expired_key"],
        tell: |stage| bad_keys(stage).boxed(),
    },
    Story {
        name: "reader's key",
        reaches: &["secrets_for_readers", "scopes_reading", "application_roles_reading", "error_bodies"],
        tell: |stage| readers_key(stage).boxed(),
    },
    Story { name: "tenant nobody knows", reaches: &["unknown_tenant"], tell: |stage| tenant_nobody_knows(stage).boxed() },
    Story { name: "role that goes", reaches: &["unknown_role", "error_bodies"], tell: |stage| role_that_goes(stage).boxed() },
    Story { name: "secret that changes", reaches: &["invalid_client_body"], tell: |stage| secret_that_changes(stage).boxed() },
    Story {
        name: "token of Verify",
        reaches: &["verify_generations", "verify_discovered_endpoints", "verify_total_count", "verify_flags"],
        tell: |stage| tokens::token_of_verify(stage).boxed(),
    },
    Story {
        name: "refused by Verify",
        reaches: &["verify_invalid_client_status", "verify_bad_signature"],
        tell: |stage| tokens::refused_by_verify(stage).boxed(),
    },
    Story {
        name: "token of a store",
        reaches: &[
            "secure_auth_token_method",
            "secure_auth_token_answer",
            "secure_auth_date",
            "secure_auth_invalid_token_status",
            "secure_auth_error_bodies",
        ],
        tell: |stage| tokens::token_of_a_store(stage).boxed(),
    },
    Story {
        name: "refused by a store",
        reaches: &["secure_auth_wrong_pair_status", "secure_auth_error_bodies"],
        tell: |stage| tokens::refused_by_a_store(stage).boxed(),
    },
    Story {
        name: "wrong store",
        reaches: &["secure_auth_wrong_store", "secure_auth_error_bodies"],
        tell: |stage| tokens::wrong_store(stage).boxed(),
    },
    Story {
        name: "missing privilege",
        reaches: &["secure_auth_missing_privilege", "secure_auth_error_bodies"],
        tell: |stage| tokens::missing_privilege(stage).boxed(),
    },
    Story {
        name: "made anew in the console",
        reaches: &["secure_auth_regeneration", "secure_auth_old_pair", "secure_auth_old_tokens"],
        tell: |stage| tokens::made_anew_in_the_console(stage).boxed(),
    },
];

/// Switches that nothing the operator does can reach, and why.
const OUT_OF_REACH: &[(&str, &str)] = &[
    ("role_deleted", "it deletes no role"),
    ("duplicate_role_names", "it makes no role"),
    ("wrong_method", "it uses no other method"),
    ("scope_not_granted", "it asks for no scope"),
    ("default_beside_explicit_scope", "it asks for no scope"),
    ("wrong_password_status", "it signs no user in"),
    ("key_modulus", "it verifies no token"),
    ("key_algorithm", "it verifies no token"),
    ("iam_other_account", "it names no account to IAM"),
    ("iam_unknown_grant", "it uses one grant"),
    ("iam_profile_refresh_token", "it assumes no trusted profile yet"),
    ("iam_bad_compute_token", "it assumes no trusted profile yet"),
    ("verify_introspection_refusal", "it introspects no token"),
    ("verify_id_token", "it asks Verify for no ID token"),
    ("verify_client_list", "it registers no API client yet"),
    ("verify_hidden_secret", "it registers no API client yet"),
];

/// How the flaws begin and end whose promise is not kept yet, and why. To be emptied.
const OPEN: &[(&str, &str, &str)] = &[];

/// Tells a story in a position; its flaw, and the switches that the simulator looked at.
async fn told(
    name: &str,
    position: &str,
    switches: Switches,
    tell: impl AsyncFnOnce(&Stage) -> Told,
) -> (Option<String>, BTreeSet<String>) {
    let stage = Stage::new("switches").await;
    stage.control.set_switches(&switches).await.expect("the switches are set");
    let flaw = tell(&stage).await.err().map(|flaw| format!("{name} with {position}: {flaw}"));
    (flaw, stage.control.consulted().await.expect("the simulator answers"))
}

/// Promises 1 to 7: nothing that is only inferred about the services decides whether the operator works.
/// Traps: T04, T06, T25.
#[tokio::test]
async fn the_main_story_passes_in_every_position_of_every_switch() {
    let positions = Switches::positions();
    assert!(positions.len() >= 60, "{}", positions.len());
    let flaws: Vec<String> = stream::iter(positions)
        .map(|(position, switches)| told("the main story", position, switches, main_story))
        .buffer_unordered(8)
        .filter_map(|(flaw, _)| futures::future::ready(flaw))
        .collect()
        .await;
    assert!(flaws.is_empty(), "{} positions fail:\n{}", flaws.len(), flaws.join("\n"));
}

/// Promises 5 and 10: what goes wrong ends in the same condition whatever the documents leave open about it, and nothing is lost.
/// Traps: T02, T04, T30.
#[tokio::test]
async fn every_story_of_trouble_ends_in_its_condition_in_every_position_that_it_reaches() {
    let positions = Switches::positions();
    let concerns = |story: &Story, position: &str| {
        let switch = position.split('=').next().unwrap_or_default();
        position == "default" || story.reaches.contains(&switch)
    };
    let all = STORIES.iter().flat_map(|story| positions.iter().map(move |(position, switches)| (story, *position, switches.clone())));
    let all: Vec<_> = all.filter(|(story, position, _)| concerns(story, position)).collect();
    let ended: Vec<(&Story, Option<String>, BTreeSet<String>)> = stream::iter(all)
        .map(|(story, position, switches)| async move {
            let (flaw, consulted) = told(story.name, position, switches, async |stage| (story.tell)(stage).await).await;
            (story, flaw, consulted)
        })
        .buffer_unordered(8)
        .collect()
        .await;
    for (story, flaw, consulted) in &ended {
        let missed: Vec<_> = story.reaches.iter().filter(|switch| !consulted.contains(**switch)).collect();
        assert!(flaw.is_some() || missed.is_empty(), "{} does not reach {missed:?}", story.name);
    }
    let flaws: Vec<&String> = ended.iter().filter_map(|(_, flaw, _)| flaw.as_ref()).collect();
    let is_of = |flaw: &str, (begins, ends, _): &(&str, &str, &str)| flaw.starts_with(begins) && flaw.ends_with(ends);
    let news: Vec<&str> = flaws.iter().filter(|flaw| !OPEN.iter().any(|open| is_of(flaw, open))).map(|flaw| flaw.as_str()).collect();
    assert!(news.is_empty(), "{} fail:\n{}", news.len(), news.join("\n"));
    let kept: Vec<_> = OPEN.iter().filter(|open| !flaws.iter().any(|flaw| is_of(flaw, open))).collect();
    assert!(kept.is_empty(), "what is kept by now is no longer open: {kept:#?}");
}

/// The simulator says what it looked at: together the stories miss nothing but what is out of reach.
#[tokio::test]
async fn the_stories_reach_every_switch_that_can_be_reached() {
    let (flaw, mut reached) = told("the main story", "default", Switches::default(), main_story).await;
    assert_eq!(flaw, None);
    reached.extend(STORIES.iter().flat_map(|story| story.reaches).map(|switch| (*switch).to_owned()));
    let missed: BTreeSet<&str> = Switches::names().iter().copied().filter(|switch| !reached.contains(*switch)).collect();
    assert_eq!(missed, OUT_OF_REACH.iter().map(|(switch, _)| *switch).collect(), "why each: {OUT_OF_REACH:?}");
}
