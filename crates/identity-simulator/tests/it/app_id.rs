//! App ID as its sheet describes it.

use crate::keys::{ClientKey, claims};
use crate::world::{READER, TENANT, World, send, verified};
use identity_simulator::switches::*;
use identity_simulator::{
    AccessRole, ApplicationSeed, CustomIdentityProvider, KeyEdit, Lifetime, Settings, SigningAlgorithm, Switches, TenantSeed,
    TokenConfiguration, User,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;

async fn flow_in(position: &str, switches: Switches) {
    let world = World::with_switches(switches).await;
    let (api, caller) = (world.register("orders-api").await, world.register("orders-caller").await);
    let id = |application: &Value| application["clientId"].as_str().expect("an id").to_owned();
    let scopes = world.put(&format!("/applications/{}/scopes", id(&api)), json!({"scopes": ["write", "read"]})).await;
    assert_eq!((scopes.status.as_u16(), scopes.json()), (200, json!({"scopes": ["read", "write"]})), "{position}");
    let access = json!([{"application_id": id(&api), "scopes": ["read"]}]);
    let role = world.post("/roles", json!({"name": "Order Reader", "access": access})).await;
    assert_eq!(role.status, 201, "{position}: {}", role.text);
    let role_id = role.json()["id"].clone();
    let path = format!("/applications/{}/roles", id(&caller));
    let assigned = world.put(&path, json!({"roles": {"ids": [role_id]}})).await;
    assert_eq!(assigned.json(), json!({"roles": [{"id": role_id, "name": "Order Reader"}]}), "{position}");
    let form = [("grant_type", "client_credentials"), ("scope", "read"), ("audience", &id(&api))];
    let answer = send(world.token_request(&caller).form(&form)).await;
    assert_eq!(answer.status, 200, "{position}: {}", answer.text);
    let keys = send(world.client.get(format!("{}/publickeys", world.oauth()))).await.json();
    let (header, claims) = verified(answer.json()["access_token"].as_str().expect("a token"), &stripped(keys));
    assert_eq!(header.alg, jsonwebtoken::Algorithm::RS256, "{position}");
    assert_eq!(claims["aud"], json!([id(&api)]), "{position}");
    assert_eq!(claims["sub"], json!(id(&caller)), "{position}");
    assert_eq!(claims["iss"], json!(world.oauth()), "{position}");
    assert_eq!(claims["tenant"], json!(TENANT), "{position}");
    assert_eq!(claims["amr"], json!(["appid_client_credentials"]), "{position}");
    let scopes: Vec<&str> = claims["scope"].as_str().expect("scope").split(' ').collect();
    assert!(scopes.contains(&"read") && !scopes.contains(&"write"), "{position}: {scopes:?}");
    let renamed = world.put(&format!("/applications/{}", id(&api)), json!({"name": "orders"})).await;
    assert!(renamed.status.is_success(), "{position}: {}", renamed.text);
    let deleted = world.delete(&format!("/applications/{}", id(&caller))).await;
    assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (204, ""), "{position}");
    assert_eq!(send(world.token_request(&caller).form(&form)).await.status, 401, "{position}");
}

/// RFC 7518 forbids the leading zero byte that App ID writes; SDKs strip it.
fn stripped(mut keys: Value) -> Value {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
    let modulus = BASE64_URL_SAFE_NO_PAD.decode(keys["keys"][0]["n"].as_str().expect("n")).expect("base64url");
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(&modulus);
    keys["keys"][0]["n"] = json!(BASE64_URL_SAFE_NO_PAD.encode(modulus));
    keys
}

#[tokio::test]
async fn from_registration_to_a_verified_token_in_every_position() {
    for (position, switches) in Switches::positions() {
        flow_in(position, switches).await;
    }
}

#[tokio::test]
async fn the_status_codes_are_irregular_as_documented() {
    let world = World::new().await;
    let created = world.post("/applications/", json!({"name": "one", "type": "regularwebapp"})).await;
    assert_eq!(created.status, 200);
    let application = created.json();
    let id = application["clientId"].as_str().expect("an id").to_owned();
    let path = format!("/applications/{id}");
    assert_eq!(world.put(&path, json!({"name": "two"})).await.status, 201);
    let role = world.post("/roles", json!({"name": "role", "access": []})).await;
    assert_eq!(role.status, 201);
    let role_path = format!("/roles/{}", role.json()["id"].as_str().expect("an id"));
    assert_eq!(world.put(&role_path, json!({"name": "role", "access": []})).await.status, 200);
    assert_eq!(world.delete(&role_path).await.status, 202);
    assert_eq!(world.delete(&role_path).await.status, 404);
    assert_eq!(world.put("/config/redirect_uris", json!({"redirectUris": []})).await.status, 204);
    assert_eq!(world.put("/config/tokens", json!({})).await.status, 200);
    assert_eq!(world.delete(&path).await.status, 204);
    assert_eq!(world.delete(&path).await.status, 404);
    assert_eq!(world.get(&path).await.status, 404);
    assert_eq!(world.get("/applications").await.json(), json!({"applications": []}));
}

#[tokio::test]
async fn an_application_is_spelt_as_documented() {
    let world = World::new().await;
    let application = world.register("one").await;
    let fields: Vec<&String> = application.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["clientId", "discoveryEndpoint", "name", "oAuthServerUrl", "profilesUrl", "secret", "tenantId", "type"]);
    assert_eq!(application["oAuthServerUrl"], json!(world.oauth()));
    let secret = application["secret"].as_str().expect("a secret");
    assert!(secret.starts_with(identity_simulator::CLIENT_SECRET_MARK) && secret.len() == 48);
    let listed = world.get("/applications").await.json();
    assert_eq!(listed["applications"][0], application, "a list shows secrets");
}

#[tokio::test]
async fn a_single_page_app_has_no_secret_and_a_short_answer() {
    let world = World::new().await;
    let answer = world.post("/applications", json!({"name": "spa", "type": "singlepageapp"})).await.json();
    let fields: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["clientId", "name", "oAuthServerUrl", "tenantId", "type"]);
    let form = [("grant_type", "client_credentials")];
    let request = world.client.post(format!("{}/token", world.oauth())).basic_auth(answer["clientId"].as_str().expect("an id"), Some(""));
    assert_eq!(send(request.form(&form)).await.status, 401);
}

#[tokio::test]
async fn two_applications_may_have_one_name_unless_switched() {
    let world = World::new().await;
    let (one, other) = (world.register("same").await, world.register("same").await);
    assert_ne!(one["clientId"], other["clientId"]);
    let strict = Switches { duplicate_application_names: DuplicateApplicationNames::Conflict, ..Switches::default() };
    world.control.set_switches(&strict).await.expect("set");
    assert_eq!(world.post("/applications", json!({"name": "same"})).await.status, 409);
}

#[tokio::test]
async fn a_tenant_that_lives_elsewhere_is_nine_bytes_of_text() {
    let world = World::new().await;
    let elsewhere = &world.simulator.urls().regions["eu-de"];
    for path in ["management/v4", "oauth/v4"] {
        let url = match path {
            "oauth/v4" => format!("{elsewhere}/{path}/{TENANT}/publickeys"),
            _ => format!("{elsewhere}/{path}/{TENANT}/applications"),
        };
        let answer = send(world.client.get(url).bearer_auth(&world.writer)).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (404, "Not Found"), "{path}");
        assert!(answer.headers["content-type"].to_str().expect("text").starts_with("text/plain"));
    }
}

#[tokio::test]
async fn a_call_without_a_good_token_is_401_and_with_too_little_right_403() {
    let world = World::new().await;
    let application = world.register("one").await;
    let path = format!("{}/applications/{}", world.management(), application["clientId"].as_str().expect("an id"));
    assert_eq!(send(world.client.get(&path)).await.status, 401);
    assert_eq!(send(world.client.get(&path).bearer_auth("no.such.token")).await.status, 401);
    let reader = world.iam_token(READER).await;
    for (method, path, expected, reason) in [
        (Method::GET, path.clone(), 200, "reading is a Reader's"),
        (Method::GET, format!("{path}/roles"), 200, "roles, too"),
        (Method::GET, format!("{path}/scopes"), 403, "scopes are a Writer's"),
        (Method::DELETE, path.clone(), 403, "deleting is a Writer's"),
    ] {
        let answer = send(world.client.request(method, path).bearer_auth(&reader)).await;
        assert_eq!(answer.status, expected, "{reason}");
    }
    let keys = world.control.keys().await.expect("keys");
    let key = keys.iter().find(|key| key.value == READER).expect("the key");
    let more = KeyEdit { access: Some(BTreeMap::from([(TENANT.to_owned(), AccessRole::Writer)])), ..KeyEdit::default() };
    world.control.edit_key(&key.id, &more).await.expect("edited");
    assert_eq!(send(world.client.delete(&path).bearer_auth(&reader)).await.status, 204, "a live token feels new rights");
}

#[tokio::test]
async fn an_unknown_tenant_may_ask_for_a_token_first() {
    let world = World::new().await;
    let url = format!("{}/management/v4/no-such-tenant/applications", world.app_id());
    assert_eq!(send(world.client.get(&url)).await.status, 404);
    let after = Switches { unknown_tenant: UnknownTenant::AfterAuthentication, ..Switches::default() };
    world.control.set_switches(&after).await.expect("set");
    assert_eq!(send(world.client.get(&url)).await.status, 401);
    assert_eq!(send(world.client.get(&url).bearer_auth(&world.writer)).await.status, 404);
}

#[tokio::test]
async fn a_scope_that_goes_leaves_the_roles_for_good() {
    let world = World::new().await;
    let application = world.register("one").await;
    let id = application["clientId"].as_str().expect("an id").to_owned();
    let path = format!("/applications/{id}/scopes");
    world.put(&path, json!({"scopes": ["read", "write"]})).await;
    let access = json!([{"application_id": id, "scopes": ["read", "write"]}]);
    let role = world.post("/roles", json!({"name": "role", "access": access})).await.json();
    world.put(&path, json!({"scopes": ["write"]})).await;
    world.put(&path, json!({"scopes": ["read", "write"]})).await;
    let role = world.get(&format!("/roles/{}", role["id"].as_str().expect("an id"))).await.json();
    assert_eq!(role["access"], json!([{"application_id": id, "scopes": ["write"]}]));
    world.delete(&format!("/applications/{id}")).await;
    assert_eq!(world.get("/roles").await.json()["roles"][0]["access"], json!([]), "entries of a deleted application vanish");
}

#[tokio::test]
async fn roles_are_cleared_in_either_spelling_and_unknown_ones_refused() {
    let world = World::new().await;
    let application = world.register("one").await;
    let path = format!("/applications/{}/roles", application["clientId"].as_str().expect("an id"));
    let role = world.post("/roles", json!({"name": "role", "access": []})).await.json();
    for clearing in [json!({"roles": {"ids": []}}), json!({"roles": {}})] {
        world.put(&path, json!({"roles": {"ids": [role["id"]]}})).await;
        assert_eq!(world.put(&path, clearing).await.json(), json!({"roles": []}));
    }
    assert_eq!(world.put(&path, json!({"roles": {"ids": ["no-such-role"]}})).await.status, 400);
    assert_eq!(world.post("/roles", json!({"name": "role", "access": []})).await.status, 409);
}

#[tokio::test]
async fn bad_input_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let application = world.register("one").await;
    let id = application["clientId"].as_str().expect("an id").to_owned();
    let scopes = format!("/applications/{id}/scopes");
    for (path, body, reason) in [
        ("/applications", json!({"name": "x".repeat(51)}), "51 characters"),
        ("/applications", json!({"name": ""}), "no name"),
        ("/applications", json!({"name": "a", "type": "native"}), "unknown type"),
        ("/roles", json!({"name": "a"}), "no access"),
        ("/roles", json!({"name": "a", "access": [{"application_id": "b", "scopes": []}]}), "unknown application"),
        ("/roles", json!({"name": "a", "access": [{"application_id": id, "scopes": ["read"]}]}), "unknown scope"),
    ] {
        assert_eq!(world.post(path, body).await.status, 400, "{reason}");
    }
    for scope in ["Upper", "appid_x", "openid", "with space", &"x".repeat(50)] {
        assert_eq!(world.put(&scopes, json!({"scopes": [scope]})).await.status, 400, "{scope}");
    }
    assert_eq!(world.put("/config/redirect_uris", json!({"redirectUris": ["nonsense"]})).await.status, 400);
    assert_eq!(world.put("/config/tokens", json!({"access": {"expires_in": 299}})).await.status, 400);
    assert_eq!(world.names().await, ["one"]);
}

#[tokio::test]
async fn the_limits_are_200_applications_50_roles_and_50_scopes() {
    let world = World::new().await;
    for number in 0..200 {
        let seed = ApplicationSeed { name: format!("app-{number}"), ..ApplicationSeed::default() };
        world.control.add_application(TENANT, &seed).await.expect("added");
    }
    assert_eq!(world.post("/applications", json!({"name": "one too many"})).await.status, 400);
    let id = world.control.applications(TENANT).await.expect("listed")[0].client_id.clone();
    let scopes: Vec<String> = (0..51).map(|number| format!("scope{number}")).collect();
    assert_eq!(world.put(&format!("/applications/{id}/scopes"), json!({"scopes": scopes})).await.status, 400);
    assert_eq!(world.put(&format!("/applications/{id}/scopes"), json!({"scopes": scopes[..50]})).await.status, 200);
    for number in 0..50 {
        assert_eq!(world.post("/roles", json!({"name": format!("role {number}"), "access": []})).await.status, 201);
    }
    assert_eq!(world.post("/roles", json!({"name": "one too many", "access": []})).await.status, 400);
}

#[tokio::test]
async fn the_redirect_uri_document_keeps_whatever_was_written() {
    let world = World::new().await;
    assert_eq!(world.get("/config/redirect_uris").await.json(), json!({"redirectUris": []}));
    let document = json!({"redirectUris": ["https://b/*", "https://a/x"], "trustCloudIAMRedirectUris": true, "more": {"x": 1}});
    world.put("/config/redirect_uris", document.clone()).await;
    assert_eq!(world.get("/config/redirect_uris").await.json(), document);
}

#[tokio::test]
async fn a_token_configuration_returns_to_its_defaults_where_it_is_silent() {
    let world = World::new().await;
    world.put("/config/tokens", json!({"access": {"expires_in": 600}, "refresh": {"enabled": true}})).await;
    let tokens = world.put("/config/tokens", json!({"access": {"expires_in": 900}})).await.json();
    assert_eq!(tokens["access"], json!({"expires_in": 900}));
    assert_eq!(tokens["refresh"], json!({"expires_in": 2_592_000, "enabled": false}));
    assert_eq!(tokens["anonymousAccess"], json!({"expires_in": 2_592_000, "enabled": true}));
}

#[tokio::test]
async fn too_many_calls_a_second_block_the_management_api_only() {
    let settings = Settings { management_calls_per_second: 3, block_milliseconds: 3_600_000, ..Settings::default() };
    let switches = Switches { retry_after: RetryAfter::Seconds, ..Switches::default() };
    let world = World::with(switches, settings).await;
    let mut statuses = Vec::new();
    let mut blocked = None;
    // More than three calls within some second, however slow the machine.
    for _ in 0..200 {
        let answer = world.get("/applications").await;
        statuses.push(answer.status.as_u16());
        if answer.status != 200 {
            blocked = Some(answer);
            break;
        }
    }
    let blocked = blocked.unwrap_or_else(|| panic!("{statuses:?}"));
    assert_eq!(blocked.status, 429);
    assert_eq!(blocked.headers["retry-after"], "3600");
    assert_eq!(world.get("/roles").await.status, 429, "still blocked");
    assert_eq!(send(world.client.get(format!("{}/publickeys", world.oauth()))).await.status, 200);
    let date = Switches { retry_after: RetryAfter::HttpDate, ..Switches::default() };
    world.control.set_switches(&date).await.expect("set");
    assert!(world.get("/roles").await.headers["retry-after"].to_str().expect("text").ends_with(" GMT"));
    world.control.set_settings(&Settings { management_calls_per_second: 0, ..Settings::default() }).await.expect("set");
    assert_eq!(world.get("/roles").await.status, 200);
}

#[tokio::test]
async fn discovery_says_what_the_documents_say_and_no_more() {
    let world = World::new().await;
    let document = send(world.client.get(format!("{}/.well-known/openid-configuration", world.oauth()))).await.json();
    assert_eq!(document["issuer"], json!(world.oauth()));
    assert_eq!(document["token_endpoint"], json!(format!("{}/token", world.oauth())));
    assert_eq!(document["management_endpoint"], json!(world.management()));
    for absent in ["token_endpoint_auth_methods_supported", "introspection_endpoint", "revocation_endpoint"] {
        assert!(document.get(absent).is_none(), "{absent}");
    }
    assert_eq!(document.as_object().expect("an object").len(), 14);
}

#[tokio::test]
async fn the_key_set_has_a_leading_zero_byte_and_no_algorithm() {
    let world = World::new().await;
    let keys = send(world.client.get(format!("{}/publickeys", world.oauth()))).await.json();
    let key = &keys["keys"][0];
    assert!(key["n"].as_str().expect("n").starts_with('A'));
    assert!(key.get("alg").is_none());
    assert!(key["kid"].as_str().expect("kid").starts_with(&format!("appId-{TENANT}-")));
    let plain = Switches { key_modulus: KeyModulus::Plain, ..Switches::default() };
    world.control.set_switches(&plain).await.expect("set");
    let plain = send(world.client.get(format!("{}/publickeys", world.oauth()))).await.json();
    assert_ne!(plain["keys"][0]["n"], key["n"]);
}

#[tokio::test]
async fn the_token_endpoint_reads_three_kinds_of_bodies() {
    let world = World::new().await;
    let application = world.register("one").await;
    let boundary = "----boundary";
    let multipart =
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"grant_type\"\r\n\r\nclient_credentials\r\n--{boundary}--\r\n");
    let requests = [
        world.token_request(&application).form(&[("grant_type", "client_credentials")]),
        world.token_request(&application).json(&json!({"grant_type": "client_credentials"})),
        world.token_request(&application).header("content-type", format!("multipart/form-data; boundary={boundary}")).body(multipart),
    ];
    for request in requests {
        let answer = send(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let body = answer.json();
        assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(3600)));
        assert_eq!(body["scope"], json!("appid_default"));
    }
}

#[tokio::test]
async fn a_token_without_audience_is_for_the_client_itself() {
    let world = World::new().await;
    let application = world.register("one").await;
    let answer = send(world.token_request(&application).form(&[("grant_type", "client_credentials")])).await.json();
    let keys = send(world.client.get(format!("{}/publickeys", world.oauth()))).await.json();
    let (header, claims) = verified(answer["access_token"].as_str().expect("a token"), &stripped(keys));
    assert_eq!(claims["aud"], json!([application["clientId"]]));
    assert_eq!(header.typ.as_deref(), Some("JWT"));
    let raw = answer["access_token"].as_str().expect("a token").split('.').next().expect("a header").to_owned();
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
    let header: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(raw).expect("base64url")).expect("JSON");
    assert_eq!(header["ver"], json!(4));
}

#[tokio::test]
async fn errors_of_the_token_endpoint_are_those_of_oauth() {
    let world = World::new().await;
    let application = world.register("one").await;
    let wrong = json!({"clientId": application["clientId"], "secret": "wrong"});
    let answer = send(world.token_request(&wrong).form(&[("grant_type", "client_credentials")])).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (401, &json!("invalid_client")));
    let answer = send(world.token_request(&application).form(&[("grant_type", "magic")])).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (400, &json!("unsupported_grant_type")));
    let answer = send(world.token_request(&application).form(&[("x", "y")])).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (400, &json!("invalid_request")));
}

#[tokio::test]
async fn a_user_signs_in_refreshes_is_introspected_and_revoked() {
    let world = World::new().await;
    let application = world.register("one").await;
    let user = |name: &str| User {
        username: name.to_owned(),
        password: "cafec0de-password".to_owned(),
        email: "a@example.test".to_owned(),
        ..User::default()
    };
    world.control.add_user(TENANT, &user("ann")).await.expect("added");
    world.control.add_user(TENANT, &User { verification_pending: true, ..user("pending") }).await.expect("added");
    world.control.add_user(TENANT, &User { password_expired: true, ..user("old") }).await.expect("added");
    let mut tokens = TokenConfiguration { access: Lifetime { expires_in: 60 }, ..TokenConfiguration::default() };
    tokens.refresh.enabled = true;
    world.control.set_tokens(TENANT, &tokens).await.expect("set");
    let sign_in = |name: &str, password: &str| {
        send(world.token_request(&application).form(&[("grant_type", "password"), ("username", name), ("password", password)]))
    };
    assert_eq!(sign_in("ann", "wrong").await.json()["error"], json!("invalid_grant"));
    assert_eq!(sign_in("old", "cafec0de-password").await.json()["error_description"], json!("Password expired"));
    let pending = sign_in("pending", "cafec0de-password").await;
    assert_eq!((pending.status.as_u16(), &pending.json()["error_code"]), (403, &json!("FORBIDDEN")));
    let signed_in = sign_in("ann", "cafec0de-password").await.json();
    assert_eq!(signed_in["expires_in"], json!(60));
    let access = signed_in["access_token"].as_str().expect("a token").to_owned();
    let profile = send(world.client.get(format!("{}/userinfo", world.oauth())).bearer_auth(&access)).await.json();
    assert_eq!(profile["email"], json!("a@example.test"));
    let refresh = signed_in["refresh_token"].as_str().expect("a token").to_owned();
    let renew = |token: String| {
        send(world.token_request(&application).form(&[("grant_type", "refresh_token".to_owned()), ("refresh_token", token)]))
    };
    let renewed = renew(refresh.clone()).await.json();
    let second = renewed["refresh_token"].as_str().expect("a token").to_owned();
    assert_ne!(refresh, second);
    assert_eq!(renew(refresh).await.json()["error"], json!("invalid_grant"), "a refresh token works once");
    let basic = |path: &str, token: &str| {
        let id = application["clientId"].as_str().expect("an id");
        let request = world.client.post(format!("{}/{path}", world.oauth())).basic_auth(id, application["secret"].as_str());
        send(request.form(&[("token", token)]))
    };
    assert_eq!(basic("introspect", &access).await.json(), json!({"active": true}));
    assert_eq!(basic("introspect", "nonsense").await.json(), json!({"active": false}));
    assert_eq!(basic("revoke", &second).await.status, 200);
    assert_eq!(renew(second).await.status, 400);
}

#[tokio::test]
async fn error_bodies_come_in_every_shape() {
    let world = World::new().await;
    for (position, expected) in [
        (ErrorBodies::Message, r#"{"message":"Application not found"}"#),
        (ErrorBodies::Text, "Application not found"),
        (ErrorBodies::Empty, ""),
    ] {
        world.control.set_switches(&Switches { error_bodies: position, ..Switches::default() }).await.expect("set");
        let answer = world.get("/applications/aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee").await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (404, expected));
    }
}

#[tokio::test]
async fn the_client_of_a_service_credential_gets_tokens_but_is_not_listed() {
    let world = World::new().await;
    let credential =
        ApplicationSeed { name: "credential".to_owned(), client_id: Some("of-the-credential".to_owned()), ..ApplicationSeed::default() };
    let seed = TenantSeed { id: "second".to_owned(), service_credential: Some(credential), ..TenantSeed::default() };
    let tenant = world.control.add_tenant(&seed).await.expect("added");
    let secret = tenant.service_credential.expect("a client").secret;
    let url = format!("{}/oauth/v4/second/token", world.app_id());
    let request = world.client.post(url).basic_auth("of-the-credential", secret).form(&[("grant_type", "client_credentials")]);
    assert_eq!(send(request).await.status, 200);
    assert_eq!(world.control.applications("second").await.expect("listed"), []);
}

#[tokio::test]
async fn an_assertion_needs_an_active_custom_identity_provider_that_signed_it_for_this_server() {
    let world = World::new().await;
    let application = world.register("one").await;
    let (key, other) = (ClientKey::new(jsonwebtoken::Algorithm::RS256), ClientKey::new(jsonwebtoken::Algorithm::ES256));
    let request = async |assertion: &str| {
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)];
        send(world.token_request(&application).form(&form)).await
    };
    let mut bob = claims("https://people.test", "bob", world.oauth());
    bob["name"] = json!("Bob");
    assert_eq!(request(&key.sign(&bob)).await.json()["error"], json!("invalid_grant"), "there is no provider");
    let provider = |active| CustomIdentityProvider { active, public_key: key.public().pem.expect("a key") };
    world.control.set_custom_identity_provider(TENANT, &provider(true)).await.expect("set");
    let answer = request(&key.sign(&bob)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let (body, keys) = (answer.json(), send(world.client.get(format!("{}/publickeys", world.oauth()))).await.json());
    let (_, identity) = verified(body["id_token"].as_str().expect("a token"), &stripped(keys));
    assert_eq!((&identity["sub"], &identity["name"], &identity["amr"]), (&json!("bob"), &json!("Bob"), &json!(["appid_custom"])));
    assert!(body["access_token"].is_string() && body.get("refresh_token").is_none());
    let mut nameless = bob.clone();
    nameless["iss"] = Value::Null;
    let mut over = bob.clone();
    over["exp"] = json!(1);
    for (assertion, reason) in [
        (other.sign(&bob), "with another key"),
        (key.sign(&claims("https://people.test", "bob", "https://elsewhere.test")), "for another server"),
        (key.sign(&nameless), "by nobody"),
        (key.sign(&over), "over"),
        ("nonsense".to_owned(), "nonsense"),
    ] {
        assert_eq!(request(&assertion).await.json()["error"], json!("invalid_grant"), "{reason}");
    }
    world.control.set_custom_identity_provider(TENANT, &provider(false)).await.expect("set");
    assert_eq!(request(&key.sign(&bob)).await.json()["error"], json!("invalid_grant"), "the provider is off");
    let useless = CustomIdentityProvider { active: true, public_key: "nonsense".to_owned() };
    assert!(world.control.set_custom_identity_provider(TENANT, &useless).await.is_err());
}

#[tokio::test]
async fn what_a_client_sent_to_the_token_endpoint_can_be_seen() {
    let world = World::new().await;
    let application = world.register("one").await;
    let form = [("grant_type", "client_credentials"), ("audience", "another")];
    assert_eq!(send(world.token_request(&application).form(&form)).await.status, 200);
    let sent = world.control.last_token_request(TENANT, application["clientId"].as_str().expect("an id")).await.expect("a request");
    assert_eq!((sent.field("audience"), sent.operation.as_str()), (Some("another"), "app_id.token"));
    assert!(world.control.last_token_request(TENANT, "nobody").await.is_err());
}

#[tokio::test]
async fn app_id_signs_with_the_curve_where_set() {
    let world = World::new().await;
    let application = world.register("one").await;
    world.control.set_settings(&Settings { signing: SigningAlgorithm::Es256, ..Settings::default() }).await.expect("set");
    let answer = send(world.token_request(&application).form(&[("grant_type", "client_credentials")])).await.json();
    let keys = send(world.client.get(format!("{}/publickeys", world.oauth()))).await.json();
    let (header, _) = verified(answer["access_token"].as_str().expect("a token"), &stripped(keys));
    assert_eq!(header.alg, jsonwebtoken::Algorithm::ES256);
}
