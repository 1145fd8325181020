//! What is wrong with the templates of objects. Finding out costs milliseconds of work, and every object is looked at whenever anybody touches
//! it: so it is found out once for each generation.

use std::collections::HashMap;

use kube::api::ObjectMeta;
use parking_lot::Mutex;

use super::uid::Uid;
use crate::plan::Problem;

/// By UID, with the generation it was found out for.
#[derive(Debug, Default)]
pub struct Flaws(Mutex<HashMap<Uid, (i64, Option<Problem>)>>);

impl Flaws {
    /// What is wrong with this generation of an object, found out by `find` if nobody has yet.
    pub fn of(&self, metadata: &ObjectMeta, find: impl FnOnce() -> Option<Problem>) -> Option<Problem> {
        let uid = Uid::of(metadata.uid.as_deref().unwrap_or_default());
        let generation = metadata.generation.unwrap_or_default();
        if let Some((_, flaw)) = self.0.lock().get(&uid).filter(|(of, _)| *of == generation) {
            return flaw.clone();
        }
        let flaw = find();
        self.0.lock().insert(uid, (generation, flaw.clone()));
        flaw
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(&Uid::of(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reasons::Reason;

    #[test]
    fn what_is_wrong_is_found_out_once_for_each_generation() {
        let flaws = Flaws::default();
        let of = |generation| ObjectMeta { uid: Some("uid".into()), generation: Some(generation), ..ObjectMeta::default() };
        let problem = || Some(Problem::new(Reason::InvalidSpec, "x"));
        assert_eq!(flaws.of(&of(1), problem), problem());
        assert_eq!(flaws.of(&of(1), || unreachable!("it is known")), problem());
        assert_eq!(flaws.of(&of(2), || None), None);
        flaws.forget("uid");
        assert_eq!(flaws.of(&of(2), problem), problem());
    }
}
