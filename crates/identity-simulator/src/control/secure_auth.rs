//! What the control API says and does about identity stores.

use super::{Reply, World};
use crate::model::{SecureAuthCredential, SecureAuthToken, SecureAuthUser, SecureAuthUserEdit, SecureAuthUserSeed};
use crate::shared::Shared;
use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/secure_auth/users", post(add_user))
        .route("/secure_auth/users/{id}", get(user).patch(edit_user).delete(remove_user))
        .route("/secure_auth/users/{id}/regenerate", post(regenerate))
        .route("/secure_auth/users/{id}/tokens", get(tokens))
}

async fn add_user(shared: World, Json(seed): Json<SecureAuthUserSeed>) -> Reply<SecureAuthUser> {
    Ok(Json(shared.change(|world| world.add_secure_auth_user(seed))?))
}

async fn user(shared: World, Path(id): Path<String>) -> Reply<SecureAuthUser> {
    Ok(Json(shared.look(|world| world.secure_auth_user(&id).cloned())?))
}

async fn edit_user(shared: World, Path(id): Path<String>, Json(edit): Json<SecureAuthUserEdit>) -> Reply<SecureAuthUser> {
    Ok(Json(shared.change(|world| world.edit_secure_auth_user(&id, edit))?))
}

async fn remove_user(shared: World, Path(id): Path<String>) -> Reply<()> {
    Ok(Json(shared.change(|world| world.remove_secure_auth_user(&id))?))
}

async fn regenerate(shared: World, Path(id): Path<String>) -> Reply<SecureAuthCredential> {
    Ok(Json(shared.change(|world| world.regenerate_secure_auth(&id))?))
}

async fn tokens(shared: World, Path(id): Path<String>) -> Reply<Vec<SecureAuthToken>> {
    Ok(Json(shared.look(|world| world.secure_auth_tokens(&id))?))
}
