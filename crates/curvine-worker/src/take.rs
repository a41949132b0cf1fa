//! Taking a sealed content over from another worker, for the master.
//!
//! Always: the bytes are those that the source's checksums say; what is answered is sealed, durable and as long as the source.

use std::sync::Arc;

use curvine_blockstore::WriteAt;
use curvine_proto::{ContentId, LiveAttrReply, TakeContentRequest};
use curvine_types::limits::IO_MAX;
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use crate::authoritative::Target;
use crate::engine::{Engine, live_attr, timestamp};
use crate::read_part::read_part;

/// Reads under way at once.
const WINDOW: usize = 4;
/// How long one of them may take.
const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

pub(crate) async fn take(
    engine: &Arc<Engine>,
    target: Target,
    request: TakeContentRequest,
    deadline: Instant,
) -> Result<LiveAttrReply> {
    let mtime = timestamp(&request.mtime.unwrap_or_default())?;
    let Target { key, version } = target;
    let TakeContentRequest { epoch, size, .. } = request;
    // An earlier attempt must have ended: it would write into what this one makes.
    let _turn = engine.orders.turn(0, &key.to_string(), deadline).await?;
    let store = engine.store.clone();
    let begun = move || {
        store.delete_up_to([(key, version.saturating_sub(1))])?;
        store.place(key, version, epoch, mtime, &[])
    };
    engine.disk.run_slow(deadline, begun).await?;
    // It counts, but waits for no room: where it is now it cannot stay.
    engine.dirty.note(key, request.mount);
    let taken = copy(engine, target, &request, deadline).await;
    if taken.is_err() {
        let store = engine.store.clone();
        let dropped = engine.disk.run_slow(deadline, move || store.delete_up_to([(key, version)])).await;
        if let Err(error) = dropped {
            tracing::debug!(content = %key, %error, "what was taken of a content is left for the next attempt");
        }
    }
    let attr = taken?;
    if attr.size == size {
        return Ok(LiveAttrReply { attr: Some(live_attr(attr)) });
    }
    Err(Error::new(ErrorKind::Corrupt, "a content that was taken over has another size")
        .with("inode", key.inode)
        .with("have", attr.size)
        .with("want", size))
}

async fn copy(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: &TakeContentRequest,
    deadline: Instant,
) -> Result<curvine_blockstore::LiveAttr> {
    let TakeContentRequest { epoch, size, .. } = *request;
    let channel = engine.copies.channel_to(request.source, &request.address)?;
    let source = ContentId { inode: key.inode, generation: key.generation, version: request.version };
    let parts = (0..size.div_ceil(IO_MAX as u64)).map(|number| number * IO_MAX as u64);
    let reads = parts.map(|offset| {
        let length = (size - offset).min(IO_MAX as u64);
        let channel = &channel;
        async move {
            let deadline = deadline.min(Instant::now() + READ_TIMEOUT);
            read_part(channel, source, offset, length, deadline).await.map(|part| (offset, part))
        }
    });
    let mut reads = stream::iter(reads).buffered(WINDOW);
    while let Some(part) = reads.next().await {
        // What is known to be a hole stays one.
        let (offset, Some((data, crcs))) = part? else { continue };
        let store = engine.store.clone();
        let write = move || store.write(key, version, epoch, WriteAt::At(offset), &data, &crcs).map(drop);
        engine.disk.run(deadline, write).await?;
    }
    let store = engine.store.clone();
    let finish = move || {
        store.truncate(key, version, epoch, size)?;
        store.seal(key, version, epoch)
    };
    engine.disk.run_slow(deadline, finish).await
}
