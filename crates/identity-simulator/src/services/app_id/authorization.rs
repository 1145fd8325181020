//! The authorization server v4: discovery, keys, tokens (App ID 6).

use super::tokens::{self, Life};
use super::{Answer, Request, Route, not_found, too_many_requests};
use crate::canary;
use crate::model::{Application, SecretKind, SigningAlgorithm, Tenant, User};
use crate::signing::{Claims, Jws, PublicKey, keys};
use crate::switches::{
    ExpiresIn, InvalidClientBody, KeyAlgorithm, KeyModulus, ScopeNotGranted, SecretInBody, Switches, UnknownAudience, WrongPasswordStatus,
};
use crate::world::World;
use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Either the answer to what was asked, or a refusal that changes nothing.
type Reply = Result<Answer, Answer>;

/// A call to a tenant that is there.
struct Authorization<'a> {
    world: &'a mut World,
    request: &'a Request,
    tenant_id: &'a str,
    switches: Switches,
    issuer: String,
    now: i64,
}

pub(super) fn handle(world: &mut World, request: &Request, route: &Route, tenant_id: &str) -> Answer {
    let host = request.listener.region.as_ref().and_then(|region| world.urls.regions.get(region)).cloned().unwrap_or_default();
    let mut call = Authorization {
        switches: world.switches.clone(),
        now: world.now(),
        issuer: format!("{host}/oauth/v4/{tenant_id}"),
        world,
        request,
        tenant_id,
    };
    match route.operation {
        "app_id.discovery" => Ok(discovery(&host, tenant_id)),
        "app_id.jwks" => call.key_set(),
        "app_id.token" => call.token(),
        "app_id.introspect" => call.introspect(),
        "app_id.revoke" => call.revoke(),
        "app_id.userinfo" => call.userinfo(),
        _ => Ok(not_found()),
    }
    .unwrap_or_else(|refusal| refusal)
}

/// Exactly the documented fields (App ID 6.2): no authentication methods, no introspection, no revocation, no PKCE.
fn discovery(host: &str, tenant: &str) -> Answer {
    let issuer = format!("{host}/oauth/v4/{tenant}");
    Answer::json(
        StatusCode::OK,
        &json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorization"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/publickeys"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid"],
            "response_types_supported": ["code"],
            "claims_supported": ["iss", "aud", "exp", "tenant", "iat", "sub", "nonce", "amr", "oauth_client"],
            "grant_types_supported": [
                "authorization_code", "password", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer",
            ],
            "profiles_endpoint": host,
            "management_endpoint": format!("{host}/management/v4/{tenant}"),
            "service_documentation": "https://cloud.ibm.com/docs/appid",
        }),
    )
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> Answer {
    Answer::json(status, &json!({"error": error, "error_description": description}))
}

fn server_error() -> Answer {
    oauth_error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "cannot sign")
}

/// Seconds of the meter of sign-ins (App ID 7.2: so many a minute, then a minute's block).
const MINUTE: Duration = Duration::from_secs(60);

impl Authorization<'_> {
    fn tenant(&self) -> Result<&Tenant, Answer> {
        self.world.tenants.get(self.tenant_id).ok_or_else(not_found)
    }

    fn tenant_mut(&mut self) -> Result<&mut Tenant, Answer> {
        self.world.tenants.get_mut(self.tenant_id).ok_or_else(not_found)
    }

    fn key_set(&mut self) -> Reply {
        let keys = keys().map_err(|_| server_error())?;
        let modulus = keys.app_id.modulus(self.switches.key_modulus() == KeyModulus::LeadingZero);
        let key_id = tokens::key_id(self.tenant()?, &self.switches);
        let mut key = json!({"kty": "RSA", "use": "sig", "n": modulus, "e": keys.app_id.exponent(), "kid": key_id});
        if self.switches.key_algorithm() == KeyAlgorithm::Present {
            key["alg"] = json!("RS256");
        }
        let mut entries = vec![key];
        if self.world.settings.signing == SigningAlgorithm::Es256 {
            entries.push(keys.app_id.curve_entry(&key_id));
        }
        Ok(Answer::json(StatusCode::OK, &json!({"keys": entries})))
    }

    fn invalid_client(&self) -> Answer {
        let status = StatusCode::UNAUTHORIZED;
        let description = "Invalid client id or secret";
        match self.switches.invalid_client_body() {
            InvalidClientBody::OAuth => oauth_error(status, "invalid_client", description),
            InvalidClientBody::ErrorCode => {
                Answer::json(status, &json!({"error_code": "INVALID_CLIENT", "error_description": description}))
            }
            InvalidClientBody::Text => Answer::text(status, "Unauthorized"),
        }
        .header(WWW_AUTHENTICATE, "Basic realm=\"appid\"")
    }

    /// The client whose id and secret came with the request. A single-page app has no secret, hence never gets in.
    fn client(&self, form: &BTreeMap<String, String>) -> Result<Application, Answer> {
        let in_body = || Some((form.get("client_id")?.clone(), form.get("client_secret")?.clone()));
        let body_counts = self.switches.secret_in_body() == SecretInBody::Accepted;
        let credentials = self.request.basic().or_else(|| in_body().filter(|_| body_counts));
        let (id, secret) = credentials.ok_or_else(|| self.invalid_client())?;
        let client = self.tenant()?.client(&id).filter(|client| client.secret.as_ref() == Some(&secret));
        client.cloned().ok_or_else(|| self.invalid_client())
    }

    fn life(&self) -> Result<Life, Answer> {
        let configured = self.tenant()?.tokens.access.expires_in;
        let seconds = match self.world.settings.app_id_expires_in {
            0 => configured,
            shorter => shorter,
        };
        Ok(Life { issued: self.now, expires: self.now + seconds })
    }

    fn sign(&mut self, claims: Claims) -> Result<String, Answer> {
        let token = tokens::sign(self.tenant()?, &self.switches, self.world.settings.signing, claims).map_err(|_| server_error())?;
        self.world.note_secret(SecretKind::Token, &token);
        Ok(token)
    }

    fn token(&mut self) -> Reply {
        let form = self.request.any_form();
        self.note_request(&form);
        let field = |name: &str| form.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let bad_request = |error, description| Err(oauth_error(StatusCode::BAD_REQUEST, error, description));
        match field("grant_type") {
            None => bad_request("invalid_request", "grant_type is required"),
            Some("client_credentials") => self.client_credentials(&form),
            Some("password") => self.password(&form),
            Some("refresh_token") => self.refresh(&form),
            Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => self.assertion(&form),
            // An authorization needs a browser, which nobody has here.
            Some("authorization_code") => {
                self.client(&form)?;
                bad_request("invalid_grant", "no such grant")
            }
            Some(_) => bad_request("unsupported_grant_type", "unknown grant_type"),
        }
    }

    fn note_request(&mut self, form: &BTreeMap<String, String>) {
        let named = self.request.basic().map(|(id, _)| id).or_else(|| form.get("client_id").cloned());
        if let Some(client) = named {
            let fields: Vec<_> = form.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            self.world.note_token_request(self.tenant_id, &client, "app_id.token", self.request, &fields);
        }
    }

    /// Access and ID token of somebody for whom the custom identity provider speaks: RS256, and for this server (App ID 6.4).
    fn assertion(&mut self, form: &BTreeMap<String, String>) -> Reply {
        let client = self.client(form)?;
        let refused = |description: &str| oauth_error(StatusCode::BAD_REQUEST, "invalid_grant", description);
        let provider = self.tenant()?.custom_identity_provider.clone().filter(|provider| provider.active);
        let provider = provider.ok_or_else(|| refused("no such grant"))?;
        let missing = || oauth_error(StatusCode::BAD_REQUEST, "invalid_request", "assertion is required");
        let assertion = form.get("assertion").filter(|assertion| !assertion.is_empty()).ok_or_else(missing)?;
        let token = Jws::parse(assertion).ok_or_else(|| refused("the assertion is no JWT"))?;
        let is_signed = PublicKey::from_pem(&provider.public_key).is_some_and(|key| token.is_signed_by(&key));
        if token.algorithm() != "RS256" || !is_signed {
            return Err(refused("the assertion is not signed by the custom identity provider"));
        }
        let is_alive = token.claims.get("exp").and_then(Value::as_i64).is_some_and(|end| end > self.now);
        let has_names = token.text("iss").is_some() && token.text("sub").is_some();
        if !is_alive || !has_names || !token.audiences().contains(&self.issuer.as_str()) {
            return Err(refused("the claims of the assertion are not acceptable"));
        }
        let life = self.life()?;
        let (access, identity) = tokens::asserted_tokens(self.tenant()?, &token.claims, &self.issuer, &client.client_id, life);
        let scope = access.get("scope").and_then(Value::as_str).unwrap_or_default().to_owned();
        let access = self.sign(access)?;
        let identity = self.sign(identity)?;
        Ok(self.token_answer(&access, life, &scope, json!({"id_token": identity})))
    }

    fn client_credentials(&mut self, form: &BTreeMap<String, String>) -> Reply {
        let client = self.client(form)?;
        let field = |name: &str| form.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let tenant = self.tenant()?;
        let audience = field("audience");
        let refuses = self.switches.unknown_audience() == UnknownAudience::Refused;
        if refuses && audience.is_some_and(|audience| tenant.client(audience).is_none()) {
            return Err(oauth_error(StatusCode::BAD_REQUEST, "invalid_request", "unknown audience"));
        }
        let assigned = tokens::assigned_scopes(tenant, &client.roles, audience, &self.switches);
        let granted = tokens::granted_scopes(assigned, field("scope"), &self.switches);
        if !granted.is_complete && self.switches.scope_not_granted() == ScopeNotGranted::Refused {
            return Err(oauth_error(StatusCode::BAD_REQUEST, "invalid_scope", "scope is not granted"));
        }
        let life = self.life()?;
        // Without an audience the client itself is it; always an array (App ID 6.5).
        let audience = audience.unwrap_or(&client.client_id);
        let claims = tokens::client_token(tenant, &client, &self.issuer, audience, &granted.text, life);
        let access = self.sign(claims)?;
        Ok(self.token_answer(&access, life, &granted.text, json!({})))
    }

    fn token_answer(&self, access: &str, life: Life, scope: &str, more: Value) -> Answer {
        let seconds = life.expires - life.issued;
        let expires_in = match self.switches.expires_in() {
            ExpiresIn::Number => json!(seconds),
            ExpiresIn::Text => json!(seconds.to_string()),
        };
        let mut body = json!({"access_token": access, "token_type": "Bearer", "expires_in": expires_in, "scope": scope});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        Answer::json(StatusCode::OK, &body)
    }

    fn password(&mut self, form: &BTreeMap<String, String>) -> Reply {
        let client = self.client(form)?;
        let username = form.get("username").cloned().unwrap_or_default();
        if let Some(left) = self.refused_sign_in(&username)? {
            return Err(too_many_requests(&self.switches, left));
        }
        let status = match self.switches.wrong_password_status() {
            WrongPasswordStatus::BadRequest => StatusCode::BAD_REQUEST,
            WrongPasswordStatus::Unauthorized => StatusCode::UNAUTHORIZED,
        };
        let is_right = |user: &&User| form.get("password") == Some(&user.password);
        let user = self.tenant()?.users.get(&username).filter(is_right).cloned();
        let user = user.ok_or_else(|| oauth_error(status, "invalid_grant", "The email or password that you entered is incorrect."))?;
        if user.password_expired {
            let body = json!({"error": "invalid_grant", "error_description": "Password expired", "user_id": user.id});
            return Err(Answer::json(status, &body));
        }
        if user.verification_pending {
            let body = json!({"error_code": "FORBIDDEN", "error_description": "Pending User Verification"});
            return Err(Answer::json(StatusCode::FORBIDDEN, &body));
        }
        self.user_answer(&user, &client)
    }

    /// How much longer a user may not sign in.
    fn refused_sign_in(&mut self, username: &str) -> Result<Option<Duration>, Answer> {
        let limit = self.world.settings.sign_ins_per_minute as usize;
        let now = Instant::now();
        let attempts = self.tenant_mut()?.sign_ins.entry(username.to_owned()).or_default();
        attempts.retain(|attempt| now.duration_since(*attempt) < MINUTE);
        if limit > 0 && attempts.len() >= limit {
            return Ok(attempts.last().map(|last| MINUTE.saturating_sub(now.duration_since(*last))));
        }
        attempts.push(now);
        Ok(None)
    }

    /// Access and ID token of a user, and a refresh token where the tenant has them enabled.
    fn user_answer(&mut self, user: &User, client: &Application) -> Reply {
        let life = self.life()?;
        let access = tokens::user_token(self.tenant()?, user, &self.issuer, &client.client_id, life, &self.switches);
        let scope = access.get("scope").and_then(Value::as_str).unwrap_or_default().to_owned();
        let identity = tokens::identity_token(self.tenant()?, user, &self.issuer, &client.client_id, life);
        let access = self.sign(access)?;
        let mut more = json!({"id_token": self.sign(identity)?});
        if self.tenant()?.tokens.refresh.enabled {
            let refresh = canary::api_key();
            self.world.note_secret(SecretKind::RefreshToken, &refresh);
            let owner = (user.username.clone(), client.client_id.clone());
            self.tenant_mut()?.refresh_tokens.insert(refresh.clone(), owner);
            more["refresh_token"] = json!(refresh);
        }
        Ok(self.token_answer(&access, life, &scope, more))
    }

    /// A refresh token works once; the answer brings a new one (App ID 6.4).
    fn refresh(&mut self, form: &BTreeMap<String, String>) -> Reply {
        let client = self.client(form)?;
        let invalid = || oauth_error(StatusCode::BAD_REQUEST, "invalid_grant", "Invalid refresh token");
        let token = form.get("refresh_token").ok_or_else(invalid)?;
        let tenant = self.tenant_mut()?;
        let is_own = tenant.refresh_tokens.get(token).is_some_and(|(_, owner)| *owner == client.client_id);
        if !is_own {
            return Err(invalid());
        }
        let (username, _) = tenant.refresh_tokens.remove(token).ok_or_else(invalid)?;
        let user = tenant.users.get(&username).cloned().ok_or_else(invalid)?;
        Ok(self.user_answer(&user, &client)?.committed())
    }

    /// The claims of a live token of this tenant.
    fn claims(&self, token: &str) -> Option<Claims> {
        let claims = keys().ok()?.app_id.verify(token, self.now)?;
        (claims.get("iss")? == &json!(self.issuer)).then_some(claims)
    }

    /// Says `active` and nothing else (App ID 6.6).
    fn introspect(&mut self) -> Reply {
        let form = self.request.any_form();
        self.client(&form)?;
        let token = form.get("token").ok_or_else(|| oauth_error(StatusCode::BAD_REQUEST, "invalid_request", "token is required"))?;
        let is_refresh_token = self.tenant()?.refresh_tokens.contains_key(token);
        Ok(Answer::json(StatusCode::OK, &json!({"active": is_refresh_token || self.claims(token).is_some()})))
    }

    /// Takes refresh tokens back. Access tokens cannot be, which is answered all the same (RFC 7009).
    fn revoke(&mut self) -> Reply {
        let form = self.request.any_form();
        let client = self.client(&form)?;
        let token = form.get("token").cloned().unwrap_or_default();
        let tokens = &mut self.tenant_mut()?.refresh_tokens;
        let is_own = tokens.get(&token).is_some_and(|(_, owner)| *owner == client.client_id);
        if is_own {
            tokens.remove(&token);
        }
        let answer = Answer::empty(StatusCode::OK);
        Ok(if is_own { answer.committed() } else { answer })
    }

    fn userinfo(&mut self) -> Reply {
        let refused = || {
            let challenge = "Bearer realm=\"appid\", error=\"invalid_token\"";
            oauth_error(StatusCode::UNAUTHORIZED, "invalid_token", "Unauthorized").header(WWW_AUTHENTICATE, challenge)
        };
        let claims = self.request.bearer().and_then(|token| self.claims(token)).ok_or_else(refused)?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        let user = self.tenant()?.users.values().find(|user| user.id == subject).ok_or_else(refused)?;
        let mut body = tokens::profile(user);
        body.insert("sub".to_owned(), json!(subject));
        Ok(Answer::json(StatusCode::OK, &Value::Object(body)))
    }
}
