//! Many objects on one stage, each with a provider, a tenant and strangers of its own: so that one kill hits each of them at another point.

use std::{collections::BTreeMap, collections::BTreeSet, path::PathBuf, time::Duration};

use cloud_identity_operator::api::{AppIdApplication, AppIdApplicationStatus};
use futures::{StreamExt, TryStreamExt, stream};
use identity_simulator::{AccessRole, Application, ApplicationSeed, Call, KeyEdit, RoleSeed, Rule as Fault, Seed, TenantSeed};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use stage::{Interceptor, Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, Seen, Stage, TENANT, condition, observed};
use tokio::time::{Instant, sleep};

/// A stranger's application in each tenant bears it, too.
pub const DISPLAY_NAME: &str = "Storefront EU";
/// Stood in each tenant's list before we came; the specs list it, too.
const SHARED_URI: &str = "https://shared.example.com/callback";
const FOREIGN_URI: &str = "https://foreign.example.com/callback";
/// How many requests the test makes at a time.
const AT_ONCE: usize = 16;
/// Longest time until everything is as it should be: the 60 s after which a lost registration cannot commit any more, and the work.
const SETTLING: Duration = Duration::from_secs(90);

/// What an object asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// As it is created.
    First,
    /// As it is changed.
    Second,
    /// That there is none.
    Gone,
}

/// One object and what belongs to it.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The object's name, and its Secret's.
    pub name: String,
    /// Its tenant, which nobody else uses.
    pub tenant: String,
    /// The stranger's application in that tenant.
    stranger: Application,
    stranger_redirect_uris: Value,
}

/// Many plots.
pub struct Field {
    pub stage: Stage,
    pub interceptor: Interceptor,
    /// Namespace and name of the operators' ServiceAccount.
    account: (String, String),
    options: OperatorOptions,
    kubeconfig: PathBuf,
    tenants: Vec<String>,
    http: reqwest::Client,
}

/// A point in time, at the API server and at the services.
pub struct Mark {
    requests: usize,
    calls: u64,
}

impl Field {
    /// A field for one operator, which needs no lease.
    pub async fn new(prefix: &str) -> Self {
        Self::on(Stage::new(prefix).await, (SYSTEM, SERVICE_ACCOUNT), OperatorOptions::default()).await
    }

    /// A field with a release of the chart of its own: its operators elect a leader.
    pub async fn elected(prefix: &str) -> Self {
        let stage = Stage::new(prefix).await;
        let namespace = stage.namespace.clone();
        install_release(&stage).await;
        let options = OperatorOptions {
            namespace: namespace.clone(),
            leader_election: true,
            arguments: vec!["--cluster-providers".into(), "false".into()],
            ..OperatorOptions::default()
        };
        Self::on(stage, (&namespace, &namespace), options).await
    }

    async fn on(stage: Stage, account: (&str, &str), options: OperatorOptions) -> Self {
        let kubeconfig = stage
            .control_plane
            .kubeconfig_for_service_account(account.0, account.1, Duration::from_secs(3600))
            .await
            .expect("the ServiceAccount gets a token");
        let options = options.watching(&stage.namespace);
        let interceptor = Interceptor::start(stage.control_plane).await.expect("the interceptor starts");
        let http = stage.http();
        let account = (account.0.to_owned(), account.1.to_owned());
        Self { stage, interceptor, account, options, kubeconfig, tenants: vec![TENANT.to_owned()], http }
    }

    /// Starts an operator behind the interceptor.
    pub async fn operator(&self) -> Operator {
        self.operator_behind(&self.interceptor).await
    }

    /// Starts an operator behind an interceptor of its own.
    pub async fn operator_behind(&self, interceptor: &Interceptor) -> Operator {
        let kubeconfig = interceptor.kubeconfig(&self.kubeconfig).expect("the kubeconfig is written");
        let binary = stage::operator_binary().expect("the operator is built");
        Operator::start(&binary, &kubeconfig, &self.options).await.expect("the operator starts")
    }

    /// Adds plots; their providers are ready when this returns. An operator must run.
    pub async fn plots(&mut self, count: usize) -> Vec<Plot> {
        let first = self.tenants.len();
        let tenants: Vec<String> = (first..first + count).map(|number| format!("00000000-0000-4000-8000-{number:012}")).collect();
        let seeds = tenants.iter().map(|id| tenant_seed(id)).collect();
        self.stage.control.seed(&Seed { tenants: seeds, ..Seed::default() }).await.expect("the tenants are seeded");
        self.tenants.extend(tenants.iter().cloned());
        let access = self.tenants.iter().map(|tenant| (tenant.clone(), AccessRole::Writer)).collect();
        let edit = KeyEdit { access: Some(access), ..KeyEdit::default() };
        self.stage.control.edit_key(&format!("key-of-{TENANT}"), &edit).await.expect("the key may write everywhere");
        let this = &*self;
        stream::iter(tenants.into_iter().zip(first..))
            .map(|(tenant, number)| async move {
                let mut provider = this.stage.provider_document(&format!("tenant-{number:03}"));
                provider["spec"]["appId"]["tenantId"] = json!(tenant);
                this.stage.apply(&provider).await.expect("the provider is accepted");
                this.stage.provider_where(&format!("tenant-{number:03}"), "is ready", is_ready).await;
                let stranger = this.stage.control.applications(&tenant).await.expect("the simulator answers").remove(0);
                let stranger_redirect_uris = json!(this.stage.control.redirect_uris(&tenant).await.expect("the simulator answers"));
                Plot { name: format!("app-{number:03}"), tenant, stranger, stranger_redirect_uris }
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// All tenants.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.iter().map(String::as_str)
    }

    /// Makes an object, changes it, or deletes it.
    pub async fn wish(&self, plot: &Plot, wish: Wish) {
        if wish == Wish::Gone {
            self.stage.applications().delete(&plot.name, &DeleteParams::default()).await.expect("the deletion is accepted");
            return;
        }
        let number = plot.name.trim_start_matches("app-");
        let mut spec = expected(wish).spec();
        spec["providerRef"] = json!({ "name": format!("tenant-{number}") });
        self.stage.apply(&self.stage.application_document(&plot.name, spec)).await.expect("the application is accepted");
    }

    pub async fn wish_all(&self, wishes: impl IntoIterator<Item = (&Plot, Wish)>) {
        stream::iter(wishes).for_each_concurrent(AT_ONCE, |(plot, wish)| self.wish(plot, wish)).await;
    }

    pub async fn mark(&self) -> Mark {
        let journal = self.stage.control.journal().await.expect("the simulator answers");
        Mark { requests: self.interceptor.position(), calls: journal.last().map_or(0, |call| call.sequence + 1) }
    }

    /// What the operator asked the API server about an object since then.
    pub fn requests(&self, plot: &Plot, since: &Mark) -> Vec<Seen> {
        self.interceptor.seen_since(since.requests).into_iter().filter(|seen| concerns(seen, &plot.name)).collect()
    }

    /// What was asked of an object's tenant since then.
    pub async fn calls(&self, plot: &Plot, since: &Mark) -> Vec<Call> {
        let calls = self.stage.control.journal_since(since.calls).await.expect("the simulator answers");
        calls.into_iter().filter(|call| call.tenant.as_deref() == Some(&plot.tenant)).collect()
    }

    /// Whether nothing is awaited of any of the plots' objects.
    pub async fn is_settled(&self, plots: &[Plot]) -> bool {
        let objects = self.stage.applications().list(&ListParams::default()).await.expect("the API server answers");
        objects.iter().filter(|object| plots.iter().any(|plot| plot.name == object.name_any())).all(is_settled)
    }

    /// Waits until all is done and nothing is awaited any more; who is late is named with `label`.
    pub async fn settled(&self, wishes: &[(&Plot, Wish)], label: impl Fn(&Plot) -> String) {
        let until = Instant::now() + SETTLING;
        loop {
            let objects: BTreeMap<String, AppIdApplication> = self
                .stage
                .applications()
                .list(&ListParams::default())
                .await
                .expect("the API server answers")
                .into_iter()
                .map(|object| (object.name_any(), object))
                .collect();
            let late: Vec<&Plot> = wishes
                .iter()
                .filter(|(plot, wish)| match (wish, objects.get(&plot.name)) {
                    (Wish::Gone, object) => object.is_some(),
                    (_, Some(object)) => !is_settled(object),
                    (_, None) => true,
                })
                .map(|(plot, _)| *plot)
                .collect();
            if late.is_empty() {
                return;
            }
            if Instant::now() > until {
                let statuses: Vec<String> = late
                    .iter()
                    .map(|plot| {
                        let status = objects.get(&plot.name).map(|object| (&object.metadata.finalizers, &object.status));
                        format!("{}: {status:#?}", label(plot))
                    })
                    .collect();
                panic!("{} of {} objects are not settled:\n{}", late.len(), wishes.len(), statuses.join("\n"));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Everything that is wrong about an object that should be settled.
    pub async fn flaws(&self, plot: &Plot, wish: Wish) -> Vec<String> {
        let control = &self.stage.control;
        let mut applications = control.applications(&plot.tenant).await.expect("the simulator answers");
        let redirect_uris = json!(control.redirect_uris(&plot.tenant).await.expect("the simulator answers"));
        let mut flaws = Vec::new();
        let mut check = |is_right: bool, flaw: String| {
            if !is_right {
                flaws.push(flaw);
            }
        };
        let stranger = applications.iter().position(|application| application.client_id == plot.stranger.client_id);
        let stranger = stranger.map(|at| applications.remove(at));
        check(stranger.as_ref() == Some(&plot.stranger), format!("the stranger's application is now {stranger:?}"));
        let expected = expected(wish);
        let mut document = plot.stranger_redirect_uris.clone();
        let list = document["redirectUris"].as_array().cloned().unwrap_or_default().into_iter();
        document["redirectUris"] = list.chain(expected.added_uris.iter().map(|uri| json!(uri))).collect();
        check(redirect_uris == document, format!("the tenant's redirect URIs are {redirect_uris}, not {document}"));
        let secret = self.stage.secret_values(&plot.name).await;
        if wish == Wish::Gone {
            check(applications.is_empty(), format!("left behind: {applications:?}"));
            return flaws;
        }
        let object = self.stage.applications().get(&plot.name).await.expect("the API server answers");
        let status = object.status.clone().unwrap_or_default();
        check(applications.len() == 1, format!("{} applications: {applications:?}", applications.len()));
        if let Some(application) = applications.first() {
            let is_as_asked = application.name == DISPLAY_NAME
                && application.scopes == expected.scopes
                && application.roles == expected.roles.iter().map(|role| role_id(role)).collect();
            check(is_as_asked, format!("the application is {application:?}"));
            check(status.client_id.as_ref() == Some(&application.client_id), format!("status names {:?}", status.client_id));
        }
        check(status.tenant.as_ref() == Some(&plot.tenant), format!("status names the tenant {:?}", status.tenant));
        for type_ in ["Ready", "Registered", "SecretPublished", "Verified"] {
            let is = condition(&object, type_);
            check(is.is_some_and(|(is, _)| is == "True"), format!("{type_} is {is:?}"));
        }
        check(expected.is_recorded(&status), format!("recorded as added: {:?}", status.added));
        let secret = secret.unwrap_or_default();
        let keys: Vec<&String> = secret.keys().collect();
        let (id, value) = (secret.get(expected.keys.0), secret.get(expected.keys.1));
        check(!secret.contains_key(expected.other_key), format!("keys of another layout: {keys:?}"));
        check(id == status.client_id.as_ref(), format!("the Secret names {id:?}, status {:?}", status.client_id));
        let token = self.token(&plot.tenant, id.map_or("", String::as_str), value.map_or("", String::as_str)).await;
        check(token == 200, format!("the Secret's credential gets no token, but {token}"));
        flaws
    }

    /// The status with which the token endpoint answers a credential.
    async fn token(&self, tenant: &str, id: &str, secret: &str) -> u16 {
        let url = format!("{}/oauth/v4/{tenant}/token", self.stage.app_id_url());
        let form = [("grant_type", "client_credentials")];
        let answer = self.http.post(url).basic_auth(id, Some(secret)).form(&form).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }

    /// Checks all, and then that nothing happens any more.
    pub async fn check(&self, wishes: &[(&Plot, Wish)], label: impl Fn(&Plot) -> String) {
        let found: Vec<(&Plot, Vec<String>)> = stream::iter(wishes)
            .map(|(plot, wish)| async move { (*plot, self.flaws(plot, *wish).await) })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let flaws: Vec<String> =
            found.iter().flat_map(|(plot, flaws)| flaws.iter().map(|flaw| format!("{}: {flaw}", label(plot)))).collect();
        assert!(flaws.is_empty(), "{} flaws:\n{}", flaws.len(), flaws.join("\n"));
        self.quiet().await;
    }

    /// Nothing is written and nobody is called, in a window of 1.5 s: that something does not happen cannot be waited for.
    ///
    /// An event follows the status it speaks of, so that the last ones may still fall into a window that began with the status; then another
    /// window is looked at. Anything else that is written fails at once.
    pub async fn quiet(&self) {
        const WINDOWS: usize = 4;
        let mut events = String::new();
        for _ in 0..WINDOWS {
            let mark = self.mark().await;
            let audit = self.stage.control_plane.audit();
            let begin = audit.mark().expect("the audit log is read");
            sleep(Duration::from_millis(1500)).await;
            let (namespace, name) = &self.account;
            let written = audit.since(begin).expect("the audit log is read").by_service_account(namespace, name).writes();
            let written = written.in_namespace(&self.stage.namespace).only(|event| event.resource != "leases");
            let grave = written.only(|event| event.resource != "events");
            assert!(grave.is_empty(), "written although everything is as it should be: {grave}");
            let calls = self.stage.control.journal_since(mark.calls).await.expect("the simulator answers");
            assert!(calls.is_empty(), "called although everything is as it should be: {calls:#?}");
            if written.is_empty() {
                return;
            }
            events = written.to_string();
        }
        panic!("events without end: {events}");
    }

    /// Waits until the garbage collector has taken the Secrets of deleted objects.
    pub async fn without_secrets(&self, plots: &[&Plot]) {
        stream::iter(plots)
            .for_each_concurrent(AT_ONCE, |plot| async move {
                stage::eventually(&format!("the Secret {} is gone", plot.name), async || {
                    self.stage.secret_values(&plot.name).await.is_none()
                })
                .await;
            })
            .await;
    }

    /// Adds faults, all at once.
    pub async fn inject(&self, faults: Vec<Fault>) -> Vec<u64> {
        let added: Vec<_> = stream::iter(faults)
            .map(|fault| async move { self.stage.control.inject(&fault).await.map(|report| report.id) })
            .buffered(AT_ONCE)
            .try_collect()
            .await
            .expect("the simulator answers");
        added
    }
}

/// Whether a request concerns the object of that name, its Secret or its events.
pub fn concerns(seen: &Seen, name: &str) -> bool {
    seen.name == name && ["appidapplications", "secrets", "events"].contains(&seen.resource.as_str())
}

/// The chart once more, for the stage's namespace alone: the least rights there are, and a lease of its own.
pub(crate) async fn install_release(stage: &Stage) {
    let namespace = &stage.namespace;
    let set = format!(
        "fullnameOverride={namespace},watchNamespaces={{{namespace}}},replicaCount=0,crds.install=false,userRoles.create=false,clusterProviders.enabled=false"
    );
    stage::helm(stage.control_plane, &["install", namespace, "--namespace", namespace, "--set", &set])
        .await
        .expect("the release is installed");
}

fn is_ready(provider: &cloud_identity_operator::api::IdentityProvider) -> bool {
    let conditions = provider.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_settled(object: &AppIdApplication) -> bool {
    let awaits_nothing = |status: &AppIdApplicationStatus| {
        status.unclear_since.is_none() && status.missing_since.is_none() && status.failures.is_none() && status.next_action_at.is_none()
    };
    observed(object) && condition(object, "Ready").is_some_and(|(is, _)| is == "True") && object.status.as_ref().is_some_and(awaits_nothing)
}

fn role_id(role: &str) -> String {
    format!("role-{role}")
}

/// A tenant that others use, too.
fn tenant_seed(id: &str) -> TenantSeed {
    let role = |name: &str| RoleSeed { id: Some(role_id(name)), name: name.into(), ..RoleSeed::default() };
    let redirect_uris = json!({ "redirectUris": [FOREIGN_URI, SHARED_URI], "trustCloudIAMRedirectUri": true });
    TenantSeed {
        id: id.into(),
        region: "us-south".into(),
        applications: vec![ApplicationSeed {
            name: DISPLAY_NAME.into(),
            scopes: ["orders.read".to_owned()].into(),
            roles: [role_id("shopper")].into(),
            ..ApplicationSeed::default()
        }],
        roles: vec![role("shopper"), role("auditor")],
        redirect_uris: redirect_uris.as_object().cloned(),
        ..TenantSeed::default()
    }
}

/// What is to be seen of an object.
struct Expected {
    scopes: BTreeSet<String>,
    roles: BTreeSet<String>,
    added_uris: BTreeSet<String>,
    layout: &'static str,
    keys: (&'static str, &'static str),
    other_key: &'static str,
}

fn expected(wish: Wish) -> Expected {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    match wish {
        Wish::First => Expected {
            scopes: set(&["orders.read", "orders.write"]),
            roles: set(&["shopper"]),
            added_uris: set(&["https://shop.example.com/callback"]),
            layout: "AppId",
            keys: ("clientId", "secret"),
            other_key: "client_secret",
        },
        Wish::Second => Expected {
            scopes: set(&["orders.cancel", "orders.read"]),
            roles: set(&["auditor"]),
            added_uris: set(&["https://shop.example.com/v2"]),
            layout: "OAuth",
            keys: ("client_id", "client_secret"),
            other_key: "secret",
        },
        Wish::Gone => Expected { scopes: set(&[]), roles: set(&[]), added_uris: set(&[]), layout: "AppId", keys: ("", ""), other_key: "" },
    }
}

impl Expected {
    fn spec(&self) -> Value {
        let redirect_uris: Vec<&str> = self.added_uris.iter().map(String::as_str).chain([SHARED_URI]).collect();
        json!({
            "displayName": DISPLAY_NAME, "scopes": self.scopes, "roles": self.roles, "redirectUris": redirect_uris,
            "secret": { "layout": self.layout },
        })
    }

    fn is_recorded(&self, status: &AppIdApplicationStatus) -> bool {
        status.added.scopes == self.scopes && status.added.roles == self.roles && status.added.redirect_uris == self.added_uris
    }
}
