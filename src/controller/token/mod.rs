//! `AccessToken`: reads what the rules need, does what they say, and reports what came of it.

mod census;
mod fetch;
mod known;
mod refresh_token;
mod schedules;
mod secret;
#[cfg(test)]
mod simulation;
mod source;
mod spec;
mod status;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Api;

pub use self::{
    census::{Summary, census},
    refresh_token::RefreshTokens,
    schedules::{Kept, Schedules},
    spec::{claim_of, named_secrets, namer, watched_secrets},
};
use self::{
    known::{ends_unsaid, is_another, is_refused, local, said_of_failure, settled, times, urgency, was_refused, was_refused_to_a_user},
    refresh_token::Held,
    source::{Outline, Source, digest},
    spec::{policy_of, secret_key, spends, spent_key, state_key},
};
use super::{
    Context, Found, Kind,
    cluster::{Abort, Announcement, Subject},
};
use crate::{
    api::{AccessToken, ObjectVersion},
    model::{Grant, IssuedToken, Life, TokenRequest},
    plan::{
        Problem,
        token::{self as rules, Published, SecretView, Step, World},
    },
    reasons::Reason,
};

/// The kind's name.
pub const KIND: &str = "AccessToken";

const DOING: &str = "getting a token";

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
    source: Option<Arc<Source>>,
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
            Some(again) => {
                presume(context, object, &outline);
                Found::Nothing(again)
            }
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
                Ok(source) => (Some(Arc::new(source)), None),
                Err(problem) => (None, Some(problem)),
            },
        };
        let kept = context.schedules.of(&subject.uid, status.last_refreshed_at.as_ref().map(|at| at.0));
        let source_digest = source.as_deref().map(digest).unwrap_or_default();
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
        let (refresh_token, obstacle) = match (source.as_deref(), obstacle) {
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
        let known = refresh_token.as_ref().map(|held| held.known(context, &subject, &status));
        if spends(&object).is_none() || known.as_ref().is_some_and(|known| !known.has_successor) {
            // It follows a token that is used no longer.
            context.refresh_tokens.forget_successor(&subject.uid);
        }
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
            // What belongs to a user and was refused is presented again only when it has changed itself: services lock users out. So is what
            // belongs to the object: that its provider was found working tells nothing of it.
            is_news: (context.memory.is_woken(&subject.uid)
                && !was_refused_to_a_user(&status)
                && !source.as_ref().is_some_and(|source| !source.is_the_providers_own && was_refused(&status)))
                || spec_changed
                || source.as_ref().is_some_and(|source| is_another(&object, status.tried_for.as_ref(), &source.issued_for)),
            is_of_a_user: source.as_ref().is_some_and(|source| source.request.grant.is_of_a_user()),
            refresh_token: known,
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

/// What the tokens of a place need is known from the first look at each: nobody waits for their next refreshes to hear that it is too much.
fn presume(context: &Context, object: &AccessToken, outline: &Outlined) {
    let (Ok(outline), Some(status)) = (outline, &object.status) else { return };
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let interval = || {
        let asks = !object.spec.suspend && !is_refused(status) && context.claims.lives(uid);
        let (end, came) = status.expires_at.as_ref().zip(status.last_refreshed_at.as_ref()).filter(|_| asks)?;
        let lifetime = Duration::try_from(end.0.duration_since(came.0)).ok().filter(|lifetime| !lifetime.is_zero())?;
        Some(policy_of(object).refresh_after(&Life { lifetime, remaining: lifetime, is_told: true }, uid))
    };
    context.schedules.presume(uid, outline.connection.place(), interval);
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

/// Whether the object is still there and not being deleted. A Secret that is gone may have been collected for just that reason, and its
/// watch be faster than the object's own.
async fn still_wanted(context: &Context, subject: &Subject) -> Result<bool, Abort> {
    let api: Api<AccessToken> = Api::namespaced(context.client.clone(), &subject.namespace);
    let found = api.get_metadata_opt(&subject.name).await.map_err(Abort::of("looking whether the object is still there"))?;
    Ok(found.is_some_and(|object| object.metadata.uid.as_deref() == Some(&subject.uid) && object.metadata.deletion_timestamp.is_none()))
}
