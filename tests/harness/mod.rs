//! Runs whole clusters as users do: real processes, real mounts, a config file, `cv`.
//!
//! Always: every wait has a deadline, readiness is asked for and never assumed, and whatever a test started is gone when it
//! ends, also when it panics or is killed itself.

// Each test is a program of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod cluster;
pub mod mountinfo;
pub mod process;
pub mod reaper;
pub mod rng;
pub mod run;
pub mod wait;
pub mod web;

pub use cluster::{Cluster, Plan, Role};
pub use rng::Rng;
pub use run::{Run, Sh};
pub use wait::{until, within};

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Clusters are heavy: those of one test program run one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether the tests on mounts were switched off. Without `/dev/fuse` they fail: skipping is only ever asked for.
pub fn fuse_is_switched_off() -> bool {
    if std::env::var_os("CURVINE_SKIP_FUSE_TESTS").is_some() {
        eprintln!("skipped: CURVINE_SKIP_FUSE_TESTS is set");
        return true;
    }
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        panic!("cannot open /dev/fuse: {error}; CURVINE_SKIP_FUSE_TESTS=1 skips the tests that need it");
    }
    false
}

/// An external test tool: in `CURVINE_TOOLS`, or where `scripts/install-test-tools.sh` puts it.
pub fn tool(name: &str) -> PathBuf {
    let folder = std::env::var_os("CURVINE_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/curvine-tools")
    });
    let path = folder.join("bin").join(name);
    assert!(path.is_file(), "{} is not there: run scripts/install-test-tools.sh", path.display());
    path
}

/// A number from the environment, such as a seed or a duration in seconds.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => otherwise,
    }
}
