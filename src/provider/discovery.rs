//! Discovery documents (OpenID Connect Discovery 1.0, RFC 8414): how one is read, and for how long what it says counts.

use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    Caller, Tenant,
    http::{Body, DEADLINE, Request},
    inquiry::Inquiry,
};
use crate::model::Failure;

pub(super) const DISCOVERING: &str = "reading the discovery document";
/// What was found out is found out again after this long.
pub(super) const DISCOVERED_FOR: Duration = Duration::from_secs(3600);
/// After a failure the server is left alone for this long, where something is known from before.
pub(super) const FAILED_FOR: Duration = Duration::from_secs(60);

/// A discovery document, as far as it is needed.
#[derive(Deserialize)]
pub(super) struct Document {
    /// The server's own name.
    pub(super) issuer: String,
    /// Where it gives tokens.
    pub(super) token_endpoint: Option<String>,
}

/// Reads a discovery document; the inner failure says that there is none at this place.
///
/// # Errors
///
/// When the server does not answer, or something else lies there.
pub(super) async fn document(
    tenant: &Tenant,
    caller: &Caller,
    operation: &'static str,
    url: Url,
) -> Result<Result<Document, Failure>, Failure> {
    let request =
        Request { doing: DISCOVERING, operation, method: Method::GET, url, authorization: None, body: Body::Empty, deadline: DEADLINE };
    let answer = tenant.call(caller, request).await?;
    if answer.status == 404 {
        return Ok(Err(answer.failure(DISCOVERING, false)));
    }
    tenant.read(DISCOVERING, false, &answer).map(Ok)
}

/// What was found out about a server, for all who ask it. While one finds it out again the others go on with what is known.
#[derive(Debug)]
pub(super) struct Discovery<T> {
    known: Mutex<Option<Known<T>>>,
    reading: Inquiry,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known<T> {
    found: T,
    read_at: Instant,
    read_again_at: Instant,
}

impl<T> Default for Discovery<T> {
    fn default() -> Self {
        Self { known: Mutex::new(None), reading: Inquiry::default() }
    }
}

impl<T: Clone> Discovery<T> {
    /// What is known; `read` finds it out where nothing is, and from time to time. Where that fails, what was known before is good enough,
    /// unless `ends` says that the failure tells of something else.
    ///
    /// # Errors
    ///
    /// When nothing was known before and it cannot be found out, or `ends` says so.
    pub(super) async fn get(&self, read: impl AsyncFnOnce() -> Result<T, Failure>, ends: fn(&Failure) -> bool) -> Result<T, Failure> {
        let Some(known) = self.known() else { return self.read_after(None, read, ends).await };
        if Instant::now() < known.read_again_at {
            return Ok(known.found);
        }
        let good = async || self.known().filter(|known| Instant::now() < known.read_again_at).map(|known| known.found);
        let Some(found) = self.reading.unless_busy(good, async || self.read(read, ends).await).await else { return Ok(known.found) };
        found.or_else(|failure| self.known().map(|known| known.found).ok_or(failure))
    }

    /// What was found out after `moment`: by somebody else meanwhile, or now. All who wait for one reading share what becomes of it.
    ///
    /// # Errors
    ///
    /// When it cannot be found out.
    pub(super) async fn read_after(
        &self,
        moment: Option<Instant>,
        read: impl AsyncFnOnce() -> Result<T, Failure>,
        ends: fn(&Failure) -> bool,
    ) -> Result<T, Failure> {
        let known = async || {
            let known = self.known().filter(|known| moment.is_none_or(|moment| known.read_at >= moment));
            known.map(|known| known.found)
        };
        self.reading.wait(known, async || self.read(read, ends).await).await
    }

    async fn read(&self, read: impl AsyncFnOnce() -> Result<T, Failure>, ends: fn(&Failure) -> bool) -> Result<T, Failure> {
        let found = read().await;
        self.learn(&found, ends);
        found
    }

    /// From now on this is known, for so long.
    pub(super) fn put(&self, found: T, counts_for: Duration) {
        let now = Instant::now();
        *self.known.lock() = Some(Known { found, read_at: now, read_again_at: now + counts_for });
    }

    /// The same where nothing is known; what is known then.
    pub(super) fn put_if_unknown(&self, found: T, counts_for: Duration) -> T {
        let now = Instant::now();
        let mut known = self.known.lock();
        known.get_or_insert(Known { found, read_at: now, read_again_at: now + counts_for }).found.clone()
    }

    /// Nothing is known any more.
    pub(super) fn forget(&self) {
        *self.known.lock() = None;
    }

    fn known(&self) -> Option<Known<T>> {
        self.known.lock().clone()
    }

    fn learn(&self, found: &Result<T, Failure>, ends: fn(&Failure) -> bool) {
        let now = Instant::now();
        let mut known = self.known.lock();
        *known = match found {
            Ok(found) => Some(Known { found: found.clone(), read_at: now, read_again_at: now + DISCOVERED_FOR }),
            Err(failure) if ends(failure) => None,
            Err(_) => known.take().map(|known| Known { read_again_at: now + FAILED_FOR, ..known }),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use super::*;
    use crate::{model::Class, reasons::Reason};

    fn failure(reason: Reason) -> Failure {
        Failure::new(DISCOVERING, Class::Rejected, reason, "")
    }

    fn ends(failure: &Failure) -> bool {
        failure.reason == Reason::IssuerMismatch
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_used_until_something_else_is_told() {
        let discovery = Discovery::default();
        let unread = async || -> Result<u32, Failure> { panic!("it is known") };
        let fails = async || Err(failure(Reason::ServiceUnavailable));
        assert_eq!(discovery.get(fails, ends).await, Err(failure(Reason::ServiceUnavailable)), "nothing is known");
        assert_eq!(discovery.get(async || Ok(1), ends).await, Ok(1));
        tokio::time::advance(DISCOVERED_FOR - Duration::from_secs(1)).await;
        assert_eq!(discovery.get(unread, ends).await, Ok(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(discovery.get(fails, ends).await, Ok(1), "it will do a little longer");
        assert_eq!(discovery.get(unread, ends).await, Ok(1), "and the server is left alone");
        tokio::time::advance(FAILED_FOR).await;
        assert_eq!(discovery.get(async || Ok(2), ends).await, Ok(2));
        tokio::time::advance(DISCOVERED_FOR).await;
        let other = async || Err(failure(Reason::IssuerMismatch));
        assert_eq!(discovery.get(other, ends).await, Err(failure(Reason::IssuerMismatch)));
        assert_eq!(discovery.get(fails, ends).await, Err(failure(Reason::ServiceUnavailable)), "nothing is known any more");
        discovery.put(3, FAILED_FOR);
        assert_eq!(discovery.get(unread, ends).await, Ok(3));
        let moment = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(discovery.read_after(Some(moment), unread, ends).await, Ok(3), "known since");
        assert_eq!(discovery.read_after(Some(Instant::now()), async || Ok(4), ends).await, Ok(4));
        assert_eq!(discovery.put_if_unknown(0, FAILED_FOR), 4);
        discovery.forget();
        assert_eq!(discovery.get(async || Ok(5), ends).await, Ok(5));
    }

    /// A server that is slow to show its document holds nobody up who knows what it said before.
    #[tokio::test(start_paused = true)]
    async fn while_one_reads_the_others_go_on() {
        let discovery = Arc::new(Discovery::default());
        discovery.put(1, FAILED_FOR);
        tokio::time::advance(FAILED_FOR).await;
        let reads = discovery.clone();
        let reading = tokio::spawn(async move { reads.get(async || pending().await, ends).await });
        tokio::task::yield_now().await;
        let unread = async || -> Result<u32, Failure> { panic!("somebody reads it already") };
        assert_eq!(discovery.get(unread, ends).await, Ok(1));
        reading.abort();
    }

    /// A server that does not answer is not waited for by one after the other.
    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_one_reading_share_its_failure() {
        let discovery = Arc::new(Discovery::default());
        let begun = Instant::now();
        let ask = |discovery: Arc<Discovery<u32>>| async move {
            let fails = async || {
                tokio::time::sleep(Duration::from_secs(20)).await;
                Err(failure(Reason::ServiceUnavailable))
            };
            discovery.get(fails, ends).await
        };
        let all = futures::future::join_all((0..10).map(|_| ask(discovery.clone()))).await;
        assert_eq!((begun.elapsed().as_secs(), all), (20, vec![Err(failure(Reason::ServiceUnavailable)); 10]));
        assert!(ask(discovery).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 40, "whoever comes later asks anew");
    }
}
