//! Waiting for the thing itself, never for a time.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::{Serialize, de::DeserializeOwned};

/// Longer than anything takes that works, on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks again and again until the answer is yes.
///
/// # Panics
///
/// When it is not in [`PATIENCE`].
pub async fn eventually(what: &str, is: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, Duration::from_millis(25), what, is).await;
}

/// The same with another patience, for what is up to others, and another pause between two questions, for those that cost something.
///
/// # Panics
///
/// When it is not in `patience`.
pub async fn eventually_within(patience: Duration, pause: Duration, what: &str, mut is: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + patience;
    while !is().await {
        assert!(tokio::time::Instant::now() < until, "after {} s it is still not so that {what}", patience.as_secs());
        tokio::time::sleep(pause).await;
    }
}

/// Waits until an object is as described.
///
/// # Panics
///
/// When it is not in [`PATIENCE`]; with the object as it is then.
pub(crate) async fn object<K>(api: Api<K>, name: &str, what: &str, is: impl Fn(&K) -> bool) -> K
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(api.clone(), config).default_backoff().applied_objects().try_filter(|object| futures::future::ready(is(object)));
    let mut stream = Box::pin(stream.filter_map(|item| futures::future::ready(item.ok())));
    match tokio::time::timeout(PATIENCE, stream.next()).await {
        Ok(Some(object)) => object,
        _ => {
            let mut now = api.get_opt(name).await.ok().flatten();
            now.iter_mut().for_each(|object| object.meta_mut().managed_fields = None);
            panic!(
                "{} {name}: it is still not so that it {what}; it is {}",
                K::kind(&()),
                serde_json::to_string_pretty(&now).unwrap_or_default()
            );
        }
    }
}

/// Waits until an object is gone.
///
/// # Panics
///
/// When it is not in [`PATIENCE`]; with the object as it is then.
pub(crate) async fn gone<K>(api: Api<K>, name: &str)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Some(object) = api.get_opt(name).await.expect("the API server answers") {
        assert!(
            tokio::time::Instant::now() < until,
            "{} {name} is still there: {}",
            K::kind(&()),
            serde_json::to_string_pretty(&object).unwrap_or_default()
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
