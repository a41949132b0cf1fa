//! A mounted file system, from its start to its end.

use std::path::Path;
use std::sync::Arc;

use curvine_client::FileSystem;
use curvine_types::Result;

use crate::{FuseOptions, KernelEvents};

/// A mount that is being served. Dropping it unmounts without waiting.
pub struct Mount {}

/// Current values of what is limited, for metrics and reports.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub requests_in_flight: usize,
    pub request_bytes: usize,
    pub open_files: usize,
    pub requests_served: u64,
    pub interrupts: u64,
    pub notifications: u64,
}

#[allow(unused_variables)]
impl Mount {
    /// Recovers the mount point, mounts and serves. `events` is what `fs` was connected with. Must be called within a
    /// tokio runtime, which then runs what cannot be answered at once.
    pub async fn start(options: FuseOptions, fs: FileSystem, events: Arc<KernelEvents>, path: &Path) -> Result<Mount> {
        todo!()
    }

    /// Until the mount has ended: by `unmount`, or because somebody else unmounted it.
    pub async fn wait(&self) {
        todo!()
    }

    /// Detaches the mount at once, waits for what is in flight and for open files up to the drain timeout, then ends the
    /// session and releases what was open.
    pub async fn unmount(&self) -> Result<()> {
        todo!()
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        todo!()
    }

    pub fn gauges(&self) -> Gauges {
        todo!()
    }
}
