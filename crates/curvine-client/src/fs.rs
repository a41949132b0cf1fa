//! The file system: the public face of the client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::{
    Attr, ContentMapReply, DataMode, FileKind, GetLayoutReply, ListWorkersReply, LockHolder, MountTableReply, MountUfs,
    ReportReply, SetAttr, SetLock, StatFsReply, Time,
};
use curvine_types::{Cookie, InodeId, Name, Result};

use crate::*;

/// A connected client. Clones share the session.
#[derive(Clone)]
pub struct FileSystem;

/// An open file. Clones are the same open; the last one that goes without `release` releases it.
#[derive(Clone)]
pub struct Handle;

impl Handle {
    pub fn inode(&self) -> InodeId {
        todo!()
    }
    pub fn flags(&self) -> OpenFlags {
        todo!()
    }
    /// Who may cache the file, as of now.
    pub fn mode(&self) -> DataMode {
        todo!()
    }
    /// Pages that the kernel has from an earlier open are still right.
    pub fn keep_cache(&self) -> bool {
        todo!()
    }
}

#[allow(unused_variables, clippy::too_many_arguments)]
impl FileSystem {
    /// Opens a session and starts its heartbeats.
    pub async fn connect(options: ClientOptions, events: Arc<dyn CacheEvents>) -> Result<FileSystem> {
        todo!()
    }
    /// Releases everything and closes the session.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        todo!()
    }
    pub fn options(&self) -> &ClientOptions {
        todo!()
    }
    /// From the cache, without waiting; `None`: ask `getattr`.
    pub fn try_getattr(&self, inode: InodeId) -> Option<(Attr, Duration)> {
        todo!()
    }
    pub fn try_lookup(&self, parent: InodeId, name: &Name) -> Option<Lookup> {
        todo!()
    }
    pub async fn lookup(&self, parent: InodeId, name: &Name) -> Result<Lookup> {
        todo!()
    }
    pub async fn getattr(&self, inode: InodeId) -> Result<(Attr, Duration)> {
        todo!()
    }
    /// `change.inode` is set from `inode`; a size other than 0 takes the way of a truncation.
    pub async fn setattr(&self, inode: InodeId, change: SetAttr) -> Result<(Attr, Duration)> {
        todo!()
    }
    pub async fn mkdir(&self, parent: InodeId, name: &Name, node: NewNode) -> Result<Entry> {
        todo!()
    }
    pub async fn mknod(&self, parent: InodeId, name: &Name, node: NewNode, kind: FileKind, rdev: u32) -> Result<Entry> {
        todo!()
    }
    pub async fn symlink(&self, parent: InodeId, name: &Name, target: &[u8], node: NewNode) -> Result<Entry> {
        todo!()
    }
    pub async fn create(&self, parent: InodeId, name: &Name, new: NewFile) -> Result<(Entry, Option<Handle>)> {
        todo!()
    }
    pub async fn link(&self, inode: InodeId, parent: InodeId, name: &Name) -> Result<Entry> {
        todo!()
    }
    pub async fn unlink(&self, parent: InodeId, name: &Name) -> Result<()> {
        todo!()
    }
    pub async fn rmdir(&self, parent: InodeId, name: &Name) -> Result<()> {
        todo!()
    }
    pub async fn rename(
        &self,
        parent: InodeId,
        name: &Name,
        new_parent: InodeId,
        new_name: &Name,
        flags: u32,
    ) -> Result<()> {
        todo!()
    }
    pub async fn readlink(&self, inode: InodeId) -> Result<Bytes> {
        todo!()
    }
    /// Entries after `cookie` (0: from the start). `plus`: the caller wants the attributes, so they are cached.
    pub async fn readdir(&self, dir: InodeId, cookie: Cookie, limit: u32, plus: bool) -> Result<DirPage> {
        todo!()
    }
    pub async fn statfs(&self) -> Result<StatFsReply> {
        todo!()
    }
    pub async fn set_xattr(&self, inode: InodeId, name: &[u8], value: Bytes, flags: u32) -> Result<()> {
        todo!()
    }
    pub async fn get_xattr(&self, inode: InodeId, name: &[u8]) -> Result<Bytes> {
        todo!()
    }
    pub async fn list_xattr(&self, inode: InodeId) -> Result<Vec<Bytes>> {
        todo!()
    }
    pub async fn remove_xattr(&self, inode: InodeId, name: &[u8]) -> Result<()> {
        todo!()
    }
    pub async fn open(&self, inode: InodeId, flags: OpenFlags) -> Result<Handle> {
        todo!()
    }
    /// Returns at once; the master is told in the background.
    pub fn release(&self, handle: Handle) {
        todo!()
    }
    /// A descriptor was closed: everything written has been acknowledged already.
    pub async fn flush(&self, handle: &Handle) -> Result<()> {
        todo!()
    }
    pub async fn fsync(&self, handle: &Handle, datasync: bool) -> Result<()> {
        todo!()
    }
    /// The concatenation is the data; it is shorter than `length` only at the end of the file.
    pub async fn read(&self, handle: &Handle, offset: u64, length: usize) -> Result<Vec<Bytes>> {
        todo!()
    }
    pub async fn write(
        &self,
        handle: &Handle,
        offset: u64,
        data: Bytes,
        append: bool,
        kill_privileges: bool,
    ) -> Result<WriteDone> {
        todo!()
    }
    /// `mode` as in linux/falloc.h.
    pub async fn fallocate(&self, handle: &Handle, offset: u64, length: u64, mode: u32) -> Result<()> {
        todo!()
    }
    pub async fn seek(&self, handle: &Handle, offset: u64, what: Seek) -> Result<u64> {
        todo!()
    }
    /// The lock in the way; `lock.inode` is set from `inode`.
    pub async fn getlk(&self, inode: InodeId, lock: SetLock) -> Result<Option<LockHolder>> {
        todo!()
    }
    /// `wait`: until it is granted or the future is dropped.
    pub async fn setlk(&self, inode: InodeId, lock: SetLock, wait: bool) -> Result<()> {
        todo!()
    }
    /// Drops the POSIX locks of an owner that closed a descriptor.
    pub async fn release_owner(&self, inode: InodeId, owner: u64) -> Result<()> {
        todo!()
    }
    /// Follows an absolute path, without following symlinks.
    pub async fn resolve(&self, path: &[u8]) -> Result<Entry> {
        todo!()
    }
    /// The directory and last name of an absolute path.
    pub async fn resolve_parent(&self, path: &[u8]) -> Result<(Entry, Name)> {
        todo!()
    }
    pub async fn layout(&self, inode: InodeId) -> Result<GetLayoutReply> {
        todo!()
    }
    /// What each worker holds of a file, with the worker's number.
    pub async fn content_map(&self, inode: InodeId) -> Result<Vec<(u64, ContentMapReply)>> {
        todo!()
    }
    pub async fn workers(&self) -> Result<ListWorkersReply> {
        todo!()
    }
    pub async fn report(&self) -> Result<ReportReply> {
        todo!()
    }
    pub async fn mount_table(&self) -> Result<MountTableReply> {
        todo!()
    }
    /// The number of the new mount.
    pub async fn mount_ufs(&self, mount: MountUfs) -> Result<u64> {
        todo!()
    }
    pub async fn umount_ufs(&self, path: &[u8]) -> Result<()> {
        todo!()
    }
    /// Fills a range into the cache of its home workers; bytes that came from the store.
    pub async fn fill(&self, inode: InodeId, offset: u64, length: u64) -> Result<u64> {
        todo!()
    }
    pub fn gauges(&self) -> Gauges {
        todo!()
    }
    /// When the session is valid for that much longer.
    pub fn session_validity(&self) -> Duration {
        todo!()
    }
}

#[allow(unused)]
fn _time(_: Time) {}
