//! Snapshots: `file` is the format, `store` the directory with the newest few of them.

mod file;
pub(crate) mod remains;
pub(crate) mod store;
#[cfg(test)]
mod store_test;

use std::path::Path;
use std::sync::Arc;

use crate::disk::DiskFile;

/// A snapshot file, whole or being received; the open file outlives its name.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub path: Arc<Path>,
    pub file: Arc<dyn DiskFile>,
}
