//! Where inodes, names, attributes and content records are kept.

use std::sync::Arc;

use curvine_types::{Cookie, InodeId};

use crate::label::Label;
use crate::record::{Dentry, Inode, Placed};

/// The typed tables of the file tree.
///
/// An engine keeps each record until it is replaced or removed, scans in ascending order of cookies, inodes and names,
/// and serves each call without I/O that could fail. A clone is O(1) and frozen: it never sees later changes. The engine does not know what
/// the records mean; that link counts, names and inodes agree is the duty of the caller.
pub trait Store: Clone {
    fn inode(&self, id: InodeId) -> Option<Inode>;
    fn put_inode(&mut self, id: InodeId, inode: Inode);
    /// Changes an inode in place; `None` if there is no such inode.
    fn edit_inode<R>(&mut self, id: InodeId, edit: impl FnOnce(&mut Inode) -> R) -> Option<R>;
    fn remove_inode(&mut self, id: InodeId);
    fn inode_count(&self) -> usize;
    fn inodes(&self) -> impl Iterator<Item = (InodeId, Inode)>;
    /// Those with higher numbers, ascending.
    fn inodes_after(&self, after: InodeId) -> impl Iterator<Item = (InodeId, Inode)>;

    /// The entry of a name in a table of names.
    fn find_dentry(&self, table: u64, name: &[u8]) -> Option<(Cookie, InodeId)>;
    fn dentry(&self, table: u64, cookie: Cookie) -> Option<Dentry>;
    /// Adds an entry; the caller has made sure that table has no such name.
    fn put_dentry(&mut self, table: u64, cookie: Cookie, dentry: Dentry);
    /// Lets an existing entry name another inode.
    fn redirect_dentry(&mut self, table: u64, cookie: Cookie, child: InodeId);
    fn remove_dentry(&mut self, table: u64, cookie: Cookie) -> Option<Dentry>;
    /// Entries of a table with cookies above `after`.
    fn dentries_after(&self, table: u64, after: Cookie) -> impl Iterator<Item = (Cookie, &Dentry)>;
    fn dentry_count(&self) -> usize;
    fn dentries(&self) -> impl Iterator<Item = (u64, Cookie, &Dentry)>;

    /// Further names of an inode, besides the one in its record: the directory and the cookie.
    fn put_link(&mut self, id: InodeId, directory: InodeId, cookie: Cookie);
    fn remove_link(&mut self, id: InodeId, directory: InodeId, cookie: Cookie);
    fn first_link(&self, id: InodeId) -> Option<(InodeId, Cookie)>;
    fn links(&self) -> impl Iterator<Item = (InodeId, InodeId, Cookie)>;

    fn xattr(&self, id: InodeId, name: &[u8]) -> Option<Arc<[u8]>>;
    fn put_xattr(&mut self, id: InodeId, name: &[u8], value: Arc<[u8]>);
    fn remove_xattr(&mut self, id: InodeId, name: &[u8]) -> bool;
    fn xattrs_of(&self, id: InodeId) -> impl Iterator<Item = (&Label, &Arc<[u8]>)>;
    fn xattr_count(&self) -> usize;
    fn xattrs(&self) -> impl Iterator<Item = (InodeId, &Label, &Arc<[u8]>)>;

    fn placed(&self, id: InodeId) -> Option<Arc<Placed>>;
    fn put_placed(&mut self, id: InodeId, placed: Arc<Placed>);
    fn remove_placed(&mut self, id: InodeId);
    /// Layouts of inodes above `after`, ascending.
    fn placed_after(&self, after: InodeId) -> impl Iterator<Item = (InodeId, &Arc<Placed>)>;
    fn all_placed(&self) -> impl Iterator<Item = (InodeId, &Arc<Placed>)>;

    /// The bytes of inline content or of a symlink; none are kept for empty ones.
    fn inline(&self, id: InodeId) -> Option<Arc<[u8]>>;
    fn put_inline(&mut self, id: InodeId, data: Arc<[u8]>);
    fn remove_inline(&mut self, id: InodeId);
    fn all_inline(&self) -> impl Iterator<Item = (InodeId, &Arc<[u8]>)>;
}
