//! Any OAuth 2.0 or OpenID Connect server: discovery (OpenID Connect Discovery 1.0, RFC 8414) and its token endpoint.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::{
    Caller, HttpSettings, Standing, Tenant, TokenIssuer,
    discovery::{DISCOVERING, Discovery, Document, document},
    http,
    oauth::{self, ClientAuthentication, TokenCall},
};
use crate::{
    model::{Class, ClientCredential, Failure, IssuedToken, TokenRequest},
    reasons::Reason,
};

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
    /// The token endpoint that the document names.
    discovery: Discovery<Url>,
    known_host: Mutex<Option<String>>,
}

impl Oidc {
    /// A server.
    #[must_use]
    pub fn new(tenant: Tenant, settings: OidcSettings, http: HttpSettings) -> Self {
        let known_host = Mutex::new(settings.known_host.clone());
        Self { tenant, settings, http, discovery: Discovery::default(), known_host }
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
        self.discovery.get(async || self.discover(caller).await, tells_something_else).await
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
                let read = async || self.discover(caller).await;
                let found = self.discovery.read_after(Some(asked_at), read, tells_something_else).await?;
                if found == endpoint { Err(failure) } else { oauth::ask(&self.tenant, caller, call(found)).await }
            }
            result => result,
        }
    }
}

/// Whether the document is another one, so that what it said before counts no longer.
fn tells_something_else(failure: &Failure) -> bool {
    [Reason::IssuerMismatch, Reason::EndpointsChanged, Reason::AddressNotAllowed].contains(&failure.reason)
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
    fn only_what_another_document_says_ends_what_is_known() {
        use Class::{RateLimited, Rejected, Transient, Unauthorized, Unexpected};
        for (class, reason, ends) in [
            (Transient, Reason::ServiceUnavailable, false),
            (RateLimited, Reason::RateLimited, false),
            (Unauthorized, Reason::Unauthorized, false),
            (Rejected, Reason::Rejected, false),
            (Rejected, Reason::TlsNotTrusted, false),
            (Rejected, Reason::DiscoveryFailed, false),
            (Unexpected, Reason::UnexpectedResponse, false),
            (Rejected, Reason::IssuerMismatch, true),
            (Rejected, Reason::EndpointsChanged, true),
            (Rejected, Reason::AddressNotAllowed, true),
        ] {
            assert_eq!(tells_something_else(&Failure::new(DISCOVERING, class, reason, "")), ends, "{reason:?}");
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
