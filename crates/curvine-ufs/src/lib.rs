//! Under file systems behind one trait.
//!
//! Always: keys are relative to the URL that the file system was opened with; a directory's key ends in `/` (the root's is
//! empty); no error and no log line holds a credential.

mod counters;
mod options;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use curvine_types::{Result, Secret};
use futures::future::BoxFuture;

pub use counters::{Counters, CountersSnapshot};
pub use options::split_secrets;

/// A file or a directory of an under file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Relative to the URL; a directory's ends in `/`.
    pub key: String,
    pub directory: bool,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Directories of an object store have none.
    pub mtime: Option<SystemTime>,
    /// The store's name for this version of the content, without quotes; empty where the store has none: then size and mtime
    /// tell versions apart.
    pub etag: String,
}

/// Part of a listing, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    pub entries: Vec<Object>,
    /// `start_after` of the next part; `None`: that was all.
    pub next: Option<String>,
}

/// The version that a reader wants; it never gets bytes of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Compared if not empty; otherwise `mtime` is.
    pub etag: String,
    pub size: u64,
    pub mtime: Option<SystemTime>,
}

impl Expect {
    /// The version that `stat` or `list` saw.
    pub fn of(object: &Object) -> Self {
        Self { etag: object.etag.clone(), size: object.size, mtime: object.mtime }
    }
}

/// A tree of files in somebody else's keeping. Calls are bounded in time, retried where that is safe, and may run at the
/// same time.
pub trait Ufs: Send + Sync {
    /// The file `key`, or else the directory `key/`; `None`: neither is there. `key` has no trailing `/`; the empty key is
    /// the root.
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>>;

    /// One level below `prefix` (`""` or ending in `/`), at most `limit` entries with keys after `start_after`.
    /// `NotFound` where the store can tell that there is no such directory.
    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>>;

    /// Exactly `len` bytes from `offset`, of the version that is expected. `VersionMismatch`: the object is another one now;
    /// `NotFound`: it is gone.
    fn read<'a>(&'a self, key: &'a str, offset: u64, len: u64, expect: &'a Expect) -> BoxFuture<'a, Result<Bytes>>;

    /// What went to the store and came back.
    fn counters(&self) -> &Counters;
}

/// Opens `file:///path` or `s3://bucket/prefix`. Makes no request.
pub fn open(
    _url: &str,
    _options: &BTreeMap<String, String>,
    _secrets: &BTreeMap<String, Secret>,
) -> Result<Arc<dyn Ufs>> {
    todo!("opening")
}
