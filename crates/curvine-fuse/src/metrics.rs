//! The metrics of a mount.

use std::sync::Arc;
use std::time::Duration;

use curvine_client::FileSystem;
use curvine_fuse_abi::Connection;
use curvine_web::{PROCESS, Page, Source};
use futures::future::BoxFuture;

use crate::FuseOptions;
use crate::events::KernelEvents;
use crate::mount::{Mount, Served};

curvine_web::metrics! {
    /// Of the mount.
    METRICS {
        SESSION: Gauge = "curvine_mount_session_seconds" [], "How long the session with the master certainly lives; 0: nothing cached may be used.";
        INFO: Gauge = "curvine_mount_info" ["path", "fs_path"], "Always 1; where what is mounted.";
        REQUESTS: Gauge = "curvine_mount_requests_in_flight" [], "Requests of the kernel that are being served.";
        REQUESTS_MAX: Gauge = "curvine_mount_requests_in_flight_limit" [], "Its limit, `fuse.requests_in_flight`.";
        REQUEST_BYTES: Gauge = "curvine_mount_request_bytes" [], "Their bytes.";
        REQUEST_BYTES_MAX: Gauge = "curvine_mount_request_bytes_limit" [], "Its limit, `fuse.memory_limit`.";
        WAITING: Gauge = "curvine_mount_requests_waiting" [], "Of them, those that wait for the cluster and can be interrupted.";
        ORPHANED: Gauge = "curvine_mount_requests_orphaned" [], "Changes that go on although their callers were interrupted.";
        KERNEL: Gauge = "curvine_mount_kernel_requests" [], "Requests that the kernel holds, read or not; missing where it cannot be told.";
        SERVED: Counter = "curvine_mount_requests_total" [], "Requests served.";
        INTERRUPTS: Counter = "curvine_mount_interrupts_total" [], "Requests that were interrupted.";
        NOTIFICATIONS: Counter = "curvine_mount_notifications_total" [], "Invalidations sent to the kernel.";
        PAGES: Gauge = "curvine_mount_pages_waiting" [], "Files whose pages are still to be dropped from the kernel.";
        PAGES_LATE: Counter = "curvine_mount_pages_late_total" [], "Times that this took too long.";
        OVERTAKEN: Counter = "curvine_mount_writes_overtaken_total" [], "Writes whose pages were dropped and read again before they were done, so that they were dropped once more.";
        OPEN: Gauge = "curvine_mount_open_files" [], "Open files and directories.";
        OPEN_MAX: Gauge = "curvine_mount_open_files_limit" [], "Its limit, `fuse.open_files`.";
        OPEN_INODES: Gauge = "curvine_mount_open_inodes" [], "Open inodes.";
        LOCKED: Gauge = "curvine_mount_locked_inodes" [], "Open inodes through which record locks may be held.";
        RECORDED_HANDLES: Gauge = "curvine_mount_recorded_handles" [], "Handles in the hand-over table.";
        RECORDED_REQUESTS: Gauge = "curvine_mount_recorded_requests" [], "Requests in the hand-over table.";
        PASSTHROUGH: Gauge = "curvine_mount_passthrough_inodes" [], "Inodes that the kernel reads or writes by itself.";
        PASSTHROUGH_OPENS: Counter = "curvine_mount_passthrough_opens_total" [], "Opens that were served so.";
        PASSTHROUGH_REFUSED: Counter = "curvine_mount_passthrough_refused_total" ["reason"], "Opens that were not, and why.";
        PASSTHROUGH_OFF: Gauge = "curvine_mount_passthrough_off" ["reason"], "1 with the reason if this mount has no passthrough at all.";
        CACHED_INODES: Gauge = "curvine_client_cached_inodes" [], "Inodes whose attributes are cached.";
        CACHED_INODES_MAX: Gauge = "curvine_client_cached_inodes_limit" [], "Its limit, `client.cached_inodes`.";
        CACHED_NAMES: Gauge = "curvine_client_cached_names" [], "Names, present and absent, that are cached.";
        CACHED_NAMES_MAX: Gauge = "curvine_client_cached_names_limit" [], "Its limit, `client.cached_names`.";
        LEASES: Gauge = "curvine_client_leases" [], "Leases held.";
        HANDLES: Gauge = "curvine_client_open_handles" [], "Open files of the client.";
        HANDLES_MAX: Gauge = "curvine_client_open_handles_limit" [], "Its limit, `client.open_handles`.";
        MUTATIONS: Gauge = "curvine_client_mutations_in_flight" [], "Changes of metadata in flight.";
        MUTATIONS_MAX: Gauge = "curvine_client_mutations_in_flight_limit" [], "Its limit, `client.mutations_in_flight`.";
        MEMORY: Gauge = "curvine_client_memory_bytes" [], "File data in flight or read ahead.";
        MEMORY_MAX: Gauge = "curvine_client_memory_bytes_limit" [], "Its limit, `client.memory_limit`.";
        RECALLS: Gauge = "curvine_client_notifications_in_flight" [], "Recalls whose invalidations are under way.";
        CHECKSUMS: Counter = "curvine_client_checksum_errors_total" [], "Damaged data that was received and noticed.";
        MUTATION_RETRIES: Counter = "curvine_client_mutation_retries_total" [], "Changes that were sent again.";
        READ_RETRIES: Counter = "curvine_client_read_retries_total" [], "Reads that were asked for again.";
        SESSIONS: Counter = "curvine_client_sessions_opened_total" [], "Sessions opened; above 1: one was lost.";
        RECONNECTIONS: Counter = "curvine_client_reconnections_total" [], "Connections to a master made again.";
    }
}

struct MountPage {
    fs: FileSystem,
    served: Arc<dyn Served>,
    events: Arc<KernelEvents>,
    connection: Arc<Connection>,
    options: FuseOptions,
    path: String,
}

impl Mount {
    /// What this mount tells over HTTP. `fs` is what it serves.
    pub fn page(&self, options: FuseOptions, fs: FileSystem) -> Arc<dyn Source> {
        let path = self.path().display().to_string();
        Arc::new(MountPage {
            fs,
            served: self.served.clone(),
            events: self.events.clone(),
            connection: self.connection.clone(),
            options,
            path,
        })
    }
}

impl Source for MountPage {
    fn role(&self) -> &'static str {
        "mount"
    }

    fn page(&self) -> BoxFuture<'_, Page> {
        let mut page = Page::of(&[PROCESS, METRICS]);
        page.put(&INFO, &[&self.path, &self.options.fs_path], 1);
        page.set(&SESSION, self.fs.session_validity().as_secs());
        self.kernel(&mut page);
        self.client(&mut page);
        Box::pin(std::future::ready(page))
    }

    fn health(&self) -> Result<(), String> {
        if self.fs.session_validity() > Duration::ZERO {
            Ok(())
        } else {
            Err("no master answers this mount".to_string())
        }
    }
}

impl MountPage {
    fn kernel(&self, page: &mut Page) {
        let gauges = self.served.gauges();
        page.set(&REQUESTS, gauges.requests_in_flight);
        page.set(&REQUESTS_MAX, self.options.requests_in_flight);
        page.set(&REQUEST_BYTES, gauges.request_bytes);
        page.set(&REQUEST_BYTES_MAX, self.options.request_bytes);
        page.set(&WAITING, gauges.requests_waiting);
        page.set(&ORPHANED, gauges.requests_orphaned);
        if let Some(waiting) = self.connection.waiting() {
            page.set(&KERNEL, waiting);
        }
        page.set(&SERVED, gauges.requests_served);
        page.set(&INTERRUPTS, gauges.interrupts);
        page.set(&NOTIFICATIONS, self.events.sent());
        page.set(&PAGES, gauges.pages_waiting);
        page.set(&PAGES_LATE, gauges.pages_late);
        page.set(&OVERTAKEN, gauges.writes_overtaken);
        page.set(&OPEN, gauges.open_files);
        page.set(&OPEN_MAX, self.options.open_files);
        page.set(&OPEN_INODES, gauges.open_inodes);
        page.set(&LOCKED, gauges.locked_inodes);
        page.set(&RECORDED_HANDLES, gauges.recorded_handles);
        page.set(&RECORDED_REQUESTS, gauges.recorded_requests);
        page.set(&PASSTHROUGH, gauges.passthrough_inodes);
        page.set(&PASSTHROUGH_OPENS, gauges.passthrough_opens);
        for (reason, count) in gauges.passthrough_refused {
            page.put(&PASSTHROUGH_REFUSED, &[reason], count);
        }
        if let Some(reason) = gauges.passthrough_off {
            page.put(&PASSTHROUGH_OFF, &[reason], 1);
        }
    }

    fn client(&self, page: &mut Page) {
        let (gauges, limits) = (self.fs.gauges(), self.fs.options());
        page.set(&CACHED_INODES, gauges.cached_inodes);
        page.set(&CACHED_INODES_MAX, limits.cached_inodes);
        page.set(&CACHED_NAMES, gauges.cached_names);
        page.set(&CACHED_NAMES_MAX, limits.cached_names);
        page.set(&LEASES, gauges.leases);
        page.set(&HANDLES, gauges.open_handles);
        page.set(&HANDLES_MAX, limits.open_handles);
        page.set(&MUTATIONS, gauges.mutations_in_flight);
        page.set(&MUTATIONS_MAX, limits.mutations_in_flight);
        page.set(&MEMORY, gauges.memory_used);
        page.set(&MEMORY_MAX, limits.memory_limit);
        page.set(&RECALLS, gauges.notifications_in_flight);
        page.set(&CHECKSUMS, gauges.checksum_errors);
        page.set(&MUTATION_RETRIES, gauges.mutation_retries);
        page.set(&READ_RETRIES, gauges.read_retries);
        page.set(&SESSIONS, gauges.sessions_opened);
        page.set(&RECONNECTIONS, gauges.reconnections);
    }
}
