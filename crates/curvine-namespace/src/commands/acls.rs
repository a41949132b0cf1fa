//! Access control lists: set, changed along with the mode, handed down.

use std::sync::Arc;

use curvine_proto::SetXattr;
use curvine_types::{ErrorKind, InodeId, Result};

use crate::acl::{ACCESS, Acl, DEFAULT};
use crate::record::{Inode, S_ISGID, XATTRS};
use crate::state::{State, fail};
use crate::store::Store;

const PERMISSIONS: u32 = 0o777;

impl State {
    /// The list that an attribute is being set to, if the inode can have it; `None`: it loses the one that it has.
    pub(super) fn acl_to_keep(&self, id: InodeId, inode: &Inode, command: &SetXattr) -> Result<Option<Acl>> {
        if inode.is_symlink() {
            return Err(fail(ErrorKind::NotSupported, "symlinks have no access control list").with("inode", id));
        }
        if command.name == DEFAULT && !inode.is_dir() {
            let error = fail(ErrorKind::PermissionDenied, "only directories have a default access control list");
            return Err(error.with("inode", id));
        }
        Acl::parse(&command.value)
    }

    /// Keeps a list; the mode follows an access list.
    pub(super) fn put_acl(&mut self, id: InodeId, name: &[u8], acl: Option<Acl>, kill_setgid: bool) {
        if name == ACCESS
            && let Some(acl) = &acl
        {
            self.edit(id, |inode| {
                let kept = if kill_setgid { !(PERMISSIONS | S_ISGID) } else { !PERMISSIONS };
                inode.set_mode(inode.mode() & kept | acl.mode());
            });
        }
        match acl.filter(|acl| name == DEFAULT || acl.is_extended()) {
            Some(acl) => self.store.put_xattr(id, name, acl.encode().into()),
            None => drop(self.store.remove_xattr(id, name)),
        }
    }

    /// The list of an inode.
    pub fn acl(&self, id: InodeId, inode: &Inode, name: &[u8]) -> Option<Acl> {
        let value = if inode.has(XATTRS) { self.store.xattr(id, name) } else { None };
        value.and_then(|value| Acl::parse(&value).ok().flatten())
    }

    /// Changes the access list as chmod changes the mode.
    pub(super) fn chmod_acl(&mut self, id: InodeId, inode: &Inode, mode: u32) {
        if let Some(mut acl) = self.acl(id, inode, ACCESS) {
            acl.set_mode(mode);
            self.store.put_xattr(id, ACCESS, acl.encode().into());
        }
    }

    /// What an inode that is made in a directory begins with: its mode, and the lists that it gets.
    pub(super) fn inherit(&self, dir: InodeId, parent: &Inode, made: &Inode, mode: u32, umask: u32) -> Inherited {
        let Some(default) = self.acl(dir, parent, DEFAULT).filter(|_| !made.is_symlink()) else {
            let umask = if made.is_symlink() { 0 } else { umask };
            return Inherited { mode: mode & !(umask & PERMISSIONS), ..Inherited::default() };
        };
        let access = default.inherited(mode);
        Inherited {
            mode: mode & !PERMISSIONS | access.mode(),
            access: access.is_extended().then(|| access.encode().into()),
            default: made.is_dir().then(|| default.encode().into()),
        }
    }

    /// Gives a new inode what it inherits, but for the mode.
    pub(super) fn put_inherited(&mut self, id: InodeId, inherited: Inherited) {
        let lists = [(ACCESS, inherited.access), (DEFAULT, inherited.default)];
        for (name, value) in lists {
            if let Some(value) = value {
                self.store.put_xattr(id, name, value);
                self.store.edit_inode(id, |inode| inode.set(XATTRS, true));
            }
        }
    }
}

/// What a new inode gets of its directory.
#[derive(Default)]
pub(super) struct Inherited {
    pub mode: u32,
    access: Option<Arc<[u8]>>,
    default: Option<Arc<[u8]>>,
}
