//! The control plane: how it starts, and what it hands out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::config::AuthInfo;
use kube::{Api, Client};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::audit::{self, Audit, Mark};
use crate::certificates::{Certificates, Identity};
use crate::error::Error;
use crate::kubeconfig::{Credentials, Kubeconfig, write_private};
use crate::programs::Programs;
use crate::servers::{API_SERVER, CONTROLLER_MANAGER, ETCD, Layout, Ports};
use crate::supervisor::{ServerId, Supervisor};

/// A start takes 3 to 4 s on two idle cores; this is for a machine that is busy with a build.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at something that is about to happen.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A port is taken between look and bind about never; thrice in a row is a different problem.
const START_ATTEMPTS: u32 = 3;

/// Who watches everything on behalf of garbage collection.
const GARBAGE_COLLECTOR: &str = "system:kube-controller-manager";

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();

/// A running control plane.
///
/// Dropping it stops the servers, removes the data directory, and returns when both are done.
#[derive(Debug)]
pub struct ControlPlane {
    layout: Layout,
    programs: Programs,
    url: String,
    authority: String,
    configuration: kube::Config,
    administrator_kubeconfig: PathBuf,
    kubeconfigs: AtomicU32,
    servers: Mutex<Servers>,
}

#[derive(Debug)]
struct Servers {
    supervisor: Supervisor,
    etcd: Option<ServerId>,
    api_server: Option<ServerId>,
    controller_manager: Option<ServerId>,
}

/// How a control plane shall be.
#[derive(Debug, Clone)]
pub struct Builder {
    data_directory: Option<PathBuf>,
    with_controller_manager: bool,
    audit_request_bodies: bool,
    api_server_flags: Vec<String>,
}

impl Builder {
    /// Where the data lies; a new directory below the system's temporary one by default. It must not
    /// exist yet, and is removed at the end.
    #[must_use]
    pub fn data_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_directory = Some(directory.into());
        self
    }

    /// Saves a quarter of the memory. Then nothing collects garbage, empties namespaces or creates
    /// `default` ServiceAccounts.
    #[must_use]
    pub fn without_controller_manager(mut self) -> Self {
        self.with_controller_manager = false;
        self
    }

    /// Also records what clients send, Secrets included.
    #[must_use]
    pub fn audit_request_bodies(mut self) -> Self {
        self.audit_request_bodies = true;
        self
    }

    /// Adds a flag such as `--event-ttl=1m` to kube-apiserver's.
    #[must_use]
    pub fn api_server_flag(mut self, flag: impl Into<String>) -> Self {
        self.api_server_flags.push(flag.into());
        self
    }

    /// Starts it. Returns when the API server is ready and, unless it runs without
    /// kube-controller-manager, the `default` namespace has its ServiceAccount.
    ///
    /// # Errors
    ///
    /// When the programs are missing, or a server does not start; then the error ends with the last
    /// lines of that server's log. Nothing is left behind.
    pub async fn start(self) -> Result<ControlPlane, Error> {
        crate::install_crypto_provider();
        let mut attempt = 1;
        loop {
            match self.try_start().await {
                Err(error) if error.is_address_in_use() && attempt < START_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn try_start(&self) -> Result<ControlPlane, Error> {
        let programs = Programs::find()?;
        let certificates = Certificates::generate()?;
        let ports = Ports::find()?;
        let layout = Layout::new(self.data_directory.clone().unwrap_or_else(temporary_directory));
        let url = format!("https://127.0.0.1:{}", ports.api_server);

        let supervisor = Supervisor::start(layout.directory()).map_err(Error::Supervisor)?;
        let servers = Servers { supervisor, etcd: None, api_server: None, controller_manager: None };
        let control_plane = ControlPlane {
            configuration: administrator_configuration(&url, &certificates),
            administrator_kubeconfig: layout.administrator_kubeconfig(),
            authority: certificates.authority.pem(),
            kubeconfigs: AtomicU32::new(0),
            servers: Mutex::new(servers),
            layout,
            programs,
            url,
        };
        control_plane.write_files(&certificates, ports, self)?;
        control_plane.start_etcd(ports).await?;
        control_plane.start_api_server().await?;
        if self.with_controller_manager {
            control_plane.start_controller_manager().await?;
        }
        Ok(control_plane)
    }
}

fn temporary_directory() -> PathBuf {
    env::temp_dir().join(format!("control-plane-{}", Uuid::new_v4().simple()))
}

fn administrator_configuration(url: &str, certificates: &Certificates) -> kube::Config {
    let Identity { certificate, key } = &certificates.administrator;
    let cluster_url = url.parse().expect("an address and a port make a URL");
    let mut configuration = kube::Config::new(cluster_url);
    configuration.root_cert = Some(vec![certificates.authority.der().to_vec()]);
    configuration.auth_info = AuthInfo {
        client_certificate_data: Some(STANDARD.encode(certificate)),
        client_key_data: Some(STANDARD.encode(key).into()),
        ..AuthInfo::default()
    };
    configuration
}

/// Start and stop.
impl ControlPlane {
    /// Starts one with nothing unusual. [`Builder::start`] says what is guaranteed.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// For one with something unusual.
    pub fn builder() -> Builder {
        Builder { data_directory: None, with_controller_manager: true, audit_request_bodies: false, api_server_flags: Vec::new() }
    }

    /// The one that all tests of this process share, started by whoever comes first. It ends with
    /// the process.
    ///
    /// Every test may have a runtime of its own: nothing in a control plane belongs to a runtime.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`]; the next caller tries again.
    pub async fn shared() -> Result<&'static Self, Error> {
        SHARED.get_or_try_init(Self::start).await
    }

    /// Kills the API server as a crash would. Returns when its process is gone; the data stays.
    ///
    /// # Errors
    ///
    /// When the supervisor of the servers is gone.
    pub fn kill_api_server(&self) -> Result<(), Error> {
        let mut servers = self.servers();
        let Some(api_server) = servers.api_server.take() else {
            return Ok(());
        };
        servers.supervisor.kill(api_server).map_err(Error::Supervisor)
    }

    /// Kills the API server if it runs, and starts it with the same data on the same port. Returns
    /// when it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become ready.
    pub async fn restart_api_server(&self) -> Result<(), Error> {
        self.kill_api_server()?;
        let mut attempt = 1;
        loop {
            match self.start_api_server().await {
                // Some connection of this machine may have got the port meanwhile.
                Err(error) if error.is_address_in_use() && attempt < START_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// Freezes the API server: connections stay open and nothing is answered.
    ///
    /// # Errors
    ///
    /// When the API server does not run.
    pub fn pause_api_server(&self) -> Result<(), Error> {
        self.with_api_server(Supervisor::pause)
    }

    /// Lets a frozen API server go on.
    ///
    /// # Errors
    ///
    /// When the API server does not run.
    pub fn resume_api_server(&self) -> Result<(), Error> {
        self.with_api_server(Supervisor::resume)
    }

    /// Kills kube-controller-manager if it runs, and starts it. Returns when it collects the garbage
    /// of every kind that exists.
    ///
    /// kube-controller-manager looks for new kinds every 30 s only. This is for tests that delete
    /// owners of a kind whose CustomResourceDefinition is younger.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub async fn restart_controller_manager(&self) -> Result<(), Error> {
        let running = self.servers().controller_manager.take();
        if let Some(server) = running {
            self.servers().supervisor.kill(server).map_err(Error::Supervisor)?;
        }
        let mark = self.audit().mark()?;
        let custom_resources = self.custom_resources().await?;
        let server = self.start_server(CONTROLLER_MANAGER, |servers| &mut servers.controller_manager)?;
        self.wait_for_server(CONTROLLER_MANAGER, server, || async {
            self.garbage_collector_watches(&custom_resources, mark).unwrap_or(false)
        })
        .await
    }

    fn write_files(&self, certificates: &Certificates, ports: Ports, builder: &Builder) -> Result<(), Error> {
        let Self { layout, programs, .. } = self;
        let policy = audit::policy(builder.audit_request_bodies);
        write_private(&layout.file("audit-policy.json"), &policy.to_string())?;
        layout.write_certificates(certificates)?;
        self.kubeconfig("administrator", Credentials::Certificate(&certificates.administrator), "default")
            .write(&layout.administrator_kubeconfig())?;
        let credentials = Credentials::Certificate(&certificates.controller_manager);
        self.kubeconfig("kube-controller-manager", credentials, "default").write(&layout.controller_manager_kubeconfig())?;
        layout.write_etcd_command(programs, ports)?;
        layout.write_api_server_command(programs, ports, &builder.api_server_flags)?;
        layout.write_controller_manager_command(programs)
    }

    /// Returns when etcd listens: an API server that finds nobody there pauses for a second.
    async fn start_etcd(&self, ports: Ports) -> Result<(), Error> {
        let server = self.start_server(ETCD, |servers| &mut servers.etcd)?;
        self.wait_for_server(ETCD, server, || async { TcpStream::connect(("127.0.0.1", ports.etcd)).await.is_ok() }).await
    }

    async fn start_api_server(&self) -> Result<(), Error> {
        let server = self.start_server(API_SERVER, |servers| &mut servers.api_server)?;
        let client = self.impatient_client();
        self.wait_for_server(API_SERVER, server, || async {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a static path is valid");
            client.request_text(request).await.is_ok()
        })
        .await
    }

    async fn start_controller_manager(&self) -> Result<(), Error> {
        let server = self.start_server(CONTROLLER_MANAGER, |servers| &mut servers.controller_manager)?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin_client(), "default");
        self.wait_for_server(CONTROLLER_MANAGER, server, || async {
            accounts.get_opt("default").await.is_ok_and(|account| account.is_some())
        })
        .await
    }

    fn start_server(&self, name: &'static str, place: impl Fn(&mut Servers) -> &mut Option<ServerId>) -> Result<ServerId, Error> {
        let mut servers = self.servers();
        let server = servers.supervisor.start_server(name).map_err(Error::Supervisor)?;
        *place(&mut servers) = Some(server);
        Ok(server)
    }

    async fn wait_for_server<F>(&self, name: &'static str, server: ServerId, is_ready: impl Fn() -> F) -> Result<(), Error>
    where
        F: Future<Output = bool>,
    {
        let started = Instant::now();
        while !is_ready().await {
            // The others would wait for etcd until the end of our patience.
            let etcd = self.servers().etcd;
            for (name, server) in etcd.map(|etcd| (ETCD, etcd)).into_iter().chain([(name, server)]) {
                self.require_running(name, server)?;
            }
            if started.elapsed() > PATIENCE {
                let log = self.layout.end_of_log(name);
                return Err(Error::ServerNotReady { server: name, waited: PATIENCE, log });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn require_running(&self, name: &'static str, server: ServerId) -> Result<(), Error> {
        if self.servers().supervisor.is_running(server).map_err(Error::Supervisor)? {
            return Ok(());
        }
        Err(Error::ServerEnded { server: name, log: self.layout.end_of_log(name) })
    }

    fn with_api_server(&self, action: impl Fn(&mut Supervisor, ServerId) -> io::Result<()>) -> Result<(), Error> {
        let mut servers = self.servers();
        let not_running = || Error::Supervisor(io::Error::other("kube-apiserver does not run"));
        let api_server = servers.api_server.ok_or_else(not_running)?;
        action(&mut servers.supervisor, api_server).map_err(Error::Supervisor)
    }

    fn garbage_collector_watches(&self, resources: &[(String, String)], mark: Mark) -> Result<bool, Error> {
        let watches = self.audit().since(mark)?.by_user(GARBAGE_COLLECTOR);
        let is_watched = |group: &str, resource: &str| {
            watches
                .iter()
                .any(|event| event.verb == "watch" && event.response_code == 200 && event.resource == resource && event.api_group == group)
        };
        Ok(is_watched("", "secrets") && resources.iter().all(|(group, resource)| is_watched(group, resource)))
    }

    /// Group and plural name of every kind that was added.
    async fn custom_resources(&self) -> Result<Vec<(String, String)>, Error> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.admin_client());
        let definitions = definitions
            .list(&ListParams::default())
            .await
            .map_err(|source| Error::kubernetes("listing CustomResourceDefinitions", source))?;
        Ok(definitions.into_iter().map(|definition| (definition.spec.group, definition.spec.names.plural)).collect())
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        // A test that panicked meanwhile leaves nothing half done: each change is one call.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it hands out.
impl ControlPlane {
    /// A client that may do everything, made for the current runtime.
    ///
    /// A client works as long as the runtime it was made on: make one in each test.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn admin_client(&self) -> Client {
        client(self.configuration.clone())
    }

    /// A kubeconfig file for somebody who may do everything.
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.administrator_kubeconfig
    }

    /// The kubectl program. [`kubectl_command`](Self::kubectl_command) leaves no cache behind.
    pub fn kubectl(&self) -> &Path {
        &self.programs.kubectl
    }

    /// The helm program. [`helm_command`](Self::helm_command) leaves no cache behind.
    pub fn helm(&self) -> &Path {
        &self.programs.helm
    }

    /// kubectl as the administrator, with its cache in the data directory.
    pub fn kubectl_command(&self) -> Command {
        self.command(&self.programs.kubectl)
    }

    /// helm as the administrator, with its caches in the data directory.
    pub fn helm_command(&self) -> Command {
        self.command(&self.programs.helm)
    }

    /// The API server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate authority that vouches for the API server.
    pub fn ca_pem(&self) -> &str {
        &self.authority
    }

    /// Holds everything of this control plane; `<server>.log` are what the servers print.
    pub fn data_directory(&self) -> &Path {
        self.layout.directory()
    }

    /// The record of all requests.
    pub fn audit(&self) -> Audit {
        Audit::new(self.layout.audit_log())
    }

    /// A new kubeconfig file with a token of the ServiceAccount, whose namespace is the default one.
    /// It has mode 0600, and goes with the control plane.
    ///
    /// # Errors
    ///
    /// When there is no such ServiceAccount, or the lifetime is less than the ten minutes that
    /// Kubernetes demands.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str, lifetime: Duration) -> Result<PathBuf, Error> {
        let token = self.service_account_token(namespace, name, lifetime).await?;
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let path = self.layout.file(&format!("{namespace}.{name}.{number}.kubeconfig"));
        self.kubeconfig(name, Credentials::Token(&token), namespace).write(&path)?;
        Ok(path)
    }

    /// Creates a namespace with a unique name and returns that. Its `default` ServiceAccount exists,
    /// unless the control plane runs without kube-controller-manager.
    ///
    /// # Errors
    ///
    /// When the API server refuses, as it does if the prefix is no DNS label.
    pub async fn create_namespace(&self, prefix: &str) -> Result<String, Error> {
        let client = self.admin_client();
        let name = format!("{prefix}-{:08x}", Uuid::new_v4().as_fields().0);
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .map_err(|source| Error::kubernetes(format!("creating the namespace {name}"), source))?;
        if self.servers().controller_manager.is_some() {
            wait_for_default_account(&client, &name).await?;
        }
        Ok(name)
    }

    async fn service_account_token(&self, namespace: &str, name: &str, lifetime: Duration) -> Result<String, Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin_client(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(|source| Error::kubernetes(format!("requesting a token for {namespace}/{name}"), source))?;
        Ok(answer.status.map(|status| status.token).unwrap_or_default())
    }

    fn kubeconfig<'a>(&'a self, user: &'a str, credentials: Credentials<'a>, namespace: &'a str) -> Kubeconfig<'a> {
        Kubeconfig { server: &self.url, authority: &self.authority, user, credentials, namespace }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.administrator_kubeconfig);
        for (variable, directory) in [
            ("KUBECACHEDIR", "kubectl-cache"),
            ("HELM_CACHE_HOME", "helm/cache"),
            ("HELM_CONFIG_HOME", "helm/config"),
            ("HELM_DATA_HOME", "helm/data"),
        ] {
            command.env(variable, self.layout.file(directory));
        }
        command
    }

    /// A client that reports a server that is not ready instead of asking it again.
    fn impatient_client(&self) -> Client {
        let mut configuration = self.configuration.clone();
        configuration.default_retry = false;
        client(configuration)
    }
}

fn client(configuration: kube::Config) -> Client {
    Client::try_from(configuration).expect("certificates that were just made are well-formed")
}

async fn wait_for_default_account(client: &Client, namespace: &str) -> Result<(), Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    wait_until(format!("the default ServiceAccount of {namespace}"), || async {
        let account = accounts.get_opt("default").await;
        account
            .map(|account| account.is_some())
            .map_err(|source| Error::kubernetes(format!("looking for a ServiceAccount of {namespace}"), source))
    })
    .await
}

async fn wait_until<F>(expected: String, condition: impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<bool, Error>>,
{
    let started = Instant::now();
    while !condition().await? {
        if started.elapsed() > PATIENCE {
            return Err(Error::Overdue { expected, waited: PATIENCE });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
