//! A proxy between an operator and the API server: it sees each request, and holds, answers or drops those that a test picks.
//!
//! # Expected flow
//!
//! A test starts the operator with [`Interceptor::kubeconfig`], adds a rule ([`Interceptor::intercept`]), waits until it has fired, does its
//! worst to the operator, and releases what is held or leaves it held.
//!
//! # Guarantees
//!
//! * A request that is forwarded is carried out to its end, also when the operator dies meanwhile, as in any network.
//! * What is held *before* it is forwarded has not reached the API server; what is held *after* has been carried out and answered.
//! * Watches, lists, leases and discovery pass unseen.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use control_plane::ControlPlane;
use http::{Method, Request, Response, StatusCode, header::TRANSFER_ENCODING};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1 as client,
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use crate::{Error, PATIENCE};

type Body = BoxBody<Bytes, hyper::Error>;
type Sender = client::SendRequest<Full<Bytes>>;

/// A request that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `get`, `create`, `update`, `patch` or `delete`.
    pub verb: &'static str,
    /// Plural name of the kind.
    pub resource: String,
    /// For instance `status`.
    pub subresource: String,
    /// The object's namespace; empty for a cluster object.
    pub namespace: String,
    /// The object's name; of an event, the name of the object it is about.
    pub name: String,
    /// When it came.
    pub at: Instant,
    /// The answer's status; none while there is none.
    pub status: Option<u16>,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It waits, not yet forwarded, until the rule is released.
    HoldBefore,
    /// It is carried out; its answer waits until the rule is released.
    HoldAfter,
    /// It is not forwarded, and answered with this status.
    Answer(u16),
    /// It is not forwarded, and the connection is closed.
    DropBefore,
    /// It is carried out, and the connection is closed without an answer.
    DropAfter,
    /// It waits so long before it is forwarded.
    Delay(Duration),
}

/// Names a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(usize);

struct Rule {
    matches: Box<dyn Fn(&Seen) -> bool + Send>,
    skip: usize,
    times: usize,
    effect: Effect,
    hits: Vec<Seen>,
    released: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    rules: Vec<Rule>,
}

struct Shared {
    upstream: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// The proxy. It ends with the value, and with the runtime that started it.
pub struct Interceptor {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, resource, subresource, name, .. } = self;
        let slash = if subresource.is_empty() { "" } else { "/" };
        write!(f, "{verb} {resource}{slash}{subresource} {name}")
    }
}

impl Seen {
    /// Whether it creates, changes or deletes.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.verb != "get"
    }

    /// What a request asks for; `None` for what passes unseen.
    fn of(method: &Method, path: &str, query: &str, body: &[u8]) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match segments[..] {
            ["api", _, ref rest @ ..] | ["apis", _, _, ref rest @ ..] => rest,
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, rest) = rest.split_first()?;
        let name = rest.first().copied().unwrap_or_default();
        let verb = match *method {
            Method::GET if name.is_empty() || query.split('&').any(|pair| pair.starts_with("watch=")) => return None,
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return None,
        };
        if *resource == "leases" {
            return None;
        }
        let subject = || {
            let document: Value = serde_json::from_slice(body).unwrap_or_default();
            let name = &document[if *resource == "events" { "regarding" } else { "metadata" }]["name"];
            name.as_str().unwrap_or_default().to_owned()
        };
        Some(Self {
            verb,
            resource: (*resource).to_owned(),
            subresource: rest.get(1).copied().unwrap_or_default().to_owned(),
            namespace: namespace.to_owned(),
            name: if name.is_empty() { subject() } else { name.to_owned() },
            at: Instant::now(),
            status: None,
        })
    }
}

impl Interceptor {
    /// A proxy in front of the control plane's API server.
    ///
    /// # Errors
    ///
    /// When it cannot listen, or the API server's address cannot be read.
    pub async fn start(control_plane: &ControlPlane) -> Result<Self, Error> {
        let url = control_plane.url();
        let authority = url.strip_prefix("https://").ok_or("the API server has an https address")?.trim_end_matches('/');
        let upstream = tokio::net::lookup_host(authority).await?.next().ok_or("the API server has an address")?;
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(control_plane.ca_pem().as_bytes()) {
            roots.add(certificate?)?;
        }
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            name: ServerName::try_from(host.to_owned())?,
            tls: TlsConnector::from(Arc::new(tls)),
            state: Mutex::default(),
            changed: watch::Sender::default(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// Writes a kubeconfig beside `original` that leads through this proxy, with the same credential.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written.
    pub fn kubeconfig(&self, original: &Path) -> Result<PathBuf, Error> {
        let mut document: Value = serde_json::from_str(&std::fs::read_to_string(original)?)?;
        let cluster = &mut document["clusters"][0]["cluster"];
        *cluster = json!({ "server": format!("http://{}", self.address) });
        let path = original.with_extension(format!("{}.kubeconfig", self.address.port()));
        std::fs::write(&path, document.to_string())?;
        Ok(path)
    }

    /// Everything seen so far, in the order of arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// What was seen from a position on.
    #[must_use]
    pub fn seen_since(&self, position: usize) -> Vec<Seen> {
        self.shared.state().seen.get(position..).unwrap_or_default().to_vec()
    }

    /// How many requests were seen so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.shared.state().seen.len()
    }

    /// From now on, of the requests that match, `skip` pass, and then `times` are hit.
    pub fn intercept(&self, matches: impl Fn(&Seen) -> bool + Send + 'static, skip: usize, times: usize, effect: Effect) -> RuleId {
        let mut state = self.shared.state();
        let released = watch::Sender::new(false);
        state.rules.push(Rule { matches: Box::new(matches), skip, times, effect, hits: Vec::new(), released });
        RuleId(state.rules.len() - 1)
    }

    /// The requests that a rule has hit so far. Held, answered or dropped ones are listed once that is so.
    #[must_use]
    pub fn hits(&self, rule: RuleId) -> Vec<Seen> {
        self.shared.state().rules[rule.0].hits.clone()
    }

    /// Waits until a rule has fired; the request it hit first.
    ///
    /// # Panics
    ///
    /// When it does not in [`PATIENCE`].
    pub async fn fired(&self, rule: RuleId) -> Seen {
        let mut changed = self.shared.changed.subscribe();
        let first = async {
            loop {
                if let Some(hit) = self.hits(rule).into_iter().next() {
                    return hit;
                }
                // The sender lives as long as we do.
                drop(changed.changed().await);
            }
        };
        tokio::time::timeout(PATIENCE, first).await.unwrap_or_else(|_| panic!("the rule did not fire; seen: {:#?}", self.seen()))
    }

    /// Lets everything go on that a rule holds, and all that comes later.
    pub fn release(&self, rule: RuleId) {
        self.shared.state().rules[rule.0].released.send_replace(true);
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        drop(stream.set_nodelay(true));
        let shared = shared.clone();
        tokio::spawn(async move {
            // One connection here, one there: what the API server does to it, the operator sees.
            let Ok(sender) = shared.connect().await else { return };
            let sender = Arc::new(tokio::sync::Mutex::new(sender));
            let service = service_fn(move |request| {
                let exchange = exchange(shared.clone(), sender.clone(), request);
                // In a task of its own: it goes on when the operator is gone.
                async move { tokio::spawn(exchange).await.unwrap_or(Err(Closed)) }
            });
            // An error is somebody's leave, or a drop on purpose.
            drop(server::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// The connection ends without an answer.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl std::error::Error for Closed {}

impl From<hyper::Error> for Closed {
    fn from(_: hyper::Error) -> Self {
        Self
    }
}

async fn exchange(
    shared: Arc<Shared>,
    sender: Arc<tokio::sync::Mutex<Sender>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let seen = Seen::of(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default(), &body);
    let request = Request::from_parts(parts, Full::new(body));
    let Some(seen) = seen else {
        let response = sender.lock().await.send_request(request).await?;
        return Ok(response.map(BodyExt::boxed));
    };
    let (position, hit) = shared.note(&seen);
    let hit_by = |rule: Option<(usize, Effect)>, effect: Effect| rule.filter(|(_, is)| *is == effect).map(|(rule, _)| rule);
    match hit {
        Some((rule, Effect::HoldBefore)) => shared.held(rule, seen.clone()).await,
        Some((rule, Effect::Answer(status))) => {
            shared.fired(rule, Seen { status: Some(status), ..seen });
            return Ok(refusal(status));
        }
        Some((rule, Effect::DropBefore)) => {
            shared.fired(rule, seen);
            return Err(Closed);
        }
        Some((rule, Effect::Delay(pause))) => {
            shared.fired(rule, seen.clone());
            tokio::time::sleep(pause).await;
        }
        _ => {}
    }
    let response = sender.lock().await.send_request(request).await?;
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    parts.headers.remove(TRANSFER_ENCODING);
    let answered = Seen { status: Some(parts.status.as_u16()), ..seen };
    shared.answered(position, parts.status.as_u16());
    if let Some(rule) = hit_by(hit, Effect::HoldAfter) {
        shared.held(rule, answered.clone()).await;
    }
    if let Some(rule) = hit_by(hit, Effect::DropAfter) {
        shared.fired(rule, answered);
        return Err(Closed);
    }
    Ok(Response::from_parts(parts, full(body)))
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

/// What the API server says when it is not well.
fn refusal(status: u16) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = match status.as_u16() {
        409 => "Conflict",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let document = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "answered by the interceptor", "reason": reason, "code": status.as_u16(),
    });
    let mut response = Response::new(full(Bytes::from(document.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked meanwhile leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Sender, Error> {
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        let (sender, connection) = client::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Takes a request in; the rule that hits it is the first whose window is open. Every rule that matches counts it.
    fn note(&self, seen: &Seen) -> (usize, Option<(usize, Effect)>) {
        let mut state = self.state();
        state.seen.push(seen.clone());
        let position = state.seen.len() - 1;
        let mut hit = None;
        for (index, rule) in state.rules.iter_mut().enumerate() {
            if !(rule.matches)(seen) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 && hit.is_none() {
                rule.times -= 1;
                hit = Some((index, rule.effect));
            }
        }
        (position, hit)
    }

    fn answered(&self, position: usize, status: u16) {
        self.state().seen[position].status = Some(status);
    }

    fn fired(&self, rule: usize, seen: Seen) {
        self.state().rules[rule].hits.push(seen);
        self.changed.send_replace(());
    }

    async fn held(&self, rule: usize, seen: Seen) {
        let mut released = self.state().rules[rule].released.subscribe();
        self.fired(rule, seen);
        // The sender lives as long as we do.
        drop(released.wait_for(|released| *released).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_the_api_server_names_them() {
        let event = br#"{"regarding":{"name":"storefront"}}"#;
        for (method, path, query, expected) in [
            (Method::GET, "/api/v1/namespaces/shop/secrets/storefront", "", Some("get secrets storefront")),
            (Method::GET, "/api/v1/namespaces/shop/secrets", "", None),
            (Method::GET, "/api/v1/namespaces/shop/secrets", "watch=true", None),
            (Method::GET, "/api/v1/namespaces/kube-system", "", Some("get namespaces kube-system")),
            (Method::GET, "/apis/cloudidentity.dev/v1alpha1", "", None),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/shop/leases/one", "", None),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/shop/events", "", Some("create events storefront")),
            (
                Method::PATCH,
                "/apis/cloudidentity.dev/v1alpha1/namespaces/shop/appidapplications/storefront/status",
                "fieldManager=x",
                Some("patch appidapplications/status storefront"),
            ),
        ] {
            let seen = Seen::of(&method, path, query, event).map(|seen| seen.to_string());
            assert_eq!(seen.as_deref(), expected, "{method} {path}?{query}");
        }
    }
}
