//! Access tokens: what is asked for, and what comes back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::SecretText;

/// A lifetime above ten years, or none at all, is not believed.
const BELIEVED: Duration = Duration::from_secs(10 * 366 * 86_400);

/// What a reply tells about a token's life. Everything in seconds; what is missing was not told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    /// `expires_in` (RFC 6749, section 5.1).
    pub expires_in: Option<f64>,
    /// The claim `iat`, when the token is a JWT.
    pub issued_at: Option<f64>,
    /// The claim `exp`, when the token is a JWT.
    pub expires_at: Option<f64>,
    /// The reply's `Date`: the service's clock; ours where it tells none.
    pub date: Option<f64>,
}

/// A token's life, counted from its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The whole lifetime.
    pub lifetime: Duration,
    /// What was left at receipt; never more than the lifetime.
    pub remaining: Duration,
    /// Whether the service told any of it.
    pub is_told: bool,
}

impl Life {
    /// The life that a reply tells, or `unknown` for both parts when it tells none.
    #[must_use]
    pub fn told(told: &Told, unknown: Duration) -> Self {
        let expires_in = told.expires_in.and_then(believed);
        let whole = told.expires_at.zip(told.issued_at).and_then(|(expires, issued)| believed(expires - issued));
        let by_the_clock = told.expires_at.zip(told.date).and_then(|(expires, date)| believed(expires - date));
        let Some(lifetime) = whole.or(expires_in).or(by_the_clock) else {
            return Self { lifetime: unknown, remaining: unknown, is_told: false };
        };
        let remaining = expires_in.or(by_the_clock).unwrap_or(lifetime);
        // Whatever the reply says, nobody takes a token after its own end.
        Self { lifetime, remaining: remaining.min(lifetime), is_told: true }
    }
}

/// A span that can be a lifetime.
fn believed(seconds: f64) -> Option<Duration> {
    let is_sensible = seconds.is_finite() && seconds > 0.0 && seconds <= BELIEVED.as_secs_f64();
    is_sensible.then(|| Duration::from_secs_f64(seconds))
}

/// What a token endpoint is asked for.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// What the token is asked for with.
    pub grant: Grant,
    /// The client that asks, where the grant wants one.
    pub client: Option<ClientCredential>,
    /// Scopes; none: whatever the service gives without.
    pub scopes: Vec<String>,
    /// For whom the token is (`audience`).
    pub audiences: Vec<String>,
    /// For what the token is (`resource`, RFC 8707).
    pub resources: Vec<String>,
    /// Further fields of the form.
    pub parameters: Vec<(String, String)>,
}

impl TokenRequest {
    /// A request with a client's own credential, for whatever the service gives then.
    #[must_use]
    pub fn of_client(client: ClientCredential) -> Self {
        Self { client: Some(client), ..Self::of(Grant::ClientCredentials) }
    }

    /// A request with a grant that brings everything it needs.
    #[must_use]
    pub const fn of(grant: Grant) -> Self {
        Self { grant, client: None, scopes: Vec::new(), audiences: Vec::new(), resources: Vec::new(), parameters: Vec::new() }
    }

    /// Whether a token whose reply names this scope is good for all that was asked for. App ID may write a scope behind the name of its
    /// application (`orders/read`).
    #[must_use]
    pub fn is_granted_by(&self, scope: &str) -> bool {
        let is_granted = |asked: &str| {
            scope.split_whitespace().any(|granted| granted.strip_suffix(asked).is_some_and(|rest| rest.is_empty() || rest.ends_with('/')))
        };
        self.scopes.iter().flat_map(|asked| asked.split_whitespace()).all(is_granted)
    }
}

/// A client's own credential.
#[derive(Clone, Debug)]
pub struct ClientCredential {
    /// Its id.
    pub id: String,
    /// How it proves who it is.
    pub proof: Proof,
}

impl ClientCredential {
    /// A client with a secret.
    #[must_use]
    pub fn with_secret(id: impl Into<String>, secret: SecretText) -> Self {
        Self { id: id.into(), proof: Proof::Secret(secret) }
    }
}

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By a secret that it shares with the server.
    Secret(SecretText),
    /// By a signature (RFC 7523, section 2.2).
    Key(SigningKey),
}

/// A private key, and how it is used.
#[derive(Clone, Debug)]
pub struct SigningKey {
    /// The key, PEM or JWK.
    pub text: SecretText,
    /// With what it signs.
    pub algorithm: Algorithm,
    /// By which name the server knows its public half; none: the one that a JWK brings.
    pub key_id: Option<String>,
    /// For whom assertions are made.
    pub audience: Audience,
    /// How long one is valid.
    pub lifetime: Duration,
}

/// With what an assertion is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// The curve P-256, SHA-256.
    Es256,
}

impl Algorithm {
    /// Its name in a header (RFC 7518, section 3.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
        }
    }
}

/// An assertion that is made anew for each request.
#[derive(Clone, Debug)]
pub struct SignedAssertion {
    /// What it is signed with.
    pub key: SigningKey,
    /// Who makes it; none: the client.
    pub issuer: Option<String>,
    /// Whom it is about; none: who makes it.
    pub subject: Option<String>,
    /// What it says besides.
    pub claims: BTreeMap<String, String>,
}

/// For whom an assertion is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The issuer; where the server has none, the token endpoint.
    Issuer,
    /// The token endpoint.
    TokenEndpoint,
    /// Both.
    Both,
    /// Whom the spec names.
    Named(String),
}

/// What a token is asked for with.
#[derive(Clone, Debug)]
pub enum Grant {
    /// An IBM Cloud API key.
    ApiKey {
        /// The key.
        key: SecretText,
        /// How long it is known to exist: the service may not know a new one yet.
        known_for: Duration,
    },
    /// A token of the cluster for the operator's own account, with which it assumes a trusted profile of IAM.
    ComputeToken {
        /// The token.
        token: SecretText,
        /// The form field that names the profile, and its value.
        profile: (&'static str, String),
        /// How long the profile is known to be asked for: the service may not know it yet.
        known_for: Duration,
    },
    /// The client's own credential (RFC 6749, section 4.4).
    ClientCredentials,
    /// A user's name and password (RFC 6749, section 4.3).
    Password {
        /// The name.
        username: SecretText,
        /// The password.
        password: SecretText,
    },
    /// A signed assertion (RFC 7523, section 2.1).
    JwtBearer(SecretText),
    /// The same, signed here.
    SignedJwtBearer(Box<SignedAssertion>),
    /// A refresh token (RFC 6749, section 6). Many servers replace it at each use, and take back everything when it is used once more.
    RefreshToken(SecretText),
}

impl Grant {
    /// Whether what is presented belongs to a user and may be locked or used up when it is presented again and again. An assertion that is signed
    /// here is not used up, but it speaks for somebody: once refused, it is not repeated often either.
    #[must_use]
    pub const fn is_of_a_user(&self) -> bool {
        matches!(self, Self::Password { .. } | Self::JwtBearer(_) | Self::SignedJwtBearer(_) | Self::RefreshToken(_))
    }
}

/// A token that was issued.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The token, as it came.
    pub access_token: SecretText,
    /// What the reply says of its scope; nothing: as asked for.
    pub scope: Option<String>,
    /// The ID token that came with it.
    pub identity_token: Option<SecretText>,
    /// The refresh token that came with it. Never published.
    pub refresh_token: Option<SecretText>,
    /// What is told of its life.
    pub told: Told,
    /// When it came.
    pub received: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Traps: T22.
    #[test]
    fn a_token_is_good_for_all_that_was_asked_for_or_it_is_not() {
        for (asked, scope, expected) in [
            (&["read", "write"][..], "write openid read", true),
            (&["read write"], "read write", true),
            (&["read", "write"], "read", false),
            (&["read"], "", false),
            (&["read"], "spread", false),
            (&["read"], "orders/read", true),
            (&[], "anything", true),
        ] {
            let scopes = asked.iter().map(|&scope| scope.to_owned()).collect();
            let request = TokenRequest { scopes, ..TokenRequest::of(Grant::ClientCredentials) };
            assert_eq!(request.is_granted_by(scope), expected, "{asked:?} by {scope:?}");
        }
    }

    #[test]
    fn a_life_is_what_the_reply_tells() {
        let unknown = secs(600.0);
        let jwt = |issued: f64, expires: f64| Told { issued_at: Some(issued), expires_at: Some(expires), ..Told::default() };
        for (told, lifetime, remaining, is_told, reason) in [
            (Told { expires_in: Some(3600.0), ..Told::default() }, 3600.0, 3600.0, true, "an opaque token"),
            (Told { expires_in: Some(1800.0), ..jwt(0.0, 3600.0) }, 3600.0, 1800.0, true, "a cached token that is half used up"),
            (Told { date: Some(2400.0), ..jwt(0.0, 3600.0) }, 3600.0, 1200.0, true, "no expires_in: by the service's clock"),
            (jwt(0.0, 3600.0), 3600.0, 3600.0, true, "neither expires_in nor a date"),
            (Told { expires_in: Some(7200.0), ..jwt(0.0, 3600.0) }, 3600.0, 3600.0, true, "the token's own end counts"),
            (
                Told { expires_at: Some(900.0), date: Some(400.0), ..Told::default() },
                500.0,
                500.0,
                true,
                "only its end, as IAM's expiration",
            ),
            (Told::default(), 600.0, 600.0, false, "nothing"),
            (Told { expires_in: Some(0.0), ..Told::default() }, 600.0, 600.0, false, "zero"),
            (Told { expires_in: Some(-5.0), ..Told::default() }, 600.0, 600.0, false, "negative"),
            (Told { expires_in: Some(2_f64.powi(40)), ..Told::default() }, 600.0, 600.0, false, "absurd"),
            (Told { expires_in: Some(f64::NAN), ..Told::default() }, 600.0, 600.0, false, "not a number"),
            (Told { expires_in: Some(-5.0), ..jwt(0.0, 3600.0) }, 3600.0, 3600.0, true, "the token tells what expires_in does not"),
            (Told { date: Some(4000.0), ..jwt(0.0, 3600.0) }, 3600.0, 3600.0, true, "a date beyond the end is a wrong clock"),
            (jwt(3600.0, 0.0), 600.0, 600.0, false, "a token that ends before it begins"),
        ] {
            let expected = Life { lifetime: secs(lifetime), remaining: secs(remaining), is_told };
            assert_eq!(Life::told(&told, unknown), expected, "{reason}");
        }
    }

    /// Traps: T60.
    #[test]
    fn a_clock_that_is_wrong_makes_no_token_live_longer_than_it_does() {
        for skew in [-600.0, -30.0, 0.0, 30.0, 600.0] {
            for used in [0.0, 150.0] {
                let told = Told { issued_at: Some(1000.0), expires_at: Some(1300.0), date: Some(1000.0 + used + skew), expires_in: None };
                let life = Life::told(&told, secs(600.0));
                // With the service's own clock the rest is exact; any other may only make the token look older, or new.
                let left = 300.0 - used;
                let is_right = skew == 0.0 && life.remaining == secs(left);
                assert!(is_right || (skew != 0.0 && life.remaining <= secs(300.0)), "{skew} s, used {used} s: {life:?}");
                let exact = Life::told(&Told { expires_in: Some(left), ..told }, secs(600.0));
                assert_eq!(exact.remaining, secs(left), "what is told outright needs no clock");
            }
        }
    }
}
