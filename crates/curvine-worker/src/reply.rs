//! From a read plan to a reply: by `sendfile` where one verified file range is the answer, else a buffer.

use std::sync::Arc;

use bytes::Bytes;
use curvine_blockstore::{BlockStore, ContentKey, ReadPlan, Segment};
use curvine_proto::ReadReply;
use curvine_rpc::{Body, Reply, crc32c};
use curvine_types::limits::PIECE_SIZE;
use curvine_types::{Error, ErrorKind, Result};
use tokio::sync::OwnedSemaphorePermit;

/// Data of absent ranges that a store has delivered, each by where it begins in the content.
pub(crate) type Fetched = Vec<(u64, Bytes)>;

/// The reply to a plan that needs no buffer: nothing, a hole, or one range of a file whose checksums are known.
pub(crate) fn direct(plan: &ReadPlan) -> Option<(Reply, u64)> {
    let size = plan.size;
    match &plan.segments[..] {
        [] => Some((Reply::new(&ReadReply { offset: size, size, ..ReadReply::default() }), 0)),
        [Segment::Hole { offset, len }] => {
            Some((Reply::new(&ReadReply { offset: *offset, size, hole: *len, crcs: Vec::new() }), *len))
        }
        [Segment::Data { file, offset, len, crcs: Some(crcs) }] => {
            let message = ReadReply { offset: *offset, crcs: crcs.clone(), size, hole: 0 };
            let body = Body::File { file: file.clone(), offset: *offset, len: *len };
            Some((Reply::new(&message).with_body(body), *len))
        }
        _ => None,
    }
}

/// Bytes that a plan's buffer takes.
pub(crate) fn planned_bytes(plan: &ReadPlan) -> u64 {
    plan.segments.iter().map(|segment| segment.range().1).sum()
}

/// Reads a plan into one buffer, with the checksum of each piece. Blocking. Absent parts come from `fetched`.
///
/// Of live content the result ends early where it was truncated meanwhile.
pub(crate) fn build(
    store: &BlockStore,
    key: ContentKey,
    plan: &ReadPlan,
    fetched: &Fetched,
    budget: OwnedSemaphorePermit,
) -> Result<(Reply, u64)> {
    let start = plan.segments.first().map_or(plan.size, |segment| segment.range().0);
    let mut data = Vec::with_capacity(planned_bytes(plan) as usize);
    let mut known: Vec<Option<u32>> = Vec::new();
    let mut size = plan.size;
    for segment in &plan.segments {
        let (offset, len) = segment.range();
        match segment {
            Segment::Data { crcs, .. } => {
                let part = store.load(key, segment)?;
                if let Some(crcs) = crcs {
                    known.resize(data.len().div_ceil(PIECE_SIZE as usize), None);
                    known.extend(crcs.iter().copied().map(Some));
                }
                data.extend_from_slice(&part);
                if (part.len() as u64) < len {
                    size = offset + part.len() as u64;
                    break;
                }
            }
            Segment::Hole { .. } => data.resize(data.len() + len as usize, 0),
            Segment::Absent { .. } => copy_fetched(&mut data, offset, len, fetched)?,
        }
    }
    let crcs = data
        .chunks(PIECE_SIZE as usize)
        .enumerate()
        .map(|(piece, bytes)| known.get(piece).copied().flatten().unwrap_or_else(|| crc32c(bytes)))
        .collect();
    let len = data.len() as u64;
    let message = ReadReply { offset: start, crcs, size, hole: 0 };
    let body = Bytes::from_owner(Budgeted { data, _budget: budget });
    Ok((Reply::new(&message).with_body(body), len))
}

/// Appends `offset..offset + len`, which was fetched, perhaps in several ranges.
fn copy_fetched(data: &mut Vec<u8>, offset: u64, len: u64, fetched: &Fetched) -> Result<()> {
    let mut at = offset;
    let end = offset + len;
    while at < end {
        let part = fetched.iter().find_map(|(start, bytes)| {
            let from = at.checked_sub(*start)? as usize;
            bytes.get(from..bytes.len().min((end - start) as usize)).filter(|part| !part.is_empty())
        });
        let part =
            part.ok_or_else(|| Error::new(ErrorKind::Unavailable, "a cached copy was evicted while it was read"))?;
        data.extend_from_slice(part);
        at += part.len() as u64;
    }
    Ok(())
}

/// A buffer that gives its part of the budget back when the last byte of it has been sent.
struct Budgeted {
    data: Vec<u8>,
    _budget: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Budgeted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// `build` on the disk pool.
pub(crate) async fn build_on(
    engine: &crate::engine::Engine,
    key: ContentKey,
    plan: ReadPlan,
    fetched: Fetched,
    deadline: tokio::time::Instant,
) -> Result<(Reply, u64)> {
    let budget = engine.replies.take(planned_bytes(&plan), deadline).await?;
    let store: Arc<BlockStore> = engine.store.clone();
    engine.disk.run(deadline, move || build(&store, key, &plan, &fetched, budget)).await
}
