//! `AppIdApplication`: reads what the rules need, does what they say, and reports what came of it.

use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, ResourceExt, api::ObjectMeta, core::PartialObjectMeta, runtime::reflector::ObjectRef};
use serde_json::json;

use super::{
    Context, Kind,
    claims::{Claim as ClaimOf, Claimant, ProviderKey},
    cluster::{self, Abort, Announcement, SecretContent, Subject},
    directory::{Connection, Service, recorded_tenant},
    report::{Conditions, announcement_of_change, whole_seconds, whole_seconds_from},
    versions::Key,
};
use crate::{
    api::{
        AddedAtService, AppIdApplication, AppIdApplicationStatus, ApplicationType, BindingReference, DeletionPolicy, DeletionProgress,
        FIELD_MANAGER, FINALIZER, Layout as SpecLayout, LocalReference, ObjectVersion, mark,
    },
    model::{Application, ApplicationKind, Class, ClientId, Desired, Failure, ProvisionalName, SecretText, TenantIdentity},
    plan::{
        Problem,
        application::{
            self as rules, Added, Attention, Claim, Deleting, News, Next, Outcome, ProviderView, Recorded, Remote, SecretView, Sight, Step,
            Triggers, Verdict, World,
        },
        field_ownership::AppliedFields,
        layout::{self, Credential, Layout, Shape},
        wait,
    },
    provider::{AppId, Caller, Registrar, TokenEndpoint, Urgency, gate::Permit},
    reasons::Reason,
};

/// The kind's name.
const KIND: &str = "AppIdApplication";
/// A deletion whose provider or credential is gone, with nothing in memory, is given up after this long.
const DELETION_BUDGET_WITHOUT_PROVIDER: std::time::Duration = std::time::Duration::from_secs(60);

/// The kind.
#[derive(Debug)]
pub enum Applications {}

/// One pass over one application.
pub struct Pass {
    context: Arc<Context>,
    object: Arc<AppIdApplication>,
    subject: Subject,
    secret_name: String,
    secret_version: Option<ObjectVersion>,
    shape: Shape,
    connection: Option<Arc<Connection>>,
    triggers: Triggers,
    world: World,
    repairs: bool,
    announcements: Vec<Announcement>,
}

impl Kind for Applications {
    type Object = AppIdApplication;
    type Pass = Pass;
    type Step = Step;

    const NAME: &'static str = KIND;

    fn settled(context: &Context, object: &AppIdApplication, now: Timestamp) -> Option<Option<Timestamp>> {
        let survey = Survey::of(context, object, now);
        let triggers = &survey.triggers;
        let obstacle = survey.obstacle(context, object);
        let is_known_obstacle = obstacle.as_ref().is_some_and(|problem| is_reported(object, problem));
        let waits = triggers.next_action_at.is_some_and(|at| at > now) && !triggers.spec_changed && !triggers.deleting;
        let is_settled = !triggers.secret_changed
            && ((is_known_obstacle && waits) || rules::attention(triggers, obstacle.is_some(), now) == Attention::Nothing);
        is_settled.then(|| survey.next_look(context, object, now))
    }

    async fn admitted(context: &Arc<Context>, object: &AppIdApplication) -> Option<Permit> {
        let namespace = object.namespace().unwrap_or_default();
        let connection = context.directory.connection(&ProviderKey::referred(&object.spec.provider_ref, &namespace)).ok()?;
        // The gate of passes has no pauses: it never fails.
        connection.admission.enter("waiting for a turn", &namespace, urgency(object)).await.ok()
    }

    async fn gather(context: &Arc<Context>, object: Arc<AppIdApplication>) -> Result<Pass, Abort> {
        let now = Timestamp::now();
        let mut survey = Survey::of(context, &object, now);
        context.memory.take_woken(&survey.uid);
        context.memory.take_up(&survey.uid, request(&object));
        let subject = Subject::of(KIND, &*object);
        let shape = shape_of(&object);
        let (secret, secret_version) = look_at_secret(context, &object, &subject, &shape, &mut survey, now).await?;
        let connection = connection_for(context, &object, &survey);
        let mut world = survey.world(context, &object, &shape, secret, connection.is_some(), now);
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
        if let Err(failure) = &result {
            tracing::info!(object = %pass.subject.path(), class = failure.class.as_str(), reason = %failure.reason, %failure, "a step failed");
            let concerns_provider = [Reason::Unauthorized, Reason::TenantNotFound, Reason::ReaderRoleRequired, Reason::WriterRoleRequired];
            if concerns_provider.contains(&failure.reason) {
                pass.context.doubt(&pass.provider_key());
            }
        }
        pass.world.absorb(&step, result, Timestamp::now());
        Ok(())
    }

    async fn report(pass: Pass, now: Timestamp) -> Result<Option<Timestamp>, Abort> {
        pass.finish(now).await
    }
}

fn urgency(object: &AppIdApplication) -> Urgency {
    if object.metadata.deletion_timestamp.is_some() {
        Urgency::Deletion
    } else if object
        .status
        .as_ref()
        .is_some_and(|status| status.client_id.is_some() && status.observed_generation == object.metadata.generation)
    {
        Urgency::Drift
    } else {
        Urgency::Wanted
    }
}

fn secret_name(object: &AppIdApplication) -> String {
    object.spec.secret.name.clone().unwrap_or_else(|| object.name_any())
}

/// What an object claims, for the index of claims.
#[must_use]
pub fn claim_of(object: &AppIdApplication) -> ClaimOf {
    let namespace = object.namespace().unwrap_or_default();
    let status = object.status.as_ref();
    ClaimOf {
        claimant: Claimant { kind: KIND, namespace: namespace.clone(), name: object.name_any(), uid: object.uid().unwrap_or_default() },
        created: object.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
        secret: (namespace.clone(), secret_name(object)),
        provider: ProviderKey::referred(&object.spec.provider_ref, &namespace),
        tenant: recorded_tenant(object.annotations()).map(|tenant| tenant.to_string()),
        client_id: status.and_then(|status| status.client_id.as_deref()).map(ClientId::new),
        redirect_uris: object.spec.redirect_uris.iter().map(|uri| uri.0.clone()).collect(),
        deleting: object.metadata.deletion_timestamp.is_some(),
    }
}

/// What can be seen of an object without asking anybody.
struct Survey {
    uid: String,
    key: Key,
    provider: ProviderKey,
    recorded: Recorded,
    stored_secret: Option<ObjectVersion>,
    triggers: Triggers,
}

impl Survey {
    fn of(context: &Context, object: &AppIdApplication, now: Timestamp) -> Self {
        let uid = object.uid().unwrap_or_default();
        let namespace = object.namespace().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let provider = ProviderKey::referred(&object.spec.provider_ref, &namespace);
        let key = (namespace, secret_name(object));
        let spec_changed = status.observed_generation != object.metadata.generation;
        let seen = context.secrets.get(&key);
        let drift_check_due = context
            .memory
            .checked_at(&uid)
            .or(Some(context.leadership.since()))
            .and_then(|checked| wait::next_drift_check(checked, context.settings.drift_interval, &uid))
            .is_some_and(|due| due <= now && status.client_id.is_some());
        let triggers = Triggers {
            deleting: object.metadata.deletion_timestamp.is_some()
                && status.next_action_at.as_ref().is_none_or(|at| at.0 <= now || spec_changed),
            spec_changed,
            provider_changed: status.client_id.is_some()
                && context.directory.version(&provider).is_some_and(|version| status.provider_version.as_ref() != Some(&version)),
            // A working object has nothing to gain from a dependency that changed; what it leads to is compared anyway.
            woken: (context.memory.is_woken(&uid) && (status.client_id.is_none() || status.next_action_at.is_some()))
                || request(object).is_some_and(|request| !context.memory.is_taken_up(&uid, request)),
            drift_check_due,
            secret_changed: seen != status.secret_version,
            secret_damaged: false,
            failed: status.failures.is_some_and(|failures| failures > 0),
            next_action_at: status.next_action_at.as_ref().map(|at| at.0),
        };
        Self { uid, key, provider, recorded: recorded(object, &status), stored_secret: status.secret_version, triggers }
    }

    /// What can be seen to be in the way without a look at the Secret.
    fn obstacle(&self, context: &Context, object: &AppIdApplication) -> Option<Problem> {
        let secret = SecretView::Ours { client_id: self.recorded.client_id.clone(), is_intact: true, held: None };
        rules::obstacle(&self.world(context, object, &shape_of(object), secret, false, Timestamp::UNIX_EPOCH))
    }

    /// When to look again although nothing happens: what is left to do, or the drift check.
    fn next_look(&self, context: &Context, object: &AppIdApplication, now: Timestamp) -> Option<Timestamp> {
        let is_registered = self.recorded.client_id.is_some() && !object.spec.suspend;
        let drift = is_registered.then(|| wait::next_drift_check(now, context.settings.drift_interval, &self.uid)).flatten();
        match (self.triggers.next_action_at, drift) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn world(
        &self,
        context: &Context,
        object: &AppIdApplication,
        shape: &Shape,
        secret: SecretView,
        has_connection: bool,
        now: Timestamp,
    ) -> World {
        let namespace = &self.key.0;
        let labels = context
            .namespaces
            .as_ref()
            .and_then(|store| store.get(&ObjectRef::new(namespace)))
            .and_then(|namespace| namespace.metadata.labels.clone());
        let desired = desired(object);
        let claims = &context.claims;
        let tenant = self.recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut view = context.directory.view_for_application(&self.provider, namespace, labels.as_ref());
        let deleting = object.metadata.deletion_timestamp.is_some();
        if deleting && has_connection {
            // A deletion goes through whatever connection still leads to the tenant, allowed or not.
            view = ProviderView::Usable {
                tenant: self.recorded.tenant.clone().unwrap_or_else(|| TenantIdentity::recorded("")),
                namespace_is_allowed: true,
                permits: None,
            };
        } else if deleting && matches!(view, ProviderView::Usable { .. }) {
            view = ProviderView::Unusable(Problem::new(
                Reason::ProviderIdentityChanged,
                "the provider no longer leads to the tenant that holds the registration",
            ));
        }
        let current_tenant = match &view {
            ProviderView::Usable { tenant, .. } => tenant.to_string(),
            ProviderView::Unusable(_) => tenant.clone(),
        };
        let named = match &secret {
            SecretView::Ours { client_id, .. } | SecretView::Leftover { client_id, .. } => client_id.clone(),
            _ => None,
        };
        let held_elsewhere = [named, desired.adopt.clone()]
            .into_iter()
            .flatten()
            .filter_map(|id| claims.holder(&current_tenant, &id, &self.uid).map(|holder| (id, holder.to_string())))
            .collect();
        let heirs = claims
            .heirs(
                &tenant,
                self.recorded.added.redirect_uris.iter().filter(|uri| deleting || !desired.redirect_uris.contains(*uri)),
                &self.uid,
            )
            .into_iter()
            .map(|(uri, heir)| (uri, format!("{}/{}", heir.namespace, heir.name)))
            .collect();
        let owns_secret = matches!(secret, SecretView::Ours { .. } | SecretView::Immutable);
        World {
            flaw: flaw(object, shape),
            provisional: ProvisionalName::of(&context.settings.cluster_uid, &self.uid),
            attention: Attention::Full,
            stored: self.recorded.clone(),
            recorded: self.recorded.clone(),
            provider: view,
            secret,
            secret_rival: if owns_secret { None } else { claims.secret_rival(&self.key, &self.uid).map(|rival| rival.to_string()) },
            held_elsewhere,
            heirs,
            claim: standing_claim(object),
            remote: Remote::default(),
            troubles: Vec::new(),
            failed_steps: Vec::new(),
            news: Vec::new(),
            was_in_order: self.recorded.client_id.is_some() && !self.triggers.spec_changed && self.triggers.next_action_at.is_none(),
            contested_until: context.memory.contested_until(&self.uid, now),
            deleting: deleting.then(|| Deleting {
                first_failed_at: object
                    .status
                    .as_ref()
                    .and_then(|status| status.deletion.as_ref())
                    .map(|deletion| deletion.first_failed_at.0),
                budget: if has_connection {
                    context.settings.deletion_budget
                } else {
                    DELETION_BUDGET_WITHOUT_PROVIDER.min(context.settings.deletion_budget)
                },
                leader_since: context.leadership.since(),
                abandoned: false,
                secret_is_released: false,
                released: false,
            }),
            desired,
        }
    }
}

fn is_reported(object: &AppIdApplication, problem: &Problem) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.reason == problem.reason.as_str() && condition.message == problem.message)
}

fn standing_claim(object: &AppIdApplication) -> Claim {
    match (object.finalizers().iter().any(|finalizer| finalizer == FINALIZER), recorded_tenant(object.annotations())) {
        (true, Some(_)) => Claim::Before,
        (true, None) => Claim::Unmarked,
        (false, _) => Claim::Absent,
    }
}

fn recorded(object: &AppIdApplication, status: &AppIdApplicationStatus) -> Recorded {
    Recorded {
        client_id: status.client_id.as_deref().map(ClientId::new),
        tenant: status.tenant.as_deref().map(TenantIdentity::recorded).or_else(|| recorded_tenant(object.annotations())),
        adopted: status.adopted.unwrap_or(false),
        added: Added {
            scopes: status.added.scopes.clone(),
            roles: status.added.roles.clone(),
            redirect_uris: status.added.redirect_uris.clone(),
        },
        verified: status.verified_at.is_some(),
        unclear_since: status.unclear_since.as_ref().map(|time| time.0),
        missing_since: status.missing_since.as_ref().map(|time| time.0),
    }
}

fn desired(object: &AppIdApplication) -> Desired {
    let spec = &object.spec;
    Desired {
        display_name: spec.display_name.clone().unwrap_or_else(|| object.name_any()),
        display_name_is_explicit: spec.display_name.is_some(),
        kind: kind_of(spec.application_type),
        scopes: spec.scopes.as_ref().map(|scopes| scopes.iter().map(|scope| scope.0.clone()).collect()),
        roles: spec.roles.as_ref().map(|roles| roles.iter().cloned().collect()),
        redirect_uris: spec.redirect_uris.iter().map(|uri| uri.0.clone()).collect(),
        adopt: spec.adopt.as_ref().map(|adopt| ClientId::new(&adopt.client_id)),
        retain: match spec.deletion_policy {
            Some(DeletionPolicy::Delete) => Some(false),
            // What this version does not know is not taken as a permission to delete.
            Some(DeletionPolicy::Retain | DeletionPolicy::Unknown) => Some(true),
            None => None,
        },
        suspended: spec.suspend,
        removable_scopes: object
            .annotations()
            .get(mark::REMOVE_SCOPE)
            .into_iter()
            .flat_map(|text| text.split(','))
            .map(|scope| scope.trim().to_owned())
            .collect(),
    }
}

/// What a person asks for by annotation, while it is still to be done: an annotation does not change the generation.
fn request(object: &AppIdApplication) -> Option<&str> {
    let text = object.annotations().get(mark::REMOVE_SCOPE)?;
    let (desired, added) = (desired(object), &object.status.as_ref()?.added.scopes);
    let is_open = desired
        .removable_scopes
        .iter()
        .any(|scope| added.contains(scope) && desired.scopes.as_ref().is_some_and(|wanted| !wanted.contains(scope)));
    is_open.then_some(text)
}

fn kind_of(application_type: ApplicationType) -> ApplicationKind {
    match application_type {
        ApplicationType::SinglePageApp => ApplicationKind::SinglePageApp,
        ApplicationType::RegularWebApp | ApplicationType::Unknown => ApplicationKind::RegularWebApp,
    }
}

fn shape_of(object: &AppIdApplication) -> Shape {
    let (spec, secret) = (&object.spec, &object.spec.secret);
    let only = match spec.redirect_uris.as_slice() {
        [only] => Some(only),
        _ => None,
    };
    Shape {
        layout: match secret.layout {
            SpecLayout::AppId | SpecLayout::Unknown => Layout::AppId,
            SpecLayout::OAuth => Layout::OAuth,
            SpecLayout::IbmBinding => Layout::IbmBinding,
            SpecLayout::ServiceBinding => Layout::ServiceBinding,
            SpecLayout::OAuth2Proxy => Layout::OAuth2Proxy,
            SpecLayout::Spring => Layout::Spring,
        },
        kind: kind_of(spec.application_type),
        renamed: secret.keys.clone(),
        redirect_uri: secret.redirect_uri.as_ref().or(only).map(|uri| uri.0.clone()),
        registration_id: secret.registration_id.as_ref().map(|id| id.to_uppercase()),
        scopes: spec.scopes.iter().flatten().map(|scope| scope.0.clone()).collect(),
    }
}

fn flaw(object: &AppIdApplication, shape: &Shape) -> Option<Problem> {
    let spec = &object.spec;
    let unknown =
        |field: &str| Some(Problem::new(Reason::InvalidSpec, format!("this version of the operator does not know the value of {field}")));
    if spec.application_type == ApplicationType::Unknown {
        return unknown("type");
    }
    if spec.secret.layout == SpecLayout::Unknown {
        return unknown("secret.layout");
    }
    if spec.deletion_policy == Some(DeletionPolicy::Unknown) {
        return unknown("deletionPolicy");
    }
    layout::flaw(shape)
}

/// The connection that leads to the tenant of the registration; for a deletion also one from before.
fn connection_for(context: &Context, object: &AppIdApplication, survey: &Survey) -> Option<Arc<Connection>> {
    let current = context.directory.connection(&survey.provider).ok();
    if object.metadata.deletion_timestamp.is_none() {
        return current;
    }
    match &survey.recorded.tenant {
        Some(tenant) => context.directory.connection_to(&survey.provider, tenant),
        None => current,
    }
}

async fn look_at_secret(
    context: &Context,
    object: &AppIdApplication,
    subject: &Subject,
    shape: &Shape,
    survey: &mut Survey,
    now: Timestamp,
) -> Result<(SecretView, Option<ObjectVersion>), Abort> {
    let triggers = &survey.triggers;
    // A pass that ended early has observed the spec, but not yet written the Secret that it asks for.
    let was_right = object
        .status
        .iter()
        .flat_map(|status| &status.conditions)
        .any(|condition| condition.type_ == "SecretPublished" && condition.status == "True");
    let unchanged = !triggers.secret_changed && !triggers.spec_changed && !triggers.provider_changed;
    if unchanged && was_right && survey.stored_secret.is_some() {
        return Ok((
            SecretView::Ours { client_id: survey.recorded.client_id.clone(), is_intact: true, held: None },
            survey.stored_secret.clone(),
        ));
    }
    let was_ours = survey.stored_secret.is_some();
    if was_ours && context.memory.contested_until(&survey.uid, now).is_some() {
        survey.triggers.secret_damaged = true;
        return Ok((
            SecretView::Ours { client_id: survey.recorded.client_id.clone(), is_intact: false, held: None },
            survey.stored_secret.clone(),
        ));
    }
    let (namespace, name) = &survey.key;
    let Some(metadata) = cluster::secret_metadata(&context.client, namespace, name).await? else {
        survey.triggers.secret_damaged = was_ours;
        return Ok((SecretView::Absent, None));
    };
    let version =
        ObjectVersion { uid: metadata.uid().unwrap_or_default(), resource_version: metadata.resource_version().unwrap_or_default() };
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
    survey.triggers.secret_damaged = matches!(view, SecretView::Ours { is_intact: false, .. }) && was_ours;
    Ok((view, Some(version)))
}

/// Whose a Secret is, and whether it is as we left it: from metadata alone.
fn judge(
    metadata: &PartialObjectMeta<Secret>,
    context: &Context,
    object: &AppIdApplication,
    subject: &Subject,
    shape: &Shape,
    survey: &Survey,
) -> SecretView {
    let meta = &metadata.metadata;
    let annotation = |name: &str| metadata.annotations().get(name).map(String::as_str);
    let client_id = annotation(mark::CLIENT_ID).map(ClientId::new);
    let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let is_the_one_we_wrote = survey.stored_secret.as_ref().is_some_and(|stored| Some(&stored.uid) == meta.uid.as_ref());
    let is_ours = controller.map_or(is_the_one_we_wrote, |owner| owner.uid == subject.uid);
    if is_ours {
        let is_untouched = applied_fields(meta).is_some_and(|applied| applied == expected_fields(object, subject, shape));
        // Where the address is not known now, nobody could write another one.
        let wanted = context.directory.connection(&survey.provider).ok().map(|connection| shape_mark(object, shape, &connection.host));
        let is_intact = is_untouched && wanted.is_none_or(|wanted| annotation(mark::SHAPE) == Some(wanted.as_str()));
        let is_immutable = meta
            .managed_fields
            .iter()
            .flatten()
            .any(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:immutable").is_some()));
        return if is_immutable && !is_intact { SecretView::Immutable } else { SecretView::Ours { client_id, is_intact, held: None } };
    }
    if let Some(owner) = controller {
        return SecretView::Foreign { whose: format!("{} {}", owner.kind, owner.name) };
    }
    let from_us = annotation(mark::OBJECT) == Some(subject.path().as_str());
    let from_this_cluster = annotation(mark::CLUSTER) == Some(context.settings.cluster_uid.as_str());
    let former_is_gone = annotation(mark::OBJECT_UID).is_some_and(|uid| !context.claims.lives(uid) || uid == subject.uid);
    if from_us && former_is_gone && (from_this_cluster || object.spec.adopt.is_some()) {
        return SecretView::Leftover { client_id, held: None, adopted: annotation(mark::ADOPTED) == Some("true") };
    }
    let whose = match annotation(mark::OBJECT) {
        Some(other) if from_this_cluster => format!("{other}, another object of this operator"),
        Some(other) => format!("{other} of another cluster"),
        None => "nobody this operator knows".to_owned(),
    };
    SecretView::Foreign { whose }
}

fn applied_fields(meta: &ObjectMeta) -> Option<AppliedFields> {
    let ours = |entry: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
    };
    let entry = meta.managed_fields.iter().flatten().find(ours)?;
    Some(AppliedFields::read(&entry.fields_v1.as_ref()?.0))
}

fn shape_mark(object: &AppIdApplication, shape: &Shape, origin: &str) -> String {
    layout::mark(shape, origin, &object.spec.secret.labels, &object.spec.secret.annotations)
}

fn expected_fields(object: &AppIdApplication, subject: &Subject, shape: &Shape) -> AppliedFields {
    let marks = [mark::CLIENT_ID, mark::CLUSTER, mark::OBJECT, mark::OBJECT_UID, mark::TENANT, mark::SHAPE];
    let adopted = object.status.as_ref().is_some_and(|status| status.adopted == Some(true));
    AppliedFields {
        data: layout::keys(shape),
        labels: object.spec.secret.labels.keys().cloned().chain([mark::KIND.to_owned()]).collect(),
        annotations: object
            .spec
            .secret
            .annotations
            .keys()
            .cloned()
            .chain(marks.map(String::from))
            .chain(adopted.then(|| mark::ADOPTED.to_owned()))
            .collect(),
        owners: BTreeSet::from([subject.uid.clone()]),
    }
}

impl Pass {
    fn caller(&self) -> Caller {
        Caller { namespace: self.subject.namespace.clone(), urgency: urgency(&self.object), fence: Some(self.context.leadership.clone()) }
    }

    fn api(&self) -> Api<AppIdApplication> {
        Api::namespaced(self.context.client.clone(), &self.subject.namespace)
    }

    fn app_id(&self) -> Result<Arc<AppId>, Failure> {
        match self.connection.as_ref().map(|connection| &connection.service) {
            Some(Service::AppId(app_id)) => Ok(app_id.clone()),
            _ => Err(Failure::new("reaching the service", Class::Transient, Reason::ProviderNotReady, "the provider is not ready")),
        }
    }

    fn known_secret(&self) -> Option<&ObjectVersion> {
        self.secret_version.as_ref()
    }

    async fn carry_out(&mut self, step: &Step) -> Result<Result<Outcome, Failure>, Abort> {
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
            remote => Ok(self.ask_service(remote).await),
        }
    }

    async fn claim(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let ProviderView::Usable { tenant, .. } = &self.world.provider else { return Err(Abort::Stale) };
        let (api, tenant) = (self.api(), tenant.to_string());
        self.subject.claim(&api, &tenant).await?;
        self.note_object();
        Ok(Ok(Outcome::Done))
    }

    /// Of two objects that find the same registration at the same moment, one gets it: the other looks again and sees who.
    fn reserve(&self, id: &ClientId) -> bool {
        let tenant = self.world.recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        self.context.claims.reserve(&tenant, id, &self.subject.uid)
    }

    async fn take_over_secret(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let Some(known) = self.known_secret() else { return Err(Abort::Stale) };
        let metadata = json!({ "ownerReferences": [self.subject.owner_reference()], "labels": { mark::KIND: KIND }, "annotations": { mark::RETAINED_FROM: null } });
        let version = self.subject.mark_secret(&self.context.client, &self.secret_name, known, metadata).await?;
        self.note_secret(version);
        Ok(Ok(Outcome::Done))
    }

    fn note_object(&self) {
        self.context.memory.wrote(&self.subject.uid, &self.subject.resource_version);
    }

    fn note_secret(&mut self, version: ObjectVersion) {
        self.context.secrets.note((self.subject.namespace.clone(), self.secret_name.clone()), version.clone());
        self.secret_version = Some(version);
    }

    fn content(&self, application: &Application, cookie_secret: Option<SecretText>, owned: bool) -> Result<SecretContent, Failure> {
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
        let mut annotations = spec.annotations.clone();
        annotations.extend(
            [
                (mark::CLIENT_ID, application.client_id.to_string()),
                (mark::TENANT, app_id.tenant_id().to_owned()),
                (mark::CLUSTER, self.context.settings.cluster_uid.clone()),
                (mark::OBJECT, self.subject.path()),
                (mark::OBJECT_UID, self.subject.uid.clone()),
                (mark::SHAPE, shape_mark(&self.object, &self.shape, &app_id.origin())),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        if self.world.recorded.adopted {
            annotations.insert(mark::ADOPTED.to_owned(), "true".to_owned());
        }
        let mut labels = spec.labels.clone();
        if owned {
            labels.insert(mark::KIND.to_owned(), KIND.to_owned());
        } else {
            annotations.insert(mark::RETAINED_FROM.to_owned(), self.subject.path());
        }
        Ok(SecretContent { data: layout::render(&self.shape, &credential), labels, annotations, owned })
    }

    async fn publish(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
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
                self.repairs = self.triggers.secret_damaged && !self.triggers.spec_changed;
                self.note_secret(version);
                Ok(Ok(Outcome::Done))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// oauth2-proxy's cookie secret is made once: another one would end every session.
    async fn cookie_secret(&self) -> Result<SecretText, Abort> {
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

    /// Writes what must be known before anything is added at the service.
    async fn record(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let mut world = self.world.clone();
        world.absorb(&Step::Record, Ok(Outcome::Done), Timestamp::now());
        let former = self.object.status.clone().unwrap_or_default();
        let mut status = self.facts(&world.recorded, &former);
        // What the pass comes to is not known yet: the spec counts as not observed until the report.
        status.observed_generation = former.observed_generation.or(Some(-1));
        status.conditions = former.conditions.clone();
        status.failures = former.failures;
        status.next_action_at = former.next_action_at;
        status.provider_version = former.provider_version;
        let api = self.api();
        self.subject.write_status(&api, &status).await?;
        self.note_object();
        let mut object = (*self.object).clone();
        object.status = Some(status);
        self.object = Arc::new(object);
        Ok(Ok(Outcome::Done))
    }

    /// The heir's status first, then ours: no entry is ever without an owner.
    async fn bequeath(&mut self, heir: &str, uris: &BTreeSet<String>) -> Result<Result<Outcome, Failure>, Abort> {
        let (namespace, name) = heir.split_once('/').unwrap_or_default();
        let api: Api<AppIdApplication> = Api::namespaced(self.context.client.clone(), namespace);
        let object = api.get(name).await.map_err(Abort::of("reading the heir of redirect URIs"))?;
        let mut status = object.status.clone().unwrap_or_default();
        let lists_them = uris.iter().all(|uri| object.spec.redirect_uris.iter().any(|listed| listed.0 == *uri));
        if object.metadata.deletion_timestamp.is_some() || !lists_them {
            return Err(Abort::Stale);
        }
        status.added.redirect_uris.extend(uris.iter().cloned());
        let mut heir = Subject::of(KIND, &object);
        heir.write_status(&api, &status).await?;
        self.context.memory.wrote(&heir.uid, &heir.resource_version);
        Ok(Ok(Outcome::Done))
    }

    async fn release_secret(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
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
        let id = self.world.recorded.client_id.as_ref().map(ToString::to_string).unwrap_or_default();
        self.announcements.push(Announcement {
            reason: Reason::Retained,
            note: format!("kept the registration {id} and its Secret {}", self.secret_name),
            is_warning: false,
        });
        Ok(Ok(Outcome::Done))
    }

    async fn release(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
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
        self.subject.release(&api, &finalizers).await?;
        Ok(Ok(Outcome::Done))
    }

    fn abandon(&mut self) -> Outcome {
        let recorded = &self.world.recorded;
        let id = recorded
            .client_id
            .as_ref()
            .map_or_else(|| format!("what may bear the name {}", self.world.provisional), |id| format!("the application {id}"));
        let tenant = recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let uris = recorded.added.redirect_uris.iter().cloned().collect::<Vec<_>>().join(", ");
        let rest = if uris.is_empty() { String::new() } else { format!(" and the redirect URIs {uris}") };
        let note = format!("could not delete {id} of tenant {tenant}{rest}; it was given up: remove it by hand");
        tracing::error!(object = %self.subject.path(), %note, "a registration was given up");
        self.context.metrics.orphaned(KIND);
        self.announcements.push(Announcement { reason: Reason::Orphaned, note, is_warning: true });
        Outcome::Done
    }

    async fn register(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let app_id = match self.app_id() {
            Ok(app_id) => app_id,
            Err(failure) => return Ok(Err(failure)),
        };
        let context = self.context.clone();
        let in_flight = context.leadership.begin_create();
        let result = app_id.register(&self.caller(), self.world.provisional.as_str(), self.world.desired.kind).await;
        if let Ok(application) = &result
            && !context.leadership.holds()
        {
            self.give_back(&app_id, &application.client_id).await;
            return Err(Abort::LostLease);
        }
        drop(in_flight);
        Ok(result.map(Outcome::Application))
    }

    /// We no longer lead, but hold the answer to a registration: where nobody else can find it any more, it is removed again.
    async fn give_back(&self, app_id: &AppId, id: &ClientId) {
        let current = self.api().get_opt(&self.subject.name).await;
        let object = match current {
            Ok(object) => object.filter(|object| object.uid().as_deref() == Some(self.subject.uid.as_str())),
            Err(error) => {
                tracing::warn!(object = %self.subject.path(), client_id = %id, %error, "lost the lease with a registration in hand; it is left to the successor");
                return;
            }
        };
        let recorded = object.as_ref().and_then(|object| object.status.as_ref()).and_then(|status| status.client_id.clone());
        let belongs_to_nobody = object.is_none() || recorded.is_some_and(|recorded| recorded != id.as_str());
        if !belongs_to_nobody {
            tracing::info!(object = %self.subject.path(), client_id = %id, "lost the lease with a registration in hand; the successor will find it");
            return;
        }
        let unfenced = Caller { fence: None, ..self.caller() };
        match app_id.deregister(&unfenced, id).await {
            Ok(_) => tracing::info!(object = %self.subject.path(), client_id = %id, "removed a registration that came too late"),
            Err(failure) => {
                tracing::error!(object = %self.subject.path(), client_id = %id, %failure, "a registration that came too late could not be removed")
            }
        }
    }

    async fn ask_service(&self, step: &Step) -> Result<Outcome, Failure> {
        let (app_id, caller) = (self.app_id()?, self.caller());
        let held = || {
            self.world.recorded.client_id.clone().ok_or_else(|| {
                Failure::new("working on the application", Class::Unexpected, Reason::InProgress, "no application is recorded")
            })
        };
        Ok(match step {
            Step::ReadCatalogue => Outcome::Catalogue(app_id.catalogue(&caller).await?),
            Step::FindNamesakes => Outcome::Namesakes(app_id.find(&caller, self.world.provisional.as_str()).await?),
            Step::Look(id) => app_id.look(&caller, id).await?.map_or(Outcome::NotFound, Outcome::Application),
            Step::ConfirmAbsence(id) => Outcome::Listed(app_id.is_listed(&caller, id).await?),
            Step::RemoveSurplus(id) | Step::Deregister(id) => {
                if app_id.deregister(&caller, id).await? {
                    Outcome::Done
                } else {
                    Outcome::NotFound
                }
            }
            Step::ReadScopes => Outcome::Names(app_id.scopes(&caller, &held()?).await?),
            Step::SetScopes(scopes) => {
                app_id.set_scopes(&caller, &held()?, scopes).await?;
                Outcome::Names(scopes.clone())
            }
            Step::ReadRoles => Outcome::Roles(app_id.roles(&caller, &held()?).await?),
            Step::SetRoles(roles) => {
                app_id.set_roles(&caller, &held()?, roles).await?;
                Outcome::Roles(roles.clone())
            }
            Step::ReadRedirectUris => Outcome::Names(app_id.redirect_uris(&caller).await?),
            Step::MergeRedirectUris { add, remove } => self.merge_redirect_uris(&app_id, &caller, add, remove).await?,
            Step::Rename(name) => {
                app_id.rename(&caller, &held()?, name).await?;
                Outcome::Renamed
            }
            Step::Try => {
                self.try_credential(&app_id, &caller).await?;
                Outcome::Done
            }
            local => unreachable!("{local:?} is not asked of the service"),
        })
    }

    async fn merge_redirect_uris(
        &self,
        app_id: &AppId,
        caller: &Caller,
        add: &BTreeSet<String>,
        remove: &BTreeSet<String>,
    ) -> Result<Outcome, Failure> {
        let (context, uid) = (self.context.clone(), self.subject.uid.clone());
        let tenant = self.world.recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let is_wanted = move |uri: &str| !context.claims.heirs(&tenant, std::iter::once(&uri.to_owned()), &uid).is_empty();
        let merged = app_id.merge_redirect_uris(caller, add.clone(), remove.clone(), is_wanted).await?;
        Ok(Outcome::Merged { list: merged.list, already: merged.already })
    }

    async fn try_credential(&self, app_id: &AppId, caller: &Caller) -> Result<(), Failure> {
        let Sight::Present(Application { client_id, secret: Some(secret), .. }) = &self.world.remote.sight else {
            return Err(Failure::new(
                "trying the published credential",
                Class::Transient,
                Reason::InProgress,
                "the credential was not seen in this pass",
            ));
        };
        app_id.try_credential(caller, client_id, secret).await
    }

    /// The part of status that the rules read back.
    fn facts(&self, recorded: &Recorded, former: &AppIdApplicationStatus) -> AppIdApplicationStatus {
        let is_published = matches!(self.world.secret, SecretView::Ours { .. });
        let time = |time: Timestamp| Time(whole_seconds(time));
        AppIdApplicationStatus {
            client_id: recorded.client_id.as_ref().map(ToString::to_string),
            tenant: recorded.client_id.as_ref().and(recorded.tenant.as_ref()).map(ToString::to_string),
            adopted: recorded.adopted.then_some(true),
            secret_ref: is_published.then(|| LocalReference { name: self.secret_name.clone() }),
            binding: (is_published && self.shape.layout == Layout::ServiceBinding)
                .then(|| BindingReference { name: self.secret_name.clone() }),
            secret_version: self.trusted_version(),
            added: AddedAtService {
                scopes: recorded.added.scopes.clone(),
                roles: recorded.added.roles.clone(),
                redirect_uris: recorded.added.redirect_uris.clone(),
            },
            verified_at: recorded.verified.then(|| former.verified_at.clone().unwrap_or_else(|| time(Timestamp::now()))),
            unclear_since: recorded.unclear_since.map(time),
            missing_since: recorded.missing_since.map(time),
            deletion: former.deletion.clone(),
            ..AppIdApplicationStatus::default()
        }
    }

    /// What later passes may trust without a look: a version that is exactly right. One that is ours but not right yet keeps its
    /// UID, by which it is known again, and no resourceVersion, so that it is looked at again.
    fn trusted_version(&self) -> Option<ObjectVersion> {
        let version = self.secret_version.clone()?;
        match &self.world.secret {
            SecretView::Ours { is_intact: true, .. } => Some(version),
            SecretView::Ours { .. } | SecretView::Immutable => Some(ObjectVersion { resource_version: String::new(), ..version }),
            SecretView::Absent | SecretView::Leftover { .. } | SecretView::Foreign { .. } => None,
        }
    }

    async fn announce_all(&mut self) {
        let news = std::mem::take(&mut self.world.news);
        let mut announcements: Vec<Announcement> = news
            .into_iter()
            .map(|News { reason, note }| Announcement { reason, note, is_warning: reason == Reason::RegisteredAgain })
            .collect();
        announcements.append(&mut self.announcements);
        for announcement in announcements {
            cluster::announce(
                &self.context.client,
                &self.subject,
                &self.context.settings.namespace,
                &self.context.settings.instance,
                &announcement,
            )
            .await;
        }
    }

    async fn finish(mut self, now: Timestamp) -> Result<Option<Timestamp>, Abort> {
        if self.world.deleting.as_ref().is_some_and(|deleting| deleting.released)
            || (self.world.deleting.is_some() && self.world.claim == Claim::Absent)
        {
            return Ok(None);
        }
        let former = self.object.status.clone().unwrap_or_default();
        let was_full = self.world.attention == Attention::Full && rules::obstacle(&self.world).is_none();
        let failures = u32::try_from(former.failures.unwrap_or(0)).unwrap_or(0) + 1;
        let verdict = self.world.verdict(failures, &self.subject.uid, now);
        let status = self.status(&verdict, &former, failures, now);
        if was_full {
            self.context.memory.checked(&self.subject.uid, now);
        }
        if self.repairs {
            self.context.memory.repaired(&self.subject.uid, now);
            self.announcements.push(Announcement {
                reason: Reason::SecretRepaired,
                note: format!("put the Secret {} back", self.secret_name),
                is_warning: false,
            });
        }
        self.announcements.extend(
            announcement_of_change(&former.conditions, &status.conditions)
                .filter(|change| self.world.news.iter().all(|news| news.reason != change.reason)),
        );
        let again = status.next_action_at.as_ref().map(|at| at.0);
        if status != former {
            let api = self.api();
            self.subject.write_status(&api, &status).await?;
            self.note_object();
        }
        self.announce_all().await;
        let drift = (status.client_id.is_some() && !self.object.spec.suspend)
            .then(|| wait::next_drift_check(now, self.context.settings.drift_interval, &self.subject.uid))
            .flatten();
        Ok(match (again, drift) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    fn status(&self, verdict: &Verdict, former: &AppIdApplicationStatus, failures: u32, now: Timestamp) -> AppIdApplicationStatus {
        let is_local = self.world.attention < Attention::Full && rules::obstacle(&self.world).is_none();
        let mut status = self.facts(&self.world.recorded, former);
        if is_local {
            // Only the Secret's version is news: everything else stays as the last full pass left it.
            return AppIdApplicationStatus { secret_version: status.secret_version, ..former.clone() };
        }
        let generation = self.subject.generation;
        status.observed_generation = Some(generation);
        status.conditions = Conditions::new(&former.conditions, generation, now)
            .ready(verdict.problem.as_ref())
            .state("Registered", &verdict.registered)
            .state("SecretPublished", &verdict.published)
            .state("Verified", &verdict.verified)
            .finish();
        let obstructed = rules::obstacle(&self.world).is_some();
        status.provider_version =
            if obstructed { former.provider_version.clone() } else { self.context.directory.version(&self.provider_key()) };
        status.failures = verdict.failed.then(|| i32::try_from(failures).unwrap_or(i32::MAX));
        let again = verdict.again.map(|at| Time(whole_seconds_from(at)));
        // The same obstacle as before keeps its time: looking at it again is no news.
        let keeps = obstructed && status.conditions == former.conditions && former.next_action_at.as_ref().is_some_and(|at| at.0 > now);
        status.next_action_at = if keeps { former.next_action_at.clone() } else { again };
        if self.world.deleting.is_some() && verdict.failed_deletion() {
            status.deletion = former.deletion.clone().or_else(|| Some(DeletionProgress { first_failed_at: Time(whole_seconds(now)) }));
        }
        status
    }

    fn provider_key(&self) -> ProviderKey {
        ProviderKey::referred(&self.object.spec.provider_ref, &self.subject.namespace)
    }
}
