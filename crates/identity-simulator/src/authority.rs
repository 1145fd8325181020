//! The certificate authority of a run, and the certificates it should and should not have issued.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;

/// A certificate or a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Making a key or a certificate failed.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS refuses the certificate.
    #[error("cannot use a certificate for TLS")]
    Tls(#[from] rustls::Error),
}

/// Signs server certificates; valid from 2020 to 2050.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What is wrong with a server certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    Expired,
    WrongHost,
}

impl Authority {
    pub(crate) fn generate(name: &str) -> Result<Self, CertificateError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2050, 1, 1);
        Ok(Self { issuer: CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)? })
    }

    /// The authority's certificate.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// TLS with a certificate for these hosts. HTTP/1.1 only.
    pub(crate) fn server(&self, hosts: &[String], flaw: Flaw) -> Result<Arc<ServerConfig>, CertificateError> {
        let hosts = match flaw {
            Flaw::WrongHost => vec!["another-host.example.test".to_owned()],
            Flaw::None | Flaw::Expired => hosts.to_vec(),
        };
        let mut parameters = CertificateParams::new(hosts)?;
        parameters.distinguished_name.push(DnType::CommonName, "identity-simulator");
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        // Needed by OpenSSL 3 in strict mode, which Python turns on.
        parameters.use_authority_key_identifier_extension = true;
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = if flaw == Flaw::Expired { date_time_ymd(2021, 1, 1) } else { date_time_ymd(2050, 1, 1) };
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // Named here, so that nothing depends on which provider the process installed.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut configuration = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        configuration.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(configuration))
    }
}
