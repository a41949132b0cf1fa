//! One async lock for each thing that is being worked on.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Locks by key; an entry exists only while somebody holds or wants it.
pub struct KeyedLocks<K: Hash + Eq + Copy + Debug> {
    locks: Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>,
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
}
