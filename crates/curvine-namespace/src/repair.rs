//! Makes a whole of a state that has holes: after a rescue, `State::check` must hold again, and nothing may be told that is not so.
//!
//! Always: a file whose bytes the metadata should have and does not is removed and named, never shown as empty or as zeroes; an
//! inode that only lost its name gets one in `/lost+found`; numbers that may have been given out are not given out again.

use std::collections::{BTreeMap, BTreeSet};

use curvine_proto::{FileKind, TrashEntry};
use curvine_types::{Cookie, InodeId, ROOT_INODE};

use crate::label::Label;
use crate::record::*;
use crate::state::{State, Tally};
use crate::store::Store;
use crate::tree::Tree;

/// Numbers that are skipped, because commands that were lost may have taken them.
const MARGIN: u64 = 1 << 24;
/// Above every epoch that a worker can have heard of in the lost commands.
const EPOCH_MARGIN: u64 = 1 << 20;
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// A name: its table, its cookie and what it names.
type Entry = (u64, Cookie, InodeId);

impl State {
    /// Closes the holes; what was done about each, in words. `lossy`: commands or records are missing, so numbers are skipped.
    pub fn repair(&mut self, lossy: bool) -> Vec<String> {
        let mut notes = Vec::new();
        self.repair_root(&mut notes);
        self.repair_content(&mut notes);
        self.repair_names(&mut notes);
        self.repair_numbers(lossy);
        self.repair_tables(&mut notes);
        self.repair_owners();
        self.find_a_place_for_the_nameless(&mut notes);
        self.repair_links();
        self.repair_sums();
        self.repair_quotas();
        self.repair_trash(lossy, &mut notes);
        notes
    }

    fn repair_root(&mut self, notes: &mut Vec<String>) {
        if self.store.inode(ROOT_INODE).is_some_and(|root| root.is_dir()) {
            return;
        }
        let mut root = Inode::new(FileKind::Directory, 0o755, 0, 0, self.meta.now);
        root.content = ROOT_INODE;
        root.nlink = 2;
        self.store.put_inode(ROOT_INODE, root);
        notes.push("the root directory was lost; it has a new owner and mode".to_string());
    }

    /// Removes what has lost its bytes, and records that belong to nothing.
    fn repair_content(&mut self, notes: &mut Vec<String>) {
        let all: Vec<(InodeId, Inode)> = self.store.inodes().collect();
        for (id, inode) in all {
            let placed = self.store.placed(id);
            let is_blocks = matches!(placed.as_deref(), Some(Placed::Blocks(_)));
            let is_object = matches!(placed.as_deref(), Some(Placed::Ufs(_)));
            let inline = self.store.inline(id).map_or(0, |data| data.len() as u64);
            let needs_inline = inode.is_inline() || inode.kind() == FileKind::Symlink;
            let whole = inode.has(BLOCKS) == is_blocks
                && (inode.has(UFS) && inode.is_file()) == is_object
                && (!needs_inline || inline == inode.size)
                && (!inode.has(UFS) || !inode.is_dir() || self.ufs_dirs.contains(&id));
            if whole {
                if !needs_inline {
                    self.store.remove_inline(id);
                }
                continue;
            }
            let name =
                self.path(id).map_or_else(|| format!("inode {id}"), |path| String::from_utf8_lossy(&path).into_owned());
            // What an under file system has is only looked at again.
            if !inode.has(UFS) {
                notes.push(format!("removed, its content is lost: {name}"));
            }
            self.store.remove_placed(id);
            self.store.remove_inline(id);
            self.ufs_dirs.remove(&id);
            self.live.remove(&id);
            self.store.remove_inode(id);
        }
        let strays: Vec<InodeId> = self.store.all_placed().map(|(id, _)| id).collect();
        for id in strays.into_iter().filter(|id| self.store.inode(*id).is_none()).collect::<Vec<_>>() {
            self.store.remove_placed(id);
        }
        let strays: Vec<InodeId> = self.store.all_inline().map(|(id, _)| id).collect();
        for id in strays.into_iter().filter(|id| self.store.inode(*id).is_none()).collect::<Vec<_>>() {
            self.store.remove_inline(id);
        }
        let strays: Vec<(InodeId, Label)> = self.store.xattrs().map(|(id, name, _)| (id, name.clone())).collect();
        for (id, name) in strays.into_iter().filter(|(id, _)| self.store.inode(*id).is_none()).collect::<Vec<_>>() {
            self.store.remove_xattr(id, name.as_bytes());
        }
        let strays: Vec<InodeId> = self.ufs_dirs.iter().map(|(id, _)| *id).collect();
        for id in strays {
            match self.store.inode(id) {
                None => drop(self.ufs_dirs.remove(&id)),
                // Names of it may be lost, so a listing has to be made again.
                Some(_) => drop(self.ufs_dirs.get_mut(&id).map(|dir| dir.complete_at = None)),
            }
        }
        let mounts: Vec<_> = self.mounts.iter().map(|(id, mount)| (*id, mount.root, mount.url.clone())).collect();
        for (id, root, url) in mounts {
            if self.store.inode(root).is_none() {
                self.mounts.remove(&id);
                notes.push(format!("the mount of {url} was lost; mount it again"));
            }
        }
        let mounts = self.mounts.clone();
        self.forget_tree_moves(|mount| !mounts.contains(&mount));
    }

    /// Removes names of nothing, and second names where only one may be.
    fn repair_names(&mut self, notes: &mut Vec<String>) {
        let entries: Vec<(Entry, Label)> = self
            .store
            .dentries()
            .map(|(table, cookie, dentry)| ((table, cookie, dentry.child), dentry.name.clone()))
            .collect();
        let mut named_directories = BTreeSet::new();
        let mut names = BTreeSet::new();
        for ((table, cookie, child), name) in entries {
            let inode = self.store.inode(child);
            let is_dir = inode.is_some_and(|inode| inode.is_dir());
            let good = inode.is_some()
                && child != ROOT_INODE
                && names.insert((table, name.clone()))
                && (!is_dir || named_directories.insert(child));
            if !good {
                self.store.remove_dentry(table, cookie);
                if inode.is_some() {
                    notes.push(format!("removed the second name {}", String::from_utf8_lossy(name.as_bytes())));
                }
            }
        }
    }

    fn repair_numbers(&mut self, lossy: bool) {
        let margin = if lossy { MARGIN } else { 0 };
        let inodes =
            self.store.inodes().map(|(id, inode)| id.max(if inode.is_dir() { inode.content } else { 0 })).max();
        let tables = self.store.dentries().map(|(table, ..)| table).max();
        let garbage = self.garbage.iter().map(|((_, inode, _), ())| *inode).max();
        let inode = inodes.max(tables).max(garbage).unwrap_or_default();
        let cookie = self.store.dentries().map(|(_, cookie, _)| cookie).max().unwrap_or_default();
        let session = self.sessions.iter().map(|(id, _)| *id).max().unwrap_or_default();
        let worker = self.workers.iter().map(|(id, _)| *id).max().unwrap_or_default();
        let in_layouts = self.store.all_placed().filter_map(|(_, placed)| match &**placed {
            Placed::Blocks(blocks) => blocks.extents.iter().flat_map(|extent| extent.workers.iter().copied()).max(),
            Placed::Ufs(_) => None,
        });
        let worker = worker.max(in_layouts.max().unwrap_or_default());
        let mount = self.mounts.iter().map(|(id, _)| *id).max().unwrap_or_default();
        let order = self.results.iter().map(|(_, kept)| kept.order).max().unwrap_or_default();
        let meta = &mut self.meta;
        meta.next_inode = meta.next_inode.max(inode + 1) + margin;
        meta.next_cookie = meta.next_cookie.max(cookie + 1) + margin;
        meta.next_session = meta.next_session.max(session + 1) + margin;
        meta.next_worker = meta.next_worker.max(worker + 1);
        meta.next_mount = meta.next_mount.max(mount + 1);
        meta.next_order = meta.next_order.max(order + 1) + margin;
        if lossy {
            let raised: Vec<InodeId> = self.grants.iter().map(|(id, _)| *id).collect();
            for id in raised {
                if let Some(grant) = self.grants.get_mut(&id) {
                    grant.epoch += EPOCH_MARGIN;
                }
            }
        }
    }

    /// Each table of names belongs to one directory, and what belongs to one is not being taken away.
    fn repair_tables(&mut self, notes: &mut Vec<String>) {
        let mut owners: BTreeMap<u64, InodeId> = BTreeMap::new();
        let directories: Vec<(InodeId, u64)> =
            self.store.inodes().filter(|(_, inode)| inode.is_dir()).map(|(id, inode)| (id, inode.content)).collect();
        for (id, table) in directories {
            self.doomed.remove(&table);
            let Some(other) = owners.insert(table, id) else { continue };
            // A directory's first table has its own number, so that one has the better claim.
            let loser = if other == table || other == ROOT_INODE { id } else { other };
            if loser == id {
                owners.insert(table, other);
            }
            let fresh = self.next_number();
            self.store.edit_inode(loser, |dir| dir.content = fresh);
            notes.push(format!("the directory {loser} claimed the names of another one and is empty"));
        }
    }

    /// Holds, locks and grants of sessions and inodes that are both there; the tables that follow from others.
    fn repair_owners(&mut self) {
        self.held = Tree::default();
        self.clients = Tree::default();
        self.ending = Tree::default();
        let sessions: Vec<_> =
            self.sessions.iter().map(|(id, session)| (*id, session.client.clone(), session.ending)).collect();
        for (id, client, ending) in &sessions {
            self.clients.insert((client.clone(), *id), ());
            if *ending {
                self.ending.insert(*id, ());
            }
        }
        let results: Vec<(u64, u64)> = self.results.iter().map(|(key, _)| *key).collect();
        let mut kept: BTreeMap<u64, u32> = BTreeMap::new();
        for key in results {
            match self.sessions.contains(&key.0) {
                true => *kept.entry(key.0).or_default() += 1,
                false => drop(self.results.remove(&key)),
            }
        }
        for (id, ..) in &sessions {
            if let Some(session) = self.sessions.get_mut(id) {
                session.kept = kept.get(id).copied().unwrap_or_default();
            }
        }
        let orphans: Vec<(InodeId, u64)> = self.orphans.iter().map(|(key, ())| *key).collect();
        for (id, session) in orphans {
            if self.store.inode(id).is_some() && self.sessions.contains(&session) {
                self.held.insert((session, Held::Orphan, id), ());
            } else {
                self.orphans.remove(&(id, session));
            }
        }
        let locked: Vec<InodeId> = self.locks.iter().map(|(id, _)| *id).collect();
        for id in locked {
            let list = self.locks.get(&id).map(|list| list.to_vec()).unwrap_or_default();
            let left: Vec<Lock> = list.into_iter().filter(|lock| self.sessions.contains(&lock.session)).collect();
            self.locks.remove(&id);
            if !left.is_empty() && self.store.inode(id).is_some() {
                for lock in &left {
                    self.held.insert((lock.session, Held::Lock, id), ());
                }
                self.locks.insert(id, left.into());
            }
        }
        let granted: Vec<(InodeId, GrantRecord)> = self.grants.iter().map(|(id, grant)| (*id, grant.clone())).collect();
        for (id, mut grant) in granted {
            grant.writers.retain(|writer| self.sessions.contains(writer));
            self.grants.remove(&id);
            if self.store.inode(id).is_some() {
                for writer in &grant.writers {
                    self.held.insert((*writer, Held::Write, id), ());
                }
                self.grants.insert(id, grant);
            }
        }
    }

    /// Names for directories and files that have lost theirs; what had none before and nobody holds goes.
    fn find_a_place_for_the_nameless(&mut self, notes: &mut Vec<String>) {
        let now = self.meta.now;
        let owned: BTreeSet<u64> =
            self.store.inodes().filter(|(_, inode)| inode.is_dir()).map(|(_, inode)| inode.content).collect();
        let tables: BTreeSet<u64> = self.store.dentries().map(|(table, ..)| table).collect();
        for table in tables {
            if owned.contains(&table) || self.doomed.contains(&table) {
                continue;
            }
            let mut dir = Inode::new(FileKind::Directory, 0o700, 0, 0, now);
            dir.content = table;
            // A directory's table has its own number, unless a mount was replaced in it.
            let id = if self.store.inode(table).is_none() { table } else { self.next_number() };
            self.store.put_inode(id, dir);
            notes.push(format!("the directory {id} was lost, what was in it was not"));
        }
        let named: BTreeSet<InodeId> = self.store.dentries().map(|(_, _, dentry)| dentry.child).collect();
        let nameless: Vec<(InodeId, Inode)> =
            self.store.inodes().filter(|(id, _)| *id != ROOT_INODE && !named.contains(id)).collect();
        for (id, inode) in nameless {
            let is_held =
                self.first_holder(id).is_some() || self.grants.get(&id).is_some_and(|grant| !grant.writers.is_empty());
            if inode.nlink == 0 && is_held {
                continue;
            }
            if inode.nlink == 0 || inode.has(UFS) {
                self.doom_unreachable(&inode);
                self.free(id);
                continue;
            }
            let found = self.lost_and_found();
            let name = format!("#{id}");
            self.store.put_dentry(
                self.store.inode(found).map_or(found, |dir| dir.content),
                self.meta.next_cookie,
                Dentry { name: Label::new(name.as_bytes()), child: id },
            );
            self.meta.next_cookie += 1;
            notes.push(format!("found without a name: /lost+found/{name}"));
        }
    }

    fn doom_unreachable(&mut self, dir: &Inode) {
        if dir.is_dir() {
            self.doomed.insert(dir.content, ());
        }
    }

    fn lost_and_found(&mut self) -> InodeId {
        let root = self.store.inode(ROOT_INODE).map_or(ROOT_INODE, |root| root.content);
        if let Some((_, id)) = self.store.find_dentry(root, LOST_AND_FOUND)
            && self.store.inode(id).is_some_and(|found| found.is_dir())
        {
            return id;
        }
        let mut dir = Inode::new(FileKind::Directory, 0o700, 0, 0, self.meta.now);
        let id = self.next_number();
        dir.content = id;
        self.store.put_inode(id, dir);
        let taken = self.store.find_dentry(root, LOST_AND_FOUND).is_some();
        let name = if taken { format!("lost+found-{id}").into_bytes() } else { LOST_AND_FOUND.to_vec() };
        self.store.put_dentry(root, self.meta.next_cookie, Dentry { name: Label::new(&name), child: id });
        self.meta.next_cookie += 1;
        id
    }

    /// Link counts, sizes of directories and the way back from an inode to its names, from the names alone.
    fn repair_links(&mut self) {
        let stale: Vec<(InodeId, InodeId, Cookie)> = self.store.links().collect();
        for (id, dir, cookie) in stale {
            self.store.remove_link(id, dir, cookie);
        }
        let owners: BTreeMap<u64, InodeId> =
            self.store.inodes().filter(|(_, inode)| inode.is_dir()).map(|(id, inode)| (inode.content, id)).collect();
        let mut names: BTreeMap<InodeId, Vec<(InodeId, Cookie)>> = BTreeMap::new();
        let mut entries: BTreeMap<InodeId, (u64, u32)> = BTreeMap::new();
        for (table, cookie, dentry) in self.store.dentries() {
            let owner = owners.get(&table).copied();
            // Of a table whose directory is gone the number stands for it.
            names.entry(dentry.child).or_default().push((owner.unwrap_or(table), cookie));
            let Some(dir) = owner else { continue };
            let counts = entries.entry(dir).or_default();
            counts.0 += 1;
            counts.1 += u32::from(self.store.inode(dentry.child).is_some_and(|child| child.is_dir()));
        }
        let all: Vec<(InodeId, Inode)> = self.store.inodes().collect();
        for (id, mut inode) in all {
            let own = names.remove(&id).unwrap_or_default();
            (inode.parent, inode.cookie) = own.first().copied().unwrap_or_default();
            for (dir, cookie) in own.iter().skip(1) {
                self.store.put_link(id, *dir, *cookie);
            }
            if inode.is_dir() {
                let (size, subdirectories) = entries.get(&id).copied().unwrap_or_default();
                inode.size = size;
                inode.nlink = if own.is_empty() && id != ROOT_INODE { 0 } else { 2 + subdirectories };
            } else {
                inode.nlink = own.len() as u32;
            }
            self.store.put_inode(id, inode);
        }
    }

    /// Their directories are counted anew.
    fn repair_quotas(&mut self) {
        let mortal: Vec<InodeId> = self.ttls.iter().map(|(id, _)| *id).collect();
        for id in mortal.into_iter().filter(|id| self.store.inode(*id).is_none()) {
            self.ttls.remove(&id);
        }
        let pinned: Vec<InodeId> = self.pins.iter().map(|(id, ())| *id).collect();
        for id in pinned.into_iter().filter(|id| self.store.inode(*id).is_none()).collect::<Vec<_>>() {
            self.pins.remove(&id);
        }
        let all: Vec<(InodeId, Quota)> = self.quotas.iter().map(|(id, quota)| (*id, *quota)).collect();
        for (id, quota) in all {
            if self.store.inode(id).is_some_and(|inode| inode.is_dir() && !inode.has(UFS)) {
                self.quotas.insert(id, Quota { bytes: quota.bytes, files: quota.files, ..Quota::default() });
            } else {
                self.quotas.remove(&id);
            }
        }
    }

    /// Nothing is deleted on the word of an entry that may be out of date: a restoration of it may be among what is lost.
    fn repair_trash(&mut self, lossy: bool, notes: &mut Vec<String>) {
        let entries: Vec<TrashEntry> = self.trash.iter().map(|(_, entry)| TrashEntry::clone(entry)).collect();
        self.trash = Tree::default();
        self.trash_keys = Tree::default();
        self.trash_order = Tree::default();
        if lossy && !entries.is_empty() {
            notes.push(format!(
                "{} removed objects of stores are not in the trash any more, but files again",
                entries.len()
            ));
            return;
        }
        for entry in entries.into_iter().filter(|entry| entry.id < u64::MAX) {
            self.insert_trash(entry);
        }
    }

    /// Flags, epochs and sums that follow from the rest.
    fn repair_sums(&mut self) {
        let mut tally = Tally::default();
        self.live = Tree::default();
        let all: Vec<(InodeId, Inode)> = self.store.inodes().collect();
        for (id, mut inode) in all {
            inode.set(XATTRS, self.store.xattrs_of(id).next().is_some());
            inode.set(LIVE, inode.has(LIVE) && inode.has(BLOCKS));
            if inode.has(LIVE) {
                self.live.insert(id, ());
            }
            if inode.has(BLOCKS) && !self.grants.contains(&id) {
                self.grants.insert(id, GrantRecord { epoch: EPOCH_MARGIN, writers: Vec::new() });
            }
            tally.count(&inode, true);
            self.store.put_inode(id, inode);
        }
        tally.inline_bytes = self.store.all_inline().map(|(_, data)| data.len() as u64).sum();
        self.meta.tally = tally;
    }
}
