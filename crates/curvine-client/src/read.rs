//! Reading: inline data from the layout, all else from workers, several requests in flight.

use std::sync::Arc;

use bytes::Bytes;
use curvine_types::limits::{FILE_SIZE_MAX, IO_MAX};
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::boot_time;
use crate::core::{Core, Pause, kib};
use crate::file::{Place, Placed, Stamp};
use crate::handle::Open;
use crate::piece::{Data, cut};
use crate::read_ahead::{Fetch, Piece};
use crate::{FileSystem, Handle};

/// Most bytes that one call asks for at once, so that it cannot take the memory of all others.
const READ_MAX: usize = 64 << 20;

impl FileSystem {
    /// The concatenation is the data; it is shorter than `length` only at the end of the file.
    pub async fn read(&self, handle: &Handle, offset: u64, length: usize) -> Result<Vec<Bytes>> {
        handle.0.check_readable()?;
        let deadline = self.core.data_deadline();
        let end = offset.saturating_add(length as u64).min(FILE_SIZE_MAX);
        let mut buffers = Vec::new();
        let mut at = offset;
        while at < end {
            let part = ((end - at) as usize).min(READ_MAX);
            let got = self.core.read_part(&handle.0, at, part, deadline).await?;
            let length: usize = got.iter().map(Data::len).sum();
            got.iter().for_each(|data| data.append_to(&mut buffers));
            at += length as u64;
            if length < part {
                break;
            }
        }
        Ok(buffers)
    }
}

impl Core {
    pub(crate) async fn read_part(
        self: &Arc<Self>,
        open: &Arc<Open>,
        offset: u64,
        length: usize,
        deadline: Instant,
    ) -> Result<Vec<Data>> {
        let memory = self.memory.acquire_many(kib(length as u64).min(self.memory_share()));
        let _memory = match tokio::time::timeout_at(deadline, memory).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(Error::new(ErrorKind::TimedOut, "the memory for file data is taken")),
        };
        let mut pause = Pause::new(deadline);
        loop {
            let error = match self.read_once(open, offset, length, deadline).await {
                Ok(data) => return Ok(data),
                Err(error) => error,
            };
            if !crate::workers::may_pass(&error) {
                return Err(error);
            }
            self.counters.read_retries.add();
            open.file.drop_layout();
            pause.wait(error).await?;
        }
    }

    async fn read_once(
        self: &Arc<Self>,
        open: &Arc<Open>,
        offset: u64,
        length: usize,
        deadline: Instant,
    ) -> Result<Vec<Data>> {
        let placed = self.readable_layout(open, deadline).await?;
        match &placed.place {
            Place::Inline(data) => Ok(vec![inline_part(data, offset, length)]),
            Place::Blocks { block_size, .. } => {
                self.read_pieces(open, placed.clone(), offset, length, *block_size, deadline).await
            }
            Place::Ufs(ufs) => {
                let length = ufs.size.saturating_sub(offset).min(length as u64) as usize;
                self.read_pieces(open, placed.clone(), offset, length, ufs.block_size, deadline).await
            }
        }
    }

    /// A layout that is right now: known under a lease, live, or just confirmed by the master.
    pub(crate) async fn readable_layout(&self, open: &Open, deadline: Instant) -> Result<Arc<Placed>> {
        let file = &open.file;
        let Some(placed) = file.known_layout() else { return file.fresh_layout(self, deadline).await };
        match &placed.place {
            Place::Inline(_) if file.inline_data(self, &placed).is_some() => return Ok(placed),
            Place::Inline(_) => return file.fresh_layout(self, deadline).await,
            Place::Blocks { live: true, .. } => return Ok(placed),
            Place::Blocks { .. } | Place::Ufs(_) => {}
        }
        if self.cache.tenure(file.inode, boot_time()).is_none() {
            // Brings a lease, if one may be had, and drops the layout if the content is another.
            self.ask_attr(file.inode, deadline).await?;
        }
        file.layout(self, deadline).await
    }

    async fn read_pieces(
        self: &Arc<Self>,
        open: &Arc<Open>,
        placed: Arc<Placed>,
        offset: u64,
        length: usize,
        block_size: u64,
        deadline: Instant,
    ) -> Result<Vec<Data>> {
        let stamp = open.file.stamp(self);
        if !open.flags.direct {
            self.read_ahead(open, &placed, stamp, offset, length, block_size);
        }
        let cuts = cut(offset, length as u64, block_size);
        let window = self.options.read_window.max(1);
        let placed = &placed;
        let mut pieces = stream::iter(cuts)
            .map(|(offset, length)| async move {
                let data = match self.data_read_ahead(open, stamp, offset, length).await {
                    Some(data) => data,
                    None => self.read_piece(placed, open.file.inode, offset, length, 0, deadline).await?,
                };
                Ok::<_, Error>((data, length))
            })
            .buffered(window);
        let mut got = Vec::new();
        while let Some(piece) = pieces.next().await {
            let (data, wanted) = piece?;
            let short = data.len() < wanted;
            got.push(data);
            if short {
                break;
            }
        }
        Ok(got)
    }

    /// Data that was read ahead and is still right.
    async fn data_read_ahead(&self, open: &Open, stamp: Option<Stamp>, offset: u64, length: usize) -> Option<Data> {
        let (start, mut fetched) = open.read_ahead.lock().find(stamp, offset)?;
        let done = fetched.wait_for(|fetch| !matches!(fetch, Fetch::Pending)).await.ok()?.clone();
        match done {
            Fetch::Ready(data) if stamp.is_some() && open.file.stamp(self) == stamp => {
                Some(data.slice((offset - start) as usize, length))
            }
            _ => None,
        }
    }

    /// Begins to fetch what a sequential reader will want next.
    fn read_ahead(
        self: &Arc<Self>,
        open: &Arc<Open>,
        placed: &Arc<Placed>,
        stamp: Option<Stamp>,
        offset: u64,
        length: usize,
        block_size: u64,
    ) {
        // A piece must not cross a block.
        let whole_pieces = block_size.is_multiple_of(IO_MAX as u64);
        let size = match self.cache.attr(open.file.inode, boot_time()) {
            Some((attr, _)) if whole_pieces => attr.size,
            _ => 0,
        };
        let mut ahead = open.read_ahead.lock();
        let plan = ahead.plan(stamp, offset, length as u64, size);
        let Some(stamp) = stamp else { return };
        let expected = ahead.expected();
        for index in plan {
            let Ok(memory) = self.ahead_memory.clone().try_acquire_many_owned(kib(IO_MAX as u64)) else { break };
            let (sender, fetched) = watch::channel(Fetch::Pending);
            let (core, placed, inode) = (self.clone(), placed.clone(), open.file.inode);
            let task = tokio::spawn(async move {
                let offset = index * IO_MAX as u64;
                let length = (size - offset).min(IO_MAX as u64) as usize;
                let read = core.read_piece(&placed, inode, offset, length, expected, core.data_deadline()).await;
                let _ = sender.send(read.map_or(Fetch::Failed, Fetch::Ready));
            });
            ahead.add(stamp, Piece::new(index, fetched, task.abort_handle(), memory));
        }
    }
}

fn inline_part(data: &Bytes, offset: u64, length: usize) -> Data {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    Data::Bytes(data.clone()).slice(start, length)
}
