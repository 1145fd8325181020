//! From where a token comes: API keys, registered clients, pairs, users, trusted profiles.

use cloud_identity_operator::api::AccessToken;
use identity_simulator::{ApplicationSeed, ProfileSeed, ServiceAccount, User};
use kube::api::PostParams;
use serde_json::{Value, json};
use stage::{OperatorOptions, PROVIDER, SERVICE_ACCOUNT, SYSTEM, Stage, TENANT, eventually, token_condition, token_message};

use super::{lifetime, of_iam, values, with_iam};
use crate::fixtures::claims;

fn seconds_left(token: &AccessToken) -> i64 {
    let status = token.status.as_ref().expect("a status");
    let (end, begin) = (status.expires_at.as_ref().expect("an end"), status.last_refreshed_at.as_ref().expect("a beginning"));
    end.0.duration_since(begin.0).as_secs()
}

/// The published token is used as its reader would use it: at the service that takes it.
#[tokio::test]
async fn the_token_of_an_api_key_opens_the_service_and_tells_its_own_end() {
    let (stage, _operator) = with_iam("token", 3600).await;
    stage.token("key-protect", of_iam()).await;
    let ready = stage.token_ready("key-protect").await;
    let secret = values(&stage, "key-protect").await;
    assert_eq!(secret.keys().collect::<Vec<_>>(), ["authorization", "expires_at", "scope", "token", "token_type"]);
    assert_eq!((secret["token_type"].as_str(), secret["scope"].as_str()), ("Bearer", "ibm openid"));
    assert_eq!(secret["authorization"], format!("Bearer {}", secret["token"]));
    let url = format!("{}/management/v4/{TENANT}/applications", stage.app_id_url());
    let answer = stage.http().get(url).header("authorization", &secret["authorization"]).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let status = ready.status.as_ref().expect("a status");
    assert_eq!(secret["expires_at"], status.expires_at.as_ref().expect("an end").0.to_string());
    assert!((3598..=3600).contains(&seconds_left(&ready)), "{}", seconds_left(&ready));
    let refresh = status.refresh_at.as_ref().expect("a time").0.duration_since(status.last_refreshed_at.as_ref().expect("a time").0);
    // The shorter of 66 per cent and 30 minutes, less 3 to 10 per cent.
    assert!((1618..=1747).contains(&refresh.as_secs()), "{refresh:?}");
    assert_eq!(status.secret_ref.as_ref().map(|secret| secret.name.as_str()), Some("key-protect"));
    for type_ in ["Ready", "SecretPublished", "Fresh"] {
        assert_eq!(token_condition(&ready, type_).map(|(status, _)| status), Some("True"), "{type_}");
    }
    let shown = stage.kubectl(&["get", "accesstokens"]).await.quietly();
    let (head, row) = shown.split_once('\n').expect("two lines");
    assert_eq!(head.split_whitespace().collect::<Vec<_>>(), ["NAME", "EXPIRES", "REFRESH", "READY", "AGE"]);
    assert_eq!(row.split_whitespace().nth(1), Some(secret["expires_at"].as_str()));
}

/// A client that the operator registered brings its own credential, whatever its Secret looks like.
#[tokio::test]
async fn a_registered_client_gets_its_token_whatever_layout_its_secret_has() {
    let stage = Stage::new("client").await;
    stage.provider().await;
    let _operator = stage.operator().await;
    stage.token("caller", json!({ "clientRef": { "name": "storefront" }, "grant": { "audienceRef": { "name": "orders" } } })).await;
    stage.token_reason("caller", "ClientNotFound").await;
    stage.application("orders", json!({})).await;
    let secret = json!({ "layout": "IbmBinding", "keys": { "binding": "json" } });
    stage.application("storefront", json!({ "secret": secret })).await;
    stage.token_ready("caller").await;
    let client_id = |name: &'static str| {
        let stage = &stage;
        async move { stage.ready(name).await.status.and_then(|status| status.client_id).expect("a client id") }
    };
    let first = claims(&values(&stage, "caller").await["token"]);
    assert_eq!((first["sub"].as_str(), &first["aud"]), (Some(client_id("storefront").await.as_str()), &json!([client_id("orders").await])));
    // Another client id, another token.
    stage.control.remove_application(TENANT, &client_id("orders").await).await.expect("removed");
    let restarted = stage.control.applications(TENANT).await.expect("listed").len();
    assert_eq!(restarted, 1);
    stage.application("orders", json!({ "scopes": ["orders.read"] })).await;
    eventually("the new audience is in the token", async || {
        let registered = stage.registered().await;
        let orders = registered.iter().find(|application| application.name == "orders");
        let audience = claims(&values(&stage, "caller").await["token"])["aud"].clone();
        orders.is_some_and(|orders| audience == json!([orders.client_id]))
    })
    .await;
}

/// A pair in a Secret, under whichever of the usual names; a user's name and password.
#[tokio::test]
async fn a_pair_in_a_secret_asks_for_its_own_token_and_for_a_users() {
    let stage = Stage::new("pair").await;
    let seeded = ApplicationSeed { name: "by hand".into(), ..ApplicationSeed::default() };
    let application = stage.control.add_application(TENANT, &seeded).await.expect("added");
    let user = User { username: "ann@example.com".into(), password: "cafec0de-password-of-ann".into(), ..User::default() };
    stage.control.add_user(TENANT, &user).await.expect("added");
    let secret = application.secret.clone().expect("a secret");
    let (id, secret) = (application.client_id.as_str(), secret.as_str());
    for (name, pair) in [
        ("standard", [("client_id", id), ("client_secret", secret)]),
        ("camel", [("clientId", id), ("clientSecret", secret)]),
        ("ours", [("clientId", id), ("secret", secret)]),
        ("own-names", [("user", id), ("pass", secret)]),
    ] {
        stage.secret(name, &pair).await;
    }
    stage.secret("ann", &[("username", "ann@example.com\n"), ("password", "cafec0de-password-of-ann")]).await;
    stage.provider().await;
    let _operator = stage.operator().await;
    let of = |secret: Value| json!({ "providerRef": { "name": PROVIDER }, "credentials": { "secretRef": secret } });
    for name in ["standard", "camel", "ours"] {
        stage.token(&format!("token-{name}"), of(json!({ "name": name }))).await;
        stage.token_ready(&format!("token-{name}")).await;
        assert_eq!(claims(&values(&stage, &format!("token-{name}")).await["token"])["sub"], json!(id), "{name}");
    }
    let keys = json!({ "clientId": "user", "clientSecret": "pass" });
    stage.token("renamed", of(json!({ "name": "own-names", "keys": keys }))).await;
    stage.token_ready("renamed").await;
    let mut of_a_user = of(json!({ "name": "standard" }));
    of_a_user["grant"] = json!({ "type": "Password", "password": { "secretRef": { "name": "ann" } } });
    of_a_user["secret"] = json!({ "identityToken": true });
    stage.token("user", of_a_user).await;
    stage.token_ready("user").await;
    let published = values(&stage, "user").await;
    assert_eq!(claims(&published["token"])["amr"], json!(["cloud_directory"]));
    assert!(published["id_token"].split('.').count() == 3, "an ID token is there");
    assert!(!published.contains_key("refresh_token"), "a refresh token is never published");
    // What is missing is said, with the place and the names.
    stage.token("nothing", of(json!({ "name": "nowhere" }))).await;
    let missing = stage.token_reason("nothing", "CredentialsNotFound").await;
    let said = token_message(&missing, "Ready").expect("a message");
    assert!(said.contains("nowhere") && said.contains(&stage.namespace), "{said}");
    stage.secret("nowhere", &[("user", id)]).await;
    let missing = stage.token_where("nothing", "says which keys it needs", |token| {
        token_message(token, "Ready").is_some_and(|said| said.contains("client_id and client_secret"))
    });
    missing.await;
    stage.secret("nowhere", &[("client_id", id), ("client_secret", secret)]).await;
    stage.token_ready("nothing").await;
    stage.token("own", json!({ "providerRef": { "name": PROVIDER } })).await;
    stage.token_reason("own", "CredentialsRequired").await;
}

/// A shared credential is handed out as a token only where its owner says so.
#[tokio::test]
async fn the_token_of_a_cluster_providers_own_key_needs_a_permit() {
    let mut stage = Stage::new("shared").await;
    lifetime(&stage, 8).await;
    let home = std::mem::replace(&mut stage.namespace, stage.control_plane.create_namespace("shared").await.expect("made"));
    let name = format!("{home}-shared");
    let provide = async |permitted: bool| {
        let mut document = stage.iam_document(&name);
        document["kind"] = json!("ClusterIdentityProvider");
        document["metadata"] = json!({ "name": name });
        document["spec"]["allowedNamespaces"] = json!({ "from": "Listed", "names": [stage.namespace] });
        document["spec"]["permits"] = json!({ "accessTokens": permitted });
        stage.apply(&document).await.expect("accepted");
    };
    provide(false).await;
    let options =
        OperatorOptions { namespace: home.clone(), watch_namespaces: vec![stage.namespace.clone()], ..OperatorOptions::default() };
    let _operator = stage.operator_with(options).await;
    stage.token("own", json!({ "providerRef": { "kind": "ClusterIdentityProvider", "name": name } })).await;
    let refused = stage.token_reason("own", "NotPermitted").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("permits.accessTokens")));
    provide(true).await;
    stage.token_ready("own").await;
    provide(false).await;
    let before = values(&stage, "own").await;
    let refused = stage.token_reason("own", "NotPermitted").await;
    let end = refused.status.and_then(|status| status.expires_at).expect("an end").0;
    let over = stage.token_where("own", "says that the token has ended", |token| {
        token_condition(token, "SecretPublished") == Some(("False", "TokenExpired"))
    });
    assert_eq!(token_condition(&over.await, "Ready"), Some(("False", "NotPermitted")));
    let now = jiff::Timestamp::now();
    assert!((0..5).contains(&now.duration_since(end).as_secs()), "{now} is not soon after {end}");
    assert_eq!(values(&stage, "own").await, before, "what is published stays");
}

/// A trusted profile: the operator's own account assumes it, and no key lies anywhere. Its token goes to IBM's hosts, and to those that a flag
/// names.
#[tokio::test]
async fn a_trusted_profile_is_assumed_with_the_operators_own_token_and_by_nobody_elses_host() {
    let mut stage = Stage::new("profile").await;
    let home = std::mem::replace(&mut stage.namespace, stage.control_plane.create_namespace("profile").await.expect("made"));
    let account = ServiceAccount { namespace: SYSTEM.into(), name: SERVICE_ACCOUNT.into() };
    let profile = ProfileSeed { name: "operator".into(), subjects: [account].into(), ..ProfileSeed::default() };
    let profile = stage.control.add_profile(&profile).await.expect("added");
    // What a kubelet would do for the chart's Pod.
    let accounts: kube::Api<k8s_openapi::api::core::v1::ServiceAccount> = kube::Api::namespaced(stage.client.clone(), SYSTEM);
    let wanted = serde_json::from_value(json!({ "spec": { "audiences": ["iam"] } })).expect("valid");
    let made = accounts.create_token_request(SERVICE_ACCOUNT, &PostParams::default(), &wanted).await.expect("made");
    let token = made.status.expect("a status").token;
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.token", stage.namespace));
    std::fs::write(&file, token).expect("written");
    let name = format!("{home}-ibm");
    let mut document = stage.iam_document(&name);
    document["kind"] = json!("ClusterIdentityProvider");
    document["metadata"] = json!({ "name": name });
    document["spec"]["iam"] = json!({ "url": stage.simulator.urls().iam, "trustedProfile": { "id": profile.id } });
    document["spec"]["allowedNamespaces"] = json!({ "from": "Listed", "names": [stage.namespace] });
    document["spec"]["permits"] = json!({ "accessTokens": true });
    stage.apply(&document).await.expect("accepted");
    let options = |hosts: Vec<String>| OperatorOptions {
        namespace: home.clone(),
        watch_namespaces: vec![stage.namespace.clone()],
        arguments: ["--iam-token-file".to_owned(), file.display().to_string()].into_iter().chain(hosts).collect(),
        ..OperatorOptions::default()
    };
    stage.token("profile", json!({ "providerRef": { "kind": "ClusterIdentityProvider", "name": name } })).await;
    let operator = stage.operator_with(options(Vec::new())).await;
    let refused = stage.token_reason("profile", "AddressNotAllowed").await;
    assert!(token_message(&refused, "Ready").is_some_and(|said| said.contains("--iam-hosts")));
    assert_eq!(stage.calls("iam.token").await, 0, "the token went nowhere");
    drop(operator.kill().await);
    let _operator = stage.operator_with(options(vec!["--iam-hosts".into(), "127.0.0.1".into()])).await;
    stage.token_ready("profile").await;
    let claims = claims(&values(&stage, "profile").await["token"]);
    assert_eq!(claims["iam_id"], json!(format!("iam-{}", profile.id)));
    std::fs::remove_file(&file).expect("it is there");
}
