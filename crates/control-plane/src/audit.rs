//! The API server's own record of every request: who asked for what, and what the answer was.
//!
//! # Guarantees
//!
//! Every request is exactly one event. A watch is recorded when its answer begins, because it may
//! never end; every other request when its answer is complete, and before the client can see that
//! it is. So after a request has returned, its event is there. Others, who watch an object, may see
//! what a request did before its event is there; a [`Mark`] counts it to what was before all the same.
//!
//! # Caveats
//!
//! A request that is under way while the API server is killed leaves no event.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Deref;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;

/// The policy that makes every request one event.
pub(crate) fn policy(with_request_bodies: bool) -> Value {
    let level = if with_request_bodies { "Request" } else { "Metadata" };
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [
            { "level": level, "verbs": ["watch"], "omitStages": ["RequestReceived", "ResponseComplete"] },
            { "level": level, "omitStages": ["RequestReceived", "ResponseStarted"] },
        ],
    })
}

/// Reads the audit log of one control plane.
#[derive(Debug, Clone)]
pub struct Audit {
    log: PathBuf,
}

/// A moment, and a place in the audit log before which no later request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    place: u64,
    moment: Timestamp,
}

impl Audit {
    pub(crate) fn new(log: PathBuf) -> Self {
        Self { log }
    }

    /// The present moment. Every request that has come in lies before it, also one whose event is still to be written.
    ///
    /// # Errors
    ///
    /// When the log cannot be read.
    pub fn mark(&self) -> Result<Mark, Error> {
        let mut log = self.open()?;
        let end = log.seek(SeekFrom::End(0)).map_err(|source| self.unreadable(source))?;
        let place = end_of_last_line(&mut log, end).map_err(|source| self.unreadable(source))?;
        Ok(Mark { place, moment: Timestamp::now() })
    }

    /// The requests that came in since the mark, in the order in which they were answered.
    ///
    /// # Errors
    ///
    /// When the log cannot be read, or holds what is no event.
    pub fn since(&self, mark: Mark) -> Result<AuditEvents, Error> {
        let mut log = self.open()?;
        let mut text = String::new();
        log.seek(SeekFrom::Start(mark.place)).and_then(|_| log.read_to_string(&mut text)).map_err(|source| self.unreadable(source))?;
        // What follows the last line break is an event that is being written.
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let events: AuditEvents = complete.lines().map(AuditEvent::parse).collect::<Result<_, Error>>()?;
        Ok(events.only(|event| event.received_timestamp >= mark.moment))
    }

    /// All requests so far.
    ///
    /// # Errors
    ///
    /// As [`since`](Self::since).
    pub fn all(&self) -> Result<AuditEvents, Error> {
        self.since(Mark { place: 0, moment: Timestamp::MIN })
    }

    fn open(&self) -> Result<File, Error> {
        File::open(&self.log).map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::File { action: "reading", path: self.log.clone(), source }
    }
}

fn end_of_last_line(log: &mut File, end: u64) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut end = end;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        log.seek(SeekFrom::Start(start))?;
        let mut block = Vec::new();
        log.take(end - start).read_to_end(&mut block)?;
        if let Some(line_break) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + line_break as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// One request and its answer. Text that does not apply is empty, as in Kubernetes itself.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// When the request came in.
    pub received_timestamp: Timestamp,
    /// When the answer was complete, or, of a watch, began.
    pub stage_timestamp: Timestamp,
    /// Who asked, e.g. `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// What the client calls itself.
    pub user_agent: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`; of a
    /// request that concerns no object (discovery, `/readyz`) the HTTP method in lower case.
    pub verb: String,
    /// The plural name of the kind, e.g. `secrets`.
    pub resource: String,
    /// E.g. `status` or `token`.
    pub subresource: String,
    /// Empty for the core group.
    pub api_group: String,
    /// The object's.
    pub namespace: String,
    /// The object's; empty for lists, and for a create that lets the server choose.
    pub name: String,
    /// The HTTP status.
    pub response_code: u16,
    /// Path and query.
    pub request_uri: String,
    /// What was sent, if the control plane was started with
    /// [`audit_request_bodies`](crate::Builder::audit_request_bodies).
    pub request_object: Option<Value>,
}

impl AuditEvent {
    fn parse(line: &str) -> Result<Self, Error> {
        let event: WireEvent = serde_json::from_str(line).map_err(|source| Error::AuditLine { line: line.to_owned(), source })?;
        Ok(Self {
            received_timestamp: event.request_received_timestamp.unwrap_or(event.stage_timestamp),
            stage_timestamp: event.stage_timestamp,
            user: event.user.username,
            user_agent: event.user_agent,
            verb: event.verb,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            api_group: event.object_ref.api_group,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            response_code: event.response_status.code,
            request_uri: event.request_uri,
            request_object: event.request_object,
        })
    }

    /// Whether it creates, changes or deletes, or tried to.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }

    /// Whether it gets, lists or watches; discovery counts as well.
    pub fn is_read(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

impl fmt::Display for AuditEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, request_uri, response_code, user, .. } = self;
        write!(formatter, "{verb} {request_uri} → {response_code} ({user})")
    }
}

/// Requests, to be narrowed down and counted. Its `Display` is one line for each, for messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditEvents(Vec<AuditEvent>);

impl AuditEvents {
    /// Those that the user made.
    #[must_use]
    pub fn by_user(&self, user: &str) -> Self {
        self.only(|event| event.user == user)
    }

    /// Those that the ServiceAccount made.
    #[must_use]
    pub fn by_service_account(&self, namespace: &str, name: &str) -> Self {
        self.by_user(&format!("system:serviceaccount:{namespace}:{name}"))
    }

    /// Those that concern the namespace or an object in it.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        self.only(|event| event.namespace == namespace)
    }

    /// Those that concern the resource, by its plural name, its subresources included.
    #[must_use]
    pub fn of_resource(&self, resource: &str) -> Self {
        self.only(|event| event.resource == resource)
    }

    /// Those that create, change or delete, or tried to.
    #[must_use]
    pub fn writes(&self) -> Self {
        self.only(AuditEvent::is_write)
    }

    /// Those that get, list or watch; discovery counts as well.
    #[must_use]
    pub fn reads(&self) -> Self {
        self.only(AuditEvent::is_read)
    }

    /// Those for which the condition holds.
    #[must_use]
    pub fn only(&self, condition: impl Fn(&AuditEvent) -> bool) -> Self {
        Self(self.iter().filter(|event| condition(event)).cloned().collect())
    }
}

impl Deref for AuditEvents {
    type Target = [AuditEvent];

    fn deref(&self) -> &[AuditEvent] {
        &self.0
    }
}

impl FromIterator<AuditEvent> for AuditEvents {
    fn from_iter<I: IntoIterator<Item = AuditEvent>>(events: I) -> Self {
        Self(events.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a AuditEvents {
    type Item = &'a AuditEvent;
    type IntoIter = std::slice::Iter<'a, AuditEvent>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for AuditEvents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|event| writeln!(formatter, "{event}"))
    }
}

/// The parts of `audit.k8s.io/v1` Event that are used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEvent {
    request_received_timestamp: Option<Timestamp>,
    stage_timestamp: Timestamp,
    user: WireUser,
    #[serde(default)]
    user_agent: String,
    verb: String,
    #[serde(default)]
    object_ref: WireObject,
    #[serde(default)]
    response_status: WireStatus,
    #[serde(rename = "requestURI")]
    request_uri: String,
    request_object: Option<Value>,
}

#[derive(Deserialize)]
struct WireUser {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireObject {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    code: u16,
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    fn line(verb: &str, namespace: &str) -> String {
        line_of(verb, namespace, "2026-11-22T10:00:00.123456Z".parse().unwrap())
    }

    fn line_of(verb: &str, namespace: &str, received: Timestamp) -> String {
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "1",
            "stage": "ResponseComplete", "requestURI": format!("/api/v1/namespaces/{namespace}/secrets"), "verb": verb,
            "user": { "username": "system:serviceaccount:shop:till" }, "userAgent": "test",
            "objectRef": { "resource": "secrets", "namespace": namespace, "apiVersion": "v1" },
            "responseStatus": { "metadata": {}, "code": 201 },
            "requestReceivedTimestamp": received, "stageTimestamp": received,
        })
        .to_string()
    }

    #[test]
    fn a_request_belongs_after_the_mark_if_it_came_in_after_it_whenever_its_event_is_written() {
        let path = std::env::temp_dir().join(format!("audit-{}", uuid::Uuid::new_v4()));
        let mut log = OpenOptions::new().create_new(true).append(true).open(&path).unwrap();
        let audit = Audit::new(path.clone());
        let half = line("patch", "shop");
        write!(log, "{}\n{}", line("create", "shop"), &half[..20]).unwrap();
        let mark = audit.mark().unwrap();
        assert!(audit.since(mark).unwrap().is_empty());
        writeln!(log, "{}\n{}\n{}", &half[20..], line("update", "shop"), line_of("delete", "shop", Timestamp::now())).unwrap();
        let verbs = |events: AuditEvents| events.iter().map(|event| event.verb.clone()).collect::<Vec<_>>();
        assert_eq!(verbs(audit.since(mark).unwrap()), ["delete"]);
        assert_eq!(verbs(audit.all().unwrap()), ["create", "patch", "update", "delete"]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn events_are_narrowed_down_by_user_namespace_and_kind_of_verb() {
        let lines = [line("create", "shop"), line("get", "shop"), line("list", "other")];
        let events: AuditEvents = lines.iter().map(|line| AuditEvent::parse(line).unwrap()).collect();
        assert_eq!(events.by_service_account("shop", "till").len(), 3);
        assert_eq!(events.by_user("someone").len(), 0);
        assert_eq!(events.in_namespace("shop").writes().len(), 1);
        assert_eq!(events.reads().len(), 2);
        assert_eq!(events[0].to_string(), "create /api/v1/namespaces/shop/secrets → 201 (system:serviceaccount:shop:till)");
    }
}
