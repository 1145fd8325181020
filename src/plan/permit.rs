//! What a `ClusterIdentityProvider` lets a namespace do. Everything is closed unless it is listed.

use std::collections::BTreeSet;

use url::Url;

use super::Problem;
use crate::{model::Desired, reasons::Reason};

/// The permits of a cluster provider, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permits {
    /// Whether existing registrations may be adopted.
    pub adoption: bool,
    /// Whether tokens of the provider's own credential may be handed out.
    pub access_tokens: bool,
    /// Names of roles that may be assigned.
    pub roles: BTreeSet<String>,
    /// Beginnings of redirect URIs that may be added.
    pub redirect_uri_prefixes: Vec<String>,
}

/// The first thing that `desired` asks for and `permits` do not cover.
#[must_use]
pub fn violation(desired: &Desired, nothing_is_registered: bool, permits: &Permits) -> Option<Problem> {
    if nothing_is_registered && desired.adopt.is_some() && !permits.adoption {
        return Some(Problem::new(Reason::NotPermitted, "the ClusterIdentityProvider does not permit adoption (permits.adoption)"));
    }
    if let Some(role) = desired.roles.iter().flatten().find(|role| !permits.roles.contains(*role)) {
        return Some(Problem::new(
            Reason::NotPermitted,
            format!("the ClusterIdentityProvider does not permit the role {role:?} (permits.roles)"),
        ));
    }
    let uri = desired.redirect_uris.iter().find(|uri| !permits.redirect_uri_prefixes.iter().any(|prefix| begins_with(uri, prefix)))?;
    Some(Problem::new(
        Reason::NotPermitted,
        format!("the ClusterIdentityProvider does not permit the redirect URI {uri} (permits.redirectUriPrefixes)"),
    ))
}

/// Scheme, host and port must be equal: a textual prefix would let `https://shop.example` cover `https://shop.example.evil.example`.
/// Below a path nothing is covered that a server may read as a way out of it: encoded separators, dots and percent signs.
fn begins_with(uri: &str, prefix: &str) -> bool {
    let text = uri;
    let (Ok(uri), Ok(prefix)) = (Url::parse(uri), Url::parse(prefix)) else {
        return false;
    };
    // What is sent is the text: where a parser would read it as another one, nothing is known of what others make of it.
    if uri.as_str().trim_end_matches('/') != text.trim_end_matches('/') {
        return false;
    }
    uri.scheme() == prefix.scheme()
        && uri.host() == prefix.host()
        && uri.port_or_known_default() == prefix.port_or_known_default()
        && uri.username().is_empty()
        && uri.path().starts_with(prefix.path())
        && (prefix.path() == "/" || !hides_a_separator(uri.path()))
}

fn hides_a_separator(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    // A path parameter (`..;`) is stripped by some servers before they resolve dots.
    ["%2f", "%5c", "%2e", "%25", "..;"].iter().any(|hidden| path.contains(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_prefix_covers_its_own_host_and_path_only() {
        for (uri, prefix, covered, reason) in [
            ("https://shop.example/callback", "https://shop.example", true, "same host"),
            ("https://shop.example/team-a/cb", "https://shop.example/team-a/", true, "below the path"),
            ("https://shop.example/team-b/cb", "https://shop.example/team-a/", false, "beside the path"),
            ("https://shop.example.evil.example/cb", "https://shop.example", false, "host that begins alike"),
            ("https://shop.example@evil.example/cb", "https://shop.example", false, "host as user info"),
            ("https://shop.example:8443/cb", "https://shop.example", false, "another port"),
            ("http://shop.example/cb", "https://shop.example", false, "another scheme"),
            ("https://shop.example/cb", "https://SHOP.example", true, "host names have no case"),
            ("https://SHOP.example/cb", "https://shop.example", false, "but what is sent is the text"),
            ("https://shop.example\n/cb", "https://shop.example/cb", false, "a parser drops control characters"),
            ("https://\u{17f}hop.example/cb", "https://shop.example", false, "a parser maps letters"),
            ("https://shop.example/team-a/..;/team-b", "https://shop.example/team-a/", false, "a path parameter"),
            ("https://shop.example/team-a/../team-b", "https://shop.example/team-a/", false, "dot segments are resolved first"),
            ("https://shop.example/team-a/%2e%2e/team-b", "https://shop.example/team-a/", false, "also encoded"),
            ("https://shop.example/team-a/..%2fteam-b", "https://shop.example/team-a/", false, "an encoded slash"),
            ("https://shop.example/team-a/..%5Cteam-b", "https://shop.example/team-a/", false, "an encoded backslash"),
            ("https://shop.example/team-a/..%252fteam-b", "https://shop.example/team-a/", false, "encoded twice"),
            (r"https://shop.example/team-a/..\team-b", "https://shop.example/team-a/", false, "a backslash is a slash"),
            ("https://shop.example/team-a/%20cb", "https://shop.example/team-a/", true, "anything else may be encoded"),
            ("https://shop.example/a%2fb", "https://shop.example/", true, "nothing lies outside of the whole host"),
        ] {
            assert_eq!(begins_with(uri, prefix), covered, "{reason}: {uri} under {prefix}");
        }
    }
}
