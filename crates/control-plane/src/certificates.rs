//! The keys and certificates of one control plane. None of them outlives it.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A certificate with its private key, both as PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Everything that the servers and the administrator need.
pub(crate) struct Certificates {
    pub(crate) authority: Certificate,
    pub(crate) serving: Identity,
    pub(crate) administrator: Identity,
    pub(crate) controller_manager: Identity,
    /// Signs the tokens of ServiceAccounts; the public key checks them.
    pub(crate) token_key: KeyPair,
}

/// Where the API server can be reached; the last one is the first address of the Service range.
const SERVING_NAMES: [&str; 6] = ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.0.0.1"];

impl Certificates {
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        let authority_key = KeyPair::generate()?;
        let mut parameters = named("control-plane", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = parameters.self_signed(&authority_key)?;
        let issuer = Issuer::new(parameters, authority_key);

        let mut serving = named("kube-apiserver", None);
        serving.subject_alt_names = CertificateParams::new(SERVING_NAMES.map(String::from))?.subject_alt_names;
        Ok(Self {
            authority,
            serving: sign(serving, ExtendedKeyUsagePurpose::ServerAuth, &issuer)?,
            administrator: sign_client(named("administrator", Some("system:masters")), &issuer)?,
            controller_manager: sign_client(named("system:kube-controller-manager", None), &issuer)?,
            token_key: KeyPair::generate()?,
        })
    }
}

fn named(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        parameters.distinguished_name.push(DnType::OrganizationName, organization);
    }
    parameters
}

fn sign_client(parameters: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<Identity, rcgen::Error> {
    sign(parameters, ExtendedKeyUsagePurpose::ClientAuth, issuer)
}

fn sign(
    mut parameters: CertificateParams,
    purpose: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Identity, rcgen::Error> {
    let key = KeyPair::generate()?;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![purpose];
    let certificate = parameters.signed_by(&key, issuer)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}
