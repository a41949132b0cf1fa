//! `cv stats`: what the workers do now, a line for each interval.
//!
//! Always: the workers themselves are asked, so a line is as fresh as its interval; one that does not answer in time is missing from the
//! line, which says so, and a worker that was started anew counts from zero.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use curvine_client::Observer;
use curvine_proto::{Method, StoreStats, WorkerInfo, WorkerReportReply, WorkerReportRequest, WorkerStats};
use curvine_types::units::format_size;
use curvine_types::{Result, WorkerId};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::output::say;
use crate::args::StatsArgs;

/// Lines between two headings.
const HEADING_EVERY: u64 = 20;
/// Shortest interval, so that the question itself is no load.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A worker may take so long for its answer even if the interval is shorter.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// What was counted up to one moment.
struct Sample {
    at: Instant,
    known: usize,
    workers: HashMap<WorkerId, WorkerStats>,
}

/// Prints until `--count` lines are out, or forever.
pub async fn run(observer: &Observer, as_json: bool, arguments: &StatsArgs) -> Result<ExitCode> {
    let every = arguments.interval.max(INTERVAL_MIN);
    let mut list = observer.workers().await?;
    let mut before = sample(observer, &list, every).await;
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut printed = 0;
    while arguments.count == 0 || printed < arguments.count {
        ticks.tick().await;
        // Without a master the workers of before are asked.
        if let Ok(Ok(workers)) = timeout(every.max(PATIENCE_MIN), observer.workers()).await {
            list = workers;
        }
        let now = sample(observer, &list, every).await;
        let sum = difference(&before, &now);
        let seconds = (now.at - before.at).as_secs_f64().max(0.001);
        if as_json {
            say(&line_json(&sum, &now, seconds).to_string())?;
        } else {
            if printed % HEADING_EVERY == 0 {
                say(HEADING)?;
            }
            say(&line(&sum, &now, seconds, arguments.mount.as_deref()))?;
        }
        before = now;
        printed += 1;
    }
    Ok(ExitCode::SUCCESS)
}

async fn sample(observer: &Observer, workers: &[WorkerInfo], every: Duration) -> Sample {
    let live: Vec<&WorkerInfo> = workers.iter().filter(|worker| worker.live).collect();
    let ask = |worker: &'_ WorkerInfo| {
        let worker = worker.clone();
        async move {
            let asking = observer.worker(&worker, Method::WorkerReport, &WorkerReportRequest {});
            let reply: WorkerReportReply = timeout(every.max(PATIENCE_MIN), asking).await.ok()?.ok()?;
            Some((worker.id, reply.stats.unwrap_or_default()))
        }
    };
    let answers = join_all(live.iter().map(|worker| ask(worker))).await;
    Sample { at: Instant::now(), known: workers.len(), workers: answers.into_iter().flatten().collect() }
}

/// What was done in between, over the workers that answered both times; the gauges of now.
fn difference(before: &Sample, now: &Sample) -> WorkerStats {
    let mut sum = WorkerStats::default();
    for (worker, stats) in &now.workers {
        if let Some(earlier) = before.workers.get(worker) {
            sum.add(&since(stats, earlier));
        }
    }
    sum
}

/// The growth of a counter; of one that began anew, all of it.
fn grown(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn since(now: &WorkerStats, before: &WorkerStats) -> WorkerStats {
    let store = |store: &StoreStats| {
        let earlier = before.stores.iter().find(|earlier| earlier.mount == store.mount).cloned().unwrap_or_default();
        StoreStats {
            mount: store.mount,
            path: store.path.clone(),
            url: store.url.clone(),
            requests: grown(store.requests, earlier.requests),
            bytes_read: grown(store.bytes_read, earlier.bytes_read),
            bytes_written: grown(store.bytes_written, earlier.bytes_written),
            errors: grown(store.errors, earlier.errors),
            retries: grown(store.retries, earlier.retries),
            in_flight: store.in_flight,
            skipped: grown(store.skipped, earlier.skipped),
            hits: grown(store.hits, earlier.hits),
            misses: grown(store.misses, earlier.misses),
            hit_bytes: grown(store.hit_bytes, earlier.hit_bytes),
            miss_bytes: grown(store.miss_bytes, earlier.miss_bytes),
            evictions: grown(store.evictions, earlier.evictions),
            evicted_bytes: grown(store.evicted_bytes, earlier.evicted_bytes),
            dirty_bytes: store.dirty_bytes,
            dirty_limit: store.dirty_limit,
        }
    };
    WorkerStats {
        bytes_read: grown(now.bytes_read, before.bytes_read),
        bytes_written: grown(now.bytes_written, before.bytes_written),
        ufs_bytes: grown(now.ufs_bytes, before.ufs_bytes),
        ufs_requests: grown(now.ufs_requests, before.ufs_requests),
        cache_hits: grown(now.cache_hits, before.cache_hits),
        cache_misses: grown(now.cache_misses, before.cache_misses),
        checksum_errors: grown(now.checksum_errors, before.checksum_errors),
        evictions: grown(now.evictions, before.evictions),
        evicted_bytes: grown(now.evicted_bytes, before.evicted_bytes),
        not_kept: grown(now.not_kept, before.not_kept),
        fetches_in_flight: now.fetches_in_flight,
        exposures: grown(now.exposures, before.exposures),
        promotions: grown(now.promotions, before.promotions),
        demotions: grown(now.demotions, before.demotions),
        stores: now.stores.iter().map(store).collect(),
    }
}

const HEADING: &str = "\
---------- served ---------- | ---------- cache ----------- | -------------- stores --------------- | workers
     read      write  opens |  hits/s  miss/s   hit%  evict |      get       put   req/s  err  wait |";

/// Of one mount, the columns of what was written to Curvine itself and of opens by the kernel stay empty.
fn line(sum: &WorkerStats, now: &Sample, seconds: f64, mount: Option<&str>) -> String {
    let per = |count: u64| (count as f64 / seconds).round() as u64;
    let size = |bytes: u64| format_size(per(bytes));
    let stores: Vec<&StoreStats> =
        sum.stores.iter().filter(|store| mount.is_none_or(|path| store.path == path.as_bytes())).collect();
    let total = |of: fn(&StoreStats) -> u64| stores.iter().map(|store| of(store)).sum::<u64>();
    let (hits, misses) = (total(|store| store.hits), total(|store| store.misses));
    let share = if hits + misses == 0 {
        "-".to_string()
    } else {
        format!("{:.1}", 100.0 * hits as f64 / (hits + misses) as f64)
    };
    let (read, written, opens) = match mount {
        None => (size(sum.bytes_read), size(sum.bytes_written), per(sum.exposures).to_string()),
        Some(_) => (size(total(|store| store.hit_bytes + store.miss_bytes)), String::new(), String::new()),
    };
    let evictions = if mount.is_none() { sum.evictions } else { total(|store| store.evictions) };
    format!(
        "{read:>9}  {written:>9} {opens:>6} | {:>7} {:>7} {share:>6} {:>6} | {:>8}  {:>8} {:>7} {:>4} {:>5} | {}/{}",
        per(hits),
        per(misses),
        per(evictions),
        size(total(|store| store.bytes_read)),
        size(total(|store| store.bytes_written)),
        per(total(|store| store.requests)),
        per(total(|store| store.errors)),
        total(|store| store.in_flight),
        now.workers.len(),
        now.known,
    )
}

fn line_json(sum: &WorkerStats, now: &Sample, seconds: f64) -> Value {
    let mut line = stats_json(sum);
    line["seconds"] = json!(seconds);
    line["workers"] = json!({ "answered": now.workers.len(), "known": now.known });
    line
}

/// What workers did.
pub fn stats_json(stats: &WorkerStats) -> Value {
    json!({
        "read_bytes": stats.bytes_read,
        "written_bytes": stats.bytes_written,
        "exposures": stats.exposures,
        "hits": stats.cache_hits,
        "misses": stats.cache_misses,
        "evictions": stats.evictions,
        "evicted_bytes": stats.evicted_bytes,
        "not_kept": stats.not_kept,
        "promotions": stats.promotions,
        "demotions": stats.demotions,
        "chunks_in_flight": stats.fetches_in_flight,
        "checksum_errors": stats.checksum_errors,
        "mounts": stats.stores.iter().map(store_json).collect::<Vec<_>>(),
    })
}

/// What was done for one mount.
fn store_json(store: &StoreStats) -> Value {
    json!({
        "mount": store.mount,
        "path": store.label(),
        "url": store.url,
        "requests": store.requests,
        "read_bytes": store.bytes_read,
        "written_bytes": store.bytes_written,
        "errors": store.errors,
        "retries": store.retries,
        "in_flight": store.in_flight,
        "skipped_keys": store.skipped,
        "hits": store.hits,
        "misses": store.misses,
        "hit_bytes": store.hit_bytes,
        "miss_bytes": store.miss_bytes,
        "evictions": store.evictions,
        "evicted_bytes": store.evicted_bytes,
        "dirty_bytes": store.dirty_bytes,
        "dirty_limit": store.dirty_limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(worker: WorkerId, hits: u64) -> Sample {
        let stores = vec![StoreStats { mount: 1, path: "/a".into(), hits, misses: hits, ..Default::default() }];
        let stats = WorkerStats { cache_hits: hits, stores, ..Default::default() };
        Sample { at: Instant::now(), known: 1, workers: HashMap::from([(worker, stats)]) }
    }

    #[test]
    fn a_worker_that_is_new_counts_from_its_second_sample_and_one_started_anew_from_zero() {
        assert_eq!(difference(&at(1, 5), &at(1, 9)).cache_hits, 4);
        assert_eq!(difference(&at(1, 5), &at(1, 3)).cache_hits, 3);
        assert_eq!(difference(&at(1, 5), &at(2, 9)).cache_hits, 0);
    }

    #[test]
    fn a_line_stands_under_its_heading() {
        let (before, now) = (at(1, 5), at(1, 9));
        let text = line(&difference(&before, &now), &now, 2.0, None);
        let heading = HEADING.lines().last().unwrap_or_default();
        let bars = |line: &str| line.match_indices('|').map(|(place, _)| place).collect::<Vec<_>>();
        assert_eq!(bars(&text), bars(heading), "\n{HEADING}\n{text}");
        assert!(text.contains("50.0") && text.ends_with("| 1/1"), "{text}");
        assert!(line(&difference(&before, &now), &now, 2.0, Some("/b")).contains(" - "));
    }
}
