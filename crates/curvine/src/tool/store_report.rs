//! The part of `cv report` that tells of under file systems: what each mount asked of its store, and how its cache does.

use curvine_proto::{ReportReply, StoreStats};
use curvine_types::units::format_size;
use serde_json::{Value, json};

use super::stats::stats_json;

/// Queues that an operator should know of, by their names among the gauges.
const QUEUES: [&str; 5] = ["jobs", "uploads_running", "seals_waiting", "lock_waits", "log_queue_commands"];

/// Lines for people; none if no store was ever used.
pub fn lines(report: &ReportReply) -> Vec<String> {
    let Some(stats) = &report.stats else { return Vec::new() };
    let mut lines = Vec::new();
    if !stats.stores.is_empty() {
        lines.push("stores       since each worker began".to_string());
        lines.extend(stats.stores.iter().map(|store| line(&name(store), store)));
        if stats.stores.len() > 1 {
            let mut total = StoreStats::default();
            stats.stores.iter().for_each(|store| total.add(store));
            lines.push(line("in total", &total));
        }
    }
    let queues = QUEUES.iter().filter_map(|name| Some(format!("{name} {}", report.gauges.get(*name)?)));
    lines.push(format!(
        "queues       {}, chunks_in_flight {}",
        queues.collect::<Vec<_>>().join(", "),
        stats.fetches_in_flight
    ));
    lines
}

fn name(store: &StoreStats) -> String {
    if store.path.is_empty() { "(mount not known yet)".to_string() } else { store.label() }
}

fn line(name: &str, store: &StoreStats) -> String {
    let reads = store.hits + store.misses;
    let share = (store.hits * 100).checked_div(reads).map_or(String::new(), |share| format!(" ({share}%)"));
    format!(
        "  {name}: {} hits{share}, {} misses, {} evictions of {}; store: {} requests, {} waiting, {} errors, {} retries, {} read, {} written, {} to be written",
        store.hits,
        store.misses,
        store.evictions,
        format_size(store.evicted_bytes),
        store.requests,
        store.in_flight,
        store.errors,
        store.retries,
        format_size(store.bytes_read),
        format_size(store.bytes_written),
        format_size(store.dirty_bytes),
    )
}

/// The same for scripts.
pub fn json(report: &ReportReply) -> Value {
    let stats = report.stats.clone().unwrap_or_default();
    let mut stores = stats_json(&stats);
    stores["store_requests"] = json!(stats.ufs_requests);
    stores["store_read_bytes"] = json!(stats.ufs_bytes);
    stores
}
