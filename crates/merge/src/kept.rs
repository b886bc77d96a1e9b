//! What is kept from one candidate to the next beside the parents: results of earlier stages, factors of decompositions.
//!
//! All of it lies in one store with a bound in bytes. What the last two recipes used is never thrown out for something
//! new: a pass over more than fits would otherwise throw out each entry just before it is needed. What does not fit is
//! computed again, to the same bits.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// The bound unless the caller sets another: 2 GiB.
pub(crate) const LIMIT_BYTES: usize = 2 << 30;

/// Names a thing by the digest of all that decides it, but for the parents' content.
pub(crate) type Name = [u8; 32];

#[derive(Debug)]
pub(crate) struct Kept {
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Name, Entry>,
    size_bytes: usize,
    /// Number of the recipe that is being merged.
    recipe: u64,
}

#[derive(Debug)]
struct Entry {
    thing: Arc<dyn Any + Send + Sync>,
    size_bytes: usize,
    /// The recipe that used it last.
    recipe: u64,
}

impl Kept {
    pub fn new(limit_bytes: usize) -> Self {
        Kept {
            limit_bytes,
            state: Mutex::default(),
        }
    }

    /// A new recipe begins.
    pub fn next_recipe(&self) {
        self.state().recipe += 1;
    }

    pub fn size_bytes(&self) -> usize {
        self.state().size_bytes
    }

    /// The thing of that name; made, and kept if there is room for the `size_bytes` that it says it has.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get<T: Any + Send + Sync, E>(
        &self,
        name: Name,
        size_bytes: impl FnOnce(&T) -> usize,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let Some(thing) = self.find(&name) {
            return Ok(thing);
        }
        // Not under the lock: two threads may make the same thing, none waits for another's.
        let thing = Arc::new(make()?);
        self.keep(name, size_bytes(&thing), thing.clone());
        Ok(thing)
    }

    fn find<T: Any + Send + Sync>(&self, name: &Name) -> Option<Arc<T>> {
        let mut state = self.state();
        let recipe = state.recipe;
        let entry = state.entries.get_mut(name)?;
        entry.recipe = recipe;
        entry.thing.clone().downcast().ok()
    }

    fn keep(&self, name: Name, size_bytes: usize, thing: Arc<dyn Any + Send + Sync>) {
        let mut state = self.state();
        if state.entries.contains_key(&name) || !state.make_room(size_bytes, self.limit_bytes) {
            return;
        }
        let recipe = state.recipe;
        state.size_bytes += size_bytes;
        let entry = Entry {
            thing,
            size_bytes,
            recipe,
        };
        state.entries.insert(name, entry);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    /// Throws out what was used longest ago until `size_bytes` more fit. Returns whether they do.
    fn make_room(&mut self, size_bytes: usize, limit_bytes: usize) -> bool {
        if self.size_bytes + size_bytes <= limit_bytes {
            return true;
        }
        let mut old: Vec<(u64, Name)> = self
            .entries
            .iter()
            .filter(|(_, e)| e.recipe + 1 < self.recipe)
            .map(|(name, e)| (e.recipe, *name))
            .collect();
        old.sort_unstable();
        for (_, name) in old {
            if let Some(entry) = self.entries.remove(&name) {
                self.size_bytes -= entry.size_bytes;
            }
            if self.size_bytes + size_bytes <= limit_bytes {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(kept: &Kept, name: u8) -> (u8, bool) {
        let mut made = false;
        let make = || {
            made = true;
            Ok::<_, ()>(name)
        };
        let thing = kept.get([name; 32], |_| 10, make).unwrap();
        (*thing, made)
    }

    #[test]
    fn things_are_made_once_while_there_is_room() {
        let kept = Kept::new(25);
        for made in [true, false] {
            assert_eq!(get(&kept, 1), (1, made));
            assert_eq!(get(&kept, 2), (2, made));
            // The third does not fit, and nothing that this recipe uses makes room for it.
            assert_eq!(get(&kept, 3), (3, true));
            kept.next_recipe();
        }
        assert_eq!(kept.size_bytes(), 20);
    }

    #[test]
    fn what_two_recipes_did_not_use_makes_room() {
        let kept = Kept::new(20);
        get(&kept, 1);
        get(&kept, 2);
        kept.next_recipe();
        assert_eq!(get(&kept, 2), (2, false));
        assert_eq!(get(&kept, 3), (3, true), "the recipe before used 1");
        kept.next_recipe();
        assert_eq!(get(&kept, 3), (3, true), "it was not kept, and now it is");
        assert_eq!(get(&kept, 3), (3, false));
        assert_eq!(get(&kept, 2), (2, false));
        assert_eq!(get(&kept, 1), (1, true));
        assert_eq!(kept.size_bytes(), 20);
    }

    #[test]
    fn a_failure_keeps_nothing() {
        let kept = Kept::new(20);
        assert_eq!(kept.get([0; 32], |_: &u8| 1, || Err("no")), Err("no"));
        assert_eq!(kept.size_bytes(), 0);
    }
}
