//! What no output may hold: secret values, in every spelling.

use std::collections::BTreeSet;

use identity_simulator::{canaries, spellings};

/// A text shorter than this may occur by chance.
const TELLING: usize = 8;
/// A part of a value is a leak, too: so many characters are enough to know it by.
const BEGINNING: usize = 20;

/// Texts to search for: the marks of all secret values in tests, and whatever values a test adds.
#[derive(Clone)]
pub struct Forbidden(BTreeSet<String>);

impl Forbidden {
    /// The marks alone: what every secret value of the simulator and of the tests begins with.
    #[must_use]
    pub fn marks() -> Self {
        Self(canaries().iter().flat_map(|mark| spellings(mark)).filter(|text| text.len() >= TELLING).collect())
    }

    /// And these values, whole and their beginnings.
    #[must_use]
    pub fn and(mut self, values: impl IntoIterator<Item = String>) -> Self {
        for value in values {
            let beginning: String = value.chars().take(BEGINNING).collect();
            self.0.extend(spellings(&value).into_iter().chain([beginning]).filter(|text| text.len() > TELLING));
        }
        self
    }

    /// How many texts are searched for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Where a text holds any of them. What is told names the place alone: a failing test must not print what it looks for.
    #[must_use]
    pub fn search(&self, place: &str, text: &str) -> Vec<String> {
        let hits = self.0.iter().filter(|forbidden| text.contains(forbidden.as_str()));
        hits.map(|forbidden| {
            let line = text.lines().position(|line| line.contains(forbidden.as_str())).unwrap_or_default();
            format!("{place}: a text of {} characters in line {}", forbidden.len(), line + 1)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_value_is_found_in_whatever_way_it_is_printed() {
        let value = "cafec0de-of-a-test";
        let mut hexadecimal = String::new();
        value.bytes().for_each(|byte| hexadecimal.push_str(&format!("{byte:02X}")));
        for text in [value.to_owned(), format!("{:?}", value.as_bytes()), hexadecimal.to_lowercase(), hexadecimal] {
            assert!(!Forbidden::marks().search("here", &format!("first\n{text}")).is_empty(), "{text}");
        }
        assert!(Forbidden::marks().search("here", "nothing to see").is_empty());
    }

    #[test]
    fn what_is_told_of_a_hit_does_not_repeat_it() {
        let forbidden = Forbidden::marks().and(["a value without a mark".to_owned()]);
        let hits = forbidden.search("the log", "first\nhere is a value without a mark");
        assert_eq!(hits.len(), 2, "the whole and its beginning: {hits:?}");
        assert!(hits.iter().all(|hit| hit.starts_with("the log: ") && hit.ends_with("line 2") && !hit.contains("mark")), "{hits:?}");
    }
}
