//! What callers give and get.

use std::time::Duration;

use curvine_proto::{Attr, FileKind};
use curvine_types::{Cookie, InodeId};

/// Told before anybody else may change what the kernel still believes. Calls come on threads that may block.
pub trait CacheEvents: Send + Sync + 'static {
    /// Names in these directories, present and absent, are no longer to be believed. Returns when the kernel knows.
    fn names_changed(&self, dirs: &[InodeId]);

    /// Attributes and cached pages of these inodes are no longer to be believed. Returns when the kernel knows.
    fn inodes_changed(&self, inodes: &[InodeId]);
}

/// For a client that has no kernel cache to tell.
pub struct NoEvents;

impl CacheEvents for NoEvents {
    fn names_changed(&self, _: &[InodeId]) {}

    fn inodes_changed(&self, _: &[InodeId]) {}
}

/// An inode found under a name, and how long both may be believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub attr: Attr,
    pub entry_ttl: Duration,
    pub attr_ttl: Duration,
}

/// The answer to a lookup.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    /// `None`: there is no such name.
    pub entry: Option<Entry>,
    /// How long the absence may be believed.
    pub negative_ttl: Duration,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    pub read: bool,
    pub write: bool,
    /// Empty it first.
    pub truncate: bool,
    pub append: bool,
    /// The caller wants no cache in between: nothing is read ahead.
    pub direct: bool,
}

impl OpenFlags {
    /// For reading.
    pub const READ: Self = Self { read: true, write: false, truncate: false, append: false, direct: false };
    /// For writing.
    pub const WRITE: Self = Self { read: false, write: true, truncate: false, append: false, direct: false };
    /// For both.
    pub const READ_WRITE: Self = Self { read: true, write: true, truncate: false, append: false, direct: false };
}

/// What `create` makes and how it opens it.
#[derive(Clone, Copy, Debug)]
pub struct NewFile {
    pub mode: u32,
    /// Taken off the mode, unless the directory has a default ACL.
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
    /// O_EXCL: an existing file is an error.
    pub exclusive: bool,
    /// How the file is opened; `None`: only made.
    pub open: Option<OpenFlags>,
}

/// Who owns a new directory, symlink or special file.
#[derive(Clone, Copy, Debug)]
pub struct NewNode {
    pub mode: u32,
    /// As of a new file.
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct DirItem {
    pub cookie: Cookie,
    pub name: Vec<u8>,
    pub inode: InodeId,
    pub kind: FileKind,
    pub entry: Entry,
}

/// A part of a directory, in the order of cookies.
#[derive(Clone, Debug, Default)]
pub struct DirPage {
    pub items: Vec<DirItem>,
    /// Nothing follows.
    pub end: bool,
}

/// Where a write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteDone {
    pub offset: u64,
    pub length: u64,
}

/// What `seek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// Current values of what is limited, for metrics and reports.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    pub cached_inodes: usize,
    pub cached_names: usize,
    pub leases: usize,
    pub open_handles: usize,
    pub mutations_in_flight: usize,
    pub memory_used: u64,
    pub notifications_in_flight: usize,
    pub checksum_errors: u64,
    pub mutation_retries: u64,
    pub read_retries: u64,
    pub sessions_opened: u64,
    pub reconnections: u64,
}
