//! Every secret value in these tests is marked; none of them may show up anywhere but in the Secrets themselves.

mod sources;

use std::{sync::Arc, time::Duration};

use base64::Engine;
use cloud_identity_operator::{
    api::{ClusterIdentityProvider, ProviderStatus},
    controller::cluster::SecretContent,
    metrics::Metrics,
    model::{Application, ApplicationKind, ClientId, SecretText},
    plan::{
        application::{SecretView, Sight},
        layout::Credential,
    },
    provider::{
        AppId, Gate, HttpSettings, Iam, IamCredential, Tenant,
        app_id::SharedTenant,
        gate::Budget,
        http::{Body, Request},
    },
};
use identity_simulator::{Action, Framing, RoleSeed, Rule, When};
use k8s_openapi::api::{core::v1::Event as CoreEvent, events::v1::Event};
use kube::{Api, api::DeleteParams};
use serde_json::json;
use stage::{API_KEY, Forbidden, IAM, Operator, OperatorOptions, PROVIDER, SYSTEM, Stage, TENANT, condition, eventually, token_condition};

/// Everything that a text must not hold: all values that were ever issued or seeded, in every spelling, and their marks.
async fn forbidden(stage: &Stage, more: &[String]) -> Forbidden {
    let issued = stage.control.secrets().await.expect("the simulator answers");
    Forbidden::marks().and(issued.into_iter().map(|secret| secret.value).chain(more.iter().cloned()))
}

/// Bodies that quote whatever a service could know: the key, a token, a client's secret.
fn quoting(secret: &str, status: u16) -> Action {
    let body = json!({
        "errorCode": "BXNIM0400E", "errorMessage": format!("the key {secret} is no good"), "error": secret, "error_description": format!("apikey={secret}"),
        "message": format!("Basic {secret}"), "errors": [{ "code": secret, "message": secret }], "context": { "apikey": secret },
    });
    let headers = [("Content-Type", "application/json"), ("X-Secret", secret), ("Retry-After", secret)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Action::Answer { when: When::BeforeCommit, status, headers, body: body.to_string() }
}

/// Runs the main story and several that fail, and returns every place that anybody but the owner of a Secret can read.
async fn collect(stage: &Stage, operator: &Operator) -> Vec<(String, String)> {
    let mut places = vec![("the log".to_owned(), operator.log())];
    let process = format!("/proc/{}", operator.pid());
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("{process}/{file}")).expect("the operator runs");
        places.push((file.to_owned(), String::from_utf8_lossy(&bytes).replace('\0', "\n")));
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        let (status, text) = operator.get(path).await;
        assert_eq!(status, 200, "{path}");
        places.push((path.to_owned(), text));
    }
    for object in stage.applications().list(&Default::default()).await.expect("the API server answers") {
        places.push((format!("application {:?}", object.metadata.name), serde_json::to_string(&object).expect("JSON")));
    }
    for object in stage.tokens().list(&Default::default()).await.expect("the API server answers") {
        places.push((format!("token {:?}", object.metadata.name), serde_json::to_string(&object).expect("JSON")));
    }
    for object in stage.providers().list(&Default::default()).await.expect("the API server answers") {
        places.push((format!("provider {:?}", object.metadata.name), serde_json::to_string(&object).expect("JSON")));
    }
    for object in cluster_providers(stage).list(&Default::default()).await.expect("the API server answers") {
        places.push((format!("cluster provider {:?}", object.metadata.name), serde_json::to_string(&object).expect("JSON")));
    }
    for mut secret in stage.secrets().list(&Default::default()).await.expect("the API server answers") {
        (secret.data, secret.string_data) = (None, None);
        places.push((format!("metadata of Secret {:?}", secret.metadata.name), serde_json::to_string(&secret).expect("JSON")));
    }
    for namespace in [stage.namespace.as_str(), SYSTEM, "default"] {
        let events: Api<Event> = Api::namespaced(stage.client.clone(), namespace);
        let core: Api<CoreEvent> = Api::namespaced(stage.client.clone(), namespace);
        for event in events.list(&Default::default()).await.expect("the API server answers") {
            places.push((format!("event {:?}", event.metadata.name), serde_json::to_string(&event).expect("JSON")));
        }
        for event in core.list(&Default::default()).await.expect("the API server answers") {
            places.push((format!("core event {:?}", event.metadata.name), serde_json::to_string(&event).expect("JSON")));
        }
    }
    let calls = stage.control.journal().await.expect("the simulator answers");
    let urls: Vec<String> = calls.into_iter().map(|call| format!("{}?{}", call.path, call.query.unwrap_or_default())).collect();
    places.push(("paths and queries of the calls".to_owned(), urls.join("\n")));
    places
}

/// Faults whose answers are full of secrets, on an application each.
async fn failing_stories(stage: &Stage, secret: &str) {
    let faults = [
        ("create-400", "app_id.applications.create", quoting(secret, 400)),
        ("create-500", "app_id.applications.create", quoting(secret, 500)),
        ("create-429", "app_id.roles.list", quoting(secret, 404)),
        ("create-cut", "app_id.applications.create", Action::Truncate { keep: 300, framing: Framing::Consistent }),
        ("create-odd", "app_id.applications.create", quoting(secret, 200)),
        ("rename-409", "app_id.applications.update", quoting(secret, 409)),
        ("token-401", "app_id.token", quoting(secret, 401)),
        ("token-cut", "app_id.token", Action::Truncate { keep: 400, framing: Framing::Consistent }),
    ];
    for (name, operation, action) in faults {
        let fault = stage.control.inject(&Rule::every(operation, action)).await.expect("accepted");
        stage.application(name, json!({ "roles": ["shopper"] })).await;
        let said = |object: &cloud_identity_operator::api::AppIdApplication| {
            condition(object, "Ready").is_some_and(|(status, reason)| status == "False" && reason != "InProgress")
        };
        stage.application_where(name, "has failed", said).await;
        stage.control.remove_fault(fault.id).await.expect("it goes");
    }
}

fn cluster_providers(stage: &Stage) -> Api<ClusterIdentityProvider> {
    Api::all(stage.client.clone())
}

/// A provider for many namespaces works, and then meets a key that IAM quotes back.
async fn story_of_a_cluster_provider(stage: &Stage) -> String {
    let name = format!("{}-shared", stage.namespace);
    stage.secret("cluster-key", &[("apikey", API_KEY)]).await;
    let mut document = stage.provider_document(&name);
    document["kind"] = json!("ClusterIdentityProvider");
    document["metadata"] = json!({ "name": name });
    let own =
        json!({ "allowedNamespaces": { "from": "All" }, "appId": { "iam": { "apiKey": { "secretRef": { "name": "cluster-key" } } } } });
    stage::merge(&mut document["spec"], own);
    stage.apply(&document).await.expect("the provider is accepted");
    stage.application("shared", json!({ "providerRef": { "kind": "ClusterIdentityProvider", "name": name } })).await;
    stage.ready("shared").await;
    let key = "cafec0de-nobody-knows-the-key-of-all";
    let fault = stage.control.inject(&Rule::every("iam.token", quoting(key, 400))).await.expect("accepted");
    stage.secret("cluster-key", &[("apikey", key)]).await;
    eventually("the cluster provider notices the bad key", async || {
        let provider = cluster_providers(stage).get(&name).await.expect("it is there");
        is_not_ready(provider.status.as_ref())
    })
    .await;
    stage.control.remove_fault(fault.id).await.expect("it goes");
    // It is not to ask in the other stories, where IAM quotes keys that it was never sent.
    stage.secret("cluster-key", &[("apikey", API_KEY)]).await;
    eventually("the cluster provider works again", async || {
        let provider = cluster_providers(stage).get(&name).await.expect("it is there");
        !is_not_ready(provider.status.as_ref())
    })
    .await;
    name
}

fn is_not_ready(status: Option<&ProviderStatus>) -> bool {
    status.is_some_and(|status| status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "False"))
}

/// A registration that the service does not let go, in words full of secrets, is given up and named.
async fn story_of_an_orphan(stage: &Stage, secret: &str) {
    stage.application("orphan", json!({ "redirectUris": ["https://orphan.example.com/"] })).await;
    let id = stage.ready("orphan").await.status.and_then(|status| status.client_id).expect("a client id");
    let refusal = Rule::every("app_id.applications.delete", quoting(secret, 403)).path_contains(&id);
    let fault = stage.control.inject(&refusal).await.expect("accepted");
    stage.delete("orphan").await;
    assert!(stage.event("orphan", "Orphaned").await.contains(&id));
    stage.control.remove_fault(fault.id).await.expect("it goes");
}

/// Tokens that come, that are refused in words full of secrets, and that cannot be published.
async fn stories_of_tokens(stage: &Stage, secret: &str) {
    stage.iam().await;
    stage.ready_provider(IAM).await;
    stage.token("good", json!({ "providerRef": { "name": IAM } })).await;
    stage.token("sdk", json!({ "providerRef": { "name": IAM }, "secret": { "layout": "IbmSdk", "service": "kms" } })).await;
    stage.token("client", json!({ "clientRef": { "name": "plain" } })).await;
    let texts = json!({ "header": "{{ authorization }}", "basic": "{{ ('x:' ~ token)|b64encode }}", "json": "{{ token|tojson }}" });
    stage.token("template", json!({ "providerRef": { "name": IAM }, "secret": { "template": texts } })).await;
    for name in ["good", "sdk", "client", "template"] {
        stage.token_ready(name).await;
    }
    // What goes wrong with the real values only, in words that the engine would fill with them.
    for (name, text) in
        [("number", "{{ token|indent(token) }}"), ("lookup", "{{ values[token] }}"), ("work", "{{ token|indent(99999999, true) }}")]
    {
        let text = format!("{{% if token is startingwith('ey') %}}{text}{{% endif %}}");
        stage.token(name, json!({ "providerRef": { "name": IAM }, "secret": { "template": { "file": text } } })).await;
        stage.token_reason(name, "InvalidSpec").await;
    }
    stage.secret("who", &[("username", "cafec0de-user"), ("password", "cafec0de-password")]).await;
    let of_a_user =
        json!({ "clientRef": { "name": "plain" }, "grant": { "type": "Password", "password": { "secretRef": { "name": "who" } } } });
    stage.token("user", of_a_user).await;
    stage.token_reason("user", "InvalidGrant").await;
    // Keys that are none, and what their owner took for one.
    let jwk = r#"{"kty": "EC", "crv": "P-256", "d": "cafec0de-private", "x": "cafec0de-x", "y": "cafec0de-y", "kid": "a"}"#;
    let keys = [("no-key", "cafec0de-private key"), ("no-jwk", "{\"kty\": \"cafec0de-unfinished"), ("broken-jwk", jwk)];
    for (name, text) in keys {
        stage.secret(name, &[("private_key", text)]).await;
        let signed = json!({ "privateKey": { "secretRef": { "name": name } }, "algorithm": "ES256" });
        let grant = json!({ "type": "JwtBearer", "assertion": { "signed": signed } });
        stage.token(name, json!({ "clientRef": { "name": "plain" }, "grant": grant })).await;
        stage.token_reason(name, "CredentialsInvalid").await;
    }
    let faults = [
        ("quoted-400", quoting(secret, 400)),
        ("quoted-401", quoting(secret, 401)),
        ("quoted-500", quoting(secret, 500)),
        ("quoted-200", quoting(secret, 200)),
        ("cut", Action::Truncate { keep: 200, framing: Framing::Consistent }),
    ];
    for (name, action) in faults {
        let fault = stage.control.inject(&Rule::every("app_id.token", action)).await.expect("accepted");
        stage.token(name, json!({ "clientRef": { "name": "plain" } })).await;
        stage
            .token_where(name, "has failed", |token| {
                token_condition(token, "Ready").is_some_and(|(status, reason)| status == "False" && reason != "InProgress")
            })
            .await;
        stage.control.remove_fault(fault.id).await.expect("it goes");
    }
}

async fn no_secret_leaks(format: &str) {
    let stage = Stage::new("canary").await;
    let role = RoleSeed { name: "shopper".into(), ..RoleSeed::default() };
    stage.control.add_role(TENANT, &role).await.expect("the role is made");
    let options = OperatorOptions {
        log_filter: "trace".into(),
        arguments: vec!["--log-format".into(), format.into()],
        namespace: stage.namespace.clone(),
        deletion_budget: "3s".into(),
        ..OperatorOptions::default()
    };
    let operator = stage.operator_with(options).await;
    stage.provider().await;
    stage.provider_ready().await;
    for (name, layout) in [("plain", "AppId"), ("proxy", "OAuth2Proxy"), ("binding", "IbmBinding")] {
        let spec = json!({ "scopes": ["read"], "roles": ["shopper"], "redirectUris": ["https://shop.example.com/"], "secret": { "layout": layout } });
        stage.application(name, spec).await;
        stage.ready(name).await;
    }
    let by_value = "{% if secret != 'client-secret' %}{{ secret|indent(secret) }}{{ values[secret] }}{% endif %}";
    for (name, text, reason) in [("file", "{{ secret }}{{ secret|b64encode }}", None), ("wrong", by_value, Some("InvalidSpec"))] {
        stage.application(name, json!({ "secret": { "template": { "file": text } } })).await;
        match reason {
            Some(reason) => drop(stage.reason(name, reason).await),
            None => drop(stage.ready(name).await),
        }
    }
    stage.patch_application("plain", json!({ "displayName": "renamed" })).await.expect("accepted");
    stage.ready("plain").await;
    let issued = stage.secret_values("plain").await.expect("published")["secret"].clone();
    stories_of_tokens(&stage, &issued).await;
    failing_stories(&stage, &issued).await;
    let cluster_provider = story_of_a_cluster_provider(&stage).await;
    story_of_an_orphan(&stage, &issued).await;
    // A damaged Secret is put back.
    stage.patch_secret("plain", json!({ "stringData": { "secret": "cafec0de-written-by-somebody" } })).await;
    eventually("the Secret is put back", async || stage.secret_values("plain").await.is_some_and(|values| values["secret"] == issued))
        .await;
    // Keys that are nonsense, and one that IAM quotes back.
    for key in ["{\"apikey\": \"cafec0de-unfinished", "cafec0de with blanks", "cafec0de-nobody-knows-this-key"] {
        let fault = stage.control.inject(&Rule::every("iam.token", quoting(key, 400))).await.expect("accepted");
        stage.secret("ibm-api-key", &[("apikey", key)]).await;
        stage
            .provider_where(PROVIDER, "notices the bad key", |object| {
                stage::provider_condition(object, "Ready").is_some_and(|(is, _)| is == "False")
            })
            .await;
        stage.control.remove_fault(fault.id).await.expect("it goes");
    }
    stage.secret("ibm-api-key", &[("apikey", API_KEY)]).await;
    stage.provider_ready().await;
    stage.delete("plain").await;

    // What the operator itself holds: its own token, and whatever it wrote.
    let mut own = Vec::new();
    for secret in stage.secrets().list(&Default::default()).await.expect("the API server answers") {
        let public = ["clientId", "tenantId", "version"];
        let values = secret
            .data
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, _)| key.to_lowercase().contains("secret") && !public.contains(&key.as_str()));
        own.extend(values.map(|(_, value)| String::from_utf8_lossy(&value.0).into_owned()));
    }
    own.push(operator.token().to_owned());
    let own: Vec<String> = own.into_iter().filter(|value| value.len() >= 20).collect();
    assert!(own.len() >= 4, "there is something to look for");
    let forbidden = forbidden(&stage, &own).await;
    assert!(forbidden.count() > 100, "there is something to look for: {}", forbidden.count());
    assert!(operator.token().starts_with("eyJ"), "the ServiceAccount has a token");
    // The search finds what it should, also inside something larger that is encoded.
    let leak = base64::engine::general_purpose::STANDARD.encode(format!("{}:{issued}", "someone"));
    assert!(!forbidden.search("a leak", &leak).is_empty() && !forbidden.search("a leak", operator.token()).is_empty());
    let places = collect(&stage, &operator).await;
    cluster_providers(&stage).delete(&cluster_provider, &DeleteParams::default()).await.expect("deleted");
    let log = &places[0].1;
    assert!(log.contains("TRACE") && log.len() > 100_000, "the log is at trace level: {} bytes", log.len());
    assert!(format == "text" || log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "every line is JSON");
    let hits: Vec<String> = places.iter().flat_map(|(place, text)| forbidden.search(place, text)).collect();
    assert!(hits.is_empty(), "{} hits:\n{}", hits.len(), hits[..hits.len().min(40)].join("\n"));
}

/// Promise 8: no secret byte reaches a log, event, status, metric, annotation, URL or error text, in any spelling, at the finest level of the log.
/// Traps: T50.
#[tokio::test]
async fn no_secret_shows_up_anywhere_while_the_log_is_text_at_trace_level() {
    no_secret_leaks("text").await;
}

/// The same with a log for programs.
/// Traps: T50.
#[tokio::test]
async fn no_secret_shows_in_log_event_status_metric_or_process_whatever_the_service_says() {
    no_secret_leaks("json").await;
}

/// A panic prints what it holds; what holds a secret has to keep it to itself.
/// Traps: T50.
#[test]
fn no_type_that_holds_a_secret_shows_it_in_a_panic() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let text = || SecretText::from("cafec0de-held-in-a-panic");
    let url = || url::Url::parse("https://service.example.com/").expect("a URL");
    let gate = || Gate::new(Budget { requests_per_second: 1, concurrency: 1 });
    let tenant = || Tenant::new("test", gate(), &HttpSettings::default(), None, Arc::new(Metrics::default())).expect("it is made");
    let iam = || Arc::new(Iam::new(tenant(), &url(), IamCredential::ApiKey(text()), Duration::ZERO));
    let application = || Application {
        client_id: ClientId::new("client"),
        name: "name".into(),
        kind: Some(ApplicationKind::RegularWebApp),
        secret: Some(text()),
    };
    let credential = Credential {
        client_id: "client".into(),
        secret: Some(text()),
        tenant_id: TENANT.into(),
        origin: "https://service.example.com".into(),
        cookie_secret: Some(text()),
    };
    let content = SecretContent {
        data: [("secret".to_owned(), text())].into(),
        labels: Default::default(),
        annotations: Default::default(),
        owned: true,
    };
    let request = Request {
        doing: "asking",
        operation: "test",
        method: http::Method::POST,
        url: url(),
        authorization: Some(text()),
        body: Body::Empty,
        deadline: Duration::from_secs(1),
    };
    let ours = SecretView::Ours { client_id: None, is_intact: true, held: Some(text()), adopted: false };
    let leftover = SecretView::Leftover { client_id: None, held: Some(text()), adopted: false, tenant: None };
    let app_id = AppId::new(tenant(), url(), TENANT.into(), iam(), SharedTenant::new(gate()));
    let holders: [(&str, Box<dyn std::fmt::Debug + Send>); 11] = [
        ("SecretText", Box::new(text())),
        ("Application", Box::new(application())),
        ("Sight", Box::new(Sight::Present(application()))),
        ("Ours", Box::new(ours)),
        ("Leftover", Box::new(leftover)),
        ("Credential", Box::new(credential)),
        ("SecretContent", Box::new(content)),
        ("Request", Box::new(request)),
        ("Iam", Box::new(iam())),
        ("AppId", Box::new(app_id)),
        ("a key that is refused", Box::new(cloud_identity_operator::provider::iam::api_key("cafec0de-{held-in-a-panic"))),
    ];
    for (name, holder) in holders {
        let panicked = std::thread::spawn(move || panic!("{holder:?}")).join().expect_err("it panics");
        let said = panicked.downcast_ref::<String>().expect("a text");
        assert!(said.len() > 4, "{name}: {said}");
        assert_eq!(Forbidden::marks().search(name, said), Vec::<String>::new());
    }
}

/// The body of a request to IAM holds the API key.
#[test]
fn a_form_does_not_show_its_values_in_a_panic() {
    let body = Body::Form(vec![("apikey", "cafec0de-held-in-a-panic")]);
    assert_eq!(Forbidden::marks().search("Body", &format!("{body:?}")), Vec::<String>::new());
}
