//! One leader at a time, whatever happens to it.

use std::{collections::BTreeSet, time::Instant};

use identity_simulator::{AccessRole, KeySeed};
use kube::{ResourceExt, api::DeleteParams};
use stage::{Effect, Interceptor, Seen};

use super::field::{Field, Plot, Wish};

/// Others may take over this long after the last renewal they saw.
const LEASE_SECONDS: u64 = 15;
/// The holder stops counting itself as leader this long after its last renewal.
const RENEW_DEADLINE_SECONDS: u64 = 10;

const LEADING: &str = " leading instance=";

fn writes(interceptor: &Interceptor) -> Vec<Seen> {
    interceptor.seen().into_iter().filter(Seen::is_write).collect()
}

async fn interceptor(field: &Field) -> Interceptor {
    Interceptor::start(field.stage.control_plane).await.expect("the interceptor starts")
}

/// The lease is given back in the middle of work: the standby need not wait until it ends, and never writes while the other one still does.
///
/// Promises 1 and 6.
///
/// Traps: T33.
#[tokio::test]
async fn after_sigterm_the_standby_leads_at_once_and_only_when_the_other_has_finished() {
    let mut field = Field::elected("handover").await;
    let (one, two) = (interceptor(&field).await, interceptor(&field).await);
    let first = field.operator_behind(&one).await;
    let plots = field.plots(8).await;
    let second = field.operator_behind(&two).await;
    second.metrics_address().await;
    // It is told to stop while it registers.
    let started =
        one.intercept(|seen| seen.resource == "secrets" && seen.is_write(), 2, 1, Effect::Delay(std::time::Duration::from_millis(300)));
    let wishes: Vec<(&Plot, Wish)> = plots.iter().map(|plot| (plot, Wish::First)).collect();
    field.wish_all(wishes.iter().copied()).await;
    one.fired(started).await;
    let status = first.stop().await;
    let stopped = Instant::now();
    assert!(status.success(), "{status}");
    second.logged(LEADING).await;
    let waited = stopped.elapsed();
    assert!(waited.as_secs() < LEASE_SECONDS / 2, "the lease was given back, but it took {waited:?}");
    field.settled(&wishes, |plot| plot.name.clone()).await;
    field.check(&wishes, |plot| plot.name.clone()).await;
    let last = writes(&one).last().map(|seen| seen.at);
    let next = writes(&two).first().map(|seen| seen.at);
    assert!(last.is_some(), "the first one worked");
    assert!(next.is_none_or(|next| Some(next) > last), "both wrote at a time");
    assert_eq!(field.stage.calls("app_id.applications.create").await, 8);
}

/// A killed leader's lease runs out. What changed meanwhile (our Secret deleted, the provider's key replaced) is handled once; what did not
/// change costs nothing.
///
/// Promises 1, 2 and 6.
///
/// Traps: T01, T25, T49.
#[tokio::test]
async fn after_sigkill_the_standby_leads_within_the_lease_and_handles_once_what_changed_meanwhile() {
    let mut field = Field::elected("takeover").await;
    let (one, two) = (interceptor(&field).await, interceptor(&field).await);
    let first = field.operator_behind(&one).await;
    let plots = field.plots(8).await;
    let wishes: Vec<(&Plot, Wish)> = plots.iter().map(|plot| (plot, Wish::First)).collect();
    field.wish_all(wishes.iter().copied()).await;
    field.settled(&wishes, |plot| plot.name.clone()).await;
    field.quiet().await;
    let second = field.operator_behind(&two).await;
    second.metrics_address().await;
    let access = field.tenants().map(|tenant| (tenant.to_owned(), AccessRole::Writer)).collect();
    let key = KeySeed { value: "cafec0de-the-next-key".into(), access, ..KeySeed::default() };
    field.stage.control.add_key(&key).await.expect("the key is made");

    first.kill().await;
    let killed = Instant::now();
    let damaged = &plots[3];
    let credential = field.stage.secret_values(&damaged.name).await;
    field.stage.secrets().delete(&damaged.name, &DeleteParams::default()).await.expect("the Secret is deleted");
    field.stage.secret("ibm-api-key", &[("apikey", &key.value)]).await;
    field.stage.control.clear_journal().await.expect("the simulator answers");

    second.logged(LEADING).await;
    let waited = killed.elapsed();
    assert!(waited.as_secs() < LEASE_SECONDS + 5, "it took {waited:?}");
    assert!(waited.as_secs() + 3 >= RENEW_DEADLINE_SECONDS, "it led after {waited:?}, when a frozen leader could still believe it led");
    stage::eventually("the Secret is back", async || field.stage.secret_values(&damaged.name).await.is_some()).await;
    field.settled(&wishes, |plot| plot.name.clone()).await;
    field.check(&wishes, |plot| plot.name.clone()).await;
    assert_eq!(field.stage.secret_values(&damaged.name).await, credential, "the same credential as before");
    let secrets: Vec<String> = writes(&two).iter().filter(|seen| seen.resource == "secrets").map(|seen| seen.name.clone()).collect();
    assert_eq!(secrets, std::slice::from_ref(&damaged.name), "the Secret is written once, and no other");
    for operation in ["app_id.applications.create", "app_id.applications.delete"] {
        assert_eq!(field.stage.calls(operation).await, 0, "{operation}");
    }
    let written: BTreeSet<String> =
        writes(&two).iter().filter(|seen| seen.resource == "appidapplications").map(|seen| seen.name.clone()).collect();
    assert!(written.is_subset(&[damaged.name.clone()].into()), "objects with nothing to do were written: {written:?}");
}

/// Another process begins to lead with everything fresh.
///
/// Promise 6.
///
/// Traps: T25.
#[tokio::test]
async fn a_change_of_leader_with_everything_fresh_writes_nothing_and_calls_nobody() {
    let mut field = Field::elected("fresh").await;
    let (one, two) = (interceptor(&field).await, interceptor(&field).await);
    let first = field.operator_behind(&one).await;
    let plots = field.plots(20).await;
    let wishes: Vec<(&Plot, Wish)> = plots.iter().map(|plot| (plot, Wish::First)).collect();
    field.wish_all(wishes.iter().copied()).await;
    field.settled(&wishes, |plot| plot.name.clone()).await;
    field.quiet().await;
    field.stage.control.clear_journal().await.expect("the simulator answers");
    let second = field.operator_behind(&two).await;
    first.stop().await;
    second.working().await;
    // That nothing happens needs a window.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(writes(&two), [], "writes of the new leader");
    let journal = field.stage.control.journal().await.expect("the simulator answers");
    assert_eq!(journal, [], "calls of the new leader");
    let objects = field.stage.applications().list(&Default::default()).await.expect("the API server answers");
    assert_eq!(objects.iter().filter(|object| object.uid().is_some()).count(), 20);
}
