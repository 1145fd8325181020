//! Authorization servers: the generic ones by their id, Verify's by [`crate::VERIFY`].

use super::{Control, Reply};
use crate::model::{
    AssertionIssuer, OAuthClient, OAuthClientEdit, OAuthClientSeed, OAuthRefreshToken, OAuthRefreshTokenSeed, OAuthServer, OAuthToken,
    OidcServerSeed, OidcSettings, TokenRequest, User, VerifyApplication, VerifyApplicationSeed,
};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A client id may hold anything.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Control {
    /// Creates a generic server.
    pub async fn add_oidc_server(&self, seed: &OidcServerSeed) -> Reply<OAuthServer> {
        self.post("/servers", seed).await
    }

    /// A server with its clients and users.
    pub async fn oauth_server(&self, server: &str) -> Reply<OAuthServer> {
        self.get(&format!("/servers/{}", segment(server))).await
    }

    /// Removes a generic server: from now on its paths say 404.
    pub async fn remove_oidc_server(&self, server: &str) -> Reply<()> {
        self.delete(&format!("/servers/{}", segment(server))).await
    }

    /// Replaces all settings of a generic server.
    pub async fn set_oidc_settings(&self, server: &str, settings: &OidcSettings) -> Reply<OidcSettings> {
        self.call(Method::PUT, &format!("/servers/{}/settings", segment(server)), settings).await
    }

    /// Replaces those whose assertions the `jwt-bearer` grant of a generic server takes.
    pub async fn set_assertion_issuers(&self, server: &str, issuers: &[AssertionIssuer]) -> Reply<()> {
        self.call(Method::PUT, &format!("/servers/{}/assertion_issuers", segment(server)), &issuers).await
    }

    /// Adds a user who can sign in by password, or replaces the one of that name.
    pub async fn add_oauth_user(&self, server: &str, user: &User) -> Reply<User> {
        self.post(&format!("/servers/{}/users", segment(server)), user).await
    }

    /// Creates a client: at Verify, an API client.
    pub async fn add_oauth_client(&self, server: &str, seed: &OAuthClientSeed) -> Reply<OAuthClient> {
        self.post(&format!("/servers/{}/clients", segment(server)), seed).await
    }

    /// Changes a client's secret, keys, rights or the life of its tokens, disables or enables it. Its tokens live on.
    pub async fn edit_oauth_client(&self, server: &str, client: &str, edit: &OAuthClientEdit) -> Reply<OAuthClient> {
        self.call(Method::PATCH, &format!("/servers/{}/clients/{}", segment(server), segment(client)), edit).await
    }

    /// Deletes a client. Its tokens live on.
    pub async fn remove_oauth_client(&self, server: &str, client: &str) -> Reply<()> {
        self.delete(&format!("/servers/{}/clients/{}", segment(server), segment(client))).await
    }

    /// The access tokens that a client got, in the order of issue.
    pub async fn oauth_tokens(&self, server: &str, client: &str) -> Reply<Vec<OAuthToken>> {
        self.get(&format!("/servers/{}/clients/{}/tokens", segment(server), segment(client))).await
    }

    /// The refresh tokens that a client got, spent and revoked ones, too, in the order of issue.
    pub async fn oauth_refresh_tokens(&self, server: &str, client: &str) -> Reply<Vec<OAuthRefreshToken>> {
        self.get(&format!("/servers/{}/clients/{}/refresh_tokens", segment(server), segment(client))).await
    }

    /// Issues a refresh token without a sign-in, as a person would have got it in a browser.
    pub async fn add_refresh_token(&self, server: &str, seed: &OAuthRefreshTokenSeed) -> Reply<OAuthRefreshToken> {
        self.post(&format!("/servers/{}/refresh_tokens", segment(server)), seed).await
    }

    /// Takes back an access token, a refresh token with its whole family, or a family named by its id.
    pub async fn revoke_oauth(&self, server: &str, token_or_family: &str) -> Reply<()> {
        self.post(&format!("/servers/{}/revoke", segment(server)), &token_or_family).await
    }

    /// Creates an application of Verify.
    pub async fn add_verify_application(&self, seed: &VerifyApplicationSeed) -> Reply<VerifyApplication> {
        self.post("/verify/applications", seed).await
    }

    /// The last token request that named a client, at the tenant under which the journal has it; refused when there was none.
    pub async fn last_token_request(&self, tenant: &str, client: &str) -> Reply<TokenRequest> {
        self.get(&format!("/token_requests/{}/{}", segment(tenant), segment(client))).await
    }
}
