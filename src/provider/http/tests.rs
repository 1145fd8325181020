use super::*;

fn answer(status: u16, is_html: bool, body: &str) -> Answer {
    Answer { status, retry_after: None, date: None, is_html, body: Zeroizing::new(body.as_bytes().to_vec()) }
}

#[test]
fn every_status_has_the_class_of_the_contract() {
    use Class::{RateLimited, Rejected, Transient, Unauthorized, Unexpected};
    for (status, is_html, body, class, reason) in [
        (400, false, "{}", Rejected, "a plain refusal"),
        (
            400,
            false,
            r#"{"errorCode":"BXNIM0415E","errorMessage":"Provided API key could not be found."}"#,
            Unauthorized,
            "IAM's wrong key is a 400",
        ),
        (400, false, r#"{"errorCode":"BXNIM0462E"}"#, Unauthorized, "a disabled key"),
        (400, false, r#"{"errorCode":"BXNIM0109E"}"#, Rejected, "our mistake"),
        (400, false, r#"{"error":"invalid_client"}"#, Unauthorized, "OAuth's code counts before the status"),
        (401, false, "Unauthorized", Unauthorized, "without a body"),
        (403, false, r#"{"message":"no"}"#, Rejected, "not allowed"),
        (403, true, "<html>", Transient, "a gateway"),
        (403, false, r#"{"error_code":"too many requests"}"#, RateLimited, "an edge's way to say 429"),
        (404, false, "Not Found", Rejected, "wrong region"),
        (408, false, "", Transient, "time-out"),
        (409, false, "", Rejected, "conflict"),
        (425, false, "", Transient, "too early"),
        (429, false, "", RateLimited, "too many"),
        (301, false, "", Rejected, "redirects are not followed"),
        (500, false, "", Transient, "server error"),
        (501, false, "", Unexpected, "not implemented"),
        (503, true, "<html>", Transient, "gateway"),
        (599, false, "", Transient, "any other 5xx"),
        (100, false, "", Unexpected, "no final status"),
    ] {
        assert_eq!(answer(status, is_html, body).failure("asking", true).class, class, "{status}: {reason}");
    }
}

/// Traps: T02.
#[test]
fn no_status_but_429_asks_for_a_pause_and_only_failures_of_the_service_pass_by_themselves() {
    for status in 300..=599 {
        for (body, changes) in [("", false), ("", true), (r#"{"message":"not found"}"#, true)] {
            let failure = answer(status, false, body).failure("asking", changes);
            let expected = match status {
                429 => Class::RateLimited,
                401 => Class::Unauthorized,
                501 => Class::Unexpected,
                408 | 425 | 500.. => Class::Transient,
                _ => Class::Rejected,
            };
            assert_eq!((failure.class, failure.status), (expected, Some(status)), "{status}");
            assert_eq!(
                failure.may_have_happened,
                changes && expected == Class::Transient,
                "{status}: what may have been done is looked for"
            );
        }
    }
}

#[test]
fn a_limit_is_told_by_words_in_every_known_place_and_by_nothing_else() {
    for body in [
        r#"{"message":"Maximum number of applications reached"}"#,
        r#"{"error_code":"LIMIT_EXCEEDED","error_description":"too many"}"#,
        r#"{"errors":[{"code":"x","message":"Maximum number of scopes reached"}]}"#,
        r#"{"error":"QUOTA_EXCEEDED"}"#,
        "Maximum number of redirect URIs reached",
    ] {
        assert!(answer(400, false, body).speaks_of_a_limit(), "{body}");
    }
    for body in
        ["", "Not Found", r#"{"message":"name must have at most 50 characters"}"#, r#"{"limit":50,"reached":true}"#, "{}", "\u{0}\u{1}"]
    {
        assert!(!answer(400, false, body).speaks_of_a_limit(), "{body}");
    }
    assert!(!answer(403, true, "<html>the limit is reached</html>").speaks_of_a_limit(), "a gateway's page is not the service's word");
}

#[test]
fn retry_after_is_read_as_seconds_or_date_and_bounded() {
    let read = |value: &str, date: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).expect("header"));
        if let Some(date) = date {
            headers.insert(reqwest::header::DATE, HeaderValue::from_str(date).expect("header"));
        }
        retry_after(&headers)
    };
    assert_eq!(read("7", None), Some(Duration::from_secs(7)));
    assert_eq!(read("Wed, 25 Nov 2026 10:00:30 GMT", Some("Wed, 25 Nov 2026 10:00:00 GMT")), Some(Duration::from_secs(30)));
    assert_eq!(read("999999999999", None), Some(Duration::from_secs(3600)));
    assert_eq!(read("soon", None), None);
    assert_eq!(read("-5", None), None);
}
