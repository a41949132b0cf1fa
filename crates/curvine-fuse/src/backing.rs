//! A local file that the kernel has: registered once, for as long as an inode is open with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use curvine_client::{LocalContent, LocalFile};
use curvine_fuse_abi::Device;
use curvine_fuse_abi::kernel::{AttrOut, StatfsOut, StatxOut};
use curvine_proto::{Attr, Time};
use curvine_types::{Result, SessionId, WorkerId};
use parking_lot::Mutex;
use tracing::warn;

/// Holds what a successor of this process and whoever answers before it comes need: the descriptors of registered files, which the kernel
/// counts as openers and of which sizes and times are asked, and what is answered from memory.
pub trait Keeper: Send + Sync {
    /// Called before anybody opens anything with the registration.
    fn keep(&self, id: i32, file: BorrowedFd<'_>);
    /// The registration has ended.
    fn forget(&self, id: i32);
    /// What is answered from memory, whoever serves: to STATFS, and to GETATTR and STATX of the root.
    fn remember(&self, statfs: &StatfsOut, root: &AttrOut, root_statx: &StatxOut);
}

/// A keeper, if there is one.
#[derive(Clone, Default)]
pub struct Kept(pub Option<Arc<dyn Keeper>>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kept").field(&self.0.is_some()).finish()
    }
}

/// The registration ends when this is dropped, which is when nothing is open with it any more.
#[derive(Debug)]
pub struct Backing {
    device: Arc<Device>,
    keeper: Kept,
    pub id: i32,
    /// Open for reading only: the kernel opens the file anew for each open of the inode, with the flags of that.
    pub file: OwnedFd,
    pub content: LocalContent,
    pub worker: WorkerId,
    session: SessionId,
    /// It was opened for writing: size and time are asked from the file, and the worker knows.
    written: AtomicBool,
    indexed: Mutex<Indexed>,
}

/// Up to which size the worker's index counts on a file: what else an fsync has to do is between the file and its disk.
#[derive(Debug, Default)]
struct Indexed {
    size: u64,
    /// In which time without others; they could cut the file.
    tenure: Option<u64>,
    /// Grows when the file may have been cut.
    cuts: u64,
    /// A cut may still come.
    unknown: bool,
}

/// A cut of the file that is going on.
pub struct Cut<'a>(&'a Backing, bool);

impl Cut<'_> {
    /// It was made, or never will be.
    pub fn ended(mut self) {
        self.1 = true;
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.0.note_cut(!self.1);
    }
}

impl Backing {
    /// Registers a file.
    pub fn register(device: &Arc<Device>, keeper: &Kept, local: LocalFile, written: bool) -> Result<Arc<Self>> {
        let id = device.register_backing(&local.file)?;
        if let Some(keeper) = &keeper.0 {
            keeper.keep(id, local.file.as_fd());
        }
        Ok(Self::inherit(device, keeper, id, local, written))
    }

    /// One that a predecessor has registered, and that its keeper has.
    pub fn inherit(device: &Arc<Device>, keeper: &Kept, id: i32, local: LocalFile, written: bool) -> Arc<Self> {
        let LocalFile { file, content, worker, session } = local;
        Arc::new(Self {
            device: device.clone(),
            keeper: keeper.clone(),
            id,
            file,
            content,
            worker,
            session,
            written: AtomicBool::new(written),
            indexed: Mutex::default(),
        })
    }

    /// Whether the kernel may have written to the file.
    pub fn is_written(&self) -> bool {
        self.written.load(Ordering::SeqCst)
    }

    /// A writer joins, and the worker knows.
    pub fn set_written(&self) {
        self.written.store(true, Ordering::SeqCst);
    }

    /// `None` if the file does not say.
    fn size(&self) -> Option<u64> {
        rustix::fs::fstat(&self.file).ok().map(|stat| stat.st_size as u64)
    }

    /// Before a truncation through this mount. If the guard is dropped without its end, the worker is asked at each fsync.
    pub fn cut(&self) -> Cut<'_> {
        self.note_cut(false);
        Cut(self, false)
    }

    fn note_cut(&self, unknown: bool) {
        let mut indexed = self.indexed.lock();
        let (cuts, unknown) = (indexed.cuts + 1, indexed.unknown || unknown);
        *indexed = Indexed { cuts, unknown, ..Indexed::default() };
    }

    /// What to give to `indexed` later: how often it was cut, and its size.
    pub fn before_sync(&self) -> (u64, u64) {
        let cuts = self.indexed.lock().cuts;
        (cuts, self.size().unwrap_or(0))
    }

    /// The worker has made the file durable as it was `before`, within `tenure`.
    pub fn indexed(&self, before: (u64, u64), tenure: Option<u64>) {
        let mut indexed = self.indexed.lock();
        let (cuts, size) = before;
        if indexed.cuts == cuts && !indexed.unknown {
            *indexed = Indexed { size, tenure, cuts, unknown: false };
        }
    }

    /// Makes what was written durable without the worker; `None` if it has something to write down, too. Blocks.
    pub fn sync_alone(&self, tenure: u64) -> Option<std::io::Result<()>> {
        let counted = {
            let indexed = self.indexed.lock();
            if indexed.tenure == Some(tenure) { indexed.size } else { 0 }
        };
        self.size().is_some_and(|size| size > 0 && size <= counted).then(|| Ok(rustix::fs::fdatasync(&self.file)?))
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
        if let Some(keeper) = &self.keeper.0 {
            keeper.forget(self.id);
        }
    }
}
