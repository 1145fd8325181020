//! The layouts of an access token.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{super::Problem, Templates, flaw_of_names, mark_of};
use crate::model::{ExposeSecret, SecretText};

/// The key that is there only where the service tells the token's end.
const EXPIRES_AT: &str = "expires_at";

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
    /// Keys that the owner words.
    pub templates: Templates,
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

/// The keys that a Secret of this shape has, after renaming, those of templates among them.
#[must_use]
pub fn keys(shape: &Shape) -> BTreeSet<String> {
    of_the_layout(shape, &values(shape, &placeholder())).into_keys().chain(shape.templates.keys()).collect()
}

/// A mark that differs when anything in the Secret but the token differs.
#[must_use]
pub fn mark(shape: &Shape, labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> String {
    mark_of(of_the_layout(shape, &values(shape, &placeholder())), &shape.templates, labels, annotations)
}

/// A rename of a key that the layout does not have, or to a name that another key has, or a template that nobody can fill in.
#[must_use]
pub fn flaw(shape: &Shape) -> Option<Problem> {
    // Whether the end of a token is known is nobody's choice.
    let widest = Shape { has_expiry: true, ..shape.clone() };
    let values = values(&widest, &specimen());
    let known = values.keys().cloned().collect();
    flaw_of_names(&known, &shape.renamed).or_else(|| shape.templates.flaw(&known, &shape.renamed, &values))
}

/// The Secret's data.
///
/// # Errors
///
/// When a template cannot be filled in with this very token.
pub fn render(shape: &Shape, token: &Token) -> Result<BTreeMap<String, SecretText>, Problem> {
    let mut values = values(shape, token);
    let data = of_the_layout(shape, &values);
    if shape.layout == Layout::BearerToken {
        // Only the answer tells whether there is an end: what was tried before must not fail afterwards.
        values.entry(EXPIRES_AT.to_owned()).or_insert_with(|| String::new().into());
    }
    let made = shape.templates.render(&values)?;
    Ok(data.into_iter().chain(made).collect())
}

/// The Secret's data without what templates make.
fn of_the_layout(shape: &Shape, values: &BTreeMap<String, SecretText>) -> BTreeMap<String, SecretText> {
    let renamed = |key: &String| shape.renamed.get(key).unwrap_or(key).clone();
    values.iter().map(|(key, value)| (renamed(key), value.clone())).collect()
}

/// The values under the layout's own keys.
fn values(shape: &Shape, token: &Token) -> BTreeMap<String, SecretText> {
    let text = token.access_token.expose_secret();
    let mut values: BTreeMap<String, SecretText> = BTreeMap::new();
    let mut put = |key: &str, value: SecretText| {
        values.insert(key.to_owned(), value);
    };
    put("token", token.access_token.clone());
    match &shape.layout {
        Layout::BearerToken => {
            put("authorization", format!("Bearer {text}").into());
            put("token_type", "Bearer".to_owned().into());
            put("scope", token.scope.clone().into());
            if let Some(at) = token.expires_at.filter(|_| shape.has_expiry) {
                put(EXPIRES_AT, at.to_string().into());
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

/// A token that looks like one, to try templates with.
fn specimen() -> Token {
    let token = || SecretText::from("header.payload.signature");
    Token { access_token: token(), scope: "scope".into(), expires_at: Some(Timestamp::UNIX_EPOCH), identity_token: Some(token()) }
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
        Shape { layout, renamed: BTreeMap::new(), has_expiry: true, identity_token: false, templates: Templates::default() }
    }

    fn token() -> Token {
        let expires_at = Some(Timestamp::from_second(1_800_000_000).expect("in range"));
        Token { access_token: "t0".into(), scope: "a b".into(), expires_at, identity_token: Some("i0".into()) }
    }

    fn rendered(shape: &Shape) -> Vec<(String, String)> {
        let data = render(shape, &token()).unwrap_or_else(|problem| panic!("{}", problem.message));
        data.into_iter().map(|(key, value)| (key, value.expose_secret().to_owned())).collect()
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

    #[test]
    fn a_template_sees_the_token_under_the_names_of_the_layout() {
        let with = |shape: &Shape, text: &str| {
            let texts = [("file".to_owned(), text.to_owned())].into();
            Shape { templates: Templates { texts, ..Templates::default() }, ..shape.clone() }
        };
        let plain = shape(Layout::BearerToken);
        let renamed = Shape { renamed: [("token".to_owned(), "bearer".to_owned())].into(), ..plain.clone() };
        let made = |shape: &Shape| rendered(shape).into_iter().find(|(key, _)| key == "file").map(|(_, text)| text);
        assert_eq!(made(&with(&renamed, "{{ token }} {{ expires_at }}")).as_deref(), Some("t0 2027-01-15T08:00:00Z"));
        let unknown_end = with(&Shape { has_expiry: false, ..plain.clone() }, "{{ token }}{% if expires_at %} {{ expires_at }}{% endif %}");
        assert_eq!((made(&unknown_end).as_deref(), flaw(&unknown_end)), (Some("t0"), None), "an end that nobody tells is empty");
        assert!(!keys(&unknown_end).contains("expires_at") && keys(&unknown_end).contains("file"));
        assert!(flaw(&with(&plain, "{{ (token|split('.'))[1] }}")).is_none(), "a token may be taken apart");
        assert!(flaw(&with(&plain, "{{ id_token }}")).is_some());
        assert!(flaw(&with(&Shape { identity_token: true, ..plain.clone() }, "{{ id_token }}")).is_none());
        let sdk = shape(Layout::IbmSdk { service: "KMS".into(), url: None });
        assert_eq!(made(&with(&sdk, "{{ KMS_BEARER_TOKEN }}")).as_deref(), Some("t0"));
        assert!(flaw(&with(&sdk, "{{ expires_at }}")).is_some(), "the layout has no such key");
        // With these very values it goes wrong, and only then.
        let by_the_value = with(&plain, "{% if scope == 'a b' %}{{ scope|indent(scope) }}{% endif %}");
        assert!(flaw(&by_the_value).is_none());
        let problem = render(&by_the_value, &token()).expect_err("a scope is no width").message;
        assert!(problem.contains("goes wrong in line 1: invalid operation") && !problem.contains("a b"), "{problem}");
        assert_ne!(mark(&with(&plain, "a"), &BTreeMap::new(), &BTreeMap::new()), mark(&plain, &BTreeMap::new(), &BTreeMap::new()));
    }
}
