//! What this worker did for each mount since it started.
//!
//! Always: counts only rise, also when a mount's options change and its store is opened anew. Mount 0 stands for content whose mount
//! this worker was not told yet: what an earlier run fetched, until it is resolved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use curvine_proto::{MountInfo, StoreStats};
use curvine_types::MountId;
use curvine_ufs::{CountersSnapshot, Ufs};
use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct PerMount(Mutex<BTreeMap<MountId, Arc<OfMount>>>);

/// The counters of one mount.
#[derive(Default)]
pub(crate) struct OfMount {
    store: Mutex<Store>,
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    miss_bytes: AtomicU64,
    evictions: AtomicU64,
    evicted_bytes: AtomicU64,
}

#[derive(Default)]
struct Store {
    path: Vec<u8>,
    url: String,
    ufs: Option<Arc<dyn Ufs>>,
    /// Counts of handles that were replaced.
    retired: CountersSnapshot,
}

impl OfMount {
    /// A read that was served from what was here, or had to wait for the store.
    pub fn read(&self, missed: bool, bytes: u64) {
        let (count, sum) = if missed { (&self.misses, &self.miss_bytes) } else { (&self.hits, &self.hit_bytes) };
        count.fetch_add(1, Relaxed);
        sum.fetch_add(bytes, Relaxed);
    }

    pub fn evicted(&self, bytes: u64) {
        self.evictions.fetch_add(1, Relaxed);
        self.evicted_bytes.fetch_add(bytes, Relaxed);
    }

    fn stats(&self, mount: MountId) -> StoreStats {
        let store = self.store.lock();
        let counts = store.ufs.as_ref().map(|ufs| ufs.counters().snapshot()).unwrap_or_default();
        let counts = sum(store.retired, counts);
        StoreStats {
            mount,
            path: store.path.clone().into(),
            url: store.url.clone(),
            requests: counts.requests,
            bytes_read: counts.bytes,
            bytes_written: counts.written,
            errors: counts.errors,
            retries: counts.retries,
            in_flight: counts.in_flight,
            skipped: counts.skipped,
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            hit_bytes: self.hit_bytes.load(Relaxed),
            miss_bytes: self.miss_bytes.load(Relaxed),
            evictions: self.evictions.load(Relaxed),
            evicted_bytes: self.evicted_bytes.load(Relaxed),
            // Of what is here now, whoever has the contents adds it.
            dirty_bytes: 0,
            dirty_limit: 0,
        }
    }
}

fn sum(one: CountersSnapshot, other: CountersSnapshot) -> CountersSnapshot {
    CountersSnapshot {
        requests: one.requests + other.requests,
        bytes: one.bytes + other.bytes,
        written: one.written + other.written,
        errors: one.errors + other.errors,
        retries: one.retries + other.retries,
        in_flight: one.in_flight + other.in_flight,
        skipped: one.skipped + other.skipped,
    }
}

impl PerMount {
    pub fn of(&self, mount: MountId) -> Arc<OfMount> {
        self.0.lock().entry(mount).or_default().clone()
    }

    /// A mount's store was opened, maybe again.
    pub fn opened(&self, info: &MountInfo, ufs: Arc<dyn Ufs>) {
        let of = self.of(info.id);
        let mut store = of.store.lock();
        store.path = info.path.to_vec();
        store.url = info.url.clone();
        if let Some(old) = store.ufs.replace(ufs) {
            // Of requests that the old handle still has under way, the end is not seen.
            let counts = CountersSnapshot { in_flight: 0, ..old.counters().snapshot() };
            store.retired = sum(store.retired, counts);
        }
    }

    pub fn stats(&self) -> Vec<StoreStats> {
        let all: Vec<(MountId, Arc<OfMount>)> = self.0.lock().iter().map(|(id, of)| (*id, of.clone())).collect();
        all.into_iter().map(|(id, of)| of.stats(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_when_a_store_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().display());
        let per = PerMount::default();
        let info = MountInfo { id: 3, path: b"/data".to_vec().into(), url: url.clone(), ..Default::default() };
        let open =
            || curvine_ufs::open_with(&url, &Default::default(), &Default::default(), Default::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for round in 1..=2 {
            let ufs = open();
            per.opened(&info, ufs.clone());
            runtime.block_on(ufs.stat("nothing")).unwrap();
            per.of(3).read(round == 1, 10);
            per.of(3).evicted(5);
            let stats = per.stats();
            assert_eq!((stats.len(), stats[0].requests, stats[0].evicted_bytes), (1, round, 5 * round));
        }
        let stats = &per.stats()[0];
        assert_eq!((stats.hits, stats.misses, stats.hit_bytes, stats.miss_bytes), (1, 1, 10, 10));
        assert_eq!((&stats.path[..], stats.in_flight), (&b"/data"[..], 0));
    }
}
