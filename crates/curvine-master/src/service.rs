//! Which method goes where.
//!
//! Always: a change runs in a task of its own, so that a caller who gives up does not stop it half-way.

use std::future::Future;
use std::sync::Arc;

use curvine_proto::{CloseSessionRequest, Empty, Message, Method, PeerRole, TruncateFileRequest};
use curvine_rpc::{Call, Peer, Reply};
use curvine_types::{Error, ErrorKind, Result};

use crate::leader::Leader;

/// Runs to its end whatever the caller does. It is begun here and not in what is returned, which is moved with each call.
fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send {
    let begun = curvine_rpc::detached(work);
    async move {
        let crashed = |error| Error::new(ErrorKind::Internal, "a task of the master failed").caused_by(error);
        begun.await.map_err(crashed)?
    }
}

fn reply<M: Message>(answer: Result<M>) -> Result<Reply> {
    answer.map(|message| Reply::new(&message))
}

fn done(answer: Result<()>) -> Result<Reply> {
    answer.map(|()| Reply::new(&Empty {}))
}

fn only_workers(peer: &Peer) -> Result<()> {
    if peer.hello().role() == PeerRole::Worker {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotPermitted, "only workers may ask this"))
}

impl Leader {
    /// Answers one call.
    pub(crate) async fn answer_call(self: Arc<Self>, call: Call) -> Result<Reply> {
        let deadline = call.deadline;
        if is_read(call.method) {
            self.replica.read_barrier().await?;
        }
        match call.method {
            Method::Ping => Ok(Reply::new(&Empty {})),

            Method::OpenSession => {
                let (request, peer) = (call.request()?, call.peer.clone());
                reply(detached(self.open_session(request, peer)).await)
            }
            Method::Heartbeat => reply(self.heartbeat(call.request()?, &call.peer).await),
            Method::Declare => {
                let (request, peer) = (call.request()?, call.peer.clone());
                done(detached(self.declare(request, peer, deadline)).await)
            }
            Method::CloseSession => {
                let request: CloseSessionRequest = call.request()?;
                done(detached(async move { self.end_session(request.session).await }).await)
            }
            Method::Mutate => {
                let request = call.request()?;
                reply(detached(self.mutate(request, deadline)).await)
            }
            Method::TruncateFile => {
                let request: TruncateFileRequest = call.request()?;
                let attr = detached(async move { self.truncate_file(request, deadline).await }).await?;
                Ok(Reply::new(&curvine_proto::GetAttrReply { attr: Some(attr), leases: Vec::new() }))
            }
            Method::Open => {
                let request = call.request()?;
                reply(detached(async move { self.open(request, deadline).await }).await)
            }
            Method::Close => {
                let request = call.request()?;
                done(detached(async move { self.close(request, deadline).await }).await)
            }
            Method::PlaceForWrite => {
                let request: curvine_proto::PlaceForWriteRequest = call.request()?;
                let curvine_proto::PlaceForWriteRequest { session, inode, worker } = request;
                self.sessions.check(session)?;
                let leader = self.clone();
                detached(async move { leader.place_for_write(session, inode, worker, deadline).await }).await?;
                let request = curvine_proto::GetLayoutRequest { session, inode };
                reply(self.get_layout(request, deadline).await)
            }

            Method::Lookup => {
                let request = call.request()?;
                reply(detached(async move { self.lookup(request, deadline).await }).await)
            }
            Method::GetAttr => reply(self.get_attr(call.request()?, deadline).await),
            Method::ReadDir => {
                let request = call.request()?;
                reply(detached(async move { self.read_dir(request, deadline).await }).await)
            }
            Method::ReadLink => reply(self.read_link(call.request()?)),
            Method::GetXattr => reply(self.get_xattr(call.request()?)),
            Method::ListXattr => reply(self.list_xattr(call.request()?)),
            Method::StatFs => Ok(Reply::new(&self.stat_fs(&call.request()?))),
            Method::ListPins => Ok(Reply::new(&self.list_pins())),
            Method::WhichPinned => {
                only_workers(&call.peer)?;
                Ok(Reply::new(&self.which_pinned(&call.request()?)))
            }
            Method::ListTtls => Ok(Reply::new(&self.list_ttls(&call.request()?))),
            Method::ListTrash => reply(self.list_trash(call.request()?)),
            method @ (Method::RestoreTrash | Method::EmptyTrash) => {
                let request = call.request()?;
                let empty = method == Method::EmptyTrash;
                reply(detached(async move { self.change_trash(request, empty, deadline).await }).await)
            }
            Method::ListQuotas => Ok(Reply::new(&self.list_quotas(&call.request()?))),
            Method::GetLock => reply(self.get_lock(call.request()?)),
            Method::GetLayout => reply(self.get_layout(call.request()?, deadline).await),
            Method::ListWorkers => Ok(Reply::new(&self.list_workers())),
            Method::MountTable => Ok(Reply::new(&self.mount_table())),
            Method::Report => Ok(Reply::new(&self.report())),

            Method::CheckNamespace => reply(self.check_namespace().await),
            Method::TakeSnapshot => done(detached(async move { self.replica.snapshot_now().await }).await),
            Method::ListPlaced => Ok(Reply::new(&self.list_placed(call.request()?))),

            Method::RegisterWorker => {
                only_workers(&call.peer)?;
                let request = call.request()?;
                reply(detached(async move { self.register_worker(request).await }).await)
            }
            Method::WorkerHeartbeat => {
                only_workers(&call.peer)?;
                Ok(Reply::new(&self.worker_heartbeat(call.request()?)))
            }
            Method::DrainWorker => {
                only_workers(&call.peer)?;
                let request = call.request()?;
                reply(detached(async move { self.drain_worker(request).await }).await)
            }
            Method::Inventory => {
                only_workers(&call.peer)?;
                Ok(Reply::new(&self.inventory(call.request()?)))
            }
            Method::ResolveContent => {
                only_workers(&call.peer)?;
                reply(self.resolve_content(call.request()?))
            }
            Method::ResolveMount => {
                only_workers(&call.peer)?;
                reply(self.resolve_mount(call.request()?))
            }
            Method::FlushToStore => {
                let request = call.request()?;
                reply(detached(async move { self.flush_to_store(request, deadline).await }).await)
            }
            Method::ListJobs => Ok(Reply::new(&self.list_jobs(call.request()?))),
            Method::CheckMount => reply(Box::pin(self.check_mount(call.request()?, deadline)).await),
            Method::CheckKeys => reply(Box::pin(self.check_keys(call.request()?, deadline)).await),
            Method::GetJob => reply(self.get_job(call.request()?, deadline).await),
            Method::NoteUpload => {
                only_workers(&call.peer)?;
                let request = call.request()?;
                done(detached(async move { self.note_upload(request, deadline).await }).await)
            }
            Method::ReportChanged => {
                only_workers(&call.peer)?;
                let request = call.request()?;
                done(detached(async move { self.report_changed(request, deadline).await }).await)
            }
            other => {
                Err(Error::new(ErrorKind::NotSupported, "a master does not have this method")
                    .with("name", other.name()))
            }
        }
    }
}

/// Methods that must see everything acknowledged before.
fn is_read(method: Method) -> bool {
    matches!(
        method,
        Method::Lookup
            | Method::GetAttr
            | Method::ReadDir
            | Method::ReadLink
            | Method::GetXattr
            | Method::ListXattr
            | Method::GetLock
            | Method::GetLayout
            | Method::ListJobs
            | Method::GetJob
            | Method::CheckMount
            | Method::CheckKeys
            | Method::Open
            | Method::MountTable
            | Method::ResolveContent
            | Method::CheckNamespace
            | Method::ListPlaced
    )
}
