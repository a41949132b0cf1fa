//! The state machine's public face.

use std::io::{Read, Write};

use bytes::Bytes;
use curvine_proto::{
    Attr, CommandBatch, DirEntry, Garbage, Layout, LockHolder, MountInfo, Outcome, SetLock, Time,
};
use curvine_types::{ClusterId, Cookie, Generation, InodeId, MountId, Result, SessionId, WorkerId};

use crate::api::*;

/// The metadata of one cluster.
pub struct Namespace;

/// A frozen state.
pub struct Snapshot;

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

#[allow(clippy::todo, unused_variables)]
impl Namespace {
    /// The state before the first command of a log: only `InitCluster` succeeds.
    pub fn new() -> Self {
        Self
    }
    /// Applies one log entry; one outcome per command, in order. Never panics.
    pub fn apply(&mut self, batch: &CommandBatch) -> Vec<Outcome> {
        todo!()
    }
    pub fn cluster(&self) -> Option<ClusterId> {
        todo!()
    }
    pub fn feature_level(&self) -> u32 {
        todo!()
    }
    /// The time of the last batch.
    pub fn now(&self) -> Time {
        todo!()
    }
    /// Also `.` and `..`.
    pub fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Option<Attr>> {
        todo!()
    }
    pub fn attr(&self, inode: InodeId) -> Result<Attr> {
        todo!()
    }
    pub fn parent(&self, dir: InodeId) -> Result<InodeId> {
        todo!()
    }
    pub fn path(&self, inode: InodeId) -> Option<Vec<u8>> {
        todo!()
    }
    pub fn readdir(&self, dir: InodeId, after: Cookie, limit: usize) -> Result<(Vec<DirEntry>, bool)> {
        todo!()
    }
    pub fn readlink(&self, inode: InodeId) -> Result<Bytes> {
        todo!()
    }
    pub fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        todo!()
    }
    pub fn xattr_names(&self, inode: InodeId) -> Result<Vec<Bytes>> {
        todo!()
    }
    pub fn layout(&self, inode: InodeId, with_data: bool) -> Result<Layout> {
        todo!()
    }
    pub fn grant(&self, inode: InodeId) -> Option<Grant> {
        todo!()
    }
    pub fn live_inodes(&self, after: InodeId, limit: usize) -> Vec<InodeId> {
        todo!()
    }
    pub fn conflicting_lock(&self, session: SessionId, lock: &SetLock) -> Result<Option<LockHolder>> {
        todo!()
    }
    pub fn session(&self, id: SessionId) -> Option<SessionRecord> {
        todo!()
    }
    pub fn sessions(&self) -> Vec<SessionRecord> {
        todo!()
    }
    pub fn result(&self, session: SessionId, sequence: u64) -> ResultLookup {
        todo!()
    }
    pub fn orphans_of(&self, session: SessionId) -> Vec<InodeId> {
        todo!()
    }
    pub fn workers(&self) -> Vec<WorkerRecord> {
        todo!()
    }
    pub fn worker(&self, id: WorkerId) -> Option<WorkerRecord> {
        todo!()
    }
    pub fn mounts(&self) -> Vec<MountInfo> {
        todo!()
    }
    pub fn mount(&self, id: MountId) -> Option<MountInfo> {
        todo!()
    }
    pub fn ufs_dir(&self, inode: InodeId) -> Option<UfsDir> {
        todo!()
    }
    /// Names after a cookie, and whether that was the end.
    pub fn ufs_names(&self, dir: InodeId, after: Cookie, limit: usize) -> Result<(Vec<UfsName>, bool)> {
        todo!()
    }
    pub fn garbage(&self, limit: usize) -> Vec<Garbage> {
        todo!()
    }
    pub fn is_garbage(&self, inode: InodeId, generation: Generation, worker: WorkerId) -> bool {
        todo!()
    }
    pub fn content_wanted(&self, inode: InodeId, generation: Generation, worker: WorkerId) -> Wanted {
        todo!()
    }
    pub fn counts(&self) -> Counts {
        todo!()
    }
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
    pub fn restore(reader: &mut dyn Read) -> Result<Namespace> {
        todo!()
    }
}

#[allow(clippy::todo, unused_variables)]
impl Snapshot {
    pub fn write_to(&self, writer: &mut dyn Write) -> std::io::Result<()> {
        todo!()
    }
}
