//! `secret.template`: keys that the owner of an object words.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use stage::{IAM, Operator, Stage, condition, eventually, message, token_message};

use crate::ledger::{Ledger, WINDOW, restart_costs_nothing, tally};

const FILE: &str = "id={{ clientId }}\nsecret={{ secret }}\nobject={{ metadata.namespace }}/{{ metadata.name }}\n";

async fn with_operator(prefix: &str) -> (Stage, Operator) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let operator = stage.operator().await;
    stage.provider_ready().await;
    (stage, operator)
}

async fn value(stage: &Stage, name: &str, key: &str) -> Option<String> {
    stage.secret_values(name).await?.remove(key)
}

fn with(template: Value) -> Value {
    json!({ "secret": { "keys": { "clientId": "ID" }, "template": template } })
}

/// Promise 2: a templated key holds the credential like every other; a change is one write of the Secret and none at the service.
#[tokio::test]
async fn a_templated_key_is_published_changed_put_back_and_taken_away_like_every_other() {
    let (stage, _operator) = with_operator("templates").await;
    stage.application("storefront", with(json!({ "app.conf": FILE, "UPPER": "{{ clientId|upper }}" }))).await;
    stage.ready("storefront").await;
    let published = stage.secret_values("storefront").await.expect("published");
    let (id, secret) = (published["ID"].clone(), published["secret"].clone());
    assert_eq!(published["app.conf"], format!("id={id}\nsecret={secret}\nobject={}/storefront\n", stage.namespace));
    assert_eq!(published["UPPER"], id.to_uppercase());
    assert!(!published.contains_key("clientId"));
    // A person edits it, and it is as it was.
    stage.patch_secret("storefront", json!({ "stringData": { "app.conf": "cafec0de-edited" } })).await;
    eventually("the templated key is put back", async || stage.secret_values("storefront").await.as_ref() == Some(&published)).await;
    stage.patch_secret("storefront", json!({ "data": { "UPPER": null } })).await;
    eventually("the templated key comes back", async || stage.secret_values("storefront").await.as_ref() == Some(&published)).await;
    stage.ready("storefront").await;
    // Another text that looks the same with no values in it, and one key less.
    let ledger = Ledger::open(&stage).await;
    stage.application("storefront", with(json!({ "app.conf": "{{ secret }}" }))).await;
    eventually("the new text is published", async || value(&stage, "storefront", "app.conf").await.as_ref() == Some(&secret)).await;
    stage.ready("storefront").await;
    tokio::time::sleep(WINDOW).await;
    assert!(!stage.secret_keys("storefront").await.contains("UPPER"));
    assert_eq!(tally(&ledger.writes()).get("patch secrets"), Some(&1), "{:?}", ledger.writes());
    assert_eq!(stage.remote_changes().await, 0);
    let ledger = Ledger::open(&stage).await;
    stage.application("storefront", with(json!({ "app.conf": "{{ clientId }}" }))).await;
    eventually("a text with another value is published", async || value(&stage, "storefront", "app.conf").await.as_ref() == Some(&id))
        .await;
    stage.ready("storefront").await;
    stage.application("storefront", json!({ "secret": { "keys": { "clientId": "ID" } } })).await;
    eventually("the key is gone", async || !stage.secret_keys("storefront").await.contains("app.conf")).await;
    stage.ready("storefront").await;
    eventually("both writes are in the audit log", async || tally(&ledger.writes()).get("patch secrets") >= Some(&2)).await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(tally(&ledger.writes())["patch secrets"], 2, "{:?}", ledger.writes());
    assert_eq!(stage.remote_changes().await, 0);
}

/// Promise 6: a restart finds the templated key as it is wanted, and does nothing.
///
/// Traps: T25.
#[tokio::test]
async fn a_restart_leaves_templated_keys_alone() {
    let (stage, operator) = with_operator("templates").await;
    stage.iam().await;
    stage.ready_provider(IAM).await;
    stage.application("storefront", with(json!({ "app.conf": FILE }))).await;
    stage
        .token("key-protect", json!({ "providerRef": { "name": IAM }, "secret": { "template": { "header": "{{ authorization }}" } } }))
        .await;
    stage.ready("storefront").await;
    stage.token_ready("key-protect").await;
    restart_costs_nothing(&stage, operator).await;
}

/// Promise 3: what a template makes of a token is as new as the token, for one call and two writes.
#[tokio::test]
async fn a_templated_key_follows_every_new_token() {
    let stage = Stage::new("templates").await;
    let settings = stage.control.settings().await.expect("the simulator answers");
    stage.control.set_settings(&identity_simulator::Settings { iam_expires_in: 8, ..settings }).await.expect("set");
    stage.iam().await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let text = "# until {{ expires_at }}\nheader = \"{{ authorization }}\"\n";
    let secret = json!({ "keys": { "token": "bearer" }, "template": { "curlrc": text } });
    stage.token("key-protect", json!({ "providerRef": { "name": IAM }, "secret": secret })).await;
    stage.token_ready("key-protect").await;
    let ledger = Ledger::open(&stage).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let secret = stage.secret_values("key-protect").await.expect("published");
        let expected = format!("# until {}\nheader = \"Bearer {}\"\n", secret["expires_at"], secret["bearer"]);
        assert_eq!(secret["curlrc"], expected, "both come in one write");
        if seen.last() != Some(&expected) {
            seen.push(expected);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("every refresh is in the audit log", async || tally(&ledger.writes()).get("patch accesstokens/status") >= Some(&2)).await;
    let writes = tally(&ledger.writes());
    assert_eq!(writes["patch secrets"], writes["patch accesstokens/status"], "{writes:?}");
    assert_eq!((ledger.operations().await.len(), ledger.reads()), (writes["patch secrets"], Vec::new()));
}

/// Promises 2 and 10: what is wrong with a text is said before anything is asked of the service, and costs nothing of what is published.
#[tokio::test]
async fn a_flawed_template_is_told_by_key_and_line_before_any_call() {
    let (stage, _operator) = with_operator("templates").await;
    stage.iam().await;
    stage.ready_provider(IAM).await;
    let ledger = Ledger::open(&stage).await;
    let flaws = [
        ("syntax", json!({ "file": "a\n{{ clientId" }), r#"the template of "file" has a syntax error in line 2"#),
        ("unknown", json!({ "file": "\n{{ clientID }}" }), r#"names "clientID" in line 2, which is no key of this layout"#),
        ("missing", json!({ "file": "{{ redirectUri }}" }), "uses \"redirectUri\" in line 1, which this layout does not have here"),
        ("collision", json!({ "tenantId": "x" }), r#"the template of "tenantId" has the name of a key of the layout"#),
        ("endless", json!({ "file": "{% for i in range(100000) %}{{ i }}{% endfor %}" }), "what templates here do not have: functions"),
        (
            "large",
            json!({ "file": format!("{{% set a = 'x' %}}{}{{{{ a }}}}", "{% set a = a ~ a %}".repeat(17)) }),
            "makes more than 65536 bytes",
        ),
        (
            "work",
            json!({ "file": format!("{{% set a = 'x' %}}{}{{{{ a }}}}", "{% set a = a ~ a %}".repeat(60)) }),
            "more work than a template may",
        ),
    ];
    for (name, template, said) in &flaws {
        stage.application(name, json!({ "secret": { "template": template } })).await;
        let flawed = stage.reason(name, "InvalidSpec").await;
        assert!(message(&flawed).contains(said), "{name}: {}", message(&flawed));
        assert!(flawed.metadata.finalizers.is_none(), "{name}: nothing was begun");
    }
    let of_a_token = [
        ("no-expiry", json!({ "file": "{{ client_id }}" }), "its keys are authorization, expires_at, scope, token, token_type"),
        ("no-identity", json!({ "file": "{{ id_token }}" }), r#"names "id_token" in line 1"#),
        ("collides", json!({ "scope": "x" }), "has the name of a key of the layout"),
    ];
    for (name, template, said) in &of_a_token {
        stage.token(name, json!({ "providerRef": { "name": IAM }, "secret": { "template": template } })).await;
        let flawed = stage.token_reason(name, "InvalidSpec").await;
        let words = token_message(&flawed, "Ready").unwrap_or_default();
        assert!(words.contains(said), "{name}: {words}");
    }
    assert_eq!(ledger.operations().await, Vec::<String>::new(), "nothing was asked of any service");
    assert!(!tally(&ledger.writes()).contains_key("patch secrets"), "{:?}", ledger.writes());
    // Mended, it is as if nothing had been; and a flaw in something that works leaves that as it is.
    stage.application("syntax", json!({ "secret": { "template": { "file": FILE } } })).await;
    stage.ready("syntax").await;
    stage.token("no-expiry", json!({ "providerRef": { "name": IAM }, "secret": { "template": { "file": "{{ token }}" } } })).await;
    stage.token_ready("no-expiry").await;
    let held = (stage.stored_secret("syntax").await, stage.stored_secret("no-expiry").await);
    let before = stage.all_calls().await;
    stage.application("syntax", json!({ "secret": { "template": { "file": "{{ clientID }}" } } })).await;
    let flawed = stage.reason("syntax", "InvalidSpec").await;
    assert_eq!(condition(&flawed, "Registered").map(|(status, _)| status), Some("True"));
    stage.token("no-expiry", json!({ "providerRef": { "name": IAM }, "secret": { "template": { "file": "{{ tokens }}" } } })).await;
    stage.token_reason("no-expiry", "InvalidSpec").await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!((stage.stored_secret("syntax").await, stage.stored_secret("no-expiry").await), held);
    assert_eq!(stage.all_calls().await, before);
    stage.delete("syntax").await;
    assert!(stage.registered().await.is_empty(), "a flawed template keeps nobody from deleting");
}

/// Promises 2 and 10: what goes wrong with the real values only is told the same way, and the Secret stays what it was.
#[tokio::test]
async fn a_template_that_fails_with_the_real_values_changes_nothing() {
    let stage = Stage::new("templates").await;
    stage.iam().await;
    let _operator = stage.operator().await;
    stage.ready_provider(IAM).await;
    let of = |text: &str| json!({ "providerRef": { "name": IAM }, "secret": { "template": { "file": text } } });
    stage.token("key-protect", of("{{ token }}")).await;
    stage.token_ready("key-protect").await;
    let held = stage.stored_secret("key-protect").await;
    let ledger = Ledger::open(&stage).await;
    stage.token("key-protect", of("{% if token is startingwith('ey') %}{{ token|indent(scope) }}{% endif %}")).await;
    let failed = stage.token_reason("key-protect", "InvalidSpec").await;
    let said = token_message(&failed, "Ready").unwrap_or_default();
    assert!(said.contains(r#"the template of "file" goes wrong in line 1: invalid operation"#), "{said}");
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.stored_secret("key-protect").await, held);
    assert_eq!(ledger.operations().await, ["iam.token"], "one attempt, and the next one much later");
}

/// Promises 1 and 2: a Secret that outlives its object keeps its templated keys, and gets new ones with the object that takes it over.
#[tokio::test]
async fn retained_and_taken_over_a_secret_has_its_templated_keys() {
    let (stage, _operator) = with_operator("templates").await;
    let spec = |text: &str| json!({ "deletionPolicy": "Retain", "secret": { "template": { "app.conf": text } } });
    stage.application("storefront", spec(FILE)).await;
    let id = stage.ready("storefront").await.status.and_then(|status| status.client_id).expect("a client id");
    let published = stage.secret_values("storefront").await;
    stage.delete("storefront").await;
    assert_eq!(stage.secret_values("storefront").await, published);
    stage.application("storefront", spec("only {{ clientId }}")).await;
    stage.ready("storefront").await;
    assert_eq!(value(&stage, "storefront", "app.conf").await, Some(format!("only {id}")));
    assert_eq!(stage.registered().await.len(), 1);
    // Removed with the object in the foreground, it is written again, as a whole.
    let published = stage.secret_values("storefront").await;
    let uid = stage.stored_secret("storefront").await.metadata.uid;
    stage.applications().delete("storefront", &DeleteParams::foreground()).await.expect("accepted");
    eventually("the object is gone", async || stage.applications().get_opt("storefront").await.expect("the API server answers").is_none())
        .await;
    assert_eq!(stage.secret_values("storefront").await, published, "it was {uid:?}");
}
