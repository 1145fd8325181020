//! Spans of time, as users write them.

use std::{borrow::Cow, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A span of time: hours, minutes and seconds, like `1h30m` or `90s`; at most 32 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub String);

impl Span {
    /// The span, if it is one.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        let mut total = Duration::ZERO;
        let mut rest = self.0.as_str();
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let unit = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
            let number: u64 = rest[..unit].parse().ok()?;
            let seconds = match rest.as_bytes()[unit] {
                b'h' => 3600,
                b'm' => 60,
                b's' => 1,
                _ => return None,
            };
            total = total.checked_add(Duration::from_secs(number.checked_mul(seconds)?))?;
            rest = &rest[unit + 1..];
        }
        Some(total)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "minLength": 2, "maxLength": 32,
            "x-kubernetes-validations": [
                { "rule": "self.matches('^([0-9]{1,5}(h|m|s))+$')", "message": "a span of time is hours, minutes and seconds, like 1h30m or 90s" },
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_the_sum_of_its_parts_or_none() {
        let read = |text: &str| Span(text.into()).duration().map(|span| span.as_secs());
        for (text, seconds) in [("90s", 90), ("1h30m", 5400), ("2m2m", 240), ("00001s", 1), ("0s", 0)] {
            assert_eq!(read(text), Some(seconds), "{text}");
        }
        for text in ["", "h", "1", "1d", "-1s", "1 s", "1.5h", "s1", "99999999999999999999s", "é"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
