//! Applies committed entries to the state machine, in short holds of its lock, and cuts snapshots between entries.
//!
//! What must hold: `progress` is locked for the whole of one entry, so whoever has it sees the state between two entries; the state's
//! own lock is held for a short time only. Outcomes stand at their command's position.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use curvine_proto::{Command, CommandBatch, Outcome, Time};
use curvine_types::{Error, ErrorKind, Result};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, ErrorVerb, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use crate::entry::{Batch, Entry, LogId, Outcomes, StorageError, StoredMembership, Types, storage_error};
use crate::machine::{SnapshotSource, StateMachine};
use crate::snapshot::SnapshotFile;
use crate::snapshot::store::{Meta, Restored, SnapshotStore};
use crate::status::Holds;

/// Commands that take as long are remembered by their kind.
const NOTED: Duration = Duration::from_micros(200);

/// How far the state machine is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
    /// The time of the last batch.
    pub now: Option<Time>,
    /// The last entry with which a leadership began.
    pub leadership: Option<LogId>,
}

/// The state machine as openraft drives it. Clones share everything.
pub(crate) struct Applier<S> {
    pub state: Arc<RwLock<S>>,
    progress: Arc<tokio::sync::Mutex<Progress>>,
    /// A copy for those who cannot wait.
    published: Arc<Mutex<Progress>>,
    snapshots: Arc<SnapshotStore>,
    /// A snapshot was written just now: openraft is to take that one.
    prepared: Arc<AtomicBool>,
    hold: Duration,
    holds: Arc<Mutex<Holds>>,
}

impl<S> Clone for Applier<S> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            progress: self.progress.clone(),
            published: self.published.clone(),
            snapshots: self.snapshots.clone(),
            prepared: self.prepared.clone(),
            hold: self.hold,
            holds: self.holds.clone(),
        }
    }
}

/// A consistent view of the state, not yet written.
pub(crate) struct Cut {
    pub meta: Meta,
    now: Option<Time>,
    /// The lock only makes it `Sync`, which openraft asks for.
    source: Mutex<Box<dyn SnapshotSource>>,
}

impl Cut {
    /// Makes it a snapshot file; blocks.
    pub fn write(&self, snapshots: &SnapshotStore) -> Result<()> {
        snapshots.write(&self.meta, self.now, self.source.lock().as_ref())
    }
}

impl<S: StateMachine> Applier<S> {
    pub fn new(state: Arc<RwLock<S>>, snapshots: Arc<SnapshotStore>, restored: Restored, hold: Duration) -> Self {
        let progress = Progress {
            last: restored.meta.last_log_id,
            membership: restored.meta.last_membership,
            now: restored.now,
            leadership: None,
        };
        Self {
            state,
            progress: Arc::new(tokio::sync::Mutex::new(progress.clone())),
            published: Arc::new(Mutex::new(progress)),
            snapshots,
            prepared: Arc::default(),
            hold,
            holds: Arc::default(),
        }
    }

    /// How far the last wholly applied entry has brought it.
    pub fn progress(&self) -> Progress {
        self.published.lock().clone()
    }

    /// How long the state's lock was held for commands.
    pub fn holds(&self) -> Holds {
        self.holds.lock().clone()
    }

    /// The state between two entries.
    pub async fn cut(&self) -> Cut {
        let progress = self.progress.lock().await;
        let source = Mutex::new(self.state.read().snapshot());
        let meta = Meta {
            last_log_id: progress.last,
            last_membership: progress.membership.clone(),
            snapshot_id: progress.last.map(|id| id.to_string()).unwrap_or_default(),
        };
        Cut { meta, now: progress.now, source }
    }

    /// The next snapshot that openraft asks for is the newest file.
    pub fn note_prepared(&self) {
        self.prepared.store(true, Ordering::Release);
    }

    /// Applies commands under one hold of the lock: at least one, and no more once its time is over.
    fn apply_for_a_while<'a>(
        &self,
        now: Option<Time>,
        commands: &mut impl Iterator<Item = &'a Command>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut state = self.state.write();
        let begun = Instant::now();
        let mut until_now = Duration::ZERO;
        for command in commands {
            outcomes.push(state.apply(now, command));
            let elapsed = begun.elapsed();
            let took = elapsed - until_now;
            if took >= NOTED {
                let mut holds = self.holds.lock();
                let longest = holds.longest_by_command.entry(command.kind_name()).or_default();
                *longest = took.max(*longest);
            }
            until_now = elapsed;
            if elapsed >= self.hold {
                break;
            }
        }
        // To those who wait: taking it again at once would starve them.
        RwLockWriteGuard::unlock_fair(state);
        let mut holds = self.holds.lock();
        holds.longest = until_now.max(holds.longest);
        holds.over_1ms += u64::from(until_now > Duration::from_millis(1));
    }

    async fn apply_batch(&self, batch: &Batch, progress: &mut Progress) -> Result<Outcomes> {
        let CommandBatch { now, commands } = batch.take_decoded()?;
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut rest = commands.iter().peekable();
        while rest.peek().is_some() {
            self.apply_for_a_while(now, &mut rest, &mut outcomes);
            if rest.peek().is_some() {
                tokio::task::yield_now().await; // let readers in
            }
        }
        debug_assert_eq!(outcomes.len(), commands.len());
        progress.now = now.or(progress.now);
        Ok(Outcomes(outcomes))
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Applier<S> {
    type SnapshotBuilder = Builder<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let progress = self.progress.lock().await;
        Ok((progress.last, progress.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut all = Vec::new();
        for entry in entries {
            let mut progress = self.progress.lock().await;
            let outcomes = match &entry.payload {
                EntryPayload::Blank => {
                    progress.leadership = Some(entry.log_id);
                    Outcomes::default()
                }
                EntryPayload::Membership(membership) => {
                    progress.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    Outcomes::default()
                }
                EntryPayload::Normal(batch) => self
                    .apply_batch(batch, &mut progress)
                    .await
                    .map_err(|error| storage_error(ErrorVerb::Write, &error.with("index", entry.log_id.index)))?,
            };
            progress.last = Some(entry.log_id);
            *self.published.lock() = progress.clone();
            all.push(outcomes);
        }
        Ok(all)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<S> {
        let cut = match self.prepared.swap(false, Ordering::AcqRel) {
            true => None,
            false => Some(self.cut().await),
        };
        Builder { applier: self.clone(), cut }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        self.snapshots.begin_receiving().map(Box::new).map_err(|error| storage_error(ErrorVerb::Write, &error))
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<SnapshotFile>) -> Result<(), StorageError> {
        let mut progress = self.progress.lock().await;
        let (snapshots, state, meta) = (self.snapshots.clone(), self.state.clone(), meta.clone());
        let restored = tokio::task::spawn_blocking(move || {
            let mut fresh = None;
            let mut restore = |reader: &mut dyn std::io::Read| S::restored(reader).map(|state| fresh = Some(state));
            let restored = snapshots.install(&meta, &snapshot, &mut restore)?;
            let missing = || Error::new(ErrorKind::Internal, "a snapshot was installed and not read");
            // Only the exchange is under the lock; the old state goes after it.
            let old = std::mem::replace(&mut *state.write(), fresh.ok_or_else(missing)?);
            drop(old);
            Ok(restored)
        })
        .await
        .unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "installing a snapshot was stopped").caused_by(error))
        })
        .map_err(|error| storage_error(ErrorVerb::Write, &error))?;
        progress.last = restored.meta.last_log_id;
        progress.membership = restored.meta.last_membership;
        progress.now = restored.now;
        *self.published.lock() = progress.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        Ok(self.snapshots.newest())
    }
}

/// Gives openraft a snapshot: the one that was just written, or else a new one.
pub(crate) struct Builder<S> {
    applier: Applier<S>,
    cut: Option<Cut>,
}

impl<S: StateMachine> RaftSnapshotBuilder<Types> for Builder<S> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let snapshots = self.applier.snapshots.clone();
        let written = match self.cut.take() {
            None => Ok(()),
            Some(cut) => tokio::task::spawn_blocking(move || cut.write(&snapshots)).await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Internal, "writing a snapshot was stopped").caused_by(error))
            }),
        };
        let newest = written.and_then(|()| {
            let missing = || Error::new(ErrorKind::Internal, "there is no snapshot although one was written");
            self.applier.snapshots.newest().ok_or_else(missing)
        });
        newest.map_err(|error| storage_error(ErrorVerb::Write, &error))
    }
}
