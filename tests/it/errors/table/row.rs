//! One row: a fault at one operation, with a tenant, a key, a provider and an application of its own.

use std::cell::{Cell, RefCell};

use cloud_identity_operator::api::{AppIdApplication, IdentityProvider};
use identity_simulator::{AccessRole, KeySeed, RoleSeed, Rule, Seed, TenantSeed};
use jiff::Timestamp;
use serde_json::json;
use stage::{Chronicle, Stage, condition, merge, observed, provider_condition, status_written_at};

use super::fault::{CREATE, DELETE, Fault, GET, IAM, LIST, Phase, Wait, date};

/// When an attempt was named, to be compared with the call that failed.
pub(super) struct Named {
    pub(super) row: String,
    pub(super) least: f64,
    pub(super) next: Timestamp,
    pub(super) injected: Injected,
    pub(super) fault: Fault,
    pub(super) tenant: String,
}

/// A fault as the simulator knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Injected {
    pub(super) id: u64,
    /// The date that it names, if it names one.
    pub(super) date: Timestamp,
}

pub(super) struct Row<'a> {
    pub(super) stage: &'a Stage,
    pub(super) chronicle: &'a Chronicle,
    pub(super) named: &'a RefCell<Vec<Named>>,
    pub(super) injected: Cell<Option<Injected>>,
    pub(super) phase: Phase,
    pub(super) operation: &'static str,
    pub(super) fault: Fault,
    pub(super) tenant: String,
    pub(super) name: String,
}

pub(super) type Flaw = String;

pub(super) fn sure(holds: bool, flaw: impl FnOnce() -> String) -> Result<(), Flaw> {
    if holds { Ok(()) } else { Err(flaw()) }
}

impl Row<'_> {
    pub(super) async fn play(&self) -> Result<(), Flaw> {
        self.prepare().await;
        match self.phase {
            Phase::Creation => self.creation().await,
            Phase::Change => self.change().await,
            Phase::Deletion => self.deletion().await,
        }
    }

    fn key(&self) -> String {
        format!("cafec0de-key-of-{}", self.name)
    }

    async fn prepare(&self) {
        let role = |name: &str| RoleSeed { name: name.into(), ..RoleSeed::default() };
        let seed = Seed {
            tenants: vec![TenantSeed {
                id: self.tenant.clone(),
                region: "us-south".into(),
                roles: vec![role("shopper"), role("helper")],
                ..TenantSeed::default()
            }],
            keys: vec![KeySeed {
                id: format!("key-{}", self.name),
                value: self.key(),
                access: [(self.tenant.clone(), AccessRole::Writer)].into(),
                ..KeySeed::default()
            }],
            ..Seed::default()
        };
        self.stage.control.seed(&seed).await.expect("the tenant is seeded");
        self.stage.secret(&format!("key-{}", self.name), &[("apikey", &self.key())]).await;
        // Where the tenant is to pause nobody else may have a call under way: the provider is through with its own look first.
        let is_alone = self.fault.pause().is_some() && self.operation != IAM;
        if self.phase == Phase::Creation && !is_alone {
            self.inject().await;
        }
        let mut provider = self.stage.provider_document(&self.name);
        let mine = json!({ "tenantId": self.tenant, "iam": { "apiKey": { "secretRef": { "name": format!("key-{}", self.name) } } } });
        merge(&mut provider["spec"]["appId"], mine);
        self.stage.apply(&provider).await.expect("the provider is accepted");
        if self.phase == Phase::Creation && is_alone {
            self.stage.ready_provider(&self.name).await;
            self.inject().await;
        }
        let spec = json!({
            "providerRef": { "name": self.name }, "displayName": "one", "scopes": ["read"], "roles": ["shopper"],
            "redirectUris": ["https://a.example.com/", "https://b.example.com/"], "secret": { "name": format!("secret-of-{}", self.name) },
        });
        self.stage.application(&self.name, spec).await;
    }

    async fn inject(&self) {
        let date = date();
        let action = self.fault.action(self.operation, &self.stage.simulator.urls().noted, date);
        let rule = Rule::every(self.operation, action);
        let rule = if self.operation == IAM { rule.body_contains(&self.key()) } else { rule.tenant(&self.tenant) };
        let injected = self.stage.control.inject(&rule).await.expect("the fault is accepted");
        self.injected.set(Some(Injected { id: injected.id, date }));
        let besides = match self.operation {
            LIST if self.phase == Phase::Deletion => Rule::every(DELETE, Fault::NotFoundJson.action(DELETE, "", date)),
            LIST => Rule::every(GET, Fault::NotFoundJson.action(GET, "", date)),
            // The token that is there is refused once, so that another one is asked for.
            IAM if self.phase != Phase::Creation => Rule::next("app_id", Fault::Unauthorized.action(GET, "", date)),
            _ => return,
        };
        self.stage.control.inject(&besides.tenant(&self.tenant)).await.expect("the fault is accepted");
    }

    async fn mend(&self) {
        for fault in self.stage.control.faults().await.expect("the simulator answers") {
            let is_mine = fault.rule.tenant.as_ref() == Some(&self.tenant) || fault.rule.body_contains == Some(self.key());
            if is_mine {
                self.stage.control.remove_fault(fault.id).await.expect("the fault goes");
            }
        }
    }

    /// What the first pass that came to something under the fault said.
    async fn first_verdict(&self, generation: i64) -> Result<AppIdApplication, Flaw> {
        let early = ["InProgress", "ProviderNotReady", "ProviderNotFound", "CredentialsNotFound"];
        let what = format!("says how {} × {:?} ended", self.operation, self.fault);
        self.chronicle
            .find(&self.name, &what, |object| {
                let said = condition(object, "Ready").is_some_and(|(_, reason)| !early.contains(&reason));
                let is_new = object.metadata.generation.is_some_and(|is| is >= generation)
                    && object.metadata.deletion_timestamp.is_some() == (self.phase == Phase::Deletion);
                said && observed(object)
                    && is_new
                    && self.is_own_failure(object)
                    && (self.phase != Phase::Deletion || condition(object, "Ready").is_some_and(|ready| ready != ("True", "Ready")))
            })
            .await
    }

    /// Who asks IAM right after somebody else was refused is told so without a call, and asks again soon: that is not the wait for a refusal.
    fn is_own_failure(&self, object: &AppIdApplication) -> bool {
        let is_refusal = self.fault.expected(self.phase, self.operation).is_some_and(|(_, wait)| wait == Wait::Refused);
        let next = object.status.as_ref().and_then(|status| status.next_action_at.as_ref());
        let is_soon = next.zip(status_written_at(object)).is_some_and(|(next, written)| next.0.duration_since(written).as_secs() < 60);
        !(self.operation == IAM && is_refusal && is_soon)
    }

    /// What the provider says of a failure of IAM. While it is made it asks itself; later it asks when an object meets a key that is refused.
    async fn check_provider(&self) -> Result<(), Flaw> {
        let Some((reason, _)) = self.fault.expected(self.phase, self.operation).filter(|_| self.operation == IAM) else { return Ok(()) };
        if self.phase == Phase::Creation || reason == "Unauthorized" {
            let is = |object: &IdentityProvider| provider_condition(object, "Ready") == Some(("False", reason));
            let provider = self.stage.provider_where(&self.name, &format!("says {reason}: {:?}", self.fault), is).await;
            let can_register = provider_condition(&provider, "CanRegister");
            sure(can_register == Some(("Unknown", "Unknown")), || format!("the provider: {can_register:?}"))?;
            let next = provider.status.and_then(|status| status.next_action_at);
            return sure(next.is_some(), || "the provider names no next attempt".into());
        }
        let provider = self.stage.providers().get(&self.name).await.expect("it is there");
        let ready = provider_condition(&provider, "Ready");
        sure([Some(("True", "Ready")), Some(("False", reason))].contains(&ready), || format!("the provider: {ready:?}"))
    }

    fn check_verdict(&self, object: &AppIdApplication) -> Result<(), Flaw> {
        let ready = condition(object, "Ready").expect("there is one");
        let status = object.status.clone().unwrap_or_default();
        let Some((reason, wait)) = self.fault.expected(self.phase, self.operation) else {
            return sure(ready == ("True", "Ready"), || format!("expected no harm, got {ready:?}"));
        };
        sure(ready == ("False", reason), || format!("expected {reason}, got {ready:?}: {:?}", status.conditions))?;
        let message = &status.conditions.iter().find(|is| is.type_ == "Ready").expect("there is one").message;
        sure(!message.is_empty() && message.len() < 400 && !message.contains("http"), || format!("a poor message: {message}"))?;
        let (Some(next), Some(written)) = (&status.next_action_at, status_written_at(object)) else {
            return Err("no next attempt is named".into());
        };
        let ahead = next.0.duration_since(written).as_secs_f64();
        let failures = status.failures.unwrap_or(0);
        let (least, most) = wait.bounds(failures);
        self.named.borrow_mut().push(Named {
            row: format!("{} × {:?}", self.operation, self.fault),
            least,
            next: next.0,
            injected: self.injected.get().expect("the fault is set"),
            fault: self.fault,
            tenant: self.tenant.clone(),
        });
        // Between the decision and its write lie some seconds when all rows are at work: only the longest is told from here.
        sure(ahead <= most, || format!("after {failures} failures the next attempt is {ahead} s ahead, not at most {most}"))
    }

    async fn settled(&self, generation: i64) -> Result<(), Flaw> {
        let what = format!("recovers from {} × {:?}", self.operation, self.fault);
        let object = self
            .chronicle
            .find(&self.name, &what, |object| {
                condition(object, "Ready") == Some(("True", "Ready")) && observed(object) && object.metadata.generation >= Some(generation)
            })
            .await?;
        let applications = self.stage.control.applications(&self.tenant).await.expect("the simulator answers");
        let [application] = applications.as_slice() else {
            return Err(format!("{} applications at the service", applications.len()));
        };
        let status = object.status.unwrap_or_default();
        sure(status.client_id.as_ref() == Some(&application.client_id), || "status names another application".into())?;
        sure(
            status.failures.is_none() && status.next_action_at.is_none_or(|at| status.unclear_since.is_some() && at.0 > Timestamp::now()),
            || "a failure is still noted".into(),
        )?;
        let secret = self.stage.secret_values(&format!("secret-of-{}", self.name)).await.unwrap_or_default();
        sure(secret.get("clientId") == Some(&application.client_id) && secret.get("secret") == application.secret.as_ref(), || {
            "the Secret holds another credential".into()
        })?;
        let wanted = self.stage.applications().get(&self.name).await.expect("it is there").spec;
        sure(wanted.display_name.as_ref() == Some(&application.name), || format!("it is called {}", application.name))?;
        let scopes = wanted.scopes.unwrap_or_default();
        sure(scopes.iter().all(|scope| application.scopes.contains(&scope.0)), || format!("its scopes are {:?}", application.scopes))?;
        sure(application.roles.len() == wanted.roles.unwrap_or_default().len(), || format!("its roles are {:?}", application.roles))?;
        let listed = self.stage.control.redirect_uris(&self.tenant).await.expect("the simulator answers");
        let listed = listed["redirectUris"].as_array().map_or(0, Vec::len);
        sure(listed == wanted.redirect_uris.len(), || format!("{listed} redirect URIs"))?;
        self.counted(1, 0).await
    }

    /// So many registrations and deletions were carried out.
    async fn counted(&self, created: u64, deleted: u64) -> Result<(), Flaw> {
        let calls = self.stage.control.calls().await.expect("the simulator answers");
        let count = |operation| calls.of_tenant(&self.tenant, operation).committed;
        let counts = (count(CREATE), count(DELETE));
        sure(counts == (created, deleted), || format!("{counts:?} registrations and deletions"))
    }

    async fn creation(&self) -> Result<(), Flaw> {
        let verdict = self.first_verdict(1).await?;
        self.check_verdict(&verdict)?;
        self.check_provider().await?;
        let secret = self.stage.secret_values(&format!("secret-of-{}", self.name)).await;
        sure(secret.is_none_or(|values| values.contains_key("clientId") && values.contains_key("secret")), || "a partial Secret".into())?;
        let before_registration = [IAM, "app_id.roles.list"].contains(&self.operation);
        if before_registration {
            self.counted(0, 0).await?;
        }
        self.mend().await;
        let generation = self.bump("two").await;
        self.settled(generation).await
    }

    async fn bump(&self, display_name: &str) -> i64 {
        let spec = json!({ "displayName": display_name });
        self.stage.patch_application(&self.name, spec).await.map_or(i64::MAX, |object| object.metadata.generation.unwrap_or_default())
    }

    async fn change(&self) -> Result<(), Flaw> {
        self.settled(1).await?;
        let secret_name = format!("secret-of-{}", self.name);
        let before = self.stage.secrets().get(&secret_name).await.expect("it is published");
        self.stage.ready_provider(&self.name).await;
        self.inject().await;
        let spec = json!({
            "displayName": "two", "scopes": ["read", "write"], "roles": ["shopper", "helper"],
            "redirectUris": ["https://a.example.com/", "https://b.example.com/", "https://c.example.com/"],
        });
        let changed = self.stage.patch_application(&self.name, spec).await.expect("the change is accepted");
        let verdict = self.first_verdict(changed.metadata.generation.unwrap_or_default()).await?;
        self.check_verdict(&verdict)?;
        self.check_provider().await?;
        self.mend().await;
        let generation = self.bump("three").await;
        self.settled(generation).await?;
        let after = self.stage.secrets().get(&secret_name).await.expect("it is still published");
        sure(before == after, || "the Secret was touched".into())
    }

    async fn deletion(&self) -> Result<(), Flaw> {
        self.settled(1).await?;
        self.stage.ready_provider(&self.name).await;
        self.inject().await;
        self.stage.applications().delete(&self.name, &Default::default()).await.expect("the deletion is accepted");
        if self.fault.expected(self.phase, self.operation).is_some() || self.operation == LIST {
            let verdict = self.first_verdict(1).await?;
            self.check_verdict(&verdict)?;
            self.check_provider().await?;
            if self.fault != Fault::DropAfter {
                self.counted(1, 0).await?;
            }
            sure(verdict.metadata.finalizers.is_some_and(|finalizers| !finalizers.is_empty()), || "it was let go".into())?;
            self.mend().await;
            self.bump("two").await;
        }
        self.stage.gone(&self.name).await;
        let left = self.stage.control.applications(&self.tenant).await.expect("the simulator answers");
        sure(left.is_empty(), || format!("{} applications are left", left.len()))?;
        let listed = self.stage.control.redirect_uris(&self.tenant).await.expect("the simulator answers");
        sure(listed["redirectUris"].as_array().is_some_and(Vec::is_empty), || "redirect URIs are left".into())?;
        self.counted(1, 1).await
    }
}
