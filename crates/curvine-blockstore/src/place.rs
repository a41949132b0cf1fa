//! How authoritative content comes to be: placed by the master, opened for writing again after a seal.

use std::sync::Arc;

use curvine_types::limits::FILE_SIZE_MAX;
use curvine_types::{Error, ErrorKind, Result};

use crate::chunks::ChunkMap;
use crate::content::{Content, State, mismatch};
use crate::disk::{self, DiskOp};
use crate::record::{Body, Create, Live, Record, Synced};
use crate::store::BlockStore;
use crate::types::*;

/// Room that a tier directory should have for a content that is about to grow.
const HEADROOM: u64 = 64 << 20;

impl BlockStore {
    /// New live content that starts with `initial`, which is durable when this returns.
    ///
    /// Repeating it is fine as long as nothing was written or opened since; the last `initial` counts, because the master
    /// places again when the inline content changed under it. After that: `VersionMismatch`.
    pub fn place(&self, key: ContentKey, version: u64, epoch: u64, mtime: Timestamp, initial: &[u8]) -> Result<()> {
        if version == 0 || initial.len() as u64 > FILE_SIZE_MAX {
            return Err(Error::new(ErrorKind::InvalidArgument, "authoritative content has a version above 0"));
        }
        let tier = self.choose_tier(initial.len() as u64 + HEADROOM, true)?;
        let fresh = Arc::new(Content::new(key, tier, State::new(ContentKind::Live, version, epoch)));
        let _sync = fresh.sync.lock();
        let mut state = fresh.state.write();
        if let Some(there) = self.insert(fresh.clone()) {
            drop(state);
            return self.place_again(&there, version, epoch, mtime, initial);
        }
        let placed =
            self.create(&fresh, &mut state, mtime).and_then(|()| self.set_initial(&fresh, &mut state, mtime, initial));
        if placed.is_err() {
            // Nobody was told of it; should even this fail, recovery deletes what was never synced.
            let _ = self.remove(&fresh, &mut state);
            state.deleted = true;
        }
        placed
    }

    /// The content is writable with `epoch` from now on, and with no earlier one. Durable when this returns.
    ///
    /// A sealed content goes on from the time that it was sealed with; if another one was set since, `set_mtime` follows.
    pub fn open_for_write(&self, key: ContentKey, version: u64, epoch: u64) -> Result<()> {
        let content = self.find(key)?;
        // Waits for a seal that is going on.
        let _sync = content.sync.lock();
        let mut state = content.state.write();
        if state.kind == ContentKind::Cached || version < state.version {
            return Err(mismatch(key, "another version of the content is here", state.version, version));
        }
        state.check_read(key, state.version)?;
        if epoch < state.epoch {
            return Err(mismatch(key, "the write grant was fenced", state.epoch, epoch));
        }
        state.leaving = false;
        if state.kind == ContentKind::Live && !state.frozen && state.version == version && state.epoch == epoch {
            return Ok(());
        }
        let tier = &self.tiers[content.tier];
        let mut records = vec![Record::new(key, Body::Live(Live { version, epoch }))];
        if state.kind == ContentKind::Sealed {
            records.push(Record::new(key, Body::Synced(Synced { size: state.attr.size })));
            state.synced_size = state.attr.size;
            // From now on the local file's time counts.
            let file = self.file(&content)?;
            let path = tier.path_of(key);
            disk::set_mtime(&file, state.attr.mtime)
                .and_then(|()| disk::attr_of(&file))
                .map(|found| state.attr.mtime = found.mtime)
                .map_err(|error| tier.fault(error, "cannot set the time of a content", &path))?;
        }
        state.logged = tier.log(&records)?;
        // Before the first write, or a sealed entry in the index would call the new data damaged.
        tier.sync_log(state.logged)?;
        state.kind = ContentKind::Live;
        state.frozen = false;
        state.version = version;
        state.epoch = epoch;
        state.placed = None;
        Ok(())
    }

    /// Record and empty file of a new content.
    fn create(&self, content: &Content, state: &mut State, mtime: Timestamp) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let create = Create {
            version: state.version,
            epoch: state.epoch,
            size: 0,
            mtime_sec: mtime.sec,
            mtime_nsec: mtime.nsec,
        };
        state.logged = tier.log(&[Record::new(content.key, Body::Create(create))])?;
        self.create_file(content, 0)
    }

    /// A new local file of `size` bytes, all of them a hole; whatever a lost entry left under its name is replaced.
    pub(crate) fn create_file(&self, content: &Content, size: u64) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        let failed = |error| tier.fault(error, "cannot create the file of a content", &path);
        self.disk.unlink(&path).map_err(failed)?;
        let file = self.disk.open(&path, true).map_err(failed)?;
        if size > 0 {
            self.disk.truncate(&file, &path, size).map_err(failed)?;
        }
        self.open_files.insert(content.id, Arc::new(file));
        Ok(())
    }

    fn place_again(&self, content: &Content, version: u64, epoch: u64, mtime: Timestamp, initial: &[u8]) -> Result<()> {
        self.tiers[content.tier].check()?;
        let _sync = content.sync.lock();
        let mut state = content.state.write();
        state.check_read(content.key, state.version)?;
        let older = version < state.version || epoch < state.epoch || state.kind != ContentKind::Live || state.frozen;
        if older || state.placed.is_none() || state.placed != Some(state.attr.mtime) {
            return Err(mismatch(content.key, "the content was written since it was placed", state.version, version));
        }
        // Not durable between these steps, which is fine: the master logs the placement only after this returned.
        state.version = version;
        state.epoch = epoch;
        self.create(content, &mut state, mtime)?;
        self.set_initial(content, &mut state, mtime, initial)
    }

    /// Writes the first bytes of an empty content and makes all of it durable.
    fn set_initial(&self, content: &Content, state: &mut State, mtime: Timestamp, initial: &[u8]) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        let failed = |error| tier.fault(error, "cannot write the first bytes of a content", &path);
        let file = self.file(content)?;
        let _space = self.reserve(tier, initial.len() as u64, None, || initial.len() as u64)?;
        state.chunks = ChunkMap::default();
        self.disk.write(DiskOp::Write, &file, &path, initial, 0).map_err(failed)?;
        disk::set_mtime(&file, mtime).map_err(failed)?;
        self.disk.sync(DiskOp::Sync, &file, &path).map_err(failed)?;
        self.sync_name(content, state)?;
        let found = disk::attr_of(&file).map_err(failed)?;
        tier.charge(state, found.blocks * 512);
        // What the local file system made of the time (its range or resolution may be smaller) is what later looks compare.
        state.attr = found;
        state.placed = Some(found.mtime);
        state.synced_size = found.size;
        state.logged = tier.log(&[Record::new(content.key, Body::Synced(Synced { size: found.size }))])?;
        tier.sync_log(state.logged)
    }

    /// Makes the name of a content's file durable, once.
    pub(crate) fn sync_name(&self, content: &Content, state: &mut State) -> Result<()> {
        if state.name_unsynced {
            let tier = &self.tiers[content.tier];
            let path = tier.path_of(content.key);
            let dir = path.parent().unwrap_or(tier.dir());
            self.disk.sync_dir(dir).map_err(|error| tier.fault(error, "cannot sync a directory", dir))?;
            state.name_unsynced = false;
        }
        Ok(())
    }
}
