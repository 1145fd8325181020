//! Key pairs of clients, and what they sign.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use identity_simulator::VerificationKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// A key pair and what it may sign with.
pub(crate) struct ClientKey {
    pair: KeyPair,
    algorithm: Algorithm,
    id: Option<String>,
}

impl ClientKey {
    /// RSA for RS256 and PS256: one pair per process, because making it takes a while.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        static RSA: OnceLock<String> = OnceLock::new();
        let pair = match algorithm {
            Algorithm::ES256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"),
            _ => {
                let pem = RSA.get_or_init(|| KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key").serialize_pem());
                KeyPair::from_pem(pem).expect("a key")
            }
        };
        Self { pair, algorithm, id: None }
    }

    /// Names itself in what it signs.
    pub(crate) fn named(self, id: &str) -> Self {
        Self { id: Some(id.to_owned()), ..self }
    }

    pub(crate) fn public(&self) -> VerificationKey {
        VerificationKey { key_id: self.id.clone(), pem: Some(self.pair.public_key_pem()), jwk: None }
    }

    /// A key of the curve as an entry of a key set.
    pub(crate) fn jwk(&self) -> Value {
        let point = self.pair.public_key_raw();
        let coordinate = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "x": coordinate(&point[1..33]), "y": coordinate(&point[33..])})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let pem = self.pair.serialize_pem();
        let key = match self.algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let header = Header { kid: self.id.clone(), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &key.expect("a key")).expect("signed")
    }
}

/// Claims that say who somebody is, good for a minute.
pub(crate) fn claims(issuer: &str, subject: &str, audience: impl Into<Value>) -> Value {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let id = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let now = jiff::Timestamp::now().as_second();
    json!({"iss": issuer, "sub": subject, "aud": audience.into(), "iat": now, "exp": now + 60, "jti": format!("assertion-{id}")})
}
