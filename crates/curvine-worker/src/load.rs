//! Bringing content into the cache for the master's jobs, telling what is there, and dropping it.

use std::sync::Arc;
use std::time::Duration;

use curvine_blockstore::ContentKey;
use curvine_proto::{
    FillRequest, FreeContentsReply, FreeContentsRequest, LoadItem, LoadReply, LoadRequest, LoadResult,
};
use curvine_types::limits::CHUNK_SIZE;
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use crate::cached;
use crate::engine::Engine;

/// Items of one request; contents of one request.
const ITEMS_MAX: usize = 1000;
/// Items at once unless the request says otherwise, and at most.
const PARALLEL: u32 = 16;
const PARALLEL_MAX: u32 = 128;
/// Chunks that are verified in one visit to the disks.
const VERIFY_STEP: u64 = 16;

fn too_many(have: usize) -> Error {
    Error::new(ErrorKind::TooBig, "too many items in one request").with("have", have).with("limit", ITEMS_MAX)
}

/// Loads or checks each item; one that fails says so in its own result.
pub(crate) async fn load(engine: &Arc<Engine>, request: LoadRequest, deadline: Instant) -> Result<LoadReply> {
    let LoadRequest { items, parallel, check, verify } = request;
    if items.len() > ITEMS_MAX {
        return Err(too_many(items.len()));
    }
    let parallel = if parallel == 0 { PARALLEL } else { parallel.min(PARALLEL_MAX) };
    let one = |item: LoadItem| async move {
        let done = match check {
            true => check_item(engine, item, verify, deadline).await,
            false => load_item(engine, item, deadline).await,
        };
        done.unwrap_or_else(|error| LoadResult { error: Some((&error).into()), ..LoadResult::default() })
    };
    let results = stream::iter(items).map(one).buffered(parallel as usize).collect().await;
    Ok(LoadReply { results })
}

async fn load_item(engine: &Arc<Engine>, item: LoadItem, deadline: Instant) -> Result<LoadResult> {
    let key = ContentKey::new(item.inode, item.generation);
    let request = FillRequest { content: None, offset: item.offset, length: item.length };
    let filled = cached::fill(engine, key, &request, deadline).await?;
    Ok(LoadResult { fetched: filled.fetched, ..LoadResult::default() })
}

/// What of the item's bytes is not here. Damaged chunks count as missing when they are verified.
async fn check_item(engine: &Arc<Engine>, item: LoadItem, verify: bool, deadline: Instant) -> Result<LoadResult> {
    let key = ContentKey::new(item.inode, item.generation);
    let end = item.offset.saturating_add(item.length);
    let chunks = item.offset / CHUNK_SIZE..end.div_ceil(CHUNK_SIZE);
    let absent = engine.store.missing_chunks(key, chunks.start, chunks.end);
    if verify && absent.is_empty() {
        let mut first = chunks.start;
        while first < chunks.end {
            let count = VERIFY_STEP.min(chunks.end - first);
            let store = engine.store.clone();
            let work = move || store.verify(key, 0, first * CHUNK_SIZE, count * CHUNK_SIZE);
            engine.disk.run(deadline, work).await?;
            first += count;
        }
    }
    let absent = engine.store.missing_chunks(key, chunks.start, chunks.end);
    let of_item = |chunk: &u64| (chunk * CHUNK_SIZE + CHUNK_SIZE).min(end) - (chunk * CHUNK_SIZE).max(item.offset);
    Ok(LoadResult { missing: absent.iter().map(of_item).sum(), ..LoadResult::default() })
}

/// Drops clean copies.
pub(crate) async fn free(
    engine: &Arc<Engine>,
    request: FreeContentsRequest,
    deadline: Instant,
) -> Result<FreeContentsReply> {
    if request.contents.len() > ITEMS_MAX {
        return Err(too_many(request.contents.len()));
    }
    let keys: Vec<ContentKey> =
        request.contents.iter().map(|content| ContentKey::new(content.inode, content.generation)).collect();
    let store = engine.store.clone();
    let older = Duration::from_millis(request.older_ms);
    let work = move || keys.into_iter().try_fold(0, |freed, key| Ok(freed + store.free_older(key, older)?));
    Ok(FreeContentsReply { freed: engine.disk.run_slow(deadline, work).await? })
}
