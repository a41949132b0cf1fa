//! An open of a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use curvine_proto::DataMode;
use curvine_types::{Error, ErrorKind, Generation, InodeId, Result, SessionId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::core::Core;
use crate::file::File;
use crate::read_ahead::ReadAhead;
use crate::{Inherited, OpenFlags};

/// An open file. Clones are the same open; when the last one goes, the master is told.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Open>);

pub(crate) struct Open {
    core: Arc<Core>,
    pub file: Arc<File>,
    pub flags: OpenFlags,
    /// The session that it was opened under.
    session: SessionId,
    generation: Generation,
    keep_cache: bool,
    pub read_ahead: Mutex<ReadAhead>,
    pub write_slots: Arc<Semaphore>,
    /// Writes that went into the metadata.
    pub inline_writes: AtomicUsize,
}

impl Open {
    /// `generation`: of the content that was opened; 0: not known.
    pub(crate) fn new(
        core: &Arc<Core>,
        file: Arc<File>,
        flags: OpenFlags,
        session: SessionId,
        generation: Generation,
    ) -> Self {
        let keep_cache = core.cache.keep_pages(file.inode, generation, crate::clock::boot_time());
        Self {
            core: core.clone(),
            file,
            flags,
            session,
            generation,
            keep_cache,
            read_ahead: Mutex::new(ReadAhead::new(core.options.read_window)),
            write_slots: Arc::new(Semaphore::new(core.options.write_window.max(1))),
            inline_writes: AtomicUsize::new(0),
        }
    }

    /// That of a predecessor.
    pub(crate) fn inherit(core: &Arc<Core>, inherited: &Inherited) -> Self {
        let Inherited { inode, flags, session, generation } = *inherited;
        let dead = flags.write && session != core.window.session();
        let file = core.opens.adopt(core, inode, flags.write, dead);
        Self::new(core, file, flags, session, generation)
    }

    /// Whether the session that it was opened under is over.
    fn is_outlived(&self) -> bool {
        self.core.window.session() != self.session
    }

    pub(crate) fn check_readable(&self) -> Result<()> {
        if self.flags.read { Ok(()) } else { Err(self.not_open_for("reading")) }
    }

    /// A file that was open for writing when its session expired is dead.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if !self.flags.write {
            return Err(self.not_open_for("writing"));
        }
        if self.is_outlived() {
            return Err(Error::new(
                ErrorKind::SessionExpired,
                "the session under which the file was opened for writing has expired; open it again",
            )
            .with("inode", self.file.inode));
        }
        Ok(())
    }

    fn not_open_for(&self, what: &str) -> Error {
        Error::new(ErrorKind::InvalidArgument, format!("the file is not open for {what}"))
            .with("inode", self.file.inode)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let dead = self.flags.write && self.is_outlived();
        self.core.opens.release(&self.core, self.file.inode, self.flags.write, dead);
    }
}

impl Handle {
    /// The open inode.
    pub fn inode(&self) -> InodeId {
        self.0.file.inode
    }

    /// The session that it was opened under, and the generation of the content that was opened.
    pub fn origin(&self) -> (SessionId, Generation) {
        (self.0.session, self.0.generation)
    }

    /// How it was opened.
    pub fn flags(&self) -> OpenFlags {
        self.0.flags
    }

    /// Who may cache the file, as of now.
    pub fn mode(&self) -> DataMode {
        self.0.file.mode()
    }

    /// Pages that the kernel has from an earlier open were still right at this one.
    pub fn keep_cache(&self) -> bool {
        self.0.keep_cache
    }

    pub(crate) fn count_inline_write(&self) {
        self.0.inline_writes.fetch_add(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("inode", &self.inode()).field("flags", &self.0.flags).finish_non_exhaustive()
    }
}
