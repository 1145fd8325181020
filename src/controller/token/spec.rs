//! What an object says, in the words of the rules.

use std::collections::BTreeSet;

use kube::ResourceExt;

use super::super::{
    Context,
    claims::{Claim, Claimant, ProviderKey, Reference},
    name::Name,
    versions::{Namer, Who},
};
use super::KIND;
use crate::{
    api::{AccessToken, ClientKind, ClientReference, GrantType, Span, TokenLayout},
    plan::{
        Problem,
        layout::{
            Templates,
            token::{self as layout, Layout, Shape},
        },
        schedule::Policy,
    },
    reasons::Reason,
};

/// So long may the name of a Secret be (Kubernetes API: a DNS subdomain).
const NAME_LIMIT: usize = 253;

/// What an object claims, for the index of claims.
#[must_use]
pub fn claim_of(object: &AccessToken) -> Claim {
    let namespace = object.namespace().unwrap_or_default();
    Claim {
        claimant: claimant(object),
        created: object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
        secret: secret_key(object),
        state: spends(object).map(|_| state_key(object)),
        spends: spends(object).zip(spent_key(object)).map(|(secret, key)| (key, has_begun_to_spend(object, &secret))),
        provider: object.spec.provider_ref.as_ref().map(|reference| ProviderKey::referred(reference, &namespace)),
        refers_to: references(object),
        tenant: None,
        client_id: None,
        redirect_uris: BTreeSet::new(),
        may_inherit: false,
        deleting: object.metadata.deletion_timestamp.is_some(),
    }
}

fn claimant(object: &AccessToken) -> Claimant {
    Claimant { kind: KIND, name: Name::of(&object.metadata), uid: object.metadata.uid.as_deref().unwrap_or_default().into() }
}

/// What stands for it in the index of Secrets.
#[must_use]
pub fn namer(object: &AccessToken) -> Namer {
    let claimant = claimant(object);
    Namer { uid: claimant.uid.to_string(), who: Who::Claimant(claimant) }
}

/// The Secrets of which every change is to be noticed: those that the spec names, and the operator's own beside the published one.
#[must_use]
pub fn watched_secrets(object: &AccessToken) -> Vec<Name> {
    named_secrets(object).into_iter().chain(spends(object).map(|_| state_key(object))).collect()
}

/// The key of a first refresh token, where the spec names none.
pub(super) const REFRESH_TOKEN: &str = "refresh_token";

/// The Secret whose refresh token is used up for this object.
pub(super) fn spends(object: &AccessToken) -> Option<Name> {
    let source = object.spec.grant.refresh_token.as_ref()?;
    Some(Name::new(object.metadata.namespace.as_deref().unwrap_or_default(), &source.secret_ref.name))
}

/// The key in that Secret, under one name with it: a Secret may hold first tokens of several sign-ins.
pub(super) fn spent_key(object: &AccessToken) -> Option<Name> {
    let reference = &object.spec.grant.refresh_token.as_ref()?.secret_ref;
    let key = reference.key.as_deref().unwrap_or(REFRESH_TOKEN);
    Some(Name::new(object.metadata.namespace.as_deref().unwrap_or_default(), &format!("{}/{key}", reference.name)))
}

/// Whether the first token that was used is this Secret's: an object that was led to another Secret has begun nothing there.
fn has_begun_to_spend(object: &AccessToken, secret: &Name) -> bool {
    let Some(status) = &object.status else { return false };
    let asked_for = [&status.tried_for, &status.issued_for].into_iter().flatten();
    let versions = asked_for.filter_map(|asked_for| asked_for.credentials.get(secret.name()));
    status.refresh_token.as_ref().is_some_and(|used| versions.into_iter().any(|version| *version == used.seed))
}

/// The Secrets that the spec names, for the credential and for the grant.
#[must_use]
pub fn named_secrets(object: &AccessToken) -> Vec<Name> {
    let (spec, namespace) = (&object.spec, object.namespace().unwrap_or_default());
    let credentials = spec.credentials.as_ref().map(|credentials| &credentials.secret_ref.name);
    let password = spec.grant.password.as_ref().map(|password| &password.secret_ref.name);
    let assertion = spec.grant.assertion.as_ref().and_then(|assertion| {
        let key = assertion.signed.as_ref().map(|signed| &signed.private_key.secret_ref);
        Some(&assertion.secret_ref.as_ref().or(key)?.name)
    });
    let refresh_token = spec.grant.refresh_token.as_ref().map(|source| &source.secret_ref.name);
    let names: BTreeSet<&String> = [credentials, password, assertion, refresh_token].into_iter().flatten().collect();
    names.into_iter().map(|name| Name::new(&namespace, name)).collect()
}

fn references(object: &AccessToken) -> BTreeSet<Reference> {
    let spec = &object.spec;
    let refer = |reference: &ClientReference| match reference.kind {
        ClientKind::AppIdApplication => {
            Some((super::super::application::KIND, Name::new(object.metadata.namespace.as_ref()?, &reference.name)))
        }
        ClientKind::Unknown => None,
    };
    [spec.client_ref.as_ref(), spec.grant.audience_ref.as_ref()].into_iter().flatten().filter_map(refer).collect()
}

pub(super) fn secret_key(object: &AccessToken) -> Name {
    let metadata = &object.metadata;
    let name = object.spec.secret.name.as_deref().or(metadata.name.as_deref()).unwrap_or_default();
    Name::new(metadata.namespace.as_deref().unwrap_or_default(), name)
}

/// Where the operator keeps the refresh token that is used next.
pub(super) fn state_key(object: &AccessToken) -> Name {
    let published = secret_key(object);
    Name::new(published.namespace(), &format!("{}-state", published.name()))
}

pub(super) fn shape_of(object: &AccessToken, has_expiry: bool) -> Shape {
    let secret = &object.spec.secret;
    Shape {
        layout: match secret.layout {
            TokenLayout::BearerToken | TokenLayout::Unknown => Layout::BearerToken,
            TokenLayout::IbmSdk => Layout::IbmSdk {
                service: secret.service.clone().unwrap_or_default().to_uppercase(),
                url: secret.service_url.as_ref().map(|url| url.0.clone()),
            },
        },
        renamed: secret.keys.clone(),
        has_expiry,
        identity_token: secret.identity_token,
        templates: Templates { texts: secret.template.clone(), name: object.name_any(), namespace: object.namespace().unwrap_or_default() },
    }
}

pub(super) fn shape_mark(object: &AccessToken, shape: &Shape) -> String {
    layout::mark(shape, &object.spec.secret.labels, &object.spec.secret.annotations)
}

pub(super) fn policy_of(object: &AccessToken) -> Policy {
    let (spec, default) = (&object.spec.refresh, Policy::DEFAULT);
    let span = |span: &Option<Span>| span.as_ref().and_then(Span::duration);
    Policy {
        at_percent: spec.at_percent.and_then(|share| u32::try_from(share).ok()).unwrap_or(default.at_percent).clamp(1, 99),
        max_interval: span(&spec.max_interval).unwrap_or(default.max_interval),
        min_remaining: span(&spec.min_remaining).unwrap_or(default.min_remaining),
    }
}

/// A flaw of the spec that the API server could not see.
pub(super) fn flaw(context: &Context, object: &AccessToken) -> Option<Problem> {
    let spec = &object.spec;
    let is_unknown =
        |reference: &Option<ClientReference>| reference.as_ref().is_some_and(|reference| reference.kind == ClientKind::Unknown);
    let field = if spec.grant.grant_type == Some(GrantType::Unknown) {
        Some("grant.type")
    } else if spec.secret.layout == TokenLayout::Unknown {
        Some("secret.layout")
    } else if is_unknown(&spec.client_ref) {
        Some("clientRef.kind")
    } else if is_unknown(&spec.grant.audience_ref) {
        Some("grant.audienceRef.kind")
    } else {
        None
    };
    let state_name = spends(object).map(|_| state_key(object));
    match field {
        Some(field) => Some(Problem::unknown_value(field)),
        None if state_name.is_some_and(|name| name.name().len() > NAME_LIMIT) => {
            let message = "with a refresh token the Secret's name may have 247 characters: set secret.name, or a shorter metadata.name";
            Some(Problem::new(Reason::InvalidSpec, message))
        }
        // Only a renamed key or a template can be wrong, and this is asked of every object that anybody touches.
        None if spec.secret.keys.is_empty() && spec.secret.template.is_empty() => None,
        None if spec.secret.template.is_empty() => layout::flaw(&shape_of(object, true)),
        None => context.flaws.of(&object.metadata, || layout::flaw(&shape_of(object, true))),
    }
}
