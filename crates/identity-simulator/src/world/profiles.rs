//! Trusted profiles behind IAM's back.

use super::{ACCOUNT, SeedError, World, in_milliseconds, or_uuid};
use crate::model::{Profile, ProfileEdit, ProfileSeed};

impl World {
    pub(crate) fn add_profile(&mut self, seed: ProfileSeed) -> Result<Profile, SeedError> {
        let id = if seed.id.is_empty() { format!("Profile-{}", or_uuid("")) } else { seed.id };
        let name = if seed.name.is_empty() { id.clone() } else { seed.name };
        let account = if seed.account.is_empty() { ACCOUNT.to_owned() } else { seed.account };
        let is_taken = |profile: &Profile| profile.id == id || (profile.name == name && profile.account == account);
        if self.profiles.values().any(is_taken) {
            return Err(SeedError::Exists(format!("profile {id} or {name}")));
        }
        let profile = Profile {
            crn: format!("crn:v1:bluemix:public:iam-identity::a/{account}::profile:{id}"),
            id: id.clone(),
            name,
            account,
            subjects: seed.subjects,
            key_set: seed.key_set,
            visible_at: in_milliseconds(seed.visible_after_milliseconds),
            expires_in: seed.expires_in,
        };
        self.rights.entry(id.clone()).or_default().extend(seed.access);
        self.profiles.insert(id, profile.clone());
        Ok(profile)
    }

    pub(crate) fn edit_profile(&mut self, id: &str, edit: ProfileEdit) -> Result<Profile, SeedError> {
        let profile = self.profiles.get_mut(id).ok_or_else(|| SeedError::Absent(format!("profile {id}")))?;
        if let Some(subjects) = edit.subjects {
            profile.subjects = subjects;
        }
        if let Some(key_set) = edit.key_set {
            profile.key_set = Some(key_set);
        }
        if let Some(delay) = edit.visible_after_milliseconds {
            profile.visible_at = in_milliseconds(delay);
        }
        if let Some(expires_in) = edit.expires_in {
            profile.expires_in = Some(expires_in);
        }
        if let Some(access) = edit.access {
            self.rights.insert(id.to_owned(), access);
        }
        Ok(profile.clone())
    }

    pub(crate) fn remove_profile(&mut self, id: &str) -> Result<(), SeedError> {
        self.profiles.remove(id).map(|_| ()).ok_or_else(|| SeedError::Absent(format!("profile {id}")))
    }
}
