//! Whose locks may be held through which handle: the kernel tells nobody when an open file description with locks of its own
//! (F_OFD_SETLK) goes away, only that a handle is released.
//!
//! Always: a lock is noted before it is asked for, so that whatever becomes of the request the close drops it.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use curvine_types::InodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Held {
    /// Handle and owner.
    notes: BTreeSet<(u64, u64)>,
    /// Releases under way that drop locks.
    releasing: usize,
}

/// The notes of one mount: at most one for each handle and owner.
#[derive(Debug, Default)]
pub struct LockOwners {
    table: Mutex<HashMap<InodeId, Held>>,
    /// Entries of the table, so that closes of files without locks need no lock.
    inodes: AtomicUsize,
    released: Notify,
}

/// A release that drops locks, until it is dropped itself.
#[derive(Debug)]
pub struct Releasing<'a> {
    owners: &'a LockOwners,
    inode: InodeId,
}

impl LockOwners {
    /// The owner is about to lock something through the handle.
    pub fn note(&self, inode: InodeId, fh: u64, owner: u64) {
        let mut table = self.table.lock();
        table.entry(inode).or_default().notes.insert((fh, owner));
        self.inodes.store(table.len(), Ordering::Release);
    }

    /// A process closed a descriptor of the inode: whether it may have had locks. They are noted no more.
    pub fn close(&self, inode: InodeId, owner: u64) -> bool {
        if self.inodes.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut table = self.table.lock();
        let Some(held) = table.get_mut(&inode) else { return false };
        let before = held.notes.len();
        held.notes.retain(|(_, have)| *have != owner);
        let had = held.notes.len() < before;
        self.tidy(&mut table, inode);
        had
    }

    /// A handle goes away: whose locks it may still have. They are noted no more. `flock`: it has a lock of that kind, too.
    pub fn release(&self, inode: InodeId, fh: u64, flock: bool) -> (Vec<u64>, Option<Releasing<'_>>) {
        if !flock && self.inodes.load(Ordering::Acquire) == 0 {
            return (Vec::new(), None);
        }
        let mut table = self.table.lock();
        let held = table.entry(inode).or_default();
        let owners: Vec<u64> = held.notes.range((fh, 0)..=(fh, u64::MAX)).map(|(_, owner)| *owner).collect();
        held.notes.retain(|(have, _)| *have != fh);
        let drops = flock || !owners.is_empty();
        held.releasing += usize::from(drops);
        self.tidy(&mut table, inode);
        let releasing = if drops { Some(Releasing { owners: self, inode }) } else { None };
        (owners, releasing)
    }

    /// Waits for a release of the inode that drops locks; false if there is none. `close(2)` returns before its RELEASE is
    /// served, and who looks for the lock then must not find it taken.
    pub async fn released(&self, inode: InodeId) -> bool {
        let mut waited = false;
        loop {
            let released = self.released.notified();
            if self.table.lock().get(&inode).is_none_or(|held| held.releasing == 0) {
                return waited;
            }
            released.await;
            waited = true;
        }
    }

    /// All notes: inode, handle, owner.
    #[cfg(test)]
    pub fn notes(&self) -> Vec<(InodeId, u64, u64)> {
        let table = self.table.lock();
        let of = |(inode, held): (&InodeId, &Held)| {
            let inode = *inode;
            held.notes.iter().map(move |(fh, owner)| (inode, *fh, *owner)).collect::<Vec<_>>()
        };
        table.iter().flat_map(of).collect()
    }

    /// How many inodes have notes.
    pub fn len(&self) -> usize {
        self.inodes.load(Ordering::Acquire)
    }

    fn tidy(&self, table: &mut HashMap<InodeId, Held>, inode: InodeId) {
        if table.get(&inode).is_some_and(|held| held.notes.is_empty() && held.releasing == 0) {
            table.remove(&inode);
        }
        self.inodes.store(table.len(), Ordering::Release);
    }
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        let mut table = self.owners.table.lock();
        if let Some(held) = table.get_mut(&self.inode) {
            held.releasing = held.releasing.saturating_sub(1);
        }
        self.owners.tidy(&mut table, self.inode);
        drop(table);
        self.owners.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_release_drops_what_was_locked_through_its_handle_and_was_not_closed_before() {
        let owners = LockOwners::default();
        owners.note(7, 1, 100);
        owners.note(7, 2, 100);
        owners.note(7, 2, 200);
        owners.note(8, 3, 100);
        assert!(owners.close(7, 100) && !owners.close(7, 100), "all that the process has, through whatever handle");
        // Locked again through the other one: the release of the first is none of its business.
        owners.note(7, 2, 100);
        assert_eq!(owners.release(7, 1, false).0, []);
        assert_eq!(owners.release(7, 2, false).0, [100, 200]);
        assert_eq!(owners.notes(), [(8, 3, 100)]);
        assert!(owners.close(8, 100));
        assert_eq!(owners.len(), 0);
    }

    #[tokio::test]
    async fn who_finds_a_lock_waits_for_the_release_that_drops_it() {
        let owners = LockOwners::default();
        assert!(!owners.released(7).await);
        owners.note(7, 1, 100);
        assert!(!owners.released(7).await);
        let (dropped, releasing) = owners.release(7, 1, false);
        assert_eq!(dropped, [100]);
        let mut waiting = Box::pin(owners.released(7));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        drop(releasing);
        assert!(waiting.await);
        let (_, releasing) = owners.release(7, 2, true);
        assert!(releasing.is_some(), "a flock");
        drop(releasing);
        assert_eq!(owners.len(), 0);
    }
}
