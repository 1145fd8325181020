//! RS256: the keys of the simulated services and the tokens signed with them.

use crate::canary;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// The claims of a token.
pub(crate) type Claims = Map<String, Value>;

/// An RSA key of 2048 bits.
pub(crate) struct SigningKey {
    pair: KeyPair,
    public: Vec<u8>,
}

/// A key for each service. They are made once per process, because making one takes a noticeable part of a second.
pub(crate) struct Keys {
    /// Signs IAM's tokens.
    pub(crate) iam: SigningKey,
    /// Signs the tokens of every App ID tenant; the key ids differ by tenant.
    pub(crate) app_id: SigningKey,
}

/// RSA failed: there is no randomness, or a key is unusable.
#[derive(Debug, thiserror::Error)]
#[error("cannot make or use an RSA key")]
pub struct SigningError;

/// The keys of this process.
pub(crate) fn keys() -> Result<&'static Keys, SigningError> {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    if let Some(keys) = KEYS.get() {
        return Ok(keys);
    }
    let keys = Keys { iam: SigningKey::generate()?, app_id: SigningKey::generate()? };
    Ok(KEYS.get_or_init(|| keys))
}

impl SigningKey {
    fn generate() -> Result<Self, SigningError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| SigningError)?;
        let public = pair.public_key().as_ref().to_vec();
        Ok(Self { pair, public })
    }

    /// The modulus as the key set writes it, with or without the leading zero byte of open point 2.
    pub(crate) fn modulus(&self, leading_zero: bool) -> String {
        let mut bytes = self.pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
        if leading_zero {
            bytes.insert(0, 0);
        }
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The public exponent as the key set writes it.
    pub(crate) fn exponent(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.public_key().exponent().big_endian_without_leading_zero())
    }

    /// Signs a token. A marked `jti` is added and comes first, so that the encoded token carries the mark, too.
    pub(crate) fn sign(&self, header: &Value, mut claims: Claims) -> Result<String, SigningError> {
        claims.remove("jti");
        let rest = Value::Object(claims).to_string();
        let rest = rest.strip_prefix('{').unwrap_or(&rest);
        let comma = if rest.starts_with('}') { "" } else { "," };
        let payload = format!(r#"{{"jti":"{}"{comma}{rest}"#, canary::marked_uuid());
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", encode(&header.to_string()), encode(&payload));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).map_err(|_| SigningError)?;
        Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed and that is not over at `now` (Unix seconds).
    pub(crate) fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        if header.get("alg") != Some(&Value::from("RS256")) {
            return None;
        }
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public).verify(message.as_bytes(), &decode(signature)?).ok()?;
        let claims: Claims = serde_json::from_slice(&decode(payload)?).ok()?;
        (claims.get("exp")?.as_i64()? > now).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_marked_and_verifies_until_it_is_over() {
        let keys = keys().expect("keys");
        let claims = Claims::from_iter([("exp".to_owned(), Value::from(100))]);
        let token = keys.iam.sign(&serde_json::json!({"alg": "RS256"}), claims).expect("signed");
        assert!(token.contains(canary::TOKEN));
        assert!(keys.iam.verify(&token, 99).is_some());
        assert!(keys.iam.verify(&token, 100).is_none());
        assert!(keys.app_id.verify(&token, 99).is_none());
    }
}
