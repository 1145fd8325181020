//! What an object says: its spec and its status, in the words of the rules.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::super::{
    Context,
    claims::{Claim as ClaimOf, Claimant, ProviderKey},
    cluster::holds_finalizer,
    directory::recorded_tenant,
    name::Name,
    report::{condition, is_said, is_true},
};
use super::KIND;
use crate::{
    api::{AppIdApplication, AppIdApplicationStatus, ApplicationType, DeletionPolicy, Layout as SpecLayout, mark},
    model::{ApplicationKind, ClientId, Desired, TenantIdentity},
    plan::{
        Problem,
        application::{Added, Claim, Recorded},
        layout::{self, Layout, Shape, Templates},
    },
    provider::Urgency,
    reasons::Reason,
};

/// What an object claims, for the index of claims.
#[must_use]
pub fn claim_of(object: &AppIdApplication) -> ClaimOf {
    let namespace = object.namespace().unwrap_or_default();
    let status = object.status.as_ref();
    ClaimOf {
        claimant: Claimant { kind: KIND, name: Name::of(&object.metadata), uid: object.metadata.uid.as_deref().unwrap_or_default().into() },
        created: object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
        secret: Name::new(&namespace, &secret_name(object)),
        state: None,
        spends: None,
        provider: Some(ProviderKey::referred(&object.spec.provider_ref, &namespace)),
        refers_to: BTreeSet::new(),
        tenant: status
            .and_then(|status| status.tenant.clone())
            .or_else(|| recorded_tenant(object.annotations()).map(|tenant| tenant.to_string())),
        // Anybody may write the annotation; what was really begun at the service carries the finalizer or an id.
        may_inherit: status.is_some_and(|status| status.client_id.is_some()) || standing_claim(object) == Claim::Before,
        client_id: status.and_then(|status| status.client_id.as_deref()).map(ClientId::new),
        redirect_uris: object.spec.redirect_uris.iter().map(|uri| uri.0.clone()).collect(),
        deleting: object.metadata.deletion_timestamp.is_some(),
    }
}

pub(super) fn secret_name(object: &AppIdApplication) -> String {
    object.spec.secret.name.clone().unwrap_or_else(|| object.name_any())
}

pub(super) fn urgency(object: &AppIdApplication) -> Urgency {
    if object.metadata.deletion_timestamp.is_some() {
        Urgency::Deletion
    } else if object
        .status
        .as_ref()
        .is_some_and(|status| status.client_id.is_some() && status.observed_generation == object.metadata.generation)
    {
        Urgency::Drift
    } else {
        Urgency::Wanted
    }
}

pub(super) fn standing_claim(object: &AppIdApplication) -> Claim {
    match (holds_finalizer(&object.metadata), recorded_tenant(object.annotations())) {
        (true, Some(_)) => Claim::Before,
        (true, None) => Claim::Unmarked,
        (false, _) => Claim::Absent,
    }
}

pub(super) fn recorded(object: &AppIdApplication, status: &AppIdApplicationStatus) -> Recorded {
    Recorded {
        client_id: status.client_id.as_deref().map(ClientId::new),
        tenant: status.tenant.as_deref().map(TenantIdentity::recorded).or_else(|| recorded_tenant(object.annotations())),
        adopted: status.adopted.unwrap_or(false),
        added: Added {
            scopes: status.added.scopes.clone(),
            roles: status.added.roles.clone(),
            redirect_uris: status.added.redirect_uris.clone(),
        },
        verified: status.verified_at.is_some(),
        unclear_since: status.unclear_since.as_ref().map(|time| time.0),
        missing_since: status.missing_since.as_ref().map(|time| time.0),
    }
}

pub(super) fn desired(object: &AppIdApplication) -> Desired {
    let spec = &object.spec;
    Desired {
        display_name: spec.display_name.clone().unwrap_or_else(|| object.name_any()),
        display_name_is_explicit: spec.display_name.is_some(),
        kind: kind_of(spec.application_type),
        scopes: spec.scopes.as_ref().map(|scopes| scopes.iter().map(|scope| scope.0.clone()).collect()),
        roles: spec.roles.as_ref().map(|roles| roles.iter().cloned().collect()),
        redirect_uris: spec.redirect_uris.iter().map(|uri| uri.0.clone()).collect(),
        adopt: spec.adopt.as_ref().map(|adopt| ClientId::new(&adopt.client_id)),
        retain: match spec.deletion_policy {
            Some(DeletionPolicy::Delete) => Some(false),
            // What this version does not know is not taken as a permission to delete.
            Some(DeletionPolicy::Retain | DeletionPolicy::Unknown) => Some(true),
            None => None,
        },
        suspended: spec.suspend,
        removable_scopes: object
            .annotations()
            .get(mark::REMOVE_SCOPE)
            .into_iter()
            .flat_map(|text| text.split(','))
            .map(|scope| scope.trim().to_owned())
            .collect(),
    }
}

/// What a person asks for by annotation, while it is still to be done: an annotation does not change the generation.
pub(super) fn request(object: &AppIdApplication) -> Option<&str> {
    let text = object.annotations().get(mark::REMOVE_SCOPE)?;
    let (desired, added) = (desired(object), &object.status.as_ref()?.added.scopes);
    let is_open = desired
        .removable_scopes
        .iter()
        .any(|scope| added.contains(scope) && desired.scopes.as_ref().is_some_and(|wanted| !wanted.contains(scope)));
    is_open.then_some(text)
}

pub(super) fn kind_of(application_type: ApplicationType) -> ApplicationKind {
    match application_type {
        ApplicationType::SinglePageApp => ApplicationKind::SinglePageApp,
        ApplicationType::RegularWebApp | ApplicationType::Unknown => ApplicationKind::RegularWebApp,
    }
}

/// How its Secret is to look, without any value.
#[must_use]
pub fn shape_of(object: &AppIdApplication) -> Shape {
    let (spec, secret) = (&object.spec, &object.spec.secret);
    let only = match spec.redirect_uris.as_slice() {
        [only] => Some(only),
        _ => None,
    };
    Shape {
        layout: match secret.layout {
            SpecLayout::AppId | SpecLayout::Unknown => Layout::AppId,
            SpecLayout::OAuth => Layout::OAuth,
            SpecLayout::IbmBinding => Layout::IbmBinding,
            SpecLayout::ServiceBinding => Layout::ServiceBinding,
            SpecLayout::OAuth2Proxy => Layout::OAuth2Proxy,
            SpecLayout::Spring => Layout::Spring,
        },
        kind: kind_of(spec.application_type),
        renamed: secret.keys.clone(),
        redirect_uri: secret.redirect_uri.as_ref().or(only).map(|uri| uri.0.clone()),
        registration_id: secret.registration_id.as_ref().map(|id| id.to_uppercase()),
        scopes: spec.scopes.iter().flatten().map(|scope| scope.0.clone()).collect(),
        templates: Templates { texts: secret.template.clone(), name: object.name_any(), namespace: object.namespace().unwrap_or_default() },
    }
}

pub(super) fn flaw(context: &Context, object: &AppIdApplication, shape: &Shape) -> Option<Problem> {
    let spec = &object.spec;
    let unknown = |field: &str| Some(Problem::unknown_value(field));
    if spec.application_type == ApplicationType::Unknown {
        return unknown("type");
    }
    if spec.secret.layout == SpecLayout::Unknown {
        return unknown("secret.layout");
    }
    if spec.deletion_policy == Some(DeletionPolicy::Unknown) {
        return unknown("deletionPolicy");
    }
    if object.spec.secret.template.is_empty() {
        return layout::flaw(shape);
    }
    context.flaws.of(&object.metadata, || layout::flaw(shape))
}

fn conditions(object: &AppIdApplication) -> &[Condition] {
    object.status.as_ref().map_or(&[], |status| &status.conditions)
}

pub(super) fn is_reported(object: &AppIdApplication, problem: &Problem) -> bool {
    is_said(conditions(object), problem)
}

/// Whether the Secret was right when it was last written about.
pub(super) fn was_published(object: &AppIdApplication) -> bool {
    is_true(conditions(object), "SecretPublished")
}

/// Whether the token endpoint did not take what was published.
pub(super) fn was_refused(object: &AppIdApplication) -> bool {
    condition(conditions(object), "Verified").is_some_and(|verified| verified.reason == Reason::InvalidClient.as_str())
}
