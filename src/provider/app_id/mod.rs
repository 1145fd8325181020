//! IBM Cloud App ID: management API v4 and token endpoint of one tenant.
//!
//! Sources: IBM's App ID documentation and generated SDK. Irregular on purpose: POST application answers 200, PUT
//! application 201, PUT redirect URIs 204; any 2xx is taken as success. The list of applications has no pages and
//! holds every secret of the tenant, so that reading by id is preferred.

mod redirect_uris;
mod service_credential;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use url::Url;

use self::{
    redirect_uris::Merge,
    wire::{WireApplication, WireApplications, WireRole, WireRoles, WireScopes},
};
pub use self::{
    redirect_uris::Merged,
    service_credential::{ServiceCredential, service_credential, service_credential_from},
};
use super::{
    Caller, Gate, Iam, Registrar, Standing, Tenant, TokenEndpoint, TokenIssuer,
    http::{Answer, Body, DEADLINE, REGISTRATION_DEADLINE, Request},
    iam::IamToken,
    oauth::{self, ClientAuthentication, TokenCall},
};
use crate::{
    model::{
        Application, ApplicationKind, Class, ClientCredential, ClientId, ExposeSecret, Failure, IssuedToken, RoleCatalogue, SecretText,
        TenantRole, TokenRequest,
    },
    reasons::Reason,
};

/// What our provisional names begin with: secrets in a list are kept for these alone.
const PROVISIONAL: &str = "cio-";

/// A list that is no older shows that a tenant answers.
const ANSWERED_LATELY: Duration = Duration::from_secs(10);

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

/// A request to the management API; `path` begins behind the tenant.
struct Management<'a> {
    operation: Operation,
    method: Method,
    path: &'a [&'a str],
    body: Option<Value>,
    deadline: Duration,
}

/// What an operation is called, here and in metrics.
#[derive(Clone, Copy)]
struct Operation {
    doing: &'static str,
    name: &'static str,
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

    /// Whether App ID and IAM both answered the last call that anybody made.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.tenant.gate().is_answering() && self.iam.is_answering()
    }

    /// Sees that the tenant answers to this credential, by a token and a list that may be a few seconds old: that of the provider's own check
    /// serves everybody.
    ///
    /// # Errors
    ///
    /// When there is no token or no list.
    pub async fn see_that_it_answers(&self, caller: &Caller) -> Result<(), Failure> {
        // The list may be one that another credential brought; the token is not.
        self.iam.token(caller).await?;
        let now = Instant::now();
        self.fresh_list(caller, now.checked_sub(ANSWERED_LATELY).unwrap_or(now)).await.map(drop)
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
        let request = Management { operation, method, path, body, deadline };
        self.manage_if(caller, request, &|| true).await?.ok_or_else(nothing_was_sent)
    }

    /// The same, unless `still` says no when it is the tenant's turn; then nothing is sent.
    async fn manage_if(
        &self,
        caller: &Caller,
        Management { operation, method, path, body, deadline }: Management<'_>,
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

    async fn ask_for_token(&self, caller: &Caller, doing: &'static str, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        let mut endpoint = self.origin.clone();
        if let Ok(mut segments) = endpoint.path_segments_mut() {
            segments.clear().extend(["oauth", "v4", &self.tenant_id, "token"]);
        }
        // App ID takes the two halves of HTTP Basic raw, without encoding them first.
        let authentication = ClientAuthentication::BasicRaw;
        // Its OAuth server URL, which an assertion has to name (App ID documentation, custom identity providers).
        let issuer = endpoint.as_str().trim_end_matches("/token").to_owned();
        let call = TokenCall { doing, operation: "app_id.token", endpoint, authentication, request, issuer: &issuer };
        oauth::ask(&self.tenant, caller, call).await
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
        let client = ClientCredential::with_secret(id.to_string(), secret.clone());
        let request = TokenRequest::of_client(client);
        self.ask_for_token(caller, "trying the published credential", &request).await.map(drop)
    }
}

impl TokenIssuer for AppId {
    async fn issue(&self, caller: &Caller, request: &TokenRequest) -> Result<IssuedToken, Failure> {
        self.ask_for_token(caller, "getting a token from App ID", request).await
    }
}
