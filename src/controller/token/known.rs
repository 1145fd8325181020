//! What memory and status alone say of a token: whether there is anything to do, and how urgent it is.

use std::time::Instant;

use jiff::Timestamp;

use super::{
    super::{
        Context,
        clock::moment,
        report::{condition, is_said, is_true},
    },
    Outlined,
    spec::{secret_key, spends},
};
use crate::{
    api::{AccessToken, AccessTokenStatus, IssuedFor},
    plan::{Problem, token as rules},
    provider::Urgency,
    reasons::Reason,
};

/// From memory alone: when to look again, if there is nothing to do now. `None`: there may be something to do.
pub(super) fn settled(context: &Context, object: &AccessToken, outline: &Outlined) -> Option<Option<Timestamp>> {
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
    // One that another version wrote may say less.
    let is_said = ["Ready", "SecretPublished", "Fresh"].iter().all(|type_| condition(&status.conditions, type_).is_some());
    let is_fresh = is_current && is_said && refresh_at.as_ref().is_some_and(is_ahead);
    is_fresh.then(|| local(now, earliest([refresh_at, expires_at])))
}

pub(super) fn says_that_it_lives(status: &AccessTokenStatus) -> bool {
    ["Ready", "SecretPublished"].iter().any(|type_| is_true(&status.conditions, type_))
}

/// Whether the published token has ended, and status does not say so yet.
pub(super) fn ends_unsaid(status: &AccessTokenStatus, end: Option<Timestamp>, now: Timestamp) -> bool {
    says_that_it_lives(status) && end.is_some_and(|at| at <= now)
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
pub(super) fn is_another(object: &AccessToken, tried_for: Option<&IssuedFor>, now: &IssuedFor) -> bool {
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
pub(super) fn is_refused(status: &AccessTokenStatus) -> bool {
    status.refresh_token.as_ref().is_some_and(|said| said.refused)
}

/// What was said of the last attempt, if it failed.
pub(super) fn said_of_failure(status: &AccessTokenStatus) -> Option<Problem> {
    let fresh = condition(&status.conditions, "Fresh").filter(|fresh| status.failures.is_some() && fresh.status == "False")?;
    Some(Problem::new(Reason::named(&fresh.reason)?, rules::said_of_failure(&fresh.message)))
}

/// Whether `Ready` tells of something else than the last attempt.
fn says_an_obstacle(status: &AccessTokenStatus) -> bool {
    let said = |type_: &str| condition(&status.conditions, type_).map(|condition| condition.reason.as_str());
    !is_true(&status.conditions, "Ready") && said("Ready") != said("Fresh")
}

pub(super) fn was_refused_to_a_user(status: &AccessTokenStatus) -> bool {
    failed_for_one_of(status, &[Reason::InvalidGrant, Reason::ReauthorizationRequired])
}

/// Whether the service did not take the credential at the last attempt.
pub(super) fn was_refused(status: &AccessTokenStatus) -> bool {
    failed_for_one_of(status, &[Reason::InvalidClient, Reason::InvalidGrant, Reason::Unauthorized])
}

fn failed_for_one_of(status: &AccessTokenStatus, reasons: &[Reason]) -> bool {
    condition(&status.conditions, "Fresh").is_some_and(|fresh| reasons.iter().any(|reason| fresh.reason == reason.as_str()))
}

fn is_suspended(object: &AccessToken, status: &AccessTokenStatus) -> bool {
    let says_so = condition(&status.conditions, "Ready").is_some_and(|ready| {
        [Reason::Suspended, Reason::TokenExpired, Reason::SecretMissing].iter().any(|reason| ready.reason == reason.as_str())
    });
    object.spec.suspend && says_so
}

/// End of the published token and when it is to be replaced, in the cluster's time: by this process's own clock where it published it.
pub(super) fn times(context: &Context, status: &AccessTokenStatus, uid: &str) -> (Option<Timestamp>, Option<Timestamp>) {
    let (expires_at, refresh_at) = (status.expires_at.as_ref().map(|at| at.0), status.refresh_at.as_ref().map(|at| at.0));
    let time = |steady, said| Some(context.clock.time_or_sooner(steady, said));
    match context.schedules.of(uid, status.last_refreshed_at.as_ref().map(|at| at.0)) {
        Some(kept) => (time(kept.expires, expires_at), time(kept.refresh, refresh_at)),
        None => (expires_at, refresh_at),
    }
}

pub(super) fn urgency(context: &Context, object: &AccessToken) -> Urgency {
    let Some(status) = &object.status else { return Urgency::Wanted };
    let (expires_at, _) = times(context, status, object.metadata.uid.as_deref().unwrap_or_default());
    expires_at.map_or(Urgency::Wanted, |at| Urgency::Expiring(moment_of(context.clock.now(), at).into()))
}

pub(super) fn earliest<const N: usize>(times: [Option<Timestamp>; N]) -> Option<Timestamp> {
    times.into_iter().flatten().min()
}

/// The local time at which the cluster's time will be `at`: what timers are set by.
pub(super) fn local(now: Timestamp, at: Option<Timestamp>) -> Option<Timestamp> {
    Timestamp::now().checked_add(at?.duration_since(now)).ok()
}

/// A moment of this process at the cluster's time `at`.
pub(super) fn moment_of(now: Timestamp, at: Timestamp) -> Instant {
    moment(Instant::now(), at.duration_since(now))
}
