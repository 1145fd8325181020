//! How a request is made, and what its answer means.
//!
//! # Guarantees
//!
//! Every request has a deadline and a limit on the size of its answer. Redirects are not followed. TLS is verified, always.
//! The address is checked when connecting, so that a name cannot lead to the machine itself. No text of an answer
//! reaches an error but known message fields, scrubbed and cut; of a URL host and port, nothing else.

mod address;
mod tls;
mod words;

use std::{
    error::Error as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{
    Method,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use url::Url;
use zeroize::Zeroizing;

pub use self::address::checked_origin;
use self::{
    address::{AddressNotAllowed, CheckedResolver},
    tls::{certificate_flaw, tls_error, trust},
    words::{WORDS_LIMIT, Words},
};
use super::{Caller, Gate};
use crate::{
    metrics::Metrics,
    model::{Class, ExposeSecret, Failure, SecretText},
    reasons::Reason,
};

/// A request that is not answered by then has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// The deadline of a registration; the rules for late answers build on it.
pub const REGISTRATION_DEADLINE: Duration = Duration::from_secs(30);
/// No answer of the services comes near: 200 applications of App ID are about 150 kB.
const BODY_LIMIT: usize = 4 << 20;
/// Nonsense in a row, after which it no longer counts as a hiccup.
const NONSENSE_IS_LASTING: u32 = 3;
/// What all HTTP of the process has in common.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// Whether loopback and link-local addresses may be asked (demo and tests).
    pub allow_local_addresses: bool,
    /// Hosts that may be asked; empty: all.
    pub allowed_hosts: Vec<String>,
    /// PEM certificates to trust besides the built-in roots (`SSL_CERT_FILE`).
    pub extra_roots: Vec<u8>,
    /// Hosts besides IBM's own that get a token of the operator's own account.
    pub iam_hosts: Vec<String>,
    /// Where that token lies.
    pub iam_token_file: PathBuf,
}

/// One tenant of one service: its gate and its own connections.
#[derive(Debug)]
pub struct Tenant {
    service: &'static str,
    gate: Arc<Gate>,
    client: reqwest::Client,
    metrics: Arc<Metrics>,
    nonsense_in_a_row: AtomicU32,
    /// By how many seconds the service's clock was ahead of ours when it last answered.
    ahead_by: AtomicI64,
}

/// What is sent.
#[derive(Debug)]
pub struct Request<'a> {
    /// What we are doing, in our words.
    pub doing: &'static str,
    /// The operation, as metrics name it.
    pub operation: &'static str,
    /// The method.
    pub method: Method,
    /// The address.
    pub url: Url,
    /// The value of `Authorization`.
    pub authorization: Option<SecretText>,
    /// The body.
    pub body: Body<'a>,
    /// The deadline.
    pub deadline: Duration,
}

/// The body of a request.
pub enum Body<'a> {
    /// None.
    Empty,
    /// None, said so: `Content-Length: 0`, which some servers want of a POST.
    Nothing,
    /// A JSON document.
    Json(serde_json::Value),
    /// A form; values may be secret.
    Form(Vec<(&'a str, &'a str)>),
}

/// An answer: its status, and its body, which may hold secrets.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Seconds of `Retry-After`, from its number or its date.
    pub retry_after: Option<Duration>,
    /// When the service sent it, by its own clock.
    pub date: Option<jiff::Timestamp>,
    is_html: bool,
    body: Zeroizing<Vec<u8>>,
}

impl Tenant {
    /// A tenant with its own connections.
    ///
    /// # Errors
    ///
    /// When the certificates cannot be read.
    pub fn new(
        service: &'static str,
        gate: Arc<Gate>,
        settings: &HttpSettings,
        ca_bundle: Option<&[u8]>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Failure> {
        let tls = trust(settings, ca_bundle)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(4)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("cloud-identity-operator/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(CheckedResolver { allow_local_addresses: settings.allow_local_addresses }))
            .build()
            .map_err(|_| {
                Failure::new("preparing connections", Class::Unexpected, Reason::UnexpectedResponse, "the HTTP client could not be built")
            })?;
        Ok(Self { service, gate, client, metrics, nonsense_in_a_row: AtomicU32::new(0), ahead_by: AtomicI64::new(0) })
    }

    /// The service's time in seconds since 1970, as far as it has told: what is signed for it must not depend on a clock that is wrong here.
    #[must_use]
    pub fn time(&self) -> i64 {
        jiff::Timestamp::now().as_second() + self.ahead_by.load(Ordering::Relaxed)
    }

    /// The gate of the tenant.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Makes a request when it is its turn, and returns whatever was answered.
    ///
    /// # Errors
    ///
    /// When the tenant is paused or no complete answer came.
    pub async fn call(&self, caller: &Caller, request: Request<'_>) -> Result<Answer, Failure> {
        let doing = request.doing;
        let nothing_was_sent = || Failure::new(doing, Class::Transient, Reason::InProgress, "nothing was sent");
        self.call_if(caller, request, &|| true).await?.ok_or_else(nothing_was_sent)
    }

    /// The same, unless `still` says no when it is its turn; then nothing is sent.
    ///
    /// # Errors
    ///
    /// When the tenant is paused or no complete answer came.
    pub async fn call_if(
        &self,
        caller: &Caller,
        request: Request<'_>,
        still: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Answer>, Failure> {
        let asked = Instant::now();
        let place = place(&request.url);
        let permit = self.gate.enter(request.doing, &caller.namespace, caller.urgency).await.map_err(|failure| Failure {
            // The gate does not know whom it stands before.
            message: format!("{} to {place}", failure.message),
            ..failure
        })?;
        self.metrics.waited(self.service, asked.elapsed());
        let (doing, operation, changes) = (request.doing, request.operation, request.method != Method::GET);
        if changes && caller.fence.as_ref().is_some_and(|fence| !fence.holds()) {
            return Err(Failure::new(doing, Class::Transient, Reason::InProgress, "another process leads now; nothing was sent"));
        }
        if !still() {
            return Ok(None);
        }
        let begun = Instant::now();
        let deadline = request.deadline;
        let result = tokio::time::timeout(deadline, self.exchange(request)).await.unwrap_or_else(|_| {
            let message = format!("no complete answer from {place} within {} s", deadline.as_secs());
            Err(Failure { may_have_happened: changes, ..Failure::new(doing, Class::Transient, Reason::ServiceUnavailable, message) })
        });
        drop(permit);
        // How long nothing came tells of an outage, and nothing of the budget.
        if result.is_ok() {
            self.gate.took(begun.elapsed());
        }
        if let Some(date) = result.as_ref().ok().and_then(|answer| answer.date) {
            self.ahead_by.store(date.as_second() - jiff::Timestamp::now().as_second(), Ordering::Relaxed);
        }
        let outcome = match &result {
            Ok(answer) => self.note(caller, answer),
            Err(failure) => {
                if failure.class == Class::Transient {
                    self.gate.failed(&failure.message);
                }
                failure.class.as_str()
            }
        };
        self.metrics.remote_call(self.service, operation, outcome, begun.elapsed());
        result.map(Some)
    }

    fn note(&self, caller: &Caller, answer: &Answer) -> &'static str {
        match answer.status {
            _ if answer.asks_for_a_pause() => {
                self.gate.rate_limited(answer.retry_after);
                "rate_limited"
            }
            status @ 500..=599 => {
                self.gate.failed_for(&caller.requester, &format!("it answered {status}"));
                "server_error"
            }
            400..=499 => {
                self.gate.answered();
                "client_error"
            }
            _ => {
                self.gate.answered();
                "success"
            }
        }
    }

    async fn exchange(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let (doing, changes, place) = (request.doing, request.method != Method::GET, place(&request.url));
        let mut builder = self.client.request(request.method, request.url).header(ACCEPT, "application/json");
        if let Some(value) = request.authorization {
            let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|_| {
                Failure::new(doing, Class::Rejected, Reason::CredentialsInvalid, "the credential holds characters that cannot be sent")
            })?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        builder = match &request.body {
            Body::Empty => builder,
            Body::Nothing => builder.header(reqwest::header::CONTENT_LENGTH, "0").body(Vec::new()),
            Body::Json(value) => builder.json(value),
            Body::Form(fields) => builder.form(fields),
        };
        let response = builder.send().await.map_err(|error| no_answer(doing, changes, &place, &error))?;
        let status = response.status().as_u16();
        let (retry_after, date) = (retry_after(response.headers()), date(response.headers()));
        let is_html = response.headers().get(reqwest::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
        let body = bounded(response).await.map_err(|message| Failure {
            may_have_happened: changes,
            status: Some(status),
            ..Failure::new(doing, Class::Transient, Reason::UnexpectedResponse, message)
        })?;
        Ok(Answer { status, retry_after, date, is_html, body })
    }

    /// Reads the JSON body of a success, or says what the answer means.
    ///
    /// # Errors
    ///
    /// Every status outside 2xx, and a body that is not what it should be.
    pub fn read<T: DeserializeOwned>(&self, doing: &'static str, changes: bool, answer: &Answer) -> Result<T, Failure> {
        if !answer.is_success() {
            return Err(answer.failure(doing, changes));
        }
        match serde_json::from_slice(&answer.body) {
            Ok(value) => {
                self.nonsense_in_a_row.store(0, Ordering::Relaxed);
                Ok(value)
            }
            // The error's own text quotes what it read.
            Err(error) => Err(self.nonsense(
                doing,
                changes,
                answer,
                &format!("the answer is not the JSON it should be ({:?} error)", error.classify()),
            )),
        }
    }

    /// A success that is not what it should be: first a hiccup, in the long run a change of the service.
    pub fn nonsense(&self, doing: &'static str, changes: bool, answer: &Answer, message: &str) -> Failure {
        let in_a_row = self.nonsense_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let class = if in_a_row >= NONSENSE_IS_LASTING { Class::Unexpected } else { Class::Transient };
        Failure {
            may_have_happened: changes,
            status: Some(answer.status),
            ..Failure::new(doing, class, Reason::UnexpectedResponse, message)
        }
    }
}

impl std::fmt::Debug for Body<'_> {
    /// Which fields there are: their values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty | Self::Nothing => f.write_str("Empty"),
            Self::Json(_) => f.debug_tuple("Json").finish_non_exhaustive(),
            Self::Form(fields) => f.debug_list().entries(fields.iter().map(|(name, _)| name)).finish(),
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// Whether the status is 2xx: the services' exact codes are irregular and partly unverified.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the body is what a service answers to a change: nothing, or JSON.
    #[must_use]
    pub fn is_empty_or_json(&self) -> bool {
        self.body.is_empty() || (!self.is_html && serde_json::from_slice::<serde::de::IgnoredAny>(&self.body).is_ok())
    }

    /// Whether a refusal speaks of a limit that is reached. No status is documented for that, nor a body, so the words decide.
    #[must_use]
    pub fn speaks_of_a_limit(&self) -> bool {
        self.says(|text| {
            let is_about_a_count = ["limit", "quota", "maximum number"].iter().any(|word| text.contains(word));
            is_about_a_count && ["reached", "exceeded"].iter().any(|word| text.contains(word))
        })
    }

    /// Whether the service asks for fewer requests. App ID documents a block and no status for it; at an edge that may be a 403.
    fn asks_for_a_pause(&self) -> bool {
        self.status == 429 || (self.status == 403 && self.says(|text| text.contains("too many requests")))
    }

    /// Whether a code, a known message field, or a plain text, which is looked at here and never shown, is as described.
    pub(super) fn says(&self, is: impl Fn(&str) -> bool) -> bool {
        let words = Words::read(&self.body);
        let is_text = !self.is_html && !self.is_empty_or_json();
        let text = is_text.then(|| String::from_utf8_lossy(&self.body[..self.body.len().min(WORDS_LIMIT)]).into_owned());
        words.code.into_iter().chain(words.text).chain(text).any(|text| is(&text.to_ascii_lowercase()))
    }

    /// Whether the answer carries this code.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        Words::read(&self.body).code.as_deref() == Some(code)
    }

    /// The failure that a success reports in its body: what some servers do instead of a status.
    #[must_use]
    pub fn refusal_in_a_success(&self, doing: &'static str) -> Option<Failure> {
        let words = Words::read(&self.body);
        words.code.is_some().then(|| self.failure_with(400, &words, doing, false))
    }

    /// The one place where a refusal gets its class and reason. Codes count before the status: IAM answers a wrong key with 400.
    #[must_use]
    pub fn failure(&self, doing: &'static str, changes: bool) -> Failure {
        self.failure_with(self.status, &Words::read(&self.body), doing, changes)
    }

    fn failure_with(&self, status: u16, words: &Words, doing: &'static str, changes: bool) -> Failure {
        let code = words.code.as_deref().unwrap_or_default();
        let (class, reason) = match (code, status) {
            _ if self.asks_for_a_pause() => (Class::RateLimited, Reason::RateLimited),
            ("invalid_client", _) => (Class::Unauthorized, Reason::InvalidClient),
            // Verify's message of a signature that it cannot verify, whatever the code beside it.
            (_, 400) if self.says(|text| text.contains("csiaq0197e")) => (Class::Unauthorized, Reason::InvalidClient),
            ("invalid_grant" | "BXNIM0415E" | "BXNIM0462E", _) | (_, 401) => (Class::Unauthorized, Reason::Unauthorized),
            // Codes of the authorization endpoint that some token endpoints use too (RFC 6749, section 4.1.2.1).
            ("temporarily_unavailable" | "server_error", 400..=499) => (Class::Transient, Reason::ServiceUnavailable),
            (_, 501) => (Class::Unexpected, Reason::UnexpectedResponse),
            (_, 408 | 425 | 500..=599) => (Class::Transient, Reason::ServiceUnavailable),
            // An HTML 403 comes from a gateway in front of the service, not from the service.
            (_, 403) if self.is_html => (Class::Transient, Reason::ServiceUnavailable),
            (_, 300..=499) => (Class::Rejected, Reason::Rejected),
            _ => (Class::Unexpected, Reason::UnexpectedResponse),
        };
        Failure {
            status: Some(self.status),
            retry_after: self.retry_after,
            may_have_happened: changes && class == Class::Transient,
            ..Failure::new(doing, class, reason, words.sentence(self.status))
        }
    }
}

async fn bounded(mut response: reqwest::Response) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|_| "the answer broke off")? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err("the answer is larger than any answer of this service");
        }
        // A growing Vec leaves copies of what it held behind; reserve in large steps and wipe the last one on drop.
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// When an answer was sent, by the clock of who sent it.
#[must_use]
pub fn date(headers: &HeaderMap) -> Option<jiff::Timestamp> {
    jiff::fmt::rfc2822::parse(headers.get(reqwest::header::DATE)?.to_str().ok()?).ok().map(|date| date.timestamp())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    /// A longer pause than this is not believed.
    const MOST: Duration = Duration::from_secs(3600);
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            let now = date(headers).unwrap_or_else(jiff::Timestamp::now);
            Duration::try_from(at.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(MOST))
}

/// Host and port of an address: what of a URL may be shown.
fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What kept a connection from coming about, in words that hold nothing of the address.
fn known_cause(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return match error.kind() {
            ConnectionRefused => Some("refused"),
            ConnectionReset => Some("reset"),
            HostUnreachable | NetworkUnreachable => Some("unreachable"),
            TimedOut => Some("no answer in time"),
            _ => None,
        };
    }
    // The resolver's own error has no type that can be named.
    cause.to_string().contains("dns error").then_some("the name is not known")
}

/// What it means that no answer came. The error's own text holds the URL.
fn no_answer(doing: &'static str, changes: bool, place: &str, error: &reqwest::Error) -> Failure {
    let (mut source, mut cause_known) = (error.source(), None);
    while let Some(cause) = source {
        cause_known = cause_known.or_else(|| known_cause(cause));
        if cause.downcast_ref::<AddressNotAllowed>().is_some() {
            return Failure::new(doing, Class::Rejected, Reason::AddressNotAllowed, AddressNotAllowed.to_string());
        }
        if let Some(rustls::Error::InvalidCertificate(flaw)) = tls_error(cause) {
            let flaw = certificate_flaw(flaw);
            return Failure::new(
                doing,
                Class::Rejected,
                Reason::TlsNotTrusted,
                format!("the certificate of {place} is not trusted ({flaw})"),
            );
        }
        source = cause.source();
    }
    let (message, may_have_happened) = if error.is_connect() {
        let cause = if error.is_timeout() { Some("no answer in time") } else { cause_known };
        (format!("no connection to {place}{}", cause.map(|cause| format!(" ({cause})")).unwrap_or_default()), false)
    } else {
        (format!("the connection to {place} broke off"), changes)
    };
    Failure { may_have_happened, ..Failure::new(doing, Class::Transient, Reason::ServiceUnavailable, message) }
}

#[cfg(test)]
mod tests;
