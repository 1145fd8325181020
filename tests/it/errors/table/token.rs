//! The same faults at every call that an access token needs, of every service: one row each, with a provider, a credential and a token of its
//! own.

use std::cell::Cell;

use cloud_identity_operator::api::AccessToken;
use futures::{StreamExt, future::join_all, stream};
use identity_simulator::{
    AccessRole, Action, ApplicationSeed, Control, KeySeed, OAuthClientSeed, OidcServerSeed, Options, Rule, SecureAuthUserSeed, Seed,
    Settings, Simulator, TenantSeed, VERIFY, When,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stage::{Chronicle, Stage, merge, status_written_at, token_condition, token_message};

use super::{
    fault::{BLOCK, DATED, Fault, IAM, Phase, QUICK, TOKEN, TOLD, Wait, date},
    row::{Flaw, Injected, sure},
};
use crate::ledger::{Ledger, tally};

/// The life of every token here, in seconds: what is refused is tried again after a quarter of what is left of it.
const LIFE: i64 = 60;
const SECRET: &str = "cafec0de-secret-of-a-client";
const DISCOVERY: &str = "oidc.discovery";

/// From whom the token comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Iam,
    AppId,
    Oidc,
    Verify,
    SecureAuth,
}

impl Service {
    fn operation(self) -> &'static str {
        match self {
            Self::Iam => IAM,
            Self::AppId => TOKEN,
            Self::Oidc => "oidc.token",
            Self::Verify => "verify.token",
            Self::SecureAuth => "secure_auth.token",
        }
    }
}

/// Reason and wait while nothing is published.
fn reading(service: Service, operation: &str, fault: Fault) -> (&'static str, Wait) {
    let refused = |reason| (reason, Wait::Refused);
    match fault {
        Fault::BadRequest if service == Service::SecureAuth => refused("InvalidClient"),
        Fault::BadRequest | Fault::Conflict | Fault::Redirect => refused("Rejected"),
        // Of a key that is new, IAM may not have heard yet.
        Fault::Unauthorized if service == Service::Iam => ("Unauthorized", Wait::Grows),
        Fault::Unauthorized if operation == DISCOVERY => refused("Unauthorized"),
        Fault::Unauthorized => refused("InvalidClient"),
        Fault::Forbidden if service == Service::SecureAuth => refused("DeveloperPrivilegeMissing"),
        Fault::Forbidden => refused("Rejected"),
        Fault::NotFoundJson | Fault::NotFoundText => refused(match service {
            Service::SecureAuth => "WrongIdentityStore",
            _ if operation == DISCOVERY => "DiscoveryFailed",
            _ => "Rejected",
        }),
        Fault::LimitedForSeconds => ("RateLimited", Wait::Told(TOLD)),
        Fault::LimitedUntilDate => ("RateLimited", Wait::Dated),
        Fault::Limited => ("RateLimited", Wait::Block),
        Fault::NotImplemented => refused("UnexpectedResponse"),
        Fault::HtmlOk | Fault::BreaksOff | Fault::BrokenJson | Fault::Empty | Fault::Huge | Fault::GzipBomb => {
            ("UnexpectedResponse", Wait::Grows)
        }
        Fault::ServerError
        | Fault::Unavailable
        | Fault::HtmlForbidden
        | Fault::DropBefore
        | Fault::DropAfter
        | Fault::Drip
        | Fault::Hang => ("ServiceUnavailable", Wait::Grows),
    }
}

struct Row<'a> {
    stage: &'a Stage,
    chronicle: &'a Chronicle<AccessToken>,
    phase: Phase,
    service: Service,
    operation: &'static str,
    fault: Fault,
    name: String,
    /// Verify has one tenant to a host.
    simulator: Option<Simulator>,
    injected: Cell<Option<Injected>>,
}

impl Row<'_> {
    fn control(&self) -> Control {
        self.simulator.as_ref().map_or_else(|| self.stage.control.clone(), Simulator::control)
    }

    fn client(&self) -> String {
        format!("client-of-{}", self.name)
    }

    fn key(&self) -> String {
        format!("cafec0de-key-of-{}", self.name)
    }

    /// The calls that are the row's own, and not its provider's.
    fn rule(&self, action: Action) -> Rule {
        let rule = Rule::every(self.operation, action);
        match self.service {
            Service::Iam => rule.body_contains(&self.key()),
            Service::Verify => rule.body_contains(&self.client()),
            Service::AppId | Service::Oidc | Service::SecureAuth => rule.tenant(&self.tenant()),
        }
    }

    /// Under which the journal has the calls of the row.
    fn tenant(&self) -> String {
        match self.service {
            Service::AppId => format!("{:0>8}-1111-4222-8333-555555555555", self.name.trim_start_matches("row-")),
            _ => self.name.clone(),
        }
    }

    async fn pair(&self, secret: &str, id: &str, value: &str) {
        self.stage.secret(secret, &[("client_id", id), ("client_secret", value)]).await;
    }

    /// Makes what the service and the cluster need; returns the part of the provider's spec that names the service.
    async fn service(&self) -> Value {
        let (control, urls, name) = (self.control(), self.stage.simulator.urls(), &self.name);
        let own = format!("provider-{name}");
        let of = |name: &str| json!({ "secretRef": { "name": name } });
        let client = |id: String| OAuthClientSeed {
            client_id: id,
            secret: Some(SECRET.into()),
            expires_in: Some(LIFE),
            entitlements: ["readAppConfig".to_owned()].into(),
            ..OAuthClientSeed::default()
        };
        match self.service {
            Service::Iam => {
                for (secret, value) in [(&own, format!("cafec0de-own-of-{name}")), (name, self.key())] {
                    control.add_key(&KeySeed { id: secret.clone(), value: value.clone(), ..KeySeed::default() }).await.expect("added");
                    self.stage.secret(secret, &[("apikey", &value)]).await;
                }
                json!({ "iam": { "url": urls.iam, "apiKey": of(&own) } })
            }
            Service::AppId => {
                let access = [(self.tenant(), AccessRole::Writer)].into();
                let key = KeySeed { id: own.clone(), value: format!("cafec0de-own-of-{name}"), access, ..KeySeed::default() };
                let application = ApplicationSeed {
                    client_id: Some(self.client()),
                    secret: Some(SECRET.into()),
                    name: "by hand".into(),
                    ..ApplicationSeed::default()
                };
                let tenant =
                    TenantSeed { id: self.tenant(), region: "us-south".into(), applications: vec![application], ..TenantSeed::default() };
                self.stage.secret(&own, &[("apikey", &key.value)]).await;
                control.seed(&Seed { tenants: vec![tenant], keys: vec![key], ..Seed::default() }).await.expect("seeded");
                self.pair(name, &self.client(), SECRET).await;
                let iam = json!({ "url": urls.iam, "apiKey": of(&own) });
                json!({ "appId": { "url": self.stage.app_id_url(), "tenantId": self.tenant(), "iam": iam } })
            }
            Service::Oidc => {
                let server = OidcServerSeed { id: self.tenant(), clients: vec![client(self.client())], ..OidcServerSeed::default() };
                control.add_oidc_server(&server).await.expect("added");
                self.pair(name, &self.client(), SECRET).await;
                json!({ "oidc": { "issuer": format!("{}/tenants/{}", urls.oidc, self.tenant()) } })
            }
            Service::Verify => {
                let simulator = self.simulator.as_ref().expect("each row of Verify has one");
                for (secret, id) in [(&own, format!("own-of-{name}")), (name, self.client())] {
                    control.add_oauth_client(VERIFY, &client(id.clone())).await.expect("added");
                    self.pair(secret, &id, SECRET).await;
                }
                self.stage.config_map(&own, &[("ca.crt", simulator.ca_pem())]).await;
                json!({ "verify": { "url": simulator.urls().verify, "credentials": of(&own) } })
            }
            Service::SecureAuth => {
                for secret in [&own, name] {
                    let seed = SecureAuthUserSeed { store: self.tenant(), ..SecureAuthUserSeed::default() };
                    let user = control.add_secure_auth_user(&seed).await.expect("added");
                    let newest = user.newest().expect("a credential");
                    self.pair(secret, &newest.client_id, &newest.client_secret).await;
                }
                let (ids, lifetime) = (self.tenant(), format!("{LIFE}s"));
                json!({ "secureAuth": { "url": urls.secure_auth, "idsId": ids, "credentials": of(&own), "lifetime": lifetime } })
            }
        }
    }

    /// Makes the provider, and waits until it works.
    async fn prepare(&self) {
        let service = self.service().await;
        let authority = if self.service == Service::Verify { format!("provider-{}", self.name) } else { "simulator-ca".into() };
        let mut spec = json!({
            "tls": { "caBundle": { "configMapRef": { "name": authority } } }, "budget": { "requestsPerSecond": 1000, "concurrency": 16 },
        });
        merge(&mut spec, service);
        let provider = json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
            "metadata": { "name": self.name, "namespace": self.stage.namespace }, "spec": spec,
        });
        if !self.is_read_first() {
            self.inject().await;
        }
        self.stage.apply(&provider).await.expect("the provider is accepted");
        if self.is_read_first() {
            self.stage.ready_provider(&self.name).await;
        }
    }

    /// A document that was read is not read again for an hour: where it cannot be read at all, the provider meets that, too.
    fn is_read_first(&self) -> bool {
        self.operation != DISCOVERY || self.phase == Phase::Change
    }

    async fn play(&self) -> Result<(), Flaw> {
        let token = json!({
            "providerRef": { "name": self.name }, "credentials": { "secretRef": { "name": self.name } },
            "secret": { "name": format!("token-{}", self.name) },
        });
        let held = if self.phase == Phase::Change {
            self.stage.token(&self.name, token).await;
            self.chronicle.find(&self.name, "is ready", is_fresh).await?;
            let held = self.published().await;
            self.inject().await;
            self.stage.ask_for_token(&self.name, "now").await;
            Some(held.ok_or("it is ready, and nothing is published")?)
        } else {
            if self.is_read_first() {
                self.inject().await;
            }
            self.stage.token(&self.name, token).await;
            None
        };
        let verdict = self.verdict().await?;
        self.check(&verdict, held.as_ref()).await?;
        self.recover(&verdict, held.as_ref()).await?;
        // Whoever is through asks nobody while the others go on.
        let suspend = Patch::Merge(json!({ "spec": { "suspend": true } }));
        self.stage.tokens().patch(&self.name, &PatchParams::default(), &suspend).await.expect("accepted");
        self.counted().await
    }

    async fn published(&self) -> Option<Secret> {
        self.stage.secrets().get_opt(&format!("token-{}", self.name)).await.expect("the API server answers")
    }

    /// Most faults end by themselves: what passes by itself lasts for two attempts, what does not for one.
    fn times(&self) -> u64 {
        // Verify is asked at each of its three generations of endpoints, a server for its document at every place where it may lie.
        let of_one_attempt = match (self.service, self.fault, self.operation == DISCOVERY) {
            (Service::Verify, Fault::NotFoundJson | Fault::NotFoundText, _) | (_, Fault::NotFoundJson | Fault::NotFoundText, true) => 3,
            _ => 1,
        };
        let is_slow = [Fault::Hang, Fault::Drip].contains(&self.fault);
        // An endpoint that is known is used again after one read that failed: the document is left alone for a minute.
        let is_left_alone = self.operation == DISCOVERY && self.phase == Phase::Change;
        if self.wait().1 == Wait::Grows && !is_slow && !is_left_alone { of_one_attempt * 2 } else { of_one_attempt }
    }

    async fn inject(&self) {
        let date = date();
        let rule = self.rule(self.fault.action(self.operation, &self.stage.simulator.urls().noted, date));
        let rule = if self.is_read_first() { rule.times(self.times()) } else { rule };
        let fault = self.control().inject(&rule).await.expect("accepted");
        self.injected.set(Some(Injected { id: fault.id, date }));
        if self.operation == DISCOVERY && self.phase == Phase::Change {
            // The endpoint is gone: the document is read again.
            let gone = Action::Answer { when: When::BeforeCommit, status: 404, headers: [].into(), body: String::new() };
            self.control().inject(&Rule::next("oidc.token", gone).tenant(&self.tenant())).await.expect("accepted");
        }
    }

    fn wait(&self) -> (&'static str, Wait) {
        reading(self.service, self.operation, self.fault)
    }

    async fn verdict(&self) -> Result<AccessToken, Flaw> {
        let early = ["InProgress", "ProviderNotReady", "ProviderNotFound", "CredentialsNotFound"];
        let what = format!("says how {} × {:?} ended", self.operation, self.fault);
        let is = |token: &AccessToken| {
            token_condition(token, "Fresh").is_some_and(|(status, reason)| status == "False" && !early.contains(&reason))
        };
        self.chronicle.find(&self.name, &what, is).await
    }

    async fn check(&self, token: &AccessToken, held: Option<&Secret>) -> Result<(), Flaw> {
        let (reason, wait) = self.wait();
        let ready = if held.is_some() { ("True", "Ready") } else { ("False", reason) };
        let (is_ready, is_fresh) = (token_condition(token, "Ready"), token_condition(token, "Fresh"));
        sure(is_ready == Some(ready), || format!("expected Ready {ready:?}, got {is_ready:?}: {:?}", token_message(token, "Ready")))?;
        sure(is_fresh == Some(("False", reason)), || {
            format!("expected Fresh False/{reason}, got {is_fresh:?}: {:?}", token_message(token, "Fresh"))
        })?;
        let message = token_message(token, "Fresh").unwrap_or_default();
        sure(!message.is_empty() && message.len() < 400 && !message.contains("http"), || format!("a poor message: {message}"))?;
        let status = token.status.clone().unwrap_or_default();
        let text = serde_json::to_string(&status).expect("JSON");
        sure(!text.contains("cafec0de") && !text.contains(SECRET), || format!("a secret in the status: {text}"))?;
        let (Some(next), Some(written)) = (&status.next_action_at, status_written_at(token)) else {
            return Err("no next attempt is named".into());
        };
        let ahead = next.0.duration_since(written).as_secs_f64();
        let (least, most) = bounds(wait, held.is_some());
        sure(ahead >= 0.0 && ahead <= most, || format!("the next attempt is {ahead} s ahead, not at most {most}"))?;
        if let Some(held) = held {
            sure(message.contains("valid until"), || format!("it does not say how long the token lives: {message}"))?;
            sure(status.expires_at.as_ref().is_some_and(|at| at.0 > jiff::Timestamp::now()), || "the published token has ended".into())?;
            sure(self.published().await.as_ref() == Some(held), || "the published Secret was touched".into())?;
        } else {
            sure(self.published().await.is_none(), || "something was published".into())?;
        }
        if self.operation == DISCOVERY {
            return Ok(());
        }
        let injected = self.injected.get().expect("the fault is set");
        let calls = self.control().journal().await.expect("the simulator answers");
        let first = calls.iter().find(|call| call.fault == Some(injected.id)).ok_or("nobody met the fault")?;
        let wait = next.0.duration_since(first.time).as_secs_f64();
        sure(wait >= least, || format!("the next attempt was named for {wait} s after the call, not at least {least}"))?;
        sure(self.fault != Fault::LimitedUntilDate || next.0 >= injected.date, || format!("{} is before {}", next.0, injected.date))
    }

    /// The fault ends, and the operator finds that out by itself, when it said that it would. Half an hour is too long for a test: where
    /// nothing is published, a person asks.
    async fn recover(&self, verdict: &AccessToken, held: Option<&Secret>) -> Result<(), Flaw> {
        let injected = self.injected.get().expect("the fault is set");
        if !self.is_read_first() {
            self.control().remove_fault(injected.id).await.expect("the fault goes");
        }
        if self.wait().1 == Wait::Refused && held.is_none() {
            self.stage.ask_for_token(&self.name, "mended").await;
        }
        let begun = verdict.status.as_ref().and_then(|status| status.last_refreshed_at.clone());
        let what = format!("recovers from {} × {:?}", self.operation, self.fault);
        let is_new = |token: &AccessToken| {
            let asked = token.status.as_ref().and_then(|status| status.issued_for.as_ref()?.request.as_deref());
            is_fresh(token) && (held.is_none() || asked == Some("now"))
        };
        let token = self.chronicle.find(&self.name, &what, is_new).await?;
        let status = token.status.unwrap_or_default();
        sure(status.last_refreshed_at != begun, || "it was not replaced".into())?;
        sure(status.failures.is_none() && status.next_action_at.is_none(), || format!("a failure is still noted: {status:?}"))?;
        let now = self.published().await.ok_or("nothing is published")?;
        let value = |secret: &Secret| secret.data.as_ref().and_then(|data| data.get("token").cloned());
        sure(held.is_none_or(|held| value(held) != value(&now)), || "the former token is still published".into())
    }

    /// Every call that met the fault came when it might, and one more was enough.
    async fn counted(&self) -> Result<(), Flaw> {
        let injected = self.injected.get().expect("the fault is set");
        let calls = self.control().journal().await.expect("the simulator answers");
        let hits: Vec<_> = calls.iter().filter(|call| call.fault == Some(injected.id)).collect();
        let is_free = !self.is_read_first();
        sure(is_free || hits.len() as u64 == self.times(), || format!("{} calls met the fault, not {}", hits.len(), self.times()))?;
        let second = hits.get(hits.len().div_ceil(2)).filter(|_| self.wait().1 == Wait::Grows && !is_free);
        if let (Some(second), Some(first)) = (second, hits.first()) {
            let apart = second.time.duration_since(first.time).as_secs_f64();
            sure(apart >= 1.6, || format!("the second attempt came {apart} s after the first"))?;
        }
        // What pauses, pauses whole: whoever of the row calls next does so afterwards.
        let last = hits.last().ok_or("nobody met the fault")?;
        let pause = match self.wait().1 {
            Wait::Told(told) => told,
            Wait::Block => BLOCK,
            _ => return Ok(()),
        };
        let is_next = |call: &&identity_simulator::Call| call.tenant == last.tenant && call.sequence > last.sequence;
        let next = calls.iter().find(is_next).filter(|_| self.service != Service::Iam);
        let apart = next.map_or(pause.as_secs_f64(), |call| call.time.duration_since(last.time).as_secs_f64());
        sure(apart >= pause.as_secs_f64(), || format!("the tenant was called {apart} s after it asked for a pause"))
    }
}

/// What the first wait may be in seconds, from the call that failed and from when the status was written.
fn bounds(wait: Wait, is_held: bool) -> (f64, f64) {
    match wait {
        // A quarter of what is left, and not sooner than after 10 s.
        Wait::Refused if is_held => (9.0, 17.0),
        Wait::Dated => (0.0, DATED.as_secs_f64() * 1.1 + 2.0),
        wait => wait.bounds(1),
    }
}

fn is_fresh(token: &AccessToken) -> bool {
    let is_true = |type_| token_condition(token, type_).is_some_and(|(status, _)| status == "True");
    let is_observed = token.status.as_ref().is_some_and(|status| status.observed_generation == token.metadata.generation);
    is_true("Ready") && is_true("Fresh") && is_observed
}

/// Runs all rows on one stage with one operator, and counts what they cost together.
async fn all(phase: Phase, rows: Vec<(Service, &'static str, Fault)>) {
    let stage = Stage::new(&format!("token-{phase:?}").to_lowercase()).await;
    let settings = stage.control.settings().await.expect("the simulator answers");
    stage.control.set_settings(&Settings { iam_expires_in: LIFE, app_id_expires_in: LIFE, ..settings }).await.expect("set");
    let chronicle = stage.token_chronicle().await;
    let ledger = Ledger::open(&stage).await;
    let operator = stage.operator().await;
    let count = rows.len();
    let rows: Vec<Row<'_>> = stream::iter(rows.into_iter().enumerate())
        .map(|(number, (service, operation, fault))| {
            let (stage, chronicle) = (&stage, &chronicle);
            async move {
                let simulator = match service {
                    Service::Verify => Some(Simulator::start(Options::default()).await.expect("it starts")),
                    _ => None,
                };
                let name = format!("row-{number:03}");
                let row = Row { stage, chronicle, phase, service, operation, fault, name, simulator, injected: Cell::default() };
                row.prepare().await;
                row
            }
        })
        .buffer_unordered(32)
        .collect()
        .await;
    // All are played at once: most of the time they wait.
    let played = rows.iter().map(|row| {
        let operator = &operator;
        async move {
            let flaw = row.play().await.err()?;
            let log: Vec<String> = operator.log().lines().filter(|line| line.contains(&row.name)).map(ToOwned::to_owned).collect();
            Some(format!("{:?}: {} × {:?}: {flaw}\n    {}", row.service, row.operation, row.fault, log.join("\n    ")))
        }
    });
    let failures: Vec<String> = join_all(played).await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} rows are not as they should be:\n{}", failures.len(), failures.join("\n"));
    let noted = stage.control.noted().await.expect("the simulator answers");
    assert!(noted.is_empty(), "redirects are not followed: {noted:?}");
    let events = stage.kubectl(&["get", "events", "--output", "json"]).await.quietly();
    assert!(!events.contains("cafec0de"), "a secret in an event");
    let memory = operator.peak_memory();
    assert!(memory < 256 << 20, "a body is not held as a whole: {memory} bytes");
    let published = if phase == Phase::Change { 2 } else { 1 };
    let secrets = tally(&ledger.events().writes().of_resource("secrets").iter().map(|event| event.name.clone()).collect::<Vec<_>>());
    assert_eq!(secrets.len(), count, "each token is published");
    let often: Vec<_> = secrets.iter().filter(|(_, writes)| **writes != published).collect();
    assert!(often.is_empty(), "each Secret is written once for each token: {often:?}");
    // One status for each failure in a row, one for each token, and one that says that the row is suspended.
    let writes = tally(&ledger.writes());
    let failed = |row: &Row<'_>| chronicle.of(&row.name).iter().filter_map(|token| token.status.as_ref()?.failures).max().unwrap_or(0);
    let statuses = usize::try_from(rows.iter().map(failed).sum::<i32>()).expect("few") + count * (published + 1);
    assert!(writes["patch accesstokens/status"] <= statuses, "{statuses} would do: {writes:?}");
}

const SERVICES: [Service; 5] = [Service::Iam, Service::AppId, Service::Oidc, Service::Verify, Service::SecureAuth];

/// One fault of each kind: beyond these, the services that share the code of [`Service::Oidc`] have nothing of their own.
const KINDS: [Fault; 9] = [
    Fault::BadRequest,
    Fault::Unauthorized,
    Fault::Forbidden,
    Fault::NotFoundJson,
    Fault::LimitedForSeconds,
    Fault::ServerError,
    Fault::HtmlOk,
    Fault::DropAfter,
    Fault::Redirect,
];

/// Every service with faults, and with them the document that says where tokens are asked for.
fn rows(of_discovery: impl Fn(Fault) -> bool) -> Vec<(Service, &'static str, Fault)> {
    let faults = |service| if [Service::Iam, Service::Oidc].contains(&service) { QUICK.to_vec() } else { KINDS.to_vec() };
    let rows = SERVICES.into_iter().flat_map(|service| faults(service).into_iter().map(move |fault| (service, service.operation(), fault)));
    let discovery = QUICK.into_iter().filter(|fault| of_discovery(*fault)).map(|fault| (Service::Oidc, DISCOVERY, fault));
    let slow = [Fault::Hang, Fault::Drip].map(|fault| (Service::Iam, IAM, fault));
    rows.chain(discovery).chain(slow).collect()
}

/// Promises 5 and 10: whatever the service answers while the first token is fetched, nothing is published, the object says why and when it is
/// tried again, and that is when it recovers.
///
/// Traps: T04, T28, T30.
#[tokio::test]
async fn no_fault_while_a_token_is_made_publishes_anything_or_is_hidden() {
    // The provider meets the fault at the document, too: with a pause nobody can say whose call was told so, and nonsense that is repeated
    // counts as lasting.
    let is_one_calls = |fault| reading(Service::Oidc, DISCOVERY, fault).0 != "UnexpectedResponse" && fault.pause().is_none();
    all(Phase::Creation, rows(is_one_calls)).await;
}

/// Promises 2, 3 and 10: whatever the service answers while a token is replaced, the published one stays bit for bit and Ready, the object
/// says how long that lives and when the next attempt follows, and that one replaces it.
///
/// Traps: T04, T07, T21, T28, T30.
#[tokio::test]
async fn no_fault_while_a_token_is_replaced_touches_the_published_one() {
    all(Phase::Change, rows(|_| true)).await;
}
