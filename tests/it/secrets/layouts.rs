//! The keys of a Secret, by its layout.

use std::collections::BTreeSet;

use cloud_identity_operator::{
    model::ApplicationKind,
    plan::layout::{Layout, Shape, Templates, keys, token},
};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use stage::{condition, eventually, message};

use super::with_operator;
use crate::fixtures::tried;

/// Promise 2: another layout or other key names are one apply; old keys go, other people's stay, and the Secret stays the same object.
///
/// Traps: T06, T42, T54.
#[tokio::test]
async fn another_layout_is_one_apply_and_old_keys_go() {
    let (stage, _operator) = with_operator("layouts").await;
    stage.application("storefront", json!({ "secret": { "layout": "AppId" } })).await;
    stage.ready("storefront").await;
    stage.patch_secret("storefront", json!({ "stringData": { "added-by-a-person": "cafec0de-stays" } })).await;
    let first = stage.stored_secret("storefront").await;
    let credential = stage.registered().await[0].secret.clone().expect("a secret");
    let watch = stage.watch_secret("storefront").await;
    let (changes, mark) = (stage.remote_changes().await, stage.mark());
    for (layout, more) in [
        ("OAuth", json!({})),
        ("OAuth", json!({ "keys": { "client_id": "ID", "client_secret": "SECRET" } })),
        ("IbmBinding", json!({})),
        ("ServiceBinding", json!({})),
        ("OAuth2Proxy", json!({})),
        ("Spring", json!({ "registrationId": "shop" })),
        ("AppId", json!({})),
    ] {
        let mut secret = json!({ "layout": layout });
        stage::merge(&mut secret, more.clone());
        stage.application("storefront", json!({ "secret": secret })).await;
        stage.ready("storefront").await;
        let mut expected = keys(&shape(layout, "RegularWebApp"));
        for (key, renamed) in more["keys"].as_object().into_iter().flatten() {
            expected.remove(key);
            expected.insert(renamed.as_str().unwrap_or_default().to_owned());
        }
        expected.insert("added-by-a-person".to_owned());
        assert_eq!(stage.secret_keys("storefront").await, expected, "{layout} {more}");
        let values = stage.secret_values("storefront").await.expect("there");
        assert!(values.values().any(|value| value.contains(&credential)), "{layout} holds the same credential");
    }
    let now = stage.stored_secret("storefront").await;
    assert_eq!(now.uid(), first.uid());
    assert_eq!(watch.count("DELETED"), 0);
    assert_eq!(stage.writes_since(mark, "secrets"), 7, "one apply for each change");
    assert_eq!(stage.remote_changes().await, changes, "a layout is nobody's business at the service");
}

/// Promise 2: oauth2-proxy's cookie secret is made once, because another one would end every session.
#[tokio::test]
async fn the_cookie_secret_survives_a_repair() {
    let (stage, _operator) = with_operator("cookie").await;
    stage.application("proxy", json!({ "secret": { "layout": "OAuth2Proxy" } })).await;
    stage.ready("proxy").await;
    let right = stage.secret_values("proxy").await.expect("there");
    assert_eq!(right["cookie-secret"], right["OAUTH2_PROXY_COOKIE_SECRET"]);
    for change in [json!({ "data": { "client-secret": null } }), json!({ "data": { "cookie-secret": null } })] {
        stage.patch_secret("proxy", change.clone()).await;
        eventually(&format!("the Secret is right again after {change}"), async || {
            stage.secret_values("proxy").await.as_ref() == Some(&right)
        })
        .await;
    }
}

/// Promise 10: when the Secret cannot be changed to another layout, the object is not ready until it can, however often it is looked at.
///
/// Traps: T04.
#[tokio::test]
async fn a_layout_that_cannot_be_written_is_never_called_ready() {
    let (stage, operator) = with_operator("refused").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let (policies, bindings): (Api<ValidatingAdmissionPolicy>, Api<ValidatingAdmissionPolicyBinding>) =
        (Api::all(stage.client.clone()), Api::all(stage.client.clone()));
    let name = format!("refuse-{}", stage.namespace);
    let policy = json!({ "metadata": { "name": name }, "spec": {
        "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"] }],
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": stage.namespace } } },
        "validations": [{ "expression": "!('client_id' in object.data)", "message": "not this layout", "reason": "Forbidden" }] } });
    let binding = json!({ "metadata": { "name": name }, "spec": { "policyName": name, "validationActions": ["Deny"] } });
    policies.create(&PostParams::default(), &serde_json::from_value(policy).expect("valid")).await.expect("accepted");
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).expect("valid")).await.expect("accepted");
    eventually("the policy works", async || {
        let try_it = Patch::Merge(json!({ "stringData": { "client_id": "x" } }));
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        stage.secrets().patch("storefront", &dry, &try_it).await.is_err()
    })
    .await;
    stage.application("storefront", json!({ "secret": { "layout": "OAuth" } })).await;
    stage.reason("storefront", "SecretRejected").await;
    tried(&stage, "storefront", 2).await;
    let still = stage.reason("storefront", "SecretRejected").await;
    assert_eq!(condition(&still, "Ready").map(|(status, _)| status), Some("False"));
    drop(operator.kill().await);
    let _operator = stage.operator().await;
    tried(&stage, "storefront", 3).await;
    bindings.delete(&name, &DeleteParams::default()).await.expect("freed");
    policies.delete(&name, &DeleteParams::default()).await.expect("freed");
    stage.ready("storefront").await;
    assert!(stage.secret_keys("storefront").await.contains("client_id"));
}

/// Promise 10: a key that the layout does not have is named, with those that it has.
#[tokio::test]
async fn renaming_a_key_that_the_layout_does_not_have_is_refused_with_advice() {
    let (stage, _operator) = with_operator("rename").await;
    let calls = stage.all_calls().await;
    stage.application("storefront", json!({ "secret": { "keys": { "client_id": "ID" } } })).await;
    let refused = stage.reason("storefront", "InvalidSpec").await;
    let said = message(&refused);
    assert!(said.contains("\"client_id\"") && said.contains("clientId") && said.contains("oauthServerUrl"), "{said}");
    assert_eq!(condition(&refused, "Stalled").map(|(status, _)| status), Some("True"));
    assert_eq!(stage.all_calls().await, calls);
    stage.application("storefront", json!({ "secret": { "keys": { "clientId": "ID" } } })).await;
    stage.ready("storefront").await;
    assert!(stage.secret_keys("storefront").await.contains("ID"));
}

fn shape(layout: &str, kind: &str) -> Shape {
    Shape {
        layout: *Layout::ALL.iter().find(|known| format!("{known:?}") == layout).expect("a layout"),
        kind: if kind == "SinglePageApp" { ApplicationKind::SinglePageApp } else { ApplicationKind::RegularWebApp },
        renamed: Default::default(),
        redirect_uri: None,
        registration_id: (layout == "Spring").then(|| "SHOP".to_owned()),
        scopes: BTreeSet::new(),
        templates: Templates::default(),
    }
}

/// The keys of a layout never change within an API version: `tests/golden/layouts.txt` is what users mount.
///
/// Traps: T54.
#[test]
fn the_keys_of_every_layout_are_those_of_the_golden_file() {
    let mut page = String::from("# Keys of a published Secret, cloudidentity.dev/v1alpha1. A change here breaks whoever mounts them.\n");
    for layout in Layout::ALL {
        for kind in ["RegularWebApp", "SinglePageApp"] {
            let plain = shape(&format!("{layout:?}"), kind);
            if kind == "SinglePageApp" && layout.needs_secret() {
                page.push_str(&format!("{layout:?} {kind}: refused\n"));
                continue;
            }
            let full = Shape { redirect_uri: Some("https://shop.example.com".into()), scopes: ["a".to_owned()].into(), ..plain.clone() };
            let (always, sometimes) = (keys(&plain), keys(&full));
            let more: Vec<String> = sometimes.difference(&always).cloned().collect();
            page.push_str(&format!("{layout:?} {kind}: {}\n", always.into_iter().collect::<Vec<_>>().join(" ")));
            if !more.is_empty() {
                page.push_str(&format!("{layout:?} {kind} with a redirect URI and scopes, also: {}\n", more.join(" ")));
            }
        }
    }
    for layout in [token::Layout::BearerToken, token::Layout::IbmSdk { service: "KMS".into(), url: None }] {
        let shape = token::Shape {
            layout: layout.clone(),
            renamed: Default::default(),
            has_expiry: false,
            identity_token: false,
            templates: Templates::default(),
        };
        let url = match &layout {
            token::Layout::IbmSdk { service, .. } => {
                token::Layout::IbmSdk { service: service.clone(), url: Some("https://kms.example.com".into()) }
            }
            token::Layout::BearerToken => token::Layout::BearerToken,
        };
        let full = token::Shape { layout: url, has_expiry: true, identity_token: true, ..shape.clone() };
        let (always, sometimes) = (token::keys(&shape), token::keys(&full));
        let name = if layout == token::Layout::BearerToken { "BearerToken" } else { "IbmSdk" };
        page.push_str(&format!("{name}: {}\n", always.iter().cloned().collect::<Vec<_>>().join(" ")));
        let more: Vec<String> = sometimes.difference(&always).cloned().collect();
        page.push_str(&format!("{name} with everything that may come, also: {}\n", more.join(" ")));
    }
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::write(stage::repository().join("tests/golden/layouts.txt"), &page).expect("the golden file is written");
    }
    let golden = std::fs::read_to_string(stage::repository().join("tests/golden/layouts.txt")).unwrap_or_default();
    assert_eq!(page, golden, "the keys of layout {:?} are frozen", first_difference(&page, &golden));
}

fn first_difference<'a>(page: &'a str, golden: &str) -> Option<&'a str> {
    page.lines().find(|line| !golden.lines().any(|known| known == *line))
}

/// A single-page app has no secret, in no layout that it may have.
#[tokio::test]
async fn a_single_page_app_gets_every_layout_that_needs_no_secret() {
    let (stage, _operator) = with_operator("spa").await;
    for layout in ["AppId", "OAuth", "IbmBinding"] {
        let name = layout.to_lowercase();
        stage.application(&name, json!({ "type": "SinglePageApp", "secret": { "layout": layout } })).await;
        let ready = stage.ready(&name).await;
        assert_eq!(condition(&ready, "Verified"), Some(("Unknown", "NotApplicable")));
        assert_eq!(stage.secret_keys(&name).await, keys(&shape(layout, "SinglePageApp")), "{layout}");
    }
    let refused: Value = stage.application_document("proxy", json!({ "type": "SinglePageApp", "secret": { "layout": "OAuth2Proxy" } }));
    let error = stage.apply(&refused).await.expect_err("it needs a secret").to_string();
    assert!(error.contains("a SinglePageApp has no client secret"), "{error}");
}
