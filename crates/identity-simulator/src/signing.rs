//! The keys of the simulated services, the tokens signed with them, and signatures of others (RS256, PS256, ES256).

use crate::canary;
use crate::model::SigningAlgorithm;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

/// The claims of a token.
pub(crate) type Claims = Map<String, Value>;

/// How the id of a service's ES256 key differs from that of its RS256 key.
const ES256_SUFFIX: &str = "-es256";

/// A public point of P-256: the length of a coordinate, and of the point with its leading byte.
const COORDINATE: usize = 32;
const POINT: usize = 2 * COORDINATE + 1;

/// An RSA key of 2048 bits, and one of the curve P-256 beside it.
pub(crate) struct SigningKey {
    pair: KeyPair,
    public: Vec<u8>,
    curve_pair: EcdsaKeyPair,
}

/// A key for each service. They are made once per process, because making one takes a noticeable part of a second.
pub(crate) struct Keys {
    /// Signs IAM's tokens.
    pub(crate) iam: SigningKey,
    /// Signs the tokens of every App ID tenant; the key ids differ by tenant.
    pub(crate) app_id: SigningKey,
    /// Signs the tokens of every generic server, of Verify and of the identity store; the key ids differ.
    pub(crate) oauth: SigningKey,
}

/// A key could not be made or used: there is no randomness, or a key is unusable.
#[derive(Debug, thiserror::Error)]
#[error("cannot make or use a signing key")]
pub struct SigningError;

/// The keys of this process.
pub(crate) fn keys() -> Result<&'static Keys, SigningError> {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    if let Some(keys) = KEYS.get() {
        return Ok(keys);
    }
    let keys = Keys { iam: SigningKey::generate()?, app_id: SigningKey::generate()?, oauth: SigningKey::generate()? };
    Ok(KEYS.get_or_init(|| keys))
}

impl SigningKey {
    fn generate() -> Result<Self, SigningError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| SigningError)?;
        let public = pair.public_key().as_ref().to_vec();
        let curve_pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| SigningError)?;
        Ok(Self { pair, public, curve_pair })
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

    /// The entry of the ES256 key in the key set of the service whose RS256 key has this id.
    pub(crate) fn curve_entry(&self, key_id: &str) -> Value {
        let point = self.curve_pair.public_key().as_ref();
        let coordinate = |from: usize| BASE64_URL_SAFE_NO_PAD.encode(point.get(from..from + COORDINATE).unwrap_or_default());
        json!({
            "kty": "EC", "crv": "P-256", "x": coordinate(1), "y": coordinate(1 + COORDINATE), "use": "sig", "alg": "ES256",
            "kid": format!("{key_id}{ES256_SUFFIX}"),
        })
    }

    /// Signs a token as the setting says. The header's `alg` and `kid` are those of RS256 and become those of the other algorithm.
    pub(crate) fn sign_as(&self, algorithm: SigningAlgorithm, mut header: Value, claims: Claims) -> Result<String, SigningError> {
        if algorithm == SigningAlgorithm::Es256 {
            header["alg"] = json!("ES256");
            if let Some(key_id) = header["kid"].as_str() {
                header["kid"] = json!(format!("{key_id}{ES256_SUFFIX}"));
            }
        }
        self.sign(&header, claims)
    }

    /// Signs a token by the `alg` of its header: ES256, or else RS256. A marked `jti` is added and comes first, so that the encoded token
    /// carries the mark, too.
    pub(crate) fn sign(&self, header: &Value, claims: Claims) -> Result<String, SigningError> {
        let message = unsigned(header, claims);
        let randomness = SystemRandom::new();
        let signature = if header["alg"] == "ES256" {
            self.curve_pair.sign(&randomness, message.as_bytes()).map_err(|_| SigningError)?.as_ref().to_vec()
        } else {
            let mut signature = vec![0; self.pair.public_modulus_len()];
            self.pair.sign(&RSA_PKCS1_SHA256, &randomness, message.as_bytes(), &mut signature).map_err(|_| SigningError)?;
            signature
        };
        Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed and that is not over at `now` (Unix seconds).
    pub(crate) fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let token = Jws::parse(token)?;
        let is_good = match token.algorithm() {
            "RS256" => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public).verify(token.message, &token.signature).is_ok(),
            "ES256" => {
                let point = self.curve_pair.public_key().as_ref();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(token.message, &token.signature).is_ok()
            }
            _ => false,
        };
        (is_good && token.claims.get("exp")?.as_i64()? > now).then_some(token.claims)
    }
}

/// Header and claims of a token, encoded. A marked `jti` comes first, so that the encoded text carries the mark, too.
fn unsigned(header: &Value, mut claims: Claims) -> String {
    claims.remove("jti");
    let rest = Value::Object(claims).to_string();
    let rest = rest.strip_prefix('{').unwrap_or(&rest);
    let comma = if rest.starts_with('}') { "" } else { "," };
    let payload = format!(r#"{{"jti":"{}"{comma}{rest}"#, canary::marked_uuid());
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}", encode(&header.to_string()), encode(&payload))
}

/// A token with `alg` none: nobody signed it.
pub(crate) fn unsigned_token(claims: Claims) -> String {
    format!("{}.", unsigned(&json!({"alg": "none"}), claims))
}

/// A token as it came, its signature not yet checked.
pub(crate) struct Jws<'a> {
    message: &'a [u8],
    signature: Vec<u8>,
    header: Value,
    pub(crate) claims: Claims,
}

impl<'a> Jws<'a> {
    /// None when it is no compact JWS of JSON objects.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        Some(Self {
            message: message.as_bytes(),
            signature: decode(signature)?,
            header: serde_json::from_slice(&decode(header)?).ok()?,
            claims: serde_json::from_slice(&decode(payload)?).ok()?,
        })
    }

    pub(crate) fn algorithm(&self) -> &str {
        self.header["alg"].as_str().unwrap_or_default()
    }

    pub(crate) fn key_id(&self) -> Option<&str> {
        self.header["kid"].as_str()
    }

    /// A claim that is text.
    pub(crate) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// The audiences, whether `aud` is one text or several.
    pub(crate) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the owner of a public key signed it.
    pub(crate) fn is_signed_by(&self, key: &PublicKey) -> bool {
        let rsa: &RsaParameters = match self.algorithm() {
            "RS256" => &RSA_PKCS1_2048_8192_SHA256,
            "PS256" => &RSA_PSS_2048_8192_SHA256,
            "ES256" => {
                return match key {
                    PublicKey::Der(bytes) | PublicKey::Point(bytes) => {
                        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).verify(self.message, &self.signature).is_ok()
                    }
                    PublicKey::Rsa { .. } => false,
                };
            }
            _ => return false,
        };
        match key {
            PublicKey::Der(bytes) => UnparsedPublicKey::new(rsa, bytes).verify(self.message, &self.signature).is_ok(),
            PublicKey::Rsa { modulus, exponent } => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(rsa, self.message, &self.signature).is_ok()
            }
            PublicKey::Point(_) => false,
        }
    }
}

/// Somebody's public key.
pub(crate) enum PublicKey {
    /// A `SubjectPublicKeyInfo`, of either kind.
    Der(Vec<u8>),
    /// An RSA key of a key set.
    Rsa {
        /// Without leading zeros.
        modulus: Vec<u8>,
        /// Without leading zeros.
        exponent: Vec<u8>,
    },
    /// A P-256 key of a key set.
    Point(Vec<u8>),
}

impl PublicKey {
    /// From the text between `-----BEGIN PUBLIC KEY-----` and its end.
    pub(crate) fn from_pem(pem: &str) -> Option<Self> {
        let (_, rest) = pem.split_once("-----BEGIN PUBLIC KEY-----")?;
        let (text, _) = rest.split_once("-----END PUBLIC KEY-----")?;
        let text: String = text.split_ascii_whitespace().collect();
        Some(Self::Der(BASE64_STANDARD.decode(text).ok()?))
    }

    /// From an entry of a key set.
    pub(crate) fn from_jwk(jwk: &Value) -> Option<Self> {
        let bytes = |member: &str| BASE64_URL_SAFE_NO_PAD.decode(jwk[member].as_str()?).ok();
        let number = |member: &str| bytes(member).map(|bytes| bytes.into_iter().skip_while(|byte| *byte == 0).collect());
        match (jwk["kty"].as_str()?, jwk["crv"].as_str()) {
            ("RSA", _) => Some(Self::Rsa { modulus: number("n")?, exponent: number("e")? }),
            ("EC", Some("P-256")) => {
                let point = [vec![4], bytes("x")?, bytes("y")?].concat();
                (point.len() == POINT).then_some(Self::Point(point))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_marked_and_verifies_until_it_is_over() {
        let keys = keys().expect("keys");
        for algorithm in [SigningAlgorithm::Rs256, SigningAlgorithm::Es256] {
            let claims = Claims::from_iter([("exp".to_owned(), Value::from(100))]);
            let token = keys.iam.sign_as(algorithm, json!({"alg": "RS256"}), claims).expect("signed");
            assert!(token.contains(canary::TOKEN));
            assert!(keys.iam.verify(&token, 99).is_some());
            assert!(keys.iam.verify(&token, 100).is_none());
            assert!(keys.app_id.verify(&token, 99).is_none());
        }
    }

    #[test]
    fn an_entry_of_the_key_set_verifies_what_its_key_signed() {
        let keys = keys().expect("keys");
        let claims = || Claims::from_iter([("exp".to_owned(), Value::from(100))]);
        let rsa = json!({"kty": "RSA", "n": keys.iam.modulus(true), "e": keys.iam.exponent()});
        for (algorithm, entry) in [("RS256", rsa), ("ES256", keys.iam.curve_entry("one"))] {
            let token = keys.iam.sign(&json!({"alg": algorithm}), claims()).expect("signed");
            let key = PublicKey::from_jwk(&entry).expect("a key");
            assert!(Jws::parse(&token).expect("a token").is_signed_by(&key), "{algorithm}");
            let other = keys.app_id.sign(&json!({"alg": algorithm}), claims()).expect("signed");
            assert!(!Jws::parse(&other).expect("a token").is_signed_by(&key), "{algorithm}");
        }
    }

    #[test]
    fn nobody_signed_an_unsigned_token() {
        let token = unsigned_token(Claims::new());
        assert!(token.ends_with('.') && token.contains(canary::TOKEN));
        assert!(keys().expect("keys").oauth.verify(&token, 0).is_none());
    }
}
