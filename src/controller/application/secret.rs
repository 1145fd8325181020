//! The Secret of an application: whose it is, whether it is as we left it, and how it is written.

use base64::{Engine, engine::general_purpose::URL_SAFE};
use k8s_openapi::api::core::v1::Secret;
use kube::{ResourceExt, core::PartialObjectMeta};
use serde_json::json;

use super::super::{
    Context,
    cluster::{self, Abort, Announcement, SecretContent, Subject},
    name::Name,
    published::{self, Whose},
};
use super::{KIND, Pass, spec::was_published, survey::Survey};
use crate::{
    api::{AppIdApplication, ObjectVersion, mark},
    model::{Application, ApplicationKind, Class, ClientId, Failure, SecretText, TenantIdentity},
    plan::{
        Problem,
        application::{Outcome, SecretView, Sight},
        field_ownership::AppliedFields,
        layout::{self, Credential, Layout, Shape, Templates},
    },
    reasons::Reason,
};

/// The version of a Secret that is not there.
const ABSENT: &str = "absent";

/// Looks at the Secret, as closely as is needed, and notes in the survey what that tells.
pub(super) async fn look_at_secret(
    context: &Context,
    object: &AppIdApplication,
    subject: &Subject,
    shape: &Shape,
    survey: &mut Survey,
) -> Result<(SecretView, Option<ObjectVersion>), Abort> {
    let triggers = &survey.triggers;
    // A pass that ended early has observed the spec, but not yet written the Secret that it asks for.
    let unchanged = !triggers.secret_changed && !triggers.spec_changed && !triggers.provider_changed;
    if unchanged && was_published(object) && survey.stored_secret.is_some() {
        return Ok((survey.own_secret(true), survey.stored_secret.clone()));
    }
    let was_ours = survey.stored_secret.is_some();
    if was_ours && survey.contested_until.is_some() {
        survey.secret_is_damaged = true;
        survey.triggers.secret_damaged = true;
        return Ok((survey.own_secret(false), survey.stored_secret.clone()));
    }
    let (namespace, name) = (survey.key.namespace(), survey.key.name());
    let Some(metadata) = cluster::secret_metadata(&context.client, namespace, name).await? else {
        survey.secret_is_damaged = was_ours;
        survey.triggers.secret_damaged = was_ours && !context.memory.knows_damage(&survey.uid, ABSENT);
        return Ok((SecretView::Absent, None));
    };
    let version = ObjectVersion::of(&metadata.metadata);
    context.secrets.note(survey.key.clone(), version.clone());
    let mut view = judge(&metadata, context, object, subject, shape, survey);
    let wants_proof = survey.recorded.client_id.is_none();
    if let SecretView::Ours { held, .. } | SecretView::Leftover { held, .. } = &mut view
        && wants_proof
        && let Some((read, data)) = cluster::read_secret(&context.client, namespace, name).await?
    {
        if read.resource_version.as_deref() != Some(version.resource_version.as_str()) {
            return Err(Abort::Stale);
        }
        *held = layout::held_secret(shape, &data);
    }
    survey.secret_is_damaged = was_ours && matches!(view, SecretView::Ours { is_intact: false, .. });
    survey.triggers.secret_damaged = survey.secret_is_damaged && !context.memory.knows_damage(&survey.uid, &version.resource_version);
    Ok((view, Some(version)))
}

/// Whose a Secret is, and whether it is as we left it: from metadata alone.
pub(super) fn judge(
    metadata: &PartialObjectMeta<Secret>,
    context: &Context,
    object: &AppIdApplication,
    subject: &Subject,
    shape: &Shape,
    survey: &Survey,
) -> SecretView {
    let annotation = |name: &str| metadata.annotations().get(name).map(String::as_str);
    let client_id = annotation(mark::CLIENT_ID).map(ClientId::new);
    let says_adopted = annotation(mark::ADOPTED) == Some("true");
    let asks_for_it = object.spec.adopt.as_ref().is_some_and(|adopt| Some(adopt.client_id.as_str()) == annotation(mark::CLIENT_ID));
    match published::whose(metadata, context, subject, survey.stored_secret.as_ref(), &expected_fields(object, subject, shape)) {
        Whose::Ours { is_untouched, is_immutable } => {
            // Where the address is not known now, nobody could write another one.
            let wanted = context.directory.connection(&survey.provider).ok().map(|connection| shape_mark(object, shape, &connection.host));
            let is_intact = is_untouched && wanted.is_none_or(|wanted| annotation(mark::SHAPE) == Some(wanted.as_str()));
            if is_immutable && !is_intact {
                return SecretView::Immutable;
            }
            SecretView::Ours { client_id, is_intact, held: None, adopted: says_adopted }
        }
        Whose::Former { from_this_cluster, .. } if from_this_cluster || asks_for_it => SecretView::Leftover {
            client_id,
            held: None,
            adopted: says_adopted || !from_this_cluster,
            tenant: annotation(mark::TENANT).map(TenantIdentity::recorded),
        },
        Whose::Former { whose, .. } | Whose::Others(whose) => SecretView::Foreign { whose },
    }
}

pub(super) fn shape_mark(object: &AppIdApplication, shape: &Shape, origin: &str) -> String {
    layout::mark(shape, origin, &object.spec.secret.labels, &object.spec.secret.annotations)
}

pub(super) fn expected_fields(object: &AppIdApplication, subject: &Subject, shape: &Shape) -> AppliedFields {
    let adopted = object.status.as_ref().is_some_and(|status| status.adopted == Some(true));
    let more = [mark::CLIENT_ID].into_iter().chain(adopted.then_some(mark::ADOPTED));
    let secret = &object.spec.secret;
    published::expected_fields(subject, layout::keys(shape), &secret.labels, &secret.annotations, more)
}

impl Pass {
    pub(super) fn known_secret(&self) -> Option<&ObjectVersion> {
        self.secret_version.as_ref()
    }

    pub(super) fn note_secret(&mut self, version: ObjectVersion) {
        self.context.secrets.note(Name::new(&self.subject.namespace, &self.secret_name), version.clone());
        self.secret_version = Some(version);
    }

    pub(super) async fn take_over_secret(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let Some(known) = self.known_secret() else { return Err(Abort::Stale) };
        let metadata = json!({ "ownerReferences": [self.subject.owner_reference()], "labels": { mark::KIND: KIND }, "annotations": { mark::RETAINED_FROM: null } });
        let version = self.subject.mark_secret(&self.context.client, &self.secret_name, known, metadata).await?;
        self.note_secret(version);
        Ok(Ok(Outcome::Done))
    }

    pub(super) fn content(
        &self,
        application: &Application,
        cookie_secret: Option<SecretText>,
        owned: bool,
    ) -> Result<SecretContent, Failure> {
        let app_id = self.app_id()?;
        let is_public = self.world.desired.kind == ApplicationKind::SinglePageApp;
        let credential = Credential {
            client_id: application.client_id.to_string(),
            secret: application.secret.clone().filter(|_| !is_public),
            tenant_id: app_id.tenant_id().to_owned(),
            origin: app_id.origin(),
            cookie_secret,
        };
        let spec = &self.object.spec.secret;
        let shape = shape_mark(&self.object, &self.shape, &app_id.origin());
        let mut annotations = published::annotations(&self.context, &self.subject, &spec.annotations, app_id.tenant_id().to_owned(), shape);
        annotations.insert(mark::CLIENT_ID.to_owned(), application.client_id.to_string());
        if self.world.recorded.adopted {
            annotations.insert(mark::ADOPTED.to_owned(), "true".to_owned());
        }
        let mut labels = spec.labels.clone();
        if owned {
            labels.insert(mark::KIND.to_owned(), KIND.to_owned());
        } else {
            annotations.insert(mark::RETAINED_FROM.to_owned(), self.subject.path());
        }
        let data = match layout::render(&self.shape, &credential) {
            // Nobody mends a spec that goes: what is kept then is the credential, without what cannot be filled in.
            Err(_) if !owned => layout::render(&Shape { templates: Templates::default(), ..self.shape.clone() }, &credential),
            data => data,
        };
        let refused = |problem: Problem| Failure::new("publishing the Secret", Class::Rejected, problem.reason, problem.message);
        Ok(SecretContent { data: data.map_err(refused)?, labels, annotations, owned })
    }

    pub(super) async fn publish(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let Sight::Present(application) = self.world.remote.sight.clone() else { return Err(Abort::Stale) };
        let cookie = if self.shape.layout == Layout::OAuth2Proxy { Some(self.cookie_secret().await?) } else { None };
        let content = match self.content(&application, cookie, true) {
            Ok(content) => content,
            Err(failure) => return Ok(Err(failure)),
        };
        let known = self.known_secret().cloned();
        match self.subject.publish(&self.context.client, &self.secret_name, known.as_ref(), &content).await? {
            Ok(version) => {
                // A change of the spec is no fight over the Secret.
                self.repairs = self.secret_is_damaged && !self.triggers.spec_changed;
                self.note_secret(version);
                Ok(Ok(Outcome::Done))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// oauth2-proxy's cookie secret is made once: another one would end every session.
    pub(super) async fn cookie_secret(&self) -> Result<SecretText, Abort> {
        if self.known_secret().is_some()
            && let Some((_, data)) = cluster::read_secret(&self.context.client, &self.subject.namespace, &self.secret_name).await?
            && let Some(kept) = layout::held_cookie_secret(&self.shape, &data)
        {
            return Ok(kept);
        }
        let mut bytes = zeroize::Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|error| Abort::Cluster {
            doing: "making a cookie secret",
            source: Box::new(kube::Error::Service(error.to_string().into())),
        })?;
        Ok(URL_SAFE.encode(bytes.as_slice()).into())
    }

    pub(super) async fn release_secret(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        match (&self.world.secret, self.known_secret().cloned(), self.world.remote.sight.clone()) {
            (SecretView::Absent, _, Sight::Present(application)) => {
                let cookie = if self.shape.layout == Layout::OAuth2Proxy { Some(self.cookie_secret().await?) } else { None };
                match self.content(&application, cookie, false) {
                    // A namespace that is going away takes no Secret any more: then there is nobody left who could use it.
                    Ok(content) => drop(self.subject.publish(&self.context.client, &self.secret_name, None, &content).await?),
                    Err(failure) => return Ok(Err(failure)),
                }
            }
            (_, Some(known), _) => {
                let metadata = json!({ "ownerReferences": null, "labels": { mark::KIND: null }, "annotations": { mark::RETAINED_FROM: self.subject.path() } });
                match self.subject.mark_secret(&self.context.client, &self.secret_name, &known, metadata).await {
                    Ok(_) => {}
                    // Collected in this moment: the next pass writes it again.
                    Err(Abort::Gone) => return Err(Abort::Stale),
                    Err(abort) => return Err(abort),
                }
            }
            _ => {}
        }
        let named = match &self.world.secret {
            SecretView::Ours { client_id, .. } => client_id.as_ref(),
            _ => None,
        };
        let id = self.world.recorded.client_id.as_ref().or(named).map(ToString::to_string).unwrap_or_default();
        self.announcements.push(Announcement {
            reason: Reason::Retained,
            note: format!("kept the registration {id} and its Secret {}", self.secret_name),
            is_warning: false,
        });
        Ok(Ok(Outcome::Done))
    }

    /// The version in which the Secret is left although it is not right.
    pub(super) fn damage(&self) -> Option<String> {
        match (&self.world.secret, &self.secret_version) {
            (SecretView::Absent, _) => Some(ABSENT.to_owned()),
            (SecretView::Ours { is_intact: false, .. }, Some(version)) => Some(version.resource_version.clone()),
            _ => None,
        }
    }

    /// What later passes may trust without a look: a version that is exactly right. One that is ours but not right yet keeps its
    /// UID, by which it is known again, and no resourceVersion, so that it is looked at again.
    pub(super) fn trusted_version(&self) -> Option<ObjectVersion> {
        let version = self.secret_version.clone()?;
        match &self.world.secret {
            SecretView::Ours { is_intact: true, .. } => Some(version),
            SecretView::Ours { .. } | SecretView::Immutable => Some(ObjectVersion { resource_version: String::new(), ..version }),
            SecretView::Absent | SecretView::Leftover { .. } | SecretView::Foreign { .. } => None,
        }
    }
}
