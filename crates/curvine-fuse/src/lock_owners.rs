//! Whose locks may be held through which handle: the kernel tells nobody when an open file description with locks of its own
//! (F_OFD_SETLK) goes away, only that a handle is released.
//!
//! Always: a lock is noted before it is asked for, so that whatever becomes of the request the close drops it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use curvine_types::InodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::handover::{LockNote, Table};

#[derive(Debug, Default)]
struct Held {
    /// Handle and owner.
    notes: BTreeSet<(u64, u64)>,
    /// Releases under way that drop locks.
    releasing: usize,
}

/// The notes of one mount: at most one for each handle and owner.
#[derive(Debug)]
pub struct LockOwners {
    /// Where a successor finds the notes.
    journal: Arc<Table>,
    /// Their places there: until the locks are certainly gone, which is later than they are noted here.
    places: Mutex<HashMap<LockNote, u32>>,
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
    /// With the notes of a predecessor, if there was one.
    pub fn new(journal: Arc<Table>) -> Self {
        let mut table: HashMap<InodeId, Held> = HashMap::new();
        let mut places = HashMap::new();
        for (place, note) in journal.take_notes() {
            table.entry(note.inode).or_default().notes.insert((note.fh, note.owner));
            places.insert(note, place);
        }
        let inodes = AtomicUsize::new(table.len());
        Self { journal, places: Mutex::new(places), table: Mutex::new(table), inodes, released: Notify::new() }
    }

    /// The locks of an owner, or through a handle, are gone, or nobody knows of any: a successor need not drop them.
    pub fn gone(&self, inode: InodeId, fh: Option<u64>, owner: Option<u64>) {
        if self.places.lock().is_empty() {
            return;
        }
        let table = self.table.lock();
        let noted = |note: &LockNote| table.get(&inode).is_some_and(|held| held.notes.contains(&(note.fh, note.owner)));
        self.places.lock().retain(|note, place| {
            let meant = note.inode == inode
                && fh.is_none_or(|fh| fh == note.fh)
                && owner.is_none_or(|owner| owner == note.owner);
            // It may have been noted again meanwhile.
            let goes = meant && !noted(note);
            if goes {
                self.journal.drop_note(*place);
            }
            !goes
        });
    }

    /// Before the lock is asked for.
    fn record(&self, note: LockNote) {
        let mut places = self.places.lock();
        if places.contains_key(&note) {
            return;
        }
        match self.journal.add_note(&note) {
            Some(place) => {
                places.insert(note, place);
            }
            None => {
                tracing::warn!("too many owners of locks; should this process die now, a lock may be kept too long")
            }
        }
    }

    /// The owner is about to lock something through the handle.
    pub fn note(&self, inode: InodeId, fh: u64, owner: u64) {
        let mut table = self.table.lock();
        table.entry(inode).or_default().notes.insert((fh, owner));
        self.record(LockNote { inode, fh, owner });
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
    use crate::handover::Limits;

    fn owners() -> LockOwners {
        LockOwners::new(Arc::new(Table::create(Limits { handles: 1, requests: 1, notes: 100 }).unwrap()))
    }

    #[test]
    fn a_release_drops_what_was_locked_through_its_handle_and_was_not_closed_before() {
        let owners = owners();
        owners.note(7, 1, 100);
        owners.note(7, 2, 100);
        owners.note(7, 2, 200);
        owners.note(8, 3, 100);
        assert!(owners.close(7, 100) && !owners.close(7, 100), "all that the process has, through whatever handle");
        // Locked again through the other one: the release of the first is none of its business.
        owners.note(7, 2, 100);
        assert_eq!(owners.release(7, 1, false).0, Vec::<u64>::new());
        assert_eq!(owners.release(7, 2, false).0, [100, 200]);
        assert_eq!(owners.notes(), [(8, 3, 100)]);
        assert!(owners.close(8, 100));
        assert_eq!(owners.len(), 0);
    }

    #[tokio::test]
    async fn who_finds_a_lock_waits_for_the_release_that_drops_it() {
        let owners = owners();
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
