//! openraft's view of the log: reads come from memory or files, changes go to the writer thread.

use std::fmt::Debug;
use std::fs::File;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use curvine_types::{ClusterId, Error, ErrorKind, Result};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{ErrorVerb, LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::memory::LogMemory;
use super::read::ReadPlan;
use super::recovery;
use super::writer::{Op, Writer};
use crate::disk::Disk;
use crate::entry::{Entry, LogId, StorageError, Types, Vote, note_appended, storage_error};
use crate::health::Health;
use crate::reserve::Reserve;
use crate::{NodeFile, Options, vote};

/// Operations on their way to the writer; openraft waits for each, so there is hardly ever more than one.
const OPS_MAX: usize = 64;
/// Bytes of entries in one read for replication.
const READ_BYTES: usize = 1 << 20;

/// The log, owned by openraft.
#[derive(Debug)]
pub(crate) struct LogStore {
    reader: LogReader,
    vote: Option<Vote>,
    ops: SyncSender<Op>,
}

/// Reads entries; any number of them.
#[derive(Clone, Debug)]
pub(crate) struct LogReader {
    pub memory: Arc<Mutex<LogMemory>>,
}

/// Where and whose the log is.
#[derive(Clone, Debug)]
pub(crate) struct LogPlace {
    pub disk: Arc<dyn Disk>,
    pub node: NodeFile,
    pub health: Arc<Health>,
}

impl LogStore {
    /// Recovers the log and starts the writer thread, which ends, and lets go of `lock`, after the store was dropped.
    pub fn open(options: &Options, place: LogPlace, lock: File) -> Result<(Self, JoinHandle<()>)> {
        let (dir, cluster): (&Path, ClusterId) = (&options.dir, place.node.cluster);
        let recovered = recovery::recover(&place.disk, dir, cluster)?;
        let vote = vote::load(dir, cluster, place.node.node)?;
        let last_written = recovered.last;
        let memory = Arc::new(Mutex::new(LogMemory::new(recovered, options.cache_bytes)));
        let writer = Writer {
            reserve: Reserve::new(place.disk.clone(), dir, options.disk_reserve),
            disk: place.disk,
            dir: dir.to_path_buf(),
            cluster,
            segment_bytes: options.segment_bytes.min(1 << 30),
            memory: memory.clone(),
            health: place.health,
            last_written,
            buffer: Vec::new(),
        };
        let (ops, receiver) = sync_channel(OPS_MAX);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || {
                writer.run(receiver);
                drop(lock);
            })
            .map_err(|source| Error::from_io(source, "cannot start the log's writer thread"))?;
        Ok((Self { reader: LogReader { memory }, vote, ops }, thread))
    }

    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    fn send(&self, op: Op) -> Result<()> {
        self.ops.try_send(op).map_err(|error| match error {
            TrySendError::Full(_) => Error::new(ErrorKind::Internal, "too many operations wait for the log's writer"),
            TrySendError::Disconnected(_) => Error::new(ErrorKind::Internal, "the log's writer thread has ended"),
        })
    }

    async fn call(&self, op: impl FnOnce(oneshot::Sender<Result<()>>) -> Op) -> Result<(), StorageError> {
        let (done, result) = oneshot::channel();
        let sent = self.send(op(done));
        let result = match sent {
            Ok(()) => {
                result.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the log's writer has ended")))
            }
            Err(error) => Err(error),
        };
        result.map_err(|error| storage_error(ErrorVerb::Write, &error))
    }
}

impl LogReader {
    async fn read(&self, start: u64, end: u64, max_bytes: Option<usize>) -> Result<Vec<Entry>, StorageError> {
        let plan = self.memory.lock().plan(start, end, max_bytes);
        if plan.files.is_empty() {
            return Ok(plan.cached);
        }
        run_blocking(plan).await.map_err(|error| storage_error(ErrorVerb::Read, &error))
    }

    /// The id of an entry that is there.
    async fn id_of(&self, index: u64) -> Result<Option<LogId>, StorageError> {
        let cached = self.memory.lock().cached_id(index);
        match cached {
            Some(id) => Ok(Some(id)),
            None => Ok(self.read(index, index + 1, None).await?.first().map(|entry| entry.log_id)),
        }
    }
}

async fn run_blocking(plan: ReadPlan) -> Result<Vec<Entry>> {
    tokio::task::spawn_blocking(move || plan.run())
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "reading the log was stopped").caused_by(error)))
}

impl RaftLogReader<Types> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, None).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, Some(READ_BYTES)).await
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.reader.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.reader.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = self.reader.memory.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.call(|done| Op::SaveVote { vote, done }).await?;
        self.vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.vote)
    }

    /// Not written by itself: each record carries what was committed when it was written.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.reader.memory.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.reader.memory.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut memory = self.reader.memory.lock();
            for entry in &entries {
                note_appended(entry);
                memory.push(entry.clone());
            }
        }
        self.send(Op::Append { entries, flushed: callback }).map_err(|error| storage_error(ErrorVerb::Write, &error))
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let since = log_id.index;
        let last = match since.checked_sub(1) {
            Some(before) => {
                let purged = self.reader.memory.lock().purged;
                self.reader.id_of(before).await?.or(purged)
            }
            None => None,
        };
        {
            let mut memory = self.reader.memory.lock();
            memory.truncate_cache(since);
            memory.last = last;
        }
        self.call(|done| Op::Truncate { since, done }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        if self.reader.memory.lock().purged.is_some_and(|purged| purged >= log_id) {
            return Ok(());
        }
        self.reader.memory.lock().purge_cache(log_id.index);
        self.call(|done| Op::Purge { upto: log_id, done }).await
    }
}
