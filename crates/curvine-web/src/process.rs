//! What every process tells of itself.

use std::sync::OnceLock;
use std::time::Instant;

use rustix::process::{Resource, getrlimit};

use crate::Page;

crate::metrics! {
    /// Of every role.
    PROCESS {
        BUILD: Gauge = "curvine_build_info" ["role", "version"], "Always 1; the labels say what runs.";
        UP: Gauge = "curvine_process_uptime_seconds" [], "Since the page was opened, which is when the role began to serve.";
        RESIDENT: Gauge = "curvine_process_resident_bytes" [], "Memory of the process.";
        DESCRIPTORS: Gauge = "curvine_process_open_descriptors" [], "File descriptors (Linux 6.2 and newer).";
        DESCRIPTORS_MAX: Gauge = "curvine_process_open_descriptors_limit" [], "The most that it may have.";
    }
}

/// Since when this process tells anything.
fn began() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}

/// Starts the clock of `curvine_process_uptime_seconds`.
pub(crate) fn begin() {
    began();
}

pub(crate) fn tell(page: &mut Page, role: &str) {
    page.put(&BUILD, &[role, env!("CARGO_PKG_VERSION")], 1);
    page.set(&UP, began().elapsed().as_secs());
    if let Some(pages) =
        std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
    {
        page.set(&RESIDENT, pages * rustix::param::page_size() as u64);
    }
    // The kernel tells the number as the directory's size, without a walk.
    if let Some(count) = std::fs::metadata("/proc/self/fd").ok().map(|meta| meta.len()).filter(|count| *count > 0) {
        page.set(&DESCRIPTORS, count);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        page.set(&DESCRIPTORS_MAX, most);
    }
}
