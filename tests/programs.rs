//! What programs do on a mount: single system calls, tools that people use, stress, and the memory that all that takes.
//! `scripts/install-test-tools.sh` installs what they need. The long ones are ignored; `make test-posix` runs them.

#[path = "programs/calls.rs"]
mod calls;
mod harness;
#[path = "programs/memory.rs"]
mod memory;
#[path = "programs/stress.rs"]
mod stress;
#[path = "programs/tools.rs"]
mod tools;

use std::sync::MutexGuard;
use std::time::Duration;

use harness::{Cluster, Plan};

/// A cluster of its own for a test; `None` where mounts are switched off.
fn cluster(limit: Duration) -> Option<(MutexGuard<'static, ()>, Cluster)> {
    if harness::fuse_is_switched_off() {
        return None;
    }
    let alone = harness::alone();
    let cluster = Cluster::start(Plan { limit, ..Plan::default() });
    Some((alone, cluster))
}
