//! Generic OAuth 2.0 / OpenID Connect servers (standards sheet, sections 1 to 4, 7 and 10).

use super::oauth::{self, Form, Presented, Stranger};
use super::{Answer, Request, Route, TokenService};
use crate::canary;
use crate::model::{
    DiscoveryPlace, LifetimeAnswer, MissingTarget, OAuthClient, OAuthRefreshToken, OAuthServer, OAuthToken, OidcSettings, SecretKind,
    TokenForm, User,
};
use crate::signing::{Claims, Jws, keys, unsigned_token};
use crate::world::World;
use http::header::{ALLOW, CACHE_CONTROL, PRAGMA, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const HUGE_LIFETIME: i64 = 1 << 40;

/// Either the answer to what was asked, or a refusal that changes nothing.
type Reply = Result<Answer, Answer>;

pub(super) fn route(method: &Method, segments: &[&str]) -> Route {
    let expected = |operation, expected: Method| if *method == expected { operation } else { "oidc.wrong_method" };
    let (operation, tenant) = match segments {
        ["tenants", tenant, ".well-known", "openid-configuration"] => (expected("oidc.discovery.open_id", Method::GET), tenant),
        [".well-known", "oauth-authorization-server", "tenants", tenant] => (expected("oidc.discovery.oauth", Method::GET), tenant),
        [".well-known", "openid-configuration", "tenants", tenant] => (expected("oidc.discovery.inserted", Method::GET), tenant),
        ["tenants", tenant, "token"] => (expected("oidc.token", Method::POST), tenant),
        ["tenants", tenant, "introspect"] => (expected("oidc.introspect", Method::POST), tenant),
        ["tenants", tenant, "revoke"] => (expected("oidc.revoke", Method::POST), tenant),
        ["tenants", tenant, "jwks"] => (expected("oidc.jwks", Method::GET), tenant),
        ["tenants", tenant, ..] => ("oidc.unknown", tenant),
        _ => return Route::new("oidc.unknown"),
    };
    Route::new(operation).tenant(tenant)
}

pub(super) fn handle(world: &mut World, request: &Request, route: &Route) -> Answer {
    // Verify's server is in the same collection, and not here.
    let server = route.tenant.as_ref().filter(|id| *id != crate::model::VERIFY).and_then(|id| world.servers.get(id));
    let Some(server) = server else {
        return Answer::empty(StatusCode::NOT_FOUND);
    };
    let settings = server.settings.clone();
    let is_elsewhere = request.listener.service == Some(TokenService::OidcElsewhere);
    let is_discovery = route.operation.starts_with("oidc.discovery");
    if is_elsewhere != (settings.endpoints_elsewhere && !is_discovery) {
        return Answer::empty(StatusCode::NOT_FOUND);
    }
    let (own, elsewhere) = (&server.issuer, format!("{}/tenants/{}", world.urls.oidc_elsewhere, server.id));
    let endpoints = if settings.endpoints_elsewhere { elsewhere } else { own.clone() };
    let slash = if settings.slash_after_issuer { "/" } else { "" };
    let mut call = Call { issuer: format!("{own}{slash}"), id: server.id.clone(), now: world.now(), settings, endpoints, world, request };
    let answer = match route.operation {
        "oidc.discovery.open_id" => Ok(call.discovery(DiscoveryPlace::OpenId)),
        "oidc.discovery.oauth" => Ok(call.discovery(DiscoveryPlace::OAuth)),
        "oidc.discovery.inserted" => Ok(call.discovery(DiscoveryPlace::OpenIdInserted)),
        "oidc.token" => call.token(),
        "oidc.introspect" => call.introspect(),
        "oidc.revoke" => call.revoke(),
        "oidc.jwks" => call.key_set(),
        "oidc.wrong_method" => {
            let takes_forms = ["/token", "/introspect", "/revoke"].iter().any(|end| request.path.trim_end_matches('/').ends_with(end));
            let allowed = if takes_forms { "POST" } else { "GET" };
            return Answer::empty(StatusCode::METHOD_NOT_ALLOWED).header(ALLOW, allowed);
        }
        _ => return Answer::empty(StatusCode::NOT_FOUND),
    };
    let answer = answer.unwrap_or_else(|refusal| call.refused(refusal));
    if is_discovery || route.operation == "oidc.jwks" {
        return answer;
    }
    answer.header(CACHE_CONTROL, "no-store").header(PRAGMA, "no-cache")
}

/// A call to a server that is there.
struct Call<'a> {
    world: &'a mut World,
    request: &'a Request,
    id: String,
    /// As the server spells it.
    issuer: String,
    /// What its endpoints begin with.
    endpoints: String,
    settings: OidcSettings,
    now: i64,
}

/// What a token is issued for.
#[derive(Clone, Debug)]
struct Grant {
    client: OAuthClient,
    grant: &'static str,
    subject: String,
    /// Who signed in, where somebody did.
    user: Option<User>,
    scopes: Vec<String>,
    targets: Vec<String>,
    /// The family it belongs to, for tokens that come of a refresh token or bring one.
    family: Option<String>,
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> Answer {
    Answer::json(status, &json!({"error": error, "error_description": description}))
}

fn bad_request(error: &str, description: &str) -> Answer {
    oauth_error(StatusCode::BAD_REQUEST, error, description)
}

fn server_error() -> Answer {
    oauth_error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "cannot sign")
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(ToOwned::to_owned).collect()
}

impl Call<'_> {
    fn server(&self) -> Result<&OAuthServer, Answer> {
        self.world.servers.get(&self.id).ok_or_else(|| Answer::empty(StatusCode::NOT_FOUND))
    }

    fn server_mut(&mut self) -> Result<&mut OAuthServer, Answer> {
        self.world.servers.get_mut(&self.id).ok_or_else(|| Answer::empty(StatusCode::NOT_FOUND))
    }

    fn key_id(&self) -> String {
        format!("oidc-{}", self.id)
    }

    fn discovery(&self, place: DiscoveryPlace) -> Answer {
        if self.settings.discovery != place {
            return Answer::empty(StatusCode::NOT_FOUND);
        }
        let endpoints = &self.endpoints;
        let mut document = json!({
            "issuer": self.issuer,
            "token_endpoint": format!("{endpoints}/token"),
            "introspection_endpoint": format!("{endpoints}/introspect"),
            "revocation_endpoint": format!("{endpoints}/revoke"),
            "jwks_uri": format!("{endpoints}/jwks"),
            "grant_types_supported": ["client_credentials", "password", "refresh_token", JWT_BEARER],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS256", "PS256", "ES256"],
        });
        if !self.settings.announced_authentication.is_empty() {
            document["token_endpoint_auth_methods_supported"] = json!(self.settings.announced_authentication);
        }
        Answer::json(StatusCode::OK, &document)
    }

    /// Both keys, whichever signs.
    fn key_set(&self) -> Reply {
        let (keys, key_id) = (&keys().map_err(|_| server_error())?.oauth, self.key_id());
        let rsa = json!({
            "kty": "RSA", "n": keys.modulus(false), "e": keys.exponent(), "use": "sig", "alg": "RS256", "kid": key_id,
        });
        Ok(Answer::json(StatusCode::OK, &json!({"keys": [rsa, keys.curve_entry(&key_id)]})))
    }

    /// A refusal as this server sends it.
    fn refused(&self, mut refusal: Answer) -> Answer {
        if self.settings.errors_with_ok && refusal.status.is_client_error() && refusal.status != StatusCode::NOT_FOUND {
            refusal.status = StatusCode::OK;
        }
        refusal
    }

    fn stranger(&self, stranger: Stranger) -> Answer {
        match stranger {
            Stranger::Ambiguous => bad_request("invalid_request", "more than one way of client authentication"),
            other => {
                let description = match other {
                    Stranger::BadSignature => "the client assertion is not signed with a known key",
                    Stranger::BadClaims => "the claims of the client assertion are not acceptable",
                    Stranger::Replayed => "the client assertion was used before",
                    _ => "client authentication failed",
                };
                let status = StatusCode::from_u16(self.settings.invalid_client_status).unwrap_or(StatusCode::UNAUTHORIZED);
                let answer = oauth_error(status, "invalid_client", description);
                if self.settings.invalid_client_challenge {
                    answer.header(WWW_AUTHENTICATE, &format!("Basic realm=\"{}\"", self.id))
                } else {
                    answer
                }
            }
        }
    }

    /// Issuer in either spelling, and the token endpoint.
    fn audiences(&self) -> Vec<String> {
        let issuer = self.issuer.trim_end_matches('/');
        vec![issuer.to_owned(), format!("{issuer}/"), format!("{}/token", self.endpoints)]
    }

    fn form(&self) -> Result<Form, Answer> {
        Form::of(self.request).ok_or_else(|| bad_request("invalid_request", "the body is no form"))
    }

    fn client(&mut self, form: &Form) -> Result<OAuthClient, Answer> {
        let presented = Presented::of(self.request, form, self.settings.basic).map_err(|stranger| self.stranger(stranger))?;
        let (audiences, now) = (self.audiences(), self.now);
        presented.client(self.server_mut()?, &audiences, now).map_err(|stranger| self.stranger(stranger))
    }

    fn token(&mut self) -> Reply {
        let form = self.form()?;
        let presented = Presented::of(self.request, &form, self.settings.basic);
        if let Some(client_id) = presented.as_ref().ok().map(|presented| presented.client_id.as_str()).or(form.one("client_id")) {
            self.world.note_token_request(&self.id, client_id, "oidc.token", self.request, &form.0);
        }
        if let Some(name) = form.repeated(&["audience", "resource"]) {
            return Err(bad_request("invalid_request", &format!("{name} is given more than once")));
        }
        let client = self.client(&form)?;
        let grant = match form.one("grant_type") {
            None => return Err(bad_request("invalid_request", "grant_type is required")),
            Some("client_credentials") => "client_credentials",
            Some("password") => "password",
            Some("refresh_token") => "refresh_token",
            Some(JWT_BEARER) => JWT_BEARER,
            Some(_) => return Err(bad_request("unsupported_grant_type", "unknown grant_type")),
        };
        if !client.grants.is_empty() && !client.grants.contains(grant) {
            return Err(bad_request("unauthorized_client", "the client may not use this grant"));
        }
        match grant {
            "refresh_token" => self.refresh(&form, client),
            "password" => {
                let user = self.sign_in(&form)?;
                self.user_grant(&form, client, grant, user.id.clone(), Some(user))
            }
            JWT_BEARER => {
                let subject = self.asserted(&form)?;
                self.user_grant(&form, client, grant, subject, None)
            }
            _ => {
                let (scopes, targets) = (self.scopes(&form, &client)?, self.targets(&form, &client)?);
                let subject = client.client_id.clone();
                self.issue(Grant { client, grant, subject, user: None, scopes, targets, family: None }, None)
            }
        }
    }

    fn scopes(&self, form: &Form, client: &OAuthClient) -> Result<Vec<String>, Answer> {
        let Some(asked) = form.one("scope").map(words) else {
            return Ok(client.scopes.iter().cloned().collect());
        };
        if !client.scopes.is_empty() && !asked.iter().all(|scope| client.scopes.contains(scope)) {
            return Err(bad_request("invalid_scope", "the client may not have this scope"));
        }
        Ok(asked)
    }

    /// Audiences, then resources.
    fn targets(&self, form: &Form, client: &OAuthClient) -> Result<Vec<String>, Answer> {
        let is_absolute = |resource: &str| url::Url::parse(resource).is_ok_and(|url| url.fragment().is_none());
        let targets: Vec<String> = form.all("audience").chain(form.all("resource")).map(ToOwned::to_owned).collect();
        let is_known = |target: &String| client.targets.is_empty() || client.targets.contains(target);
        if !form.all("resource").all(is_absolute) || !targets.iter().all(is_known) {
            return Err(bad_request("invalid_target", "unknown audience or resource"));
        }
        match self.settings.missing_target {
            MissingTarget::InvalidTarget if targets.is_empty() => Err(bad_request("invalid_target", "audience is required")),
            MissingTarget::AccessDenied if targets.is_empty() => {
                Err(oauth_error(StatusCode::FORBIDDEN, "access_denied", "audience is required"))
            }
            _ => Ok(targets),
        }
    }

    fn sign_in(&self, form: &Form) -> Result<User, Answer> {
        let (Some(username), Some(password)) = (form.one("username"), form.one("password")) else {
            return Err(bad_request("invalid_request", "username and password are required"));
        };
        let user = self.server()?.users.get(username).filter(|user| user.password == password);
        let user = user.filter(|user| !user.password_expired && !user.verification_pending);
        user.cloned().ok_or_else(|| bad_request("invalid_grant", "wrong user name or password"))
    }

    /// The subject of an assertion that a trusted issuer signed for this server. It works once.
    fn asserted(&mut self, form: &Form) -> Result<String, Answer> {
        let refused = |description: &str| bad_request("invalid_grant", description);
        let assertion = form.one("assertion").ok_or_else(|| bad_request("invalid_request", "assertion is required"))?;
        let token = Jws::parse(assertion).ok_or_else(|| refused("the assertion is no JWT"))?;
        let (audiences, now) = (self.audiences(), self.now);
        let issuer = token.text("iss").unwrap_or_default();
        let trusted = self.server()?.assertion_issuers.iter().find(|trusted| trusted.issuer == issuer);
        let trusted = trusted.ok_or_else(|| refused("nobody knows the issuer of the assertion"))?;
        oauth::check_assertion(&token, &trusted.public_keys, issuer, &audiences, now).map_err(|stranger| match stranger {
            Stranger::BadSignature => refused("the assertion is not signed with a known key"),
            _ => refused("the claims of the assertion are not acceptable"),
        })?;
        let subject = token.text("sub").ok_or_else(|| refused("the assertion has no subject"))?;
        if !trusted.subjects.is_empty() && !trusted.subjects.contains(subject) {
            return Err(refused("the issuer may not speak for this subject"));
        }
        let expires = token.claims.get("exp").and_then(Value::as_i64).unwrap_or(now);
        if let Some(id) = token.text("jti")
            && !self.server_mut()?.book.use_assertion(issuer, id, expires, now)
        {
            return Err(refused("the assertion was used before"));
        }
        Ok(subject.to_owned())
    }

    fn user_grant(&mut self, form: &Form, client: OAuthClient, grant: &'static str, subject: String, user: Option<User>) -> Reply {
        let (scopes, targets) = (self.scopes(form, &client)?, self.targets(form, &client)?);
        // Who has an assertion gets no refresh token (RFC 7521, 4.1).
        if grant != "password" || !self.settings.refresh_tokens {
            return self.issue(Grant { client, grant, subject, user, scopes, targets, family: None }, None);
        }
        let family = uuid::Uuid::new_v4().to_string();
        let refresh = OAuthRefreshToken {
            token: String::new(),
            family: family.clone(),
            client_id: client.client_id.clone(),
            subject: subject.clone(),
            scope: scopes.join(" "),
            targets: targets.clone(),
            issued: self.now,
            expires: (self.settings.refresh_expires_in != 0).then(|| self.now.saturating_add(self.settings.refresh_expires_in)),
            spent: false,
            reuses: 0,
            revoked: false,
            sequence: 0,
        };
        let refresh = self.world.add_refresh_token(&self.id, refresh);
        self.issue(Grant { client, grant, subject, user, scopes, targets, family: Some(family) }, Some(refresh))
    }

    fn refresh(&mut self, form: &Form, client: OAuthClient) -> Reply {
        let invalid = |description: &str| bad_request("invalid_grant", description);
        let text = form.one("refresh_token").ok_or_else(|| bad_request("invalid_request", "refresh_token is required"))?;
        let (now, settings) = (self.now, self.settings.clone());
        let book = &mut self.server_mut()?.book;
        let token = book.refresh_tokens.get(text).filter(|token| token.client_id == client.client_id).cloned();
        let token = token.ok_or_else(|| invalid("unknown refresh token"))?;
        if token.spent {
            if let Some(spent) = book.refresh_tokens.get_mut(text) {
                spent.reuses += 1;
            }
            if settings.reuse_revokes_family && book.revoke_family(&token.family) {
                return Err(invalid("the refresh token was used before; its family is revoked").committed());
            }
            return Err(invalid("the refresh token was used before"));
        }
        if token.revoked || token.expires.is_some_and(|end| end <= now) {
            return Err(invalid("the refresh token is over"));
        }
        let granted: BTreeSet<String> = words(&token.scope).into_iter().collect();
        let scopes = form.one("scope").map_or_else(|| words(&token.scope), words);
        if !scopes.iter().all(|scope| granted.contains(scope)) {
            return Err(bad_request("invalid_scope", "more than was granted"));
        }
        let successor = if settings.rotation {
            if let Some(spent) = book.refresh_tokens.get_mut(text) {
                spent.spent = true;
            }
            let like = OAuthRefreshToken { token: String::new(), issued: now, ..token.clone() };
            Some(self.world.add_refresh_token(&self.id, like))
        } else {
            None
        };
        let user = self.server()?.users.values().find(|user| user.id == token.subject).cloned();
        let (subject, targets) = (token.subject, token.targets);
        let grant = Grant { client, grant: "refresh_token", subject, user, scopes, targets, family: Some(token.family) };
        let answer = self.issue(grant, successor)?;
        Ok(if settings.rotation { answer.committed() } else { answer })
    }

    fn issue(&mut self, mut grant: Grant, refresh: Option<String>) -> Reply {
        if self.settings.narrower_scope {
            grant.scopes.pop();
        }
        let token = match self.earlier(&grant)? {
            Some(token) => token,
            None => self.new_token(&grant)?,
        };
        let left = token.expires - self.now;
        let mut body = json!({"access_token": token.token, "token_type": self.settings.token_type});
        match self.settings.lifetime {
            LifetimeAnswer::Number => body["expires_in"] = json!(left),
            LifetimeAnswer::Text => body["expires_in"] = json!(left.to_string()),
            LifetimeAnswer::Absent => {}
            LifetimeAnswer::Zero => body["expires_in"] = json!(0),
            LifetimeAnswer::Negative => body["expires_in"] = json!(-1),
            LifetimeAnswer::Huge => body["expires_in"] = json!(HUGE_LIFETIME),
        }
        if !grant.scopes.is_empty() {
            body["scope"] = json!(grant.scopes.join(" "));
        }
        if grant.grant != "client_credentials" {
            body["id_token"] = json!(self.identity_token(&grant)?);
        }
        if let Some(refresh) = refresh {
            body["refresh_token"] = json!(refresh);
        }
        Ok(Answer::json(StatusCode::OK, &body))
    }

    /// The token that was issued for the same before, where the server is set to answer it again.
    fn earlier(&self, grant: &Grant) -> Result<Option<OAuthToken>, Answer> {
        if !self.settings.same_token {
            return Ok(None);
        }
        let scope = grant.scopes.join(" ");
        let is_same = |token: &&OAuthToken| {
            token.client_id == grant.client.client_id
                && token.subject == grant.subject
                && token.scope == scope
                && token.targets == grant.targets
                && !token.revoked
                && token.expires > self.now
        };
        Ok(self.server()?.book.tokens.iter().rev().find(is_same).cloned())
    }

    fn new_token(&mut self, grant: &Grant) -> Result<OAuthToken, Answer> {
        let expires = self.now.saturating_add(grant.client.expires_in.unwrap_or(self.settings.expires_in));
        let token = OAuthToken {
            token: match grant.client.access_tokens.unwrap_or(self.settings.access_tokens) {
                TokenForm::Jwt => self.signed(grant, expires)?,
                TokenForm::Opaque => {
                    let text = canary::api_key();
                    let missing = self.settings.token_length.saturating_sub(text.len());
                    format!("{text}{}", "x".repeat(missing))
                }
            },
            client_id: grant.client.client_id.clone(),
            subject: grant.subject.clone(),
            grant: grant.grant.to_owned(),
            scope: grant.scopes.join(" "),
            targets: grant.targets.clone(),
            issued: self.now,
            expires,
            revoked: false,
            family: grant.family.clone(),
        };
        oauth::note_token(self.world, &self.id, token.clone());
        Ok(token)
    }

    fn signed(&self, grant: &Grant, expires: i64) -> Result<String, Answer> {
        let audience = match &grant.targets[..] {
            [] => json!(grant.client.client_id),
            [one] => json!(one),
            several => json!(several),
        };
        let mut claims = self.claims(&grant.subject, expires);
        claims.insert("aud".to_owned(), audience);
        claims.insert("client_id".to_owned(), json!(grant.client.client_id));
        claims.insert("scope".to_owned(), json!(grant.scopes.join(" ")));
        if self.settings.token_length > 0 {
            // Three bytes become four characters.
            claims.insert("padding".to_owned(), json!("x".repeat(self.settings.token_length / 4 * 3 + 3)));
        }
        let header = json!({"alg": "RS256", "typ": "at+jwt", "kid": self.key_id()});
        keys().and_then(|keys| keys.oauth.sign_as(self.world.settings.signing, header, claims)).map_err(|_| server_error())
    }

    fn claims(&self, subject: &str, expires: i64) -> Claims {
        Claims::from_iter([
            ("iss".to_owned(), json!(self.issuer)),
            ("sub".to_owned(), json!(subject)),
            ("iat".to_owned(), json!(self.now)),
            ("exp".to_owned(), json!(expires)),
        ])
    }

    fn identity_token(&mut self, grant: &Grant) -> Result<String, Answer> {
        let expires = self.now.saturating_add(grant.client.expires_in.unwrap_or(self.settings.expires_in));
        let mut claims = self.claims(&grant.subject, expires);
        claims.insert("aud".to_owned(), json!(grant.client.client_id));
        if let Some(user) = &grant.user {
            claims.insert("name".to_owned(), json!(user.name));
            claims.insert("email".to_owned(), json!(user.email));
        }
        let token = if self.settings.unsigned_id_tokens {
            unsigned_token(claims)
        } else {
            let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id()});
            keys().and_then(|keys| keys.oauth.sign_as(self.world.settings.signing, header, claims)).map_err(|_| server_error())?
        };
        self.world.note_secret(SecretKind::Token, &token);
        Ok(token)
    }

    fn introspect(&mut self) -> Reply {
        let form = self.form()?;
        self.client(&form)?;
        let token = form.one("token").ok_or_else(|| bad_request("invalid_request", "token is required"))?;
        let now = self.now;
        let book = &self.server()?.book;
        if let Some(token) = book.live(token, now) {
            let mut body = json!({
                "active": true, "client_id": token.client_id, "sub": token.subject, "scope": token.scope, "iss": self.issuer,
                "iat": token.issued, "exp": token.expires, "token_type": self.settings.token_type,
            });
            if !token.targets.is_empty() {
                body["aud"] = json!(token.targets);
            }
            if let Some(id) = Jws::parse(&token.token).and_then(|token| token.claims.get("jti").cloned()) {
                body["jti"] = id;
            }
            return Ok(Answer::json(StatusCode::OK, &body));
        }
        let is_good = |token: &&OAuthRefreshToken| !token.spent && !token.revoked && token.expires.is_none_or(|end| end > now);
        let body = match book.refresh_tokens.get(token).filter(is_good) {
            Some(token) => json!({"active": true, "client_id": token.client_id, "sub": token.subject, "scope": token.scope}),
            None => json!({"active": false}),
        };
        Ok(Answer::json(StatusCode::OK, &body))
    }

    /// 200 whether there was anything to revoke or not (RFC 7009). A refresh token takes its family with it.
    fn revoke(&mut self) -> Reply {
        let form = self.form()?;
        let client = self.client(&form)?;
        let text = form.one("token").ok_or_else(|| bad_request("invalid_request", "token is required"))?;
        let book = &mut self.server_mut()?.book;
        let family = book.refresh_tokens.get(text).filter(|token| token.client_id == client.client_id).map(|token| token.family.clone());
        let is_own =
            book.by_text.get(text).and_then(|index| book.tokens.get(*index)).is_some_and(|token| token.client_id == client.client_id);
        let revoked = match family {
            Some(family) => book.revoke_family(&family),
            None => is_own && book.revoke(text),
        };
        let answer = Answer::empty(StatusCode::OK);
        Ok(if revoked { answer.committed() } else { answer })
    }
}
