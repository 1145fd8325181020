//! One call of a service, and what comes of it.

use std::{pin::pin, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::Api;

use super::{
    super::cluster::Abort,
    DOING, Pass,
    known::{says_that_it_lives, urgency},
    secret,
    spec::policy_of,
};
use crate::{
    api::AccessToken,
    model::{Class, Failure, IssuedToken, Life},
    plan::token::Issued,
    provider::{Caller, TokenIssuer},
    reasons::Reason,
};

/// Where the service tells no lifetime, and the provider sets none.
const LIFETIME_UNKNOWN: Duration = Duration::from_secs(600);

/// What comes so long after its time comes when the service or the budget let it come, like everything else then.
const LONG_OVERDUE: SignedDuration = SignedDuration::from_secs(60);

/// A service that answers within this long says by that what has become of a token that has ended.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

impl Pass {
    pub(super) fn api(&self) -> Api<AccessToken> {
        Api::namespaced(self.context.client.clone(), &self.subject.namespace)
    }

    /// What was met at the service is news about the provider, too: its own status is to say so.
    pub(super) fn tell_the_provider(&self, issued: &Result<Issued, Failure>) {
        // Whoever has nothing left waits for the service to come back, and a provider that is doubted is looked at often.
        let now = self.context.clock.now();
        let has_ended = self.world.published.as_ref().is_some_and(|published| published.expires_at <= now);
        use Reason::{AddressNotAllowed, DiscoveryFailed, EndpointsChanged, IssuerMismatch, TenantNotFound, TlsNotTrusted};
        let Some(source) = &self.source else { return };
        match issued {
            Ok(_) => {
                self.context.directory.gave(&source.provider, &source.connection);
                self.context.reassure(&source.provider, &source.connection);
            }
            Err(failure) => {
                let of_the_place = [AddressNotAllowed, DiscoveryFailed, EndpointsChanged, IssuerMismatch, TenantNotFound, TlsNotTrusted];
                let is_of_the_provider =
                    of_the_place.contains(&failure.reason) || (source.is_the_providers_own && failure.class == Class::Unauthorized);
                if is_of_the_provider || (has_ended && failure.class == Class::Transient) {
                    self.context.doubt(&source.provider, &source.connection);
                }
            }
        }
    }

    /// Whether a token that comes now comes at a time that no schedule chose.
    fn is_unplanned(&self, now: Timestamp) -> bool {
        let planned = self.world.published.as_ref().map(|published| published.refresh_at);
        planned.is_none_or(|at| now < at || now.duration_since(at) >= LONG_OVERDUE)
    }

    pub(super) async fn fetch(&mut self) -> Result<Result<Issued, Failure>, Abort> {
        let Some(source) = self.source.clone() else { return Err(Abort::Stale) };
        let context = self.context.clone();
        let fence = Some(context.leadership.clone() as Arc<dyn crate::provider::Fence>);
        let namespace = self.subject.namespace.clone();
        let requester = source.requester(&namespace).unwrap_or_else(|| self.subject.uid.clone());
        let caller = Caller { namespace, urgency: urgency(&self.context, &self.object), requester, fence };
        let with_refresh_token = self.refresh_token.as_ref().map(|held| held.request(&source.request));
        let (connection, request) = (&source.connection, with_refresh_token.as_ref().unwrap_or(&source.request));
        // The process does not end between the answer and the successor's being stored.
        let in_flight = self.refresh_token.as_ref().map(|_| context.leadership.begin_create());
        let issued = match self.answer(connection.service.issue(&caller, request)).await {
            Ok(issued) => issued,
            Err(failure) => return Ok(Err(failure)),
        };
        if connection.is_of_another_account(&issued) {
            let message = "the token that came is of another account than the provider's iam.accountId; it is not published";
            return Ok(Err(Failure::new(DOING, Class::Rejected, Reason::AccountMismatch, message)));
        }
        let life = Life::told(&issued.told, connection.service.lifetime().unwrap_or(LIFETIME_UNKNOWN));
        if self.refresh_token.is_some()
            && let Err(failure) = self.follow(&issued, life).await?
        {
            // The refresh token is used up, whatever became of its successor.
            return Ok(Err(Failure { may_have_happened: true, ..failure }));
        }
        drop(in_flight);
        Ok(self.came(issued, life))
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
    ///
    /// # Errors
    ///
    /// When what was asked for did not come with it.
    pub(super) fn came(&mut self, issued: IssuedToken, life: Life) -> Result<Issued, Failure> {
        if self.object.spec.secret.identity_token && issued.identity_token.is_none() {
            let message = "the answer holds no signed ID token, which spec.secret.identityToken asks for: ask for the scope openid";
            return Err(Failure::new(DOING, Class::Rejected, Reason::UnexpectedResponse, message));
        }
        let came = self.context.clock.time_at(issued.received);
        let later = |span: Duration| came.checked_add(span).unwrap_or(Timestamp::MAX);
        let digest = secret::digest_of(&issued);
        let is_the_same = self.kept.is_some_and(|kept| kept.token == digest);
        let policy = policy_of(&self.object);
        let place = self.source.as_ref().map(|source| source.connection.place());
        let is_of_a_crowd =
            self.is_unplanned(came) && place.is_some_and(|place| self.context.schedules.is_one_of_many(place, issued.received));
        let refresh_after = if is_of_a_crowd {
            policy.refresh_after_a_crowd(&life, &self.subject.uid)
        } else {
            policy.refresh_after(&life, &self.subject.uid)
        };
        self.token = Some((issued, life));
        Ok(Issued { expires_at: later(life.remaining), refresh_at: later(refresh_after), is_the_same })
    }
}
