//! `AccessToken`: reads what the rules need, does what they say, and reports what came of it.

mod schedules;
mod secret;
mod source;
mod spec;
mod status;

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;
use kube::{Api, ResourceExt};

pub use self::{
    schedules::{Kept, Schedules},
    spec::{claim_of, named_secrets, namer},
};
use self::{
    source::{Source, digest},
    spec::{policy_of, secret_key},
};
use super::{
    Context, Kind,
    clock::moment,
    cluster::{Abort, Announcement, Subject},
    report::{condition, is_said, is_true},
};
use crate::{
    api::{AccessToken, AccessTokenStatus, ObjectVersion},
    model::{Class, Failure, IssuedToken, Life},
    plan::token::{self as rules, Issued, Published, SecretView, Step, World},
    provider::{Caller, TokenIssuer, Urgency, gate::Permit},
    reasons::Reason,
};

/// The kind's name.
pub const KIND: &str = "AccessToken";

/// Where the service tells no lifetime, and the provider sets none.
const LIFETIME_UNKNOWN: std::time::Duration = std::time::Duration::from_secs(600);

/// The kind.
#[derive(Debug)]
pub enum AccessTokens {}

/// One pass over one token.
pub struct Pass {
    context: Arc<Context>,
    object: Arc<AccessToken>,
    subject: Subject,
    source: Option<Source>,
    source_digest: [u8; 32],
    secret_version: Option<ObjectVersion>,
    secret_is_damaged: bool,
    kept: Option<Kept>,
    token: Option<(IssuedToken, Life)>,
    world: World,
    announcements: Vec<Announcement>,
}

impl Kind for AccessTokens {
    type Object = AccessToken;
    type Pass = Pass;
    type Step = Step;

    const NAME: &'static str = KIND;

    fn settled(context: &Context, object: &AccessToken, _: Timestamp) -> Option<Option<Timestamp>> {
        let now = context.clock.now();
        let status = object.status.as_ref()?;
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        if status.observed_generation != object.metadata.generation || context.memory.is_woken(uid) {
            return None;
        }
        if context.secrets.get(&secret_key(object)) != status.secret_version {
            return None;
        }
        let outline = source::outline(context, object);
        let is_ahead = |at: &Timestamp| *at > now;
        let retry_at = status.next_action_at.as_ref().map(|at| at.0);
        let (expires_at, refresh_at) = times(context, status, uid);
        let ends_unsaid = |at: &Timestamp| is_true(&status.conditions, "Ready") && *at <= now;
        if expires_at.as_ref().is_some_and(ends_unsaid) {
            return None;
        }
        let wanted = match &outline {
            Err(problem) => {
                let is_known = is_said(&status.conditions, problem) || is_suspended(object, status);
                let waits = is_known && context.schedules.has_passed(uid) && retry_at.as_ref().is_none_or(is_ahead);
                return waits.then(|| local(now, earliest([retry_at, expires_at.filter(is_ahead)])));
            }
            Ok(outline) => outline.issued_for.as_ref(),
        };
        if is_suspended(object, status) {
            return Some(local(now, expires_at.filter(is_ahead)));
        }
        if status.failures.is_some() || retry_at.is_some() {
            let is_tried = wanted.is_some() && status.tried_for.as_ref() == wanted;
            let is_known_obstacle = status.failures.is_none() && context.schedules.has_passed(uid) && stands(status, wanted.is_some());
            let waits = (is_tried || is_known_obstacle) && retry_at.as_ref().is_some_and(is_ahead);
            return waits.then(|| local(now, earliest([retry_at, expires_at.filter(is_ahead)])));
        }
        let is_current = wanted.is_some() && status.issued_for.as_ref() == wanted;
        let is_fresh = is_current && refresh_at.as_ref().is_some_and(is_ahead);
        is_fresh.then(|| local(now, earliest([refresh_at, expires_at])))
    }

    async fn admitted(context: &Arc<Context>, object: &AccessToken) -> Option<Permit> {
        let outline = source::outline(context, object).ok()?;
        let namespace = object.namespace().unwrap_or_default();
        // The gate of passes has no pauses: it never fails.
        outline.connection.admission.enter("waiting for a turn", &namespace, urgency(object)).await.ok()
    }

    async fn gather(context: &Arc<Context>, object: Arc<AccessToken>) -> Result<Pass, Abort> {
        let now = context.clock.now();
        let subject = Subject::of(KIND, &*object);
        let status = object.status.clone().unwrap_or_default();
        let (source, obstacle) = match source::outline(context, &object) {
            Err(problem) => (None, Some(problem)),
            Ok(_) if object.spec.suspend => (None, None),
            Ok(outline) => match source::read(context, &object, &outline).await? {
                Ok(source) => (Some(source), None),
                Err(problem) => (None, Some(problem)),
            },
        };
        let kept = context.schedules.of(&subject.uid, status.last_refreshed_at.as_ref().map(|at| at.0));
        let source_digest = source.as_ref().map(digest).unwrap_or_default();
        let is_current = source.as_ref().is_some_and(|source| {
            // A Secret that was touched and says the same, or a provider whose budget was changed, is no reason for another token.
            status.issued_for.as_ref() == Some(&source.issued_for) || kept.is_some_and(|kept| kept.source == source_digest)
        });
        let spec_changed = status.observed_generation != Some(subject.generation);
        let key = secret_key(&object);
        let is_gone = context.secrets.get(&key).is_none();
        let contested_until = (!spec_changed).then(|| context.memory.contested_until(&subject.uid, is_gone, Timestamp::now())).flatten();
        let look = secret::look(context, &object, &subject, &status, contested_until.is_some()).await?;
        let (expires_at, refresh_at) = times(context, &status, &subject.uid);
        let published = expires_at.zip(refresh_at).map(|(expires_at, refresh_at)| Published {
            expires_at,
            refresh_at,
            is_current,
            fits_the_spec: status.issued_for.as_ref().is_some_and(|issued_for| issued_for.generation == subject.generation),
        });
        let owns_secret = matches!(look.view, SecretView::Ours { .. } | SecretView::Immutable);
        let world = World {
            suspended: object.spec.suspend,
            obstacle,
            secret_rival: if owns_secret { None } else { context.claims.secret_rival(&key, &subject.uid).map(|rival| rival.to_string()) },
            secret: look.view,
            // The pause is remembered by the local clock, which does not matter for a span.
            contested_until: contested_until.and_then(|until| now.checked_add(until.duration_since(Timestamp::now())).ok()),
            published,
            retry_at: status.next_action_at.as_ref().map(|at| at.0).filter(|_| status.failures.is_some()),
            // What belongs to a user and was refused is presented again only when it has changed itself: services lock users out.
            is_news: (context.memory.is_woken(&subject.uid) && !was_refused_to_a_user(&status))
                || spec_changed
                || source.as_ref().is_some_and(|source| status.tried_for.as_ref() != Some(&source.issued_for)),
            is_of_a_user: source.as_ref().is_some_and(|source| source.request.grant.is_of_a_user()),
            issued: None,
            written: None,
        };
        Ok(Pass {
            context: context.clone(),
            object,
            subject,
            source,
            source_digest,
            secret_version: look.version,
            secret_is_damaged: look.is_damaged && !spec_changed,
            kept,
            token: None,
            world,
            announcements: Vec::new(),
        })
    }

    fn plan(pass: &Pass, _: Timestamp) -> Option<Step> {
        rules::next(&pass.world, pass.context.clock.now())
    }

    async fn perform(pass: &mut Pass, step: Step) -> Result<(), Abort> {
        match step {
            Step::Fetch => {
                let issued = pass.fetch().await;
                pass.tell_the_provider(&issued);
                if let Err(failure) = &issued {
                    tracing::info!(object = %pass.subject.path(), class = failure.class.as_str(), reason = %failure.reason, %failure, "no token came");
                }
                pass.world.issued = Some(issued);
            }
            Step::TakeOver => {
                pass.take_over().await?;
                pass.world.secret = SecretView::Ours { is_intact: false };
            }
            Step::Publish => {
                let written = pass.publish().await?;
                pass.world.written = Some(written);
            }
        }
        Ok(())
    }

    async fn report(pass: Pass, _: Timestamp) -> Result<Option<Timestamp>, Abort> {
        let (context, uid) = (pass.context.clone(), pass.subject.uid.clone());
        let again = pass.finish().await?;
        context.schedules.passed(&uid);
        Ok(again)
    }
}

impl Pass {
    fn api(&self) -> Api<AccessToken> {
        Api::namespaced(self.context.client.clone(), &self.subject.namespace)
    }

    /// What was met at the service is news about the provider, too: its own status is to say so.
    fn tell_the_provider(&self, issued: &Result<Issued, Failure>) {
        use Reason::{AddressNotAllowed, DiscoveryFailed, EndpointsChanged, IssuerMismatch, TenantNotFound, TlsNotTrusted};
        let Some(source) = &self.source else { return };
        match issued {
            Ok(_) => self.context.reassure(&source.provider),
            Err(failure) => {
                let of_the_place = [AddressNotAllowed, DiscoveryFailed, EndpointsChanged, IssuerMismatch, TenantNotFound, TlsNotTrusted];
                let is_of_the_provider =
                    of_the_place.contains(&failure.reason) || (source.is_the_providers_own && failure.class == Class::Unauthorized);
                if is_of_the_provider {
                    self.context.doubt(&source.provider);
                }
            }
        }
    }

    async fn fetch(&mut self) -> Result<Issued, Failure> {
        const DOING: &str = "getting a token";
        let source = self
            .source
            .as_ref()
            .ok_or_else(|| Failure::new(DOING, Class::Transient, Reason::ProviderNotReady, "the provider is not ready"))?;
        let fence = Some(self.context.leadership.clone() as Arc<dyn crate::provider::Fence>);
        let caller = Caller { namespace: self.subject.namespace.clone(), urgency: urgency(&self.object), fence };
        let issued = source.connection.service.issue(&caller, &source.request).await?;
        if self.object.spec.secret.identity_token && issued.identity_token.is_none() {
            let message = "the answer holds no ID token, which spec.secret.identityToken asks for: ask for the scope openid";
            return Err(Failure::new(DOING, Class::Rejected, Reason::UnexpectedResponse, message));
        }
        let life = Life::told(&issued.told, source.connection.service.lifetime().unwrap_or(LIFETIME_UNKNOWN));
        let came = self.context.clock.time_at(issued.received);
        let later = |span: std::time::Duration| came.checked_add(span).unwrap_or(Timestamp::MAX);
        let digest = secret::digest_of(&issued);
        let is_the_same = self.kept.is_some_and(|kept| kept.token == digest);
        let refresh_after = policy_of(&self.object).refresh_after(&life, &self.subject.uid);
        let result = Issued { expires_at: later(life.remaining), refresh_at: later(refresh_after), is_the_same };
        self.token = Some((issued, life));
        Ok(result)
    }
}

/// Whether the obstacle that was reported is one that can stand although nothing is in the way from here: whatever could end it wakes the
/// object.
fn stands(status: &AccessTokenStatus, has_credentials: bool) -> bool {
    use Reason::{
        ClientNotReady, Contested, CredentialsInvalid, CredentialsNotFound, CredentialsRequired, InvalidSpec, NotPermitted, SecretConflict,
        SecretImmutable, SecretReferenceRefused,
    };
    let standing = [
        Contested,
        CredentialsInvalid,
        CredentialsNotFound,
        CredentialsRequired,
        InvalidSpec,
        NotPermitted,
        SecretConflict,
        SecretImmutable,
        SecretReferenceRefused,
    ];
    let said = condition(&status.conditions, "Ready").map(|ready| ready.reason.as_str());
    said.is_some_and(|said| standing.iter().any(|reason| said == reason.as_str()) || (said == ClientNotReady.as_str() && !has_credentials))
}

fn was_refused_to_a_user(status: &AccessTokenStatus) -> bool {
    condition(&status.conditions, "Fresh").is_some_and(|fresh| fresh.reason == Reason::InvalidGrant.as_str())
}

fn is_suspended(object: &AccessToken, status: &AccessTokenStatus) -> bool {
    let says_so = condition(&status.conditions, "Ready")
        .is_some_and(|ready| [Reason::Suspended, Reason::TokenExpired].iter().any(|reason| ready.reason == reason.as_str()));
    object.spec.suspend && says_so
}

/// End of the published token and when it is to be replaced, in the cluster's time: by this process's own clock where it published it.
fn times(context: &Context, status: &AccessTokenStatus, uid: &str) -> (Option<Timestamp>, Option<Timestamp>) {
    match context.schedules.of(uid, status.last_refreshed_at.as_ref().map(|at| at.0)) {
        Some(kept) => (Some(context.clock.time_at(kept.expires)), Some(context.clock.time_at(kept.refresh))),
        None => (status.expires_at.as_ref().map(|at| at.0), status.refresh_at.as_ref().map(|at| at.0)),
    }
}

fn urgency(object: &AccessToken) -> Urgency {
    let expires_at = object.status.as_ref().and_then(|status| status.expires_at.as_ref());
    // What ends first comes first.
    expires_at.map_or(Urgency::Wanted, |at| Urgency::Expiring(at.0.as_second()))
}

fn earliest<const N: usize>(times: [Option<Timestamp>; N]) -> Option<Timestamp> {
    times.into_iter().flatten().min()
}

/// The local time at which the cluster's time will be `at`: what timers are set by.
fn local(now: Timestamp, at: Option<Timestamp>) -> Option<Timestamp> {
    Timestamp::now().checked_add(at?.duration_since(now)).ok()
}

/// A moment of this process at the cluster's time `at`.
fn moment_of(now: Timestamp, at: Timestamp) -> Instant {
    moment(Instant::now(), at.duration_since(now))
}
