//! IBM Cloud IAM: access tokens for API keys.
//!
//! Source: IAM token endpoint, `POST /identity/token` with `grant_type=urn:ibm:params:oauth:grant-type:apikey`.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Method;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    Caller, Standing, Tenant,
    http::{Body, DEADLINE, Request},
};
use crate::{
    model::{Class, ExposeSecret, Failure, SecretText},
    reasons::Reason,
};

/// IBM's address.
pub const DEFAULT_URL: &str = "https://iam.cloud.ibm.com";
/// A new key, or a new Secret with one, may be unknown to IAM for a while.
const PROPAGATION: Duration = Duration::from_secs(120);
/// A failure is shared by everybody who asks within this time, so that a crowd of waiters does not become a crowd of requests.
const FAILURE_IS_SHARED_FOR: Duration = Duration::from_secs(2);
/// When the reply tells no lifetime.
const LIFETIME_UNKNOWN: Duration = Duration::from_secs(600);
/// What we are doing when a token is asked for, as a failure says it.
pub const DOING: &str = "getting a token from IAM";

/// One API key at one IAM, with the token it got: shared by everything that uses the key.
#[derive(Debug)]
pub struct Iam {
    tenant: Tenant,
    token_endpoint: Url,
    api_key: SecretText,
    known_since: Instant,
    /// Held while a token is fetched, so that one request serves all who wait.
    token: tokio::sync::Mutex<Kept>,
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
    use_until: Instant,
}

#[derive(Deserialize)]
struct Reply {
    access_token: Option<SecretText>,
    expires_in: Option<Number>,
    expiration: Option<Number>,
}

/// IAM documents numbers; some gateways print them as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(f64),
    Text(String),
}

#[derive(Default, Deserialize)]
struct Claims {
    iam_id: Option<String>,
    account: Option<Account>,
    iat: Option<f64>,
    exp: Option<f64>,
}

#[derive(Deserialize)]
struct Account {
    bss: Option<String>,
}

impl Iam {
    /// An API key at an IAM. `known_for` tells how long the key has been in its Secret.
    #[must_use]
    pub fn new(tenant: Tenant, url: &Url, api_key: SecretText, known_for: Duration) -> Self {
        let mut token_endpoint = url.clone();
        token_endpoint.set_path(&format!("{}/identity/token", url.path().trim_end_matches('/').trim_end_matches("/identity/token")));
        let now = Instant::now();
        Self {
            tenant,
            token_endpoint,
            api_key,
            known_since: now.checked_sub(known_for).unwrap_or(now),
            token: tokio::sync::Mutex::default(),
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
        let form = vec![("grant_type", "urn:ibm:params:oauth:grant-type:apikey"), ("apikey", self.api_key.expose_secret())];
        let request = Request {
            doing: DOING,
            operation: "iam.token",
            method: Method::POST,
            url: self.token_endpoint.clone(),
            authorization: None,
            body: Body::Form(form),
            deadline: DEADLINE,
        };
        let answer = self.tenant.call(caller, request).await?;
        let reply: Reply = self.tenant.read(DOING, false, &answer).map_err(|failure| self.forgiving(failure))?;
        let value = reply
            .access_token
            .filter(|token| !token.expose_secret().is_empty())
            .ok_or_else(|| self.tenant.nonsense(DOING, false, &answer, "the answer holds no token"))?;
        let claims = claims(value.expose_secret());
        let life = lifetime(reply.expires_in.as_ref(), reply.expiration.as_ref(), &claims);
        let standing = Standing { iam_id: claims.iam_id, account: claims.account.and_then(|account| account.bss), can_register: None };
        Ok(IamToken { value, standing, use_until: Instant::now() + life.mul_f64(0.8) })
    }

    /// "Unknown key" right after the key appeared means "not known yet".
    fn forgiving(&self, failure: Failure) -> Failure {
        let fresh = self.known_since.elapsed() < PROPAGATION;
        if failure.class == Class::Unauthorized && fresh { Failure { class: Class::Transient, ..failure } } else { failure }
    }
}

/// What is left of a token's life: as IAM says, else the shorter of its whole life and what is left by our clock, which may be wrong.
fn lifetime(expires_in: Option<&Number>, expiration: Option<&Number>, claims: &Claims) -> Duration {
    let is_sensible = |seconds: &f64| *seconds > 0.0 && *seconds < 86_400.0;
    let told = expires_in.and_then(Number::seconds).filter(is_sensible);
    let derived = || {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double exactly")]
        let now = jiff::Timestamp::now().as_second() as f64;
        let left = expiration.and_then(Number::seconds).or(claims.exp).map(|at| at - now);
        let whole = claims.exp.zip(claims.iat).map(|(exp, iat)| exp - iat);
        [left, whole].into_iter().flatten().filter(is_sensible).reduce(f64::min)
    };
    told.or_else(derived).map_or(LIFETIME_UNKNOWN, Duration::from_secs_f64)
}

impl Number {
    fn seconds(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }
}

/// Claims of a token, unverified: for display and to know our account, never to trust anybody.
fn claims(token: &str) -> Claims {
    token
        .split('.')
        .nth(1)
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default()
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
    fn an_api_key_is_read_raw_or_from_ibms_file_and_trimmed() {
        for text in ["abc123", "  abc123\n", r#"{"name":"k","apikey":"abc123","createdAt":"2026"}"#, "{\"apikey\": \" abc123 \"}\n"] {
            assert_eq!(api_key(text).expect(text).expose_secret(), "abc123", "{text}");
        }
        for text in ["", "  \n", "{", r#"{"name":"k"}"#, "\"abc\"", "a b", r#"{"apikey":""}"#] {
            let failure = api_key(text).expect_err(text);
            assert_eq!(failure.reason, Reason::CredentialsInvalid, "{text}");
        }
    }

    #[test]
    fn a_lifetime_is_read_from_either_member_and_nonsense_counts_as_unknown() {
        let read = |expires_in: Number| lifetime(Some(&expires_in), None, &Claims::default());
        assert_eq!(read(Number::Number(3600.0)), Duration::from_secs(3600));
        assert_eq!(read(Number::Text("900".into())), Duration::from_secs(900));
        for number in [0.0, -5.0, 1e12, f64::NAN] {
            assert_eq!(read(Number::Number(number)), LIFETIME_UNKNOWN, "{number}");
        }
        assert_eq!(lifetime(None, None, &Claims::default()), LIFETIME_UNKNOWN);
    }

    /// Traps: T60.
    #[test]
    fn a_clock_that_is_wrong_makes_no_token_live_longer_than_it_does() {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double exactly")]
        let now = jiff::Timestamp::now().as_second() as f64;
        for skew in [-600.0, 0.0, 600.0] {
            let (iat, exp) = (now + skew, now + skew + 300.0);
            let claims = Claims { iat: Some(iat), exp: Some(exp), ..Claims::default() };
            let all = [
                lifetime(Some(&Number::Number(300.0)), Some(&Number::Number(exp)), &Claims::default()),
                lifetime(None, Some(&Number::Number(exp)), &claims),
                lifetime(None, None, &claims),
            ];
            for life in all {
                assert!((298.0..=300.0).contains(&life.as_secs_f64()), "{skew} s: {life:?}");
            }
        }
        let half_over = Claims { iat: Some(now - 150.0), exp: Some(now + 150.0), ..Claims::default() };
        assert!(lifetime(None, None, &half_over) <= Duration::from_secs(150), "a token that was issued before");
    }
}
