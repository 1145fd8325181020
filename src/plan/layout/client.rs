//! The layouts of a registered client.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::Problem, Templates, flaw_of_names, mark_of};
use crate::{
    model::{ApplicationKind, ExposeSecret, SecretText},
    reasons::Reason,
};

/// A layout, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// IBM's App ID SDKs.
    AppId,
    /// Any OAuth library.
    OAuth,
    /// IBM's cluster service binding.
    IbmBinding,
    /// servicebinding.io.
    ServiceBinding,
    /// oauth2-proxy.
    OAuth2Proxy,
    /// Spring Boot.
    Spring,
}

impl Layout {
    /// Every layout.
    pub const ALL: &'static [Layout] = &[Self::AppId, Self::OAuth, Self::IbmBinding, Self::ServiceBinding, Self::OAuth2Proxy, Self::Spring];

    /// Whether the layout makes no sense without a client secret.
    #[must_use]
    pub const fn needs_secret(self) -> bool {
        matches!(self, Self::ServiceBinding | Self::OAuth2Proxy | Self::Spring)
    }
}

/// How a Secret is to look, without any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The layout.
    pub layout: Layout,
    /// The kind of client.
    pub kind: ApplicationKind,
    /// Renamed keys: layout key to key in the Secret.
    pub renamed: BTreeMap<String, String>,
    /// The one redirect URI that the Secret names, if any.
    pub redirect_uri: Option<String>,
    /// Spring's registration id, upper case.
    pub registration_id: Option<String>,
    /// Scopes, for layouts that list them.
    pub scopes: BTreeSet<String>,
    /// Keys that the owner words.
    pub templates: Templates,
}

/// What goes into a Secret.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The client id.
    pub client_id: String,
    /// Its secret; a public client has none.
    pub secret: Option<SecretText>,
    /// The tenant id.
    pub tenant_id: String,
    /// Origin of the App ID host, without a path.
    pub origin: String,
    /// oauth2-proxy's cookie secret; used by that layout only.
    pub cookie_secret: Option<SecretText>,
}

impl Credential {
    /// App ID's `oauthServerUrl`, which is also the issuer (api: `<host>/oauth/v4/<tenantId>`).
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("{}/oauth/v4/{}", self.origin, self.tenant_id)
    }
}

/// The keys that a Secret of this shape has, after renaming, those of templates among them.
#[must_use]
pub fn keys(shape: &Shape) -> BTreeSet<String> {
    layout_keys(shape).into_iter().map(|key| renamed(shape, key)).chain(shape.templates.keys()).collect()
}

/// A mark that differs when anything in the Secret but the credential differs: names of keys, values from the spec, labels, annotations, address.
///
/// What the layout does not show makes no difference: a Secret is not written for nothing, since whoever watches it may restart Pods.
///
/// Field ownership tells that nobody changed what was written; this tells that what was written is what is wanted now.
#[must_use]
pub fn mark(shape: &Shape, origin: &str, labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> String {
    mark_of(of_the_layout(shape, &values(shape, &placeholder(shape, origin))), &shape.templates, labels, annotations)
}

/// A rename of a key that the layout does not have, a layout that the client cannot fill, or a template that nobody can.
#[must_use]
pub fn flaw(shape: &Shape) -> Option<Problem> {
    if shape.kind == ApplicationKind::SinglePageApp && shape.layout.needs_secret() {
        return Some(Problem::new(Reason::InvalidSpec, "this layout needs a client secret, which a SinglePageApp does not have"));
    }
    flaw_of_names(&layout_keys(shape), &shape.renamed).or_else(|| {
        // What the spec leaves out now is known all the same: a template may ask whether it is there.
        let some = |text: &str| Some(text.to_owned());
        let widest = Shape { redirect_uri: some("uri"), scopes: BTreeSet::from(["scope".to_owned()]), ..shape.clone() };
        shape.templates.flaw(&layout_keys(&widest), &shape.renamed, &values(shape, &specimen(shape)))
    })
}

/// The Secret's data.
///
/// # Errors
///
/// When a template cannot be filled in with these very values.
pub fn render(shape: &Shape, credential: &Credential) -> Result<BTreeMap<String, SecretText>, Problem> {
    let values = values(shape, credential);
    let made = shape.templates.render(&values)?;
    Ok(of_the_layout(shape, &values).into_iter().chain(made).collect())
}

/// The Secret's data without what templates make.
fn of_the_layout(shape: &Shape, values: &BTreeMap<String, SecretText>) -> BTreeMap<String, SecretText> {
    values.iter().map(|(key, value)| (renamed(shape, key.clone()), value.clone())).collect()
}

/// The client secret that a Secret of this shape holds, if it holds one.
#[must_use]
pub fn held_secret(shape: &Shape, data: &BTreeMap<String, SecretText>) -> Option<SecretText> {
    let key = match shape.layout {
        Layout::AppId => "secret".to_owned(),
        Layout::OAuth => "client_secret".to_owned(),
        Layout::ServiceBinding | Layout::OAuth2Proxy => "client-secret".to_owned(),
        Layout::Spring => spring(shape, "CLIENTSECRET"),
        Layout::IbmBinding => {
            let text = data.get(&renamed(shape, "binding".to_owned()))?;
            let binding: serde_json::Value = serde_json::from_str(text.expose_secret()).ok()?;
            return binding.get("secret")?.as_str().map(SecretText::from);
        }
    };
    data.get(&renamed(shape, key)).cloned()
}

/// The cookie secret that a Secret of this shape holds, under whichever of its two keys was left as it was made.
#[must_use]
pub fn held_cookie_secret(shape: &Shape, data: &BTreeMap<String, SecretText>) -> Option<SecretText> {
    let keys = ["cookie-secret", "OAUTH2_PROXY_COOKIE_SECRET"].map(|key| renamed(shape, key.to_owned()));
    let is_whole =
        |text: &&SecretText| data_encoding::BASE64URL.decode(text.expose_secret().as_bytes()).is_ok_and(|bytes| bytes.len() == 32);
    keys.iter().filter_map(|key| data.get(key)).find(is_whole).cloned()
}

fn renamed(shape: &Shape, key: String) -> String {
    shape.renamed.get(&key).cloned().unwrap_or(key)
}

fn spring(shape: &Shape, field: &str) -> String {
    format!("SPRING_SECURITY_OAUTH2_CLIENT_REGISTRATION_{}_{field}", shape.registration_id.as_deref().unwrap_or_default())
}

/// A credential without any, which serves to learn what a shape looks like.
fn placeholder(shape: &Shape, origin: &str) -> Credential {
    Credential {
        client_id: String::new(),
        secret: (shape.kind == ApplicationKind::RegularWebApp).then(|| SecretText::from(String::new())),
        tenant_id: String::new(),
        origin: origin.to_owned(),
        cookie_secret: Some(SecretText::from(String::new())),
    }
}

/// A credential that looks like one, to try templates with.
fn specimen(shape: &Shape) -> Credential {
    let has_secret = shape.kind == ApplicationKind::RegularWebApp;
    Credential {
        client_id: "client-id".into(),
        secret: has_secret.then(|| "client-secret".into()),
        tenant_id: "tenant-id".into(),
        origin: "https://appid.example.com".into(),
        cookie_secret: Some("cookie-secret".into()),
    }
}

fn layout_keys(shape: &Shape) -> BTreeSet<String> {
    values(shape, &placeholder(shape, "")).into_keys().collect()
}

fn values(shape: &Shape, credential: &Credential) -> BTreeMap<String, SecretText> {
    let issuer = credential.issuer();
    let discovery = format!("{issuer}/.well-known/openid-configuration");
    let management = format!("{}/management/v4/{}", credential.origin, credential.tenant_id);
    let mut values: BTreeMap<String, SecretText> = BTreeMap::new();
    let mut put = |key: &str, value: &str| {
        values.insert(key.to_owned(), SecretText::from(value));
    };
    let secret = credential.secret.as_ref().map(ExposeSecret::expose_secret);
    match shape.layout {
        Layout::AppId => {
            put("clientId", &credential.client_id);
            put("tenantId", &credential.tenant_id);
            put("oauthServerUrl", &issuer);
            put("profilesUrl", &credential.origin);
            put("discoveryEndpoint", &discovery);
            put("appidServiceEndpoint", &credential.origin);
            put("managementUrl", &management);
            put("version", "4");
            if let Some(uri) = &shape.redirect_uri {
                put("redirectUri", uri);
            }
            if let Some(secret) = secret {
                put("secret", secret);
            }
        }
        Layout::OAuth => {
            put("client_id", &credential.client_id);
            put("issuer", &issuer);
            put("discovery_endpoint", &discovery);
            put("token_endpoint", &format!("{issuer}/token"));
            put("jwks_uri", &format!("{issuer}/publickeys"));
            put("authorization_endpoint", &format!("{issuer}/authorization"));
            put("userinfo_endpoint", &format!("{issuer}/userinfo"));
            if let Some(secret) = secret {
                put("client_secret", secret);
            }
        }
        Layout::IbmBinding => {
            let mut binding = serde_json::json!({
                "appidServiceEndpoint": credential.origin, "clientId": credential.client_id, "discoveryEndpoint": discovery, "managementUrl": management,
                "oauthServerUrl": issuer, "profilesUrl": credential.origin, "tenantId": credential.tenant_id, "version": 4,
            });
            if let Some(secret) = secret {
                binding["secret"] = secret.into();
            }
            put("binding", &binding.to_string());
        }
        Layout::ServiceBinding => {
            put("type", "oauth2");
            put("provider", "ibm-app-id");
            put("client-id", &credential.client_id);
            put("client-secret", secret.unwrap_or_default());
            put("issuer-uri", &issuer);
            put("authorization-grant-type", if shape.redirect_uri.is_some() { "authorization_code" } else { "client_credentials" });
            if !shape.scopes.is_empty() {
                put("scope", &shape.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(","));
            }
            if let Some(uri) = &shape.redirect_uri {
                put("redirect-uri", uri);
            }
        }
        Layout::OAuth2Proxy => {
            let cookie = credential.cookie_secret.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
            put("client-id", &credential.client_id);
            put("client-secret", secret.unwrap_or_default());
            put("cookie-secret", cookie);
            put("OAUTH2_PROXY_CLIENT_ID", &credential.client_id);
            put("OAUTH2_PROXY_CLIENT_SECRET", secret.unwrap_or_default());
            put("OAUTH2_PROXY_COOKIE_SECRET", cookie);
            put("OAUTH2_PROXY_OIDC_ISSUER_URL", &issuer);
            put("OAUTH2_PROXY_PROVIDER", "oidc");
        }
        Layout::Spring => {
            let id = shape.registration_id.as_deref().unwrap_or_default();
            put(&spring(shape, "CLIENTID"), &credential.client_id);
            put(&spring(shape, "CLIENTSECRET"), secret.unwrap_or_default());
            put(&spring(shape, "PROVIDER"), &id.to_lowercase());
            put(&format!("SPRING_SECURITY_OAUTH2_CLIENT_PROVIDER_{id}_ISSUERURI"), &issuer);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(layout: Layout) -> Shape {
        Shape {
            layout,
            kind: ApplicationKind::RegularWebApp,
            renamed: BTreeMap::new(),
            redirect_uri: Some("https://shop.example/cb".into()),
            registration_id: Some("SHOP".into()),
            scopes: BTreeSet::from(["read".to_owned()]),
            templates: Templates::default(),
        }
    }

    fn with_template(shape: &Shape, text: &str) -> Shape {
        let texts = [("file".to_owned(), text.to_owned())].into();
        Shape { templates: Templates { texts, ..Templates::default() }, ..shape.clone() }
    }

    fn mark_of(shape: &Shape) -> String {
        mark(shape, "https://host", &BTreeMap::new(), &BTreeMap::new())
    }

    #[test]
    fn the_mark_follows_what_the_layout_shows_and_nothing_else() {
        let base = shape(Layout::AppId);
        let other_scopes = Shape { scopes: BTreeSet::new(), ..base.clone() };
        assert_eq!(mark_of(&base), mark_of(&other_scopes), "layout AppId shows no scopes");
        let listing = shape(Layout::ServiceBinding);
        assert_ne!(mark_of(&listing), mark_of(&Shape { scopes: BTreeSet::new(), ..listing.clone() }), "layout ServiceBinding lists them");
        assert_ne!(mark_of(&base), mark_of(&Shape { redirect_uri: Some("https://shop.example/other".into()), ..base.clone() }));
        assert_ne!(mark_of(&base), mark_of(&Shape { renamed: [("secret".to_owned(), "pw".to_owned())].into(), ..base.clone() }));
        assert_ne!(mark_of(&base), mark(&base, "https://other", &BTreeMap::new(), &BTreeMap::new()));
        assert_ne!(mark_of(&base), mark(&base, "https://host", &[("a".to_owned(), "b".to_owned())].into(), &BTreeMap::new()));
    }

    #[test]
    fn a_template_is_part_of_the_secret_and_of_its_mark() {
        let renamed = Shape { renamed: [("clientId".to_owned(), "ID".to_owned())].into(), ..shape(Layout::AppId) };
        let base = with_template(&renamed, "{{ clientId }}:{{ secret }}");
        assert!(keys(&base).contains("file") && flaw(&base).is_none());
        let data = render(&base, &specimen(&base)).unwrap_or_else(|problem| panic!("{}", problem.message));
        assert_eq!(data["file"].expose_secret(), "client-id:client-secret", "by the names of the layout, whatever they are called now");
        assert_eq!(data.into_keys().collect::<BTreeSet<_>>(), keys(&base));
        assert_ne!(
            mark_of(&base),
            mark_of(&with_template(&renamed, "{{ secret }}:{{ clientId }}")),
            "with placeholders they look the same"
        );
        assert_ne!(mark_of(&base), mark_of(&renamed));
    }

    #[test]
    fn a_template_may_ask_for_what_the_spec_leaves_out_and_may_not_need_it() {
        let without = Shape { redirect_uri: None, ..shape(Layout::AppId) };
        assert!(flaw(&with_template(&without, "{% if redirectUri is defined %}{{ redirectUri }}{% endif %}")).is_none());
        assert!(flaw(&with_template(&without, "{{ redirectUri }}")).is_some());
        assert!(flaw(&with_template(&shape(Layout::AppId), "{{ redirectUri }}")).is_none());
        let public = Shape { kind: ApplicationKind::SinglePageApp, ..shape(Layout::AppId) };
        let said = flaw(&with_template(&public, "{{ secret }}")).map(|problem| problem.message).unwrap_or_default();
        assert!(said.contains(r#"names "secret" in line 1"#), "{said}");
        assert!(flaw(&with_template(&shape(Layout::OAuth2Proxy), "{{ values['cookie-secret'] }}")).is_none());
        assert!(flaw(&with_template(&shape(Layout::IbmBinding), "{{ binding }}")).is_none());
    }
}
