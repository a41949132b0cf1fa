//! What is known of the log while it runs: its bounds, where each written entry lies, and the newest entries themselves.
//!
//! What must hold: entries are contiguous from `purged` to `last`; those not yet written are in the cache; a written one is in
//! exactly one segment. Nothing here does I/O; readers take a [`ReadPlan`] under the lock and read files outside it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::read::{FileRead, ReadPlan};
use super::segment::HEADER_LEN;
use crate::disk::DiskFile;
use crate::entry::{Entry, LogId, encoded_len};

/// A segment file and where its records end. 4 bytes an entry.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub first: u64,
    pub path: Arc<Path>,
    pub file: Arc<dyn DiskFile>,
    pub ends: Vec<u32>,
}

impl Segment {
    /// The index after its last entry.
    pub fn next(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    /// Bytes of the file that are in use.
    pub fn length(&self) -> u64 {
        self.ends.last().map_or(HEADER_LEN as u64, |end| u64::from(*end))
    }

    /// Start and end of a record in the file.
    pub fn range(&self, index: u64) -> Option<(u64, u64)> {
        let position = index.checked_sub(self.first)? as usize;
        let end = *self.ends.get(position)?;
        let start = match position.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => HEADER_LEN as u32,
        };
        Some((u64::from(start), u64::from(end)))
    }
}

/// The state under the lock.
#[derive(Debug)]
pub(crate) struct LogMemory {
    /// What openraft has purged; the files may still reach further back.
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub committed: Option<LogId>,
    pub segments: VecDeque<Segment>,
    /// Bytes appended since the process started.
    pub appended_bytes: u64,
    cache: VecDeque<(Entry, usize)>,
    cache_bytes: usize,
    cache_limit: usize,
}

impl LogMemory {
    pub fn new(recovered: super::recovery::Recovered, cache_limit: usize) -> Self {
        Self {
            purged: recovered.purged,
            last: recovered.last,
            committed: recovered.committed,
            segments: recovered.segments.into(),
            appended_bytes: 0,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_limit,
        }
    }

    pub fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    pub fn log_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::length).sum()
    }

    /// Bytes of the records behind an entry.
    pub fn bytes_after(&self, index: u64) -> u64 {
        let behind = |segment: &Segment| match segment.range(index + 1) {
            Some((start, _)) => segment.length() - start,
            None if segment.first > index => segment.length() - HEADER_LEN as u64,
            None => 0,
        };
        self.segments.iter().map(behind).sum()
    }

    /// The index after the last entry that is in a file.
    pub fn written(&self) -> u64 {
        self.segments.back().map_or(0, Segment::next)
    }

    /// Takes an entry that is about to be written.
    pub fn push(&mut self, entry: Entry) {
        let size = encoded_len(&entry);
        self.last = Some(entry.log_id);
        self.cache_bytes += size;
        self.cache.push_back((entry, size));
    }

    /// Notes where the next records ended up, and lets go of the oldest cached entries.
    pub fn note_written(&mut self, ends: &[u32], bytes: u64) {
        if let Some(active) = self.segments.back_mut() {
            active.ends.extend_from_slice(ends);
        }
        self.appended_bytes += bytes;
        let written = self.written();
        while self.cache_bytes > self.cache_limit {
            match self.cache.front() {
                Some((entry, size)) if entry.log_id.index < written => {
                    self.cache_bytes -= size;
                    self.cache.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Forgets cached entries from `since` on.
    pub fn truncate_cache(&mut self, since: u64) {
        while let Some((_, size)) = self.cache.pop_back_if(|(entry, _)| entry.log_id.index >= since) {
            self.cache_bytes -= size;
        }
    }

    /// Forgets cached entries up to `upto`.
    pub fn purge_cache(&mut self, upto: u64) {
        while let Some((_, size)) = self.cache.pop_front_if(|(entry, _)| entry.log_id.index <= upto) {
            self.cache_bytes -= size;
        }
    }

    /// Plans reading `start..end`, clipped to what there is. With `max_bytes` at least one entry and then no more than that.
    pub fn plan(&self, start: u64, end: u64, max_bytes: Option<usize>) -> ReadPlan {
        let mut plan = ReadPlan { files: Vec::new(), cached: Vec::new() };
        let Some(last) = self.last else { return plan };
        let mut next = start.max(self.purged.map_or(0, |purged| purged.index + 1));
        let end = end.min(last.index + 1);
        let mut budget = max_bytes.map_or(u64::MAX, |bytes| bytes as u64);
        let mut empty = true;
        let mut take = |size: u64| {
            let fits = empty || size <= budget;
            budget = budget.saturating_sub(size);
            empty = false;
            fits
        };
        let cached_from = self.cache.front().map_or(last.index + 1, |(entry, _)| entry.log_id.index);
        for segment in &self.segments {
            if next >= end.min(cached_from) {
                break;
            }
            next = next.max(self.segments.front().map_or(next, |oldest| oldest.first));
            let Some((first_start, _)) = segment.range(next) else { continue };
            let mut read = FileRead {
                path: segment.path.clone(),
                file: segment.file.clone(),
                start: first_start,
                ends: Vec::new(),
            };
            while next < end.min(cached_from)
                && let Some((from, to)) = segment.range(next)
            {
                if !take(to - from) {
                    if !read.ends.is_empty() {
                        plan.files.push(read);
                    }
                    return plan;
                }
                read.ends.push(to);
                next += 1;
            }
            plan.files.push(read);
        }
        let skip = next.saturating_sub(cached_from) as usize;
        for (entry, size) in self.cache.iter().skip(skip) {
            if entry.log_id.index >= end || !take(*size as u64) {
                break;
            }
            plan.cached.push(entry.clone());
        }
        plan
    }

    /// The id of an entry if it can be told without reading a file.
    pub fn cached_id(&self, index: u64) -> Option<LogId> {
        let first = self.cache.front()?.0.log_id.index;
        Some(self.cache.get(index.checked_sub(first)? as usize)?.0.log_id)
    }
}
