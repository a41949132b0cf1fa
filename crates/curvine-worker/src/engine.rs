//! What the parts of a worker share once its cluster is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use curvine_blockstore::{BlockStore, TierStatus, Timestamp};
use curvine_proto::{LiveAttr, StoreStats, TierInfo, Time, WorkerStats};
use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::clock::boot_time;
use crate::copies::Copies;
use crate::dirty::Dirty;
use crate::disk::DiskPool;
use crate::fetch::Fetcher;
use crate::pins::Pins;
use crate::source::Sources;
use crate::stats::Stats;
use crate::store_change::Orders;

/// How long a heartbeat waits for the disks to tell their free space.
const TIERS_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Engine {
    pub store: Arc<BlockStore>,
    pub disk: Arc<DiskPool>,
    pub sources: Arc<Sources>,
    pub copies: Copies,
    pub fetcher: Arc<Fetcher>,
    pub stats: Arc<Stats>,
    pub lease: Lease,
    /// Replies being built and sent.
    pub replies: ByteBudget,
    pub last_tiers: Mutex<Vec<TierInfo>>,
    pub orders: Orders,
    pub pins: Pins,
    /// Content on its way into stores.
    pub uploads: ByteBudget,
    /// What waits for its upload.
    pub dirty: Dirty,
    /// The worker is being drained.
    pub leaving: AtomicBool,
}

impl Engine {
    /// For the heartbeat.
    pub fn worker_stats(&self) -> WorkerStats {
        let mut stores = self.sources.per_mount.stats();
        self.add_dirty(&mut stores);
        let store = self.store.gauges();
        WorkerStats {
            bytes_read: self.stats.bytes_read.load(Relaxed),
            bytes_written: self.stats.bytes_written.load(Relaxed),
            ufs_bytes: stores.iter().map(|store| store.bytes_read).sum(),
            ufs_requests: stores.iter().map(|store| store.requests).sum(),
            cache_hits: self.stats.hits.load(Relaxed),
            cache_misses: self.stats.misses.load(Relaxed),
            checksum_errors: store.checksum_errors,
            evictions: store.evictions,
            evicted_bytes: store.evicted_bytes,
            not_kept: self.stats.not_kept.load(Relaxed),
            fetches_in_flight: self.fetcher.in_flight() as u64,
            exposures: store.exposures,
            promotions: store.promotions,
            demotions: store.demotions,
            stores,
        }
    }

    fn add_dirty(&self, stores: &mut Vec<StoreStats>) {
        let dirty = self.dirty.bytes();
        for mount in dirty.keys() {
            if !stores.iter().any(|store| store.mount == *mount) {
                stores.push(StoreStats { mount: *mount, ..StoreStats::default() });
            }
        }
        for store in stores.iter_mut().filter(|store| store.mount != 0) {
            store.dirty_bytes = dirty.get(&store.mount).copied().unwrap_or(0);
            store.dirty_limit = self.dirty.limit();
        }
    }

    /// For registration and heartbeat; as last seen, if the disks take too long to say.
    pub async fn tier_infos(self: &Arc<Self>) -> Vec<TierInfo> {
        let store = self.store.clone();
        let deadline = Instant::now() + TIERS_TIMEOUT;
        let looking = self.disk.run(deadline, move || Ok(store.tiers()));
        let looked = timeout_at(deadline, looking).await;
        let mut last = self.last_tiers.lock();
        if let Ok(Ok(tiers)) = looked {
            *last = tiers.into_iter().map(tier_info).collect();
        }
        last.clone()
    }
}

fn tier_info(tier: TierStatus) -> TierInfo {
    TierInfo {
        dir: tier.dir.display().to_string(),
        kind: tier.kind.name().to_string(),
        capacity: tier.capacity,
        used: tier.used,
        available: tier.available,
        files: tier.files,
        state: tier.state,
        clean: tier.clean,
    }
}

/// Until when the master takes this worker for alive, at least. Counted from when a request was sent, so that it ends here
/// before it ends there.
#[derive(Default)]
pub(crate) struct Lease(Mutex<Duration>);

impl Lease {
    /// The master has answered a request that was sent at `sent` (`boot_time`).
    pub fn renew(&self, sent: Duration, length: Duration) {
        let mut until = self.0.lock();
        *until = (*until).max(sent + length);
    }

    /// `Unavailable` if the lease has run out: another worker may be the authority by now.
    pub fn check(&self) -> Result<()> {
        if boot_time() < *self.0.lock() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "the worker has not heard from the master for a lease time"))
    }
}

/// A budget of bytes in memory.
#[derive(Clone)]
pub(crate) struct ByteBudget {
    permits: Arc<Semaphore>,
    limit: u64,
}

impl ByteBudget {
    /// Unit of the budget, so that it fits the semaphore.
    const UNIT: u64 = 4096;

    /// `bytes`, but never below `least`, the largest amount that is ever taken.
    pub fn new(bytes: u64, least: u64) -> Self {
        let units = bytes.max(least).div_ceil(Self::UNIT).min(Semaphore::MAX_PERMITS as u64 >> 1);
        Self { permits: Arc::new(Semaphore::new(units as usize)), limit: units * Self::UNIT }
    }

    /// Waits for `bytes`; `Overloaded` at the deadline.
    pub async fn take(&self, bytes: u64, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        let units = Self::units(bytes);
        match timeout_at(deadline, self.permits.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::new(ErrorKind::Overloaded, "the memory budget of the worker is in use")
                .with("limit", self.limit)),
        }
    }

    /// Takes `bytes` if nobody has to wait for it.
    pub fn try_take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_many_owned(Self::units(bytes)).ok()
    }

    /// Bytes taken now, and the limit.
    pub fn used(&self) -> (u64, u64) {
        (self.limit - self.permits.available_permits() as u64 * Self::UNIT, self.limit)
    }

    fn units(bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(Self::UNIT)).unwrap_or(u32::MAX)
    }
}

/// Attributes as the wire has them.
pub(crate) fn live_attr(attr: curvine_blockstore::LiveAttr) -> LiveAttr {
    LiveAttr { size: attr.size, mtime: Some(Time::new(attr.mtime.sec, attr.mtime.nsec)), blocks: attr.blocks }
}

/// A time as the block store has it.
pub(crate) fn timestamp(time: &Time) -> Result<Timestamp> {
    if time.nsec >= 1_000_000_000 {
        return Err(Error::new(ErrorKind::InvalidArgument, "a time has less than 10^9 nanoseconds"));
    }
    Ok(Timestamp { sec: time.sec, nsec: time.nsec })
}
