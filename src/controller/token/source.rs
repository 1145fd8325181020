//! Where a token comes from: the service, the credential, the grant. First without reading anything, then with the credentials.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::super::{
    Context, application,
    claims::ProviderKey,
    cluster::Abort,
    credentials::{ReadCredential, missing, pair},
    directory::{Connection, PRIVATE_KEY, Service, Usable, algorithm, assertion_lifetime, in_secret},
    name::Name,
};
use super::spec::{REFRESH_TOKEN, flaw, named_secrets};
use crate::{
    api::{
        AccessToken, AppIdApplication, Assertion, ClientReference, GrantType, IssuedFor, ObjectVersion,
        SignedAssertion as SignedAssertionSpec, TokenCredentials, mark,
    },
    model::{Audience, ClientCredential, ExposeSecret, Grant, Proof, SecretText, SignedAssertion, SigningKey, TokenRequest},
    plan::{Problem, layout},
    provider::{assertion, iam},
    reasons::Reason,
};

/// What is known of a source without reading any credential.
pub struct Outline {
    pub(super) provider: ProviderKey,
    pub(super) connection: Arc<Connection>,
    /// What a token is issued for now; `None` while the version of a credential is not known.
    pub(super) issued_for: Option<IssuedFor>,
    application: Option<Arc<AppIdApplication>>,
    own_credential_is_permitted: bool,
    audience: Option<String>,
}

/// A source, ready to be asked.
pub(super) struct Source {
    pub(super) provider: ProviderKey,
    /// Whether it is the provider's own credential that is used: what is said of it is said of the provider.
    pub(super) is_the_providers_own: bool,
    pub(super) connection: Arc<Connection>,
    pub(super) issued_for: IssuedFor,
    pub(super) request: TokenRequest,
}

impl Source {
    /// Stands for the credential that it brings, if it brings one: what the service makes of that, it makes of it for everybody who asks with it.
    pub(super) fn requester(&self, namespace: &str) -> Option<String> {
        let names: Vec<&str> = self.issued_for.credentials.keys().map(String::as_str).collect();
        (!names.is_empty()).then(|| format!("{namespace}/{}", names.join(" ")))
    }

    /// The tenant that issues the tokens, by the name that it has; where none is proven, by its address.
    pub(super) fn tenant(&self) -> String {
        self.connection.tenant.as_ref().map_or_else(|| self.connection.host.clone(), ToString::to_string)
    }
}

/// What is known of the source without reading anything.
pub(super) fn outline(context: &Context, object: &AccessToken) -> Result<Outline, Problem> {
    if let Some(flaw) = flaw(context, object) {
        return Err(flaw);
    }
    let (spec, namespace) = (&object.spec, object.namespace().unwrap_or_default());
    let application = spec.client_ref.as_ref().map(|reference| referred(context, &namespace, reference, "clientRef")).transpose()?;
    let reference = match (&spec.provider_ref, &application) {
        (Some(reference), _) => reference,
        (None, Some(application)) => &application.spec.provider_ref,
        (None, None) => return Err(Problem::new(Reason::InvalidSpec, "set exactly one of providerRef and clientRef")),
    };
    let key = ProviderKey::referred(reference, &namespace);
    let Usable { connection, namespace_is_allowed, permits } =
        context.directory.usable(&key, &namespace, context.labels_of(&namespace).as_ref())?;
    if !namespace_is_allowed {
        return Err(Problem::new(Reason::NamespaceNotAllowed, Reason::NAMESPACE_NOT_ALLOWED));
    }
    let audience = match &spec.grant.audience_ref {
        Some(reference) => {
            let audience = referred(context, &namespace, reference, "audienceRef")?;
            let id = audience.status.as_ref().and_then(|status| status.client_id.clone());
            Some(id.ok_or_else(|| not_ready(&reference.name))?)
        }
        None => None,
    };
    let own_credential_is_permitted = permits.is_none_or(|permits| permits.access_tokens);
    let issued_for = issued_for(context, object, &key, &connection, application.as_deref(), audience.clone());
    Ok(Outline { provider: key, connection, issued_for, application, own_credential_is_permitted, audience })
}

fn issued_for(
    context: &Context,
    object: &AccessToken,
    provider: &ProviderKey,
    connection: &Connection,
    application: Option<&AppIdApplication>,
    audience: Option<String>,
) -> Option<IssuedFor> {
    let mut credentials: BTreeMap<String, ObjectVersion> = BTreeMap::new();
    for key in named_secrets(object) {
        credentials.insert(key.name().to_owned(), context.secrets.get(&key)?);
    }
    if let Some(application) = application {
        let (name, version) = published_secret(application)?;
        credentials.insert(name, version);
    }
    let uses_own = object.spec.credentials.is_none() && application.is_none();
    Some(IssuedFor {
        generation: object.metadata.generation.unwrap_or_default(),
        provider: context.directory.version(provider)?,
        provider_credentials: connection.credentials.clone().filter(|_| uses_own),
        // It signs for every client of the provider, also for one that an object brings.
        provider_private_key: connection.private_key.clone(),
        credentials,
        audience,
        // A request that is taken back was carried out already, or is none.
        request: object.annotations().get(mark::REFRESH).cloned().or_else(|| {
            let issued_for = object.status.as_ref().and_then(|status| status.issued_for.as_ref());
            issued_for.and_then(|issued_for| issued_for.request.clone())
        }),
    })
}

/// Reads the credentials.
///
/// # Errors
///
/// When the API server does not answer; in the inner result: what is missing or wrong.
pub(super) async fn read(context: &Context, object: &AccessToken, outline: &Outline) -> Result<Result<Source, Problem>, Abort> {
    let mut read: BTreeMap<String, ReadCredential> = BTreeMap::new();
    let application = outline.application.as_deref().map(|application| published_secret(application).map(|(name, _)| name));
    let of_application = match application {
        Some(None) => {
            return Ok(Err(not_ready(&outline.application.as_ref().map(|application| application.name_any()).unwrap_or_default())));
        }
        Some(Some(name)) => Some(Name::new(object.metadata.namespace.as_deref().unwrap_or_default(), &name)),
        None => None,
    };
    for key in named_secrets(object).into_iter().chain(of_application.clone()) {
        match context.credentials.read(&context.client, &context.secrets, &key).await? {
            Ok(credential) => drop(read.insert(key.name().to_owned(), credential)),
            Err(problem) => return Ok(Err(problem)),
        }
    }
    // Of a Secret that nobody named before no version was known; now it was read.
    let known = outline.issued_for.clone().or_else(|| {
        issued_for(context, object, &outline.provider, &outline.connection, outline.application.as_deref(), outline.audience.clone())
    });
    Ok(assemble(object, outline, known, &Secrets { namespace: object.namespace().unwrap_or_default(), read, now: context.clock.now() }))
}

/// Secrets that were read, by name.
struct Secrets {
    namespace: String,
    read: BTreeMap<String, ReadCredential>,
    /// When, in the cluster's time.
    now: Timestamp,
}

impl Secrets {
    fn get(&self, name: &str) -> Result<&ReadCredential, Problem> {
        self.read.get(name).ok_or_else(|| missing("Secret", &self.namespace, name, None))
    }

    /// The text under a key, without white space around it.
    fn text(&self, name: &str, key: &str) -> Result<SecretText, Problem> {
        let text = self.get(name)?.data.get(key).ok_or_else(|| missing("Secret", &self.namespace, name, Some(key)))?;
        Ok(text.expose_secret().trim().to_owned().into())
    }
}

fn assemble(object: &AccessToken, outline: &Outline, known: Option<IssuedFor>, secrets: &Secrets) -> Result<Source, Problem> {
    let spec = &object.spec.grant;
    let versions = |(name, credential): (&String, &ReadCredential)| (name.clone(), credential.version.clone());
    let Some(mut issued_for) = known else {
        return Err(Problem::new(Reason::ProviderNotReady, "the provider is being looked at"));
    };
    // What was read counts, not what the watch has told so far.
    issued_for.credentials = secrets.read.iter().map(versions).collect();
    let (grant, client) = match &outline.connection.service {
        Service::Iam(iam) => {
            only(spec.grant_type, &[GrantType::ApiKey, GrantType::TrustedProfile], "IAM")?;
            match &object.spec.credentials {
                Some(TokenCredentials { secret_ref }) => {
                    let text = secrets.text(&secret_ref.name, secret_ref.key.as_deref().unwrap_or("apikey"))?;
                    let key = iam::api_key(text.expose_secret()).map_err(|failure| Problem::of(&failure))?;
                    let known_for = secrets.get(&secret_ref.name)?.known_for(secrets.now);
                    (Grant::ApiKey { key, known_for }, None)
                }
                None if outline.own_credential_is_permitted => (iam.own_request().map_err(|failure| Problem::of(&failure))?.grant, None),
                None => return Err(not_permitted()),
            }
        }
        Service::AppId(_) => {
            only(spec.grant_type, &[GrantType::ClientCredentials, GrantType::Password, GrantType::JwtBearer], "App ID")?;
            (grant(object, secrets)?, Some(client(object, outline, secrets, None)?))
        }
        Service::Verify(verify) => {
            only(spec.grant_type, &[GrantType::ClientCredentials], "Verify")?;
            (Grant::ClientCredentials, Some(client(object, outline, secrets, Some(verify.client()))?))
        }
        Service::SecureAuth(secure_auth) => {
            only(spec.grant_type, &[GrantType::ClientCredentials], "SecureAuth")?;
            (Grant::ClientCredentials, Some(client(object, outline, secrets, Some(secure_auth.client()))?))
        }
        Service::Oidc(oidc) => {
            let grants = [GrantType::ClientCredentials, GrantType::Password, GrantType::JwtBearer, GrantType::RefreshToken];
            only(spec.grant_type, &grants, "an OAuth server")?;
            (grant(object, secrets)?, Some(client(object, outline, secrets, oidc.client())?))
        }
    };
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let request = TokenRequest {
        grant,
        client,
        scopes: list(&spec.scopes),
        audiences: outline.audience.clone().map_or_else(|| list(&spec.audiences), |audience| vec![audience]),
        resources: list(&spec.resources),
        parameters: spec.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.value.clone())).collect(),
    };
    let is_the_providers_own = object.spec.credentials.is_none() && outline.application.is_none();
    Ok(Source { provider: outline.provider.clone(), is_the_providers_own, connection: outline.connection.clone(), issued_for, request })
}

fn only(wanted: Option<GrantType>, offered: &[GrantType], service: &str) -> Result<(), Problem> {
    match wanted {
        Some(grant) if !offered.contains(&grant) => {
            let names: Vec<String> = offered.iter().map(|grant| format!("{grant:?}")).collect();
            let message = format!("{service} has no grant {grant:?} here: use {}", names.join(", "));
            Err(Problem::new(Reason::InvalidSpec, message))
        }
        _ => Ok(()),
    }
}

fn grant(object: &AccessToken, secrets: &Secrets) -> Result<Grant, Problem> {
    let spec = &object.spec.grant;
    if let (Some(GrantType::RefreshToken), Some(source)) = (spec.grant_type, &spec.refresh_token) {
        let reference = &source.secret_ref;
        let token = secrets.text(&reference.name, reference.key.as_deref().unwrap_or(REFRESH_TOKEN))?;
        if token.expose_secret().is_empty() {
            return Err(Problem::new(Reason::CredentialsInvalid, format!("the refresh token in the Secret {} is empty", reference.name)));
        }
        return Ok(Grant::RefreshToken(token));
    }
    Ok(match (spec.grant_type, &spec.password, &spec.assertion) {
        (Some(GrantType::Password), Some(password), _) => {
            let name = &password.secret_ref.name;
            Grant::Password { username: secrets.text(name, "username")?, password: secrets.text(name, "password")? }
        }
        (Some(GrantType::JwtBearer), _, Some(Assertion { secret_ref: Some(reference), .. })) => {
            Grant::JwtBearer(secrets.text(&reference.name, reference.key.as_deref().unwrap_or("assertion"))?)
        }
        (Some(GrantType::JwtBearer), _, Some(Assertion { signed: Some(signed), .. })) => {
            Grant::SignedJwtBearer(Box::new(signed_assertion(signed, secrets)?))
        }
        _ => Grant::ClientCredentials,
    })
}

/// An assertion that is to be signed with a key of the namespace. A key that cannot is found here, before anything is sent.
fn signed_assertion(spec: &SignedAssertionSpec, secrets: &Secrets) -> Result<SignedAssertion, Problem> {
    const MOST: Duration = Duration::from_secs(3600);
    let reference = &spec.private_key.secret_ref;
    let algorithm = algorithm(spec.algorithm).ok_or_else(|| Problem::unknown_value("grant.assertion.signed.algorithm"))?;
    let key = SigningKey {
        text: secrets.text(&reference.name, reference.key.as_deref().unwrap_or(PRIVATE_KEY))?,
        algorithm,
        key_id: spec.key_id.clone(),
        audience: spec.audience.clone().map_or(Audience::Issuer, Audience::Named),
        lifetime: assertion_lifetime(spec.lifetime.as_ref(), MOST),
    };
    assertion::check(&key).map_err(|failure| in_secret(&secrets.namespace, &reference.name, &failure))?;
    Ok(SignedAssertion { key, issuer: spec.issuer.clone(), subject: spec.subject.clone(), claims: spec.claims.clone() })
}

/// The client that asks: the registered one, the one in the Secret that the spec names, or the provider's `own`.
fn client(object: &AccessToken, outline: &Outline, secrets: &Secrets, own: Option<&ClientCredential>) -> Result<ClientCredential, Problem> {
    if let Some(application) = &outline.application {
        let name = published_secret(application).map(|(name, _)| name).unwrap_or_default();
        let id = application.status.as_ref().and_then(|status| status.client_id.clone());
        let held = layout::held_secret(&application::shape_of(application), &secrets.get(&name)?.data);
        let (Some(id), Some(secret)) = (id, held) else {
            return Err(not_ready(&application.name_any()));
        };
        return Ok(ClientCredential::with_secret(id, secret));
    }
    match (&object.spec.credentials, own) {
        (Some(TokenCredentials { secret_ref }), _) => {
            // A provider whose clients sign brings the key; the Secret of the object, the client's id.
            let key = own.and_then(|own| match &own.proof {
                Proof::Key(key) => Some(key.clone()),
                Proof::Secret(_) => None,
            });
            let is_lent = outline.own_credential_is_permitted;
            let (key, is_withheld) = (key.clone().filter(|_| is_lent), key.is_some() && !is_lent);
            let data = &secrets.get(&secret_ref.name)?.data;
            let (id, secret) = pair(data, &secret_ref.name, secret_ref.keys.as_ref(), key.is_none())
                .map_err(|problem| if is_withheld { not_permitted() } else { problem })?;
            Ok(ClientCredential { id, proof: key.map_or(Proof::Secret(secret), Proof::Key) })
        }
        (None, Some(own)) if outline.own_credential_is_permitted => Ok(own.clone()),
        (None, Some(_)) => Err(not_permitted()),
        (None, None) => Err(Problem::new(Reason::CredentialsRequired, Reason::CredentialsRequired.advice())),
    }
}

fn referred(context: &Context, namespace: &str, reference: &ClientReference, field: &str) -> Result<Arc<AppIdApplication>, Problem> {
    context.applications.get(&Name::new(namespace, &reference.name)).ok_or_else(|| {
        Problem::new(
            Reason::ClientNotFound,
            format!("the AppIdApplication {} that {field} names does not exist in this namespace", reference.name),
        )
    })
}

/// The Secret of an application, and its version, once it holds the credential.
fn published_secret(application: &AppIdApplication) -> Option<(String, ObjectVersion)> {
    let status = application.status.as_ref()?;
    let version = status.secret_version.clone().filter(|version| !version.resource_version.is_empty())?;
    status.client_id.as_ref()?;
    Some((status.secret_ref.as_ref()?.name.clone(), version))
}

fn not_ready(name: &str) -> Problem {
    Problem::new(Reason::ClientNotReady, format!("the AppIdApplication {name} has no published credential yet: its own status says why"))
}

fn not_permitted() -> Problem {
    Problem::new(
        Reason::NotPermitted,
        "the ClusterIdentityProvider does not hand out tokens of its own credential, nor sign with its private key for others: set permits.accessTokens there, or spec.credentials here, to a Secret with a client's id and secret or an API key",
    )
}

/// What stands for everything that is sent, so that a Secret that was touched and says the same is noticed to say the same.
pub(super) fn digest(source: &Source) -> [u8; 32] {
    let TokenRequest { grant, client, scopes, audiences, resources, parameters } = &source.request;
    let mut hash = Sha256::new();
    let mut take = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    let use_of = |key: &SigningKey| format!("{:?}", (key.algorithm, &key.key_id, &key.audience, key.lifetime));
    take(&source.connection.host);
    take(&source.connection.configuration);
    take(source.connection.tenant.as_ref().map_or("", |tenant| tenant.as_str()));
    match grant {
        Grant::ApiKey { key, .. } => take(key.expose_secret()),
        // The cluster replaces the token every now and then; what it stands for stays.
        Grant::ComputeToken { profile: (field, value), .. } => {
            take(field);
            take(value);
        }
        Grant::ClientCredentials => take(""),
        Grant::Password { username, password } => {
            take(username.expose_secret());
            take(password.expose_secret());
        }
        Grant::JwtBearer(assertion) => take(assertion.expose_secret()),
        // The first one: what came in its place stands for the same.
        Grant::RefreshToken(token) => take(token.expose_secret()),
        Grant::SignedJwtBearer(signed) => {
            let SignedAssertion { key, issuer, subject, claims } = &**signed;
            take(key.text.expose_secret());
            take(&use_of(key));
            take(&format!("{:?}", (issuer, subject, claims)));
        }
    }
    if let Some(client) = client {
        take(&client.id);
        match &client.proof {
            Proof::Secret(secret) => take(secret.expose_secret()),
            Proof::Key(key) => {
                take(key.text.expose_secret());
                take(&use_of(key));
            }
        }
    }
    take(&format!("{:?}", (scopes, audiences, resources, parameters, source.issued_for.generation, &source.issued_for.request)));
    hash.finalize().into()
}
