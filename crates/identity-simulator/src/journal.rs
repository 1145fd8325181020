//! The journal: every call, in the order in which the calls came in, and what became of it.

use crate::fault::operation_matches;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Position in the order of arrival; never used twice.
    pub sequence: u64,
    /// When the request had been read.
    pub time: Timestamp,
    /// The listener it came to: `iam`, a region, `expired` …
    pub listener: String,
    /// The tenant in its path.
    pub tenant: Option<String>,
    /// What it is, for instance `app_id.applications.create`.
    pub operation: String,
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// The query, as it was sent.
    pub query: Option<String>,
    /// `User-Agent` of the caller.
    pub user_agent: Option<String>,
    /// Whether the service is through with it: what is left is sending the answer.
    pub answered: bool,
    /// Status of the answer; none while it is under way, and when the connection was dropped or hangs.
    pub status: Option<u16>,
    /// Number of the fault that hit it.
    pub fault: Option<u64>,
    /// Whether it changed the service's state.
    pub committed: bool,
}

/// How often something was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Requests read.
    pub received: u64,
    /// Of these, those the service is through with.
    pub answered: u64,
    /// Of these, those that changed its state.
    pub committed: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.answered += other.answered;
        self.committed += other.committed;
    }
}

/// Counts since the journal was last cleared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All calls.
    pub total: Count,
    /// By operation.
    pub operations: BTreeMap<String, Count>,
    /// By tenant and operation.
    pub tenants: BTreeMap<String, BTreeMap<String, Count>>,
}

impl Counts {
    /// Calls of an operation, or of all that a pattern means, at all tenants.
    #[must_use]
    pub fn of(&self, pattern: &str) -> Count {
        sum(&self.operations, pattern)
    }

    /// Calls of an operation, or of all that a pattern means, at one tenant.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str, pattern: &str) -> Count {
        self.tenants.get(tenant).map(|operations| sum(operations, pattern)).unwrap_or_default()
    }
}

fn sum(operations: &BTreeMap<String, Count>, pattern: &str) -> Count {
    let mut total = Count::default();
    for (_, count) in operations.iter().filter(|(operation, _)| operation_matches(pattern, operation)) {
        total += *count;
    }
    total
}

/// All calls since the last clearing.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Sequence of the first call kept.
    first: u64,
    calls: Vec<Call>,
    counts: Counts,
}

/// What became of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Option<u16>,
    pub(crate) committed: bool,
}

impl Journal {
    /// Takes a call in and answers its sequence; the one in `call` does not count.
    pub(crate) fn receive(&mut self, mut call: Call) -> u64 {
        call.sequence = self.first + self.calls.len() as u64;
        let sequence = call.sequence;
        self.count(&call, Count { received: 1, ..Count::default() });
        self.calls.push(call);
        sequence
    }

    /// Notes which fault hits a call.
    pub(crate) fn hit(&mut self, sequence: u64, fault: u64) {
        if let Some(call) = self.get_mut(sequence) {
            call.fault = Some(fault);
        }
    }

    /// Notes what became of a call. A call that was cleared meanwhile is no longer counted.
    pub(crate) fn finish(&mut self, sequence: u64, outcome: Outcome) {
        let Some(call) = self.get_mut(sequence) else {
            return;
        };
        let change = Count { received: 0, answered: u64::from(!call.answered), committed: u64::from(outcome.committed && !call.committed) };
        call.answered = true;
        call.status = outcome.status.or(call.status);
        call.committed |= outcome.committed;
        let call = call.clone();
        self.count(&call, change);
    }

    /// Notes that a call changed something, before it is answered.
    pub(crate) fn commit(&mut self, sequence: u64) {
        let Some(call) = self.get_mut(sequence) else {
            return;
        };
        let change = Count { committed: u64::from(!call.committed), ..Count::default() };
        call.committed = true;
        let call = call.clone();
        self.count(&call, change);
    }

    fn count(&mut self, call: &Call, change: Count) {
        self.counts.total += change;
        if !self.counts.operations.contains_key(&call.operation) {
            self.counts.operations.insert(call.operation.clone(), Count::default());
        }
        if let Some(count) = self.counts.operations.get_mut(&call.operation) {
            *count += change;
        }
        if let Some(tenant) = &call.tenant {
            let tenant = self.counts.tenants.entry(tenant.clone()).or_default();
            *tenant.entry(call.operation.clone()).or_default() += change;
        }
    }

    fn get_mut(&mut self, sequence: u64) -> Option<&mut Call> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.calls.get_mut(index)
    }

    /// Calls from a sequence on.
    pub(crate) fn since(&self, sequence: u64) -> &[Call] {
        let skip = usize::try_from(sequence.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.calls.get(skip..).unwrap_or_default()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Forgets calls and counts. Sequences go on.
    pub(crate) fn clear(&mut self) {
        self.first += self.calls.len() as u64;
        self.calls.clear();
        self.counts = Counts::default();
    }
}
