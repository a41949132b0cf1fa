//! One async lock, or one gate, for each thing that is being worked on.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use curvine_types::{Error, ErrorKind, FastMap, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Locks by key; an entry exists only while somebody holds or wants it.
pub struct KeyedLocks<K: Hash + Eq + Copy + Debug> {
    locks: Mutex<FastMap<K, Arc<tokio::sync::Mutex<()>>>>,
}

/// The lock of one key, until dropped.
pub struct KeyedGuard<'a, K: Hash + Eq + Copy + Debug> {
    owner: &'a KeyedLocks<K>,
    key: K,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl<K: Hash + Eq + Copy + Debug> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K: Hash + Eq + Copy + Debug> KeyedLocks<K> {
    /// Waits for the key's lock; `TimedOut` after the deadline.
    pub async fn lock(&self, key: K, deadline: Instant) -> Result<KeyedGuard<'_, K>> {
        let lock = self.locks.lock().entry(key).or_default().clone();
        let guard = tokio::time::timeout_at(deadline, lock.lock_owned()).await.map_err(|_| {
            Error::new(ErrorKind::TimedOut, "another operation on the same thing takes too long")
                .with("key", format_args!("{key:?}"))
        });
        match guard {
            Ok(guard) => Ok(KeyedGuard { owner: self, key, guard: Some(guard) }),
            Err(error) => {
                self.tidy(key);
                Err(error)
            }
        }
    }

    /// Whether somebody holds or wants the key's lock.
    pub fn is_wanted(&self, key: K) -> bool {
        self.locks.lock().contains_key(&key)
    }

    fn tidy(&self, key: K) {
        let mut locks = self.locks.lock();
        if locks.get(&key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&key);
        }
    }
}

impl<K: Hash + Eq + Copy + Debug> Drop for KeyedGuard<'_, K> {
    fn drop(&mut self) {
        self.guard = None;
        self.owner.tidy(self.key);
    }
}

/// One gate for each thing: changes pass together, a look at the whole passes alone.
pub struct KeyedGates<K: Hash + Eq + Copy + Debug> {
    gates: Mutex<FastMap<K, Arc<tokio::sync::RwLock<()>>>>,
}

/// A passage, until dropped.
pub struct Passage<'a, K: Hash + Eq + Copy + Debug> {
    owner: &'a KeyedGates<K>,
    key: K,
    shared: Option<tokio::sync::OwnedRwLockReadGuard<()>>,
    alone: Option<tokio::sync::OwnedRwLockWriteGuard<()>>,
}

impl<K: Hash + Eq + Copy + Debug> Default for KeyedGates<K> {
    fn default() -> Self {
        Self { gates: Mutex::default() }
    }
}

impl<K: Hash + Eq + Copy + Debug> KeyedGates<K> {
    /// Waits until nobody looks; `TimedOut` after the deadline.
    pub async fn change(&self, key: K, deadline: Instant) -> Result<Passage<'_, K>> {
        let mut passage = self.passage(key);
        let gate = self.gate(key);
        passage.shared = tokio::time::timeout_at(deadline, gate.read_owned()).await.ok();
        if passage.shared.is_some() { Ok(passage) } else { Err(too_long(key)) }
    }

    /// Waits until nobody changes or looks; `TimedOut` after the deadline.
    pub async fn look(&self, key: K, deadline: Instant) -> Result<Passage<'_, K>> {
        let mut passage = self.passage(key);
        let gate = self.gate(key);
        passage.alone = tokio::time::timeout_at(deadline, gate.write_owned()).await.ok();
        if passage.alone.is_some() { Ok(passage) } else { Err(too_long(key)) }
    }

    fn passage(&self, key: K) -> Passage<'_, K> {
        Passage { owner: self, key, shared: None, alone: None }
    }

    fn gate(&self, key: K) -> Arc<tokio::sync::RwLock<()>> {
        self.gates.lock().entry(key).or_default().clone()
    }
}

impl<K: Hash + Eq + Copy + Debug> Drop for Passage<'_, K> {
    fn drop(&mut self) {
        self.shared = None;
        self.alone = None;
        let mut gates = self.owner.gates.lock();
        if gates.get(&self.key).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&self.key);
        }
    }
}

fn too_long(key: impl Debug) -> Error {
    Error::new(ErrorKind::TimedOut, "another operation on the same thing takes too long")
        .with("key", format_args!("{key:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_lock_is_exclusive_bounded_and_leaves_nothing_behind() {
        let locks: KeyedLocks<u64> = KeyedLocks::default();
        let deadline = Instant::now() + Duration::from_secs(5);
        let first = locks.lock(7, deadline).await.unwrap();
        assert!(locks.lock(7, Instant::now() + Duration::from_millis(10)).await.is_err());
        let other = locks.lock(8, deadline).await.unwrap();
        drop(first);
        drop(locks.lock(7, deadline).await.unwrap());
        drop(other);
        assert!(locks.locks.lock().is_empty());
    }

    #[tokio::test]
    async fn changes_pass_a_gate_together_and_a_look_alone() {
        let gates: KeyedGates<u64> = KeyedGates::default();
        let deadline = Instant::now() + Duration::from_secs(5);
        let soon = || Instant::now() + Duration::from_millis(10);
        let (one, other) = (gates.change(7, deadline).await.unwrap(), gates.change(7, deadline).await.unwrap());
        assert!(gates.look(7, soon()).await.is_err());
        drop((one, other));
        let look = gates.look(7, deadline).await.unwrap();
        assert!(gates.change(7, soon()).await.is_err() && gates.look(7, soon()).await.is_err());
        drop(look);
        assert!(gates.gates.lock().is_empty());
    }
}
