//! The client of the control API, for a simulator in this process or in another one.

mod secure_auth;
mod servers;

use crate::control::{CallWait, FaultWait};
use crate::fault::{FaultReport, Rule};
use crate::journal::{Call, Counts};
use crate::model::{
    ApiKey, Application, ApplicationEdit, ApplicationSeed, CustomIdentityProvider, KeyEdit, KeySeed, Noted, Profile, ProfileEdit,
    ProfileSeed, Role, RoleSeed, SecretValue, Seed, Settings, StateReport, Tenant, TenantSeed, TokenConfiguration, Urls, User,
};
use crate::switches::Switches;
use axum::body::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use tokio::net::TcpStream;

/// Seeds, watches and disturbs a simulator.
///
/// Every call opens a connection of its own: it is plain HTTP on the loopback interface, and nothing may be shared between test runtimes.
#[derive(Clone, Debug)]
pub struct Control {
    authority: String,
}

/// Why a control call failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The simulator cannot be reached.
    #[error("cannot reach the simulator's control API")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was waited for did not happen in time.
    #[error("the simulator did not see it in time: {0}")]
    TimedOut(String),
    /// The simulator refused.
    #[error("the simulator refused with {status}: {message}")]
    Refused {
        /// Status of the control API.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
    /// The answer is not what this client understands.
    #[error("cannot read the simulator's answer")]
    Unreadable(#[from] serde_json::Error),
}

type Reply<T> = Result<T, ControlError>;

fn unreachable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ControlError {
    ControlError::Unreachable(error.into())
}

fn query(wait: &impl Serialize) -> Reply<String> {
    let fields: Map<String, Value> = serde_json::from_value(serde_json::to_value(wait)?)?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in &fields {
        query.append_pair(name, value.as_str().unwrap_or(&value.to_string()));
    }
    Ok(query.finish())
}

impl Control {
    /// A client for a control API at an address such as `http://127.0.0.1:1234`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { authority: url.trim_start_matches("http://").trim_end_matches('/').to_owned() }
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> Reply<T> {
        let stream = TcpStream::connect(&self.authority).await.map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(serde_json::to_vec(body)?))
            .map_err(unreachable)?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            drop(sender);
            Ok::<_, hyper::Error>((status, body))
        };
        let (answer, _ended) = tokio::join!(exchange, connection);
        let (status, body) = answer.map_err(unreachable)?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body)?);
        }
        let message = String::from_utf8_lossy(&body).into_owned();
        Err(match status {
            StatusCode::REQUEST_TIMEOUT => ControlError::TimedOut(message),
            status => ControlError::Refused { status, message },
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Reply<T> {
        self.call(Method::GET, path, &Value::Null).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Reply<T> {
        self.call(Method::POST, path, body).await
    }

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Reply<T> {
        self.call(Method::DELETE, path, &Value::Null).await
    }

    /// Where the listeners are.
    pub async fn urls(&self) -> Reply<Urls> {
        self.get("/urls").await
    }

    /// Everything seeded and changed so far.
    pub async fn state(&self) -> Reply<StateReport> {
        self.get("/state").await
    }

    /// Back to an empty world with default switches and settings, no faults, an empty journal. Secret values stay listed.
    pub async fn reset(&self) -> Reply<()> {
        self.post("/reset", &Value::Null).await
    }

    /// Adds tenants and keys; replaces switches and settings where given.
    pub async fn seed(&self, seed: &Seed) -> Reply<StateReport> {
        self.post("/seed", seed).await
    }

    /// Positions of the open questions.
    pub async fn switches(&self) -> Reply<Switches> {
        self.get("/switches").await
    }

    /// Replaces all switches.
    pub async fn set_switches(&self, switches: &Switches) -> Reply<Switches> {
        self.call(Method::PUT, "/switches", switches).await
    }

    /// Names of the switches that the simulator looked at so far.
    pub async fn consulted(&self) -> Reply<BTreeSet<String>> {
        self.get("/switches/consulted").await
    }

    /// Limits, lifetimes, speed.
    pub async fn settings(&self) -> Reply<Settings> {
        self.get("/settings").await
    }

    /// Replaces all settings.
    pub async fn set_settings(&self, settings: &Settings) -> Reply<Settings> {
        self.call(Method::PUT, "/settings", settings).await
    }

    /// Creates a tenant.
    pub async fn add_tenant(&self, seed: &TenantSeed) -> Reply<Tenant> {
        self.post("/tenants", seed).await
    }

    /// A tenant with all that is in it.
    pub async fn tenant(&self, tenant: &str) -> Reply<Tenant> {
        self.get(&format!("/tenants/{tenant}")).await
    }

    /// Removes a tenant: from now on its region says `Not Found`, too.
    pub async fn remove_tenant(&self, tenant: &str) -> Reply<()> {
        self.delete(&format!("/tenants/{tenant}")).await
    }

    /// A tenant's applications with their secrets, in the order of registration.
    pub async fn applications(&self, tenant: &str) -> Reply<Vec<Application>> {
        self.get(&format!("/tenants/{tenant}/applications")).await
    }

    /// Registers an application behind everybody's back.
    pub async fn add_application(&self, tenant: &str, seed: &ApplicationSeed) -> Reply<Application> {
        self.post(&format!("/tenants/{tenant}/applications"), seed).await
    }

    /// Changes an application behind everybody's back.
    pub async fn edit_application(&self, tenant: &str, client_id: &str, edit: &ApplicationEdit) -> Reply<Application> {
        self.call(Method::PATCH, &format!("/tenants/{tenant}/applications/{client_id}"), edit).await
    }

    /// Deletes an application behind everybody's back.
    pub async fn remove_application(&self, tenant: &str, client_id: &str) -> Reply<()> {
        self.delete(&format!("/tenants/{tenant}/applications/{client_id}")).await
    }

    /// A tenant's roles.
    pub async fn roles(&self, tenant: &str) -> Reply<Vec<Role>> {
        self.get(&format!("/tenants/{tenant}/roles")).await
    }

    /// Creates a role.
    pub async fn add_role(&self, tenant: &str, seed: &RoleSeed) -> Reply<Role> {
        self.post(&format!("/tenants/{tenant}/roles"), seed).await
    }

    /// Deletes a role and takes it from all who hold it.
    pub async fn remove_role(&self, tenant: &str, role: &str) -> Reply<()> {
        self.delete(&format!("/tenants/{tenant}/roles/{role}")).await
    }

    /// A tenant's redirect URI document as it is stored.
    pub async fn redirect_uris(&self, tenant: &str) -> Reply<Map<String, Value>> {
        self.get(&format!("/tenants/{tenant}/redirect_uris")).await
    }

    /// Replaces a tenant's redirect URI document, unchecked.
    pub async fn set_redirect_uris(&self, tenant: &str, document: &Map<String, Value>) -> Reply<()> {
        self.call(Method::PUT, &format!("/tenants/{tenant}/redirect_uris"), document).await
    }

    /// A tenant's token configuration.
    pub async fn tokens(&self, tenant: &str) -> Reply<TokenConfiguration> {
        self.get(&format!("/tenants/{tenant}/tokens")).await
    }

    /// Replaces a tenant's token configuration, unchecked: also with lifetimes that the service would refuse.
    pub async fn set_tokens(&self, tenant: &str, tokens: &TokenConfiguration) -> Reply<()> {
        self.call(Method::PUT, &format!("/tenants/{tenant}/tokens"), tokens).await
    }

    /// Adds a user, or replaces the one of that name.
    pub async fn add_user(&self, tenant: &str, user: &User) -> Reply<User> {
        self.post(&format!("/tenants/{tenant}/users"), user).await
    }

    /// Replaces whose assertions a tenant's `jwt-bearer` grant takes.
    pub async fn set_custom_identity_provider(&self, tenant: &str, provider: &CustomIdentityProvider) -> Reply<()> {
        self.call(Method::PUT, &format!("/tenants/{tenant}/custom_identity_provider"), provider).await
    }

    /// All trusted profiles.
    pub async fn profiles(&self) -> Reply<Vec<Profile>> {
        self.get("/profiles").await
    }

    /// Creates a trusted profile.
    pub async fn add_profile(&self, seed: &ProfileSeed) -> Reply<Profile> {
        self.post("/profiles", seed).await
    }

    /// Changes who may assume a trusted profile and what it may do, hides it, or changes the life of its tokens.
    pub async fn edit_profile(&self, id: &str, edit: &ProfileEdit) -> Reply<Profile> {
        self.call(Method::PATCH, &format!("/profiles/{id}"), edit).await
    }

    /// Deletes a trusted profile. Its tokens live on.
    pub async fn remove_profile(&self, id: &str) -> Reply<()> {
        self.delete(&format!("/profiles/{id}")).await
    }

    /// All API keys.
    pub async fn keys(&self) -> Reply<Vec<ApiKey>> {
        self.get("/keys").await
    }

    /// Creates an API key.
    pub async fn add_key(&self, seed: &KeySeed) -> Reply<ApiKey> {
        self.post("/keys", seed).await
    }

    /// Disables, enables, ends or hides an API key, or changes the rights of its identity.
    pub async fn edit_key(&self, id: &str, edit: &KeyEdit) -> Reply<ApiKey> {
        self.call(Method::PATCH, &format!("/keys/{id}"), edit).await
    }

    /// Deletes an API key. Its tokens live on (IAM 2.5).
    pub async fn remove_key(&self, id: &str) -> Reply<()> {
        self.delete(&format!("/keys/{id}")).await
    }

    /// Counts since the journal was cleared.
    pub async fn calls(&self) -> Reply<Counts> {
        self.get("/calls").await
    }

    /// Answers once there were so many calls.
    pub async fn wait_for_calls(&self, wait: &CallWait) -> Reply<Counts> {
        self.get(&format!("/calls/wait?{}", query(wait)?)).await
    }

    /// All calls since the journal was cleared, in the order of arrival.
    pub async fn journal(&self) -> Reply<Vec<Call>> {
        self.get("/journal").await
    }

    /// All calls from a sequence on.
    pub async fn journal_since(&self, sequence: u64) -> Reply<Vec<Call>> {
        self.get(&format!("/journal?since={sequence}")).await
    }

    /// Forgets calls and counts.
    pub async fn clear_journal(&self) -> Reply<()> {
        self.post("/journal/clear", &Value::Null).await
    }

    /// Adds a fault.
    pub async fn inject(&self, rule: &Rule) -> Reply<FaultReport> {
        self.post("/faults", rule).await
    }

    /// All faults.
    pub async fn faults(&self) -> Reply<Vec<FaultReport>> {
        self.get("/faults").await
    }

    /// A fault and what became of it.
    pub async fn fault(&self, id: u64) -> Reply<FaultReport> {
        self.get(&format!("/faults/{id}")).await
    }

    /// Answers once a fault's effect has begun for one call.
    pub async fn wait_for_fault(&self, id: u64) -> Reply<FaultReport> {
        self.wait_for_fault_as(id, &FaultWait::default()).await
    }

    /// Answers once a fault's effect is as far as asked.
    pub async fn wait_for_fault_as(&self, id: u64, wait: &FaultWait) -> Reply<FaultReport> {
        self.get(&format!("/faults/{id}/wait?{}", query(wait)?)).await
    }

    /// Lets all held calls of a fault go on. What they change is changed when this answers.
    pub async fn release(&self, id: u64) -> Reply<FaultReport> {
        self.post(&format!("/faults/{id}/release"), &Value::Null).await
    }

    /// Removes a fault. Calls that it holds go on.
    pub async fn remove_fault(&self, id: u64) -> Reply<FaultReport> {
        self.delete(&format!("/faults/{id}")).await
    }

    /// Removes all faults. Calls that they hold go on.
    pub async fn clear_faults(&self) -> Reply<()> {
        self.delete("/faults").await
    }

    /// Every secret value ever issued or seeded.
    pub async fn secrets(&self) -> Reply<Vec<SecretValue>> {
        self.get("/secrets").await
    }

    /// What reached the noting listeners.
    pub async fn noted(&self) -> Reply<Vec<Noted>> {
        self.get("/noted").await
    }

    /// Forgets what reached the noting listeners.
    pub async fn clear_noted(&self) -> Reply<()> {
        self.delete("/noted").await
    }
}
