//! What workers saw in an under file system becomes names, inodes and generations.
//!
//! Always: an observation that is older than the directory's last change does nothing; a changed object gets a new
//! generation, so that two versions of it never mix; of a file `a` and a directory `a/` the directory wins.

use std::collections::HashSet;
use std::sync::Arc;

use curvine_proto::{FileKind, Outcome, UfsChanged, UfsEntry, UfsObserved};
use curvine_types::limits::OBSERVED_ENTRIES_MAX;
use curvine_types::{ErrorKind, InodeId, Name, Result};

use crate::record::*;
use crate::stamp::Stamp;
use crate::state::{Found, State, fail};
use crate::store::Store;

/// The directory that is observed.
struct Observed {
    dir: InodeId,
    table: u64,
    place: UfsDirectory,
    mount: Arc<Mount>,
    began: u64,
}

impl State {
    pub(super) fn ufs_observed(&mut self, command: &UfsObserved) -> Result<Outcome> {
        let dir = self.dir(command.dir)?;
        let unbound = || fail(ErrorKind::Stale, "not a directory of an under file system").with("inode", command.dir);
        let place = self.ufs_dirs.get(&command.dir).cloned().ok_or_else(unbound)?;
        let mount = self.mounts.get(&place.mount).cloned().ok_or_else(unbound)?;
        if dir.change != command.observed_change {
            return Err(fail(ErrorKind::Conflict, "the directory changed since the look began")
                .with("inode", command.dir)
                .with("have", dir.change)
                .with("want", command.observed_change));
        }
        if command.entries.len() > OBSERVED_ENTRIES_MAX {
            return Err(
                fail(ErrorKind::TooBig, "an observation has too many entries").with("limit", OBSERVED_ENTRIES_MAX)
            );
        }

        let observed = Observed { dir: command.dir, table: dir.content, place, mount, began: command.began };
        for name in &command.absent {
            if let Some(found) = self.find(&dir, name) {
                self.remove_observed(&observed, found);
            }
        }
        let entries: Vec<&UfsEntry> =
            command.entries.iter().filter(|entry| !self.is_in_trash(&observed.place, entry)).collect();
        let directories: HashSet<&[u8]> =
            entries.iter().filter(|entry| entry.directory).map(|entry| &*entry.name).collect();
        // A part of a longer listing may show the object `a` whose directory `a/` comes in the next part.
        let sees_whole_names = command.complete || command.entries.len() == 1;
        for entry in entries {
            let Ok(name) = Name::new(&entry.name) else { continue };
            if entry.directory || !directories.contains(name.as_bytes()) {
                self.observe_entry(&observed, &name, entry, sees_whole_names);
            }
        }
        if command.complete {
            let place = UfsDirectory { complete_at: Some(self.meta.now), ..observed.place };
            self.ufs_dirs.insert(command.dir, place);
        }
        Ok(Outcome { attr: self.attr(command.dir), ..Outcome::default() })
    }

    /// Enters one observed name. `sees_whole_names`: a file here means that there is no directory of that name.
    fn observe_entry(&mut self, observed: &Observed, name: &Name, entry: &UfsEntry, sees_whole_names: bool) {
        let Some(dir) = self.store.inode(observed.dir) else { return };
        if let Some(found) = self.find(&dir, name.as_bytes()) {
            let Some(known) = self.store.inode(found.id) else { return };
            if self.is_newer(found.id, &known, observed) {
                return;
            }
            match (known.is_dir(), entry.directory) {
                (true, true) => return,
                (false, false) => return self.observe_object(found.id, observed.place.mount, entry, &known),
                (true, false) if !sees_whole_names => return,
                _ => self.remove_observed(observed, found),
            }
        }
        let settings = &observed.mount.settings;
        let (kind, mode) = match entry.directory {
            true => (FileKind::Directory, settings.dir_mode),
            false => (FileKind::File, settings.file_mode),
        };
        let time = entry.mtime.map_or(self.meta.now, Stamp::from);
        let mut inode = Inode::new(kind, mode, settings.uid, settings.gid, time);
        inode.set(UFS, true);
        inode.size = if entry.directory { 0 } else { entry.size };
        let key = stored_key(&observed.place.prefix, name, entry);
        let id = self.add_inode(inode);
        if entry.directory {
            let place = UfsDirectory { mount: observed.place.mount, prefix: key.into(), complete_at: None, stored: 0 };
            self.ufs_dirs.insert(id, place);
        } else {
            self.store.put_placed(id, Arc::new(Placed::Ufs(object(observed.place.mount, key, entry))));
        }
        self.add_name(observed.dir, observed.table, name.as_bytes(), id, entry.directory);
    }

    /// Compares a known object with what was seen; a different one is a new generation.
    fn observe_object(&mut self, id: InodeId, mount: u32, entry: &UfsEntry, inode: &Inode) {
        let Some(Placed::Ufs(known)) = self.store.placed(id).as_deref().cloned() else { return };
        let key = if entry.key.is_empty() { known.key.to_string() } else { entry.key.clone() };
        let seen = object(mount, key, entry);
        if is_same_version(&known, &seen) {
            if known.etag.is_empty() && !seen.etag.is_empty() {
                self.store.put_placed(id, Arc::new(Placed::Ufs(UfsObject { etag: seen.etag, ..known })));
            }
            return;
        }
        let (size, now) = (seen.size, self.meta.now);
        let mtime = entry.mtime.map_or(inode.mtime, Stamp::from);
        self.store.put_placed(id, Arc::new(Placed::Ufs(seen)));
        // What was set here belonged to the object that is gone.
        self.drop_xattrs(id);
        let settings = self.mounts.get(&mount).map(|mount| mount.settings.clone());
        self.edit(id, |inode| {
            if let Some(settings) = settings {
                inode.set_mode(settings.file_mode);
                (inode.uid, inode.gid) = (settings.uid, settings.gid);
            }
            inode.content += 1;
            inode.size = size;
            inode.mtime = mtime;
            inode.changed(now);
        });
    }

    /// Whether an observation has nothing to say about an inode: it is dirty, or holds something that is, or the store got it from
    /// here after the look began.
    fn is_newer(&self, id: InodeId, inode: &Inode, observed: &Observed) -> bool {
        if inode.is_dir() {
            return self
                .ufs_dirs
                .get(&id)
                .is_some_and(|dir| dir.stored > observed.began || self.has_jobs_below(dir.mount, &dir.prefix));
        }
        match self.store.placed(id).as_deref() {
            Some(Placed::Ufs(object)) => object.stored > observed.began,
            _ => inode.has(DIRTY),
        }
    }

    fn remove_observed(&mut self, observed: &Observed, found: Found) {
        let Some(inode) = self.store.inode(found.id) else { return };
        if self.is_newer(found.id, &inode, observed) {
            return;
        }
        self.remove_name(observed.dir, observed.table, found, inode.is_dir());
        self.doom(&inode);
        self.free(found.id);
    }

    pub(super) fn ufs_changed(&mut self, command: &UfsChanged) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.file(id)?;
        let mount = self.mount_of(id, &inode);
        if mount == 0 {
            return Err(fail(ErrorKind::InvalidArgument, "not a file of an under file system").with("inode", id));
        }
        if inode.content != command.generation {
            return Err(fail(ErrorKind::Conflict, "the file has another generation")
                .with("inode", id)
                .with("have", inode.content)
                .with("want", command.generation));
        }
        if inode.has(DIRTY) || inode.nlink == 0 {
            return Err(fail(ErrorKind::Conflict, "the file is not the store's any more").with("inode", id));
        }
        let parent = inode.parent;
        if !command.gone {
            let entry = command.entry.as_ref();
            let entry = entry.ok_or_else(|| fail(ErrorKind::InvalidArgument, "a change says what is there now"))?;
            self.observe_object(id, mount, entry, &inode);
            let attr = self.attr(id);
            let layout = self.layout(id, false);
            return Ok(Outcome { attr, layout, parent: self.attr(parent), ..Outcome::default() });
        }
        let found = Found { cookie: inode.cookie, id };
        if let Some(dir) = self.store.inode(parent) {
            self.remove_name(parent, dir.content, found, false);
        }
        self.edit(id, |inode| inode.nlink = 0);
        let target = self.attr(id);
        self.free(id);
        Ok(Outcome { target, parent: self.attr(parent), ..Outcome::default() })
    }
}

/// With etags on both sides they decide, else size and time: a listing may say less than a look at one object.
pub(super) fn is_same_version(known: &UfsObject, seen: &UfsObject) -> bool {
    let by_etag = !known.etag.is_empty() && !seen.etag.is_empty();
    known.size == seen.size && if by_etag { known.etag == seen.etag } else { known.mtime == seen.mtime }
}

pub(super) fn object(mount: u32, key: String, entry: &UfsEntry) -> UfsObject {
    UfsObject {
        mount,
        key: key.into(),
        etag: entry.etag.as_str().into(),
        size: entry.size,
        mtime: entry.mtime.map(Stamp::from).unwrap_or_default(),
        stored: 0,
    }
}

/// The key as stored; of a directory it ends in '/'.
pub(super) fn stored_key(prefix: &str, name: &Name, entry: &UfsEntry) -> String {
    let mut key = if entry.key.is_empty() { format!("{prefix}{name}") } else { entry.key.clone() };
    if entry.directory && !key.ends_with('/') {
        key.push('/');
    }
    key
}
