//! Counts tokens for the metrics: how many are in which state, and when the first of each service ends.

use jiff::Timestamp;
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use super::super::{Context, claims::ProviderKey};
use crate::{api::AccessToken, controller::report::condition, metrics::TokenCensus};

/// Every state, from the worst to the best.
const STATES: [&str; 5] = ["absent", "expired", "suspended", "failing", "fresh"];

/// Counts the tokens of a store.
#[must_use]
pub fn census(context: &Context, tokens: &Store<AccessToken>) -> TokenCensus {
    let now = context.clock.now();
    let mut census = TokenCensus { states: STATES.into_iter().map(|state| (state, 0)).collect(), ..TokenCensus::default() };
    for token in tokens.state() {
        let state = state_of(&token, now);
        *census.states.entry(state).or_default() += 1;
        let service = provider_of(context, &token).and_then(|provider| context.directory.connection(&provider).ok());
        let end = token.status.as_ref().and_then(|status| status.expires_at.as_ref());
        if let (Some(connection), Some(end)) = (service, end.filter(|_| !["absent", "expired"].contains(&state))) {
            let soonest = census.soonest_ends.entry(connection.service.name()).or_insert(i64::MAX);
            *soonest = (*soonest).min(end.0.as_second());
        }
    }
    census
}

/// The provider that the spec names, or that of the client it names.
fn provider_of(context: &Context, token: &AccessToken) -> Option<ProviderKey> {
    let namespace = token.namespace().unwrap_or_default();
    let of_client = |name: &str| context.applications.get(&ObjectRef::new(name).within(&namespace));
    let client = token.spec.client_ref.as_ref().and_then(|reference| of_client(&reference.name));
    let reference = token.spec.provider_ref.as_ref().or_else(|| client.as_ref().map(|client| &client.spec.provider_ref))?;
    Some(ProviderKey::referred(reference, &namespace))
}

fn state_of(token: &AccessToken, now: Timestamp) -> &'static str {
    let Some(status) = token.status.as_ref().filter(|status| status.secret_ref.is_some()) else { return "absent" };
    match &status.expires_at {
        None => "absent",
        // Also one that nobody is to replace: a suspended object does not make it live longer.
        Some(end) if end.0 <= now => "expired",
        Some(_) if token.spec.suspend => "suspended",
        Some(_) if condition(&status.conditions, "Fresh").is_some_and(|fresh| fresh.status == "False") => "failing",
        Some(_) => "fresh",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Traps: T59.
    #[test]
    fn a_token_that_has_ended_is_expired_whatever_else_is_said_of_it() {
        let now: Timestamp = "2026-11-28T12:00:00Z".parse().expect("a time");
        let (later, before) = ("2026-11-28T12:00:01Z", "2026-11-28T12:00:00Z");
        let fresh = |status: &str| json!([{ "type": "Fresh", "status": status, "reason": "Refreshed", "message": "", "lastTransitionTime": before }]);
        let held = json!({ "name": "token" });
        for (suspend, status, state) in [
            (false, json!({}), "absent"),
            (false, json!({ "expiresAt": later }), "absent"),
            (false, json!({ "secretRef": held, "expiresAt": later, "conditions": fresh("True") }), "fresh"),
            (false, json!({ "secretRef": held, "expiresAt": later, "conditions": fresh("False") }), "failing"),
            (true, json!({ "secretRef": held, "expiresAt": later, "conditions": fresh("Unknown") }), "suspended"),
            (false, json!({ "secretRef": held, "expiresAt": before, "conditions": fresh("False") }), "expired"),
            (true, json!({ "secretRef": held, "expiresAt": before, "conditions": fresh("Unknown") }), "expired"),
        ] {
            let token: AccessToken = serde_json::from_value(json!({
                "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AccessToken", "metadata": { "name": "token" },
                "spec": { "providerRef": { "name": "ibm" }, "suspend": suspend }, "status": status,
            }))
            .expect("a token");
            assert_eq!(state_of(&token, now), state, "{:?}", token.status);
        }
    }
}
