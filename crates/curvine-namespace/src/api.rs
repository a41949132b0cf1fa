//! What readers of the namespace get: plain values, copied out, so that no reader holds on to the state.

use bytes::Bytes;
use curvine_proto::{Outcome, SessionKind, Time, WorkerState};
use curvine_types::{BlockVersion, Cookie, Generation, GrantEpoch, InodeId, MountId, SessionId, WorkerId};

/// Who may write an inode. The epoch rises when a writer is fenced or the content is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub epoch: GrantEpoch,
    /// In the order of their ids; empty when nobody writes at the moment.
    pub writers: Vec<SessionId>,
}

/// A session that may still execute commands.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    pub id: SessionId,
    pub kind: SessionKind,
    pub client: String,
    pub hostname: String,
    pub opened: Time,
}

/// What is known about one numbered command of a session.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "it is taken apart where it is returned")]
pub enum ResultLookup {
    /// Never executed.
    New,
    /// Executed; this was the outcome.
    Known(Outcome),
    /// Executed, or given up by the session; the outcome is no longer kept. It is never executed (again).
    Forgotten,
    /// The session expired or never was.
    NoSession,
}

/// A worker that once registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub uuid: [u8; 16],
    pub hostname: String,
    pub rpc_port: u32,
    pub socket: String,
    pub state: WorkerState,
}

/// What a directory of an under file system is bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct UfsDir {
    pub mount: MountId,
    /// Key of the directory relative to the mount's URL: "" or ending in '/'.
    pub prefix: String,
    /// When its whole listing was last observed.
    pub complete_at: Option<Time>,
}

/// How a name relates to the object of the under file system. A name that is removed here goes only after the store has removed
/// it, so there are no tombstones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// As the store has it.
    Clean,
    /// Changed here, not yet in the store.
    Dirty,
}

/// A known name in a directory of an under file system, to compare a listing with.
#[derive(Clone, Debug, PartialEq)]
pub struct UfsName {
    pub cookie: Cookie,
    pub name: Bytes,
    pub inode: InodeId,
    pub state: EntryState,
    pub directory: bool,
    /// Key as stored, relative to the mount's URL; of a directory ending in '/'.
    pub key: String,
    /// Empty for directories and for stores without etags.
    pub etag: String,
    pub generation: Generation,
    pub size: u64,
    pub mtime: Time,
}

/// What a content on a worker is to the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The worker is one of the replicas that the layout names.
    Authoritative { version: BlockVersion },
    /// A cached copy of the current object of an under file system.
    Cached,
    /// Nobody needs it.
    No,
}

/// A content that workers have, as the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedRecord {
    pub inode: InodeId,
    pub generation: Generation,
    pub version: BlockVersion,
    pub workers: Vec<WorkerId>,
    pub size: u64,
    /// Writes may be going on.
    pub live: bool,
    /// One of the file's paths; only where one content is asked for.
    pub path: Option<Vec<u8>>,
}

/// A quota on a directory; a limit of 0 is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRecord {
    pub inode: InodeId,
    pub path: Vec<u8>,
    pub bytes: u64,
    pub files: u64,
    pub used_bytes: u64,
    pub used_files: u64,
    /// What was there before the quota is not all counted yet.
    pub counting: bool,
}

/// A time to live of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TtlRecord {
    pub inode: InodeId,
    pub path: Vec<u8>,
    pub millis: u64,
    /// Files are removed; else copies are dropped.
    pub delete: bool,
}

/// Numbers for reports and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub inodes: u64,
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Fifos, sockets and devices.
    pub specials: u64,
    /// Sum of the sizes of all files.
    pub bytes: u64,
    /// Bytes of inline content.
    pub inline_bytes: u64,
    pub dentries: u64,
    pub xattrs: u64,
    pub sessions: u64,
    /// Sessions that are over and still hold something.
    pub sessions_ending: u64,
    /// Outcomes kept in the windows of all sessions.
    pub results: u64,
    /// Inodes with at least one lock.
    pub locked_inodes: u64,
    /// Inodes that have a write grant record.
    pub grants: u64,
    pub live: u64,
    /// Holds of sessions on unlinked inodes.
    pub orphan_holds: u64,
    pub workers: u64,
    pub mounts: u64,
    pub garbage: u64,
    /// Removed directory trees whose inodes have not all been freed yet.
    pub doomed: u64,
    /// Work that the log remembers: dirty files, and what else waits.
    pub jobs: u64,
    pub quotas: u64,
    /// Objects and directories that were removed through mounts and are still in their stores.
    pub trash: u64,
}
