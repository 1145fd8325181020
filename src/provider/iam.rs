//! IBM Cloud IAM: access tokens for API keys, and for trusted profiles that the operator's own account assumes.
//!
//! Source: IAM token endpoint, `POST /identity/token` with the grants `apikey` and `cr-token` of `urn:ibm:params:oauth:grant-type`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    Caller, Standing, Tenant, TokenIssuer,
    inquiry::Inquiry,
    oauth::{self, ClientAuthentication, TokenCall},
};
use crate::{
    model::{Class, ExposeSecret, Failure, Grant, IssuedToken, Life, SecretText, TokenRequest},
    reasons::Reason,
};

/// IBM's address.
pub const DEFAULT_URL: &str = "https://iam.cloud.ibm.com";
/// A new key, or a new Secret with one, may be unknown to IAM for a while.
const PROPAGATION: Duration = Duration::from_secs(120);
/// A failure is shared by everybody who asks within this time, so that a crowd of waiters does not become a crowd of requests.
const FAILURE_IS_SHARED_FOR: Duration = Duration::from_secs(2);
/// A token this young was got by the same look at providers.
const LOOK_IS_SHARED_FOR: Duration = Duration::from_secs(2);
/// When the reply tells no lifetime.
const LIFETIME_UNKNOWN: Duration = Duration::from_secs(600);
/// What we are doing when a token is asked for, as a failure says it.
pub const DOING: &str = "getting a token from IAM";

/// With what a provider asks IAM.
#[derive(Clone, Debug)]
pub enum IamCredential {
    /// An API key.
    ApiKey(SecretText),
    /// A trusted profile, which the operator's own account assumes with a token that lies in a file.
    TrustedProfile {
        /// The form field that names the profile.
        field: &'static str,
        /// Its value.
        value: String,
        /// Where the cluster keeps the account's token fresh.
        token_file: PathBuf,
    },
}

/// One credential at one IAM, with the token it got: shared by everything that uses it.
#[derive(Debug)]
pub struct Iam {
    tenant: Tenant,
    token_endpoint: Url,
    credential: IamCredential,
    known_since: Instant,
    /// Held while a token is fetched, so that one request serves all who wait.
    token: tokio::sync::Mutex<Kept>,
    /// Finds out whether the credential works: nobody waits for that who has a token.
    looking: Inquiry,
}

#[derive(Debug, Default)]
struct Kept {
    token: Option<Arc<IamToken>>,
    failure: Option<(Instant, Failure)>,
}

/// A token, and who it says we are.
#[derive(Debug)]
pub struct IamToken {
    /// The token.
    pub value: SecretText,
    /// Who we are.
    pub standing: Standing,
    fetched_at: Instant,
    use_until: Instant,
}

#[derive(Default, Deserialize)]
struct Claims {
    iam_id: Option<String>,
    account: Option<Account>,
}

#[derive(Deserialize)]
struct Account {
    bss: Option<String>,
}

impl Iam {
    /// A credential at an IAM. `known_for` tells how long a key has been in its Secret.
    #[must_use]
    pub fn new(tenant: Tenant, url: &Url, credential: IamCredential, known_for: Duration) -> Self {
        let mut token_endpoint = url.clone();
        token_endpoint.set_path(&format!("{}/identity/token", url.path().trim_end_matches('/').trim_end_matches("/identity/token")));
        let now = Instant::now();
        Self {
            tenant,
            token_endpoint,
            credential,
            known_since: now.checked_sub(known_for).unwrap_or(now),
            token: tokio::sync::Mutex::default(),
            looking: Inquiry::default(),
        }
    }

    /// A token with at least a fifth of its life left. One request at a time; everybody who waits gets its result.
    ///
    /// # Errors
    ///
    /// When IAM does not give one; a failure less than two seconds old is given again without asking.
    pub async fn token(&self, caller: &Caller) -> Result<Arc<IamToken>, Failure> {
        let asked_at = Instant::now();
        let mut kept = self.token.lock().await;
        let now = Instant::now();
        if let Some(token) = kept.token.as_ref().filter(|token| token.use_until > now) {
            return Ok(token.clone());
        }
        if let Some((at, failure)) = kept.failure.as_ref().filter(|(at, _)| now < *at + FAILURE_IS_SHARED_FOR) {
            tracing::trace!(age = ?now.duration_since(*at), "sharing a failure of IAM");
            let asked_meanwhile = asked_at <= *at;
            // Who asks after the failure may know of a reason why it would go well by now: soon, but not with this crowd.
            let class = match failure.class {
                Class::RateLimited => Class::RateLimited,
                class if asked_meanwhile => class,
                _ => Class::Transient,
            };
            return Err(Failure { class, ..failure.clone() });
        }
        match self.fetch(caller).await {
            Ok(token) => {
                let token = Arc::new(token);
                *kept = Kept { token: Some(token.clone()), failure: None };
                Ok(token)
            }
            Err(failure) => {
                *kept = Kept { token: None, failure: Some((Instant::now(), failure.clone())) };
                Err(failure)
            }
        }
    }

    /// Whether the credential gets a token now: that one lives which it got before tells nothing. Several providers that are looked at
    /// together share one look.
    ///
    /// # Errors
    ///
    /// When IAM does not give one. What was got before is used as long as it lives all the same.
    pub async fn probe(&self, caller: &Caller) -> Result<Standing, Failure> {
        let is_of_this_look = |token: &&Arc<IamToken>| Instant::now() < token.fetched_at + LOOK_IS_SHARED_FOR;
        let known = async || self.token.lock().await.token.as_ref().filter(is_of_this_look).cloned();
        let look = async || {
            let token = Arc::new(self.fetch(caller).await?);
            *self.token.lock().await = Kept { token: Some(token.clone()), failure: None };
            Ok(token)
        };
        self.looking.wait(known, look).await.map(|token| token.standing.clone())
    }

    /// Its HTTP side.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Whether IAM answered the last call.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.tenant.gate().is_answering()
    }

    /// A service refused the token: the next caller gets another one.
    pub async fn refuse(&self, token: &Arc<IamToken>) {
        let mut kept = self.token.lock().await;
        if kept.token.as_ref().is_some_and(|current| Arc::ptr_eq(current, token)) {
            kept.token = None;
        }
    }

    async fn fetch(&self, caller: &Caller) -> Result<IamToken, Failure> {
        let issued = self.issue(caller, &self.own_request()?).await?;
        let claims = claims(issued.access_token.expose_secret());
        let standing = Standing { iam_id: claims.iam_id, account: claims.account.and_then(|account| account.bss), ..Standing::default() };
        let life = Life::told(&issued.told, LIFETIME_UNKNOWN).remaining;
        let now = Instant::now();
        Ok(IamToken { value: issued.access_token, standing, fetched_at: now, use_until: now + life.mul_f64(0.8) })
    }

    /// What asks for a token with the provider's own credential.
    ///
    /// # Errors
    ///
    /// When the operator's own token is not there.
    pub fn own_request(&self) -> Result<TokenRequest, Failure> {
        let known_for = self.known_since.elapsed();
        let grant = match &self.credential {
            IamCredential::ApiKey(key) => Grant::ApiKey { key: key.clone(), known_for },
            IamCredential::TrustedProfile { field, value, token_file } => {
                let missing = |_| {
                    let message = "the operator has no token of its own for IAM: set iamToken.enabled of the chart";
                    Failure::new(DOING, Class::Rejected, Reason::CredentialsNotFound, message)
                };
                let token = std::fs::read_to_string(token_file).map_err(missing)?;
                Grant::ComputeToken { token: token.trim().to_owned().into(), profile: (field, value.clone()), known_for }
            }
        };
        Ok(TokenRequest::of(grant))
    }
}

impl TokenIssuer for Iam {
    async fn issue(&self, caller: &Caller, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        let call = TokenCall {
            doing: DOING,
            operation: "iam.token",
            endpoint: self.token_endpoint.clone(),
            authentication: ClientAuthentication::Basic,
            request,
            issuer: "",
        };
        oauth::ask(&self.tenant, caller, call).await.map_err(|failure| match &request.grant {
            // "Unknown key" right after the key appeared means "not known yet".
            Grant::ApiKey { known_for, .. } if failure.class == Class::Unauthorized && *known_for < PROPAGATION => {
                Failure { class: Class::Transient, ..failure }
            }
            // A profile, or the link to it, may be as new.
            Grant::ComputeToken { known_for, .. } if failure.status == Some(400) && *known_for < PROPAGATION => {
                Failure { class: Class::Transient, reason: Reason::Unauthorized, ..failure }
            }
            Grant::ComputeToken { .. } if failure.status == Some(400) => {
                Failure { class: Class::Unauthorized, reason: Reason::ProfileNotEligible, ..failure }
            }
            _ => failure,
        })
    }
}

/// The account that a token says it is of; `None` where it says nothing. Unverified, like all its claims.
#[must_use]
pub fn account_of(token: &SecretText) -> Option<String> {
    claims(token.expose_secret()).account.and_then(|account| account.bss)
}

/// Claims of a token, unverified: for display and to know our account, never to trust anybody.
fn claims(token: &str) -> Claims {
    oauth::payload(token).and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// Whether a host is IBM's IAM: the only ones, besides those that the operator's flags name, that get a token of the operator's own account.
#[must_use]
pub fn is_ibms(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "iam.cloud.ibm.com"
        || host.ends_with(".iam.cloud.ibm.com")
        || host == "iam.test.cloud.ibm.com"
        || host == "private.iam.test.cloud.ibm.com"
}

/// An API key as it stands in a Secret: the raw key, or the JSON file that IBM Cloud offers for download.
///
/// # Errors
///
/// When it is neither.
pub fn api_key(text: &str) -> Result<SecretText, Failure> {
    let invalid = |message: &str| Failure::new("reading the API key", Class::Rejected, Reason::CredentialsInvalid, message);
    let text = text.trim();
    let key = if text.starts_with('{') {
        let file: serde_json::Value = serde_json::from_str(text).map_err(|_| invalid("it begins like a JSON file but is none"))?;
        file.get("apikey")
            .and_then(|key| key.as_str())
            .map(|key| key.trim().to_owned())
            .ok_or_else(|| invalid("the JSON file has no member apikey"))?
    } else {
        text.to_owned()
    };
    if key.is_empty() {
        return Err(invalid("it is empty"));
    }
    if key.contains(['"', '{', '}']) || key.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(invalid("it holds characters that no API key has"));
    }
    Ok(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ibms_own_hosts_get_the_operators_token() {
        for host in ["iam.cloud.ibm.com", "private.iam.cloud.ibm.com", "private.us-south.iam.cloud.ibm.com", "IAM.cloud.ibm.com"] {
            assert!(is_ibms(host), "{host}");
        }
        for host in ["iam.cloud.ibm.com.evil.example", "eviliam.cloud.ibm.com", "cloud.ibm.com", "127.0.0.1"] {
            assert!(!is_ibms(host), "{host}");
        }
    }

    #[test]
    fn an_api_key_is_read_raw_or_from_ibms_file_and_trimmed() {
        for text in ["abc123", "  abc123\n", r#"{"name":"k","apikey":"abc123","createdAt":"2026"}"#, "{\"apikey\": \" abc123 \"}\n"] {
            assert_eq!(api_key(text).expect(text).expose_secret(), "abc123", "{text}");
        }
        for text in ["", "  \n", "{", r#"{"name":"k"}"#, "\"abc\"", "a b", r#"{"apikey":""}"#] {
            let failure = api_key(text).expect_err(text);
            assert_eq!(failure.reason, Reason::CredentialsInvalid, "{text}");
        }
    }
}
