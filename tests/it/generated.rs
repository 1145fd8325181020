//! What is generated is what the code says, and what users may write is described and bounded.

use std::path::Path;

use cloud_identity_operator::{api, reasons};
use serde_json::Value;
use stage::{Stage, repository, run};

fn file(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names_in(directory: &str, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(repository().join(directory)).expect("the directory is there");
    let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(ending));
    names.sort();
    names
}

#[test]
fn the_crds_and_the_charts_copy_are_what_the_code_generates() {
    let files = api::generated_files().expect("the CRDs can be written");
    for (name, text) in &files {
        for directory in ["crds", "charts/cloud-identity-operator/files/crds"] {
            assert!(file(format!("{directory}/{name}")) == *text, "{directory}/{name} is stale: run `make generate`");
        }
    }
    let mut expected: Vec<String> = files.into_iter().map(|(name, _)| name).collect();
    expected.sort();
    for directory in ["crds", "charts/cloud-identity-operator/files/crds"] {
        assert_eq!(names_in(directory, ""), expected, "{directory} holds something else: run `make generate`");
    }
}

#[test]
fn the_documentation_of_reasons_is_what_the_code_generates() {
    assert!(file("docs/reasons.md") == reasons::documentation(), "docs/reasons.md is stale: run `make generate`");
}

/// Every place in the schemas: the path, and what is said there.
fn places() -> Vec<(String, Value)> {
    fn walk(path: &str, schema: &Value, places: &mut Vec<(String, Value)>) {
        places.push((path.to_owned(), schema.clone()));
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), field, places);
        }
        for (member, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
            if schema[member].is_object() {
                walk(&format!("{path}{suffix}"), &schema[member], places);
            }
        }
    }
    let mut places = Vec::new();
    for crd in api::custom_resource_definitions() {
        let kind = crd.spec.names.kind.clone();
        for version in &crd.spec.versions {
            let schema = serde_json::to_value(version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()));
            walk(&kind, &schema.expect("a schema"), &mut places);
        }
    }
    places
}

#[test]
fn the_schemas_are_structural() {
    let formats = ["int32", "int64", "date-time", "uri", "email", "byte", "duration"];
    for (path, schema) in places() {
        let free = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"].iter().any(|key| schema.get(key).is_some());
        assert!(schema["type"].is_string() || free, "{path}: no type");
        assert!(schema.get("$ref").is_none(), "{path}: $ref");
        for choice in ["oneOf", "anyOf", "allOf", "not"] {
            assert!(schema.get(choice).is_none(), "{path}: {choice} gives errors nobody understands");
        }
        assert!(schema.get("properties").is_none() || schema.get("additionalProperties").is_none(), "{path}: both kinds of properties");
        assert!(!schema["items"].is_array(), "{path}: tuple");
        assert!(schema["format"].as_str().is_none_or(|format| formats.contains(&format)), "{path}: format {}", schema["format"]);
    }
}

#[test]
fn every_field_says_what_it_is_for() {
    for (path, schema) in places() {
        let is_field = !path.ends_with("[]") && !path.ends_with("{}");
        let is_the_apis_own = ["apiVersion", "kind", "metadata"].iter().any(|own| path.split('.').nth(1) == Some(own));
        // The conditions are Kubernetes' own type, described there.
        if is_field && !is_the_apis_own {
            let description = schema["description"].as_str().unwrap_or_default();
            assert!(description.len() > 10, "{path} has no description");
        }
    }
}

/// An unbounded string makes its rules too expensive for the API server.
#[test]
fn everything_that_a_user_writes_is_bounded() {
    for (path, schema) in places().into_iter().filter(|(path, _)| path.contains(".spec")) {
        let bound = match schema["type"].as_str() {
            Some("string") if schema.get("enum").is_some() => continue,
            Some("string") => "maxLength",
            Some("array") => "maxItems",
            Some("object") if schema.get("additionalProperties").is_some() => "maxProperties",
            Some("integer") => "maximum",
            _ => continue,
        };
        assert!(schema[bound].is_number(), "{path} has no {bound}");
    }
}

/// Every example is what its file says, and nothing is done at a service when it is only tried.
///
/// Traps: T11.
#[tokio::test]
async fn every_example_is_accepted_without_a_warning_and_a_dry_run_calls_no_provider() {
    let stage = Stage::new("examples").await;
    // Another name than the examples use.
    stage.apply(&stage.provider_document("of-the-stage")).await.expect("the provider is accepted");
    let operator = stage.operator().await;
    operator.working().await;
    stage.provider_where("of-the-stage", "is checked", |object| object.status.as_ref().is_some_and(|status| status.tenant.is_some())).await;
    stage.control.clear_journal().await.expect("the simulator answers");
    let documents = ["examples", "examples/demo"]
        .into_iter()
        .flat_map(|directory| names_in(directory, ".yaml").into_iter().map(move |name| format!("{directory}/{name}")));
    let mut applied = 0;
    for path in documents {
        let text = file(&path)
            .replace("namespace: shop", &format!("namespace: {}", stage.namespace))
            .replace("namespace: demo", &format!("namespace: {}", stage.namespace))
            .replace("${TENANT_ID}", stage::TENANT)
            .replace("${APPID_URL}", &stage.app_id_url())
            .replace("${IAM_URL}", &stage.simulator.urls().iam)
            .replace("${VERIFY_URL}", &stage.simulator.urls().verify)
            .replace("${SECUREAUTH_URL}", &stage.simulator.urls().secure_auth)
            .replace("${ISSUER}", &stage.simulator.urls().oidc);
        let mut command = stage.control_plane.kubectl_command();
        command.args(["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename", "-"]);
        let said = run(command, &text).await;
        assert!(said.success && said.errors.is_empty(), "{path}: {}{}", said.output, said.errors);
        applied += said.output.lines().count();
    }
    assert!(applied > 10, "{applied} documents");
    let applications = stage.applications().list(&Default::default()).await.expect("the API server answers");
    assert_eq!((applications.items.len(), stage.calls("*").await), (0, 0));
}

/// The CRDs themselves are taken without a warning.
#[tokio::test]
async fn the_api_server_takes_the_crds_without_a_warning() {
    let stage = Stage::new("examples").await;
    let directory = repository().join("crds");
    let arguments = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename"];
    let said = stage.kubectl(&[&arguments[..], &[directory.to_str().expect("a path")]].concat()).await.quietly();
    assert_eq!(said.lines().count(), api::custom_resource_definitions().len(), "{said}");
}

/// The rules of the schemas: where, and what they say.
pub fn rules() -> Vec<(String, String)> {
    let places = places().into_iter().filter(|(path, _)| !path.contains(".status"));
    places
        .flat_map(|(path, schema)| {
            let rules = schema["x-kubernetes-validations"].as_array().cloned().unwrap_or_default();
            rules.into_iter().map(move |rule| (path.clone(), rule["message"].as_str().unwrap_or_default().to_owned()))
        })
        .collect()
}
