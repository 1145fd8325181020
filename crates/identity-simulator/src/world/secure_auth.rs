//! What the identity store's console does, and what tests look at.

use super::{SeedError, World, in_milliseconds, marked};
use crate::canary;
use crate::model::{SecretKind, SecureAuthCredential, SecureAuthToken, SecureAuthUser, SecureAuthUserEdit, SecureAuthUserSeed};
use crate::switches::{SecureAuthOldPair, SecureAuthOldTokens, SecureAuthRegeneration};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;

impl World {
    pub(crate) fn add_secure_auth_user(&mut self, seed: SecureAuthUserSeed) -> Result<SecureAuthUser, SeedError> {
        let id = if seed.id.is_empty() { canary::marked_uuid() } else { marked(&seed.id, "user id")? };
        if self.secure_auth.users.contains_key(&id) {
            return Err(SeedError::Exists(format!("user {id}")));
        }
        let user = SecureAuthUser {
            store: if seed.store.is_empty() { "default".to_owned() } else { seed.store },
            credentials: vec![self.secure_auth_credential(&id)],
            id: id.clone(),
            user_name: seed.user_name,
            developer: seed.developer,
        };
        self.secure_auth.users.insert(id, user.clone());
        Ok(user)
    }

    /// A pair made like the documented example (section 4).
    fn secure_auth_credential(&mut self, user: &str) -> SecureAuthCredential {
        let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default();
        let date = now.max(self.secure_auth.last_date.saturating_add(1));
        self.secure_auth.last_date = date;
        let random = &canary::api_key()[..43];
        let client_id = BASE64_STANDARD.encode(format!("api-cred.{user}.{random}"));
        let client_secret = BASE64_STANDARD.encode(format!("{random}{client_id}{}", date.saturating_add(10_000)));
        self.note_secret(SecretKind::ClientSecret, &client_id);
        self.note_secret(SecretKind::ClientSecret, &client_secret);
        SecureAuthCredential { date, client_id, client_secret, listed: true, ends_at: None }
    }

    pub(crate) fn secure_auth_user(&mut self, id: &str) -> Result<&mut SecureAuthUser, SeedError> {
        self.secure_auth.users.get_mut(id).ok_or_else(|| SeedError::Absent(format!("user {id}")))
    }

    pub(crate) fn edit_secure_auth_user(&mut self, id: &str, edit: SecureAuthUserEdit) -> Result<SecureAuthUser, SeedError> {
        let user = self.secure_auth_user(id)?;
        if let Some(developer) = edit.developer {
            user.developer = developer;
        }
        if edit.end_credentials {
            for credential in &mut user.credentials {
                credential.ends_at = Some(Timestamp::now());
            }
        }
        let user = user.clone();
        if edit.revoke_tokens {
            self.revoke_secure_auth_tokens(id);
        }
        Ok(user)
    }

    fn revoke_secure_auth_tokens(&mut self, user: &str) {
        for token in self.secure_auth.tokens.iter_mut().filter(|token| token.user == user) {
            token.revoked = true;
        }
    }

    pub(crate) fn remove_secure_auth_user(&mut self, id: &str) -> Result<(), SeedError> {
        self.secure_auth.users.remove(id).map(|_| ()).ok_or_else(|| SeedError::Absent(format!("user {id}")))
    }

    /// What the button in the console does. The switches say what becomes of the old pair, of its entry and of the tokens.
    pub(crate) fn regenerate_secure_auth(&mut self, id: &str) -> Result<SecureAuthCredential, SeedError> {
        self.secure_auth_user(id)?;
        let new = self.secure_auth_credential(id);
        let ends_at = match self.switches.secure_auth_old_pair() {
            SecureAuthOldPair::EndsAtOnce => Some(Timestamp::now()),
            SecureAuthOldPair::EndsAfterGrace => Some(in_milliseconds(self.settings.secure_auth_grace_milliseconds)),
            SecureAuthOldPair::Kept => None,
        };
        let is_listed = self.switches.secure_auth_regeneration() == SecureAuthRegeneration::Appended;
        let user = self.secure_auth_user(id)?;
        for credential in &mut user.credentials {
            credential.listed &= is_listed;
            credential.ends_at = credential.ends_at.or(ends_at);
        }
        user.credentials.push(new.clone());
        if self.switches.secure_auth_old_tokens() == SecureAuthOldTokens::End {
            self.revoke_secure_auth_tokens(id);
        }
        Ok(new)
    }

    /// In the order of issue.
    pub(crate) fn secure_auth_tokens(&mut self, id: &str) -> Result<Vec<SecureAuthToken>, SeedError> {
        self.secure_auth_user(id)?;
        Ok(self.secure_auth.tokens.iter().filter(|token| token.user == id).cloned().collect())
    }
}
