//! The whole replicated state and the steps that commands are made of.
//!
//! Always: every inode but the root has as many names as its link count says (directories: one, and a count of 2 plus
//! their subdirectories), or it is an orphan with count 0 that a session holds. The tables `held`, `clients`, `ending`, `live`,
//! `uploads`, `job_keys`, `trash_keys` and `trash_order` follow from the others. A step never fails half way: commands check everything before they change anything.

use std::sync::Arc;

use curvine_proto::{Attr, FileKind, Job, NoteTreeMove, Time, TrashEntry};
use curvine_types::{
    ClusterId, Cookie, Error, ErrorKind, Generation, InodeId, MountId, Name, ROOT_INODE, Result, SessionId, WorkerId,
};

use crate::acl::{ACCESS, DEFAULT};
use crate::api::WorkerRecord;
use crate::label::Label;
use crate::memory::Memory;
use crate::record::*;
use crate::stamp::Stamp;
use crate::store::Store;
use crate::tree::Tree;

/// Directories above an inode; beyond them the table is damaged.
const DEPTH_MAX: usize = 1 << 16;

/// Everything that a snapshot holds. Cloning is O(1).
#[derive(Clone, Default)]
pub(crate) struct State {
    pub meta: Meta,
    pub store: Memory,
    pub sessions: Tree<SessionId, Session>,
    /// Sessions by the name of their client.
    pub clients: Tree<(Arc<str>, SessionId), ()>,
    /// Sessions that are `ending`.
    pub ending: Tree<SessionId, ()>,
    pub results: Tree<(SessionId, u64), Kept>,
    pub held: Tree<(SessionId, Held, InodeId), ()>,
    /// Who has an unlinked inode open.
    pub orphans: Tree<(InodeId, SessionId), ()>,
    pub grants: Tree<InodeId, GrantRecord>,
    /// Inodes with the flag `LIVE`.
    pub live: Tree<InodeId, ()>,
    pub locks: Tree<InodeId, Arc<Vec<Lock>>>,
    pub workers: Tree<WorkerId, WorkerRecord>,
    pub mounts: Tree<MountId, Arc<Mount>>,
    pub ufs_dirs: Tree<InodeId, UfsDirectory>,
    pub garbage: Tree<(WorkerId, InodeId, Generation), ()>,
    /// Tables of names whose directory is gone; their inodes are freed step by step.
    pub doomed: Tree<u64, ()>,
    pub jobs: Tree<u64, Arc<Job>>,
    /// The upload that a dirty inode waits for.
    pub uploads: Tree<InodeId, u64>,
    /// Jobs by where in which store they write.
    pub job_keys: Tree<(MountId, Arc<str>, u64), ()>,
    /// Files and directories that are pinned.
    pub pins: Tree<InodeId, ()>,
    /// By their directories.
    pub quotas: Tree<InodeId, Quota>,
    /// What was removed through mounts and is still in their stores, in the order of removal.
    pub trash: Tree<u64, Arc<TrashEntry>>,
    /// What of it still has its key.
    pub trash_keys: Tree<(MountId, Arc<str>), u64>,
    /// By mount and by whether it is held only for a short time.
    pub trash_order: Tree<(MountId, bool, u64), ()>,
    /// By the files and directories that have one of their own.
    pub ttls: Tree<InodeId, Ttl>,
    /// By mount and old place.
    pub tree_moves: Tree<(MountId, Arc<str>), Arc<NoteTreeMove>>,
}

/// Numbers of the whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meta {
    pub cluster: Option<ClusterId>,
    pub feature_level: u32,
    pub now: Stamp,
    pub next_inode: InodeId,
    pub next_cookie: Cookie,
    pub next_session: SessionId,
    pub next_worker: WorkerId,
    pub next_mount: MountId,
    /// Numbers executed commands, for the order of kept results.
    pub next_order: u64,
    pub next_job: u64,
    /// Changes of stores that Curvine made.
    pub stores: u64,
    /// Changes of pins.
    pub pins_change: u64,
    pub next_trash: u64,
    pub tally: Tally,
}

/// Sums over all inodes; they follow from the inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub specials: u64,
    pub bytes: u64,
    pub inline_bytes: u64,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            cluster: None,
            feature_level: 0,
            now: Stamp::from(Time { sec: 0, nsec: 0 }),
            next_inode: ROOT_INODE + 1,
            next_cookie: 3,
            next_session: 1,
            next_worker: 1,
            next_mount: 1,
            next_order: 1,
            next_job: 1,
            stores: 0,
            pins_change: 0,
            next_trash: 1,
            tally: Tally::default(),
        }
    }
}

impl Tally {
    /// Counts an inode in or out.
    pub fn count(&mut self, inode: &Inode, add: bool) {
        let number = match inode.kind() {
            FileKind::File => &mut self.files,
            FileKind::Directory => &mut self.directories,
            FileKind::Symlink => &mut self.symlinks,
            _ => &mut self.specials,
        };
        *number = if add { *number + 1 } else { number.saturating_sub(1) };
        if inode.is_file() {
            self.resize(if add { 0 } else { inode.size }, if add { inode.size } else { 0 });
        }
    }

    /// A file's size went from one to the other.
    pub fn resize(&mut self, from: u64, to: u64) {
        self.bytes = self.bytes.saturating_sub(from).saturating_add(to);
    }
}

/// An entry of a directory, found by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub cookie: Cookie,
    pub id: InodeId,
}

/// An error with a message.
pub(crate) fn fail(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, message)
}

impl State {
    /// Whether commands of the session are executed.
    pub fn is_alive(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|session| !session.ending)
    }

    /// An inode that must exist.
    pub fn inode(&self, id: InodeId) -> Result<Inode> {
        self.store.inode(id).ok_or_else(|| fail(ErrorKind::Stale, "the inode is gone").with("inode", id))
    }

    /// A directory that must exist.
    pub fn dir(&self, id: InodeId) -> Result<Inode> {
        let inode = self.inode(id)?;
        if !inode.is_dir() {
            return Err(fail(ErrorKind::NotADirectory, "not a directory").with("inode", id));
        }
        Ok(inode)
    }

    /// A directory that takes new names: it is linked and belongs to no read-only mount.
    pub fn dir_for_names(&self, id: InodeId) -> Result<Inode> {
        let dir = self.dir(id)?;
        self.check_writable(id, &dir)?;
        if dir.nlink == 0 {
            return Err(fail(ErrorKind::NotFound, "the directory was removed").with("inode", id));
        }
        Ok(dir)
    }

    /// The entry of a name.
    pub fn find(&self, dir: &Inode, name: &[u8]) -> Option<Found> {
        self.store.find_dentry(dir.content, name).map(|(cookie, id)| Found { cookie, id })
    }

    /// The entry of a name that must exist.
    pub fn find_existing(&self, dir: &Inode, name: &Name) -> Result<Found> {
        self.find(dir, name.as_bytes()).ok_or_else(|| fail(ErrorKind::NotFound, "no such name").with("name", name))
    }

    /// Changes an inode and keeps the sum of sizes.
    pub fn edit(&mut self, id: InodeId, edit: impl FnOnce(&mut Inode)) {
        let sizes = self.store.edit_inode(id, |inode| {
            let before = inode.size;
            edit(inode);
            inode.is_file().then_some((before, inode.size))
        });
        if let Some(Some((before, after))) = sizes {
            self.meta.tally.resize(before, after);
            self.charge_size(id, before, after);
        }
    }

    /// Stores a new inode; it has no name yet.
    pub fn add_inode(&mut self, mut inode: Inode) -> InodeId {
        let id = self.next_number();
        if inode.is_dir() {
            inode.nlink = 2;
            inode.content = id;
        }
        self.meta.tally.count(&inode, true);
        self.store.put_inode(id, inode);
        id
    }

    /// A number that no inode and no table of names ever had.
    pub fn next_number(&mut self) -> u64 {
        let number = self.meta.next_inode;
        self.meta.next_inode += 1;
        number
    }

    /// Enters a name that is not there yet. The child's link count is not touched.
    pub fn add_name(&mut self, dir: InodeId, table: u64, name: &[u8], child: InodeId, child_is_dir: bool) -> Cookie {
        let cookie = self.meta.next_cookie;
        self.meta.next_cookie += 1;
        self.store.put_dentry(table, cookie, Dentry { name: Label::new(name), child });
        self.edit_names(dir, |dir| {
            dir.size += 1;
            dir.nlink += u32::from(child_is_dir);
        });
        self.register_link(child, dir, cookie);
        cookie
    }

    /// Removes a name. The child's link count is not touched.
    pub fn remove_name(&mut self, dir: InodeId, table: u64, found: Found, child_is_dir: bool) {
        self.store.remove_dentry(table, found.cookie);
        self.edit_names(dir, |dir| {
            dir.size = dir.size.saturating_sub(1);
            dir.nlink = dir.nlink.saturating_sub(u32::from(child_is_dir));
        });
        self.unregister_link(found.id, dir, found.cookie);
    }

    /// Changes a directory whose names change.
    pub fn edit_names(&mut self, dir: InodeId, edit: impl FnOnce(&mut Inode)) {
        let now = self.meta.now;
        self.edit(dir, |dir| {
            edit(dir);
            dir.mtime = now;
            dir.changed(now);
        });
    }

    /// Notes one more name of an inode.
    pub fn register_link(&mut self, child: InodeId, dir: InodeId, cookie: Cookie) {
        let first = self.store.edit_inode(child, |child| {
            let first = child.cookie == 0;
            if first {
                (child.parent, child.cookie) = (dir, cookie);
            }
            first
        });
        match first {
            Some(false) => self.store.put_link(child, dir, cookie),
            _ => self.charge_name(child, dir, true),
        }
    }

    /// Notes one name less.
    pub fn unregister_link(&mut self, child: InodeId, dir: InodeId, cookie: Cookie) {
        let Some(inode) = self.store.inode(child) else { return };
        if (inode.parent, inode.cookie) != (dir, cookie) {
            self.store.remove_link(child, dir, cookie);
            return;
        }
        self.charge_name(child, dir, false);
        let next = self.store.first_link(child);
        if let Some((dir, cookie)) = next {
            self.store.remove_link(child, dir, cookie);
        }
        self.store.edit_inode(child, |child| (child.parent, child.cookie) = next.unwrap_or_default());
        if let Some((dir, _)) = next {
            self.charge_name(child, dir, true);
        }
    }

    /// Takes a link from an inode that has just lost a name. Without links it lives on only as long as a holder or a
    /// writer has it. Returns its attributes as they are afterwards.
    pub fn drop_link(&mut self, id: InodeId, holders: &[SessionId]) -> Attr {
        let now = self.meta.now;
        self.edit(id, |inode| {
            inode.nlink = if inode.is_dir() { 0 } else { inode.nlink.saturating_sub(1) };
            inode.changed(now);
        });
        let Some(inode) = self.store.inode(id) else { return Attr::default() };
        let attr = self.attr_of(id, &inode);
        if inode.nlink == 0 {
            self.detach(id, &inode);
            for holder in
                holders.iter().filter(|holder| self.sessions.contains(holder) && !self.ending.contains(holder))
            {
                self.orphans.insert((id, *holder), ());
                self.held.insert((*holder, Held::Orphan, id), ());
            }
            self.free_if_unused(id);
        }
        attr
    }

    /// Frees an inode that has no name, no holder and no writer.
    pub fn free_if_unused(&mut self, id: InodeId) {
        let Some(inode) = self.store.inode(id) else { return };
        let is_held = self.orphans.first_from(&(id, 0)).is_some_and(|((have, _), ())| *have == id);
        let has_writers = self.grants.get(&id).is_some_and(|grant| !grant.writers.is_empty());
        if inode.nlink == 0 && !is_held && !has_writers {
            self.free(id);
        }
    }

    /// Forgets an inode and all that belongs to it. Names in it, if it is a directory, are the caller's business.
    pub fn free(&mut self, id: InodeId) {
        let Some(inode) = self.store.inode(id) else { return };
        self.drop_content(id, &inode);
        self.drop_xattrs(id);
        if let Some(locks) = self.locks.remove(&id) {
            for lock in locks.iter() {
                self.held.remove(&(lock.session, Held::Lock, id));
            }
        }
        if let Some(grant) = self.grants.remove(&id) {
            for writer in grant.writers {
                self.held.remove(&(writer, Held::Write, id));
            }
        }
        while let Some(holder) = self.first_holder(id) {
            self.orphans.remove(&(id, holder));
            self.held.remove(&(holder, Held::Orphan, id));
        }
        self.ufs_dirs.remove(&id);
        self.quotas.remove(&id);
        self.pins.remove(&id);
        self.ttls.remove(&id);
        self.end_upload(id);
        self.meta.tally.count(&inode, false);
        self.store.remove_inode(id);
    }

    /// Forgets all extended attributes of an inode.
    pub fn drop_xattrs(&mut self, id: InodeId) {
        if !self.store.inode(id).is_some_and(|inode| inode.has(XATTRS)) {
            return;
        }
        let names: Vec<Label> = self.store.xattrs_of(id).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.store.remove_xattr(id, name.as_bytes());
        }
        self.edit(id, |inode| inode.set(XATTRS, false));
    }

    /// The first session that holds an unlinked inode.
    pub fn first_holder(&self, id: InodeId) -> Option<SessionId> {
        let ((have, holder), ()) = self.orphans.first_from(&(id, 0))?;
        (*have == id).then_some(*holder)
    }

    /// The mount that an inode belongs to; 0 if none.
    pub fn mount_of(&self, id: InodeId, inode: &Inode) -> MountId {
        if !inode.has(UFS) {
            return 0;
        }
        if inode.is_dir() {
            return self.ufs_dirs.get(&id).map_or(0, |dir| dir.mount);
        }
        match self.store.placed(id).as_deref() {
            Some(Placed::Ufs(object)) => object.mount,
            _ => self.upload_of(id).map_or(0, |job| job.mount),
        }
    }

    /// Refuses what would change a mount that is read-only.
    pub fn check_writable(&self, id: InodeId, inode: &Inode) -> Result<()> {
        if !inode.has(UFS) {
            return Ok(());
        }
        let mount = self.mounts.get(&self.mount_of(id, inode));
        if mount.is_none_or(|mount| mount.settings.read_only) {
            return Err(fail(ErrorKind::ReadOnly, "the under file system is mounted read-only").with("inode", id));
        }
        Ok(())
    }

    /// The attributes of an inode that is there.
    pub fn attr_of(&self, id: InodeId, inode: &Inode) -> Attr {
        let is_device = matches!(inode.kind(), FileKind::CharDevice | FileKind::BlockDevice);
        let blocks = match inode.kind() {
            FileKind::File if inode.has(BLOCKS) => match self.store.placed(id).as_deref() {
                Some(Placed::Blocks(blocks)) => blocks.allocated,
                _ => 0,
            },
            FileKind::File => inode.size.div_ceil(512),
            _ => 0,
        };
        Attr {
            inode: id,
            kind: inode.kind() as i32,
            mode: inode.mode(),
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: if is_device { inode.size as u32 } else { 0 },
            size: if is_device { 0 } else { inode.size },
            blocks,
            atime: Some(inode.atime.into()),
            mtime: Some(inode.mtime.into()),
            ctime: Some(inode.ctime.into()),
            btime: Some(inode.btime.into()),
            generation: inode.generation(),
            change: inode.change,
            live: inode.has(LIVE),
            mount: self.mount_of(id, inode),
            acl: inode.has(XATTRS) && [ACCESS, DEFAULT].iter().any(|name| self.store.xattr(id, name).is_some()),
            plain: !inode.has(XATTRS),
        }
    }

    /// The attributes of an inode, if there is one.
    pub fn attr(&self, id: InodeId) -> Option<Attr> {
        self.store.inode(id).map(|inode| self.attr_of(id, &inode))
    }

    /// An inode, and the directories above it up to the root.
    pub(crate) fn upwards(&self, id: InodeId) -> impl Iterator<Item = InodeId> + '_ {
        let parent = |id: &InodeId| {
            let inode = self.store.inode(*id).filter(|_| *id != ROOT_INODE)?;
            Some(inode.parent).filter(|parent| *parent != 0)
        };
        std::iter::successors(Some(id).filter(|id| *id != 0), parent).take(DEPTH_MAX)
    }

    /// The directory of a directory; the root is its own.
    pub fn parent_of(&self, id: InodeId, dir: &Inode) -> InodeId {
        if id == ROOT_INODE { ROOT_INODE } else { dir.parent }
    }
}
