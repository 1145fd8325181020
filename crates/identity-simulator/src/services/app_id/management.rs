//! The management API v4: applications, scopes, roles and the two configuration documents (App ID 3 to 5).

use super::{Answer, Request, Route, not_found, refuse};
use crate::model::{Access, Application, ApplicationKind, ApplicationSeed, Lifetime, OptionalLifetime, Role, Tenant, TokenConfiguration};
use crate::switches::{
    ApplicationCreated, ApplicationRenamed, ChangesLimitStatus, DuplicateApplicationNames, DuplicateRedirectUris, DuplicateRoleNames,
    LimitStatus, MalformedClientId, MissingApplicationDeleted, RedirectUriExtras, RedirectUriOrder, RoleDeleted, SecretAfterRename,
    SecretsForReaders, ServerUrlSpelling, ServiceCredentialClient, SinglePageAnswer, Switches, TypeAfterRegistration, UnknownRole,
};
use crate::world::World;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A call that was authenticated and is allowed.
struct Management<'a> {
    world: &'a mut World,
    switches: Switches,
    tenant_id: &'a str,
    id: &'a str,
    body: &'a [u8],
    is_reader: bool,
}

/// Either the answer to what was asked, or a refusal that changes nothing.
type Reply = Result<Answer, Answer>;

pub(super) fn handle(world: &mut World, request: &Request, route: &Route, tenant_id: &str, is_reader: bool) -> Answer {
    let mut call = Management {
        switches: world.switches.clone(),
        world,
        tenant_id,
        id: route.id.as_deref().unwrap_or_default(),
        body: &request.body,
        is_reader,
    };
    call.perform(route.operation).unwrap_or_else(|refusal| refusal)
}

impl Management<'_> {
    fn perform(&mut self, operation: &str) -> Reply {
        let changes = !operation.ends_with(".get") && !operation.ends_with(".list");
        if changes && operation != "app_id.management.unknown" {
            self.check_changes()?;
        }
        let answer = match operation {
            "app_id.applications.list" => self.list_applications(),
            "app_id.applications.create" => self.create_application(),
            "app_id.applications.get" => self.get_application(),
            "app_id.applications.update" => self.rename_application(),
            "app_id.applications.delete" => self.delete_application(),
            "app_id.scopes.get" => self.get_scopes(),
            "app_id.scopes.set" => self.set_scopes(),
            "app_id.application_roles.get" => self.get_application_roles(),
            "app_id.application_roles.set" => self.set_application_roles(),
            "app_id.roles.list" => self.list_roles(),
            "app_id.roles.create" => self.create_role(),
            "app_id.roles.get" => self.get_role(),
            "app_id.roles.update" => self.update_role(),
            "app_id.roles.delete" => self.delete_role(),
            "app_id.redirect_uris.get" => self.get_redirect_uris(),
            "app_id.redirect_uris.set" => self.set_redirect_uris(),
            "app_id.tokens_config.get" => Ok(Answer::json(StatusCode::OK, &json!(self.tenant()?.tokens))),
            "app_id.tokens_config.set" => self.set_tokens(),
            _ => Ok(not_found()),
        }?;
        if answer.committed {
            self.tenant_mut()?.changes += 1;
        }
        Ok(answer)
    }

    // The tenant was there when the call was let in, and the lock is held since.
    fn tenant(&self) -> Result<&Tenant, Answer> {
        self.world.tenants.get(self.tenant_id).ok_or_else(not_found)
    }

    fn tenant_mut(&mut self) -> Result<&mut Tenant, Answer> {
        self.world.tenants.get_mut(self.tenant_id).ok_or_else(not_found)
    }

    fn refuse(&self, status: StatusCode, code: &str, message: &str) -> Answer {
        refuse(&self.switches, status, code, message)
    }

    fn bad_request(&self, message: &str) -> Answer {
        self.refuse(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    fn absent(&self, what: &str) -> Answer {
        self.refuse(StatusCode::NOT_FOUND, "NOT_FOUND", &format!("{what} not found"))
    }

    fn at_limit(&self, what: &str) -> Answer {
        let status = match self.switches.limit_status() {
            LimitStatus::BadRequest => StatusCode::BAD_REQUEST,
            LimitStatus::Forbidden => StatusCode::FORBIDDEN,
            LimitStatus::Conflict => StatusCode::CONFLICT,
            LimitStatus::UnprocessableContent => StatusCode::UNPROCESSABLE_ENTITY,
        };
        self.refuse(status, "LIMIT_EXCEEDED", &format!("Maximum number of {what} reached"))
    }

    fn check_changes(&self) -> Result<(), Answer> {
        let limit = self.world.settings.changes_per_tenant;
        if limit == 0 || self.tenant()?.changes < limit {
            return Ok(());
        }
        let status = match self.switches.changes_limit_status() {
            ChangesLimitStatus::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            ChangesLimitStatus::Forbidden => StatusCode::FORBIDDEN,
            ChangesLimitStatus::BadRequest => StatusCode::BAD_REQUEST,
        };
        Err(self.refuse(status, "LIMIT_EXCEEDED", "Maximum number of changes in 24 hours reached"))
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Answer> {
        serde_json::from_slice(self.body).map_err(|error| self.bad_request(&format!("Bad Request: {error}")))
    }

    // Applications

    fn application(&self) -> Result<&Application, Answer> {
        if let Some(application) = self.tenant()?.applications.get(self.id) {
            return Ok(application);
        }
        let is_malformed = uuid::Uuid::try_parse(self.id).is_err();
        if is_malformed && self.switches.malformed_client_id() == MalformedClientId::BadRequest {
            return Err(self.bad_request("Invalid client id"));
        }
        Err(self.absent("Application"))
    }

    /// An application with every field the caller may see (App ID 3.2).
    fn shown(&self, application: &Application) -> Result<Map<String, Value>, Answer> {
        let tenant = self.tenant()?;
        let host = self.world.urls.regions.get(&tenant.region).cloned().unwrap_or_default();
        let server = format!("{host}/oauth/v4/{}", tenant.id);
        let spelling = match self.switches.server_url_spelling() {
            ServerUrlSpelling::CapitalA => "oAuthServerUrl",
            ServerUrlSpelling::SmallA => "oauthServerUrl",
        };
        let mut fields = Map::from_iter([
            ("clientId".to_owned(), json!(application.client_id)),
            ("tenantId".to_owned(), json!(tenant.id)),
            ("name".to_owned(), json!(application.name)),
            (spelling.to_owned(), json!(server)),
            ("profilesUrl".to_owned(), json!(host)),
            ("discoveryEndpoint".to_owned(), json!(format!("{server}/.well-known/openid-configuration"))),
            ("type".to_owned(), json!(application.kind)),
        ]);
        let is_hidden = self.is_reader && self.switches.secrets_for_readers() == SecretsForReaders::Absent;
        if let Some(secret) = application.secret.as_ref().filter(|_| !is_hidden) {
            fields.insert("secret".to_owned(), json!(secret));
        }
        Ok(fields)
    }

    fn list_applications(&mut self) -> Reply {
        let tenant = self.tenant()?;
        let listed = self.switches.service_credential_client() == ServiceCredentialClient::Listed;
        let credential = tenant.service_credential.iter().filter(|_| listed);
        let mut applications: Vec<&Application> = tenant.applications.values().chain(credential).collect();
        applications.sort_by_key(|application| application.sequence);
        let shown = applications.into_iter().map(|application| self.shown(application)).collect::<Result<Vec<_>, _>>()?;
        Ok(Answer::json(StatusCode::OK, &json!({"applications": shown})))
    }

    /// A name has 1 to 50 characters (App ID 3.3).
    fn name(&self, fields: &Map<String, Value>) -> Result<String, Answer> {
        let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
        match name.chars().count() {
            1..=50 => Ok(name.to_owned()),
            0 => Err(self.bad_request("name is required")),
            _ => Err(self.bad_request("name must have at most 50 characters")),
        }
    }

    fn check_application_name(&self, name: &str) -> Result<(), Answer> {
        let refused = self.switches.duplicate_application_names() == DuplicateApplicationNames::Conflict;
        let is_taken = |application: &Application| application.name == name && application.client_id != self.id;
        if refused && self.tenant()?.applications.values().any(is_taken) {
            return Err(self.refuse(StatusCode::CONFLICT, "CONFLICT", "An application with this name exists"));
        }
        Ok(())
    }

    fn create_application(&mut self) -> Reply {
        let fields: Map<String, Value> = self.parse()?;
        let name = self.name(&fields)?;
        let kind = match fields.get("type") {
            None | Some(Value::Null) => ApplicationKind::default(),
            Some(kind) => serde_json::from_value(kind.clone()).map_err(|_| self.bad_request("unknown type"))?,
        };
        self.check_application_name(&name)?;
        let tenant = self.tenant()?;
        let apart = self.switches.service_credential_client() == ServiceCredentialClient::Apart;
        let counted = tenant.applications.len() + usize::from(!apart && tenant.service_credential.is_some());
        if counted >= self.world.settings.applications_per_tenant {
            return Err(self.at_limit("applications"));
        }
        let seed = ApplicationSeed { name, kind, ..ApplicationSeed::default() };
        let made = self.world.add_application(self.tenant_id, seed);
        let application = made.map_err(|error| self.bad_request(&error.to_string()))?;
        let mut shown = self.shown(&application)?;
        let is_short = self.switches.single_page_answer() == SinglePageAnswer::Short;
        if kind == ApplicationKind::SinglePageApp && is_short {
            shown.retain(|field, _| !matches!(field.as_str(), "profilesUrl" | "discoveryEndpoint"));
        }
        if self.switches.type_after_registration() == TypeAfterRegistration::Absent {
            shown.remove("type");
        }
        let status = match self.switches.application_created() {
            ApplicationCreated::Ok => StatusCode::OK,
            ApplicationCreated::Created => StatusCode::CREATED,
        };
        Ok(Answer::json(status, &Value::Object(shown)).committed())
    }

    fn get_application(&mut self) -> Reply {
        let shown = self.shown(self.application()?)?;
        Ok(Answer::json(StatusCode::OK, &Value::Object(shown)))
    }

    /// Takes the name only; anything else in the body is left unread (App ID 3.5).
    fn rename_application(&mut self) -> Reply {
        self.application()?;
        let name = self.name(&self.parse()?)?;
        self.check_application_name(&name)?;
        let id = self.id;
        if let Some(application) = self.tenant_mut()?.applications.get_mut(id) {
            application.name = name;
        }
        let mut shown = self.shown(self.application()?)?;
        if self.switches.secret_after_rename() == SecretAfterRename::Absent {
            shown.remove("secret");
        }
        let status = match self.switches.application_renamed() {
            ApplicationRenamed::Created => StatusCode::CREATED,
            ApplicationRenamed::Ok => StatusCode::OK,
        };
        Ok(Answer::json(status, &Value::Object(shown)).committed())
    }

    fn delete_application(&mut self) -> Reply {
        let (id, in_roles) = (self.id, self.switches.deleted_application_in_roles());
        if self.tenant_mut()?.remove_application(id, in_roles) {
            return Ok(Answer::empty(StatusCode::NO_CONTENT).committed());
        }
        match self.switches.missing_application_deleted() {
            MissingApplicationDeleted::NoContent => Ok(Answer::empty(StatusCode::NO_CONTENT)),
            MissingApplicationDeleted::NotFound => Err(self.application().err().unwrap_or_else(not_found)),
        }
    }

    fn get_scopes(&mut self) -> Reply {
        Ok(Answer::json(StatusCode::OK, &json!({"scopes": self.application()?.scopes})))
    }

    fn set_scopes(&mut self) -> Reply {
        #[derive(serde::Deserialize)]
        struct Body {
            scopes: Vec<String>,
        }
        self.application()?;
        let scopes: BTreeSet<String> = self.parse::<Body>()?.scopes.into_iter().collect();
        if let Some(scope) = scopes.iter().find(|scope| !is_scope(scope)) {
            return Err(self.bad_request(&format!("invalid scope {scope:?}")));
        }
        if scopes.len() > self.world.settings.scopes_per_application {
            return Err(self.at_limit("scopes"));
        }
        let id = self.id;
        self.tenant_mut()?.set_scopes(id, scopes);
        Ok(self.get_scopes()?.committed())
    }

    /// A flat array of objects, although the request nests ids (App ID 3.8).
    fn get_application_roles(&mut self) -> Reply {
        let roles = &self.tenant()?.roles;
        let assigned = self.application()?.roles.iter().filter_map(|id| roles.get(id));
        let shown: Vec<Value> = assigned.map(|role| json!({"id": role.id, "name": role.name})).collect();
        Ok(Answer::json(StatusCode::OK, &json!({"roles": shown})))
    }

    /// `{"roles":{"ids":[…]}}`; `{"roles":{}}` clears, as Terraform sends it (App ID 3.8).
    fn set_application_roles(&mut self) -> Reply {
        #[derive(serde::Deserialize)]
        struct Body {
            roles: Ids,
        }
        #[derive(serde::Deserialize)]
        struct Ids {
            #[serde(default)]
            ids: BTreeSet<String>,
        }
        self.application()?;
        let ids = self.parse::<Body>()?.roles.ids;
        if ids.iter().any(|id| self.tenant().is_ok_and(|tenant| !tenant.roles.contains_key(id))) {
            return Err(match self.switches.unknown_role() {
                UnknownRole::BadRequest => self.bad_request("Role not found"),
                UnknownRole::NotFound => self.absent("Role"),
            });
        }
        let id = self.id;
        if let Some(application) = self.tenant_mut()?.applications.get_mut(id) {
            application.roles = ids;
        }
        Ok(self.get_application_roles()?.committed())
    }

    // Roles

    fn list_roles(&mut self) -> Reply {
        let mut roles: Vec<&Role> = self.tenant()?.roles.values().collect();
        roles.sort_by_key(|role| role.sequence);
        Ok(Answer::json(StatusCode::OK, &json!({"roles": roles})))
    }

    fn role(&self) -> Result<&Role, Answer> {
        self.tenant()?.roles.get(self.id).ok_or_else(|| self.absent("Role"))
    }

    fn get_role(&mut self) -> Reply {
        Ok(Answer::json(StatusCode::OK, &json!(self.role()?)))
    }

    /// The body of a role: name and access are required, and what access names has to exist (App ID 4).
    fn role_body(&self) -> Result<crate::model::RoleSeed, Answer> {
        #[derive(serde::Deserialize)]
        struct Body {
            name: String,
            #[serde(default)]
            description: String,
            access: Vec<Access>,
        }
        let body: Body = self.parse()?;
        if body.name.is_empty() {
            return Err(self.bad_request("name is required"));
        }
        let tenant = self.tenant()?;
        for access in &body.access {
            let application = tenant.client(&access.application_id);
            let application = application.ok_or_else(|| self.bad_request("access names an unknown application"))?;
            if !access.scopes.is_subset(&application.scopes) {
                return Err(self.bad_request("access names an unknown scope"));
            }
        }
        if tenant.roles.values().any(|role| role.name == body.name && role.id != self.id) {
            let status = match self.switches.duplicate_role_names() {
                DuplicateRoleNames::Conflict => StatusCode::CONFLICT,
                DuplicateRoleNames::BadRequest => StatusCode::BAD_REQUEST,
            };
            return Err(self.refuse(status, "CONFLICT", "A role with this name exists"));
        }
        Ok(crate::model::RoleSeed { id: None, name: body.name, description: body.description, access: body.access })
    }

    fn create_role(&mut self) -> Reply {
        let seed = self.role_body()?;
        if self.tenant()?.roles.len() >= self.world.settings.roles_per_tenant {
            return Err(self.at_limit("roles"));
        }
        let made = self.world.add_role(self.tenant_id, seed);
        let role = made.map_err(|error| self.bad_request(&error.to_string()))?;
        Ok(Answer::json(StatusCode::CREATED, &json!(role)).committed())
    }

    fn update_role(&mut self) -> Reply {
        self.role()?;
        let seed = self.role_body()?;
        let id = self.id;
        if let Some(role) = self.tenant_mut()?.roles.get_mut(id) {
            (role.name, role.description, role.access) = (seed.name, seed.description, seed.access);
        }
        Ok(self.get_role()?.committed())
    }

    fn delete_role(&mut self) -> Reply {
        self.role()?;
        let id = self.id;
        self.tenant_mut()?.remove_role(id);
        let status = match self.switches.role_deleted() {
            RoleDeleted::Accepted => StatusCode::ACCEPTED,
            RoleDeleted::NoContent => StatusCode::NO_CONTENT,
        };
        Ok(Answer::empty(status).committed())
    }

    // Configuration of the tenant

    fn get_redirect_uris(&mut self) -> Reply {
        let mut document = self.tenant()?.redirect_uris.clone();
        if self.switches.redirect_uri_extras() == RedirectUriExtras::Hidden {
            document.retain(|field, _| field == "redirectUris");
        }
        if self.switches.redirect_uri_order() == RedirectUriOrder::Sorted
            && let Some(Value::Array(uris)) = document.get_mut("redirectUris")
        {
            uris.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
        Ok(Answer::json(StatusCode::OK, &Value::Object(document)))
    }

    /// Replaces the whole document; any other property is kept as written (App ID 5.1).
    fn set_redirect_uris(&mut self) -> Reply {
        let mut document: Map<String, Value> = self.parse()?;
        let Some(Value::Array(uris)) = document.get_mut("redirectUris") else {
            return Err(self.bad_request("redirectUris is required"));
        };
        if !uris.iter().all(is_redirect_uri) {
            return Err(self.bad_request("invalid redirect URI"));
        }
        let distinct: BTreeSet<String> = uris.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        match self.switches.duplicate_redirect_uris() {
            DuplicateRedirectUris::Kept => {}
            DuplicateRedirectUris::Refused if distinct.len() < uris.len() => {
                return Err(self.bad_request("duplicate redirect URI"));
            }
            DuplicateRedirectUris::Refused => {}
            DuplicateRedirectUris::Merged => {
                let mut left = distinct;
                uris.retain(|uri| uri.as_str().is_some_and(|uri| left.remove(uri)));
            }
        }
        let limit = self.world.settings.redirect_uris_per_tenant;
        if limit > 0 && uris.len() > limit {
            return Err(self.at_limit("redirect URIs"));
        }
        self.tenant_mut()?.redirect_uris = document;
        Ok(Answer::empty(StatusCode::NO_CONTENT).committed())
    }

    /// Overwrites the whole configuration; what is left out returns to its default (App ID 5.2).
    fn set_tokens(&mut self) -> Reply {
        // The defaults of a missing inner field differ between the two optional lifetimes.
        let fields: Map<String, Value> = self.parse()?;
        let mut complete = json!(TokenConfiguration::default());
        for (name, value) in fields {
            match (complete.get_mut(&name), value) {
                (Some(Value::Object(known)), Value::Object(given)) => known.extend(given),
                (Some(known), value) => *known = value,
                (None, _) => {}
            }
        }
        let tokens: TokenConfiguration =
            serde_json::from_value(complete).map_err(|error| self.bad_request(&format!("Bad Request: {error}")))?;
        if !are_lifetimes_in_range(&tokens) {
            return Err(self.bad_request("expires_in is out of range"));
        }
        self.tenant_mut()?.tokens = tokens.clone();
        Ok(Answer::json(StatusCode::OK, &json!(tokens)).committed())
    }
}

/// Lower-case letters, digits, `.` and `_`, fewer than 50, not beginning with `appid` or `openid` (App ID 3.7).
fn is_scope(scope: &str) -> bool {
    (1..50).contains(&scope.len())
        && scope.chars().all(|character| matches!(character, 'a'..='z' | '0'..='9' | '.' | '_'))
        && !scope.starts_with("appid")
        && !scope.starts_with("openid")
}

/// A complete `http` or `https` URI; a wildcard is allowed (App ID 5.1).
fn is_redirect_uri(uri: &Value) -> bool {
    uri.as_str().is_some_and(|uri| {
        let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
    })
}

/// The ranges of App ID 5.2.
fn are_lifetimes_in_range(tokens: &TokenConfiguration) -> bool {
    let TokenConfiguration { access: Lifetime { expires_in }, refresh, anonymous_access, .. } = tokens;
    let is_long = |OptionalLifetime { expires_in, .. }: &OptionalLifetime| (86_400..=7_776_000).contains(expires_in);
    (300..=86_400).contains(expires_in) && is_long(refresh) && is_long(anonymous_access)
}
