//! Each fault does what it says, and to the calls it names only.

use crate::world::{TENANT, World, send};
use identity_simulator::{Action, CallWait, FaultStage, FaultWait, Framing, LateAnswer, Rule, Until, VERIFY, When};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const CREATE: &str = "app_id.applications.create";

fn creation(world: &World) -> RequestBuilder {
    world.call(Method::POST, "/applications").json(&json!({"name": "one"}))
}

async fn inject(world: &World, action: Action) -> u64 {
    world.control.inject(&Rule::next(CREATE, action)).await.expect("injected").id
}

#[tokio::test]
async fn a_connection_dropped_before_the_commit_leaves_nothing_and_after_it_everything() {
    let world = World::new().await;
    for (when, expected) in [(When::BeforeCommit, 0), (When::AfterCommit, 1)] {
        inject(&world, Action::Drop { when }).await;
        assert!(creation(&world).send().await.is_err());
        assert_eq!(world.names().await.len(), expected, "{when:?}");
    }
    let journal = world.control.journal().await.expect("a journal");
    let calls: Vec<_> = journal.iter().filter(|call| call.operation == CREATE).collect();
    assert_eq!(calls.iter().map(|call| (call.status, call.committed)).collect::<Vec<_>>(), [(None, false), (None, true)]);
    assert!(calls.iter().all(|call| call.fault.is_some()));
}

#[tokio::test]
async fn a_fault_skips_then_hits_then_rests() {
    let world = World::new().await;
    let action = Action::Html { when: When::BeforeCommit, status: 503 };
    world.control.inject(&Rule::next("app_id", action).skip(1).tenant(TENANT)).await.expect("injected");
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(world.get("/applications").await.status.as_u16());
    }
    assert_eq!(statuses, [200, 503, 200]);
}

#[tokio::test]
async fn an_answer_replaces_the_call_or_only_what_the_client_sees_of_it() {
    let world = World::new().await;
    for (when, expected) in [(When::BeforeCommit, 0), (When::AfterCommit, 1)] {
        let headers = BTreeMap::from([("Retry-After".to_owned(), "7".to_owned())]);
        inject(&world, Action::Answer { when, status: 429, headers, body: "slow down".to_owned() }).await;
        let answer = send(creation(&world)).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (429, "slow down"));
        assert_eq!(answer.headers["retry-after"], "7");
        assert_eq!(world.names().await.len(), expected, "{when:?}");
    }
}

#[tokio::test]
async fn a_held_call_waits_for_its_release_before_or_after_the_commit() {
    let world = World::new().await;
    for (when, names_while_held) in [(When::BeforeCommit, 0), (When::AfterCommit, 2)] {
        let fault = inject(&world, Action::Hold { when }).await;
        let call = tokio::spawn(send(creation(&world)));
        let report = world.control.wait_for_fault(fault).await.expect("fired");
        assert_eq!((report.fired, report.held), (1, 1));
        assert_eq!(world.names().await.len(), names_while_held, "{when:?}");
        assert_eq!(world.control.release(fault).await.expect("released").held, 0);
        assert_eq!(call.await.expect("no panic").status, 200);
    }
    assert_eq!(world.names().await.len(), 2);
}

#[tokio::test]
async fn a_held_call_commits_also_when_its_client_is_gone() {
    let world = World::new().await;
    let fault = inject(&world, Action::Hold { when: When::BeforeCommit }).await;
    let call = tokio::spawn(creation(&world).send());
    world.control.wait_for_fault(fault).await.expect("fired");
    call.abort();
    assert!(call.await.is_err());
    world.control.release(fault).await.expect("released");
    assert_eq!(world.names().await, ["one"]);
}

#[tokio::test]
async fn a_removed_fault_lets_go_of_what_it_holds() {
    let world = World::new().await;
    let fault = inject(&world, Action::Hold { when: When::BeforeCommit }).await;
    let call = tokio::spawn(send(creation(&world)));
    world.control.wait_for_fault(fault).await.expect("fired");
    world.control.remove_fault(fault).await.expect("removed");
    assert_eq!(call.await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_late_commit_comes_after_its_client_was_sent_away() {
    let world = World::new().await;
    let fault = inject(&world, Action::CommitLate { answer: LateAnswer::Drop, until: Until::Released }).await;
    assert!(creation(&world).send().await.is_err());
    world.control.wait_for_fault(fault).await.expect("fired");
    assert_eq!(world.names().await.len(), 0);
    world.control.release(fault).await.expect("released");
    assert_eq!(world.names().await.len(), 1);
    let fault = inject(&world, Action::CommitLate { answer: LateAnswer::Status(504), until: Until::Milliseconds(1) }).await;
    assert_eq!(send(creation(&world)).await.status, 504);
    let completed = FaultWait { stage: FaultStage::Completed, ..FaultWait::default() };
    world.control.wait_for_fault_as(fault, &completed).await.expect("committed");
    assert_eq!(world.names().await.len(), 2);
    let calls = world.control.calls().await.expect("counts").of(CREATE);
    assert_eq!((calls.received, calls.answered, calls.committed), (2, 2, 2));
}

#[tokio::test]
async fn a_hanging_call_is_answered_never_but_may_be_done() {
    let world = World::new().await;
    let fault = inject(&world, Action::Hang { when: When::AfterCommit }).await;
    let error = creation(&world).timeout(Duration::from_millis(200)).send().await.expect_err("no answer");
    assert!(error.is_timeout());
    assert_eq!(world.control.fault(fault).await.expect("a report").fired, 1);
    assert_eq!(world.names().await, ["one"]);
}

#[tokio::test]
async fn a_truncated_answer_ends_in_the_middle() {
    let world = World::new().await;
    world.register("one").await;
    for framing in [Framing::ContentLength, Framing::Chunked, Framing::Consistent] {
        let rule = Rule::next("app_id.applications.list", Action::Truncate { keep: 20, framing });
        world.control.inject(&rule).await.expect("injected");
        let response = world.call(Method::GET, "/applications").send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        match response.bytes().await {
            Ok(body) => assert_eq!((framing, body.len()), (Framing::Consistent, 20)),
            Err(_) => assert_ne!(framing, Framing::Consistent),
        }
    }
}

#[tokio::test]
async fn a_dripping_answer_is_complete_in_the_end_and_slow() {
    let world = World::new().await;
    let rule = Rule::next("app_id.applications.list", Action::Drip { bytes: 1, milliseconds: 5 });
    world.control.inject(&rule).await.expect("injected");
    let started = std::time::Instant::now();
    assert_eq!(world.get("/applications").await.json(), json!({"applications": []}));
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_huge_body_and_a_gzip_bomb_are_as_large_as_asked() {
    let world = World::new().await;
    let bytes = 20 * 1024 * 1024;
    for action in [Action::HugeBody { when: When::BeforeCommit, bytes }, Action::GzipBomb { when: When::BeforeCommit, bytes }] {
        world.control.inject(&Rule::next("app_id.applications.list", action)).await.expect("injected");
        let response = world.call(Method::GET, "/applications").send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let is_packed = response.headers().contains_key(reqwest::header::CONTENT_ENCODING);
        let body = response.bytes().await.expect("a body");
        // The client unpacks nothing: with that ability the whole workspace, and so the operator, would be built to have it.
        let unpacked = std::io::copy(&mut flate2::read::GzDecoder::new(&body[..]), &mut std::io::sink());
        assert_eq!(if is_packed { unpacked.expect("it can be unpacked") } else { body.len() as u64 }, bytes);
    }
}

#[tokio::test]
async fn a_list_may_miss_the_newest_application() {
    let world = World::new().await;
    world.register("one").await;
    world.register("two").await;
    world.control.inject(&Rule::next("app_id.applications.list", Action::WithoutNewest)).await.expect("injected");
    let names = |list: serde_json::Value| -> Vec<String> {
        let list = list["applications"].as_array().expect("a list").clone();
        list.iter().map(|application| application["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(world.get("/applications").await.json()), ["one"]);
    assert_eq!(names(world.get("/applications").await.json()), ["one", "two"]);
}

#[tokio::test]
async fn a_redirect_target_notes_credentials_that_should_not_have_come() {
    let world = World::new().await;
    let location = format!("{}/", world.simulator.urls().noted);
    let action = Action::Redirect { when: When::BeforeCommit, status: 307, location };
    world.control.inject(&Rule::every("app_id.applications.list", action)).await.expect("injected");
    let answer = world.get("/applications").await;
    assert_eq!(answer.status, 307);
    assert_eq!(world.control.noted().await.expect("noted"), [], "a careful client stays away");
    let target = answer.headers["location"].to_str().expect("text");
    send(world.client.post(target).bearer_auth(&world.writer).body("x")).await;
    let noted = world.control.noted().await.expect("noted").remove(0);
    assert_eq!((noted.credential_headers, noted.secrets, noted.body_length), (vec!["authorization".to_owned()], 1, 1));
    assert!(noted.path.ends_with("/applications"));
}

#[tokio::test]
async fn a_rule_may_aim_at_one_application_by_its_name() {
    let world = World::new().await;
    let rule = Rule::next(CREATE, Action::Html { when: When::BeforeCommit, status: 500 }).body_contains("\"two\"");
    world.control.inject(&rule).await.expect("injected");
    world.register("one").await;
    assert_eq!(world.post("/applications", json!({"name": "two"})).await.status, 500);
}

#[tokio::test]
async fn bad_certificates_keep_a_careful_client_out() {
    let world = World::new().await;
    let urls = world.simulator.urls().clone();
    for url in [&urls.other_authority, &urls.expired, &urls.wrong_host] {
        let path = format!("{url}/management/v4/{TENANT}/applications");
        let error = world.client.get(&path).bearer_auth(&world.writer).send().await.expect_err("no trust");
        assert!(error.is_connect(), "{url}: {error:?}");
    }
    let calls = world.control.calls().await.expect("counts");
    assert_eq!(calls.of("app_id").received, 0, "no request came through");
    world.control.wait_for_calls(&CallWait::answered("iam.token", 1)).await.expect("the writer's token");
}

#[tokio::test]
async fn every_service_is_hit_by_its_operation_and_its_tenant() {
    let world = World::new().await;
    let urls = world.simulator.urls().clone();
    for (operation, tenant, method, url) in [
        ("iam.token", None, Method::POST, format!("{}/identity/token", urls.iam)),
        ("app_id.token", Some(TENANT), Method::POST, format!("{}/token", world.oauth())),
        ("oidc.discovery", Some("main"), Method::GET, format!("{}/tenants/main/.well-known/openid-configuration", urls.oidc)),
        ("oidc.token", Some("main"), Method::POST, format!("{}/tenants/main/token", urls.oidc_elsewhere)),
        ("verify.token", Some(VERIFY), Method::POST, format!("{}/oauth2/token", urls.verify)),
        ("verify.applications.list", Some(VERIFY), Method::GET, format!("{}/v1.0/applications", urls.verify)),
        ("secure_auth.token", Some("default"), Method::POST, format!("{}/api/v1/privy/ids/default/g3/token", urls.secure_auth)),
        ("secure_auth.me", Some("default"), Method::GET, format!("{}/api/v1/ismanager/ids/default/Me", urls.secure_auth)),
    ] {
        let headers = BTreeMap::from([("retry-after".to_owned(), "7".to_owned())]);
        let action = Action::Answer { when: When::BeforeCommit, status: 429, headers, body: "slowly".to_owned() };
        let mut rule = Rule::next(operation, action);
        rule.tenant = tenant.map(ToOwned::to_owned);
        let fault = world.control.inject(&rule).await.expect("injected");
        let answer = send(world.client.request(method.clone(), &url)).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (429, "slowly"), "{operation}");
        assert_eq!(answer.headers["retry-after"], "7", "{operation}");
        assert_eq!(world.control.wait_for_fault(fault.id).await.expect("fired").fired, 1, "{operation}");
        assert_ne!(send(world.client.request(method, &url)).await.status, 429, "{operation}: only once");
    }
}
