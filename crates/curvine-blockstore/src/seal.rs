//! Durability: `fsync` of live content, and `seal`, which also gives each piece its checksum.

use std::fs::File;
use std::path::Path;

use curvine_types::limits::{CHUNK_SIZE, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, Result};

use crate::chunks::{Chunk, ChunkMap, PIECES, PieceSums};
use crate::content::{Aside, Content, mismatch};
use crate::disk::{self, DiskOp, crc32c};
use crate::record::{Body, Live, Nothing, Record, Sealed, Synced, pieces_bodies};
use crate::store::BlockStore;
use crate::tier::Tier;
use crate::types::*;

/// Records that one append to the index carries at most, so that others are not kept waiting.
const RECORDS_PER_APPEND: usize = 4;

impl BlockStore {
    /// Makes all that was acknowledged of a live content durable; of any other, it is already.
    pub fn fsync(&self, key: ContentKey) -> Result<()> {
        let content = self.find(key)?;
        let _sync = content.sync.lock();
        let size = {
            let state = self.write_state(&content)?;
            state.check_read(key, state.version)?;
            if state.kind != ContentKind::Live {
                return Ok(());
            }
            state.attr.size
        };
        let file = self.file(&content)?;
        self.sync_data(&content, &file)?;
        let tier = &self.tiers[content.tier];
        let mut state = content.state.write();
        if state.deleted {
            return Ok(());
        }
        self.sync_name(&content, &mut state)?;
        // A truncation meanwhile may have made it shorter; it was acknowledged after this fsync began.
        let size = size.min(state.attr.size);
        if size != state.synced_size {
            state.logged = tier.log(&[Record::new(key, Body::Synced(Synced { size }))])?;
            state.synced_size = size;
        }
        let logged = state.logged;
        drop(state);
        tier.sync_log(logged)
    }

    /// No more writes until `open_for_write`; everything durable, the checksum of every piece known.
    /// Sealing what is sealed is a no-op.
    pub fn seal(&self, key: ContentKey, version: u64, epoch: u64) -> Result<LiveAttr> {
        self.seal_without(key, version, epoch, None)
    }

    /// As `seal`. While somebody writes past the store it is `Busy`, with the `session` that was given the descriptor; once that
    /// is over, name it as `revoked`: it keeps what it has, and the content goes on in a copy.
    pub fn seal_without(&self, key: ContentKey, version: u64, epoch: u64, revoked: Option<u64>) -> Result<LiveAttr> {
        let content = self.find(key)?;
        let _sync = content.sync.lock();
        let (attr, known) = {
            let mut state = self.write_state(&content)?;
            state.check_read(key, version)?;
            if epoch < state.epoch || state.kind == ContentKind::Cached {
                return Err(mismatch(key, "the write grant is of another epoch", state.epoch, epoch));
            }
            if state.kind == ContentKind::Sealed {
                return Ok(state.attr);
            }
            self.end_exposed_writes(&content, &mut state, revoked)?;
            state.frozen = true;
            state.leaving = false;
            let (size, mtime) = (state.attr.size, state.attr.mtime);
            let unwritten = |aside: &Aside| (aside.size, aside.mtime) == (size, mtime);
            let known = state.aside.take().filter(unwritten).map(|aside| aside.chunks);
            (state.attr, known.unwrap_or_else(|| state.chunks.clone()))
        };
        let sealed = self.seal_frozen(&content, version, epoch, attr, known);
        let mut state = content.state.write();
        state.frozen = match &sealed {
            Ok(_) => false,
            // The index may call it sealed already. It stays frozen unless the index can be told otherwise; opening it for
            // writing tries again.
            Err(_) => {
                let (version, epoch) = (state.version, state.epoch);
                self.tiers[content.tier].log(&[Record::new(key, Body::Live(Live { version, epoch }))]).is_err()
            }
        };
        sealed
    }

    fn seal_frozen(
        &self,
        content: &Content,
        version: u64,
        epoch: u64,
        attr: LiveAttr,
        known: ChunkMap,
    ) -> Result<LiveAttr> {
        let key = content.key;
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let file = self.file(content)?;
        self.sync_data(content, &file)?;
        let chunks = self.sums_of(tier, &file, &path, attr.size, known)?;
        // Allocation was delayed until the sync; only now is it known.
        let found =
            disk::attr_of(&file).map_err(|error| tier.fault(error, "cannot ask for the size of a content", &path))?;
        if found.size != attr.size {
            return Err(Error::new(ErrorKind::DataLoss, "the local file does not have the size of its content")
                .with("file", path.display())
                .with("have", found.size)
                .with("want", attr.size));
        }
        let attr = LiveAttr { blocks: found.blocks, ..attr };

        let mut state = content.state.write();
        if state.deleted {
            return Err(crate::content::not_here(key));
        }
        self.sync_name(content, &mut state)?;
        // `Live` voids what a seal that did not end may have left in the index.
        let mut records = vec![Record::new(key, Body::Live(Live { version, epoch }))];
        records.extend(pieces_bodies(&chunks).into_iter().map(|body| Record::new(key, body)));
        records.push(Record::new(
            key,
            Body::Sealed(Sealed {
                version,
                epoch,
                size: attr.size,
                mtime_sec: attr.mtime.sec,
                mtime_nsec: attr.mtime.nsec,
                blocks: attr.blocks,
            }),
        ));
        for some in records.chunks(RECORDS_PER_APPEND) {
            state.logged = tier.log(some)?;
        }
        tier.sync_log(state.logged)?;
        tier.charge(&mut state, attr.blocks * 512);
        state.attr = attr;
        state.chunks = chunks;
        state.kind = ContentKind::Sealed;
        state.epoch = epoch;
        state.placed = None;
        state.synced_size = attr.size;
        state.exposure = state.exposure.min(Exposure::Read);
        state.writers.clear();
        Ok(attr)
    }

    /// The checksums of all data of a file; those that are known are not computed again. Holes have none.
    fn sums_of(&self, tier: &Tier, file: &File, path: &Path, size: u64, known: ChunkMap) -> Result<ChunkMap> {
        let failed = |error| tier.fault(error, "cannot read a content to seal it", path);
        let mut sums = ChunkMap::default();
        let mut piece_data = vec![0; PIECE_SIZE as usize];
        let mut at = 0;
        while at < size {
            let Some(data) = disk::next_data(file, at).map_err(failed)? else { break };
            if data >= size {
                break;
            }
            let number = chunk_of(data);
            let start = number * CHUNK_SIZE;
            let end = (start + CHUNK_SIZE).min(size);
            let mut crcs = [0; PIECES];
            let mut count = 0;
            for (slot, piece) in crcs.iter_mut().zip((start..end).step_by(PIECE_SIZE as usize)) {
                *slot = match known.crc(piece) {
                    Some(crc) => crc,
                    None => {
                        let len = (end - piece).min(PIECE_SIZE) as usize;
                        self.disk.read(file, path, &mut piece_data[..len], piece).map_err(failed)?;
                        crc32c(&piece_data[..len])
                    }
                };
                count += 1;
            }
            sums.insert(number, Chunk::Data(Box::new(PieceSums::all(&crcs[..count]))));
            at = end;
        }
        Ok(sums)
    }

    /// Brings a live content's data to the disk. If the disk says that it could not, the kernel may already have dropped the
    /// data: from then on the content answers with errors.
    fn sync_data(&self, content: &Content, file: &File) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        let Err(error) = self.disk.sync(DiskOp::Sync, file, &path) else { return Ok(()) };
        tracing::error!(content = %content.key, %error, "data could not be brought to the disk and may be lost");
        let mut state = content.state.write();
        if !state.deleted {
            state.kind = ContentKind::Lost;
            // If the index fails too, an unclean boot or the next fsync finds out again.
            let _ = tier.log(&[Record::new(content.key, Body::Lost(Nothing {}))]);
        }
        drop(state);
        Err(tier.fault(error, "cannot sync a content", &path))
    }
}
