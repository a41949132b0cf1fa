//! Reading: plans, verified loading, attributes, data and holes.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use curvine_types::limits::{CHUNK_SIZE, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, Result};

use crate::chunks::Chunk;
use crate::content::{Content, State};
use crate::disk::{self, DiskOp, crc32c};
use crate::record::{Absent, Body, Record};
use crate::store::BlockStore;
use crate::types::*;

/// Most pieces of `ContentMap.states`; a larger file is shown up to there.
const MAP_CHUNKS_MAX: u64 = 1 << 20;

impl BlockStore {
    /// How to read `len` bytes at `offset`, widened to pieces. Data that may have suffered in an unclean boot is verified
    /// first: damaged clean copies become absent, damaged authoritative data is `DataLoss`.
    pub fn read(&self, key: ContentKey, version: u64, offset: u64, len: u64) -> Result<ReadPlan> {
        let content = self.find(key)?;
        self.used(&content);
        for _ in 0..2 {
            let state = self.read_state(&content)?;
            state.check_read(key, version)?;
            let (start, end) = widen(offset, len, state.attr.size);
            let suspects = suspects_in(&state, start, end);
            if suspects.is_empty() {
                return self.plan(&content, &state, start, end);
            }
            drop(state);
            self.verify_chunks(&content, &suspects)?;
        }
        // Verified chunks became suspect again: it cannot be, and waiting for it to end would have no bound.
        Err(Error::new(ErrorKind::Internal, "verified data is still suspect").with("inode", key.inode))
    }

    /// As `read` when that takes no look at the disk and no waiting, for callers that must not block.
    pub fn read_now(&self, key: ContentKey, version: u64, offset: u64, len: u64) -> Option<ReadPlan> {
        let content = self.find(key).ok()?;
        let state = content.state.try_read()?;
        state.check_read(key, version).ok()?;
        let (start, end) = widen(offset, len, state.attr.size);
        let at_hand = state.kind != ContentKind::Live
            && self.open_files.get(content.id).is_some()
            && suspects_in(&state, start, end).is_empty();
        if !at_hand {
            return None;
        }
        self.used(&content);
        self.plan(&content, &state, start, end).ok()
    }

    /// Which of the chunks `first..end` of a clean copy are absent; of content that is not here or out of service, all. Takes
    /// no look at the disk.
    pub fn missing_chunks(&self, key: ContentKey, first: u64, end: u64) -> Vec<u64> {
        let Ok(content) = self.find(key) else { return (first..end).collect() };
        let state = content.state.read();
        let cached = state.kind == ContentKind::Cached && !state.deleted;
        (first..end).filter(|number| !cached || state.chunks.get(*number).is_none()).collect()
    }

    /// Compares the data of a range with its checksums, for a reader whom it reached damaged. `Ok` if the disk is right;
    /// damaged clean copies are absent afterwards, damaged authoritative data is `DataLoss`.
    pub fn verify(&self, key: ContentKey, version: u64, offset: u64, len: u64) -> Result<()> {
        let content = self.find(key)?;
        let chunks = {
            let state = content.state.read();
            state.check_read(key, version)?;
            let (start, end) = widen(offset, len, state.attr.size);
            if state.kind == ContentKind::Live || start >= end {
                Vec::new()
            } else {
                chunk_numbers(start, end).collect()
            }
        };
        self.verify_chunks(&content, &chunks)
    }

    /// The bytes of a data segment of a plan, verified if its checksums are kept. Of live content possibly fewer than
    /// planned, if it was truncated meanwhile.
    pub fn load(&self, key: ContentKey, segment: &Segment) -> Result<Vec<u8>> {
        let Segment::Data { file, offset, len, crcs } = segment else {
            return Ok(Vec::new());
        };
        let content = self.find(key)?;
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let mut data = vec![0; *len as usize];
        self.disk
            .before(DiskOp::Read, &path)
            .and_then(|()| {
                let mut got = 0;
                while got < data.len() {
                    match file.read_at(&mut data[got..], offset + got as u64) {
                        Ok(0) => break,
                        Ok(more) => got += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                data.truncate(got);
                Ok(())
            })
            .map_err(|error| tier.fault(error, "cannot read", &path))?;
        let Some(crcs) = crcs else { return Ok(data) };
        let right = data.len() as u64 == *len
            && data.chunks(PIECE_SIZE as usize).zip(crcs).all(|(piece, crc)| crc32c(piece) == *crc);
        if !right {
            let state = content.state.read();
            let (kind, version) = (state.kind, state.version);
            drop(state);
            // A live content may have been opened and rewritten since the plan was made; then there is nothing wrong.
            if kind != ContentKind::Live {
                self.verify(key, version, *offset, *len)?;
            }
            return Err(Error::new(ErrorKind::VersionMismatch, "the content changed while it was read; read again")
                .with("inode", key.inode)
                .with("offset", offset));
        }
        Ok(data)
    }

    /// Size, mtime and blocks.
    pub fn stat(&self, key: ContentKey, version: u64) -> Result<LiveAttr> {
        let content = self.find(key)?;
        let state = self.read_state(&content)?;
        state.check_read(key, version)?;
        Ok(state.attr)
    }

    /// First data at or after `offset`; `NoDevice` if there is none. What is absent counts as data.
    pub fn seek_data(&self, key: ContentKey, version: u64, offset: u64) -> Result<u64> {
        self.seek(key, version, offset, false)
    }

    /// First hole at or after `offset`; the end of the content is one. `NoDevice` at and beyond the end.
    pub fn seek_hole(&self, key: ContentKey, version: u64, offset: u64) -> Result<u64> {
        self.seek(key, version, offset, true)
    }

    /// What of a content is here.
    pub fn map(&self, key: ContentKey, version: u64) -> Result<ContentMap> {
        let content = self.find(key)?;
        let state = self.read_state(&content)?;
        if state.kind != ContentKind::Lost {
            state.check_read(key, version)?;
        }
        let tier = &self.tiers[content.tier];
        let size = state.attr.size;
        let count = chunks_in(size).min(MAP_CHUNKS_MAX);
        let mut states: Vec<ChunkState> = match state.kind {
            ContentKind::Live => {
                let file = self.file(&content)?;
                let path = tier.path_of(key);
                live_states(&file, size, count).map_err(|error| tier.fault(error, "cannot look for holes", &path))?
            }
            ContentKind::Sealed => vec![ChunkState::Hole; count as usize],
            ContentKind::Cached | ContentKind::Lost => vec![ChunkState::Absent; count as usize],
        };
        if state.kind != ContentKind::Live {
            for (number, chunk) in state.chunks.iter() {
                if let Some(slot) = states.get_mut(number as usize) {
                    *slot = if *chunk == Chunk::Hole { ChunkState::Hole } else { ChunkState::Present };
                }
            }
        }
        let present_bytes = (0u64..)
            .zip(&states)
            .filter(|(_, state)| **state == ChunkState::Present)
            .map(|(number, _)| (size - number * CHUNK_SIZE).min(CHUNK_SIZE))
            .sum();
        Ok(ContentMap {
            kind: state.kind,
            size,
            states,
            tier: tier.config.kind,
            path: tier.path_of(key),
            present_bytes,
            pinned: content.pinned.load(Ordering::Relaxed),
        })
    }

    fn plan(&self, content: &Content, state: &State, start: u64, end: u64) -> Result<ReadPlan> {
        let live = state.kind == ContentKind::Live;
        let mut plan = ReadPlan { segments: Vec::new(), size: state.attr.size, live };
        if start >= end {
            return Ok(plan);
        }
        let file = match self.file(content) {
            // A clean copy without its file is absent; its entry goes with the next fill or eviction.
            Err(error) if error.kind() == ErrorKind::DataLoss && state.kind == ContentKind::Cached => {
                plan.segments.push(Segment::Absent { offset: start, len: end - start });
                return Ok(plan);
            }
            other => other?,
        };
        if live {
            let tier = &self.tiers[content.tier];
            let path = tier.path_of(content.key);
            let data =
                disk::next_data(&file, start).map_err(|error| tier.fault(error, "cannot look for data", &path))?;
            plan.segments.push(match data {
                Some(data) if data < end => Segment::Data { file, offset: start, len: end - start, crcs: None },
                _ => Segment::Hole { offset: start, len: end - start },
            });
            return Ok(plan);
        }
        for number in chunk_numbers(start, end) {
            let from = start.max(number * CHUNK_SIZE);
            let to = end.min((number + 1) * CHUNK_SIZE);
            let len = to - from;
            let segment = match (state.chunks.get(number), state.kind) {
                (Some(Chunk::Hole), _) | (None, ContentKind::Sealed) => Segment::Hole { offset: from, len },
                (None, _) => Segment::Absent { offset: from, len },
                (Some(Chunk::Data(sums)), _) => {
                    let first = ((from % CHUNK_SIZE) / PIECE_SIZE) as usize;
                    let count = len.div_ceil(PIECE_SIZE) as usize;
                    let crcs: Option<Vec<u32>> = (first..first + count).map(|piece| sums.get(piece)).collect();
                    Segment::Data { file: file.clone(), offset: from, len, crcs }
                }
            };
            push_joined(&mut plan.segments, segment);
        }
        Ok(plan)
    }

    /// Compares chunks with their checksums; see `verify`.
    pub(crate) fn verify_chunks(&self, content: &Content, numbers: &[u64]) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        let mut data = vec![0; PIECE_SIZE as usize];
        for number in numbers {
            let (sums, size) = {
                let state = content.state.read();
                let Some(Chunk::Data(sums)) = state.chunks.get(*number) else { continue };
                (sums.clone(), state.attr.size)
            };
            let start = number * CHUNK_SIZE;
            let file = match self.file(content) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::DataLoss => None,
                Err(error) => return Err(error),
            };
            let mut damaged = file.is_none().then_some(start);
            for (piece, at) in (start..size.min(start + CHUNK_SIZE)).step_by(PIECE_SIZE as usize).enumerate() {
                let len = (size - at).min(PIECE_SIZE) as usize;
                let Some(file) = &file else { break };
                let right = match self.disk.read(file, &path, &mut data[..len], at) {
                    Ok(()) => sums.get(piece) == Some(crc32c(&data[..len])),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                    Err(error) => return Err(tier.fault(error, "cannot read", &path)),
                };
                if !right {
                    damaged = Some(at);
                    break;
                }
            }
            let mut state = content.state.write();
            // What was changed, deleted or opened for writing meanwhile was not what was compared.
            let unchanged = matches!(state.chunks.get(*number), Some(Chunk::Data(now)) if *now == sums);
            if state.deleted || state.kind == ContentKind::Live || !unchanged {
                continue;
            }
            let Some(at) = damaged else {
                if let Some(Chunk::Data(sums)) = state.chunks.get_mut(*number) {
                    sums.suspect = false;
                }
                continue;
            };
            self.checksum_errors.fetch_add(1, Ordering::Relaxed);
            if state.kind == ContentKind::Cached {
                tracing::warn!(content = %content.key, offset = at, file = %path.display(), "a clean copy is damaged and dropped");
                let absent = Absent { first_chunk: *number, count: 1 };
                tier.log(&[Record::new(content.key, Body::Absent(absent))])?;
                state.chunks.remove(*number);
                let charged = crate::recovery::cached_bytes(&state);
                tier.charge_copy(content, &mut state, charged);
                continue;
            }
            tracing::error!(content = %content.key, offset = at, file = %path.display(), "data on the disk is damaged");
            return Err(Error::new(ErrorKind::DataLoss, "data on the disk is not what was written")
                .with("inode", content.key.inode)
                .with("generation", content.key.generation)
                .with("offset", at)
                .with("file", path.display()));
        }
        Ok(())
    }

    fn seek(&self, key: ContentKey, version: u64, offset: u64, hole: bool) -> Result<u64> {
        let content = self.find(key)?;
        let state = self.read_state(&content)?;
        state.check_read(key, version)?;
        let size = state.attr.size;
        let beyond = || Error::new(ErrorKind::NoDevice, "no such data or hole up to the end").with("offset", offset);
        if offset >= size {
            return Err(beyond());
        }
        let found = match state.kind {
            ContentKind::Cached => {
                let is_hole = |number: u64| matches!(state.chunks.get(number), Some(Chunk::Hole));
                chunk_numbers(offset, size)
                    .find(|number| is_hole(*number) == hole)
                    .map(|number| offset.max(number * CHUNK_SIZE))
            }
            _ => {
                let file = self.file(&content)?;
                let tier = &self.tiers[content.tier];
                let path = tier.path_of(key);
                let found = if hole { disk::next_hole(&file, offset) } else { disk::next_data(&file, offset) };
                found.map_err(|error| tier.fault(error, "cannot look for data", &path))?
            }
        };
        match found {
            Some(found) if found < size => Ok(found),
            _ if hole => Ok(size),
            _ => Err(beyond()),
        }
    }
}

/// Numbers of the chunks that `start..end`, not empty, touches.
fn chunk_numbers(start: u64, end: u64) -> std::ops::RangeInclusive<u64> {
    chunk_of(start)..=chunk_of(end.max(1) - 1)
}

pub(crate) fn suspects_in(state: &State, start: u64, end: u64) -> Vec<u64> {
    if state.kind == ContentKind::Live || start >= end {
        return Vec::new();
    }
    chunk_numbers(start, end)
        .filter(|number| matches!(state.chunks.get(*number), Some(Chunk::Data(sums)) if sums.suspect))
        .collect()
}

/// Appends a segment, as part of the last one if they are alike.
fn push_joined(segments: &mut Vec<Segment>, segment: Segment) {
    match (segments.last_mut(), segment) {
        (Some(Segment::Hole { len, .. }), Segment::Hole { len: more, .. })
        | (Some(Segment::Absent { len, .. }), Segment::Absent { len: more, .. }) => *len += more,
        (Some(Segment::Data { len, crcs: Some(crcs), .. }), Segment::Data { len: more, crcs: Some(more_crcs), .. }) => {
            *len += more;
            crcs.extend(more_crcs);
        }
        (_, segment) => segments.push(segment),
    }
}

/// Which chunks of a live content have data.
fn live_states(file: &std::fs::File, size: u64, count: u64) -> io::Result<Vec<ChunkState>> {
    let mut states = vec![ChunkState::Hole; count as usize];
    let mut at = 0;
    while at < size {
        let Some(data) = disk::next_data(file, at)? else { break };
        let number = chunk_of(data);
        let Some(slot) = states.get_mut(number as usize) else { break };
        *slot = ChunkState::Present;
        at = (number + 1) * CHUNK_SIZE;
    }
    Ok(states)
}
