//! Files whose bytes are on workers: placing, opening for changes, truncating, sealing, and asking for what only the primary worker knows.
//!
//! Always: one operation on an inode at a time (`KeyedLocks`).
//! Always: before the log stops naming a content or an epoch, the worker refuses writes to it; so no acknowledged write is lost.

use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::Grant;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::layout::Kind;
use curvine_proto::{
    AdoptObjectRequest, Attr, BlocksLayout, CommitSize, ContentId, DeleteContentRequest, Empty, FileKind, Layout,
    Lease, LiveAttr, LiveAttrReply, Method, MutateReply, OpenContentRequest, PlaceBlocks, PlaceRequest, ProbeReply,
    ProbeRequest, SealRequest, SetAttr, SetLive, SetMtimeRequest, StatRequest, Time, TruncateRequest, UfsAdopt,
};
use curvine_types::limits::{FILE_SIZE_MAX, INLINE_MAX};
use curvine_types::{Error, ErrorKind, GrantEpoch, InodeId, Result, SessionId, WorkerId};
use tokio::time::Instant;

use crate::drain::SealedContent;
use crate::leader::Leader;

/// Attempts of a step that a concurrent change may have to repeat.
const ATTEMPTS: usize = 8;
/// How long the master waits for a worker on behalf of a name look-up, which can do without.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before a worker is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a file with blocks is written.
struct Primary {
    worker: WorkerId,
    content: ContentId,
    live: bool,
}

fn primary(inode: InodeId, generation: u64, blocks: &BlocksLayout) -> Result<Primary> {
    let extent = blocks.extents.first();
    let worker = extent.and_then(|extent| extent.workers.first());
    let (Some(extent), Some(worker)) = (extent, worker) else {
        return Err(Error::new(ErrorKind::Internal, "a layout of blocks has no worker").with("inode", inode));
    };
    let content = ContentId { inode, generation, version: extent.version };
    Ok(Primary { worker: *worker, content, live: blocks.live })
}

impl Leader {
    fn layout_of(&self, inode: InodeId) -> Result<(Attr, Layout, Option<Grant>)> {
        let state = self.replica.state().read();
        Ok((state.0.attr(inode)?, state.0.layout(inode, true)?, state.0.grant(inode)))
    }

    fn primary_of(&self, inode: InodeId) -> Result<Option<Primary>> {
        let layout = {
            let state = self.replica.state().read();
            if state.0.attr(inode)?.kind() != FileKind::File {
                return Ok(None);
            }
            state.0.layout(inode, false)?
        };
        match &layout.kind {
            Some(Kind::Blocks(blocks)) => primary(inode, layout.generation, blocks).map(Some),
            _ => Ok(None),
        }
    }

    /// The content of a file that rests on a worker; `None` if it is live, or elsewhere.
    pub(crate) fn sealed_content(&self, inode: InodeId) -> Result<Option<SealedContent>> {
        let (attr, layout, grant) = match self.layout_of(inode) {
            Err(error) if error.kind() == ErrorKind::Stale => return Ok(Some(SealedContent::nowhere())),
            found => found?,
        };
        let Some(Kind::Blocks(blocks)) = &layout.kind else { return Ok(Some(SealedContent::nowhere())) };
        let Primary { worker, content, live } = primary(inode, layout.generation, blocks)?;
        let (epoch, writers) = grant.map_or((0, false), |grant| (grant.epoch, !grant.writers.is_empty()));
        let found = SealedContent { worker, content, epoch, size: attr.size, mtime: attr.mtime, writers };
        Ok(Some(found).filter(|_| !live))
    }

    /// The attributes as they are now: size and times of a live file come from its primary worker.
    pub(crate) async fn fresh_attr(&self, attr: Attr, deadline: Instant) -> Result<Attr> {
        if !attr.live {
            return Ok(attr);
        }
        let inode = attr.inode;
        let Some(primary) = self.primary_of(inode)? else { return self.replica.state().read().0.attr(inode) };
        if !primary.live {
            return self.replica.state().read().0.attr(inode);
        }
        let request = StatRequest { content: Some(primary.content) };
        let live: Result<LiveAttrReply> =
            self.workers.call(primary.worker, Method::Stat, &request, Bytes::new(), deadline).await;
        match live {
            Ok(reply) => Ok(with_live(attr, reply.attr)),
            // It was sealed, truncated or deleted while we asked.
            Err(error) if error.kind() == ErrorKind::VersionMismatch => self.replica.state().read().0.attr(inode),
            Err(error) => Err(error),
        }
    }

    /// As `fresh_attr`, but what the log says if the worker does not answer soon, for what must be found in any case; then without
    /// the lease, because nobody may believe that.
    pub(crate) async fn best_attr(
        &self,
        session: SessionId,
        attr: Attr,
        lease: Option<Lease>,
        deadline: Instant,
    ) -> (Attr, Option<Lease>) {
        let soon = deadline.min(Instant::now() + PATIENCE);
        match self.fresh_attr(attr, soon).await {
            Ok(attr) => (attr, lease),
            Err(error) => {
                tracing::debug!(inode = attr.inode, %error, "size of a live file not known");
                if let Some(lease) = lease {
                    self.coherence.revoke(session, &lease);
                }
                (attr, None)
            }
        }
    }

    /// An outcome has what the log says: of live files the size and times come from their workers.
    pub(crate) async fn freshen(&self, session: SessionId, reply: &mut MutateReply, deadline: Instant) {
        let Some(outcome) = &mut reply.outcome else { return };
        for attr in [&mut outcome.attr, &mut outcome.target].into_iter().flatten().filter(|attr| attr.live) {
            let lease = reply.leases.iter().position(|lease| lease.inode == attr.inode);
            let lease = lease.map(|position| reply.leases.swap_remove(position));
            let (fresh, lease) = self.best_attr(session, *attr, lease, deadline).await;
            *attr = fresh;
            reply.leases.extend(lease);
        }
    }

    /// Makes the file a live one on a primary worker, so that the session can write it there.
    pub(crate) async fn place_for_write(
        &self,
        session: SessionId,
        inode: InodeId,
        preferred: WorkerId,
        deadline: Instant,
    ) -> Result<()> {
        let _pass = self.pass_to_write(inode, deadline).await?;
        self.ensure_writer(session, inode, deadline).await?;
        let _lock = self.content_locks.lock(inode, deadline).await?;
        {
            let state = self.replica.state().read();
            let again = matches!(state.0.layout(inode, false)?.kind, Some(Kind::Blocks(_)));
            state.0.quota_room(inode, again)?;
        }
        self.make_live(inode, preferred, 0, deadline).await.map(|_| ())
    }

    /// Under the inode's lock. Returns the primary and the epoch that it accepts. `revoked`: a session that is over, or 0.
    async fn make_live(
        &self,
        inode: InodeId,
        preferred: WorkerId,
        revoked: SessionId,
        deadline: Instant,
    ) -> Result<(Primary, GrantEpoch)> {
        let mut placed_before: Option<(WorkerId, ContentId)> = None;
        let mut was_sealed = false;
        for _ in 0..ATTEMPTS {
            let (attr, layout, grant) = self.layout_of(inode)?;
            let epoch = grant.map_or(1, |grant| grant.epoch.max(1));
            match layout.kind {
                Some(Kind::Ufs(_)) => {
                    self.replica.state().read().0.check_writable(inode)?;
                    self.adopt(&attr, epoch, preferred, deadline).await?;
                }
                Some(Kind::Blocks(blocks)) => {
                    let primary = primary(inode, layout.generation, &blocks)?;
                    if !primary.live {
                        self.end_old_copies(inode, layout.generation, primary.worker, deadline).await?;
                        self.internal(CommandBody::SetLive(SetLive { inode, fence: true }), deadline).await?;
                        was_sealed = true;
                        continue;
                    }
                    let request =
                        OpenContentRequest { content: Some(primary.content), epoch, revoked, mount: attr.mount };
                    let opened: Result<Empty> =
                        self.workers.call(primary.worker, Method::OpenContent, &request, Bytes::new(), deadline).await;
                    match opened {
                        Ok(_) => {
                            // While it was sealed an application may have set its time in the log.
                            if let Some(mtime) = attr.mtime.filter(|_| was_sealed) {
                                self.set_live_mtime(inode, mtime, deadline).await?;
                            }
                            return Ok((primary, epoch));
                        }
                        // The worker has been told of a later epoch than reached the log.
                        Err(error) if error.kind() == ErrorKind::VersionMismatch => {
                            self.internal(CommandBody::SetLive(SetLive { inode, fence: true }), deadline).await?;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Some(Kind::Inline(_)) | None => {
                    let data = match layout.kind {
                        Some(Kind::Inline(inline)) => inline.data,
                        _ => Bytes::new(),
                    };
                    if let Some((worker, content)) = placed_before.take() {
                        self.delete_content(worker, vec![content], deadline).await?;
                    }
                    let worker = self.workers.choose(preferred, &self.in_service())?;
                    let content = ContentId { inode, generation: layout.generation, version: 1 };
                    let request = PlaceRequest { content: Some(content), epoch, mtime: attr.mtime, mount: attr.mount };
                    self.workers.call::<_, Empty>(worker, Method::Place, &request, data, deadline).await?;
                    placed_before = Some((worker, content));
                    let body = PlaceBlocks { inode, change: attr.change, worker, block_size: self.options.block_size };
                    match self.internal(CommandBody::PlaceBlocks(body), deadline).await {
                        Ok(_) => placed_before = None,
                        Err(error) if error.kind() == ErrorKind::Conflict => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Err(Error::new(ErrorKind::Overloaded, "the file changes too often to be placed").with("inode", inode))
    }

    pub(crate) async fn delete_content(
        &self,
        worker: WorkerId,
        contents: Vec<ContentId>,
        deadline: Instant,
    ) -> Result<()> {
        let request = DeleteContentRequest { contents };
        self.workers.call::<_, Empty>(worker, Method::DeleteContent, &request, Bytes::new(), deadline).await?;
        Ok(())
    }

    /// Sets the size of a file, whatever its layout. The caller has marked the inode as changing and recalled its leases.
    pub(crate) async fn truncate(
        &self,
        inode: InodeId,
        size: u64,
        kill_privileges: bool,
        preferred: WorkerId,
        deadline: Instant,
    ) -> Result<Attr> {
        if size > FILE_SIZE_MAX {
            return Err(Error::new(ErrorKind::FileTooLarge, "a file has at most 16 TiB").with("length", size));
        }
        let _lock = self.content_locks.lock(inode, deadline).await?;
        let (attr, layout, grant) = self.layout_of(inode)?;
        let inline = matches!(layout.kind, Some(Kind::Inline(_)) | None);
        if size > attr.size {
            self.replica.state().read().0.quota_growth(inode, size)?;
        }
        self.replica.state().read().0.check_writable(inode)?;
        // Who has the local file open by itself sees what is done to that file, not that there is another one.
        let in_place = match &layout.kind {
            Some(Kind::Blocks(blocks)) if size == 0 => {
                self.is_used_locally(&primary(inode, layout.generation, blocks)?, deadline).await?
            }
            _ => false,
        };
        if (size == 0 && !in_place) || (inline && size <= INLINE_MAX as u64) {
            let live = match &layout.kind {
                Some(Kind::Blocks(blocks)) => {
                    Some(primary(inode, layout.generation, blocks)?).filter(|primary| primary.live)
                }
                _ => None,
            };
            if let Some(primary) = &live {
                self.fence_content(primary, grant.map_or(1, |grant| grant.epoch), deadline).await?;
            }
            let body = SetAttr { inode, size: Some(size), kill_privileges, ..Default::default() };
            let attr = self.internal(CommandBody::SetAttr(body), deadline).await?;
            if let Some(primary) = live {
                self.end_reads_of(&primary, deadline).await?;
            }
            self.seal_later(inode);
            return Ok(attr.unwrap_or_default());
        }
        let (primary, epoch) = self.make_live(inode, preferred, 0, deadline).await?;
        let request = TruncateRequest { content: Some(primary.content), epoch, size };
        let reply: LiveAttrReply =
            self.workers.call(primary.worker, Method::Truncate, &request, Bytes::new(), deadline).await?;
        if kill_privileges && attr.mode & 0o6000 != 0 {
            let body = SetAttr { inode, kill_privileges: true, ..Default::default() };
            self.internal(CommandBody::SetAttr(body), deadline).await?;
        }
        let attr = self.replica.state().read().0.attr(inode)?;
        self.seal_later(inode);
        Ok(with_live(attr, reply.attr))
    }

    /// As `is_used_locally`, of a content that rests.
    pub(crate) async fn is_exposed(&self, found: &SealedContent, deadline: Instant) -> Result<bool> {
        let primary = Primary { worker: found.worker, content: found.content, live: false };
        self.is_used_locally(&primary, deadline).await
    }

    /// Whether processes of the worker's machine have the content's file open. If not, none will before the content is dropped.
    async fn is_used_locally(&self, primary: &Primary, deadline: Instant) -> Result<bool> {
        if !self.workers.is_live(primary.worker) {
            // What it exposed is a snapshot by now.
            return Ok(false);
        }
        let request = ProbeRequest { content: Some(primary.content) };
        let probed: Result<ProbeReply> =
            self.workers.call(primary.worker, Method::Probe, &request, Bytes::new(), deadline).await;
        match probed {
            Ok(reply) => Ok(reply.in_use),
            // A worker of an older version gives no descriptors.
            Err(error) if error.kind() == ErrorKind::NotSupported => Ok(false),
            Err(_) if !self.workers.is_live(primary.worker) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The worker refuses writes with the epoch that the writers have. An unreachable one stops by itself when its lease has run out.
    async fn fence_content(&self, primary: &Primary, epoch: GrantEpoch, deadline: Instant) -> Result<()> {
        let request = OpenContentRequest { content: Some(primary.content), epoch: epoch + 1, revoked: 0, mount: 0 };
        let fenced: Result<Empty> =
            self.workers.call(primary.worker, Method::OpenContent, &request, Bytes::new(), deadline).await;
        match fenced {
            Ok(_) => Ok(()),
            // A later epoch is known there, or the content is gone: no writer of ours gets through.
            Err(error) if error.kind() == ErrorKind::VersionMismatch => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Who reads a live file asks its worker only; so the worker forgets the old content before the change is acknowledged.
    async fn end_reads_of(&self, primary: &Primary, deadline: Instant) -> Result<()> {
        self.end_reads_at(primary.worker, primary.content, deadline).await
    }

    /// A worker forgets a content, or may serve nothing of ours any more.
    pub(crate) async fn end_reads_at(&self, worker: WorkerId, content: ContentId, deadline: Instant) -> Result<()> {
        loop {
            let Err(error) = self.delete_content(worker, vec![content], deadline).await else {
                return Ok(());
            };
            // A worker that has not been heard for its lease time serves nothing of ours.
            if !self.workers.is_live(worker) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// An application set the mtime of a live file.
    pub(crate) async fn set_live_mtime(&self, inode: InodeId, mtime: Time, deadline: Instant) -> Result<()> {
        let Some(primary) = self.primary_of(inode)? else { return Ok(()) };
        if !primary.live {
            return Ok(());
        }
        let request = SetMtimeRequest { content: Some(primary.content), mtime: Some(mtime) };
        self.workers
            .call::<_, LiveAttrReply>(primary.worker, Method::SetMtime, &request, Bytes::new(), deadline)
            .await?;
        Ok(())
    }

    /// Fences a writer whose session is over from files that others still write.
    pub(crate) async fn fence_writers(&self, inode: InodeId, over: SessionId, deadline: Instant) -> Result<()> {
        let _lock = self.content_locks.lock(inode, deadline).await?;
        let Some(primary) = self.primary_of(inode)? else { return Ok(()) };
        if primary.live {
            self.internal(CommandBody::SetLive(SetLive { inode, fence: true }), deadline).await?;
            self.make_live(inode, primary.worker, over, deadline).await?;
        }
        Ok(())
    }

    /// The object becomes a live content of a new generation.
    async fn adopt(&self, attr: &Attr, epoch: GrantEpoch, preferred: WorkerId, deadline: Instant) -> Result<()> {
        let (inode, generation) = (attr.inode, attr.generation);
        let worker = self.workers.choose(preferred, &self.in_service())?;
        let content = ContentId { inode, generation: generation + 1, version: 1 };
        let request = AdoptObjectRequest {
            source: Some(ContentId { inode, generation, version: 0 }),
            content: Some(content),
            epoch,
            mtime: attr.mtime,
        };
        let adopted: Result<LiveAttrReply> =
            self.workers.call(worker, Method::AdoptObject, &request, Bytes::new(), deadline).await;
        let live = match adopted {
            Ok(reply) => reply.attr.unwrap_or_default(),
            // The object is another one by now, and the worker has said so.
            Err(error) if error.kind() == ErrorKind::VersionMismatch => return Ok(()),
            Err(error) => return Err(error),
        };
        let body = UfsAdopt {
            inode,
            generation,
            worker,
            block_size: self.options.block_size,
            size: live.size,
            blocks: live.blocks,
        };
        match self.internal(CommandBody::UfsAdopt(body), deadline).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.delete_content(worker, vec![content], deadline).await
            }
            logged => logged.map(|_| ()),
        }
    }

    /// Seals the file if it is live and nobody writes it. `Ok(false)`: there was nothing to do.
    pub(crate) async fn seal(&self, inode: InodeId, deadline: Instant) -> Result<bool> {
        let sealed = self.seal_if(inode, false, deadline).await?;
        self.upload_later(inode);
        Ok(sealed)
    }

    /// As `seal`; `with_writers`: they may go on, which opens the content again.
    pub(crate) async fn seal_if(&self, inode: InodeId, with_writers: bool, deadline: Instant) -> Result<bool> {
        let _lock = self.content_locks.lock(inode, deadline).await?;
        self.seal_locked(inode, with_writers, deadline).await
    }

    /// As `seal_if`, under the inode's lock.
    pub(crate) async fn seal_locked(&self, inode: InodeId, with_writers: bool, deadline: Instant) -> Result<bool> {
        let (attr, layout, grant) = match self.layout_of(inode) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::Stale => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(Kind::Blocks(blocks)) = &layout.kind else { return Ok(false) };
        let primary = primary(inode, layout.generation, blocks)?;
        let epoch = grant.as_ref().map_or(1, |grant| grant.epoch.max(1));
        if !primary.live || !with_writers && grant.is_some_and(|grant| !grant.writers.is_empty()) {
            return Ok(false);
        }
        let reply = self.seal_content(&primary, epoch, deadline).await?;
        let live = reply.attr.unwrap_or_default();
        let body = CommitSize {
            inode,
            generation: layout.generation,
            epoch,
            size: live.size,
            blocks: live.blocks,
            ctime: later(attr.ctime, live.mtime),
            mtime: live.mtime,
            seal: true,
            with_writers,
        };
        match self.internal(CommandBody::CommitSize(body), deadline).await {
            Ok(_) => Ok(true),
            // Somebody opened or truncated it meanwhile; its close will come back here.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Stale) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Leader {
    /// Has the worker seal. What a session that is over still writes by itself is not waited for.
    async fn seal_content(&self, primary: &Primary, epoch: GrantEpoch, deadline: Instant) -> Result<LiveAttrReply> {
        let mut revoked = 0;
        loop {
            let request = SealRequest { content: Some(primary.content), epoch, revoked };
            let sealed = self.workers.call(primary.worker, Method::Seal, &request, Bytes::new(), deadline).await;
            let Err(error) = sealed else { return sealed };
            let writer: Option<SessionId> = error.get("session").and_then(|session| session.parse().ok());
            match writer {
                Some(writer) if writer != revoked && self.sessions.check(writer).is_err() => revoked = writer,
                _ => return Err(error),
            }
        }
    }
}

/// The later of two times.
fn later(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    one.into_iter().chain(other).max_by_key(Time::key)
}

/// The logged attributes with what the primary worker knows better.
pub(crate) fn with_live(mut attr: Attr, live: Option<LiveAttr>) -> Attr {
    if let Some(live) = live {
        attr.size = live.size;
        attr.blocks = live.blocks;
        attr.ctime = later(attr.ctime, live.mtime);
        attr.mtime = live.mtime.or(attr.mtime);
    }
    attr
}
