//! Content on its way into a store and back: uploads, what becomes of the local file afterwards, and objects that become local
//! files to be changed.
//!
//! Always: what is uploaded is sealed and stays so until the last byte was read; what is adopted is on the disk before anybody is
//! told of it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use curvine_blockstore::{ContentKey, Segment, WriteAt};
use curvine_proto::{
    AdoptObjectRequest, LiveAttrReply, ReleaseContentRequest, StoreObjectReply, StoreObjectRequest, UfsCondition,
};
use curvine_rpc::crc32c;
use curvine_types::limits::{INLINE_MAX, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, Result};
use curvine_ufs::{Condition, Source, Ufs};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::authoritative::Target;
use crate::cached;
use crate::engine::{Engine, live_attr, timestamp};
use crate::service::{ufs_object, within};
use crate::store_change::expect;

/// Memory of one upload: its parts on their way.
pub(crate) const UPLOAD_MEMORY: u64 = 48 << 20;
/// Bytes of an object copied at a time.
const STEP: u64 = 1 << 20;

/// A sealed content, or a few bytes.
struct ContentSource {
    engine: Arc<Engine>,
    target: Target,
    epoch: u64,
    size: u64,
    /// The content is these bytes, not a local file.
    inline: Option<Bytes>,
    token: String,
    /// Whose upload it is, by whose order.
    job: u64,
    incarnation: u64,
    /// An upload of the same bytes that was interrupted; empty: none.
    resume: String,
    deadline: Instant,
}

impl ContentSource {
    async fn load(&self, offset: u64, len: u64) -> Result<Bytes> {
        if let Some(data) = &self.inline {
            let range = offset as usize..(offset + len) as usize;
            return data.get(range).map(Bytes::copy_from_slice).ok_or_else(|| short(self.target.key));
        }
        let (store, Target { key, version }) = (self.engine.store.clone(), self.target);
        let work = move || {
            let plan = store.read(key, version, offset, len)?;
            let mut data = BytesMut::with_capacity(len as usize);
            let end = offset + len;
            for segment in &plan.segments {
                let (start, length) = segment.range();
                let bytes = match segment {
                    Segment::Data { .. } => store.load(key, segment)?,
                    Segment::Hole { .. } => vec![0; length as usize],
                    Segment::Absent { .. } => {
                        return Err(Error::new(
                            ErrorKind::DataLoss,
                            "data of a file is missing and there is no other source",
                        )
                        .with("inode", key.inode)
                        .with("offset", start));
                    }
                };
                let from = offset.saturating_sub(start).min(length) as usize;
                let until = end.saturating_sub(start).min(length) as usize;
                data.extend_from_slice(bytes.get(from..until).unwrap_or_default());
            }
            if data.len() as u64 == len { Ok(data.freeze()) } else { Err(short(key)) }
        };
        self.engine.disk.run(self.deadline, work).await
    }

    /// `Conflict` if somebody writes it again.
    fn still_sealed(&self) -> Result<()> {
        if self.inline.is_some() {
            return Ok(());
        }
        let Target { key, version } = self.target;
        let attr = self.engine.store.sealed(key, version, self.epoch).map_err(|error| match error.kind() {
            ErrorKind::VersionMismatch => {
                Error::new(ErrorKind::Conflict, "the file is written again").with("inode", key.inode).caused_by(error)
            }
            _ => error,
        })?;
        if attr.size == self.size { Ok(()) } else { Err(short(key)) }
    }
}

fn short(key: ContentKey) -> Error {
    Error::new(ErrorKind::Conflict, "the content does not have the size that it was sealed with")
        .with("inode", key.inode)
}

impl Source for ContentSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn token(&self) -> &str {
        &self.token
    }

    fn read<'a>(&'a self, offset: u64, len: u64) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.load(offset, len))
    }

    fn resume(&self) -> Option<&str> {
        Some(self.resume.as_str()).filter(|upload| !upload.is_empty())
    }

    fn begun<'a>(&'a self, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        let token = self.token.as_str();
        Box::pin(self.engine.sources.note_upload(self.job, self.incarnation, (upload, token), self.deadline))
    }

    fn check<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { self.still_sealed() })
    }
}

fn condition(condition: Option<UfsCondition>) -> Condition {
    match condition {
        Some(UfsCondition { absent: true, .. }) => Condition::Absent,
        Some(UfsCondition { present: Some(object), .. }) => Condition::Is(expect(&object)),
        _ => Condition::Any,
    }
}

/// Gives up an upload that somebody has begun earlier. A store that may not, or cannot, do that does not keep the file waiting: what is
/// stored is guarded by conditions anyway.
pub(crate) async fn give_up(ufs: &Arc<dyn Ufs>, key: &str, upload: &str, deadline: Instant) -> Result<()> {
    if upload.is_empty() {
        return Ok(());
    }
    match within(deadline, ufs.abort(key, upload)).await {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotSupported) => {
            tracing::warn!(key, upload, %error, "an upload that was begun earlier could not be given up");
            Ok(())
        }
        aborted => aborted,
    }
}

/// Uploads a content. `VersionMismatch`: the store has something else than the condition says; `Conflict`: the content is being
/// changed.
pub(crate) async fn store(
    engine: &Arc<Engine>,
    request: StoreObjectRequest,
    data: Bytes,
    deadline: Instant,
) -> Result<StoreObjectReply> {
    engine.orders.obey(request.incarnation)?;
    let id = request.content.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the request names no content"))?;
    let key = ContentKey::new(id.inode, id.generation);
    let inline = (id.version == 0).then_some(data);
    if inline.as_ref().is_some_and(|data| data.len() as u64 != request.size || data.len() > INLINE_MAX) {
        return Err(Error::new(ErrorKind::InvalidArgument, "the content's bytes are not what its size says"));
    }
    let _turn = engine.orders.turn(request.mount, &request.key, deadline).await?;
    let _memory = engine.uploads.take(request.size.min(UPLOAD_MEMORY), deadline).await?;
    let ufs = engine.sources.mount(request.mount, request.mount_change, deadline).await?;
    let source = ContentSource {
        engine: engine.clone(),
        target: Target { key, version: id.version },
        epoch: request.epoch,
        size: request.size,
        inline: inline.clone(),
        token: request.token,
        job: request.job,
        incarnation: request.incarnation,
        resume: request.resume,
        deadline,
    };
    source.still_sealed()?;
    give_up(&ufs, &request.key, &request.abort, deadline).await?;
    let condition = condition(request.condition);
    let object = within(deadline, ufs.store(&request.key, &source, &condition)).await?;
    if let Some(data) = inline {
        // So that the next reader has it here. The master sends it to the home of its block.
        let store = engine.store.clone();
        let kept = engine.disk.run(deadline, move || {
            store.prepare_cached(key, data.len() as u64)?;
            if data.is_empty() { Ok(()) } else { store.fill(key, 0, &data) }
        });
        if let Err(error) = kept.await {
            tracing::debug!(content = %key, %error, "what was stored is not kept");
        }
    }
    Ok(StoreObjectReply { entry: Some(ufs_object(object)) })
}

/// The store has these contents.
pub(crate) async fn release(engine: &Arc<Engine>, request: ReleaseContentRequest, deadline: Instant) -> Result<()> {
    let keys: Vec<ContentKey> =
        request.contents.iter().map(|content| ContentKey::new(content.inode, content.generation)).collect();
    let store = engine.store.clone();
    engine.disk.run_slow(deadline, move || keys.into_iter().try_for_each(|key| store.release(key))).await
}

/// Makes a live content of an object's bytes.
pub(crate) async fn adopt(
    engine: &Arc<Engine>,
    target: Target,
    request: AdoptObjectRequest,
    deadline: Instant,
) -> Result<LiveAttrReply> {
    let id = request.source.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the request names no object"))?;
    let source = ContentKey::new(id.inode, id.generation);
    let mtime = timestamp(&request.mtime.unwrap_or_default())?;
    // An earlier attempt must have ended: it would write into what applications have changed since.
    let _turn = engine.orders.turn(0, &target.key.to_string(), deadline).await?;
    let object = engine.sources.object(source, deadline).await?;
    let ufs = engine.sources.mount(object.mount, object.mount_change, deadline).await?;
    let (store, Target { key, version }, epoch) = (engine.store.clone(), target, request.epoch);
    engine.dirty.begin(object.mount, key, deadline).await?;
    // Nobody was told of what such an attempt left.
    let begun = move || {
        store.delete(&[key])?;
        store.place(key, version, epoch, mtime, &[])
    };
    engine.disk.run_slow(deadline, begun).await?;
    engine.dirty.note(key, object.mount);
    let size = object.expect.size;
    let mut offset = 0;
    while offset < size {
        let len = STEP.min(size - offset);
        engine.dirty.grow(key, len, deadline).await?;
        let here = cached::plan(engine, source, offset, len, deadline).await?;
        let is_here = here.segments.iter().all(|segment| !matches!(segment, Segment::Absent { .. }));
        let data = if is_here {
            let local = ContentSource {
                engine: engine.clone(),
                target: Target { key: source, version: 0 },
                epoch: 0,
                size,
                inline: None,
                token: String::new(),
                job: 0,
                incarnation: 0,
                resume: String::new(),
                deadline,
            };
            local.load(offset, len).await?
        } else {
            let read = within(deadline, ufs.read(&object.key, offset, len, &object.expect)).await;
            match read {
                Err(error) if matches!(error.kind(), ErrorKind::VersionMismatch | ErrorKind::NotFound) => {
                    engine.sources.report_changed(source, &object, &ufs, deadline).await;
                    return Err(Error::new(ErrorKind::VersionMismatch, "the object has changed in its store")
                        .with("inode", source.inode)
                        .caused_by(error));
                }
                read => read?,
            }
        };
        let store = engine.store.clone();
        let write = move || {
            if data.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            let crcs: Vec<u32> = data.chunks(PIECE_SIZE as usize).map(crc32c).collect();
            store.write(key, version, epoch, WriteAt::At(offset), &data, &crcs).map(|_| ())
        };
        engine.disk.run(deadline, write).await?;
        offset += len;
    }
    let store = engine.store.clone();
    let finish = move || {
        store.truncate(key, version, epoch, size)?;
        store.set_mtime(key, version, mtime)?;
        store.fsync(key)?;
        store.stat(key, version)
    };
    let attr = engine.disk.run_slow(deadline, finish).await?;
    Ok(LiveAttrReply { attr: Some(live_attr(attr)) })
}
