//! Content that Curvine is the authority for: reads and writes of clients, placement and sealing for the master.

use std::sync::Arc;

use bytes::Bytes;
use curvine_blockstore::{BlockStore, ContentKey, CopyFrom, CopyTo, Fallocate, WriteAt, Writer};
use curvine_proto::{
    ContentMapReply, CopyRangeReply, CopyRangeRequest, DeleteContentRequest, FallocateRequest, LiveAttrReply,
    OpenContentRequest, PlaceRequest, ReadRequest, SealRequest, SeekReply, SeekRequest, SetMtimeRequest,
    TruncateRequest, WriteReply, WriteRequest,
};
use curvine_rpc::Reply;
use curvine_types::limits::{COPY_MAX, IO_MAX};
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::cached::map_reply;
use crate::engine::{Engine, live_attr, timestamp};
use crate::reply::{build_on, direct};
use crate::stats::Stats;

/// How often a read that met a truncation or a reopening begins again.
const ATTEMPTS: usize = 4;

/// Which content a request is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub key: ContentKey,
    pub version: u64,
}

pub(crate) async fn read(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: &ReadRequest,
    deadline: Instant,
) -> Result<Reply> {
    let (offset, len, verify) = (request.offset, u64::from(request.length), request.verify);
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let plan = match engine.store.read_now(key, version, offset, len).filter(|_| !verify) {
            Some(plan) => plan,
            None => {
                let store = engine.store.clone();
                let plan = move || {
                    if verify {
                        store.verify(key, version, offset, len)?;
                    }
                    store.read(key, version, offset, len)
                };
                engine.disk.run(deadline, plan).await?
            }
        };
        let planned_size = plan.size;
        if plan.segments.iter().any(|segment| matches!(segment, curvine_blockstore::Segment::Absent { .. })) {
            return Err(Error::new(ErrorKind::DataLoss, "data of a file is missing and there is no other source")
                .with("inode", key.inode)
                .with("generation", key.generation)
                .with("offset", offset));
        }
        let built = match direct(&plan) {
            Some(reply) => Ok(reply),
            None => build_on(engine, key, plan, Vec::new(), deadline).await,
        };
        match built {
            Ok((reply, bytes)) => {
                Stats::add(&engine.stats.bytes_read, bytes);
                return Ok(reply);
            }
            Err(error) if error.kind() == ErrorKind::VersionMismatch => {
                tracing::debug!(content = %key, size = planned_size, %error, "a read begins again");
                last = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the content does not come to rest")))
}

pub(crate) async fn write(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: WriteRequest,
    data: Bytes,
    deadline: Instant,
) -> Result<WriteReply> {
    if data.len() > IO_MAX {
        return Err(Error::new(ErrorKind::TooBig, "a write has at most 1 MiB").with("length", data.len()));
    }
    engine.dirty.grow(key, data.len() as u64, deadline).await?;
    let store = engine.store.clone();
    let stats = engine.stats.clone();
    let WriteRequest { session, instance, token, .. } = request;
    let writer = (instance != 0).then_some(Writer { session, instance, token });
    let work = move || {
        let at = if request.append { WriteAt::Append } else { WriteAt::At(request.offset) };
        let written = store.write_by(writer, key, version, request.epoch, at, &data, &request.crcs)?;
        Stats::add(&stats.bytes_written, data.len() as u64);
        Ok(WriteReply { offset: written.offset, attr: Some(live_attr(written.attr)) })
    };
    engine.disk.run(deadline, work).await
}

pub(crate) async fn truncate(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: TruncateRequest,
    deadline: Instant,
) -> Result<LiveAttrReply> {
    on_attr(engine, deadline, move |store| store.truncate(key, version, request.epoch, request.size)).await
}

pub(crate) async fn fallocate(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: FallocateRequest,
    deadline: Instant,
) -> Result<LiveAttrReply> {
    let mode = fallocate_mode(request.mode)?;
    let FallocateRequest { epoch, offset, length, .. } = request;
    if matches!(mode, Fallocate::Allocate { .. }) {
        engine.dirty.grow(key, length, deadline).await?;
    }
    on_attr(engine, deadline, move |store| store.fallocate(key, version, epoch, offset, length, mode)).await
}

/// Copies within this worker, one step after the other so that nobody waits long for a lane of the disk.
pub(crate) async fn copy_range(
    engine: &Arc<Engine>,
    from: Target,
    to: Target,
    request: CopyRangeRequest,
    deadline: Instant,
) -> Result<CopyRangeReply> {
    let CopyRangeRequest { from_offset, to_offset, epoch, length, .. } = request;
    if length > COPY_MAX {
        return Err(Error::new(ErrorKind::TooBig, "a copy has at most 64 MiB").with("length", length));
    }
    let overlap = from.key == to.key && from_offset.abs_diff(to_offset) < length;
    if overlap || from_offset.checked_add(length).is_none() || to_offset.checked_add(length).is_none() {
        return Err(Error::new(ErrorKind::InvalidArgument, "the ranges of a copy overlap or do not exist"));
    }
    let mut reply = CopyRangeReply::default();
    while reply.copied < length {
        let source = CopyFrom { key: from.key, version: from.version, offset: from_offset + reply.copied };
        let target = CopyTo { key: to.key, version: to.version, epoch, offset: to_offset + reply.copied };
        let (store, rest) = (engine.store.clone(), length - reply.copied);
        engine.dirty.grow(to.key, rest.min(IO_MAX as u64), deadline).await?;
        match engine.disk.run(deadline, move || store.copy_step(source, target, rest)).await {
            Ok((0, _)) => break,
            Ok((copied, attr)) => {
                reply.copied += copied;
                reply.attr = attr.map(live_attr);
                Stats::add(&engine.stats.bytes_read, copied);
                Stats::add(&engine.stats.bytes_written, copied);
            }
            // What came before is copied; the caller learns of the error when it goes on.
            Err(error) if reply.copied > 0 => {
                tracing::debug!(%error, copied = reply.copied, "a copy ends early");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(reply)
}

/// Makes everything durable that was acknowledged of any content.
pub(crate) async fn sync_all(engine: &Arc<Engine>, deadline: Instant) -> Result<()> {
    let store = engine.store.clone();
    engine.disk.run_slow(deadline, move || store.sync_all()).await
}

pub(crate) async fn stat(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    deadline: Instant,
) -> Result<LiveAttrReply> {
    on_attr(engine, deadline, move |store| store.stat(key, version)).await
}

pub(crate) async fn set_mtime(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: SetMtimeRequest,
    deadline: Instant,
) -> Result<LiveAttrReply> {
    let mtime = timestamp(&request.mtime.unwrap_or_default())?;
    on_attr(engine, deadline, move |store| store.set_mtime(key, version, mtime)).await
}

pub(crate) async fn fsync(engine: &Arc<Engine>, Target { key, version }: Target, deadline: Instant) -> Result<()> {
    let store = engine.store.clone();
    let work = move || {
        store.stat(key, version)?;
        store.fsync(key)
    };
    engine.disk.run_slow(deadline, work).await
}

pub(crate) async fn seek(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: &SeekRequest,
    deadline: Instant,
) -> Result<SeekReply> {
    let (store, offset, hole) = (engine.store.clone(), request.offset, request.hole);
    let work = move || if hole { store.seek_hole(key, version, offset) } else { store.seek_data(key, version, offset) };
    Ok(SeekReply { offset: engine.disk.run(deadline, work).await? })
}

pub(crate) async fn map(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    deadline: Instant,
) -> Result<ContentMapReply> {
    let store = engine.store.clone();
    engine.disk.run(deadline, move || store.map(key, version)).await.map(map_reply)
}

pub(crate) async fn place(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: PlaceRequest,
    initial: Bytes,
    deadline: Instant,
) -> Result<()> {
    let mtime = timestamp(&request.mtime.unwrap_or_default())?;
    engine.dirty.begin(request.mount, key, deadline).await?;
    let store = engine.store.clone();
    engine.disk.run_slow(deadline, move || store.place(key, version, request.epoch, mtime, &initial)).await?;
    engine.dirty.note(key, request.mount);
    Ok(())
}

pub(crate) async fn open(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: OpenContentRequest,
    deadline: Instant,
) -> Result<()> {
    let store = engine.store.clone();
    let work = move || {
        if request.revoked != 0 {
            store.revoke(key, request.revoked)?;
        }
        store.open_for_write(key, version, request.epoch)
    };
    engine.disk.run_slow(deadline, work).await?;
    engine.dirty.note(key, request.mount);
    Ok(())
}

pub(crate) async fn seal(
    engine: &Arc<Engine>,
    Target { key, version }: Target,
    request: SealRequest,
    deadline: Instant,
) -> Result<LiveAttrReply> {
    let store = engine.store.clone();
    let revoked = Some(request.revoked).filter(|session| *session != 0);
    let work = move || store.seal_without(key, version, request.epoch, revoked);
    let attr = engine.disk.run_slow(deadline, work).await?;
    Ok(LiveAttrReply { attr: Some(live_attr(attr)) })
}

pub(crate) async fn delete(engine: &Arc<Engine>, request: DeleteContentRequest, deadline: Instant) -> Result<()> {
    let contents: Vec<(ContentKey, u64)> = request
        .contents
        .iter()
        .map(|content| {
            let version = if content.version == 0 { u64::MAX } else { content.version };
            (ContentKey::new(content.inode, content.generation), version)
        })
        .collect();
    let store = engine.store.clone();
    engine.disk.run_slow(deadline, move || store.delete_up_to(contents)).await
}

async fn on_attr(
    engine: &Arc<Engine>,
    deadline: Instant,
    work: impl FnOnce(&BlockStore) -> Result<curvine_blockstore::LiveAttr> + Send + 'static,
) -> Result<LiveAttrReply> {
    let store = engine.store.clone();
    let attr = engine.disk.run(deadline, move || work(&store)).await?;
    Ok(LiveAttrReply { attr: Some(live_attr(attr)) })
}

/// Flags as in linux/falloc.h.
fn fallocate_mode(flags: u32) -> Result<Fallocate> {
    const KEEP_SIZE: u32 = 0x01;
    const PUNCH_HOLE: u32 = 0x02;
    const ZERO_RANGE: u32 = 0x10;
    let keep_size = flags & KEEP_SIZE != 0;
    match flags & !KEEP_SIZE {
        0 => Ok(Fallocate::Allocate { keep_size }),
        // The kernel refuses punching without KEEP_SIZE.
        PUNCH_HOLE if keep_size => Ok(Fallocate::PunchHole),
        ZERO_RANGE => Ok(Fallocate::ZeroRange { keep_size }),
        _ => Err(Error::new(ErrorKind::NotSupported, "this kind of fallocate is not supported").with("flags", flags)),
    }
}
