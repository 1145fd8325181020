//! IBM Cloud IAM: tokens for API keys (sections 1 and 2 of the sheet).

mod profiles;

use super::oauth::Form;
use super::{Answer, Request, Route};
use crate::canary;
use crate::model::{ApiKey, IssuedToken, SecretKind, SigningAlgorithm};
use crate::signing::{Claims, keys};
use crate::switches::{
    IamDisabledKeyStatus, IamExpiredKey, IamLifetimeFields, IamOtherAccount, IamProfileRefreshToken, IamRefreshToken, IamTokenReuse,
    IamUnknownGrant, IamUnknownKeyStatus, Switches,
};
use crate::world::World;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_LENGTH, USER_AGENT};
use http::{HeaderName, Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const KEY_ID: &str = "202007241831";
const APIKEY_GRANT: &str = "urn:ibm:params:oauth:grant-type:apikey";
const SCOPE: &str = "ibm openid";

const ACCOUNT_HEADER: HeaderName = HeaderName::from_static("ibm-cloud-tenant");
const TRANSACTION_HEADER: HeaderName = HeaderName::from_static("transaction-id");

/// An error as the token endpoint reports it (IAM 1.4).
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
    details: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message, details: None }
    }

    fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    fn missing(property: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BXNIM0109E", "Property missing or empty.")
            .details(format!("Property '{property}' either missing or empty."))
    }
}

pub(super) fn route(method: &Method, segments: &[&str]) -> Route {
    let expected = |operation, expected: Method| Route::new(if *method == expected { operation } else { "iam.wrong_method" });
    match segments {
        ["identity" | "oidc", "token"] => expected("iam.token", Method::POST),
        ["identity", "keys"] => expected("iam.keys", Method::GET),
        ["identity", ".well-known", "openid-configuration"] => expected("iam.discovery", Method::GET),
        _ => Route::new("iam.unknown"),
    }
}

pub(super) fn handle(world: &mut World, request: &Request, route: &Route) -> Answer {
    let started = Timestamp::now();
    let transaction = match request.header(&TRANSACTION_HEADER) {
        Some(id) => id.to_owned(),
        None => uuid::Uuid::new_v4().simple().to_string(),
    };
    let answer = match route.operation {
        "iam.token" => token(world, request),
        "iam.keys" => key_set(world.settings.signing),
        "iam.discovery" => Ok(discovery(&world.urls.iam)),
        "iam.wrong_method" => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "BXNIM0060E",
            "Web application exception 'javax.ws.rs.ClientErrorException' during request processing.",
        )
        .details("HTTP 405 Method Not Allowed")),
        _ => return Answer::html(StatusCode::NOT_FOUND),
    };
    match answer {
        Ok(value) => Answer::json(StatusCode::OK, &value),
        Err(refusal) => {
            let answer = Answer::json(refusal.status, &error_body(world, request, &refusal, &transaction, started));
            let allowed = if request.path.ends_with("token") { "POST" } else { "GET" };
            if refusal.status == StatusCode::METHOD_NOT_ALLOWED { answer.header(ALLOW, allowed) } else { answer }
        }
    }
    .header(TRANSACTION_HEADER, &transaction)
    .header(CACHE_CONTROL, "no-store")
    .header(CONTENT_LANGUAGE, "en-US")
}

fn error_body(world: &World, request: &Request, refusal: &Refusal, transaction: &str, started: Timestamp) -> Value {
    let moment = |time: Timestamp| time.strftime("%d.%m.%Y %H:%M:%S:%3f GMT").to_string();
    let ended = Timestamp::now();
    let mut body = json!({
        "errorCode": refusal.code,
        "errorMessage": refusal.message,
        "context": {
            "requestId": transaction,
            "requestType": "incoming.Identity_Token",
            "userAgent": request.header(&USER_AGENT).unwrap_or_default(),
            "url": world.urls.iam,
            "instanceId": "iamid-simulated",
            "threadId": "1",
            "host": "iamid-simulated",
            "startTime": moment(started),
            "endTime": moment(ended),
            "elapsedTime": (ended.as_millisecond() - started.as_millisecond()).to_string(),
            "locale": "en_US",
            "clusterName": "iam-id-simulated",
        }
    });
    if let Some(details) = &refusal.details {
        body["errorDetails"] = json!(details);
    }
    body
}

/// Exchanges an API key for a token.
fn token(world: &mut World, request: &Request) -> Result<Value, Refusal> {
    // Chunked requests are answered as if they were empty (Portworx PWX-9765).
    if !request.headers.contains_key(CONTENT_LENGTH) {
        return Err(Refusal::missing("grant_type"));
    }
    let form = request.form();
    let field = |name: &str| form.get(name).map(String::as_str).filter(|value| !value.is_empty());
    match field("grant_type") {
        None => return Err(Refusal::missing("grant_type")),
        Some(APIKEY_GRANT) => {}
        Some(profiles::CR_TOKEN_GRANT) => return profile_token(world, request, &field),
        Some(other) => return Err(unknown_grant(world, other)),
    }
    if let Some(other) = field("response_type").filter(|value| *value != "cloud_iam") {
        return Err(validation_failed("response_type", other, "cloud_iam"));
    }
    let value = field("apikey").ok_or_else(|| Refusal::missing("apikey"))?;
    let client = request.basic();
    if client.as_ref().is_some_and(|client| *client != ("bx".to_owned(), "bx".to_owned())) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "BXNIM0310E", "Client could not be found."));
    }
    let now = world.now();
    if let Some(id) = world.key_by_value(value).map(|key| key.id.clone()) {
        note_request(world, &id, request);
    }
    check_key(world, value, now)?;
    let account = world.key_by_value(value).map(|key| key.account.clone());
    check_account(world, request, account.as_deref())?;
    issue(world, value, client.is_some(), &form, now)
}

/// Exchanges the token of a service account for a token of a trusted profile.
fn profile_token<'a>(world: &mut World, request: &Request, field: &impl Fn(&str) -> Option<&'a str>) -> Result<Value, Refusal> {
    if let Some(named) = field("profile_id").or(field("profile_name")).or(field("profile_crn")) {
        note_request(world, named, request);
    }
    let (now, issuer) = (world.now(), format!("{}/identity", world.urls.iam));
    let scope = field("scope").unwrap_or(SCOPE);
    let (profile, issue) = profiles::assume(world, field, scope, &issuer, now)?;
    check_account(world, request, Some(&profile.account))?;
    let (issued, expires) = (issue.issued, issue.expires);
    let text = sign(world.settings.signing, issue.claims)?;
    world.note_secret(SecretKind::Token, &text);
    let mut body = token_body(&world.switches, &IssuedToken { text, issued, expires }, scope, now);
    if world.switches.iam_profile_refresh_token() == IamProfileRefreshToken::NotSupported {
        body["refresh_token"] = json!("not_supported");
    }
    Ok(body)
}

/// Notes a token request under the id of its key, or under what it names the profile by.
fn note_request(world: &mut World, client: &str, request: &Request) {
    let fields = Form::of(request).map(|form| form.0).unwrap_or_default();
    world.note_token_request("iam", client, "iam.token", request, &fields);
}

fn unknown_grant(world: &World, grant: &str) -> Refusal {
    match world.switches.iam_unknown_grant() {
        IamUnknownGrant::ValidationFailed => validation_failed("grant_type", grant, APIKEY_GRANT),
        IamUnknownGrant::PropertyMissing => Refusal::missing("grant_type"),
    }
}

fn validation_failed(property: &str, value: &str, valid: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "BXNIM0106E", "Property validation failed.")
        .details(format!("Validation of property '{property}' with value '{value}' failed. Valid values: {valid}"))
}

/// Whether a key is there, visible, enabled and not over (IAM 1.5).
fn check_key(world: &mut World, value: &str, now: i64) -> Result<(), Refusal> {
    let switches = world.switches.clone();
    let unknown = || {
        let status = match switches.iam_unknown_key_status() {
            IamUnknownKeyStatus::BadRequest => StatusCode::BAD_REQUEST,
            IamUnknownKeyStatus::Unauthorized => StatusCode::UNAUTHORIZED,
        };
        Refusal::new(status, "BXNIM0415E", "Provided API key could not be found.")
    };
    let disabled = || {
        let status = match switches.iam_disabled_key_status() {
            IamDisabledKeyStatus::BadRequest => StatusCode::BAD_REQUEST,
            IamDisabledKeyStatus::Unauthorized => StatusCode::UNAUTHORIZED,
            IamDisabledKeyStatus::Forbidden => StatusCode::FORBIDDEN,
        };
        Refusal::new(status, "BXNIM0462E", "Provided API key is disabled.")
    };
    let key = world.key_by_value(value).filter(|key| key.visible_at <= Timestamp::now()).ok_or_else(unknown)?;
    if !key.enabled {
        return Err(disabled());
    }
    let is_over = key.expires_at.is_some_and(|end| end.as_second() <= now);
    match (is_over, switches.iam_expired_key()) {
        (false, _) => Ok(()),
        (true, IamExpiredKey::AsDisabled) => Err(disabled()),
        (true, IamExpiredKey::AsUnknown) => Err(unknown()),
    }
}

/// `ibm-cloud-tenant` lists the accounts that the caller expects (IAM 1.1).
fn check_account(world: &World, request: &Request, own: Option<&str>) -> Result<(), Refusal> {
    let Some(accounts) = request.header(&ACCOUNT_HEADER) else {
        return Ok(());
    };
    if own.is_some_and(|own| accounts.split(',').any(|account| account.trim() == own)) {
        return Ok(());
    }
    Err(match world.switches.iam_other_account() {
        IamOtherAccount::BadRequest => {
            Refusal::new(StatusCode::BAD_REQUEST, "BXNIM0410E", "Provided API key is not valid for the account.")
        }
        IamOtherAccount::Forbidden => Refusal::new(StatusCode::FORBIDDEN, "BXNIM0513E", "You are not authorized."),
    })
}

/// What a token is to say.
struct Issue {
    claims: Claims,
    issued: i64,
    expires: i64,
}

fn internal() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "BXNIM0050E", "Internal error.")
}

fn sign(algorithm: SigningAlgorithm, claims: Claims) -> Result<String, Refusal> {
    let header = json!({"kid": KEY_ID, "alg": "RS256"});
    keys().and_then(|keys| keys.iam.sign_as(algorithm, header, claims)).map_err(|_| internal())
}

/// The answer, but for the refresh token.
fn token_body(switches: &Switches, token: &IssuedToken, scope: &str, now: i64) -> Value {
    let mut body = json!({
        "access_token": token.text,
        "token_type": "Bearer",
        "expires_in": token.expires - now,
        "expiration": token.expires,
        "scope": scope,
    });
    let absent: &[&str] = match switches.iam_lifetime_fields() {
        IamLifetimeFields::Both => &[],
        IamLifetimeFields::ExpiresIn => &["expiration"],
        IamLifetimeFields::Expiration => &["expires_in"],
        IamLifetimeFields::Neither => &["expires_in", "expiration"],
    };
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|name, _| !absent.contains(&name.as_str()));
    }
    body
}

fn issue(world: &mut World, value: &str, has_client: bool, form: &BTreeMap<String, String>, now: i64) -> Result<Value, Refusal> {
    let algorithm = world.settings.signing;
    let (switches, issuer, life) = (world.switches.clone(), format!("{}/identity", world.urls.iam), world.settings.iam_expires_in);
    let scope = form.get("scope").filter(|scope| !scope.is_empty()).map_or(SCOPE, String::as_str);
    let key = world.key_by_value(value).ok_or_else(internal)?;
    let reusable = |token: &IssuedToken| now - token.issued < (token.expires - token.issued) / 2;
    let token = match key.last_token.clone().filter(reusable) {
        Some(token) if switches.iam_token_reuse() == IamTokenReuse::UntilHalfLife => token,
        _ => {
            let claims = claims(key, &issuer, scope, has_client, now, now + life);
            IssuedToken { text: sign(algorithm, claims)?, issued: now, expires: now + life }
        }
    };
    key.last_token = Some(token.clone());
    world.note_secret(SecretKind::Token, &token.text);
    let mut body = token_body(&switches, &token, scope, now);
    let refresh_token = match (has_client, switches.iam_refresh_token()) {
        (false, IamRefreshToken::NotSupported) => Some("not_supported".to_owned()),
        (false, IamRefreshToken::Absent) => None,
        (true, _) | (false, IamRefreshToken::Opaque) => {
            let token = canary::api_key();
            world.note_secret(SecretKind::RefreshToken, &token);
            Some(token)
        }
    };
    if let Some(token) = refresh_token {
        body["refresh_token"] = json!(token);
    }
    Ok(body)
}

/// The claims of a service ID's token (IAM 2.2). There is neither `nbf` nor `aud`.
fn claims(key: &ApiKey, issuer: &str, scope: &str, has_client: bool, issued: i64, expires: i64) -> Claims {
    let iam_id = format!("iam-{}", key.identity);
    let claims = json!({
        "iam_id": iam_id,
        "id": iam_id,
        "realmid": "iam",
        "identifier": key.identity,
        "name": key.name,
        "sub": key.identity,
        "sub_type": "ServiceId",
        "authn": {"sub": key.identity, "iam_id": iam_id, "sub_type": "ServiceId", "name": key.name},
        "account": {"valid": true, "bss": key.account, "frozen": true},
        "iat": issued,
        "exp": expires,
        "iss": issuer,
        "grant_type": APIKEY_GRANT,
        "scope": scope,
        "client_id": if has_client { "bx" } else { "default" },
        "acr": 1,
        "amr": ["pwd"],
    });
    match claims {
        Value::Object(claims) => claims,
        _ => Claims::new(),
    }
}

/// No `use` (IAM 2.3), and a plain modulus: the leading zero byte is App ID's.
fn key_set(algorithm: SigningAlgorithm) -> Result<Value, Refusal> {
    let keys = keys().map_err(|_| internal())?;
    let mut entries = vec![json!({
        "kty": "RSA", "n": keys.iam.modulus(false), "e": keys.iam.exponent(), "alg": "RS256", "kid": KEY_ID,
    })];
    if algorithm == SigningAlgorithm::Es256 {
        entries.push(keys.iam.curve_entry(KEY_ID));
    }
    Ok(json!({"keys": entries}))
}

/// Neither `jwt-bearer` nor `token-exchange` is among the grants (IAM 1.1).
fn discovery(iam: &str) -> Value {
    json!({
        "issuer": format!("{iam}/identity"),
        "authorization_endpoint": format!("{iam}/identity/authorize"),
        "token_endpoint": format!("{iam}/identity/token"),
        "passcode_endpoint": format!("{iam}/identity/passcode"),
        "jwks_uri": format!("{iam}/identity/keys"),
        "grant_types_supported": [
            "authorization_code", "password", "refresh_token", APIKEY_GRANT,
            "urn:ibm:params:oauth:grant-type:passcode", "urn:ibm:params:oauth:grant-type:cr-token",
        ],
    })
}

/// The identity a token stands for, when IAM signed it and it is not over.
pub(super) fn authenticate(world: &World, token: &str) -> Option<String> {
    let claims = keys().ok()?.iam.verify(token, world.now())?;
    claims.get("sub")?.as_str().map(ToOwned::to_owned)
}
