//! Access tokens on a stage.

use cloud_identity_operator::{api::AccessToken, controller::report};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{Chronicle, Stage, merge, status_and_reason, wait};

/// Name of the stage's provider for IAM.
pub const IAM: &str = "ibm";

impl Stage {
    /// The tokens of the namespace.
    #[must_use]
    pub fn tokens(&self) -> Api<AccessToken> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Opens a chronicle of the namespace's tokens.
    pub async fn token_chronicle(&self) -> Chronicle<AccessToken> {
        Chronicle::open(self.tokens()).await
    }

    /// Annotates a token with a request for another one, as a person does; each `word` is a request of its own.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn ask_for_token(&self, name: &str, word: &str) {
        let ask = Patch::Merge(json!({ "metadata": { "annotations": { "cloudidentity.dev/refresh": word } } }));
        self.tokens().patch(name, &PatchParams::default(), &ask).await.expect("the request is accepted");
    }

    /// The document of a provider for the stage's IAM.
    #[must_use]
    pub fn iam_document(&self, name: &str) -> Value {
        json!({
            "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "IdentityProvider",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": {
                "iam": { "url": self.simulator.urls().iam, "apiKey": { "secretRef": { "name": "ibm-api-key" } } },
                "tls": { "caBundle": { "configMapRef": { "name": "simulator-ca" } } },
                "budget": { "requestsPerSecond": 1000, "concurrency": 16 },
            }
        })
    }

    /// Makes the provider for the stage's IAM.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn iam(&self) {
        self.apply(&self.iam_document(IAM)).await.expect("the provider is accepted");
    }

    /// The document of a token.
    #[must_use]
    pub fn token_document(&self, name: &str, spec: Value) -> Value {
        let mut whole = json!({});
        merge(&mut whole, spec);
        json!({ "apiVersion": "cloudidentity.dev/v1alpha1", "kind": "AccessToken", "metadata": { "name": name, "namespace": self.namespace }, "spec": whole })
    }

    /// Makes or changes a token.
    ///
    /// # Panics
    ///
    /// When the API server refuses it.
    pub async fn token(&self, name: &str, spec: Value) {
        self.apply(&self.token_document(name, spec)).await.expect("the token is accepted");
    }

    /// Waits until a token is as described.
    ///
    /// # Panics
    ///
    /// When it is not in time.
    pub async fn token_where(&self, name: &str, what: &str, is: impl Fn(&AccessToken) -> bool) -> AccessToken {
        wait::object(self.tokens(), name, what, is).await
    }

    /// Waits until a token is Ready for its present spec.
    ///
    /// # Panics
    ///
    /// When it is not in time.
    pub async fn token_ready(&self, name: &str) -> AccessToken {
        self.token_where(name, "is ready", |token| {
            token.status.as_ref().is_some_and(|status| status.observed_generation == token.metadata.generation)
                && token_condition(token, "Ready").is_some_and(|(status, _)| status == "True")
        })
        .await
    }

    /// Waits until a token's `Ready` has a reason.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn token_reason(&self, name: &str, reason: &str) -> AccessToken {
        let has_it = |token: &AccessToken| token_condition(token, "Ready").is_some_and(|(_, said)| said == reason);
        self.token_where(name, &format!("has the reason {reason}"), has_it).await
    }
}

/// Status and reason of a condition of a token.
#[must_use]
pub fn token_condition<'a>(token: &'a AccessToken, type_: &str) -> Option<(&'a str, &'a str)> {
    status_and_reason(&token.status.as_ref()?.conditions, type_)
}

/// Message of a condition of a token.
#[must_use]
pub fn token_message<'a>(token: &'a AccessToken, type_: &str) -> Option<&'a str> {
    report::condition(&token.status.as_ref()?.conditions, type_).map(|condition| condition.message.as_str())
}
