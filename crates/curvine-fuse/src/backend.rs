//! The seam to the client: what the mount needs of a file system. `FileSystem` is the implementation; tests have another.
//!
//! An implementer answers each call within a deadline of its own (but `setlk` with `wait`), and stands it that a future is
//! dropped at any await. What a `try_` method returns may be believed for the time that comes with it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use curvine_client::{
    DirPage, Entry, FileSystem, Handle, LocalContent, LocalFile, LocalUse, Lookup, NewFile, NewNode, NotLocal,
    OpenFlags, Seek, WriteDone,
};
use curvine_proto::{Attr, DataMode, FileKind, LockHolder, SetAttr, SetLock, StatFsReply};
use curvine_types::{Cookie, Error, ErrorKind, Generation, InodeId, Name, Result, SessionId, WorkerId};

fn unsupported() -> Error {
    Error::new(ErrorKind::NotSupported, "this file system does not do that")
}

macro_rules! backend {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $kind:ty),*) -> $output:ty;)*) => {
        /// A file system under a mount; see the module.
        pub trait Backend: Send + Sync + 'static {
            /// An open file; clones are the same open.
            type Handle: Clone + Send + Sync + 'static;

            fn mode(&self, handle: &Self::Handle) -> DataMode;
            /// The session under which it was opened, and the generation of its content, for a successor of this process.
            fn provenance(&self, _handle: &Self::Handle) -> (SessionId, Generation) {
                (0, 0)
            }
            /// Nobody will ask again for the outcome of what a predecessor sent under this number. Returns when it was made or never
            /// will be; the lock that is named is given back.
            fn abandon(&self, _: SessionId, _: u64, _give_back: Option<SetLock>) -> impl Future<Output = ()> + Send {
                std::future::ready(())
            }
            /// Pages that the kernel has from an earlier open are still right.
            fn keep_cache(&self, handle: &Self::Handle) -> bool;
            /// Names the unbroken time in which nobody else could change the inode; `None`: others can.
            fn tenure(&self, inode: InodeId) -> Option<u64>;
            fn try_getattr(&self, inode: InodeId) -> Option<(Attr, Duration)>;
            fn try_lookup(&self, parent: InodeId, name: &Name) -> Option<Lookup>;
            /// The present one; 0: there are none.
            fn session(&self) -> SessionId {
                0
            }

            /// The content that a local file must be of, as last seen.
            fn local_content(&self, _handle: &Self::Handle) -> Option<LocalContent> {
                None
            }

            /// A file of this machine that the kernel can use for this open file by itself.
            fn local_file(
                &self,
                _handle: &Self::Handle,
                _wanted: LocalUse,
            ) -> impl Future<Output = std::result::Result<LocalFile, NotLocal>> + Send {
                async { Err(NotLocal::Remote) }
            }

            /// The kernel may write to a copy that nobody must believe from now on.
            fn spoil_copy(
                &self,
                _handle: &Self::Handle,
                _content: LocalContent,
                _worker: WorkerId,
            ) -> impl Future<Output = Result<()>> + Send {
                async { Ok(()) }
            }

            /// The kernel has written to the file by itself.
            fn wrote_locally(&self, _handle: &Self::Handle) {}

            /// Returns at once.
            fn release(&self, handle: Self::Handle);

            fn create(
                &self,
                parent: InodeId,
                name: &Name,
                new: NewFile,
            ) -> impl Future<Output = Result<(Entry, Option<Self::Handle>)>> + Send;
            fn open(&self, inode: InodeId, flags: OpenFlags) -> impl Future<Output = Result<Self::Handle>> + Send;
            fn flush(&self, handle: &Self::Handle) -> impl Future<Output = Result<()>> + Send;
            fn fsync(&self, handle: &Self::Handle, datasync: bool) -> impl Future<Output = Result<()>> + Send;
            fn read(
                &self,
                handle: &Self::Handle,
                offset: u64,
                length: usize,
            ) -> impl Future<Output = Result<Vec<Bytes>>> + Send;
            fn write(
                &self,
                handle: &Self::Handle,
                offset: u64,
                data: Bytes,
                append: bool,
                kill_privileges: bool,
            ) -> impl Future<Output = Result<WriteDone>> + Send;
            fn fallocate(
                &self,
                handle: &Self::Handle,
                offset: u64,
                length: u64,
                mode: u32,
            ) -> impl Future<Output = Result<()>> + Send;
            fn seek(
                &self,
                handle: &Self::Handle,
                offset: u64,
                what: Seek,
            ) -> impl Future<Output = Result<u64>> + Send;
            /// A file without a name, opened for writing.
            fn create_unnamed(
                &self,
                parent: InodeId,
                new: NewFile,
            ) -> impl Future<Output = Result<(Entry, Self::Handle)>> + Send {
                let _ = (parent, new);
                async { Err(unsupported()) }
            }
            /// Copies from one open file and offset to another; how many bytes.
            fn copy_range(
                &self,
                from: (&Self::Handle, u64),
                to: (&Self::Handle, u64),
                length: u64,
                kill_privileges: bool,
            ) -> impl Future<Output = Result<u64>> + Send {
                let _ = (from, to, length, kill_privileges);
                async { Err(unsupported()) }
            }
            /// As `rename`, whatever the flags; `owner` gets the device that RENAME_WHITEOUT leaves.
            fn rename_as(
                &self,
                parent: InodeId,
                name: &Name,
                new_parent: InodeId,
                new_name: &Name,
                flags: u32,
                owner: (u32, u32),
            ) -> impl Future<Output = Result<()>> + Send {
                let _ = (parent, name, new_parent, new_name, flags, owner);
                async { Err(unsupported()) }
            }
            /// Makes everything durable.
            fn sync(&self) -> impl Future<Output = Result<()>> + Send {
                async { Ok(()) }
            }
            $($(#[$doc])* fn $name(&self, $($arg: $kind),*) -> impl Future<Output = Result<$output>> + Send;)*
        }

        impl Backend for FileSystem {
            type Handle = Handle;

            fn mode(&self, handle: &Handle) -> DataMode {
                handle.mode()
            }

            fn provenance(&self, handle: &Handle) -> (SessionId, Generation) {
                handle.origin()
            }

            async fn abandon(&self, session: SessionId, sequence: u64, give_back: Option<SetLock>) {
                FileSystem::abandon(self, session, sequence, give_back).await
            }

            fn keep_cache(&self, handle: &Handle) -> bool {
                handle.keep_cache()
            }

            fn tenure(&self, inode: InodeId) -> Option<u64> {
                FileSystem::tenure(self, inode)
            }

            fn try_getattr(&self, inode: InodeId) -> Option<(Attr, Duration)> {
                FileSystem::try_getattr(self, inode)
            }

            fn try_lookup(&self, parent: InodeId, name: &Name) -> Option<Lookup> {
                FileSystem::try_lookup(self, parent, name)
            }

            fn session(&self) -> SessionId {
                FileSystem::session(self)
            }

            fn local_content(&self, handle: &Handle) -> Option<LocalContent> {
                FileSystem::local_content(self, handle)
            }

            async fn local_file(&self, handle: &Handle, wanted: LocalUse) -> std::result::Result<LocalFile, NotLocal> {
                FileSystem::local_file(self, handle, wanted).await
            }

            async fn spoil_copy(&self, handle: &Handle, content: LocalContent, worker: WorkerId) -> Result<()> {
                FileSystem::spoil_copy(self, handle, content, worker).await
            }

            fn wrote_locally(&self, handle: &Handle) {
                FileSystem::wrote_locally(self, handle)
            }

            fn release(&self, handle: Handle) {
                FileSystem::release(self, handle)
            }

            async fn create(&self, parent: InodeId, name: &Name, new: NewFile) -> Result<(Entry, Option<Handle>)> {
                FileSystem::create(self, parent, name, new).await
            }

            async fn open(&self, inode: InodeId, flags: OpenFlags) -> Result<Handle> {
                FileSystem::open(self, inode, flags).await
            }

            async fn flush(&self, handle: &Handle) -> Result<()> {
                FileSystem::flush(self, handle).await
            }

            async fn fsync(&self, handle: &Handle, datasync: bool) -> Result<()> {
                FileSystem::fsync(self, handle, datasync).await
            }

            async fn read(&self, handle: &Handle, offset: u64, length: usize) -> Result<Vec<Bytes>> {
                FileSystem::read(self, handle, offset, length).await
            }

            async fn write(
                &self,
                handle: &Handle,
                offset: u64,
                data: Bytes,
                append: bool,
                kill_privileges: bool,
            ) -> Result<WriteDone> {
                FileSystem::write(self, handle, offset, data, append, kill_privileges).await
            }

            async fn fallocate(&self, handle: &Handle, offset: u64, length: u64, mode: u32) -> Result<()> {
                FileSystem::fallocate(self, handle, offset, length, mode).await
            }

            async fn seek(&self, handle: &Handle, offset: u64, what: Seek) -> Result<u64> {
                FileSystem::seek(self, handle, offset, what).await
            }

            async fn create_unnamed(&self, parent: InodeId, new: NewFile) -> Result<(Entry, Handle)> {
                FileSystem::create_unnamed(self, parent, new).await
            }

            async fn copy_range(
                &self,
                from: (&Handle, u64),
                to: (&Handle, u64),
                length: u64,
                kill_privileges: bool,
            ) -> Result<u64> {
                FileSystem::copy_range(self, from, to, length, kill_privileges).await
            }

            async fn rename_as(
                &self,
                parent: InodeId,
                name: &Name,
                new_parent: InodeId,
                new_name: &Name,
                flags: u32,
                owner: (u32, u32),
            ) -> Result<()> {
                FileSystem::rename_as(self, parent, name, new_parent, new_name, flags, owner).await
            }

            async fn sync(&self) -> Result<()> {
                FileSystem::sync(self).await
            }

            $(async fn $name(&self, $($arg: $kind),*) -> Result<$output> {
                FileSystem::$name(self, $($arg),*).await
            })*
        }
    };
}

backend! {
    lookup(parent: InodeId, name: &Name) -> Lookup;
    getattr(inode: InodeId) -> (Attr, Duration);
    setattr(inode: InodeId, change: SetAttr) -> (Attr, Duration);
    mkdir(parent: InodeId, name: &Name, node: NewNode) -> Entry;
    mknod(parent: InodeId, name: &Name, node: NewNode, kind: FileKind, rdev: u32) -> Entry;
    symlink(parent: InodeId, name: &Name, target: &[u8], node: NewNode) -> Entry;
    link(inode: InodeId, parent: InodeId, name: &Name) -> Entry;
    unlink(parent: InodeId, name: &Name) -> ();
    rmdir(parent: InodeId, name: &Name) -> ();
    rename(parent: InodeId, name: &Name, new_parent: InodeId, new_name: &Name, flags: u32) -> ();
    readlink(inode: InodeId) -> Bytes;
    /// Entries after `cookie`; 0: from the start.
    readdir(dir: InodeId, cookie: Cookie, limit: u32, plus: bool) -> DirPage;
    /// Of the tree below a directory.
    statfs(dir: InodeId) -> StatFsReply;
    set_xattr_with(inode: InodeId, name: &[u8], value: Bytes, flags: u32, kill_setgid: bool) -> ();
    get_xattr(inode: InodeId, name: &[u8]) -> Bytes;
    list_xattr(inode: InodeId) -> Vec<Bytes>;
    remove_xattr(inode: InodeId, name: &[u8]) -> ();
    getlk(inode: InodeId, lock: SetLock) -> Option<LockHolder>;
    /// `wait`: until it is granted or the future is dropped.
    setlk(inode: InodeId, lock: SetLock, wait: bool) -> ();
    /// Drops the record locks of an owner that closed a descriptor.
    release_owner(inode: InodeId, owner: u64) -> ();
    /// Follows an absolute path, without following symlinks.
    resolve(path: &[u8]) -> Entry;
}
