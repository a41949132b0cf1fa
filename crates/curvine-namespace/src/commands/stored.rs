//! Files and directories of a mount become dirty, are stored, and move with their objects.
//!
//! Always: a file is clean only if the store was seen to have exactly its content; what is noted as stored is newer than any look
//! that began before.

use std::sync::Arc;

use curvine_proto::{FileKind, JobState, Outcome, Rename, UfsAdopt, UfsEntry, UfsStored};
use curvine_types::{ErrorKind, InodeId, MountId, Name, Result};

use super::jobs::{entry_of, no_such_job};
use super::names::storable_key;
use super::observe::object;
use crate::record::*;
use crate::state::{Found, State, fail};
use crate::store::Store;

/// What a rename inside a mount does to what is stored.
pub(super) enum Moved {
    /// A dirty file: it will be uploaded to this key, where the store has `base`.
    Dirty {
        key: String,
        base: Option<UfsEntry>,
    },
    /// The object has this key and version now.
    Object(UfsEntry),
    Directory(String),
}

impl State {
    /// Ties a new file or directory to its key.
    pub(super) fn bind_made(&mut self, id: InodeId, kind: FileKind, mount: MountId, key: String) {
        if kind == FileKind::Directory {
            let stored = self.next_store();
            self.forget_trash_at(mount, &key);
            self.ufs_dirs.insert(id, UfsDirectory { mount, prefix: key.into(), complete_at: None, stored });
        } else {
            self.begin_upload(id, mount, key, None);
        }
    }

    /// See [`crate::Namespace::key_of_new`].
    pub fn key_of_new(&self, dir: InodeId, name: &Name, kind: FileKind) -> Result<String> {
        self.dir_for_names(dir)?;
        let place = self.ufs_dirs.get(&dir);
        let place =
            place.ok_or_else(|| fail(ErrorKind::InvalidArgument, "not a directory of a mount").with("inode", dir))?;
        storable_key(place, kind, name)
    }

    pub(super) fn ufs_adopt(&mut self, command: &UfsAdopt) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.file(id)?;
        self.check_writable(id, &inode)?;
        if !inode.is_object() || inode.content != command.generation {
            return Err(
                fail(ErrorKind::Conflict, "the file has changed since the worker got its bytes").with("inode", id)
            );
        }
        self.check_takes_content(command.worker)?;
        if command.block_size == 0 {
            return Err(fail(ErrorKind::InvalidArgument, "a block size is above zero").with("inode", id));
        }
        self.begin_upload_over(id, &inode);
        let extent = Extent { first_block: 0, block_count: 0, version: 1, workers: vec![command.worker] };
        let blocks = Blocks { block_size: command.block_size, allocated: command.blocks, extents: vec![extent] };
        self.store.put_placed(id, Arc::new(Placed::Blocks(blocks)));
        self.live.insert(id, ());
        self.edit(id, |inode| {
            inode.set(BLOCKS | LIVE, true);
            inode.content += 1;
            inode.size = command.size;
            inode.change += 1;
        });
        if !self.grants.contains(&id) {
            self.grants.insert(id, GrantRecord { epoch: 1, writers: Vec::new() });
        }
        Ok(self.content_outcome(id))
    }

    pub(super) fn ufs_stored(&mut self, command: &UfsStored) -> Result<Outcome> {
        let job = self.jobs.get(&command.job).cloned().ok_or_else(|| no_such_job(command.job))?;
        let missing = || fail(ErrorKind::InvalidArgument, "what was stored is not said");
        let entry = command.entry.as_ref().ok_or_else(missing)?;
        let id = job.inode;
        let inode = self.file(id)?;
        let stored = self.next_store();
        let is_same_content = if inode.has(BLOCKS) {
            !inode.has(LIVE) && self.grants.get(&id).is_some_and(|grant| grant.epoch == command.epoch)
        } else {
            let data = self.store.inline(id).unwrap_or_default();
            crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data) as u32 == command.inline_crc
        };
        if inode.content != command.generation || inode.size != entry.size || !is_same_content {
            self.edit_job(job.id, |job| {
                job.base = Some(entry.clone());
                job.upload.clear();
                job.state = JobState::Waiting as i32;
            });
            return Ok(Outcome { attr: self.attr(id), ..Outcome::default() });
        }

        self.end_upload(id);
        if !inode.has(BLOCKS) {
            self.set_inline(id, &[]);
        }
        let object = UfsObject { stored, ..object(job.mount, job.key.clone(), entry) };
        self.store.put_placed(id, Arc::new(Placed::Ufs(object)));
        self.edit(id, |inode| inode.set(BLOCKS | DIRTY, false));
        self.drop_idle_grant(id);
        Ok(Outcome { created: true, ..self.content_outcome(id) })
    }

    /// Whether a rename keeps to one mount and its store has done its part; what is to be noted of that. `None`: no mount.
    pub(super) fn check_stores(
        &self,
        command: &Rename,
        inode: &Inode,
        found: Found,
        new_name: &Name,
    ) -> Result<Option<Moved>> {
        let place = match (self.ufs_dirs.get(&command.parent), self.ufs_dirs.get(&command.new_parent)) {
            (None, None) => return Ok(None),
            (Some(from), Some(to)) if from.mount == to.mount => to.clone(),
            _ => {
                return Err(fail(ErrorKind::CrossDevice, "the names are not of the same mount").with("inode", found.id));
            }
        };
        if command.flags & (super::rename::EXCHANGE | super::rename::WHITEOUT) != 0 {
            return Err(fail(ErrorKind::InvalidArgument, "stores cannot exchange two names, or leave a whiteout")
                .with("inode", found.id));
        }
        let key = storable_key(&place, inode.kind(), new_name)?;
        if inode.has(DIRTY) {
            let new_dir = self.dir(command.new_parent)?;
            let target = self.find(&new_dir, new_name.as_bytes());
            let base = target.and_then(|target| self.in_store(target.id));
            return Ok(Some(Moved::Dirty { key, base }));
        }
        let stored = command.stored.clone().filter(|stored| stored.key == key);
        let stored =
            stored.ok_or_else(|| fail(ErrorKind::Conflict, "the store has not moved it").with("inode", found.id))?;
        if inode.is_dir() {
            let from = self.ufs_dirs.get(&found.id).map(|dir| dir.prefix.clone()).unwrap_or_default();
            if self.has_jobs_below(place.mount, &from) {
                return Err(fail(ErrorKind::Busy, "files below wait to be uploaded").with("inode", found.id));
            }
            return Ok(Some(Moved::Directory(key)));
        }
        if command.stored_generation != inode.content {
            return Err(
                fail(ErrorKind::Conflict, "the file has changed since the store copied it").with("inode", found.id)
            );
        }
        Ok(Some(Moved::Object(stored)))
    }

    /// What the store has for a file, as far as is known here.
    pub(super) fn in_store(&self, id: InodeId) -> Option<UfsEntry> {
        match self.store.placed(id).as_deref() {
            Some(Placed::Ufs(object)) => Some(entry_of(object)),
            _ => self.upload_of(id).and_then(|job| job.base.clone()),
        }
    }

    /// Follows a rename. Names below a directory are looked up anew: their keys are others.
    pub(super) fn move_stored(&mut self, id: InodeId, moved: Moved) {
        match moved {
            Moved::Dirty { key, base } => {
                if let Some(job) = self.uploads.get(&id).copied() {
                    self.edit_job(job, |job| {
                        job.key = key;
                        job.upload.clear();
                        job.base = base;
                    });
                }
            }
            Moved::Object(entry) => {
                let stored = self.next_store();
                let Some(Placed::Ufs(known)) = self.store.placed(id).as_deref().cloned() else { return };
                if entry.etag != *known.etag {
                    // It may be another version: cached copies of the old one must not pass for it.
                    self.edit(id, |inode| inode.content += 1);
                }
                let object = UfsObject { stored, ..object(known.mount, entry.key.clone(), &entry) };
                self.store.put_placed(id, Arc::new(Placed::Ufs(object)));
            }
            Moved::Directory(prefix) => {
                let stored = self.next_store();
                let Some(known) = self.ufs_dirs.get(&id).cloned() else { return };
                self.forget_trash_at(known.mount, &prefix);
                self.tree_moves.remove(&(known.mount, known.prefix.clone()));
                let place = UfsDirectory { prefix: prefix.into(), complete_at: None, stored, ..known };
                self.ufs_dirs.insert(id, place);
                let Some(dir) = self.store.inode(id) else { return };
                self.doom(&dir);
                let table = self.next_number();
                self.edit(id, |inode| {
                    inode.content = table;
                    inode.size = 0;
                    inode.nlink = 2;
                });
            }
        }
    }
}
