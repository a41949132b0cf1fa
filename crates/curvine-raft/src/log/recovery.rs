//! What is found of the log at the start, and the repair of what a crash leaves.
//!
//! * A tail that was being written when the process or the machine died was never acknowledged: it is cut, with a warning.
//! * Everything else that is not as it must be (damage before data that was durable later, a gap, a foreign file) is a refusal
//!   that names file and offset: going on would lose acknowledged changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use curvine_types::{ClusterId, Error, ErrorKind, Result};

use super::memory::Segment;
use super::segment::{self, HEADER_LEN, Header};
use crate::disk::Disk;
use crate::entry::LogId;
use crate::format::{WAY_OUT, corrupt};

/// The log as it lies on disk.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub segments: Vec<Segment>,
    /// The log id before the first entry.
    pub purged: Option<LogId>,
    /// The last entry, or `purged`.
    pub last: Option<LogId>,
    /// The last entry that is known to be committed.
    pub committed: Option<LogId>,
}

/// Reads all segments of `dir`, cuts a torn tail and removes files that a crash left over.
pub(crate) fn recover(disk: &Arc<dyn Disk>, dir: &Path, cluster: ClusterId) -> Result<Recovered> {
    let mut names = list(disk, dir)?;
    let headers: Vec<Header> = names
        .iter()
        .map(|(first, path)| {
            let header = read_header(disk.as_ref(), path, cluster)?;
            if header.first != *first {
                return Err(
                    corrupt(path, 32, "the segment's name and its first index differ").with("have", header.first)
                );
            }
            Ok(header)
        })
        .collect::<Result<_>>()?;
    // What lies before a segment that begins the log was about to be removed.
    let begin = headers.iter().rposition(|header| header.begins).unwrap_or(0);
    for (_, path) in names.drain(..begin) {
        disk.remove(&path).map_err(|source| io_failed(source, &path))?;
    }
    let mut recovered = Recovered::default();
    let mut committed = 0;
    let count = names.len();
    for (position, ((_, path), header)) in names.into_iter().zip(&headers[begin..]).enumerate() {
        if position == 0 {
            recovered.purged = header.previous;
        } else if header.previous != recovered.last
            || recovered.segments.last().is_some_and(|s| s.next() != header.first)
        {
            return Err(corrupt(&path, 32, "there is a gap in the log before this segment; a segment file is missing")
                .with("want", recovered.segments.last().map_or(0, Segment::next))
                .with("have", header.first));
        }
        let bytes = std::fs::read(&path).map_err(|source| io_failed(source, &path))?;
        let scan = segment::scan(&bytes, header.first);
        let length = scan.ends.last().map_or(HEADER_LEN as u64, |end| u64::from(*end));
        let file = disk.open(&path).map_err(|source| io_failed(source, &path))?;
        let is_last = position + 1 == count;
        // Zeroes behind the last record of all are room for the next ones.
        let bad = scan.bad.filter(|_| !(is_last && scan.room));
        if let Some((offset, what)) = bad {
            let next = header.first + scan.ends.len() as u64;
            let damaged = |error: Error| error.with("index", next).with("way out", WAY_OUT);
            if !is_last {
                return Err(damaged(corrupt(
                    &path,
                    offset,
                    format!("the log is damaged: {what}, but newer segments follow"),
                )));
            }
            if let Some(proof) = segment::proof_of_damage(&bytes, offset, next) {
                return Err(damaged(corrupt(
                    &path,
                    offset,
                    format!("the log is damaged: {what}, but it was durable before the good record at offset {proof}"),
                )));
            }
            tracing::warn!(
                file = %path.display(), offset, bytes = bytes.len() as u64 - offset, reason = what,
                "cut the torn tail of the log: it was being written when the process or the machine stopped"
            );
            file.set_len(length).and_then(|()| file.sync_data()).map_err(|source| io_failed(source, &path))?;
        }
        recovered.last = scan.last.or(recovered.last).or(recovered.purged);
        committed = committed.max(scan.committed);
        recovered.segments.push(Segment { first: header.first, path: path.into(), file, ends: scan.ends });
    }
    recovered.committed = committed_id(&recovered, committed)?;
    Ok(recovered)
}

/// The segment files in order of their first index; leftovers of a crash are removed.
fn list(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let failed = |source| Error::from_io(source, "cannot list the log").with("path", dir.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(first) = segment::parse_file_name(&name) {
            names.push((first, entry.path()));
        } else if name.starts_with("log-") && name.ends_with(".tmp") {
            disk.remove(&entry.path()).map_err(failed)?;
        }
    }
    names.sort();
    Ok(names)
}

fn read_header(disk: &dyn Disk, path: &Path, cluster: ClusterId) -> Result<Header> {
    let file = disk.open(path).map_err(|source| io_failed(source, path))?;
    let length = file.len().map_err(|source| io_failed(source, path))?;
    let mut bytes = vec![0; length.min(HEADER_LEN as u64) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|source| io_failed(source, path))?;
    Header::decode(&bytes, path, cluster)
}

/// Turns "index + 1 of a committed entry" into the id of the last such entry that is here.
fn committed_id(recovered: &Recovered, committed: u64) -> Result<Option<LogId>> {
    let Some(last) = recovered.last else { return Ok(None) };
    let Some(index) = committed.checked_sub(1).map(|index| index.min(last.index)) else { return Ok(None) };
    match recovered.segments.iter().rev().find(|segment| segment.first <= index && index < segment.next()) {
        Some(segment) => Ok(Some(segment.read(index)?.log_id)),
        None => Ok(recovered.purged.filter(|purged| purged.index >= index)),
    }
}

fn io_failed(source: std::io::Error, path: &Path) -> Error {
    let out_of_range = source.kind() == std::io::ErrorKind::UnexpectedEof;
    let error = Error::from_io(source, "cannot read the log").with("file", path.display());
    if out_of_range {
        Error::new(ErrorKind::Corrupt, "the log ended while it was read").caused_by(error)
    } else {
        error
    }
}

impl Segment {
    /// Reads one entry of this segment.
    pub fn read(&self, index: u64) -> Result<crate::entry::Entry> {
        let (start, end) = self
            .range(index)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the entry is not in this segment").with("index", index))?;
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut bytes, start).map_err(|source| io_failed(source, &self.path))?;
        segment::read_record(&Bytes::from(bytes), &self.path, start)
    }
}
