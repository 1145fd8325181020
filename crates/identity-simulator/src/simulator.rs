//! Starting and stopping.

use crate::authority::{Authority, CertificateError, Flaw};
use crate::client::Control;
use crate::control;
use crate::listener;
use crate::model::{Seed, Urls};
use crate::services::{Listener, TokenService};
use crate::shared::Shared;
use crate::signing::{SigningError, keys};
use crate::world::{SeedError, World};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How to start a simulator.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the services listen. Port 0: free ports. Another port: that one for IAM, and those after it for the regions as given, `noted`,
    /// `noted_plain`, `other_authority`, `expired`, `wrong_host`, `oidc`, `oidc_elsewhere`, `verify`, `secure_auth`.
    pub listen: SocketAddr,
    /// Where the control API listens.
    pub control: SocketAddr,
    /// The host in all URLs. `localhost`, `127.0.0.1` and the address to listen at are in the certificates in any case.
    pub host: String,
    /// Regions of App ID, each with a listener of its own.
    pub regions: Vec<String>,
    /// What is there from the start.
    pub seed: Seed,
}

impl Default for Options {
    fn default() -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen: loopback,
            control: loopback,
            host: "127.0.0.1".to_owned(),
            regions: vec!["us-south".to_owned(), "eu-de".to_owned()],
            seed: Seed::default(),
        }
    }
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or an address is not ours.
    #[error("cannot listen at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificates could not be made.
    #[error("cannot set up TLS")]
    Certificate(#[from] CertificateError),
    /// Signing keys could not be made.
    #[error("cannot make signing keys")]
    Signing(#[from] SigningError),
    /// The seed is no good.
    #[error("cannot seed the simulator")]
    Seed(#[from] SeedError),
    /// There has to be one.
    #[error("App ID needs at least one region")]
    NoRegion,
}

/// Identity services on this machine. Dropping it closes every listener and connection and ends every call under way.
pub struct Simulator {
    urls: Urls,
    ca_pem: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// Hands out sockets at the wanted ports.
struct Sockets {
    next: SocketAddr,
}

impl Sockets {
    async fn bind(address: SocketAddr) -> Result<(TcpListener, u16), StartError> {
        let error = |source| StartError::Listen { address, source };
        let socket = TcpListener::bind(address).await.map_err(error)?;
        let port = socket.local_addr().map_err(error)?.port();
        Ok((socket, port))
    }

    async fn next(&mut self) -> Result<(TcpListener, u16), StartError> {
        let bound = Self::bind(self.next).await?;
        if self.next.port() != 0 {
            self.next.set_port(self.next.port().saturating_add(1));
        }
        Ok(bound)
    }
}

fn url(scheme: &str, host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(host)) => format!("{scheme}://[{host}]:{port}"),
        _ => format!("{scheme}://{host}:{port}"),
    }
}

impl Simulator {
    /// Starts all listeners in the current tokio runtime.
    ///
    /// # Errors
    ///
    /// When a port is taken, keys cannot be made, or the seed is no good.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let first = options.regions.first().cloned().ok_or(StartError::NoRegion)?;
        // RSA keys take a while; other tasks of the runtime go on meanwhile.
        tokio::task::spawn_blocking(keys).await.map_err(|_| SigningError)??;

        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), options.host.clone(), options.listen.ip().to_string()];
        hosts.sort();
        hosts.dedup();
        let authority = Authority::generate("identity-simulator CA")?;
        let other = Authority::generate("another CA")?;
        let good = authority.server(&hosts, Flaw::None)?;

        let mut sockets = Sockets { next: options.listen };
        let (iam, iam_port) = sockets.next().await?;
        let mut regions = Vec::new();
        let mut region_urls = BTreeMap::new();
        for region in &options.regions {
            let (socket, port) = sockets.next().await?;
            region_urls.insert(region.clone(), url("https", &options.host, port));
            regions.push((region.clone(), socket));
        }
        let (noted, noted_port) = sockets.next().await?;
        let (noted_plain, noted_plain_port) = sockets.next().await?;
        let (other_authority, other_authority_port) = sockets.next().await?;
        let (expired, expired_port) = sockets.next().await?;
        let (wrong_host, wrong_host_port) = sockets.next().await?;
        let (oidc, oidc_port) = sockets.next().await?;
        let (oidc_elsewhere, oidc_elsewhere_port) = sockets.next().await?;
        let (verify, verify_port) = sockets.next().await?;
        let (secure_auth, secure_auth_port) = sockets.next().await?;
        let (control_socket, control_port) = Sockets::bind(options.control).await?;
        let https = |port| url("https", &options.host, port);
        let urls = Urls {
            iam: https(iam_port),
            regions: region_urls,
            control: url("http", &options.control.ip().to_string(), control_port),
            noted: https(noted_port),
            noted_plain: url("http", &options.host, noted_plain_port),
            other_authority: https(other_authority_port),
            expired: https(expired_port),
            wrong_host: https(wrong_host_port),
            oidc: https(oidc_port),
            oidc_elsewhere: url("https", if options.host == "127.0.0.1" { "localhost" } else { &options.host }, oidc_elsewhere_port),
            verify: https(verify_port),
            secure_auth: https(secure_auth_port),
        };

        let mut world = World::new(urls.clone(), first.clone());
        world.seed(options.seed)?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new(world, stop.clone()));

        let listener = Listener { name: "iam".to_owned(), service: None, serves_iam: true, region: None };
        listener::serve(&shared, iam, good.clone(), listener);
        for (region, socket) in regions {
            let listener = Listener { name: region.clone(), service: None, serves_iam: false, region: Some(region) };
            listener::serve(&shared, socket, good.clone(), listener);
        }
        for (name, socket, tls) in [
            ("other_authority", other_authority, other.server(&hosts, Flaw::None)?),
            ("expired", expired, authority.server(&hosts, Flaw::Expired)?),
            ("wrong_host", wrong_host, authority.server(&hosts, Flaw::WrongHost)?),
        ] {
            let listener = Listener { name: name.to_owned(), service: None, serves_iam: true, region: Some(first.clone()) };
            listener::serve(&shared, socket, tls, listener);
        }
        for (name, socket, service) in [
            ("oidc", oidc, TokenService::Oidc),
            ("oidc_elsewhere", oidc_elsewhere, TokenService::OidcElsewhere),
            ("verify", verify, TokenService::Verify),
            ("secure_auth", secure_auth, TokenService::SecureAuth),
        ] {
            let listener = Listener { name: name.to_owned(), service: Some(service), serves_iam: false, region: None };
            listener::serve(&shared, socket, good.clone(), listener);
        }
        listener::serve_noting(&shared, noted, Some(good));
        listener::serve_noting(&shared, noted_plain, None);
        let router = control::router(shared.clone(), authority.pem());
        listener::serve_control(&shared, control_socket, router);
        Ok(Self { urls, ca_pem: authority.pem(), shared, _stop: stop.drop_guard() })
    }

    /// Where the listeners are.
    #[must_use]
    pub fn urls(&self) -> &Urls {
        &self.urls
    }

    /// Certificate of the authority that signed what the good listeners show.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A client for the control API.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(&self.urls.control)
    }

    /// Ends once the simulator has stopped.
    pub async fn stopped(&self) {
        self.shared.stop.cancelled().await;
    }
}
