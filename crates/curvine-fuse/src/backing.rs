//! A local file that the kernel has: registered once, for as long as an inode is open with it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use curvine_client::{LocalContent, LocalFile};
use curvine_fuse_abi::Device;
use curvine_proto::{Attr, Time};
use curvine_types::{Result, SessionId, WorkerId};
use tracing::warn;

/// The registration ends when this is dropped, which is when nothing is open with it any more.
#[derive(Debug)]
pub struct Backing {
    device: Arc<Device>,
    pub id: i32,
    /// Open for reading only: the kernel opens the file anew for each open of the inode, with the flags of that.
    pub file: OwnedFd,
    pub content: LocalContent,
    pub worker: WorkerId,
    session: SessionId,
    /// It was opened for writing: size and time are asked from the file, and the worker knows.
    written: AtomicBool,
}

impl Backing {
    /// Registers a file.
    pub fn register(device: &Arc<Device>, local: LocalFile, written: bool) -> Result<Arc<Self>> {
        let LocalFile { file, content, worker, session } = local;
        let id = device.register_backing(&file)?;
        let written = AtomicBool::new(written);
        Ok(Arc::new(Self { device: device.clone(), id, file, content, worker, session, written }))
    }

    /// Whether the kernel may have written to the file.
    pub fn is_written(&self) -> bool {
        self.written.load(Ordering::SeqCst)
    }

    /// A writer joins, and the worker knows.
    pub fn set_written(&self) {
        self.written.store(true, Ordering::SeqCst);
    }

    /// Whether an open of this content, under this session, may do as the earlier ones do. A worker takes the file from a writer whose
    /// session is over.
    pub fn suits(&self, content: Option<LocalContent>, session: SessionId) -> bool {
        let same = content.is_none_or(|content| content == self.content);
        same && (self.session == session || !self.is_written())
    }

    /// Puts what only the file knows into attributes; whether it did.
    pub fn freshen(&self, attr: &mut Attr) -> bool {
        if !self.is_written() || attr.generation != self.content.generation {
            return false;
        }
        let Ok(stat) = rustix::fs::fstat(&self.file) else { return false };
        let mtime = Time::new(stat.st_mtime, stat.st_mtime_nsec as u32);
        attr.size = stat.st_size as u64;
        attr.blocks = stat.st_blocks as u64;
        attr.ctime = attr.ctime.into_iter().chain([mtime]).max_by_key(Time::key);
        attr.mtime = Some(mtime);
        true
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Err(error) = self.device.unregister_backing(self.id) {
            warn!(%error, id = self.id, "a file stays registered until the end of the mount");
        }
    }
}
