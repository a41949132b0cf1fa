//! One tier directory: identity, index, space, and whether it works.
//!
//! What always holds: `<dir>/<cluster uuid>/` is held by one process (a lock on `identity`); `used` is what the store has
//! allocated in it; a directory whose disk failed serves nothing until a probe has succeeded.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use curvine_types::{ClusterId, Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use crate::content::{Content, State};
use crate::disk::{self, Disk, DiskOp, io_error};
use crate::eviction::S3Fifo;
use crate::index::{Damage, Identity, IndexLog, Position, read_identity};
use crate::record::{Record, Replay};
use crate::types::{ContentKey, ContentKind, TierConfig, TierStatus};

/// Directories among which the files of a tier are spread.
pub(crate) const SHARDS: u64 = 256;
/// How long a look at the disk's free space is believed.
const SPACE_TTL: Duration = Duration::from_millis(200);
/// Bytes allocated after which the disk's free space is looked at again.
const SPACE_STEP: u64 = 32 << 20;

pub(crate) struct Tier {
    pub config: TierConfig,
    pub disk: Disk,
    /// `<dir>/<cluster uuid>`.
    root: PathBuf,
    opened: OnceLock<Opened>,
    failure: Mutex<Option<Failure>>,
    pub(crate) used: AtomicU64,
    pending: AtomicU64,
    /// The part of `used` that clean copies take.
    evictable: AtomicU64,
    /// Sizes of what is pinned, as large as it is when it is whole.
    pub pinned: AtomicU64,
    pub files: AtomicUsize,
    /// Files without a content that somebody still has open, and what they take.
    pub orphans: Mutex<HashMap<PathBuf, u64>>,
    space: Mutex<Space>,
    pub candidates: Mutex<S3Fifo<Arc<Content>>>,
    /// Copies that go before any of them, the oldest first.
    pub secondary: Mutex<VecDeque<Arc<Content>>>,
}

struct Opened {
    index: IndexLog,
    _lock: File,
}

struct Failure {
    why: String,
    since: Instant,
}

struct Space {
    free: u64,
    total: u64,
    looked: Option<Instant>,
    used_then: u64,
}

/// Space that an operation may be about to use; given back when dropped.
pub(crate) struct Reservation<'a> {
    tier: &'a Tier,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.tier.pending.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Tier {
    pub fn new(config: TierConfig, cluster: ClusterId, disk: Disk) -> Self {
        let root = config.dir.join(cluster.to_string());
        Self {
            config,
            disk,
            root,
            opened: OnceLock::new(),
            failure: Mutex::default(),
            used: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            evictable: AtomicU64::new(0),
            pinned: AtomicU64::new(0),
            files: AtomicUsize::new(0),
            space: Mutex::new(Space { free: 0, total: 0, looked: None, used_then: 0 }),
            candidates: Mutex::default(),
            secondary: Mutex::default(),
            orphans: Mutex::default(),
        }
    }

    /// The worker's uuid if this directory has been used by one; `None` if it is new or its identity file is damaged.
    pub fn known_worker(&self) -> Result<Option<[u8; 16]>> {
        for name in ["identity", "index"] {
            let path = self.root.join(name);
            match File::open(&path).map_err(|error| io_error(error, "cannot open", &path)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(file) => match read_identity(&file) {
                    Ok(identity) => return Ok(Some(identity.worker)),
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        tracing::error!(file = %path.display(), %error, "cannot tell whose directory this is");
                    }
                    Err(error) => return Err(error.with("file", path.display())),
                },
            }
        }
        Ok(None)
    }

    /// Makes the directory if it is new, locks it, and replays its index. `Damage::Missing` only if there is data that the
    /// index should have told of.
    pub fn open(&self, identity: Identity) -> Result<(Replay, Damage)> {
        let dir = &self.root;
        let failed = |error| io_error(error, "cannot use a tier directory", dir);
        self.disk.before(DiskOp::Open, dir).map_err(failed)?;
        let fresh = !dir.join("data").exists();
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock_path = dir.join("identity");
        let lock = self.disk.open(&lock_path, true).map_err(failed)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::new(
                ErrorKind::Busy,
                "another process uses this tier directory; give each worker its own",
            )
            .with("file", lock_path.display()));
        }
        self.disk.write(DiskOp::IndexWrite, &lock, &lock_path, &identity.encode(), 0).map_err(failed)?;
        self.disk.sync(DiskOp::IndexSync, &lock, &lock_path).map_err(failed)?;
        for shard in 0..SHARDS {
            let shard = dir.join("data").join(format!("{shard:02x}"));
            std::fs::create_dir_all(&shard).map_err(failed)?;
        }
        std::fs::create_dir_all(self.orphan_dir()).map_err(failed)?;
        for dir in [self.config.dir.as_path(), dir, &dir.join("data")] {
            self.disk.sync_dir(dir).map_err(failed)?;
        }
        let (index, replay, damage) = IndexLog::open(self.disk.clone(), dir.join("index"), identity)?;
        let damage = if damage == Damage::Missing && fresh { Damage::None } else { damage };
        self.find_orphans().map_err(failed)?;
        // A second opening cannot happen: the lock above is held for as long as this lives.
        let _ = self.opened.set(Opened { index, _lock: lock });
        Ok((replay, damage))
    }

    pub fn is_opened(&self) -> bool {
        self.opened.get().is_some()
    }

    /// The local file of a content.
    pub fn path_of(&self, key: ContentKey) -> PathBuf {
        self.root.join(format!("data/{:02x}/{:x}-{:x}", shard_of(key), key.inode, key.generation))
    }

    /// The directory of a shard.
    pub fn shard_dir(&self, shard: u64) -> PathBuf {
        self.root.join(format!("data/{shard:02x}"))
    }

    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// `Io` while the directory is out of service.
    pub fn check(&self) -> Result<()> {
        match &*self.failure.lock() {
            None => Ok(()),
            Some(failure) => Err(Error::new(ErrorKind::Io, "the tier directory is out of service")
                .with("file", self.config.dir.display())
                .caused_by(failure.why.clone())),
        }
    }

    /// Turns an error of the disk into ours, and takes the directory out of service if the disk itself is at fault.
    pub fn fault(&self, error: io::Error, message: &'static str, path: &Path) -> Error {
        if disk::is_disk_failure(&error) || error.kind() == io::ErrorKind::NotFound && self.is_gone() {
            self.fail(&format!("{message}: {error}"));
            return Error::new(ErrorKind::Io, message).with("file", path.display()).caused_by(error);
        }
        io_error(error, message, path)
    }

    /// Whether the whole directory is not there any more: its disk was unmounted, or is covered.
    pub fn is_gone(&self) -> bool {
        !self.root.join("identity").exists()
    }

    /// Takes the directory out of service.
    pub fn fail(&self, why: &str) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(dir = %self.config.dir.display(), why, "a tier directory is out of service");
        }
        *failure = Some(Failure { why: why.to_string(), since: Instant::now() });
    }

    /// Whether the directory failed at least `age` ago.
    pub fn failed_for(&self, age: Duration) -> bool {
        self.failure.lock().as_ref().is_some_and(|failure| failure.since.elapsed() >= age)
    }

    /// Back in service.
    pub fn recovered(&self) {
        tracing::warn!(dir = %self.config.dir.display(), "a tier directory is back in service");
        *self.failure.lock() = None;
    }

    /// Writes, syncs and reads a small file.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.root.join("probe");
        let file = self.disk.open(&path, true)?;
        let text = b"curvine";
        self.disk.write(DiskOp::Write, &file, &path, text, 0)?;
        self.disk.sync(DiskOp::Sync, &file, &path)?;
        let mut back = [0; 7];
        self.disk.read(&file, &path, &mut back, 0)?;
        if &back == text { Ok(()) } else { Err(io::Error::other("read back something else than was written")) }
    }

    fn index(&self) -> io::Result<&IndexLog> {
        self.opened.get().map(|opened| &opened.index).ok_or_else(|| io::Error::other("the tier was never opened"))
    }

    /// Logs state transitions; they survive the process when this returns.
    pub fn log(&self, records: &[Record]) -> Result<Position> {
        self.index()
            .and_then(|index| index.append(records))
            .map_err(|error| self.fault(error, "cannot append to the index", &self.root))
    }

    /// Returns once the index is on the disk up to `position`.
    pub fn sync_log(&self, position: Position) -> Result<()> {
        self.index()
            .and_then(|index| index.sync(position))
            .map_err(|error| self.fault(error, "cannot sync the index", &self.root))
    }

    /// Compacts the index if it has grown by `after` bytes and to twice its size since the last time.
    pub fn compact(&self, after: u64) -> Result<()> {
        let Ok(index) = self.index() else { return Ok(()) };
        let (len, compacted) = index.len();
        if len < compacted.saturating_mul(2) || len - compacted < after {
            return Ok(());
        }
        index.compact().map_err(|error| self.fault(error, "cannot compact the index", &self.root))
    }

    /// Bytes of the index now.
    pub fn index_len(&self) -> u64 {
        self.index().map(|index| index.len().0).unwrap_or(0)
    }

    /// The allocated bytes of a content are `bytes` from now on.
    pub fn charge(&self, state: &mut State, bytes: u64) {
        let before = std::mem::replace(&mut state.charged, bytes);
        adjust(&self.used, before, bytes);
        if state.kind == ContentKind::Cached {
            adjust(&self.evictable, before, bytes);
        }
    }

    /// As `charge`, of what may be a clean copy and then weighs so much among those that may be evicted.
    pub fn charge_copy(&self, content: &Content, state: &mut State, bytes: u64) {
        let before = state.charged;
        self.charge(state, bytes);
        if state.kind == ContentKind::Cached {
            if content.pinned.load(Ordering::Relaxed) {
                // It cannot make way.
                adjust(&self.evictable, bytes, before);
            }
            self.candidates.lock().reweigh(&content.slot, bytes);
        }
    }

    /// So many bytes of clean copies are pinned, and no more.
    pub fn no_candidate(&self, bytes: u64) {
        adjust(&self.evictable, bytes, 0);
    }

    pub fn candidate(&self, bytes: u64) {
        adjust(&self.evictable, 0, bytes);
    }

    /// A clean copy may be evicted from now on, or again.
    pub fn add_candidate(&self, content: Arc<Content>) {
        if content.secondary.load(Ordering::Relaxed) {
            self.secondary.lock().push_back(content);
        } else {
            self.candidates.lock().insert(content);
        }
    }

    /// One that was taken out and could not be evicted.
    pub fn give_back(&self, content: Arc<Content>) {
        if content.secondary.load(Ordering::Relaxed) {
            self.secondary.lock().push_back(content);
        } else {
            self.candidates.lock().give_back(content);
        }
    }

    /// The next one to be evicted, taken out.
    pub fn next_victim(&self) -> Option<Arc<Content>> {
        let secondary = self.secondary.lock().pop_front();
        secondary.or_else(|| self.candidates.lock().victim())
    }

    /// Bytes of copies whose home is elsewhere, as large as they are when they are whole.
    pub fn copied_bytes(&self) -> u64 {
        let mut secondary = self.secondary.lock();
        secondary.retain(|content| !content.gone.load(Ordering::Relaxed));
        secondary.iter().map(|content| content.state.read().attr.size).sum()
    }

    /// So many per cent of what the directory can hold.
    pub fn share(&self, percent: u8) -> u64 {
        (u128::from(self.room().0) * u128::from(percent) / 100) as u64
    }

    /// Bytes that evictions could free.
    pub fn evictable(&self) -> u64 {
        self.evictable.load(Ordering::Relaxed)
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Sets `bytes` aside, if quota and disk have them.
    pub fn reserve(&self, bytes: u64) -> Option<Reservation<'_>> {
        let pending = self.pending.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let reservation = Reservation { tier: self, bytes };
        let (_, available) = self.room();
        let others = pending - bytes;
        (bytes.saturating_add(others) <= available).then_some(reservation)
    }

    /// What the directory can hold, and what of it is free (reservations not deducted).
    pub fn room(&self) -> (u64, u64) {
        let used = self.used();
        let mut space = self.space.lock();
        let stale = space.looked.is_none_or(|looked| looked.elapsed() > SPACE_TTL);
        if stale || used.abs_diff(space.used_then) > SPACE_STEP {
            match disk::space(&self.root) {
                Ok((free, total)) => {
                    *space = Space { free, total, looked: Some(Instant::now()), used_then: used };
                }
                Err(error) => {
                    drop(space);
                    let _ = self.fault(error, "cannot ask for free space", &self.root);
                    return (0, 0);
                }
            }
        }
        let free = space.free.saturating_sub(used.saturating_sub(space.used_then)).saturating_sub(self.config.reserve);
        let total = space.total.saturating_sub(self.config.reserve);
        match self.config.quota {
            Some(quota) => (quota, quota.saturating_sub(used).min(free)),
            None => (total, free),
        }
    }

    pub fn status(&self) -> TierStatus {
        let state = match &*self.failure.lock() {
            None => "ok".to_string(),
            Some(failure) => format!("failed: {}", failure.why),
        };
        let (capacity, available) = match self.check() {
            Ok(()) => {
                let (capacity, free) = self.room();
                (capacity, (free + self.evictable()).min(capacity))
            }
            Err(_) => (self.config.quota.unwrap_or(0), 0),
        };
        TierStatus {
            dir: self.config.dir.clone(),
            kind: self.config.kind,
            capacity,
            used: self.used(),
            available,
            clean: self.evictable(),
            files: self.files.load(Ordering::Relaxed) as u64,
            state,
        }
    }
}

/// A counter of bytes changes by the difference.
pub(crate) fn adjust(counter: &AtomicU64, before: u64, after: u64) {
    if after >= before {
        counter.fetch_add(after - before, Ordering::Relaxed);
    } else {
        let less = before - after;
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| Some(bytes.saturating_sub(less)));
    }
}

/// Which of the `SHARDS` directories holds a content's file.
pub(crate) fn shard_of(key: ContentKey) -> u64 {
    // Fibonacci hashing: inodes are dense, the top bits of the product are spread.
    (key.inode ^ key.generation.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56
}

/// The key that a file name stands for.
pub(crate) fn key_of_name(name: &str) -> Option<ContentKey> {
    let (inode, generation) = name.split_once('-')?;
    Some(ContentKey::new(u64::from_str_radix(inode, 16).ok()?, u64::from_str_radix(generation, 16).ok()?))
}
