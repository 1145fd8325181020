//! `AppIdApplication`: reads what the rules need, does what they say, and reports what came of it.

mod secret;
mod service;
mod spec;
mod status;
mod survey;

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use kube::{Api, ResourceExt};

use self::{
    secret::look_at_secret,
    spec::{is_reported, request, secret_name, urgency},
    survey::{Survey, connection_for},
};
use super::{
    Context, Found, Kind,
    claims::ProviderKey,
    cluster::{Abort, Announcement, Subject},
    directory::Connection,
};
use crate::{
    api::{AppIdApplication, ObjectVersion},
    model::{ClientId, Failure},
    plan::{
        application::{self as rules, Attention, Next, Outcome, ProviderView, Step, Triggers, World},
        layout::Shape,
    },
    provider::iam,
    reasons::Reason,
};

pub use spec::{claim_of, shape_of};

/// The kind's name.
pub const KIND: &str = "AppIdApplication";

/// A deletion whose provider or credential is gone, with nothing in memory, is given up after this long.
const DELETION_BUDGET_WITHOUT_PROVIDER: std::time::Duration = std::time::Duration::from_secs(60);

/// The kind.
#[derive(Debug)]
pub enum Applications {}

/// One pass over one application.
pub struct Pass {
    pub(super) context: Arc<Context>,
    pub(super) object: Arc<AppIdApplication>,
    pub(super) subject: Subject,
    pub(super) secret_name: String,
    pub(super) secret_version: Option<ObjectVersion>,
    pub(super) shape: Shape,
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) triggers: Triggers,
    pub(super) secret_is_damaged: bool,
    pub(super) world: World,
    pub(super) repairs: bool,
    pub(super) announcements: Vec<Announcement>,
}

impl Kind for Applications {
    type Object = AppIdApplication;
    type Known = Survey;
    type Pass = Pass;
    type Step = Step;

    const NAME: &'static str = KIND;

    fn look(context: &Context, object: &AppIdApplication, now: Timestamp) -> Found<Survey> {
        let survey = Survey::of(context, object, now);
        let triggers = &survey.triggers;
        let obstacle = survey.obstacle(context, object);
        let is_known_obstacle = obstacle.as_ref().is_some_and(|problem| is_reported(object, problem));
        let waits = triggers.next_action_at.is_some_and(|at| at > now) && !triggers.spec_changed && !triggers.deleting;
        let is_settled = !triggers.secret_changed
            && ((is_known_obstacle && waits) || rules::attention(triggers, obstacle.is_some(), now) == Attention::Nothing);
        if is_settled {
            return Found::Nothing(survey.next_look(context, object, now));
        }
        let connection = connection_for(context, object, &survey);
        let turns = connection.map_or_else(|| context.local_turns.clone(), |connection| connection.admission.clone());
        Found::Work { turn: Some((turns, urgency(object))), known: survey, meanwhile: None }
    }

    async fn gather(context: &Arc<Context>, object: Arc<AppIdApplication>, mut survey: Survey) -> Result<Pass, Abort> {
        let now = Timestamp::now();
        let subject = Subject::of(KIND, &*object);
        let shape = shape_of(&object);
        let (secret, secret_version) = look_at_secret(context, &object, &subject, &shape, &mut survey).await?;
        let connection = connection_for(context, &object, &survey);
        let mut world = survey.world(context, &object, &shape, secret, connection.is_some());
        world.attention = rules::attention(&survey.triggers, rules::obstacle(&world).is_some(), now);
        Ok(Pass {
            context: context.clone(),
            secret_name: secret_name(&object),
            object,
            subject,
            secret_version,
            shape,
            connection,
            triggers: survey.triggers,
            secret_is_damaged: survey.secret_is_damaged,
            world,
            repairs: false,
            announcements: Vec::new(),
        })
    }

    fn plan(pass: &Pass, now: Timestamp) -> Option<Step> {
        match rules::next(&pass.world, now) {
            Next::Perform(step) => Some(step),
            Next::Rest => None,
        }
    }

    async fn perform(pass: &mut Pass, step: Step) -> Result<(), Abort> {
        let result = pass.carry_out(&step).await?;
        if let Some(connection) = pass.connection.as_ref().filter(|_| result.is_ok() && step.asks_the_service()) {
            pass.context.reassure(&pass.provider_key(), connection);
        }
        if let Err(failure) = &result {
            tracing::info!(object = %pass.subject.path(), class = failure.class.as_str(), reason = %failure.reason, %failure, "a step failed");
            let reasons = [Reason::Unauthorized, Reason::TenantNotFound, Reason::ReaderRoleRequired, Reason::WriterRoleRequired];
            if failure.doing == iam::DOING || reasons.contains(&failure.reason) {
                pass.connection.iter().for_each(|connection| pass.context.doubt(&pass.provider_key(), connection));
            }
            if failure.may_have_happened && step.may_come_late() {
                // Should the report not get through, the next pass still knows.
                pass.context.memory.unanswered(&pass.subject.uid, Timestamp::now());
            }
        }
        pass.world.absorb(&step, result, Timestamp::now());
        Ok(())
    }

    async fn report(pass: Pass, now: Timestamp) -> Result<Option<Timestamp>, Abort> {
        let (context, object, uid) = (pass.context.clone(), pass.object.clone(), pass.subject.uid.clone());
        let request = request(&object);
        let again = pass.finish(now).await?;
        context.memory.take_up(&uid, request);
        Ok(again)
    }
}

impl Pass {
    pub(super) fn api(&self) -> Api<AppIdApplication> {
        Api::namespaced(self.context.client.clone(), &self.subject.namespace)
    }

    pub(super) fn provider_key(&self) -> ProviderKey {
        ProviderKey::referred(&self.object.spec.provider_ref, &self.subject.namespace)
    }

    pub(super) fn note_object(&self) {
        self.context.memory.wrote(&self.subject.uid, &self.subject.resource_version);
    }

    pub(super) async fn carry_out(&mut self, step: &Step) -> Result<Result<Outcome, Failure>, Abort> {
        match step {
            Step::Claim => self.claim().await,
            Step::Hold(id, _) | Step::TakeOverSecret(id, _) if !self.reserve(id) => Err(Abort::Stale),
            Step::TakeOverSecret(..) => self.take_over_secret().await,
            Step::Publish => self.publish().await,
            Step::Record => self.record().await,
            Step::Bequeath(heir, uris) => self.bequeath(heir, uris).await,
            Step::ReleaseSecret => self.release_secret().await,
            Step::Release => self.release().await,
            Step::Abandon => Ok(Ok(self.abandon())),
            Step::Hold(..) | Step::Forget(_) => Ok(Ok(Outcome::Done)),
            Step::Register => self.register().await,
            Step::MergeRedirectUris { add, remove } => self.merge_redirect_uris(add, remove).await,
            remote => Ok(self.ask_service(remote).await),
        }
    }

    pub(super) async fn claim(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let ProviderView::Usable { tenant, .. } = &self.world.provider else { return Err(Abort::Stale) };
        let (api, tenant) = (self.api(), tenant.to_string());
        self.subject.claim(&api, &tenant).await?;
        if self.world.claim == rules::Claim::Absent && self.world.recorded == rules::Recorded::default() {
            self.context.memory.claimed(&self.subject.uid);
        }
        self.note_object();
        Ok(Ok(Outcome::Done))
    }

    /// Of two objects that find the same registration at the same moment, one gets it: the other looks again and sees who.
    pub(super) fn reserve(&self, id: &ClientId) -> bool {
        let tenant = self.world.recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        self.context.claims.reserve(&tenant, id, &self.subject.uid)
    }

    /// The heir's status first, then ours: no entry is ever without an owner.
    pub(super) async fn bequeath(&mut self, heir: &str, uris: &BTreeSet<String>) -> Result<Result<Outcome, Failure>, Abort> {
        let (namespace, name) = heir.split_once('/').unwrap_or_default();
        let api: Api<AppIdApplication> = Api::namespaced(self.context.client.clone(), namespace);
        let object = api.get_opt(name).await.map_err(Abort::of("reading the heir of redirect URIs"))?;
        // Whoever is in its place is looked at in the next pass.
        let Some(object) = object else { return Err(Abort::Stale) };
        let mut status = object.status.clone().unwrap_or_default();
        let lists_them = uris.iter().all(|uri| object.spec.redirect_uris.iter().any(|listed| listed.0 == *uri));
        let heir = claim_of(&object);
        let may_inherit = heir.may_inherit && heir.tenant == self.world.recorded.tenant.as_ref().map(ToString::to_string);
        if object.metadata.deletion_timestamp.is_some() || !lists_them || !may_inherit {
            return Err(Abort::Stale);
        }
        status.added.redirect_uris.extend(uris.iter().cloned());
        let mut heir = Subject::of(KIND, &object);
        match heir.write_status(&api, &status).await {
            Err(Abort::Gone) => return Err(Abort::Stale),
            written => written?,
        }
        self.context.memory.wrote(&heir.uid, &heir.resource_version);
        Ok(Ok(Outcome::Done))
    }

    pub(super) async fn release(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let removed: Vec<String> = self.world.remote.deregistered.iter().map(ToString::to_string).collect();
        if !removed.is_empty() {
            self.announcements.push(Announcement {
                reason: Reason::Deregistered,
                note: format!("deleted {} at the service", removed.join(", ")),
                is_warning: false,
            });
        }
        // Events first: afterwards the object they speak of is gone.
        self.announce_all().await;
        let (api, finalizers) = (self.api(), self.object.finalizers().to_vec());
        let pictured = self.subject.resource_version.clone();
        self.subject.release(&api, &finalizers).await?;
        self.context.memory.released(&self.subject.uid, &pictured);
        if self.world.deleting.as_ref().is_some_and(|deleting| deleting.abandoned) {
            // Counted when the object is let go, so that each leftover counts once.
            self.context.metrics.orphaned(KIND);
        }
        Ok(Ok(Outcome::Done))
    }

    pub(super) fn abandon(&mut self) -> Outcome {
        let (recorded, remote) = (&self.world.recorded, &self.world.remote);
        let tenant = recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let registration = match &recorded.client_id {
            Some(id) if remote.deregistered.contains(id) => None,
            Some(id) => Some(format!("the application {id}")),
            None if self.world.retains() => None,
            None => Some(format!("what may bear the name {}", self.world.provisional)),
        };
        let uris = recorded.added.redirect_uris.iter().cloned().collect::<Vec<_>>().join(", ");
        let uris = (!uris.is_empty()).then(|| format!("the redirect URIs {uris}"));
        let left = registration.into_iter().chain(uris).collect::<Vec<_>>().join(" and ");
        let note = format!("could not delete {left} of tenant {tenant}; it was given up: remove it by hand");
        tracing::error!(object = %self.subject.path(), %note, "a registration was given up");
        self.announcements.push(Announcement { reason: Reason::Orphaned, note, is_warning: true });
        Outcome::Done
    }
}
