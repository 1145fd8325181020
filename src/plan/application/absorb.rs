//! What the world looks like after a step.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    Added, Claim, Deleting, Holding, LATE_COMMIT, News, Outcome, ProviderView, Recorded, SecretView, Sight, Stage, Step, Trouble, World,
    later, maintenance::intentions,
};
use crate::{
    model::{Application, Class, ClientId, Failure},
    reasons::Reason,
};

impl World {
    /// Takes in what came of a step.
    pub fn absorb(&mut self, step: &Step, result: Result<Outcome, Failure>, now: Timestamp) {
        let stage = step.stage(self.deleting.is_some());
        match result {
            Ok(outcome) => self.absorb_outcome(step, outcome, now),
            // An id that the service calls malformed is the id of nothing; its list has the last word.
            Err(failure) if failure.status == Some(400) && self.seeks_to_adopt(step) => self.remote.sight = Sight::NotFound,
            Err(failure) => {
                if *step == Step::Register {
                    self.remote.registration_was_sent = true;
                }
                if failure.may_have_happened && step.may_come_late() {
                    self.recorded.unclear_since = Some(now);
                }
                self.troubles.push(Trouble { stage, failure });
                self.failed_steps.push(step.clone());
            }
        }
    }

    fn seeks_to_adopt(&self, step: &Step) -> bool {
        matches!(step, Step::Look(id) if self.recorded.client_id.is_none() && self.desired.adopt.as_ref() == Some(id))
    }

    /// What is put right at the service although the spec did not change.
    fn announce_repair(&mut self, step: &Step) {
        let what = match step {
            Step::Rename(_) => "the display name",
            Step::SetScopes(_) => "the scopes",
            Step::SetRoles(_) => "the roles",
            Step::MergeRedirectUris { .. } => "the redirect URIs",
            _ => return,
        };
        if self.was_in_order && self.deleting.is_none() {
            self.news.push(News { reason: Reason::DriftRepaired, note: format!("put {what} back, which had been changed at the service") });
        }
    }

    fn absorb_outcome(&mut self, step: &Step, outcome: Outcome, now: Timestamp) {
        self.announce_repair(step);
        match (step, outcome) {
            (Step::Claim, _) => {
                self.claim = if self.claim == Claim::Absent { Claim::Now } else { Claim::Before };
                if let ProviderView::Usable { tenant, .. } = &self.provider {
                    self.recorded.tenant = Some(tenant.clone());
                    self.stored.tenant = self.recorded.tenant.clone();
                }
            }
            (Step::SeeThatItAnswers, _) => self.service_answers = true,
            (Step::Register, Outcome::Application(application)) => self.absorb_registration(application, now),
            (Step::FindNamesakes, Outcome::Namesakes(found)) => self.absorb_namesakes(found, now),
            (Step::Look(_) | Step::ConfirmAbsence(_), Outcome::Application(application)) => self.see(application),
            (Step::Look(_), Outcome::NotFound) => self.remote.sight = Sight::NotFound,
            (Step::ConfirmAbsence(_), Outcome::Listed(Some(application))) if self.deleting.is_some() => {
                // The deletion said "not found", the list says otherwise: the service has to be asked again, but not at once.
                self.remote.deletion_not_found.remove(&application.client_id);
                let message = "the service does not find the application, but lists it";
                let failure = Failure::new("deleting the application", Class::Transient, Reason::ServiceUnavailable, message);
                self.troubles.push(Trouble { stage: Stage::Deletion, failure });
            }
            (Step::ConfirmAbsence(_), Outcome::Listed(Some(application))) => self.see(application),
            (Step::ConfirmAbsence(id), Outcome::Listed(None)) => {
                if self.deleting.is_some() {
                    self.remote.deregistered.insert(id.clone());
                } else {
                    self.remote.sight = Sight::Absent;
                    self.recorded.missing_since.get_or_insert(now);
                }
            }
            (Step::Hold(id, holding), _) => self.hold(id, *holding, now),
            (Step::Forget(id), _) => self.forget(id, now),
            (Step::TakeOverSecret(id, holding), _) => {
                if let SecretView::Leftover { client_id, held, adopted, .. } = &self.secret {
                    self.recorded.adopted = *adopted;
                    self.secret =
                        SecretView::Ours { client_id: client_id.clone(), is_intact: false, held: held.clone(), adopted: *adopted };
                }
                self.hold(id, *holding, now);
            }
            (Step::Publish, _) => {
                let (client_id, adopted) = (self.recorded.client_id.clone(), self.recorded.adopted);
                self.secret = SecretView::Ours { client_id, is_intact: true, held: None, adopted };
            }
            (Step::Record, _) => {
                self.recorded.added = intentions(self);
                self.stored = self.recorded.clone();
            }
            (Step::RemoveSurplus(id), _) => {
                self.remote.deregistered.insert(id.clone());
                self.news.push(News {
                    reason: Reason::SurplusRemoved,
                    note: format!("removed the second registration {id}, left behind by a lost answer"),
                });
                self.settle_unclear(now);
            }
            (Step::ReadScopes | Step::SetScopes(_), Outcome::Names(scopes)) => {
                let wanted = self.desired.scopes.iter().flatten().collect::<BTreeSet<_>>();
                self.recorded.added.scopes.retain(|scope| scopes.contains(scope) || wanted.contains(scope));
                self.remote.scopes = Some(scopes);
            }
            (Step::ReadRoles | Step::SetRoles(_), Outcome::Roles(roles)) => {
                let wanted = self.desired.roles.iter().flatten().collect::<BTreeSet<_>>();
                self.recorded.added.roles.retain(|role| roles.contains_key(role) || wanted.contains(role));
                self.remote.roles = Some(roles);
            }
            (Step::ReadCatalogue, Outcome::Catalogue(catalogue)) => self.remote.catalogue = Some(catalogue),
            (Step::ReadRedirectUris, Outcome::Names(uris)) => {
                self.doubt_an_earlier_leader(!self.recorded.added.redirect_uris.is_subset(&uris), now);
                let (may_come_late, wanted) = (self.may_come_late(now), &self.desired.redirect_uris);
                self.recorded.added.redirect_uris.retain(|uri| may_come_late || uris.contains(uri) || wanted.contains(uri));
                self.remote.redirect_uris = Some(uris);
            }
            (Step::Bequeath(heir, uris), _) => {
                self.recorded.added.redirect_uris.retain(|uri| !uris.contains(uri));
                self.news.push(News {
                    reason: Reason::OwnershipPassed,
                    note: format!("{} redirect URIs now belong to {heir}, which lists them too", uris.len()),
                });
            }
            (Step::MergeRedirectUris { remove, .. }, Outcome::Merged { list, already, absent }) => {
                self.doubt_an_earlier_leader(!absent.is_empty(), now);
                let may_come_late = self.may_come_late(now);
                self.recorded.added.redirect_uris.retain(|uri| !already.contains(uri) && (may_come_late || !remove.contains(uri)));
                self.remote.redirect_uris = Some(list);
                self.remote.redirect_uris_are_removed = self.deleting.is_some();
            }
            (Step::Rename(name), _) => {
                if let Sight::Present(seen) = &mut self.remote.sight {
                    seen.name = name.clone();
                }
            }
            (Step::Try, _) => self.recorded.verified = true,
            (Step::Deregister(id), Outcome::NotFound) => {
                self.remote.deletion_not_found.insert(id.clone());
            }
            (Step::Deregister(id), _) => {
                self.remote.deregistered.insert(id.clone());
            }
            (Step::ReleaseSecret, _) => self.on_deletion(|deleting| deleting.secret_is_released = true),
            (Step::Abandon, _) => self.on_deletion(|deleting| deleting.abandoned = true),
            (Step::Release, _) => self.on_deletion(|deleting| deleting.released = true),
            _ => {}
        }
    }

    /// An entry that is recorded as added is not in the list. If this leader is young, its predecessor may have died while it wrote the list:
    /// the service may still carry that out.
    fn doubt_an_earlier_leader(&mut self, an_entry_is_absent: bool, now: Timestamp) {
        if an_entry_is_absent && self.recorded.unclear_since.is_none() && now < later(self.leader_since, LATE_COMMIT) {
            self.recorded.unclear_since = Some(self.leader_since);
        }
    }

    fn on_deletion(&mut self, change: impl FnOnce(&mut Deleting)) {
        if let Some(deleting) = &mut self.deleting {
            change(deleting);
        }
    }

    fn see(&mut self, application: Application) {
        self.recorded.missing_since = None;
        self.remote.sight = Sight::Present(application);
        if let (true, SecretView::Ours { is_intact, .. }) = (std::mem::take(&mut self.was_refused), &mut self.secret) {
            // It may hold what was changed at the service since: what is shown now is published before it is tried again.
            *is_intact = false;
        }
    }

    fn absorb_registration(&mut self, application: Application, now: Timestamp) {
        self.remote.registration_was_sent = true;
        if self.claim == Claim::Before {
            // A registration of an earlier pass may still be on its way.
            self.recorded.unclear_since = Some(now);
        }
        // What was just made has nothing yet: no need to ask.
        self.remote.scopes = Some(BTreeSet::new());
        self.remote.roles = Some(BTreeMap::new());
        self.news.push(News { reason: Reason::Registered, note: format!("registered as {}", application.client_id) });
        self.recorded.client_id = Some(application.client_id.clone());
        self.see(application);
    }

    fn absorb_namesakes(&mut self, mut found: Vec<Application>, now: Timestamp) {
        found.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        self.remote.namesakes = Some(found.iter().map(|application| application.client_id.clone()).collect());
        if self.deleting.is_some() {
            return;
        }
        if self.recorded.client_id.is_none() {
            self.recorded.unclear_since = Some(now);
            if let Some(first) = found.into_iter().next() {
                self.recorded.client_id = Some(first.client_id.clone());
                self.see(first);
            }
        }
        self.settle_unclear(now);
    }

    /// The mark goes when a list taken late enough holds nothing that is not ours.
    fn settle_unclear(&mut self, now: Timestamp) {
        let Some(namesakes) = &self.remote.namesakes else {
            return;
        };
        let clean = namesakes.iter().all(|id| self.recorded.client_id.as_ref() == Some(id) || self.remote.deregistered.contains(id));
        if clean && now >= self.absence_is_certain_at() {
            self.recorded.unclear_since = None;
        }
    }

    fn hold(&mut self, id: &ClientId, holding: Holding, now: Timestamp) {
        if holding == Holding::Recovered {
            // Whoever published it left no word of whether an earlier registration may still be on its way.
            self.recorded.unclear_since = Some(now);
        }
        let (reason, note) = match holding {
            Holding::Recovered => (None, String::new()),
            Holding::Readopted => {
                (Some(Reason::Readopted), format!("took over {id}, which the Secret of a former object proved to be ours"))
            }
            Holding::Adopted => (Some(Reason::Adopted), format!("adopted {id}")),
        };
        self.recorded.adopted |= holding == Holding::Adopted;
        self.recorded.client_id = Some(id.clone());
        self.news.extend(reason.map(|reason| News { reason, note }));
    }

    fn forget(&mut self, id: &ClientId, now: Timestamp) {
        self.remote.deregistered.insert(id.clone());
        self.remote.sight = Sight::Unseen;
        self.remote.scopes = None;
        self.remote.roles = None;
        self.news.push(News {
            reason: Reason::RegisteredAgain,
            note: format!("{id} was deleted at the service; it is registered again, with a new client id"),
        });
        let redirect_uris = std::mem::take(&mut self.recorded.added.redirect_uris);
        self.recorded = Recorded {
            tenant: self.recorded.tenant.clone(),
            added: Added { redirect_uris, ..Added::default() },
            unclear_since: Some(now),
            ..Recorded::default()
        };
    }
}
