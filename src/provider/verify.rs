//! IBM Verify (formerly IBM Cloud Identity): the token endpoint of a tenant.
//!
//! A tenant has one of three generations of endpoints, or several (Verify documentation, OIDC endpoints). All lie on the tenant's own host;
//! which one answers is found out once and remembered.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use url::Url;

use super::{
    Caller, Standing, Tenant, TokenIssuer,
    http::{Body, DEADLINE, Request},
    oauth::{self, ClientAuthentication, TokenCall},
};
use crate::model::{ClientCredential, ExposeSecret, Failure, IssuedToken, TokenRequest};

/// Issuer and token endpoint of each generation, the current one first.
const GENERATIONS: [(&str, &str); 3] = [
    ("/oauth2", "/oauth2/token"),
    ("/oidc/endpoint/default", "/oidc/endpoint/default/token"),
    ("/oidc/endpoint/default", "/v1.0/endpoint/default/token"),
];

/// One tenant.
#[derive(Debug)]
pub struct Verify {
    tenant: Tenant,
    origin: Url,
    authentication: ClientAuthentication,
    client: ClientCredential,
    /// Which generation answered last.
    generation: AtomicUsize,
}

impl Verify {
    /// The tenant at `origin`, with its API client.
    #[must_use]
    pub fn new(tenant: Tenant, origin: Url, authentication: ClientAuthentication, client: ClientCredential) -> Self {
        Self { tenant, origin, authentication, client, generation: AtomicUsize::new(0) }
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
        const DOING: &str = "listing applications at Verify";
        let issued = self.issue(caller, &TokenRequest::of_client(self.client.clone())).await?;
        let mut url = self.at("/v1.0/applications");
        url.set_query(Some("limit=1"));
        let request = Request {
            doing: DOING,
            operation: "verify.applications.list",
            method: Method::GET,
            url,
            authorization: Some(format!("Bearer {}", issued.access_token.expose_secret()).into()),
            body: Body::Empty,
            deadline: DEADLINE,
        };
        let answer = self.tenant.call(caller, request).await?;
        if answer.is_success() || answer.status == 403 { Ok(Standing::default()) } else { Err(answer.failure(DOING, false)) }
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.origin.clone();
        url.set_path(path);
        url
    }
}

impl TokenIssuer for Verify {
    async fn issue(&self, caller: &Caller, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        let first = self.generation.load(Ordering::Relaxed);
        let mut missing = None;
        for step in 0..GENERATIONS.len() {
            let generation = (first + step) % GENERATIONS.len();
            let (issuer, path) = GENERATIONS[generation];
            let issuer = self.at(issuer);
            let call = TokenCall {
                doing: "getting a token from Verify",
                operation: "verify.token",
                endpoint: self.at(path),
                authentication: self.authentication,
                issuer: issuer.as_str(),
                request,
            };
            match oauth::ask(&self.tenant, caller, call).await {
                // Only that says that the tenant has no such generation.
                Err(failure) if failure.status == Some(404) => missing = missing.or(Some(failure)),
                result => {
                    self.generation.store(generation, Ordering::Relaxed);
                    return result;
                }
            }
        }
        Err(missing.unwrap_or_else(|| {
            Failure::new(
                "getting a token from Verify",
                crate::model::Class::Rejected,
                crate::reasons::Reason::TenantNotFound,
                "no endpoint answers",
            )
        }))
    }
}
