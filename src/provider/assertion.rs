//! Assertions by which a client proves that it holds a private key (RFC 7523, section 3).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm as JwtAlgorithm, EncodingKey, Header};
use serde_json::json;
use url::Url;

use crate::{
    model::{Algorithm, Audience, Class, ClientCredential, ExposeSecret, Failure, SecretText, SigningKey},
    reasons::Reason,
};

/// A fresh assertion of a client, made at `now`: never the same twice, since servers refuse one that they have seen.
///
/// # Errors
///
/// When the key cannot be used.
pub(super) fn signed(
    doing: &'static str,
    client: &ClientCredential,
    key: &SigningKey,
    issuer: &str,
    endpoint: &Url,
    now: i64,
) -> Result<SecretText, Failure> {
    let failed = |_| Failure::new(doing, Class::Rejected, Reason::CredentialsInvalid, "the private key cannot sign with this algorithm");
    let audience = match key.audience {
        Audience::Issuer => json!(issuer),
        Audience::TokenEndpoint => json!(endpoint.as_str()),
        Audience::Both => json!([issuer, endpoint.as_str()]),
    };
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random)
        .map_err(|_| Failure::new(doing, Class::Transient, Reason::InProgress, "the machine has no random numbers"))?;
    let lifetime = i64::try_from(key.lifetime.as_secs()).unwrap_or(60);
    let claims = json!({
        "iss": client.id, "sub": client.id, "aud": audience, "iat": now, "exp": now + lifetime, "jti": URL_SAFE_NO_PAD.encode(random),
    });
    let (header, encoding_key) = prepared(key).map_err(failed)?;
    jsonwebtoken::encode(&header, &claims, &encoding_key).map(SecretText::from).map_err(failed)
}

/// Sees that a key can sign.
///
/// # Errors
///
/// When it cannot: it is no PEM of the algorithm's family, or too small.
pub fn check(key: &SigningKey) -> Result<(), Failure> {
    const DOING: &str = "reading the private key";
    let failed = |_| {
        let message =
            "it is not a private key for this algorithm: PEM, RSA with 2048 bits or more for RS256 and PS256, P-256 (PKCS #8) for ES256";
        Failure::new(DOING, Class::Rejected, Reason::CredentialsInvalid, message)
    };
    let (header, encoding_key) = prepared(key).map_err(failed)?;
    jsonwebtoken::encode(&header, &json!({}), &encoding_key).map(drop).map_err(failed)
}

fn prepared(key: &SigningKey) -> jsonwebtoken::errors::Result<(Header, EncodingKey)> {
    let pem = key.pem.expose_secret().as_bytes();
    let (algorithm, encoding_key) = match key.algorithm {
        Algorithm::Rs256 => (JwtAlgorithm::RS256, EncodingKey::from_rsa_pem(pem)?),
        Algorithm::Ps256 => (JwtAlgorithm::PS256, EncodingKey::from_rsa_pem(pem)?),
        Algorithm::Es256 => (JwtAlgorithm::ES256, EncodingKey::from_ec_pem(pem)?),
    };
    Ok((Header { kid: key.key_id.clone(), ..Header::new(algorithm) }, encoding_key))
}
