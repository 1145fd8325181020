//! Counts tokens for the metrics: how many are in which state, and when the first of each service ends.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::{Context, claims::ProviderKey, name::Name, objects::Objects, uid::Uid};
use crate::{api::AccessToken, controller::report::condition, metrics::TokenCensus};

/// Every state, from the worst to the best.
const STATES: [&str; 5] = ["absent", "expired", "suspended", "failing", "fresh"];

/// What is counted of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// When the published one ends, in seconds; `None` where none is published.
    ends: Option<i64>,
    is_suspended: bool,
    is_failing: bool,
    /// The client that it names.
    client: Option<Name>,
}

impl Summary {
    /// What is counted of `token`.
    #[must_use]
    pub fn of(token: &AccessToken) -> Self {
        let status = token.status.as_ref().filter(|status| status.secret_ref.is_some());
        let fresh = status.and_then(|status| condition(&status.conditions, "Fresh"));
        let namespace = token.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            ends: status.and_then(|status| status.expires_at.as_ref()).map(|end| end.0.as_second()),
            is_suspended: token.spec.suspend,
            // Also where something keeps it from being tried: nobody will replace it.
            is_failing: fresh.is_some_and(|fresh| fresh.status != "True"),
            client: token.spec.client_ref.as_ref().map(|client| Name::new(namespace, &client.name)),
        }
    }

    fn state(&self, now: Timestamp) -> &'static str {
        match self.ends {
            None => "absent",
            // Also one that nobody is to replace: a suspended object does not make it live longer.
            Some(end) if end <= now.as_second() => "expired",
            Some(_) if self.is_suspended => "suspended",
            Some(_) if self.is_failing => "failing",
            Some(_) => "fresh",
        }
    }
}

/// Counts the tokens.
#[must_use]
pub fn census(context: &Context, tokens: &Objects<AccessToken>) -> TokenCensus {
    let now = context.clock.now();
    let mut census = TokenCensus { states: STATES.into_iter().map(|state| (state, 0)).collect(), ..TokenCensus::default() };
    let mut places = Places { context, of_providers: BTreeMap::new(), of_clients: BTreeMap::new() };
    tokens.for_each_summary(|uid, token| {
        let state = token.state(now);
        *census.states.entry(state).or_default() += 1;
        let end = token.ends.filter(|_| !["absent", "expired"].contains(&state));
        if let Some((end, service)) = end.and_then(|end| Some((end, places.service(uid, token)?))) {
            let soonest = census.soonest_ends.entry(service).or_insert(i64::MAX);
            *soonest = (*soonest).min(end);
        }
    });
    census
}

/// Where tokens come from; each place is looked up once in a census.
struct Places<'a> {
    context: &'a Context,
    of_providers: BTreeMap<ProviderKey, Option<&'static str>>,
    of_clients: BTreeMap<Name, Option<ProviderKey>>,
}

impl Places<'_> {
    fn service(&mut self, uid: Uid, token: &Summary) -> Option<&'static str> {
        let context = self.context;
        // A token that names a client comes from the client's provider.
        let of_client = |name: &Name| {
            let application = context.applications.get(name)?;
            Some(ProviderKey::referred(&application.spec.provider_ref, name.namespace()))
        };
        let provider = match &token.client {
            Some(client) => self.of_clients.entry(client.clone()).or_insert_with(|| of_client(client)).clone()?,
            None => context.claims.provider_of(uid)?,
        };
        let name = |provider: &ProviderKey| context.directory.connection(provider).ok().map(|connection| connection.service.name());
        match self.of_providers.get(&provider) {
            Some(service) => *service,
            None => {
                let service = name(&provider);
                self.of_providers.insert(provider, service);
                service
            }
        }
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
            assert_eq!(Summary::of(&token).state(now), state, "{:?}", token.status);
        }
    }
}
