//! IBM Cloud App ID: management API v4 and token endpoint of one tenant.
//!
//! Sources: IBM's App ID documentation and generated SDK. Irregular on purpose: POST application answers 200, PUT
//! application 201, PUT redirect URIs 204; any 2xx is taken as success. The list of applications has no pages and
//! holds every secret of the tenant, so that reading by id is preferred.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, time::Instant};
use url::Url;

use super::{
    Caller, Gate, Iam, Registrar, Standing, Tenant, TokenEndpoint,
    http::{Answer, Body, DEADLINE, REGISTRATION_DEADLINE, Request},
    iam::IamToken,
};
use crate::{
    model::{Application, ApplicationKind, Class, ClientId, ExposeSecret, Failure, RoleCatalogue, SecretText, TenantRole},
    reasons::Reason,
};

/// A reading of the tenant's redirect URIs that is older than this is read again before a write.
const REDIRECT_URIS_FRESH: Duration = Duration::from_secs(2);
/// So often is the list read for one write, when the tenant's turn is long in coming.
const READINGS_MOST: usize = 5;
const MERGING: &str = "writing the tenant's redirect URIs";
/// What our provisional names begin with: secrets in a list are kept for these alone.
const PROVISIONAL: &str = "cio-";

/// One App ID tenant.
#[derive(Debug)]
pub struct AppId {
    tenant: Tenant,
    origin: Url,
    tenant_id: String,
    iam: Arc<Iam>,
    shared: Arc<SharedTenant>,
}

/// What all providers of one tenant share, whichever credential they use: budget, lists, and the turn to write redirect URIs.
#[derive(Debug)]
pub struct SharedTenant {
    /// The tenant's gate.
    pub gate: Arc<Gate>,
    listed: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Application>>)>>,
    redirect_uris: tokio::sync::Mutex<Option<(Instant, Map<String, Value>)>>,
    merges: Mutex<Vec<Merge>>,
    /// Redirect URIs that this process took away: that they are gone is no riddle.
    removed: Mutex<BTreeSet<String>>,
}

impl SharedTenant {
    /// A tenant that nobody has asked yet.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Arc<Self> {
        Arc::new(Self {
            gate,
            listed: tokio::sync::Mutex::default(),
            redirect_uris: tokio::sync::Mutex::default(),
            merges: Mutex::default(),
            removed: Mutex::default(),
        })
    }
}

/// Entries that one object wants in the tenant's list, or out of it.
struct Merge {
    add: BTreeSet<String>,
    remove: BTreeSet<String>,
    /// Whether a live object lists an entry that is to be removed.
    is_wanted: Box<dyn Fn(&str) -> bool + Send + Sync>,
    done: oneshot::Sender<Result<Merged, Failure>>,
}

/// The tenant's redirect URIs after a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The whole list.
    pub list: BTreeSet<String>,
    /// Entries that somebody else had added between our last look and the write.
    pub already: BTreeSet<String>,
    /// Entries to be removed that were not there, and that this process did not take away.
    pub absent: BTreeSet<String>,
}

/// What a batch does to the list.
enum Change {
    Nothing(BTreeSet<String>),
    Write { before: BTreeSet<String>, document: Map<String, Value> },
}

fn merged(mut document: Map<String, Value>, batch: &[Merge]) -> Change {
    let before = entries(&document);
    let mut target = before.clone();
    for merge in batch {
        target.retain(|uri| !merge.remove.contains(uri) || (merge.is_wanted)(uri));
    }
    for merge in batch {
        target.extend(merge.add.iter().cloned());
    }
    if target == before {
        return Change::Nothing(before);
    }
    // Others' entries keep their order; ours come behind them.
    let mut list: Vec<String> = ordered(&document).into_iter().filter(|uri| target.contains(uri)).collect();
    list.extend(target.difference(&before).cloned());
    document.insert("redirectUris".to_owned(), json!(list));
    Change::Write { before, document }
}

impl Written {
    /// What the batch means for one of those who took part in it.
    fn share_of(&self, merge: &Merge) -> Result<Merged, Failure> {
        if !merge.add.is_subset(&self.after) {
            let message = "an entry that was written is not in the list: somebody else writes it too";
            return Err(Failure::new(MERGING, Class::Transient, Reason::ServiceUnavailable, message));
        }
        let stays = |uri: &&String| merge.remove.contains(*uri) && !(merge.is_wanted)(uri);
        if self.after.iter().any(|uri| stays(&uri)) {
            let message = "an entry that was removed is still in the list: somebody else writes it too";
            return Err(Failure::new(MERGING, Class::Transient, Reason::ServiceUnavailable, message));
        }
        Ok(Merged {
            already: merge.add.intersection(&self.added_by_others).cloned().collect(),
            absent: merge.remove.iter().filter(|uri| !self.before.contains(*uri) && !self.removed.contains(*uri)).cloned().collect(),
            list: self.after.clone(),
        })
    }
}

/// What a batch found and left.
#[derive(Clone)]
struct Written {
    before: BTreeSet<String>,
    after: BTreeSet<String>,
    added_by_others: BTreeSet<String>,
    removed: BTreeSet<String>,
}

/// What an operation is called, here and in metrics.
#[derive(Clone, Copy)]
struct Operation {
    doing: &'static str,
    name: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireApplication {
    client_id: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    secret: Option<SecretText>,
}

#[derive(Deserialize)]
struct WireApplications {
    applications: Vec<WireApplication>,
}

#[derive(Deserialize)]
struct WireScopes {
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct WireRoles {
    roles: Vec<WireRole>,
}

#[derive(Deserialize)]
struct WireRole {
    id: String,
    name: String,
    #[serde(default)]
    access: Vec<WireAccess>,
}

#[derive(Deserialize)]
struct WireAccess {
    application_id: String,
    #[serde(default)]
    scopes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct WireToken {
    access_token: Option<SecretText>,
}

impl AppId {
    /// The tenant `tenant_id` at `origin`.
    #[must_use]
    pub fn new(tenant: Tenant, origin: Url, tenant_id: String, iam: Arc<Iam>, shared: Arc<SharedTenant>) -> Self {
        Self { tenant, origin, tenant_id, iam, shared }
    }

    /// The tenant's HTTP side.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The tenant id.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Scheme, host and port, without a slash at the end.
    #[must_use]
    pub fn origin(&self) -> String {
        self.origin.origin().ascii_serialization()
    }

    /// Whether the tenant answers, who we are, and whether we may write.
    ///
    /// Reading an application's scopes wants the role Writer (App ID documentation, IAM roles): a harmless way to see it.
    ///
    /// # Errors
    ///
    /// When there is no token or no list.
    pub async fn probe(&self, caller: &Caller) -> Result<Standing, Failure> {
        let token = self.iam.token(caller).await?;
        let listed = self.fresh_list(caller, Instant::now()).await?;
        let id = listed.first().map_or("00000000-0000-4000-8000-000000000000", |application| application.client_id.as_str());
        let operation = Operation { doing: "reading an application's scopes", name: "app_id.scopes.get" };
        let answer = self.manage(caller, operation, Method::GET, &["applications", id, "scopes"], None, DEADLINE).await;
        let can_register = match answer {
            Ok(answer) if answer.is_success() || answer.status == 404 => Some(true),
            Ok(answer) if answer.status == 403 && answer.failure(operation.doing, false).class == Class::Rejected => Some(false),
            _ => None,
        };
        Ok(Standing { can_register, ..token.standing.clone() })
    }

    /// The application's scopes.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn scopes(&self, caller: &Caller, id: &ClientId) -> Result<BTreeSet<String>, Failure> {
        let operation = Operation { doing: "reading the application's scopes", name: "app_id.scopes.get" };
        let answer = self.manage(caller, operation, Method::GET, &["applications", id.as_str(), "scopes"], None, DEADLINE).await?;
        let wire: WireScopes = self.read(operation, Access::Write, false, &answer)?;
        Ok(wire.scopes.into_iter().collect())
    }

    /// Replaces the application's scopes.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub async fn set_scopes(&self, caller: &Caller, id: &ClientId, scopes: &BTreeSet<String>) -> Result<(), Failure> {
        let operation = Operation { doing: "setting the application's scopes", name: "app_id.scopes.set" };
        let answer = self
            .manage(caller, operation, Method::PUT, &["applications", id.as_str(), "scopes"], Some(json!({ "scopes": scopes })), DEADLINE)
            .await?;
        self.succeeded(operation, &answer)
    }

    /// The application's roles: id by name.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn roles(&self, caller: &Caller, id: &ClientId) -> Result<BTreeMap<String, String>, Failure> {
        let operation = Operation { doing: "reading the application's roles", name: "app_id.application_roles.get" };
        let answer = self.manage(caller, operation, Method::GET, &["applications", id.as_str(), "roles"], None, DEADLINE).await?;
        let wire: WireRoles = self.read(operation, Access::Read, false, &answer)?;
        Ok(wire.roles.into_iter().map(|role| (role.name, role.id)).collect())
    }

    /// Replaces the application's roles. The request nests ids, the answer does not.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub async fn set_roles(&self, caller: &Caller, id: &ClientId, roles: &BTreeMap<String, String>) -> Result<(), Failure> {
        let operation = Operation { doing: "assigning the application's roles", name: "app_id.application_roles.set" };
        let body = json!({ "roles": { "ids": roles.values().collect::<Vec<_>>() } });
        let answer = self.manage(caller, operation, Method::PUT, &["applications", id.as_str(), "roles"], Some(body), DEADLINE).await?;
        let Err(refused) = self.succeeded(operation, &answer) else { return Ok(()) };
        if refused.class != Class::Rejected {
            return Err(refused);
        }
        // It may have gone since the list of roles was read: then that is what a person should know.
        let catalogue = self.catalogue(caller).await?;
        match roles.iter().find(|(name, id)| catalogue.get(*name).is_none_or(|role| role.id != **id)) {
            Some((name, _)) => Err(Failure::new(
                operation.doing,
                Class::Rejected,
                Reason::RoleNotFound,
                format!("the role {name:?} no longer exists in the tenant: create it, or correct spec.roles"),
            )),
            None => Err(refused),
        }
    }

    /// The tenant's roles by name.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn catalogue(&self, caller: &Caller) -> Result<RoleCatalogue, Failure> {
        let operation = Operation { doing: "reading the tenant's roles", name: "app_id.roles.list" };
        let answer = self.manage(caller, operation, Method::GET, &["roles"], None, DEADLINE).await?;
        let wire: WireRoles = self.read(operation, Access::Read, false, &answer)?;
        let role = |role: WireRole| {
            let mut scopes: BTreeMap<ClientId, BTreeSet<String>> = BTreeMap::new();
            for access in role.access {
                scopes.entry(ClientId::new(access.application_id)).or_default().extend(access.scopes.unwrap_or_default());
            }
            (role.name, TenantRole { id: role.id, scopes })
        };
        Ok(wire.roles.into_iter().map(role).collect())
    }

    /// The tenant's redirect URIs.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn redirect_uris(&self, caller: &Caller) -> Result<BTreeSet<String>, Failure> {
        let asked_at = Instant::now();
        let mut kept = self.shared.redirect_uris.lock().await;
        if let Some((_, document)) = kept.as_ref().filter(|(read_at, _)| *read_at >= asked_at) {
            return Ok(entries(document));
        }
        let read_at = Instant::now();
        let document = self.read_redirect_uris(caller).await?;
        let list = entries(&document);
        *kept = Some((read_at, document));
        Ok(list)
    }

    /// Merges into the tenant's redirect URIs. Everybody who waits while a write is under way is served by the next one; a write that is
    /// refused fails for the one whose credential it was made with, and the others make their own.
    ///
    /// `is_wanted` says of an entry to be removed whether a live object lists it by now; such an entry stays in the list.
    ///
    /// # Errors
    ///
    /// When the list cannot be read or written, or does not hold what was written.
    pub async fn merge_redirect_uris(
        &self,
        caller: &Caller,
        add: BTreeSet<String>,
        remove: BTreeSet<String>,
        is_wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Result<Merged, Failure> {
        let (done, mut outcome) = oneshot::channel();
        self.shared.merges.lock().push(Merge { add, remove, is_wanted: Box::new(is_wanted), done });
        let mut kept = self.shared.redirect_uris.lock().await;
        if let Ok(result) = outcome.try_recv() {
            return result;
        }
        let mut batch = std::mem::take(&mut *self.shared.merges.lock());
        match self.write_batch(caller, &mut kept, &batch).await {
            Ok(written) => {
                for merge in batch {
                    let share = written.share_of(&merge);
                    // Who gave up waiting needs no answer.
                    drop(merge.done.send(share));
                }
            }
            // It may still be carried out: everybody whose entries it holds has to know.
            Err(failure) if failure.may_have_happened => {
                batch.into_iter().for_each(|merge| drop(merge.done.send(Err(failure.clone()))));
            }
            Err(failure) => {
                // Closes our own place in the batch; the others are still waiting for the lock.
                outcome.close();
                batch.retain(|merge| !merge.done.is_closed());
                self.shared.merges.lock().extend(batch);
                return Err(failure);
            }
        }
        drop(kept);
        outcome.await.unwrap_or_else(|_| Err(Failure::new(MERGING, Class::Transient, Reason::InProgress, "the write was given up")))
    }

    async fn write_batch(
        &self,
        caller: &Caller,
        kept: &mut Option<(Instant, Map<String, Value>)>,
        batch: &[Merge],
    ) -> Result<Written, Failure> {
        let operation = Operation { doing: MERGING, name: "app_id.redirect_uris.set" };
        let mut added_by_others = BTreeSet::new();
        // Each turn at the tenant may be long in coming; what was read before it is then read again.
        for _ in 0..READINGS_MOST {
            if kept.as_ref().is_none_or(|(read_at, _)| read_at.elapsed() > REDIRECT_URIS_FRESH) {
                let read_at = Instant::now();
                let document = self.read_redirect_uris(caller).await?;
                let present = entries(&document);
                added_by_others = batch.iter().flat_map(|merge| &merge.add).filter(|uri| present.contains(*uri)).cloned().collect();
                *kept = Some((read_at, document));
            }
            let Some((read_at, document)) = kept.clone() else { continue };
            let (before, document) = match merged(document, batch) {
                Change::Nothing(present) => {
                    return Ok(self.written(present.clone(), present, added_by_others));
                }
                Change::Write { before, document } => (before, document),
            };
            let is_fresh: &(dyn Fn() -> bool + Sync) = &|| read_at.elapsed() <= REDIRECT_URIS_FRESH;
            let body = Some(Value::Object(document));
            let answer = self.manage_if(caller, operation, Method::PUT, &["config", "redirect_uris"], body, DEADLINE, is_fresh).await?;
            let Some(answer) = answer else {
                *kept = None;
                continue;
            };
            *kept = None;
            self.succeeded(operation, &answer)?;
            let read_at = Instant::now();
            let document = self.read_redirect_uris(caller).await?;
            let after = entries(&document);
            *kept = Some((read_at, document));
            return Ok(self.written(before, after, added_by_others));
        }
        let message = "the tenant's turn came too late, again and again: what was read was no longer fresh";
        Err(Failure::new(MERGING, Class::Transient, Reason::ServiceUnavailable, message))
    }

    fn written(&self, before: BTreeSet<String>, after: BTreeSet<String>, added_by_others: BTreeSet<String>) -> Written {
        let mut removed = self.shared.removed.lock();
        removed.extend(before.difference(&after).cloned());
        removed.retain(|uri| !after.contains(uri));
        Written { removed: removed.clone(), before, after, added_by_others }
    }

    async fn read_redirect_uris(&self, caller: &Caller) -> Result<Map<String, Value>, Failure> {
        let operation = Operation { doing: "reading the tenant's redirect URIs", name: "app_id.redirect_uris.get" };
        let answer = self.manage(caller, operation, Method::GET, &["config", "redirect_uris"], None, DEADLINE).await?;
        let document: Map<String, Value> = self.read(operation, Access::Read, false, &answer)?;
        let is_list =
            document.get("redirectUris").is_some_and(|list| list.as_array().is_some_and(|list| list.iter().all(Value::is_string)));
        if is_list {
            Ok(document)
        } else {
            Err(self.tenant.nonsense(operation.doing, false, &answer, "the answer holds no list of redirect URIs"))
        }
    }

    /// A list of the tenant that began no earlier than `asked_at`: one list serves all who wait for it.
    async fn fresh_list(&self, caller: &Caller, asked_at: Instant) -> Result<Arc<Vec<Application>>, Failure> {
        let mut listed = self.shared.listed.lock().await;
        if let Some((_, list)) = listed.as_ref().filter(|(began, _)| *began >= asked_at) {
            return Ok(list.clone());
        }
        let began = Instant::now();
        let operation = Operation { doing: "listing the tenant's applications", name: "app_id.applications.list" };
        let answer = self.manage(caller, operation, Method::GET, &["applications"], None, DEADLINE).await?;
        let wire: WireApplications = self.read(operation, Access::Read, false, &answer)?;
        let unusable = || self.tenant.nonsense(operation.doing, false, &answer, "the list holds an application without an id");
        let mut list = Vec::with_capacity(wire.applications.len());
        for application in wire.applications {
            let mut application = application.parse().ok_or_else(unusable)?;
            if !application.name.starts_with(PROVISIONAL) {
                // The secrets of everybody else are none of our business.
                application.secret = None;
            }
            list.push(application);
        }
        let list = Arc::new(list);
        *listed = Some((began, list.clone()));
        Ok(list)
    }

    async fn manage(
        &self,
        caller: &Caller,
        operation: Operation,
        method: Method,
        path: &[&str],
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<Answer, Failure> {
        let nothing_was_sent = || Failure::new(operation.doing, Class::Transient, Reason::InProgress, "nothing was sent");
        self.manage_if(caller, operation, method, path, body, deadline, &|| true).await?.ok_or_else(nothing_was_sent)
    }

    /// The same, unless `still` says no when it is the tenant's turn; then nothing is sent.
    #[expect(clippy::too_many_arguments, reason = "one private function makes every management request")]
    async fn manage_if(
        &self,
        caller: &Caller,
        operation: Operation,
        method: Method,
        path: &[&str],
        body: Option<Value>,
        deadline: Duration,
        still: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Answer>, Failure> {
        let mut url = self.origin.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["management", "v4", &self.tenant_id]).extend(path);
        }
        let request = |token: &IamToken| Request {
            doing: operation.doing,
            operation: operation.name,
            method: method.clone(),
            url: url.clone(),
            authorization: Some(format!("Bearer {}", token.value.expose_secret()).into()),
            body: body.as_ref().map_or(Body::Empty, |body| Body::Json(body.clone())),
            deadline,
        };
        let token = self.iam.token(caller).await?;
        let answer = self.tenant.call_if(caller, request(&token), still).await?;
        if answer.as_ref().is_none_or(|answer| answer.status != 401) {
            return Ok(answer);
        }
        // The token may have been revoked or the key replaced: a refused request was not carried out, so one repetition is safe.
        self.iam.refuse(&token).await;
        let token = self.iam.token(caller).await?;
        self.tenant.call_if(caller, request(&token), still).await
    }

    /// A change whose answer nobody needs. A page of a gateway is no success, whatever its status.
    fn succeeded(&self, operation: Operation, answer: &Answer) -> Result<(), Failure> {
        if !answer.is_success() {
            return Err(refused(operation, answer));
        }
        if answer.is_empty_or_json() {
            return Ok(());
        }
        Err(self.tenant.nonsense(operation.doing, true, answer, "the answer is neither empty nor JSON"))
    }

    fn read<T: serde::de::DeserializeOwned>(
        &self,
        operation: Operation,
        access: Access,
        changes: bool,
        answer: &Answer,
    ) -> Result<T, Failure> {
        self.tenant.read(operation.doing, changes, answer).map_err(|failure| explained(failure, access, answer))
    }
}

/// Which IAM role an operation wants.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// Says what a refusal means here. A full tenant may say so with any status, also with that of a missing right.
fn explained(failure: Failure, access: Access, answer: &Answer) -> Failure {
    let reason = match (failure.class, failure.status, access) {
        (Class::Rejected, Some(400..=499), Access::Write) if answer.speaks_of_a_limit() => Reason::LimitReached,
        (Class::Rejected, Some(403), Access::Read) => Reason::ReaderRoleRequired,
        (Class::Rejected, Some(403), Access::Write) => Reason::WriterRoleRequired,
        (Class::Rejected, Some(404), _) => Reason::TenantNotFound,
        _ => return failure,
    };
    Failure { reason, ..failure }
}

/// A refused write. A 404 here speaks of the application, not of the tenant: the next pass looks what became of it.
fn refused(operation: Operation, answer: &Answer) -> Failure {
    let failure = answer.failure(operation.doing, true);
    if failure.status == Some(404) { failure } else { explained(failure, Access::Write, answer) }
}

/// A registration that conflicts with another may conflict with our own earlier one: it is looked for before long. A limit that is reached
/// is no such conflict.
fn taken(failure: Failure) -> Failure {
    if failure.status == Some(409) && failure.reason != Reason::LimitReached {
        Failure { class: Class::Transient, may_have_happened: true, ..failure }
    } else {
        failure
    }
}

fn ordered(document: &Map<String, Value>) -> Vec<String> {
    document.get("redirectUris").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

fn entries(document: &Map<String, Value>) -> BTreeSet<String> {
    ordered(document).into_iter().collect()
}

impl WireApplication {
    fn parse(self) -> Option<Application> {
        let kind = match self.kind.as_deref() {
            Some("regularwebapp") => Some(ApplicationKind::RegularWebApp),
            Some("singlepageapp") => Some(ApplicationKind::SinglePageApp),
            _ => None,
        };
        let client_id = self.client_id.filter(|id| !id.is_empty())?;
        let secret = self.secret.filter(|secret| !secret.expose_secret().is_empty());
        Some(Application { client_id: ClientId::new(client_id), name: self.name.unwrap_or_default(), kind, secret })
    }
}

impl Registrar for AppId {
    async fn register(&self, caller: &Caller, name: &str, kind: ApplicationKind) -> Result<Application, Failure> {
        let operation = Operation { doing: "registering the application", name: "app_id.applications.create" };
        let kind = match kind {
            ApplicationKind::RegularWebApp => "regularwebapp",
            ApplicationKind::SinglePageApp => "singlepageapp",
        };
        let answer = self
            .manage(caller, operation, Method::POST, &["applications"], Some(json!({ "name": name, "type": kind })), REGISTRATION_DEADLINE)
            .await?;
        let wire: WireApplication = self.read(operation, Access::Write, true, &answer).map_err(taken)?;
        wire.parse().ok_or_else(|| self.tenant.nonsense(operation.doing, true, &answer, "the answer holds no client id"))
    }

    async fn look(&self, caller: &Caller, id: &ClientId) -> Result<Option<Application>, Failure> {
        let operation = Operation { doing: "reading the application", name: "app_id.applications.get" };
        let answer = self.manage(caller, operation, Method::GET, &["applications", id.as_str()], None, DEADLINE).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        let wire: WireApplication = self.read(operation, Access::Read, false, &answer)?;
        let application = wire.parse().filter(|application| application.client_id == *id);
        application
            .map(Some)
            .ok_or_else(|| self.tenant.nonsense(operation.doing, false, &answer, "the answer is about another application, or none"))
    }

    async fn find(&self, caller: &Caller, name: &str) -> Result<Vec<Application>, Failure> {
        let list = self.fresh_list(caller, Instant::now()).await?;
        Ok(list.iter().filter(|application| application.name == name).cloned().collect())
    }

    async fn is_listed(&self, caller: &Caller, id: &ClientId) -> Result<Option<Application>, Failure> {
        let list = self.fresh_list(caller, Instant::now()).await?;
        Ok(list.iter().find(|application| application.client_id == *id).cloned())
    }

    async fn rename(&self, caller: &Caller, id: &ClientId, name: &str) -> Result<(), Failure> {
        let operation = Operation { doing: "giving the application its display name", name: "app_id.applications.update" };
        let answer =
            self.manage(caller, operation, Method::PUT, &["applications", id.as_str()], Some(json!({ "name": name })), DEADLINE).await?;
        self.succeeded(operation, &answer)
    }

    async fn deregister(&self, caller: &Caller, id: &ClientId) -> Result<bool, Failure> {
        let operation = Operation { doing: "deleting the application", name: "app_id.applications.delete" };
        let answer = self.manage(caller, operation, Method::DELETE, &["applications", id.as_str()], None, DEADLINE).await?;
        match answer.status {
            404 | 410 => Ok(false),
            _ => self.succeeded(operation, &answer).map(|()| true),
        }
    }
}

impl TokenEndpoint for AppId {
    /// Without a scope: what then comes back is what IBM's own SDKs need (`appid_default`).
    async fn try_credential(&self, caller: &Caller, id: &ClientId, secret: &SecretText) -> Result<(), Failure> {
        let operation = Operation { doing: "trying the published credential", name: "app_id.token" };
        let mut url = self.origin.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["oauth", "v4", &self.tenant_id, "token"]);
        }
        // App ID takes the two halves raw, without encoding them first.
        let pair = format!("{id}:{}", secret.expose_secret());
        let request = Request {
            doing: operation.doing,
            operation: operation.name,
            method: Method::POST,
            url,
            authorization: Some(format!("Basic {}", STANDARD.encode(pair)).into()),
            body: Body::Form(vec![("grant_type", "client_credentials")]),
            deadline: DEADLINE,
        };
        let answer = self.tenant.call(caller, request).await?;
        let token: WireToken = self.tenant.read(operation.doing, false, &answer).map_err(|failure| match failure.status {
            // Here a 401 speaks of the client (RFC 6749, section 5.2), also without a body that says so.
            Some(401) => Failure { reason: Reason::InvalidClient, ..failure },
            _ => failure,
        })?;
        let holds_token = token.access_token.is_some_and(|token| !token.expose_secret().is_empty());
        if holds_token { Ok(()) } else { Err(self.tenant.nonsense(operation.doing, false, &answer, "the answer holds no token")) }
    }
}

impl std::fmt::Debug for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").field("add", &self.add.len()).field("remove", &self.remove.len()).finish_non_exhaustive()
    }
}

/// A service credential of an App ID instance.
pub struct ServiceCredential {
    /// Origin of the management URL.
    pub origin: String,
    /// Tenant id.
    pub tenant_id: String,
    /// API key.
    pub api_key: SecretText,
}

/// Reads a service credential: the object itself, `{"credentials": …}`, or `[{"credentials": …}]`.
///
/// # Errors
///
/// When it is none of these or lacks a member.
pub fn service_credential(text: &str) -> Result<ServiceCredential, Failure> {
    let invalid = |message: &str| Failure::new("reading the service credential", Class::Rejected, Reason::CredentialsInvalid, message);
    let document: Value = serde_json::from_str(text.trim()).map_err(|_| invalid("it is not JSON"))?;
    let outer = document.as_array().and_then(|list| list.first()).unwrap_or(&document);
    let credential = outer.get("credentials").unwrap_or(outer);
    let member = |name: &str| credential.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    service_credential_from(member)
}

/// The same from flat keys.
///
/// # Errors
///
/// When a member is missing.
pub fn service_credential_from<'a>(member: impl Fn(&str) -> Option<&'a str>) -> Result<ServiceCredential, Failure> {
    let invalid = |message: &str| Failure::new("reading the service credential", Class::Rejected, Reason::CredentialsInvalid, message);
    let management = member("managementUrl").ok_or_else(|| invalid("it has no managementUrl"))?;
    let url = Url::parse(management).map_err(|_| invalid("its managementUrl is not a URL"))?;
    let tenant_id = member("tenantId").ok_or_else(|| invalid("it has no tenantId"))?.to_owned();
    if !tenant_id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(invalid("its tenantId holds characters that no tenant id has"));
    }
    let api_key = super::iam::api_key(member("apikey").ok_or_else(|| invalid("it has no apikey"))?)?;
    Ok(ServiceCredential { origin: url.origin().ascii_serialization(), tenant_id, api_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_credential_is_read_in_every_form_ibm_hands_out() {
        let plain =
            r#"{"apikey":"key1","managementUrl":"https://eu-de.appid.cloud.ibm.com/management/v4/t-1","tenantId":"t-1","version":4}"#;
        for text in
            [plain.to_owned(), format!(r#"{{"credentials":{plain}}}"#), format!(r#"[{{"credentials":{plain}}}]"#), format!("\n{plain}\n")]
        {
            let read = service_credential(&text).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(
                (read.origin.as_str(), read.tenant_id.as_str(), read.api_key.expose_secret()),
                ("https://eu-de.appid.cloud.ibm.com", "t-1", "key1")
            );
        }
    }

    #[test]
    fn a_service_credential_that_lacks_something_says_what() {
        for (text, missing) in [
            ("nonsense", "not JSON"),
            ("[]", "managementUrl"),
            (r#"{"managementUrl":"x","tenantId":"t","apikey":"k"}"#, "not a URL"),
            (r#"{"managementUrl":"https://h/","apikey":"k"}"#, "tenantId"),
            (r#"{"managementUrl":"https://h/","tenantId":"t"}"#, "apikey"),
            (r#"{"managementUrl":"https://h/","tenantId":"../x","apikey":"k"}"#, "characters"),
        ] {
            let failure = service_credential(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(failure.message.contains(missing), "{text}: {failure}");
        }
    }
}
