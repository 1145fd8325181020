//! The closed list of reasons. `docs/reasons.md` is generated from it; a reason doubles as a metric label.

/// How a state goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// All is as asked for.
    Good,
    /// The operator tries again by itself, at `status.nextActionAt`.
    Retried,
    /// Somebody has to change something; it is looked at again at once when spec, provider or credential change, and every 30 minutes.
    NeedsChange,
    /// Waits for another object or a decision in the cluster; looked at again when that changes.
    Waits,
}

macro_rules! reasons {
    ($( $name:ident, $outlook:ident, $advice:literal; )*) => {
        /// Why a condition is what it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $( #[doc = $advice] $name, )*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[ $( Reason::$name, )* ];

            /// The reason as conditions, events and metrics show it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Reason::$name => stringify!($name), )* }
            }

            /// The reason of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Reason> {
                Self::ALL.iter().find(|reason| reason.as_str() == name).copied()
            }

            /// What it means and what to do about it.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $( Reason::$name => $advice, )* }
            }

            /// The part of [`advice`](Self::advice) behind the colon, where there is one.
            #[must_use]
            pub fn what_to_do(self) -> Option<&'static str> {
                self.advice().split_once(": ").map(|(_, what_to_do)| what_to_do.trim_end_matches('.'))
            }

            /// How it goes on from here.
            #[must_use]
            pub const fn outlook(self) -> Outlook {
                match self { $( Reason::$name => Outlook::$outlook, )* }
            }
        }
    };
}

reasons! {
    // good
    Ready, Good, "Everything is as asked for.";
    Registered, Good, "The application is registered at the service.";
    Published, Good, "The Secret holds the credential.";
    Verified, Good, "The token endpoint accepted the published credential.";
    NotApplicable, Good, "There is nothing to try: the client has no secret or no grant for machines.";
    Refreshed, Good, "The token in the Secret is the one that is asked for, and it is replaced in time.";
    TokenReused, Good, "The service answered with the token that is published already; it is asked again at half of what is left of its life.";
    ScopesNotGranted, Good, "The token is good for less than grant.scopes asks for; the key scope of the Secret says for what: let the client have the others at the service, or take them out of grant.scopes.";
    LifetimeUnknown, Good, "The service tells no lifetime: the token is replaced at a set interval, and the Secret has no expires_at.";
    WriterRole, Good, "The credential may register applications.";
    // in progress
    InProgress, Retried, "Work is under way.";
    ConfirmingAbsence, Retried, "The application was not found; it is looked for once more before anything follows from that.";
    Unknown, Retried, "Not known yet.";
    // the service
    ServiceUnavailable, Retried, "The service does not answer as it should; nothing is changed meanwhile.";
    RateLimited, Retried, "The service asked for fewer requests; the whole tenant pauses.";
    UnexpectedResponse, Retried, "The service answered something that is not in its documentation.";
    Unauthorized, NeedsChange, "The service does not accept the provider's credential: check the API key.";
    ProfileNotEligible, NeedsChange, "The operator's account may not assume the trusted profile: link the profile to its ServiceAccount, and see that IAM trusts this cluster.";
    InvalidClient, NeedsChange, "The token endpoint does not accept the published credential.";
    InvalidGrant, NeedsChange, "The token endpoint does not accept what the grant presents: check user name and password, or the assertion.";
    Rejected, NeedsChange, "The service refused the request.";
    WriterRoleRequired, NeedsChange, "The API key may read but not write: give it the role Writer on the App ID instance.";
    ReaderRoleRequired, NeedsChange, "The API key may not read the App ID instance: give it the role Writer.";
    DiscoveryFailed, NeedsChange, "The server has no usable discovery document: check oidc.issuer, or set tokenEndpoint.";
    IssuerMismatch, NeedsChange, "The discovery document names another issuer: correct oidc.issuer, or set expectedIssuer.";
    EndpointsChanged, NeedsChange, "The token endpoint has moved to another host. If that is right, annotate the provider with `cloudidentity.dev/accept-endpoints` and the host.";
    DeveloperPrivilegeMissing, NeedsChange, "The credential's user may not call the API: give the user the developer privilege.";
    WrongIdentityStore, NeedsChange, "The identity store is not known, or the user is not in it: check secureAuth.idsId.";
    CredentialsRegenerated, NeedsChange, "The service has a newer credential of this user: put it into the Secret before the old one ends.";
    TenantNotFound, NeedsChange, "The service does not know the tenant at this address: check region (url) and tenantId.";
    LimitReached, NeedsChange, "The service's limit of applications, scopes or changes is reached.";
    AccountMismatch, NeedsChange, "The API key belongs to another account than iam.accountId.";
    TlsNotTrusted, NeedsChange, "The server's certificate is not trusted: check the address, or give its CA in tls.caBundle.";
    AddressNotAllowed, NeedsChange, "The address is loopback, link-local or not in the allow-list of the operator.";
    // providers and credentials
    ProviderNotFound, Waits, "The provider named in providerRef does not exist.";
    ProviderNotReady, Waits, "The provider is not usable yet; its own status says why.";
    ProviderServiceMismatch, NeedsChange, "The provider is for another service than this kind needs.";
    ProviderIdentityChanged, NeedsChange, "The provider now leads to another tenant than the one that holds the registration: lead it back, or delete this object.";
    NamespaceNotAllowed, Waits, "The ClusterIdentityProvider does not allow this namespace.";
    NotPermitted, Waits, "The ClusterIdentityProvider's permits do not cover what the spec asks for.";
    CredentialsNotFound, Waits, "A Secret or ConfigMap that the object or its provider names does not exist or lacks the key.";
    CredentialsInvalid, Waits, "A Secret or ConfigMap that the provider names holds something else than it should.";
    ClusterProviderDisabled, NeedsChange, "This operator may not read ClusterIdentityProviders: it was installed for single namespaces without the cluster role.";
    // tokens
    CredentialsRequired, NeedsChange, "The provider's own credential is none for tokens: set spec.credentials or spec.clientRef.";
    ClientNotFound, Waits, "The object named in clientRef or audienceRef does not exist.";
    ClientNotReady, Waits, "The object named in clientRef or audienceRef has no credential yet; its own status says why.";
    ReauthorizationRequired, NeedsChange, "The service does not take the refresh token any more: put a new one into the Secret that grant.refreshToken names. Until then it is not tried again.";
    AnswerLost, Retried, "The refresh token was used and no answer came: it may be used up, so that it is used again only when the published token has ended.";
    RefreshTokenShared, Waits, "Another AccessToken uses the refresh token of the same Secret, and services take back what is used twice: give each its own.";
    TokenExpired, Retried, "The token in the Secret has ended.";
    TokenTooLarge, NeedsChange, "The token is larger than a Secret can hold: ask for less, for example fewer scopes.";
    BudgetTooSmall, NeedsChange, "The tenant's tokens need more requests a second than its budget allows: raise budget.requestsPerSecond of the provider, or budget.concurrency where the service is slow, as the message says; tokens go on being replaced meanwhile, and come late.";
    // the Secret
    SecretConflict, Waits, "The Secret's name is taken by something that is not this object's: remove the other, or delete this object and create it with another secret.name.";
    SecretImmutable, Waits, "Somebody made the Secret immutable, and the operator never deletes one: delete it, and it is written anew.";
    Contested, Retried, "Something else keeps changing the Secret; it is repaired at growing intervals.";
    SecretMissing, NeedsChange, "The Secret is gone, and the object is suspended: set spec.suspend to false, and it is put back.";
    SecretRejected, Retried, "The API server refused the Secret.";
    SecretReferenceRefused, NeedsChange, "This Secret may not be referred to.";
    // registration
    RemoteMissing, NeedsChange, "The adopted application does not exist at the service; nothing is registered in its place.";
    TypeMismatch, NeedsChange, "The application to adopt is of another type than the spec says.";
    AlreadyManaged, Waits, "Another object holds this application: delete that one with deletionPolicy Retain, or remove adopt here.";
    RenameFailed, Retried, "The application works, but could not be given its display name.";
    RoleNotFound, Retried, "A role in spec.roles does not exist in the tenant: create it, or correct the name.";
    ScopeInUse, Waits, "A role holds the scope; removing it would take it from the role for good. Annotate `cloudidentity.dev/remove-scope: NAME` to do it.";
    Unproven, NeedsChange, "A Secret of a former object was found, but it does not prove that the application is ours: set adopt to take it over.";
    RestoredRegistrationGone, NeedsChange, "A Secret of a former object was found, but its application is gone: delete the Secret to register anew.";
    InvalidSpec, NeedsChange, "The spec holds something this version cannot work with.";
    Suspended, Waits, "The object is suspended.";
    Deleting, Retried, "The object is being deleted.";
    // events only
    Adopted, Good, "An existing application was taken over.";
    Readopted, Good, "The application of a restored Secret was taken over.";
    RegisteredAgain, Good, "The application had been deleted at the service and was registered again.";
    DriftRepaired, Good, "Something that was changed at the service was put back.";
    SecretRepaired, Good, "The Secret was put back.";
    Recovered, Good, "Everything works again.";
    Deregistered, Good, "The application was deleted at the service.";
    Retained, Good, "The registration and the Secret were kept.";
    SurplusRemoved, Good, "A second application under our provisional name was removed.";
    Orphaned, NeedsChange, "The registration could not be deleted and was given up: remove it by hand.";
    OwnershipPassed, Good, "An entry that this object added now belongs to another object that lists it.";
}

impl Reason {
    /// What [`Reason::NamespaceNotAllowed`] says on every kind.
    pub const NAMESPACE_NOT_ALLOWED: &'static str = "the ClusterIdentityProvider does not allow this namespace (allowedNamespaces)";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The page `docs/reasons.md`.
#[must_use]
pub fn documentation() -> String {
    let mut page = String::from(
        "# Reasons\n\nGenerated by `make generate`. Every reason that a condition or an event can carry.\n\n| reason | how it goes on | what it means, what to do |\n|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let outlook = match reason.outlook() {
            Outlook::Good => "good",
            Outlook::Retried => "tried again at `status.nextActionAt`",
            Outlook::NeedsChange => {
                "needs a change; tried again at once when spec, provider or credential change, and every half hour or so (an API key of IBM Cloud that is two minutes old at most: more often)"
            }
            Outlook::Waits => "waits for another object; looked at when that changes",
        };
        page.push_str(&format!("| `{reason}` | {outlook} | {} |\n", reason.advice()));
    }
    page
}
