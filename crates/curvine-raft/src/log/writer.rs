//! The thread that changes the log's files, one operation after the other.
//!
//! What must hold: an append is reported as flushed only after fdatasync returned for every byte of it; after any failed operation
//! nothing is written any more (`Health::fail`). A full disk is not a failure while there is a reserve to finish with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use curvine_types::{ClusterId, Error, ErrorKind, Result};
use openraft::storage::LogFlushed;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::memory::{LogMemory, Segment};
use super::segment::{self, HEADER_LEN, Header};
use crate::disk::{Disk, DiskFile};
use crate::entry::{Entry, LogId, RecordInfo, Types, Vote};
use crate::health::Health;
use crate::reserve::Reserve;
use crate::{sweep, vote};

/// How often a full disk is looked at again.
const RESERVE_RETRY: Duration = Duration::from_secs(1);
/// Zeroes that are written behind the end when it is reached. What overwrites them changes no size and takes no blocks, so that making
/// it durable needs no commit of the file system's journal, which waits for whatever else was written: half the time, and less.
const ROOM: u64 = 1 << 20;
/// The encoding buffer is not kept when a large append has made it larger than this.
const BUFFER_KEPT: usize = 4 << 20;

/// One change of the files.
pub(crate) enum Op {
    Append { entries: Vec<Entry>, flushed: LogFlushed<Types> },
    Truncate { since: u64, done: oneshot::Sender<Result<()>> },
    Purge { upto: LogId, done: oneshot::Sender<Result<()>> },
    SaveVote { vote: Vote, done: oneshot::Sender<Result<()>> },
}

/// The thread's state.
pub(crate) struct Writer {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub cluster: ClusterId,
    pub segment_bytes: u64,
    pub memory: Arc<Mutex<LogMemory>>,
    pub health: Arc<Health>,
    pub reserve: Reserve,
    /// The id of the last written entry, or of what was purged.
    pub last_written: Option<LogId>,
    pub buffer: Vec<u8>,
}

impl Writer {
    /// Works until all senders are gone.
    pub fn run(mut self, ops: Receiver<Op>) {
        if !self.reserve.take() {
            self.health.read_only(self.no_space());
        }
        loop {
            let op = if self.health.is_read_only() {
                match ops.recv_timeout(RESERVE_RETRY) {
                    Ok(op) => op,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        if self.reserve.take() {
                            self.health.working();
                        }
                        continue;
                    }
                }
            } else {
                match ops.recv() {
                    Ok(op) => op,
                    Err(_) => return,
                }
            };
            self.execute(op);
        }
    }

    fn execute(&mut self, op: Op) {
        match op {
            Op::Append { entries, flushed } => {
                let result = self.guarded(|writer| writer.append(&entries));
                flushed.log_io_completed(result.map_err(io::Error::other));
            }
            Op::Truncate { since, done } => drop(done.send(self.guarded(|writer| writer.truncate(since)))),
            Op::Purge { upto, done } => drop(done.send(self.guarded(|writer| writer.purge(upto)))),
            Op::SaveVote { vote, done } => drop(done.send(self.guarded(|writer| {
                writer.spare(|writer| vote::save(writer.disk.as_ref(), &writer.dir, writer.cluster, &vote))
            }))),
        }
    }

    /// Refuses when the log has failed; a failure of the operation makes it so.
    fn guarded(&mut self, operation: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.health.is_failed() {
            return Err(Error::new(ErrorKind::Io, "the log has failed before; nothing is written until a restart"));
        }
        let result = operation(self);
        if let Err(error) = &result {
            self.health.fail(error.to_string());
        }
        result
    }

    /// Runs an operation that may be repeated, once more after giving up the reserve if the disk is full.
    fn spare<T>(&mut self, operation: impl Fn(&mut Self) -> Result<T>) -> Result<T> {
        match operation(self) {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.reserve.release() => {
                self.health.read_only(self.no_space());
                operation(self)
            }
            result => result,
        }
    }

    fn no_space(&self) -> String {
        format!("the disk of {} is full", self.dir.display())
    }

    fn append(&mut self, entries: &[Entry]) -> Result<()> {
        let Some(first) = entries.first() else { return Ok(()) };
        let (mut file, mut path, mut start) = self.active(first.log_id.index)?;
        if start >= self.segment_bytes {
            self.spare(|writer| writer.new_segment(first.log_id.index, writer.last_written, false))?;
            (file, path, start) = self.active(first.log_id.index)?;
        }
        let committed = self.memory.lock().committed.map_or(0, |id| id.index + 1);
        let info = RecordInfo { durable: start as u32, committed };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut ends = Vec::with_capacity(entries.len());
        for entry in entries {
            segment::put_record(entry, info, &mut buffer);
            let end = u32::try_from(start + buffer.len() as u64).map_err(|_| {
                Error::new(ErrorKind::Internal, "a log segment would exceed 4 GiB").with("file", path.display())
            })?;
            ends.push(end);
        }
        let failed =
            |source: io::Error| Error::from_io(source, "cannot append to the log").with("file", path.display());
        self.spare(|writer| writer.put(file.as_ref(), &buffer, start).map_err(failed))?;
        file.sync_data().map_err(|source| {
            // Never tried again: the kernel may have dropped the pages that it could not write.
            Error::new(ErrorKind::Io, "cannot make the log durable").with("file", path.display()).caused_by(source)
        })?;
        self.last_written = entries.last().map(|entry| entry.log_id);
        self.memory.lock().note_written(&ends, buffer.len() as u64);
        if buffer.capacity() <= BUFFER_KEPT {
            self.buffer = buffer;
        }
        Ok(())
    }

    /// Writes records at the end, and room behind them if they use up what there is.
    fn put(&self, file: &dyn DiskFile, records: &[u8], start: u64) -> io::Result<()> {
        let end = start + records.len() as u64;
        if end > file.len()? {
            let mut with_room = records.to_vec();
            with_room.resize(((end + ROOM).min(self.segment_bytes).max(end) - start) as usize, 0);
            match file.write_all_at(&with_room, start) {
                Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {}
                written => return written,
            }
        }
        file.write_all_at(records, start)
    }

    /// The file to append entry `next` to and its length; makes the first segment.
    fn active(&mut self, next: u64) -> Result<(Arc<dyn DiskFile>, Arc<Path>, u64)> {
        for _ in 0..2 {
            let stale = {
                let memory = self.memory.lock();
                match memory.segments.back() {
                    Some(active) if active.next() == next => {
                        return Ok((active.file.clone(), active.path.clone(), active.length()));
                    }
                    Some(active) if !active.ends.is_empty() => {
                        return Err(Error::new(ErrorKind::Internal, "an append would leave a gap in the log")
                            .with("want", active.next())
                            .with("have", next));
                    }
                    Some(active) => Some(active.path.clone()),
                    None => None,
                }
            };
            if let Some(path) = stale {
                self.memory.lock().segments.pop_back();
                self.remove(&path)?;
            }
            self.spare(|writer| writer.new_segment(next, writer.last_written, false))?;
        }
        Err(Error::new(ErrorKind::Internal, "cannot make a log segment").with("index", next))
    }

    /// Makes an empty segment; it has its name only when its header is durable.
    fn new_segment(&mut self, first: u64, previous: Option<LogId>, begins: bool) -> Result<()> {
        let path = self.dir.join(segment::file_name(first));
        let failed =
            |source: io::Error| Error::from_io(source, "cannot make a log segment").with("file", path.display());
        let temporary = path.with_extension("tmp");
        let header = Header { cluster: self.cluster, first, begins, previous };
        let file = self.disk.create(&temporary).map_err(failed)?;
        file.write_all_at(&header.encode(), 0).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        self.disk.rename(&temporary, &path).map_err(failed)?;
        self.disk.sync_dir(&self.dir).map_err(failed)?;
        self.memory.lock().segments.push_back(Segment { first, path: path.into(), file, ends: Vec::new() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let removed = self.disk.remove(path).and_then(|()| self.disk.sync_dir(&self.dir));
        removed.map_err(|source| Error::from_io(source, "cannot remove a log segment").with("file", path.display()))
    }

    /// Removes the entries from `since` on: whole files from the end, each durably, then the rest of one.
    fn truncate(&mut self, since: u64) -> Result<()> {
        loop {
            let last = {
                let mut memory = self.memory.lock();
                match memory.segments.back() {
                    Some(back) if back.first >= since && memory.segments.len() > 1 => memory.segments.pop_back(),
                    _ => break,
                }
            };
            if let Some(segment) = last {
                self.remove(&segment.path)?;
            }
        }
        let (file, path, length, kept) = {
            let memory = self.memory.lock();
            let Some(back) = memory.segments.back() else { return Ok(()) };
            let kept = since.saturating_sub(back.first).min(back.ends.len() as u64) as usize;
            let length = kept.checked_sub(1).and_then(|last| back.ends.get(last)).map_or(HEADER_LEN as u32, |end| *end);
            (back.file.clone(), back.path.clone(), u64::from(length), kept)
        };
        file.set_len(length)
            .and_then(|()| file.sync_data())
            .map_err(|source| Error::from_io(source, "cannot shorten the log").with("file", path.display()))?;
        let mut memory = self.memory.lock();
        if let Some(back) = memory.segments.back_mut() {
            back.ends.truncate(kept);
        }
        self.last_written = memory.last;
        Ok(())
    }

    /// Removes the segments that lie wholly at or below `upto`. If that is all, the log begins anew behind it.
    fn purge(&mut self, upto: LogId) -> Result<()> {
        let beyond = self.memory.lock().last.is_none_or(|last| last.index <= upto.index);
        if beyond {
            let old: Vec<Segment> = self.memory.lock().segments.iter().cloned().collect();
            // An empty segment that begins there already has the name of the new one.
            self.spare(|writer| writer.new_segment(upto.index + 1, Some(upto), true))?;
            let path = self.dir.join(segment::file_name(upto.index + 1));
            {
                let mut memory = self.memory.lock();
                memory.segments.drain(..old.len());
                memory.last = Some(upto);
                memory.purged = Some(upto);
            }
            self.last_written = Some(upto);
            return self.discard(old.into_iter().filter(|segment| *segment.path != *path).collect());
        }
        let mut old = Vec::new();
        {
            let mut memory = self.memory.lock();
            memory.purged = Some(upto);
            while memory.segments.len() > 1
                && memory.segments.front().is_some_and(|front| front.next() <= upto.index + 1)
            {
                old.extend(memory.segments.pop_front());
            }
        }
        self.discard(old)
    }

    /// Removes segments one after the other, each durably: at no time there is a gap.
    fn discard(&self, old: Vec<Segment>) -> Result<()> {
        let mut aside = Vec::new();
        for Segment { path, file, .. } in old {
            let set = sweep::set_aside(self.disk.as_ref(), &path, &file);
            let set = set.and_then(|set| self.disk.sync_dir(&self.dir).map(|()| set));
            aside.extend(set.map_err(|source| {
                Error::from_io(source, "cannot remove a log segment").with("file", path.display())
            })?);
        }
        sweep::sweep(aside);
        Ok(())
    }
}
