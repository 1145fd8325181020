//! The simulated services. Each is a file: it names the operation of a request and carries it out on the [`World`].
//!
//! Carrying out is synchronous and happens under the lock, so that a change is made completely or not at all.

mod app_id;
mod iam;
mod oauth;
mod oidc;
mod secure_auth;
mod verify;

pub(crate) use oauth::public_key;

use crate::world::World;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a listener stands for.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// `iam`, a region, or the fault of its certificate.
    pub(crate) name: String,
    /// What answers here that is neither IAM nor App ID.
    pub(crate) service: Option<TokenService>,
    /// Whether IAM answers here.
    pub(crate) serves_iam: bool,
    /// The region whose App ID answers here.
    pub(crate) region: Option<String>,
}

/// A service with a listener of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenService {
    /// The generic servers.
    Oidc,
    /// The endpoints of generic servers that are not at the host of their issuer.
    OidcElsewhere,
    /// IBM Verify.
    Verify,
    /// SecureAuth Identity Store.
    SecureAuth,
}

/// A request that was read completely.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) listener: std::sync::Arc<Listener>,
    pub(crate) method: Method,
    /// Path without the query, as it came.
    pub(crate) path: String,
    /// Query, as it came.
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: axum::body::Bytes,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) operation: &'static str,
    pub(crate) tenant: Option<String>,
    /// Id in the path, of an application or a role.
    pub(crate) id: Option<String>,
}

/// What a service says.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Boxed, because an answer is also what a refused call returns as its error.
    pub(crate) headers: Box<HeaderMap>,
    pub(crate) body: Vec<u8>,
    /// Whether the state was changed.
    pub(crate) committed: bool,
}

/// Which operation a request is. Every request is one, if only `iam.unknown`.
pub(crate) fn route(request: &Request) -> Route {
    let segments: Vec<String> =
        request.path.trim_matches('/').split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned()).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match request.listener.service {
        Some(TokenService::Oidc | TokenService::OidcElsewhere) => return oidc::route(&request.method, &segments),
        Some(TokenService::Verify) => return verify::route(&request.method, &segments),
        Some(TokenService::SecureAuth) => return secure_auth::route(&request.method, &segments),
        None => {}
    }
    let is_iam = matches!(segments[..], ["identity" | "oidc", ..]);
    if request.listener.serves_iam && (is_iam || request.listener.region.is_none()) {
        iam::route(&request.method, &segments)
    } else {
        app_id::route(&request.method, &segments)
    }
}

/// Carries a request out.
pub(crate) fn handle(world: &mut World, request: &Request, route: &Route) -> Answer {
    match request.listener.service {
        Some(TokenService::Oidc | TokenService::OidcElsewhere) => oidc::handle(world, request, route),
        Some(TokenService::Verify) => verify::handle(world, request, route),
        Some(TokenService::SecureAuth) => secure_auth::handle(world, request, route),
        None if route.operation.starts_with("iam.") => iam::handle(world, request, route),
        None => app_id::handle(world, request, route),
    }
}

impl Route {
    pub(crate) fn new(operation: &'static str) -> Self {
        Self { operation, tenant: None, id: None }
    }

    pub(crate) fn tenant(mut self, tenant: &str) -> Self {
        self.tenant = Some(tenant.to_owned());
        self
    }

    pub(crate) fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }
}

impl Request {
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The token after `Bearer`.
    fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header(&AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// User and password of HTTP Basic, raw: neither half is form-encoded (App ID 6.4).
    fn basic(&self) -> Option<(String, String)> {
        let (scheme, encoded) = self.header(&AUTHORIZATION)?.split_once(' ')?;
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        scheme.eq_ignore_ascii_case("basic").then(|| (user.to_owned(), password.to_owned()))
    }

    fn media_type(&self) -> String {
        let value = self.header(&CONTENT_TYPE).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The fields of a URL-encoded form; none when the body is declared as something else.
    fn form(&self) -> BTreeMap<String, String> {
        match self.media_type().as_str() {
            "application/x-www-form-urlencoded" | "" => url::form_urlencoded::parse(&self.body).into_owned().collect(),
            _ => BTreeMap::new(),
        }
    }

    /// The fields of a form in any of the encodings that official clients of App ID use (App ID 6.4).
    fn any_form(&self) -> BTreeMap<String, String> {
        match self.media_type().as_str() {
            "application/json" => json_fields(&self.body),
            "multipart/form-data" => self.multipart_fields(),
            _ => self.form(),
        }
    }

    fn multipart_fields(&self) -> BTreeMap<String, String> {
        let content_type = self.header(&CONTENT_TYPE).unwrap_or_default();
        let Some(boundary) = content_type.split(';').find_map(|part| part.trim().strip_prefix("boundary=")) else {
            return BTreeMap::new();
        };
        let text = String::from_utf8_lossy(&self.body);
        let delimiter = format!("--{}", boundary.trim_matches('"'));
        text.split(delimiter.as_str()).filter_map(multipart_field).collect()
    }
}

/// One part of a multipart form: its headers, an empty line, its value.
fn multipart_field(part: &str) -> Option<(String, String)> {
    let (headers, value) = part.split_once("\r\n\r\n")?;
    let name = headers.split("name=\"").nth(1)?.split('"').next()?;
    Some((name.to_owned(), value.strip_suffix("\r\n").unwrap_or(value).to_owned()))
}

fn json_fields(body: &[u8]) -> BTreeMap<String, String> {
    let fields: BTreeMap<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    fields.into_iter().map(|(name, value)| (name, text(value))).collect()
}

impl Answer {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Box::default(), body: Vec::new(), committed: false }
    }

    pub(crate) fn json(status: StatusCode, value: &Value) -> Self {
        Self { body: value.to_string().into_bytes(), ..Self::empty(status) }.header(CONTENT_TYPE, "application/json")
    }

    pub(crate) fn text(status: StatusCode, text: &str) -> Self {
        Self { body: text.as_bytes().to_vec(), ..Self::empty(status) }.header(CONTENT_TYPE, "text/plain; charset=utf-8")
    }

    pub(crate) fn html(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("Error");
        let page = format!(
            "<!DOCTYPE html><html><head><title>{code} {reason}</title></head><body><h1>{code} {reason}</h1><hr><p>gateway</p></body></html>\n",
            code = status.as_u16()
        );
        Self { body: page.into_bytes(), ..Self::empty(status) }.header(CONTENT_TYPE, "text/html; charset=utf-8")
    }

    /// Sets a header. A value that HTTP does not allow is left out.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(crate) fn committed(mut self) -> Self {
        self.committed = true;
        self
    }
}
