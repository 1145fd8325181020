//! `spec.secret`: where a credential is published, and in which shape.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RedirectUri;

/// Which keys the Secret has. The keys of each layout are frozen for this API version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Layout {
    /// What IBM's App ID SDKs read from their environment.
    #[default]
    AppId,
    /// What any OAuth library wants: `client_id`, `client_secret`, endpoints.
    OAuth,
    /// One key `binding` with the JSON that IBM's cluster service binding makes.
    IbmBinding,
    /// The keys of the Service Binding specification, type `oauth2`.
    ServiceBinding,
    /// What oauth2-proxy reads, for its chart and for its environment.
    OAuth2Proxy,
    /// Spring Boot's client registration variables.
    Spring,
    /// Written by a newer version of the operator.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What holds for the Secret of every kind. Stated here, rule and message, because a flattened struct would lose its rules.
pub(super) mod rules {
    macro_rules! are_names {
        ($field:literal) => {
            (
                concat!(
                    "!has(self.",
                    $field,
                    ") || self.",
                    $field,
                    ".all(k, size(k) <= 317 && k.matches('^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))"
                ),
                concat!(
                    "a key of ",
                    $field,
                    " is a name of at most 63 letters, digits, -, _ and ., with an optional prefix like example.com/"
                ),
            )
        };
    }

    macro_rules! are_free {
        ($field:literal) => {
            (
                concat!("!has(self.", $field, ") || self.", $field, ".all(k, !k.startsWith('cloudidentity.dev/'))"),
                concat!($field, " under cloudidentity.dev/ belong to the operator"),
            )
        };
    }

    pub(in crate::api) const NAME_STAYS: (&str, &str) = (
        "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
        "secret.name is immutable: delete and create the object to publish elsewhere",
    );
    pub(in crate::api) const NEW_NAMES_DIFFER: (&str, &str) = (
        "!has(self.keys) || self.keys.all(k, self.keys.exists_one(other, self.keys[other] == self.keys[k]))",
        "two keys may not be renamed to the same name",
    );
    pub(in crate::api) const NEW_NAMES_ARE_KEYS: (&str, &str) = (
        "!has(self.keys) || self.keys.all(k, self.keys[k] != '.' && !self.keys[k].startsWith('..'))",
        "a key of a Secret is not . and does not begin with ..",
    );
    pub(in crate::api) const TEMPLATES_ARE_KEYS: (&str, &str) = (
        "!has(self.template) || self.template.all(k, size(k) <= 253 && k.matches('^[-._a-zA-Z0-9]+$') && k != '.' && !k.startsWith('..'))",
        "a key of template is a key of a Secret: at most 253 letters, digits, -, _ and ., neither . nor beginning with ..",
    );
    pub(in crate::api) const TEMPLATES_ARE_NEW: (&str, &str) = (
        "!has(self.template) || !has(self.keys) || self.template.all(k, !(k in self.keys) && !self.keys.exists(old, self.keys[old] == k))",
        "a key of template may not be a key of the layout, neither under its old name nor under its new one",
    );
    pub(in crate::api) const LABELS_ARE_NAMES: (&str, &str) = are_names!("labels");
    pub(in crate::api) const LABELS_ARE_FREE: (&str, &str) = are_free!("labels");
    pub(in crate::api) const ANNOTATIONS_ARE_NAMES: (&str, &str) = are_names!("annotations");
    pub(in crate::api) const ANNOTATIONS_ARE_FREE: (&str, &str) = are_free!("annotations");
}

/// Where the credential is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::NAME_STAYS,
    validation = ("self.layout != 'Spring' || has(self.registrationId)", "layout Spring needs secret.registrationId"),
    validation = rules::NEW_NAMES_DIFFER,
    validation = rules::NEW_NAMES_ARE_KEYS,
    validation = rules::TEMPLATES_ARE_KEYS,
    validation = rules::TEMPLATES_ARE_NEW,
    validation = rules::LABELS_ARE_NAMES,
    validation = rules::LABELS_ARE_FREE,
    validation = rules::ANNOTATIONS_ARE_NAMES,
    validation = rules::ANNOTATIONS_ARE_FREE,
)]
pub struct SecretSpec {
    /// Name of the Secret. Default: the object's name. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"))]
    pub name: Option<String>,
    /// Which keys the Secret has: `AppId` (default), `OAuth`, `IbmBinding`, `ServiceBinding`, `OAuth2Proxy` or `Spring`. A change is one
    /// write; keys of the former layout go.
    #[serde(default)]
    pub layout: Layout,
    /// Renames keys of the layout: `layout key: key in the Secret`. At most 32. A key the layout does not have is reported, not ignored.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "key_names")]
    pub keys: BTreeMap<String, String>,
    /// Further keys that you word yourself: `key in the Secret: text` in Jinja's language, at most 16 of 8192 characters. A text names the keys of
    /// the layout as they are called before `keys` renames them (`{{ clientId }}`, or `{{ values["KEY"] }}` where a key is no name), and
    /// `metadata.name` and `metadata.namespace`. It can read nothing else; a name that is not there is a mistake, which `Ready` tells before
    /// anything is asked of the service. What a text makes is at most 64 KiB long. docs/secret-layouts.md tells more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "template_texts")]
    pub template: BTreeMap<String, String>,
    /// Labels for the Secret, at most 64. The prefix `cloudidentity.dev/` is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_values")]
    pub labels: BTreeMap<String, String>,
    /// Annotations for the Secret, at most 64. The prefix `cloudidentity.dev/` is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotation_values")]
    pub annotations: BTreeMap<String, String>,
    /// Which of `redirectUris` the Secret names, for consumers that want exactly one; layouts `AppId` and `ServiceBinding` only. Default: the
    /// only one, when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<RedirectUri>,
    /// Layout `Spring`: the registration id, lower-case letters and digits, as in `spring.security.oauth2.client.registration.<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]+$"))]
    pub registration_id: Option<String>,
}

fn map_of(value: serde_json::Value, entries: u32) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "maxProperties": entries, "additionalProperties": value })
}

pub(super) fn key_names(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    map_of(serde_json::json!({ "type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$" }), 32)
}

pub(super) fn template_texts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    map_of(serde_json::json!({ "type": "string", "maxLength": 8192 }), 16)
}

pub(super) fn label_values(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    map_of(serde_json::json!({ "type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" }), 64)
}

pub(super) fn annotation_values(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    map_of(serde_json::json!({ "type": "string", "maxLength": 4096 }), 64)
}
