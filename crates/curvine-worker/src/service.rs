//! The RPC service: who may call what, and which part of the worker answers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use curvine_blockstore::{ContentKey, ContentKind, InventoryItem};
use curvine_proto::{
    AdoptObjectRequest, ContentId, ContentMapRequest, CopyRangeRequest, DeleteContentRequest, Empty, ExposeRequest,
    FallocateRequest, FillRequest, FsyncRequest, HeldContent, HeldKind, ListHeldReply, ListHeldRequest, Method,
    OpenContentRequest, PeerRole, PlaceRequest, ProbeMountRequest, ProbeRequest, ReadRequest, ReleaseContentRequest,
    SealRequest, SeekRequest, SetMtimeRequest, StatRequest, StoreChangeRequest, StoreObjectRequest, TakeContentRequest,
    Time, TruncateRequest, UfsListRequest, UfsObject, UfsStatRequest, WorkerReportReply, WriteRequest,
};
use curvine_rpc::{Call, Reply, Service};
use curvine_types::limits::IO_MAX;
use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::authoritative::{self, Target};
use crate::cached;
use crate::engine::Engine;
use crate::{load, local, look, store_change, store_object, take};

/// Most contents in one reply to `ListHeld`.
const HELD_MAX: usize = 4096;
/// Most contents that one `DeleteContent` names.
const DELETES_MAX: usize = 10_000;

pub(crate) struct WorkerService {
    /// Set when the cluster is known and the block store open.
    pub engine: OnceLock<Arc<Engine>>,
    pub read_ahead_max: u64,
}

impl Service for WorkerService {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        async move { self.answer(call).await }.boxed()
    }
}

impl WorkerService {
    async fn answer(&self, call: Call) -> Result<Reply> {
        if call.method == Method::Ping {
            return Ok(Reply::new(&Empty {}));
        }
        let engine = self
            .engine
            .get()
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the worker does not know its cluster yet"))?;
        let deadline = call.deadline;
        match call.method {
            Method::Read => {
                let request: ReadRequest = call.request()?;
                if request.length as usize > IO_MAX {
                    return Err(
                        Error::new(ErrorKind::TooBig, "a read has at most 1 MiB").with("length", request.length)
                    );
                }
                match target(engine, &call, &request.content)? {
                    Target { key, version: 0 } => {
                        cached::read(engine, key, &request, self.read_ahead_max, in_time(deadline)).await
                    }
                    target => authoritative::read(engine, target, &request, deadline).await,
                }
            }
            Method::Write => {
                let request: WriteRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                Ok(Reply::new(&authoritative::write(engine, target, request, call.data, deadline).await?))
            }
            Method::Truncate => {
                let request: TruncateRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                Ok(Reply::new(&authoritative::truncate(engine, target, request, deadline).await?))
            }
            Method::Fallocate => {
                let request: FallocateRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                Ok(Reply::new(&authoritative::fallocate(engine, target, request, deadline).await?))
            }
            Method::CopyRange => {
                let request: CopyRangeRequest = call.request()?;
                let from = target(engine, &call, &request.from)?;
                let to = writable(engine, &call, &request.to)?;
                Ok(Reply::new(&authoritative::copy_range(engine, from, to, request, in_time(deadline)).await?))
            }
            Method::SyncAll => {
                authoritative::sync_all(engine, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::Fsync => {
                let request: FsyncRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                authoritative::fsync(engine, target, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::Stat => {
                let request: StatRequest = call.request()?;
                let target = target(engine, &call, &request.content)?;
                Ok(Reply::new(&authoritative::stat(engine, target, deadline).await?))
            }
            Method::Seek => {
                let request: SeekRequest = call.request()?;
                let reply = match target(engine, &call, &request.content)? {
                    Target { key, version: 0 } => cached::seek(engine, key, &request, deadline).await?,
                    target => authoritative::seek(engine, target, &request, deadline).await?,
                };
                Ok(Reply::new(&reply))
            }
            Method::ContentMap => {
                let request: ContentMapRequest = call.request()?;
                let reply = match target(engine, &call, &request.content)? {
                    Target { key, version: 0 } => cached::map(engine, key, deadline).await?,
                    target => authoritative::map(engine, target, deadline).await?,
                };
                Ok(Reply::new(&reply))
            }
            Method::WorkerReport => Ok(Reply::new(&report(engine).await)),
            Method::ProbeMount => {
                probe_mount(engine, call.request()?, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::ListHeld => Ok(Reply::new(&held(engine, &call.request()?))),
            Method::Fill => {
                let request: FillRequest = call.request()?;
                let Target { key, version } = target(engine, &call, &request.content)?;
                if version != 0 {
                    let message = "only content of an under file system can be filled";
                    return Err(Error::new(ErrorKind::InvalidArgument, message).with("inode", key.inode));
                }
                Ok(Reply::new(&cached::fill(engine, key, &request, in_time(deadline)).await?))
            }
            Method::Expose => {
                let request: ExposeRequest = call.request()?;
                let target = target(engine, &call, &request.content)?;
                local::expose(engine, target, &request, call.peer.is_local(), deadline).await
            }
            _ => self.answer_master(engine, call, deadline).await,
        }
    }

    /// What only a master may ask.
    async fn answer_master(&self, engine: &Arc<Engine>, call: Call, deadline: Instant) -> Result<Reply> {
        if !is_master(&call) {
            return Err(Error::new(ErrorKind::NotSupported, "a worker does not do this for clients")
                .with("method", call.method.name()));
        }
        match call.method {
            Method::Place => {
                let request: PlaceRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                authoritative::place(engine, target, request, call.data, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::OpenContent => {
                let request: OpenContentRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                authoritative::open(engine, target, request, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::Seal => {
                let request: SealRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                Ok(Reply::new(&authoritative::seal(engine, target, request, deadline).await?))
            }
            Method::Probe => {
                let request: ProbeRequest = call.request()?;
                let Target { key, .. } = target(engine, &call, &request.content)?;
                Ok(Reply::new(&local::probe(engine, key, deadline).await?))
            }
            Method::SetMtime => {
                let request: SetMtimeRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                Ok(Reply::new(&authoritative::set_mtime(engine, target, request, deadline).await?))
            }
            Method::DeleteContent => {
                let request: DeleteContentRequest = call.request()?;
                if request.contents.len() > DELETES_MAX {
                    return Err(
                        Error::new(ErrorKind::TooBig, "too many contents to delete at once").with("limit", DELETES_MAX)
                    );
                }
                authoritative::delete(engine, request, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::UfsList => {
                let request: UfsListRequest = call.request()?;
                Ok(Reply::new(&look::list(engine, request, deadline).await?))
            }
            Method::UfsStat => {
                let request: UfsStatRequest = call.request()?;
                Ok(Reply::new(&look::stat(engine, request, deadline).await?))
            }
            Method::StoreObject => {
                let request: StoreObjectRequest = call.request()?;
                Ok(Reply::new(&store_object::store(engine, request, call.data, deadline).await?))
            }
            Method::AdoptObject => {
                let request: AdoptObjectRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                Ok(Reply::new(&store_object::adopt(engine, target, request, deadline).await?))
            }
            Method::TakeContent => {
                let request: TakeContentRequest = call.request()?;
                let target = writable(engine, &call, &request.content)?;
                Ok(Reply::new(&take::take(engine, target, request, deadline).await?))
            }
            Method::ReleaseContent => {
                let request: ReleaseContentRequest = call.request()?;
                store_object::release(engine, request, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::CheckStore => {
                look::check_store(engine, call.request()?, deadline).await?;
                Ok(Reply::new(&Empty {}))
            }
            Method::Survey => Ok(Reply::new(&look::survey(engine, call.request()?, deadline).await?)),
            Method::Load => Ok(Reply::new(&load::load(engine, call.request()?, in_time(deadline)).await?)),
            Method::FreeContents => Ok(Reply::new(&load::free(engine, call.request()?, deadline).await?)),
            Method::StoreChange => {
                let request: StoreChangeRequest = call.request()?;
                Ok(Reply::new(&store_change::change(engine, request, deadline).await?))
            }
            method => {
                Err(Error::new(ErrorKind::NotSupported, "a worker does not have this method")
                    .with("method", method.name()))
            }
        }
    }
}

fn is_master(call: &Call) -> bool {
    call.peer.hello().role == PeerRole::Master as i32
}

/// The content of a request. Authoritative content needs the lease, unless the master itself asks.
fn target(engine: &Engine, call: &Call, content: &Option<ContentId>) -> Result<Target> {
    let content =
        content.as_ref().ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the request names no content"))?;
    if content.version != 0 && !is_master(call) {
        engine.lease.check()?;
    }
    Ok(Target { key: ContentKey::new(content.inode, content.generation), version: content.version })
}

/// As `target`, of a request that only authoritative content can have.
fn writable(engine: &Engine, call: &Call, content: &Option<ContentId>) -> Result<Target> {
    let target = target(engine, call, content)?;
    if target.version == 0 {
        return Err(Error::new(ErrorKind::ReadOnly, "content of an under file system is not written here")
            .with("inode", target.key.inode));
    }
    Ok(target)
}

async fn report(engine: &Arc<Engine>) -> WorkerReportReply {
    let tiers = engine.tier_infos().await;
    WorkerReportReply { stats: Some(engine.worker_stats()), tiers, wall_clock: Some(Time::now()) }
}

/// One look into the store that nothing remembers.
async fn probe_mount(engine: &Engine, request: ProbeMountRequest, deadline: Instant) -> Result<()> {
    let ufs = engine.sources.mount(request.mount, request.mount_change, deadline).await?;
    within(deadline, ufs.list("", "", 1)).await.map(drop)
}

fn held(engine: &Engine, request: &ListHeldRequest) -> ListHeldReply {
    let limit = (request.limit as usize).clamp(1, HELD_MAX);
    let after = ContentKey::new(request.after_inode, request.after_generation);
    let items = engine.store.inventory(Some(after), limit);
    let content = |item: &InventoryItem| HeldContent {
        inode: item.key.inode,
        generation: item.key.generation,
        version: item.version,
        kind: match item.kind {
            ContentKind::Live => HeldKind::Live,
            ContentKind::Sealed => HeldKind::Sealed,
            ContentKind::Cached => HeldKind::Cached,
            ContentKind::Lost => HeldKind::Lost,
        } as i32,
    };
    ListHeldReply { contents: items.iter().map(content).collect(), end: items.is_empty() }
}

/// Leaves time to say what happened: a caller that only times out learns nothing.
fn in_time(deadline: Instant) -> Instant {
    deadline.checked_sub(Duration::from_millis(200)).unwrap_or(deadline)
}

pub(crate) async fn within<T>(deadline: Instant, request: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout_at(in_time(deadline), request)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Ufs, "the under file system did not answer in time")))
}

pub(crate) fn ufs_object(object: curvine_ufs::Object) -> UfsObject {
    UfsObject {
        key: object.key,
        directory: object.directory,
        size: object.size,
        mtime: object.mtime.map(Into::into),
        etag: object.etag,
    }
}
