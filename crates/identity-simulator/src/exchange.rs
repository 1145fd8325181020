//! One call from the last byte of its request to the first of its answer.
//!
//! ```text
//! read → route → journal: received → latency → fault before? → handle (commit) → fault after? → journal: answered → respond
//! ```
//!
//! Everything from the journal on runs in a task of its own: a client that goes away stops nothing.

use crate::bodies;
use crate::fault::{Action, Framing, LateAnswer, Subject, Until, When};
use crate::journal::{Call, Outcome};
use crate::services::{self, Answer, Listener, Request, Route};
use crate::shared::Shared;
use axum::body::Body;
use http::header::{CONTENT_LENGTH, DATE, LOCATION, USER_AGENT};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// No request of these services comes near this.
const REQUEST_LIMIT: usize = 4 * 1024 * 1024;

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
pub(crate) struct Dropped;

/// What the client gets to see.
enum Reaction {
    Respond(Response<Body>),
    Drop,
    Hang,
}

/// A call under way.
struct Exchange {
    shared: Arc<Shared>,
    request: Request,
    route: Route,
    sequence: u64,
}

/// Reads a request and answers it.
pub(crate) async fn exchange(
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    request: http::Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, REQUEST_LIMIT).collect().await else {
        return Err(Dropped);
    };
    let request = Request {
        listener,
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(ToOwned::to_owned),
        headers: parts.headers,
        body: body.to_bytes(),
    };
    let work = shared.spawn(perform(shared.clone(), request));
    match work.await {
        Ok(Some(Reaction::Respond(response))) => Ok(dated(response, shared.look(|world| world.settings.clock_offset_seconds))),
        // Ends when the client closes the connection, which drops this future.
        Ok(Some(Reaction::Hang)) => std::future::pending().await,
        Ok(Some(Reaction::Drop) | None) | Err(_) => Err(Dropped),
    }
}

/// A service whose clock is wrong dates its answers by it, too.
fn dated(mut response: Response<Body>, ahead: i64) -> Response<Body> {
    let date = Timestamp::now().checked_add(SignedDuration::from_secs(ahead)).unwrap_or(Timestamp::MAX);
    let date = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok();
    if let Some(value) = date.filter(|_| ahead != 0).and_then(|date| HeaderValue::try_from(date).ok()) {
        response.headers_mut().insert(DATE, value);
    }
    response
}

async fn perform(shared: Arc<Shared>, request: Request) -> Reaction {
    let route = services::route(&request);
    let (sequence, hit, latency) = shared.change(|world| {
        let sequence = world.journal.receive(Call {
            sequence: 0,
            time: Timestamp::now(),
            listener: request.listener.name.clone(),
            tenant: route.tenant.clone(),
            operation: route.operation.to_owned(),
            method: request.method.to_string(),
            path: request.path.clone(),
            query: request.query.clone(),
            user_agent: request.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned),
            answered: false,
            status: None,
            fault: None,
            committed: false,
        });
        let hit = world.faults.hit(&Subject {
            operation: route.operation,
            tenant: route.tenant.as_deref(),
            path: &request.path,
            body: &request.body,
        });
        if let Some((fault, _)) = hit {
            world.journal.hit(sequence, fault);
        }
        (sequence, hit, world.settings.latency_milliseconds)
    });
    if latency > 0 {
        tokio::time::sleep(Duration::from_millis(latency)).await;
    }
    let exchange = Exchange { shared, request, route, sequence };
    match hit {
        None => {
            let answer = exchange.handle();
            exchange.respond(answer)
        }
        Some((fault, action)) => exchange.suffer(fault, action).await,
    }
}

impl Exchange {
    fn handle(&self) -> Answer {
        self.shared.look(|world| services::handle(world, &self.request, &self.route))
    }

    /// Notes what became of the call.
    fn finish(&self, status: Option<StatusCode>, committed: bool) {
        let outcome = Outcome { status: status.map(|status| status.as_u16()), committed };
        self.shared.change(|world| world.journal.finish(self.sequence, outcome));
        tracing::debug!(operation = self.route.operation, tenant = self.route.tenant, status = outcome.status, committed, "answered");
    }

    fn respond(&self, answer: Answer) -> Reaction {
        self.finish(Some(answer.status), answer.committed);
        Reaction::Respond(bodies::plain(answer))
    }

    fn fired(&self, fault: u64) {
        self.shared.change(|world| {
            if let Some(fault) = world.faults.get_mut(fault) {
                fault.report.fired += 1;
            }
        });
    }

    fn completed(&self, fault: u64) {
        self.shared.change(|world| {
            if let Some(fault) = world.faults.get_mut(fault) {
                fault.report.completed += 1;
            }
        });
    }

    /// A gate that opens when the fault is released or removed; at once when it is removed already.
    fn gate(&self, fault: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.shared.change(|world| {
            if let Some(fault) = world.faults.get_mut(fault) {
                fault.gates.push(sender);
                fault.report.held += 1;
                fault.report.fired += 1;
            }
        });
        receiver
    }

    /// Waits at a gate. Both a release and a removal open it.
    async fn held(&self, fault: u64) {
        let _released_or_removed = self.gate(fault).await;
        self.shared.change(|world| {
            if let Some(fault) = world.faults.get_mut(fault) {
                fault.report.held = fault.report.held.saturating_sub(1);
            }
        });
    }

    async fn suffer(self, fault: u64, action: Action) -> Reaction {
        match action {
            Action::Delay { when, milliseconds } => {
                let pause = tokio::time::sleep(Duration::from_millis(milliseconds));
                let early = (when == When::AfterCommit).then(|| self.committed_answer());
                self.fired(fault);
                pause.await;
                let answer = early.unwrap_or_else(|| self.handle());
                self.completed(fault);
                self.respond(answer)
            }
            Action::Hold { when } => {
                let early = (when == When::AfterCommit).then(|| self.committed_answer());
                self.held(fault).await;
                let answer = early.unwrap_or_else(|| self.handle());
                self.finish(Some(answer.status), answer.committed);
                self.completed(fault);
                Reaction::Respond(bodies::plain(answer))
            }
            Action::Drop { when } => self.instead(fault, when, None, Reaction::Drop),
            Action::Hang { when } => self.instead(fault, when, None, Reaction::Hang),
            Action::Answer { when, status, headers, body } => {
                let mut answer = Answer::empty(status_code(status));
                answer.body = body.into_bytes();
                for (name, value) in &headers {
                    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::from_str(value)) {
                        answer.headers.append(name, value);
                    }
                }
                self.instead(fault, when, Some(answer.status), Reaction::Respond(bodies::plain(answer)))
            }
            Action::Html { when, status } => {
                let answer = Answer::html(status_code(status));
                self.instead(fault, when, Some(answer.status), Reaction::Respond(bodies::plain(answer)))
            }
            Action::Redirect { when, status, location } => {
                let target = if location.ends_with('/') { self.moved_to(&location) } else { location };
                let answer = Answer::empty(status_code(status)).header(LOCATION, &target);
                self.instead(fault, when, Some(answer.status), Reaction::Respond(bodies::plain(answer)))
            }
            Action::HugeBody { when, bytes } => self.instead(fault, when, Some(StatusCode::OK), Reaction::Respond(bodies::huge(bytes))),
            Action::GzipBomb { when, bytes } => self.instead(fault, when, Some(StatusCode::OK), Reaction::Respond(bodies::bomb(bytes))),
            Action::Truncate { keep, framing } => self.shaped(fault, |answer| bodies::truncated(answer, keep, framing)),
            Action::Drip { bytes, milliseconds } => {
                self.shaped(fault, |answer| bodies::dripping(answer, bytes, Duration::from_millis(milliseconds)))
            }
            Action::WithoutNewest => self.shaped(fault, |answer| bodies::plain(without_newest(answer))),
            Action::CommitLate { answer, until } => self.commit_late(fault, answer, until),
        }
    }

    /// Handles the call and says in the journal that it changed something, before the answer is sent.
    fn committed_answer(&self) -> Answer {
        let answer = self.handle();
        if answer.committed {
            self.shared.change(|world| world.journal.commit(self.sequence));
        }
        answer
    }

    /// Another reaction than the service's, before or after the service has done what was asked.
    fn instead(&self, fault: u64, when: When, status: Option<StatusCode>, reaction: Reaction) -> Reaction {
        let committed = when == When::AfterCommit && self.handle().committed;
        self.finish(status, committed);
        self.fired(fault);
        self.completed(fault);
        reaction
    }

    /// The service's answer in another shape.
    fn shaped(&self, fault: u64, shape: impl FnOnce(Answer) -> Response<Body>) -> Reaction {
        let answer = self.handle();
        self.finish(Some(answer.status), answer.committed);
        self.fired(fault);
        self.completed(fault);
        Reaction::Respond(shape(answer))
    }

    fn commit_late(self, fault: u64, answer: LateAnswer, until: Until) -> Reaction {
        let (status, reaction) = match answer {
            LateAnswer::Drop => (None, Reaction::Drop),
            LateAnswer::Status(status) => {
                let answer = Answer::html(status_code(status));
                (Some(answer.status), Reaction::Respond(bodies::plain(answer)))
            }
        };
        self.finish(status, false);
        let shared = self.shared.clone();
        shared.spawn(async move {
            match until {
                Until::Milliseconds(delay) => {
                    self.fired(fault);
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                }
                Until::Released => self.held(fault).await,
            }
            self.committed_answer();
            self.completed(fault);
        });
        reaction
    }

    /// The place of this call under another address.
    fn moved_to(&self, base: &str) -> String {
        let path = self.request.path.trim_start_matches('/');
        match &self.request.query {
            Some(query) => format!("{base}{path}?{query}"),
            None => format!("{base}{path}"),
        }
    }
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The list ends with what was registered last.
fn without_newest(mut answer: Answer) -> Answer {
    if let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body)
        && let Some(Value::Array(applications)) = body.get_mut("applications")
    {
        applications.pop();
        answer.body = body.to_string().into_bytes();
        answer.headers.remove(CONTENT_LENGTH);
    }
    answer
}

/// Announced length of a body that breaks off.
pub(crate) fn announced(framing: Framing, whole: usize, kept: usize) -> Option<usize> {
    match framing {
        Framing::ContentLength => Some(whole),
        Framing::Chunked => None,
        Framing::Consistent => Some(kept),
    }
}
