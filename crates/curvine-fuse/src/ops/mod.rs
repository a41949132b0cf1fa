//! What each request means, one file per kind of thing it is about.
//!
//! Always: nothing here blocks a thread; OPEN is never answered ENOSYS (the kernel would stop asking for good).

mod attrs;
mod copy;
mod dirs;
mod files;
mod locks;
mod names;
mod way;
mod xattrs;

use std::time::Duration;

use bytes::Bytes;
use curvine_fuse_abi::kernel::{self, InHeader, StatfsOut, UNIQUE_RESEND};
use curvine_fuse_abi::{Operation, parse};
use curvine_proto::Attr;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;
use crate::convert;
use crate::io_mode::Told;
use crate::server::Server;

/// What the operations have at hand: the mount, and who asks about which node.
pub(crate) struct Call<'a, B: Backend> {
    pub server: &'a Server<B>,
    pub header: InHeader,
    /// The inode of the header's node.
    pub inode: u64,
    /// A predecessor was serving it, too.
    pub again: bool,
    /// The answer must not reach the kernel before this.
    pub not_before: Mutex<Option<Instant>>,
}

impl<B: Backend> Call<'_, B> {
    /// The kernel's number of the request, the same when it is sent again.
    fn request(&self) -> u64 {
        self.header.unique & !UNIQUE_RESEND
    }

    /// Attributes as the kernel wants them, and how long it may believe them. Of a file that it writes by itself the file knows them.
    fn attr_now(&self, attr: &Attr, ttl: Duration) -> (kernel::Attr, Duration) {
        let node = self.server.node(attr.inode);
        match self.server.modes.tell(attr.inode, attr.size) {
            Told::Written(backing) => {
                let mut attr = *attr;
                if backing.freshen(&mut attr) {
                    return (convert::attr(&attr, node), Duration::ZERO);
                }
            }
            Told::Size(not_before) => self.wait_until(not_before),
        }
        (convert::attr(attr, node), self.server.cap(ttl))
    }

    /// The answer waits for this as well.
    fn wait_until(&self, not_before: Option<Instant>) {
        if not_before.is_some() {
            let mut latest = self.not_before.lock();
            *latest = not_before.max(*latest);
        }
    }
}

/// Carries out one request. The future may be dropped at any await.
pub(crate) async fn run<B: Backend>(server: &Server<B>, request: Bytes, again: bool) -> Outcome {
    let parsed = parse(&request)?;
    let inode = server.inode(parsed.header.nodeid);
    let call = Call { server, header: parsed.header, inode, again, not_before: Mutex::new(None) };
    let outcome = call.answer(parsed.operation, &request).await;
    let not_before = *call.not_before.lock();
    if let Some(not_before) = not_before {
        tokio::time::sleep_until(not_before).await;
    }
    outcome
}

impl<B: Backend> Call<'_, B> {
    async fn answer(&self, operation: Operation<'_>, request: &Bytes) -> Outcome {
        use Operation as Op;
        let (call, server) = (self, self.server);
        match operation {
            Op::Lookup { name } => call.lookup(name).await,
            Op::Getattr { .. } => call.getattr().await,
            Op::Statx { .. } => call.statx().await,
            Op::Setattr(args) => call.setattr(&args).await,
            Op::Readlink => call.readlink().await,
            Op::Symlink { name, target } => call.symlink(name, target).await,
            Op::Mknod { name, mode, rdev, umask } => call.mknod(name, mode, umask, rdev).await,
            Op::Mkdir { name, mode, umask } => call.mkdir(name, mode, umask).await,
            Op::Unlink { name } => call.unlink(name).await,
            Op::Rmdir { name } => call.rmdir(name).await,
            Op::Rename { name, new_parent, new_name, flags } => call.rename(name, new_parent, new_name, flags).await,
            Op::Link { inode, name } => call.link(inode, name).await,
            Op::Open { flags, kill_privileges } => call.open(flags, kill_privileges).await,
            Op::Create { name, flags, mode, umask, kill_privileges } => {
                call.create(name, flags, mode, umask, kill_privileges).await
            }
            Op::Read(args) => call.read(&args).await,
            Op::Write { args, data, data_offset } => {
                let data = request.slice(data_offset..data_offset + data.len());
                call.write(&args, data).await
            }
            Op::Statfs => Ok(Answer::value::<StatfsOut>(&server.memory.statfs())),
            Op::Release(args) => call.release(&args).await,
            Op::Flush { fh, lock_owner } => call.flush(fh, lock_owner).await,
            Op::Fsync { fh, datasync } => call.fsync(fh, datasync).await,
            Op::Fallocate(args) => call.fallocate(&args).await,
            Op::Lseek { fh, offset, whence } => call.lseek(fh, offset, whence).await,
            Op::Setxattr { name, value, flags, kill_setgid } => call.setxattr(name, value, flags, kill_setgid).await,
            Op::Getxattr { name, size } => call.getxattr(name, size).await,
            Op::Listxattr { size } => call.listxattr(size).await,
            Op::Removexattr { name } => call.removexattr(name).await,
            Op::Opendir { .. } => call.opendir(),
            Op::Readdir(args) => call.readdir(&args, false).await,
            Op::Readdirplus(args) => call.readdir(&args, true).await,
            Op::Releasedir(args) => {
                server.handles.remove(args.fh);
                Ok(Answer::Done)
            }
            // A change of a directory is durable before it is answered.
            Op::Fsyncdir { .. } => Ok(Answer::Done),
            Op::Getlk(args) => call.getlk(&args).await,
            Op::Setlk(args) => call.setlk(&args, false).await,
            Op::Setlkw(args) => call.setlk(&args, true).await,
            // The kernel checks permissions; what it asks beyond that (chdir, access) is granted.
            Op::Access { .. } | Op::Destroy => Ok(Answer::Done),
            Op::Ioctl(_) => Err(Failure::Errno(libc::ENOTTY)),
            Op::CopyFileRange { args, wide } => call.copy_file_range(&args, wide).await,
            Op::Tmpfile { flags, mode, umask } => call.tmpfile(flags, mode, umask).await,
            Op::Syncfs => call.syncfs().await,
            // The kernel remembers these refusals and does without: polls are always ready.
            Op::Poll(_) | Op::Bmap(_) => Err(Failure::Errno(libc::ENOSYS)),
            Op::Init(_) | Op::Unserved(_) | Op::Unknown(_) => Err(Failure::Errno(libc::ENOSYS)),
            // Without an answer: the server takes them before they come here.
            Op::Forget { .. } | Op::BatchForget { .. } | Op::Interrupt { .. } => Ok(Answer::Done),
        }
    }
}
