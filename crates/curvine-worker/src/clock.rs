//! CLOCK_BOOTTIME, which goes on while the machine sleeps: the clock of leases.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started.
pub(crate) fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
