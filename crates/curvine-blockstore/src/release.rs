//! From authoritative content to a clean copy: the under file system has it.

use curvine_types::Result;
use curvine_types::limits::CHUNK_SIZE;

use crate::chunks::Chunk;
use crate::content::mismatch;
use crate::record::{Body, Create, Exposed, Record, pieces_bodies};
use crate::recovery::cached_bytes;
use crate::store::BlockStore;
use crate::types::*;

/// Records that one append to the index carries at most.
const RECORDS_PER_APPEND: usize = 4;

impl BlockStore {
    /// The attributes of a content that was sealed with this epoch; `VersionMismatch` if it is not sealed, or was with another.
    pub fn sealed(&self, key: ContentKey, version: u64, epoch: u64) -> Result<LiveAttr> {
        let content = self.find(key)?;
        let state = content.state.read();
        state.check_read(key, version)?;
        if state.kind != ContentKind::Sealed || state.epoch != epoch {
            return Err(mismatch(key, "the content is not sealed with this epoch", state.epoch, epoch));
        }
        Ok(state.attr)
    }

    /// What a content takes that nobody else may have; `None` if it is not here, or a copy.
    pub fn own_bytes(&self, key: ContentKey) -> Option<OwnBytes> {
        let content = self.get(key)?;
        let state = content.state.read();
        let is_own = !state.deleted && matches!(state.kind, ContentKind::Live | ContentKind::Sealed);
        is_own.then_some(OwnBytes { bytes: state.charged, live: state.kind == ContentKind::Live })
    }

    /// A sealed content is from now on a clean copy, which may be evicted. Again: a no-op. What is not here is fine.
    pub fn release(&self, key: ContentKey) -> Result<()> {
        let Some(content) = self.get(key) else { return Ok(()) };
        let tier = &self.tiers[content.tier];
        tier.check()?;
        let _sync = content.sync.lock();
        let mut state = content.state.write();
        if state.deleted || state.kind == ContentKind::Cached {
            return Ok(());
        }
        if state.kind == ContentKind::Lost {
            return self.remove(&content, &mut state);
        }
        if state.kind != ContentKind::Sealed {
            return Err(mismatch(key, "the content is not sealed", state.version, 0));
        }
        let size = state.attr.size;
        let mut chunks = state.chunks.clone();
        for number in 0..size.div_ceil(CHUNK_SIZE) {
            if chunks.get(number).is_none() {
                chunks.insert(number, Chunk::Hole);
            }
        }
        // Should the records after the first be lost, all of the copy is absent, which is no loss.
        let create = Create { version: 0, epoch: 0, size, mtime_sec: 0, mtime_nsec: 0 };
        let mut records = vec![Record::new(key, Body::Create(create))];
        records.extend(pieces_bodies(&chunks).into_iter().map(|body| Record::new(key, body)));
        if state.exposure != Exposure::None {
            let exposed = Exposed { level: state.exposure as u32, session: 0 };
            records.push(Record::new(key, Body::Exposed(exposed)));
        }
        for some in records.chunks(RECORDS_PER_APPEND) {
            state.logged = tier.log(some)?;
        }
        // What it takes counts as clean from now on.
        let charged = state.charged;
        tier.charge(&mut state, 0);
        state.kind = ContentKind::Cached;
        tier.charge_copy(&content, &mut state, charged);
        state.version = 0;
        state.epoch = 0;
        state.chunks = chunks;
        let charged = cached_bytes(&state);
        tier.charge_copy(&content, &mut state, charged);
        drop(state);
        tier.candidates.lock().insert(content.clone());
        Ok(())
    }
}
