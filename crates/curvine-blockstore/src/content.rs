//! One content in memory: its state, and the locks that order what happens to it.
//!
//! Locks: `sync` (one fsync, seal or reopening at a time) before `state`; no other content's lock is waited for under either.
//! What always holds under `state`: a live content's local file has `attr.size` bytes (one that is exposed for writing: when
//! `BlockStore::write_state` gave the lock); a deleted content is in no table any
//! more and its file has no name.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use curvine_types::{Error, ErrorKind, Result};
use parking_lot::{Mutex, RwLock};

use crate::chunks::ChunkMap;
use crate::eviction::{Evictable, Slot};
use crate::index::Position;
use crate::types::{ContentKey, ContentKind, Exposure, LiveAttr, Timestamp};
use crate::writers::Writers;

/// Accesses that are remembered for eviction.
const HEAT_MAX: u8 = 3;

pub(crate) struct Content {
    /// Unique in this process.
    pub id: u64,
    pub key: ContentKey,
    /// Which tier directory holds it.
    pub tier: usize,
    pub state: RwLock<State>,
    pub sync: Mutex<()>,
    /// Its file has no name any more; for those who do not hold `state`.
    pub gone: AtomicBool,
    /// Not evicted, whoever needs room. Changed under `state`.
    pub pinned: AtomicBool,
    /// A copy of what has its home on another worker: evicted before all others.
    pub secondary: AtomicBool,
    heat: AtomicU8,
    /// Among those that may be evicted.
    pub(crate) slot: Slot,
}

pub(crate) struct State {
    pub kind: ContentKind,
    pub version: u64,
    pub epoch: u64,
    pub attr: LiveAttr,
    /// See `record::Known::placed`.
    pub placed: Option<Timestamp>,
    /// Size that is on the disk, of a live content.
    pub synced_size: u64,
    pub chunks: ChunkMap,
    /// A seal is going on: no writes.
    pub frozen: bool,
    pub deleted: bool,
    /// The file's name may not be on the disk yet.
    pub name_unsynced: bool,
    /// Its last record.
    pub logged: Position,
    /// Allocated bytes that its tier is charged with.
    pub charged: u64,
    /// What of the file's descriptor was given away.
    pub exposure: Exposure,
    /// Sessions that were given it to write through.
    pub writers: BTreeSet<u64>,
    /// What was known before the kernel was given the file to write.
    pub aside: Option<Aside>,
    /// The master is about to do away with it: no descriptor is given any more.
    pub leaving: bool,
    /// Of a live content, what its writers said of who they are.
    pub known_writers: Option<Box<Writers>>,
}

/// Checksums of a file that is right as long as it has this size and time.
pub(crate) struct Aside {
    pub size: u64,
    pub mtime: Timestamp,
    pub chunks: ChunkMap,
}

impl Content {
    pub fn new(key: ContentKey, tier: usize, state: State) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            key,
            tier,
            state: RwLock::new(state),
            sync: Mutex::new(()),
            gone: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            secondary: AtomicBool::new(false),
            heat: AtomicU8::new(0),
            slot: Slot::default(),
        }
    }

    /// It was used; true if with this use it has become as hot as anything gets.
    pub fn touch(&self) -> bool {
        let heat = self.heat.load(Ordering::Relaxed);
        if heat < HEAT_MAX {
            self.heat.store(heat + 1, Ordering::Relaxed);
        }
        heat + 1 == HEAT_MAX
    }
}

impl State {
    /// The kind, version and epoch of a new content; the rest is empty.
    pub fn new(kind: ContentKind, version: u64, epoch: u64) -> Self {
        Self {
            kind,
            version,
            epoch,
            attr: LiveAttr::default(),
            placed: None,
            synced_size: 0,
            chunks: ChunkMap::default(),
            frozen: false,
            deleted: false,
            name_unsynced: true,
            logged: Position::default(),
            charged: 0,
            exposure: Exposure::None,
            writers: BTreeSet::new(),
            aside: None,
            leaving: false,
            known_writers: None,
        }
    }

    /// Whether a reader may have what this holds.
    pub fn check_read(&self, key: ContentKey, version: u64) -> Result<()> {
        if self.deleted {
            return Err(not_here(key));
        }
        if self.kind == ContentKind::Lost {
            return Err(Error::new(ErrorKind::DataLoss, "what the index knew of this content is lost")
                .with("inode", key.inode)
                .with("generation", key.generation));
        }
        if self.version != version {
            return Err(mismatch(key, "another version of the content is here", self.version, version));
        }
        Ok(())
    }

    /// Whether a writer of this version and epoch may change what this holds.
    pub fn check_write(&self, key: ContentKey, version: u64, epoch: u64) -> Result<()> {
        self.check_read(key, version)?;
        if self.kind != ContentKind::Live || self.frozen {
            return Err(mismatch(key, "the content is sealed; open it for writing first", self.epoch, epoch));
        }
        if epoch != self.epoch {
            return Err(mismatch(key, "the write grant is of another epoch", self.epoch, epoch));
        }
        Ok(())
    }
}

/// The content is not in this store.
pub(crate) fn not_here(key: ContentKey) -> Error {
    Error::new(ErrorKind::VersionMismatch, "the content is not here; ask where it is")
        .with("inode", key.inode)
        .with("generation", key.generation)
}

/// The content is here, but not as the caller thinks.
pub(crate) fn mismatch(key: ContentKey, message: &str, have: u64, want: u64) -> Error {
    Error::new(ErrorKind::VersionMismatch, message)
        .with("inode", key.inode)
        .with("generation", key.generation)
        .with("have", have)
        .with("want", want)
}

impl Evictable for std::sync::Arc<Content> {
    type Key = ContentKey;

    fn key(&self) -> ContentKey {
        self.key
    }

    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn take_access(&self) -> bool {
        let heat = self.heat.load(Ordering::Relaxed);
        self.heat.store(heat.saturating_sub(1), Ordering::Relaxed);
        heat > 0
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}
