//! Which addresses a provider may lead to.

use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::HttpSettings;
use crate::{
    model::{Class, Failure},
    reasons::Reason,
};

/// Checks an address of a service as far as that goes without connecting, and returns it.
///
/// # Errors
///
/// When it is not a plain `https` origin, or leads where the operator must not go.
pub fn checked_origin(doing: &'static str, text: &str, settings: &HttpSettings) -> Result<Url, Failure> {
    let invalid = |message: &str| Failure::new(doing, Class::Rejected, Reason::CredentialsInvalid, message);
    let refused = || Failure::new(doing, Class::Rejected, Reason::AddressNotAllowed, AddressNotAllowed.to_string());
    let url = Url::parse(text.trim()).map_err(|_| invalid("the address is not a URL"))?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if url.scheme() != "https" || !is_plain {
        return Err(invalid("the address must be https, without user info, query or fragment"));
    }
    let host = url.host().ok_or_else(|| invalid("the address has no host"))?;
    let literal = match host {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    };
    if !settings.allow_local_addresses && literal.is_some_and(is_local) {
        return Err(refused());
    }
    let name = url.host_str().unwrap_or_default();
    if !settings.allowed_hosts.is_empty() && !settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
        return Err(refused());
    }
    Ok(url)
}

/// Loopback, link-local (where clouds serve credentials) and unspecified addresses, also in their IPv6 spellings.
pub(super) fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the address is loopback, link-local or not in the operator's allow-list")]
pub(super) struct AddressNotAllowed;

/// Resolves names, and keeps back the addresses of the machine itself.
pub(super) struct CheckedResolver {
    pub(super) allow_local_addresses: bool,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_local_addresses = self.allow_local_addresses;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (local, elsewhere): (Vec<SocketAddr>, Vec<SocketAddr>) = found.into_iter().partition(|address| is_local(address.ip()));
            let usable = if allow_local_addresses {
                [elsewhere, local].concat()
            } else if elsewhere.is_empty() && !local.is_empty() {
                return Err(AddressNotAllowed.into());
            } else {
                elsewhere
            };
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_machine_itself_are_refused_in_every_spelling() {
        let strict = HttpSettings::default();
        for address in [
            "https://127.0.0.1",
            "https://127.1",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
            "https://169.254.169.254",
            "https://0.0.0.0",
            "https://2130706433",
            "https://[fe80::1]",
        ] {
            let failure = checked_origin("checking", address, &strict).expect_err(address);
            assert_eq!(failure.reason, Reason::AddressNotAllowed, "{address}");
        }
        for address in
            ["http://a.example", "https://user@a.example", "https://a.example?x=1", "https://a.example#f", "ftp://a.example", "a.example"]
        {
            assert_eq!(checked_origin("checking", address, &strict).expect_err(address).reason, Reason::CredentialsInvalid, "{address}");
        }
        assert!(checked_origin("checking", "https://us-south.appid.cloud.ibm.com", &strict).is_ok());
        let listed = HttpSettings { allowed_hosts: vec!["iam.cloud.ibm.com".into()], ..HttpSettings::default() };
        assert!(checked_origin("checking", "https://IAM.cloud.ibm.com", &listed).is_ok());
        assert!(checked_origin("checking", "https://evil.example", &listed).is_err());
    }
}
