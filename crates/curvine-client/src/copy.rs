//! Copying from file to file: by the worker that has both, else through this process.
//!
//! Always: a call copies a bounded number of bytes, so that it ends in time, and says how many they were.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use curvine_proto::{ContentId, CopyRangeReply, CopyRangeRequest, Method};
use curvine_types::limits::{COPY_MAX, FILE_SIZE_MAX, INLINE_MAX, IO_MAX};
use curvine_types::{Error, ErrorKind, InodeId, Result, WorkerId};
use tokio::time::Instant;

use crate::core::{Core, Pause, kib};
use crate::file::{Place, Placed};
use crate::mutation::Touched;
use crate::workers::may_pass;
use crate::write::Target;
use crate::{FileSystem, Handle};

/// Most bytes of one call that go through this process.
const THROUGH_MAX: u64 = 16 << 20;

/// One side of a copy.
struct End {
    handle: Handle,
    offset: u64,
}

impl FileSystem {
    /// Copies up to `length` bytes; how many they were, less than `length` also before the end of the source. Ranges of one file
    /// must not overlap. `kill_privileges`: the caller may not keep setuid and setgid of what it writes to.
    pub async fn copy_range(
        &self,
        from: (&Handle, u64),
        to: (&Handle, u64),
        length: u64,
        kill_privileges: bool,
    ) -> Result<u64> {
        let (from, to) = (End { handle: from.0.clone(), offset: from.1 }, End { handle: to.0.clone(), offset: to.1 });
        from.handle.0.check_readable()?;
        to.handle.0.check_writable()?;
        let too_large =
            || Error::new(ErrorKind::FileTooLarge, "a file cannot be that large").with("limit", FILE_SIZE_MAX);
        let length = length.min(COPY_MAX).min(FILE_SIZE_MAX.saturating_sub(from.offset));
        let room = FILE_SIZE_MAX.checked_sub(to.offset).filter(|room| *room > 0).ok_or_else(too_large)?;
        let length = length.min(room);
        if from.handle.inode() == to.handle.inode() && from.offset.abs_diff(to.offset) < length {
            return Err(Error::new(ErrorKind::InvalidArgument, "the ranges of a copy within a file overlap"));
        }
        if length == 0 {
            return Ok(0);
        }
        let (core, deadline) = (self.core.clone(), self.core.data_deadline());
        let busy = || Error::new(ErrorKind::TimedOut, "earlier writes to the file are not finished");
        let slot = tokio::time::timeout_at(deadline, to.handle.0.write_slots.clone().acquire_owned()).await;
        let slot = slot.map_err(|_| busy())?.map_err(|_| busy())?;
        let touched = Touched::inode(to.handle.inode());
        let work = async move {
            if kill_privileges {
                core.drop_privileges(&to.handle.0.file, deadline).await?;
            }
            let copied = core.copy(&from, &to, length, deadline).await;
            drop(slot);
            copied
        };
        self.core.detached(touched, deadline, work).await
    }
}

impl Core {
    async fn copy(self: &Arc<Self>, from: &End, to: &End, length: u64, deadline: Instant) -> Result<u64> {
        let (source, target) = (&from.handle.0.file, &to.handle.0.file);
        let mut pause = Pause::new(deadline);
        let mut refused = None;
        loop {
            // What is small may stay in the metadata, and its way through here is short.
            if length <= INLINE_MAX as u64 {
                break;
            }
            to.handle.0.check_writable()?;
            let placed = self.readable_layout(&from.handle.0, deadline).await?;
            let Some((content, workers)) = whole(&placed, source.inode)? else { break };
            let target_placed = self.writable_layout(target, refused.take(), deadline).await?;
            let Some((target_content, primary)) = target_placed.primary(target.inode)? else { continue };
            if !workers.contains(&primary) {
                break;
            }
            let request = CopyRangeRequest {
                from: Some(content),
                from_offset: from.offset,
                to: Some(target_content),
                to_offset: to.offset,
                epoch: target_placed.epoch,
                length,
            };
            let copied = self.workers.call::<_, CopyRangeReply>(self, primary, Method::CopyRange, &request, deadline);
            match copied.await {
                Ok(CopyRangeReply { copied, attr }) => {
                    if let Some(attr) = attr {
                        self.has_written(target, &attr);
                    }
                    return Ok(copied);
                }
                Err(error) => {
                    self.has_perhaps_written(target, &error);
                    if !may_pass(&error) {
                        return Err(error);
                    }
                    // It does not say which of the two it is about.
                    source.drop_layout();
                    refused = Some(target_placed);
                    pause.wait(error).await?;
                }
            }
        }
        self.copy_through(from, to, length.min(THROUGH_MAX), deadline).await
    }

    /// Reads and writes, one part after the other.
    async fn copy_through(self: &Arc<Self>, from: &End, to: &End, length: u64, deadline: Instant) -> Result<u64> {
        let mut copied = 0;
        while copied < length {
            let wanted = (length - copied).min(IO_MAX as u64) as usize;
            match self.copy_part(from, to, copied, wanted, deadline).await {
                Ok(part) => {
                    copied += part;
                    if part < wanted as u64 {
                        break;
                    }
                }
                // What came before is copied; the caller learns of the error when it goes on.
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    async fn copy_part(
        self: &Arc<Self>,
        from: &End,
        to: &End,
        done: u64,
        wanted: usize,
        deadline: Instant,
    ) -> Result<u64> {
        let mut pieces: Vec<Bytes> = Vec::new();
        for data in self.read_part(&from.handle.0, from.offset + done, wanted, deadline).await? {
            data.append_to(&mut pieces);
        }
        let data = match pieces.len() {
            0 => return Ok(0),
            1 => pieces.remove(0),
            _ => pieces
                .iter()
                .fold(BytesMut::new(), |mut all, piece| {
                    all.extend_from_slice(piece);
                    all
                })
                .freeze(),
        };
        // Only now: who holds memory and waits for more of it could wait for ever.
        let busy = || Error::new(ErrorKind::TimedOut, "the memory for file data is taken");
        let memory = self.memory.acquire_many(kib(data.len() as u64).min(self.memory_share()));
        let _memory = tokio::time::timeout_at(deadline, memory).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let place = Target { offset: to.offset + done, append: false, kill_privileges: false, part: 0 };
        Ok(self.write_all(&to.handle, place, data, deadline).await?.length)
    }
}

/// The content of a file that is whole on each of the workers, and which they are; `None` for one that is not on workers, or
/// that they only cache.
fn whole(placed: &Placed, inode: InodeId) -> Result<Option<(ContentId, &[WorkerId])>> {
    match &placed.place {
        Place::Blocks { extents, live, .. } if extents.len() == 1 => {
            let (content, workers) = placed.block(inode, 0)?;
            // Of a live file only the primary has the newest bytes.
            Ok(Some((content, if *live { workers.get(..1).unwrap_or_default() } else { workers })))
        }
        _ => Ok(None),
    }
}
