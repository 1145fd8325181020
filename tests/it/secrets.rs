//! The published Secret: whose it is, what is in it, and that it never goes away because of us.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cloud_identity_operator::{
    model::ApplicationKind,
    plan::layout::{Layout, Shape, Templates, keys, token},
};
use identity_simulator::{Action, Rule, When};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::{ResourceQuota, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use stage::{Stage, condition, eventually, message, observed};

/// Long enough to see that something does not happen: a pass takes a few milliseconds.
const WINDOW: Duration = Duration::from_secs(2);

async fn with_operator(prefix: &str) -> (Stage, stage::Operator) {
    let stage = Stage::new(prefix).await;
    stage.provider().await;
    let operator = stage.operator().await;
    stage.provider_ready().await;
    (stage, operator)
}

/// Promises 4 and 10: a Secret of somebody else stays as it is, nothing is asked of the service, and the condition says whose it is.
///
/// Traps: T13.
#[tokio::test]
async fn a_foreign_secret_stays_bit_identical_until_the_name_is_free() {
    let (stage, _operator) = with_operator("foreign").await;
    stage.secret("storefront", &[("token", "cafec0de-theirs"), ("clientId", "theirs, too")]).await;
    let map: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let owner = map.get("simulator-ca").await.expect("it is there");
    let owned = json!({ "metadata": { "name": "backend", "ownerReferences": [
        { "apiVersion": "v1", "kind": "ConfigMap", "name": "simulator-ca", "uid": owner.uid(), "controller": true }] } });
    let owned: Secret = serde_json::from_value(owned).expect("valid");
    stage.secrets().create(&PostParams::default(), &owned).await.expect("it is accepted");
    let before = (stage.stored_secret("storefront").await, stage.stored_secret("backend").await);
    let calls = stage.all_calls().await;
    stage.application("storefront", json!({})).await;
    stage.application("backend", json!({})).await;
    let first = stage.reason("storefront", "SecretConflict").await;
    assert!(message(&first).contains("nobody this operator knows"), "{}", message(&first));
    let second = stage.reason("backend", "SecretConflict").await;
    assert!(message(&second).contains("ConfigMap simulator-ca"), "{}", message(&second));
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.all_calls().await, calls, "no call was made");
    assert_eq!((stage.stored_secret("storefront").await, stage.stored_secret("backend").await), before);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user removes it");
    let ready = stage.ready("storefront").await;
    let values = stage.secret_values("storefront").await.expect("published");
    assert_eq!(values.get("clientId"), ready.status.and_then(|status| status.client_id).as_ref());
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promises 1 and 4: a Secret that appears between registration and publication stays, and so does the registration.
///
/// Traps: T05, T13.
#[tokio::test]
async fn a_secret_that_appears_during_the_registration_delays_publication_only() {
    let (stage, _operator) = with_operator("between").await;
    let fault =
        stage.control.inject(&Rule::next("app_id.applications.create", Action::Hold { when: When::AfterCommit })).await.expect("injected");
    stage.application("storefront", json!({})).await;
    stage.control.wait_for_fault(fault.id).await.expect("the registration is under way");
    stage.secret("storefront", &[("token", "cafec0de-theirs")]).await;
    let before = stage.stored_secret("storefront").await;
    stage.control.release(fault.id).await.expect("released");
    stage.reason("storefront", "SecretConflict").await;
    tokio::time::sleep(WINDOW).await;
    let kept = stage.registered().await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(stage.stored_secret("storefront").await, before);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user removes it");
    let ready = stage.ready("storefront").await;
    assert_eq!(ready.status.and_then(|status| status.client_id).as_deref(), Some(kept[0].client_id.as_str()));
    let now = stage.registered().await;
    assert_eq!((now.len(), now[0].name.as_str()), (1, "storefront"));
    assert_eq!(stage.calls("app_id.applications.create").await, 1);
}

/// Promises 4 and 10: of two objects that want one Secret, the older gets it; the other says so, asks nothing of the service, and follows.
///
/// Traps: T45.
#[tokio::test]
async fn of_two_objects_with_one_secret_name_the_older_wins_and_the_other_follows_when_it_is_gone() {
    let stage = Stage::new("rivals").await;
    stage.provider().await;
    stage.application("z-older", json!({ "secret": { "name": "shared" } })).await;
    let created = stage.applications().get("z-older").await.expect("it is there").creation_timestamp();
    // Creation times are whole seconds: the younger one is made until it is visibly younger.
    eventually("the other object is younger", async || {
        drop(stage.applications().delete("a-younger", &DeleteParams::default()).await);
        stage.application("a-younger", json!({ "secret": { "name": "shared" } })).await;
        stage.applications().get("a-younger").await.expect("it is there").creation_timestamp() > created
    })
    .await;
    let _operator = stage.operator().await;
    let older = stage.ready("z-older").await;
    let younger = stage.reason("a-younger", "SecretConflict").await;
    assert!(message(&younger).contains(&format!("{}/z-older", stage.namespace)), "{}", message(&younger));
    assert!(younger.metadata.finalizers.is_none(), "nothing was begun for it");
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.registered().await.len(), 1);
    let secret = stage.stored_secret("shared").await;
    assert_eq!(secret.owner_references()[0].uid, older.uid().unwrap_or_default());
    stage.delete("z-older").await;
    let ready = stage.ready("a-younger").await;
    let secret = stage.stored_secret("shared").await;
    assert_eq!(secret.owner_references()[0].uid, ready.uid().unwrap_or_default());
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promise 2: whatever is done to the Secret is put right, with the same client, and the Secret is never deleted for it.
///
/// Traps: T01, T06.
#[tokio::test]
async fn an_edited_secret_is_repaired_in_place_and_foreign_keys_in_it_stay() {
    let (stage, _operator) = with_operator("repair").await;
    stage
        .application("storefront", json!({ "secret": { "labels": { "team": "shop" }, "annotations": { "example.com/note": "hello" } } }))
        .await;
    let uid = stage.ready("storefront").await.uid();
    stage
        .patch_secret(
            "storefront",
            json!({ "stringData": { "added-by-a-person": "cafec0de-stays" }, "metadata": { "labels": { "theirs": "stays" } } }),
        )
        .await;
    let right = stage.stored_secret("storefront").await;
    let watch = stage.watch_secret("storefront").await;
    for (change, reason) in [
        (json!({ "stringData": { "secret": "cafec0de-edited" } }), "a value was edited"),
        (json!({ "data": { "clientId": null } }), "a key was removed"),
        (json!({ "metadata": { "ownerReferences": null } }), "the owner reference was removed"),
        (json!({ "metadata": { "labels": { "cloudidentity.dev/kind": null, "team": "other" } } }), "labels were removed and edited"),
    ] {
        stage.patch_secret("storefront", change).await;
        eventually(&format!("the Secret is right again after {reason}"), async || {
            let now = stage.stored_secret("storefront").await;
            now.data == right.data
                && now.labels() == right.labels()
                && now.annotations() == right.annotations()
                && now.owner_references() == right.owner_references()
        })
        .await;
    }
    assert_eq!(stage.stored_secret("storefront").await.uid(), right.uid());
    assert_eq!(stage.secret_values("storefront").await.expect("there")["added-by-a-person"], "cafec0de-stays");
    assert_eq!(watch.count("DELETED"), 0);
    assert_eq!(stage.applications().get("storefront").await.expect("there").uid(), uid);
    assert_eq!((stage.calls("app_id.applications.create").await, stage.calls("app_id.applications.delete").await), (1, 0));
    assert_eq!(stage.event("storefront", "SecretRepaired").await, "put the Secret storefront back");
}

/// Promise 2: a Secret that somebody deleted comes back with the same credential.
///
/// Traps: T01.
#[tokio::test]
async fn a_deleted_secret_comes_back_with_the_same_client_and_nothing_is_registered_or_deleted() {
    let (stage, operator) = with_operator("restore").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let right = stage.secret_values("storefront").await;
    let changes = stage.remote_changes().await;
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user deletes it");
    eventually("the Secret is back", async || stage.secret_values("storefront").await == right).await;
    stage.ready("storefront").await;
    // And the same while nobody watches.
    drop(operator.kill().await);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user deletes it");
    let _operator = stage.operator().await;
    eventually("the Secret is back after a restart", async || stage.secret_values("storefront").await == right).await;
    assert_eq!(stage.remote_changes().await, changes, "nothing was changed at the service");
    assert_eq!(stage.registered().await.len(), 1);
}

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

/// Promises 2 and 10: a Secret that a person made immutable is never re-created; the object says what is wrong, and goes on when it can.
///
/// Traps: T06.
#[tokio::test]
async fn an_immutable_secret_is_left_alone_and_said_so() {
    let (stage, _operator) = with_operator("immutable").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let right = stage.patch_secret("storefront", json!({ "immutable": true })).await;
    let watch = stage.watch_secret("storefront").await;
    stage.application("storefront", json!({ "secret": { "layout": "OAuth" } })).await;
    stage.reason("storefront", "SecretImmutable").await;
    tokio::time::sleep(WINDOW).await;
    assert_eq!(stage.stored_secret("storefront").await, right);
    assert_eq!(watch.count("DELETED"), 0);
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the user deletes it");
    stage.ready("storefront").await;
    assert!(stage.secret_keys("storefront").await.contains("client_id"));
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promises 6 and 10: a writer that keeps changing our Secret is not fought without end.
///
/// Traps: T45.
#[tokio::test]
async fn a_hostile_writer_meets_few_repairs_and_the_condition_contested() {
    let (stage, _operator) = with_operator("hostile").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let mark = stage.mark();
    let right = stage.secret_values("storefront").await;
    let mut rounds = 0;
    eventually("the object says that the Secret is contested", async || {
        if stage.secret_values("storefront").await == right {
            rounds += 1;
            stage.patch_secret("storefront", json!({ "stringData": { "secret": format!("cafec0de-hostile-{rounds}") } })).await;
        }
        condition(&stage.applications().get("storefront").await.expect("there"), "Ready").is_some_and(|(_, reason)| reason == "Contested")
    })
    .await;
    // The writer goes on for a while.
    for round in 0..20 {
        stage.patch_secret("storefront", json!({ "stringData": { "secret": format!("cafec0de-more-{round}") } })).await;
        tokio::time::sleep(WINDOW / 20).await;
    }
    assert!((5..=6).contains(&rounds), "{rounds} rounds");
    assert!(stage.writes_since(mark, "secrets") <= 6, "{} writes", stage.writes_since(mark, "secrets"));
    assert!(stage.writes_since(mark, "appidapplications") <= 14, "{} writes", stage.writes_since(mark, "appidapplications"));
    let contested = stage.applications().get("storefront").await.expect("there");
    assert_eq!(condition(&contested, "Ready"), Some(("False", "Contested")));
    // What its owner asks for is done all the same, and the Secret with it.
    stage.application("storefront", json!({ "scopes": ["orders.read"] })).await;
    eventually("the scopes are set", async || stage.registered().await[0].scopes.contains("orders.read")).await;
    stage.ready("storefront").await;
    assert_eq!(stage.secret_values("storefront").await, right);
    // Without the Secret no Pod starts: one that is gone comes back after seconds, not after half a minute.
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("the writer deletes it");
    let gone = Instant::now();
    eventually("it is put back when the short pause is over", async || stage.secret_values("storefront").await == right).await;
    assert!(gone.elapsed() < Duration::from_secs(20), "{:?}", gone.elapsed());
    stage.ready("storefront").await;
}

/// Promise 10: who suspends an object whose Secret then goes is told so, and gets it back.
#[tokio::test]
async fn a_suspended_object_without_its_secret_is_not_ready() {
    let (stage, _operator) = with_operator("suspended").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let right = stage.secret_values("storefront").await;
    stage.application("storefront", json!({ "suspend": true })).await;
    let suspended = stage.reason("storefront", "Suspended").await;
    assert_eq!(condition(&suspended, "Ready"), Some(("True", "Suspended")));
    stage.secrets().delete("storefront", &DeleteParams::default()).await.expect("somebody deletes it");
    let without = stage.reason("storefront", "SecretMissing").await;
    assert_eq!(condition(&without, "Ready"), Some(("False", "SecretMissing")));
    assert_eq!(condition(&without, "SecretPublished"), Some(("False", "SecretMissing")));
    tokio::time::sleep(WINDOW).await;
    assert!(stage.secret_values("storefront").await.is_none(), "suspended means: no write of the Secret");
    stage.application("storefront", json!({ "suspend": false })).await;
    stage.ready("storefront").await;
    assert_eq!(stage.secret_values("storefront").await, right);
    assert_eq!(stage.registered().await.len(), 1);
}

/// Promises 1 and 2: while the API server takes no Secret, the one registration is kept, also by a process that started meanwhile.
///
/// Traps: T05, T07.
#[tokio::test]
async fn a_secret_that_cannot_be_written_costs_neither_a_second_registration_nor_the_credential() {
    let (stage, operator) = with_operator("quota").await;
    let quotas: Api<ResourceQuota> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let quota = json!({ "metadata": { "name": "full" }, "spec": { "hard": { "secrets": "1" } } });
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).expect("valid")).await.expect("accepted");
    // No quota controller runs here: what it would find is said by hand.
    let full = json!({ "status": { "hard": { "secrets": "1" }, "used": { "secrets": "1" } } });
    quotas.patch_status("full", &PatchParams::default(), &Patch::Merge(&full)).await.expect("accepted");
    stage.application("storefront", json!({})).await;
    let refused = stage.reason("storefront", "SecretRejected").await;
    assert!(message(&refused).contains("exceeded quota"), "{}", message(&refused));
    assert_eq!(condition(&refused, "SecretPublished").map(|(status, _)| status), Some("False"));
    let id = refused.status.and_then(|status| status.client_id).expect("the registration is recorded");
    stage
        .application_where("storefront", "was tried again", |object| {
            object.status.as_ref().is_some_and(|status| status.failures >= Some(2))
        })
        .await;
    drop(operator.kill().await);
    let _operator = stage.operator().await;
    stage
        .application_where("storefront", "was tried by the next process", |object| {
            object.status.as_ref().is_some_and(|status| status.failures >= Some(3))
        })
        .await;
    assert_eq!(stage.secret_values("storefront").await, None, "no partial Secret");
    quotas.delete("full", &DeleteParams::default()).await.expect("freed");
    let ready = stage.ready("storefront").await;
    assert_eq!(condition(&ready, "Verified"), Some(("True", "Verified")));
    assert_eq!(stage.secret_values("storefront").await.expect("published")["clientId"], id);
    assert_eq!((stage.registered().await.len(), stage.calls("app_id.applications.create").await), (1, 1));
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
    stage
        .application_where("storefront", "was tried again", |object| {
            object.status.as_ref().is_some_and(|status| status.failures >= Some(2))
        })
        .await;
    let still = stage.reason("storefront", "SecretRejected").await;
    assert_eq!(condition(&still, "Ready").map(|(status, _)| status), Some("False"));
    drop(operator.kill().await);
    let _operator = stage.operator().await;
    stage
        .application_where("storefront", "was tried by the next process", |object| {
            object.status.as_ref().is_some_and(|status| status.failures >= Some(3))
        })
        .await;
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

/// Promise 4: labels and annotations follow the spec; what a person added stays.
#[tokio::test]
async fn labels_and_annotations_follow_the_spec() {
    let (stage, _operator) = with_operator("labels").await;
    stage.application("storefront", json!({ "secret": { "labels": { "a": "1", "b": "2" }, "annotations": { "c": "3" } } })).await;
    stage.ready("storefront").await;
    stage.patch_secret("storefront", json!({ "metadata": { "labels": { "person": "p" }, "annotations": { "person": "p" } } })).await;
    stage.application("storefront", json!({ "secret": { "labels": { "b": "4" } } })).await;
    stage.ready("storefront").await;
    let secret = stage.stored_secret("storefront").await;
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    assert_eq!(
        (label("a"), label("b"), label("person"), label("cloudidentity.dev/kind")),
        (None, Some("4"), Some("p"), Some("AppIdApplication"))
    );
    assert!(!secret.annotations().contains_key("c") && secret.annotations().contains_key("person"));
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
}

/// Promises 2 and 4: whatever else is changed, the secret stays, at the service and in the Secret; the operator owns nothing but its own fields.
///
/// Traps: T12, T42.
#[tokio::test]
async fn changing_any_other_field_changes_neither_the_credential_nor_the_generation() {
    let (stage, _operator) = with_operator("fields").await;
    stage.application("storefront", json!({})).await;
    stage.ready("storefront").await;
    let before = (stage.registered().await[0].secret.clone(), stage.secret_values("storefront").await.expect("there")["secret"].clone());
    let specs = [
        json!({ "displayName": "Storefront" }),
        json!({ "displayName": "Storefront", "scopes": ["orders.read"] }),
        json!({ "displayName": "Storefront", "scopes": ["orders.read"], "redirectUris": ["https://shop.example.com/callback"] }),
        json!({ "deletionPolicy": "Retain" }),
        json!({}),
    ];
    let mut generation = 1;
    for spec in specs {
        stage.application("storefront", spec).await;
        let object = stage.ready("storefront").await;
        generation += 1;
        assert_eq!(object.metadata.generation, Some(generation), "only the user changes the generation");
        assert!(observed(&object));
    }
    let values = stage.secret_values("storefront").await.expect("there");
    assert_eq!((stage.registered().await[0].secret.clone(), values["secret"].clone()), before);
    assert_eq!(stage.registered().await[0].name, "storefront");
    let object = stage.applications().get("storefront").await.expect("there");
    let ours: Vec<_> = object.managed_fields().iter().filter(|entry| entry.manager.as_deref() == Some("cloud-identity-operator")).collect();
    assert_eq!(ours.len(), 2, "{ours:?}");
    for entry in ours {
        let fields = &entry.fields_v1.as_ref().expect("fields").0;
        let expected = match entry.subresource.as_deref() {
            Some("status") => vec!["f:status"],
            _ => vec!["f:metadata"],
        };
        assert_eq!(fields.as_object().expect("a map").keys().collect::<Vec<_>>(), expected);
        if entry.subresource.is_none() {
            let metadata = &fields["f:metadata"];
            assert_eq!(metadata.as_object().expect("a map").keys().collect::<Vec<_>>(), ["f:annotations", "f:finalizers"]);
            assert_eq!(metadata["f:annotations"], json!({ "f:cloudidentity.dev/tenant": {} }));
        }
    }
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
