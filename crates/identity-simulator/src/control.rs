//! The control API: JSON over plain HTTP on the loopback interface. [`crate::Control`] is its client.

mod secure_auth;
mod servers;

use crate::fault::{FaultReport, Rule};
use crate::journal::{Call, Counts};
use crate::model::{
    ApiKey, Application, ApplicationEdit, ApplicationSeed, CustomIdentityProvider, KeyEdit, KeySeed, Noted, Profile, ProfileEdit,
    ProfileSeed, Role, RoleSeed, SecretValue, Seed, Settings, StateReport, Tenant, TenantSeed, TokenConfiguration, Urls, User,
};
use crate::shared::Shared;
use crate::switches::Switches;
use crate::world::SeedError;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a wait lasts that names no time.
const WAIT_MILLISECONDS: u64 = 30_000;

/// What [`crate::Control::wait_for_calls`] waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallWait {
    /// `*`, an operation or the beginning of operations.
    pub operation: String,
    /// Only calls to this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// So many calls since the journal was cleared.
    #[serde(default = "once")]
    pub count: u64,
    /// How far the calls have to be.
    #[serde(default)]
    pub stage: CallStage,
    /// How long to wait at most.
    #[serde(default = "wait_milliseconds")]
    pub timeout_milliseconds: u64,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallStage {
    /// Its request was read.
    Received,
    /// The service is through with it.
    #[default]
    Answered,
    /// It changed the service's state.
    Committed,
}

/// What [`crate::Control::wait_for_fault`] waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultWait {
    /// So many calls.
    #[serde(default = "once")]
    pub count: u64,
    /// How far the effects have to be.
    #[serde(default)]
    pub stage: FaultStage,
    /// How long to wait at most.
    #[serde(default = "wait_milliseconds")]
    pub timeout_milliseconds: u64,
}

/// How far a fault's effect is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultStage {
    /// It has begun: [`FaultReport::fired`].
    #[default]
    Fired,
    /// It is over: [`FaultReport::completed`].
    Completed,
}

fn once() -> u64 {
    1
}

fn wait_milliseconds() -> u64 {
    WAIT_MILLISECONDS
}

impl Default for FaultWait {
    fn default() -> Self {
        Self { count: 1, stage: FaultStage::Fired, timeout_milliseconds: WAIT_MILLISECONDS }
    }
}

impl CallWait {
    /// Waits for so many answered calls of an operation.
    #[must_use]
    pub fn answered(operation: &str, count: u64) -> Self {
        Self { operation: operation.to_owned(), tenant: None, count, stage: CallStage::Answered, timeout_milliseconds: WAIT_MILLISECONDS }
    }

    /// Waits for so many received calls of an operation.
    #[must_use]
    pub fn received(operation: &str, count: u64) -> Self {
        Self { stage: CallStage::Received, ..Self::answered(operation, count) }
    }
}

/// Why a control call failed; the body is `{"message": …}`.
struct Failure(StatusCode, String);

impl From<SeedError> for Failure {
    fn from(error: SeedError) -> Self {
        let status = match error {
            SeedError::Unmarked(_) | SeedError::Unusable(_) => StatusCode::BAD_REQUEST,
            SeedError::Exists(_) => StatusCode::CONFLICT,
            SeedError::Absent(_) => StatusCode::NOT_FOUND,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"message": self.1}))).into_response()
    }
}

type Reply<T> = Result<Json<T>, Failure>;
type World = State<Arc<Shared>>;

pub(crate) fn router(shared: Arc<Shared>, ca_pem: String) -> Router {
    Router::new()
        .route("/urls", get(urls))
        .route("/ca", get(|| async move { ca_pem }))
        .route("/state", get(state))
        .route("/reset", post(reset))
        .route("/seed", post(seed))
        .route("/switches", get(switches).put(set_switches))
        .route("/switches/consulted", get(consulted))
        .route("/settings", get(settings).put(set_settings))
        .route("/tenants", post(add_tenant))
        .route("/tenants/{tenant}", get(tenant).delete(remove_tenant))
        .route("/tenants/{tenant}/applications", get(applications).post(add_application))
        .route("/tenants/{tenant}/applications/{id}", patch(edit_application).delete(remove_application))
        .route("/tenants/{tenant}/roles", get(roles).post(add_role))
        .route("/tenants/{tenant}/roles/{id}", delete(remove_role))
        .route("/tenants/{tenant}/redirect_uris", get(redirect_uris).put(set_redirect_uris))
        .route("/tenants/{tenant}/tokens", get(tokens).put(set_tokens))
        .route("/tenants/{tenant}/users", post(add_user))
        .route("/tenants/{tenant}/custom_identity_provider", put(set_custom_identity_provider))
        .route("/profiles", get(profiles).post(add_profile))
        .route("/profiles/{id}", patch(edit_profile).delete(remove_profile))
        .route("/keys", get(keys).post(add_key))
        .route("/keys/{id}", patch(edit_key).delete(remove_key))
        .route("/calls", get(calls))
        .route("/calls/wait", get(wait_for_calls))
        .route("/journal", get(journal))
        .route("/journal/clear", post(clear_journal))
        .route("/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/faults/{id}", get(fault).delete(remove_fault))
        .route("/faults/{id}/wait", get(wait_for_fault))
        .route("/faults/{id}/release", post(release_fault))
        .route("/secrets", get(secrets))
        .route("/noted", get(noted).delete(clear_noted))
        .merge(servers::router())
        .merge(secure_auth::router())
        .with_state(shared)
}

async fn urls(shared: World) -> Json<Urls> {
    Json(shared.look(|world| world.urls.clone()))
}

async fn state(shared: World) -> Json<StateReport> {
    Json(shared.look(|world| world.report()))
}

async fn reset(shared: World) -> Json<Value> {
    shared.change(crate::world::World::reset);
    Json(Value::Null)
}

async fn seed(shared: World, Json(seed): Json<Seed>) -> Reply<StateReport> {
    Ok(Json(shared.change(|world| world.seed(seed).map(|()| world.report()))?))
}

async fn switches(shared: World) -> Json<Switches> {
    Json(shared.look(|world| world.switches.clone()))
}

async fn set_switches(shared: World, Json(switches): Json<Switches>) -> Json<Switches> {
    Json(shared.change(|world| {
        world.replace_switches(switches);
        world.switches.clone()
    }))
}

/// The questions that came up since the start, whatever was reset meanwhile.
async fn consulted(shared: World) -> Json<Vec<&'static str>> {
    Json(shared.look(|world| world.switches.consulted.names().into_iter().collect()))
}

async fn settings(shared: World) -> Json<Settings> {
    Json(shared.look(|world| world.settings.clone()))
}

async fn set_settings(shared: World, Json(settings): Json<Settings>) -> Json<Settings> {
    Json(shared.change(|world| {
        world.settings = settings;
        world.settings.clone()
    }))
}

async fn add_tenant(shared: World, Json(tenant): Json<TenantSeed>) -> Reply<Tenant> {
    Ok(Json(shared.change(|world| world.add_tenant(tenant))?))
}

async fn tenant(shared: World, Path(tenant): Path<String>) -> Reply<Tenant> {
    Ok(Json(shared.look(|world| world.tenant_mut(&tenant).cloned())?))
}

async fn remove_tenant(shared: World, Path(tenant): Path<String>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_tenant(&tenant))?))
}

/// In the order of registration.
async fn applications(shared: World, Path(tenant): Path<String>) -> Reply<Vec<Application>> {
    let mut applications: Vec<Application> =
        shared.look(|world| world.tenant_mut(&tenant).map(|tenant| tenant.applications.values().cloned().collect()))?;
    applications.sort_by_key(|application| application.sequence);
    Ok(Json(applications))
}

async fn add_application(shared: World, Path(tenant): Path<String>, Json(seed): Json<ApplicationSeed>) -> Reply<Application> {
    Ok(Json(shared.change(|world| world.add_application(&tenant, seed))?))
}

async fn edit_application(
    shared: World,
    Path((tenant, id)): Path<(String, String)>,
    Json(edit): Json<ApplicationEdit>,
) -> Reply<Application> {
    Ok(Json(shared.change(|world| world.edit_application(&tenant, &id, edit))?))
}

async fn remove_application(shared: World, Path((tenant, id)): Path<(String, String)>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_application(&tenant, &id))?))
}

async fn roles(shared: World, Path(tenant): Path<String>) -> Reply<Vec<Role>> {
    Ok(Json(shared.look(|world| world.tenant_mut(&tenant).map(|tenant| tenant.roles.values().cloned().collect()))?))
}

async fn add_role(shared: World, Path(tenant): Path<String>, Json(seed): Json<RoleSeed>) -> Reply<Role> {
    Ok(Json(shared.change(|world| world.add_role(&tenant, seed))?))
}

async fn remove_role(shared: World, Path((tenant, id)): Path<(String, String)>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_role(&tenant, &id))?))
}

async fn redirect_uris(shared: World, Path(tenant): Path<String>) -> Reply<Map<String, Value>> {
    Ok(Json(shared.look(|world| world.tenant_mut(&tenant).map(|tenant| tenant.redirect_uris.clone()))?))
}

async fn set_redirect_uris(shared: World, Path(tenant): Path<String>, Json(document): Json<Map<String, Value>>) -> Reply<()> {
    shared.change(|world| world.tenant_mut(&tenant).map(|tenant| tenant.redirect_uris = document))?;
    Ok(Json(()))
}

async fn tokens(shared: World, Path(tenant): Path<String>) -> Reply<TokenConfiguration> {
    Ok(Json(shared.look(|world| world.tenant_mut(&tenant).map(|tenant| tenant.tokens.clone()))?))
}

async fn set_tokens(shared: World, Path(tenant): Path<String>, Json(tokens): Json<TokenConfiguration>) -> Reply<()> {
    shared.change(|world| world.tenant_mut(&tenant).map(|tenant| tenant.tokens = tokens))?;
    Ok(Json(()))
}

async fn add_user(shared: World, Path(tenant): Path<String>, Json(user): Json<User>) -> Reply<User> {
    Ok(Json(shared.change(|world| world.add_user(&tenant, user))?))
}

async fn set_custom_identity_provider(
    shared: World,
    Path(tenant): Path<String>,
    Json(provider): Json<CustomIdentityProvider>,
) -> Reply<()> {
    Ok(Json(shared.change(|world| world.set_custom_identity_provider(&tenant, provider))?))
}

async fn profiles(shared: World) -> Json<Vec<Profile>> {
    Json(shared.look(|world| world.profiles.values().cloned().collect()))
}

async fn add_profile(shared: World, Json(seed): Json<ProfileSeed>) -> Reply<Profile> {
    Ok(Json(shared.change(|world| world.add_profile(seed))?))
}

async fn edit_profile(shared: World, Path(id): Path<String>, Json(edit): Json<ProfileEdit>) -> Reply<Profile> {
    Ok(Json(shared.change(|world| world.edit_profile(&id, edit))?))
}

async fn remove_profile(shared: World, Path(id): Path<String>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_profile(&id))?))
}

async fn keys(shared: World) -> Json<Vec<ApiKey>> {
    Json(shared.look(|world| world.keys.values().cloned().collect()))
}

async fn add_key(shared: World, Json(seed): Json<KeySeed>) -> Reply<ApiKey> {
    Ok(Json(shared.change(|world| world.add_key(seed))?))
}

async fn edit_key(shared: World, Path(id): Path<String>, Json(edit): Json<KeyEdit>) -> Reply<ApiKey> {
    Ok(Json(shared.change(|world| world.edit_key(&id, edit))?))
}

async fn remove_key(shared: World, Path(id): Path<String>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_key(&id))?))
}

async fn calls(shared: World) -> Json<Counts> {
    Json(shared.look(|world| world.journal.counts().clone()))
}

/// Answers the counts once enough calls are far enough; 408 with the counts when that takes too long.
async fn wait_for_calls(shared: World, Query(wait): Query<CallWait>) -> Response {
    let enough = |world: &mut crate::world::World| {
        let counts = world.journal.counts();
        let count = match &wait.tenant {
            Some(tenant) => counts.of_tenant(tenant, &wait.operation),
            None => counts.of(&wait.operation),
        };
        let reached = match wait.stage {
            CallStage::Received => count.received,
            CallStage::Answered => count.answered,
            CallStage::Committed => count.committed,
        };
        (reached >= wait.count).then(|| counts.clone())
    };
    match shared.until(Duration::from_millis(wait.timeout_milliseconds), enough).await {
        Some(counts) => Json(counts).into_response(),
        None => (StatusCode::REQUEST_TIMEOUT, calls(shared).await).into_response(),
    }
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn journal(shared: World, Query(Since { since }): Query<Since>) -> Json<Vec<Call>> {
    Json(shared.look(|world| world.journal.since(since).to_vec()))
}

async fn clear_journal(shared: World) -> Json<()> {
    shared.change(|world| world.journal.clear());
    Json(())
}

async fn faults(shared: World) -> Json<Vec<FaultReport>> {
    Json(shared.look(|world| world.faults.reports()))
}

fn report(world: &crate::world::World, id: u64) -> Result<FaultReport, Failure> {
    let fault = world.faults.get(id).ok_or_else(|| SeedError::Absent(format!("fault {id}")))?;
    Ok(fault.report.clone())
}

async fn add_fault(shared: World, Json(rule): Json<Rule>) -> Reply<FaultReport> {
    shared.change(|world| {
        let id = world.faults.add(rule);
        report(world, id).map(Json)
    })
}

async fn clear_faults(shared: World) -> Json<()> {
    shared.change(|world| world.faults.clear());
    Json(())
}

async fn fault(shared: World, Path(id): Path<u64>) -> Reply<FaultReport> {
    shared.look(|world| report(world, id).map(Json))
}

/// Held calls go on.
async fn remove_fault(shared: World, Path(id): Path<u64>) -> Reply<FaultReport> {
    let removed = shared.change(|world| world.faults.remove(id));
    let removed = removed.ok_or_else(|| SeedError::Absent(format!("fault {id}")))?;
    Ok(Json(removed.report))
}

/// Answers the fault once its effect is far enough; 408 when that takes too long, 404 when it was removed.
async fn wait_for_fault(shared: World, Path(id): Path<u64>, Query(wait): Query<FaultWait>) -> Reply<FaultReport> {
    let enough = |world: &mut crate::world::World| match report(world, id) {
        Err(absent) => Some(Err(absent)),
        Ok(report) => {
            let reached = match wait.stage {
                FaultStage::Fired => report.fired,
                FaultStage::Completed => report.completed,
            };
            (reached >= wait.count).then_some(Ok(Json(report)))
        }
    };
    let found = shared.until(Duration::from_millis(wait.timeout_milliseconds), enough).await;
    found.unwrap_or_else(|| Err(Failure(StatusCode::REQUEST_TIMEOUT, format!("fault {id} is not that far"))))
}

/// Lets all held calls go on and answers when they are through. Calls that come later are held again.
async fn release_fault(shared: World, Path(id): Path<u64>) -> Reply<FaultReport> {
    let target = shared.change(|world| {
        let fault = world.faults.get_mut(id)?;
        let gates = std::mem::take(&mut fault.gates);
        let target = fault.report.completed + gates.len() as u64;
        for gate in gates {
            // Nobody waits any more when the simulator stops.
            let _gone = gate.send(());
        }
        Some(target)
    });
    let count = target.ok_or_else(|| SeedError::Absent(format!("fault {id}")))?;
    wait_for_fault(shared, Path(id), Query(FaultWait { count, stage: FaultStage::Completed, ..FaultWait::default() })).await
}

async fn secrets(shared: World) -> Json<Vec<SecretValue>> {
    Json(shared.look(|world| world.secrets.clone()))
}

async fn noted(shared: World) -> Json<Vec<Noted>> {
    Json(shared.look(|world| world.noted.clone()))
}

async fn clear_noted(shared: World) -> Json<()> {
    shared.change(|world| world.noted.clear());
    Json(())
}
