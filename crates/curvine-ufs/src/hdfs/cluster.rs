//! What an HDFS does for a client, whatever protocol it is asked by.

use std::time::SystemTime;

use bytes::Bytes;
use curvine_types::Result;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A file or directory as the NameNode tells it.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// The last part of its path.
    pub(crate) name: String,
    pub(crate) directory: bool,
    /// Bytes.
    pub(crate) size: u64,
    /// Whole milliseconds.
    pub(crate) mtime: SystemTime,
}

/// Paths are absolute and without a `/` at the end. Failures that may pass are `Unavailable`.
pub(crate) trait Cluster: Send + Sync {
    /// Whether the part of a path can be asked for, so that no other is taken for it.
    fn can_name(&self, _: &str) -> bool {
        true
    }

    /// `None`: it is not there.
    fn status<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<Status>>>;

    /// What is in a directory, in the NameNode's order, read as it is taken. `NotFound`: it is not there.
    fn list(&self, path: &str) -> BoxStream<'static, Result<Status>>;

    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Box<dyn OpenFile>>>;

    /// A new file, and what is missing above it.
    fn create<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Box<dyn NewFile>>>;

    /// Atomic. A file replaces a file, and a directory an empty one, if `replace`; otherwise that is `AlreadyExists`. `NotFound`:
    /// `from` is not there, or nothing is above `to`.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str, replace: bool) -> BoxFuture<'a, Result<()>>;

    /// Makes a directory and what is missing above it; one that is there is fine.
    fn make<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Removes a file or an empty directory (`DirectoryNotEmpty`); one that is not there is fine.
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>>;
}

pub(crate) trait OpenFile: Send + Sync {
    /// Whether it stays what it was when it was opened, whatever becomes of its path.
    fn is_pinned(&self) -> bool;

    /// Up to `len` bytes, fewer at the end of the file only.
    fn read<'a>(&'a self, offset: u64, len: u64) -> BoxFuture<'a, Result<Bytes>>;
}

/// A file that is being written; nothing is promised of it before it is closed.
pub(crate) trait NewFile: Send {
    fn write<'a>(&'a mut self, data: Bytes) -> BoxFuture<'a, Result<()>>;

    fn close<'a>(&'a mut self) -> BoxFuture<'a, Result<()>>;
}
