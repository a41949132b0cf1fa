//! The store as a whole: opening, finding contents, choosing tiers, deleting, upkeep.
//!
//! What always holds: a content is in the table from before its file exists until after its file's name is gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use curvine_types::{ClusterId, Error, ErrorKind, Result};
use parking_lot::{Mutex, RwLock};

use crate::content::{Content, State, not_here};
use crate::disk::Disk;
use crate::files::FileCache;
use crate::index::Identity;
use crate::moves::{Hot, MOVED_PER_ROUND};
use crate::record::{Body, Nothing, Record};
use crate::tier::{Reservation, Tier, shard_of};
use crate::types::*;

/// Tables that the contents are spread over, so that threads do not meet at one lock.
const TABLES: usize = 64;

/// Told of each eviction, with the bytes that it freed.
pub type OnEvict = Box<dyn Fn(ContentKey, u64) + Send + Sync>;

/// The data of a worker on its local disks.
pub struct BlockStore {
    pub(crate) tiers: Vec<Tier>,
    tables: Vec<RwLock<BTreeMap<ContentKey, Arc<Content>>>>,
    pub(crate) open_files: FileCache,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    pub(crate) disk: Disk,
    pub(crate) foreign: Vec<PathBuf>,
    pub(crate) checksum_errors: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) evicted_bytes: AtomicU64,
    pub(crate) promotions: AtomicU64,
    pub(crate) demotions: AtomicU64,
    pub(crate) on_evict: OnceLock<OnEvict>,
    /// Contents that are read so often that they belong on a faster tier.
    pub(crate) hot: Hot,
    pub(crate) exposures: AtomicU64,
    /// Shards of tiers whose files are still to be compared with the index after an unclean boot.
    pub(crate) sweep: Mutex<Vec<(usize, u64)>>,
}

/// Current values of what has a limit, and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    pub contents: u64,
    pub open_files: u64,
    pub index_bytes: u64,
    pub checksum_errors: u64,
    pub evictions: u64,
    pub evicted_bytes: u64,
    /// Contents moved to a faster tier, and to a slower one.
    pub promotions: u64,
    pub demotions: u64,
    /// Bytes of files that were deleted while somebody had them open.
    pub orphaned_bytes: u64,
    /// Descriptors given away.
    pub exposures: u64,
}

impl BlockStore {
    pub(crate) fn assemble(cluster: ClusterId, worker: [u8; 16], tiers: Vec<Tier>, options: Options) -> Self {
        Self {
            tiers,
            tables: (0..TABLES).map(|_| RwLock::default()).collect(),
            open_files: FileCache::new(options.open_files),
            identity: Identity { cluster, worker },
            disk: Disk::new(options.faults.clone()),
            options,
            foreign: Vec::new(),
            checksum_errors: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            promotions: AtomicU64::new(0),
            demotions: AtomicU64::new(0),
            on_evict: OnceLock::new(),
            hot: Hot::default(),
            exposures: AtomicU64::new(0),
            sweep: Mutex::default(),
        }
    }

    /// Who is told of evictions, under the lock of the content: it must not wait or call back. The first one stays.
    pub fn on_evict(&self, tell: OnEvict) {
        let _ = self.on_evict.set(tell);
    }

    /// Made with the first tier directory and the same in all of them.
    pub fn worker_uuid(&self) -> [u8; 16] {
        self.identity.worker
    }

    pub fn cluster(&self) -> ClusterId {
        self.identity.cluster
    }

    /// Directories of other clusters that were found beside ours and left alone.
    pub fn foreign(&self) -> &[PathBuf] {
        &self.foreign
    }

    pub fn contains(&self, key: ContentKey) -> bool {
        self.get(key).is_some()
    }

    /// What is here, after `after`, ascending, at most `limit` items; none means the end.
    pub fn inventory(&self, after: Option<ContentKey>, limit: usize) -> Vec<InventoryItem> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        // A share from each table; beyond the last of one that may have more, others may have been asked for too little.
        let share = limit.div_ceil(TABLES) + limit.isqrt();
        let mut until: Option<ContentKey> = None;
        let mut found: Vec<Arc<Content>> = Vec::new();
        for table in &self.tables {
            let before = found.len();
            found.extend(table.read().range((start, Bound::Unbounded)).take(share).map(|(_, content)| content.clone()));
            if found.len() - before == share {
                let last = found.last().map(|content| content.key);
                until = last.filter(|last| until.is_none_or(|until| *last < until)).or(until);
            }
        }
        found.retain(|content| until.is_none_or(|until| content.key <= until));
        found.sort_unstable_by_key(|content| content.key);
        found.truncate(limit);
        found
            .iter()
            .map(|content| {
                let state = content.state.read();
                InventoryItem { key: content.key, version: state.version, kind: state.kind }
            })
            .collect()
    }

    pub fn tiers(&self) -> Vec<TierStatus> {
        self.tiers.iter().map(Tier::status).collect()
    }

    pub fn gauges(&self) -> Gauges {
        Gauges {
            contents: self.tables.iter().map(|table| table.read().len() as u64).sum(),
            open_files: self.open_files.len() as u64,
            index_bytes: self.tiers.iter().map(Tier::index_len).sum(),
            checksum_errors: self.checksum_errors.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            evicted_bytes: self.evicted_bytes.load(Ordering::Relaxed),
            promotions: self.promotions.load(Ordering::Relaxed),
            demotions: self.demotions.load(Ordering::Relaxed),
            orphaned_bytes: self.tiers.iter().map(Tier::orphaned).sum(),
            exposures: self.exposures.load(Ordering::Relaxed),
        }
    }

    /// Deletes contents of whatever kind; those that are not here are fine. Goes on after an error and returns the first.
    pub fn delete(&self, keys: &[ContentKey]) -> Result<()> {
        self.delete_up_to(keys.iter().map(|key| (*key, u64::MAX)))
    }

    /// As `delete`, but a content of a later version than the one named stays: it came back here since.
    pub fn delete_up_to(&self, contents: impl IntoIterator<Item = (ContentKey, u64)>) -> Result<()> {
        let mut result = Ok(());
        for (key, version) in contents {
            if let Some(content) = self.get(key) {
                let deleted = self.tiers[content.tier].check().and_then(|()| {
                    let _sync = content.sync.lock();
                    let mut state = content.state.write();
                    if state.version > version { Ok(()) } else { self.remove(&content, &mut state) }
                });
                result = result.and(deleted);
            }
        }
        result
    }

    /// The work that nobody waits for: compacts indexes, probes failed directories, looks for files that no index knows.
    /// To be called every few seconds by one thread.
    pub fn maintain(&self) {
        let mut budget = MOVED_PER_ROUND;
        for (number, tier) in self.tiers.iter().enumerate() {
            if tier.failed_for(self.options.probe_after) {
                match self.revive(number) {
                    Ok(()) => tier.recovered(),
                    Err(error) => tier.fail(&error.to_string()),
                }
            }
            if tier.check().is_ok() {
                tier.reap_orphans();
                if let Err(error) = tier.compact(self.options.compact_after) {
                    tracing::warn!(dir = %tier.config.dir.display(), %error, "compaction failed, the old index stays");
                }
                tier.candidates.lock().tidy(tier.files.load(Ordering::Relaxed));
                self.keep_watermarks(number, &mut budget);
            }
        }
        self.promote_some(&mut budget);
        self.sweep_step();
    }

    /// Makes all that was acknowledged of all live contents durable. Goes on after an error and returns the first.
    pub fn sync_all(&self) -> Result<()> {
        let mut result = Ok(());
        for table in &self.tables {
            let contents: Vec<_> = table.read().values().cloned().collect();
            for content in contents {
                if content.state.read().kind != ContentKind::Live {
                    continue;
                }
                result = result.and(match self.fsync(content.key) {
                    // Deleted meanwhile.
                    Err(error) if error.kind() == ErrorKind::VersionMismatch => Ok(()),
                    synced => synced,
                });
            }
        }
        result
    }

    /// Makes everything durable and marks the indexes as closed. The store may still be used; the mark is then void.
    pub fn close(&self) -> Result<()> {
        let mut result = Ok(());
        for table in &self.tables {
            let contents: Vec<_> = table.read().values().cloned().collect();
            for content in contents {
                let live = content.state.read().kind == ContentKind::Live;
                if live && self.tiers[content.tier].check().is_ok() {
                    result = result.and(self.fsync(content.key));
                }
            }
        }
        for tier in &self.tiers {
            if tier.check().is_err() {
                continue;
            }
            let closed = self
                .disk
                .before(crate::DiskOp::Sync, tier.dir())
                .and_then(|()| File::open(tier.dir()))
                .and_then(|dir| Ok(rustix::fs::syncfs(&dir)?))
                .map_err(|error| tier.fault(error, "cannot sync a tier directory", tier.dir()))
                .and_then(|()| tier.log(&[Record::of_log(Body::Closed(Nothing {}))]))
                .and_then(|position| tier.sync_log(position));
            result = result.and(closed);
        }
        result
    }

    pub(crate) fn get(&self, key: ContentKey) -> Option<Arc<Content>> {
        self.table(key).read().get(&key).cloned()
    }

    /// The content, or the error that tells the caller to ask where it is; `Io` if its tier directory is out of service.
    pub(crate) fn find(&self, key: ContentKey) -> Result<Arc<Content>> {
        let Some(content) = self.get(key) else {
            // It may be in a directory that could not be opened yet: nobody can say that it is not here.
            self.tiers.iter().find(|tier| !tier.is_opened()).map_or(Ok(()), Tier::check)?;
            return Err(not_here(key));
        };
        self.tiers[content.tier].check()?;
        Ok(content)
    }

    /// Adds a content unless one of this key is there; then that one is returned.
    pub(crate) fn insert(&self, content: Arc<Content>) -> Option<Arc<Content>> {
        let mut table = self.table(content.key).write();
        if let Some(there) = table.get(&content.key) {
            return Some(there.clone());
        }
        self.tiers[content.tier].files.fetch_add(1, Ordering::Relaxed);
        table.insert(content.key, content);
        None
    }

    /// Puts a content in the place of the one that it was copied from; false if that is not there any more.
    pub(crate) fn replace(&self, old: &Content, new: Arc<Content>) -> bool {
        let mut table = self.table(old.key).write();
        if table.get(&old.key).is_none_or(|there| there.id != old.id) {
            return false;
        }
        self.tiers[new.tier].files.fetch_add(1, Ordering::Relaxed);
        table.insert(new.key, new);
        true
    }

    fn table(&self, key: ContentKey) -> &RwLock<BTreeMap<ContentKey, Arc<Content>>> {
        &self.tables[shard_of(key) as usize % TABLES]
    }

    /// The local file of a content, which must have been created.
    pub(crate) fn file(&self, content: &Content) -> Result<Arc<File>> {
        if let Some(file) = self.open_files.get(content.id) {
            return Ok(file);
        }
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        let file = match self.disk.open(&path, false) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !tier.is_gone() => {
                return Err(Error::new(ErrorKind::DataLoss, "the local file of a content is missing")
                    .with("file", path.display()));
            }
            Err(error) => return Err(tier.fault(error, "cannot open the file of a content", &path)),
        };
        self.open_files.insert(content.id, file.clone());
        // `remove` sets the mark before it empties the cache: one of the two sees the other.
        if content.gone.load(Ordering::SeqCst) {
            self.open_files.remove(content.id);
        }
        Ok(file)
    }

    /// Takes a content, whose state is held, out of everything.
    pub(crate) fn remove(&self, content: &Content, state: &mut State) -> Result<()> {
        if state.deleted {
            return Ok(());
        }
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        // The file first: a record without a file is harmless, a file without a record is lost space.
        if state.exposure != Exposure::None && self.is_used(content)? {
            // Whoever has it open goes on with it, and it goes on taking space.
            tier.orphan(&path)?;
        } else {
            self.disk.unlink(&path).map_err(|error| tier.fault(error, "cannot delete the file of a content", &path))?;
        }
        state.deleted = true;
        content.gone.store(true, Ordering::SeqCst);
        self.unpin(content, state);
        tier.charge_copy(content, state, 0);
        tier.files.fetch_sub(1, Ordering::Relaxed);
        self.open_files.remove(content.id);
        {
            // One that has moved to another tier directory stays in the table.
            let mut table = self.table(content.key).write();
            if table.get(&content.key).is_some_and(|there| there.id == content.id) {
                table.remove(&content.key);
            }
        }
        tier.log(&[Record::new(content.key, Body::Delete(Nothing {}))])?;
        Ok(())
    }

    /// Sets space aside in a tier, evicting clean copies (but not `except`) if need be. `need` is asked once more when
    /// there is no space otherwise: what the operation would really allocate.
    pub(crate) fn reserve<'a>(
        &self,
        tier: &'a Tier,
        bytes: u64,
        except: Option<ContentKey>,
        need: impl FnOnce() -> u64,
    ) -> Result<Reservation<'a>> {
        if let Some(reservation) = tier.reserve(bytes) {
            return Ok(reservation);
        }
        let bytes = need();
        loop {
            if let Some(reservation) = tier.reserve(bytes) {
                return Ok(reservation);
            }
            if !self.evict_one(tier, except)? {
                return Err(Error::new(ErrorKind::NoSpace, "the tier directory is full")
                    .with("file", tier.config.dir.display())
                    .with("length", bytes)
                    .with("limit", tier.room().0));
            }
        }
    }

    /// The tier directory for a new content: the first kind, in configured order, with room for it; within a kind the one
    /// with most room. Without room anywhere the one with most, because clean copies may still make way.
    pub(crate) fn choose_tier(&self, need: u64, authoritative: bool) -> Result<usize> {
        let only_mem = self.tiers.iter().all(|tier| tier.config.kind == TierKind::Mem);
        let usable =
            |tier: &Tier| tier.check().is_ok() && (!authoritative || only_mem || tier.config.kind != TierKind::Mem);
        let rooms: Vec<(usize, u64, u64)> = self
            .tiers
            .iter()
            .enumerate()
            .filter(|(_, tier)| usable(tier))
            .map(|(number, tier)| {
                let (capacity, free) = tier.room();
                let available = if authoritative { free + tier.evictable() } else { free };
                (number, capacity, available)
            })
            .collect();
        let mut kinds: Vec<TierKind> = Vec::new();
        for tier in &self.tiers {
            if !kinds.contains(&tier.config.kind) {
                kinds.push(tier.config.kind);
            }
        }
        let first = |fits: &dyn Fn(&(usize, u64, u64)) -> bool| {
            kinds.iter().find_map(|kind| {
                let of_kind = rooms.iter().filter(|(number, ..)| self.tiers[*number].config.kind == *kind);
                of_kind.filter(|room| fits(room)).max_by_key(|(_, _, available)| *available)
            })
        };
        // Nothing makes way for a clean copy while another tier has room. Then one may count on evictions, but what would fill most
        // of a tier belongs on a larger one.
        first(&|(_, _, available)| *available >= need)
            .or_else(|| first(&|(_, capacity, _)| !authoritative && need <= *capacity / 2))
            .or_else(|| rooms.iter().max_by_key(|(_, capacity, available)| (*available, *capacity)))
            .map(|(number, ..)| *number)
            .ok_or_else(|| Error::new(ErrorKind::Io, "no tier directory is in service"))
    }

    /// How long a failed tier directory is left alone.
    pub fn probe_after(&self) -> Duration {
        self.options.probe_after
    }
}
