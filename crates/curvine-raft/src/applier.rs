//! Applies committed entries to the state machine, in slices, and cuts snapshots between entries.
//!
//! What must hold: `progress` is locked for the whole of one entry, so whoever has it sees the state between two entries; the state's
//! own lock is held for one slice of commands only. Outcomes stand at their command's position.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use curvine_proto::{CommandBatch, Time};
use curvine_types::{Error, ErrorKind, Result};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, ErrorVerb, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::{Mutex, RwLock};

use crate::entry::{Batch, Entry, LogId, Outcomes, StorageError, StoredMembership, Types, storage_error};
use crate::machine::{SnapshotSource, StateMachine};
use crate::snapshot::SnapshotFile;
use crate::snapshot::store::{Meta, Restored, SnapshotStore};

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
    slice: usize,
}

impl<S> Clone for Applier<S> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            progress: self.progress.clone(),
            published: self.published.clone(),
            snapshots: self.snapshots.clone(),
            prepared: self.prepared.clone(),
            slice: self.slice,
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
    pub fn new(state: Arc<RwLock<S>>, snapshots: Arc<SnapshotStore>, restored: Restored, slice: usize) -> Self {
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
            slice: slice.max(1),
        }
    }

    /// How far the last wholly applied entry has brought it.
    pub fn progress(&self) -> Progress {
        self.published.lock().clone()
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

    async fn apply_batch(&self, batch: &Batch, progress: &mut Progress) -> Result<Outcomes> {
        let CommandBatch { now, commands } = batch.take_decoded()?;
        let mut outcomes = Vec::with_capacity(commands.len());
        let count = commands.len();
        let mut rest = commands.into_iter();
        while rest.len() > 0 {
            let slice = CommandBatch { now, commands: rest.by_ref().take(self.slice).collect() };
            let given = self.state.write().apply(&slice);
            if given.len() != slice.commands.len() {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the state machine gave another number of outcomes than of commands",
                )
                .with("want", slice.commands.len())
                .with("have", given.len()));
            }
            outcomes.extend(given);
            if rest.len() > 0 {
                tokio::task::yield_now().await; // let readers in
            }
        }
        debug_assert_eq!(outcomes.len(), count);
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
            snapshots.install(&meta, &snapshot, &mut |reader| state.write().restore(reader))
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
