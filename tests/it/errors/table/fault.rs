//! What goes wrong, and what it should lead to.

use std::time::Duration;

use identity_simulator::{Action, Framing, When};
use jiff::Timestamp;

const GIB: u64 = 1 << 30;
/// What `Retry-After` says in seconds.
pub(super) const TOLD: Duration = Duration::from_secs(6);
/// How far ahead the date in `Retry-After` is, when the fault is set: rows may queue for a while until they meet it.
pub(super) const DATED: Duration = Duration::from_secs(20);
/// App ID's documented block, when nothing is said.
pub(super) const BLOCK: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
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
pub(super) const QUICK: [Fault; 22] = [
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
pub(super) enum Wait {
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
    /// A fifth of what a deletion has.
    Budgeted,
}

pub(super) const CREATE: &str = "app_id.applications.create";
pub(super) const UPDATE: &str = "app_id.applications.update";
pub(super) const DELETE: &str = "app_id.applications.delete";
pub(super) const GET: &str = "app_id.applications.get";
pub(super) const LIST: &str = "app_id.applications.list";
pub(super) const TOKEN: &str = "app_id.token";
pub(super) const IAM: &str = "iam.token";

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
    /// `date` is what `Retry-After` names, where it names a date.
    pub(super) fn action(self, operation: &str, noted: &str, date: Timestamp) -> Action {
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
                let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date);
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
    pub(super) fn expected(self, phase: Phase, operation: &str) -> Option<(&'static str, Wait)> {
        let (reason, wait) = self.reading(operation)?;
        let reason = if operation == UPDATE { "RenameFailed" } else { reason };
        // A deletion has a budget of ten minutes, and five attempts in it.
        Some((reason, if phase == Phase::Deletion && wait == Wait::Refused { Wait::Budgeted } else { wait }))
    }

    fn reading(self, operation: &str) -> Option<(&'static str, Wait)> {
        let is_management = operation != IAM && operation != TOKEN;
        Some(match self {
            Self::BadRequest => ("Rejected", Wait::Refused),
            // Of a key that is new, IAM may not have heard yet.
            Self::Unauthorized if operation == IAM => ("Unauthorized", Wait::Grows),
            // A new credential may not be known to the token endpoint yet: at first it is tried again soon.
            Self::Unauthorized if operation == TOKEN => ("InvalidClient", Wait::Grows),
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

impl Fault {
    /// How long nobody may call a tenant that said this.
    pub(super) fn pause(self) -> Option<Pause> {
        match self {
            Self::LimitedForSeconds => Some(Pause::For(TOLD)),
            Self::Limited => Some(Pause::For(BLOCK)),
            Self::LimitedUntilDate => Some(Pause::UntilDate),
            _ => None,
        }
    }
}

/// What a tenant that asks for fewer requests gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// So long from its answer on.
    For(Duration),
    /// Until the date in the answer.
    UntilDate,
}

impl Wait {
    /// The bounds of the wait in seconds: the least counted from the call that failed, the most from when the status was written. Status and
    /// API server cut times to whole seconds, and the machine may be busy between the two.
    pub(super) fn bounds(self, failures: i32) -> (f64, f64) {
        match self {
            Self::Grows => {
                let doubled = 2.0_f64.powi(failures.max(1)).min(300.0);
                (doubled * 0.8 - 1.0, doubled * 1.2 + 2.0)
            }
            Self::Told(told) => (told.as_secs_f64() - 1.0, told.as_secs_f64() * 1.1 + 2.0),
            // The least is the date itself.
            Self::Dated => (0.0, DATED.as_secs_f64() * 1.1 + 2.0),
            Self::Block => (BLOCK.as_secs_f64() - 1.0, BLOCK.as_secs_f64() * 1.1 + 2.0),
            Self::Budgeted => (119.0, 122.0),
            Self::Refused => (24.0 * 60.0 - 1.0, 36.0 * 60.0 + 2.0),
        }
    }
}

/// The date to name in a fault that is set now, in whole seconds as HTTP has them.
pub(super) fn date() -> Timestamp {
    Timestamp::from_second((Timestamp::now() + DATED).as_second()).expect("in range")
}

/// Where a row happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Creation,
    Change,
    Deletion,
}
