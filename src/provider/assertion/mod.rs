//! Assertions that are signed with a private key: by which a client proves who it is (RFC 7523, section 2.2), and which are a grant themselves
//! (section 2.1).

use std::collections::BTreeMap;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    model::{Algorithm, Audience, Class, ExposeSecret, Failure, SecretText, SigningKey},
    reasons::Reason,
};

/// Who an assertion speaks for.
pub(super) struct Speaker<'a> {
    /// Who makes it (`iss`).
    pub(super) issuer: &'a str,
    /// Whom it is about (`sub`).
    pub(super) subject: &'a str,
    /// What it says besides.
    pub(super) claims: &'a BTreeMap<String, String>,
}

/// Where an assertion goes, and when.
pub(super) struct Occasion<'a> {
    /// What we are doing, in our words.
    pub(super) doing: &'static str,
    /// The server's issuer; empty where it has none.
    pub(super) issuer: &'a str,
    /// Its token endpoint.
    pub(super) endpoint: &'a Url,
    /// Its time, in seconds since 1970.
    pub(super) now: i64,
}

/// A private key that can sign.
enum PrivateKey {
    Rsa(RsaKeyPair),
    Curve(EcdsaKeyPair),
}

/// A private key as a JWK (RFC 7517, RFC 7518, section 6). Numbers are base64url without padding.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    kid: Option<String>,
    n: Option<SecretText>,
    e: Option<SecretText>,
    d: Option<SecretText>,
    p: Option<SecretText>,
    q: Option<SecretText>,
    dp: Option<SecretText>,
    dq: Option<SecretText>,
    qi: Option<SecretText>,
    oth: Option<serde::de::IgnoredAny>,
    x: Option<SecretText>,
    y: Option<SecretText>,
}

/// A fresh assertion: never the same twice, since servers refuse one that they have seen.
///
/// # Errors
///
/// When the key cannot be used.
pub(super) fn signed(key: &SigningKey, speaker: &Speaker<'_>, occasion: &Occasion<'_>) -> Result<SecretText, Failure> {
    let Occasion { doing, issuer, endpoint, now } = occasion;
    let refused = |message| Failure::new(doing, Class::Rejected, Reason::CredentialsInvalid, message);
    let audience = match &key.audience {
        // Where there is no issuer, the endpoint is all there is.
        Audience::Issuer | Audience::Both if issuer.is_empty() => json!(endpoint.as_str()),
        Audience::Issuer => json!(issuer),
        Audience::TokenEndpoint => json!(endpoint.as_str()),
        Audience::Both => json!([issuer, endpoint.as_str()]),
        Audience::Named(name) => json!(name),
    };
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random)
        .map_err(|_| Failure::new(doing, Class::Transient, Reason::InProgress, "the machine has no random numbers"))?;
    let lifetime = i64::try_from(key.lifetime.as_secs()).unwrap_or(60);
    let mut claims: Map<String, Value> = speaker.claims.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
    for (name, value) in [
        ("iss", json!(speaker.issuer)),
        ("sub", json!(speaker.subject)),
        ("aud", audience),
        ("iat", json!(now)),
        ("exp", json!(now + lifetime)),
        ("jti", json!(URL_SAFE_NO_PAD.encode(random))),
    ] {
        claims.insert(name.to_owned(), value);
    }
    let (private, key_id) = PrivateKey::read(key).map_err(refused)?;
    private.token(key.algorithm, key_id.as_deref(), &Value::Object(claims)).map_err(refused)
}

/// Sees that a key can sign.
///
/// # Errors
///
/// When it cannot: it is neither PEM nor JWK, of another family than the algorithm, or too small.
pub fn check(key: &SigningKey) -> Result<(), Failure> {
    let failed = |message| Failure::new("reading the private key", Class::Rejected, Reason::CredentialsInvalid, message);
    PrivateKey::read(key).map(drop).map_err(failed)
}

const NO_KEY: &str = "it holds no private key: neither PEM that is not encrypted (PKCS #8, PKCS #1, SEC 1) nor a JWK";
const NO_RSA: &str =
    "it holds no RSA key of 2048 to 8192 bits, which RS256 and PS256 sign with (with a key of the curve P-256: algorithm ES256)";
const NO_CURVE: &str = "it holds no key of the curve P-256, which ES256 signs with (with an RSA key: algorithm RS256 or PS256)";
const BROKEN: &str = "its numbers do not make a private key, or some are missing";

impl PrivateKey {
    /// The key, and the name it goes by. What is wrong with it is told without any of it.
    fn read(key: &SigningKey) -> Result<(Self, Option<String>), &'static str> {
        let text = key.text.expose_secret().trim();
        if text.starts_with('{') {
            let jwk: Jwk = serde_json::from_str(text)
                .map_err(|_| "it begins like a JWK, and is none: a JSON object with kty and what belongs to it")?;
            let private = Self::of_jwk(&jwk, key.algorithm)?;
            return Ok((private, key.key_id.clone().or(jwk.kid)));
        }
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| NO_KEY)?;
        let private = match (key.algorithm, &der) {
            (Algorithm::Rs256 | Algorithm::Ps256, PrivateKeyDer::Pkcs8(der)) => {
                RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map(Self::Rsa)
            }
            (Algorithm::Rs256 | Algorithm::Ps256, PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der()).map(Self::Rsa),
            (Algorithm::Es256, PrivateKeyDer::Pkcs8(_) | PrivateKeyDer::Sec1(_)) => {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der()).map(Self::Curve)
            }
            (Algorithm::Rs256 | Algorithm::Ps256, _) => return Err(NO_RSA),
            (Algorithm::Es256, _) => return Err(NO_CURVE),
        };
        let private = private.map_err(|_| if key.algorithm == Algorithm::Es256 { NO_CURVE } else { NO_RSA })?;
        Ok((private, key.key_id.clone()))
    }

    fn of_jwk(jwk: &Jwk, algorithm: Algorithm) -> Result<Self, &'static str> {
        if jwk.alg.as_ref().is_some_and(|name| name != algorithm.name()) {
            return Err("its alg is another than the algorithm that is to be signed with");
        }
        if jwk.purpose.as_ref().is_some_and(|purpose| purpose != "sig") {
            return Err("its use is not sig");
        }
        match (algorithm, jwk.kty.as_str()) {
            (Algorithm::Rs256 | Algorithm::Ps256, "RSA") => {
                if jwk.oth.is_some() {
                    return Err("it has more than two primes, which is not supported");
                }
                let of = |part: &Option<SecretText>| number(part.as_ref());
                let (n, e, d, p, q) = (of(&jwk.n)?, of(&jwk.e)?, of(&jwk.d)?, of(&jwk.p)?, of(&jwk.q)?);
                let (dp, dq, qi) = (of(&jwk.dp)?, of(&jwk.dq)?, of(&jwk.qi)?);
                if bits(&n) < 2048 {
                    return Err(NO_RSA);
                }
                let components = KeyPairComponents {
                    public_key: PublicKeyComponents { n: n.as_slice(), e: e.as_slice() },
                    d: d.as_slice(),
                    p: p.as_slice(),
                    q: q.as_slice(),
                    dP: dp.as_slice(),
                    dQ: dq.as_slice(),
                    qInv: qi.as_slice(),
                };
                RsaKeyPair::from_components(&components).map(Self::Rsa).map_err(|_| BROKEN)
            }
            (Algorithm::Es256, "EC") if jwk.crv.as_deref() == Some("P-256") => {
                let of = |part: &Option<SecretText>| of_curve(&number(part.as_ref())?);
                let (d, x, y) = (of(&jwk.d)?, of(&jwk.x)?, of(&jwk.y)?);
                let public = [&[4], x.as_slice(), y.as_slice()].concat();
                EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, d.as_slice(), &public)
                    .map(Self::Curve)
                    .map_err(|_| BROKEN)
            }
            (Algorithm::Rs256 | Algorithm::Ps256, _) => Err(NO_RSA),
            (Algorithm::Es256, _) => Err(NO_CURVE),
        }
    }

    /// A signed token in the compact form (RFC 7515, section 7.1).
    fn token(&self, algorithm: Algorithm, key_id: Option<&str>, claims: &Value) -> Result<SecretText, &'static str> {
        const FAILED: &str = "the private key cannot sign";
        let mut header = json!({ "typ": "JWT", "alg": algorithm.name() });
        if let Some(id) = key_id {
            header["kid"] = json!(id);
        }
        let message = [header.to_string(), claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(pair) => {
                let padding = if algorithm == Algorithm::Ps256 { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message.as_bytes(), &mut signature).map_err(|_| FAILED)?;
                signature
            }
            Self::Curve(pair) => pair.sign(&random, message.as_bytes()).map_err(|_| FAILED)?.as_ref().to_vec(),
        };
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
    }
}

/// A number of a JWK, big-endian. Some writers put zeros before it or padding behind it, against the standard.
fn number(part: Option<&SecretText>) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let text = part.ok_or(BROKEN)?.expose_secret().trim_end_matches('=');
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| BROKEN)?);
    let begin = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    Ok(Zeroizing::new(bytes[begin..].to_vec()))
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// A number of the curve P-256: 32 bytes, whatever its value.
fn of_curve(number: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let missing = 32_usize.checked_sub(number.len()).ok_or(BROKEN)?;
    let mut padded = Zeroizing::new(vec![0; missing]);
    padded.extend_from_slice(number);
    Ok(padded)
}

#[cfg(test)]
mod tests;
