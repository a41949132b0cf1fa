//! Whose turn it is at the keys of stores.
//!
//! Always: one change of a key at a time. While a tree of keys is moved nothing below it changes, and it is moved only when nothing does.
//! Always: who waits for a tree, or for what is under way in one, has no turn and no pass: so nobody waits in a circle.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use curvine_types::{Error, ErrorKind, MountId, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::keyed::{KeyedGuard, KeyedLocks};

/// The turns of all keys of all mounts.
#[derive(Default)]
pub(crate) struct StoreKeys {
    locks: KeyedLocks<u64>,
    places: Arc<Places>,
}

#[derive(Default)]
struct Places {
    known: Mutex<Known>,
    /// Something was left.
    left: Notify,
}

/// A key or a tree of a mount, ending in `/` either way, so that a tree is the beginning of all that is in it.
type Place = (MountId, String);

#[derive(Default)]
struct Known {
    /// Changes that are under way, and how many of each key.
    changes: BTreeMap<Place, usize>,
    /// Trees that are moved, or are about to be.
    trees: Vec<Place>,
}

impl Known {
    fn is_in_tree(&self, (mount, place): &Place) -> bool {
        self.trees.iter().any(|(have, tree)| have == mount && place.starts_with(tree.as_str()))
    }

    fn meets_tree(&self, (mount, place): &Place) -> bool {
        let meets = |tree: &str| place.starts_with(tree) || tree.starts_with(place.as_str());
        self.trees.iter().any(|(have, tree)| have == mount && meets(tree))
    }

    fn is_quiet(&self, tree: &Place) -> bool {
        let first = self.changes.range(tree.clone()..).next();
        first.is_none_or(|((mount, place), _)| *mount != tree.0 || !place.starts_with(tree.1.as_str()))
    }
}

fn place(mount: MountId, key: &str) -> Place {
    (mount, format!("{}/", key.trim_end_matches('/')))
}

fn number(place: &Place) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    hasher.finish()
}

impl Places {
    /// Waits until `enter` says that it has entered; `TimedOut` after the deadline.
    async fn wait(&self, key: &str, deadline: Instant, mut enter: impl FnMut(&mut Known) -> bool) -> Result<()> {
        loop {
            let left = self.left.notified();
            if enter(&mut self.known.lock()) {
                return Ok(());
            }
            tokio::time::timeout_at(deadline, left).await.map_err(|_| {
                Error::new(ErrorKind::TimedOut, "another operation on the same tree of a store takes too long")
                    .with("key", key)
            })?;
        }
    }
}

/// No tree with these keys in it is moved, until dropped.
pub(crate) struct KeyPass {
    places: Arc<Places>,
    entered: Vec<Place>,
}

impl Drop for KeyPass {
    fn drop(&mut self) {
        let mut known = self.places.known.lock();
        for place in &self.entered {
            match known.changes.get_mut(place) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(known.changes.remove(place)),
            }
        }
        drop(known);
        self.places.left.notify_waiters();
    }
}

/// The turn of some keys, until dropped.
pub(crate) struct KeyTurns<'a> {
    _locks: Vec<KeyedGuard<'a, u64>>,
    _pass: KeyPass,
}

/// The turn of trees and of every key in them, until dropped.
pub(crate) struct TreeTurns {
    places: Arc<Places>,
    trees: Vec<Place>,
}

impl Drop for TreeTurns {
    fn drop(&mut self) {
        let mut known = self.places.known.lock();
        for tree in &self.trees {
            if let Some(position) = known.trees.iter().position(|have| have == tree) {
                known.trees.swap_remove(position);
            }
        }
        drop(known);
        self.places.left.notify_waiters();
    }
}

impl StoreKeys {
    /// Waits until no tree that the key is in is moved. Others may have a pass, or the turn, of the same key meanwhile.
    pub async fn pass(&self, mount: MountId, key: &str, deadline: Instant) -> Result<KeyPass> {
        self.pass_all(mount, &[key], deadline).await
    }

    async fn pass_all(&self, mount: MountId, keys: &[&str], deadline: Instant) -> Result<KeyPass> {
        let entered: Vec<Place> = keys.iter().map(|key| place(mount, key)).collect();
        let first = keys.first().copied().unwrap_or_default();
        let enter = |known: &mut Known| {
            if entered.iter().any(|place| known.is_in_tree(place)) {
                return false;
            }
            entered.iter().for_each(|place| *known.changes.entry(place.clone()).or_default() += 1);
            true
        };
        self.places.wait(first, deadline, enter).await?;
        Ok(KeyPass { places: self.places.clone(), entered })
    }

    /// Waits for the turn of a key, which nobody else changes then; `TimedOut` after the deadline.
    pub async fn turn(&self, mount: MountId, key: &str, deadline: Instant) -> Result<KeyTurns<'_>> {
        self.turns(mount, &[key], deadline).await
    }

    /// As `turn`, of some keys at once.
    pub async fn turns(&self, mount: MountId, keys: &[&str], deadline: Instant) -> Result<KeyTurns<'_>> {
        let pass = self.pass_all(mount, keys, deadline).await?;
        let mut numbers: Vec<u64> = pass.entered.iter().map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut locks = Vec::new();
        for number in numbers {
            locks.push(self.locks.lock(number, deadline).await?);
        }
        Ok(KeyTurns { _locks: locks, _pass: pass })
    }

    /// The turn of trees, taken before anybody else can have it.
    pub fn take_trees(&self, mount: MountId, prefixes: &[&str]) -> TreeTurns {
        let trees: Vec<Place> = prefixes.iter().map(|prefix| place(mount, prefix)).collect();
        self.places.known.lock().trees.extend(trees.iter().cloned());
        TreeTurns { places: self.places.clone(), trees }
    }

    /// Waits until no other tree that meets one of these is moved and all that is under way in them has ended; what comes later waits.
    pub async fn trees(&self, mount: MountId, prefixes: &[&str], deadline: Instant) -> Result<TreeTurns> {
        let trees: Vec<Place> = prefixes.iter().map(|prefix| place(mount, prefix)).collect();
        let first = prefixes.first().copied().unwrap_or_default();
        let enter = |known: &mut Known| {
            if trees.iter().any(|tree| known.meets_tree(tree)) {
                return false;
            }
            known.trees.extend(trees.iter().cloned());
            true
        };
        self.places.wait(first, deadline, enter).await?;
        let turns = TreeTurns { places: self.places.clone(), trees };
        self.places.wait(first, deadline, |known| turns.trees.iter().all(|tree| known.is_quiet(tree))).await?;
        Ok(turns)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn is_tidy(keys: &StoreKeys) -> bool {
        let known = keys.places.known.lock();
        known.changes.is_empty() && known.trees.is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tree_has_the_turn_of_every_key_in_it_and_of_no_other() {
        let keys = StoreKeys::default();
        let trees = keys.trees(1, &["a/b/", "c/"], later()).await.unwrap();
        for inside in ["a/b", "a/b/", "a/b/x", "a/b/x/y/", "c/x"] {
            let waited = keys.turn(1, inside, soon()).await.err().map(|error| error.kind());
            assert_eq!(waited, Some(ErrorKind::TimedOut), "{inside}");
            assert!(keys.pass(1, inside, soon()).await.is_err(), "{inside}");
        }
        for outside in ["a/", "a/bb", "a/c", "cc/x"] {
            drop(keys.turn(1, outside, soon()).await.unwrap());
        }
        drop(keys.turn(2, "a/b/x", soon()).await.unwrap());
        for meets in ["a/", "a/b/", "a/b/c/d/"] {
            assert!(keys.trees(1, &["z/", meets], soon()).await.is_err(), "{meets}");
        }
        drop(keys.trees(1, &["a/bb/", "d/"], soon()).await.unwrap());
        drop(trees);
        drop(keys.turn(1, "a/b/x", soon()).await.unwrap());
        assert!(is_tidy(&keys));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tree_waits_for_what_is_under_way_in_it_and_lets_nothing_new_begin() {
        let keys = Arc::new(StoreKeys::default());
        let (first, second) =
            (keys.pass(1, "a/x/y", later()).await.unwrap(), keys.turn(1, "a/x/y", later()).await.unwrap());
        let waiting = tokio::spawn({
            let keys = keys.clone();
            async move { keys.trees(1, &["a/", "b/"], later()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(keys.turn(1, "a/z", soon()).await.is_err(), "it would never be its turn");
        drop(first);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap().unwrap();
        // One that gives up lets the others go on.
        let turn = keys.turn(1, "a/x", later()).await.unwrap();
        assert!(keys.trees(1, &["a/", "b/"], soon()).await.is_err());
        drop(keys.turns(1, &["a/z", "b/z"], soon()).await.unwrap());
        drop(turn);
        assert!(is_tidy(&keys));
    }

    #[tokio::test(start_paused = true)]
    async fn trees_that_were_moved_before_are_taken_at_once_even_if_they_meet() {
        let keys = StoreKeys::default();
        let (first, second) = (keys.take_trees(1, &["a/", "b/"]), keys.take_trees(1, &["a/x/", "c/"]));
        assert!(keys.turn(1, "a/x/y", soon()).await.is_err());
        drop(first);
        assert!(keys.pass(1, "a/x/y", soon()).await.is_err());
        assert!(keys.trees(1, &["a/"], soon()).await.is_err());
        drop(keys.turns(1, &["a/y", "b/x"], soon()).await.unwrap());
        drop(second);
        drop(keys.turn(1, "a/x/y", soon()).await.unwrap());
        assert!(is_tidy(&keys));
    }

    #[tokio::test(start_paused = true)]
    async fn two_keys_are_one_turn_and_nobody_waits_in_a_circle() {
        let keys = Arc::new(StoreKeys::default());
        let inside = keys.turn(1, "b/x", later()).await.unwrap();
        // It has no pass of the one key while it waits for the other.
        let trees = keys.trees(1, &["c/"], later()).await.unwrap();
        let moving = tokio::spawn({
            let keys = keys.clone();
            async move { keys.turns(1, &["a/x", "c/x"], later()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(keys.trees(1, &["a/"], soon()).await.unwrap());
        drop(trees);
        moving.await.unwrap().unwrap();
        drop(inside);
        drop(keys.turns(1, &["d", "d/"], soon()).await.unwrap());
        assert!(is_tidy(&keys));
    }
}
