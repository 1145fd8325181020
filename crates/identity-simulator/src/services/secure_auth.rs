//! SecureAuth Identity Store: the token call and GET Me (sections 2 to 5 and 11 of the sheet).
//!
//! Little of this is verified, because the service's reference is not public: a test that passes here proves nothing about the live service
//! beyond the paths, HTTP Basic, `access_token` and the members of Me.

use super::{Answer, Request, Route};
use crate::canary;
use crate::model::{SecretKind, SecureAuthCredential, SecureAuthToken, SecureAuthUser};
use crate::signing::{Claims, keys};
use crate::switches::{
    SecureAuthDate, SecureAuthErrorBodies, SecureAuthInvalidTokenStatus, SecureAuthMissingPrivilege, SecureAuthTokenAnswer,
    SecureAuthTokenMethod, SecureAuthWrongPairStatus, SecureAuthWrongStore, Switches,
};
use crate::world::World;
use http::header::ALLOW;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

type Reply = Result<Answer, Answer>;

pub(super) fn route(method: &Method, segments: &[&str]) -> Route {
    let is_read = *method == Method::GET;
    match segments {
        ["api", "v1", "privy", "ids", store, "g3", "token"] => {
            let operation = if is_read || *method == Method::POST { "secure_auth.token" } else { "secure_auth.wrong_method" };
            Route::new(operation).tenant(store)
        }
        ["api", "v1", "ismanager", "ids", store, "Me"] => {
            Route::new(if is_read { "secure_auth.me" } else { "secure_auth.wrong_method" }).tenant(store)
        }
        ["api", "v1", _, "ids", store, ..] => Route::new("secure_auth.unknown").tenant(store),
        _ => Route::new("secure_auth.unknown"),
    }
}

pub(super) fn handle(world: &mut World, request: &Request, route: &Route) -> Answer {
    let Some(store) = route.tenant.as_deref() else {
        return Answer::empty(StatusCode::NOT_FOUND);
    };
    let switches = world.switches.clone();
    let mut call = Call { now: world.now(), world, request, store, switches };
    match route.operation {
        "secure_auth.token" => call.token(),
        "secure_auth.me" => call.me(),
        "secure_auth.wrong_method" => Err(call.refuse(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")),
        _ => Err(Answer::empty(StatusCode::NOT_FOUND)),
    }
    .unwrap_or_else(|refusal| refusal)
}

struct Call<'a> {
    world: &'a mut World,
    request: &'a Request,
    store: &'a str,
    switches: Switches,
    now: i64,
}

impl Call<'_> {
    fn refuse(&self, status: StatusCode, message: &str) -> Answer {
        match self.switches.secure_auth_error_bodies() {
            SecureAuthErrorBodies::Message => Answer::json(status, &json!({"message": message})),
            SecureAuthErrorBodies::Text => Answer::text(status, message),
        }
    }

    fn wrong_store(&self) -> Answer {
        let status = match self.switches.secure_auth_wrong_store() {
            SecureAuthWrongStore::Forbidden => StatusCode::FORBIDDEN,
            SecureAuthWrongStore::NotFound => StatusCode::NOT_FOUND,
            SecureAuthWrongStore::BadRequest => StatusCode::BAD_REQUEST,
        };
        self.refuse(status, "The user is not a member of the identity store")
    }

    fn no_privilege(&self) -> Answer {
        self.refuse(StatusCode::FORBIDDEN, "Developer privilege is required")
    }

    fn token(&mut self) -> Reply {
        let basic = self.request.basic();
        if let Some((client_id, _)) = &basic {
            self.world.note_token_request(self.store, client_id, "secure_auth.token", self.request, &[]);
        }
        let allowed = match self.switches.secure_auth_token_method() {
            SecureAuthTokenMethod::Both => None,
            SecureAuthTokenMethod::Get => Some(Method::GET),
            SecureAuthTokenMethod::Post => Some(Method::POST),
        };
        if let Some(allowed) = allowed.filter(|allowed| *allowed != self.request.method) {
            return Err(self.refuse(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed").header(ALLOW, allowed.as_str()));
        }
        let (user, client_id) = self.holder(basic)?;
        if user.store != self.store {
            return Err(self.wrong_store());
        }
        if !user.developer && self.switches.secure_auth_missing_privilege() == SecureAuthMissingPrivilege::AtToken {
            return Err(self.no_privilege());
        }
        self.issue(&user, client_id)
    }

    /// The user whose credential came and works. Id and secret are used as they are: nothing is form-encoded (section 2).
    fn holder(&self, basic: Option<(String, String)>) -> Result<(SecureAuthUser, String), Answer> {
        let status = match self.switches.secure_auth_wrong_pair_status() {
            SecureAuthWrongPairStatus::Unauthorized => StatusCode::UNAUTHORIZED,
            SecureAuthWrongPairStatus::BadRequest => StatusCode::BAD_REQUEST,
        };
        let refusal = || self.refuse(status, "Client credentials are invalid");
        let (id, secret) = basic.ok_or_else(refusal)?;
        let moment = Timestamp::now();
        let works = |credential: &SecureAuthCredential| {
            credential.client_id == id && credential.client_secret == secret && credential.ends_at.is_none_or(|end| end > moment)
        };
        let holder = self.world.secure_auth.users.values().find(|user| user.credentials.iter().any(works));
        Ok((holder.cloned().ok_or_else(refusal)?, id))
    }

    fn issue(&mut self, user: &SecureAuthUser, client_id: String) -> Reply {
        let expires_in = self.world.settings.secure_auth_expires_in;
        let expires = self.now.saturating_add(expires_in);
        let answer = self.switches.secure_auth_token_answer();
        let token = match answer {
            SecureAuthTokenAnswer::Jwt => {
                let claims = Claims::from_iter([
                    ("sub".to_owned(), json!(user.id)),
                    ("iat".to_owned(), json!(self.now)),
                    ("exp".to_owned(), json!(expires)),
                ]);
                let header = json!({"alg": "RS256", "typ": "JWT", "kid": "secure-auth-simulated"});
                let signed = keys().and_then(|keys| keys.oauth.sign_as(self.world.settings.signing, header, claims));
                signed.map_err(|_| self.refuse(StatusCode::INTERNAL_SERVER_ERROR, "Cannot sign"))?
            }
            SecureAuthTokenAnswer::TokenAlone | SecureAuthTokenAnswer::WithLifetime => canary::api_key(),
        };
        let mut body = json!({"access_token": token});
        if answer == SecureAuthTokenAnswer::WithLifetime {
            body["token_type"] = json!("Bearer");
            body["expires_in"] = json!(expires_in);
        }
        self.world.note_secret(SecretKind::Token, &token);
        let issued = self.now;
        self.world.secure_auth.tokens.push(SecureAuthToken { token, user: user.id.clone(), client_id, issued, expires, revoked: false });
        Ok(Answer::json(StatusCode::OK, &body))
    }

    fn me(&mut self) -> Reply {
        let status = match self.switches.secure_auth_invalid_token_status() {
            SecureAuthInvalidTokenStatus::Unauthorized => StatusCode::UNAUTHORIZED,
            SecureAuthInvalidTokenStatus::BadRequest => StatusCode::BAD_REQUEST,
            SecureAuthInvalidTokenStatus::Forbidden => StatusCode::FORBIDDEN,
        };
        let invalid = || self.refuse(status, "Access token is invalid");
        let text = self.request.bearer().ok_or_else(invalid)?;
        let is_live = |token: &&SecureAuthToken| token.token == text && !token.revoked && token.expires > self.now;
        let token = self.world.secure_auth.tokens.iter().rev().find(is_live).ok_or_else(invalid)?;
        let user = self.world.secure_auth.users.get(&token.user).ok_or_else(invalid)?;
        if user.store != self.store {
            return Err(self.wrong_store());
        }
        if !user.developer {
            return Err(self.no_privilege());
        }
        Ok(Answer::json(StatusCode::OK, &self.profile(user)))
    }

    /// The user as SCIM has it, with an address of another host that nobody should follow (section 3).
    fn profile(&self, user: &SecureAuthUser) -> Value {
        let credential = |credential: &SecureAuthCredential| {
            let date = match self.switches.secure_auth_date() {
                SecureAuthDate::Text => json!(credential.date.to_string()),
                SecureAuthDate::Number => json!(credential.date),
            };
            json!({"date": date, "clientId": credential.client_id, "clientSecret": credential.client_secret})
        };
        let credentials: Vec<Value> = user.credentials.iter().filter(|credential| credential.listed).map(credential).collect();
        json!({
            "id": user.id,
            "userName": user.user_name,
            "userType": "Other",
            "name": {"givenName": "", "familyName": ""},
            "emails": [{"display": "simulated@example.test", "type": "work", "value": "simulated@example.test", "primary": true}],
            "phoneNumbers": [],
            "photos": [{"display": format!("/Images/{}", user.id), "type": "photo", "primary": true}],
            "addresses": [],
            "schemas": [
                "urn:ietf:params:scim:schemas:core:2.0:User",
                "urn:ietf:params:scim:schemas:extension:ldap:2.0:User",
                "urn:ietf:params:scim:schemas:extension:secureauth:2.0:User",
            ],
            "meta": {
                "created": "2021-04-01T00:00:00Z",
                "lastModified": "2021-04-01T00:00:00Z",
                "resourceType": "User",
                "version": "W/\"1\"",
                "location": format!("http://g3-iscim-simulated:8080/v2/Users/{}", user.id),
            },
            "urn:ietf:params:scim:schemas:extension:ldap:2.0:User": {},
            "urn:ietf:params:scim:schemas:extension:secureauth:2.0:User": {
                "privileges": [{"value": "11111111-2222-4333-8444-555555555555"}],
                "sessionscopes": [{"app": "simulated", "scopesSupported": "openid profile ", "scopes": "openid "}],
                "resources": [],
                "groups": [{"groupId": "default"}],
                "apiCredentials": credentials,
                "lastLogIn": "0001-01-01T00:00:00Z",
                "lastPasswordChange": "2021-04-01T00:00:00Z",
                "status": "active",
            },
            "addedWithoutNotice": {},
        })
    }
}
