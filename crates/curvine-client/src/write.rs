//! Writing through: small files into the log, all else to the primary worker of a live file.
//!
//! Always: a write is answered after the log or the worker has it. A write that has begun goes on when its caller gives up.
//! Always: an append whose fate is unknown is not sent again; a write at an offset may be.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    FallocateRequest, GetLayoutReply, LiveAttr, LiveAttrReply, Method, PlaceForWriteRequest, SeekReply, SeekRequest,
    SetAttr, WriteInline, WriteReply, WriteRequest,
};
use curvine_rpc::Body;
use curvine_types::limits::{FILE_SIZE_MAX, INLINE_MAX, IO_MAX};
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::clock::boot_time;
use crate::core::{Core, Pause, kib};
use crate::file::{File, Place, Placed};
use crate::mutation::{Done, Touched};
use crate::names::present;
use crate::piece::checksums;
use crate::workers::{is_unknown, may_pass};
use crate::{FileSystem, Handle, Seek, WriteDone};

/// Where a write goes.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub offset: u64,
    pub append: bool,
    pub kill_privileges: bool,
    /// Which part of one call.
    pub part: u64,
}

impl FileSystem {
    /// Writes `data` at `offset`, or with `append` at the end of the file, wherever that is by then.
    pub async fn write(
        &self,
        handle: &Handle,
        offset: u64,
        data: Bytes,
        append: bool,
        kill_privileges: bool,
    ) -> Result<WriteDone> {
        handle.0.check_writable()?;
        let length = data.len() as u64;
        if !append && offset.checked_add(length).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(Error::new(ErrorKind::FileTooLarge, "a file cannot be that large").with("limit", FILE_SIZE_MAX));
        }
        if data.is_empty() {
            return Ok(WriteDone { offset, length: 0 });
        }
        let (core, handle, deadline) = (self.core.clone(), handle.clone(), self.core.data_deadline());
        let busy = || Error::new(ErrorKind::TimedOut, "earlier writes to the file are not finished");
        let slot = tokio::time::timeout_at(deadline, handle.0.write_slots.clone().acquire_owned()).await;
        let slot = slot.map_err(|_| busy())?.map_err(|_| busy())?;
        let memory = core.memory.clone().acquire_many_owned(kib(length).min(core.memory_share()));
        let memory = tokio::time::timeout_at(deadline, memory).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let touched = Touched::inode(handle.inode());
        let work = async move {
            let written =
                core.write_all(&handle, Target { offset, append, kill_privileges, part: 0 }, data, deadline).await;
            drop((slot, memory));
            written
        };
        self.core.detached(touched, deadline, work).await
    }

    /// Allocates, punches or zeroes a range; `mode` as in linux/falloc.h.
    pub async fn fallocate(&self, handle: &Handle, offset: u64, length: u64, mode: u32) -> Result<()> {
        handle.0.check_writable()?;
        if offset.checked_add(length).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(Error::new(ErrorKind::FileTooLarge, "a file cannot be that large").with("limit", FILE_SIZE_MAX));
        }
        let (core, handle, deadline) = (self.core.clone(), handle.clone(), self.core.data_deadline());
        let touched = Touched::inode(handle.inode());
        let work = async move {
            let file = &handle.0.file;
            let mut pause = Pause::new(deadline);
            let mut refused = None;
            loop {
                handle.0.check_writable()?;
                let placed = core.writable_layout(file, refused.take(), deadline).await?;
                let Some((content, worker)) = placed.primary(file.inode)? else { continue };
                let request = FallocateRequest { content: Some(content), epoch: placed.epoch, offset, length, mode };
                let allocated =
                    core.workers.call::<_, LiveAttrReply>(&core, worker, Method::Fallocate, &request, deadline).await;
                match allocated {
                    Ok(reply) => {
                        core.has_written(file, &reply.attr.unwrap_or_default());
                        return Ok(());
                    }
                    Err(error) => {
                        core.has_perhaps_written(file, &error);
                        if !may_pass(&error) {
                            return Err(error);
                        }
                        refused = Some(placed);
                        pause.wait(error).await?;
                    }
                }
            }
        };
        self.core.detached(touched, deadline, work).await
    }

    /// The next data or hole at or after `offset`; `NoDevice` (ENXIO) if there is none.
    pub async fn seek(&self, handle: &Handle, offset: u64, what: Seek) -> Result<u64> {
        let (core, file, deadline) = (&self.core, &handle.0.file, self.core.data_deadline());
        let mut pause = Pause::new(deadline);
        loop {
            let placed = file.fresh_layout(core, deadline).await?;
            let Place::Blocks { block_size, .. } = &placed.place else {
                let size = match &placed.place {
                    Place::Inline(data) => data.len() as u64,
                    Place::Ufs(ufs) => ufs.size,
                    Place::Blocks { .. } => placed.size,
                };
                if offset >= size {
                    return Err(Error::new(ErrorKind::NoDevice, "nothing follows in the file").with("offset", offset));
                }
                return Ok(if what == Seek::Data { offset } else { size });
            };
            let (content, workers) = placed.block(file.inode, offset / block_size)?;
            let worker = workers.first().copied().unwrap_or_default();
            let request = SeekRequest { content: Some(content), offset, hole: what == Seek::Hole };
            match core.workers.call::<_, SeekReply>(core, worker, Method::Seek, &request, deadline).await {
                Ok(reply) => return Ok(reply.offset),
                Err(error) if may_pass(&error) => pause.wait(error).await?,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Core {
    pub(crate) async fn write_all(
        self: &Arc<Self>,
        handle: &Handle,
        target: Target,
        data: Bytes,
        deadline: Instant,
    ) -> Result<WriteDone> {
        let mut done: Option<WriteDone> = None;
        let mut rest = data;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(IO_MAX));
            let length = part.len() as u64;
            let offset = target.offset + done.map_or(0, |done| done.length);
            let number = done.map_or(0, |done| done.length.div_ceil(IO_MAX as u64));
            match self.write_part(handle, Target { offset, part: number, ..target }, part, deadline).await {
                Ok(offset) => {
                    let so_far = done.unwrap_or(WriteDone { offset, length: 0 });
                    done = Some(WriteDone { length: so_far.length + length, ..so_far });
                }
                // What came before is written; the caller learns of the error when it goes on.
                Err(error) => return done.ok_or(error),
            }
        }
        Ok(done.unwrap_or(WriteDone { offset: target.offset, length: 0 }))
    }

    /// Writes up to IO_MAX bytes; where they went.
    async fn write_part(
        self: &Arc<Self>,
        handle: &Handle,
        target: Target,
        data: Bytes,
        deadline: Instant,
    ) -> Result<u64> {
        let file = &handle.0.file;
        let mut pause = Pause::new(deadline);
        let mut refused = None;
        let mut privileges_dropped = !target.kill_privileges;
        let token = if target.append { self.append_token(target.part) } else { 0 };
        loop {
            handle.0.check_writable()?;
            let placed = file.layout(self, deadline).await?;
            if self.fits_inline(handle, &placed, target, data.len()) {
                match self.write_inline(handle, target, data.clone(), deadline).await {
                    Ok(offset) => return Ok(offset),
                    Err(error) if leaves_inline(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            let placed = self.writable_layout(file, refused.take(), deadline).await?;
            let Some((content, worker)) = placed.primary(file.inode)? else { continue };
            if !privileges_dropped {
                self.drop_privileges(file, deadline).await?;
                privileges_dropped = true;
            }
            let request = WriteRequest {
                content: Some(content),
                epoch: placed.epoch,
                session: self.window.session(),
                offset: target.offset,
                append: target.append,
                crcs: checksums(&data),
                instance: self.instance,
                token,
            };
            let body = Body::Bytes(data.clone());
            let written =
                self.workers.exchange::<_, WriteReply>(self, worker, Method::Write, &request, body, deadline).await;
            let error = match written {
                Ok((reply, _)) => {
                    self.has_written(file, &reply.attr.unwrap_or_default());
                    return Ok(reply.offset);
                }
                Err(error) => error,
            };
            self.has_perhaps_written(file, &error);
            let lost_append = target.append && is_unknown(&error);
            if lost_append || !may_pass(&error) {
                return Err(error);
            }
            refused = Some(placed);
            pause.wait(error).await?;
        }
    }

    /// A few small writes go into the log; a file that is written in many of them is better off on a worker.
    fn fits_inline(&self, handle: &Handle, placed: &Placed, target: Target, length: usize) -> bool {
        let Place::Inline(known) = &placed.place else { return false };
        let start = if target.append { known.len() as u64 } else { target.offset };
        let fits = start + length as u64 <= INLINE_MAX as u64;
        fits && handle.0.inline_writes.load(Ordering::Relaxed) < self.options.inline_writes
    }

    async fn write_inline(
        self: &Arc<Self>,
        handle: &Handle,
        target: Target,
        data: Bytes,
        deadline: Instant,
    ) -> Result<u64> {
        let Target { offset, append, kill_privileges, .. } = target;
        let inode = handle.inode();
        let write = WriteInline { inode, offset, data, append, kill_privileges };
        handle.count_inline_write();
        let open = handle.clone();
        let settle = move |core: &Arc<Core>, done: Done| {
            open.0.file.written(core);
            let offset = if append { done.outcome.id } else { offset };
            core.cache.changed_attr(&done.ticket, present(done.outcome.attr)?, boot_time());
            Ok(offset)
        };
        self.mutate(CommandBody::WriteInline(write), Touched::inode(inode), deadline, settle).await?
    }

    /// The layout of a live file that takes writes. `refused`: with this one a worker refused.
    pub(crate) async fn writable_layout(
        self: &Arc<Self>,
        file: &Arc<File>,
        refused: Option<Arc<Placed>>,
        deadline: Instant,
    ) -> Result<Arc<Placed>> {
        let known = match &refused {
            None => file.layout(self, deadline).await?,
            Some(_) => file.fresh_layout(self, deadline).await?,
        };
        let same = |refused: &Arc<Placed>| (refused.generation, refused.epoch) == (known.generation, known.epoch);
        if known.primary(file.inode)?.is_some() && !refused.as_ref().is_some_and(same) {
            return Ok(known);
        }
        let asking = tokio::time::timeout_at(deadline, file.asking.lock()).await;
        let _asking =
            asking.map_err(|_| Error::new(ErrorKind::TimedOut, "the file got no place for writing in time"))?;
        // Somebody else may have asked while we waited.
        if let Some(placed) = file.known_layout()
            && !Arc::ptr_eq(&placed, &known)
            && placed.primary(file.inode)?.is_some()
        {
            return Ok(placed);
        }
        let (inode, worker) = (file.inode, self.workers.local(self, deadline).await);
        let request = |session| PlaceForWriteRequest { session, inode, worker };
        let (reply, ticket) = self.ask::<_, GetLayoutReply>(Method::PlaceForWrite, request, deadline).await?;
        if let Some(attr) = reply.attr {
            self.cache.changed_attr(&ticket, attr, boot_time());
        }
        let placed = file.took(self, reply, &ticket, None)?;
        if placed.primary(file.inode)?.is_none() {
            // Truncated to nothing meanwhile: small again.
            tokio::task::yield_now().await;
        }
        Ok(placed)
    }

    /// A write was acknowledged.
    pub(crate) fn has_written(&self, file: &File, live: &LiveAttr) {
        file.written(self);
        self.cache.wrote(file.inode, live, boot_time());
    }

    /// A write failed that may have been executed.
    pub(crate) fn has_perhaps_written(&self, file: &File, error: &Error) {
        file.written(self);
        if !error.kind().is_retryable() {
            self.cache.doubt(&[file.inode]);
        }
    }

    /// Drops setuid and setgid as a write by an unprivileged process does.
    pub(crate) async fn drop_privileges(self: &Arc<Self>, file: &File, deadline: Instant) -> Result<()> {
        let inode = file.inode;
        let attr = match self.cache.attr(inode, boot_time()) {
            Some((attr, _)) => attr,
            None => self.ask_attr(inode, deadline).await?.0,
        };
        if attr.mode & 0o6000 == 0 {
            return Ok(());
        }
        let set = SetAttr { inode, kill_privileges: true, ..Default::default() };
        let settle = |core: &Arc<Core>, done: Done| {
            core.cache.changed_attr(&done.ticket, present(done.outcome.attr)?, boot_time());
            Ok(())
        };
        self.mutate(CommandBody::SetAttr(set), Touched::inode(inode), deadline, settle).await?
    }
}

/// The file is not inline any more, would grow too large for it, or the master has not counted the open yet: it must be placed.
fn leaves_inline(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::FileTooLarge
            | ErrorKind::VersionMismatch
            | ErrorKind::Conflict
            | ErrorKind::InvalidArgument
            | ErrorKind::Stale
    )
}
