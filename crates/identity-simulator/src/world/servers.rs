//! Authorization servers behind their own backs.

use super::{SeedError, World, marked, or_uuid};
use crate::canary;
use crate::model::{
    AssertionIssuer, OAuthClient, OAuthClientEdit, OAuthClientSeed, OAuthRefreshToken, OAuthRefreshTokenSeed, OAuthServer, OAuthToken,
    OidcServerSeed, OidcSettings, SecretKind, TokenBook, TokenRequest, User, VERIFY, VerificationKey, VerifyApplication,
    VerifyApplicationSeed,
};
use crate::services::{Request, public_key};
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use std::collections::BTreeMap;

fn check_keys(keys: &[VerificationKey]) -> Result<(), SeedError> {
    if keys.iter().all(|key| public_key(key).is_some()) { Ok(()) } else { Err(SeedError::Unusable("public key")) }
}

impl World {
    /// Verify's authorization server, which is always there.
    pub(super) fn add_verify_server(&mut self) {
        let issuer = format!("{}/oauth2", self.urls.verify);
        self.servers.insert(VERIFY.to_owned(), empty_server(VERIFY, issuer));
    }

    pub(crate) fn add_verify_application(&mut self, seed: VerifyApplicationSeed) -> Result<VerifyApplication, SeedError> {
        // As long as a number of 64 bits can be, and beyond what a JSON number holds.
        let next = || (6_611_521_215_950_655_212 + self.verify_applications.len() as u64).to_string();
        let id = if seed.id.is_empty() { next() } else { seed.id };
        if self.verify_applications.iter().any(|application| application.id == id) {
            return Err(SeedError::Exists(format!("application {id}")));
        }
        let application = VerifyApplication { id, name: seed.name, description: seed.description, enabled: seed.enabled };
        self.verify_applications.push(application.clone());
        Ok(application)
    }

    pub(crate) fn server_mut(&mut self, id: &str) -> Result<&mut OAuthServer, SeedError> {
        self.servers.get_mut(id).ok_or_else(|| SeedError::Absent(format!("server {id}")))
    }

    pub(crate) fn add_oidc_server(&mut self, seed: OidcServerSeed) -> Result<OAuthServer, SeedError> {
        let id = or_uuid(&seed.id);
        if self.servers.contains_key(&id) {
            return Err(SeedError::Exists(format!("server {id}")));
        }
        for issuer in &seed.assertion_issuers {
            check_keys(&issuer.public_keys)?;
        }
        let issuer = format!("{}/tenants/{id}", self.urls.oidc);
        let server = OAuthServer { assertion_issuers: seed.assertion_issuers, settings: seed.settings, ..empty_server(&id, issuer) };
        self.servers.insert(id.clone(), server);
        for client in seed.clients {
            self.add_oauth_client(&id, client)?;
        }
        for user in seed.users {
            self.add_oauth_user(&id, user)?;
        }
        Ok(self.server_mut(&id)?.clone())
    }

    pub(crate) fn remove_server(&mut self, id: &str) -> Result<(), SeedError> {
        if id == VERIFY {
            return Err(SeedError::Absent(format!("server {id} that could be removed")));
        }
        self.servers.remove(id).map(|_| ()).ok_or_else(|| SeedError::Absent(format!("server {id}")))
    }

    pub(crate) fn set_oidc_settings(&mut self, id: &str, settings: OidcSettings) -> Result<OidcSettings, SeedError> {
        let server = self.server_mut(id)?;
        server.settings = settings;
        Ok(server.settings.clone())
    }

    pub(crate) fn add_oauth_client(&mut self, server: &str, seed: OAuthClientSeed) -> Result<OAuthClient, SeedError> {
        check_keys(&seed.public_keys)?;
        let secret = match seed.secret {
            Some(secret) => Some(marked(&secret, "client secret")?),
            None if seed.public_keys.is_empty() => Some(canary::client_secret()),
            None => None,
        };
        let client = OAuthClient {
            client_id: or_uuid(&seed.client_id),
            secret,
            name: seed.name,
            public_keys: seed.public_keys,
            authentication: seed.authentication,
            grants: seed.grants,
            scopes: seed.scopes,
            targets: seed.targets,
            expires_in: seed.expires_in,
            access_tokens: seed.access_tokens,
            enabled: seed.enabled,
            one_time_assertions: seed.one_time_assertions,
            entitlements: seed.entitlements,
        };
        let clients = &mut self.server_mut(server)?.clients;
        if clients.contains_key(&client.client_id) {
            return Err(SeedError::Exists(format!("client {}", client.client_id)));
        }
        clients.insert(client.client_id.clone(), client.clone());
        if let Some(secret) = &client.secret {
            self.note_secret(SecretKind::ClientSecret, secret);
        }
        Ok(client)
    }

    pub(crate) fn edit_oauth_client(&mut self, server: &str, id: &str, edit: OAuthClientEdit) -> Result<OAuthClient, SeedError> {
        check_keys(edit.public_keys.as_deref().unwrap_or_default())?;
        if let Some(secret) = &edit.secret {
            marked(secret, "client secret")?;
            self.note_secret(SecretKind::ClientSecret, secret);
        }
        let client = self.server_mut(server)?.clients.get_mut(id).ok_or_else(|| SeedError::Absent(format!("client {id}")))?;
        if let Some(secret) = edit.secret {
            client.secret = Some(secret);
        }
        if let Some(expires_in) = edit.expires_in {
            client.expires_in = Some(expires_in);
        }
        if let Some(form) = edit.access_tokens {
            client.access_tokens = Some(form);
        }
        replace(&mut client.public_keys, edit.public_keys);
        replace(&mut client.authentication, edit.authentication);
        replace(&mut client.grants, edit.grants);
        replace(&mut client.scopes, edit.scopes);
        replace(&mut client.targets, edit.targets);
        replace(&mut client.enabled, edit.enabled);
        replace(&mut client.one_time_assertions, edit.one_time_assertions);
        replace(&mut client.entitlements, edit.entitlements);
        Ok(client.clone())
    }

    pub(crate) fn remove_oauth_client(&mut self, server: &str, id: &str) -> Result<(), SeedError> {
        let removed = self.server_mut(server)?.clients.remove(id);
        removed.map(|_| ()).ok_or_else(|| SeedError::Absent(format!("client {id}")))
    }

    pub(crate) fn add_oauth_user(&mut self, server: &str, mut user: User) -> Result<User, SeedError> {
        user.password = marked(&user.password, "password")?;
        user.id = or_uuid(&user.id);
        self.server_mut(server)?.users.insert(user.username.clone(), user.clone());
        self.note_secret(SecretKind::Password, &user.password);
        Ok(user)
    }

    pub(crate) fn set_assertion_issuers(&mut self, server: &str, issuers: Vec<AssertionIssuer>) -> Result<(), SeedError> {
        for issuer in &issuers {
            check_keys(&issuer.public_keys)?;
        }
        self.server_mut(server)?.assertion_issuers = issuers;
        Ok(())
    }

    /// Takes a refresh token in, under a text that is made up when it has none. The answer is the text.
    pub(crate) fn add_refresh_token(&mut self, server: &str, token: OAuthRefreshToken) -> String {
        let text = if token.token.is_empty() { canary::api_key() } else { token.token.clone() };
        self.note_secret(SecretKind::RefreshToken, &text);
        if let Some(server) = self.servers.get_mut(server) {
            let tokens = &mut server.book.refresh_tokens;
            let sequence = tokens.len() as u64;
            tokens.insert(text.clone(), OAuthRefreshToken { token: text.clone(), sequence, ..token });
        }
        text
    }

    pub(crate) fn seed_refresh_token(&mut self, server: &str, seed: OAuthRefreshTokenSeed) -> Result<OAuthRefreshToken, SeedError> {
        let now = self.now();
        let clients = &self.server_mut(server)?.clients;
        if !clients.contains_key(&seed.client_id) {
            return Err(SeedError::Absent(format!("client {}", seed.client_id)));
        }
        let token = OAuthRefreshToken {
            token: seed.token.map(|token| marked(&token, "refresh token")).transpose()?.unwrap_or_default(),
            family: or_uuid(""),
            client_id: seed.client_id,
            subject: seed.subject,
            scope: seed.scope,
            targets: seed.targets,
            issued: now,
            expires: seed.expires_in.map(|life| now.saturating_add(life)),
            spent: false,
            reuses: 0,
            revoked: false,
            sequence: 0,
        };
        if self.server_mut(server)?.book.refresh_tokens.contains_key(&token.token) {
            return Err(SeedError::Exists("the refresh token".to_owned()));
        }
        let text = self.add_refresh_token(server, token);
        let found = self.server_mut(server)?.book.refresh_tokens.get(&text).cloned();
        found.ok_or_else(|| SeedError::Absent("such refresh token".to_owned()))
    }

    /// In the order of issue.
    pub(crate) fn oauth_tokens(&mut self, server: &str, client: &str) -> Result<Vec<OAuthToken>, SeedError> {
        let tokens = &self.server_mut(server)?.book.tokens;
        Ok(tokens.iter().filter(|token| token.client_id == client).cloned().collect())
    }

    /// Spent and revoked ones, too; in the order of issue.
    pub(crate) fn oauth_refresh_tokens(&mut self, server: &str, client: &str) -> Result<Vec<OAuthRefreshToken>, SeedError> {
        let tokens = &self.server_mut(server)?.book.refresh_tokens;
        let mut tokens: Vec<_> = tokens.values().filter(|token| token.client_id == client).cloned().collect();
        tokens.sort_by_key(|token| token.sequence);
        Ok(tokens)
    }

    /// Takes back an access token, a refresh token with its family, or a family named by its id.
    pub(crate) fn revoke_oauth(&mut self, server: &str, what: &str) -> Result<(), SeedError> {
        let book = &mut self.server_mut(server)?.book;
        let family = book.refresh_tokens.get(what).map_or_else(|| what.to_owned(), |token| token.family.clone());
        if book.revoke(what) || book.revoke_family(&family) { Ok(()) } else { Err(SeedError::Absent("such token or family".to_owned())) }
    }

    /// Notes a token request under the client that it names, whether that is there or not.
    pub(crate) fn note_token_request(
        &mut self,
        tenant: &str,
        client: &str,
        operation: &str,
        request: &Request,
        fields: &[(String, String)],
    ) {
        let authorization = request.headers.get(AUTHORIZATION).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let key = (tenant.to_owned(), client.to_owned());
        let count = self.token_requests.get(&key).map_or(0, |earlier| earlier.count) + 1;
        let noted = TokenRequest {
            time: Timestamp::now(),
            operation: operation.to_owned(),
            method: request.method.to_string(),
            path: request.path.clone(),
            authorization,
            fields: fields.to_vec(),
            count,
        };
        self.token_requests.insert(key, noted);
    }

    pub(crate) fn token_request(&self, tenant: &str, client: &str) -> Result<TokenRequest, SeedError> {
        let found = self.token_requests.get(&(tenant.to_owned(), client.to_owned()));
        found.cloned().ok_or_else(|| SeedError::Absent(format!("token request of {client} to {tenant}")))
    }
}

fn replace<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn empty_server(id: &str, issuer: String) -> OAuthServer {
    OAuthServer {
        id: id.to_owned(),
        issuer,
        clients: BTreeMap::new(),
        users: BTreeMap::new(),
        assertion_issuers: Vec::new(),
        settings: OidcSettings::default(),
        book: TokenBook::default(),
    }
}
