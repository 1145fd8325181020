//! `make demo`: a real Kubernetes API server, simulated identity services, and the operator between them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::Path,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Parser;
use control_plane::ControlPlane;
use identity_simulator::{
    ApplicationEdit, Control, OAuthClientSeed, OAuthRefreshTokenSeed, OidcServerSeed, Options, SecureAuthUserSeed, Settings, Simulator,
    User, VERIFY,
};
use stage::{
    API_KEY, Operator, OperatorOptions, SERVICE_ACCOUNT, SYSTEM, TENANT, eventually, install_chart, operator_binary, repository, seed,
};

/// Where the story plays (`examples/demo`).
const NAMESPACE: &str = "demo";

/// The client that the simulated IBM Verify and the OAuth server know, and the name of that server.
const CLIENT: (&str, &str) = ("orders", "cafec0de-secret-of-the-demo");
const SERVER: &str = "company";
/// Somebody whom that server knows: name, password, and the refresh token of a sign-in.
const USER: (&str, &str, &str) = ("ann", "cafec0de-password-of-the-demo", "cafec0de-refresh-token-of-the-demo");

/// What is shown of events.
const EVENTS: &str = "custom-columns=ABOUT:.regarding.kind,NAME:.regarding.name,REASON:.reason,NOTE:.note";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Shows the operator at work.
#[derive(Debug, Parser)]
struct Arguments {
    /// End after the story, with a status that says whether it went well.
    #[arg(long)]
    once: bool,
}

/// What the story plays on.
struct Scene {
    control_plane: &'static ControlPlane,
    simulator: Simulator,
    control: Control,
    operator: Operator,
    /// What the manifests say in the place of each placeholder.
    placeholders: Vec<(&'static str, String)>,
    begun: Instant,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let story = async {
        let scene = Scene::set().await?;
        scene.play().await?;
        if !arguments.once {
            scene.stay().await?;
            std::future::pending::<()>().await;
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        ended = story => match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("the demo failed: {error}"));
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => {
            say("\nstopping: control plane, simulator and operator end; only the programs that were built stay in the cache");
            ExitCode::SUCCESS
        }
    }
}

fn say(text: &str) {
    // Nobody may be listening any more; then there is nobody to tell.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Makes clients at the services besides App ID and IAM; and what is to stand in the manifests.
async fn clients(simulator: &Simulator, control: &Control) -> Result<Vec<(&'static str, String)>, Error> {
    let client = OAuthClientSeed { client_id: CLIENT.0.into(), secret: Some(CLIENT.1.into()), ..OAuthClientSeed::default() };
    let of_verify = OAuthClientSeed { entitlements: ["readAppConfig".to_owned()].into(), ..client.clone() };
    control.add_oauth_client(VERIFY, &of_verify).await?;
    let ann = User { username: USER.0.into(), password: USER.1.into(), ..User::default() };
    let server = OidcServerSeed { id: SERVER.into(), clients: vec![client], users: vec![ann], ..OidcServerSeed::default() };
    control.add_oidc_server(&server).await?;
    let sign_in = OAuthRefreshTokenSeed {
        token: Some(USER.2.into()),
        client_id: CLIENT.0.into(),
        subject: USER.0.into(),
        scope: "openid orders.read".into(),
        ..OAuthRefreshTokenSeed::default()
    };
    control.add_refresh_token(SERVER, &sign_in).await?;
    let user = control.add_secure_auth_user(&SecureAuthUserSeed::default()).await?;
    let person = user.newest().ok_or("the simulator gave its user no credential")?;
    let urls = simulator.urls();
    let app_id = urls.regions.get("us-south").ok_or("the simulator has no region us-south")?;
    Ok(vec![
        ("APPID_URL", app_id.clone()),
        ("IAM_URL", urls.iam.clone()),
        ("TENANT_ID", TENANT.to_owned()),
        ("API_KEY", API_KEY.to_owned()),
        ("CLIENT_ID", CLIENT.0.to_owned()),
        ("CLIENT_SECRET", CLIENT.1.to_owned()),
        ("USERNAME", USER.0.to_owned()),
        ("PASSWORD", USER.1.to_owned()),
        ("REFRESH_TOKEN", USER.2.to_owned()),
        ("VERIFY_URL", urls.verify.clone()),
        ("SECUREAUTH_URL", urls.secure_auth.clone()),
        ("SECUREAUTH_CLIENT_ID", person.client_id.clone()),
        ("SECUREAUTH_CLIENT_SECRET", person.client_secret.clone()),
        ("ISSUER", format!("{}/tenants/{SERVER}", urls.oidc)),
    ])
}

impl Scene {
    async fn set() -> Result<Self, Error> {
        let begun = Instant::now();
        say("starting a control plane: etcd, kube-apiserver, kube-controller-manager");
        let control_plane = ControlPlane::shared().await?;
        say("starting the simulator: App ID, IAM, Verify, SecureAuth and an OAuth server, over HTTPS with a CA of its own");
        let simulator = Simulator::start(Options::default()).await?;
        let control = simulator.control();
        control.seed(&seed(TENANT, API_KEY)).await?;
        // So that one sees a token being replaced.
        control.set_settings(&Settings { iam_expires_in: 12, ..control.settings().await? }).await?;
        let placeholders = clients(&simulator, &control).await?;
        say("installing the chart with helm (no Pod: there is no node here)");
        install_chart(control_plane).await?;
        say("starting the operator as a process, under the chart's ServiceAccount and with its rights alone");
        let kubeconfig = control_plane.kubeconfig_for_service_account(SYSTEM, SERVICE_ACCOUNT, Duration::from_secs(24 * 3600)).await?;
        let options =
            OperatorOptions { all_namespaces: true, leader_election: true, drift_interval: "5s".into(), ..OperatorOptions::default() };
        let operator = Operator::start(&operator_binary()?, &kubeconfig, &options).await?;
        Ok(Self { control_plane, simulator, control, operator, placeholders, begun })
    }

    async fn play(&self) -> Result<(), Error> {
        say("\n1. Apply a provider and an application (examples/demo)\n");
        self.kubectl(&["create", "namespace", NAMESPACE])?;
        let ca = format!("ca.crt={}", self.simulator.ca_pem());
        self.kubectl(&["-n", NAMESPACE, "create", "configmap", "simulator-ca", "--from-literal", &ca])?;
        self.kubectl_with(&["apply", "-f", "-"], &self.manifests()?)?;
        self.kubectl(&["-n", NAMESPACE, "wait", "--for=condition=Ready", "appidapp/storefront", "--timeout=90s"])?;
        say("\n2. What kubectl shows\n");
        self.kubectl(&["-n", NAMESPACE, "get", "cloudidentity"])?;
        say("\n3. The keys of the Secret storefront-oidc\n");
        let keys = self.read(&[
            "-n",
            NAMESPACE,
            "get",
            "secret",
            "storefront-oidc",
            "-o",
            "go-template={{range $key, $value := .data}}  {{$key}}\n{{end}}",
        ])?;
        say(&keys);
        say("4. A token, obtained with them\n");
        let (client_id, secret) = (self.value("clientId")?, self.value("secret")?);
        let answer = self.token(&client_id, &secret, &self.value("oauthServerUrl")?).await?;
        say(&format!("  {} token for {client_id}, valid for {} s", answer["token_type"].as_str().unwrap_or("?"), answer["expires_in"]));
        say("\n5. Somebody renames the application at the service and deletes the Secret\n");
        self.control
            .edit_application(TENANT, &client_id, &ApplicationEdit { name: Some("oops".into()), ..ApplicationEdit::default() })
            .await?;
        self.kubectl(&["-n", NAMESPACE, "delete", "secret", "storefront-oidc"])?;
        let mut name = String::new();
        eventually("the name and the Secret are back", async || {
            name = self
                .control
                .applications(TENANT)
                .await
                .ok()
                .and_then(|list| list.first().map(|application| application.name.clone()))
                .unwrap_or_default();
            name == "storefront" && self.value("clientId").is_ok_and(|id| id == client_id)
        })
        .await;
        say(&format!("  repaired: the name is {name:?} again, and the Secret is back with the same client id"));
        self.kubectl(&["-n", NAMESPACE, "get", "events.events.k8s.io", "--sort-by", ".eventTime", "-o", EVENTS])?;
        say("\n6. An access token, kept fresh (it lives 12 s here, an hour in real life)\n");
        self.kubectl(&["-n", NAMESPACE, "wait", "--for=condition=Ready", "accesstoken/key-protect", "--timeout=60s"])?;
        self.kubectl(&["-n", NAMESPACE, "get", "accesstoken", "key-protect"])?;
        let first = self.token_digest()?;
        eventually("the token is replaced", async || self.token_digest().is_ok_and(|now| now != first)).await;
        say("  replaced before its end, in the same Secret:");
        self.kubectl(&["-n", NAMESPACE, "get", "accesstoken", "key-protect"])?;
        say(
            "\n7. One from each of the other services, and two of somebody who signed in there (examples/demo/40-services.yaml, 50-people.yaml)\n",
        );
        let others = ["from-app-id", "from-verify", "from-secureauth", "from-oidc", "of-a-user", "of-a-sign-in"]
            .map(|name| format!("accesstoken/{name}"));
        let wait = ["-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=60s"];
        self.kubectl(&wait.into_iter().chain(others.iter().map(String::as_str)).collect::<Vec<_>>())?;
        self.kubectl(&["-n", NAMESPACE, "get", "accesstokens"])?;
        say(&format!("\nThe story took {:.1} s.", self.begun.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn stay(&self) -> Result<(), Error> {
        let programs = self.control_plane.kubectl().parent().unwrap_or_else(|| Path::new("/usr/bin"));
        say("\nEverything stays up; play with it from another terminal:\n");
        say(&format!("  export KUBECONFIG={}", self.control_plane.admin_kubeconfig().display()));
        say(&format!("  export PATH={}:$PATH        # this cluster's kubectl and helm", programs.display()));
        say(&format!("  kubectl -n {NAMESPACE} get cloudidentity"));
        say(&format!(
            "  curl -s {}/state | head -c 2000      # what the simulated services know",
            self.simulator.urls().control.trim_end_matches('/')
        ));
        say(&format!("\nThe operator runs as a process outside of the cluster (its ServiceAccount is {SERVICE_ACCOUNT} in {SYSTEM}):\n"));
        say(&format!("  tail -f {}      # its log", self.operator.log_file().display()));
        say(&format!("  curl -s http://{}/metrics", self.operator.metrics_address().await));
        say("\nCtrl-C ends it all.");
        Ok(())
    }

    fn manifests(&self) -> Result<String, Error> {
        let mut files: Vec<_> = std::fs::read_dir(repository().join("examples/demo"))?.collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(std::fs::DirEntry::file_name);
        let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file.path())).collect::<Result<_, _>>()?;
        let fill = |text: String, (name, value): &(&str, String)| text.replace(&format!("${{{name}}}"), value);
        Ok(self.placeholders.iter().fold(texts.join("\n---\n"), fill))
    }

    async fn token(&self, client_id: &str, secret: &str, server: &str) -> Result<serde_json::Value, Error> {
        let ca = reqwest::Certificate::from_pem(self.simulator.ca_pem().as_bytes())?;
        let client = reqwest::Client::builder().tls_certs_only([ca]).build()?;
        let request =
            client.post(format!("{server}/token")).basic_auth(client_id, Some(secret)).form(&[("grant_type", "client_credentials")]);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// Tells one token from another; the token itself is shown to nobody.
    fn token_digest(&self) -> Result<u64, Error> {
        let token = self.read(&["-n", NAMESPACE, "get", "secret", "key-protect", "-o", "jsonpath={.data.token}"])?;
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        Ok(hasher.finish())
    }

    fn value(&self, key: &str) -> Result<String, Error> {
        let encoded = self.read(&["-n", NAMESPACE, "get", "secret", "storefront-oidc", "-o", &format!("jsonpath={{.data.{key}}}")])?;
        Ok(String::from_utf8(STANDARD.decode(encoded.trim())?)?)
    }

    fn read(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = self.control_plane.kubectl_command().args(arguments).stderr(Stdio::null()).output()?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?)
        } else {
            Err(format!("kubectl {}: failed", arguments.join(" ")).into())
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<(), Error> {
        self.kubectl_with(arguments, "")
    }

    fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<(), Error> {
        let line = |argument: &&str| match argument.split_once('\n') {
            Some((first, _)) => format!("'{first}…'"),
            None => (*argument).to_owned(),
        };
        let shown: Vec<String> = arguments.iter().map(line).collect();
        let filled_in = if input.is_empty() { "" } else { "      # examples/demo/*.yaml, filled in" };
        say(&format!("  $ kubectl {}{filled_in}", shown.join(" ")));
        let mut child = self.control_plane.kubectl_command().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            say(&format!("  {line}"));
        }
        if output.status.success() { Ok(()) } else { Err(format!("kubectl {} failed", arguments.first().unwrap_or(&"")).into()) }
    }
}
