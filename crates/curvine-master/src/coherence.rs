//! Who may cache what, and who has what open: the soft state of a leader.
//!
//! Always: while an inode is marked as changing, only the session whose changes they all are is granted a lease on it.
//! Always: a lease is registered before the state that it covers is read, so a change that begins in between recalls it.
//! Only memory is touched under the lock, and there is no await under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use curvine_proto::{Lease, OpenInode};
use curvine_types::{Error, ErrorKind, FastMap, InodeId, Result, SessionId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Inodes that are looked at in one hold of the lock, where there may be a million.
const PIECE: usize = 256;

/// The lease table, the marks of changes under way, and the opens.
pub struct Coherence {
    inner: Mutex<Inner>,
    unmarked: Notify,
    lease_limit: usize,
}

#[derive(Default)]
struct Inner {
    /// Of the newest lease or recall; a recall voids all leases up to its own.
    number: u64,
    leases: Parted<Vec<Holder>>,
    leases_of: FastMap<SessionId, BTreeSet<InodeId>>,
    lease_count: usize,
    changing: FastMap<InodeId, Vec<Mark>>,
    opens: FastMap<InodeId, FastMap<SessionId, OpenCount>>,
    opens_of: FastMap<SessionId, BTreeSet<InodeId>>,
}

/// Parts of a table.
const PARTS: usize = 2048;

/// A table of millions, in parts: when it grows, or is tidied, only one of them is moved while others wait for the lock.
struct Parted<V> {
    parts: Vec<FastMap<InodeId, V>>,
}

impl<V> Default for Parted<V> {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| FastMap::default()).collect() }
    }
}

impl<V: Default> Parted<V> {
    fn part(&mut self, inode: InodeId) -> &mut FastMap<InodeId, V> {
        // Inodes are numbered in sequence, so the low bits spread well.
        &mut self.parts[inode as usize % PARTS]
    }

    fn get(&self, inode: InodeId) -> Option<&V> {
        self.parts[inode as usize % PARTS].get(&inode)
    }

    fn get_mut(&mut self, inode: InodeId) -> Option<&mut V> {
        self.part(inode).get_mut(&inode)
    }

    fn get_or_default(&mut self, inode: InodeId) -> &mut V {
        self.part(inode).entry(inode).or_default()
    }

    fn remove(&mut self, inode: InodeId) {
        self.part(inode).remove(&inode);
    }
}

struct Holder {
    session: SessionId,
    number: u64,
    /// Of the grant that made it a holder.
    first: u64,
}

struct Mark {
    session: SessionId,
    /// The change may take the inode's last name, so nobody may open it meanwhile.
    removal: bool,
}

#[derive(Default, Clone, Copy)]
struct OpenCount {
    read: u32,
    write: u32,
}

/// What is left of a session's opens of an inode after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    pub any: bool,
    pub writers: bool,
}

impl Coherence {
    /// At most `lease_limit` leases over all sessions; beyond it replies come without.
    pub fn new(lease_limit: usize) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), unmarked: Notify::new(), lease_limit })
    }

    /// Registers a lease, if that is allowed now. The caller reads the state only afterwards.
    pub fn grant(&self, session: SessionId, inode: InodeId) -> Option<Lease> {
        self.inner.lock().grant(session, inode, self.lease_limit)
    }

    /// As `grant`, for each of the inodes.
    pub fn grant_all(&self, session: SessionId, inodes: impl Iterator<Item = InodeId>) -> Vec<Option<Lease>> {
        let mut inner = self.inner.lock();
        inodes.map(|inode| inner.grant(session, inode, self.lease_limit)).collect()
    }

    /// Takes back a lease that the state read after its grant does not allow. One that the session had before, or was granted
    /// meanwhile, stays: the session believes in it until it is recalled.
    pub fn revoke(&self, session: SessionId, lease: &Lease) {
        let mut inner = self.inner.lock();
        let holders = inner.leases.get(lease.inode);
        let holder = holders.and_then(|holders| holders.iter().find(|holder| holder.session == session));
        if holder.is_some_and(|holder| holder.first == lease.number && holder.number == lease.number) {
            inner.drop_lease(session, lease.inode, lease.number);
        }
    }

    /// The session no longer caches these inodes. Others come in between, where there are many.
    pub async fn dropped(&self, session: SessionId, inodes: &[InodeId]) {
        for piece in inodes.chunks(PIECE) {
            {
                let mut inner = self.inner.lock();
                piece.iter().for_each(|inode| inner.drop_lease(session, *inode, u64::MAX));
                MutexGuard::unlock_fair(inner);
            }
            tokio::task::yield_now().await;
        }
    }

    /// The session has given up all its leases.
    pub fn drop_all_leases(&self, session: SessionId) {
        let (inodes, number) = {
            let mut inner = self.inner.lock();
            (inner.leases_of.remove(&session).unwrap_or_default(), inner.number)
        };
        self.in_pieces(inodes, |inner, inode| inner.drop_lease(session, inode, number));
    }

    /// Does something with many inodes, in short holds of the lock.
    fn in_pieces(&self, inodes: BTreeSet<InodeId>, mut one: impl FnMut(&mut Inner, InodeId)) {
        let mut inodes = inodes.into_iter();
        while inodes.len() > 0 {
            let mut inner = self.inner.lock();
            inodes.by_ref().take(PIECE).for_each(|inode| one(&mut inner, inode));
            MutexGuard::unlock_fair(inner);
        }
    }

    /// The session is over.
    pub fn forget(&self, session: SessionId) {
        self.drop_all_leases(session);
        let inodes = self.inner.lock().opens_of.remove(&session).unwrap_or_default();
        self.in_pieces(inodes, |inner, inode| {
            if let Some(by_session) = inner.opens.get_mut(&inode) {
                by_session.remove(&session);
                if by_session.is_empty() {
                    inner.opens.remove(&inode);
                }
            }
        });
    }

    /// Marks the inodes as changing, until the guard is dropped.
    pub fn begin(self: &Arc<Self>, session: SessionId, inodes: &[InodeId], removed: &[InodeId]) -> Change {
        let mut marked: Vec<InodeId> = inodes.iter().chain(removed).copied().filter(|inode| *inode != 0).collect();
        marked.sort_unstable();
        marked.dedup();
        let mut inner = self.inner.lock();
        for inode in &marked {
            let mark = Mark { session, removal: removed.contains(inode) };
            inner.changing.entry(*inode).or_default().push(mark);
        }
        Change { coherence: self.clone(), session, marked, removed: removed.to_vec() }
    }

    /// The recall has been answered: the session's leases on the inodes up to `number` are void.
    pub fn recalled(&self, session: SessionId, inodes: &[InodeId], number: u64) {
        let mut inner = self.inner.lock();
        for inode in inodes {
            inner.drop_lease(session, *inode, number);
        }
    }

    /// Counts an open; waits while a change that may remove the inode's last name is under way.
    pub async fn open(&self, session: SessionId, inode: InodeId, write: bool, deadline: Instant) -> Result<()> {
        loop {
            let unmarked = self.unmarked.notified();
            {
                let mut inner = self.inner.lock();
                let removal = inner.changing.get(&inode).is_some_and(|marks| marks.iter().any(|mark| mark.removal));
                if !removal {
                    inner.count_open(session, inode, write);
                    return Ok(());
                }
            }
            tokio::time::timeout_at(deadline, unmarked)
                .await
                .map_err(|_| Error::new(ErrorKind::TimedOut, "the file is being unlinked").with("inode", inode))?;
        }
    }

    /// Counts the opens that a client declares to a new leader.
    pub fn declare(&self, session: SessionId, opens: &[OpenInode]) {
        let mut inner = self.inner.lock();
        for inode in inner.opens_of.remove(&session).unwrap_or_default() {
            if let Some(by_session) = inner.opens.get_mut(&inode) {
                by_session.remove(&session);
            }
        }
        for open in opens {
            inner.count_open(session, open.inode, open.write);
        }
    }

    /// Ends one open. `None`: there was none.
    pub fn close(&self, session: SessionId, inode: InodeId, write: bool) -> Option<Remaining> {
        let mut inner = self.inner.lock();
        let by_session = inner.opens.get_mut(&inode)?;
        let count = by_session.get_mut(&session)?;
        let counter = if write { &mut count.write } else { &mut count.read };
        *counter = counter.checked_sub(1)?;
        let remaining = Remaining { any: count.read + count.write > 0, writers: count.write > 0 };
        if !remaining.any {
            by_session.remove(&session);
            if by_session.is_empty() {
                inner.opens.remove(&inode);
            }
            if let Some(inodes) = inner.opens_of.get_mut(&session) {
                inodes.remove(&inode);
            }
        }
        Some(remaining)
    }

    /// The sessions that have the inode open.
    pub fn openers(&self, inode: InodeId) -> Vec<SessionId> {
        let inner = self.inner.lock();
        let mut sessions: Vec<SessionId> =
            inner.opens.get(&inode).map(|by_session| by_session.keys().copied().collect()).unwrap_or_default();
        sessions.sort_unstable();
        sessions
    }

    /// Whether the session has the inode open, and for writing.
    pub fn is_open(&self, session: SessionId, inode: InodeId) -> Remaining {
        let inner = self.inner.lock();
        let count =
            inner.opens.get(&inode).and_then(|by_session| by_session.get(&session)).copied().unwrap_or_default();
        Remaining { any: count.read + count.write > 0, writers: count.write > 0 }
    }

    /// Leases over all sessions.
    pub fn lease_count(&self) -> usize {
        self.inner.lock().lease_count
    }

    /// Leases and open inodes of one session.
    pub fn counts_of(&self, session: SessionId) -> (usize, usize) {
        let inner = self.inner.lock();
        let count = |map: &FastMap<SessionId, BTreeSet<InodeId>>| map.get(&session).map_or(0, BTreeSet::len);
        (count(&inner.leases_of), count(&inner.opens_of))
    }
}

impl Inner {
    fn grant(&mut self, session: SessionId, inode: InodeId, lease_limit: usize) -> Option<Lease> {
        if self.changing.get(&inode).is_some_and(|marks| marks.iter().any(|mark| mark.session != session)) {
            return None;
        }
        let held =
            self.leases.get_mut(inode).and_then(|holders| holders.iter_mut().find(|held| held.session == session));
        let renewed = held.map(|held| held.number = self.number + 1).is_some();
        if !renewed && self.lease_count >= lease_limit {
            return None;
        }
        self.number += 1;
        let number = self.number;
        if !renewed {
            self.leases.get_or_default(inode).push(Holder { session, number, first: number });
            self.lease_count += 1;
        }
        // Also of one that is renewed: all leases of the session may just be about to be dropped, and this is not one of them.
        self.leases_of.entry(session).or_default().insert(inode);
        Some(Lease { inode, number, valid_ms: 0 })
    }

    fn drop_lease(&mut self, session: SessionId, inode: InodeId, up_to: u64) {
        let Some(holders) = self.leases.get_mut(inode) else { return };
        let before = holders.len();
        holders.retain(|holder| holder.session != session || holder.number > up_to);
        if holders.len() == before {
            return;
        }
        self.lease_count -= before - holders.len();
        if holders.is_empty() {
            self.leases.remove(inode);
        }
        if let Some(inodes) = self.leases_of.get_mut(&session) {
            inodes.remove(&inode);
        }
    }

    fn count_open(&mut self, session: SessionId, inode: InodeId, write: bool) {
        let count = self.opens.entry(inode).or_default().entry(session).or_default();
        if write {
            count.write += 1;
        } else {
            count.read += 1;
        }
        self.opens_of.entry(session).or_default().insert(inode);
    }
}

/// A change under way; its marks go with it.
pub struct Change {
    coherence: Arc<Coherence>,
    session: SessionId,
    marked: Vec<InodeId>,
    removed: Vec<InodeId>,
}

/// What must be recalled before the change may be made.
pub struct Recalls {
    /// Voids all earlier leases.
    pub number: u64,
    pub holders: BTreeMap<SessionId, Vec<InodeId>>,
}

impl Change {
    /// The other sessions' leases on the marked inodes.
    pub fn recalls(&self) -> Recalls {
        let mut inner = self.coherence.inner.lock();
        let mut holders: BTreeMap<SessionId, Vec<InodeId>> = BTreeMap::new();
        for inode in &self.marked {
            for holder in inner.leases.get(*inode).into_iter().flatten() {
                if holder.session != self.session {
                    holders.entry(holder.session).or_default().push(*inode);
                }
            }
        }
        if !holders.is_empty() {
            inner.number += 1;
        }
        Recalls { number: inner.number, holders }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut inner = self.coherence.inner.lock();
        for inode in &self.marked {
            let removal = self.removed.contains(inode);
            let Some(marks) = inner.changing.get_mut(inode) else { continue };
            if let Some(at) = marks.iter().position(|mark| mark.session == self.session && mark.removal == removal) {
                marks.swap_remove(at);
            }
            if marks.is_empty() {
                inner.changing.remove(inode);
            }
        }
        drop(inner);
        self.coherence.unmarked.notify_waiters();
    }
}
