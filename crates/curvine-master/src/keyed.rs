//! One async lock for each inode that is being worked on.

use std::collections::HashMap;
use std::sync::Arc;

use curvine_types::{Error, ErrorKind, InodeId, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Locks by inode; an entry exists only while somebody holds or wants it.
#[derive(Default)]
pub struct KeyedLocks {
    locks: Mutex<HashMap<InodeId, Arc<tokio::sync::Mutex<()>>>>,
}

/// The lock of one inode, until dropped.
pub struct KeyedGuard<'a> {
    owner: &'a KeyedLocks,
    inode: InodeId,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl KeyedLocks {
    /// Waits for the inode's lock; `TimedOut` after the deadline.
    pub async fn lock(&self, inode: InodeId, deadline: Instant) -> Result<KeyedGuard<'_>> {
        let lock = self.locks.lock().entry(inode).or_default().clone();
        let guard = tokio::time::timeout_at(deadline, lock.lock_owned()).await.map_err(|_| {
            Error::new(ErrorKind::TimedOut, "another operation on the file takes too long").with("inode", inode)
        });
        match guard {
            Ok(guard) => Ok(KeyedGuard { owner: self, inode, guard: Some(guard) }),
            Err(error) => {
                self.tidy(inode);
                Err(error)
            }
        }
    }

    fn tidy(&self, inode: InodeId) {
        let mut locks = self.locks.lock();
        if locks.get(&inode).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&inode);
        }
    }
}

impl Drop for KeyedGuard<'_> {
    fn drop(&mut self) {
        self.guard = None;
        self.owner.tidy(self.inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_lock_is_exclusive_bounded_and_leaves_nothing_behind() {
        let locks = KeyedLocks::default();
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
