//! Part of a content as another worker has it.

use bytes::Bytes;
use curvine_blockstore::crc32c;
use curvine_proto::{ContentId, Method, ReadReply, ReadRequest};
use curvine_rpc::{Body, Channel};
use curvine_types::limits::PIECE_SIZE;
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

/// The bytes and the checksum of each piece of them, which they were compared with; `None`: all of it is a hole.
pub(crate) async fn read_part(
    channel: &Channel,
    content: ContentId,
    offset: u64,
    length: u64,
    deadline: Instant,
) -> Result<Option<(Bytes, Vec<u32>)>> {
    let request = ReadRequest { content: Some(content), offset, length: length as u32, ..Default::default() };
    let (reply, data): (ReadReply, _) = channel.call(Method::Read, &request, Body::Empty, deadline).await?;
    if reply.hole > 0 && data.is_empty() && reply.hole >= length {
        return Ok(None);
    }
    let sums = data.chunks(PIECE_SIZE as usize).map(crc32c);
    if reply.offset != offset || data.len() as u64 != length || !sums.eq(reply.crcs.iter().copied()) {
        return Err(Error::new(ErrorKind::Corrupt, "a worker answered with other bytes than it should")
            .with("inode", content.inode)
            .with("offset", offset));
    }
    Ok(Some((data, reply.crcs)))
}
