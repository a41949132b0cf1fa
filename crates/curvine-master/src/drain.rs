//! Moving away what only a worker has that is leaving, by itself or because an operator said so.
//!
//! Always: a content is copied while it is sealed, and the log names the copy only if nothing was written since. Whoever is about
//! to write it again waits until the old copy is gone, so that nobody reads that one any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::PlacedRecord;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    ContentId, DrainWorkerReply, DrainWorkerRequest, LiveAttrReply, Method, MoveBlocks, SetWorkerState,
    TakeContentRequest, Time, WorkerState,
};
use curvine_types::{Error, ErrorKind, Generation, InodeId, Result, WorkerId};
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::leader::Leader;

/// Contents that are looked at between two looks at the namespace.
const PAGE: usize = 512;
/// Contents that move at once.
const MOVES_AT_ONCE: usize = 4;
/// Attempts to move a content that is written meanwhile. In the last ones its writers wait.
const ATTEMPTS: usize = 4;
/// Longest wait for steps that move no data, and slowest copy that is waited for, bytes a second.
const STEP: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 4 << 20;
/// How long an old copy is waited for before it is left to the background.
const FORGET: Duration = Duration::from_secs(2);
/// Between two rounds while something is left.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(8);

/// How far it is with each worker. Bounded by the number of workers.
#[derive(Default)]
pub(crate) struct Drains {
    inner: Mutex<Inner>,
    kick: Notify,
    attempts: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// Counts looks at everything.
    round: u64,
    workers: HashMap<WorkerId, Progress>,
}

#[derive(Clone, Default)]
pub(crate) struct Progress {
    /// The first round that sees all that it has.
    since: u64,
    /// The last round that is finished.
    finished: u64,
    moved_files: u64,
    moved_bytes: u64,
    pub left_files: u64,
    pub left_bytes: u64,
    pub error: String,
}

impl Progress {
    fn is_tried(&self) -> bool {
        self.since > 0 && self.finished >= self.since
    }

    pub fn is_done(&self) -> bool {
        self.is_tried() && self.left_files == 0
    }
}

impl Drains {
    /// A worker is leaving since now.
    fn begin(&self, worker: WorkerId) {
        let mut inner = self.inner.lock();
        let since = inner.round + 1;
        inner.workers.insert(worker, Progress { since, ..Progress::default() });
        self.kick.notify_one();
    }

    /// Something may be possible that was not.
    pub fn again(&self) {
        self.kick.notify_one();
    }

    /// What is known of a worker.
    pub fn progress(&self, worker: WorkerId) -> Progress {
        self.inner.lock().workers.get(&worker).cloned().unwrap_or_default()
    }

    /// A version that no attempt to copy a content has had, of whatever leader: what one left behind is told from what counts.
    fn next_version(&self, incarnation: u64, current: u64) -> u64 {
        const ATTEMPTS_BITS: u32 = 24;
        let attempt = self.attempts.fetch_add(1, Relaxed) & ((1 << ATTEMPTS_BITS) - 1);
        ((incarnation << ATTEMPTS_BITS) + attempt).max(current + 1)
    }

    fn moved_in_all(&self) -> u64 {
        self.inner.lock().workers.values().map(|progress| progress.moved_files).sum()
    }

    fn moved(&self, worker: WorkerId, bytes: u64) {
        if let Some(progress) = self.inner.lock().workers.get_mut(&worker) {
            progress.moved_files += 1;
            progress.moved_bytes += bytes;
        }
    }
}

/// What could not be moved in one round.
#[derive(Clone, Default)]
struct Left {
    files: u64,
    bytes: u64,
    error: String,
}

impl Leader {
    /// The workers that new content may be placed on.
    pub(crate) fn in_service(&self) -> HashSet<WorkerId> {
        let workers = self.replica.state().read().0.workers();
        workers.into_iter().filter(|record| record.state == WorkerState::InService).map(|record| record.id).collect()
    }

    /// The live workers that stay.
    fn staying_workers(&self) -> Vec<WorkerId> {
        let in_service = self.in_service();
        self.workers.live().into_iter().filter(|worker| in_service.contains(worker)).collect()
    }

    /// The live workers for work that any can do: those that stay, if any do.
    pub(crate) fn lasting_workers(&self) -> Vec<WorkerId> {
        let staying = self.staying_workers();
        if staying.is_empty() { self.workers.live() } else { staying }
    }

    /// One of them.
    pub(crate) fn any_worker(&self) -> Result<WorkerId> {
        let workers = self.lasting_workers();
        if workers.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "no worker is registered; start one with `curvine worker`"));
        }
        Ok(workers[rand::random_range(0..workers.len())])
    }

    /// A worker that stops asks how far it is; the first time, it begins.
    pub(crate) async fn drain_worker(&self, request: DrainWorkerRequest) -> Result<DrainWorkerReply> {
        let worker = request.worker;
        let record = self.replica.state().read().0.worker(worker);
        let record = record
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such worker has registered").with("worker", worker))?;
        if record.state == WorkerState::InService {
            self.set_worker_state(worker, WorkerState::Leaving).await?;
            tracing::info!(worker, hostname = record.hostname, "a worker is leaving, what only it has is moved");
        }
        let progress = self.drains.progress(worker);
        if progress.since == 0 {
            // Another leader was told, or an operator.
            self.drains.begin(worker);
            return Ok(DrainWorkerReply::default());
        }
        Ok(DrainWorkerReply {
            done: progress.is_done(),
            tried: progress.is_tried(),
            left_files: progress.left_files,
            left_bytes: progress.left_bytes,
            moved_files: progress.moved_files,
            moved_bytes: progress.moved_bytes,
            targets: self.staying_workers().len() as u64,
            error: progress.error,
        })
    }

    async fn set_worker_state(&self, worker: WorkerId, state: WorkerState) -> Result<()> {
        let set = SetWorkerState { worker, state: state.into() };
        self.internal(CommandBody::SetWorkerState(set), Instant::now() + STEP).await?;
        self.worker_state_changed(worker);
        Ok(())
    }

    /// Follows a change in the log.
    pub(crate) fn worker_state_changed(&self, worker: WorkerId) {
        match self.in_service().contains(&worker) {
            true => drop(self.drains.inner.lock().workers.remove(&worker)),
            false => self.drains.begin(worker),
        }
    }

    /// A worker has registered: one that had left by itself is back.
    pub(crate) async fn back_in_service(&self, worker: WorkerId) -> Result<()> {
        let record = self.replica.state().read().0.worker(worker);
        if record.is_some_and(|record| record.state == WorkerState::Leaving) {
            self.set_worker_state(worker, WorkerState::InService).await?;
            tracing::info!(worker, "a worker that had left is back");
        }
        Ok(())
    }

    /// Moves what workers have that are leaving, for as long as this leads.
    pub(crate) async fn drain_workers(self: Arc<Self>) {
        let mut pause = RETRY;
        loop {
            let workers = self.replica.state().read().0.workers();
            let leaving: Vec<(WorkerId, WorkerState)> = workers
                .into_iter()
                .filter(|record| record.state != WorkerState::InService)
                .map(|record| (record.id, record.state))
                .collect();
            let round = {
                let mut inner = self.drains.inner.lock();
                inner.round += 1;
                let round = inner.round;
                inner.workers.retain(|worker, _| leaving.iter().any(|(id, _)| id == worker));
                for (worker, _) in &leaving {
                    inner.workers.entry(*worker).or_insert(Progress { since: round, ..Progress::default() });
                }
                round
            };
            let mut wait = None;
            if !leaving.is_empty() {
                let before = self.drains.moved_in_all();
                let left = self.drain_round(&leaving).await;
                // What did not move now will hardly in a moment.
                pause = if self.drains.moved_in_all() > before { RETRY } else { (pause * 2).min(RETRY_MAX) };
                let mut inner = self.drains.inner.lock();
                for (worker, progress) in &mut inner.workers {
                    let Left { files, bytes, error } = left.get(worker).cloned().unwrap_or_default();
                    (progress.left_files, progress.left_bytes, progress.error) = (files, bytes, error);
                    progress.finished = round;
                }
                // Of those that are not there nothing can be had; their coming back begins a round.
                wait = left.keys().any(|worker| self.workers.is_live(*worker)).then_some(pause);
            }
            let kicked = self.drains.kick.notified();
            match wait {
                Some(pause) => drop(tokio::time::timeout(pause, kicked).await),
                None => kicked.await,
            }
        }
    }

    /// Looks at everything once; what is left of each worker that has something left.
    async fn drain_round(self: &Arc<Self>, leaving: &[(WorkerId, WorkerState)]) -> HashMap<WorkerId, Left> {
        let mut left: HashMap<WorkerId, Left> = HashMap::new();
        let mut after = 0;
        loop {
            let page = self.replica.state().read().0.placed_after(after, PAGE);
            let end = page.len() < PAGE;
            after = page.last().map_or(after, |record| record.inode);
            let concerned = page.into_iter().filter_map(|record| {
                let found = leaving.iter().find(|(worker, _)| record.workers.contains(worker));
                found.copied().map(|(worker, state)| (record, worker, state))
            });
            let moves = concerned.map(|(record, worker, state)| {
                let leader = self.clone();
                async move {
                    let PlacedRecord { inode, size, .. } = record;
                    (
                        worker,
                        size,
                        leader.vacate(inode, worker, state).await.map_err(|error| error.with("inode", inode)),
                    )
                }
            });
            let mut moves = stream::iter(moves).buffer_unordered(MOVES_AT_ONCE);
            while let Some((worker, size, outcome)) = moves.next().await {
                match outcome {
                    Ok(None) => {}
                    Ok(Some(bytes)) => self.drains.moved(worker, bytes),
                    Err(error) => {
                        tracing::debug!(worker, %error, "a content was not moved yet");
                        let left = left.entry(worker).or_default();
                        left.files += 1;
                        left.bytes += size;
                        left.error = error.to_string();
                    }
                }
            }
            if end {
                return left;
            }
        }
    }

    /// Moves one content away from a worker; how many bytes, or `None` if there is nothing of it there that counts.
    async fn vacate(self: &Arc<Self>, inode: InodeId, from: WorkerId, state: WorkerState) -> Result<Option<u64>> {
        if !self.workers.is_live(from) {
            return Err(Error::new(ErrorKind::Unavailable, "the worker is not there").with("worker", from));
        }
        for attempt in 0..ATTEMPTS {
            let deadline = Instant::now() + STEP;
            let lock = self.content_locks.lock(inode, deadline).await?;
            self.seal_locked(inode, true, deadline).await?;
            let Some(found) = self.sealed_content(inode)? else { continue };
            if found.worker != from {
                return Ok(None);
            }
            if state != WorkerState::Leaving && self.is_exposed(&found, deadline).await? {
                // Who has the local file open would not see what is written elsewhere.
                return Err(Error::new(ErrorKind::Busy, "a process of the worker's machine has the file open"));
            }
            let Ok(to) = self.workers.choose_for(found.size, &self.in_service()) else {
                drop(lock);
                return self.vacate_to_store(inode, found.size).await;
            };
            // Writers that wait too long get an error, so they wait only where it is never quiet.
            let lock = Some(lock).filter(|_| found.writers || attempt > 0);
            if self.move_to(inode, &found, to).await? {
                drop(lock);
                return Ok(Some(found.size));
            }
        }
        Err(Error::new(ErrorKind::Busy, "the file is written all the time"))
    }

    /// A dirty file becomes a clean copy of what its store has; of others there is no other place.
    async fn vacate_to_store(self: &Arc<Self>, inode: InodeId, size: u64) -> Result<Option<u64>> {
        let nowhere = || Error::new(ErrorKind::NoSpace, "no other worker has room for it");
        if self.replica.state().read().0.upload_of(inode).is_none() {
            return Err(nowhere());
        }
        match self.store_file(inode).await {
            Ok(true) => Ok(Some(size)),
            Ok(false) => Err(Error::new(ErrorKind::Busy, "the file is being written")),
            Err(error) => Err(nowhere().caused_by(error)),
        }
    }

    /// `false`: it was changed meanwhile.
    async fn move_to(&self, inode: InodeId, found: &SealedContent, to: WorkerId) -> Result<bool> {
        let deadline = Instant::now() + STEP + Duration::from_secs(found.size / SLOWEST);
        let SealedContent { worker: from, content, epoch, size, mtime, .. } = *found;
        let copy = ContentId { version: self.drains.next_version(self.incarnation, content.version), ..content };
        let mount = self.replica.state().read().0.upload_of(inode).map_or(0, |job| job.mount);
        let request = TakeContentRequest {
            content: Some(copy),
            version: content.version,
            source: from,
            address: self.workers.address(from)?,
            epoch: epoch.max(1),
            size,
            mtime,
            mount,
        };
        let taken: Result<LiveAttrReply> =
            self.workers.call(to, Method::TakeContent, &request, Bytes::new(), deadline).await;
        match taken {
            Ok(_) => {}
            // The source has opened it again.
            Err(error) if error.kind() == ErrorKind::VersionMismatch => {
                tracing::debug!(inode, %error, "a content changed while it was moved");
                return Ok(false);
            }
            Err(error) => return Err(error.with("to", to)),
        }
        let ContentId { generation, version, .. } = content;
        let body = MoveBlocks { inode, generation, epoch, from, to, version, new_version: copy.version };
        match self.internal(CommandBody::MoveBlocks(body), Instant::now() + STEP).await {
            Ok(_) => {
                // The garbage in the log sees to it otherwise.
                let _ = self.delete_content(from, vec![content], Instant::now() + FORGET).await;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Stale) => {
                self.delete_content(to, vec![copy], Instant::now() + STEP).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Before a sealed content is written again: nobody may read a copy that it left behind on another worker.
    pub(crate) async fn end_old_copies(
        &self,
        inode: InodeId,
        generation: Generation,
        current: WorkerId,
        deadline: Instant,
    ) -> Result<()> {
        let workers = self.workers.live().into_iter().filter(|worker| *worker != current);
        let left: Vec<WorkerId> = {
            let state = self.replica.state().read();
            workers.filter(|worker| state.0.is_garbage(inode, generation, *worker)).collect()
        };
        for worker in left {
            self.end_reads_at(worker, ContentId { inode, generation, version: 0 }, deadline).await?;
        }
        Ok(())
    }
}

/// A content that rests.
#[derive(Default)]
pub(crate) struct SealedContent {
    pub worker: WorkerId,
    pub content: ContentId,
    pub epoch: u64,
    pub size: u64,
    pub mtime: Option<Time>,
    pub writers: bool,
}

impl SealedContent {
    /// Of a file that is on no worker, or not at all any more.
    pub fn nowhere() -> Self {
        Self::default()
    }
}
