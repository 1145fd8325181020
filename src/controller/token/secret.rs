//! The Secret of a token: whose it is, whether it is as we left it, and how it is written.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::{
    Context,
    cluster::{self, Abort, Announcement, SecretContent, Subject},
    published::{self, Whose},
};
use super::{
    KIND, Pass,
    spec::{secret_key, shape_mark, shape_of},
    status::AGAIN,
};
use crate::{
    api::{AccessToken, AccessTokenStatus, ObjectVersion, mark},
    model::{Class, ExposeSecret, Failure, IssuedToken, SecretText},
    plan::{
        layout::token::{self as layout, Token},
        token::SecretView,
    },
    reasons::Reason,
};

/// What a Secret may hold in all (Kubernetes API: 1 MiB), with room for names and metadata.
const SECRET_LIMIT: usize = 1_000_000;

/// What was seen of the Secret.
pub(super) struct Look {
    pub(super) view: SecretView,
    pub(super) version: Option<ObjectVersion>,
    /// Whether it was ours and is not as it was left.
    pub(super) is_damaged: bool,
}

/// Looks at the Secret, as closely as is needed.
pub(super) async fn look(
    context: &Context,
    object: &AccessToken,
    subject: &Subject,
    status: &AccessTokenStatus,
    is_contested: bool,
) -> Result<Look, Abort> {
    let key = secret_key(object);
    let stored = status.secret_version.clone();
    if stored.is_some() && context.secrets.get(&key) == stored {
        return Ok(Look { view: SecretView::Ours { is_intact: true }, version: stored, is_damaged: false });
    }
    if stored.is_some() && is_contested {
        return Ok(Look { view: SecretView::Ours { is_intact: false }, version: stored, is_damaged: true });
    }
    look_closely(context, object, subject, status).await
}

/// Looks at what the API server has now.
async fn look_closely(context: &Context, object: &AccessToken, subject: &Subject, status: &AccessTokenStatus) -> Result<Look, Abort> {
    let (key, stored) = (secret_key(object), status.secret_version.as_ref());
    let Some(metadata) = cluster::secret_metadata(&context.client, key.namespace(), key.name()).await? else {
        return Ok(Look { view: SecretView::Absent, version: None, is_damaged: stored.is_some() });
    };
    let version = ObjectVersion::of(&metadata.metadata);
    context.secrets.note(key, version.clone());
    let shape = shape_of(object, status.lifetime_unknown != Some(true));
    let secret = &object.spec.secret;
    let expected = published::expected_fields(subject, layout::keys(&shape), &secret.labels, &secret.annotations, []);
    let view = match published::whose(&metadata, context, subject, stored, &expected) {
        Whose::Ours { is_untouched, is_immutable } => {
            let says_the_same = metadata.annotations().get(mark::SHAPE) == Some(&shape_mark(object, &shape));
            if is_immutable { SecretView::Immutable } else { SecretView::Ours { is_intact: is_untouched && says_the_same } }
        }
        Whose::Former { from_this_cluster: true, .. } => SecretView::Leftover,
        Whose::Former { whose, .. } | Whose::Others(whose) => SecretView::Foreign { whose },
    };
    let is_damaged = stored.is_some() && view == SecretView::Ours { is_intact: false };
    Ok(Look { view, version: Some(version), is_damaged })
}

/// Tells one token from another without holding it.
pub(super) fn digest_of(issued: &IssuedToken) -> [u8; 32] {
    digest(&issued.access_token)
}

/// Tells one text from another without holding it.
pub(super) fn digest(text: &SecretText) -> [u8; 32] {
    Sha256::digest(text.expose_secret()).into()
}

impl Pass {
    fn note_secret(&mut self, version: ObjectVersion) {
        self.context.secrets.note(secret_key(&self.object), version.clone());
        self.secret_version = Some(version);
    }

    pub(super) async fn take_over(&mut self) -> Result<(), Abort> {
        let Some(known) = self.secret_version.clone() else { return Err(Abort::Stale) };
        let metadata = json!({ "ownerReferences": [self.subject.owner_reference()], "labels": { mark::KIND: KIND } });
        let name = secret_key(&self.object).name().to_owned();
        let version = self.subject.mark_secret(&self.context.client, &name, &known, metadata).await?;
        self.note_secret(version);
        self.announcements.push(Announcement {
            reason: Reason::Readopted,
            note: format!("took over the Secret {name} of a former object of this name"),
            is_warning: false,
        });
        Ok(())
    }

    pub(super) async fn publish(&mut self) -> Result<Result<(), Failure>, Abort> {
        let (Some((issued, life)), Some(source)) = (&self.token, &self.source) else { return Err(Abort::Stale) };
        let shape = shape_of(&self.object, life.is_told);
        let expires_at = self.context.clock.time_at(issued.received).checked_add(life.remaining).ok();
        let token = Token {
            access_token: issued.access_token.clone(),
            scope: issued.scope.clone().unwrap_or_else(|| source.request.scopes.join(" ")),
            expires_at: expires_at.map(super::super::report::whole_seconds),
            identity_token: issued.identity_token.clone(),
        };
        let data = match layout::render(&shape, &token) {
            Ok(data) => data,
            Err(problem) => return Ok(Err(Failure::new("publishing the token", Class::Rejected, problem.reason, problem.message))),
        };
        if let Err(failure) = fits(&data) {
            return Ok(Err(failure));
        }
        let spec = &self.object.spec.secret;
        let tenant = source.tenant();
        let shape = shape_mark(&self.object, &shape);
        let annotations = published::annotations(&self.context, &self.subject, &spec.annotations, tenant, shape);
        let mut labels = spec.labels.clone();
        labels.insert(mark::KIND.to_owned(), KIND.to_owned());
        let content = SecretContent { data, labels, annotations, owned: true };
        let name = secret_key(&self.object).name().to_owned();
        match self.write_secret(&name, &content).await? {
            Ok(version) => {
                self.note_secret(version);
                if self.secret_is_damaged {
                    self.context.memory.repaired(&self.subject.uid, jiff::Timestamp::now());
                    self.announcements.push(Announcement {
                        reason: Reason::SecretRepaired,
                        note: format!("put the Secret {name} back, with a new token"),
                        is_warning: false,
                    });
                }
                Ok(Ok(()))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }
}

impl Pass {
    /// Writes the Secret. What others keep in it may change meanwhile: that is no reason to ask the service once more.
    async fn write_secret(&mut self, name: &str, content: &SecretContent) -> Result<Result<ObjectVersion, Failure>, Abort> {
        for _ in 0..AGAIN {
            match self.subject.publish(&self.context.client, name, self.secret_version.as_ref(), content).await {
                Err(Abort::Stale) => {}
                result => return result,
            }
            let status = self.object.status.clone().unwrap_or_default();
            let now = look_closely(&self.context, &self.object, &self.subject, &status).await?;
            // Whoever was stopped meanwhile has a successor, who may have published a newer token.
            if now.view != (SecretView::Ours { is_intact: true }) || !self.context.leadership.holds() {
                return Err(Abort::Stale);
            }
            self.secret_version = now.version;
        }
        Err(Abort::Stale)
    }
}

fn fits(data: &BTreeMap<String, SecretText>) -> Result<(), Failure> {
    let size: usize = data.iter().map(|(key, value)| key.len() + value.expose_secret().len()).sum();
    if size <= SECRET_LIMIT {
        return Ok(());
    }
    let message = format!("the token makes a Secret of {size} bytes, and {SECRET_LIMIT} are possible; nothing was changed");
    Err(Failure::new("publishing the token", Class::Rejected, Reason::TokenTooLarge, message))
}
