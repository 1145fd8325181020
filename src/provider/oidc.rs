//! Any OAuth 2.0 or OpenID Connect server: discovery (OpenID Connect Discovery 1.0, RFC 8414) and its token endpoint.

use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    Caller, HttpSettings, Standing, Tenant, TokenIssuer,
    http::{self, Body, DEADLINE, Request},
    oauth::{self, ClientAuthentication, TokenCall},
};
use crate::{
    model::{Class, ClientCredential, Failure, IssuedToken, TokenRequest},
    reasons::Reason,
};

const DISCOVERING: &str = "reading the discovery document";
/// A discovery document is read again after this long.
pub(super) const DISCOVERED_FOR: Duration = Duration::from_secs(3600);

/// What is known of a server before it is asked.
#[derive(Debug)]
pub struct OidcSettings {
    /// The issuer, whose discovery document is read.
    pub issuer: Option<Url>,
    /// The issuer as it was written: what the document must name, unless `expected_issuer` says otherwise.
    pub issuer_text: String,
    /// What the document must name.
    pub expected_issuer: Option<String>,
    /// The token endpoint, instead of what is discovered.
    pub token_endpoint: Option<Url>,
    /// How clients authenticate.
    pub authentication: ClientAuthentication,
    /// The provider's own client.
    pub client: Option<ClientCredential>,
    /// How long a token is taken to live where nothing tells.
    pub lifetime: Option<Duration>,
    /// Host of the token endpoint when it was last seen.
    pub known_host: Option<String>,
    /// Host of a token endpoint that a person accepted.
    pub accepted_host: Option<String>,
}

/// One server.
#[derive(Debug)]
pub struct Oidc {
    tenant: Tenant,
    settings: OidcSettings,
    http: HttpSettings,
    discovered: Mutex<Option<Discovered>>,
    /// Held while the document is read, so that one request serves all who wait.
    reading: tokio::sync::Mutex<()>,
    known_host: Mutex<Option<String>>,
}

/// The token endpoint that the document named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Discovered {
    endpoint: Url,
    read_at: Instant,
    read_again_at: Instant,
}

/// After a failure it is left alone for this long, where the endpoint is known from before.
pub(super) const FAILED_FOR: Duration = Duration::from_secs(60);

/// A discovery document, as far as it is needed.
#[derive(Deserialize)]
pub(super) struct Document {
    /// The server's own name.
    pub(super) issuer: String,
    /// Where it gives tokens.
    pub(super) token_endpoint: Option<String>,
}

/// Reads a discovery document; the inner failure says that there is none at this place.
///
/// # Errors
///
/// When the server does not answer, or something else lies there.
pub(super) async fn document(
    tenant: &Tenant,
    caller: &Caller,
    operation: &'static str,
    url: Url,
) -> Result<Result<Document, Failure>, Failure> {
    let request =
        Request { doing: DISCOVERING, operation, method: Method::GET, url, authorization: None, body: Body::Empty, deadline: DEADLINE };
    let answer = tenant.call(caller, request).await?;
    if answer.status == 404 {
        return Ok(Err(answer.failure(DISCOVERING, false)));
    }
    tenant.read(DISCOVERING, false, &answer).map(Ok)
}

impl Oidc {
    /// A server.
    #[must_use]
    pub fn new(tenant: Tenant, settings: OidcSettings, http: HttpSettings) -> Self {
        let known_host = Mutex::new(settings.known_host.clone());
        Self { tenant, settings, http, discovered: Mutex::default(), reading: tokio::sync::Mutex::default(), known_host }
    }

    /// The server's HTTP side.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The provider's own client.
    #[must_use]
    pub fn client(&self) -> Option<&ClientCredential> {
        self.settings.client.as_ref()
    }

    /// How long a token is taken to live where nothing tells.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.settings.lifetime
    }

    /// Whether the server can be used: its endpoints are found, and its own client, if there is one, gets a token.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub async fn probe(&self, caller: &Caller) -> Result<Standing, Failure> {
        let endpoint = self.token_endpoint(caller).await?;
        if let Some(client) = &self.settings.client {
            self.issue(caller, &TokenRequest::of_client(client.clone())).await?;
        }
        Ok(Standing { endpoints_host: endpoint.host_str().map(ToOwned::to_owned), ..Standing::default() })
    }

    async fn token_endpoint(&self, caller: &Caller) -> Result<Url, Failure> {
        if let Some(explicit) = &self.settings.token_endpoint {
            return Ok(explicit.clone());
        }
        let asked_at = Instant::now();
        let Some(known) = self.known() else { return self.read(caller, |_| true).await };
        if asked_at < known.read_again_at {
            return Ok(known.endpoint);
        }
        // One reads it again; the others go on with what is known.
        let Ok(reading) = self.reading.try_lock() else { return Ok(known.endpoint) };
        let found = self.discover(caller).await;
        self.learn(&found);
        drop(reading);
        found.or_else(|failure| self.known().map(|known| known.endpoint).ok_or(failure))
    }

    /// Reads the document, unless one that was read meanwhile will do.
    async fn read(&self, caller: &Caller, will_do: impl Fn(&Discovered) -> bool) -> Result<Url, Failure> {
        let _reading = self.reading.lock().await;
        if let Some(known) = self.known().filter(will_do) {
            return Ok(known.endpoint);
        }
        let found = self.discover(caller).await;
        self.learn(&found);
        found
    }

    fn known(&self) -> Option<Discovered> {
        self.discovered.lock().clone()
    }

    fn learn(&self, found: &Result<Url, Failure>) {
        let mut discovered = self.discovered.lock();
        *discovered = learned(discovered.take(), found, Instant::now());
    }

    async fn discover(&self, caller: &Caller) -> Result<Url, Failure> {
        let rejected = |reason, message: String| Failure::new(DISCOVERING, Class::Rejected, reason, message);
        let Some(issuer) = &self.settings.issuer else {
            return Err(rejected(Reason::InvalidSpec, "the provider names neither issuer nor tokenEndpoint".to_owned()));
        };
        let mut missing = None;
        for url in places(issuer) {
            match document(&self.tenant, caller, "oidc.discovery", url).await? {
                Ok(document) => return self.endpoint_of(&document),
                Err(failure) => drop(missing.get_or_insert(failure)),
            }
        }
        let failure = missing.unwrap_or_else(|| rejected(Reason::DiscoveryFailed, String::new()));
        let message = format!("{} at every place where a discovery document may lie", failure.message);
        Err(Failure { reason: Reason::DiscoveryFailed, message, ..failure })
    }

    fn endpoint_of(&self, document: &Document) -> Result<Url, Failure> {
        let rejected = |reason, message: String| Failure::new(DISCOVERING, Class::Rejected, reason, message);
        let expected = self.settings.expected_issuer.as_deref().unwrap_or(&self.settings.issuer_text);
        if document.issuer != expected {
            let message = "the document names another issuer than the one it was read for, character for character";
            return Err(rejected(Reason::IssuerMismatch, message.to_owned()));
        }
        let Some(text) = &document.token_endpoint else {
            return Err(rejected(Reason::DiscoveryFailed, "the document names no token endpoint".to_owned()));
        };
        let endpoint = http::checked_origin(DISCOVERING, text, &self.http)?;
        let host = endpoint.host_str().unwrap_or_default().to_owned();
        let mut known = self.known_host.lock();
        let is_accepted = self.settings.accepted_host.as_ref() == Some(&host);
        match known.as_ref() {
            Some(before) if *before != host && !is_accepted => Err(rejected(
                Reason::EndpointsChanged,
                format!(
                    "the token endpoint was at {before} and is now at {host}; if that is right, annotate the provider cloudidentity.dev/accept-endpoints: {host}"
                ),
            )),
            _ => {
                *known = Some(host);
                Ok(endpoint)
            }
        }
    }
}

impl TokenIssuer for Oidc {
    async fn issue(&self, caller: &Caller, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        let issuer = self.settings.expected_issuer.as_deref().unwrap_or(&self.settings.issuer_text);
        let call = |endpoint: Url| TokenCall {
            doing: "getting a token",
            operation: "oidc.token",
            endpoint,
            authentication: self.settings.authentication,
            issuer,
            request,
        };
        let asked_at = Instant::now();
        let endpoint = self.token_endpoint(caller).await?;
        match oauth::ask(&self.tenant, caller, call(endpoint.clone())).await {
            // The endpoint may have moved since it was discovered.
            Err(failure) if failure.status == Some(404) && self.settings.token_endpoint.is_none() => {
                let found = self.read(caller, |known| known.read_at >= asked_at).await?;
                if found == endpoint { Err(failure) } else { oauth::ask(&self.tenant, caller, call(found)).await }
            }
            result => result,
        }
    }
}

/// What is known once the document was asked for. What was good before is good enough until the document tells something else; where it cannot be
/// read, it is asked for again a little later.
fn learned(known: Option<Discovered>, found: &Result<Url, Failure>, now: Instant) -> Option<Discovered> {
    const TELLS_SOMETHING_ELSE: [Reason; 3] = [Reason::IssuerMismatch, Reason::EndpointsChanged, Reason::AddressNotAllowed];
    match found {
        Ok(endpoint) => Some(Discovered { endpoint: endpoint.clone(), read_at: now, read_again_at: now + DISCOVERED_FOR }),
        Err(failure) if TELLS_SOMETHING_ELSE.contains(&failure.reason) => None,
        Err(_) => known.map(|known| Discovered { read_again_at: now + FAILED_FOR, ..known }),
    }
}

/// Where a discovery document may lie: behind the issuer, or between its host and path (RFC 8414, section 3.1, and section 5).
fn places(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/').to_owned();
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    let mut places = vec![at(format!("{path}/.well-known/openid-configuration"))];
    for name in ["oauth-authorization-server", "openid-configuration"] {
        let place = at(format!("/.well-known/{name}{path}"));
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_was_found_once_is_used_until_the_document_tells_something_else() {
        use Class::{RateLimited, Rejected, Transient, Unauthorized, Unexpected};
        let endpoint = Url::parse("https://h/token").expect("a URL");
        let begun = Instant::now();
        let found = learned(None, &Ok(endpoint.clone()), begun).expect("it is known");
        let later = begun + DISCOVERED_FOR;
        assert_eq!((&found.endpoint, found.read_at, found.read_again_at), (&endpoint, begun, later));
        for (class, reason, stays) in [
            (Transient, Reason::ServiceUnavailable, true),
            (RateLimited, Reason::RateLimited, true),
            (Unauthorized, Reason::Unauthorized, true),
            (Rejected, Reason::Rejected, true),
            (Rejected, Reason::TlsNotTrusted, true),
            (Rejected, Reason::DiscoveryFailed, true),
            (Unexpected, Reason::UnexpectedResponse, true),
            (Rejected, Reason::IssuerMismatch, false),
            (Rejected, Reason::EndpointsChanged, false),
            (Rejected, Reason::AddressNotAllowed, false),
        ] {
            let failed = Err(Failure::new(DISCOVERING, class, reason, ""));
            let kept = stays.then(|| Discovered { read_again_at: later + FAILED_FOR, ..found.clone() });
            assert_eq!(learned(Some(found.clone()), &failed, later), kept, "{reason:?}");
            assert_eq!(learned(None, &failed, later), None, "{reason:?}: nothing was known");
        }
    }

    #[test]
    fn a_document_is_looked_for_where_the_standards_put_it() {
        let of = |issuer: &str| places(&Url::parse(issuer).expect("a URL")).iter().map(Url::to_string).collect::<Vec<_>>();
        assert_eq!(
            of("https://h/a/b/"),
            [
                "https://h/a/b/.well-known/openid-configuration",
                "https://h/.well-known/oauth-authorization-server/a/b",
                "https://h/.well-known/openid-configuration/a/b",
            ]
        );
        assert_eq!(of("https://h"), ["https://h/.well-known/openid-configuration", "https://h/.well-known/oauth-authorization-server"]);
    }
}
