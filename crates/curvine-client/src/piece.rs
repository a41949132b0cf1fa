//! One request for data of a file: from whom, checked how, cut to what was asked.
//!
//! Always: no byte is handed out whose checksum was not compared.

use std::sync::LazyLock;

use bytes::Bytes;
use curvine_proto::{ContentId, Method, ReadReply, ReadRequest};
use curvine_rpc::{Body, crc32c};
use curvine_types::limits::{IO_MAX, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, InodeId, Result, WorkerId};
use tokio::time::Instant;

use crate::core::Core;
use crate::file::{Place, Placed};
use crate::home;

/// Workers that are asked for a block of an under file system's object.
const HOMES: usize = 3;
/// Where zeroes come from. Written once, so that their pages are there: a kernel that has to make them while this process is killed
/// fails the read that they were for.
static ZEROES: LazyLock<Bytes> = LazyLock::new(|| {
    let mut zeroes = vec![1; PIECE_SIZE as usize];
    std::hint::black_box(&mut zeroes).fill(0);
    zeroes.into()
});

/// Data, or known zeroes.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Bytes(Bytes),
    Zero(usize),
}

impl Data {
    pub(crate) fn len(&self) -> usize {
        match self {
            Data::Bytes(bytes) => bytes.len(),
            Data::Zero(length) => *length,
        }
    }

    /// A part of it, cut off where it ends.
    pub(crate) fn slice(&self, start: usize, length: usize) -> Data {
        let start = start.min(self.len());
        let end = start.saturating_add(length).min(self.len());
        match self {
            Data::Bytes(bytes) => Data::Bytes(bytes.slice(start..end)),
            Data::Zero(_) => Data::Zero(end - start),
        }
    }

    /// As buffers, without copying.
    pub(crate) fn append_to(&self, buffers: &mut Vec<Bytes>) {
        match self {
            Data::Bytes(bytes) if bytes.is_empty() => {}
            Data::Bytes(bytes) => buffers.push(bytes.clone()),
            Data::Zero(length) => {
                let mut left = *length;
                while left > 0 {
                    let part = left.min(ZEROES.len());
                    buffers.push(ZEROES.slice(..part));
                    left -= part;
                }
            }
        }
    }
}

/// Cuts a range at multiples of IO_MAX and of the block size: (offset, length) of each request.
pub(crate) fn cut(offset: u64, length: u64, block_size: u64) -> Vec<(u64, usize)> {
    let end = offset.saturating_add(length);
    let mut cuts = Vec::new();
    let mut at = offset;
    while at < end {
        let next = |unit: u64| (at / unit + 1).saturating_mul(unit);
        let stop = end.min(next(IO_MAX as u64)).min(next(block_size.max(1)));
        cuts.push((at, (stop - at) as usize));
        at = stop;
    }
    cuts
}

/// CRC-32C of each PIECE_SIZE of `data`, cut from its own start.
pub(crate) fn checksums(data: &[u8]) -> Vec<u32> {
    data.chunks(PIECE_SIZE as usize).map(crc32c).collect()
}

/// What a reply holds of the range that was asked for. `Corrupt` if a checksum differs or the range is another.
fn verify(reply: &ReadReply, data: Bytes, offset: u64, length: usize) -> Result<Data> {
    let corrupt = |message: &str| Error::new(ErrorKind::Corrupt, message).with("offset", offset);
    let whole = if reply.hole > 0 && data.is_empty() {
        Data::Zero(usize::try_from(reply.hole).unwrap_or(usize::MAX))
    } else {
        if checksums(&data) != reply.crcs {
            return Err(corrupt("a checksum of data from a worker differs"));
        }
        Data::Bytes(data)
    };
    if whole.len() == 0 {
        return Ok(whole);
    }
    let skip = offset.checked_sub(reply.offset).ok_or_else(|| corrupt("a worker answered with another range"))?;
    Ok(whole.slice(usize::try_from(skip).unwrap_or(usize::MAX), length))
}

impl Core {
    /// The content of a block, and who may be asked for it, best first.
    async fn sources(
        &self,
        placed: &Placed,
        inode: InodeId,
        offset: u64,
        deadline: Instant,
    ) -> Result<(ContentId, Vec<WorkerId>)> {
        match &placed.place {
            Place::Inline(_) => {
                Err(Error::new(ErrorKind::VersionMismatch, "the file is not on workers").with("inode", inode))
            }
            Place::Blocks { block_size, live, .. } => {
                let (content, workers) = placed.block(inode, offset / block_size)?;
                let count = if *live { 1 } else { workers.len() };
                Ok((content, workers.iter().copied().take(count).collect()))
            }
            Place::Ufs(ufs) => {
                let content = ContentId { inode, generation: placed.generation, version: 0 };
                let workers = self.workers.list(self, deadline).await?;
                let mut homes = home::ranked(crate::workers::homes(&workers), inode, offset / ufs.block_size.max(1));
                homes.truncate(HOMES);
                if homes.is_empty() {
                    return Err(Error::new(ErrorKind::Unavailable, "no worker is alive").with("inode", inode));
                }
                Ok((content, homes))
            }
        }
    }

    /// How many of the bytes that a stream will want after `end` are to be asked of the worker that has them up to there.
    async fn ahead_of_same(
        &self,
        placed: &Placed,
        inode: InodeId,
        end: u64,
        wanted: u32,
        worker: WorkerId,
        deadline: Instant,
    ) -> u32 {
        let Place::Ufs(ufs) = &placed.place else { return wanted };
        let block = ufs.block_size.max(1);
        let last = end.saturating_add(u64::from(wanted)).min(ufs.size);
        let mut next = end.next_multiple_of(block);
        while next < last {
            match self.sources(placed, inode, next, deadline).await {
                Ok((_, homes)) if homes.first() == Some(&worker) => next += block,
                _ => break,
            }
        }
        u32::try_from(next.min(last).saturating_sub(end)).unwrap_or(wanted)
    }

    /// Reads up to IO_MAX bytes inside one block, trying each source. Shorter only at the end of the file.
    pub(crate) async fn read_piece(
        &self,
        placed: &Placed,
        inode: InodeId,
        offset: u64,
        length: usize,
        read_ahead: u32,
        deadline: Instant,
    ) -> Result<Data> {
        let (content, sources) = self.sources(placed, inode, offset, deadline).await?;
        let read_ahead = match sources.first() {
            Some(home) if read_ahead > 0 => {
                self.ahead_of_same(placed, inode, offset + length as u64, read_ahead, *home, deadline).await
            }
            _ => 0,
        };
        let request = ReadRequest {
            content: Some(content),
            offset,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            session: self.window.session(),
            read_ahead,
            verify: false,
        };
        let mut last = Error::new(ErrorKind::DataLoss, "no worker holds this part of the file").with("inode", inode);
        let mut damaged = None;
        for worker in sources {
            match self.read_from(worker, &request, deadline).await {
                Ok(data) => return Ok(data),
                // Not a matter of the worker: the layout is old.
                Err(error) if error.kind() == ErrorKind::VersionMismatch => return Err(error),
                Err(error) => {
                    if error.kind() == ErrorKind::Corrupt {
                        damaged = Some(worker);
                    }
                    last = error;
                }
            }
        }
        let Some(worker) = damaged else { return Err(last) };
        // The damage may have come from the way, or the worker may have another copy to repair it from.
        let request = ReadRequest { verify: true, ..request };
        self.read_from(worker, &request, deadline).await.map_err(|error| match error.kind() {
            ErrorKind::Corrupt => Error::new(ErrorKind::DataLoss, "no source has this part of the file undamaged")
                .with("inode", inode)
                .with("offset", offset),
            _ => error,
        })
    }

    /// Reads from one worker. `Corrupt`: what it answered does not fit its checksums.
    async fn read_from(&self, worker: WorkerId, request: &ReadRequest, deadline: Instant) -> Result<Data> {
        let reply = self.workers.exchange::<_, ReadReply>(self, worker, Method::Read, request, Body::Empty, deadline);
        let checked = match reply.await {
            Ok((reply, data)) => verify(&reply, data, request.offset, request.length as usize).inspect_err(|error| {
                self.counters.checksum_errors.add();
                tracing::warn!(worker, offset = request.offset, %error, "damaged data from a worker");
            }),
            Err(error) => Err(error),
        };
        if checked.is_err() {
            self.counters.read_retries.add();
        }
        checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_cross_neither_a_mebibyte_nor_a_block() {
        let mib = IO_MAX as u64;
        assert_eq!(cut(10, 20, 128 * mib), vec![(10, 20)]);
        assert_eq!(cut(mib - 5, 10, 128 * mib), vec![(mib - 5, 5), (mib, 5)]);
        assert_eq!(cut(0, 3000, 1024), vec![(0, 1024), (1024, 1024), (2048, 952)]);
        assert_eq!(cut(7, 0, 1024), vec![]);
    }

    #[test]
    fn a_widened_reply_is_checked_whole_and_cut_to_what_was_asked() {
        let data = Bytes::from((0..200_000u32).map(|byte| byte as u8).collect::<Vec<_>>());
        let reply = ReadReply { offset: 65_536, crcs: checksums(&data), size: 1 << 20, hole: 0 };
        let got = verify(&reply, data.clone(), 70_000, 1000).unwrap();
        let mut buffers = Vec::new();
        got.append_to(&mut buffers);
        assert_eq!(buffers.concat(), data.slice(4464..5464));

        let mut damaged = data.to_vec();
        damaged[150_000] ^= 1;
        let error = verify(&reply, Bytes::from(damaged), 70_000, 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(verify(&reply, data, 60_000, 1000).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_hole_becomes_zeroes_of_the_length_asked_for() {
        let reply = ReadReply { offset: 0, crcs: vec![], size: 1 << 30, hole: 3 << 20 };
        let got = verify(&reply, Bytes::new(), 1 << 20, 2 << 20).unwrap();
        let mut buffers = Vec::new();
        got.append_to(&mut buffers);
        assert_eq!(buffers.concat(), vec![0; 2 << 20]);
    }

    #[test]
    fn an_answer_at_the_end_of_the_file_is_short_or_empty() {
        let data = Bytes::from_static(b"0123456789");
        let reply = ReadReply { offset: 0, crcs: checksums(&data), size: 10, hole: 0 };
        assert_eq!(verify(&reply, data.clone(), 4, 100).unwrap().len(), 6);
        assert_eq!(verify(&reply, data, 10, 100).unwrap().len(), 0);
    }
}
