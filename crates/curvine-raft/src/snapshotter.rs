//! Takes snapshots: when enough log has been written since the last one, or when asked to.
//!
//! The file is written first, by this task's blocking thread, and then shown to openraft: a failed snapshot (a full disk) is
//! reported and tried again later, and stops nothing.

use std::sync::Arc;
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::applier::Applier;
use crate::entry::Raft;
use crate::health::Health;
use crate::log::store::LogReader;
use crate::machine::StateMachine;
use crate::proposer::stopped;
use crate::snapshot::store::SnapshotStore;

/// How often the size of the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// For openraft to notice the new file; it only takes note of it.
const NOTICE_WITHIN: Duration = Duration::from_secs(30);

type Request = oneshot::Sender<std::result::Result<(), String>>;

/// Asks for snapshots.
#[derive(Clone)]
pub(crate) struct Snapshotter {
    requests: mpsc::Sender<Request>,
    /// What went wrong with the last one.
    error: Arc<Mutex<Option<String>>>,
}

struct Task<S> {
    raft: Raft,
    applier: Applier<S>,
    snapshots: Arc<SnapshotStore>,
    log: LogReader,
    log_bytes: u64,
    health: Arc<Health>,
}

impl Snapshotter {
    /// Starts the task; it ends when `closing`.
    pub fn start<S: StateMachine>(
        raft: Raft,
        applier: Applier<S>,
        snapshots: Arc<SnapshotStore>,
        log: LogReader,
        log_bytes: u64,
        health: Arc<Health>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let error = Arc::new(Mutex::new(None));
        let task = Task { raft, applier, snapshots, log, log_bytes: log_bytes.max(1), health };
        tokio::spawn(task.run(receiver, error.clone(), closing));
        Self { requests, error }
    }

    pub fn last_error(&self) -> Option<String> {
        self.error.lock().clone()
    }

    /// Takes one now; returns when it is durable.
    pub async fn take(&self) -> Result<()> {
        let (request, done) = oneshot::channel();
        self.requests.send(request).await.map_err(|_| stopped())?;
        match done.await {
            Ok(result) => result.map_err(|reason| Error::new(ErrorKind::Io, reason)),
            Err(_) => Err(stopped()),
        }
    }
}

impl<S: StateMachine> Task<S> {
    async fn run(
        self,
        mut requests: mpsc::Receiver<Request>,
        error: Arc<Mutex<Option<String>>>,
        mut closing: watch::Receiver<bool>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut not_before = tokio::time::Instant::now();
        loop {
            let mut asked: Vec<Request> = Vec::new();
            tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                _ = look.tick() => {
                    if tokio::time::Instant::now() < not_before || !self.is_due() {
                        continue;
                    }
                }
                request = requests.recv() => match request {
                    Some(request) => asked.push(request),
                    None => return,
                },
            }
            while let Ok(another) = requests.try_recv() {
                asked.push(another);
            }
            let result = self.take().await;
            if let Err(failure) = &result {
                tracing::error!(error = %failure, "no snapshot could be taken; the log keeps growing");
            }
            if result.is_err() || self.health.is_read_only() {
                not_before = tokio::time::Instant::now() + RETRY_AFTER;
            }
            *error.lock() = result.as_ref().err().map(|failure| failure.to_string());
            for request in asked {
                let _ = request.send(result.as_ref().map_err(|failure| failure.to_string()).copied());
            }
        }
    }

    fn is_due(&self) -> bool {
        let needed = match self.health.is_read_only() {
            true => 1, // a full disk: a snapshot may let go of some log
            false => self.snapshots.newest_bytes().max(self.log_bytes),
        };
        self.log.memory.lock().bytes_after(self.snapshots.newest_index()) >= needed
    }

    async fn take(&self) -> Result<()> {
        let cut = self.applier.cut().await;
        let Some(last) = cut.meta.last_log_id else { return Ok(()) };
        if last.index > self.snapshots.newest_index() {
            let snapshots = self.snapshots.clone();
            tokio::task::spawn_blocking(move || cut.write(&snapshots)).await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Internal, "writing a snapshot was stopped").caused_by(error))
            })?;
        }
        self.applier.note_prepared();
        let unnoticed = |what: String| {
            Error::new(ErrorKind::Unavailable, format!("the log did not take note of a snapshot: {what}"))
        };
        self.raft.trigger().snapshot().await.map_err(|fatal| unnoticed(fatal.to_string()))?;
        self.raft
            .wait(Some(NOTICE_WITHIN))
            .metrics(|metrics| metrics.snapshot.is_some_and(|noticed| noticed.index >= last.index), "snapshot noticed")
            .await
            .map_err(|error| unnoticed(error.to_string()))?;
        if let Some(unneeded) = self.snapshots.prune()? {
            self.raft.trigger().purge_log(unneeded).await.map_err(|fatal| unnoticed(fatal.to_string()))?;
        }
        Ok(())
    }
}
