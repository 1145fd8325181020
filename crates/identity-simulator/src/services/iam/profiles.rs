//! Trusted profiles that a service account of a cluster assumes (sections 1.2 to 1.5 and 6 of the sheet).

use super::{Issue, Refusal};
use crate::model::{Profile, ServiceAccount};
use crate::signing::{Claims, Jws, PublicKey};
use crate::switches::IamBadComputeToken;
use crate::world::World;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) const CR_TOKEN_GRANT: &str = "urn:ibm:params:oauth:grant-type:cr-token";

/// The audience of the token that the pod is given (6.4).
const AUDIENCE: &str = "iam";
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// What a token of the cluster says.
struct ComputeToken<'a> {
    token: Jws<'a>,
    subject: ServiceAccount,
    pod: String,
}

impl<'a> ComputeToken<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        let malformed = || Refusal::new(StatusCode::BAD_REQUEST, "BXNIM0401E", "Provided token is malformed.");
        let token = Jws::parse(text.trim()).ok_or_else(malformed)?;
        let subject = token.text("sub").unwrap_or_default().strip_prefix(SUBJECT_PREFIX);
        let (namespace, name) = subject.and_then(|subject| subject.split_once(':')).unwrap_or_default();
        let subject = ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
        let pod = token.claims.get("kubernetes.io").and_then(|cluster| cluster["pod"]["name"].as_str()).unwrap_or_default().to_owned();
        Ok(Self { subject, pod, token })
    }

    fn identifier(&self) -> String {
        format!("tok2iks1:{}:{}:{}", self.subject.namespace, self.subject.name, self.pod)
    }

    fn not_eligible(&self, profile: &str) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "BXNIM0398E", "Selected trusted profile not eligible.")
            .details(format!("Token with identifier '{}' may not assume '{profile}'.", self.identifier()))
    }

    /// Whether a key of the cluster signed it; anybody may where no key set is known.
    fn is_signed_for(&self, profile: &Profile) -> bool {
        let Some(key_set) = &profile.key_set else {
            return true;
        };
        let keys = key_set["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        keys.iter().filter_map(PublicKey::from_jwk).any(|key| self.token.is_signed_by(&key))
    }
}

/// Whether a profile may be assumed with what came, and what its token says.
pub(super) fn assume<'a>(
    world: &World,
    field: &impl Fn(&str) -> Option<&'a str>,
    scope: &str,
    issuer: &str,
    now: i64,
) -> Result<(Profile, Issue), Refusal> {
    let text = field("cr_token").ok_or_else(|| Refusal::missing("cr_token"))?;
    let (id, name, crn) = (field("profile_id"), field("profile_name"), field("profile_crn"));
    let named = id.or(name).or(crn).ok_or_else(|| Refusal::missing("profile_id"))?;
    if crn.is_some_and(|crn| !crn.starts_with("crn:")) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "BXNIM0113E", "Invalid CRN."));
    }
    let compute = ComputeToken::parse(text)?;
    let is_meant = |profile: &&Profile| {
        id.is_none_or(|id| id == profile.id) && name.is_none_or(|name| name == profile.name) && crn.is_none_or(|crn| crn == profile.crn)
    };
    let profile = world.profiles.values().find(is_meant).filter(|profile| profile.visible_at <= Timestamp::now());
    let profile = profile.ok_or_else(|| compute.not_eligible(named))?;
    let is_over = compute.token.claims.get("exp").and_then(Value::as_i64).is_some_and(|end| end <= now);
    if is_over || !compute.is_signed_for(profile) {
        return Err(match world.switches.iam_bad_compute_token() {
            IamBadComputeToken::NotEligible => compute.not_eligible(&format!("iam-{}", profile.id)),
            IamBadComputeToken::Malformed => Refusal::new(StatusCode::BAD_REQUEST, "BXNIM0401E", "Provided token is malformed."),
        });
    }
    if !compute.token.audiences().contains(&AUDIENCE) || !profile.subjects.contains(&compute.subject) {
        return Err(compute.not_eligible(&format!("iam-{}", profile.id)));
    }
    let expires = now.saturating_add(profile.expires_in.unwrap_or(world.settings.iam_expires_in));
    let claims = claims(profile, &compute, issuer, scope, now, expires);
    Ok((profile.clone(), Issue { claims, issued: now, expires }))
}

/// The top names the profile, `authn` the compute resource (2.2).
fn claims(profile: &Profile, compute: &ComputeToken<'_>, issuer: &str, scope: &str, issued: i64, expires: i64) -> Claims {
    let iam_id = format!("iam-{}", profile.id);
    let resource = format!("crn:v1:bluemix:public:containers-kubernetes:us-south:a/{}:simulated::", profile.account);
    let claims = json!({
        "iam_id": iam_id,
        "id": iam_id,
        "realmid": "iam",
        "identifier": profile.id,
        "name": profile.name,
        "sub": profile.id,
        "sub_type": "Profile",
        "authn": {"sub": resource, "iam_id": format!("crn-{resource}"), "sub_type": "CRN", "name": compute.identifier()},
        "account": {"valid": true, "bss": profile.account, "frozen": true},
        "iat": issued,
        "exp": expires,
        "iss": issuer,
        "grant_type": CR_TOKEN_GRANT,
        "scope": scope,
        "client_id": "default",
    });
    match claims {
        Value::Object(claims) => claims,
        _ => Claims::new(),
    }
}
