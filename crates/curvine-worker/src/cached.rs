//! Serving content of under file systems: from the block store where it is present, from its store where not.
//!
//! No lease is needed: a generation is one version of an object, and whoever names it has it from the master.

use std::ops::Range;
use std::sync::Arc;

use curvine_blockstore::{ContentKey, ContentMap, ReadPlan, Segment};
use curvine_proto::{ContentMapReply, FillReply, FillRequest, ReadRequest, SeekReply, SeekRequest};
use curvine_rpc::Reply;
use curvine_types::limits::CHUNK_SIZE;
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::reply::{Fetched, build_on, direct};
use crate::stats::Stats;

/// How often a read that was overtaken by an eviction or a repair begins again.
const ATTEMPTS: usize = 4;
/// Chunks that one `Fill` has on their way at once.
const FILL_WINDOW: u64 = 32;

/// Reads a range, fetching what is absent.
pub(crate) async fn read(
    engine: &Arc<Engine>,
    key: ContentKey,
    request: &ReadRequest,
    read_ahead_max: u64,
    deadline: Instant,
) -> Result<Reply> {
    let (offset, len) = (request.offset, u64::from(request.length));
    if request.verify {
        verify(engine, key, offset, len, deadline).await?;
    }
    let mut missed = false;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let plan = plan(engine, key, offset, len, deadline).await?;
        let absent = absent_range(&plan);
        let mut fetched = Fetched::new();
        let mut plan = plan;
        if let Some(absent) = absent {
            missed = true;
            let object = engine.sources.object(key, deadline).await?;
            let (joined, started) = engine.fetcher.fetch(key, &object, chunks_of(&absent));
            look_ahead(engine, key, request, &plan, read_ahead_max);
            let mut cargo = Vec::new();
            for flight in joined.into_iter().chain(started) {
                let brought = flight.run.bytes();
                let range = brought.start.max(absent.start)..brought.end.min(absent.end);
                if !range.is_empty() {
                    let start = range.start;
                    let (bytes, held) = flight.bytes(range, deadline).await?;
                    fetched.push((start, bytes));
                    cargo.push(held);
                }
            }
            // What others brought meanwhile is present by now.
            plan = self::plan(engine, key, offset, len, deadline).await?;
        } else {
            look_ahead(engine, key, request, &plan, read_ahead_max);
        }
        let built = match direct(&plan) {
            Some(reply) => Ok(reply),
            None => build_on(engine, key, plan, fetched, deadline).await,
        };
        match built {
            Ok((reply, bytes)) => {
                Stats::add(&engine.stats.bytes_read, bytes);
                Stats::add(if missed { &engine.stats.misses } else { &engine.stats.hits }, 1);
                engine.sources.count_read(key, missed, bytes);
                return Ok(reply);
            }
            Err(error) if matches!(error.kind(), ErrorKind::VersionMismatch | ErrorKind::Unavailable) => {
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the cached copy does not come to rest")))
}

/// Fills a range, whatever of it is absent, and waits until it is kept.
pub(crate) async fn fill(
    engine: &Arc<Engine>,
    key: ContentKey,
    request: &FillRequest,
    deadline: Instant,
) -> Result<FillReply> {
    let object = engine.sources.object(key, deadline).await?;
    let size = object.expect.size;
    let end = request.offset.saturating_add(request.length).min(size);
    let mut fetched = 0;
    let mut number = request.offset / CHUNK_SIZE;
    let last = end.div_ceil(CHUNK_SIZE);
    while number < last {
        let window = number..last.min(number + FILL_WINDOW);
        let (joined, started) = engine.fetcher.fetch(key, &object, window.clone());
        for flight in &joined {
            flight.kept(deadline).await?;
        }
        for flight in &started {
            flight.kept(deadline).await?;
            fetched += flight.run.chunks().map(|chunk| (size - chunk * CHUNK_SIZE).min(CHUNK_SIZE)).sum::<u64>();
        }
        number = window.end;
    }
    Ok(FillReply { fetched })
}

/// SEEK_DATA and SEEK_HOLE: an object is all data.
pub(crate) async fn seek(
    engine: &Arc<Engine>,
    key: ContentKey,
    request: &SeekRequest,
    deadline: Instant,
) -> Result<SeekReply> {
    let size = engine.sources.object(key, deadline).await?.expect.size;
    if request.offset >= size {
        return Err(Error::new(ErrorKind::NoDevice, "beyond the end of the file").with("offset", request.offset));
    }
    Ok(SeekReply { offset: if request.hole { size } else { request.offset } })
}

/// What of a content is here; nothing, if it was never read.
pub(crate) async fn map(engine: &Arc<Engine>, key: ContentKey, deadline: Instant) -> Result<ContentMapReply> {
    let store = engine.store.clone();
    match engine.disk.run(deadline, move || store.map(key, 0)).await {
        Ok(map) => Ok(map_reply(map)),
        Err(error) if is_not_here(&error) => {
            let size = engine.sources.object(key, deadline).await?.expect.size;
            let states = vec![0; size.div_ceil(CHUNK_SIZE).min(1 << 20) as usize];
            Ok(ContentMapReply { size, chunk_size: CHUNK_SIZE, states: states.into(), ..Default::default() })
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn map_reply(map: ContentMap) -> ContentMapReply {
    let states: Vec<u8> = map.states.iter().map(|state| *state as u8).collect();
    ContentMapReply {
        size: map.size,
        chunk_size: CHUNK_SIZE,
        states: states.into(),
        tier: map.tier.name().to_string(),
        path: map.path.display().to_string(),
        present_bytes: map.present_bytes,
        pinned: map.pinned,
    }
}

/// The plan of the block store; if it has nothing usable, one that is all absent.
pub(crate) async fn plan(
    engine: &Arc<Engine>,
    key: ContentKey,
    offset: u64,
    len: u64,
    deadline: Instant,
) -> Result<ReadPlan> {
    if let Some(plan) = engine.store.read_now(key, 0, offset, len) {
        return Ok(plan);
    }
    let store = engine.store.clone();
    match engine.disk.run(deadline, move || store.read(key, 0, offset, len)).await {
        Err(error) if is_not_here(&error) => {
            let size = engine.sources.object(key, deadline).await?.expect.size;
            Ok(ReadPlan::absent(offset, len, size))
        }
        other => other,
    }
}

/// Not here, lost, or in a directory that is out of service: as a copy it can be had from the store.
fn is_not_here(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::VersionMismatch | ErrorKind::DataLoss | ErrorKind::Io)
}

/// From the first to the last byte that a plan lacks.
fn absent_range(plan: &ReadPlan) -> Option<Range<u64>> {
    let mut ranges =
        plan.segments.iter().filter(|segment| matches!(segment, Segment::Absent { .. })).map(Segment::range);
    let (first, len) = ranges.next()?;
    let end = ranges.next_back().map_or(first + len, |(offset, len)| offset + len);
    Some(first..end)
}

/// The numbers of the chunks that hold a range.
fn chunks_of(range: &Range<u64>) -> Range<u64> {
    range.start / CHUNK_SIZE..range.end.div_ceil(CHUNK_SIZE)
}

/// Begins to fetch what follows the range, if the reader expects to want it and it is not here.
fn look_ahead(engine: &Arc<Engine>, key: ContentKey, request: &ReadRequest, plan: &ReadPlan, max: u64) {
    let ahead = u64::from(request.read_ahead).min(max);
    let end = request.offset.saturating_add(u64::from(request.length));
    if ahead == 0 || end >= plan.size {
        return;
    }
    let wanted = end.div_ceil(CHUNK_SIZE)..(end + ahead).min(plan.size).div_ceil(CHUNK_SIZE);
    if engine.store.missing_chunks(key, wanted.start, wanted.end).is_empty() {
        return;
    }
    let engine = engine.clone();
    tokio::spawn(async move {
        // Of no use after so long; the reader's own request asks again.
        let deadline = Instant::now() + std::time::Duration::from_secs(5);
        if let Ok(object) = engine.sources.object(key, deadline).await {
            engine.fetcher.fetch_ahead(key, &object, wanted);
        }
    });
}

async fn verify(engine: &Arc<Engine>, key: ContentKey, offset: u64, len: u64, deadline: Instant) -> Result<()> {
    let store = engine.store.clone();
    match engine.disk.run(deadline, move || store.verify(key, 0, offset, len)).await {
        Err(error) if is_not_here(&error) => Ok(()),
        other => other,
    }
}
