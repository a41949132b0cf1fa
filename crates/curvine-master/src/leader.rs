//! One leadership: the replicated state together with the soft state that is made anew for each leader, and the work in its background.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{ContentId, DeleteContentRequest, Empty, ExpireSession, ForgetGarbage, Garbage, Method, Reap};
use curvine_raft::Replica;
use curvine_rpc::Connector;
use curvine_types::{FastSet, InodeId, Result, SessionId, WorkerId};
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::MasterOptions;
use crate::coherence::Coherence;
use crate::drain::Drains;
use crate::keyed::{KeyedGates, KeyedLocks};
use crate::listings::Listings;
use crate::locks::LockWaits;
use crate::mounts::UfsSeen;
use crate::sessions::Sessions;
use crate::state::MetaState;
use crate::tasks::Tasks;
use crate::uploads::Uploads;
use crate::workers::Workers;

/// How often sessions are looked at for expiry.
const EXPIRY_TICK: Duration = Duration::from_millis(200);
/// How often it is looked whether trees were removed.
const REAP_TICK: Duration = Duration::from_millis(200);
/// Inodes of a removed tree that one command frees.
const REAP_STEPS: u32 = 64;
/// Pause before what failed in the background is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait of one step in the background.
const STEP: Duration = Duration::from_secs(30);
/// Files sealed at once.
const SEALS_AT_ONCE: usize = 32;
/// Contents deleted with one request.
const DELETES_AT_ONCE: usize = 500;

/// What a leader has.
pub struct Leader {
    /// For work that goes on when nobody waits for it any more.
    pub(crate) me: Weak<Leader>,
    pub(crate) options: MasterOptions,
    pub(crate) replica: Replica<MetaState>,
    pub(crate) incarnation: u64,
    pub(crate) coherence: Arc<Coherence>,
    pub(crate) sessions: Sessions,
    pub(crate) workers: Workers,
    pub(crate) lock_waits: LockWaits,
    pub(crate) ufs: UfsSeen,
    /// One look into a directory of an under file system at a time, and none while its names are changed.
    pub(crate) ufs_gates: KeyedGates<InodeId>,
    pub(crate) listings: Listings,
    pub(crate) uploads: Uploads,
    pub(crate) drains: Drains,
    pub(crate) tasks: Tasks,
    /// One operation on the content of a file at a time.
    pub(crate) content_locks: KeyedLocks<InodeId>,
    /// One execution of a client's numbered command at a time: a retry waits for the first attempt.
    pub(crate) command_locks: KeyedLocks<(SessionId, u64)>,
    /// One walk over the whole namespace at a time.
    pub(crate) checks: tokio::sync::Semaphore,
    seals: SealQueue,
    pub(crate) started: Instant,
}

/// Files to be sealed. Bounded by the number of live files.
#[derive(Default)]
struct SealQueue {
    waiting: Mutex<FastSet<InodeId>>,
    added: Notify,
}

impl Leader {
    /// The soft state at the start of a leadership.
    pub(crate) fn new(options: MasterOptions, replica: Replica<MetaState>, connector: Connector) -> Arc<Self> {
        let known: Vec<SessionId> = replica.state().read().0.sessions().into_iter().map(|session| session.id).collect();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            incarnation: replica.incarnation(),
            coherence: Coherence::new(options.lease_limit),
            sessions: Sessions::new(options.lease_time, known),
            workers: Workers::new(connector, options.lease_time),
            lock_waits: LockWaits::default(),
            ufs: UfsSeen::default(),
            ufs_gates: KeyedGates::default(),
            listings: Listings::default(),
            uploads: Uploads::default(),
            drains: Drains::default(),
            tasks: Tasks::default(),
            content_locks: KeyedLocks::default(),
            command_locks: KeyedLocks::default(),
            checks: tokio::sync::Semaphore::new(1),
            seals: SealQueue::default(),
            started: Instant::now(),
            replica,
            options,
        })
    }

    /// The work in the background, begun before anybody is served; dropped with the leadership.
    pub(crate) fn spawn_background(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        self.take_tree_moves_over(&mut tasks);
        tasks.spawn(self.clone().expire_sessions());
        tasks.spawn(self.clone().seal_files());
        tasks.spawn(self.clone().delete_garbage());
        tasks.spawn(self.clone().reap_trees());
        tasks.spawn(self.clone().upload_files());
        tasks.spawn(self.clone().drain_workers());
        tasks.spawn(self.clone().run_tasks());
        tasks.spawn(self.clone().keep_quotas());
        tasks.spawn(self.clone().empty_trash_in_time());
        tasks.spawn(self.clone().keep_ttls());
        tasks
    }

    /// The file may be ready to be sealed.
    pub(crate) fn seal_later(&self, inode: InodeId) {
        self.seals.waiting.lock().insert(inode);
        self.seals.added.notify_one();
    }

    /// Files waiting to be sealed.
    pub(crate) fn seals_waiting(&self) -> usize {
        self.seals.waiting.lock().len()
    }

    async fn expire_sessions(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EXPIRY_TICK).await;
            let overdue = self.sessions.overdue();
            for session in &overdue {
                tracing::info!(session, "session expired: nothing heard for its lease time");
            }
            // And those whose end was begun, by an earlier leader for example.
            let ending = self.replica.state().read().0.ending_sessions();
            for session in overdue.into_iter().chain(ending) {
                if let Err(error) = self.end_session(session).await {
                    tracing::warn!(session, %error, "session not expired in the log yet");
                }
            }
        }
    }

    /// Has the inodes of removed trees freed, a few a time, so that everybody else's commands come in between.
    async fn reap_trees(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REAP_TICK).await;
            while self.replica.state().read().0.counts().doomed > 0 {
                if let Err(error) = self.propose_for(0, CommandBody::Reap(Reap { steps: REAP_STEPS })).await {
                    tracing::debug!(%error, "removed trees not freed yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Ends a session: in the log, then its soft state; its files are fenced or sealed.
    pub(crate) async fn end_session(self: &Arc<Self>, session: SessionId) -> Result<()> {
        let written = self.files_written_by(session);
        while self.propose_for(0, CommandBody::ExpireSession(ExpireSession { session })).await?.more {}
        self.session_is_over(session, written);
        Ok(())
    }

    /// The live files that a session may write.
    pub(crate) fn files_written_by(&self, session: SessionId) -> Vec<InodeId> {
        const PAGE: usize = 1000;
        let (mut written, mut after) = (Vec::new(), 0);
        loop {
            let state = self.replica.state().read();
            let page = state.0.live_inodes(after, PAGE);
            let writes = |inode: &InodeId| state.0.grant(*inode).is_some_and(|grant| grant.writers.contains(&session));
            written.extend(page.iter().copied().filter(writes));
            match page.last() {
                Some(last) if page.len() == PAGE => after = *last,
                _ => return written,
            }
        }
    }

    /// Follows the end of a session in the log.
    pub(crate) fn session_is_over(self: &Arc<Self>, session: SessionId, written: Vec<InodeId>) {
        self.sessions.remove(session);
        self.coherence.forget(session);
        self.lock_waits.something_dropped();
        let leader = self.clone();
        tokio::spawn(async move {
            for inode in written {
                // Also if nobody else writes now: whoever waited for the end of this session may be the next one.
                if let Err(error) = leader.fence_writers(inode, session, Instant::now() + STEP).await {
                    tracing::warn!(inode, %error, "an expired writer is not fenced by epoch yet");
                }
                leader.seal_later(inode);
            }
        });
    }

    async fn seal_files(self: Arc<Self>) {
        const PAGE: usize = 1000;
        let mut after = 0;
        loop {
            let page = self.replica.state().read().0.live_inodes(after, PAGE);
            self.seals.waiting.lock().extend(&page);
            match page.last() {
                Some(last) if page.len() == PAGE => after = *last,
                _ => break,
            }
        }
        loop {
            let batch: Vec<InodeId> = std::mem::take(&mut *self.seals.waiting.lock()).into_iter().collect();
            if batch.is_empty() {
                self.seals.added.notified().await;
                continue;
            }
            let seal = |inode| {
                let leader = self.clone();
                async move { (inode, leader.seal(inode, Instant::now() + STEP).await) }
            };
            let mut results = stream::iter(batch).map(seal).buffer_unordered(SEALS_AT_ONCE);
            let mut failed = Vec::new();
            while let Some((inode, result)) = results.next().await {
                if let Err(error) = result {
                    tracing::debug!(inode, %error, "file not sealed yet");
                    failed.push(inode);
                }
            }
            if !failed.is_empty() {
                self.seals.waiting.lock().extend(failed);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn delete_garbage(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RETRY).await;
            while let Ok(true) = self.delete_some_garbage().await {}
        }
    }

    /// Should the content come back to the worker before it is deleted there, it has a later version and stays.
    fn garbage_content(&self, item: &Garbage) -> ContentId {
        let placed = self.replica.state().read().0.placed(item.inode);
        let current = placed.filter(|placed| placed.generation == item.generation);
        let version = current.map_or(0, |placed| placed.version.saturating_sub(1));
        ContentId { inode: item.inode, generation: item.generation, version }
    }

    /// Has the workers delete contents that no inode has any more. `Ok(true)`: something was done.
    async fn delete_some_garbage(&self) -> Result<bool> {
        let garbage = self.replica.state().read().0.garbage(DELETES_AT_ONCE * 8);
        let mut workers: Vec<WorkerId> = garbage.iter().map(|item| item.worker).collect();
        workers.sort_unstable();
        workers.dedup();
        let mut done = false;
        for worker in workers {
            let mine: Vec<&Garbage> =
                garbage.iter().filter(|item| item.worker == worker).take(DELETES_AT_ONCE).collect();
            let request =
                DeleteContentRequest { contents: mine.iter().map(|item| self.garbage_content(item)).collect() };
            let deadline = Instant::now() + STEP;
            let deleted: Result<Empty> =
                self.workers.call(worker, Method::DeleteContent, &request, Bytes::new(), deadline).await;
            if let Err(error) = deleted {
                tracing::debug!(worker, %error, "garbage not deleted yet");
                continue;
            }
            let items = mine.into_iter().copied().collect();
            self.internal(CommandBody::ForgetGarbage(ForgetGarbage { items }), deadline).await?;
            done = true;
        }
        Ok(done)
    }
}
