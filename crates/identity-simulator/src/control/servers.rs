//! What the control API says and does about authorization servers.

use super::{Reply, World};
use crate::model::{
    AssertionIssuer, OAuthClient, OAuthClientEdit, OAuthClientSeed, OAuthRefreshToken, OAuthRefreshTokenSeed, OAuthServer, OAuthToken,
    OidcServerSeed, OidcSettings, TokenRequest, User, VerifyApplication, VerifyApplicationSeed,
};
use crate::shared::Shared;
use axum::extract::Path;
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/servers", post(add_server))
        .route("/servers/{server}", get(server).delete(remove_server))
        .route("/servers/{server}/settings", put(set_settings))
        .route("/servers/{server}/assertion_issuers", put(set_assertion_issuers))
        .route("/servers/{server}/users", post(add_user))
        .route("/servers/{server}/clients", post(add_client))
        .route("/servers/{server}/clients/{id}", patch(edit_client).delete(remove_client))
        .route("/servers/{server}/clients/{id}/tokens", get(tokens))
        .route("/servers/{server}/clients/{id}/refresh_tokens", get(refresh_tokens))
        .route("/servers/{server}/refresh_tokens", post(add_refresh_token))
        .route("/servers/{server}/revoke", post(revoke))
        .route("/verify/applications", post(add_verify_application))
        .route("/token_requests/{tenant}/{id}", get(token_request))
}

async fn add_server(shared: World, Json(seed): Json<OidcServerSeed>) -> Reply<OAuthServer> {
    Ok(Json(shared.change(|world| world.add_oidc_server(seed))?))
}

async fn server(shared: World, Path(server): Path<String>) -> Reply<OAuthServer> {
    Ok(Json(shared.look(|world| world.server_mut(&server).cloned())?))
}

async fn remove_server(shared: World, Path(server): Path<String>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_server(&server))?))
}

async fn set_settings(shared: World, Path(server): Path<String>, Json(settings): Json<OidcSettings>) -> Reply<OidcSettings> {
    Ok(Json(shared.change(|world| world.set_oidc_settings(&server, settings))?))
}

async fn set_assertion_issuers(shared: World, Path(server): Path<String>, Json(issuers): Json<Vec<AssertionIssuer>>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.set_assertion_issuers(&server, issuers))?))
}

async fn add_user(shared: World, Path(server): Path<String>, Json(user): Json<User>) -> Reply<User> {
    Ok(Json(shared.change(|world| world.add_oauth_user(&server, user))?))
}

async fn add_client(shared: World, Path(server): Path<String>, Json(seed): Json<OAuthClientSeed>) -> Reply<OAuthClient> {
    Ok(Json(shared.change(|world| world.add_oauth_client(&server, seed))?))
}

async fn edit_client(shared: World, Path((server, id)): Path<(String, String)>, Json(edit): Json<OAuthClientEdit>) -> Reply<OAuthClient> {
    Ok(Json(shared.change(|world| world.edit_oauth_client(&server, &id, edit))?))
}

async fn remove_client(shared: World, Path((server, id)): Path<(String, String)>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_oauth_client(&server, &id))?))
}

async fn tokens(shared: World, Path((server, id)): Path<(String, String)>) -> Reply<Vec<OAuthToken>> {
    Ok(Json(shared.look(|world| world.oauth_tokens(&server, &id))?))
}

async fn refresh_tokens(shared: World, Path((server, id)): Path<(String, String)>) -> Reply<Vec<OAuthRefreshToken>> {
    Ok(Json(shared.look(|world| world.oauth_refresh_tokens(&server, &id))?))
}

async fn add_refresh_token(shared: World, Path(server): Path<String>, Json(seed): Json<OAuthRefreshTokenSeed>) -> Reply<OAuthRefreshToken> {
    Ok(Json(shared.change(|world| world.seed_refresh_token(&server, seed))?))
}

/// The body is the token or the family, so that neither stands in a path.
async fn revoke(shared: World, Path(server): Path<String>, Json(what): Json<String>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.revoke_oauth(&server, &what))?))
}

async fn add_verify_application(shared: World, Json(seed): Json<VerifyApplicationSeed>) -> Reply<VerifyApplication> {
    Ok(Json(shared.change(|world| world.add_verify_application(seed))?))
}

async fn token_request(shared: World, Path((tenant, id)): Path<(String, String)>) -> Reply<TokenRequest> {
    Ok(Json(shared.look(|world| world.token_request(&tenant, &id))?))
}
