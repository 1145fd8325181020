//! What the authorization servers have in common: forms, and how a client says who it is.

use super::Request;
use crate::model::{BasicSpelling, ClientAuthentication, OAuthClient, OAuthServer, OAuthToken, SecretKind, VerificationKey};
use crate::signing::{Jws, PublicKey};
use crate::world::World;
use percent_encoding::percent_decode_str;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A URL-encoded form whose fields keep their order.
pub(super) struct Form(pub(super) Vec<(String, String)>);

impl Form {
    /// None when the body is declared as something else.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let is_form = request.media_type() == "application/x-www-form-urlencoded";
        is_form.then(|| Self(url::form_urlencoded::parse(&request.body).into_owned().collect()))
    }

    /// The values of a field. An empty one counts as absent (RFC 6749).
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(field, value)| field == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn one<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// A field that stands there twice, but for those that may.
    pub(super) fn repeated(&self, may: &[&str]) -> Option<&str> {
        let is_again = |index: usize, name: &str| self.0.iter().take(index).any(|(earlier, _)| earlier == name);
        let mut names = self.0.iter().map(|(name, _)| name.as_str()).enumerate();
        names.find(|(index, name)| !may.contains(name) && is_again(*index, name)).map(|(_, name)| name)
    }
}

/// Why nobody knows who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// Nothing in the request says who calls.
    Nameless,
    /// It says so in two ways.
    Ambiguous,
    /// The client is not there, disabled, has another secret, or may not authenticate like that.
    Refused,
    /// The signature of the assertion is not good.
    BadSignature,
    /// The claims of the assertion are not good.
    BadClaims,
    /// The assertion was used before.
    Replayed,
}

/// Who the caller says it is, and what it shows for it.
#[derive(Clone, Debug)]
pub(super) struct Presented {
    pub(super) client_id: String,
    proof: Proof,
}

#[derive(Clone, Debug)]
enum Proof {
    Basic(String),
    Post(String),
    Assertion(String),
}

impl Presented {
    /// # Errors
    ///
    /// When there is nothing, or too much.
    pub(super) fn of(request: &Request, form: &Form, spelling: BasicSpelling) -> Result<Self, Stranger> {
        let basic = request.basic();
        let assertion = form.one("client_assertion");
        let secret = form.one("client_secret");
        let ways = usize::from(basic.is_some()) + usize::from(assertion.is_some()) + usize::from(secret.is_some());
        if ways > 1 {
            return Err(Stranger::Ambiguous);
        }
        let named = form.one("client_id");
        if let Some((id, secret)) = basic {
            let (client_id, secret) = match spelling {
                BasicSpelling::FormEncoded => (form_decoded(&id), form_decoded(&secret)),
                BasicSpelling::Raw => (id, secret),
            };
            let is_one = named.is_none_or(|named| named == client_id);
            return if is_one { Ok(Self { client_id, proof: Proof::Basic(secret) }) } else { Err(Stranger::Ambiguous) };
        }
        if let Some(assertion) = assertion {
            if form.one("client_assertion_type") != Some(ASSERTION_TYPE) {
                return Err(Stranger::BadClaims);
            }
            let token = Jws::parse(assertion).ok_or(Stranger::BadSignature)?;
            let client_id = token.text("sub").ok_or(Stranger::BadClaims)?.to_owned();
            let is_one = named.is_none_or(|named| named == client_id);
            let presented = Self { client_id, proof: Proof::Assertion(assertion.to_owned()) };
            return if is_one { Ok(presented) } else { Err(Stranger::BadClaims) };
        }
        match (named, secret) {
            (Some(id), Some(secret)) => Ok(Self { client_id: id.to_owned(), proof: Proof::Post(secret.to_owned()) }),
            (Some(_), None) => Err(Stranger::Refused),
            (None, _) => Err(Stranger::Nameless),
        }
    }

    /// The client that this proves to be the caller. A `jti` that may be used once is used by it.
    pub(super) fn client(&self, server: &mut OAuthServer, audiences: &[String], now: i64) -> Result<OAuthClient, Stranger> {
        let client = server.clients.get(&self.client_id).filter(|client| client.enabled).cloned().ok_or(Stranger::Refused)?;
        let way = match &self.proof {
            Proof::Basic(_) => ClientAuthentication::ClientSecretBasic,
            Proof::Post(_) => ClientAuthentication::ClientSecretPost,
            Proof::Assertion(_) => ClientAuthentication::PrivateKeyJwt,
        };
        if !client.authentication.is_empty() && !client.authentication.contains(&way) {
            return Err(Stranger::Refused);
        }
        match &self.proof {
            Proof::Basic(secret) | Proof::Post(secret) => {
                if client.secret.as_ref() == Some(secret) {
                    Ok(client)
                } else {
                    Err(Stranger::Refused)
                }
            }
            Proof::Assertion(assertion) => {
                let token = Jws::parse(assertion).ok_or(Stranger::BadSignature)?;
                check_assertion(&token, &client.public_keys, &client.client_id, audiences, now)?;
                let id = token.text("jti");
                if client.one_time_assertions {
                    let expires = token.claims.get("exp").and_then(serde_json::Value::as_i64).unwrap_or(now);
                    let is_new = server.book.use_assertion(&client.client_id, id.ok_or(Stranger::BadClaims)?, expires, now);
                    return if is_new { Ok(client) } else { Err(Stranger::Replayed) };
                }
                Ok(client)
            }
        }
    }
}

/// Signature, issuer, audience and life of an assertion (RFC 7523). Its `sub` and `jti` are the caller's business.
pub(super) fn check_assertion(
    token: &Jws<'_>,
    keys: &[VerificationKey],
    issuer: &str,
    audiences: &[String],
    now: i64,
) -> Result<(), Stranger> {
    let fits = |key: &&VerificationKey| key.key_id.is_none() || key.key_id.as_deref() == token.key_id();
    let is_good = |key: &VerificationKey| public_key(key).is_some_and(|key| token.is_signed_by(&key));
    if !keys.iter().filter(fits).any(is_good) {
        return Err(Stranger::BadSignature);
    }
    let number = |claim: &str| token.claims.get(claim).and_then(serde_json::Value::as_i64);
    let is_for_us = token.audiences().iter().any(|audience| audiences.iter().any(|ours| ours == audience));
    let has_begun = number("nbf").is_none_or(|begin| begin <= now);
    let is_alive = number("exp").is_some_and(|end| end > now);
    if token.text("iss") == Some(issuer) && is_for_us && has_begun && is_alive { Ok(()) } else { Err(Stranger::BadClaims) }
}

/// None when nobody could use the key.
pub(crate) fn public_key(key: &VerificationKey) -> Option<PublicKey> {
    match (&key.pem, &key.jwk) {
        (Some(pem), _) => PublicKey::from_pem(pem),
        (None, Some(jwk)) => PublicKey::from_jwk(jwk),
        (None, None) => None,
    }
}

/// A half of HTTP Basic as RFC 6749 writes it.
fn form_decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Notes an access token of a server.
pub(super) fn note_token(world: &mut World, server: &str, token: OAuthToken) {
    world.note_secret(SecretKind::Token, &token.token);
    if let Some(server) = world.servers.get_mut(server) {
        server.book.add(token);
    }
}
