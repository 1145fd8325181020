//! Identity stores: users by their id.

use super::servers::segment;
use super::{Control, Reply};
use crate::model::{SecureAuthCredential, SecureAuthToken, SecureAuthUser, SecureAuthUserEdit, SecureAuthUserSeed};
use http::Method;
use serde_json::Value;

impl Control {
    /// Creates a user of an identity store, with an API credential.
    pub async fn add_secure_auth_user(&self, seed: &SecureAuthUserSeed) -> Reply<SecureAuthUser> {
        self.post("/secure_auth/users", seed).await
    }

    /// A user with all credentials it ever had.
    pub async fn secure_auth_user(&self, user: &str) -> Reply<SecureAuthUser> {
        self.get(&format!("/secure_auth/users/{}", segment(user))).await
    }

    /// Gives or takes the developer privilege, takes tokens back, ends credentials.
    pub async fn edit_secure_auth_user(&self, user: &str, edit: &SecureAuthUserEdit) -> Reply<SecureAuthUser> {
        self.call(Method::PATCH, &format!("/secure_auth/users/{}", segment(user)), edit).await
    }

    /// Deletes a user: its tokens and credentials are invalid from now on.
    pub async fn remove_secure_auth_user(&self, user: &str) -> Reply<()> {
        self.delete(&format!("/secure_auth/users/{}", segment(user))).await
    }

    /// What the button in the console does: the answer is the new credential. Switches say what becomes of the old one.
    pub async fn regenerate_secure_auth(&self, user: &str) -> Reply<SecureAuthCredential> {
        self.post(&format!("/secure_auth/users/{}/regenerate", segment(user)), &Value::Null).await
    }

    /// The tokens that a user got, in the order of issue.
    pub async fn secure_auth_tokens(&self, user: &str) -> Reply<Vec<SecureAuthToken>> {
        self.get(&format!("/secure_auth/users/{}/tokens", segment(user))).await
    }
}
