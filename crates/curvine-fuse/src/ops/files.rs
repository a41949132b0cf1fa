//! Open files and their data.
//!
//! Always: an inode is joined to its I/O mode before its OPEN is answered, and whether cached pages are still right is asked
//! only then, so that a recall in between either finds the open or is found.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use curvine_client::{Entry, NewFile, OpenFlags, Seek};
use curvine_fuse_abi::IntoBytes;
use curvine_fuse_abi::kernel::{
    FallocateIn, LseekOut, OpenOut, RELEASE_FLOCK_UNLOCK, ReadIn, ReleaseIn, WRITE_CACHE, WRITE_KILL_SUIDGID, WriteIn,
    WriteOut, fopen,
};
use curvine_proto::SetAttr;
use curvine_types::{InodeId, Name};

use super::Call;
use super::way::Taken;
use crate::answer::{Answer, Failure, Outcome};
use crate::backend::Backend;
use crate::convert;
use crate::handles::Opened;
use crate::handover::{HandleRecord, Kind};
use crate::io_mode::{IoMode, Told};

/// What `open(2)` was given, as the client wants it.
pub(super) fn open_flags(flags: u32) -> OpenFlags {
    let flags = flags as i32;
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
        append: flags & libc::O_APPEND != 0,
        direct: flags & libc::O_DIRECT != 0,
    }
}

impl<B: Backend> Call<'_, B> {
    pub(super) async fn open(&self, flags: u32, kill_privileges: bool) -> Outcome {
        self.check_room()?;
        let wanted = open_flags(flags);
        let handle = self.server.backend.open(self.inode, wanted).await?;
        if kill_privileges {
            let change = SetAttr { kill_privileges: true, ..SetAttr::default() };
            if let Err(error) = self.server.backend.setattr(self.inode, change).await {
                self.server.backend.release(handle);
                return Err(error.into());
            }
        }
        let (fh, out) = self.opened(self.inode, handle, wanted, None).await?;
        Ok(Answer::Opened { fh, value: out.as_bytes().to_vec() })
    }

    pub(super) async fn create(
        &self,
        name: &[u8],
        flags: u32,
        mode: u32,
        umask: u32,
        kill_privileges: bool,
    ) -> Outcome {
        self.check_room()?;
        let wanted = open_flags(flags);
        let new = NewFile {
            mode: convert::permissions(mode),
            umask,
            uid: self.header.uid,
            gid: self.header.gid,
            exclusive: flags as i32 & libc::O_EXCL != 0,
            open: Some(wanted),
        };
        let (entry, handle) = self.server.backend.create(self.inode, &Name::new(name)?, new).await?;
        let handle = handle.ok_or(Failure::Errno(libc::EIO))?;
        if kill_privileges && entry.attr.mode & 0o6000 != 0 && wanted.truncate {
            // It existed already, and opening it emptied it.
            let change = SetAttr { kill_privileges: true, ..SetAttr::default() };
            if let Err(error) = self.server.backend.setattr(entry.attr.inode, change).await {
                self.server.backend.release(handle);
                return Err(error.into());
            }
        }
        let new_in = (entry.attr.size == 0).then_some(self.inode);
        let (fh, out) = self.opened(entry.attr.inode, handle, wanted, new_in).await?;
        // A recall that overtakes this reply finds no node in the kernel, and no epoch makes an open file look its name up.
        let entry = Entry { attr_ttl: Duration::ZERO, ..entry };
        let mut value = self.entry(&entry).as_bytes().to_vec();
        value.extend_from_slice(out.as_bytes());
        Ok(Answer::Opened { fh, value })
    }

    pub(super) fn check_room(&self) -> Result<(), Failure> {
        if self.server.handles.has_room() { Ok(()) } else { Err(Failure::Errno(libc::ENFILE)) }
    }

    /// Counts the open and decides how the kernel does its I/O. `new_in`: the directory in which the file was made just now.
    pub(super) async fn opened(
        &self,
        inode: InodeId,
        handle: B::Handle,
        wanted: OpenFlags,
        new_in: Option<InodeId>,
    ) -> Result<(u64, OpenOut), Failure> {
        let server = self.server;
        // From here to the table of handles nothing may be awaited: a count without a handle would stay.
        let taken = self.take_way(inode, &handle, wanted, new_in).await?;
        let way = taken.recorded();
        let (open_flags, backing_id) = match taken {
            Taken::Passthrough { backing, through_us } => {
                let direct = if through_us { fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES } else { 0 };
                (fopen::PASSTHROUGH | direct, backing.id)
            }
            // O_DIRECT on a cached inode is left to the kernel, which keeps its pages right; FOPEN_DIRECT_IO would not.
            Taken::Plain(IoMode::Direct) => (fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES, 0),
            // An append must be one request, so that the primary worker can keep it in one piece; the page cache splits it.
            Taken::Plain(_) if wanted.append => (fopen::DIRECT_IO, 0),
            // Its pages would be of no use; who writes as well must keep those of others right, and the page cache does.
            Taken::Plain(_) if !wanted.write && server.modes.contested.contains(inode) => (fopen::DIRECT_IO, 0),
            Taken::Plain(_) if server.backend.keep_cache(&handle) => (fopen::KEEP_CACHE, 0),
            Taken::Plain(_) => (0, 0),
        };
        if let Some(parent) = new_in.filter(|_| wanted.write) {
            server.modes.note_made(inode, parent);
        }
        // Attributes of a LOOKUP that a recall overtook: the kernel did not know the node then, and a lease that is held now
        // says nothing about them.
        server.pages.void_attributes(server.node(inode));
        let (session, generation) = server.backend.provenance(&handle);
        let kind = Kind::File { flags: wanted, session, generation, way };
        let record = HandleRecord { inode, request: self.request(), kind };
        match server.handles.insert(Opened::File { inode, handle, paged: open_flags & fopen::DIRECT_IO == 0 }, &record)
        {
            Ok(fh) => Ok((fh, OpenOut { fh, open_flags, backing_id })),
            Err(opened) => {
                server.release_opened(&opened);
                Err(Failure::Errno(libc::ENFILE))
            }
        }
    }

    /// The open file of a handle number; EBADF for one that is not open.
    pub(super) fn file(&self, fh: u64) -> Result<(InodeId, B::Handle), Failure> {
        match self.server.handles.get(fh).as_deref() {
            Some(Opened::File { inode, handle, .. }) => Ok((*inode, handle.clone())),
            _ => Err(Failure::Errno(libc::EBADF)),
        }
    }

    pub(super) async fn read(&self, args: &ReadIn) -> Outcome {
        /// Most sizes that may overtake a READ before it is answered all the same. (Writes that may are as many as were under way.)
        const TRIES: usize = 8;
        let server = self.server;
        let opened = server.handles.get(args.fh);
        let Some(Opened::File { inode, handle, paged }) = opened.as_deref() else {
            return Err(Failure::Errno(libc::EBADF));
        };
        let (inode, wanted) = (*inode, args.size as usize);
        let overtakes = &server.modes.overtakes;
        if *paged {
            let into_pages = args.flags as i32 & libc::O_DIRECT == 0;
            let range = args.offset..args.offset.saturating_add(wanted as u64);
            overtakes.read_begins(self.request(), inode, range, into_pages);
        }
        let mut tries = 0;
        loop {
            let began = server.modes.begins(inode);
            let pieces = server.backend.read(handle, args.offset, wanted).await?;
            let length: usize = pieces.iter().map(Bytes::len).sum();
            if length > wanted {
                debug_assert!(false, "the client returned more than was asked for");
                return Err(Failure::Errno(libc::EIO));
            }
            tries += 1;
            if !paged {
                return Ok(Answer::Data(pieces));
            }
            let whole = length == wanted || server.modes.ends(inode, began, args.offset + length as u64);
            // Last: from here on a write that ends takes this for answered.
            if (whole || tries >= TRIES) && overtakes.read_ends(self.request(), inode) {
                return Ok(Answer::Data(pieces));
            }
        }
    }

    pub(super) async fn write(&self, args: &WriteIn, data: Bytes) -> Outcome {
        let (inode, handle) = self.file(args.fh)?;
        let from_page_cache = args.write_flags & WRITE_CACHE != 0;
        // Write-back of mapped pages goes where the pages are, whatever the flags of the handle that the kernel picked.
        let append = args.flags as i32 & libc::O_APPEND != 0 && !from_page_cache;
        let kill_privileges = args.write_flags & WRITE_KILL_SUIDGID != 0;
        let range = args.offset..args.offset.saturating_add(data.len() as u64);
        let done = self.server.backend.write(&handle, args.offset, data, append, kill_privileges).await;
        self.drop_stale_pages(inode, range).await;
        let done = done?;
        if append && self.server.modes.is_cached(inode) {
            // Appends go past the page cache: pages that a reader filled meanwhile have zeroes in their place.
            self.server.pages.invalidate_aside(self.server.node(inode)).await;
        }
        let end = done.offset + done.length as u64;
        if !append {
            self.server.modes.grew(inode, end);
        } else if let Told::Size(not_before) = self.server.modes.tell(inode, end) {
            self.wait_until(not_before);
        }
        let size = u32::try_from(done.length).map_err(|_| Failure::Errno(libc::EIO))?;
        Ok(Answer::value(&WriteOut { size, padding: 0 }))
    }

    /// After a write of these bytes: what readers whose requests overtook it brought into the page cache.
    async fn drop_stale_pages(&self, inode: InodeId, range: Range<u64>) {
        let node = self.server.node(inode);
        let stale = self.server.modes.overtakes.write_ends(self.request(), inode, &range);
        if !stale.now.is_empty() {
            self.server.pages.drop_ranges(node, stale.now).await;
        }
        // Whom a predecessor answered nobody remembers.
        if stale.later || (self.again && self.server.modes.is_cached(inode)) {
            self.server.pages.invalidate_later(node, Some(range));
        }
    }

    pub(super) async fn flush(&self, fh: u64, owner: u64) -> Outcome {
        let (inode, handle) = self.file(fh)?;
        let flushed = self.server.backend.flush(&handle).await;
        if self.server.locks.close(inode, owner) {
            self.server.interrupts.giving_back.clear([self.header.nodeid; 2]).await;
            self.server.backend.release_owner(inode, owner).await?;
            self.server.locks.gone(inode, None, Some(owner));
        }
        flushed?;
        Ok(Answer::Done)
    }

    pub(super) async fn fsync(&self, fh: u64, datasync: bool) -> Outcome {
        let (inode, handle) = self.file(fh)?;
        let server = self.server;
        let Some(backing) = server.modes.written(inode) else {
            server.backend.fsync(&handle, datasync).await?;
            return Ok(Answer::Done);
        };
        // As long as nobody else may have touched the inode, its worker has not taken the file away from us.
        let own = backing.suits(None, server.backend.session());
        let tenure = server.backend.tenure(inode).filter(|_| own);
        if let Some(tenure) = tenure {
            let file = backing.clone();
            match tokio::task::spawn_blocking(move || file.sync_alone(tenure)).await.ok().flatten() {
                Some(Ok(())) if server.backend.tenure(inode) == Some(tenure) => return Ok(Answer::Done),
                Some(Err(error)) => {
                    tracing::warn!(%error, inode, "what was written to a local file could not be brought to its disk");
                    // The worker is to find out as well.
                    let _ = server.backend.fsync(&handle, datasync).await;
                    return Err(Failure::Errno(libc::EIO));
                }
                _ => {}
            }
        }
        let before = backing.before_sync();
        server.backend.fsync(&handle, datasync).await?;
        backing.indexed(before, tenure.filter(|tenure| server.backend.tenure(inode) == Some(*tenure)));
        Ok(Answer::Done)
    }

    pub(super) async fn release(&self, args: &ReleaseIn) -> Outcome {
        let opened = self.server.handles.get(args.fh);
        let Some(Opened::File { inode, .. }) = opened.as_deref() else {
            return Err(Failure::Errno(libc::EBADF));
        };
        let flock = args.release_flags & RELEASE_FLOCK_UNLOCK != 0;
        let (owners, _releasing) = self.server.locks.release(*inode, args.fh, flock);
        if flock || !owners.is_empty() {
            self.server.interrupts.giving_back.clear([self.header.nodeid; 2]).await;
        }
        let mut unlocked = if flock {
            self.server.backend.setlk(*inode, convert::flock_unlock(args.lock_owner), false).await
        } else {
            Ok(())
        };
        for owner in owners {
            unlocked = unlocked.and(self.server.backend.release_owner(*inode, owner).await);
        }
        self.server.locks.gone(*inode, Some(args.fh), None);
        self.server.close(args.fh);
        unlocked?;
        Ok(Answer::Done)
    }

    pub(super) async fn fallocate(&self, args: &FallocateIn) -> Outcome {
        let (inode, handle) = self.file(args.fh)?;
        if self.drops_privileges() {
            let known = self.server.backend.try_getattr(inode);
            if known.is_none_or(|(attr, _)| attr.mode & 0o6000 != 0) {
                let change = SetAttr { kill_privileges: true, ..SetAttr::default() };
                self.server.backend.setattr(inode, change).await?;
            }
        }
        self.server.backend.fallocate(&handle, args.offset, args.length, args.mode).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn lseek(&self, fh: u64, offset: u64, whence: u32) -> Outcome {
        let what = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => Seek::Data,
            Ok(libc::SEEK_HOLE) => Seek::Hole,
            _ => return Err(Failure::Errno(libc::EINVAL)),
        };
        let (_, handle) = self.file(fh)?;
        let offset = self.server.backend.seek(&handle, offset, what).await?;
        Ok(Answer::value(&LseekOut { offset }))
    }
}

impl<B: Backend> crate::server::Server<B> {
    /// Takes a file out of the table and releases it.
    pub(crate) fn close(&self, fh: u64) {
        if let Some(opened) = self.handles.remove(fh) {
            self.release_opened(&opened);
        }
    }

    /// Releases what was taken out of the table.
    pub(crate) fn release_opened(&self, opened: &Opened<B::Handle>) {
        if let Opened::File { inode, handle, .. } = opened {
            if self.modes.written(*inode).is_some() {
                self.backend.wrote_locally(handle);
            }
            // Before the master hears of the close: it seals what nobody has open for writing.
            self.left(*inode);
            self.backend.release(handle.clone());
        }
    }

    /// Counts a close, and remembers what became of a new file. The kernel's registration ends here, if it was the last one.
    pub(crate) fn left(&self, inode: InodeId) {
        let Some(closed) = self.modes.leave(inode) else { return };
        if let Some(parent) = closed.made_in {
            let on_disk = closed.backing.as_ref().and_then(|backing| rustix::fs::fstat(&backing.file).ok());
            let known = || self.backend.try_getattr(inode).map(|(attr, _)| attr.size);
            if let Some(size) = on_disk.map(|stat| stat.st_size as u64).or_else(known) {
                self.passthrough.learn(parent, size);
            }
        }
    }
}
