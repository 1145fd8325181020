//! A call of an OAuth 2.0 token endpoint, as every service makes it, and what its reply means (RFC 6749, sections 5.1 and 5.2).

use std::{collections::BTreeMap, time::Instant};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::Method;
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{
    Caller, Tenant, assertion,
    http::{Answer, Body, DEADLINE, Request},
};
use crate::{
    model::{Class, ClientCredential, ExposeSecret, Failure, Grant, IssuedToken, Proof, SecretText, SignedAssertion, TokenRequest, Told},
    reasons::Reason,
};

/// By so many seconds two clocks must differ before an assertion is made again.
const CLOCKS_DIFFER: i64 = 30;

/// How a client proves who it is (RFC 6749, section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// HTTP Basic with both halves form-encoded first, as the standard says.
    Basic,
    /// HTTP Basic with both halves as they are, as several servers want it.
    BasicRaw,
    /// In the form.
    Post,
}

/// One call of a token endpoint.
pub(super) struct TokenCall<'a> {
    /// What we are doing, in our words.
    pub(super) doing: &'static str,
    /// The operation, as metrics name it.
    pub(super) operation: &'static str,
    /// The token endpoint.
    pub(super) endpoint: Url,
    /// How the client authenticates, where there is one.
    pub(super) authentication: ClientAuthentication,
    /// What is asked for.
    pub(super) request: &'a TokenRequest,
    /// The server's issuer, for assertions.
    pub(super) issuer: &'a str,
}

/// A reply. IAM tells the end of a token as a time too (`expiration`).
#[derive(Deserialize)]
pub(super) struct Reply {
    access_token: Option<SecretText>,
    token_type: Option<Words>,
    expires_in: Option<Seconds>,
    expiration: Option<Seconds>,
    scope: Option<Words>,
    id_token: Option<SecretText>,
    refresh_token: Option<SecretText>,
}

/// The standard wants a number; some servers and gateways print it as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
    Other(serde::de::IgnoredAny),
}

/// The standard wants words with spaces between them; some servers send a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Text(String),
    List(Vec<String>),
    Other(serde::de::IgnoredAny),
}

#[derive(Default, Deserialize)]
struct Times {
    iat: Option<f64>,
    exp: Option<f64>,
}

/// Asks for a token.
///
/// # Errors
///
/// When there is none. A refusal of the client is [`Reason::InvalidClient`], one of what the grant presents [`Reason::InvalidGrant`].
pub(super) async fn ask(tenant: &Tenant, caller: &Caller, call: TokenCall<'_>) -> Result<IssuedToken, Failure> {
    let time_before = tenant.time();
    let result = ask_once(tenant, caller, &call).await;
    let client_signs = matches!(call.request.client, Some(ClientCredential { proof: Proof::Key(_), .. }));
    let grant_is_signed = matches!(call.request.grant, Grant::SignedJwtBearer(_));
    let was_not_accepted = |failure: &Failure| match failure.reason {
        Reason::InvalidClient => client_signs,
        Reason::InvalidGrant => grant_is_signed,
        _ => false,
    };
    match &result {
        // The assertion was made by a clock that turns out to be wrong: it was not accepted, so that one repetition is safe.
        Err(failure) if was_not_accepted(failure) && (tenant.time() - time_before).abs() > CLOCKS_DIFFER => {
            ask_once(tenant, caller, &call).await
        }
        _ => result,
    }
}

async fn ask_once(tenant: &Tenant, caller: &Caller, call: &TokenCall<'_>) -> Result<IssuedToken, Failure> {
    let TokenCall { doing, operation, endpoint, authentication, issuer, request } = call;
    let (scopes, grant_type) = (request.scopes.join(" "), grant_type(&request.grant));
    let occasion = assertion::Occasion { doing, issuer, endpoint, now: tenant.time() };
    let granted;
    let mut form = vec![("grant_type", grant_type)];
    match &request.grant {
        Grant::ApiKey { key, .. } => form.push(("apikey", key.expose_secret())),
        Grant::ComputeToken { token, profile: (field, value), .. } => {
            form.extend([("cr_token", token.expose_secret()), (*field, value.as_str())]);
        }
        Grant::ClientCredentials => {}
        Grant::Password { username, password } => {
            form.extend([("username", username.expose_secret()), ("password", password.expose_secret())]);
        }
        Grant::JwtBearer(assertion) => form.push(("assertion", assertion.expose_secret())),
        Grant::SignedJwtBearer(wanted) => {
            granted = signed_grant(wanted, request.client.as_ref(), &occasion)?;
            form.push(("assertion", granted.expose_secret()));
        }
        Grant::RefreshToken(token) => form.push(("refresh_token", token.expose_secret())),
    }
    form.extend((!scopes.is_empty()).then_some(("scope", scopes.as_str())));
    form.extend(request.audiences.iter().map(|audience| ("audience", audience.as_str())));
    form.extend(request.resources.iter().map(|resource| ("resource", resource.as_str())));
    form.extend(request.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut authorization = None;
    let assertion;
    if let Some(client) = &request.client {
        match (&client.proof, authentication) {
            (Proof::Key(key), _) => {
                let speaker = assertion::Speaker { issuer: &client.id, subject: &client.id, claims: &BTreeMap::new() };
                assertion = assertion::signed(key, &speaker, &occasion)?;
                form.extend([
                    ("client_id", client.id.as_str()),
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                    ("client_assertion", assertion.expose_secret()),
                ]);
            }
            (Proof::Secret(secret), ClientAuthentication::Post) => {
                form.extend([("client_id", client.id.as_str()), ("client_secret", secret.expose_secret())]);
            }
            (Proof::Secret(_), ClientAuthentication::Basic | ClientAuthentication::BasicRaw) => {
                authorization = basic(client, *authentication);
            }
        }
    }
    let request_of_http = Request {
        doing,
        operation,
        method: Method::POST,
        url: endpoint.clone(),
        authorization,
        body: Body::Form(form),
        deadline: DEADLINE,
    };
    let answer = tenant.call(caller, request_of_http).await?;
    issued(tenant, doing, &answer, request)
}

/// The assertion of a grant: the client's own, unless the spec says in whose name it speaks.
fn signed_grant(
    wanted: &SignedAssertion,
    client: Option<&ClientCredential>,
    occasion: &assertion::Occasion<'_>,
) -> Result<SecretText, Failure> {
    let issuer = wanted.issuer.as_deref().or(client.map(|client| client.id.as_str())).unwrap_or_default();
    let speaker = assertion::Speaker { issuer, subject: wanted.subject.as_deref().unwrap_or(issuer), claims: &wanted.claims };
    assertion::signed(&wanted.key, &speaker, occasion)
}

/// The token that an answer holds.
///
/// # Errors
///
/// When it holds none.
pub(super) fn issued(tenant: &Tenant, doing: &'static str, answer: &Answer, request: &TokenRequest) -> Result<IssuedToken, Failure> {
    let received = Instant::now();
    // Asking changes nothing at the service, but for a refresh token, which may be used up by it.
    let spends = matches!(request.grant, Grant::RefreshToken(_));
    let reply: Reply = tenant.read(doing, spends, answer).map_err(|failure| explained(failure, answer, request))?;
    let Some(token) = reply.access_token.as_ref().filter(|token| is_sendable(token.expose_secret())) else {
        // Some servers report errors with status 200.
        return Err(match answer.refusal_in_a_success(doing) {
            Some(failure) => explained(failure, answer, request),
            None => tenant.nonsense(doing, spends, answer, "the answer holds no token"),
        });
    };
    if reply.token_type.as_ref().and_then(Words::told).is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        let message = "the service issues tokens of another type than Bearer";
        let failure = Failure::new(doing, Class::Unexpected, Reason::UnexpectedResponse, message);
        return Err(Failure { status: Some(answer.status), may_have_happened: spends, ..failure });
    }
    Ok(IssuedToken {
        access_token: token.clone(),
        told: told(&reply, token, answer),
        scope: reply.scope.as_ref().and_then(Words::told).filter(|scope| !scope.is_empty()),
        // One that nobody signed proves nothing, whatever stands in it (RFC 8725, section 3.1).
        identity_token: reply.id_token.filter(|token| is_sendable(token.expose_secret()) && is_signed(token.expose_secret())),
        refresh_token: reply.refresh_token.filter(|token| !token.expose_secret().is_empty()),
        received,
    })
}

const fn grant_type(grant: &Grant) -> &'static str {
    match grant {
        Grant::ApiKey { .. } => "urn:ibm:params:oauth:grant-type:apikey",
        Grant::ComputeToken { .. } => "urn:ibm:params:oauth:grant-type:cr-token",
        Grant::ClientCredentials => "client_credentials",
        Grant::Password { .. } => "password",
        Grant::JwtBearer(_) | Grant::SignedJwtBearer(_) => "urn:ietf:params:oauth:grant-type:jwt-bearer",
        Grant::RefreshToken(_) => "refresh_token",
    }
}

/// The header of HTTP Basic; none for a client without a secret.
pub(super) fn basic(client: &ClientCredential, authentication: ClientAuthentication) -> Option<SecretText> {
    let Proof::Secret(secret) = &client.proof else { return None };
    let half = |text: &str| match authentication {
        ClientAuthentication::Basic => form_urlencoded::byte_serialize(text.as_bytes()).collect(),
        ClientAuthentication::BasicRaw | ClientAuthentication::Post => text.to_owned(),
    };
    let pair = zeroize::Zeroizing::new(format!("{}:{}", half(&client.id), half(secret.expose_secret())));
    Some(format!("Basic {}", STANDARD.encode(pair.as_bytes())).into())
}

/// Whose fault a refusal is: at a token endpoint a 401 speaks of the client, also without a body that says so (RFC 6749, section 5.2), and
/// `invalid_grant` of what the grant presents.
fn explained(failure: Failure, answer: &Answer, request: &TokenRequest) -> Failure {
    /// The service says that it did not take the request up: too early, or too many. A gateway's 503 may come after the request was passed on,
    /// so that it counts only in the service's own words.
    const NOT_TAKEN_UP: [u16; 2] = [425, 429];
    let speaks_of_the_grant = answer.has_code("invalid_grant") && request.grant.is_of_a_user();
    let reason = match failure.class {
        Class::Unauthorized if speaks_of_the_grant && matches!(request.grant, Grant::RefreshToken(_)) => Reason::ReauthorizationRequired,
        Class::Unauthorized if speaks_of_the_grant => Reason::InvalidGrant,
        Class::Unauthorized if request.client.is_some() => Reason::InvalidClient,
        _ => failure.reason,
    };
    let was_not_taken_up = NOT_TAKEN_UP.contains(&answer.status) || answer.has_code("temporarily_unavailable");
    let may_have_happened = failure.may_have_happened && !was_not_taken_up;
    Failure { reason, may_have_happened, ..failure }
}

/// A token goes into a header and a file: anything but visible characters would break either.
fn is_sendable(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())
}

/// Whether the header of a JWT names an algorithm that signs.
fn is_signed(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
    }
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header.trim_end_matches('=')).ok());
    let header: Option<Header> = header.and_then(|header| serde_json::from_slice(&header).ok());
    header.is_some_and(|header| !header.alg.eq_ignore_ascii_case("none"))
}

fn told(reply: &Reply, token: &SecretText, answer: &Answer) -> Told {
    let times = times(token.expose_secret());
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double exactly")]
    let date = answer.date.unwrap_or_else(jiff::Timestamp::now).as_second() as f64;
    Told {
        expires_in: reply.expires_in.as_ref().and_then(Seconds::told),
        issued_at: times.iat,
        expires_at: times.exp.or_else(|| reply.expiration.as_ref().and_then(Seconds::told)),
        date: Some(date),
    }
}

impl Seconds {
    fn told(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Other(_) => None,
        }
    }
}

impl Words {
    fn told(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::List(words) => Some(words.join(" ")),
            Self::Other(_) => None,
        }
    }
}

/// Beginning and end of a token that is a JWT; unverified, because nobody is trusted for it.
fn times(token: &str) -> Times {
    payload(token).and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// The payload of a JWT, decoded and not verified: for display and times, never to trust anybody.
pub(super) fn payload(token: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_encodes_both_halves_first_unless_told_not_to() {
        let client = ClientCredential::with_secret("a:b", "p%/+=é w".into());
        let sent = |authentication| {
            let text = basic(&client, authentication).expect("a secret");
            let encoded = text.expose_secret().strip_prefix("Basic ").expect("its scheme").to_owned();
            String::from_utf8(STANDARD.decode(encoded).expect("base64")).expect("text")
        };
        assert_eq!(sent(ClientAuthentication::Basic), "a%3Ab:p%25%2F%2B%3D%C3%A9+w");
        assert_eq!(sent(ClientAuthentication::BasicRaw), "a:b:p%/+=é w");
    }

    #[test]
    fn a_token_that_cannot_be_sent_as_a_header_is_none() {
        for (token, is_one) in [("abc.def-_~+/=", true), ("", false), ("a b", false), ("a\nb", false), ("a\u{7f}", false), ("é", false)] {
            assert_eq!(is_sendable(token), is_one, "{token:?}");
        }
    }

    #[test]
    fn an_id_token_that_nobody_signed_is_none() {
        let of = |header: &str| format!("{}.e30.", URL_SAFE_NO_PAD.encode(header));
        for (header, is) in
            [(r#"{"alg":"RS256"}"#, true), (r#"{"alg":"none"}"#, false), (r#"{"alg":"NONE"}"#, false), ("{}", false), ("x", false)]
        {
            assert_eq!(is_signed(&of(header)), is, "{header}");
        }
    }

    #[test]
    fn scopes_are_read_as_words_and_as_a_list_and_anything_else_is_ignored() {
        let read = |field: &str, text: &str| {
            let reply = serde_json::from_str::<Reply>(&format!(r#"{{"access_token":"t","{field}":{text}}}"#)).expect(text);
            assert!(reply.access_token.is_some(), "{text}");
            let words = if field == "scope" { reply.scope } else { reply.token_type };
            words.and_then(|words| words.told())
        };
        for field in ["scope", "token_type"] {
            for (text, words) in [
                (r#""a b""#, Some("a b")),
                (r#"["a","b"]"#, Some("a b")),
                ("[]", Some("")),
                ("[1]", None),
                (r#"{"a":true}"#, None),
                ("7", None),
                ("null", None),
            ] {
                assert_eq!(read(field, text).as_deref(), words, "{field}: {text}");
            }
        }
    }

    #[test]
    fn a_number_of_seconds_is_read_as_a_number_and_as_text() {
        let read = |text: &str| serde_json::from_str::<Reply>(&format!(r#"{{"expires_in":{text}}}"#)).expect(text).expires_in;
        for (text, seconds) in
            [("3600", Some(3600.0)), (r#"" 900 ""#, Some(900.0)), ("1.5", Some(1.5)), (r#""soon""#, None), ("[1]", None), ("true", None)]
        {
            assert_eq!(read(text).and_then(|number| number.told()), seconds, "{text}");
        }
        assert!(read("null").is_none());
    }

    #[test]
    fn only_three_parts_with_a_json_payload_have_times() {
        let jwt = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"iat":10,"exp":20.5,"sub":"x"}"#));
        assert_eq!((times(&jwt).iat, times(&jwt).exp), (Some(10.0), Some(20.5)));
        for token in ["opaque", "a.b", "a.b.c", "..", &format!("e30.{}.s", URL_SAFE_NO_PAD.encode(r#"{"iat":"x"}"#))] {
            assert_eq!((times(token).iat, times(token).exp), (None, None), "{token}");
        }
    }
}
