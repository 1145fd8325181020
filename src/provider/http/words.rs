//! What a service says about a refusal, without what could be a credential.

/// How much of a service's own words is shown.
pub(super) const WORDS_LIMIT: usize = 200;
/// A run of characters this long could be a credential.
const SECRET_LIKE: usize = 20;

/// What a service says about a refusal, in the members that its documents name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) code: Option<String>,
    pub(super) text: Option<String>,
}

impl Words {
    pub(super) fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
            return Self::default();
        };
        let first = value.get("errors").and_then(|errors| errors.get(0));
        let text = |name: &str| value.get(name).or_else(|| first?.get(name)).and_then(|value| value.as_str());
        let code = ["errorCode", "error_code", "error", "code"].into_iter().find_map(text).filter(|code| {
            !code.is_empty()
                && code.len() < SECRET_LIKE * 2
                && code.chars().all(|c| c.is_ascii_alphanumeric() || "_-. ".contains(c))
                && (scrubbed(code) == *code || is_made_of_words(code))
        });
        let said = ["error_description", "errorMessage", "detail", "message"].into_iter().find_map(text);
        Self { code: code.map(ToOwned::to_owned), text: said.map(scrubbed) }
    }

    pub(super) fn sentence(&self, status: u16) -> String {
        let mut sentence = format!("the service answered {status}");
        if let Some(code) = &self.code {
            sentence.push_str(&format!(" ({code})"));
        }
        if let Some(text) = self.text.as_deref().filter(|text| !text.is_empty()) {
            sentence.push_str(&format!(": {text}"));
        }
        sentence
    }
}

/// Whether a code is made of words, like `unsupported_grant_type`: longer than what could be a credential, and none.
fn is_made_of_words(code: &str) -> bool {
    let is_word = |part: &str| (1..=14).contains(&part.len()) && part.chars().all(|c| c.is_ascii_lowercase());
    code.contains('_') && code.split('_').all(is_word)
}

/// A service's words without anything that could be a credential: such messages sometimes quote what was sent.
pub(super) fn scrubbed(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    let flush = |run: &mut String, out: &mut String| {
        out.push_str(if run.chars().count() >= SECRET_LIKE { "…" } else { run });
        run.clear();
    };
    for c in text.chars().take(WORDS_LIMIT * 4) {
        if c.is_ascii_alphanumeric() || "+/=_-.%~:".contains(c) {
            run.push(c);
        } else {
            flush(&mut run, &mut out);
            out.push(if c.is_control() { ' ' } else { c });
        }
    }
    flush(&mut run, &mut out);
    out.chars().take(WORDS_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_service_are_shown_without_what_could_be_a_credential() {
        let body = r#"{"error":"invalid_request","error_description":"key abcdefghijklmnopqrstuvwxyz0123 is bad\nreally"}"#;
        assert_eq!(Words::read(body.as_bytes()).sentence(400), "the service answered 400 (invalid_request): key … is bad really");
        let long = format!(r#"{{"message":"{}"}}"#, "ab ".repeat(2000));
        assert!(Words::read(long.as_bytes()).sentence(400).chars().count() < 240);
        let code = r#"{"error":"Y2FmZWMwZGUtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAw"}"#;
        assert_eq!(Words::read(code.as_bytes()).sentence(400), "the service answered 400");
        for code in ["unsupported_grant_type", "temporarily_unavailable", "BXNIM0415E"] {
            let body = format!(r#"{{"error":"{code}"}}"#);
            assert_eq!(Words::read(body.as_bytes()).sentence(400), format!("the service answered 400 ({code})"));
        }
        let words_alone = r#"{"error":"abcdefghijklmnopqrstuvwxyz_x"}"#;
        assert_eq!(Words::read(words_alone.as_bytes()).sentence(400), "the service answered 400");
    }
}
