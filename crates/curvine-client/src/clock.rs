//! The clock that leases are counted by: CLOCK_BOOTTIME goes on while the machine is suspended, and nobody can set it.

use std::time::Duration;

/// Time since boot.
pub(crate) fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
