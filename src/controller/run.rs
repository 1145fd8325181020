//! Puts the parts together: watches, election, queues, and an orderly end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    Api, Client, Config, Resource,
    client::ClientBuilder,
    core::{NamespaceResourceScope, PartialObjectMeta},
    runtime::reflector::{Store, store},
};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::util::MapFutureLayer;

use super::{
    Context, Passes,
    application::{self, Applications},
    asleep::Sleepless,
    claims::Claims,
    clock::Clock,
    context::{Memory, Settings, Wake},
    credentials::Credentials,
    directory::{Directory, Specification},
    flaws::Flaws,
    leadership::{Candidate, Leadership},
    name::Name,
    objects::{Kept, Objects},
    provider::{ProviderObject, Providers},
    queue,
    reactions::{on_application, on_namespace, on_provider, on_secrets, on_token, on_unreadable, wake_namers},
    token::{self, AccessTokens, RefreshTokens, Schedules},
    turns::Turns,
    versions::{Versions, View},
    watch::{METADATA_PAGE, feed, follow},
};
use crate::{
    api::{AccessToken, AppIdApplication, ClusterIdentityProvider, IdentityProvider},
    metrics::Metrics,
    provider::http::date,
};

/// Requests to the API server that are not answered by then have failed; watches have their own rules.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// So many passes that ask no service run at once.
const LOCAL_PASSES: u32 = 32;
/// After SIGTERM, passes that run may take this long to finish. Longer than any registration.
const GRACE: Duration = Duration::from_secs(40);

/// What ends the process other than being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server cannot be used.
    #[error("{doing}: {source}")]
    Cluster {
        /// What we were doing.
        doing: &'static str,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// Another process leads now.
    #[error("the lease was lost")]
    LostLease,
    /// A part that should run for ever ended.
    #[error("{0} ended on its own")]
    Ended(&'static str),
}

/// How the operator is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// What is decided before anything is asked.
    pub settings: Settings,
    /// Whether a Lease decides who acts.
    pub leader_election: bool,
    /// Whether cluster providers may be read.
    pub cluster_providers: bool,
    /// What time it is in the cluster.
    pub clock: Arc<Clock>,
}

/// A client for everything but watches: a deadline for each request, and no repetition behind our back. `clock` hears the API server's time.
///
/// # Errors
///
/// When the configuration cannot be used.
pub fn plain_client(mut config: Config, clock: &Arc<Clock>) -> Result<Client, Error> {
    config.read_timeout = Some(READ_TIMEOUT);
    config.default_retry = false;
    let builder =
        ClientBuilder::try_from(config).map_err(|source| Error::Cluster { doing: "preparing the client", source: Box::new(source) })?;
    let clock = clock.clone();
    let hear = MapFutureLayer::new(move |answer: BoxFuture<'static, Result<http::Response<_>, tower::BoxError>>| {
        let (clock, sent) = (clock.clone(), Instant::now());
        async move {
            let response = answer.await?;
            if let Some(date) = date(response.headers()) {
                clock.heard(date, sent, Instant::now());
            }
            Ok::<_, tower::BoxError>(response)
        }
    });
    Ok(builder.with_layer(&hear).build())
}

/// UID of the `kube-system` namespace: stays when everything else of a cluster is replaced.
///
/// # Errors
///
/// When it may not be read.
pub async fn cluster_uid(client: &Client) -> Result<String, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces
        .get_metadata("kube-system")
        .await
        .map_err(|source| Error::Cluster { doing: "reading the UID of kube-system", source: Box::new(source) })?;
    Ok(namespace.metadata.uid.unwrap_or_default())
}

/// Runs until `stop`, or until the lease is lost.
///
/// # Errors
///
/// When the lease is lost or a part ends on its own; the process should then leave.
pub async fn run(config: Config, options: RunOptions, metrics: Arc<Metrics>, stop: CancellationToken) -> Result<(), Error> {
    let lost = CancellationToken::new();
    let drained = CancellationToken::new();
    let (clock, sleepless) = (options.clock.clone(), Sleepless::default());
    let client = plain_client(config.clone(), &clock)?;
    let mut keeper = JoinSet::new();
    let leadership = if options.leader_election {
        let mut lease_config = config.clone();
        lease_config.connect_timeout = Some(Duration::from_secs(5));
        let candidate = Candidate::new(
            plain_client(lease_config, &clock)?,
            &options.settings.namespace,
            options.settings.instance.clone(),
            sleepless.clone(),
        );
        let Some((lease, leadership)) = candidate.acquire(&stop).await else { return Ok(()) };
        tracing::info!(instance = %options.settings.instance, "leading");
        let (lost, drained, leadership_kept) = (lost.clone(), drained.clone(), leadership.clone());
        keeper.spawn(async move { candidate.hold(lease, leadership_kept, lost, drained).await });
        leadership
    } else {
        Leadership::unelected()
    };
    metrics.set_leader(true);
    let halt = CancellationToken::new();
    let work = work(config, client, options, metrics.clone(), leadership.clone(), sleepless, halt.clone());
    tokio::pin!(work);
    let outcome = tokio::select! {
        ended = &mut work => return ended.and(Err(Error::Ended("the controller"))),
        () = stop.cancelled() => Ok(()),
        () = lost.cancelled() => Err(Error::LostLease),
    };
    halt.cancel();
    if outcome.is_ok() {
        tracing::info!("stopping: passes that run are finished first");
        let finished = tokio::time::timeout(GRACE, &mut work).await;
        if finished.is_err() {
            tracing::warn!("a pass took too long and is cut off");
        }
    } else {
        // Whatever else runs is stopped by the lease check; only a create that was sent must be answered.
        let answered = leadership.clone();
        tokio::select! {
            _ = &mut work => {}
            () = async { answered.creates_answered().await } => {}
        }
    }
    metrics.set_leader(false);
    drained.cancel();
    while keeper.join_next().await.is_some() {}
    outcome
}

async fn work(
    config: Config,
    client: Client,
    options: RunOptions,
    metrics: Arc<Metrics>,
    leadership: Arc<Leadership>,
    sleepless: Sleepless,
    halt: CancellationToken,
) -> Result<(), Error> {
    let watching = Client::try_from(config)
        .map_err(|source| Error::Cluster { doing: "preparing the client for watches", source: Box::new(source) })?;
    let settings = options.settings;
    let mut namespaces = settings.watch_namespaces.clone();
    let application_namespaces = namespaces.clone();
    // Cluster providers read their Secrets in the operator's own namespace; without them it has no business there.
    if options.cluster_providers && !namespaces.is_empty() && !namespaces.contains(&settings.namespace) {
        namespaces.push(settings.namespace.clone());
    }
    let (applications_queue, applications_wanted) = unbounded_channel();
    let (tokens_queue, tokens_wanted) = unbounded_channel();
    let (providers_queue, providers_wanted) = unbounded_channel();
    let (cluster_providers_queue, cluster_providers_wanted) = unbounded_channel();
    let (namespace_store, mut namespace_writer) = store::<PartialObjectMeta<Namespace>>();
    let applications = Objects::<AppIdApplication>::new(count(&application_namespaces));
    let tokens = Objects::<AccessToken>::new(count(&application_namespaces));
    let credentials = Arc::new(Credentials::default());
    let directory = Directory::new(
        settings.http.clone(),
        settings.namespace.clone(),
        options.cluster_providers,
        metrics.clone(),
        credentials.clone(),
        options.clock.clone(),
    );
    let context = Arc::new(Context {
        client,
        directory,
        credentials,
        applications: applications.clone(),
        clock: options.clock,
        schedules: Schedules::default(),
        flaws: Flaws::default(),
        refresh_tokens: RefreshTokens::default(),
        local_turns: Turns::new(LOCAL_PASSES),
        settings,
        secrets: Versions::default(),
        config_maps: Versions::default(),
        claims: Claims::default(),
        namespaces: options.cluster_providers.then_some(namespace_store),
        leadership,
        metrics,
        memory: Memory::default(),
        wake: Wake {
            applications: applications_queue,
            tokens: tokens_queue,
            providers: providers_queue,
            cluster_providers: cluster_providers_queue,
        },
    });
    let mut watches = JoinSet::new();
    let providers = Objects::<IdentityProvider>::new(count(&application_namespaces));
    let cluster_providers = Objects::<ClusterIdentityProvider>::new(usize::from(options.cluster_providers));
    for namespace in each(&application_namespaces) {
        let (objects, at) = (applications.clone(), context.clone());
        watches.spawn(feed(
            objects,
            scoped(&watching, namespace.as_deref()),
            namespace.is_some(),
            on_application(&at),
            on_unreadable(&at, application::KIND),
        ));
        let (objects, at) = (tokens.clone(), context.clone());
        watches.spawn(feed(
            objects,
            scoped(&watching, namespace.as_deref()),
            namespace.is_some(),
            on_token(&at),
            on_unreadable(&at, token::KIND),
        ));
        let (objects, at) = (providers.clone(), context.clone());
        watches.spawn(feed(
            objects,
            scoped(&watching, namespace.as_deref()),
            namespace.is_some(),
            on_provider(&at, |context, object| drop(context.wake.providers.send(object))),
            on_unreadable(&at, "IdentityProvider"),
        ));
    }
    if options.cluster_providers {
        let (objects, at) = (cluster_providers.clone(), context.clone());
        watches.spawn(feed(
            objects,
            Api::all(watching.clone()),
            false,
            on_provider(&at, |context, object| drop(context.wake.cluster_providers.send(object))),
            on_unreadable(&at, "ClusterIdentityProvider"),
        ));
        let at = context.clone();
        watches
            .spawn(follow(Api::all(watching.clone()), METADATA_PAGE, false, move |event| on_namespace(&at, &mut namespace_writer, &event)));
    }
    // Providers and tokens name their Secrets before Secrets are listed: what nobody names is dropped on arrival.
    tokens.wait_until_listed().await;
    providers.wait_until_listed().await;
    cluster_providers.wait_until_listed().await;
    let specifications: Vec<Specification> = providers
        .all()
        .iter()
        .map(|object| Specification::of_provider(object))
        .chain(cluster_providers.all().iter().map(|object| Specification::of_cluster_provider(object)))
        .collect();
    for specification in &specifications {
        if let Err(error) = context.directory.load(&context.client, &context.secrets, &context.config_maps, specification).await {
            tracing::warn!(provider = ?specification.key, %error, "a provider could not be read at the start");
        }
    }
    for namespace in each(&namespaces) {
        let (at, mut view) = (context.clone(), View::new(namespace.clone()));
        watches.spawn(follow(
            scoped::<PartialObjectMeta<Secret>>(&watching, namespace.as_deref()),
            METADATA_PAGE,
            namespace.is_some(),
            move |event| {
                let is_first = !view.has_listed();
                on_secrets(&at, at.secrets.absorb(&mut view, event), is_first);
            },
        ));
        let (at, mut view) = (context.clone(), View::new(namespace.clone()));
        watches.spawn(follow(
            scoped::<PartialObjectMeta<ConfigMap>>(&watching, namespace.as_deref()),
            METADATA_PAGE,
            namespace.is_some(),
            move |event| {
                let is_first = !view.has_listed();
                let changed = at.config_maps.absorb(&mut view, event);
                changed.iter().for_each(|key| wake_namers(&at, &at.config_maps, key, is_first));
            },
        ));
    }
    applications.wait_until_listed().await;
    context.secrets.wait_until_listed(count(&namespaces)).await;
    context.config_maps.wait_until_listed(count(&namespaces)).await;
    if let Some(store) = &context.namespaces {
        ready(store).await;
    }
    tracing::info!(
        applications = applications.count(),
        tokens = tokens.count(),
        providers = specifications.len(),
        "everything is known; working"
    );
    let controllers = futures::future::join4(
        queue::run(Passes::<Applications> { context: context.clone(), objects: applications.clone() }, applications_wanted, halt.clone()),
        queue::run(Passes::<AccessTokens> { context: context.clone(), objects: tokens.clone() }, tokens_wanted, halt.clone()),
        queue::run(
            Passes::<Providers<IdentityProvider>> { context: context.clone(), objects: providers.clone() },
            providers_wanted,
            halt.clone(),
        ),
        queue::run(
            Passes::<Providers<ClusterIdentityProvider>> { context: context.clone(), objects: cluster_providers.clone() },
            cluster_providers_wanted,
            halt.clone(),
        ),
    );
    // Timers stood still, too: each object is looked at, from memory alone where nothing is due.
    let woke = |slept, awake: tokio::time::Instant| {
        tracing::info!(?slept, "the machine was asleep; everything is looked at");
        context.clock.slept(slept, awake.into_std());
        context.directory.slept(slept, awake);
        ask_for_all(&applications, &context.wake.applications);
        ask_for_all(&tokens, &context.wake.tokens);
        ask_for_all(&providers, &context.wake.providers);
        ask_for_all(&cluster_providers, &context.wake.cluster_providers);
    };
    tokio::select! {
        _ = controllers => Ok(()),
        () = sleepless.on_waking(woke) => Err(Error::Ended("the look at sleep")),
        _ = watches.join_next() => Err(Error::Ended("a watch")),
        () = count_objects(&context, &applications, &tokens, &providers, &cluster_providers) => Ok(()),
    }
}

fn count(namespaces: &[String]) -> usize {
    namespaces.len().max(1)
}

fn each(namespaces: &[String]) -> Vec<Option<String>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn ready<K>(store: &Store<K>)
where
    K: Resource + Clone + 'static,
    K::DynamicType: std::hash::Hash + Eq + Clone,
{
    // The writer lives as long as the watches do.
    drop(store.wait_until_ready().await);
}

/// Counts objects for the metrics, now and then.
async fn count_objects(
    context: &Context,
    applications: &Objects<AppIdApplication>,
    tokens: &Objects<AccessToken>,
    providers: &Objects<IdentityProvider>,
    cluster_providers: &Objects<ClusterIdentityProvider>,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(15));
    loop {
        ticks.tick().await;
        context.metrics.set_paused(context.directory.paused());
        context.metrics.set_tokens(&token::census(context, tokens));
        tally(context, application::KIND, applications);
        tally(context, token::KIND, tokens);
        tally(context, IdentityProvider::KIND, providers);
        tally(context, ClusterIdentityProvider::KIND, cluster_providers);
    }
}

fn ask_for_all<K: Kept>(objects: &Objects<K>, queue: &UnboundedSender<Name>) {
    for name in objects.names() {
        // A queue that is closed belongs to a process that ends.
        drop(queue.send(name));
    }
}

fn tally<K: Kept>(context: &Context, kind: &'static str, objects: &Objects<K>) {
    let (all, ready) = (objects.count(), objects.count_ready());
    context.metrics.set_objects(kind, ready, all.saturating_sub(ready));
}
