//! Sessions and workers coming, renewing and going, and what workers ask of the master.

use std::sync::Arc;

use curvine_namespace::{Wanted, WorkerRecord};
use curvine_proto::command::Body as CommandBody;
use curvine_proto::layout::Kind;
use curvine_proto::{
    ContentId, DeclareRequest, DirtyContent, HeartbeatReply, HeartbeatRequest, InventoryReply, InventoryRequest,
    ListPinsReply, ListWorkersReply, MountInfo, MountTableReply, OpenSessionReply, OpenSessionRequest, PinInfo,
    RegisterWorker, RegisterWorkerReply, RegisterWorkerRequest, ReportChangedRequest, ResolveContentReply,
    ResolveContentRequest, ResolveMountReply, ResolveMountRequest, UfsChanged, WhichPinnedReply, WhichPinnedRequest,
    WorkerHeartbeatReply, WorkerHeartbeatRequest, WorkerState,
};
use curvine_rpc::Peer;
use curvine_types::{Error, ErrorKind, Result, SessionId};
use tokio::time::Instant;

use crate::leader::Leader;
use crate::workers::Announcement;

/// Inodes of one question for pins.
const PINS_ASKED: usize = 4096;

impl Leader {
    pub(crate) async fn open_session(
        self: Arc<Self>,
        request: OpenSessionRequest,
        peer: Peer,
    ) -> Result<OpenSessionReply> {
        let open = request.session.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "no session was described"))?;
        let replaced: Vec<SessionId> = if open.replace {
            let sessions = self.replica.state().read().0.sessions();
            sessions.into_iter().filter(|session| session.client == open.client).map(|session| session.id).collect()
        } else {
            Vec::new()
        };
        for earlier in replaced {
            self.end_session(earlier).await?;
        }
        let session = self.propose_for(0, CommandBody::OpenSession(open)).await?.id;
        self.sessions.opened(session, peer);
        let cluster = self.replica.state().read().0.cluster().unwrap_or_default();
        Ok(OpenSessionReply {
            session,
            lease_ms: self.sessions.lease().as_millis() as u64,
            cluster: cluster.0.to_vec().into(),
            incarnation: self.incarnation,
            block_size: self.options.block_size,
        })
    }

    pub(crate) async fn heartbeat(&self, request: HeartbeatRequest, peer: &Peer) -> Result<HeartbeatReply> {
        let declared = self.sessions.heard(request.session, peer)?;
        self.coherence.dropped(request.session, &request.dropped_leases).await;
        Ok(HeartbeatReply {
            lease_ms: self.sessions.lease().as_millis() as u64,
            incarnation: self.incarnation,
            declare: !declared || request.incarnation != self.incarnation,
        })
    }

    /// The session has given up its leases and has exactly these opens; what else the log has of it ends.
    pub(crate) async fn declare(self: Arc<Self>, request: DeclareRequest, peer: Peer, deadline: Instant) -> Result<()> {
        let session = request.session;
        self.sessions.heard(session, &peer)?;
        // Leases are soft: only the leader that granted them can go on recalling them.
        let keeps = request.keep_leases && request.incarnation == self.incarnation;
        if !keeps {
            self.coherence.drop_all_leases(session);
        }
        self.coherence.declare(session, &request.opens);
        self.sessions.declared(session, !keeps);
        let orphans = self.replica.state().read().0.orphans_of(session);
        for inode in orphans {
            self.drop_orphan(session, inode).await;
        }
        for inode in self.files_written_by(session) {
            if !self.coherence.is_open(session, inode).writers {
                self.release_write(session, inode, deadline).await?;
                self.seal_later(inode);
            }
        }
        Ok(())
    }

    /// A worker has (re)started: it gets its number.
    pub(crate) async fn register_worker(&self, request: RegisterWorkerRequest) -> Result<RegisterWorkerReply> {
        let RegisterWorkerRequest { uuid, hostname, rpc_port, socket, tiers, software, web_port, node, leaving } =
            request;
        let known = self.replica.state().read().0.workers();
        let same = |record: &&WorkerRecord| {
            record.uuid[..] == uuid[..]
                && record.hostname == hostname
                && record.rpc_port == rpc_port
                && record.socket == socket
        };
        let id = match known.iter().find(same) {
            Some(record) => record.id,
            None => {
                let register = RegisterWorker { uuid, hostname, rpc_port, socket };
                self.propose_for(0, CommandBody::RegisterWorker(register)).await?.id
            }
        };
        if !leaving {
            self.back_in_service(id).await?;
        }
        let (record, cluster) = {
            let state = self.replica.state().read();
            (state.0.worker(id), state.0.cluster().unwrap_or_default())
        };
        let record = record.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a registered worker is not in the namespace").with("worker", id)
        })?;
        tracing::info!(worker = id, hostname = record.hostname, port = record.rpc_port, "worker registered");
        let in_service = record.state == WorkerState::InService;
        self.workers.registered(record, Announcement { tiers, software, web_port, node });
        if !in_service {
            self.drains.again();
        }
        Ok(RegisterWorkerReply {
            worker: id,
            cluster: cluster.0.to_vec().into(),
            lease_ms: self.workers.lease().as_millis() as u64,
        })
    }

    pub(crate) fn worker_heartbeat(&self, request: WorkerHeartbeatRequest) -> WorkerHeartbeatReply {
        let known = self.workers.heard(request.worker, request.tiers, request.stats);
        let pins_change = self.replica.state().read().0.pins_change();
        WorkerHeartbeatReply { lease_ms: self.workers.lease().as_millis() as u64, register: !known, pins_change }
    }

    /// Names what of an inventory nobody needs. What the log still has a place for is never named.
    pub(crate) fn inventory(&self, request: InventoryRequest) -> InventoryReply {
        let state = self.replica.state().read();
        let wanted = |content: &ContentId| state.0.content_wanted(content.inode, content.generation, request.worker);
        let wanted: Vec<Wanted> = request.contents.iter().map(wanted).collect();
        let judged = || request.contents.iter().zip(&wanted);
        // A younger content may be about to enter the log: it was placed and not yet committed.
        let is_older = |content: &ContentId| {
            state.0.layout(content.inode, false).map_or(true, |layout| layout.generation > content.generation)
        };
        let delete = judged().filter(|(content, wanted)| **wanted == Wanted::No && is_older(content));
        let delete = delete.map(|(content, _)| *content).collect();
        // The store has it, but the worker was not told, or has forgotten, that it is a copy.
        let release = judged().filter(|(content, wanted)| content.version != 0 && **wanted == Wanted::Cached);
        let release = release.map(|(content, _)| *content).collect();
        let dirty = |content: &ContentId| {
            let job = state.0.upload_of(content.inode)?;
            let is_it = state.0.layout(content.inode, false).is_ok_and(|now| now.generation == content.generation);
            is_it.then_some(DirtyContent { content: Some(*content), mount: job.mount })
        };
        let dirty = request.contents.iter().filter_map(dirty).collect();
        InventoryReply { delete, release, dirty }
    }

    pub(crate) fn resolve_content(&self, request: ResolveContentRequest) -> Result<ResolveContentReply> {
        let state = self.replica.state().read();
        let layout = state.0.layout(request.inode, false)?;
        let Some(Kind::Ufs(ufs)) = layout.kind else {
            return Err(Error::new(ErrorKind::VersionMismatch, "the content is not of an under file system")
                .with("inode", request.inode));
        };
        if layout.generation != request.generation {
            return Err(Error::new(ErrorKind::VersionMismatch, "the file has another generation")
                .with("inode", request.inode)
                .with("have", layout.generation)
                .with("want", request.generation));
        }
        let mount = state.0.mount(ufs.mount);
        let mount = mount.ok_or_else(|| Error::new(ErrorKind::Stale, "unmounted").with("mount", ufs.mount))?;
        let pinned = state.0.is_pinned(request.inode);
        Ok(ResolveContentReply { ufs: Some(ufs), mount_change: mount.change, pinned })
    }

    pub(crate) fn which_pinned(&self, request: &WhichPinnedRequest) -> WhichPinnedReply {
        let state = self.replica.state().read();
        let inodes = request.inodes.iter().take(PINS_ASKED).copied();
        WhichPinnedReply { pinned: inodes.filter(|inode| state.0.is_pinned(*inode)).collect() }
    }

    pub(crate) fn list_pins(&self) -> ListPinsReply {
        let pins = self.replica.state().read().0.pins();
        ListPinsReply { pins: pins.into_iter().map(|(inode, path)| PinInfo { inode, path: path.into() }).collect() }
    }

    pub(crate) fn resolve_mount(&self, request: ResolveMountRequest) -> Result<ResolveMountReply> {
        let mount = self.replica.state().read().0.mount(request.mount);
        let mount = mount
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such mount").with("mount", request.mount))?;
        Ok(ResolveMountReply { mount: Some(mount) })
    }

    pub(crate) async fn report_changed(&self, request: ReportChangedRequest, deadline: Instant) -> Result<()> {
        let ReportChangedRequest { inode, generation, gone, entry } = request;
        self.ufs_changed(UfsChanged { inode, generation, gone, entry }, deadline).await
    }

    pub(crate) fn list_workers(&self) -> ListWorkersReply {
        let records = self.replica.state().read().0.workers();
        let mut workers = self.workers.list(records);
        for info in workers.iter_mut().filter(|info| info.state() != WorkerState::InService) {
            let progress = self.drains.progress(info.id);
            info.emptied = progress.is_done();
            (info.left_files, info.left_bytes, info.left_error) =
                (progress.left_files, progress.left_bytes, progress.error);
        }
        ListWorkersReply { workers }
    }

    /// The mount table, without secrets.
    pub(crate) fn mount_table(&self) -> MountTableReply {
        let mounts = self.replica.state().read().0.mounts();
        let without_secrets = |mount: MountInfo| MountInfo { secrets: Default::default(), ..mount };
        MountTableReply { mounts: mounts.into_iter().map(without_secrets).collect() }
    }
}
