use std::time::Duration;

use jsonwebtoken::{DecodingKey, Validation};

use super::*;

const RSA: &str = include_str!("../../../tests/keys/rsa-2048.pem");
const RSA_PKCS1: &str = include_str!("../../../tests/keys/rsa-2048.pkcs1.pem");
const RSA_JWK: &str = include_str!("../../../tests/keys/rsa-2048.jwk");
const RSA_PUBLIC: &str = include_str!("../../../tests/keys/rsa-2048.pub.pem");
const SMALL_RSA: &str = include_str!("../../../tests/keys/rsa-1024.pem");
const SMALL_RSA_JWK: &str = include_str!("../../../tests/keys/rsa-1024.jwk");
const CURVE: &str = include_str!("../../../tests/keys/p256.pem");
const CURVE_SEC1: &str = include_str!("../../../tests/keys/p256.sec1.pem");
const CURVE_ENCRYPTED: &str = include_str!("../../../tests/keys/p256.encrypted.pem");
const CURVE_JWK: &str = include_str!("../../../tests/keys/p256.jwk");
const CURVE_PUBLIC: &str = include_str!("../../../tests/keys/p256.pub.pem");
const OTHER_CURVE: &str = include_str!("../../../tests/keys/p384.pem");
const OTHER_CURVE_JWK: &str = include_str!("../../../tests/keys/p384.jwk");

fn key(text: &str, algorithm: Algorithm) -> SigningKey {
    SigningKey { text: text.into(), algorithm, key_id: None, audience: Audience::Issuer, lifetime: Duration::from_secs(90) }
}

fn with(jwk: &str, name: &str, value: Value) -> String {
    let mut jwk: Value = serde_json::from_str(jwk).expect("a JWK");
    jwk[name] = value;
    jwk.to_string()
}

fn without(jwk: &str, name: &str) -> String {
    let mut jwk: Value = serde_json::from_str(jwk).expect("a JWK");
    jwk.as_object_mut().expect("an object").remove(name);
    jwk.to_string()
}

fn assertion(key: &SigningKey) -> SecretText {
    assertion_for(key, "https://id.example.com")
}

/// The same for a server that goes by this name.
fn assertion_for(key: &SigningKey, issuer: &str) -> SecretText {
    let claims = [("tier".to_owned(), "gold".to_owned()), ("iss".to_owned(), "forged".to_owned())].into();
    let speaker = Speaker { issuer: "orders", subject: "ann", claims: &claims };
    let endpoint = Url::parse("https://id.example.com/token").expect("a URL");
    let occasion = Occasion { doing: "asking", issuer, endpoint: &endpoint, now: 1_000 };
    signed(key, &speaker, &occasion).expect("it is signed")
}

/// Header and claims of an assertion whose signature the public key accepts, as another library sees it.
fn verified(assertion: &SecretText, algorithm: Algorithm) -> (jsonwebtoken::Header, Value) {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let (algorithm, key) = match algorithm {
        Algorithm::Rs256 => (jsonwebtoken::Algorithm::RS256, DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes())),
        Algorithm::Ps256 => (jsonwebtoken::Algorithm::PS256, DecodingKey::from_rsa_pem(RSA_PUBLIC.as_bytes())),
        Algorithm::Es256 => (jsonwebtoken::Algorithm::ES256, DecodingKey::from_ec_pem(CURVE_PUBLIC.as_bytes())),
    };
    let mut validation = Validation::new(algorithm);
    (validation.validate_exp, validation.validate_aud) = (false, false);
    let read = jsonwebtoken::decode::<Value>(assertion.expose_secret(), &key.expect("a public key"), &validation).expect("it is accepted");
    (read.header, read.claims)
}

#[test]
fn pem_and_jwk_of_one_key_sign_what_its_public_half_accepts() {
    for (algorithm, texts) in [
        (Algorithm::Rs256, [RSA, RSA_PKCS1, RSA_JWK]),
        (Algorithm::Ps256, [RSA, RSA_PKCS1, RSA_JWK]),
        (Algorithm::Es256, [CURVE, CURVE_SEC1, CURVE_JWK]),
    ] {
        for text in texts {
            let key = key(text, algorithm);
            check(&key).expect("it can sign");
            let (header, claims) = verified(&assertion(&key), algorithm);
            let of_the_jwk = text.starts_with('{').then(|| if algorithm == Algorithm::Es256 { "p256" } else { "rsa-2048" });
            assert_eq!((header.kid.as_deref(), header.typ.as_deref()), (of_the_jwk, Some("JWT")), "a JWK brings its own name");
            let named = SigningKey { key_id: Some("2026".into()), ..key };
            assert_eq!(verified(&assertion(&named), algorithm).0.kid.as_deref(), Some("2026"), "the spec's name comes first");
            assert_eq!((&claims["iss"], &claims["sub"], &claims["tier"]), (&json!("orders"), &json!("ann"), &json!("gold")));
            assert_eq!((&claims["iat"], &claims["exp"], &claims["aud"]), (&json!(1_000), &json!(1_090), &json!("https://id.example.com")));
        }
    }
}

#[test]
fn no_two_assertions_have_the_same_id_and_each_is_for_whom_it_should_be() {
    let base = key(CURVE, Algorithm::Es256);
    let claims = |key: &SigningKey| verified(&assertion(key), Algorithm::Es256).1;
    assert_ne!(claims(&base)["jti"], claims(&base)["jti"]);
    for (audience, expected) in [
        (Audience::TokenEndpoint, json!("https://id.example.com/token")),
        (Audience::Both, json!(["https://id.example.com", "https://id.example.com/token"])),
        (Audience::Named("https://other.example.com".into()), json!("https://other.example.com")),
    ] {
        assert_eq!(claims(&SigningKey { audience, ..base.clone() })["aud"], expected);
    }
    for audience in [Audience::Issuer, Audience::Both] {
        let nameless = assertion_for(&SigningKey { audience, ..base.clone() }, "");
        assert_eq!(verified(&nameless, Algorithm::Es256).1["aud"], json!("https://id.example.com/token"), "nobody goes by no name");
    }
}

#[test]
fn a_key_that_cannot_sign_is_told_without_any_of_it() {
    use Algorithm::{Es256, Ps256, Rs256};
    let padded = with(RSA_JWK, "e", json!("AAEAAQ=="));
    assert!(check(&key(&padded, Rs256)).is_ok(), "zeros before a number and padding behind it are not minded");
    assert!(check(&key(&format!("\n{CURVE_JWK}\n"), Es256)).is_ok());
    let public_only = ["d", "p", "q", "dp", "dq", "qi"].iter().fold(RSA_JWK.to_owned(), |jwk, name| without(&jwk, name));
    for (text, algorithm, said) in [
        ("cafec0de nonsense", Rs256, "neither PEM"),
        ("", Es256, "neither PEM"),
        (RSA_PUBLIC, Rs256, "neither PEM"),
        (CURVE_ENCRYPTED, Es256, "neither PEM"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", Rs256, "no RSA key"),
        ("{\"kty\": \"RSA\", \"d\": \"cafec0de", Rs256, "begins like a JWK"),
        ("{\"keys\": []}", Rs256, "begins like a JWK"),
        (RSA, Es256, "no key of the curve P-256"),
        (RSA_PKCS1, Es256, "no key of the curve P-256"),
        (CURVE, Rs256, "no RSA key"),
        (CURVE_SEC1, Ps256, "no RSA key"),
        (SMALL_RSA, Rs256, "no RSA key of 2048"),
        (SMALL_RSA, Ps256, "no RSA key of 2048"),
        (OTHER_CURVE, Es256, "no key of the curve P-256"),
        (RSA_JWK, Es256, "no key of the curve P-256"),
        (CURVE_JWK, Rs256, "no RSA key"),
        (SMALL_RSA_JWK, Rs256, "no RSA key of 2048"),
        (OTHER_CURVE_JWK, Es256, "no key of the curve P-256"),
        (&with(CURVE_JWK, "crv", json!("secp256k1")), Es256, "no key of the curve P-256"),
        (&without(CURVE_JWK, "crv"), Es256, "no key of the curve P-256"),
        (&with(CURVE_JWK, "kty", json!("OKP")), Es256, "no key of the curve P-256"),
        (&with(RSA_JWK, "alg", json!("PS256")), Rs256, "its alg is another"),
        (&with(RSA_JWK, "use", json!("enc")), Rs256, "its use is not sig"),
        (&with(RSA_JWK, "oth", json!([])), Rs256, "more than two primes"),
        (&public_only, Rs256, "some are missing"),
        (&without(RSA_JWK, "qi"), Rs256, "some are missing"),
        (&with(RSA_JWK, "d", json!("AQAB")), Rs256, "do not make a private key"),
        (&with(RSA_JWK, "p", json!("not base64url!")), Rs256, "do not make a private key"),
        (&without(CURVE_JWK, "d"), Es256, "some are missing"),
        (&without(CURVE_JWK, "y"), Es256, "some are missing"),
        (&with(CURVE_JWK, "d", json!("AQAB")), Es256, "do not make a private key"),
        (&with(CURVE_JWK, "d", json!("A".repeat(60) + "ECAw")), Es256, "do not make a private key"),
        (&with(CURVE_JWK, "x", json!("_".repeat(60))), Es256, "do not make a private key"),
    ] {
        let failure = check(&key(text, algorithm)).expect_err(said);
        assert_eq!((failure.class, failure.reason), (Class::Rejected, Reason::CredentialsInvalid));
        assert!(failure.message.contains(said), "{said}: {}", failure.message);
        let longest =
            text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 16).any(|word| failure.message.contains(word));
        assert!(!longest && !failure.message.contains("cafec0de"), "{}", failure.message);
    }
}
