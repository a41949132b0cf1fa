//! The metrics of a worker.

use std::sync::{Arc, Weak};

use curvine_proto::StoreStats;
use curvine_rpc::ServerWatch;
use curvine_web::{Metric, PROCESS, Page, Source};
use futures::future::BoxFuture;

use crate::engine::Engine;
use crate::service::WorkerService;

curvine_web::metrics! {
    /// Of the worker.
    METRICS {
        REGISTERED: Gauge = "curvine_worker_registered" [], "1 while the master takes this worker for alive.";
        CONNECTIONS: Gauge = "curvine_worker_connections" [], "Open connections of the RPC.";
        CONNECTIONS_MAX: Gauge = "curvine_worker_connections_limit" [], "Its limit.";
        REQUESTS: Gauge = "curvine_worker_requests_in_work" [], "Requests in work.";
        REQUEST_BYTES: Gauge = "curvine_worker_request_bytes" [], "Bytes of received requests.";
        REQUEST_BYTES_MAX: Gauge = "curvine_worker_request_bytes_limit" [], "Its limit, a quarter of `worker.memory_limit`.";
        REPLY_BYTES: Gauge = "curvine_worker_reply_bytes" [], "Bytes of replies being built and sent.";
        REPLY_BYTES_MAX: Gauge = "curvine_worker_reply_bytes_limit" [], "Its limit, a quarter of `worker.memory_limit`.";
        FETCH_BYTES: Gauge = "curvine_worker_fetch_bytes" [], "Bytes on their way from stores.";
        FETCH_BYTES_MAX: Gauge = "curvine_worker_fetch_bytes_limit" [], "Its limit, three eighths of `worker.memory_limit`.";
        UPLOAD_BYTES: Gauge = "curvine_worker_upload_bytes" [], "Bytes on their way into stores.";
        UPLOAD_BYTES_MAX: Gauge = "curvine_worker_upload_bytes_limit" [], "Its limit, an eighth of `worker.memory_limit`.";
        DISK: Gauge = "curvine_worker_disk_operations" [], "Disk operations under way.";
        DISK_MAX: Gauge = "curvine_worker_disk_operations_limit" [], "Its limit, `worker.disk_threads`.";
        FLIGHTS: Gauge = "curvine_worker_chunks_in_flight" [], "Chunks on their way from stores.";
        OPEN_FILES: Gauge = "curvine_worker_open_files" [], "Cache files that are kept open.";
        OPEN_FILES_MAX: Gauge = "curvine_worker_open_files_limit" [], "Its limit, `worker.open_files`.";
        CONTENTS: Gauge = "curvine_worker_contents" [], "Contents that are here, whole or in part.";
        INDEX: Gauge = "curvine_worker_index_bytes" [], "Bytes of the indexes of all tier directories.";
        ORPHANED: Gauge = "curvine_worker_orphaned_bytes" [], "Bytes of files that were deleted while somebody had them open.";
        PINNED: Gauge = "curvine_worker_pinned_bytes" [], "Sizes of contents that are pinned; at most 80% of a tier directory.";
        BYTES_READ: Counter = "curvine_worker_read_bytes_total" [], "Bytes served to clients. What the kernel reads by passthrough is not seen.";
        BYTES_WRITTEN: Counter = "curvine_worker_written_bytes_total" [], "Bytes written by clients, the same.";
        EXPOSURES: Counter = "curvine_worker_exposures_total" [], "Files given to the kernel for passthrough.";
        HITS: Counter = "curvine_worker_hits_total" [], "Reads of cached content that needed nothing from a store.";
        MISSES: Counter = "curvine_worker_misses_total" [], "Reads that had to wait for a store.";
        NOT_KEPT: Counter = "curvine_worker_not_kept_total" [], "Ranges that were served without being kept, for want of space.";
        EVICTIONS: Counter = "curvine_worker_evictions_total" [], "Clean copies that made way.";
        EVICTED: Counter = "curvine_worker_evicted_bytes_total" [], "Their bytes.";
        PROMOTIONS: Counter = "curvine_worker_promotions_total" [], "Contents moved to a faster tier.";
        DEMOTIONS: Counter = "curvine_worker_demotions_total" [], "Contents moved to a slower tier.";
        CHECKSUMS: Counter = "curvine_worker_checksum_errors_total" [], "Damaged pieces that were noticed.";
        TIER_UP: Gauge = "curvine_worker_tier_in_service" ["dir", "kind"], "1 while the tier directory works.";
        TIER_CAPACITY: Gauge = "curvine_worker_tier_capacity_bytes" ["dir", "kind"], "What it can hold.";
        TIER_USED: Gauge = "curvine_worker_tier_used_bytes" ["dir", "kind"], "What it holds.";
        TIER_CLEAN: Gauge = "curvine_worker_tier_clean_bytes" ["dir", "kind"], "The part of it that could be evicted.";
        TIER_AVAILABLE: Gauge = "curvine_worker_tier_available_bytes" ["dir", "kind"], "What it could still take, clean copies making way.";
        TIER_FILES: Gauge = "curvine_worker_tier_files" ["dir", "kind"], "Contents in it.";
        STORE_REQUESTS: Counter = "curvine_store_requests_total" ["mount"], "Attempts of requests to the store of a mount, retries included.";
        STORE_READ: Counter = "curvine_store_read_bytes_total" ["mount"], "Bytes of content read from it.";
        STORE_WRITTEN: Counter = "curvine_store_written_bytes_total" ["mount"], "Bytes of content stored in it.";
        STORE_ERRORS: Counter = "curvine_store_errors_total" ["mount"], "Attempts that failed; that something is not there is no failure.";
        STORE_RETRIES: Counter = "curvine_store_retries_total" ["mount"], "Attempts that repeated a failed one.";
        STORE_SKIPPED: Counter = "curvine_store_skipped_keys_total" ["mount"], "Keys that listings left out, because no name can be like them.";
        STORE_IN_FLIGHT: Gauge = "curvine_store_requests_in_flight" ["mount"], "Requests that wait for the store.";
        STORE_IN_FLIGHT_MAX: Gauge = "curvine_store_requests_in_flight_limit" [], "Its limit for each mount, `worker.ufs_concurrency`.";
        MOUNT_DIRTY: Gauge = "curvine_mount_dirty_bytes" ["mount"], "Bytes that were written here for a mount and are not in its store yet.";
        MOUNT_DIRTY_MAX: Gauge = "curvine_mount_dirty_bytes_limit" [], "Its limit for each mount, `worker.dirty_limit`.";
        MOUNT_HITS: Counter = "curvine_mount_hits_total" ["mount"], "As `curvine_worker_hits_total`, of one mount; an empty label: this worker does not know yet whose content it was.";
        MOUNT_MISSES: Counter = "curvine_mount_misses_total" ["mount"], "As `curvine_worker_misses_total`, of one mount.";
        MOUNT_HIT_BYTES: Counter = "curvine_mount_hit_bytes_total" ["mount"], "Bytes of those reads that hit.";
        MOUNT_MISS_BYTES: Counter = "curvine_mount_miss_bytes_total" ["mount"], "Bytes of those that missed.";
        MOUNT_EVICTIONS: Counter = "curvine_mount_evictions_total" ["mount"], "Clean copies of this mount that made way.";
        MOUNT_EVICTED: Counter = "curvine_mount_evicted_bytes_total" ["mount"], "Their bytes.";
    }
}

/// How a count is taken from what is known of a store.
type Count = fn(&StoreStats) -> u64;

/// Each counter of a mount with its metric.
const STORES: [(&Metric, Count); 14] = [
    (&MOUNT_DIRTY, |store| store.dirty_bytes),
    (&STORE_REQUESTS, |store| store.requests),
    (&STORE_READ, |store| store.bytes_read),
    (&STORE_WRITTEN, |store| store.bytes_written),
    (&STORE_ERRORS, |store| store.errors),
    (&STORE_RETRIES, |store| store.retries),
    (&STORE_SKIPPED, |store| store.skipped),
    (&STORE_IN_FLIGHT, |store| store.in_flight),
    (&MOUNT_HITS, |store| store.hits),
    (&MOUNT_MISSES, |store| store.misses),
    (&MOUNT_HIT_BYTES, |store| store.hit_bytes),
    (&MOUNT_MISS_BYTES, |store| store.miss_bytes),
    (&MOUNT_EVICTIONS, |store| store.evictions),
    (&MOUNT_EVICTED, |store| store.evicted_bytes),
];

/// The page of one worker.
pub(crate) struct WorkerPage {
    pub service: Weak<WorkerService>,
    pub server: ServerWatch,
    pub open_files_limit: usize,
    pub ufs_concurrency: usize,
}

impl WorkerPage {
    fn engine(&self) -> Option<Arc<Engine>> {
        self.service.upgrade()?.engine.get().cloned()
    }
}

impl Source for WorkerPage {
    fn role(&self) -> &'static str {
        "worker"
    }

    fn page(&self) -> BoxFuture<'_, Page> {
        Box::pin(async {
            let mut page = Page::of(&[PROCESS, METRICS]);
            let server = self.server.gauges();
            page.set(&CONNECTIONS, server.connections);
            page.set(&CONNECTIONS_MAX, server.connections_limit);
            page.set(&REQUESTS, server.requests);
            page.set(&REQUEST_BYTES, server.request_bytes);
            page.set(&REQUEST_BYTES_MAX, server.request_bytes_limit);
            page.set(&OPEN_FILES_MAX, self.open_files_limit);
            page.set(&STORE_IN_FLIGHT_MAX, self.ufs_concurrency);
            let Some(engine) = self.engine() else {
                page.set(&REGISTERED, 0);
                return page;
            };
            page.set(&REGISTERED, u8::from(engine.lease.check().is_ok()));
            budgets(&mut page, &engine);
            contents(&mut page, &engine);
            tiers(&mut page, &engine).await;
            page
        })
    }

    fn health(&self) -> Result<(), String> {
        let engine = self.engine().ok_or("the worker does not know its cluster yet")?;
        engine.lease.check().map_err(|error| error.to_string())?;
        let tiers = engine.last_tiers.lock();
        let broken = tiers.iter().filter(|tier| tier.state != "ok").count();
        if broken > 0 && broken == tiers.len() { Err("no tier directory works".to_string()) } else { Ok(()) }
    }
}

fn budgets(page: &mut Page, engine: &Engine) {
    for (metric, limit, (used, most)) in [
        (&REPLY_BYTES, &REPLY_BYTES_MAX, engine.replies.used()),
        (&FETCH_BYTES, &FETCH_BYTES_MAX, engine.fetcher.budget_used()),
        (&UPLOAD_BYTES, &UPLOAD_BYTES_MAX, engine.uploads.used()),
        (&DISK, &DISK_MAX, engine.disk.load()),
    ] {
        page.set(metric, used);
        page.set(limit, most);
    }
    page.set(&FLIGHTS, engine.fetcher.in_flight());
}

fn contents(page: &mut Page, engine: &Engine) {
    let store = engine.store.gauges();
    page.set(&OPEN_FILES, store.open_files);
    page.set(&CONTENTS, store.contents);
    page.set(&INDEX, store.index_bytes);
    page.set(&ORPHANED, store.orphaned_bytes);
    page.set(&PINNED, engine.store.pinned_bytes());
    let stats = engine.worker_stats();
    page.set(&BYTES_READ, stats.bytes_read);
    page.set(&BYTES_WRITTEN, stats.bytes_written);
    page.set(&EXPOSURES, stats.exposures);
    page.set(&HITS, stats.cache_hits);
    page.set(&MISSES, stats.cache_misses);
    page.set(&NOT_KEPT, stats.not_kept);
    page.set(&EVICTIONS, stats.evictions);
    page.set(&EVICTED, stats.evicted_bytes);
    page.set(&PROMOTIONS, stats.promotions);
    page.set(&DEMOTIONS, stats.demotions);
    page.set(&CHECKSUMS, stats.checksum_errors);
    page.set(&MOUNT_DIRTY_MAX, engine.dirty.limit());
    for store in &stats.stores {
        let mount = store.label();
        for (metric, value) in STORES {
            page.put(metric, &[&mount], value(store));
        }
    }
}

async fn tiers(page: &mut Page, engine: &Arc<Engine>) {
    for tier in engine.tier_infos().await {
        let labels = [tier.dir.as_str(), tier.kind.as_str()];
        page.put(&TIER_UP, &labels, u8::from(tier.state == "ok"));
        page.put(&TIER_CAPACITY, &labels, tier.capacity);
        page.put(&TIER_USED, &labels, tier.used);
        page.put(&TIER_CLEAN, &labels, tier.clean);
        page.put(&TIER_AVAILABLE, &labels, tier.available);
        page.put(&TIER_FILES, &labels, tier.files);
    }
}
