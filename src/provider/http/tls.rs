//! Whom we trust, and what is wrong with a certificate.

use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::HttpSettings;
use crate::{
    model::{Class, Failure},
    reasons::Reason,
};

/// An I/O error hides what it wraps from `source`, and connectors wrap more than once.
pub(super) fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let inner: &'a (dyn std::error::Error + 'static) = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    tls_error(inner)
}

pub(super) fn certificate_flaw(error: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Flaw;
    match error {
        Flaw::Expired | Flaw::ExpiredContext { .. } => "it has expired",
        Flaw::NotValidYet | Flaw::NotValidYetContext { .. } => "it is not valid yet",
        Flaw::NotValidForName | Flaw::NotValidForNameContext { .. } => "it is for another name",
        Flaw::UnknownIssuer => "its issuer is unknown",
        Flaw::Revoked => "it was revoked",
        _ => "it does not verify",
    }
}

pub(super) fn trust(settings: &HttpSettings, ca_bundle: Option<&[u8]>) -> Result<rustls::ClientConfig, Failure> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for pem in [Some(settings.extra_roots.as_slice()), ca_bundle].into_iter().flatten() {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let readable = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
            if readable.is_none() {
                return Err(Failure::new(
                    "reading the CA bundle",
                    Class::Rejected,
                    Reason::CredentialsInvalid,
                    "it holds something else than PEM certificates",
                ));
            }
        }
    }
    if ca_bundle.is_some_and(|pem| CertificateDer::pem_slice_iter(pem).next().is_none()) {
        return Err(Failure::new("reading the CA bundle", Class::Rejected, Reason::CredentialsInvalid, "it holds no PEM certificate"));
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
