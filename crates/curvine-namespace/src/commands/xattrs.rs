//! Extended attributes.

use curvine_proto::{Outcome, RemoveXattr, SetXattr};
use curvine_types::limits::{XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_TOTAL_MAX};
use curvine_types::{ErrorKind, InodeId, Result};

use crate::acl::is_acl;
use crate::record::XATTRS;
use crate::state::{State, fail};
use crate::store::Store;

const CREATE: u32 = 1;
const REPLACE: u32 = 2;
/// Of `system.` there are only the access control lists.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

impl State {
    pub(super) fn set_xattr(&mut self, command: &SetXattr) -> Result<Outcome> {
        let (id, name) = (command.inode, &command.name);
        let inode = self.inode(id)?;
        check_name(name)?;
        self.check_writable(id, &inode)?;
        if command.flags & !(CREATE | REPLACE) != 0 {
            return Err(fail(ErrorKind::InvalidArgument, "setxattr does not know these flags").with("inode", id));
        }
        if command.value.len() > XATTR_SIZE_MAX {
            return Err(fail(ErrorKind::TooBig, "the value is too large").with("limit", XATTR_SIZE_MAX));
        }
        let acl = if is_acl(name) { Some(self.acl_to_keep(id, &inode, command)?) } else { None };
        let known = self.store.xattr(id, name).is_some();
        if known && command.flags & CREATE != 0 {
            return Err(fail(ErrorKind::AlreadyExists, "the attribute exists").with("inode", id));
        }
        if !known && command.flags & REPLACE != 0 {
            return Err(no_attribute(id));
        }
        let others = self.store.xattrs_of(id).filter(|(have, _)| have.as_bytes() != name);
        let total: usize = others.map(|(name, value)| name.as_bytes().len() + value.len()).sum();
        if total + name.len() + command.value.len() > XATTR_TOTAL_MAX {
            return Err(fail(ErrorKind::NoSpace, "the inode has too many attributes").with("limit", XATTR_TOTAL_MAX));
        }

        match acl {
            None => self.store.put_xattr(id, name, command.value.as_ref().into()),
            Some(acl) => self.put_acl(id, name, acl, command.kill_setgid),
        }
        self.xattrs_changed(id);
        Ok(Outcome { attr: self.attr(id), created: !known, ..Outcome::default() })
    }

    pub(super) fn remove_xattr(&mut self, command: &RemoveXattr) -> Result<Outcome> {
        let id = command.inode;
        let inode = self.inode(id)?;
        check_name(&command.name)?;
        self.check_writable(id, &inode)?;
        if !self.store.remove_xattr(id, &command.name) {
            return Err(no_attribute(id));
        }
        self.xattrs_changed(id);
        Ok(Outcome { attr: self.attr(id), ..Outcome::default() })
    }

    pub(super) fn xattrs_changed(&mut self, id: InodeId) {
        let any = self.store.xattrs_of(id).next().is_some();
        let now = self.meta.now;
        self.edit(id, |inode| {
            inode.set(XATTRS, any);
            inode.changed(now);
        });
    }
}

fn no_attribute(id: InodeId) -> curvine_types::Error {
    fail(ErrorKind::NoAttribute, "no such attribute").with("inode", id)
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX {
        return Err(
            fail(ErrorKind::OutOfRange, "the name of an attribute has 1 to 255 bytes").with("length", name.len())
        );
    }
    if is_acl(name) {
        return Ok(());
    }
    let Some(space) = NAMESPACES.iter().find(|space| name.starts_with(space)) else {
        return Err(fail(ErrorKind::NotSupported, "attributes are user., trusted. or security."));
    };
    if name.len() == space.len() || name.contains(&0) {
        return Err(fail(ErrorKind::InvalidArgument, "not a valid name of an attribute"));
    }
    Ok(())
}
