//! Marks in every secret value, so that a leak can be searched for.
//!
//! | value | mark |
//! |---|---|
//! | client secret | Base64 of a UUID that begins with `cafec0de-`: the text begins with `Y2FmZWMwZGUt` |
//! | API key, refresh token, opaque token | begins with `cafec0de-` |
//! | opaque token of Verify | begins with `Y2FmZWMwZGUt` |
//! | token (JWT) | its first claim is `jti`, which begins with `cafec0de-`: the second part begins with `eyJqdGkiOiJjYWZlYzBk` |
//! | seeded value | contains one of these marks, or seeding is refused |
//!
//! A mark finds a value as it was issued. For values encoded once more, list them (`GET /secrets`) and search for [`spellings`].

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};

/// The mark in plain values.
pub const PLAIN: &str = "cafec0de-";
/// How an encoded client secret begins: Base64 of [`PLAIN`], which is a multiple of three bytes long.
pub const CLIENT_SECRET: &str = "Y2FmZWMwZGUt";
/// How the second part of a token begins: Base64 of `{"jti":"cafec0d`.
pub const TOKEN: &str = "eyJqdGkiOiJjYWZlYzBk";

/// The marks: each secret value the simulator ever issued or was seeded with contains one of them.
#[must_use]
pub fn canaries() -> &'static [&'static str] {
    &[PLAIN, CLIENT_SECRET, TOKEN]
}

/// Whether a value carries a mark.
#[must_use]
pub fn is_marked(value: &str) -> bool {
    canaries().iter().any(|mark| value.contains(mark))
}

/// The texts as which a secret value could show up: itself, percent-encoded, its bytes as hexadecimal digits (both cases) and as numbers (as
/// `Debug` and JSON list them), and the part of its Base64 (both alphabets) that does not depend on what surrounds it, at each of the three
/// alignments.
#[must_use]
pub fn spellings(value: &str) -> Vec<String> {
    let percent = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
    let bytes: Vec<String> = value.bytes().map(|byte| byte.to_string()).collect();
    let hexadecimal: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![value.to_owned(), percent, bytes.join(", "), bytes.join(","), hexadecimal.to_uppercase(), hexadecimal];
    for shift in 0..3 {
        let mut shifted = vec![0_u8; shift];
        shifted.extend_from_slice(value.as_bytes());
        shifted.truncate(shifted.len() / 3 * 3);
        // The first group holds bytes of what comes before; leave it out.
        let own = &shifted[if shift == 0 { 0 } else { shifted.len().min(3) }..];
        all.push(BASE64_STANDARD.encode(own));
        all.push(BASE64_URL_SAFE_NO_PAD.encode(own));
    }
    all.retain(|text| text.len() >= 8);
    all.sort();
    all.dedup();
    all
}

/// A UUID text that begins with the mark.
pub(crate) fn marked_uuid() -> String {
    let random = uuid::Uuid::new_v4().to_string();
    format!("{PLAIN}{}", &random[PLAIN.len()..])
}

/// A client secret: Base64 of a random UUID text, 48 characters (App ID 3.4).
pub(crate) fn client_secret() -> String {
    BASE64_STANDARD.encode(marked_uuid())
}

/// An API key of 44 characters, the length of real ones.
pub(crate) fn api_key() -> String {
    let random = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    format!("{PLAIN}{}", &random[..44 - PLAIN.len()])
}

fn random_digits() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// An opaque token of 40 letters and digits (Verify 3.2, legacy).
pub(crate) fn alphanumeric_token() -> String {
    format!("{CLIENT_SECRET}{}", &random_digits()[..40 - CLIENT_SECRET.len()])
}

/// An opaque token of three parts with dots between (Verify 3.2).
pub(crate) fn dotted_token() -> String {
    format!("{CLIENT_SECRET}{}.{}.{}", &random_digits()[..32], random_digits(), &random_digits()[..43])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_made_value_is_marked() {
        assert!(client_secret().starts_with(CLIENT_SECRET));
        assert_eq!(client_secret().len(), 48);
        assert!(api_key().starts_with(PLAIN));
        assert_eq!(api_key().len(), 44);
        assert!(is_marked(&alphanumeric_token()) && alphanumeric_token().chars().all(char::is_alphanumeric));
        assert_eq!(alphanumeric_token().len(), 40);
        assert!(is_marked(&dotted_token()) && dotted_token().split('.').count() == 3);
        assert_eq!(BASE64_STANDARD.encode(PLAIN), CLIENT_SECRET);
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(r#"{"jti":"cafec0d"#), TOKEN);
    }

    #[test]
    fn a_value_inside_a_larger_base64_text_is_found() {
        let value = client_secret();
        for before in ["", "a", "ab", "abc"] {
            let text = BASE64_STANDARD.encode(format!("{before}{value}!"));
            assert!(spellings(&value).iter().any(|spelling| text.contains(spelling.as_str())), "{before}");
        }
    }

    #[test]
    fn a_value_is_found_as_bytes_and_as_digits() {
        let value = format!("{PLAIN}value");
        let bytes = value.as_bytes();
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let texts = [format!("{bytes:?}"), serde_json::to_string(bytes).expect("JSON"), hexadecimal.to_uppercase(), hexadecimal];
        for text in texts {
            assert!(spellings(&value).iter().any(|spelling| text.contains(spelling.as_str())), "{text}");
        }
    }
}
