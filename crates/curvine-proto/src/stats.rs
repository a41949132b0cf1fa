//! Sums of what workers have counted.

use crate::v1::{StoreStats, WorkerStats};

impl WorkerStats {
    /// Adds what another worker has counted.
    pub fn add(&mut self, other: &WorkerStats) {
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.ufs_bytes += other.ufs_bytes;
        self.ufs_requests += other.ufs_requests;
        self.cache_hits += other.cache_hits;
        self.cache_misses += other.cache_misses;
        self.checksum_errors += other.checksum_errors;
        self.evictions += other.evictions;
        self.evicted_bytes += other.evicted_bytes;
        self.not_kept += other.not_kept;
        self.fetches_in_flight += other.fetches_in_flight;
        self.exposures += other.exposures;
        self.promotions += other.promotions;
        self.demotions += other.demotions;
        for store in &other.stores {
            match self.stores.iter_mut().find(|known| known.mount == store.mount) {
                Some(known) => known.add(store),
                None => self.stores.push(store.clone()),
            }
        }
        self.stores.sort_by_key(|store| store.mount);
    }
}

impl StoreStats {
    /// Adds what another worker has counted for the same mount.
    pub fn add(&mut self, other: &StoreStats) {
        if self.path.is_empty() {
            self.path = other.path.clone();
            self.url = other.url.clone();
        }
        self.requests += other.requests;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.errors += other.errors;
        self.retries += other.retries;
        self.in_flight += other.in_flight;
        self.skipped += other.skipped;
        self.hits += other.hits;
        self.misses += other.misses;
        self.hit_bytes += other.hit_bytes;
        self.miss_bytes += other.miss_bytes;
        self.evictions += other.evictions;
        self.evicted_bytes += other.evicted_bytes;
        self.dirty_bytes += other.dirty_bytes;
        self.dirty_limit += other.dirty_limit;
    }

    /// The mount's path, for people and labels; empty if it is not known.
    pub fn label(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_added_each_to_itself() {
        let store = |mount, hits| StoreStats { mount, hits, path: format!("/{mount}").into(), ..Default::default() };
        let mut sum =
            WorkerStats { stores: vec![StoreStats { path: Default::default(), ..store(2, 1) }], ..Default::default() };
        sum.add(&WorkerStats { cache_hits: 5, stores: vec![store(1, 4), store(2, 3)], ..Default::default() });
        let of = |mount: usize| (sum.stores[mount - 1].label(), sum.stores[mount - 1].hits);
        assert_eq!((sum.cache_hits, of(1), of(2)), (5, ("/1".into(), 4), ("/2".into(), 4)));
    }
}
