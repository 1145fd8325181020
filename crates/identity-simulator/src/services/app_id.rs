//! IBM Cloud App ID: routes, who may do what, and what all answers have in common.

mod authorization;
mod management;
mod tokens;

use super::{Answer, Request, Route, iam};
use crate::model::{AccessRole, Tenant};
use crate::switches::{ApplicationRolesReading, RateLimitStatus, RetryAfter, ScopesReading, Switches, UnknownTenant, WrongMethod};
use crate::world::World;
use http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderName, Method, StatusCode};
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::time::{Duration, Instant};

const CACHE_STATUS_HEADER: HeaderName = HeaderName::from_static("cf-cache-status");
const RAY_HEADER: HeaderName = HeaderName::from_static("cf-ray");

pub(super) fn route(method: &Method, segments: &[&str]) -> Route {
    let (area, tenant, rest) = match segments {
        [area @ ("management" | "oauth"), "v4", tenant, rest @ ..] => (*area, *tenant, rest),
        _ => return Route::new("app_id.unknown"),
    };
    let operation = match area {
        "management" => management_operation(method, rest),
        _ => authorization_operation(method, rest),
    };
    let route = Route::new(operation).tenant(tenant);
    match rest {
        ["applications" | "roles", id, ..] => route.id(id),
        _ => route,
    }
}

fn management_operation(method: &Method, rest: &[&str]) -> &'static str {
    match (rest, method.as_str()) {
        (["applications"], "GET") => "app_id.applications.list",
        (["applications"], "POST") => "app_id.applications.create",
        (["applications", _], "GET") => "app_id.applications.get",
        (["applications", _], "PUT") => "app_id.applications.update",
        (["applications", _], "DELETE") => "app_id.applications.delete",
        (["applications", _, "scopes"], "GET") => "app_id.scopes.get",
        (["applications", _, "scopes"], "PUT") => "app_id.scopes.set",
        (["applications", _, "roles"], "GET") => "app_id.application_roles.get",
        (["applications", _, "roles"], "PUT") => "app_id.application_roles.set",
        (["roles"], "GET") => "app_id.roles.list",
        (["roles"], "POST") => "app_id.roles.create",
        (["roles", _], "GET") => "app_id.roles.get",
        (["roles", _], "PUT") => "app_id.roles.update",
        (["roles", _], "DELETE") => "app_id.roles.delete",
        (["config", "redirect_uris"], "GET") => "app_id.redirect_uris.get",
        (["config", "redirect_uris"], "PUT") => "app_id.redirect_uris.set",
        (["config", "tokens"], "GET") => "app_id.tokens_config.get",
        (["config", "tokens"], "PUT") => "app_id.tokens_config.set",
        (
            ["applications"]
            | ["applications", _]
            | ["applications", _, "scopes" | "roles"]
            | ["roles"]
            | ["roles", _]
            | ["config", "redirect_uris" | "tokens"],
            _,
        ) => "app_id.management.wrong_method",
        _ => "app_id.management.unknown",
    }
}

fn authorization_operation(method: &Method, rest: &[&str]) -> &'static str {
    match (rest, method.as_str()) {
        ([".well-known", "openid-configuration"], "GET") => "app_id.discovery",
        (["publickeys"], "GET") => "app_id.jwks",
        (["token"], "POST") => "app_id.token",
        (["introspect"], "POST") => "app_id.introspect",
        (["revoke"], "POST") => "app_id.revoke",
        (["userinfo"], "GET") => "app_id.userinfo",
        ([".well-known", "openid-configuration"] | ["publickeys" | "token" | "introspect" | "revoke" | "userinfo"], _) => {
            "app_id.authorization.wrong_method"
        }
        _ => "app_id.authorization.unknown",
    }
}

pub(super) fn handle(world: &mut World, request: &Request, route: &Route) -> Answer {
    answer(world, request, route)
        .header(CACHE_CONTROL, "no-store, no-cache, must-revalidate, proxy-revalidate")
        .header(CACHE_STATUS_HEADER, "DYNAMIC")
        .header(RAY_HEADER, &uuid::Uuid::new_v4().simple().to_string()[..16])
}

fn answer(world: &mut World, request: &Request, route: &Route) -> Answer {
    let is_management = request.path.trim_start_matches('/').starts_with("management/");
    let Some(tenant_id) = route.tenant.as_deref() else {
        return not_found();
    };
    let caller = request.bearer().and_then(|token| iam::authenticate(world, token));
    let switches = world.switches.clone();
    let lives_here = |tenant: &&Tenant| request.listener.region.as_deref() == Some(tenant.region.as_str());
    if world.tenants.get(tenant_id).filter(lives_here).is_none() {
        let asks_first = switches.unknown_tenant() == UnknownTenant::AfterAuthentication;
        return if is_management && asks_first && caller.is_none() { unauthenticated(&switches) } else { not_found() };
    }
    if let Some(answer) = blocked(world, tenant_id, is_management) {
        return answer;
    }
    if route.operation.ends_with(".wrong_method") {
        return wrong_method(&switches, route);
    }
    if !is_management {
        return authorization::handle(world, request, route, tenant_id);
    }
    let Some(caller) = caller else {
        return unauthenticated(&switches);
    };
    let role = world.rights.get(&caller).and_then(|rights| rights.get(tenant_id)).copied();
    if role.is_none_or(|role| role < needed_role(&switches, route.operation)) {
        return refuse(&switches, StatusCode::FORBIDDEN, "FORBIDDEN", "Insufficient permissions");
    }
    let is_reader = role == Some(AccessRole::Reader);
    management::handle(world, request, route, tenant_id, is_reader)
}

/// The 9-byte text for a tenant that does not live here, and for paths that mean nothing (App ID 1).
fn not_found() -> Answer {
    Answer::text(StatusCode::NOT_FOUND, "Not Found")
}

fn unauthenticated(switches: &Switches) -> Answer {
    refuse(switches, StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "Unauthorized")
}

fn wrong_method(switches: &Switches, route: &Route) -> Answer {
    let allowed = if route.id.is_some() { "GET, PUT, DELETE" } else { "GET, POST, PUT" };
    match switches.wrong_method() {
        WrongMethod::NotFound => not_found(),
        WrongMethod::MethodNotAllowed => {
            refuse(switches, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "Method not allowed").header(ALLOW, allowed)
        }
    }
}

/// The IAM role an operation needs (App ID 2).
fn needed_role(switches: &Switches, operation: &str) -> AccessRole {
    match operation {
        "app_id.scopes.get" if switches.scopes_reading() == ScopesReading::Writer => AccessRole::Writer,
        "app_id.application_roles.get" if switches.application_roles_reading() == ApplicationRolesReading::Writer => AccessRole::Writer,
        _ if operation.ends_with(".get") || operation.ends_with(".list") => AccessRole::Reader,
        _ => AccessRole::Writer,
    }
}

/// An error of the management API, whose body nobody has verified (App ID 7.1).
fn refuse(switches: &Switches, status: StatusCode, code: &str, message: &str) -> Answer {
    use crate::switches::ErrorBodies;
    match switches.error_bodies() {
        ErrorBodies::Message => Answer::json(status, &json!({"message": message})),
        ErrorBodies::ErrorCode => Answer::json(status, &json!({"error_code": code, "error_description": message})),
        ErrorBodies::Errors => Answer::json(status, &json!({"errors": [{"code": code, "message": message}]})),
        ErrorBodies::Text => Answer::text(status, message),
        ErrorBodies::Empty => Answer::empty(status),
    }
}

/// Counts the call and answers it when the tenant is blocked (App ID 7.2).
fn blocked(world: &mut World, tenant: &str, is_management: bool) -> Option<Answer> {
    let (switches, settings) = (world.switches.clone(), world.settings.clone());
    let tenant = world.tenants.get_mut(tenant)?;
    let left = if is_management {
        tenant.management.refuse(Instant::now(), settings.management_calls_per_second, settings.block())
    } else {
        tenant.authorization.refuse(Instant::now(), settings.authorization_calls_per_second, settings.block())
    }?;
    Some(too_many_requests(&switches, left))
}

fn too_many_requests(switches: &Switches, left: Duration) -> Answer {
    let status = match switches.rate_limit_status() {
        RateLimitStatus::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        RateLimitStatus::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        RateLimitStatus::Forbidden => StatusCode::FORBIDDEN,
    };
    let answer = Answer::json(status, &json!({"error_code": "too many requests", "error_description": "too many requests"}));
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    match switches.retry_after() {
        RetryAfter::Absent => answer,
        RetryAfter::Seconds => answer.header(RETRY_AFTER, &seconds.to_string()),
        RetryAfter::HttpDate => answer.header(RETRY_AFTER, &http_date(seconds)),
    }
}

fn http_date(seconds_ahead: u64) -> String {
    let ahead = SignedDuration::from_secs(i64::try_from(seconds_ahead).unwrap_or_default());
    let moment = Timestamp::now().checked_add(ahead).unwrap_or(Timestamp::MAX);
    // The printer refuses only years below zero.
    rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&moment).unwrap_or_default()
}
