//! The layouts of an access token.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{super::Problem, flaw_of_names, mark_of};
use crate::model::{ExposeSecret, SecretText};

/// A layout, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The token and what is known of it.
    BearerToken,
    /// IBM's SDKs (external configuration).
    IbmSdk {
        /// The service, upper case.
        service: String,
        /// Its address.
        url: Option<String>,
    },
}

/// How a Secret is to look, without any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The layout.
    pub layout: Layout,
    /// Renamed keys: layout key to key in the Secret.
    pub renamed: BTreeMap<String, String>,
    /// Whether the token's end is known: else there is no `expires_at`.
    pub has_expiry: bool,
    /// Whether the ID token is published too.
    pub identity_token: bool,
}

/// What goes into a Secret.
#[derive(Clone, Debug)]
pub struct Token {
    /// The access token.
    pub access_token: SecretText,
    /// Its scope, as granted or else as asked for; may be empty.
    pub scope: String,
    /// Its end.
    pub expires_at: Option<Timestamp>,
    /// The ID token.
    pub identity_token: Option<SecretText>,
}

/// The keys that a Secret of this shape has, after renaming.
#[must_use]
pub fn keys(shape: &Shape) -> BTreeSet<String> {
    render(shape, &placeholder()).into_keys().collect()
}

/// A mark that differs when anything in the Secret but the token differs.
#[must_use]
pub fn mark(shape: &Shape, labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> String {
    mark_of(render(shape, &placeholder()), labels, annotations)
}

/// A rename of a key that the layout does not have, or to a name that another key has.
#[must_use]
pub fn flaw(shape: &Shape) -> Option<Problem> {
    // Whether the end of a token is known is nobody's choice.
    let widest = Shape { has_expiry: true, renamed: BTreeMap::new(), ..shape.clone() };
    flaw_of_names(&keys(&widest), &shape.renamed)
}

/// The Secret's data.
#[must_use]
pub fn render(shape: &Shape, token: &Token) -> BTreeMap<String, SecretText> {
    let text = token.access_token.expose_secret();
    let mut values: BTreeMap<String, SecretText> = BTreeMap::new();
    let mut put = |key: &str, value: SecretText| {
        values.insert(shape.renamed.get(key).cloned().unwrap_or_else(|| key.to_owned()), value);
    };
    put("token", token.access_token.clone());
    match &shape.layout {
        Layout::BearerToken => {
            put("authorization", format!("Bearer {text}").into());
            put("token_type", "Bearer".to_owned().into());
            put("scope", token.scope.clone().into());
            if let Some(at) = token.expires_at.filter(|_| shape.has_expiry) {
                put("expires_at", at.to_string().into());
            }
        }
        Layout::IbmSdk { service, url } => {
            let mut lines = vec![(format!("{service}_AUTH_TYPE"), "bearertoken"), (format!("{service}_BEARER_TOKEN"), text)];
            lines.extend(url.as_deref().map(|url| (format!("{service}_URL"), url)));
            let file: String = lines.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            put("ibm-credentials.env", file.into());
            for (name, value) in lines {
                put(&name, value.to_owned().into());
            }
        }
    }
    if let Some(identity) = token.identity_token.as_ref().filter(|_| shape.identity_token) {
        put("id_token", identity.clone());
    }
    values
}

/// A token without any, which serves to learn what a shape looks like.
fn placeholder() -> Token {
    let nothing = || SecretText::from(String::new());
    Token { access_token: nothing(), scope: String::new(), expires_at: Some(Timestamp::UNIX_EPOCH), identity_token: Some(nothing()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(layout: Layout) -> Shape {
        Shape { layout, renamed: BTreeMap::new(), has_expiry: true, identity_token: false }
    }

    fn token() -> Token {
        let expires_at = Some(Timestamp::from_second(1_800_000_000).expect("in range"));
        Token { access_token: "t0".into(), scope: "a b".into(), expires_at, identity_token: Some("i0".into()) }
    }

    fn rendered(shape: &Shape) -> Vec<(String, String)> {
        render(shape, &token()).into_iter().map(|(key, value)| (key, value.expose_secret().to_owned())).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_bearer_token_can_be_used_raw_and_as_a_header() {
        let plain = shape(Layout::BearerToken);
        let expected = pairs(&[
            ("authorization", "Bearer t0"),
            ("expires_at", "2027-01-15T08:00:00Z"),
            ("scope", "a b"),
            ("token", "t0"),
            ("token_type", "Bearer"),
        ]);
        assert_eq!(rendered(&plain), expected);
        let renamed =
            Shape { renamed: [("token".to_owned(), "bearer".to_owned())].into(), has_expiry: false, identity_token: true, ..plain };
        let expected =
            pairs(&[("authorization", "Bearer t0"), ("bearer", "t0"), ("id_token", "i0"), ("scope", "a b"), ("token_type", "Bearer")]);
        assert_eq!(rendered(&renamed), expected);
        assert_eq!(keys(&renamed).into_iter().collect::<Vec<_>>(), ["authorization", "bearer", "id_token", "scope", "token_type"]);
    }

    #[test]
    fn ibms_sdks_find_variables_and_a_file_with_the_same_lines() {
        let sdk = shape(Layout::IbmSdk { service: "KMS".into(), url: Some("https://kms.example".into()) });
        let file = "KMS_AUTH_TYPE=bearertoken\nKMS_BEARER_TOKEN=t0\nKMS_URL=https://kms.example\n";
        let expected = pairs(&[
            ("KMS_AUTH_TYPE", "bearertoken"),
            ("KMS_BEARER_TOKEN", "t0"),
            ("KMS_URL", "https://kms.example"),
            ("ibm-credentials.env", file),
            ("token", "t0"),
        ]);
        assert_eq!(rendered(&sdk), expected);
    }

    #[test]
    fn a_key_that_the_layout_does_not_have_is_named() {
        let of = |key: &str, name: &str| flaw(&Shape { renamed: [(key.to_owned(), name.to_owned())].into(), ..shape(Layout::BearerToken) });
        assert!(
            of("password", "x")
                .is_some_and(|problem| problem.message.contains("its keys are authorization, expires_at, scope, token, token_type"))
        );
        assert!(of("token", "scope").is_some_and(|problem| problem.message.contains("the same name")));
        assert!(of("token", "bearer").is_none());
        let unknown_end =
            Shape { has_expiry: false, renamed: [("expires_at".to_owned(), "end".to_owned())].into(), ..shape(Layout::BearerToken) };
        assert!(flaw(&unknown_end).is_none());
    }
}
