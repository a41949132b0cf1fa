//! The metrics of a master. Those of the namespace and of the cluster are told by the leader alone, so that their sum over all masters is right.

use std::sync::Weak;

use curvine_proto::{ReportReply, WorkerInfo};
use curvine_raft::{Mode, Status};
use curvine_rpc::ServerWatch;
use curvine_web::{PROCESS, Page, Source};
use futures::future::BoxFuture;

use crate::server::Front;

curvine_web::metrics! {
    /// Of the master.
    METRICS {
        LEADING: Gauge = "curvine_master_leading" [], "1 of the master that leads, else 0.";
        WORKING: Gauge = "curvine_master_log_working" [], "1 while the log takes changes; 0 if it is read-only or has failed.";
        SNAPSHOT_FAILED: Gauge = "curvine_master_snapshot_failed" [], "1 if the last snapshot could not be taken.";
        TERM: Gauge = "curvine_master_log_term" [], "Term of the log.";
        LAST: Counter = "curvine_master_log_last_index" [], "Index of the last entry of the log.";
        APPLIED: Counter = "curvine_master_log_applied_index" [], "Index of the last entry that is applied.";
        SNAPSHOT: Counter = "curvine_master_log_snapshot_index" [], "Index of the newest snapshot.";
        LOG_BYTES: Gauge = "curvine_master_log_bytes" [], "Bytes of the log on disk.";
        CACHE_BYTES: Gauge = "curvine_master_log_cache_bytes" [], "Bytes of log entries in memory.";
        QUEUE: Gauge = "curvine_master_log_queue_commands" [], "Commands that wait for a batch.";
        QUEUE_BYTES: Gauge = "curvine_master_log_queue_bytes" [], "Their bytes.";
        IN_FLIGHT: Gauge = "curvine_master_log_entries_in_flight" [], "Entries that were proposed and are not applied yet.";
        VOTERS: Gauge = "curvine_master_voters" [], "Masters that vote.";
        CONNECTIONS: Gauge = "curvine_master_connections" [], "Open connections of the RPC.";
        CONNECTIONS_MAX: Gauge = "curvine_master_connections_limit" [], "Its limit, `master.max_connections`.";
        REQUESTS: Gauge = "curvine_master_requests_in_work" [], "Requests in work.";
        REQUEST_BYTES: Gauge = "curvine_master_request_bytes" [], "Bytes of requests in work.";
        REQUEST_BYTES_MAX: Gauge = "curvine_master_request_bytes_limit" [], "Its limit, `master.memory_limit`.";
        SESSIONS: Gauge = "curvine_sessions" ["kind"], "Sessions of clients. Leader only, as all that follow.";
        LEASES: Gauge = "curvine_leases" [], "Leases on inodes over all sessions.";
        LEASES_MAX: Gauge = "curvine_leases_limit" [], "Its limit, `master.lease_limit`.";
        OPENS: Gauge = "curvine_opens" [], "Files that clients have open, as they told.";
        INODES: Gauge = "curvine_inodes" [], "Inodes.";
        FILES: Gauge = "curvine_files" [], "Files.";
        DIRECTORIES: Gauge = "curvine_directories" [], "Directories.";
        GARBAGE: Gauge = "curvine_garbage_contents" [], "Contents that workers still have to delete.";
        GAUGES: Gauge = "curvine_master_gauge" ["name"], "Queues and tables of the leader: `lock_waits`, `seals_waiting`, `jobs`, `uploads_running`, `live_files`, `write_grants`, `orphan_holds`, `doomed_trees`, `trash`, `listings_running`, `ufs_seen`, `inline_bytes` and others, as in `cv report all`.";
        WORKERS: Gauge = "curvine_workers" ["state"], "Workers of the log, `live` and `lost`.";
        CAPACITY: Gauge = "curvine_cluster_capacity_bytes" [], "What all live workers can hold.";
        USED: Gauge = "curvine_cluster_used_bytes" [], "What they hold.";
        AVAILABLE: Gauge = "curvine_cluster_available_bytes" [], "What they could still take, clean copies making way.";
    }
}

/// The page of one master.
pub(crate) struct MasterPage {
    pub front: Weak<Front>,
    pub server: ServerWatch,
}

impl Source for MasterPage {
    fn role(&self) -> &'static str {
        "master"
    }

    fn page(&self) -> BoxFuture<'_, Page> {
        let mut page = Page::of(&[PROCESS, METRICS]);
        if let Some(front) = self.front.upgrade() {
            replica(&mut page, &front.replica.status());
            let server = self.server.gauges();
            page.set(&CONNECTIONS, server.connections);
            page.set(&CONNECTIONS_MAX, server.connections_limit);
            page.set(&REQUESTS, server.requests);
            page.set(&REQUEST_BYTES, server.request_bytes);
            page.set(&REQUEST_BYTES_MAX, server.request_bytes_limit);
            if let Some(leader) = front.leader() {
                cluster(&mut page, &leader.report());
            }
        }
        Box::pin(std::future::ready(page))
    }

    fn health(&self) -> Result<(), String> {
        let front = self.front.upgrade().ok_or("the master has stopped")?;
        let status = front.replica.status();
        match status.mode {
            Mode::Working => {}
            Mode::ReadOnly(reason) => return Err(format!("the log is read-only: {reason}")),
            Mode::Failed(reason) => return Err(format!("the log has failed: {reason}")),
        }
        if status.leader.address.is_empty() { Err("no leader is known".to_string()) } else { Ok(()) }
    }
}

fn replica(page: &mut Page, status: &Status) {
    page.set(&LEADING, u8::from(status.leader.leading));
    page.set(&WORKING, u8::from(status.mode == Mode::Working));
    page.set(&SNAPSHOT_FAILED, u8::from(status.snapshot_error.is_some()));
    page.set(&TERM, status.term);
    page.set(&LAST, status.last_index);
    page.set(&APPLIED, status.applied);
    page.set(&SNAPSHOT, status.snapshot_index);
    page.set(&LOG_BYTES, status.log_bytes);
    page.set(&CACHE_BYTES, status.cache_bytes);
    page.set(&QUEUE, status.queue_commands);
    page.set(&QUEUE_BYTES, status.queue_bytes);
    page.set(&IN_FLIGHT, status.entries_in_flight);
    page.set(&VOTERS, status.members.iter().filter(|member| member.voter).count());
}

fn cluster(page: &mut Page, report: &ReportReply) {
    for (kind, name) in [(curvine_proto::SessionKind::Mount, "mount"), (curvine_proto::SessionKind::Library, "library")]
    {
        page.put(&SESSIONS, &[name], report.sessions.iter().filter(|session| session.kind() == kind).count());
    }
    page.set(&LEASES, report.leases);
    page.set(&LEASES_MAX, report.gauges.get("leases_limit").copied().unwrap_or_default());
    page.set(&OPENS, report.sessions.iter().map(|session| session.opens).sum::<u64>());
    page.set(&INODES, report.inodes);
    page.set(&FILES, report.files);
    page.set(&DIRECTORIES, report.directories);
    page.set(&GARBAGE, report.garbage);
    let mut gauges: Vec<(&String, &u64)> = report.gauges.iter().collect();
    gauges.sort();
    for (name, value) in gauges {
        page.put(&GAUGES, &[name], value);
    }
    let live = report.workers.iter().filter(|worker: &&WorkerInfo| worker.live).count();
    page.put(&WORKERS, &["live"], live);
    page.put(&WORKERS, &["lost"], report.workers.len() - live);
    page.set(&CAPACITY, report.capacity);
    page.set(&USED, report.used);
    page.set(&AVAILABLE, report.available);
}
