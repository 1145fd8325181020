//! SecureAuth Identity Store: a token for an API credential, and who it belongs to.
//!
//! Its interface is thinly documented; every fact here was read in documentation or samples, and nothing was tried with the live service. The
//! token call is a POST in samples and a GET in prose: whichever works is remembered. The reply tells no lifetime. Both halves of a
//! credential are secret here: the client id alone may give the secret away.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use reqwest::Method;
use serde::Deserialize;
use url::Url;

use super::{
    Caller, Standing, Tenant, TokenIssuer,
    http::{Answer, Body, DEADLINE, Request},
    oauth::{self, ClientAuthentication},
};
use crate::{
    model::{Class, ClientCredential, ExposeSecret, Failure, IssuedToken, SecretText, TokenRequest},
    reasons::Reason,
};

const ASKING: &str = "getting a token from SecureAuth";
const LOOKING: &str = "reading the caller at SecureAuth (Me)";

/// One identity store of one tenant.
#[derive(Debug)]
pub struct SecureAuth {
    tenant: Tenant,
    origin: Url,
    store: String,
    client: ClientCredential,
    lifetime: Option<Duration>,
    asks_by_get: AtomicBool,
}

#[derive(Deserialize)]
struct Me {
    #[serde(rename = "urn:ietf:params:scim:schemas:extension:secureauth:2.0:User", default)]
    extension: Extension,
}

#[derive(Default, Deserialize)]
struct Extension {
    #[serde(rename = "apiCredentials", default)]
    credentials: Vec<ApiCredential>,
}

#[derive(Deserialize)]
struct ApiCredential {
    #[serde(default)]
    date: Option<Date>,
    #[serde(rename = "clientId", default)]
    client_id: Option<SecretText>,
}

/// Nanoseconds since 1970, as text in the one published example.
#[derive(Deserialize)]
#[serde(untagged)]
enum Date {
    Text(String),
    Number(u128),
    Other(serde::de::IgnoredAny),
}

impl Date {
    fn nanoseconds(&self) -> Option<u128> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Number(number) => Some(*number),
            Self::Other(_) => None,
        }
    }
}

impl SecureAuth {
    /// The store at `origin`, with an API credential.
    #[must_use]
    pub fn new(tenant: Tenant, origin: Url, store: String, client: ClientCredential, lifetime: Option<Duration>) -> Self {
        Self { tenant, origin, store, client, lifetime, asks_by_get: AtomicBool::new(false) }
    }

    /// The store's HTTP side.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The provider's own credential.
    #[must_use]
    pub fn client(&self) -> &ClientCredential {
        &self.client
    }

    /// How long a token is taken to live.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// Whether the credential gets a token, belongs to this store, and its user may call the API; and whether the console has made a newer
    /// credential since.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn probe(&self, caller: &Caller) -> Result<Standing, Failure> {
        let mut answer = self.look(caller).await?;
        if refuses_the_token(&answer) {
            // The token may have been ended with what it came from: another one tells, and no third.
            answer = self.look(caller).await?;
        }
        let me: Me = self.tenant.read(LOOKING, false, &answer).map_err(|failure| explained(failure, &answer))?;
        let newest = me.extension.credentials.iter().max_by_key(|credential| credential.date.as_ref().and_then(Date::nanoseconds));
        let is_ours = |newest: &ApiCredential| newest.client_id.as_ref().is_none_or(|id| id.expose_secret() == self.client.id);
        Ok(Standing { has_newer_credential: newest.is_some_and(|newest| !is_ours(newest)), ..Standing::default() })
    }

    /// Reads the caller with a token that is asked for now.
    async fn look(&self, caller: &Caller) -> Result<Answer, Failure> {
        let issued = self.issue(caller, &TokenRequest::of_client(self.client.clone())).await?;
        let request = Request {
            doing: LOOKING,
            operation: "secure_auth.me",
            method: Method::GET,
            url: self.at(&["api", "v1", "ismanager", "ids", &self.store, "Me"]),
            authorization: Some(format!("Bearer {}", issued.access_token.expose_secret()).into()),
            body: Body::Empty,
            deadline: DEADLINE,
        };
        self.tenant.call(caller, request).await
    }

    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.origin.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(segments);
        }
        url
    }

    async fn call(&self, caller: &Caller, method: Method, client: &ClientCredential) -> Result<Answer, Failure> {
        let request = Request {
            doing: ASKING,
            operation: "secure_auth.token",
            method,
            url: self.at(&["api", "v1", "privy", "ids", &self.store, "g3", "token"]),
            // Both halves as they are: the samples do not encode them first.
            authorization: oauth::basic(client, ClientAuthentication::BasicRaw),
            body: Body::Nothing,
            deadline: DEADLINE,
        };
        self.tenant.call(caller, request).await
    }
}

impl TokenIssuer for SecureAuth {
    async fn issue(&self, caller: &Caller, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        let client = request.client.as_ref().unwrap_or(&self.client);
        let ways = [Method::POST, Method::GET];
        let first = usize::from(self.asks_by_get.load(Ordering::Relaxed));
        let mut answer = self.call(caller, ways[first].clone(), client).await?;
        if answer.status == 405 {
            answer = self.call(caller, ways[1 - first].clone(), client).await?;
            if answer.status != 405 {
                self.asks_by_get.store(first == 0, Ordering::Relaxed);
            }
        }
        oauth::issued(&self.tenant, ASKING, &answer, request).map_err(|failure| match failure.class {
            // No status is documented for a pair that is not accepted; a credential that was made anew in the console ends the former.
            Class::Rejected if failure.status == Some(400) => {
                Failure { class: Class::Unauthorized, reason: Reason::InvalidClient, ..failure }
            }
            _ => explained(failure, &answer),
        })
    }
}

/// Whether an answer speaks of the token, and not of what its user may do: by 401, or, under other statuses, by the one text that is known.
fn refuses_the_token(answer: &Answer) -> bool {
    answer.status == 401 || ([400, 403].contains(&answer.status) && answer.says(|text| text.contains("access token is invalid")))
}

/// What a refusal means here: a status alone is mostly all that can be relied on.
fn explained(failure: Failure, answer: &Answer) -> Failure {
    if failure.class == Class::Rejected && refuses_the_token(answer) {
        return Failure { class: Class::Unauthorized, reason: Reason::Unauthorized, ..failure };
    }
    let reason = match (failure.class, answer.status) {
        (Class::Rejected, 403) => Reason::DeveloperPrivilegeMissing,
        (Class::Rejected, 400 | 404) => Reason::WrongIdentityStore,
        _ => return failure,
    };
    Failure { reason, ..failure }
}
