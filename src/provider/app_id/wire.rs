//! What App ID's answers look like.

use serde::Deserialize;

use crate::model::{Application, ApplicationKind, ClientId, ExposeSecret, SecretText};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireApplication {
    pub(super) client_id: Option<String>,
    pub(super) name: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) secret: Option<SecretText>,
}

#[derive(Deserialize)]
pub(super) struct WireApplications {
    pub(super) applications: Vec<WireApplication>,
}

#[derive(Deserialize)]
pub(super) struct WireScopes {
    pub(super) scopes: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct WireRoles {
    pub(super) roles: Vec<WireRole>,
}

#[derive(Deserialize)]
pub(super) struct WireRole {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) access: Vec<WireAccess>,
}

#[derive(Deserialize)]
pub(super) struct WireAccess {
    pub(super) application_id: String,
    #[serde(default)]
    pub(super) scopes: Option<Vec<String>>,
}

impl WireApplication {
    pub(super) fn parse(self) -> Option<Application> {
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
