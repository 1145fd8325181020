//! Prometheus metrics, in base units, with labels from closed lists only.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    service: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabels {
    service: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReadyLabels {
    kind: &'static str,
    ready: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OnlyKind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    call_seconds: HistogramFamily<ServiceLabels>,
    turn_seconds: HistogramFamily<ServiceLabels>,
    passes: Family<KindLabels, Counter>,
    pass_seconds: HistogramFamily<OnlyKind>,
    objects: Family<ReadyLabels, Gauge>,
    orphans: Family<OnlyKind, Counter>,
    tokens: Family<StateLabels, Gauge>,
    token_ends: Family<ServiceLabels, Gauge>,
    token_lateness: Histogram,
    paused: Gauge,
    leader: Gauge,
}

/// What there is of access tokens at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenCensus {
    /// How many are in each state; every state is there.
    pub states: BTreeMap<&'static str, usize>,
    /// By service, when the first of those that live ends, in seconds since 1970.
    pub soonest_ends: BTreeMap<&'static str, i64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cloud_identity");
        let seconds: fn() -> Histogram = || Histogram::new([0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0]);
        let metrics = Self {
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(seconds),
            turn_seconds: Family::new_with_constructor(seconds),
            passes: Family::default(),
            pass_seconds: Family::new_with_constructor(seconds),
            objects: Family::default(),
            orphans: Family::default(),
            tokens: Family::default(),
            token_ends: Family::default(),
            // From what nobody notices to what outlives the rest of a short token.
            token_lateness: Histogram::new([0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0]),
            paused: Gauge::default(),
            leader: Gauge::default(),
            registry: Mutex::new(Registry::default()),
        };
        // One that does not exist before its first increase hides that from whoever looks for increases.
        drop(metrics.orphans.get_or_create(&OnlyKind { kind: "AppIdApplication" }));
        registry.register("remote_calls", "Calls to identity services, by service, operation and outcome", metrics.calls.clone());
        registry.register_with_unit(
            "remote_call_duration",
            "Duration of calls to identity services",
            Unit::Seconds,
            metrics.call_seconds.clone(),
        );
        registry.register_with_unit(
            "budget_wait",
            "How long calls to identity services waited for their turn within the tenant's budget",
            Unit::Seconds,
            metrics.turn_seconds.clone(),
        );
        registry.register("reconciles", "Passes over objects, by kind and outcome", metrics.passes.clone());
        registry.register_with_unit("reconcile_duration", "Duration of passes over objects", Unit::Seconds, metrics.pass_seconds.clone());
        registry.register("objects", "Objects by kind and readiness", metrics.objects.clone());
        registry.register("orphaned_registrations", "Registrations that could not be deleted and were given up", metrics.orphans.clone());
        registry.register("tokens", "Access tokens by state: absent, expired, suspended, failing or fresh", metrics.tokens.clone());
        registry.register_with_unit(
            "token_expiry_timestamp",
            "By service, when the first of the published access tokens that live will end, in seconds since 1970",
            Unit::Seconds,
            metrics.token_ends.clone(),
        );
        registry.register_with_unit(
            "token_refresh_lateness",
            "How long after its time a published access token was replaced",
            Unit::Seconds,
            metrics.token_lateness.clone(),
        );
        registry.register("paused_providers", "Providers whose tenant is paused: rate limited, or failing", metrics.paused.clone());
        registry.register("leader", "1 while this process leads", metrics.leader.clone());
        *metrics.registry.lock() = registry;
        metrics
    }
}

impl Metrics {
    /// Counts a call to an identity service.
    pub fn remote_call(&self, service: &'static str, operation: &'static str, outcome: &'static str, took: Duration) {
        self.calls.get_or_create(&CallLabels { service, operation, outcome }).inc();
        self.call_seconds.get_or_create(&ServiceLabels { service }).observe(took.as_secs_f64());
    }

    /// Counts how long a call waited for its turn.
    pub fn waited(&self, service: &'static str, took: Duration) {
        self.turn_seconds.get_or_create(&ServiceLabels { service }).observe(took.as_secs_f64());
    }

    /// Counts a pass over an object.
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&KindLabels { kind, outcome }).inc();
        self.pass_seconds.get_or_create(&OnlyKind { kind }).observe(took.as_secs_f64());
    }

    /// Sets how many objects of a kind are ready, and how many are not.
    pub fn set_objects(&self, kind: &'static str, ready: usize, not_ready: usize) {
        for (label, count) in [("true", ready), ("false", not_ready)] {
            self.objects.get_or_create(&ReadyLabels { kind, ready: label }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts a registration that was given up.
    pub fn orphaned(&self, kind: &'static str) {
        self.orphans.get_or_create(&OnlyKind { kind }).inc();
    }

    /// Sets what there is of access tokens; what was set before goes.
    pub fn set_tokens(&self, census: &TokenCensus) {
        // Whoever renders meanwhile would miss a part.
        let _whole = self.registry.lock();
        for (state, count) in &census.states {
            self.tokens.get_or_create(&StateLabels { state }).set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
        self.token_ends.clear();
        for (service, end) in &census.soonest_ends {
            self.token_ends.get_or_create(&ServiceLabels { service }).set(*end);
        }
    }

    /// Counts a token that was replaced, and how late.
    pub fn replaced(&self, late: Duration) {
        self.token_lateness.observe(late.as_secs_f64());
    }

    /// Sets how many providers lead to a paused tenant.
    pub fn set_paused(&self, providers: usize) {
        self.paused.set(i64::try_from(providers).unwrap_or(i64::MAX));
    }

    /// Says whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The metrics in OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry.lock()).is_err() {
            text.clear();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Traps: T57, T59.
    #[test]
    fn tokens_are_told_by_state_and_service_and_those_of_a_service_without_any_are_not_told() {
        let metrics = Metrics::default();
        let census = |states: &[(&'static str, usize)], ends: &[(&'static str, i64)]| TokenCensus {
            states: states.iter().copied().collect(),
            soonest_ends: ends.iter().copied().collect(),
        };
        metrics.set_tokens(&census(&[("fresh", 2), ("expired", 1)], &[("iam", 1_800_000_000), ("oidc", 1_800_000_060)]));
        metrics.set_tokens(&census(&[("fresh", 3), ("expired", 0)], &[("iam", 1_800_000_100)]));
        metrics.replaced(Duration::from_millis(70));
        let text = metrics.render();
        for line in [
            "cloud_identity_tokens{state=\"fresh\"} 3",
            "cloud_identity_tokens{state=\"expired\"} 0",
            "cloud_identity_token_expiry_timestamp_seconds{service=\"iam\"} 1800000100",
            "cloud_identity_token_refresh_lateness_seconds_bucket{le=\"0.05\"} 0",
            "cloud_identity_token_refresh_lateness_seconds_bucket{le=\"0.1\"} 1",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is missing in {text}");
        }
        assert!(!text.contains("oidc"), "{text}");
    }
}
