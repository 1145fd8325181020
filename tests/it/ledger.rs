//! What the operator asks of the API server and of the services, counted from outside.

use std::{collections::BTreeMap, time::Duration};

use control_plane::{AuditEvents, Mark};
use identity_simulator::Call;
use stage::{Operator, SERVICE_ACCOUNT, SYSTEM, Stage};

/// A window in which nothing may happen: whatever is going to happen has begun within milliseconds.
pub const WINDOW: Duration = Duration::from_millis(1500);

/// What the operator asked the API server about one namespace, and the services, since a moment.
pub struct Ledger<'a> {
    stage: &'a Stage,
    pub mark: Mark,
}

impl<'a> Ledger<'a> {
    pub async fn open(stage: &'a Stage) -> Self {
        stage.control.clear_journal().await.expect("the simulator answers");
        Self { stage, mark: stage.control_plane.audit().mark().expect("the audit log can be read") }
    }

    pub fn events(&self) -> AuditEvents {
        let events = self.stage.control_plane.audit().since(self.mark).expect("the audit log can be read");
        events.by_service_account(SYSTEM, SERVICE_ACCOUNT).in_namespace(&self.stage.namespace)
    }

    /// Writes as `verb resource[/subresource]`, in their order.
    pub fn writes(&self) -> Vec<String> {
        named(&self.events().writes())
    }

    pub fn reads(&self) -> Vec<String> {
        named(&self.events().reads())
    }

    pub async fn calls(&self) -> Vec<Call> {
        self.stage.control.journal().await.expect("the simulator answers")
    }

    pub async fn operations(&self) -> Vec<String> {
        self.calls().await.into_iter().map(|call| call.operation).collect()
    }

    /// Nothing at all happens for a while.
    pub async fn stays_empty(&self, why: &str) {
        tokio::time::sleep(WINDOW).await;
        assert_eq!((self.writes(), self.reads(), self.operations().await), Default::default(), "{why}");
    }
}

/// Promise 6: another process in the place of `operator` writes nothing and asks nothing of any service. Both go on.
pub async fn restart_costs_nothing(stage: &Stage, operator: Operator) -> (Operator, Ledger<'_>) {
    drop(operator.kill().await);
    let ledger = Ledger::open(stage).await;
    let operator = stage.operator().await;
    operator.working().await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((ledger.writes(), ledger.operations().await), Default::default());
    (operator, ledger)
}

fn named(events: &AuditEvents) -> Vec<String> {
    let slash = |event: &control_plane::AuditEvent| if event.subresource.is_empty() { "" } else { "/" };
    events.iter().map(|event| format!("{} {}{}{}", event.verb, event.resource, slash(event), event.subresource)).collect()
}

pub fn tally<T: Ord + Clone>(items: &[T]) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item.clone()).or_default() += 1;
    }
    counts
}
