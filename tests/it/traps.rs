//! The table in `tests/README.md`: which test keeps which mistake of other operators from being ours.
//!
//! Tests say it themselves, in the last line of their documentation: `Traps: T05, T13.` After a change,
//! `UPDATE_TRAPS=1 cargo test --test it traps::` writes the table anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use stage::repository;

/// Where an answer is due.
#[derive(Clone, Copy)]
enum Due {
    /// In the tests of this version.
    Now,
    /// With the kind or ability that it concerns, and which is not there yet.
    Later(&'static str),
}
use Due::{Later, Now};

/// What a row asks for.
const TRAPS: [(&str, &str, Due); 60] = [
    ("T01", "A deleted Secret comes back with the same client id; nothing is deleted at the service", Now),
    ("T02", "Only an authenticated \"not found\", confirmed by a list, counts as absent", Now),
    ("T03", "Absence is confirmed twice, apart, and never right after our own registration", Now),
    ("T04", "Ready is False, with the matching reason, whichever call fails", Now),
    ("T05", "A Secret that cannot be written loses no credential and leaves none behind", Now),
    ("T06", "A published Secret is never deleted and made again", Now),
    ("T07", "Nothing is written while anything is unknown", Now),
    ("T08", "Two clusters on one tenant leave each other alone", Now),
    ("T09", "Ours is found among any number of others", Now),
    ("T10", "Two remote objects with our name: neither is touched", Later("IAM API keys; App ID knows ours by the provisional name")),
    ("T11", "A dry run calls no service", Now),
    ("T12", "The operator writes no spec", Now),
    ("T13", "A Secret that is not ours stays bit-identical, and nothing is asked of the service", Now),
    ("T14", "A namesake at the service is nobody's until `adopt` names it", Now),
    ("T15", "Adoption leaves the secret as it is", Now),
    ("T16", "A deletion ends also without provider, credential or permission", Now),
    ("T17", "A namespace is deleted in any order", Now),
    ("T18", "No finalizer stays behind when a selector changes", Now),
    ("T19", "What is gone already is deleted; what refuses for good is named", Now),
    ("T20", "Uninstalling the chart leaves objects and cluster usable", Now),
    ("T21", "A published token always lives long enough", Now),
    ("T22", "The schedule follows the lifetime that was issued", Now),
    ("T23", "A token whose parent was revoked is fetched anew, once", Now),
    ("T24", "An edit of metadata costs nothing", Now),
    ("T25", "A restart writes nothing and asks nothing", Now),
    ("T26", "An upgrade writes nothing and asks nothing", Now),
    ("T27", "Refreshes are spread", Now),
    ("T28", "What fails polls within a bound, and is tried at once when something changes", Now),
    ("T29", "No wait is fixed, and no worker sleeps", Now),
    ("T30", "Every failure that may pass says when it is tried again", Now),
    ("T31", "Calls grow linearly, and one token serves a provider", Now),
    ("T32", "A conflict is looked at again, not reported", Now),
    ("T33", "One leader at a time, and what an old one does late breaks nothing", Now),
    ("T34", "Other people's Secrets cost no memory", Now),
    ("T35", "Rotation that is turned on does not rotate at once", Later("rotation")),
    ("T36", "No edit moves the rotation clock", Later("rotation")),
    ("T37", "Rotation happens on time in an idle cluster", Later("rotation")),
    ("T38", "Nobody fails while a secret is rotated", Later("rotation")),
    ("T39", "After the overlap one secret is valid", Later("rotation")),
    ("T40", "Nothing is revoked that is not proven replaced", Later("rotation")),
    ("T41", "A full set of secrets refuses early", Later("rotation")),
    ("T42", "A change of any field leaves the client secret alone", Now),
    ("T43", "A rotated registration access token is stored first", Later("OAuth clients, RFC 7592")),
    ("T44", "Another order or filled-in defaults are no drift", Now),
    ("T45", "Two who write one Secret: refused, or bounded and Contested", Now),
    ("T46", "An idle object has no status writes, drift checks included", Now),
    ("T47", "Several failures are all told", Later("restarts of workloads")),
    ("T48", "Workloads restart only for new content", Later("restarts of workloads")),
    ("T49", "What changes while nobody leads is noticed afterwards", Now),
    ("T50", "No secret in any output", Now),
    ("T51", "No object reaches into another namespace or sends its credential elsewhere", Now),
    ("T52", "A private CA is used, and another one refused", Now),
    ("T53", "A created client has exactly what the spec says", Now),
    ("T54", "The keys of a layout are frozen", Now),
    ("T55", "Deleting the CRDs is refused", Now),
    ("T56", "Deletion works for every combination of optional fields", Now),
    ("T57", "Metrics have bounded labels and base units", Now),
    ("T58", "A credential that is not yet active is waited for", Later("IAM API keys and rotation")),
    ("T59", "What expires says so", Now),
    ("T60", "A wrong clock moves no schedule", Now),
];

/// Rows of this version whose tests are still being written. To be emptied: each is a promise without a proof.
const OPEN: &[&str] = &[];

const BEGIN: &str = "<!-- The table is written by UPDATE_TRAPS=1 cargo test --test it traps:: -->\n";
const END: &str = "<!-- End of the table -->\n";

fn readme() -> PathBuf {
    repository().join("tests/README.md")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `counts::name` for a file of this program, `src/plan/application/tests.rs: name` for a test beside the code.
fn name_of(file: &Path, function: &str) -> String {
    let root = repository();
    match file.strip_prefix(root.join("tests/it")) {
        Ok(module) => format!("{}::{function}", module.with_extension("").display().to_string().replace('/', "::")),
        Err(_) => format!("{}: {function}", file.strip_prefix(root).unwrap_or(file).display()),
    }
}

/// Tests by row, as their documentation says.
fn answers() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    for directory in ["tests/it", "src"] {
        sources(&repository().join(directory), &mut files);
    }
    let mut answers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source");
        let mut rows: Vec<String> = Vec::new();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if let Some(list) = line.strip_prefix("/// Traps: ") {
                let list = list.strip_suffix('.').unwrap_or_else(|| panic!("{}: {line}: it ends with a dot", file.display()));
                rows.extend(list.split(", ").map(str::to_owned));
            } else if let Some(function) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
                let function = function.split(['(', '<']).next().unwrap_or_default();
                assert!(is_test || rows.is_empty(), "{}: {function} names {rows:?}, but is no test", file.display());
                is_test = false;
                for row in rows.drain(..) {
                    assert!(TRAPS.iter().any(|(id, ..)| *id == row), "{}: {function}: there is no row {row}", file.display());
                    answers.entry(row).or_default().insert(name_of(&file, function));
                }
            } else if line == "#[test]" || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if !line.starts_with("///") && !line.starts_with("#[") && !line.starts_with("//") {
                is_test = false;
                assert!(rows.is_empty(), "{}: Traps: {rows:?} stands above something that is no test: {line}", file.display());
            }
        }
    }
    answers
}

fn table(answers: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut text = String::from("| row | what it asks for | answered by |\n|---|---|---|\n");
    for (id, requirement, due) in TRAPS {
        let tests: Vec<String> = answers.get(id).into_iter().flatten().map(|test| format!("`{test}`")).collect();
        let answer = match (tests.is_empty(), due) {
            (false, Now) => tests.join(", "),
            (false, Later(with)) => format!("{}; later: {with}", tests.join(", ")),
            (true, Later(with)) => format!("later: {with}"),
            (true, Now) => "**open**".to_owned(),
        };
        text.push_str(&format!("| {id} | {requirement} | {answer} |\n"));
    }
    text
}

#[test]
fn the_table_names_the_tests_that_exist_and_every_test_that_answers() {
    let wanted = table(&answers());
    let text = std::fs::read_to_string(readme()).expect("tests/README.md");
    let (before, rest) = text.split_once(BEGIN).expect("the mark before the table");
    let (is, after) = rest.split_once(END).expect("the mark behind the table");
    if std::env::var_os("UPDATE_TRAPS").is_some() {
        std::fs::write(readme(), format!("{before}{BEGIN}\n{wanted}\n{END}{after}")).expect("written");
    } else {
        assert!(is.trim() == wanted.trim(), "the table of tests/README.md is stale: run UPDATE_TRAPS=1 cargo test --test it traps::");
    }
}

#[test]
fn every_row_is_answered_by_a_test_or_belongs_to_what_is_not_there_yet() {
    let answers = answers();
    let unanswered: Vec<&str> =
        TRAPS.iter().filter(|(id, _, due)| matches!(due, Now) && !answers.contains_key(*id)).map(|(id, ..)| *id).collect();
    let forgotten: Vec<&&str> = unanswered.iter().filter(|id| !OPEN.contains(id)).collect();
    assert!(forgotten.is_empty(), "no test names these rows: {forgotten:?}");
}
