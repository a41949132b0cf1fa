//! The vocabulary of the store's interface: keys, attributes, plans, configuration.
//!
//! Offsets and sizes are bytes. A version of 0 names a cached copy; anything above it authoritative content.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curvine_types::limits::{CHUNK_SIZE, PIECE_SIZE};
use curvine_types::{Generation, InodeId};

use crate::disk::{self, Faults};

/// The content that one local file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentKey {
    pub inode: InodeId,
    pub generation: Generation,
}

impl ContentKey {
    /// Generation `generation` of `inode`.
    pub const fn new(inode: InodeId, generation: Generation) -> Self {
        Self { inode, generation }
    }
}

impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.inode, self.generation)
    }
}

/// A modification time: seconds since 1970, and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

impl Timestamp {
    /// The smallest time after this one.
    pub fn next(self) -> Self {
        if self.nsec >= 999_999_999 {
            Self { sec: self.sec.saturating_add(1), nsec: 0 }
        } else {
            Self { sec: self.sec, nsec: self.nsec + 1 }
        }
    }

    /// This time and so much more.
    pub fn plus(self, more: Duration) -> Self {
        let nsec = u64::from(self.nsec) + u64::from(more.subsec_nanos());
        let sec = self.sec.saturating_add(more.as_secs() as i64).saturating_add((nsec / 1_000_000_000) as i64);
        Self { sec, nsec: (nsec % 1_000_000_000) as u32 }
    }

    /// The machine's clock.
    pub fn now() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Self { sec: since.as_secs() as i64, nsec: since.subsec_nanos() },
            Err(_) => Self::default(),
        }
    }
}

/// What the store knows of a content: all that a `stat` of a live file needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveAttr {
    pub size: u64,
    pub mtime: Timestamp,
    /// Units of 512 bytes.
    pub blocks: u64,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAt {
    At(u64),
    /// At the end of the content, wherever that is when the write's turn comes.
    Append,
}

/// Which process writes, of a session that several may have one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    pub session: u64,
    /// Counted upwards; what comes from an earlier one than the newest is refused.
    pub instance: u64,
    /// Of an append: the same one is made once. 0: none.
    pub token: u64,
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub offset: u64,
    pub attr: LiveAttr,
}

/// What to do with a range of a live content; the kinds of `fallocate(2)` that a file system must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Allocates; extends the content unless `keep_size`.
    Allocate { keep_size: bool },
    /// Makes a hole; never changes the size.
    PunchHole,
    /// Makes the range read as zero; extends the content unless `keep_size`.
    ZeroRange { keep_size: bool },
}

/// What one part of a read range consists of.
#[derive(Clone, Debug)]
pub enum Segment {
    /// `len` bytes of `file` at `offset`, the same offset as in the content.
    Data {
        file: Arc<std::fs::File>,
        offset: u64,
        len: u64,
        /// CRC-32C of each piece of the segment, the last piece ending with the segment. `None` while the content is live:
        /// compute it over what was really read.
        crcs: Option<Vec<u32>>,
    },
    /// Known zeroes.
    Hole { offset: u64, len: u64 },
    /// Not here: fetch it, or fail.
    Absent { offset: u64, len: u64 },
}

impl Segment {
    /// First byte and length of the segment.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Segment::Data { offset, len, .. } | Segment::Hole { offset, len } | Segment::Absent { offset, len } => {
                (*offset, *len)
            }
        }
    }
}

/// How to read a range. Covers the range that was asked for, widened to `PIECE_SIZE` at both ends and cut at `size`.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// In ascending order and without gaps; empty at and beyond the end of the content.
    pub segments: Vec<Segment>,
    /// Of the whole content.
    pub size: u64,
    /// Writes may be going on: a segment's file can be shorter by the time it is read.
    pub live: bool,
}

impl ReadPlan {
    /// The plan for content of `size` bytes of which nothing is here.
    pub fn absent(offset: u64, len: u64, size: u64) -> Self {
        let (start, end) = widen(offset, len, size);
        let segments = if start < end { vec![Segment::Absent { offset: start, len: end - start }] } else { Vec::new() };
        Self { segments, size, live: false }
    }
}

/// State of a 1 MiB chunk. The numbers are those of `ContentMapReply.states`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkState {
    Absent = 0,
    Present = 1,
    Hole = 2,
}

/// What a content is here for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentKind {
    /// Authoritative; writes may be going on.
    Live,
    /// Authoritative, durable and checksummed.
    Sealed,
    /// A clean copy of what an under file system has; may be evicted.
    Cached,
    /// A file whose index entry was lost: none of it is known.
    Lost,
}

/// Who may have the local file of a content open besides the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    #[default]
    None = 0,
    /// Readers, and those who only map it.
    Read = 1,
    /// Writers too: size, time and checksums are those of the file, not those that were last known.
    Write = 2,
}

impl Exposure {
    /// From its number in the index.
    pub(crate) fn of(level: u32) -> Self {
        match level {
            0 => Exposure::None,
            1 => Exposure::Read,
            _ => Exposure::Write,
        }
    }
}

/// What a content takes that cannot be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnBytes {
    pub bytes: u64,
    /// It may still be written.
    pub live: bool,
}

/// What a descriptor is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Under this write grant.
    Write {
        epoch: u64,
        session: u64,
    },
}

/// A content's file for somebody else.
#[derive(Debug)]
pub struct Exposed {
    /// Open for reading only: whoever may open it by itself for writing is up to the kernel.
    pub file: std::fs::File,
    pub attr: LiveAttr,
    pub kind: ContentKind,
}

/// Why a descriptor is not given. The numbers are those of `ExposeReply.refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// Some of the content is not in the file.
    Incomplete = 1,
    /// It must be compared with its checksums first, which takes too long.
    Unverified = 2,
    /// Only new content is written past the store, which then knows no checksums.
    NotNew = 3,
    /// The write grant is of another epoch.
    Fenced = 4,
    /// Too little space is left to let a writer go on alone.
    NoRoom = 5,
    /// It is being sealed or deleted.
    Leaving = 6,
    /// The local file system has no leases, so that nobody could tell when the descriptor is let go.
    FileSystem = 7,
}

/// How much of a content is here, and where.
#[derive(Clone, Debug)]
pub struct ContentMap {
    pub kind: ContentKind,
    pub size: u64,
    pub states: Vec<ChunkState>,
    pub tier: TierKind,
    pub path: PathBuf,
    pub present_bytes: u64,
    pub pinned: bool,
}

/// One line of the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InventoryItem {
    pub key: ContentKey,
    pub version: u64,
    pub kind: ContentKind,
}

/// The kind of medium behind a tier directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TierKind {
    Mem,
    Ssd,
    Hdd,
}

impl TierKind {
    /// As configured and shown: `MEM`, `SSD`, `HDD`.
    pub fn name(self) -> &'static str {
        match self {
            TierKind::Mem => "MEM",
            TierKind::Ssd => "SSD",
            TierKind::Hdd => "HDD",
        }
    }
}

/// A configured tier directory.
#[derive(Clone, Debug)]
pub struct TierConfig {
    pub dir: PathBuf,
    pub kind: TierKind,
    /// Most bytes that the store may allocate here; `None`: what the disk has.
    pub quota: Option<u64>,
    /// Bytes of the disk that the store leaves free.
    pub reserve: u64,
    /// Per cent of the capacity above which clean copies are evicted in the background, and down to which; `None`: they are
    /// evicted only when room is needed.
    pub watermarks: Option<(u8, u8)>,
}

/// A tier directory as it is now.
#[derive(Clone, Debug)]
pub struct TierStatus {
    pub dir: PathBuf,
    pub kind: TierKind,
    /// The quota, or what the disk has.
    pub capacity: u64,
    /// Allocated by the store.
    pub used: u64,
    /// What a write could still take; clean copies make way for it.
    pub available: u64,
    /// Of `used`, clean copies.
    pub clean: u64,
    pub files: u64,
    /// `ok`, or `failed: ` and why.
    pub state: String,
}

/// Limits and seams of a store.
#[derive(Clone)]
pub struct Options {
    /// Most descriptors kept open.
    pub open_files: usize,
    /// Index bytes appended since the last compaction that make the next one worth while.
    pub compact_after: u64,
    /// How long a failed tier directory is left alone before it is probed.
    pub probe_after: Duration,
    /// Identity of this boot of the machine; another one than at the last start means that unsynced data may be gone.
    pub boot_id: String,
    /// Faults that a test injects.
    pub faults: Option<Arc<dyn Faults>>,
    /// The clock of modification times.
    pub now: fn() -> Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            open_files: 4096,
            compact_after: 16 << 20,
            probe_after: Duration::from_secs(30),
            boot_id: disk::boot_id(),
            faults: None,
            now: Timestamp::now,
        }
    }
}

/// Number of the chunk that holds byte `offset`.
pub(crate) fn chunk_of(offset: u64) -> u64 {
    offset / CHUNK_SIZE
}

/// Number of chunks of a content of `size` bytes.
pub(crate) fn chunks_in(size: u64) -> u64 {
    size.div_ceil(CHUNK_SIZE)
}

/// `(offset, end)` widened to pieces and cut at `size`; empty (`offset == end`) at and beyond the end.
pub(crate) fn widen(offset: u64, len: u64, size: u64) -> (u64, u64) {
    let end = offset.saturating_add(len).min(size);
    if offset >= end {
        return (size, size);
    }
    let start = offset - offset % PIECE_SIZE;
    (start, end.div_ceil(PIECE_SIZE).saturating_mul(PIECE_SIZE).min(size))
}
