//! IBM Verify (formerly IBM Cloud Identity): the token endpoint of a tenant.
//!
//! A tenant has one of three generations of endpoints, or several (Verify documentation, OIDC endpoints). Its discovery document tells which;
//! where there is none, they are tried in turn, and the one that answers is remembered. All lie on the tenant's own host: a document that names
//! another one is not followed.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use url::Url;

use super::{
    Caller, Standing, Tenant, TokenIssuer,
    discovery::{DISCOVERED_FOR, Discovery, Document, FAILED_FOR, document},
    http::{Answer, Body, DEADLINE, Request},
    oauth::{self, ClientAuthentication, TokenCall},
};
use crate::{
    model::{Class, ClientCredential, ExposeSecret, Failure, IssuedToken, TokenRequest},
    reasons::Reason,
};

const DOING: &str = "getting a token from Verify";

/// Issuer and path of each generation, the current one first: below it lie the token endpoint and the discovery document.
const GENERATIONS: [(&str, &str); 3] =
    [("/oauth2", "/oauth2"), ("/oidc/endpoint/default", "/oidc/endpoint/default"), ("/oidc/endpoint/default", "/v1.0/endpoint/default")];

const LISTING: &str = "listing applications at Verify";

/// One tenant.
#[derive(Debug)]
pub struct Verify {
    tenant: Tenant,
    origin: Url,
    authentication: ClientAuthentication,
    client: ClientCredential,
    /// Which generation answered last.
    generation: AtomicUsize,
    /// What the discovery document says; `None`: the tenant has none that can be used.
    discovery: Discovery<Option<Endpoint>>,
}

/// Where tokens come from.
#[derive(Clone, Debug)]
struct Endpoint {
    issuer: String,
    token: Url,
}

impl Verify {
    /// The tenant at `origin`, with its API client.
    #[must_use]
    pub fn new(tenant: Tenant, origin: Url, authentication: ClientAuthentication, client: ClientCredential) -> Self {
        Self { tenant, origin, authentication, client, generation: AtomicUsize::new(0), discovery: Discovery::default() }
    }

    /// The tenant's HTTP side.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The provider's own client.
    #[must_use]
    pub fn client(&self) -> &ClientCredential {
        &self.client
    }

    /// Whether the API client gets a token, and the API takes it. An API client without the right to list applications is none the worse.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn probe(&self, caller: &Caller) -> Result<Standing, Failure> {
        let mut answer = self.list(caller).await?;
        if answer.status == 401 {
            // The token may have been ended with what it came from: another one tells, and no third.
            answer = self.list(caller).await?;
        }
        if answer.is_success() || answer.status == 403 { Ok(Standing::default()) } else { Err(answer.failure(LISTING, false)) }
    }

    /// Lists one application with a token that is asked for now.
    async fn list(&self, caller: &Caller) -> Result<Answer, Failure> {
        let issued = self.issue(caller, &TokenRequest::of_client(self.client.clone())).await?;
        let mut url = self.at("/v1.0/applications");
        url.set_query(Some("limit=1"));
        let request = Request {
            doing: LISTING,
            operation: "verify.applications.list",
            method: Method::GET,
            url,
            authorization: Some(format!("Bearer {}", issued.access_token.expose_secret()).into()),
            body: Body::Empty,
            deadline: DEADLINE,
        };
        self.tenant.call(caller, request).await
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.origin.clone();
        url.set_path(path);
        url
    }

    /// What the discovery document says. Whatever goes wrong with it, the known endpoints are still there to be tried.
    async fn discovered(&self, caller: &Caller) -> Option<Endpoint> {
        let found = self.discovery.get(async || self.discover(caller).await, |_| false).await;
        // It may be there a little later.
        found.unwrap_or_else(|_| self.discovery.put_if_unknown(None, FAILED_FOR))
    }

    async fn discover(&self, caller: &Caller) -> Result<Option<Endpoint>, Failure> {
        for (_, path) in GENERATIONS {
            let url = self.at(&format!("{path}/.well-known/openid-configuration"));
            if let Ok(document) = document(&self.tenant, caller, "verify.discovery", url).await? {
                return Ok(self.endpoint_of(document));
            }
        }
        Ok(None)
    }

    fn endpoint_of(&self, document: Document) -> Option<Endpoint> {
        let token = Url::parse(&document.token_endpoint?).ok()?;
        let is_plain = token.username().is_empty() && token.password().is_none() && token.query().is_none() && token.fragment().is_none();
        (is_plain && token.origin() == self.origin.origin()).then_some(Endpoint { issuer: document.issuer, token })
    }

    async fn ask(&self, caller: &Caller, request: &TokenRequest, endpoint: &Endpoint) -> Result<IssuedToken, Failure> {
        let call = TokenCall {
            doing: DOING,
            operation: "verify.token",
            endpoint: endpoint.token.clone(),
            authentication: self.authentication,
            issuer: &endpoint.issuer,
            request,
        };
        oauth::ask(&self.tenant, caller, call).await
    }
}

impl TokenIssuer for Verify {
    async fn issue(&self, caller: &Caller, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        // Only that says that the tenant has no such endpoint.
        let is_missing = |failure: &Failure| failure.status == Some(404);
        let (mut missing, mut led_nowhere) = (None, None);
        if let Some(endpoint) = self.discovered(caller).await {
            match self.ask(caller, request, &endpoint).await {
                Err(failure) if is_missing(&failure) => (missing, led_nowhere) = (Some(failure), Some(endpoint.token)),
                result => return result,
            }
        }
        let first = self.generation.load(Ordering::Relaxed);
        for step in 0..GENERATIONS.len() {
            let generation = (first + step) % GENERATIONS.len();
            let (issuer, path) = GENERATIONS[generation];
            let endpoint = Endpoint { issuer: self.at(issuer).into(), token: self.at(&format!("{path}/token")) };
            if led_nowhere.as_ref() == Some(&endpoint.token) {
                continue;
            }
            match self.ask(caller, request, &endpoint).await {
                Err(failure) if is_missing(&failure) => missing = missing.or(Some(failure)),
                Ok(issued) => {
                    self.generation.store(generation, Ordering::Relaxed);
                    if led_nowhere.is_some() {
                        // The document is of no use until it is read again.
                        self.discovery.put(None, DISCOVERED_FOR);
                    }
                    return Ok(issued);
                }
                Err(failure) => return Err(failure),
            }
        }
        self.discovery.forget();
        Err(missing.unwrap_or_else(|| Failure::new(DOING, Class::Rejected, Reason::TenantNotFound, "no endpoint answers")))
    }
}
