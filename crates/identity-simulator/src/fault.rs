//! Faults: which calls they hit, and what happens to those.
//!
//! # Expected flow
//!
//! A test adds a [`Rule`]; the next matching calls are hit. The test waits for [`FaultReport::fired`] (a long poll, never a sleep), looks at
//! what the client does, and releases what is held.
//!
//! # Guarantees
//!
//! * A call whose request was read completely is carried out even when the client goes away meanwhile, as at a real service. So
//!   [`Action::Hold`] and [`Action::Delay`] *before* the commit are also the way to make a commit late for a client that gave up.
//! * `fired` grows when the effect begins: for what happens [`When::AfterCommit`], the change is then already made.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// Which calls are hit, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `*`, an operation, or the beginning of operations: `app_id.applications` is also `app_id.applications.create`.
    pub operation: String,
    /// Only calls to this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only calls whose path contains this, for instance a client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_contains: Option<String>,
    /// Only calls whose body contains this, for instance a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
    /// So many matching calls pass unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// Then so many are hit; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What happens to them.
    pub action: Action,
}

impl Rule {
    /// Hits every call of an operation.
    #[must_use]
    pub fn every(operation: &str, action: Action) -> Self {
        Self { operation: operation.to_owned(), tenant: None, path_contains: None, body_contains: None, skip: 0, times: None, action }
    }

    /// Hits the next call of an operation, and no other.
    #[must_use]
    pub fn next(operation: &str, action: Action) -> Self {
        Self::every(operation, action).times(1)
    }

    /// Hits only so many calls.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Lets so many calls pass first.
    #[must_use]
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Hits only calls to a tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: &str) -> Self {
        self.tenant = Some(tenant.to_owned());
        self
    }

    /// Hits only calls whose path contains a text.
    #[must_use]
    pub fn path_contains(mut self, text: &str) -> Self {
        self.path_contains = Some(text.to_owned());
        self
    }

    /// Hits only calls whose body contains a text.
    #[must_use]
    pub fn body_contains(mut self, text: &str) -> Self {
        self.body_contains = Some(text.to_owned());
        self
    }
}

/// Before or after the service has done what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before. What replaces the answer then also prevents the change.
    #[default]
    BeforeCommit,
    /// After. The change is made, whatever the client is told.
    AfterCommit,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// It takes longer.
    Delay {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
        /// How much longer.
        milliseconds: u64,
    },
    /// It waits until the fault is released or removed.
    Hold {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
    },
    /// The connection is closed without an answer.
    Drop {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
    },
    /// No answer comes until the client closes the connection.
    Hang {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
    },
    /// This answer.
    Answer {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
        /// Status code.
        status: u16,
        /// Headers, for instance `Retry-After`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// Body, byte for byte.
        #[serde(default)]
        body: String,
    },
    /// A page of HTML, as a gateway would send.
    Html {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
        /// Status code.
        status: u16,
    },
    /// A redirect. The path and the query of the call are added to a location that ends with `/`.
    Redirect {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// Where to.
        location: String,
    },
    /// 200 with JSON that goes on for so many bytes, produced as it is read.
    HugeBody {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
        /// Length of the body.
        bytes: u64,
    },
    /// 200 with `Content-Encoding: gzip` and a body that unpacks to about so many bytes (rounded up to a MiB) from a thousandth of it.
    GzipBomb {
        /// Before or after the commit.
        #[serde(default)]
        when: When,
        /// Unpacked length.
        bytes: u64,
    },
    /// The real answer breaks off after so many bytes, and the connection is closed.
    Truncate {
        /// How many bytes of the body are sent.
        keep: usize,
        /// How the length of the body was announced.
        #[serde(default)]
        framing: Framing,
    },
    /// The real answer comes in pieces.
    Drip {
        /// Bytes of one piece.
        bytes: usize,
        /// Pause before each piece.
        milliseconds: u64,
    },
    /// The list without the newest application (App ID 11).
    WithoutNewest,
    /// The client is sent away at once; what it asked for is done later.
    CommitLate {
        /// What the client sees.
        answer: LateAnswer,
        /// When it is done.
        until: Until,
    },
}

/// How the length of a body that breaks off was announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// `Content-Length` of the whole body.
    #[default]
    ContentLength,
    /// Chunks, without the last one.
    Chunked,
    /// `Content-Length` of the part that is sent: correct HTTP, broken JSON.
    Consistent,
}

/// What the client of a late commit sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LateAnswer {
    /// Its connection is closed without an answer.
    Drop,
    /// A gateway's answer with this status.
    Status(u16),
}

/// When a late commit happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// After so many milliseconds.
    Milliseconds(u64),
    /// When the fault is released or removed.
    Released,
}

/// A fault and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// Its number.
    pub id: u64,
    /// The rule as given.
    pub rule: Rule,
    /// Calls that matched, unharmed ones included.
    pub seen: u64,
    /// Effects that have begun.
    pub fired: u64,
    /// Calls that are held at this moment.
    pub held: u64,
    /// Effects that are over: for a late commit, a hold or a delay, the change is made.
    pub completed: u64,
}

/// Lets a held call go on; dropping it does the same.
pub(crate) type Gate = oneshot::Sender<()>;

/// A fault at work.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) report: FaultReport,
    pub(crate) gates: Vec<Gate>,
}

/// All faults, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    next_id: u64,
    faults: BTreeMap<u64, Fault>,
}

/// What a rule looks at.
pub(crate) struct Subject<'a> {
    pub(crate) operation: &'a str,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) path: &'a str,
    pub(crate) body: &'a [u8],
}

impl Rule {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        let contains =
            |wanted: &str, bytes: &[u8]| wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes());
        operation_matches(&self.operation, subject.operation)
            && self.tenant.as_deref().is_none_or(|tenant| subject.tenant == Some(tenant))
            && self.path_contains.as_deref().is_none_or(|text| contains(text, subject.path.as_bytes()))
            && self.body_contains.as_deref().is_none_or(|text| contains(text, subject.body))
    }

    fn is_open(&self, seen_before: u64) -> bool {
        seen_before >= self.skip && self.times.is_none_or(|times| seen_before - self.skip < times)
    }
}

/// Whether an operation is meant by `*`, its name or the beginning of its name.
pub(crate) fn operation_matches(pattern: &str, operation: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => operation.starts_with(beginning),
        None => operation.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
    }
}

impl Faults {
    /// Adds a rule and answers its number.
    pub(crate) fn add(&mut self, rule: Rule) -> u64 {
        self.next_id += 1;
        let report = FaultReport { id: self.next_id, rule, seen: 0, fired: 0, held: 0, completed: 0 };
        self.faults.insert(self.next_id, Fault { report, gates: Vec::new() });
        self.next_id
    }

    /// The fault that hits this call: the first whose window is open. Every rule that matches counts the call.
    pub(crate) fn hit(&mut self, subject: &Subject<'_>) -> Option<(u64, Action)> {
        let mut hit = None;
        for (id, fault) in &mut self.faults {
            let report = &mut fault.report;
            if report.rule.matches(subject) {
                if hit.is_none() && report.rule.is_open(report.seen) {
                    hit = Some((*id, report.rule.action.clone()));
                }
                report.seen += 1;
            }
        }
        hit
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Fault> {
        self.faults.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Fault> {
        self.faults.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Fault> {
        self.faults.remove(&id)
    }

    pub(crate) fn clear(&mut self) {
        // Numbers are not used again, so that a late waiter does not see another fault.
        self.faults.clear();
    }

    pub(crate) fn reports(&self) -> Vec<FaultReport> {
        self.faults.values().map(|fault| fault.report.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(operation: &str) -> Subject<'_> {
        Subject { operation, tenant: Some("one"), path: "/a/b", body: b"{\"name\":\"x\"}" }
    }

    #[test]
    fn a_pattern_means_whole_words() {
        for (pattern, operation, reason, expected) in [
            ("*", "iam.token", "everything", true),
            ("iam.token", "iam.token", "the name", true),
            ("iam", "iam.token", "a beginning", true),
            ("app_id.role", "app_id.roles.list", "half a word", false),
            ("app_id.role*", "app_id.roles.list", "half a word with a star", true),
        ] {
            assert_eq!(operation_matches(pattern, operation), expected, "{reason}");
        }
    }

    #[test]
    fn a_rule_skips_then_hits_then_rests() {
        let mut faults = Faults::default();
        faults.add(Rule::every("app_id", Action::WithoutNewest).skip(1).times(2));
        let hits: Vec<bool> = (0..4).map(|_| faults.hit(&subject("app_id.token")).is_some()).collect();
        assert_eq!(hits, [false, true, true, false]);
    }

    #[test]
    fn a_rule_may_look_at_tenant_path_and_body() {
        let mut faults = Faults::default();
        faults.add(Rule::every("*", Action::WithoutNewest).tenant("one").path_contains("/b").body_contains("\"x\""));
        assert!(faults.hit(&subject("app_id.token")).is_some());
        assert!(faults.hit(&Subject { tenant: None, ..subject("app_id.token") }).is_none());
        assert!(faults.hit(&Subject { body: b"", ..subject("app_id.token") }).is_none());
    }
}
