//! Which keys a published Secret has. The keys of a layout are frozen per API version (`tests/golden/layouts.txt`).

mod client;
mod template;
pub mod token;

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::Problem;
use crate::{
    model::{ExposeSecret, SecretText},
    reasons::Reason,
};

pub use client::{Credential, Layout, Shape, flaw, held_cookie_secret, held_secret, keys, mark, render};
pub use template::Templates;

/// A mark that differs when anything in a Secret but its secrets differs; `values` hold placeholders where secrets would stand.
fn mark_of(
    values: BTreeMap<String, SecretText>,
    templates: &Templates,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> String {
    let values: BTreeMap<String, String> = values.into_iter().map(|(key, value)| (key, value.expose_secret().to_owned())).collect();
    let mut all = format!("{values:?} {labels:?} {annotations:?}");
    if !templates.texts.is_empty() {
        // The texts, and not what they make: with placeholders two of them may make the same.
        all.push_str(&format!(" {:?}", templates.texts));
    }
    let digest = Sha256::digest(all);
    data_encoding::HEXLOWER.encode(&digest[..12])
}

/// A rename of a key that a layout does not have, or to a name that another key has.
fn flaw_of_names(known: &BTreeSet<String>, renamed: &BTreeMap<String, String>) -> Option<Problem> {
    if let Some(key) = renamed.keys().find(|key| !known.contains(*key)) {
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        return Some(Problem::new(
            Reason::InvalidSpec,
            format!("secret.keys renames {key:?}, which is not a key of this layout; its keys are {}", names.join(", ")),
        ));
    }
    let mut taken: BTreeMap<&String, &String> = BTreeMap::new();
    known.iter().find_map(|key| {
        let name = renamed.get(key).unwrap_or(key);
        let other = taken.insert(name, key)?;
        Some(Problem::new(Reason::InvalidSpec, format!("secret.keys gives {other:?} and {key:?} of this layout the same name {name:?}")))
    })
}
