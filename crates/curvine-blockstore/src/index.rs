//! The index log of one tier directory: append, sync, compact, replay.
//!
//! What always holds: the file starts with a checksummed header that names cluster and worker; bytes before `end` are
//! whole records; a record is in the file (`write(2)`) when `append` returns and on the disk when `sync` returns.
//! A torn tail is cut. Damage before the tail keeps the old file aside for people and starts a new log from what could be
//! read.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvine_types::{ClusterId, Error, ErrorKind, Result};
use parking_lot::Mutex;
use prost::Message;

use crate::disk::{Disk, DiskOp, crc32c, io_error};
use crate::record::{BODY_MAX, FRAME_LEN, Record, Replay, frame_crc};

/// Bytes of a header.
pub(crate) const HEADER_LEN: u64 = 64;
const MAGIC: &[u8; 8] = b"CVINDEX\n";
/// Version of the format that this code writes; it reads only this one so far.
const FORMAT: u32 = 1;

/// Whose directory this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub cluster: ClusterId,
    pub worker: [u8; 16],
}

impl Identity {
    /// `magic 8, format u32, flags u32, cluster 16, worker 16, reserved 12, CRC-32C u32`.
    pub fn encode(&self) -> [u8; HEADER_LEN as usize] {
        let mut bytes = [0; HEADER_LEN as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster.0);
        bytes[32..48].copy_from_slice(&self.worker);
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `Corrupt` if these are not the bytes of a header, `Foreign` if they are of a format that this version cannot read.
    pub fn decode(bytes: &[u8; HEADER_LEN as usize]) -> Result<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if &bytes[..8] != MAGIC || word(60) != crc32c(&bytes[..60]) {
            return Err(Error::new(ErrorKind::Corrupt, "damaged header"));
        }
        if word(8) != FORMAT {
            return Err(Error::new(ErrorKind::Foreign, "written by another version of curvine")
                .with("have", word(8))
                .with("want", FORMAT));
        }
        let mut worker = [0; 16];
        worker.copy_from_slice(&bytes[32..48]);
        Ok(Self { cluster: ClusterId::from_slice(&bytes[16..32])?, worker })
    }
}

/// What was wrong with a log when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    None,
    /// Bytes after the last whole record, as a crash leaves them.
    Torn {
        at: u64,
    },
    /// Whole records follow after damaged ones, or the header is unreadable: acknowledged state may be missing.
    Corrupt {
        at: u64,
    },
    /// There was no log.
    Missing,
}

/// A place in the log, which survives compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Which file, counted since the log was opened.
    file: u64,
    end: u64,
}

pub(crate) struct IndexLog {
    disk: Disk,
    path: PathBuf,
    identity: Identity,
    tail: Mutex<Tail>,
    synced: Mutex<Position>,
}

struct Tail {
    file: Arc<File>,
    number: u64,
    end: u64,
    /// A failed append may have left bytes after `end`.
    torn: bool,
    /// Size right after the last compaction.
    compacted: u64,
}

impl IndexLog {
    /// Opens or makes the log at `path` and replays it.
    pub fn open(disk: Disk, path: PathBuf, identity: Identity) -> Result<(Self, Replay, Damage)> {
        let failed = |error| io_error(error, "cannot open the index", &path);
        let mut replay = Replay::default();
        let mut damage = Damage::None;
        let mut end = HEADER_LEN;
        match disk.open(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => damage = Damage::Missing,
            Err(error) => return Err(failed(error)),
            Ok(file) => match read_identity(&file) {
                Ok(found) if found == identity => {
                    let len = file.metadata().map_err(failed)?.len();
                    end = replay_range(&file, HEADER_LEN, len, &mut replay).map_err(failed)?;
                    if end < len {
                        let more = finds_record(&file, end + 1, len).map_err(failed)?;
                        damage = if more { Damage::Corrupt { at: end } } else { Damage::Torn { at: end } };
                    }
                }
                Ok(found) => {
                    return Err(Error::new(ErrorKind::Foreign, "the index belongs to another cluster or worker")
                        .with("file", path.display())
                        .with("cluster", found.cluster));
                }
                Err(error) if error.kind() == ErrorKind::Foreign => return Err(error.with("file", path.display())),
                Err(error) if error.kind() == ErrorKind::Corrupt => damage = Damage::Corrupt { at: 0 },
                Err(error) => return Err(error.with("file", path.display())),
            },
        }
        let file = match damage {
            Damage::None => disk.open(&path, false).map_err(failed)?,
            Damage::Torn { at } => {
                tracing::warn!(file = %path.display(), offset = at, "cut a torn record off the end of an index");
                let file = disk.open(&path, false).map_err(failed)?;
                disk.truncate(&file, &path, at).map_err(failed)?;
                file
            }
            Damage::Corrupt { at } => {
                let aside = path.with_extension(format!("damaged-{at}"));
                tracing::error!(file = %path.display(), offset = at, kept = %aside.display(),
                    "an index is damaged: data whose entry was lost will answer with errors until it is deleted or replaced");
                std::fs::rename(&path, &aside).map_err(failed)?;
                end = write_whole(&disk, &path, &identity, &replay).map_err(failed)?;
                disk.open(&path, false).map_err(failed)?
            }
            Damage::Missing => {
                end = write_whole(&disk, &path, &identity, &replay).map_err(failed)?;
                disk.open(&path, false).map_err(failed)?
            }
        };
        let tail = Tail { file: Arc::new(file), number: 1, end, torn: false, compacted: end };
        Ok((Self { disk, path, identity, tail: Mutex::new(tail), synced: Mutex::default() }, replay, damage))
    }

    /// Appends records as one write. After an error nothing of them counts.
    pub fn append(&self, records: &[Record]) -> io::Result<Position> {
        let mut bytes = Vec::with_capacity(64 * records.len());
        for record in records {
            record.encode_framed(&mut bytes);
        }
        let mut tail = self.tail.lock();
        if tail.torn {
            self.disk.truncate(&tail.file, &self.path, tail.end)?;
            tail.torn = false;
        }
        if let Err(error) = self.disk.write(DiskOp::IndexWrite, &tail.file, &self.path, &bytes, tail.end) {
            tail.torn = true;
            return Err(error);
        }
        tail.end += bytes.len() as u64;
        Ok(Position { file: tail.number, end: tail.end })
    }

    /// Returns once everything up to `position` is on the disk. Callers that wait at once share one sync.
    pub fn sync(&self, position: Position) -> io::Result<()> {
        let mut synced = self.synced.lock();
        if *synced >= position {
            return Ok(());
        }
        let (file, reached) = {
            let tail = self.tail.lock();
            (tail.file.clone(), Position { file: tail.number, end: tail.end })
        };
        self.disk.sync(DiskOp::IndexSync, &file, &self.path)?;
        *synced = reached;
        Ok(())
    }

    /// Bytes in the log now, and right after it was last compacted.
    pub fn len(&self) -> (u64, u64) {
        let tail = self.tail.lock();
        (tail.end, tail.compacted)
    }

    /// Rewrites the log without what later records made void. Appends wait only while what came in meanwhile is copied.
    pub fn compact(&self) -> io::Result<()> {
        let (file, end) = {
            let tail = self.tail.lock();
            (tail.file.clone(), tail.end)
        };
        let mut replay = Replay::default();
        let read = replay_range(&file, HEADER_LEN, end, &mut replay)?;
        if read != end {
            return Err(io::Error::other(format!("record at {read} of the index cannot be read back")));
        }
        let fresh_path = self.path.with_extension("new");
        let mut fresh_end = write_whole(&self.disk, &fresh_path, &self.identity, &replay)?;
        drop(replay);
        let fresh = self.disk.open(&fresh_path, false)?;

        // `synced` before `tail`, as in `sync`: nobody may call the old file's position synced while files change places.
        let mut synced = self.synced.lock();
        let mut tail = self.tail.lock();
        let mut rest = vec![0; (tail.end - end) as usize];
        tail.file.read_exact_at(&mut rest, end)?;
        let compacted = fresh_end;
        self.disk.write(DiskOp::IndexWrite, &fresh, &fresh_path, &rest, fresh_end)?;
        fresh_end += rest.len() as u64;
        self.disk.sync(DiskOp::IndexSync, &fresh, &fresh_path)?;
        std::fs::rename(&fresh_path, &self.path)?;
        *tail = Tail { file: Arc::new(fresh), number: tail.number + 1, end: fresh_end, torn: false, compacted };
        // The old file is still a whole log if the machine dies before the rename is on the disk, but lacks what is
        // appended from here on: only a directory sync makes the new one count.
        if let Some(dir) = self.path.parent() {
            self.disk.sync_dir(dir)?;
        }
        *synced = Position { file: tail.number, end: fresh_end };
        Ok(())
    }
}

/// Reads the header of an index or identity file.
pub(crate) fn read_identity(file: &File) -> Result<Identity> {
    let mut bytes = [0; HEADER_LEN as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Identity::decode(&bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::new(ErrorKind::Corrupt, "shorter than its header"))
        }
        Err(error) => Err(Error::from_io(error, "cannot read a header")),
    }
}

/// Writes a compact log, durably, and returns its length.
fn write_whole(disk: &Disk, path: &Path, identity: &Identity, replay: &Replay) -> io::Result<u64> {
    let file = disk.open(path, true)?;
    disk.truncate(&file, path, 0)?;
    let mut buffer = identity.encode().to_vec();
    let mut written = 0;
    if let Some(id) = &replay.boot_id {
        Record::of_log(crate::record::Body::Boot(id.clone())).encode_framed(&mut buffer);
    }
    for (key, known) in &replay.contents {
        for record in known.records(*key) {
            record.encode_framed(&mut buffer);
        }
        if buffer.len() >= 1 << 20 {
            disk.write(DiskOp::IndexWrite, &file, path, &buffer, written)?;
            written += buffer.len() as u64;
            buffer.clear();
        }
    }
    disk.write(DiskOp::IndexWrite, &file, path, &buffer, written)?;
    written += buffer.len() as u64;
    disk.sync(DiskOp::IndexSync, &file, path)?;
    if let Some(dir) = path.parent() {
        disk.sync_dir(dir)?;
    }
    Ok(written)
}

/// Applies the records of `start..end` to `replay`; returns where the first byte that is no whole record stands.
fn replay_range(file: &File, start: u64, end: u64, replay: &mut Replay) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, Section { file, at: start, end });
    let mut at = start;
    let mut body = Vec::new();
    loop {
        let mut frame = [0; FRAME_LEN];
        if end - at < FRAME_LEN as u64 {
            return Ok(at);
        }
        reader.read_exact(&mut frame)?;
        let (len, crc) = parse_frame(&frame);
        if len as usize > BODY_MAX || u64::from(len) > end - at - FRAME_LEN as u64 {
            return Ok(at);
        }
        body.resize(len as usize, 0);
        reader.read_exact(&mut body)?;
        if frame_crc(len, &body) != crc {
            return Ok(at);
        }
        let Ok(record) = Record::decode(&body[..]) else { return Ok(at) };
        replay.apply(&record);
        at += FRAME_LEN as u64 + u64::from(len);
    }
}

/// Whether a whole record begins anywhere in `start..end`: then what lies before it is damage, not a torn tail.
fn finds_record(file: &File, start: u64, end: u64) -> io::Result<bool> {
    // A torn tail is at most one append long; damage further back than this has been compacted or is found by its records.
    const SEARCH_MAX: u64 = 8 << 20;
    let mut bytes = vec![0; end.saturating_sub(start).min(SEARCH_MAX) as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok((0..bytes.len().saturating_sub(FRAME_LEN)).any(|at| {
        let Some(frame) = bytes[at..].first_chunk::<FRAME_LEN>() else { return false };
        let (len, crc) = parse_frame(frame);
        // An empty body would make eight zero bytes a record.
        (2..=BODY_MAX as u32).contains(&len)
            && bytes.get(at + FRAME_LEN..at + FRAME_LEN + len as usize).is_some_and(|body| {
                frame_crc(len, body) == crc && Record::decode(body).is_ok_and(|record| record.body.is_some())
            })
    }))
}

fn parse_frame(frame: &[u8; FRAME_LEN]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *frame;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// A range of a file as a reader that leaves the file's own position alone.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min((self.end - self.at) as usize);
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}
