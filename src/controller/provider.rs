//! `IdentityProvider` and `ClusterIdentityProvider`: makes them ready to use, and says whether they work.

use std::{fmt::Debug, marker::PhantomData, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;

use super::{
    Context, Found, Kind,
    cluster::{Abort, Subject},
    directory::{Connection, Service, Specification},
    objects::Kept,
    report::{Conditions, announcement_of_change, is_said, is_true, whole_seconds_from},
};
use crate::{
    api::{ClusterIdentityProvider, IdentityProvider, ProviderIdentity, ProviderStatus},
    model::{Class, Failure, TenantIdentity},
    plan::{Problem, application::State, wait},
    provider::{Caller, Standing, Urgency},
    reasons::Reason,
};

/// A probe takes its place in the tenant's line like a token that ends then: neither thousands of tokens nor a greedy namespace keep a
/// provider from being found working.
const PROBE_WITHIN: Duration = Duration::from_secs(30);
/// A probe that has not come to an end by then is given up: its few requests wait in the line, and each may take its whole deadline.
const PROBE_MOST: Duration = Duration::from_secs(180);
/// What came to no end is tried again after this long (± 20 %).
const AGAIN: Duration = Duration::from_secs(30);

/// Either kind of provider.
pub trait ProviderObject: Kept {
    /// The kind's name.
    const KIND: &'static str;
    /// What it specifies.
    fn specification(&self) -> Specification;
    /// What was said of it.
    fn status(&self) -> Option<&ProviderStatus>;
    /// The API to write it.
    fn api(client: kube::Client, namespace: &str) -> Api<Self>;
}

impl ProviderObject for IdentityProvider {
    const KIND: &'static str = "IdentityProvider";

    fn specification(&self) -> Specification {
        Specification::of_provider(self)
    }

    fn status(&self) -> Option<&ProviderStatus> {
        self.status.as_ref()
    }

    fn api(client: kube::Client, namespace: &str) -> Api<Self> {
        Api::namespaced(client, namespace)
    }
}

impl ProviderObject for ClusterIdentityProvider {
    const KIND: &'static str = "ClusterIdentityProvider";

    fn specification(&self) -> Specification {
        Specification::of_cluster_provider(self)
    }

    fn status(&self) -> Option<&ProviderStatus> {
        self.status.as_ref()
    }

    fn api(client: kube::Client, _: &str) -> Api<Self> {
        Api::all(client)
    }
}

/// The kind.
#[derive(Debug)]
pub struct Providers<P>(PhantomData<P>);

/// One pass over one provider.
pub struct Pass<P> {
    context: Arc<Context>,
    object: Arc<P>,
    subject: Subject,
    connection: Result<Arc<Connection>, Problem>,
    wants_probe: bool,
    found: Option<Result<Standing, Failure>>,
}

/// The one thing to do for a provider: see whether it works.
pub struct Probe(Arc<Connection>);

impl Debug for Probe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A connection holds half the process.
        formatter.debug_tuple("Probe").field(&self.0.host).finish()
    }
}

impl<P: ProviderObject> Kind for Providers<P> {
    type Object = P;
    type Known = ();
    type Pass = Pass<P>;
    type Step = Probe;

    const NAME: &'static str = P::KIND;

    fn look(context: &Context, object: &P, now: Timestamp) -> Found<()> {
        let specification = object.specification();
        let status = object.status().cloned().unwrap_or_default();
        let is_news = status.observed_generation != object.meta().generation || context.memory.is_woken(&specification.uid);
        if let Some(again) = context.memory.reports_again_at(&specification.uid, now).filter(|_| !is_news) {
            return Found::Nothing(Some(again));
        }
        let is_loaded = context.directory.has_loaded(&specification);
        let connection = context.directory.connection(&specification.key);
        // What keeps it from being used may be news: also of a provider that was read before any pass over it.
        let is_told = connection
            .as_ref()
            .err()
            .is_none_or(|problem| status.observed_generation == Some(specification.generation) && is_said(&status.conditions, problem));
        let waits = status.next_action_at.as_ref().is_none_or(|at| at.0 > now);
        let is_settled = is_loaded
            && is_told
            && waits
            && !context.memory.is_woken(&specification.uid)
            && !wants_probe(object, connection.as_ref().ok().map(Arc::as_ref));
        if is_settled {
            Found::Nothing(status.next_action_at.map(|at| at.0))
        } else {
            Found::Work { known: (), turn: None, meanwhile: None }
        }
    }

    async fn gather(context: &Arc<Context>, object: Arc<P>, (): ()) -> Result<Pass<P>, Abort> {
        let specification = object.specification();
        let is_changed = context.directory.load(&context.client, &context.secrets, &context.config_maps, &specification).await?;
        if is_changed {
            context.wake_all(context.claims.of_provider(&specification.key));
        }
        let connection = context.directory.connection(&specification.key);
        let due = object.status().and_then(|status| status.next_action_at.as_ref()).is_some_and(|at| at.0 <= Timestamp::now());
        // A Secret that was touched and says the same needs no probe.
        let is_asked_for = due || is_changed || context.directory.is_doubted(&specification.key);
        let wants_probe = is_asked_for || wants_probe(&*object, connection.as_ref().ok().map(Arc::as_ref));
        Ok(Pass { context: context.clone(), subject: Subject::of(P::KIND, &*object), object, connection, wants_probe, found: None })
    }

    fn plan(pass: &Pass<P>, _: Timestamp) -> Option<Probe> {
        let wanted = pass.wants_probe && pass.found.is_none();
        pass.connection.as_ref().ok().filter(|_| wanted).map(|connection| Probe(connection.clone()))
    }

    async fn perform(pass: &mut Pass<P>, Probe(connection): Probe) -> Result<(), Abort> {
        let urgency = Urgency::Expiring(tokio::time::Instant::now() + PROBE_WITHIN);
        let caller = Caller {
            namespace: pass.subject.namespace.clone(),
            urgency,
            requester: pass.subject.uid.clone(),
            fence: Some(pass.context.leadership.clone()),
        };
        pass.found = Some(in_time(connection.service.probe(&caller)).await);
        Ok(())
    }

    async fn report(pass: Pass<P>, now: Timestamp) -> Result<Option<Timestamp>, Abort> {
        pass.finish(now).await
    }
}

/// What a probe finds, or that it did not come to an end in time.
async fn in_time<T>(probe: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(PROBE_MOST, probe).await.unwrap_or_else(|_| {
        let message = "the tenant is too busy: its check did not come to an end in time, and is made again later";
        Err(Failure::new("checking the provider", Class::Transient, Reason::InProgress, message))
    })
}

/// A probe of its own is made only when something is new: spec or credential. What failed is tried when its time has come.
fn wants_probe<P: ProviderObject>(object: &P, connection: Option<&Connection>) -> bool {
    let Some(connection) = connection else { return false };
    let status = object.status().cloned().unwrap_or_default();
    let waited_for_credentials = status.failures.is_none() && status.next_action_at.is_some();
    let tried = (&status.credentials_version, &status.private_key_version);
    status.observed_generation != object.meta().generation
        || tried != (&connection.credentials, &connection.private_key)
        || waited_for_credentials
}

impl<P: ProviderObject> Pass<P> {
    async fn finish(mut self, now: Timestamp) -> Result<Option<Timestamp>, Abort> {
        let former = self.object.status().cloned().unwrap_or_default();
        if self.connection.is_ok() && self.found.is_none() {
            return Ok(former.next_action_at.map(|at| at.0));
        }
        if let Some(again) = self.is_checked_later(&former, now) {
            self.context.memory.wake(&self.subject.uid);
            return Ok(Some(again));
        }
        let status = self.status(&former, now);
        let was_ready = is_true(&former.conditions, "Ready");
        let becomes_ready = is_true(&status.conditions, "Ready");
        let change = announcement_of_change(&former.conditions, &status.conditions);
        if status != former {
            let api = P::api(self.context.client.clone(), &self.subject.namespace);
            self.subject.write_status(&api, &status).await?;
            self.context.memory.wrote(&self.subject.uid, &self.subject.resource_version);
            self.context.memory.reported(&self.subject.uid, now);
        }
        if let Some(connection) = self.connection.as_ref().ok().filter(|_| becomes_ready) {
            self.context.directory.trust(&self.object.specification().key, connection);
        }
        if becomes_ready && !was_ready {
            // What failed for want of a working provider is tried at once; what fails later, for another reason, keeps its wait.
            let key = self.object.specification().key;
            self.context.wake_all(self.context.claims.of_provider(&key));
        }
        if let Some(announcement) = change {
            self.context.announce(&self.subject, &announcement).await;
        }
        Ok(status.next_action_at.map(|at| at.0))
    }

    /// A check that nothing was sent for, or that came to no end in time, tells nothing of a provider that was found working: when it is made again.
    fn is_checked_later(&self, former: &ProviderStatus, now: Timestamp) -> Option<Timestamp> {
        let failure = self.found.as_ref()?.as_ref().err()?;
        let tells_nothing = failure.reason == Reason::InProgress && is_true(&former.conditions, "Ready");
        tells_nothing.then(|| now.checked_add(wait::spread(AGAIN, &self.subject.uid, 1, -0.2, 0.2)).unwrap_or(Timestamp::MAX))
    }

    fn status(&self, former: &ProviderStatus, now: Timestamp) -> ProviderStatus {
        let failures = u32::try_from(former.failures.unwrap_or(0)).unwrap_or(0) + 1;
        let uid = &self.subject.uid;
        let later = |wait| Some(Time(whole_seconds_from(now.checked_add(wait).unwrap_or(Timestamp::MAX))));
        let connection = self.connection.as_ref().ok();
        let mut status = ProviderStatus {
            observed_generation: Some(self.subject.generation),
            // An account is proven by a token only, whatever the spec says.
            tenant: connection
                .filter(|connection| !matches!(connection.service, Service::Iam(_)))
                .and_then(|connection| connection.tenant.as_ref())
                .map(ToString::to_string)
                .or_else(|| former.tenant.clone()),
            host: connection.map(|connection| connection.host.clone()),
            credentials_version: connection.and_then(|connection| connection.credentials.clone()),
            private_key_version: connection.and_then(|connection| connection.private_key.clone()),
            endpoints_host: former.endpoints_host.clone(),
            // Who it was there before the spec was changed proves nothing.
            identity: former.identity.clone().filter(|_| former.observed_generation == Some(self.subject.generation)),
            ..ProviderStatus::default()
        };
        let (problem, can_register) = match (&self.connection, &self.found) {
            (Err(problem), _) => {
                status.next_action_at = later(wait::spread(wait::WAITING, uid, failures, -0.2, 0.2));
                (Some(problem.clone()), State::Unknown(Problem::new(Reason::Unknown, "the provider is not usable")))
            }
            (Ok(_), Some(Err(failure))) => {
                status.failures = Some(i32::try_from(failures).unwrap_or(i32::MAX));
                let key = self.object.specification().key;
                let is_missed = self.context.directory.is_doubted(&key) && !self.context.claims.of_provider(&key).is_empty();
                status.next_action_at = later(wait::of_a_provider(failure, failures, uid, is_missed));
                (Some(Problem::of(failure)), State::Unknown(Problem::new(Reason::Unknown, "the provider could not be checked")))
            }
            (Ok(_), None) => (None, State::Unknown(Problem::new(Reason::Unknown, "not checked yet"))),
            (Ok(connection), Some(Ok(standing))) => {
                let found = self.found_working(connection, standing, &mut status);
                let lacks_something =
                    found.0.is_some() || matches!(&found.1, State::No(_) | State::Unknown(Problem { reason: Reason::Unknown, .. }));
                if lacks_something {
                    // What the credential may not do, or what hid it, is often mended at the service: nobody tells us.
                    status.failures = Some(i32::try_from(failures).unwrap_or(i32::MAX));
                    status.next_action_at = later(wait::spread(wait::REFUSED, uid, failures, -0.2, 0.2));
                }
                found
            }
        };
        let is_same_obstacle =
            self.connection.is_err() && former.next_action_at.as_ref().is_some_and(|at| at.0 > now) && former.failures.is_none();
        if is_same_obstacle {
            status.next_action_at = former.next_action_at.clone();
        }
        status.conditions = Conditions::new(&former.conditions, self.subject.generation, now)
            .ready(problem.as_ref())
            .state("CanRegister", &can_register)
            .finish();
        status
    }

    fn found_working(&self, connection: &Connection, standing: &Standing, status: &mut ProviderStatus) -> (Option<Problem>, State) {
        status.identity = Some(ProviderIdentity { iam_id: standing.iam_id.clone(), account: standing.account.clone() });
        if standing.endpoints_host.is_some() {
            status.endpoints_host = standing.endpoints_host.clone();
        }
        if let (Service::Iam(_), Some(account)) = (&connection.service, &standing.account) {
            if connection.tenant.as_ref().is_some_and(|tenant| tenant.as_str() != account) {
                let problem =
                    Problem::new(Reason::AccountMismatch, format!("the API key belongs to account {account}, not to iam.accountId"));
                return (Some(problem.clone()), State::No(problem));
            }
            status.tenant = Some(TenantIdentity::iam_account(account).to_string());
        }
        let can_register = match (&connection.service, standing.can_register) {
            (Service::AppId(_), Some(true)) => State::Yes(Reason::WriterRole),
            (Service::AppId(_), Some(false)) => State::No(Problem::new(Reason::WriterRoleRequired, Reason::WriterRoleRequired.advice())),
            (Service::AppId(_), None) => State::Unknown(Problem::new(Reason::Unknown, "the service could not say")),
            _ => State::Unknown(Problem::new(Reason::NotApplicable, "this version registers nothing at this service: it gives tokens")),
        };
        let problem =
            standing.has_newer_credential.then(|| Problem::new(Reason::CredentialsRegenerated, Reason::CredentialsRegenerated.advice()));
        (problem, can_register)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::gate::{Budget, Gate};
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_probe_behind_more_tokens_than_can_be_served_is_made_in_time() {
        let gate = Gate::new(Budget { requests_per_second: 10, concurrency: 2 });
        let mut greedy = tokio::task::JoinSet::new();
        for number in 0..400 {
            let gate = gate.clone();
            greedy.spawn(async move {
                loop {
                    let ends = Instant::now() + Duration::from_secs(3 + number % 30);
                    drop(gate.enter("asking", "greedy", Urgency::Expiring(ends)).await);
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        // Its three requests, one after the other, whichever namespace it is in.
        for namespace in ["modest", ""] {
            let begun = Instant::now();
            for _ in 0..3 {
                let probe = gate.enter("asking", namespace, Urgency::Expiring(begun + PROBE_WITHIN));
                assert!(in_time(async { probe.await.map(drop) }).await.is_ok());
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        assert!(greedy.try_join_next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_comes_to_no_end_says_that_it_is_still_to_be_made() {
        let begun = Instant::now();
        let failure = in_time(std::future::pending::<Result<(), Failure>>()).await.expect_err("it came to no end");
        assert_eq!((failure.reason, failure.class, begun.elapsed()), (Reason::InProgress, Class::Transient, PROBE_MOST));
    }
}
