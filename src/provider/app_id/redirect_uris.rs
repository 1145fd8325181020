//! The tenant's redirect URIs: one list for everybody, written as a whole, by one of us at a time.

use std::{collections::BTreeSet, time::Duration};

use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{Caller, http::DEADLINE},
    Access, AppId, Management, Operation,
};
use crate::{
    model::{Class, Failure},
    reasons::Reason,
};

/// A reading of the tenant's redirect URIs that is older than this is read again before a write.
const REDIRECT_URIS_FRESH: Duration = Duration::from_secs(2);
/// So often is the list read for one write, when the tenant's turn is long in coming.
const READINGS_MOST: usize = 5;
const MERGING: &str = "writing the tenant's redirect URIs";

/// Entries that one object wants in the tenant's list, or out of it.
pub(super) struct Merge {
    add: BTreeSet<String>,
    remove: BTreeSet<String>,
    /// Whether a live object lists an entry that is to be removed.
    is_wanted: Box<dyn Fn(&str) -> bool + Send + Sync>,
    done: oneshot::Sender<Result<Merged, Failure>>,
}

/// The tenant's redirect URIs after a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The whole list.
    pub list: BTreeSet<String>,
    /// Entries that somebody else had added between our last look and the write.
    pub already: BTreeSet<String>,
    /// Entries to be removed that were not there, and that this process did not take away.
    pub absent: BTreeSet<String>,
}

/// What a batch does to the list.
enum Change {
    Nothing(BTreeSet<String>),
    Write { before: BTreeSet<String>, document: Map<String, Value> },
}

fn merged(mut document: Map<String, Value>, batch: &[Merge]) -> Change {
    let before = entries(&document);
    let mut target = before.clone();
    for merge in batch {
        target.retain(|uri| !merge.remove.contains(uri) || (merge.is_wanted)(uri));
    }
    for merge in batch {
        target.extend(merge.add.iter().cloned());
    }
    if target == before {
        return Change::Nothing(before);
    }
    // Others' entries keep their order; ours come behind them.
    let mut list: Vec<String> = ordered(&document).into_iter().filter(|uri| target.contains(uri)).collect();
    list.extend(target.difference(&before).cloned());
    document.insert("redirectUris".to_owned(), json!(list));
    Change::Write { before, document }
}

impl Written {
    /// What the batch means for one of those who took part in it.
    fn share_of(&self, merge: &Merge) -> Result<Merged, Failure> {
        if !merge.add.is_subset(&self.after) {
            let message = "an entry that was written is not in the list: somebody else writes it too";
            return Err(Failure::new(MERGING, Class::Transient, Reason::ServiceUnavailable, message));
        }
        let stays = |uri: &&String| merge.remove.contains(*uri) && !(merge.is_wanted)(uri);
        if self.after.iter().any(|uri| stays(&uri)) {
            let message = "an entry that was removed is still in the list: somebody else writes it too";
            return Err(Failure::new(MERGING, Class::Transient, Reason::ServiceUnavailable, message));
        }
        Ok(Merged {
            already: merge.add.intersection(&self.added_by_others).cloned().collect(),
            absent: merge.remove.iter().filter(|uri| !self.before.contains(*uri) && !self.removed.contains(*uri)).cloned().collect(),
            list: self.after.clone(),
        })
    }
}

/// What a batch found and left.
#[derive(Clone)]
struct Written {
    before: BTreeSet<String>,
    after: BTreeSet<String>,
    added_by_others: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl AppId {
    /// The tenant's redirect URIs.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn redirect_uris(&self, caller: &Caller) -> Result<BTreeSet<String>, Failure> {
        let asked_at = Instant::now();
        let mut kept = self.shared.redirect_uris.lock().await;
        if let Some((_, document)) = kept.as_ref().filter(|(read_at, _)| *read_at >= asked_at) {
            return Ok(entries(document));
        }
        let read_at = Instant::now();
        let document = self.read_redirect_uris(caller).await?;
        let list = entries(&document);
        *kept = Some((read_at, document));
        Ok(list)
    }

    /// Merges into the tenant's redirect URIs. Everybody who waits while a write is under way is served by the next one; a write that is
    /// refused fails for the one whose credential it was made with, and the others make their own.
    ///
    /// `is_wanted` says of an entry to be removed whether a live object lists it by now; such an entry stays in the list.
    ///
    /// # Errors
    ///
    /// When the list cannot be read or written, or does not hold what was written.
    pub async fn merge_redirect_uris(
        &self,
        caller: &Caller,
        add: BTreeSet<String>,
        remove: BTreeSet<String>,
        is_wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Result<Merged, Failure> {
        let (done, mut outcome) = oneshot::channel();
        self.shared.merges.lock().push(Merge { add, remove, is_wanted: Box::new(is_wanted), done });
        let mut kept = self.shared.redirect_uris.lock().await;
        if let Ok(result) = outcome.try_recv() {
            return result;
        }
        let mut batch = std::mem::take(&mut *self.shared.merges.lock());
        match self.write_batch(caller, &mut kept, &batch).await {
            Ok(written) => {
                for merge in batch {
                    let share = written.share_of(&merge);
                    // Who gave up waiting needs no answer.
                    drop(merge.done.send(share));
                }
            }
            // It may still be carried out: everybody whose entries it holds has to know.
            Err(failure) if failure.may_have_happened => {
                batch.into_iter().for_each(|merge| drop(merge.done.send(Err(failure.clone()))));
            }
            Err(failure) => {
                // Closes our own place in the batch; the others are still waiting for the lock.
                outcome.close();
                batch.retain(|merge| !merge.done.is_closed());
                self.shared.merges.lock().extend(batch);
                return Err(failure);
            }
        }
        drop(kept);
        outcome.await.unwrap_or_else(|_| Err(Failure::new(MERGING, Class::Transient, Reason::InProgress, "the write was given up")))
    }

    async fn write_batch(
        &self,
        caller: &Caller,
        kept: &mut Option<(Instant, Map<String, Value>)>,
        batch: &[Merge],
    ) -> Result<Written, Failure> {
        let operation = Operation { doing: MERGING, name: "app_id.redirect_uris.set" };
        let mut added_by_others = BTreeSet::new();
        // Each turn at the tenant may be long in coming; what was read before it is then read again.
        for _ in 0..READINGS_MOST {
            if kept.as_ref().is_none_or(|(read_at, _)| read_at.elapsed() > REDIRECT_URIS_FRESH) {
                let read_at = Instant::now();
                let document = self.read_redirect_uris(caller).await?;
                let present = entries(&document);
                added_by_others = batch.iter().flat_map(|merge| &merge.add).filter(|uri| present.contains(*uri)).cloned().collect();
                *kept = Some((read_at, document));
            }
            let Some((read_at, document)) = kept.clone() else { continue };
            let (before, document) = match merged(document, batch) {
                Change::Nothing(present) => {
                    return Ok(self.written(present.clone(), present, added_by_others));
                }
                Change::Write { before, document } => (before, document),
            };
            let is_fresh: &(dyn Fn() -> bool + Sync) = &|| read_at.elapsed() <= REDIRECT_URIS_FRESH;
            let body = Some(Value::Object(document));
            let request = Management { operation, method: Method::PUT, path: &["config", "redirect_uris"], body, deadline: DEADLINE };
            let answer = self.manage_if(caller, request, is_fresh).await?;
            let Some(answer) = answer else {
                *kept = None;
                continue;
            };
            *kept = None;
            self.succeeded(operation, &answer)?;
            let read_at = Instant::now();
            let document = self.read_redirect_uris(caller).await?;
            let after = entries(&document);
            *kept = Some((read_at, document));
            return Ok(self.written(before, after, added_by_others));
        }
        let message = "the tenant's turn came too late, again and again: what was read was no longer fresh";
        Err(Failure::new(MERGING, Class::Transient, Reason::ServiceUnavailable, message))
    }

    fn written(&self, before: BTreeSet<String>, after: BTreeSet<String>, added_by_others: BTreeSet<String>) -> Written {
        let mut removed = self.shared.removed.lock();
        removed.extend(before.difference(&after).cloned());
        removed.retain(|uri| !after.contains(uri));
        Written { removed: removed.clone(), before, after, added_by_others }
    }

    async fn read_redirect_uris(&self, caller: &Caller) -> Result<Map<String, Value>, Failure> {
        let operation = Operation { doing: "reading the tenant's redirect URIs", name: "app_id.redirect_uris.get" };
        let answer = self.manage(caller, operation, Method::GET, &["config", "redirect_uris"], None, DEADLINE).await?;
        let document: Map<String, Value> = self.read(operation, Access::Read, false, &answer)?;
        let is_list =
            document.get("redirectUris").is_some_and(|list| list.as_array().is_some_and(|list| list.iter().all(Value::is_string)));
        if is_list {
            Ok(document)
        } else {
            Err(self.tenant.nonsense(operation.doing, false, &answer, "the answer holds no list of redirect URIs"))
        }
    }
}

fn ordered(document: &Map<String, Value>) -> Vec<String> {
    document.get("redirectUris").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

fn entries(document: &Map<String, Value>) -> BTreeSet<String> {
    ordered(document).into_iter().collect()
}

impl std::fmt::Debug for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").field("add", &self.add.len()).field("remove", &self.remove.len()).finish_non_exhaustive()
    }
}
