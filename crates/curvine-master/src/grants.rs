//! Leases with replies, opens and write grants: what a session may cache and write.

use curvine_namespace::Grant;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    Attr, CloseRequest, DataMode, DirEntry, DropOrphan, GetLayoutReply, GetLayoutRequest, GrantWrite, Lease, OpenReply,
    OpenRequest, ReleaseWrite,
};
use curvine_raft::Hurry;
use curvine_types::{ErrorKind, InodeId, Result, SessionId};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::leader::Leader;
use crate::permission::{self, Want};

/// Closes of one request that are under way at once.
const CLOSES_AT_ONCE: usize = 256;

/// What the writers of a file allow a session.
pub(crate) fn data_mode(session: SessionId, attr: &Attr, grant: Option<&Grant>) -> DataMode {
    match grant.map(|grant| grant.writers.as_slice()).unwrap_or_default() {
        [] if attr.live => DataMode::WriteShared,
        [] => DataMode::ReadShared,
        [only] if *only == session => DataMode::WriteExclusive,
        _ => DataMode::WriteShared,
    }
}

impl Leader {
    /// Registers a lease; the state that it covers must be read afterwards and be given to `keep_lease`.
    pub(crate) fn begin_lease(&self, session: SessionId, inode: InodeId) -> Option<Lease> {
        if self.sessions.may_lease(session) { self.coherence.grant(session, inode) } else { None }
    }

    /// The lease, if the state that was read after its registration allows it.
    pub(crate) fn keep_lease(
        &self,
        session: SessionId,
        lease: Option<Lease>,
        attr: &Attr,
        grant: Option<&Grant>,
    ) -> Option<Lease> {
        let mut lease = lease?;
        let allowed = data_mode(session, attr, grant) != DataMode::WriteShared;
        let valid =
            if attr.mount == 0 { Some(0) } else { self.ufs.valid_ms(attr).or_else(|| self.dirty_valid_ms(attr)) };
        match valid {
            Some(valid_ms) if allowed => {
                lease.valid_ms = valid_ms;
                Some(lease)
            }
            _ => {
                self.coherence.revoke(session, &lease);
                None
            }
        }
    }

    /// Attributes and lease of an inode, in the order that makes the lease true.
    pub(crate) fn leased_attr(&self, session: SessionId, inode: InodeId) -> Result<(Attr, Option<Lease>)> {
        let lease = self.begin_lease(session, inode);
        let (attr, grant) = {
            let state = self.replica.state().read();
            (state.0.attr(inode), state.0.grant(inode))
        };
        self.settle_lease(session, lease, attr.map(|attr| (attr, grant)))
    }

    /// The lease goes with the state that was read after its registration, or back if there is none.
    fn settle_lease(
        &self,
        session: SessionId,
        lease: Option<Lease>,
        now: Result<(Attr, Option<Grant>)>,
    ) -> Result<(Attr, Option<Lease>)> {
        match now {
            Ok((attr, grant)) => {
                let lease = self.keep_lease(session, lease, &attr, grant.as_ref());
                Ok((attr, lease))
            }
            Err(error) => {
                if let Some(lease) = lease {
                    self.coherence.revoke(session, &lease);
                }
                Err(error)
            }
        }
    }

    /// As `leased_attr`, for a page of a listing. An inode that is gone meanwhile is listed as it was: its name may be another
    /// one's by now, and must not be missing.
    pub(crate) fn leased_entries(
        &self,
        session: SessionId,
        entries: Vec<DirEntry>,
    ) -> Vec<(DirEntry, Attr, Option<Lease>)> {
        let entries = entries.into_iter().filter_map(|mut entry| Some((entry.attr.take()?, entry)));
        let (seen, entries): (Vec<Attr>, Vec<DirEntry>) = entries.unzip();
        let leases = match self.sessions.may_lease(session) {
            true => self.coherence.grant_all(session, seen.iter().map(|attr| attr.inode)),
            false => vec![None; seen.len()],
        };
        let now: Vec<_> = {
            let state = self.replica.state().read();
            let now = |attr: &Attr| state.0.attr(attr.inode).map(|attr| (attr, state.0.grant(attr.inode)));
            seen.iter().map(now).collect()
        };
        let settled = leases.into_iter().zip(now).map(|(lease, now)| self.settle_lease(session, lease, now));
        let listed = entries.into_iter().zip(seen).zip(settled);
        listed
            .map(|((entry, seen), settled)| match settled {
                Ok((attr, lease)) => (entry, attr, lease),
                Err(_) => (entry, seen, None),
            })
            .collect()
    }

    /// Opens a file for a session.
    pub(crate) async fn open(&self, request: OpenRequest, deadline: Instant) -> Result<OpenReply> {
        let OpenRequest { session, inode, write, .. } = request;
        self.sessions.check(session)?;
        self.coherence.open(session, inode, write, deadline).await?;
        let opened = self.open_counted(&request, deadline).await;
        if opened.is_err() {
            self.close_one(session, inode, write, deadline).await;
        }
        opened
    }

    async fn open_counted(&self, request: &OpenRequest, deadline: Instant) -> Result<OpenReply> {
        let OpenRequest { session, inode, write, .. } = *request;
        let attr = self.replica.state().read().0.attr(inode)?;
        let want = Want { read: request.read, write, execute: false };
        permission::check(self, session, request.caller.as_ref(), &attr, want)?;
        if attr.mount != 0 {
            self.revalidate_file(&attr, deadline).await?;
        }
        if write {
            self.grant_write(session, inode, deadline).await?;
        }
        let lease = self.begin_lease(session, inode);
        let (attr, layout, grant) = {
            let state = self.replica.state().read();
            (state.0.attr(inode)?, state.0.layout(inode, true)?, state.0.grant(inode))
        };
        let mode = data_mode(session, &attr, grant.as_ref());
        let leases = self.keep_lease(session, lease, &attr, grant.as_ref()).into_iter().collect();
        let attr = self.fresh_attr(attr, deadline).await?;
        let epoch = grant.map_or(0, |grant| grant.epoch);
        Ok(OpenReply { attr: Some(attr), layout: Some(layout), mode: mode as i32, epoch, leases })
    }

    /// A session that writes has the file open, even if a close that was sent twice made the count say otherwise.
    pub(crate) async fn ensure_writer(&self, session: SessionId, inode: InodeId, deadline: Instant) -> Result<()> {
        if !self.coherence.is_open(session, inode).writers {
            self.coherence.open(session, inode, true, deadline).await?;
        }
        self.grant_write(session, inode, deadline).await
    }

    /// The session becomes a writer of the file, which ends the leases of all others.
    async fn grant_write(&self, session: SessionId, inode: InodeId, deadline: Instant) -> Result<()> {
        let is_writer = || {
            let grant = self.replica.state().read().0.grant(inode);
            grant.is_some_and(|grant| grant.writers.contains(&session))
        };
        loop {
            // Recalled before the lock is taken: the holder may have to finish a write first that needs the lock.
            let change = match is_writer() {
                true => None,
                false => Some(self.begin_change(session, &[inode], &[], deadline).await?),
            };
            if self.content_locks.is_wanted(inode) {
                // Perhaps an earlier close of the same file, which has time.
                self.replica.hurry();
            }
            let _lock = self.content_locks.lock(inode, deadline).await?;
            if is_writer() {
                return Ok(());
            }
            if change.is_some() {
                return self.propose_for(session, CommandBody::GrantWrite(GrantWrite { inode })).await.map(|_| ());
            }
        }
    }

    /// Ends opens; what remains to be done (write grants, orphans, sealing) is done before the answer.
    pub(crate) async fn close(&self, request: CloseRequest, deadline: Instant) -> Result<()> {
        self.sessions.check(request.session)?;
        let session = request.session;
        // At once, so that they share an entry of the log.
        stream::iter(request.closes)
            .for_each_concurrent(CLOSES_AT_ONCE, |open| self.close_one(session, open.inode, open.write, deadline))
            .await;
        Ok(())
    }

    async fn close_one(&self, session: SessionId, inode: InodeId, write: bool, deadline: Instant) {
        let Some(remaining) = self.coherence.close(session, inode, write) else { return };
        if write && !remaining.writers {
            if let Err(error) = self.release_write(session, inode, deadline).await {
                tracing::warn!(session, inode, %error, "write grant not released; it ends with the session");
            }
            self.seal_later(inode);
        }
        if !remaining.any {
            self.drop_orphan(session, inode).await;
        }
    }

    pub(crate) async fn release_write(&self, session: SessionId, inode: InodeId, deadline: Instant) -> Result<()> {
        let _lock = self.content_locks.lock(inode, deadline).await?;
        if self.coherence.is_open(session, inode).writers {
            return Ok(());
        }
        let body = CommandBody::ReleaseWrite(ReleaseWrite { inode });
        self.propose_in(session, body, Hurry::Soon).await.map(|_| ())
    }

    pub(crate) async fn drop_orphan(&self, session: SessionId, inode: InodeId) {
        let orphan = self.replica.state().read().0.attr(inode).is_ok_and(|attr| attr.nlink == 0);
        if !orphan || self.coherence.is_open(session, inode).any {
            return;
        }
        let body = CommandBody::DropOrphan(DropOrphan { inode, session });
        if let Err(error) = self.propose_for(session, body).await
            && !matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound)
        {
            tracing::warn!(session, inode, %error, "unlinked file not freed; it ends with the session");
        }
    }

    /// The layout as it is now, for a handle whose own one is out of date.
    pub(crate) async fn get_layout(&self, request: GetLayoutRequest, deadline: Instant) -> Result<GetLayoutReply> {
        self.sessions.check(request.session)?;
        let (attr, layout, grant) = {
            let state = self.replica.state().read();
            let inode = request.inode;
            (state.0.attr(inode)?, state.0.layout(inode, true)?, state.0.grant(inode))
        };
        let mode = data_mode(request.session, &attr, grant.as_ref());
        let (attr, _) = self.best_attr(request.session, attr, None, deadline).await;
        let epoch = grant.map_or(0, |grant| grant.epoch);
        let observed_age_ms = self.ufs.age_of(request.inode).map(|age| age.as_millis() as u64);
        Ok(GetLayoutReply { attr: Some(attr), layout: Some(layout), epoch, mode: mode as i32, observed_age_ms })
    }
}
