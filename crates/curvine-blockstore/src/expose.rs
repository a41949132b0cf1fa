//! Descriptors of local files for others of this machine, who then read and write without the store.
//!
//! What always holds: that a file is exposed is in the index before its descriptor leaves. The index need not be on the disk for
//! that: descriptors survive the death of this process, but not that of the machine. An exposed file is never cut, punched or
//! moved by the store; before it is deleted or sealed the kernel is asked who else has it open. What was exposed for writing
//! has no known checksums, and its size and time are asked from the file.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use curvine_types::{Error, ErrorKind, Result};
use parking_lot::{RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::RenameFlags;

use crate::chunks::ChunkMap;
use crate::content::{Aside, Content, State};
use crate::disk;
use crate::lease;
use crate::read::suspects_in;
use crate::record::{Body, Exposed as ExposedRecord, Record};
use crate::recovery::CLOCK_TICK;
use crate::store::BlockStore;
use crate::types::*;

/// Space that must be left for a writer whose needs nobody can ask about.
const HEADROOM: u64 = 256 << 20;
/// Most chunks that are compared with their checksums before a descriptor is given.
const VERIFIED_MAX: usize = 256;
/// Copied at once when a content leaves its file to a revoked writer.
const COPY_STEP: u64 = 8 << 20;

/// Whether the kernel tells the truth about who has a file of this file system open, also in mappings. Others than these
/// (overlayfs does not) are not known to.
fn keeps_leases(file: &File) -> bool {
    const EXT4: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    const TMPFS: u32 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|stat| matches!(stat.f_type as u32, EXT4 | XFS | TMPFS))
}

impl BlockStore {
    /// The content's file, open for reading, for somebody of this machine. The inner error says why not.
    pub fn expose(
        &self,
        key: ContentKey,
        version: u64,
        access: Access,
    ) -> Result<std::result::Result<Exposed, Refusal>> {
        let content = self.find(key)?;
        content.touch();
        let suspects = {
            let state = content.state.read();
            state.check_read(key, version)?;
            suspects_in(&state, 0, state.attr.size)
        };
        if suspects.len() > VERIFIED_MAX {
            return Ok(Err(Refusal::Unverified));
        }
        self.verify_chunks(&content, &suspects)?;
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(key);
        let mut state = self.write_state(&content)?;
        state.check_read(key, version)?;
        if let Some(refusal) = self.refusal(&content, &state, access) {
            return Ok(Err(refusal));
        }
        self.disk
            .before(disk::DiskOp::Open, &path)
            .map_err(|error| tier.fault(error, "cannot open the file of a content", &path))?;
        let file = File::open(&path).map_err(|error| tier.fault(error, "cannot open the file of a content", &path))?;
        let attr =
            disk::attr_of(&file).map_err(|error| tier.fault(error, "cannot ask for the size of a content", &path))?;
        if attr.size != state.attr.size {
            return Ok(Err(Refusal::Incomplete));
        }
        if !keeps_leases(&file) || lease::has_no_writer(&file).is_err() {
            return Ok(Err(Refusal::FileSystem));
        }
        self.note_exposure(&content, &mut state, access)?;
        self.exposures.fetch_add(1, Ordering::Relaxed);
        Ok(Ok(Exposed { file, attr: state.attr, kind: state.kind }))
    }

    fn refusal(&self, content: &Content, state: &State, access: Access) -> Option<Refusal> {
        // A seal is in the way of writers only.
        if state.leaving || (state.frozen && access != Access::Read) {
            return Some(Refusal::Leaving);
        }
        let whole = state.kind != ContentKind::Cached || state.chunks.len() as u64 == chunks_in(state.attr.size);
        match access {
            Access::Read => (!whole).then_some(Refusal::Incomplete),
            Access::Write { .. } if state.kind != ContentKind::Live => Some(Refusal::NotNew),
            Access::Write { epoch, .. } if epoch != state.epoch => Some(Refusal::Fenced),
            Access::Write { .. } => {
                let tier = &self.tiers[content.tier];
                (tier.room().1 + tier.evictable() < HEADROOM).then_some(Refusal::NoRoom)
            }
        }
    }

    fn note_exposure(&self, content: &Content, state: &mut State, access: Access) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let (level, session) = match access {
            Access::Read => (Exposure::Read, 0),
            Access::Write { session, .. } => (Exposure::Write, session),
        };
        if level <= state.exposure && (session == 0 || state.writers.contains(&session)) {
            return Ok(());
        }
        let exposed = ExposedRecord { level: level as u32, session };
        state.logged = tier.log(&[Record::new(content.key, Body::Exposed(exposed))])?;
        state.exposure = state.exposure.max(level);
        state.placed = None;
        if session != 0 {
            state.writers.insert(session);
            self.put_sums_aside(state);
        }
        Ok(())
    }

    /// What the kernel writes by itself has no known checksums. If it writes nothing, which the file's time tells, those from before
    /// are right; that is looked at when the content is sealed.
    fn put_sums_aside(&self, state: &mut State) {
        let chunks = std::mem::take(&mut state.chunks);
        // A write within the same tick of the kernel's clock would not show.
        let distinct = state.attr.mtime.plus(CLOCK_TICK) < (self.options.now)();
        if state.aside.is_none() && distinct && chunks.len() > 0 {
            state.aside = Some(Aside { size: state.attr.size, mtime: state.attr.mtime, chunks });
        }
    }

    /// Whether somebody may have the content's file open. If not, its descriptor is given to nobody any more, until the content is
    /// opened for writing or sealed: the caller is about to do away with it.
    pub fn withdraw(&self, key: ContentKey) -> Result<bool> {
        let Some(content) = self.get(key) else { return Ok(false) };
        self.tiers[content.tier].check()?;
        let mut state = content.state.write();
        if state.exposure != Exposure::None && !state.deleted && self.is_used(&content)? {
            return Ok(true);
        }
        state.leaving = true;
        Ok(false)
    }

    /// Whether somebody else has the file of a content open, whose state the caller holds.
    pub(crate) fn is_used(&self, content: &Content) -> Result<bool> {
        let file = match self.file(content) {
            Err(error) if error.kind() == ErrorKind::DataLoss => return Ok(false),
            other => other?,
        };
        // Who cannot be asked is taken for a user. So is a reader of ours that has the file open a second time.
        Ok(!lease::is_alone(&file).unwrap_or(false))
    }

    /// The state for a change, as the file has it.
    pub(crate) fn write_state<'a>(&self, content: &'a Content) -> Result<RwLockWriteGuard<'a, State>> {
        let mut state = content.state.write();
        if state.kind == ContentKind::Live && state.exposure == Exposure::Write && !state.deleted {
            self.refresh(content, &mut state)?;
        }
        Ok(state)
    }

    /// The state for a look, as the file has it.
    pub(crate) fn read_state<'a>(&self, content: &'a Content) -> Result<RwLockReadGuard<'a, State>> {
        let state = content.state.read();
        if state.kind != ContentKind::Live || state.exposure != Exposure::Write {
            return Ok(state);
        }
        drop(state);
        self.write_state(content).map(RwLockWriteGuard::downgrade)
    }

    /// Takes over what was written past the store.
    fn refresh(&self, content: &Content, state: &mut State) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        let file = self.file(content)?;
        let found =
            disk::attr_of(&file).map_err(|error| tier.fault(error, "cannot ask for the size of a content", &path))?;
        if found.mtime == state.attr.mtime {
            tier.charge(state, found.blocks * 512);
            state.attr = found;
            return Ok(());
        }
        // The next write may come in the same tick of the kernel's clock, and must not get the time that is told now.
        state.attr.mtime = state.attr.mtime.max(found.mtime);
        self.settle(tier, &file, &path, state)
    }

    /// Before a seal: nobody may write past the store any more. `revoked`: a session that is over and may still do so.
    pub(crate) fn end_exposed_writes(&self, content: &Content, state: &mut State, revoked: Option<u64>) -> Result<()> {
        if state.exposure != Exposure::Write || !self.has_writers(content)? {
            return Ok(());
        }
        if let Some(session) = revoked {
            state.writers.remove(&session);
        }
        match state.writers.first() {
            Some(session) => Err(Error::new(ErrorKind::Busy, "a process of this node still writes or maps the file")
                .with("session", session)
                .with("inode", content.key.inode)),
            None => self.detach(content, state),
        }
    }

    /// A session is over that may write past the store: it keeps the file it has, the content goes on in a copy.
    pub fn revoke(&self, key: ContentKey, session: u64) -> Result<()> {
        let Some(content) = self.get(key) else { return Ok(()) };
        let _sync = content.sync.lock();
        let mut state = self.write_state(&content)?;
        let concerned = state.exposure == Exposure::Write && !state.deleted && state.writers.remove(&session);
        if concerned && self.has_writers(&content)? { self.detach(&content, &mut state) } else { Ok(()) }
    }

    /// Whether the kernel knows of somebody who may write to the file. The caller holds the state for writing.
    fn has_writers(&self, content: &Content) -> Result<bool> {
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        // Our own descriptor is open for writing; a reader of ours that still uses it counts as a writer for a moment.
        self.open_files.remove(content.id);
        let file = File::open(&path).map_err(|error| tier.fault(error, "cannot open the file of a content", &path))?;
        Ok(!lease::has_no_writer(&file).unwrap_or(false))
    }

    /// Gives the content a new file with the same bytes, durable, and leaves the old one to those who have it open.
    fn detach(&self, content: &Content, state: &mut State) -> Result<()> {
        let tier = &self.tiers[content.tier];
        let path = tier.path_of(content.key);
        let _space = self.reserve(tier, state.attr.blocks * 512, Some(content.key), || state.attr.blocks * 512)?;
        let fresh_path = tier.orphan_name(&path);
        let copied = self.copy_file(&path, &fresh_path, state.attr).and_then(|()| {
            rustix::fs::renameat_with(rustix::fs::CWD, &fresh_path, rustix::fs::CWD, &path, RenameFlags::EXCHANGE)?;
            self.disk.sync_dir(path.parent().unwrap_or(tier.dir()))
        });
        if let Err(error) = copied {
            let _ = std::fs::remove_file(&fresh_path);
            return Err(tier.fault(error, "cannot copy a content away from a revoked writer", &path));
        }
        tracing::warn!(content = %content.key, file = %fresh_path.display(),
            "a writer whose session is over still has this file; the content goes on in a copy");
        tier.adopt_orphan(fresh_path);
        self.open_files.remove(content.id);
        let none = ExposedRecord { level: 0, session: 0 };
        state.logged = tier.log(&[Record::new(content.key, Body::Exposed(none))])?;
        state.exposure = Exposure::None;
        state.writers.clear();
        state.aside = None;
        state.chunks = ChunkMap::default();
        Ok(())
    }

    /// Copies the data, not the holes; the copy is on the disk when this returns.
    fn copy_file(&self, from: &Path, to: &Path, attr: LiveAttr) -> io::Result<()> {
        let source = File::open(from)?;
        let target = self.disk.open(to, true)?;
        target.set_len(attr.size)?;
        let mut at = 0;
        while let Some(data) = disk::next_data(&source, at)?.filter(|data| *data < attr.size) {
            let end = disk::next_hole(&source, data)?.unwrap_or(attr.size).min(attr.size);
            at = data;
            while at < end {
                let (mut from, mut to) = (at, at);
                let step = (end - at).min(COPY_STEP) as usize;
                match rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), step)? {
                    // Cut by its writer meanwhile: what follows is zero.
                    0 => at = end,
                    copied => at += copied as u64,
                }
            }
        }
        disk::set_mtime(&target, attr.mtime)?;
        self.disk.sync(disk::DiskOp::Sync, &target, to)
    }
}
