//! The Secret `<secret.name>-state`: the refresh token that is used next, and whether an answer to its last use is known.
//!
//! The order is what keeps a sign-in alive: that a refresh token is used is recorded before it is sent, and what comes in its place is stored
//! before anything else happens. Both writes are conditional, so that of two processes one loses before it has sent anything.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::core::PartialObjectMeta;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{KIND, Pass, secret, source::Source, spec::state_key};
use crate::{
    api::{AccessToken, AccessTokenStatus, ObjectVersion, RefreshTokenStatus, mark},
    controller::{
        Context,
        cluster::{self, Abort, SecretContent, Subject},
        published::{self, Whose},
    },
    model::{ExposeSecret, Failure, Grant, IssuedToken, Life, SecretText, TokenRequest},
    plan::{Problem, token::RefreshToken, wait},
    reasons::Reason,
};

/// A successor that meets another version of the Secret is stored over it so often, as long as that still holds its predecessor.
const STORED_AGAIN: usize = 5;
/// An API server that fails is asked for so long whether it stores a successor. Shorter than the time that a process has to end.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// What the Secret says.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The refresh token that is used next.
    token: SecretText,
    /// A digest of the first one, by which another first one is known.
    seed: String,
    /// Counts the uses.
    use_number: i64,
    /// How often the token was used since the last answer.
    uses: u32,
    /// When it was used last.
    used_at: Option<Timestamp>,
}

/// Keys of the Secret.
mod key {
    pub(super) const TOKEN: &str = "refresh_token";
    pub(super) const SEED: &str = "seed";
    pub(super) const USE_NUMBER: &str = "use_number";
    pub(super) const USES: &str = "uses";
    pub(super) const USED_AT: &str = "used_at";
}

/// The state of a pass: what the Secret says, and which version of it says so; `None` while there is none.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) state: State,
    version: Option<ObjectVersion>,
}

/// What came with a use and is not stored yet.
#[derive(Clone)]
struct Successor {
    /// What it follows.
    held: Held,
    /// Who issued it.
    tenant: String,
    issued: IssuedToken,
    life: Life,
}

/// What this process knows of refresh tokens, by UID: what it last read or wrote, and successors that could not be stored yet.
#[derive(Default)]
pub struct RefreshTokens {
    held: Mutex<HashMap<String, Held>>,
    successors: Mutex<HashMap<String, Successor>>,
}

impl RefreshTokens {
    /// What the state was when a token came in its place that is not stored yet.
    pub(super) fn before_successor(&self, uid: &str) -> Option<Held> {
        self.successors.lock().get(uid).map(|successor| successor.held.clone())
    }

    /// What came is of no use any more.
    pub(super) fn forget_successor(&self, uid: &str) {
        self.successors.lock().remove(uid);
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.held.lock().remove(uid);
        self.successors.lock().remove(uid);
    }
}

impl std::fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshTokens").finish_non_exhaustive()
    }
}

impl State {
    /// The beginning: the first refresh token, never used. Uses go on being counted.
    fn begin(seed: &SecretText, use_number: i64) -> Self {
        Self { token: seed.clone(), seed: digest_of(seed), use_number, uses: 0, used_at: None }
    }

    /// What a Secret says; a beginning where that belongs to another first token.
    fn of(data: &BTreeMap<String, SecretText>, seed: &SecretText) -> Option<Self> {
        let use_number = number(data)?;
        if text(data, key::SEED) != Some(digest_of(seed).as_str()) {
            return Some(Self::begin(seed, use_number));
        }
        Self::read(data)
    }

    /// What a Secret says, whatever first token that belongs to.
    fn read(data: &BTreeMap<String, SecretText>) -> Option<Self> {
        let text = |key: &str| text(data, key);
        Some(Self {
            token: data.get(key::TOKEN).filter(|token| !token.expose_secret().is_empty())?.clone(),
            seed: text(key::SEED)?.to_owned(),
            use_number: number(data)?,
            uses: text(key::USES).and_then(|text| text.parse().ok())?,
            used_at: text(key::USED_AT).and_then(|text| text.parse().ok()),
        })
    }

    fn data(&self) -> BTreeMap<String, SecretText> {
        let mut data = BTreeMap::from([
            (key::TOKEN.to_owned(), self.token.clone()),
            (key::SEED.to_owned(), self.seed.clone().into()),
            (key::USE_NUMBER.to_owned(), self.use_number.to_string().into()),
            (key::USES.to_owned(), self.uses.to_string().into()),
        ]);
        data.extend(self.used_at.map(|at| (key::USED_AT.to_owned(), at.to_string().into())));
        data
    }

    fn used(&self, uses: u32, now: Timestamp) -> Self {
        Self { use_number: self.use_number + 1, uses, used_at: Some(now), ..self.clone() }
    }

    /// After an answer: the token that came, or the same one where the server does not replace it.
    fn followed_by(&self, token: Option<SecretText>) -> Self {
        Self { token: token.unwrap_or_else(|| self.token.clone()), uses: 0, used_at: None, ..self.clone() }
    }
}

fn text<'a>(data: &'a BTreeMap<String, SecretText>, key: &str) -> Option<&'a str> {
    data.get(key).map(|text| text.expose_secret())
}

fn number(data: &BTreeMap<String, SecretText>) -> Option<i64> {
    text(data, key::USE_NUMBER).and_then(|text| text.parse().ok())
}

impl Held {
    /// Whether the Secret is there, and ours.
    pub(super) fn is_stored(&self) -> bool {
        self.version.is_some()
    }

    /// The same in the words of the rules.
    pub(super) fn known(&self, context: &Context, subject: &Subject, status: &AccessTokenStatus) -> RefreshToken {
        let answered = status.refresh_token.as_ref().filter(|said| said.answered >= self.state.use_number);
        let current = secret::digest(&self.state.token);
        // It may be stored although the answer to that was lost; then it is stored once more, which changes nothing.
        let follows = |successor: &Successor| {
            let is_stored = successor.issued.refresh_token.as_ref().is_some_and(|token| secret::digest(token) == current);
            secret::digest(&successor.held.state.token) == current || is_stored
        };
        let has_successor = context.refresh_tokens.successors.lock().get(&subject.uid).is_some_and(follows);
        RefreshToken {
            unanswered_since: self.state.used_at.filter(|_| self.state.uses > 0 && answered.is_none()),
            uses: if answered.is_none() { self.state.uses } else { 0 },
            is_refused: answered.is_some_and(|said| said.refused) && self.state.uses > 0,
            is_recorded: false,
            has_successor,
        }
    }

    /// What is asked for, with the refresh token that is used now.
    pub(super) fn request(&self, request: &TokenRequest) -> TokenRequest {
        TokenRequest { grant: Grant::RefreshToken(self.state.token.clone()), ..request.clone() }
    }
}

/// Reads the Secret, from memory where its version is known.
///
/// # Errors
///
/// When the API server does not answer; in the inner result: why the refresh token cannot be used.
pub(super) async fn look(
    context: &Context,
    object: &AccessToken,
    subject: &Subject,
    status: &AccessTokenStatus,
    seed: &SecretText,
) -> Result<Result<Held, Problem>, Abort> {
    let name = state_key(object);
    let known = context.secrets.get(&name);
    let remembered = context.refresh_tokens.held.lock().get(&subject.uid).cloned();
    let remembered = remembered.filter(|held| held.state.seed == digest_of(seed));
    if let Some(held) = remembered.as_ref().filter(|held| held.version.is_some() && held.version == known) {
        return Ok(Ok(held.clone()));
    }
    let said = status.refresh_token.as_ref();
    let answered = said.map_or(0, |said| said.answered);
    let mark = fingerprint(&subject.uid, seed);
    let was_used = said.is_some_and(|said| said.fingerprint == mark);
    let lost = |what: &str| {
        let message = format!(
            "the Secret {}, which held the current refresh token, {what}; put a new one into the Secret that grant.refreshToken names",
            name.name()
        );
        Problem::new(Reason::ReauthorizationRequired, message)
    };
    let Some((metadata, data)) = cluster::read_secret(&context.client, name.namespace(), name.name()).await? else {
        let beginning = Held { state: State::begin(seed, answered), version: None };
        return Ok(if was_used { Err(lost("is gone")) } else { Ok(beginning) });
    };
    let version = ObjectVersion::of(&metadata);
    let metadata = PartialObjectMeta { metadata, ..PartialObjectMeta::default() };
    context.secrets.note(name.clone(), version.clone());
    match published::whose(&metadata, context, subject, None, &Default::default()) {
        Whose::Ours { is_immutable: true, .. } => return Ok(Err(Problem::immutable_secret())),
        Whose::Ours { .. } | Whose::Former { from_this_cluster: true, .. } => {}
        Whose::Former { whose, .. } | Whose::Others(whose) => {
            return Ok(Err(Problem::foreign_secret(&format!("{whose} ({})", name.name()))));
        }
    }
    match State::of(&data, seed) {
        // Put back to what it was before: what it holds is used up. This process may know better.
        Some(state) if state.use_number < answered && was_used => match remembered.filter(|held| held.state.use_number >= answered) {
            Some(held) => Ok(Ok(Held { version: Some(version), ..held })),
            None => Ok(Err(lost("was put back to an older state"))),
        },
        Some(state) => {
            let state = State { use_number: state.use_number.max(answered), ..state };
            let held = Held { state, version: Some(version) };
            context.refresh_tokens.held.lock().insert(subject.uid.clone(), held.clone());
            Ok(Ok(held))
        }
        None if was_used => Ok(Err(lost("was changed by somebody else"))),
        None => Ok(Ok(Held { state: State::begin(seed, answered), version: Some(version) })),
    }
}

impl Pass {
    fn held(&self) -> Result<&Held, Abort> {
        self.refresh_token.as_ref().ok_or(Abort::Stale)
    }

    /// Records that the refresh token is used now. After this nobody else can record the same.
    pub(super) async fn record_use(&mut self) -> Result<Result<(), Failure>, Abort> {
        let now = self.context.clock.now();
        let uses = self.world.refresh_token.as_ref().map_or(0, |token| token.uses) + 1;
        let held = self.held()?.clone();
        let state = held.state.used(uses, now);
        let tenant = self.source.as_deref().map(Source::tenant).ok_or(Abort::Stale)?;
        let written = self.write_state(&state, held.version.as_ref(), &tenant).await?;
        if written.is_ok() {
            self.world.refresh_token =
                Some(RefreshToken { unanswered_since: Some(now), uses, is_recorded: true, ..RefreshToken::default() });
        }
        Ok(written)
    }

    /// Stores what came in the place of the refresh token that was used. Until that has happened it stays in memory.
    pub(super) async fn follow(&mut self, issued: &IssuedToken, life: Life) -> Result<Result<(), Failure>, Abort> {
        let tenant = self.source.as_deref().map(Source::tenant).ok_or(Abort::Stale)?;
        let successor = Successor { held: self.held()?.clone(), tenant, issued: issued.clone(), life };
        self.context.refresh_tokens.successors.lock().insert(self.subject.uid.clone(), successor.clone());
        self.store(&successor).await
    }

    /// Stores what came in an earlier pass; the token that came with it is this pass's.
    pub(super) async fn keep_successor(&mut self) -> Result<(), Abort> {
        let successor = self.context.refresh_tokens.successors.lock().get(&self.subject.uid).cloned();
        let Some(successor) = successor else { return Err(Abort::Stale) };
        let stored = self.store(&successor).await?;
        let Successor { issued, life, .. } = successor;
        if let Some(token) = &mut self.world.refresh_token {
            *token = RefreshToken::default();
        }
        self.world.issued = Some(stored.and_then(|()| self.came(issued, life)));
        Ok(())
    }

    /// An API server that fails meanwhile is asked again: with what came the sign-in would be lost.
    async fn store(&mut self, successor: &Successor) -> Result<Result<(), Failure>, Abort> {
        let Successor { tenant, issued, .. } = successor;
        let spent = secret::digest(&self.held()?.state.token);
        let (begun, mut conflicts, mut failures) = (Instant::now(), 0, 0);
        loop {
            let held = self.held()?.clone();
            let next = held.state.followed_by(issued.refresh_token.clone());
            let written = match self.write_state(&next, held.version.as_ref(), tenant).await {
                Err(Abort::Stale) if conflicts < STORED_AGAIN => {
                    conflicts += 1;
                    self.is_stored_meanwhile(issued, &spent, held).await.map(|is_stored| is_stored.then_some(Ok(())))
                }
                written => written.map(Some),
            };
            match written {
                Ok(None) => {}
                Ok(Some(written)) => {
                    if written.is_ok() {
                        self.context.refresh_tokens.successors.lock().remove(&self.subject.uid);
                    }
                    return Ok(written);
                }
                Err(Abort::Cluster { doing, source }) if begun.elapsed() < STORED_WITHIN => {
                    failures += 1;
                    tracing::warn!(object = %self.subject.path(), error = %source, "{doing} failed; it is tried again");
                    tokio::time::sleep(wait::after_transient(failures, &self.subject.uid)).await;
                }
                // It stays in memory, and is stored by the next pass.
                Err(abort) => return Err(abort),
            }
        }
    }

    /// The Secret has changed: by this write, of which the answer was lost, by another process, or by somebody's label. What counts is that
    /// no newer token would be lost.
    async fn is_stored_meanwhile(&mut self, issued: &IssuedToken, spent: &[u8; 32], held: Held) -> Result<bool, Abort> {
        let current = self.current().await?;
        let found = current.as_ref().filter(|now| now.state.seed == held.state.seed).map(|now| secret::digest(&now.state.token));
        let is_stored = found.is_some() && found == issued.refresh_token.as_ref().map(secret::digest);
        if current.is_some() && !is_stored && found != Some(*spent) {
            self.context.refresh_tokens.successors.lock().remove(&self.subject.uid);
            return Err(Abort::Stale);
        }
        // One that was deleted meanwhile is made anew.
        self.refresh_token = Some(current.unwrap_or(Held { version: None, ..held }));
        Ok(is_stored)
    }

    /// What the Secret says now.
    async fn current(&self) -> Result<Option<Held>, Abort> {
        let name = state_key(&self.object);
        let Some((metadata, data)) = cluster::read_secret(&self.context.client, name.namespace(), name.name()).await? else {
            return Ok(None);
        };
        let version = ObjectVersion::of(&metadata);
        Ok(State::read(&data).map(|state| Held { state, version: Some(version) }))
    }

    async fn write_state(&mut self, state: &State, known: Option<&ObjectVersion>, tenant: &str) -> Result<Result<(), Failure>, Abort> {
        let shape = mark::STATE_SHAPE.to_owned();
        let annotations = published::annotations(&self.context, &self.subject, &BTreeMap::new(), tenant.to_owned(), shape);
        let labels = BTreeMap::from([(mark::STATE.to_owned(), KIND.to_owned())]);
        let content = SecretContent { data: state.data(), labels, annotations, owned: true };
        let name = state_key(&self.object);
        match self.subject.publish(&self.context.client, name.name(), known, &content).await? {
            Ok(version) => {
                self.context.secrets.note(name, version.clone());
                let held = Held { state: state.clone(), version: Some(version) };
                self.context.refresh_tokens.held.lock().insert(self.subject.uid.clone(), held.clone());
                self.refresh_token = Some(held);
                Ok(Ok(()))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// What status is to say of the refresh token.
    pub(super) fn refresh_token_status(&self, former: &AccessTokenStatus) -> Option<RefreshTokenStatus> {
        let former = former.refresh_token.clone();
        let Some(held) = &self.refresh_token else {
            // What keeps it from being looked at says nothing about it.
            return former.filter(|_| self.object.spec.grant.refresh_token.is_some());
        };
        let answered = held.state.use_number;
        let Some((seed, fingerprint)) = self.seed_version().zip(self.seed().map(|seed| fingerprint(&self.subject.uid, seed))) else {
            // Of an earlier pass; in this one the first token was not read.
            let is_stored = matches!(self.world.issued, Some(Ok(_)));
            return former.map(|former| if is_stored { RefreshTokenStatus { answered, refused: false, ..former } } else { former });
        };
        match &self.world.issued {
            Some(Ok(_)) => Some(RefreshTokenStatus { seed, fingerprint, answered, refused: false }),
            Some(Err(failure)) if self.is_answered_by(failure) => {
                Some(RefreshTokenStatus { seed, fingerprint, answered, refused: failure.reason == Reason::ReauthorizationRequired })
            }
            Some(Err(_)) if self.world.refresh_token.as_ref().is_some_and(|token| token.is_recorded) => {
                let before = former.map_or(answered - 1, |former| former.answered.min(answered - 1));
                Some(RefreshTokenStatus { seed, fingerprint, answered: before, refused: false })
            }
            // Touched, and the same.
            _ => former.map(|former| if former.fingerprint == fingerprint { RefreshTokenStatus { seed, ..former } } else { former }),
        }
    }

    fn is_answered_by(&self, failure: &Failure) -> bool {
        self.world.refresh_token.as_ref().is_some_and(|token| token.is_recorded && token.is_answered_by(failure))
    }

    /// The first refresh token.
    fn seed(&self) -> Option<&SecretText> {
        match &self.source.as_ref()?.request.grant {
            Grant::RefreshToken(seed) => Some(seed),
            _ => None,
        }
    }

    fn seed_version(&self) -> Option<ObjectVersion> {
        let name = &self.object.spec.grant.refresh_token.as_ref()?.secret_ref.name;
        self.source.as_ref()?.issued_for.credentials.get(name).cloned()
    }
}

/// Tells one first token from another on the same object, and tells nothing of it: 64 bits of a digest, with the object's UID in it.
fn fingerprint(uid: &str, seed: &SecretText) -> String {
    let digest = Sha256::new().chain_update(uid).chain_update([0]).chain_update(seed.expose_secret()).finalize();
    data_encoding::HEXLOWER.encode(&digest[..8])
}

fn digest_of(seed: &SecretText) -> String {
    data_encoding::HEXLOWER.encode(&secret::digest(seed))
}
