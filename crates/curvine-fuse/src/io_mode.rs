//! One I/O mode per open inode: the kernel must not see an inode opened in ways that do not mix.
//!
//! Always: the first open decides, later ones join, the last close clears. An open counts from before its reply until its
//! RELEASE, so a recall that comes in between finds it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use curvine_proto::DataMode;
use curvine_types::InodeId;
use parking_lot::Mutex;

/// How the kernel does the I/O of an inode. Passthrough will be a third way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// Through the page cache.
    Cached,
    /// Each read and write is a request.
    Direct,
}

impl IoMode {
    /// What suits a file of this data mode.
    pub fn suited(mode: DataMode) -> Self {
        match mode {
            DataMode::ReadShared | DataMode::WriteExclusive => IoMode::Cached,
            DataMode::WriteShared | DataMode::Unknown => IoMode::Direct,
        }
    }
}

#[derive(Debug)]
struct OpenInode {
    mode: IoMode,
    opens: u64,
    /// A record lock was taken here, so a close must drop its owner's.
    record_locks: bool,
}

const SHARDS: usize = 16;

/// The open inodes of this mount.
#[derive(Debug, Default)]
pub struct IoModes {
    shards: [Mutex<HashMap<InodeId, OpenInode>>; SHARDS],
}

impl IoModes {
    fn shard(&self, inode: InodeId) -> &Mutex<HashMap<InodeId, OpenInode>> {
        &self.shards[inode as usize % SHARDS]
    }

    /// Counts an open and returns the mode that it must have, which is `wanted` for the first one.
    pub fn join(&self, inode: InodeId, wanted: IoMode) -> IoMode {
        let mut shard = self.shard(inode).lock();
        let open = shard.entry(inode).or_insert(OpenInode { mode: wanted, opens: 0, record_locks: false });
        open.opens += 1;
        open.mode
    }

    /// Counts a close.
    pub fn leave(&self, inode: InodeId) {
        let mut shard = self.shard(inode).lock();
        let Entry::Occupied(mut open) = shard.entry(inode) else {
            debug_assert!(false, "a close without an open");
            return;
        };
        open.get_mut().opens -= 1;
        if open.get().opens == 0 {
            open.remove();
        }
    }

    /// Whether the kernel may have pages of the inode that it will use without asking.
    pub fn is_cached(&self, inode: InodeId) -> bool {
        self.shard(inode).lock().get(&inode).is_some_and(|open| open.mode == IoMode::Cached)
    }

    /// Remembers that record locks may be held.
    pub fn note_record_lock(&self, inode: InodeId) {
        if let Some(open) = self.shard(inode).lock().get_mut(&inode) {
            open.record_locks = true;
        }
    }

    /// Whether record locks may be held.
    pub fn has_record_locks(&self, inode: InodeId) -> bool {
        self.shard(inode).lock().get(&inode).is_some_and(|open| open.record_locks)
    }

    /// Open inodes.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_decides_and_the_last_close_clears() {
        let modes = IoModes::default();
        assert_eq!(modes.join(7, IoMode::Cached), IoMode::Cached);
        assert_eq!(modes.join(7, IoMode::Direct), IoMode::Cached);
        assert_eq!(modes.join(8, IoMode::Direct), IoMode::Direct);
        assert!(modes.is_cached(7) && !modes.is_cached(8) && !modes.is_cached(9));
        modes.leave(7);
        assert_eq!(modes.join(7, IoMode::Direct), IoMode::Cached);
        modes.leave(7);
        modes.leave(7);
        assert!(!modes.is_cached(7));
        assert_eq!(modes.join(7, IoMode::Direct), IoMode::Direct);
        assert_eq!(modes.len(), 2);
    }

    #[test]
    fn only_files_that_nobody_else_writes_use_the_page_cache() {
        assert_eq!(IoMode::suited(DataMode::ReadShared), IoMode::Cached);
        assert_eq!(IoMode::suited(DataMode::WriteExclusive), IoMode::Cached);
        assert_eq!(IoMode::suited(DataMode::WriteShared), IoMode::Direct);
        assert_eq!(IoMode::suited(DataMode::Unknown), IoMode::Direct);
    }

    #[test]
    fn record_locks_are_remembered_until_the_last_close() {
        let modes = IoModes::default();
        modes.note_record_lock(7);
        assert!(!modes.has_record_locks(7));
        modes.join(7, IoMode::Cached);
        modes.note_record_lock(7);
        assert!(modes.has_record_locks(7));
        modes.leave(7);
        assert!(!modes.has_record_locks(7));
    }
}
