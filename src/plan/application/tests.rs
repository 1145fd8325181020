//! The rules against a service and a cluster in miniature: first as tables, then as properties over any sequence of
//! crashes, lost answers, late commits and changes behind our back.

use proptest::prelude::*;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::{Problem, permit::Permits},
    verdict::NEW_CREDENTIAL_ATTEMPTS,
    *,
};
use crate::{
    model::{
        Application, ApplicationKind, Class, ClientId, Desired, ExposeSecret, Failure, ProvisionalName, RoleCatalogue, SecretText,
        TenantIdentity,
    },
    reasons::Reason,
};

const TENANT: &str = "tenant";
const DISPLAY_NAME: &str = "storefront";

/// What survives a crash: the cluster and the service.
#[derive(Clone, Debug)]
struct Site {
    now: Timestamp,
    spec: Desired,
    finalizer: bool,
    stored: Recorded,
    secret: Option<PublishedSecret>,
    applications: BTreeMap<ClientId, Registration>,
    redirect_uris: BTreeSet<String>,
    /// What the service will carry out later.
    late: Vec<(Timestamp, Late)>,
    /// When the process that leads began, and what it remembers of requests that were not answered.
    leader_since: Timestamp,
    unanswered_since: Option<Timestamp>,
    next_id: u32,
    deleted: bool,
    overwritten: Vec<String>,
}

#[derive(Clone, Debug)]
struct PublishedSecret {
    client_id: ClientId,
    secret: String,
    is_intact: bool,
    /// No longer ours: it stays when the object goes.
    is_released: bool,
}

#[derive(Clone, Debug)]
enum Late {
    Registration(ClientId),
    RedirectUris(BTreeSet<String>),
}

#[derive(Clone, Debug, PartialEq)]
struct Registration {
    name: String,
    secret: String,
    scopes: BTreeSet<String>,
    is_foreign: bool,
}

/// What happens to one pass.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    None,
    /// The process dies after so many steps.
    CrashAfter(u8),
    /// The answer to a step is lost: the service has carried it out.
    LoseAnswer(u8),
    /// A step is refused.
    Refuse(u8),
    /// The service carries out a registration, or a write of the redirect URIs, later than we wait.
    CommitLate(u8),
    /// The same, and the process dies while it waits.
    CrashAndCommitLate(u8),
    /// The object changes while the pass runs, so that its report is not taken.
    ReportRefused,
    /// The same, after a request that is carried out later than we wait.
    CommitLateAndReportRefused(u8),
    /// Somebody deletes our application.
    RemoteDeletion,
    /// Somebody renames our application.
    RemoteRename,
    /// Somebody deletes our Secret.
    SecretDeletion,
    /// Somebody edits our Secret.
    SecretEdit,
    /// The spec is edited.
    SpecEdit,
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

impl Site {
    fn new() -> Self {
        let foreign = Registration { name: DISPLAY_NAME.into(), secret: "theirs".into(), scopes: set(&["theirs"]), is_foreign: true };
        Self {
            now: Timestamp::from_second(1_800_000_000).expect("in range"),
            spec: Desired {
                display_name: DISPLAY_NAME.into(),
                display_name_is_explicit: false,
                kind: ApplicationKind::RegularWebApp,
                scopes: Some(set(&["read", "write"])),
                roles: None,
                redirect_uris: set(&["https://shop.example/cb"]),
                adopt: None,
                retain: None,
                suspended: false,
                removable_scopes: BTreeSet::new(),
            },
            finalizer: false,
            stored: Recorded::default(),
            secret: None,
            applications: [(ClientId::new("0-foreign"), foreign)].into(),
            redirect_uris: set(&["https://theirs.example/cb"]),
            late: Vec::new(),
            // Long ago: nothing of an earlier leader is on its way.
            leader_since: Timestamp::from_second(1_799_900_000).expect("in range"),
            unanswered_since: None,
            next_id: 1,
            deleted: false,
            overwritten: Vec::new(),
        }
    }

    fn provisional() -> ProvisionalName {
        ProvisionalName::of("cluster", "object")
    }

    fn ours(&self) -> Vec<&ClientId> {
        self.applications.iter().filter(|(_, registration)| !registration.is_foreign).map(|(id, _)| id).collect()
    }

    fn world(&self) -> World {
        let usable = ProviderView::Usable { tenant: TenantIdentity::recorded(TENANT), namespace_is_allowed: true, permits: None };
        let held = |secret: &PublishedSecret| self.stored.client_id.is_none().then(|| SecretText::from(secret.secret.clone()));
        World {
            desired: self.spec.clone(),
            provisional: Self::provisional(),
            attention: Attention::Full,
            leader_since: self.leader_since,
            recorded: Recorded { unclear_since: self.stored.unclear_since.max(self.unanswered_since), ..self.stored.clone() },
            stored: self.stored.clone(),
            provider: usable,
            // Both happen in every story.
            service_answers: self.now.as_second() % 2 == 0,
            secret: self.secret.as_ref().map_or(SecretView::Absent, |secret| {
                let (client_id, held) = (Some(secret.client_id.clone()), held(secret));
                if secret.is_released {
                    SecretView::Leftover { client_id, held, adopted: false, tenant: Some(TenantIdentity::recorded(TENANT)) }
                } else {
                    SecretView::Ours { client_id, is_intact: secret.is_intact, held, adopted: false }
                }
            }),
            flaw: None,
            secret_rival: None,
            held_elsewhere: BTreeMap::new(),
            heirs: BTreeMap::new(),
            claim: if self.finalizer { Claim::Before } else { Claim::Absent },
            remote: Remote::default(),
            troubles: Vec::new(),
            failed_steps: Vec::new(),
            news: Vec::new(),
            was_in_order: false,
            was_refused: false,
            contested_until: None,
            deleting: self.deleted.then(|| Deleting {
                first_failed_at: None,
                budget: Duration::from_secs(600),
                abandoned: false,
                secret_is_released: false,
                released: false,
            }),
        }
    }

    fn shown(id: &ClientId, registration: &Registration) -> Application {
        Application { client_id: id.clone(), name: registration.name.clone(), kind: None, secret: Some(registration.secret.clone().into()) }
    }

    fn new_registration(&mut self) -> ClientId {
        let id = ClientId::new(format!("{}-ours", self.next_id));
        self.next_id += 1;
        id
    }

    fn commit(&mut self, id: &ClientId) {
        let registration = Registration {
            name: Self::provisional().as_str().into(),
            secret: format!("secret of {id}"),
            scopes: BTreeSet::new(),
            is_foreign: false,
        };
        self.applications.insert(id.clone(), registration);
    }

    fn commit_what_is_late(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= self.now);
        self.late = later;
        for (_, late) in due {
            match late {
                Late::Registration(id) => self.commit(&id),
                Late::RedirectUris(list) => self.redirect_uris = list,
            }
        }
    }

    /// The service takes its time with a request.
    fn delay(&mut self, step: &Step) {
        let late = match step {
            Step::Register => Late::Registration(self.new_registration()),
            Step::MergeRedirectUris { add, remove } => {
                let kept = self.redirect_uris.iter().filter(|uri| !remove.contains(*uri));
                Late::RedirectUris(kept.chain(add).cloned().collect())
            }
            _ => return,
        };
        self.late.push((later(self.now, Duration::from_secs(25)), late));
    }

    /// The process dies, and another one leads.
    fn crash(&mut self) {
        self.leader_since = self.now;
        self.unanswered_since = None;
    }

    /// Carries out a step as cluster and service would.
    fn carry_out(&mut self, world: &World, step: &Step) -> Outcome {
        match step {
            Step::Claim => {
                self.finalizer = true;
                self.stored.tenant = Some(TenantIdentity::recorded(TENANT));
                Outcome::Done
            }
            Step::Register => {
                let id = self.new_registration();
                self.commit(&id);
                Outcome::Application(Self::shown(&id, &self.applications[&id]))
            }
            Step::FindNamesakes => {
                let name = Self::provisional();
                Outcome::Namesakes(
                    self.applications.iter().filter(|(_, r)| r.name == name.as_str()).map(|(id, r)| Self::shown(id, r)).collect(),
                )
            }
            Step::Look(id) => self.applications.get(id).map_or(Outcome::NotFound, |r| Outcome::Application(Self::shown(id, r))),
            Step::ConfirmAbsence(id) => Outcome::Listed(self.applications.get(id).map(|r| Self::shown(id, r))),
            Step::Publish => self.publish(world),
            Step::Record => {
                let mut after = world.clone();
                after.absorb(step, Ok(Outcome::Done), self.now);
                self.stored = after.stored;
                Outcome::Done
            }
            Step::RemoveSurplus(id) | Step::Deregister(id) => match self.applications.remove(id) {
                Some(removed) => {
                    assert!(!removed.is_foreign, "somebody else's application was deleted");
                    Outcome::Done
                }
                None => Outcome::NotFound,
            },
            Step::ReadScopes => Outcome::Names(self.held(world).scopes.clone()),
            Step::SetScopes(scopes) => {
                self.held(world).scopes = scopes.clone();
                Outcome::Names(scopes.clone())
            }
            Step::ReadCatalogue => Outcome::Catalogue(RoleCatalogue::new()),
            Step::ReadRedirectUris => Outcome::Names(self.redirect_uris.clone()),
            Step::MergeRedirectUris { add, remove } => {
                assert!(!remove.contains("https://theirs.example/cb"), "somebody else's redirect URI was removed");
                let absent = remove.difference(&self.redirect_uris).cloned().collect();
                self.redirect_uris.retain(|uri| !remove.contains(uri));
                self.redirect_uris.extend(add.iter().cloned());
                Outcome::Merged { list: self.redirect_uris.clone(), already: BTreeSet::new(), absent }
            }
            Step::Rename(name) => {
                self.held(world).name = name.clone();
                Outcome::Renamed
            }
            Step::ReleaseSecret => {
                if self.secret.is_none() {
                    self.publish(world);
                }
                self.secret.as_mut().expect("there is one").is_released = true;
                Outcome::Done
            }
            Step::Release => {
                self.finalizer = false;
                // What the object owns is collected.
                self.secret.take_if(|secret| !secret.is_released);
                Outcome::Done
            }
            Step::SeeThatItAnswers | Step::Try | Step::Hold(..) | Step::Forget(_) => Outcome::Done,
            other => panic!("{other:?} does not happen in this miniature"),
        }
    }

    fn held(&mut self, world: &World) -> &mut Registration {
        let id = world.recorded.client_id.clone().expect("a registration is held");
        let registration = self.applications.get_mut(&id).expect("the held registration exists");
        assert!(!registration.is_foreign, "somebody else's application was changed");
        registration
    }

    fn publish(&mut self, world: &World) -> Outcome {
        let Sight::Present(application) = &world.remote.sight else { panic!("published without having seen the application") };
        if let Some(before) = &self.secret
            && before.client_id != application.client_id
            && self.applications.contains_key(&before.client_id)
        {
            self.overwritten.push(format!("{} by {}", before.client_id, application.client_id));
        }
        let secret = application.secret.as_ref().expect("complete").expose_secret().to_owned();
        self.secret = Some(PublishedSecret { client_id: application.client_id.clone(), secret, is_intact: true, is_released: false });
        Outcome::Done
    }

    /// What happens before a pass.
    fn meddle(&mut self, disturbance: Disturbance) {
        let held = self.stored.client_id.clone();
        match disturbance {
            Disturbance::RemoteDeletion => {
                held.map(|id| self.applications.remove(&id));
            }
            Disturbance::RemoteRename => {
                if let Some(registration) = held.and_then(|id| self.applications.get_mut(&id)) {
                    registration.name = "renamed by somebody".into();
                }
            }
            Disturbance::SecretDeletion => self.secret = None,
            Disturbance::SecretEdit => {
                if let Some(secret) = &mut self.secret {
                    secret.is_intact = false;
                }
            }
            Disturbance::SpecEdit => {
                self.spec.scopes = Some(set(&["read"]));
                self.spec.redirect_uris = set(&["https://shop.example/other"]);
            }
            _ => {}
        }
    }

    /// One pass; says when the next is due, or `None` when there is nothing left to do.
    fn pass(&mut self, disturbance: Disturbance) -> Option<Timestamp> {
        self.commit_what_is_late();
        self.meddle(disturbance);
        let mut world = self.world();
        let mut steps = 0_u8;
        while let Next::Perform(step) = next(&world, self.now) {
            assert!(steps < 60, "the pass does not end: {step:?}");
            let lost =
                || Failure { may_have_happened: true, ..Failure::new("asking", Class::Transient, Reason::ServiceUnavailable, "no answer") };
            let result = match disturbance {
                Disturbance::CrashAfter(n) if n == steps => {
                    self.crash();
                    return Some(self.now);
                }
                Disturbance::CrashAndCommitLate(n) if n == steps && step.may_come_late() => {
                    self.delay(&step);
                    self.crash();
                    return Some(self.now);
                }
                Disturbance::Refuse(n) if n == steps => Err(Failure::new("asking", Class::Rejected, Reason::Rejected, "no")),
                Disturbance::LoseAnswer(n) if n == steps => {
                    self.carry_out(&world, &step);
                    Err(lost())
                }
                Disturbance::CommitLate(n) | Disturbance::CommitLateAndReportRefused(n) if n == steps && step.may_come_late() => {
                    self.delay(&step);
                    Err(lost())
                }
                _ => Ok(self.carry_out(&world, &step)),
            };
            let is_cluster_write = matches!(step, Step::Claim | Step::Record | Step::Publish | Step::ReleaseSecret | Step::Release);
            if result.is_err() && is_cluster_write {
                // A write in the cluster that is not answered ends the pass without a report.
                return Some(later(self.now, Duration::from_secs(1)));
            }
            if result.as_ref().is_err_and(|failure| failure.may_have_happened) && step.may_come_late() {
                self.unanswered_since = Some(self.now);
            }
            world.absorb(&step, result, self.now);
            steps += 1;
        }
        if world.deleting.as_ref().is_some_and(|deleting| deleting.released) {
            return None;
        }
        if matches!(disturbance, Disturbance::ReportRefused | Disturbance::CommitLateAndReportRefused(_)) {
            return Some(later(self.now, Duration::from_secs(1)));
        }
        self.stored = world.recorded.clone();
        self.unanswered_since = None;
        world.verdict(1, "seed", self.now).again
    }

    /// Undisturbed passes, each when it is due, until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..40 {
            match self.pass(Disturbance::None) {
                Some(at) => self.now = at.max(self.now),
                None if self.late.is_empty() => return,
                None => self.now = later(self.now, Duration::from_secs(1)),
            }
        }
        panic!("it does not settle: {self:#?}");
    }

    /// Pass after pass, each disturbed, with so many seconds behind it.
    fn live(&mut self, story: Vec<(Disturbance, i64)>) {
        for (disturbance, pause) in story {
            self.pass(disturbance);
            self.wait(pause);
        }
    }

    fn wait(&mut self, seconds: i64) {
        self.now = later(self.now, Duration::from_secs(u64::try_from(seconds).expect("not negative")));
    }

    /// The object is deleted; the deletion goes on until the object is let go, and whatever is still on its way arrives.
    fn end(&mut self, disturbances: Vec<(Disturbance, i64)>) {
        self.deleted = true;
        for (disturbance, pause) in disturbances {
            if self.finalizer {
                self.pass(disturbance);
            }
            self.wait(pause);
        }
        for _ in 0..40 {
            if !self.finalizer {
                break;
            }
            let now = self.now;
            let again = self.pass(Disturbance::None);
            self.now = again.map_or(now, |at| at.max(now));
        }
        self.now = later(self.now, LATE_COMMIT);
        self.commit_what_is_late();
    }

    fn assert_is_in_order(&self) {
        let ours = self.ours();
        assert_eq!(ours.len(), 1, "exactly one registration: {self:#?}");
        let id = ours[0];
        let registration = &self.applications[id];
        assert_eq!(self.stored.client_id.as_ref(), Some(id));
        assert_eq!(registration.name, DISPLAY_NAME);
        assert_eq!(Some(&registration.scopes), self.spec.scopes.as_ref());
        let secret = self.secret.as_ref().expect("published");
        assert_eq!((&secret.client_id, secret.secret.as_str(), secret.is_intact), (id, registration.secret.as_str(), true));
        let mut wanted = self.spec.redirect_uris.clone();
        wanted.insert("https://theirs.example/cb".into());
        assert_eq!(self.redirect_uris, wanted);
        assert_eq!(self.stored.unclear_since, None);
        assert_eq!(
            (Some(&self.stored.added.scopes), &self.stored.added.redirect_uris),
            (self.spec.scopes.as_ref(), &self.spec.redirect_uris)
        );
        self.assert_the_foreign_is_untouched();
    }

    fn assert_the_foreign_is_untouched(&self) {
        let theirs = &self.applications[&ClientId::new("0-foreign")];
        assert_eq!((theirs.name.as_str(), theirs.scopes.clone()), (DISPLAY_NAME, set(&["theirs"])));
        assert!(self.redirect_uris.contains("https://theirs.example/cb"));
    }
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        2 => Just(Disturbance::None),
        6 => (0_u8..16).prop_map(Disturbance::CrashAfter),
        6 => (0_u8..16).prop_map(Disturbance::LoseAnswer),
        3 => (0_u8..16).prop_map(Disturbance::Refuse),
        3 => (0_u8..10).prop_map(Disturbance::CommitLate),
        3 => (0_u8..10).prop_map(Disturbance::CrashAndCommitLate),
        3 => (0_u8..10).prop_map(Disturbance::CommitLateAndReportRefused),
        1 => Just(Disturbance::ReportRefused),
        1 => Just(Disturbance::RemoteDeletion),
        1 => Just(Disturbance::RemoteRename),
        1 => Just(Disturbance::SecretDeletion),
        1 => Just(Disturbance::SecretEdit),
        1 => Just(Disturbance::SpecEdit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_125), ..ProptestConfig::default() })]

    /// Promises 1, 2 and 5.
    ///
    /// Traps: T07.
    #[test]
    fn whatever_happens_it_settles_with_one_registration_and_never_overwrites_a_working_secret(
        story in proptest::collection::vec((disturbance(), 0_i64..40), 0..8)
    ) {
        let mut site = Site::new();
        site.live(story);
        site.settle();
        site.assert_is_in_order();
        prop_assert!(site.overwritten.is_empty(), "{:?}", site.overwritten);
    }

    #[test]
    fn whatever_happened_before_a_deletion_leaves_nothing_of_ours_and_everything_of_others(
        story in proptest::collection::vec((disturbance(), 0_i64..40), 0..5),
        end in proptest::collection::vec((disturbance(), 0_i64..40), 0..3),
    ) {
        let mut site = Site::new();
        site.live(story);
        site.end(end);
        prop_assert!(!site.finalizer, "the deletion does not end: {:#?}", site);
        prop_assert!(site.ours().is_empty() && site.late.is_empty(), "left behind: {:#?}", site);
        site.assert_the_foreign_is_untouched();
        prop_assert_eq!(&site.redirect_uris, &set(&["https://theirs.example/cb"]));
    }

    #[test]
    fn whatever_happened_before_a_deletion_what_is_retained_stays_with_its_secret_and_nothing_else_of_ours(
        story in proptest::collection::vec((disturbance(), 0_i64..40), 0..5),
        end in proptest::collection::vec((disturbance(), 0_i64..40), 0..3),
    ) {
        let mut site = Site::new();
        site.spec.retain = Some(true);
        site.live(story);
        let is_taken_away = |(disturbance, _): &(Disturbance, i64)| {
            matches!(disturbance, Disturbance::RemoteDeletion | Disturbance::RemoteRename | Disturbance::SecretDeletion | Disturbance::SecretEdit)
        };
        let was_published = site.secret.as_ref().map(|secret| secret.client_id.clone()).filter(|id| site.applications.contains_key(id));
        let is_kept = was_published.filter(|_| !end.iter().any(is_taken_away));
        site.end(end);
        prop_assert!(!site.finalizer, "the deletion does not end: {:#?}", site);
        prop_assert!(site.ours().len() <= 1 && site.late.is_empty(), "a second registration is left: {:#?}", site);
        if let Some(id) = &is_kept {
            prop_assert_eq!(site.ours(), vec![id], "the registration is gone: {:#?}", site);
        }
        prop_assert!(is_kept.is_none() || site.secret.is_some(), "the Secret is gone: {:#?}", site);
        if let (Some(secret), Some(registration)) = (&site.secret, site.ours().first().map(|id| &site.applications[*id])) {
            prop_assert_eq!(&secret.secret, &registration.secret);
        }
        site.assert_the_foreign_is_untouched();
    }
}

/// The steps of a pass from a world, carried out without disturbance.
fn steps_of(site: &mut Site) -> Vec<Step> {
    let world = site.world();
    steps_from(site, world)
}

fn steps_from(site: &mut Site, mut world: World) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Next::Perform(step) = next(&world, site.now) {
        let outcome = site.carry_out(&world, &step);
        world.absorb(&step, Ok(outcome), site.now);
        steps.push(step);
    }
    site.stored = world.recorded;
    steps
}

#[test]
fn the_first_pass_takes_the_steps_of_the_contract_in_its_order() {
    let mut site = Site::new();
    let steps = steps_of(&mut site);
    assert_eq!(
        steps,
        [
            Step::Claim,
            Step::Register,
            Step::Publish,
            Step::ReadRedirectUris,
            Step::Record,
            Step::SetScopes(set(&["read", "write"])),
            Step::MergeRedirectUris { add: set(&["https://shop.example/cb"]), remove: BTreeSet::new() },
            Step::Rename(DISPLAY_NAME.into()),
            Step::Try,
        ]
    );
}

#[test]
fn a_second_pass_only_looks() {
    let mut site = Site::new();
    steps_of(&mut site);
    let steps = steps_of(&mut site);
    assert_eq!(steps, [Step::Look(ClientId::new("1-ours")), Step::ReadScopes, Step::ReadRedirectUris]);
}

#[test]
fn a_registration_after_somebody_elses_intent_is_preceded_by_a_list() {
    let mut site = Site::new();
    site.finalizer = true;
    assert_eq!(&steps_of(&mut site)[..2], [Step::FindNamesakes, Step::Register]);
    assert!(site.stored.unclear_since.is_some(), "the first registration may still be on its way");
}

#[test]
fn a_registration_that_only_the_secret_names_is_not_taken_for_the_only_one() {
    let mut site = Site::new();
    // The first answer was lost and the process died; the second process published its registration and died before it wrote status.
    site.finalizer = true;
    let (published, late) = (site.new_registration(), site.new_registration());
    site.commit(&published);
    site.late.push((later(site.now, Duration::from_secs(25)), Late::Registration(late)));
    site.secret = Some(PublishedSecret {
        client_id: published.clone(),
        secret: format!("secret of {published}"),
        is_intact: true,
        is_released: false,
    });
    site.settle();
    assert_eq!(site.ours(), [&published]);
    site.assert_is_in_order();
}

#[test]
fn an_absence_is_confirmed_by_a_list_and_by_time_before_anything_is_registered_again() {
    let mut site = Site::new();
    steps_of(&mut site);
    site.applications.remove(&ClientId::new("1-ours"));
    assert_eq!(steps_of(&mut site), [Step::Look(ClientId::new("1-ours")), Step::ConfirmAbsence(ClientId::new("1-ours"))]);
    site.now = later(site.now, Duration::from_secs(1));
    assert!(!steps_of(&mut site).contains(&Step::Register), "too soon after the first look");
    site.now = later(site.now, ABSENCE_SPACING);
    let steps = steps_of(&mut site);
    let position = |step: &Step| steps.iter().position(|other| other == step);
    assert!(position(&Step::FindNamesakes) < position(&Step::Register), "{steps:?}");
}

#[test]
fn each_obstacle_stops_everything_before_the_first_remote_call() {
    let world = |change: &dyn Fn(&mut World)| {
        let mut world = Site::new().world();
        change(&mut world);
        world
    };
    let unusable = |reason| ProviderView::Unusable(Problem::new(reason, "x"));
    let usable =
        |allowed, permits| ProviderView::Usable { tenant: TenantIdentity::recorded(TENANT), namespace_is_allowed: allowed, permits };
    let rows: Vec<(World, Reason)> = vec![
        (world(&|w| w.desired.suspended = true), Reason::Suspended),
        (world(&|w| w.flaw = Some(Problem::new(Reason::InvalidSpec, "x"))), Reason::InvalidSpec),
        (world(&|w| w.provider = unusable(Reason::ProviderNotFound)), Reason::ProviderNotFound),
        (world(&|w| w.provider = usable(false, None)), Reason::NamespaceNotAllowed),
        (world(&|w| w.provider = usable(true, Some(Permits::default()))), Reason::NotPermitted),
        (world(&|w| w.recorded.tenant = Some(TenantIdentity::recorded("other"))), Reason::ProviderIdentityChanged),
        (world(&|w| w.secret_rival = Some("AppIdApplication a/b".into())), Reason::SecretConflict),
        (world(&|w| w.secret = SecretView::Foreign { whose: "somebody".into() }), Reason::SecretConflict),
        (world(&|w| w.secret = SecretView::Immutable), Reason::SecretImmutable),
    ];
    for (world, reason) in rows {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(next(&world, now), Next::Rest, "{reason}");
        let verdict = world.verdict(1, "seed", now);
        assert_eq!(verdict.problem.as_ref().map(|problem| problem.reason), Some(reason));
        // Only a change of the spec ends a suspension; everything else is looked at again by itself.
        assert_eq!(verdict.again.is_some_and(|at| at > now), reason != Reason::Suspended, "{reason}: the time of the next look is named");
    }
}

#[test]
fn while_adoption_is_asked_for_nothing_is_ever_registered() {
    let adopting = |target: &str| {
        let mut site = Site::new();
        site.spec.adopt = Some(ClientId::new(target));
        site
    };
    let mut missing = adopting("nowhere");
    assert_eq!(steps_of(&mut missing), [Step::Look(ClientId::new("nowhere")), Step::ConfirmAbsence(ClientId::new("nowhere"))]);
    let mut site = adopting("0-foreign");
    site.applications.get_mut(&ClientId::new("0-foreign")).expect("there").is_foreign = false;
    let steps = steps_of(&mut site);
    assert!(!steps.contains(&Step::Register) && !steps.iter().any(|step| matches!(step, Step::Rename(_))), "{steps:?}");
    assert!(site.stored.adopted);
    let mut world = adopting("0-foreign").world();
    world.held_elsewhere = [(ClientId::new("0-foreign"), "AppIdApplication a/b".to_owned())].into();
    assert_eq!(next(&world, Timestamp::UNIX_EPOCH), Next::Rest);
    assert_eq!(world.verdict(1, "seed", Timestamp::UNIX_EPOCH).problem.map(|problem| problem.reason), Some(Reason::AlreadyManaged));
}

#[test]
fn a_scope_that_a_role_holds_is_removed_only_when_the_annotation_says_so() {
    let mut site = Site::new();
    steps_of(&mut site);
    site.spec.scopes = Some(set(&["read"]));
    let id = ClientId::new("1-ours");
    let role = crate::model::TenantRole { id: "r".into(), scopes: [(id.clone(), set(&["write"]))].into() };
    let mut world = site.world();
    world.remote.sight = Sight::Present(Site::shown(&id, &site.applications[&id]));
    world.remote.scopes = Some(set(&["read", "write"]));
    world.remote.redirect_uris = Some(site.redirect_uris.clone());
    world.remote.catalogue = Some([("role".to_owned(), role)].into());
    assert_eq!(next(&world, site.now), Next::Rest);
    assert_eq!(world.verdict(1, "seed", site.now).problem.map(|problem| problem.reason), Some(Reason::ScopeInUse));
    world.desired.removable_scopes = set(&["write"]);
    assert_eq!(next(&world, site.now), Next::Perform(Step::SetScopes(set(&["read"]))));
}

#[test]
fn attention_is_paid_when_something_calls_for_it_and_not_otherwise() {
    let now = Timestamp::from_second(1000).expect("in range");
    let at = |second| Timestamp::from_second(second).ok();
    let quiet = Triggers::default();
    for (triggers, has_obstacle, expected, reason) in [
        (quiet, false, Attention::Nothing, "nothing happened"),
        (Triggers { spec_changed: true, ..quiet }, false, Attention::Full, "the spec is newer"),
        (Triggers { provider_changed: true, ..quiet }, false, Attention::Full, "the provider is another"),
        (Triggers { drift_check_due: true, ..quiet }, false, Attention::Full, "a drift check is due"),
        (Triggers { secret_changed: true, ..quiet }, false, Attention::Local, "the Secret was touched but not damaged"),
        (Triggers { secret_changed: true, secret_damaged: true, ..quiet }, false, Attention::Full, "the Secret was damaged"),
        (
            Triggers { failed: true, next_action_at: at(2000), secret_changed: true, secret_damaged: true, ..quiet },
            false,
            Attention::Full,
            "the Secret of a failing object was damaged",
        ),
        (
            Triggers { failed: true, next_action_at: at(2000), secret_changed: true, ..quiet },
            false,
            Attention::Local,
            "the damage is known and could not be mended",
        ),
        (Triggers { unclaimed: true, ..quiet }, false, Attention::Full, "somebody took the finalizer away"),
        (Triggers { failed: true, next_action_at: at(2000), ..quiet }, false, Attention::Nothing, "the wait after a failure is kept"),
        (Triggers { failed: true, next_action_at: at(2000), woken: true, ..quiet }, false, Attention::Full, "a dependency changed"),
        (Triggers { failed: true, next_action_at: at(999), ..quiet }, false, Attention::Full, "the wait is over"),
        (Triggers { next_action_at: at(2000), ..quiet }, true, Attention::Local, "an obstacle stands"),
        (Triggers { next_action_at: at(2000), ..quiet }, false, Attention::Full, "the obstacle is gone"),
        (Triggers { next_action_at: at(2000), unclear: true, ..quiet }, false, Attention::Nothing, "it is too early to look again"),
        (Triggers { next_action_at: at(999), unclear: true, ..quiet }, false, Attention::Full, "it is late enough to look again"),
    ] {
        assert_eq!(attention(&triggers, has_obstacle, now), expected, "{reason}");
    }
}

#[test]
fn a_new_credential_that_is_refused_is_tried_again_soon_and_in_the_long_run_like_any_refusal() {
    let mut site = Site::new();
    steps_of(&mut site);
    let wait = |was_accepted: bool, failures: u32| {
        let mut world = site.world();
        world.remote.sight = Sight::Present(Site::shown(&ClientId::new("1-ours"), &site.applications[&ClientId::new("1-ours")]));
        let refused = Failure::new("trying the published credential", Class::Unauthorized, Reason::InvalidClient, "no");
        world.absorb(&Step::Try, Err(refused), site.now);
        world.recorded.verified = was_accepted;
        let again = world.verdict(failures, "seed", site.now).again.expect("it is tried again");
        again.duration_since(site.now).as_secs()
    };
    assert!((1..=3).contains(&wait(false, 1)), "{}", wait(false, 1));
    let soon: i64 = (1..=NEW_CREDENTIAL_ATTEMPTS).map(|failures| wait(false, failures)).sum();
    assert!((90..=160).contains(&soon), "{soon} s in all");
    assert!(wait(false, NEW_CREDENTIAL_ATTEMPTS + 1) > 24 * 60 - 1);
    assert!(wait(true, 1) > 24 * 60 - 1, "a credential that worked before is not new");
}

#[test]
fn an_unclear_registration_is_no_reason_to_hurry_while_something_else_is_in_the_way() {
    let mut site = Site::new();
    steps_of(&mut site);
    site.stored.unclear_since = Some(site.now);
    site.now = later(site.now, Duration::from_secs(3600));
    let again = |change: &dyn Fn(&mut World)| {
        let mut world = site.world();
        change(&mut world);
        assert_eq!(next(&world, site.now), Next::Rest);
        world.verdict(1, "seed", site.now).again.map(|at| at.duration_since(site.now).as_secs())
    };
    assert_eq!(again(&|world| world.desired.suspended = true), None);
    let conflict = again(&|world| world.secret = SecretView::Foreign { whose: "somebody".into() });
    assert!(conflict.is_some_and(|seconds| seconds > 60), "{conflict:?}");
}

#[test]
fn a_finalizer_that_is_missing_is_written_before_anything_else() {
    let mut site = Site::new();
    steps_of(&mut site);
    site.finalizer = false;
    assert_eq!(steps_of(&mut site)[0], Step::Claim);
    assert!(site.finalizer);
}

#[test]
fn a_credential_that_was_refused_is_published_anew_from_what_the_service_shows_before_it_is_tried_again() {
    let mut site = Site::new();
    steps_of(&mut site);
    site.stored.verified = false;
    let mut world = site.world();
    world.was_refused = true;
    let steps = steps_from(&mut site, world);
    let publishing = steps.iter().position(|step| *step == Step::Publish).expect("published");
    assert!(publishing < steps.iter().position(|step| *step == Step::Try).expect("tried"), "{steps:?}");
    assert_eq!(steps.iter().filter(|step| **step == Step::Publish).count(), 1);
}

#[test]
fn an_id_to_adopt_that_the_service_calls_malformed_is_missing_when_the_list_does_not_show_it_either() {
    let mut site = Site::new();
    let id = ClientId::new("no-client-id");
    site.spec.adopt = Some(id.clone());
    let mut world = site.world();
    world.absorb(
        &Step::Look(id.clone()),
        Err(Failure { status: Some(400), ..Failure::new("looking", Class::Rejected, Reason::Rejected, "no") }),
        site.now,
    );
    assert_eq!(next(&world, site.now), Next::Perform(Step::ConfirmAbsence(id.clone())));
    world.absorb(&Step::ConfirmAbsence(id), Ok(Outcome::Listed(None)), site.now);
    assert_eq!(next(&world, site.now), Next::Rest);
    assert_eq!(world.verdict(1, "seed", site.now).problem.map(|problem| problem.reason), Some(Reason::RemoteMissing));
}
