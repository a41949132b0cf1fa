//! Changes of live content: write, truncate, fallocate. In the order in which they take the content's lock.
//!
//! What always holds when one of them returns: the local file has the data and the size (the page cache survives the
//! process); its mtime is later than any that was told before; checksums of changed pieces are forgotten or new.

use std::fs::File;
use std::io;
use std::path::Path;

use curvine_types::limits::{FILE_SIZE_MAX, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::FallocateFlags;

use crate::content::{Content, State};
use crate::disk::{self, DiskOp, crc32c};
use crate::record::{Body, Record, Stamped, Synced};
use crate::store::BlockStore;
use crate::tier::Tier;
use crate::types::*;

impl BlockStore {
    /// Writes `data`. `crcs` are those of the data cut at multiples of `PIECE_SIZE` from its own start; `Corrupt` if they
    /// differ. `NoSpace` and `FileTooLarge` leave the content as it was.
    pub fn write(
        &self,
        key: ContentKey,
        version: u64,
        epoch: u64,
        at: WriteAt,
        data: &[u8],
        crcs: &[u32],
    ) -> Result<Written> {
        self.write_by(None, key, version, epoch, at, data, crcs)
    }

    /// As `write`, by a process of a session: `Stale` if a later one has written here, and an append that was made before is not
    /// made again.
    #[allow(clippy::too_many_arguments)]
    pub fn write_by(
        &self,
        writer: Option<Writer>,
        key: ContentKey,
        version: u64,
        epoch: u64,
        at: WriteAt,
        data: &[u8],
        crcs: &[u32],
    ) -> Result<Written> {
        check_crcs(key, data, crcs)?;
        let content = self.find(key)?;
        let mut state = self.write_state(&content)?;
        state.check_write(key, version, epoch)?;
        if let Some(writer) = &writer {
            let earlier = state.known_writers.get_or_insert_default().enter(key, writer)?;
            if let (WriteAt::Append, Some(offset)) = (at, earlier) {
                return Ok(Written { offset, attr: state.attr });
            }
        }
        let exposed = state.exposure == Exposure::Write;
        let offset = match at {
            WriteAt::At(offset) => offset,
            WriteAt::Append => state.attr.size,
        };
        if data.is_empty() {
            return Ok(Written { offset, attr: state.attr });
        }
        let end = end_of(offset, data.len() as u64)?;
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let file = self.file(&content)?;
        let old_size = state.attr.size;
        let _space = self.reserve(tier, data.len() as u64, None, || need_of(&file, &state.attr, offset, end))?;

        let start_of_change = if offset > old_size { old_size } else { offset };
        state.chunks.forget(start_of_change, start_of_change + 1);
        state.chunks.forget(offset, end);
        // Only the kernel knows the end of a file that others write as well.
        let written = match at {
            WriteAt::Append if exposed => self.disk.append(&path, data),
            _ => self.disk.write(DiskOp::Write, &file, &path, data, offset).map(|()| offset),
        };
        let offset = match written {
            Ok(offset) => offset,
            Err(error) => return Err(self.undo_write(tier, &file, &path, &mut state, end > old_size, error)),
        };
        self.settle(tier, &file, &path, &mut state)?;
        if let (WriteAt::Append, Some(writer)) = (at, &writer) {
            state.known_writers.get_or_insert_default().appended(writer, offset);
        }
        if offset % PIECE_SIZE == 0 && !exposed {
            for (piece, crc) in (offset..end).step_by(PIECE_SIZE as usize).zip(crcs) {
                if piece + PIECE_SIZE <= end || end == state.attr.size {
                    state.chunks.set_crc(piece, *crc);
                }
            }
        }
        Ok(Written { offset, attr: state.attr })
    }

    /// Some of a write that failed may be there. What was promised about the size must hold again before anybody looks.
    fn undo_write(
        &self,
        tier: &Tier,
        file: &File,
        path: &Path,
        state: &mut State,
        grew: bool,
        error: io::Error,
    ) -> Error {
        // What others wrote behind our back must not be cut off.
        let undo = grew && state.exposure != Exposure::Write;
        if undo && file.set_len(state.attr.size).is_err() {
            tier.fail("cannot undo a write that failed");
        }
        let _ = self.settle(tier, file, path, state);
        tier.fault(error, "cannot write", path)
    }

    /// Sets the size; new bytes are zero.
    pub fn truncate(&self, key: ContentKey, version: u64, epoch: u64, size: u64) -> Result<LiveAttr> {
        end_of(size, 0)?;
        let content = self.find(key)?;
        let mut state = self.write_state(&content)?;
        state.check_write(key, version, epoch)?;
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let file = self.file(&content)?;
        self.forget_from(&mut state, size);
        self.disk.truncate(&file, &path, size).map_err(|error| tier.fault(error, "cannot truncate", &path))?;
        self.settle(tier, &file, &path, &mut state)?;
        self.note_shorter(&content, &mut state)?;
        Ok(state.attr)
    }

    /// Sets the time of a live content, as utimes(2) does; later writes raise it again.
    pub fn set_mtime(&self, key: ContentKey, version: u64, mtime: Timestamp) -> Result<LiveAttr> {
        let content = self.find(key)?;
        let mut state = self.write_state(&content)?;
        state.check_write(key, version, state.epoch)?;
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let file = self.file(&content)?;
        let stamped = Stamped { mtime_sec: mtime.sec, mtime_nsec: mtime.nsec };
        state.logged = tier.log(&[Record::new(key, Body::Stamped(stamped))])?;
        state.placed = None;
        state.aside = None;
        disk::set_mtime(&file, mtime).map_err(|error| tier.fault(error, "cannot set the time of a content", &path))?;
        // As the local file system keeps it: its range and resolution may be smaller.
        state.attr.mtime = disk::attr_of(&file)
            .map_err(|error| tier.fault(error, "cannot ask for the time of a content", &path))?
            .mtime;
        Ok(state.attr)
    }

    /// Allocates, punches or zeroes a range.
    pub fn fallocate(
        &self,
        key: ContentKey,
        version: u64,
        epoch: u64,
        offset: u64,
        len: u64,
        mode: Fallocate,
    ) -> Result<LiveAttr> {
        if len == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "fallocate needs a length above 0"));
        }
        let end = end_of(offset, len)?;
        let content = self.find(key)?;
        let mut state = self.write_state(&content)?;
        state.check_write(key, version, epoch)?;
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let file = self.file(&content)?;
        let old_size = state.attr.size;
        let (grows, allocates) = match mode {
            Fallocate::Allocate { keep_size } => (!keep_size && end > old_size, true),
            Fallocate::ZeroRange { keep_size } => (!keep_size && end > old_size, false),
            Fallocate::PunchHole => (false, false),
        };
        if grows {
            state.chunks.forget(old_size, old_size + 1);
        }
        let failed = |error: io::Error| tier.fault(error, "cannot allocate", &path);
        if allocates {
            let _space = self.reserve(tier, len, None, || need_of(&file, &state.attr, offset, end))?;
            self.disk.before(DiskOp::Fallocate, &path).map_err(failed)?;
            let flags = if grows { FallocateFlags::empty() } else { FallocateFlags::KEEP_SIZE };
            if let Err(error) = rustix::fs::fallocate(&file, flags, offset, len) {
                let _ = self.settle(tier, &file, &path, &mut state);
                return Err(failed(error.into()));
            }
        } else {
            // Zeroing is punching: tmpfs knows nothing else, and what reads as zero is all that is promised.
            state.chunks.forget(offset, end);
            self.disk.before(DiskOp::Fallocate, &path).map_err(failed)?;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, offset, len).map_err(|error| failed(error.into()))?;
            if grows {
                self.disk.truncate(&file, &path, end).map_err(failed)?;
            }
        }
        self.settle(tier, &file, &path, &mut state)?;
        Ok(state.attr)
    }

    /// Takes size, blocks and mtime of the changed file over, and sees to it that the mtime has risen.
    pub(crate) fn settle(&self, tier: &Tier, file: &File, path: &Path, state: &mut State) -> Result<()> {
        let failed = |error| tier.fault(error, "cannot ask for the size of a content", path);
        let mut found = disk::attr_of(file).map_err(failed)?;
        if found.mtime <= state.attr.mtime {
            // The kernel's clock is coarse, or was set back.
            found.mtime = state.attr.mtime.next();
            disk::set_mtime(file, found.mtime).map_err(failed)?;
        }
        state.attr = found;
        tier.charge(state, found.blocks * 512);
        Ok(())
    }

    /// The content is about to get this size: checksums of what goes, and of the piece at either end, are void.
    fn forget_from(&self, state: &mut State, size: u64) {
        let old_size = state.attr.size;
        state.chunks.forget(size, old_size);
        for end in [size, old_size] {
            // A piece that ends with the content covers fewer bytes than a whole one.
            if end % PIECE_SIZE != 0 {
                state.chunks.forget(end - 1, end);
            }
        }
    }

    /// After a truncation: recovery must not take the cut bytes for synced ones.
    fn note_shorter(&self, content: &Content, state: &mut State) -> Result<()> {
        let size = state.attr.size;
        if size < state.synced_size {
            let tier = &self.tiers[content.tier];
            state.logged = tier.log(&[Record::new(content.key, Body::Synced(Synced { size }))])?;
            state.synced_size = size;
        }
        Ok(())
    }
}

/// The end of a range, if a file can be that long.
fn end_of(offset: u64, len: u64) -> Result<u64> {
    offset
        .checked_add(len)
        .filter(|end| *end <= FILE_SIZE_MAX)
        .ok_or_else(|| Error::new(ErrorKind::FileTooLarge, "beyond the largest file size").with("limit", FILE_SIZE_MAX))
}

/// Upper bound of what a write of `offset..end` allocates, closer than its length.
fn need_of(file: &File, attr: &LiveAttr, offset: u64, end: u64) -> u64 {
    let span = attr.size.max(end).next_multiple_of(4096);
    let missing = span.saturating_sub(attr.blocks * 512);
    let unallocated = (end - offset).saturating_sub(disk::allocated(file, offset, end).unwrap_or(0));
    unallocated.min(missing)
}

/// Whether `crcs` are those of `data`.
fn check_crcs(key: ContentKey, data: &[u8], crcs: &[u32]) -> Result<()> {
    let pieces = data.chunks(PIECE_SIZE as usize);
    if pieces.len() != crcs.len() || pieces.zip(crcs).any(|(piece, crc)| crc32c(piece) != *crc) {
        return Err(Error::new(ErrorKind::Corrupt, "the data of a write is not what its checksums say")
            .with("inode", key.inode)
            .with("generation", key.generation));
    }
    Ok(())
}
