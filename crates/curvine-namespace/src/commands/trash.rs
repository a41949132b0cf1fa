//! What was removed through a mount and is still in its store.
//!
//! An object that goes into the trash stays under its key, and looks into the store do not see it there. If something new wants the
//! key, the object is moved to another one first; that it will be is in the log before the store is asked.
//!
//! Always: of one key of a mount there is at most one entry that is not moved; who finds another version under the key than the one
//! that was removed, finds somebody else's object.

use std::sync::Arc;

use curvine_proto::{EditTrash, Outcome, TrashEntry, TrashMode, UfsEntry};
use curvine_types::limits::TRASH_EDITS_MAX;
use curvine_types::{ErrorKind, InodeId, MountId, Name, Result};

use super::observe::{is_same_version, object, stored_key};
use crate::record::*;
use crate::stamp::Stamp;
use crate::state::{State, fail};

/// Entries of all mounts: some 200 MiB.
const TRASH_MAX: usize = 500_000;
/// Longest name in a key that something is moved to, in bytes.
const MOVED_NAME_MAX: usize = 200;

impl State {
    /// Enters an entry that is not there yet, as it is or as a snapshot has it.
    pub fn insert_trash(&mut self, entry: TrashEntry) -> bool {
        let id = entry.id;
        self.meta.next_trash = self.meta.next_trash.max(id.saturating_add(1));
        if !entry.moved {
            self.trash_keys.insert((entry.mount, entry.key.as_str().into()), id);
        }
        self.trash_order.insert((entry.mount, entry.held, id), ());
        self.trash.insert(id, Arc::new(entry)).is_none()
    }

    fn remove_trash(&mut self, id: u64) -> Option<TrashEntry> {
        let entry = self.trash.remove(&id)?;
        self.trash_order.remove(&(entry.mount, entry.held, id));
        let key = (entry.mount, entry.key.as_str().into());
        if self.trash_keys.get(&key) == Some(&id) {
            self.trash_keys.remove(&key);
        }
        Some(TrashEntry::clone(&entry))
    }

    /// Notes what the store has of an inode that is about to lose its name.
    pub(super) fn note_trash(&mut self, id: InodeId, inode: &Inode) -> Result<()> {
        let mount = self.mount_of(id, inode);
        let (key, object) = if inode.is_dir() {
            (self.ufs_dirs.get(&id).map(|dir| dir.prefix.to_string()), None)
        } else {
            let object = self.in_store(id);
            let waits = self.upload_of(id).map(|job| job.key.clone());
            (waits.or_else(|| object.as_ref().map(|object| object.key.clone())), object)
        };
        let Some(key) = key.filter(|key| !key.is_empty() && (inode.is_dir() || object.is_some())) else {
            return Ok(());
        };
        if self.trash.len() >= TRASH_MAX {
            let message = "the trash is full; empty it (cv trash empty), or do without (cv mount --update --trash off)";
            return Err(fail(ErrorKind::NoSpace, message).with("limit", TRASH_MAX));
        }
        self.forget_trash_at(mount, &key);
        let mode = self.mounts.get(&mount).map(|mount| mount.settings.trash());
        let (next, removed) = (self.meta.next_trash, Some(self.meta.now.into()));
        let held = mode != Some(TrashMode::All);
        self.insert_trash(TrashEntry { id: next, mount, key, object, removed, held, ..Default::default() });
        Ok(())
    }

    /// The key is somebody else's from now on.
    pub(super) fn forget_trash_at(&mut self, mount: MountId, key: &str) {
        if self.trash_keys.len() > 0
            && let Some(id) = self.trash_keys.get(&(mount, key.into())).copied()
        {
            self.remove_trash(id);
        }
    }

    /// Whether an observed entry is one that was removed. Another version under its key is not, and takes its place.
    pub(super) fn is_in_trash(&self, place: &UfsDirectory, entry: &UfsEntry) -> bool {
        if self.trash_keys.len() == 0 {
            return false;
        }
        let Ok(name) = Name::new(&entry.name) else { return false };
        let key = stored_key(&place.prefix, &name, entry);
        let Some(removed) = self.trash_at(place.mount, &key) else { return false };
        match &removed.object {
            None => entry.directory,
            Some(removed) => {
                let known = object(place.mount, key.clone(), removed);
                !entry.directory && is_same_version(&known, &object(place.mount, key, entry))
            }
        }
    }

    /// What was removed from a key and is still under it.
    pub fn trash_at(&self, mount: MountId, key: &str) -> Option<&Arc<TrashEntry>> {
        self.trash.get(self.trash_keys.get(&(mount, key.into()))?)
    }

    /// What was removed and still has a key that begins so.
    pub fn trash_below(&self, mount: MountId, prefix: &str) -> impl Iterator<Item = &Arc<TrashEntry>> {
        let all = self.trash_keys.range(&(mount, prefix.into()));
        let below = all.take_while(move |((have, key), _)| *have == mount && key.starts_with(prefix));
        below.filter_map(|(_, id)| self.trash.get(id))
    }

    /// Whether anything of a mount is in the trash.
    pub(super) fn has_trash(&self, mount: MountId) -> bool {
        self.trash_order.first_from(&(mount, false, 0)).is_some_and(|((have, ..), ())| *have == mount)
    }

    pub(super) fn edit_trash(&mut self, command: &EditTrash) -> Result<Outcome> {
        if command.forget.len() + command.keep.len() > TRASH_EDITS_MAX {
            return Err(fail(ErrorKind::TooBig, "too many entries at once").with("limit", TRASH_EDITS_MAX));
        }
        for id in &command.forget {
            self.remove_trash(*id);
        }
        for id in &command.keep {
            let Some(entry) = self.remove_trash(*id) else { continue };
            let removed = entry.removed.map(Stamp::from).unwrap_or_default();
            if let Some(mount) = self.mounts.get(&entry.mount).cloned() {
                let many_removed = mount.many_removed.max(removed);
                self.mounts.insert(entry.mount, Arc::new(Mount { many_removed, ..Mount::clone(&mount) }));
            }
            self.insert_trash(TrashEntry { held: false, ..entry });
        }
        if let Some(entry) = self.remove_trash(command.moving) {
            self.insert_trash(TrashEntry { moved_to: command.moved_to.clone(), ..entry });
        }
        if let Some(entry) = self.remove_trash(command.moved) {
            self.insert_trash(TrashEntry { moved: true, ..entry });
        }
        Ok(Outcome::default())
    }
}

/// A name for what is moved, that tells people what it was: the end of its key.
pub fn moved_name(key: &str) -> &str {
    let name = key.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut length = name.len().min(MOVED_NAME_MAX);
    while !name.is_char_boundary(length) {
        length -= 1;
    }
    name.get(..length).unwrap_or_default().trim_end()
}
