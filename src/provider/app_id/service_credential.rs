//! The service credential of an App ID instance, in every form that IBM hands out.

use serde_json::Value;
use url::Url;

use super::super::iam;
use crate::{
    model::{Class, Failure, SecretText},
    reasons::Reason,
};

/// A service credential of an App ID instance.
pub struct ServiceCredential {
    /// Origin of the management URL.
    pub origin: String,
    /// Tenant id.
    pub tenant_id: String,
    /// API key.
    pub api_key: SecretText,
}

/// Reads a service credential: the object itself, `{"credentials": …}`, or `[{"credentials": …}]`.
///
/// # Errors
///
/// When it is none of these or lacks a member.
pub fn service_credential(text: &str) -> Result<ServiceCredential, Failure> {
    let invalid = |message: &str| Failure::new("reading the service credential", Class::Rejected, Reason::CredentialsInvalid, message);
    let document: Value = serde_json::from_str(text.trim()).map_err(|_| invalid("it is not JSON"))?;
    let outer = document.as_array().and_then(|list| list.first()).unwrap_or(&document);
    let credential = outer.get("credentials").unwrap_or(outer);
    let member = |name: &str| credential.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    service_credential_from(member)
}

/// The same from flat keys.
///
/// # Errors
///
/// When a member is missing.
pub fn service_credential_from<'a>(member: impl Fn(&str) -> Option<&'a str>) -> Result<ServiceCredential, Failure> {
    let invalid = |message: &str| Failure::new("reading the service credential", Class::Rejected, Reason::CredentialsInvalid, message);
    let management = member("managementUrl").ok_or_else(|| invalid("it has no managementUrl"))?;
    let url = Url::parse(management).map_err(|_| invalid("its managementUrl is not a URL"))?;
    let tenant_id = member("tenantId").ok_or_else(|| invalid("it has no tenantId"))?.to_owned();
    if !tenant_id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(invalid("its tenantId holds characters that no tenant id has"));
    }
    let api_key = iam::api_key(member("apikey").ok_or_else(|| invalid("it has no apikey"))?)?;
    Ok(ServiceCredential { origin: url.origin().ascii_serialization(), tenant_id, api_key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ExposeSecret;

    #[test]
    fn a_service_credential_is_read_in_every_form_ibm_hands_out() {
        let plain =
            r#"{"apikey":"key1","managementUrl":"https://eu-de.appid.cloud.ibm.com/management/v4/t-1","tenantId":"t-1","version":4}"#;
        for text in
            [plain.to_owned(), format!(r#"{{"credentials":{plain}}}"#), format!(r#"[{{"credentials":{plain}}}]"#), format!("\n{plain}\n")]
        {
            let read = service_credential(&text).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(
                (read.origin.as_str(), read.tenant_id.as_str(), read.api_key.expose_secret()),
                ("https://eu-de.appid.cloud.ibm.com", "t-1", "key1")
            );
        }
    }

    #[test]
    fn a_service_credential_that_lacks_something_says_what() {
        for (text, missing) in [
            ("nonsense", "not JSON"),
            ("[]", "managementUrl"),
            (r#"{"managementUrl":"x","tenantId":"t","apikey":"k"}"#, "not a URL"),
            (r#"{"managementUrl":"https://h/","apikey":"k"}"#, "tenantId"),
            (r#"{"managementUrl":"https://h/","tenantId":"t"}"#, "apikey"),
            (r#"{"managementUrl":"https://h/","tenantId":"../x","apikey":"k"}"#, "characters"),
        ] {
            let failure = service_credential(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(failure.message.contains(missing), "{text}: {failure}");
        }
    }
}
