//! Every operation the operator uses, with every fault: one row each, with a tenant, a key, a provider and an application of its own.

use std::{cell::RefCell, time::Duration};

use cloud_identity_operator::api::AppIdApplication;
use futures::{StreamExt, stream};
use identity_simulator::{AccessRole, Action, Call, Framing, KeySeed, RoleSeed, Rule, Seed, TenantSeed, When};
use jiff::Timestamp;
use serde_json::json;
use stage::{Chronicle, Stage, condition, merge, observed, status_written_at};

const GIB: u64 = 1 << 30;
/// What `Retry-After` says in seconds.
const TOLD: Duration = Duration::from_secs(4);
/// How far ahead the date in `Retry-After` is.
const DATED: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFoundJson,
    NotFoundText,
    Conflict,
    LimitedForSeconds,
    LimitedUntilDate,
    Limited,
    ServerError,
    NotImplemented,
    Unavailable,
    HtmlForbidden,
    HtmlOk,
    BreaksOff,
    BrokenJson,
    Empty,
    Huge,
    GzipBomb,
    DropBefore,
    DropAfter,
    Redirect,
    Drip,
    Hang,
}

/// All that end at once.
const QUICK: [Fault; 22] = [
    Fault::BadRequest,
    Fault::Unauthorized,
    Fault::Forbidden,
    Fault::NotFoundJson,
    Fault::NotFoundText,
    Fault::Conflict,
    Fault::LimitedForSeconds,
    Fault::LimitedUntilDate,
    Fault::Limited,
    Fault::ServerError,
    Fault::NotImplemented,
    Fault::Unavailable,
    Fault::HtmlForbidden,
    Fault::HtmlOk,
    Fault::BreaksOff,
    Fault::BrokenJson,
    Fault::Empty,
    Fault::Huge,
    Fault::GzipBomb,
    Fault::DropBefore,
    Fault::DropAfter,
    Fault::Redirect,
];

/// The next attempt after the first failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Seconds at first, doubling, at most five minutes.
    Grows,
    /// As the service asked.
    Told(Duration),
    /// Until the date that the service named.
    Dated,
    /// App ID's documented block.
    Block,
    /// Half an hour, more or less.
    Refused,
}

const CREATE: &str = "app_id.applications.create";
const UPDATE: &str = "app_id.applications.update";
const DELETE: &str = "app_id.applications.delete";
const GET: &str = "app_id.applications.get";
const LIST: &str = "app_id.applications.list";
const TOKEN: &str = "app_id.token";
const IAM: &str = "iam.token";

fn needs_writer(operation: &str) -> bool {
    operation.ends_with(".set") || [CREATE, UPDATE, DELETE, "app_id.scopes.get"].contains(&operation)
}

fn answers_without_body(operation: &str) -> bool {
    [DELETE, "app_id.redirect_uris.set"].contains(&operation)
}

fn writes(operation: &str) -> bool {
    operation.ends_with(".set") || [CREATE, UPDATE, DELETE].contains(&operation)
}

impl Fault {
    fn action(self, operation: &str, noted: &str) -> Action {
        let answer = |status, body: &str| Action::Answer {
            when: When::BeforeCommit,
            status,
            headers: [("Content-Type".to_owned(), "application/json".to_owned())].into(),
            body: body.to_owned(),
        };
        let limited = |retry_after: Option<String>| Action::Answer {
            when: When::BeforeCommit,
            status: 429,
            headers: retry_after.map(|value| ("Retry-After".to_owned(), value)).into_iter().collect(),
            body: String::new(),
        };
        let plain = |status, body: &str| Action::Answer { when: When::BeforeCommit, status, headers: [].into(), body: body.to_owned() };
        match self {
            Self::BadRequest => answer(400, r#"{"message":"that is not how it is done"}"#),
            Self::Unauthorized => answer(401, r#"{"message":"Unauthorized"}"#),
            Self::Forbidden => answer(403, r#"{"message":"Forbidden"}"#),
            Self::NotFoundJson => answer(404, r#"{"message":"not found"}"#),
            Self::NotFoundText => plain(404, "Not Found"),
            Self::Conflict => answer(409, r#"{"message":"conflict"}"#),
            Self::LimitedForSeconds => limited(Some(TOLD.as_secs().to_string())),
            Self::LimitedUntilDate => {
                let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&(Timestamp::now() + DATED));
                limited(Some(date.expect("a date")))
            }
            Self::Limited => limited(None),
            Self::ServerError => answer(500, r#"{"message":"something broke"}"#),
            Self::NotImplemented => answer(501, "{}"),
            Self::Unavailable => plain(503, "upstream connect error"),
            Self::HtmlForbidden => Action::Html { when: When::BeforeCommit, status: 403 },
            Self::HtmlOk => Action::Html { when: When::BeforeCommit, status: 200 },
            Self::BreaksOff => Action::Truncate { keep: 9, framing: Framing::ContentLength },
            Self::BrokenJson => Action::Truncate { keep: 9, framing: Framing::Consistent },
            // An empty answer to a change could as well be a 204: the change is made.
            Self::Empty => Action::Answer {
                when: if writes(operation) { When::AfterCommit } else { When::BeforeCommit },
                status: 200,
                headers: [].into(),
                body: String::new(),
            },
            Self::Huge => Action::HugeBody { when: When::BeforeCommit, bytes: GIB },
            Self::GzipBomb => Action::GzipBomb { when: When::BeforeCommit, bytes: GIB },
            Self::DropBefore => Action::Drop { when: When::BeforeCommit },
            Self::DropAfter => Action::Drop { when: When::AfterCommit },
            Self::Redirect => Action::Redirect { when: When::BeforeCommit, status: 307, location: format!("{noted}/") },
            Self::Drip => Action::Drip { bytes: 1, milliseconds: 1000 },
            Self::Hang => Action::Hang { when: When::BeforeCommit },
        }
    }

    /// Reason and wait; `None`: it does no harm.
    fn expected(self, phase: Phase, operation: &str) -> Option<(&'static str, Wait)> {
        let (reason, wait) = self.reading(operation)?;
        let reason = if operation == UPDATE { "RenameFailed" } else { reason };
        // A deletion has a budget of ten minutes, and five attempts in it.
        Some((reason, if phase == Phase::Deletion && wait == Wait::Refused { Wait::Told(Duration::from_secs(120)) } else { wait }))
    }

    fn reading(self, operation: &str) -> Option<(&'static str, Wait)> {
        let is_management = operation != IAM && operation != TOKEN;
        Some(match self {
            Self::BadRequest => ("Rejected", Wait::Refused),
            // Of a key that is new, IAM may not have heard yet.
            Self::Unauthorized if operation == IAM => ("Unauthorized", Wait::Grows),
            Self::Unauthorized => ("Unauthorized", Wait::Refused),
            Self::Forbidden if !is_management => ("Rejected", Wait::Refused),
            Self::Forbidden if needs_writer(operation) => ("WriterRoleRequired", Wait::Refused),
            Self::Forbidden => ("ReaderRoleRequired", Wait::Refused),
            // The list still holds the application: unknown is not absent.
            Self::NotFoundJson | Self::NotFoundText if operation == GET => return None,
            Self::NotFoundJson | Self::NotFoundText if operation == DELETE => ("ServiceUnavailable", Wait::Grows),
            Self::NotFoundJson | Self::NotFoundText if is_management && (operation == CREATE || !writes(operation)) => {
                ("TenantNotFound", Wait::Refused)
            }
            Self::NotFoundJson | Self::NotFoundText => ("Rejected", Wait::Refused),
            // Somebody was faster: perhaps we ourselves, so it is looked at again soon.
            Self::Conflict if operation == CREATE => ("Rejected", Wait::Grows),
            Self::Conflict | Self::Redirect => ("Rejected", Wait::Refused),
            Self::LimitedForSeconds => ("RateLimited", Wait::Told(TOLD)),
            Self::LimitedUntilDate => ("RateLimited", Wait::Dated),
            Self::Limited => ("RateLimited", Wait::Block),
            Self::NotImplemented => ("UnexpectedResponse", Wait::Refused),
            Self::BreaksOff | Self::BrokenJson if answers_without_body(operation) => return None,
            Self::Empty if writes(operation) && operation != CREATE => return None,
            Self::HtmlOk | Self::BreaksOff | Self::BrokenJson | Self::Empty | Self::Huge | Self::GzipBomb => {
                ("UnexpectedResponse", Wait::Grows)
            }
            Self::ServerError | Self::Unavailable | Self::HtmlForbidden | Self::DropBefore | Self::DropAfter | Self::Drip | Self::Hang => {
                ("ServiceUnavailable", Wait::Grows)
            }
        })
    }
}

impl Wait {
    /// The bounds of the wait in seconds, with one for what each clock cuts off.
    fn bounds(self, failures: i32) -> (f64, f64) {
        match self {
            Self::Grows => {
                let doubled = 2.0_f64.powi(failures.max(1)).min(300.0);
                (doubled * 0.8 - 3.0, doubled * 1.2 + 2.0)
            }
            Self::Told(told) => (told.as_secs_f64() * 0.6 - 2.0, told.as_secs_f64() * 1.1 + 2.0),
            // Counted from when the fault was set: everything may have queued for a while.
            Self::Dated => (-1.0, DATED.as_secs_f64() * 1.1 + 2.0),
            // Counted from the refusal, which up to two seconds later is shared by whoever asks for the same token.
            Self::Block => (25.0, 35.0),
            Self::Refused => (24.0 * 60.0 - 2.0, 36.0 * 60.0 + 2.0),
        }
    }
}

/// Where a row happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Creation,
    Change,
    Deletion,
}

/// When an attempt was named, to be compared with the call that failed.
struct Named {
    row: String,
    tenant: String,
    operation: &'static str,
    least: f64,
    next: Timestamp,
}

struct Row<'a> {
    stage: &'a Stage,
    chronicle: &'a Chronicle,
    named: &'a RefCell<Vec<Named>>,
    phase: Phase,
    operation: &'static str,
    fault: Fault,
    tenant: String,
    name: String,
}

/// Runs all rows on one stage with one operator.
async fn all(phase: Phase, rows: Vec<(&'static str, Fault)>) {
    let stage = Stage::new(&format!("errors-{phase:?}").to_lowercase()).await;
    let chronicle = stage.chronicle().await;
    let operator = stage.operator().await;
    let named = RefCell::default();
    let mut failures: Vec<String> = stream::iter(rows.into_iter().enumerate())
        .map(|(number, (operation, fault))| {
            let name = format!("row-{number:03}");
            let tenant = format!("{number:08x}-1111-4222-8333-444444444444");
            let row = Row { stage: &stage, chronicle: &chronicle, named: &named, phase, operation, fault, tenant, name };
            async move { row.play().await.err().map(|flaw| format!("{operation} × {fault:?}: {flaw}")) }
        })
        .buffer_unordered(64)
        .filter_map(futures::future::ready)
        .collect()
        .await;
    let calls = stage.control.journal().await.expect("the simulator answers");
    for Named { row, tenant, operation, least, next } in named.into_inner() {
        let is_hit = |call: &&Call| call.tenant.as_ref() == Some(&tenant) && call.operation == operation && call.fault.is_some();
        let Some(call) = calls.iter().find(is_hit) else { continue };
        let wait = next.duration_since(call.time).as_secs_f64();
        if wait < least {
            failures.push(format!("{row}: the next attempt was named for {wait} s after the call, not at least {least}"));
        }
    }
    let noted = stage.control.noted().await.expect("the simulator answers");
    assert!(noted.is_empty(), "redirects are not followed: {noted:?}");
    let memory = operator.peak_memory();
    assert!(failures.is_empty(), "{} rows are not as they should be:\n{}", failures.len(), failures.join("\n"));
    assert!(memory < 256 << 20, "a body is not held as a whole: {memory} bytes");
}

type Flaw = String;

fn sure(holds: bool, flaw: impl FnOnce() -> String) -> Result<(), Flaw> {
    if holds { Ok(()) } else { Err(flaw()) }
}

impl Row<'_> {
    async fn play(&self) -> Result<(), Flaw> {
        self.prepare().await;
        match self.phase {
            Phase::Creation => self.creation().await,
            Phase::Change => self.change().await,
            Phase::Deletion => self.deletion().await,
        }
    }

    fn key(&self) -> String {
        format!("cafec0de-key-of-{}", self.name)
    }

    async fn prepare(&self) {
        let role = |name: &str| RoleSeed { name: name.into(), ..RoleSeed::default() };
        let seed = Seed {
            tenants: vec![TenantSeed {
                id: self.tenant.clone(),
                region: "us-south".into(),
                roles: vec![role("shopper"), role("helper")],
                ..TenantSeed::default()
            }],
            keys: vec![KeySeed {
                id: format!("key-{}", self.name),
                value: self.key(),
                access: [(self.tenant.clone(), AccessRole::Writer)].into(),
                ..KeySeed::default()
            }],
            ..Seed::default()
        };
        self.stage.control.seed(&seed).await.expect("the tenant is seeded");
        self.stage.secret(&format!("key-{}", self.name), &[("apikey", &self.key())]).await;
        if self.phase == Phase::Creation {
            self.inject().await;
        }
        let mut provider = self.stage.provider_document(&self.name);
        let mine = json!({ "tenantId": self.tenant, "iam": { "apiKey": { "secretRef": { "name": format!("key-{}", self.name) } } } });
        merge(&mut provider["spec"]["appId"], mine);
        self.stage.apply(&provider).await.expect("the provider is accepted");
        let spec = json!({
            "providerRef": { "name": self.name }, "displayName": "one", "scopes": ["read"], "roles": ["shopper"],
            "redirectUris": ["https://a.example.com/", "https://b.example.com/"], "secret": { "name": format!("secret-of-{}", self.name) },
        });
        self.stage.application(&self.name, spec).await;
    }

    async fn inject(&self) {
        let action = self.fault.action(self.operation, &self.stage.simulator.urls().noted);
        let rule = Rule::every(self.operation, action);
        let rule = if self.operation == IAM { rule.body_contains(&self.key()) } else { rule.tenant(&self.tenant) };
        self.stage.control.inject(&rule).await.expect("the fault is accepted");
        let hidden = if self.phase == Phase::Deletion { DELETE } else { GET };
        if self.operation == LIST {
            let not_found = Fault::NotFoundJson.action(hidden, "");
            self.stage.control.inject(&Rule::every(hidden, not_found).tenant(&self.tenant)).await.expect("the fault is accepted");
        }
    }

    async fn mend(&self) {
        for fault in self.stage.control.faults().await.expect("the simulator answers") {
            let is_mine = fault.rule.tenant.as_ref() == Some(&self.tenant) || fault.rule.body_contains == Some(self.key());
            if is_mine {
                self.stage.control.remove_fault(fault.id).await.expect("the fault goes");
            }
        }
    }

    /// What the first pass that came to something under the fault said.
    async fn first_verdict(&self, generation: i64) -> Result<AppIdApplication, Flaw> {
        let early = ["InProgress", "ProviderNotReady", "ProviderNotFound", "CredentialsNotFound"];
        let what = format!("says how {} × {:?} ended", self.operation, self.fault);
        self.chronicle
            .find(&self.name, &what, |object| {
                let said = condition(object, "Ready").is_some_and(|(_, reason)| !early.contains(&reason));
                let is_new = object.metadata.generation.is_some_and(|is| is >= generation)
                    && object.metadata.deletion_timestamp.is_some() == (self.phase == Phase::Deletion);
                said && observed(object)
                    && is_new
                    && (self.phase != Phase::Deletion || condition(object, "Ready").is_some_and(|ready| ready != ("True", "Ready")))
            })
            .await
    }

    fn check_verdict(&self, object: &AppIdApplication) -> Result<(), Flaw> {
        let ready = condition(object, "Ready").expect("there is one");
        let status = object.status.clone().unwrap_or_default();
        let Some((reason, wait)) = self.fault.expected(self.phase, self.operation) else {
            return sure(ready == ("True", "Ready"), || format!("expected no harm, got {ready:?}"));
        };
        sure(ready == ("False", reason), || format!("expected {reason}, got {ready:?}: {:?}", status.conditions))?;
        let message = &status.conditions.iter().find(|is| is.type_ == "Ready").expect("there is one").message;
        sure(!message.is_empty() && message.len() < 400 && !message.contains("http"), || format!("a poor message: {message}"))?;
        let (Some(next), Some(written)) = (&status.next_action_at, status_written_at(object)) else {
            return Err("no next attempt is named".into());
        };
        let ahead = next.0.duration_since(written).as_secs_f64();
        let failures = status.failures.unwrap_or(0);
        let (least, most) = wait.bounds(failures);
        let row = format!("{} × {:?}", self.operation, self.fault);
        self.named.borrow_mut().push(Named { row, tenant: self.tenant.clone(), operation: self.operation, least, next: next.0 });
        // Between the decision and its write lie some seconds when all rows are at work: only the longest is told from here.
        sure(ahead <= most, || format!("after {failures} failures the next attempt is {ahead} s ahead, not at most {most}"))
    }

    async fn settled(&self, generation: i64) -> Result<(), Flaw> {
        let what = format!("recovers from {} × {:?}", self.operation, self.fault);
        let object = self
            .chronicle
            .find(&self.name, &what, |object| {
                condition(object, "Ready") == Some(("True", "Ready")) && observed(object) && object.metadata.generation >= Some(generation)
            })
            .await?;
        let applications = self.stage.control.applications(&self.tenant).await.expect("the simulator answers");
        let [application] = applications.as_slice() else {
            return Err(format!("{} applications at the service", applications.len()));
        };
        let status = object.status.unwrap_or_default();
        sure(status.client_id.as_ref() == Some(&application.client_id), || "status names another application".into())?;
        sure(
            status.failures.is_none() && status.next_action_at.is_none_or(|at| status.unclear_since.is_some() && at.0 > Timestamp::now()),
            || "a failure is still noted".into(),
        )?;
        let secret = self.stage.secret_values(&format!("secret-of-{}", self.name)).await.unwrap_or_default();
        sure(secret.get("clientId") == Some(&application.client_id) && secret.get("secret") == application.secret.as_ref(), || {
            "the Secret holds another credential".into()
        })?;
        let wanted = self.stage.applications().get(&self.name).await.expect("it is there").spec;
        sure(wanted.display_name.as_ref() == Some(&application.name), || format!("it is called {}", application.name))?;
        let scopes = wanted.scopes.unwrap_or_default();
        sure(scopes.iter().all(|scope| application.scopes.contains(&scope.0)), || format!("its scopes are {:?}", application.scopes))?;
        sure(application.roles.len() == wanted.roles.unwrap_or_default().len(), || format!("its roles are {:?}", application.roles))?;
        let listed = self.stage.control.redirect_uris(&self.tenant).await.expect("the simulator answers");
        let listed = listed["redirectUris"].as_array().map_or(0, Vec::len);
        sure(listed == wanted.redirect_uris.len(), || format!("{listed} redirect URIs"))?;
        self.counted(1, 0).await
    }

    /// So many registrations and deletions were carried out.
    async fn counted(&self, created: u64, deleted: u64) -> Result<(), Flaw> {
        let calls = self.stage.control.calls().await.expect("the simulator answers");
        let count = |operation| calls.of_tenant(&self.tenant, operation).committed;
        let counts = (count(CREATE), count(DELETE));
        sure(counts == (created, deleted), || format!("{counts:?} registrations and deletions"))
    }

    async fn creation(&self) -> Result<(), Flaw> {
        let verdict = self.first_verdict(1).await?;
        self.check_verdict(&verdict)?;
        let secret = self.stage.secret_values(&format!("secret-of-{}", self.name)).await;
        sure(secret.is_none_or(|values| values.contains_key("clientId") && values.contains_key("secret")), || "a partial Secret".into())?;
        let before_registration = [IAM, "app_id.roles.list"].contains(&self.operation);
        if before_registration {
            self.counted(0, 0).await?;
        }
        self.mend().await;
        let generation = self.bump("two").await;
        self.settled(generation).await
    }

    async fn bump(&self, display_name: &str) -> i64 {
        let spec = json!({ "displayName": display_name });
        self.stage.patch_application(&self.name, spec).await.map_or(i64::MAX, |object| object.metadata.generation.unwrap_or_default())
    }

    async fn change(&self) -> Result<(), Flaw> {
        self.settled(1).await?;
        let secret_name = format!("secret-of-{}", self.name);
        let before = self.stage.secrets().get(&secret_name).await.expect("it is published");
        self.inject().await;
        let spec = json!({
            "displayName": "two", "scopes": ["read", "write"], "roles": ["shopper", "helper"],
            "redirectUris": ["https://a.example.com/", "https://b.example.com/", "https://c.example.com/"],
        });
        let changed = self.stage.patch_application(&self.name, spec).await.expect("the change is accepted");
        let verdict = self.first_verdict(changed.metadata.generation.unwrap_or_default()).await?;
        self.check_verdict(&verdict)?;
        self.mend().await;
        let generation = self.bump("three").await;
        self.settled(generation).await?;
        let after = self.stage.secrets().get(&secret_name).await.expect("it is still published");
        sure(before == after, || "the Secret was touched".into())
    }

    async fn deletion(&self) -> Result<(), Flaw> {
        self.settled(1).await?;
        self.inject().await;
        self.stage.applications().delete(&self.name, &Default::default()).await.expect("the deletion is accepted");
        if self.fault.expected(self.phase, self.operation).is_some() || self.operation == LIST {
            let verdict = self.first_verdict(1).await?;
            self.check_verdict(&verdict)?;
            if self.fault != Fault::DropAfter {
                self.counted(1, 0).await?;
            }
            sure(verdict.metadata.finalizers.is_some_and(|finalizers| !finalizers.is_empty()), || "it was let go".into())?;
            self.mend().await;
            self.bump("two").await;
        }
        self.stage.gone(&self.name).await;
        let left = self.stage.control.applications(&self.tenant).await.expect("the simulator answers");
        sure(left.is_empty(), || format!("{} applications are left", left.len()))?;
        let listed = self.stage.control.redirect_uris(&self.tenant).await.expect("the simulator answers");
        sure(listed["redirectUris"].as_array().is_some_and(Vec::is_empty), || "redirect URIs are left".into())?;
        self.counted(1, 1).await
    }
}

fn product(operations: &[&'static str], faults: &[Fault]) -> Vec<(&'static str, Fault)> {
    operations.iter().flat_map(|operation| faults.iter().map(|fault| (*operation, *fault))).collect()
}

/// Promises 1, 2, 5 and 10: a registration ends in one application whatever the services answer, and the object says what is wrong and when it is tried again.
/// Traps: T02, T04, T30, T32, T58.
#[tokio::test]
async fn no_fault_while_an_application_is_made_leaves_two_or_a_false_ready() {
    let mut rows = product(&[IAM, "app_id.roles.list", CREATE, TOKEN], &QUICK);
    rows.extend([(CREATE, Fault::Hang), (TOKEN, Fault::Drip)]);
    all(Phase::Creation, rows).await;
}

/// Promises 2, 5 and 10: whatever the service answers to a change, the Secret stays bit for bit and nothing is registered or deleted.
/// Traps: T02, T04, T07, T30, T51.
#[tokio::test]
async fn no_fault_while_an_application_changes_touches_its_secret_or_makes_another() {
    let reads = [GET, LIST, "app_id.scopes.get", "app_id.application_roles.get", "app_id.roles.list", "app_id.redirect_uris.get"];
    let writes = ["app_id.scopes.set", "app_id.application_roles.set", "app_id.redirect_uris.set", UPDATE];
    let mut rows = product(&reads, &QUICK);
    rows.extend(product(&writes, &QUICK));
    rows.extend([(GET, Fault::Drip), ("app_id.scopes.get", Fault::Hang)]);
    all(Phase::Change, rows).await;
}

/// Promises 5, 7 and 10: a deletion that fails keeps the object, says why, and ends once the service lets it.
/// Traps: T04, T19, T29, T30.
#[tokio::test]
async fn no_fault_while_an_application_is_deleted_leaves_it_behind_or_lets_the_object_go_too_early() {
    let mut rows = product(&[DELETE, LIST], &QUICK);
    rows.push((DELETE, Fault::Hang));
    all(Phase::Deletion, rows).await;
}
