//! Moves between tiers in the background: whole clean copies that are read often go to a faster tier that has room, and what a fuller one
//! would evict goes to a slower one, where the next victim makes way for it.
//!
//! Always: only whole clean copies that were never exposed move; nothing is evicted for a promotion; the bytes are compared with their checksums
//! on the way; the copy enters the table, and readers take it, only when it is complete, and then the old file goes. A crash in
//! between leaves the content in two tier directories, of which the next start drops one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use curvine_types::Result;
use curvine_types::limits::{CHUNK_SIZE, PIECE_SIZE};
use parking_lot::Mutex;

use crate::chunks::{Chunk, ChunkMap};
use crate::content::{Content, State};
use crate::disk::{DiskOp, crc32c};
use crate::record::{Body, Create, Nothing, Record, pieces_bodies};
use crate::recovery::cached_bytes;
use crate::store::BlockStore;
use crate::tier::Tier;
use crate::types::*;

/// Bytes moved in one round of upkeep; the last move may go beyond it.
pub(crate) const MOVED_PER_ROUND: u64 = 64 << 20;
/// Larger contents stay where they are: their copy would hold up the rest of the upkeep.
const LARGEST: u64 = 256 << 20;
/// Contents that wait to be promoted; more are found again by their next readers.
const HOT_MAX: usize = 1024;
/// Contents that make way for one that comes down.
const VICTIMS_MAX: usize = 16;
/// Records that one append to the index carries at most.
const RECORDS_PER_APPEND: usize = 4;

/// Contents that wait to be promoted, the first to be noticed first.
#[derive(Default)]
pub(crate) struct Hot(Mutex<VecDeque<ContentKey>>);

impl Hot {
    fn note(&self, key: ContentKey) {
        let mut waiting = self.0.lock();
        if waiting.len() < HOT_MAX {
            waiting.push_back(key);
        }
    }

    fn take(&self) -> Option<ContentKey> {
        self.0.lock().pop_front()
    }
}

impl BlockStore {
    /// A reader is here; what is read often is noted for promotion.
    pub(crate) fn used(&self, content: &Content) {
        if content.touch() && self.tiers[..content.tier].iter().any(|tier| self.is_faster(tier, content.tier)) {
            self.hot.note(content.key);
        }
    }

    /// Directories are configured with the fastest first; those of one kind are alike.
    fn is_faster(&self, tier: &Tier, than: usize) -> bool {
        tier.config.kind != self.tiers[than].config.kind
    }

    /// Promotes what waits for it, as far as there is room and the budget lasts.
    pub(crate) fn promote_some(&self, budget: &mut u64) {
        while *budget > 0 {
            let Some(key) = self.hot.take() else { return };
            let Some(content) = self.get(key) else { continue };
            let size = content.state.read().charged;
            let fits =
                |number: &usize| self.is_faster(&self.tiers[*number], content.tier) && self.has_room(*number, size);
            let Some(to) = (0..content.tier).find(fits) else { continue };
            if self.relocate(&content, to) {
                self.promotions.fetch_add(1, Ordering::Relaxed);
                *budget = budget.saturating_sub(size);
            }
        }
    }

    /// Moves what was about to be evicted to a slower tier; false if it cannot go there.
    pub(crate) fn demote(&self, from: usize, content: &Arc<Content>, budget: &mut u64) -> bool {
        if *budget == 0 || content.secondary.load(Ordering::Relaxed) || content.pinned.load(Ordering::Relaxed) {
            return false;
        }
        // Never wait for a reader here.
        let Some(size) = content.state.try_read().map(|state| state.charged) else { return false };
        let slower = |number: &usize| self.is_faster(&self.tiers[*number], from);
        let Some(to) = (from + 1..self.tiers.len()).find(|number| slower(number) && self.make_room(*number, size))
        else {
            return false;
        };
        let moved = self.relocate(content, to);
        if moved {
            self.demotions.fetch_add(1, Ordering::Relaxed);
            *budget = budget.saturating_sub(size);
        }
        moved
    }

    /// The same, after its next victims have made way if need be.
    fn make_room(&self, number: usize, bytes: u64) -> bool {
        for _ in 0..VICTIMS_MAX {
            if self.has_room(number, bytes) {
                return true;
            }
            if self.tiers[number].check().is_err() || !self.evict_one(&self.tiers[number], None).unwrap_or(false) {
                return false;
            }
        }
        false
    }

    /// Whether a tier works and takes so many bytes without passing its high watermark.
    fn has_room(&self, number: usize, bytes: u64) -> bool {
        let tier = &self.tiers[number];
        if tier.check().is_err() {
            return false;
        }
        let (_, free) = tier.room();
        let below = tier.config.watermarks.is_none_or(|(high, _)| tier.used() + bytes <= tier.share(high));
        bytes <= free && below
    }

    /// Moves a content to another tier directory; false if it cannot move, or the move failed.
    fn relocate(&self, content: &Arc<Content>, to: usize) -> bool {
        let (size, chunks) = {
            let state = content.state.read();
            // What is pinned is where there was room to pin it.
            if !may_move(&state) || content.pinned.load(Ordering::Relaxed) {
                return false;
            }
            (state.attr.size, state.chunks.clone())
        };
        match self
            .copy_to(content, to, size, &chunks)
            .and_then(|copied| if copied { self.switch(content, to, size, chunks) } else { Ok(false) })
        {
            Ok(true) => true,
            Ok(false) => {
                self.drop_copy(content.key, to);
                false
            }
            Err(error) => {
                tracing::warn!(content = %content.key, %error, "cannot move a content to another tier");
                self.drop_copy(content.key, to);
                false
            }
        }
    }

    /// Record and file in the other directory; false if there is no room or the bytes are not what they should be.
    fn copy_to(&self, content: &Content, to: usize, size: u64, chunks: &ChunkMap) -> Result<bool> {
        let (from, target) = (&self.tiers[content.tier], &self.tiers[to]);
        let Some(_space) = target.reserve(chunks.len() as u64 * CHUNK_SIZE) else { return Ok(false) };
        let (key, path, old_path) = (content.key, target.path_of(content.key), from.path_of(content.key));
        let source = self.file(content)?;
        let create = Create { version: 0, epoch: 0, size, mtime_sec: 0, mtime_nsec: 0 };
        // Before the file: one that no index knows would be lost space.
        target.log(&[Record::new(key, Body::Create(create))])?;
        let failed = |error| target.fault(error, "cannot copy a content to another tier", &path);
        self.disk.unlink(&path).map_err(failed)?;
        let file = self.disk.open(&path, true).map_err(failed)?;
        self.disk.truncate(&file, &path, size).map_err(failed)?;
        let mut data = vec![0; CHUNK_SIZE as usize];
        for (number, chunk) in chunks.iter() {
            let Chunk::Data(sums) = chunk else { continue };
            let offset = number * CHUNK_SIZE;
            let data = &mut data[..(size - offset).min(CHUNK_SIZE) as usize];
            self.disk
                .read(&source, &old_path, data, offset)
                .map_err(|error| from.fault(error, "cannot read a content that moves", &old_path))?;
            let right = data
                .chunks(PIECE_SIZE as usize)
                .enumerate()
                .all(|(piece, bytes)| sums.get(piece) == Some(crc32c(bytes)));
            if !right {
                // Its next reader finds out what is wrong.
                return Ok(false);
            }
            self.disk.write(DiskOp::Write, &file, &path, data, offset).map_err(failed)?;
        }
        let records: Vec<Record> = pieces_bodies(chunks).into_iter().map(|body| Record::new(key, body)).collect();
        records.chunks(RECORDS_PER_APPEND).try_for_each(|some| target.log(some).map(drop))?;
        Ok(true)
    }

    /// The copy takes the place of the content, if that is still what was copied.
    fn switch(&self, content: &Arc<Content>, to: usize, size: u64, chunks: ChunkMap) -> Result<bool> {
        let target = &self.tiers[to];
        let mut state = content.state.write();
        if !may_move(&state) || state.chunks != chunks || content.pinned.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut fresh = State::new(ContentKind::Cached, 0, 0);
        fresh.attr.size = size;
        fresh.chunks = chunks;
        let charged = cached_bytes(&fresh);
        let moved = Arc::new(Content::new(content.key, to, fresh));
        {
            // Before others see it, so that nobody takes it away before it is charged.
            let mut fresh = moved.state.write();
            if !self.replace(content, moved.clone()) {
                return Ok(false);
            }
            target.charge_copy(&moved, &mut fresh, charged);
        }
        target.give_back(moved);
        if let Err(error) = self.remove(content, &mut state) {
            // Its file stays as lost space until the next start, which finds it in both indexes.
            state.deleted = true;
            content.gone.store(true, Ordering::SeqCst);
            tracing::warn!(content = %content.key, %error, "what moved to another tier is not deleted in the old one");
        }
        Ok(true)
    }

    /// What was begun in the other directory is not needed.
    fn drop_copy(&self, key: ContentKey, to: usize) {
        let target = &self.tiers[to];
        // A content of its own may have come to be there meanwhile.
        if self.get(key).is_some_and(|there| there.tier == to) {
            return;
        }
        let dropped = self
            .disk
            .unlink(&target.path_of(key))
            .map_err(|error| target.fault(error, "cannot drop an unfinished copy", &target.path_of(key)))
            .and_then(|()| target.log(&[Record::new(key, Body::Delete(Nothing {}))]));
        if let Err(error) = dropped {
            tracing::warn!(content = %key, %error, "an unfinished copy stays until the next start");
        }
    }
}

/// A whole clean copy that nobody else has open, and not too large.
fn may_move(state: &State) -> bool {
    let whole = state.chunks.len() as u64 == chunks_in(state.attr.size);
    let trusted = state.chunks.iter().all(|(_, chunk)| !matches!(chunk, Chunk::Data(sums) if sums.suspect));
    state.kind == ContentKind::Cached
        && !state.deleted
        && state.exposure == Exposure::None
        && state.attr.size <= LARGEST
        && whole
        && trusted
}
