//! Clean copies of an under file system's objects: made empty, filled chunk by chunk, evicted whole.
//!
//! What always holds: a chunk becomes present after its data is in the file and its checksums are in the index; what a fill
//! finds present it leaves alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use curvine_types::limits::{CHUNK_SIZE, FILE_SIZE_MAX, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, Result};

use crate::chunks::{Chunk, ChunkMap, PieceSums};
use crate::content::{Content, State, mismatch, not_here};
use crate::disk::{DiskOp, crc32c};
use crate::record::{Body, Create, Record, pieces_bodies};
use crate::store::BlockStore;
use crate::types::*;

impl BlockStore {
    /// Makes sure that there is a clean copy of this size, possibly without any data yet.
    pub fn prepare_cached(&self, key: ContentKey, size: u64) -> Result<()> {
        self.prepare(key, size, false)
    }

    /// As `prepare_cached`, of content whose home is another worker. It is evicted before all others.
    pub fn prepare_copy(&self, key: ContentKey, size: u64) -> Result<()> {
        self.prepare(key, size, true)
    }

    /// Bytes of such copies; after a restart they count as others do.
    pub fn copied_bytes(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.copied_bytes()).sum()
    }

    fn prepare(&self, key: ContentKey, size: u64, secondary: bool) -> Result<()> {
        if size > FILE_SIZE_MAX {
            return Err(
                Error::new(ErrorKind::FileTooLarge, "beyond the largest file size").with("limit", FILE_SIZE_MAX)
            );
        }
        if let Some(there) = self.get(key) {
            self.tiers[there.tier].check()?;
            let mut state = there.state.write();
            match state.kind {
                ContentKind::Cached if state.attr.size == size && !state.deleted => {
                    return self.recreate_missing(&there, &mut state);
                }
                // Nobody knows what was in it; as a copy it is worth nothing.
                ContentKind::Lost => self.remove(&there, &mut state)?,
                _ if state.deleted => {}
                _ => return Err(mismatch(key, "a content of another kind or size is here", state.attr.size, size)),
            }
        }
        let tier_number = self.choose_tier(size, false)?;
        let tier = &self.tiers[tier_number];
        let mut state = State::new(ContentKind::Cached, 0, 0);
        state.attr.size = size;
        let content = Arc::new(Content::new(key, tier_number, state));
        let mut state = content.state.write();
        if self.insert(content.clone()).is_some() {
            // Somebody else made it just now; if it is of another size its user will hear of it.
            return Ok(());
        }
        let create = Create { version: 0, epoch: 0, size, mtime_sec: 0, mtime_nsec: 0 };
        let made = tier.log(&[Record::new(key, Body::Create(create))]).and_then(|_| self.create_file(&content, size));
        match &made {
            Ok(()) => {
                content.secondary.store(secondary, Ordering::Relaxed);
                tier.add_candidate(content.clone());
            }
            Err(_) => {
                let _ = self.remove(&content, &mut state);
                state.deleted = true;
            }
        }
        made
    }

    /// Makes whole chunks present. `offset` is a multiple of the chunk size; `data` ends at a chunk's end or at the end of
    /// the content. `NoSpace` if nothing can be evicted to make room: the caller serves the data without keeping it.
    pub fn fill(&self, key: ContentKey, offset: u64, data: &[u8]) -> Result<()> {
        let content = self.find(key)?;
        let size = {
            let state = content.state.read();
            check_fill(&state, key)?;
            state.attr.size
        };
        let end = offset.saturating_add(data.len() as u64);
        if !offset.is_multiple_of(CHUNK_SIZE) || end > size || (!end.is_multiple_of(CHUNK_SIZE) && end != size) {
            return Err(Error::new(ErrorKind::InvalidArgument, "a fill covers whole chunks")
                .with("offset", offset)
                .with("length", data.len()));
        }
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let mut fresh = ChunkMap::default();
        for (number, chunk) in (chunk_of(offset)..).zip(data.chunks(CHUNK_SIZE as usize)) {
            if content.state.read().chunks.get(number).is_some() {
                continue;
            }
            if is_zero(chunk) {
                fresh.insert(number, Chunk::Hole);
                continue;
            }
            let crcs: Vec<u32> = chunk.chunks(PIECE_SIZE as usize).map(crc32c).collect();
            let _space = self.reserve(tier, chunk.len() as u64, Some(key), || chunk.len() as u64)?;
            let file = self.file(&content)?;
            // Without the state's lock: an absent chunk has no readers, and another fill writes the same bytes.
            self.disk
                .write(DiskOp::Write, &file, &path, chunk, number * CHUNK_SIZE)
                .map_err(|error| tier.fault(error, "cannot fill", &path))?;
            fresh.insert(number, Chunk::Data(Box::new(PieceSums::all(&crcs))));
            self.commit_fill(&content, std::mem::take(&mut fresh))?;
        }
        self.commit_fill(&content, fresh)
    }

    /// Logs chunks whose data is in the file, and makes them present.
    fn commit_fill(&self, content: &Content, fresh: ChunkMap) -> Result<()> {
        if fresh.len() == 0 {
            return Ok(());
        }
        let tier = &self.tiers[content.tier];
        let mut state = content.state.write();
        check_fill(&state, content.key)?;
        let records: Vec<Record> =
            pieces_bodies(&fresh).into_iter().map(|body| Record::new(content.key, body)).collect();
        state.logged = tier.log(&records)?;
        let mut charged = state.charged;
        for (number, chunk) in fresh.iter() {
            if state.chunks.get(number).is_none() && matches!(chunk, Chunk::Data(_)) {
                charged += (state.attr.size - number * CHUNK_SIZE).min(CHUNK_SIZE).next_multiple_of(4096);
            }
            state.chunks.insert(number, chunk.clone());
        }
        tier.charge_copy(content, &mut state, charged);
        Ok(())
    }

    /// The file of a clean copy may be gone (an unclean boot, an operator); then all of it is absent.
    fn recreate_missing(&self, content: &Content, state: &mut State) -> Result<()> {
        match self.file(content) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::DataLoss => {
                let tier = &self.tiers[content.tier];
                let size = state.attr.size;
                let create = Create { version: 0, epoch: 0, size, mtime_sec: 0, mtime_nsec: 0 };
                tier.log(&[Record::new(content.key, Body::Create(create))])?;
                tier.charge_copy(content, state, 0);
                state.chunks = ChunkMap::default();
                self.create_file(content, size)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a content can be filled.
fn check_fill(state: &State, key: ContentKey) -> Result<()> {
    if state.deleted {
        return Err(not_here(key));
    }
    if state.kind != ContentKind::Cached {
        return Err(mismatch(key, "only a clean copy can be filled", state.version, 0));
    }
    Ok(())
}

/// Whether all bytes are zero; fast, since nearly all data ends the search at once.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|block| block.iter().all(|byte| *byte == 0))
}
