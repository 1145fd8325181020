//! What the services' documents leave open: every story ends well, or in the right condition, whatever the answer is.

mod applications;
mod tokens;

use std::collections::BTreeSet;

use cloud_identity_operator::api::AppIdApplication;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use identity_simulator::{RoleSeed, Switches};
use stage::{PATIENCE, PROVIDER, Stage, TENANT, condition, observed};

use self::applications::{
    bad_keys, changes_used_up, full_tenant, limited, main_story, malformed_id, readers_key, removed_at_the_service, role_that_goes,
    secret_that_changes, single_page_app, tenant_nobody_knows,
};

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
