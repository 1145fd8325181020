//! `AccessToken`: reads what the rules need, does what they say, and reports what came of it.

mod census;
mod refresh_token;
mod schedules;
mod secret;
#[cfg(test)]
mod simulation;
mod source;
mod spec;
mod status;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use kube::Api;

pub use self::{
    census::{Summary, census},
    refresh_token::RefreshTokens,
    schedules::{Kept, Schedules},
    spec::{claim_of, named_secrets, namer, watched_secrets},
};
use self::{
    refresh_token::Held,
    source::{Outline, Source, digest},
    spec::{policy_of, secret_key, spends, spent_key, state_key},
};
use super::{
    Context, Found, Kind,
    clock::moment,
    cluster::{Abort, Announcement, Subject},
    report::{condition, is_said, is_true},
};
use crate::{
    api::{AccessToken, AccessTokenStatus, IssuedFor, ObjectVersion},
    model::{Class, Failure, Grant, IssuedToken, Life, TokenRequest},
    plan::{
        Problem,
        token::{self as rules, Issued, Published, SecretView, Step, World},
    },
    provider::{Caller, TokenIssuer, Urgency},
    reasons::Reason,
};

/// The kind's name.
pub const KIND: &str = "AccessToken";

const DOING: &str = "getting a token";

/// Where the service tells no lifetime, and the provider sets none.
const LIFETIME_UNKNOWN: Duration = Duration::from_secs(600);

/// What comes so long after its time comes when the service or the budget let it come, like everything else then.
const LONG_OVERDUE: SignedDuration = SignedDuration::from_secs(60);

/// A service that answers within this long says by that what has become of a token that has ended.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

const WAITS_FOR_ITS_TURN: &str =
    "the token in the Secret has ended, and others are replaced before it: it is replaced when its turn comes (budget of the provider)";

/// What is known of the source of a token, or what is in the way.
type Outlined = Result<Outline, Problem>;

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
    refresh_token: Option<Held>,
    token: Option<(IssuedToken, Life)>,
    world: World,
    announcements: Vec<Announcement>,
}

impl Kind for AccessTokens {
    type Object = AccessToken;
    type Known = Outlined;
    type Pass = Pass;
    type Step = Step;

    const NAME: &'static str = KIND;

    fn look(context: &Context, object: &AccessToken, _: Timestamp) -> Found<Outlined> {
        if object.metadata.deletion_timestamp.is_some() {
            // Its Secret goes with it, in the foreground even before it.
            return Found::Nothing(None);
        }
        let outline = source::outline(context, object);
        match settled(context, object, &outline) {
            Some(again) => Found::Nothing(again),
            None => {
                let (now, urgency) = (context.clock.now(), urgency(context, object));
                let uid = object.metadata.uid.as_deref().unwrap_or_default();
                let status = object.status.as_ref();
                let end = status.and_then(|status| times(context, status, uid).0);
                let has_ended = status.is_some_and(|status| ends_unsaid(status, end, now));
                let (known, turns) = match outline {
                    // What waits in a line cannot say that it has ended.
                    Ok(outline) if has_ended && outline.connection.admission.are_taken() => {
                        (Err(Problem::new(Reason::TokenExpired, WAITS_FOR_ITS_TURN)), context.local_turns.clone())
                    }
                    Ok(outline) => {
                        let turns = outline.connection.admission.clone();
                        (Ok(outline), turns)
                    }
                    Err(problem) => (Err(problem), context.local_turns.clone()),
                };
                Found::Work { known, turn: Some((turns, urgency)), meanwhile: local(now, end.filter(|end| *end > now)) }
            }
        }
    }

    async fn gather(context: &Arc<Context>, object: Arc<AccessToken>, outline: Outlined) -> Result<Pass, Abort> {
        let now = context.clock.now();
        let subject = Subject::of(KIND, &*object);
        let status = object.status.clone().unwrap_or_default();
        let (source, obstacle) = match outline {
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
        if look.is_damaged && look.view == SecretView::Absent && !still_wanted(context, &subject).await? {
            return Err(Abort::Gone);
        }
        let (expires_at, refresh_at) = times(context, &status, &subject.uid);
        let published = expires_at.zip(refresh_at).map(|(expires_at, refresh_at)| Published {
            expires_at,
            refresh_at,
            is_current,
            fits_the_spec: status.issued_for.as_ref().is_some_and(|issued_for| issued_for.generation == subject.generation),
        });
        let (refresh_token, obstacle) = match (&source, obstacle) {
            (Some(Source { request: TokenRequest { grant: Grant::RefreshToken(seed), .. }, .. }), None) => {
                match refresh_token::look(context, &object, &subject, &status, seed).await? {
                    Ok(held) => (Some(held), None),
                    Err(problem) => (None, Some(problem)),
                }
            }
            // What came in an earlier pass is stored whatever keeps another from being asked for.
            (None, obstacle) if spends(&object).is_some() => (context.refresh_tokens.before_successor(&subject.uid), obstacle),
            (_, obstacle) => (None, obstacle),
        };
        let obstacle = obstacle.or_else(|| refresh_token_rival(context, &object, &subject.uid));
        let said = said_of_failure(&status);
        let owns_secret = matches!(look.view, SecretView::Ours { .. } | SecretView::Immutable);
        let world = World {
            suspended: object.spec.suspend,
            obstacle,
            secret_rival: secret_rival(context, &object, &subject.uid, owns_secret, refresh_token.as_ref().is_some_and(Held::is_stored)),
            secret: look.view,
            // The pause is remembered by the local clock, which does not matter for a span.
            contested_until: contested_until.and_then(|until| now.checked_add(until.duration_since(Timestamp::now())).ok()),
            published,
            // What a person has to mend is not tried again by itself: the time that stands there is that of an obstacle.
            retry_at: status.next_action_at.as_ref().map(|at| at.0).filter(|_| status.failures.is_some() && !is_refused(&status)),
            said,
            // What belongs to a user and was refused is presented again only when it has changed itself: services lock users out.
            is_news: (context.memory.is_woken(&subject.uid) && !was_refused_to_a_user(&status))
                || spec_changed
                || source.as_ref().is_some_and(|source| is_another(&object, status.tried_for.as_ref(), &source.issued_for)),
            is_of_a_user: source.as_ref().is_some_and(|source| source.request.grant.is_of_a_user()),
            refresh_token: refresh_token.as_ref().map(|held| held.known(context, &subject, &status)),
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
            refresh_token,
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
            Step::KeepSuccessor => pass.keep_successor().await?,
            Step::RecordUse => {
                let gate = pass.source.as_ref().map(|source| source.connection.service.gate());
                let recorded = match gate.and_then(|gate| gate.pause(DOING)) {
                    // Nothing would be sent: that is no use.
                    Some(failure) => Err(failure),
                    None => pass.record_use().await?,
                };
                if let Err(failure) = recorded {
                    pass.world.issued = Some(Err(failure));
                }
            }
            Step::Fetch => {
                let issued = pass.fetch().await?;
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
        // Whoever has nothing left waits for the service to come back, and a provider that is doubted is looked at often.
        let now = self.context.clock.now();
        let has_ended = self.world.published.as_ref().is_some_and(|published| published.expires_at <= now);
        use Reason::{AddressNotAllowed, DiscoveryFailed, EndpointsChanged, IssuerMismatch, TenantNotFound, TlsNotTrusted};
        let Some(source) = &self.source else { return };
        match issued {
            Ok(_) => self.context.reassure(&source.provider),
            Err(failure) => {
                let of_the_place = [AddressNotAllowed, DiscoveryFailed, EndpointsChanged, IssuerMismatch, TenantNotFound, TlsNotTrusted];
                let is_of_the_provider =
                    of_the_place.contains(&failure.reason) || (source.is_the_providers_own && failure.class == Class::Unauthorized);
                if is_of_the_provider || (has_ended && failure.class == Class::Transient) {
                    self.context.doubt(&source.provider);
                }
            }
        }
    }

    /// Whether a token that comes now comes at a time that no schedule chose.
    fn is_unplanned(&self, now: Timestamp) -> bool {
        let planned = self.world.published.as_ref().map(|published| published.refresh_at);
        planned.is_none_or(|at| now < at || now.duration_since(at) >= LONG_OVERDUE)
    }

    async fn fetch(&mut self) -> Result<Result<Issued, Failure>, Abort> {
        let Some(source) = &self.source else { return Err(Abort::Stale) };
        let context = self.context.clone();
        let fence = Some(context.leadership.clone() as Arc<dyn crate::provider::Fence>);
        let namespace = self.subject.namespace.clone();
        let requester = source.requester(&namespace).unwrap_or_else(|| self.subject.uid.clone());
        let caller = Caller { namespace, urgency: urgency(&self.context, &self.object), requester, fence };
        let (connection, request) = (source.connection.clone(), source.request.clone());
        let request = self.refresh_token.as_ref().map_or_else(|| request.clone(), |held| held.request(&request));
        // The process does not end between the answer and the successor's being stored.
        let in_flight = self.refresh_token.as_ref().map(|_| context.leadership.begin_create());
        let issued = match self.answer(connection.service.issue(&caller, &request)).await {
            Ok(issued) => issued,
            Err(failure) => return Ok(Err(failure)),
        };
        let life = Life::told(&issued.told, connection.service.lifetime().unwrap_or(LIFETIME_UNKNOWN));
        if self.refresh_token.is_some()
            && let Err(failure) = self.follow(&issued, life).await?
        {
            // The refresh token is used up, whatever became of its successor.
            return Ok(Err(Failure { may_have_happened: true, ..failure }));
        }
        drop(in_flight);
        if self.object.spec.secret.identity_token && issued.identity_token.is_none() {
            let message = "the answer holds no signed ID token, which spec.secret.identityToken asks for: ask for the scope openid";
            return Ok(Err(Failure::new(DOING, Class::Rejected, Reason::UnexpectedResponse, message)));
        }
        Ok(Ok(self.came(issued, life)))
    }

    /// The answer to a call. When the published token ends meanwhile, status says so: nobody is to wait for a service that hangs to hear of it.
    async fn answer<T>(&mut self, call: impl Future<Output = T>) -> T {
        let end = self.world.published.as_ref().map(|published| published.expires_at);
        let says_that_it_lives = self.object.status.as_ref().is_some_and(says_that_it_lives);
        let Some(end) = end.filter(|_| says_that_it_lives) else { return call.await };
        let rest = Duration::try_from(end.duration_since(self.context.clock.now())).unwrap_or_default();
        let mut call = pin!(call);
        match tokio::time::timeout(rest.max(ANSWERS_WITHIN), &mut call).await {
            Ok(answer) => answer,
            Err(_) => tokio::join!(call, self.say_that_it_ended(end)).0,
        }
    }

    /// A token that came, in the words of the rules.
    fn came(&mut self, issued: IssuedToken, life: Life) -> Issued {
        let came = self.context.clock.time_at(issued.received);
        let later = |span: Duration| came.checked_add(span).unwrap_or(Timestamp::MAX);
        let digest = secret::digest_of(&issued);
        let is_the_same = self.kept.is_some_and(|kept| kept.token == digest);
        let policy = policy_of(&self.object);
        let place = self.source.as_ref().map(Source::place);
        let is_of_a_crowd =
            self.is_unplanned(came) && place.is_some_and(|place| self.context.schedules.is_one_of_many(place, issued.received));
        let refresh_after = if is_of_a_crowd {
            policy.refresh_after_a_crowd(&life, &self.subject.uid)
        } else {
            policy.refresh_after(&life, &self.subject.uid)
        };
        self.token = Some((issued, life));
        Issued { expires_at: later(life.remaining), refresh_at: later(refresh_after), is_the_same }
    }
}

/// Another object that claims a Secret of this one and comes first. Who holds a Secret already keeps its name.
fn secret_rival(context: &Context, object: &AccessToken, uid: &str, owns_secret: bool, owns_state: bool) -> Option<String> {
    let published = (!owns_secret).then(|| secret_key(object));
    let state = spends(object).filter(|_| !owns_state).map(|_| state_key(object));
    let rival = published.into_iter().chain(state).find_map(|key| context.claims.secret_rival(&key, uid));
    rival.map(|rival| rival.to_string())
}

/// A refresh token that two use is taken back by the service: the older object has it.
fn refresh_token_rival(context: &Context, object: &AccessToken, uid: &str) -> Option<Problem> {
    let (secret, key) = (spends(object)?, spent_key(object)?);
    let rival = context.claims.rival_for_refresh_token(&key, uid)?;
    let what_to_do = "services take back what is used twice: give each its own";
    let message = format!("{rival} uses the refresh token of the Secret {} already, and {what_to_do}", secret.name());
    Some(Problem::new(Reason::RefreshTokenShared, message))
}

/// From memory alone: when to look again, if there is nothing to do now. `None`: there may be something to do.
fn settled(context: &Context, object: &AccessToken, outline: &Outlined) -> Option<Option<Timestamp>> {
    let now = context.clock.now();
    let status = object.status.as_ref()?;
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    if status.observed_generation != object.metadata.generation || context.memory.is_woken(uid) {
        return None;
    }
    if context.secrets.get(&secret_key(object)) != status.secret_version {
        return None;
    }
    let is_ahead = |at: &Timestamp| *at > now;
    let retry_at = status.next_action_at.as_ref().map(|at| at.0);
    if context.refresh_tokens.before_successor(uid).is_some() && !retry_at.as_ref().is_some_and(is_ahead) {
        return None;
    }
    let (expires_at, refresh_at) = times(context, status, uid);
    if ends_unsaid(status, expires_at, now) {
        return None;
    }
    let wanted = match outline {
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
        let says_an_obstacle = says_an_obstacle(status);
        let is_tried = wanted.is_some() && status.tried_for.as_ref() == wanted && !(says_an_obstacle && status.failures.is_some());
        let is_known_obstacle =
            (status.failures.is_none() || says_an_obstacle) && context.schedules.has_passed(uid) && stands(status, wanted.is_some());
        let waits = (is_tried || is_known_obstacle) && retry_at.as_ref().is_some_and(is_ahead);
        // What a person has to mend is not tried again by itself.
        let is_over = is_tried && is_refused(status) && retry_at.is_none();
        return (waits || is_over).then(|| local(now, earliest([retry_at, expires_at.filter(is_ahead)])));
    }
    let is_current = wanted.is_some() && status.issued_for.as_ref() == wanted;
    let is_fresh = is_current && refresh_at.as_ref().is_some_and(is_ahead);
    is_fresh.then(|| local(now, earliest([refresh_at, expires_at])))
}

fn says_that_it_lives(status: &AccessTokenStatus) -> bool {
    ["Ready", "SecretPublished"].iter().any(|type_| is_true(&status.conditions, type_))
}

/// Whether the published token has ended, and status does not say so yet.
fn ends_unsaid(status: &AccessTokenStatus, end: Option<Timestamp>, now: Timestamp) -> bool {
    says_that_it_lives(status) && end.is_some_and(|at| at <= now)
}

/// Whether the object is still there and not being deleted. A Secret that is gone may have been collected for just that reason, and its
/// watch be faster than the object's own.
async fn still_wanted(context: &Context, subject: &Subject) -> Result<bool, Abort> {
    let api: Api<AccessToken> = Api::namespaced(context.client.clone(), &subject.namespace);
    let found = api.get_metadata_opt(&subject.name).await.map_err(Abort::of("looking whether the object is still there"))?;
    Ok(found.is_some_and(|object| object.metadata.uid.as_deref() == Some(&subject.uid) && object.metadata.deletion_timestamp.is_none()))
}

/// Whether the obstacle that was reported is one that can stand although nothing is in the way from here: whatever could end it wakes the
/// object.
fn stands(status: &AccessTokenStatus, has_credentials: bool) -> bool {
    use Reason::{
        AnswerLost, ClientNotReady, Contested, CredentialsInvalid, CredentialsNotFound, CredentialsRequired, InvalidSpec, NotPermitted,
        ReauthorizationRequired, RefreshTokenShared, SecretConflict, SecretImmutable, SecretReferenceRefused,
    };
    let standing = [
        AnswerLost,
        Contested,
        CredentialsInvalid,
        CredentialsNotFound,
        CredentialsRequired,
        InvalidSpec,
        NotPermitted,
        ReauthorizationRequired,
        RefreshTokenShared,
        SecretConflict,
        SecretImmutable,
        SecretReferenceRefused,
    ];
    let said = condition(&status.conditions, "Ready").map(|ready| ready.reason.as_str());
    said.is_some_and(|said| standing.iter().any(|reason| said == reason.as_str()) || (said == ClientNotReady.as_str() && !has_credentials))
}

/// Whether what a token is asked for with is another than at the last attempt. A first refresh token that was touched and is the same is not.
fn is_another(object: &AccessToken, tried_for: Option<&IssuedFor>, now: &IssuedFor) -> bool {
    let without_seed = |issued_for: &IssuedFor| {
        let mut issued_for = issued_for.clone();
        if let Some(seed) = spends(object) {
            issued_for.credentials.remove(seed.name());
        }
        issued_for
    };
    tried_for.is_none_or(|tried_for| without_seed(tried_for) != without_seed(now))
}

/// Whether the service does not take the refresh token any more.
fn is_refused(status: &AccessTokenStatus) -> bool {
    status.refresh_token.as_ref().is_some_and(|said| said.refused)
}

/// What was said of the last attempt, if it failed.
fn said_of_failure(status: &AccessTokenStatus) -> Option<Problem> {
    let fresh = condition(&status.conditions, "Fresh").filter(|fresh| status.failures.is_some() && fresh.status == "False")?;
    Some(Problem::new(Reason::named(&fresh.reason)?, rules::said_of_failure(&fresh.message)))
}

/// Whether `Ready` tells of something else than the last attempt.
fn says_an_obstacle(status: &AccessTokenStatus) -> bool {
    let said = |type_: &str| condition(&status.conditions, type_).map(|condition| condition.reason.as_str());
    !is_true(&status.conditions, "Ready") && said("Ready") != said("Fresh")
}

fn was_refused_to_a_user(status: &AccessTokenStatus) -> bool {
    let refused = [Reason::InvalidGrant, Reason::ReauthorizationRequired].map(Reason::as_str);
    condition(&status.conditions, "Fresh").is_some_and(|fresh| refused.contains(&fresh.reason.as_str()))
}

fn is_suspended(object: &AccessToken, status: &AccessTokenStatus) -> bool {
    let says_so = condition(&status.conditions, "Ready").is_some_and(|ready| {
        [Reason::Suspended, Reason::TokenExpired, Reason::SecretMissing].iter().any(|reason| ready.reason == reason.as_str())
    });
    object.spec.suspend && says_so
}

/// End of the published token and when it is to be replaced, in the cluster's time: by this process's own clock where it published it.
fn times(context: &Context, status: &AccessTokenStatus, uid: &str) -> (Option<Timestamp>, Option<Timestamp>) {
    let (expires_at, refresh_at) = (status.expires_at.as_ref().map(|at| at.0), status.refresh_at.as_ref().map(|at| at.0));
    let time = |steady, said| Some(context.clock.time_or_sooner(steady, said));
    match context.schedules.of(uid, status.last_refreshed_at.as_ref().map(|at| at.0)) {
        Some(kept) => (time(kept.expires, expires_at), time(kept.refresh, refresh_at)),
        None => (expires_at, refresh_at),
    }
}

fn urgency(context: &Context, object: &AccessToken) -> Urgency {
    let Some(status) = &object.status else { return Urgency::Wanted };
    let (expires_at, _) = times(context, status, object.metadata.uid.as_deref().unwrap_or_default());
    expires_at.map_or(Urgency::Wanted, |at| Urgency::Expiring(moment_of(context.clock.now(), at).into()))
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
