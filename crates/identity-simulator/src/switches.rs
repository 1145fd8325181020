//! What the services' documents leave open, as one enumeration per question.
//!
//! The first position of every enumeration is the default: what the sheet calls verified or, failing that, most likely.
//! A client of the real service has to live with every position, so a test suite walks over [`Switches::positions`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Which questions came up: a test that walks over positions knows by it whether a position could matter at all.
///
/// Shared by all copies; two records are equal whatever is in them.
#[derive(Clone, Debug, Default)]
pub struct Consulted(Arc<Mutex<BTreeSet<&'static str>>>);

impl PartialEq for Consulted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Consulted {}

impl Consulted {
    fn note(&self, switch: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(switch);
    }

    /// The names of the switches.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Declares each question with its positions once; the struct, the enumerations and the walk over all positions follow from it.
macro_rules! switches {
    ($(
        $(#[$question:meta])*
        $field:ident: $name:ident {
            $(#[$first_document:meta])* $first:ident,
            $( $(#[$other_document:meta])* $other:ident ),+ $(,)?
        }
    )+) => {
        $(
            $(#[$question])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum $name {
                $(#[$first_document])* #[default] $first,
                $( $(#[$other_document])* $other, )+
            }
        )+

        /// One position for every open question.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Switches {
            $( $(#[$question])* pub $field: $name, )+
            /// What was looked at.
            #[serde(skip)]
            pub consulted: Consulted,
        }

        impl Switches {
            $(
                pub(crate) fn $field(&self) -> $name {
                    self.consulted.note(stringify!($field));
                    self.$field
                }
            )+

            /// The names of all switches.
            #[must_use]
            pub fn names() -> &'static [&'static str] {
                &[$( stringify!($field), )+]
            }

            /// The default, then one variant for every other position of every switch, with a name that says which.
            #[must_use]
            pub fn positions() -> Vec<(&'static str, Switches)> {
                vec![
                    ("default", Switches::default()),
                    $( $( (
                        concat!(stringify!($field), "=", stringify!($other)),
                        Switches { $field: $name::$other, ..Switches::default() },
                    ), )+ )+
                ]
            }

            /// The default, then the variants of those switches whose names begin like this: those of one service.
            #[must_use]
            pub fn positions_of(beginning: &str) -> Vec<(&'static str, Switches)> {
                let mut positions = Self::positions();
                positions.retain(|(name, _)| *name == "default" || name.starts_with(beginning));
                positions
            }
        }
    };
}

switches! {
    /// Status of a registered application (App ID 3.1; older or newer versions might say 201).
    application_created: ApplicationCreated {
        /// 200, as two live scripts require.
        Ok,
        /// 201.
        Created,
    }
    /// Status of a renamed application (App ID 3.1, generated code only).
    application_renamed: ApplicationRenamed {
        /// 201.
        Created,
        /// 200.
        Ok,
    }
    /// Status of a deleted role (App ID 4, generated code only).
    role_deleted: RoleDeleted {
        /// 202.
        Accepted,
        /// 204.
        NoContent,
    }
    /// Two applications with one name (App ID 3.3, unverified).
    duplicate_application_names: DuplicateApplicationNames {
        /// Both are registered.
        Allowed,
        /// The second is refused with 409.
        Conflict,
    }
    /// Two roles with one name (App ID 4, status unverified).
    duplicate_role_names: DuplicateRoleNames {
        /// 409.
        Conflict,
        /// 400.
        BadRequest,
    }
    /// Deleting an application that is not there (App ID 3.6, unverified).
    missing_application_deleted: MissingApplicationDeleted {
        /// 404.
        NotFound,
        /// 204, as if it had been there.
        NoContent,
    }
    /// A client id in a path that is not a UUID (App ID 3.6, unknown).
    malformed_client_id: MalformedClientId {
        /// 404.
        NotFound,
        /// 400.
        BadRequest,
    }
    /// Error bodies of the management API (App ID 7.1, not verified anywhere).
    error_bodies: ErrorBodies {
        /// `{"message": …}`.
        Message,
        /// `{"error_code": …, "error_description": …}`.
        ErrorCode,
        /// `{"errors":[{"code": …, "message": …}]}`, the shape IBM's SDK core looks for first.
        Errors,
        /// Plain text.
        Text,
        /// Nothing.
        Empty,
    }
    /// What a call with a bad token to an unknown tenant is told (open point 3).
    unknown_tenant: UnknownTenant {
        /// 404 with the text `Not Found`, before the token is looked at.
        BeforeAuthentication,
        /// 401 first; 404 only for callers with a good token.
        AfterAuthentication,
    }
    /// Status of a blocked caller (App ID 7.2, unverified).
    rate_limit_status: RateLimitStatus {
        /// 429.
        TooManyRequests,
        /// 503, as an edge might say.
        ServiceUnavailable,
        /// 403, as an edge might say.
        Forbidden,
    }
    /// `Retry-After` of a blocked caller (App ID 7.2, undocumented).
    retry_after: RetryAfter {
        /// No header.
        Absent,
        /// Whole seconds.
        Seconds,
        /// An HTTP date.
        HttpDate,
    }
    /// Form of `expires_in` in App ID's token answer (App ID 6.4).
    expires_in: ExpiresIn {
        /// A number.
        Number,
        /// A string, as the documents print it.
        Text,
    }
    /// What happens to role entries that name a deleted application (App ID 3.6, undocumented).
    deleted_application_in_roles: DeletedApplicationInRoles {
        /// They vanish.
        Dropped,
        /// They stay and point nowhere.
        Dangling,
    }
    /// Status at a limit: 200 applications, 50 roles, 50 scopes (App ID 3.3, unverified).
    limit_status: LimitStatus {
        /// 400.
        BadRequest,
        /// 403.
        Forbidden,
        /// 409.
        Conflict,
        /// 422.
        UnprocessableContent,
    }
    /// Status at the limit of changes in 24 hours (open point 5).
    changes_limit_status: ChangesLimitStatus {
        /// 429.
        TooManyRequests,
        /// 403.
        Forbidden,
        /// 400.
        BadRequest,
    }
    /// Whether the client of the service credential is among the applications and counts toward 200 (open point 5).
    service_credential_client: ServiceCredentialClient {
        /// Neither listed nor counted.
        Apart,
        /// Counted, not listed.
        Counted,
        /// Listed and counted.
        Listed,
    }
    /// Which role reads the scopes of an application (open point 4; the documents list it under Writer).
    scopes_reading: ScopesReading {
        /// Writer.
        Writer,
        /// Reader.
        Reader,
    }
    /// Which role reads the roles of an application (App ID 2, not named in the table).
    application_roles_reading: ApplicationRolesReading {
        /// Reader.
        Reader,
        /// Writer.
        Writer,
    }
    /// Whether a Reader sees the secrets of applications (App ID 2, inferred).
    secrets_for_readers: SecretsForReaders {
        /// Unmasked.
        Shown,
        /// Left out.
        Absent,
    }
    /// Whether the answer to a rename holds the secret (App ID 3.4, inferred).
    secret_after_rename: SecretAfterRename {
        /// It does.
        Shown,
        /// It does not.
        Absent,
    }
    /// What the answer to a registration says of a single-page app (App ID 3.2).
    single_page_answer: SinglePageAnswer {
        /// Only `clientId`, `tenantId`, `name`, `oAuthServerUrl`, `type`: the documented example.
        Short,
        /// Every field but the secret.
        Full,
    }
    /// Whether the answer to a registration holds `type` (App ID 3.2: some documented ones leave it out).
    type_after_registration: TypeAfterRegistration {
        /// It does.
        Present,
        /// It does not.
        Absent,
    }
    /// Spelling of the server's address in an application (App ID 7.3, quirk 2).
    server_url_spelling: ServerUrlSpelling {
        /// `oAuthServerUrl`.
        CapitalA,
        /// `oauthServerUrl`, as in service credentials.
        SmallA,
    }
    /// Assigning a role that does not exist (App ID 3.8, inferred).
    unknown_role: UnknownRole {
        /// 400.
        BadRequest,
        /// 404.
        NotFound,
    }
    /// A known path with another method (open point 5).
    wrong_method: WrongMethod {
        /// 404 with the text `Not Found`.
        NotFound,
        /// 405 with `Allow`.
        MethodNotAllowed,
    }
    /// A redirect URI given twice (App ID 5.1, undocumented).
    duplicate_redirect_uris: DuplicateRedirectUris {
        /// Stored twice.
        Kept,
        /// Stored once.
        Merged,
        /// Refused with 400.
        Refused,
    }
    /// Order of the redirect URIs when read (App ID 5.1, undocumented).
    redirect_uri_order: RedirectUriOrder {
        /// As written.
        AsWritten,
        /// Sorted.
        Sorted,
    }
    /// Extra properties of the redirect URI document when read (App ID 5.1, inferred).
    redirect_uri_extras: RedirectUriExtras {
        /// Answered as they were written.
        Answered,
        /// Stored, not answered.
        Hidden,
    }
    /// The scope of a client-credentials token when the request names none (open point 1).
    default_scope: DefaultScope {
        /// `appid_default` and every assigned scope: both statements of the documents at once, and what the Node SDK needs.
        DefaultAndAssigned,
        /// Every assigned scope; `appid_default` only when there is none.
        AssignedElseDefault,
        /// `appid_default` alone.
        DefaultAlone,
    }
    /// How scopes are written when the request names no audience (App ID 6.5, unverified).
    scope_names: ScopeNames {
        /// Bare.
        Bare,
        /// `<application name>/<scope>`, as the console composes them.
        Prefixed,
    }
    /// Whether a token asked for with an explicit scope also holds `appid_default` (App ID 6.5, live sample: no).
    default_beside_explicit_scope: DefaultBesideExplicitScope {
        /// It does not.
        Absent,
        /// It does.
        Present,
    }
    /// A requested scope that no role grants (App ID 6.5, unknown).
    scope_not_granted: ScopeNotGranted {
        /// Left out without a word.
        Dropped,
        /// 400 `invalid_scope`.
        Refused,
    }
    /// A requested audience that is no application of the tenant (open point 5).
    unknown_audience: UnknownAudience {
        /// Put into the token as given.
        Accepted,
        /// 400 `invalid_request`.
        Refused,
    }
    /// The modulus in App ID's key set (open point 2).
    key_modulus: KeyModulus {
        /// With a leading zero byte, against RFC 7518; the SDKs strip it.
        LeadingZero,
        /// As RFC 7518 has it.
        Plain,
    }
    /// `alg` in App ID's key set (App ID 6.3: none).
    key_algorithm: KeyAlgorithm {
        /// Absent.
        Absent,
        /// `RS256`.
        Present,
    }
    /// Style of App ID's key id (App ID 6.3).
    key_id_style: KeyIdStyle {
        /// `appId-<tenant>-<time>`.
        TenantFirst,
        /// `appId-<epoch milliseconds>-<tenant>`, the older one.
        TimeFirst,
    }
    /// Client id and secret in the body of a token request (App ID 6.4, inferred from one adapter's settings).
    secret_in_body: SecretInBody {
        /// Not accepted.
        Refused,
        /// Accepted.
        Accepted,
    }
    /// Body of the token endpoint's 401 (App ID 6.7, inferred).
    invalid_client_body: InvalidClientBody {
        /// `{"error":"invalid_client", …}`.
        OAuth,
        /// `{"error_code":"INVALID_CLIENT", …}`: the other key of 6.7.
        ErrorCode,
        /// The text `Unauthorized`.
        Text,
    }
    /// Status of a wrong user name or password (App ID 6.7: fixtures differ).
    wrong_password_status: WrongPasswordStatus {
        /// 400.
        BadRequest,
        /// 401.
        Unauthorized,
    }
    /// What IAM says of an unknown, deleted or not yet visible key (IAM 1.5; some mocks answer 401).
    iam_unknown_key_status: IamUnknownKeyStatus {
        /// 400.
        BadRequest,
        /// 401.
        Unauthorized,
    }
    /// What IAM says of a disabled key (IAM 1.5, status inferred).
    iam_disabled_key_status: IamDisabledKeyStatus {
        /// 400.
        BadRequest,
        /// 401.
        Unauthorized,
        /// 403.
        Forbidden,
    }
    /// What IAM says of an expired key (IAM 13.1, unknown).
    iam_expired_key: IamExpiredKey {
        /// As of a disabled one, BXNIM0462E.
        AsDisabled,
        /// As of an unknown one, BXNIM0415E.
        AsUnknown,
    }
    /// What IAM says when `ibm-cloud-tenant` names other accounts (IAM 13.6, unknown).
    iam_other_account: IamOtherAccount {
        /// 400 BXNIM0410E.
        BadRequest,
        /// 403 BXNIM0513E.
        Forbidden,
    }
    /// Code of an unknown grant type (open point 12).
    iam_unknown_grant: IamUnknownGrant {
        /// BXNIM0106E.
        ValidationFailed,
        /// BXNIM0109E.
        PropertyMissing,
    }
    /// `refresh_token` of a token fetched without a client (IAM 1.3).
    iam_refresh_token: IamRefreshToken {
        /// The literal `not_supported`.
        NotSupported,
        /// An opaque string that nobody can use, as in older captures.
        Opaque,
        /// No such field.
        Absent,
    }
    /// Lifetime fields of IAM's answer; the missing one follows from the other or from the token (IAM 1.3, knobs).
    iam_lifetime_fields: IamLifetimeFields {
        /// `expires_in` and `expiration`.
        Both,
        /// `expires_in` alone.
        ExpiresIn,
        /// `expiration` alone.
        Expiration,
        /// Neither.
        Neither,
    }
    /// Whether a second exchange answers a token that was already issued (IAM knobs).
    iam_token_reuse: IamTokenReuse {
        /// A new token with a new `jti` each time.
        Never,
        /// The one issued before, with what is left of its life, until half of it is over.
        UntilHalfLife,
    }
    /// Which of its three providers a tenant of Verify has (Verify 2); the paths of the others say 404.
    verify_generations: VerifyGenerations {
        /// All three.
        All,
        /// `/oauth2` alone.
        Current,
        /// `/oidc/endpoint/default` and `/v1.0/endpoint/default`.
        Legacy,
        /// `/v1.0/endpoint/default` alone.
        Oldest,
    }
    /// Where Verify's discovery documents point (open point 18).
    verify_discovered_endpoints: VerifyDiscoveredEndpoints {
        /// To the provider that publishes them.
        Own,
        /// To `/oidc/endpoint/default`.
        OpenId,
        /// To `/v1.0/endpoint/default`.
        Oldest,
    }
    /// Status of Verify's `invalid_client` (Verify 3.3: seen live; the OpenAPI lists no 401).
    verify_invalid_client_status: VerifyInvalidClientStatus {
        /// 401.
        Unauthorized,
        /// 400.
        BadRequest,
    }
    /// `error` beside CSIAQ0197E, with status 400 (Verify 3.3: not stated).
    verify_bad_signature: VerifyBadSignature {
        /// `invalid_client`.
        InvalidClient,
        /// `invalid_request`.
        InvalidRequest,
    }
    /// Status of Verify's `request_unauthorized` (open point 16).
    verify_introspection_refusal: VerifyIntrospectionRefusal {
        /// 401.
        Unauthorized,
        /// 400.
        BadRequest,
    }
    /// The ID token of a client that asks Verify for `openid` (Verify 3.2: an example of 2018).
    verify_id_token: VerifyIdToken {
        /// With `alg` none.
        Unsigned,
        /// None at all.
        Absent,
    }
    /// Where Verify's list of applications has `totalCount` (Verify 7.2: the schema has both).
    verify_total_count: VerifyTotalCount {
        /// At the top.
        TopLevel,
        /// In `_embedded`.
        Embedded,
        /// In both places.
        Both,
    }
    /// How Verify's list of applications writes flags (Verify 7.2: schema and example differ).
    verify_flags: VerifyFlags {
        /// As booleans.
        Boolean,
        /// As strings.
        Text,
    }
    /// Shape of Verify's list of API clients when no page is asked for (Verify 5.4).
    verify_client_list: VerifyClientList {
        /// `{"apiClients": …}`.
        Wrapped,
        /// The array.
        Bare,
    }
    /// How Verify hides a secret from who may not see it (Verify 5.7, not stated).
    verify_hidden_secret: VerifyHiddenSecret {
        /// No such member.
        Absent,
        /// `null`.
        Null,
        /// Asterisks.
        Masked,
    }
    /// `refresh_token` of a trusted profile's token (open point 10).
    iam_profile_refresh_token: IamProfileRefreshToken {
        /// No such field.
        Absent,
        /// The literal `not_supported`.
        NotSupported,
    }
    /// What IAM says of a compute resource's token that is over or that no key of the cluster signed (IAM 1.5, unknown).
    iam_bad_compute_token: IamBadComputeToken {
        /// BXNIM0398E.
        NotEligible,
        /// BXNIM0401E.
        Malformed,
    }
    /// By which method the identity store issues tokens (SecureAuth 2: samples POST, the documentation says GET).
    secure_auth_token_method: SecureAuthTokenMethod {
        /// POST and GET.
        Both,
        /// GET; POST answers 405.
        Get,
        /// POST; GET answers 405.
        Post,
    }
    /// What the identity store answers to a token call (SecureAuth 2: only `access_token` is known).
    secure_auth_token_answer: SecureAuthTokenAnswer {
        /// `access_token` alone, opaque.
        TokenAlone,
        /// `token_type` and `expires_in`, too.
        WithLifetime,
        /// `access_token` alone, a JWT with `exp`.
        Jwt,
    }
    /// Status of a wrong API credential (SecureAuth 5, unknown).
    secure_auth_wrong_pair_status: SecureAuthWrongPairStatus {
        /// 401.
        Unauthorized,
        /// 400.
        BadRequest,
    }
    /// Status of `Access token is invalid` (SecureAuth 5, unknown).
    secure_auth_invalid_token_status: SecureAuthInvalidTokenStatus {
        /// 401.
        Unauthorized,
        /// 400.
        BadRequest,
        /// 403.
        Forbidden,
    }
    /// Error bodies of the identity store (open point 21).
    secure_auth_error_bodies: SecureAuthErrorBodies {
        /// `{"message": …}`.
        Message,
        /// Plain text.
        Text,
    }
    /// Status where the user is not of the store (SecureAuth 5, unknown).
    secure_auth_wrong_store: SecureAuthWrongStore {
        /// 403.
        Forbidden,
        /// 404.
        NotFound,
        /// 400.
        BadRequest,
    }
    /// Where a user without the developer privilege is refused with 403 (SecureAuth 5, unknown).
    secure_auth_missing_privilege: SecureAuthMissingPrivilege {
        /// At Me, with a token.
        AtMe,
        /// At the token call already.
        AtToken,
    }
    /// Whether GET Me goes on showing the old entry when credentials are generated again (SecureAuth 4, unknown).
    secure_auth_regeneration: SecureAuthRegeneration {
        /// It does: the new entry is added.
        Appended,
        /// It does not: the new entry replaces it.
        Replaced,
    }
    /// What becomes of the old pair then (SecureAuth 4, unknown).
    secure_auth_old_pair: SecureAuthOldPair {
        /// It stops working.
        EndsAtOnce,
        /// It works for the time that the settings name.
        EndsAfterGrace,
        /// It goes on working.
        Kept,
    }
    /// What becomes of the tokens then (SecureAuth 2, unknown).
    secure_auth_old_tokens: SecureAuthOldTokens {
        /// They live on.
        LiveOn,
        /// They are invalid.
        End,
    }
    /// Form of the date of an API credential (SecureAuth 10, rule 5).
    secure_auth_date: SecureAuthDate {
        /// A string of digits.
        Text,
        /// A number.
        Number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_position_differs_from_every_other() {
        let positions = Switches::positions();
        let names: BTreeSet<_> = positions.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), positions.len());
        for (index, (_, one)) in positions.iter().enumerate() {
            assert!(positions[index + 1..].iter().all(|(_, other)| other != one));
        }
    }

    #[test]
    fn the_positions_of_a_service_are_those_of_its_switches() {
        let positions = Switches::positions_of("secure_auth_date");
        let names: Vec<&str> = positions.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["default", "secure_auth_date=Number"]);
    }

    #[test]
    fn a_misspelt_switch_is_refused() {
        assert!(serde_json::from_str::<Switches>(r#"{"key_modulos":"plain"}"#).is_err());
    }
}
