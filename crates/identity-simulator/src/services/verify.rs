//! IBM Verify: tokens of API clients, and the two cheapest reads of its administration (sections 1 to 5 and 7 of the sheet).

use super::oauth::{self, Form, Presented, Stranger};
use super::{Answer, Request, Route};
use crate::canary;
use crate::model::{BasicSpelling, OAuthClient, OAuthToken, SecretKind, TokenForm, VERIFY, VerifyApplication};
use crate::signing::{Claims, keys, unsigned_token};
use crate::switches::{
    Switches, VerifyBadSignature, VerifyClientList, VerifyDiscoveredEndpoints, VerifyFlags, VerifyGenerations, VerifyHiddenSecret,
    VerifyIdToken, VerifyIntrospectionRefusal, VerifyInvalidClientStatus, VerifyTotalCount,
};
use crate::world::World;
use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");
const KEY_ID: &str = "verify-simulated";
/// Two hours (3.2).
const EXPIRES_IN: i64 = 7200;
const TENANT_ID: &str = "simulated.verify.test";
/// Grants that the server knows and an API client may not use (3.1, 5).
const OTHER_GRANTS: &[&str] = &[
    "authorization_code",
    "refresh_token",
    "password",
    "implicit",
    "urn:ietf:params:oauth:grant-type:token-exchange",
    "urn:ietf:params:oauth:grant-type:device_code",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
];
const NOT_AUTHENTICATED: &str = "CSIAQ0155E The OAuth 2.0 client could not be authenticated.";

type Reply = Result<Answer, Answer>;

/// Which of the three providers a path belongs to (section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    Oldest,
    OpenId,
    Current,
}

impl Generation {
    fn of(path: &str) -> Self {
        match path.trim_start_matches('/').split('/').next() {
            Some("v1.0") => Self::Oldest,
            Some("oidc") => Self::OpenId,
            _ => Self::Current,
        }
    }

    fn is_enabled(self, switches: &Switches) -> bool {
        match switches.verify_generations() {
            VerifyGenerations::All => true,
            VerifyGenerations::Current => self == Self::Current,
            VerifyGenerations::Legacy => self != Self::Current,
            VerifyGenerations::Oldest => self == Self::Oldest,
        }
    }

    /// What its endpoints begin with.
    fn base(self, host: &str) -> String {
        match self {
            Self::Oldest => format!("{host}/v1.0/endpoint/default"),
            Self::OpenId => format!("{host}/oidc/endpoint/default"),
            Self::Current => format!("{host}/oauth2"),
        }
    }

    fn issuer(self, host: &str) -> String {
        match self {
            Self::Current => format!("{host}/oauth2"),
            Self::Oldest | Self::OpenId => format!("{host}/oidc/endpoint/default"),
        }
    }
}

pub(super) fn route(method: &Method, segments: &[&str]) -> Route {
    let expected = |operation, expected: Method| if *method == expected { operation } else { "verify.wrong_method" };
    let operation = match segments {
        ["oauth2", ".well-known", "openid-configuration"]
        | ["v1.0" | "oidc", "endpoint", "default", ".well-known", "openid-configuration"] => expected("verify.discovery", Method::GET),
        ["oauth2", "token"] | ["v1.0" | "oidc", "endpoint", "default", "token"] => expected("verify.token", Method::POST),
        ["oauth2", "introspect"] => expected("verify.introspect", Method::POST),
        ["oauth2", "revoke"] => expected("verify.revoke", Method::POST),
        ["oauth2", "jwks"] => expected("verify.jwks", Method::GET),
        ["v1.0", "applications"] | ["appaccess", "v1.0", "applications"] => expected("verify.applications.list", Method::GET),
        ["v1.0", "apiclients"] | ["apisecurity", "v1.0", "apiclients"] => expected("verify.api_clients.list", Method::GET),
        _ => "verify.unknown",
    };
    Route::new(operation).tenant(VERIFY)
}

pub(super) fn handle(world: &mut World, request: &Request, route: &Route) -> Answer {
    let correlation = format!("CORR_ID-{}", uuid::Uuid::new_v4());
    answer(world, request, route).header(CORRELATION_HEADER, &correlation)
}

fn answer(world: &mut World, request: &Request, route: &Route) -> Answer {
    let generation = Generation::of(&request.path);
    let switches = world.switches.clone();
    let is_administration = route.operation.ends_with(".list");
    if route.operation == "verify.unknown" || !(is_administration || generation.is_enabled(&switches)) {
        return Answer::text(StatusCode::NOT_FOUND, "404 page not found");
    }
    let mut call = Call { host: world.urls.verify.clone(), now: world.now(), switches, generation, world, request };
    let answer = match route.operation {
        "verify.discovery" => return call.discovery(),
        "verify.jwks" => return call.key_set(),
        "verify.applications.list" => return call.applications().unwrap_or_else(|refusal| refusal),
        "verify.api_clients.list" => return call.api_clients().unwrap_or_else(|refusal| refusal),
        "verify.token" => call.token(),
        "verify.introspect" => call.introspect(),
        "verify.revoke" => call.revoke(),
        _ => return Answer::empty(StatusCode::METHOD_NOT_ALLOWED),
    };
    answer.unwrap_or_else(|refusal| refusal).header(CACHE_CONTROL, "no-store").header(PRAGMA, "no-cache")
}

fn oauth_error(status: StatusCode, error: &str, description: &str) -> Answer {
    Answer::json(status, &json!({"error": error, "error_description": description}))
}

fn bad_request(error: &str, description: &str) -> Answer {
    oauth_error(StatusCode::BAD_REQUEST, error, description)
}

struct Call<'a> {
    world: &'a mut World,
    request: &'a Request,
    host: String,
    generation: Generation,
    switches: Switches,
    now: i64,
}

impl Call<'_> {
    fn discovery(&self) -> Answer {
        let (host, issuer) = (&self.host, self.generation.issuer(&self.host));
        let endpoints = match self.switches.verify_discovered_endpoints() {
            VerifyDiscoveredEndpoints::Own => self.generation,
            VerifyDiscoveredEndpoints::OpenId => Generation::OpenId,
            VerifyDiscoveredEndpoints::Oldest => Generation::Oldest,
        };
        let base = endpoints.base(host);
        let registration = if endpoints == Generation::Current { "register" } else { "client_registration" };
        let mut document = json!({
            "issuer": issuer,
            "token_endpoint": format!("{base}/token"),
            "registration_endpoint": format!("{base}/{registration}"),
            "grant_types_supported": ["authorization_code", "implicit", "password", "refresh_token", "client_credentials"],
            "token_endpoint_auth_methods_supported": [
                "client_secret_basic", "client_secret_post", "private_key_jwt", "tls_client_auth",
            ],
            "added_without_notice": true,
        });
        if self.generation == Generation::Current {
            for (member, path) in [
                ("authorization_endpoint", "authorize"),
                ("userinfo_endpoint", "userinfo"),
                ("jwks_uri", "jwks"),
                ("introspection_endpoint", "introspect"),
                ("revocation_endpoint", "revoke"),
                ("pushed_authorization_request_endpoint", "par"),
            ] {
                document[member] = json!(format!("{host}/oauth2/{path}"));
            }
        }
        Answer::json(StatusCode::OK, &document)
    }

    fn key_set(&self) -> Answer {
        let Ok(keys) = keys() else {
            return Self::unknown_error();
        };
        let rsa = json!({
            "kty": "RSA", "n": keys.oauth.modulus(false), "e": keys.oauth.exponent(), "use": "sig", "alg": "RS256", "kid": KEY_ID,
        });
        Answer::json(StatusCode::OK, &json!({"keys": [rsa, keys.oauth.curve_entry(KEY_ID)]}))
    }

    fn unknown_error() -> Answer {
        oauth_error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "CSIAQ0008E An unknown internal error occurred.")
    }

    fn stranger(&self, stranger: Stranger) -> Answer {
        let invalid_status = match self.switches.verify_invalid_client_status() {
            VerifyInvalidClientStatus::Unauthorized => StatusCode::UNAUTHORIZED,
            VerifyInvalidClientStatus::BadRequest => StatusCode::BAD_REQUEST,
        };
        match stranger {
            Stranger::Nameless => bad_request("invalid_request", "CSIAQ0013E The client id is missing."),
            Stranger::Ambiguous => bad_request("invalid_request", "More than one way of client authentication."),
            Stranger::BadSignature => {
                let error = match self.switches.verify_bad_signature() {
                    VerifyBadSignature::InvalidClient => "invalid_client",
                    VerifyBadSignature::InvalidRequest => "invalid_request",
                };
                bad_request(error, "CSIAQ0197E The signature of the JWT could not be validated.")
            }
            Stranger::Refused | Stranger::BadClaims | Stranger::Replayed => {
                oauth_error(invalid_status, "invalid_client", NOT_AUTHENTICATED)
            }
        }
    }

    fn form(&self) -> Form {
        Form::of(self.request).unwrap_or(Form(Vec::new()))
    }

    fn client(&mut self, form: &Form) -> Result<OAuthClient, Stranger> {
        let presented = Presented::of(self.request, form, BasicSpelling::FormEncoded)?;
        let audiences = [self.generation.issuer(&self.host), format!("{}/token", self.generation.base(&self.host))];
        let server = self.world.servers.get_mut(VERIFY).ok_or(Stranger::Refused)?;
        presented.client(server, &audiences, self.now)
    }

    fn token(&mut self) -> Reply {
        let form = self.form();
        let presented = Presented::of(self.request, &form, BasicSpelling::FormEncoded);
        if let Some(client_id) = presented.as_ref().ok().map(|presented| presented.client_id.as_str()).or(form.one("client_id")) {
            self.world.note_token_request(VERIFY, client_id, "verify.token", self.request, &form.0);
        }
        if form.repeated(&[]).is_some() {
            return Err(bad_request("invalid_request", "A parameter is given more than once."));
        }
        let missing = || bad_request("invalid_request", "CSIAQ0158E The authorization grant of the type [null] is missing or invalid.");
        let grant = form.one("grant_type").ok_or_else(missing)?;
        let client = self.client(&form).map_err(|stranger| self.stranger(stranger))?;
        match grant {
            "client_credentials" => {}
            known if OTHER_GRANTS.contains(&known) => {
                return Err(bad_request("unauthorized_client", "The client may not use this grant."));
            }
            _ => return Err(bad_request("unsupported_grant_type", "The grant type is not supported.")),
        }
        let scopes: Vec<&str> = form.one("scope").unwrap_or_default().split_ascii_whitespace().collect();
        let is_granted = |scope: &&str| *scope == "openid" || client.scopes.is_empty() || client.scopes.contains(*scope);
        if !scopes.iter().all(is_granted) {
            return Err(bad_request("invalid_scope", "The client may not have this scope."));
        }
        self.issue(&client, &scopes)
    }

    fn issue(&mut self, client: &OAuthClient, scopes: &[&str]) -> Reply {
        let expires_in = client.expires_in.unwrap_or(EXPIRES_IN);
        let expires = self.now.saturating_add(expires_in);
        let text = match (client.access_tokens, self.generation) {
            (Some(TokenForm::Jwt), _) => self.signed(client, scopes, expires)?,
            (_, Generation::Current) => canary::dotted_token(),
            (_, Generation::Oldest | Generation::OpenId) => canary::alphanumeric_token(),
        };
        let token = OAuthToken {
            token: text.clone(),
            client_id: client.client_id.clone(),
            subject: client.client_id.clone(),
            grant: "client_credentials".to_owned(),
            scope: scopes.join(" "),
            targets: Vec::new(),
            issued: self.now,
            expires,
            revoked: false,
            family: None,
        };
        oauth::note_token(self.world, VERIFY, token);
        let mut body = json!({
            "access_token": text,
            "token_type": "Bearer",
            "expires_in": expires_in,
            "grant_id": uuid::Uuid::new_v4().to_string(),
            "added_without_notice": {"nested": [1]},
        });
        if !scopes.is_empty() {
            body["scope"] = json!(scopes.join(" "));
        }
        if scopes.contains(&"openid") && self.switches.verify_id_token() == VerifyIdToken::Unsigned {
            let token = unsigned_token(self.identity(client, &text, expires));
            self.world.note_secret(SecretKind::Token, &token);
            body["id_token"] = json!(token);
        }
        Ok(Answer::json(StatusCode::OK, &body))
    }

    fn signed(&self, client: &OAuthClient, scopes: &[&str], expires: i64) -> Result<String, Answer> {
        let claims = Claims::from_iter([
            ("iss".to_owned(), json!(self.generation.issuer(&self.host))),
            ("sub".to_owned(), json!(client.client_id)),
            ("aud".to_owned(), json!(client.client_id)),
            ("client_id".to_owned(), json!(client.client_id)),
            ("scope".to_owned(), json!(scopes.join(" "))),
            ("iat".to_owned(), json!(self.now)),
            ("exp".to_owned(), json!(expires)),
        ]);
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID});
        keys().and_then(|keys| keys.oauth.sign_as(self.world.settings.signing, header, claims)).map_err(|_| Self::unknown_error())
    }

    /// The claims of the unsigned ID token (3.2, example of 2018).
    fn identity(&self, client: &OAuthClient, token: &str, expires: i64) -> Claims {
        let hash = digest(&SHA256, token.as_bytes());
        let half = hash.as_ref().get(..16).unwrap_or_default();
        Claims::from_iter([
            ("ext".to_owned(), json!(json!({"tenantId": TENANT_ID}).to_string())),
            ("realmName".to_owned(), json!("cloudIdentityRealm")),
            ("at_hash".to_owned(), json!(BASE64_URL_SAFE_NO_PAD.encode(half))),
            ("iss".to_owned(), json!(self.generation.issuer(&self.host))),
            ("aud".to_owned(), json!(client.client_id)),
            ("sub".to_owned(), json!(client.client_id)),
            ("iat".to_owned(), json!(self.now)),
            ("exp".to_owned(), json!(expires)),
        ])
    }

    fn caller(&mut self, form: &Form) -> Result<OAuthClient, Answer> {
        let status = match self.switches.verify_introspection_refusal() {
            VerifyIntrospectionRefusal::Unauthorized => StatusCode::UNAUTHORIZED,
            VerifyIntrospectionRefusal::BadRequest => StatusCode::BAD_REQUEST,
        };
        self.client(form).map_err(|_| oauth_error(status, "request_unauthorized", NOT_AUTHENTICATED))
    }

    fn introspect(&mut self) -> Reply {
        let form = self.form();
        self.caller(&form)?;
        let book = self.world.servers.get(VERIFY).map(|server| &server.book);
        let token = form.one("token").and_then(|token| book?.live(token, self.now));
        let body = match token {
            None => json!({"active": false}),
            Some(token) => json!({
                "active": true,
                "client_id": token.client_id,
                "sub": token.subject,
                "token_type": "Bearer",
                "grant_type": token.grant,
                "scope": token.scope,
                "iat": token.issued,
                "exp": token.expires,
                "ext": {"tenantId": TENANT_ID},
            }),
        };
        Ok(Answer::json(StatusCode::OK, &body))
    }

    fn revoke(&mut self) -> Reply {
        let form = self.form();
        let client = self.caller(&form)?;
        let book = self.world.servers.get_mut(VERIFY).map(|server| &mut server.book);
        let revoked = form.one("token").zip(book).is_some_and(|(token, book)| {
            let is_own = book.live(token, self.now).is_some_and(|live| live.client_id == client.client_id);
            is_own && book.revoke(token)
        });
        let answer = Answer::empty(StatusCode::OK);
        Ok(if revoked { answer.committed() } else { answer })
    }

    /// The client whose live token came, when it has one of the entitlements. Both refusals have no body (section 4).
    fn entitled(&self, entitlements: &[&str]) -> Result<&OAuthClient, Answer> {
        let refuse = |status| Answer::empty(status);
        let server = self.world.servers.get(VERIFY).ok_or_else(|| refuse(StatusCode::UNAUTHORIZED))?;
        let token = self.request.bearer().and_then(|token| server.book.live(token, self.now));
        let token = token.ok_or_else(|| refuse(StatusCode::UNAUTHORIZED))?;
        let client = server.clients.get(&token.client_id).ok_or_else(|| refuse(StatusCode::FORBIDDEN))?;
        let may = entitlements.iter().any(|entitlement| client.entitlements.contains(*entitlement));
        if may { Ok(client) } else { Err(refuse(StatusCode::FORBIDDEN)) }
    }

    fn applications(&self) -> Reply {
        self.entitled(&["manageAppAccessAdmin", "manageAppAccessOwner", "readAppConfig", "readAppConfigAndClientSecret"])?;
        let query = fields(self.request.query.as_deref().unwrap_or_default());
        let search = query.get("search").and_then(|search| search.strip_prefix("q=")).unwrap_or_default();
        let found = self.world.verify_applications.iter().filter(|application| application.name.contains(search));
        let found: Vec<Value> = found.map(|application| self.application(application)).collect();
        let total = found.len();
        let page = page_of(found, number(&query, "page"), number(&query, "limit").or(Some(500)));
        let mut body = json!({
            "_links": {"self": {"href": "/appaccess/v1.0/applications"}},
            "_embedded": {"applications": page},
            "addedWithoutNotice": null,
        });
        let place = self.switches.verify_total_count();
        if place != VerifyTotalCount::Embedded {
            body["totalCount"] = json!(total);
        }
        if place != VerifyTotalCount::TopLevel {
            body["_embedded"]["totalCount"] = json!(total);
        }
        Ok(Answer::json(StatusCode::OK, &body))
    }

    /// There is no `id`: it is the last segment of the link (7.2).
    fn application(&self, application: &VerifyApplication) -> Value {
        let flag = |value: bool| match self.switches.verify_flags() {
            VerifyFlags::Boolean => json!(value),
            VerifyFlags::Text => json!(value.to_string()),
        };
        json!({
            "_links": {"self": {"href": format!("/appaccess/v1.0/applications/{}", application.id)}},
            "name": application.name,
            "description": application.description,
            "templateId": "1",
            "type": "Custom Application",
            "applicationState": flag(application.enabled),
            "approvalRequired": flag(false),
            "visibleOnLaunchpad": flag(true),
            "signonState": true,
            "provisioningMode": "",
            "providers": {},
            "provisioning": {},
            "addedWithoutNotice": 1,
        })
    }

    fn api_clients(&self) -> Reply {
        let seeing = ["manageAPIClients", "readAPIClientsAndClientSecret"];
        let caller = self.entitled(&[seeing[0], seeing[1], "readAPIClients"])?;
        let sees_secrets = seeing.iter().any(|entitlement| caller.entitlements.contains(*entitlement));
        let query = fields(self.request.query.as_deref().unwrap_or_default());
        let filter = query.get("filter").map(String::as_str);
        let clients = self.world.servers.get(VERIFY).map(|server| &server.clients);
        let clients: Vec<Value> =
            clients.into_iter().flat_map(BTreeMap::values).map(|client| self.api_client(client, sees_secrets, filter)).collect();
        let total = clients.len();
        let pagination = query.get("pagination").map(|options| fields(options)).unwrap_or_default();
        let (page, limit) = (number(&pagination, "page"), number(&pagination, "limit"));
        let wanted = number(&pagination, "count").unwrap_or(total);
        let clients = page_of(clients.into_iter().take(wanted).collect(), page, limit);
        let body = match self.switches.verify_client_list() {
            VerifyClientList::Bare if !query.contains_key("pagination") => json!(clients),
            VerifyClientList::Bare | VerifyClientList::Wrapped => json!({
                "count": clients.len(), "limit": limit.unwrap_or(total), "page": page.unwrap_or(1), "total": total, "apiClients": clients,
            }),
        };
        Ok(Answer::json(StatusCode::OK, &body))
    }

    fn api_client(&self, client: &OAuthClient, sees_secrets: bool, filter: Option<&str>) -> Value {
        let mut body = json!({
            "id": client.client_id,
            "clientName": client.name,
            "clientId": client.client_id,
            "enabled": client.enabled,
            "entitlements": client.entitlements,
            "addedWithoutNotice": [],
        });
        match (&client.secret, sees_secrets, self.switches.verify_hidden_secret()) {
            (Some(secret), true, _) => body["clientSecret"] = json!(secret),
            (None, _, _) | (_, false, VerifyHiddenSecret::Absent) => {}
            (_, false, VerifyHiddenSecret::Null) => body["clientSecret"] = Value::Null,
            (_, false, VerifyHiddenSecret::Masked) => body["clientSecret"] = json!("********"),
        }
        if let (Some(filter), Some(members)) = (filter, body.as_object_mut()) {
            let excluded: Vec<&str> = filter.split(',').filter_map(|name| name.trim().strip_prefix('!')).collect();
            let included: Vec<&str> = filter.split(',').map(str::trim).collect();
            members
                .retain(|name, _| if excluded.is_empty() { included.contains(&name.as_str()) } else { !excluded.contains(&name.as_str()) });
        }
        body
    }
}

fn fields(query: &str) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn number(fields: &BTreeMap<String, String>, name: &str) -> Option<usize> {
    fields.get(name)?.parse().ok()
}

/// A page, counted from 1; everything when there is no limit.
fn page_of(all: Vec<Value>, page: Option<usize>, limit: Option<usize>) -> Vec<Value> {
    let limit = limit.unwrap_or(all.len());
    let skip = page.unwrap_or(1).saturating_sub(1).saturating_mul(limit);
    all.into_iter().skip(skip).take(limit).collect()
}
