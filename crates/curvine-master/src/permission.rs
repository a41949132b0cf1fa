//! Permission checks for sessions without a kernel that makes them (library, command line).

use curvine_namespace::Acl;
use curvine_proto::{Attr, Caller, SessionKind};
use curvine_types::{Error, ErrorKind, Result, SessionId};

use crate::leader::Leader;

/// What somebody wants to do with an inode.
#[derive(Clone, Copy, Default)]
pub struct Want {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

impl Want {
    /// To go through a directory.
    pub const SEARCH: Want = Want { read: false, write: false, execute: true };
    /// To list a directory.
    pub const LIST: Want = Want { read: true, write: false, execute: false };
    /// To change the names in a directory.
    pub const CHANGE_NAMES: Want = Want { read: false, write: true, execute: true };

    fn bits(self) -> u32 {
        u32::from(self.read) * 4 + u32::from(self.write) * 2 + u32::from(self.execute)
    }
}

fn is_member(caller: &Caller, gid: u32) -> bool {
    caller.gid == gid || caller.groups.contains(&gid)
}

fn allows(attr: &Attr, acl: Option<&Acl>, caller: &Caller, want: Want) -> bool {
    if caller.uid == 0 {
        let executable = attr.kind() == curvine_proto::FileKind::Directory || attr.mode & 0o111 != 0;
        return !want.execute || executable;
    }
    if let Some(acl) = acl {
        return acl.allows((attr.uid, attr.gid), caller.uid, |group| is_member(caller, group), want.bits());
    }
    let class = if caller.uid == attr.uid {
        attr.mode >> 6
    } else if is_member(caller, attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    class & want.bits() == want.bits()
}

/// The caller whose permissions count, if the master checks this session's. Such a session must name one.
fn caller_of<'a>(master: &Leader, session: SessionId, caller: Option<&'a Caller>) -> Result<Option<&'a Caller>> {
    let kind = master.replica.state().read().0.session(session).map(|record| record.kind);
    if kind == Some(SessionKind::Mount) {
        return Ok(None);
    }
    let missing = || Error::new(ErrorKind::PermissionDenied, "the request does not say who asks");
    Ok(Some(caller.ok_or_else(missing)?))
}

/// `PermissionDenied` unless the caller may do what it wants; mounts are not checked, their kernel did it.
pub fn check(master: &Leader, session: SessionId, caller: Option<&Caller>, attr: &Attr, want: Want) -> Result<()> {
    let acl = || if attr.acl { master.replica.state().read().0.access_acl(attr.inode) } else { None };
    match caller_of(master, session, caller)? {
        Some(caller) if !allows(attr, acl().as_ref(), caller, want) => {
            Err(Error::new(ErrorKind::PermissionDenied, "permission denied").with("inode", attr.inode))
        }
        _ => Ok(()),
    }
}

/// Whether a name of `child` may be taken from `dir`: a sticky directory keeps others' files.
pub fn check_sticky(
    master: &Leader,
    session: SessionId,
    caller: Option<&Caller>,
    dir: &Attr,
    child: &Attr,
) -> Result<()> {
    const STICKY: u32 = 0o1000;
    match caller_of(master, session, caller)? {
        Some(caller) if dir.mode & STICKY != 0 && ![0, dir.uid, child.uid].contains(&caller.uid) => {
            Err(Error::new(ErrorKind::NotPermitted, "the directory is sticky and the file belongs to somebody else")
                .with("inode", child.inode))
        }
        _ => Ok(()),
    }
}

/// `NotPermitted` unless the caller owns the inode.
pub fn check_owner(master: &Leader, session: SessionId, caller: Option<&Caller>, attr: &Attr) -> Result<()> {
    match caller_of(master, session, caller)? {
        Some(caller) if caller.uid != 0 && caller.uid != attr.uid => {
            Err(Error::new(ErrorKind::NotPermitted, "only the owner may do this").with("inode", attr.inode))
        }
        _ => Ok(()),
    }
}

/// chown: only root changes the owner; the owner may give the file to a group of its own.
pub fn check_chown(
    master: &Leader,
    session: SessionId,
    caller: Option<&Caller>,
    attr: &Attr,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<()> {
    let Some(caller) = caller_of(master, session, caller)? else { return Ok(()) };
    let keeps_owner = uid.is_none_or(|uid| uid == attr.uid);
    let own_group = gid.is_none_or(|gid| gid == attr.gid || is_member(caller, gid));
    if caller.uid == 0 || (caller.uid == attr.uid && keeps_owner && own_group) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotPermitted, "only root may give files away").with("inode", attr.inode))
}

/// Only root administers the cluster.
pub fn check_root(master: &Leader, session: SessionId, caller: Option<&Caller>) -> Result<()> {
    match caller_of(master, session, caller)? {
        Some(caller) if caller.uid != 0 => Err(Error::new(ErrorKind::NotPermitted, "only root may do this")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let attr =
            Attr { mode: 0o047, uid: 10, gid: 20, kind: curvine_proto::FileKind::File as i32, ..Default::default() };
        let caller = |uid, gid, groups: &[u32]| Caller { uid, gid, groups: groups.to_vec() };
        let read = Want { read: true, ..Want::default() };
        let write = Want { write: true, ..Want::default() };
        assert!(!allows(&attr, None, &caller(10, 20, &[]), read), "the owner has fewer rights than the group");
        assert!(allows(&attr, None, &caller(11, 20, &[]), read));
        assert!(allows(&attr, None, &caller(11, 99, &[20]), read));
        assert!(!allows(&attr, None, &caller(11, 20, &[]), write));
        assert!(allows(&attr, None, &caller(11, 99, &[]), write));
        assert!(allows(&attr, None, &caller(0, 0, &[]), write));
    }
}
