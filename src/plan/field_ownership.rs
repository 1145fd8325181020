//! Tells from `metadata.managedFields` alone whether our Secret still is what we wrote.
//!
//! The API server takes a field from our entry when anybody else changes its value or removes it. So when our
//! entry still owns exactly the fields of the last apply, every value is ours, and no secret byte has to be read
//! (Kubernetes documentation, server-side apply, field ownership).

use std::collections::BTreeSet;

use serde_json::Value;

/// The parts of a Secret that we apply.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AppliedFields {
    /// Keys under `data`.
    pub data: BTreeSet<String>,
    /// Label keys.
    pub labels: BTreeSet<String>,
    /// Annotation keys.
    pub annotations: BTreeSet<String>,
    /// UIDs of owner references.
    pub owners: BTreeSet<String>,
}

impl AppliedFields {
    /// Reads the `fieldsV1` document of our own entry.
    #[must_use]
    pub fn read(fields: &Value) -> Self {
        let metadata = fields.get("f:metadata");
        let below = |parent: Option<&Value>, name: &str| keys(parent.and_then(|value| value.get(name)), "f:");
        Self {
            data: below(Some(fields), "f:data"),
            labels: below(metadata, "f:labels"),
            annotations: below(metadata, "f:annotations"),
            owners: keys(metadata.and_then(|value| value.get("f:ownerReferences")), "k:")
                .iter()
                .filter_map(|key| serde_json::from_str::<Value>(key).ok()?.get("uid")?.as_str().map(ToOwned::to_owned))
                .collect(),
        }
    }
}

/// Keys under `stringData` in anybody's entry.
#[must_use]
pub fn string_data(fields: &Value) -> BTreeSet<String> {
    keys(fields.get("f:stringData"), "f:")
}

fn keys(parent: Option<&Value>, prefix: &str) -> BTreeSet<String> {
    parent
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|map| map.keys())
        .filter_map(|key| key.strip_prefix(prefix))
        .map(ToOwned::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn our_entry_is_read_as_the_server_writes_it() {
        let fields = json!({
            "f:data": { "f:clientId": {}, "f:secret": {} },
            "f:metadata": {
                "f:annotations": { "f:cloudidentity.dev/client-id": {} },
                "f:labels": { "f:cloudidentity.dev/kind": {} },
                "f:ownerReferences": { "k:{\"uid\":\"0e5f\"}": {} }
            },
            "f:type": {}
        });
        let applied = AppliedFields::read(&fields);
        assert_eq!(applied.data, ["clientId", "secret"].map(String::from).into());
        assert_eq!(applied.labels, ["cloudidentity.dev/kind".to_owned()].into());
        assert_eq!(applied.annotations, ["cloudidentity.dev/client-id".to_owned()].into());
        assert_eq!(applied.owners, ["0e5f".to_owned()].into());
    }

    #[test]
    fn nonsense_reads_as_nothing_owned() {
        for fields in [json!(null), json!([]), json!({"f:data": "x", "f:metadata": 3})] {
            assert_eq!(AppliedFields::read(&fields), AppliedFields::default());
        }
    }
}
