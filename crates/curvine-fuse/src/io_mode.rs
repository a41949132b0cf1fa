//! One I/O mode per open inode: the kernel must not see an inode opened in ways that do not mix.
//!
//! Always: the first open decides, later ones join, the last close clears. An open counts from before its reply until its
//! RELEASE, so a recall that comes in between finds it. The kernel leaves a mode before RELEASE comes, so the count is never too low.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use curvine_proto::DataMode;
use curvine_types::{FastMap, InodeId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backing::Backing;
use crate::contested::Contested;
use crate::overtakes::Overtakes;
use crate::tail::Tail;

/// How the kernel does the I/O of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// Through the page cache.
    Cached,
    /// Each read and write is a request.
    Direct,
    /// By itself, on a local file.
    Passthrough,
}

impl IoMode {
    /// Its number in the hand-over table.
    pub fn code(self) -> u8 {
        match self {
            IoMode::Cached => 1,
            IoMode::Direct => 2,
            IoMode::Passthrough => 3,
        }
    }

    /// The mode of a number.
    pub fn from_code(code: u8) -> Option<Self> {
        [IoMode::Cached, IoMode::Direct, IoMode::Passthrough].into_iter().find(|mode| mode.code() == code)
    }

    /// What suits a file of this data mode.
    pub fn suited(mode: DataMode) -> Self {
        match mode {
            DataMode::ReadShared | DataMode::WriteExclusive => IoMode::Cached,
            DataMode::WriteShared | DataMode::Unknown => IoMode::Direct,
        }
    }

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            IoMode::Cached => "cached",
            IoMode::Direct => "direct",
            IoMode::Passthrough => "passthrough",
        }
    }
}

#[derive(Debug)]
struct OpenInode {
    way: Way,
    opens: u64,
    /// The directory in which it was made by an open that is still there.
    made_in: Option<InodeId>,
    tail: Tail,
}

impl OpenInode {
    fn new(way: Way) -> Self {
        Self { way, opens: 0, made_in: None, tail: Tail::default() }
    }
}

/// A mode, with what belongs to it.
#[derive(Clone, Debug)]
pub enum Way {
    /// `Cached` or `Direct`, and why not by passthrough.
    Plain(IoMode, &'static str),
    Passthrough(Arc<Backing>),
}

impl Way {
    pub fn mode(&self) -> IoMode {
        match self {
            Way::Plain(mode, _) => *mode,
            Way::Passthrough(_) => IoMode::Passthrough,
        }
    }
}

/// What telling the kernel of a size comes to.
#[derive(Debug)]
pub enum Told {
    /// It writes this file by itself, and only the file knows.
    Written(Arc<Backing>),
    /// It may be told, though not before this time.
    Size(Option<Instant>),
}

/// What was left when the last open of an inode ended.
#[derive(Debug, Default)]
pub struct Closed {
    pub backing: Option<Arc<Backing>>,
    pub made_in: Option<InodeId>,
}

const SHARDS: usize = 16;

/// The open inodes of this mount.
#[derive(Debug, Default)]
pub struct IoModes {
    shards: [Mutex<FastMap<InodeId, OpenInode>>; SHARDS],
    pub contested: Contested,
    pub overtakes: Overtakes,
}

impl IoModes {
    fn shard(&self, inode: InodeId) -> &Mutex<FastMap<InodeId, OpenInode>> {
        &self.shards[inode as usize % SHARDS]
    }

    /// How the inode is open; `None`: it is not.
    pub fn way(&self, inode: InodeId) -> Option<Way> {
        self.shard(inode).lock().get(&inode).map(|open| open.way.clone())
    }

    /// Counts an open and returns the mode that it must have, which is `wanted` for the first one.
    pub fn join(&self, inode: InodeId, wanted: Way) -> Way {
        let mut shard = self.shard(inode).lock();
        let open = shard.entry(inode).or_insert_with(|| OpenInode::new(wanted));
        open.opens += 1;
        open.way.clone()
    }

    /// Counts an open if the inode is open with this file; else nothing is counted, and how it is open must be asked again.
    pub fn join_backing(&self, inode: InodeId, backing: &Arc<Backing>) -> bool {
        let mut shard = self.shard(inode).lock();
        match shard.get_mut(&inode) {
            Some(open) if matches!(&open.way, Way::Passthrough(there) if Arc::ptr_eq(there, backing)) => {
                open.opens += 1;
                true
            }
            _ => false,
        }
    }

    /// Remembers where an open inode was made.
    pub fn note_made(&self, inode: InodeId, parent: InodeId) {
        if let Some(open) = self.shard(inode).lock().get_mut(&inode) {
            open.made_in = Some(parent);
        }
    }

    /// Counts an open of a predecessor, which was open in this way.
    pub fn rejoin(&self, inode: InodeId, way: Way) {
        let mut shard = self.shard(inode).lock();
        shard.entry(inode).or_insert_with(|| OpenInode::new(way)).opens += 1;
    }

    /// Counts a close; what is left if it was the last one.
    pub fn leave(&self, inode: InodeId) -> Option<Closed> {
        let mut shard = self.shard(inode).lock();
        let Entry::Occupied(mut open) = shard.entry(inode) else {
            debug_assert!(false, "a close without an open");
            return None;
        };
        open.get_mut().opens -= 1;
        if open.get().opens > 0 {
            return None;
        }
        let OpenInode { way, made_in, .. } = open.remove();
        let backing = if let Way::Passthrough(backing) = way { Some(backing) } else { None };
        Some(Closed { backing, made_in })
    }

    /// Whether the kernel may have pages of the inode that it will use without asking.
    pub fn is_cached(&self, inode: InodeId) -> bool {
        self.shard(inode).lock().get(&inode).is_some_and(|open| open.way.mode() == IoMode::Cached)
    }

    /// The file that the kernel may be writing.
    pub fn written(&self, inode: InodeId) -> Option<Arc<Backing>> {
        match &self.shard(inode).lock().get(&inode)?.way {
            Way::Passthrough(backing) if backing.is_written() => Some(backing.clone()),
            _ => None,
        }
    }

    /// The kernel is about to be told this size of an inode: the file that it may be writing, or how long the answer has to wait.
    pub fn tell(&self, inode: InodeId, size: u64) -> Told {
        match self.shard(inode).lock().get_mut(&inode) {
            Some(OpenInode { way: Way::Passthrough(backing), .. }) if backing.is_written() => {
                Told::Written(backing.clone())
            }
            Some(open) if open.way.mode() == IoMode::Cached => Told::Size(open.tail.tell(size)),
            _ => Told::Size(None),
        }
    }

    /// The kernel has written an inode up to this size, or made it so long: it knows already when it is told.
    pub fn grew(&self, inode: InodeId, size: u64) {
        if let Some(open) = self.shard(inode).lock().get_mut(&inode) {
            open.tail.grew(size);
        }
    }

    /// For `ends`: a READ of an inode begins.
    pub fn begins(&self, inode: InodeId) -> u64 {
        self.shard(inode).lock().get(&inode).map_or(0, |open| open.tail.told())
    }

    /// A READ ended at `end`, shorter than asked for. False: the kernel knows by now that there is more, and it must be done again.
    pub fn ends(&self, inode: InodeId, began: u64, end: u64) -> bool {
        match self.shard(inode).lock().get_mut(&inode) {
            Some(open) if open.way.mode() == IoMode::Cached => open.tail.ends(began, end),
            _ => true,
        }
    }

    /// For reports.
    pub fn describe(&self, inode: InodeId) -> String {
        match self.shard(inode).lock().get(&inode) {
            None => "io=closed".to_string(),
            Some(OpenInode { way: Way::Plain(mode, why), opens, .. }) => {
                format!("io={} opens={opens} not by passthrough: {why}", mode.name())
            }
            Some(OpenInode { way: Way::Passthrough(backing), opens, .. }) => {
                let written = if backing.is_written() { " written" } else { "" };
                format!("io=passthrough opens={opens} backing={} worker={}{written}", backing.id, backing.worker)
            }
        }
    }

    /// Inodes that are open by passthrough.
    pub fn backings(&self) -> usize {
        let count = |open: &&OpenInode| matches!(open.way, Way::Passthrough(_));
        self.shards.iter().map(|shard| shard.lock().values().filter(count).count()).sum()
    }

    /// Open inodes.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHED: Way = Way::Plain(IoMode::Cached, "");
    const DIRECT: Way = Way::Plain(IoMode::Direct, "");

    #[test]
    fn the_first_open_decides_and_the_last_close_clears() {
        let modes = IoModes::default();
        assert_eq!(modes.join(7, CACHED).mode(), IoMode::Cached);
        assert_eq!(modes.join(7, DIRECT).mode(), IoMode::Cached);
        assert_eq!(modes.join(8, DIRECT).mode(), IoMode::Direct);
        assert!(modes.is_cached(7) && !modes.is_cached(8) && !modes.is_cached(9));
        modes.leave(7);
        assert_eq!(modes.join(7, DIRECT).mode(), IoMode::Cached);
        modes.note_made(7, 1);
        assert!(modes.leave(7).is_none());
        assert_eq!(modes.leave(7).unwrap().made_in, Some(1));
        assert!(!modes.is_cached(7));
        assert_eq!(modes.join(7, DIRECT).mode(), IoMode::Direct);
        assert_eq!(modes.len(), 2);
    }

    #[test]
    fn only_files_that_nobody_else_writes_use_the_page_cache() {
        assert_eq!(IoMode::suited(DataMode::ReadShared), IoMode::Cached);
        assert_eq!(IoMode::suited(DataMode::WriteExclusive), IoMode::Cached);
        assert_eq!(IoMode::suited(DataMode::WriteShared), IoMode::Direct);
        assert_eq!(IoMode::suited(DataMode::Unknown), IoMode::Direct);
    }
}
