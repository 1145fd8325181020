//! App ID's tokens: which scopes they carry and how they are signed (App ID 6.5).

use crate::model::{Application, SigningAlgorithm, Tenant, User};
use crate::signing::{Claims, SigningError, keys};
use crate::switches::{DefaultBesideExplicitScope, DefaultScope, KeyIdStyle, ScopeNames, Switches};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const DEFAULT_SCOPE: &str = "appid_default";
const USER_SCOPES: &str = "openid appid_default appid_readprofile appid_readuserattr appid_writeuserattr appid_authenticated";

const CUSTOM_PROVIDER: &str = "appid_custom";

/// The scopes of a client-credentials token, and whether every one that was asked for is among them.
pub(super) struct Granted {
    pub(super) text: String,
    pub(super) is_complete: bool,
}

/// What the roles of an application grant at an audience, or anywhere when none is named.
pub(super) fn assigned_scopes(tenant: &Tenant, roles: &BTreeSet<String>, audience: Option<&str>, switches: &Switches) -> BTreeSet<String> {
    let roles = roles.iter().filter_map(|id| tenant.roles.get(id));
    let access = roles.flat_map(|role| &role.access);
    let access = access.filter(|access| audience.is_none_or(|audience| access.application_id == audience));
    let mut scopes = BTreeSet::new();
    for access in access {
        // A dangling entry grants nothing.
        let Some(application) = tenant.client(&access.application_id) else {
            continue;
        };
        for scope in access.scopes.intersection(&application.scopes) {
            let prefixed = audience.is_none() && switches.scope_names() == ScopeNames::Prefixed;
            scopes.insert(if prefixed { format!("{}/{scope}", application.name) } else { scope.clone() });
        }
    }
    scopes
}

/// The scopes of a client-credentials token.
pub(super) fn granted_scopes(assigned: BTreeSet<String>, requested: Option<&str>, switches: &Switches) -> Granted {
    let Some(requested) = requested else {
        let scopes: Vec<String> = match switches.default_scope() {
            DefaultScope::DefaultAlone => vec![DEFAULT_SCOPE.to_owned()],
            DefaultScope::AssignedElseDefault if !assigned.is_empty() => assigned.into_iter().collect(),
            DefaultScope::DefaultAndAssigned | DefaultScope::AssignedElseDefault => {
                std::iter::once(DEFAULT_SCOPE.to_owned()).chain(assigned).collect()
            }
        };
        return Granted { text: scopes.join(" "), is_complete: true };
    };
    let is_granted = |scope: &&str| *scope == DEFAULT_SCOPE || assigned.contains(*scope);
    let requested: Vec<&str> = requested.split_ascii_whitespace().collect();
    let mut granted: Vec<&str> = requested.iter().copied().filter(is_granted).collect();
    let is_complete = granted.len() == requested.len();
    let wants_default = switches.default_beside_explicit_scope() == DefaultBesideExplicitScope::Present || granted.is_empty();
    if wants_default && !granted.contains(&DEFAULT_SCOPE) {
        granted.push(DEFAULT_SCOPE);
    }
    Granted { text: granted.join(" "), is_complete }
}

/// The id of a tenant's signing key (App ID 6.3).
pub(super) fn key_id(tenant: &Tenant, switches: &Switches) -> String {
    match switches.key_id_style() {
        KeyIdStyle::TenantFirst => format!("appId-{}-{}", tenant.id, tenant.created.strftime("%Y-%m-%dT%H:%M:%S.%3f")),
        KeyIdStyle::TimeFirst => format!("appId-{}-{}", tenant.created.as_millisecond(), tenant.id),
    }
}

/// When a token begins and ends.
#[derive(Clone, Copy)]
pub(super) struct Life {
    pub(super) issued: i64,
    pub(super) expires: i64,
}

fn base_claims(tenant: &Tenant, issuer: &str, audience: &str, subject: &str, method: &str, life: Life) -> Claims {
    Claims::from_iter([
        ("iss".to_owned(), json!(issuer)),
        ("aud".to_owned(), json!([audience])),
        ("sub".to_owned(), json!(subject)),
        ("amr".to_owned(), json!([method])),
        ("tenant".to_owned(), json!(tenant.id)),
        ("iat".to_owned(), json!(life.issued)),
        ("exp".to_owned(), json!(life.expires)),
    ])
}

/// Adds the role names where the tenant's configuration maps them (App ID 5.2); other sources have nothing to map here.
fn map_roles(claims: &mut Claims, mappings: &[Value], tenant: &Tenant, roles: &BTreeSet<String>) {
    for mapping in mappings.iter().filter(|mapping| mapping["source"] == "roles") {
        let destination = mapping["destinationClaim"].as_str().unwrap_or("roles");
        let names: Vec<&str> = roles.iter().filter_map(|id| tenant.roles.get(id)).map(|role| role.name.as_str()).collect();
        claims.insert(destination.to_owned(), json!(names));
    }
}

/// The access token of `client_credentials`.
pub(super) fn client_token(tenant: &Tenant, client: &Application, issuer: &str, audience: &str, scope: &str, life: Life) -> Claims {
    let mut claims = base_claims(tenant, issuer, audience, &client.client_id, "appid_client_credentials", life);
    claims.insert("scope".to_owned(), json!(scope));
    map_roles(&mut claims, &tenant.tokens.access_token_claims, tenant, &client.roles);
    claims
}

/// The access token of a user.
pub(super) fn user_token(tenant: &Tenant, user: &User, issuer: &str, client_id: &str, life: Life, switches: &Switches) -> Claims {
    let mut claims = base_claims(tenant, issuer, client_id, &user.id, "cloud_directory", life);
    let assigned = assigned_scopes(tenant, &user.roles, None, switches);
    let scopes: Vec<String> = USER_SCOPES.split(' ').map(ToOwned::to_owned).chain(assigned).collect();
    claims.insert("scope".to_owned(), json!(scopes.join(" ")));
    map_roles(&mut claims, &tenant.tokens.access_token_claims, tenant, &user.roles);
    claims
}

/// The ID token of a user.
pub(super) fn identity_token(tenant: &Tenant, user: &User, issuer: &str, client_id: &str, life: Life) -> Claims {
    let mut claims = base_claims(tenant, issuer, client_id, &user.id, "cloud_directory", life);
    claims.extend(profile(user));
    map_roles(&mut claims, &tenant.tokens.id_token_claims, tenant, &user.roles);
    claims
}

/// Access and ID token of somebody for whom the custom identity provider speaks (App ID 6.4).
pub(super) fn asserted_tokens(tenant: &Tenant, asserted: &Claims, issuer: &str, client_id: &str, life: Life) -> (Claims, Claims) {
    let subject = asserted.get("sub").and_then(Value::as_str).unwrap_or_default();
    let mut access = base_claims(tenant, issuer, client_id, subject, CUSTOM_PROVIDER, life);
    let extra = asserted.get("scope").and_then(Value::as_str).unwrap_or_default();
    access.insert("scope".to_owned(), json!(format!("{USER_SCOPES} {extra}").trim_end()));
    let mut identity = base_claims(tenant, issuer, client_id, subject, CUSTOM_PROVIDER, life);
    for name in ["name", "email", "locale", "picture", "gender"] {
        if let Some(value) = asserted.get(name) {
            identity.insert(name.to_owned(), value.clone());
        }
    }
    identity.insert("identities".to_owned(), json!([{"provider": CUSTOM_PROVIDER, "id": subject}]));
    (access, identity)
}

/// What userinfo and the ID token tell about a user.
pub(super) fn profile(user: &User) -> Claims {
    Claims::from_iter([
        ("email".to_owned(), json!(user.email)),
        ("email_verified".to_owned(), json!(!user.verification_pending)),
        ("name".to_owned(), json!(user.name)),
        ("identities".to_owned(), json!([{"provider": "cloud_directory", "id": user.id}])),
    ])
}

/// Signs with the header of version 4 (App ID 6.5).
pub(super) fn sign(tenant: &Tenant, switches: &Switches, algorithm: SigningAlgorithm, claims: Claims) -> Result<String, SigningError> {
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": key_id(tenant, switches), "ver": 4});
    keys()?.app_id.sign_as(algorithm, header, claims)
}
