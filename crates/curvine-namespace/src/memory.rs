//! The engine that keeps everything in memory, in persistent trees.
//!
//! Always: a name's entry is in `dentries` and in `index`, or in neither; but while a snapshot is being loaded.

use std::sync::Arc;

use curvine_types::{Cookie, InodeId};

use crate::label::Label;
use crate::record::{Dentry, Inode, Placed};
use crate::siphash::siphash;
use crate::store::Store;
use crate::tree::Tree;

/// The tables of the file tree, in memory.
#[derive(Clone, Default)]
pub struct Memory {
    hash_key: [u8; 16],
    inodes: Tree<InodeId, Inode>,
    /// By table and cookie.
    dentries: Tree<(u64, Cookie), Dentry>,
    /// Table, hash of the name, cookie.
    index: Tree<(u64, u64, Cookie), ()>,
    links: Tree<(InodeId, InodeId, Cookie), ()>,
    xattrs: Tree<(InodeId, Label), Arc<[u8]>>,
    placed: Tree<InodeId, Arc<Placed>>,
    inline: Tree<InodeId, Arc<[u8]>>,
}

impl Memory {
    /// `hash_key` differs between clusters, so that colliding names of one are not those of another.
    pub fn new(hash_key: [u8; 16]) -> Self {
        Self { hash_key, ..Self::default() }
    }

    /// Enters a name that a snapshot holds; no name is found before `index_names`. Whether it is not there yet.
    pub fn load_dentry(&mut self, table: u64, cookie: Cookie, dentry: Dentry) -> bool {
        self.dentries.insert((table, cookie), dentry).is_none()
    }

    /// Makes the index of all names. One by one they would go to places in no order, which takes half of a restart.
    pub fn index_names(&mut self) {
        let key = |((table, cookie), dentry): (&(u64, Cookie), &Dentry)| {
            (*table, siphash(&self.hash_key, dentry.name.as_bytes()), *cookie)
        };
        let mut keys: Vec<(u64, u64, Cookie)> = self.dentries.iter().map(key).collect();
        keys.sort_unstable();
        self.index = Tree::from_ascending(keys.into_iter().map(|key| (key, ())));
    }
}

impl Store for Memory {
    fn inode(&self, id: InodeId) -> Option<Inode> {
        self.inodes.get(&id).copied()
    }

    fn put_inode(&mut self, id: InodeId, inode: Inode) {
        self.inodes.insert(id, inode);
    }

    fn edit_inode<R>(&mut self, id: InodeId, edit: impl FnOnce(&mut Inode) -> R) -> Option<R> {
        self.inodes.get_mut(&id).map(edit)
    }

    fn remove_inode(&mut self, id: InodeId) {
        self.inodes.remove(&id);
    }

    fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    fn inodes(&self) -> impl Iterator<Item = (InodeId, Inode)> {
        self.inodes.iter().map(|(id, inode)| (*id, *inode))
    }

    fn inodes_after(&self, after: InodeId) -> impl Iterator<Item = (InodeId, Inode)> {
        self.inodes.range(&after.saturating_add(1)).map(|(id, inode)| (*id, *inode))
    }

    fn find_dentry(&self, table: u64, name: &[u8]) -> Option<(Cookie, InodeId)> {
        let hash = siphash(&self.hash_key, name);
        let same_hash = self.index.range(&(table, hash, 0)).take_while(|(key, ())| (key.0, key.1) == (table, hash));
        for ((_, _, cookie), ()) in same_hash {
            if let Some(dentry) = self.dentries.get(&(table, *cookie))
                && dentry.name.as_bytes() == name
            {
                return Some((*cookie, dentry.child));
            }
        }
        None
    }

    fn dentry(&self, table: u64, cookie: Cookie) -> Option<Dentry> {
        self.dentries.get(&(table, cookie)).cloned()
    }

    fn put_dentry(&mut self, table: u64, cookie: Cookie, dentry: Dentry) {
        let hash = siphash(&self.hash_key, dentry.name.as_bytes());
        self.index.insert((table, hash, cookie), ());
        self.dentries.insert((table, cookie), dentry);
    }

    fn redirect_dentry(&mut self, table: u64, cookie: Cookie, child: InodeId) {
        if let Some(dentry) = self.dentries.get_mut(&(table, cookie)) {
            dentry.child = child;
        }
    }

    fn remove_dentry(&mut self, table: u64, cookie: Cookie) -> Option<Dentry> {
        let dentry = self.dentries.remove(&(table, cookie))?;
        let hash = siphash(&self.hash_key, dentry.name.as_bytes());
        self.index.remove(&(table, hash, cookie));
        Some(dentry)
    }

    fn dentries_after(&self, table: u64, after: Cookie) -> impl Iterator<Item = (Cookie, &Dentry)> {
        self.dentries
            .range(&(table, after.saturating_add(1)))
            .take_while(move |((have, cookie), _)| *have == table && *cookie > after)
            .map(|((_, cookie), dentry)| (*cookie, dentry))
    }

    fn dentry_count(&self) -> usize {
        self.dentries.len()
    }

    fn dentries(&self) -> impl Iterator<Item = (u64, Cookie, &Dentry)> {
        self.dentries.iter().map(|((table, cookie), dentry)| (*table, *cookie, dentry))
    }

    fn put_link(&mut self, id: InodeId, directory: InodeId, cookie: Cookie) {
        self.links.insert((id, directory, cookie), ());
    }

    fn remove_link(&mut self, id: InodeId, directory: InodeId, cookie: Cookie) {
        self.links.remove(&(id, directory, cookie));
    }

    fn first_link(&self, id: InodeId) -> Option<(InodeId, Cookie)> {
        let ((have, directory, cookie), ()) = self.links.first_from(&(id, 0, 0))?;
        (*have == id).then_some((*directory, *cookie))
    }

    fn links(&self) -> impl Iterator<Item = (InodeId, InodeId, Cookie)> {
        self.links.iter().map(|(link, ())| *link)
    }

    fn xattr(&self, id: InodeId, name: &[u8]) -> Option<Arc<[u8]>> {
        self.xattrs.get(&(id, Label::new(name))).cloned()
    }

    fn put_xattr(&mut self, id: InodeId, name: &[u8], value: Arc<[u8]>) {
        self.xattrs.insert((id, Label::new(name)), value);
    }

    fn remove_xattr(&mut self, id: InodeId, name: &[u8]) -> bool {
        self.xattrs.remove(&(id, Label::new(name))).is_some()
    }

    fn xattrs_of(&self, id: InodeId) -> impl Iterator<Item = (&Label, &Arc<[u8]>)> {
        self.xattrs
            .range(&(id, Label::new(b"")))
            .take_while(move |((have, _), _)| *have == id)
            .map(|((_, name), value)| (name, value))
    }

    fn xattr_count(&self) -> usize {
        self.xattrs.len()
    }

    fn xattrs(&self) -> impl Iterator<Item = (InodeId, &Label, &Arc<[u8]>)> {
        self.xattrs.iter().map(|((id, name), value)| (*id, name, value))
    }

    fn placed(&self, id: InodeId) -> Option<Arc<Placed>> {
        self.placed.get(&id).cloned()
    }

    fn put_placed(&mut self, id: InodeId, placed: Arc<Placed>) {
        self.placed.insert(id, placed);
    }

    fn remove_placed(&mut self, id: InodeId) {
        self.placed.remove(&id);
    }

    fn placed_after(&self, after: InodeId) -> impl Iterator<Item = (InodeId, &Arc<Placed>)> {
        self.placed.range(&after.saturating_add(1)).map(|(id, placed)| (*id, placed))
    }

    fn all_placed(&self) -> impl Iterator<Item = (InodeId, &Arc<Placed>)> {
        self.placed.iter().map(|(id, placed)| (*id, placed))
    }

    fn inline(&self, id: InodeId) -> Option<Arc<[u8]>> {
        self.inline.get(&id).cloned()
    }

    fn put_inline(&mut self, id: InodeId, data: Arc<[u8]>) {
        self.inline.insert(id, data);
    }

    fn remove_inline(&mut self, id: InodeId) {
        self.inline.remove(&id);
    }

    fn all_inline(&self) -> impl Iterator<Item = (InodeId, &Arc<[u8]>)> {
        self.inline.iter().map(|(id, data)| (*id, data))
    }
}
