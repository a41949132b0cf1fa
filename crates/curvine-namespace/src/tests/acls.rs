use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Owner rwx, user 10 rw-, group r-x, mask rwx, other ---.
const EXTENDED: [(u16, u16, u32); 5] = [(1, 7, !0), (2, 6, 10), (4, 5, !0), (16, 7, !0), (32, 0, !0)];

fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    for (tag, perm, id) in entries {
        value.extend([&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    value
}

fn set(inode: InodeId, name: &str, entries: &[(u16, u16, u32)]) -> Body {
    let (name, value) = (name.to_string().into(), value(entries).into());
    Body::SetXattr(SetXattr { inode, name, value, ..Default::default() })
}

fn make(parent: InodeId, name: &str, kind: FileKind, mode: u32, umask: u32) -> Body {
    match create(parent, name, kind) {
        Body::Create(create) => Body::Create(Create { mode, umask, ..create }),
        other => other,
    }
}

#[test]
fn mode_and_list_follow_each_other() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "f");
    assert!(!d.attr(file).acl);
    let attr = d.ok(0, set(file, ACCESS, &EXTENDED)).attr.unwrap();
    assert_eq!((attr.mode, attr.acl), (0o770, true));
    let chmod = |mode| Body::SetAttr(SetAttr { inode: file, mode: Some(mode), ..Default::default() });
    assert_eq!(d.ok(0, chmod(0o4644)).attr.unwrap().mode, 0o4644);
    let changed = [(1, 6, !0), (2, 6, 10), (4, 5, !0), (16, 4, !0), (32, 4, !0)];
    assert_eq!(d.ns.xattr(file, ACCESS.as_bytes()).unwrap(), value(&changed));
    assert!(d.ns.access_acl(file).unwrap().allows((0, 0), 10, |_| false, 4));
    let copy = d.copy();
    assert_eq!((copy.attr(file), copy.ns.access_acl(file)), (d.attr(file), d.ns.access_acl(file)));

    // What the bits can say themselves is not kept.
    let attr = d.ok(0, set(file, ACCESS, &[(1, 6, !0), (4, 0, !0), (32, 4, !0)])).attr.unwrap();
    assert_eq!((attr.mode, attr.acl), (0o4604, false));
    assert_eq!(d.ns.counts().xattrs, 0);
    d.ok(0, set(file, ACCESS, &EXTENDED));
    let remove = RemoveXattr { inode: file, name: ACCESS.to_string().into() };
    assert!(!d.ok(0, Body::RemoveXattr(remove)).attr.unwrap().acl);

    d.ok(0, chmod(0o2755));
    let Body::SetXattr(by_others) = set(file, ACCESS, &EXTENDED) else { unreachable!() };
    let by_others = Body::SetXattr(SetXattr { kill_setgid: true, ..by_others });
    assert_eq!(d.ok(0, by_others).attr.unwrap().mode, 0o770);
    assert_eq!(d.fails(0, set(file, DEFAULT, &EXTENDED)), ErrorKind::PermissionDenied);
    let link = d.ok(0, create(ROOT, "l", FileKind::Symlink)).attr.unwrap().inode;
    assert_eq!(d.fails(0, set(link, ACCESS, &EXTENDED)), ErrorKind::NotSupported);
}

#[test]
fn what_is_made_inherits_the_default_list_instead_of_the_umask() {
    let mut d = Driver::new();
    let dir = d.mkdir(ROOT, "d");
    let plain = d.ok(0, make(dir, "plain", FileKind::File, 0o666, 0o27)).attr.unwrap();
    assert_eq!((plain.mode, plain.acl), (0o640, false));
    assert_eq!(
        d.ok(0, set(dir, DEFAULT, &EXTENDED)).attr.unwrap().mode,
        0o644,
        "of the directory itself it changes nothing"
    );

    let file = d.ok(0, make(dir, "f", FileKind::File, 0o666, 0o77)).attr.unwrap();
    assert_eq!((file.mode, file.acl), (0o660, true));
    let inherited = [(1, 6, !0), (2, 6, 10), (4, 5, !0), (16, 6, !0), (32, 0, !0)];
    assert_eq!(d.ns.xattr(file.inode, ACCESS.as_bytes()).unwrap(), value(&inherited));
    assert!(d.ns.xattr(file.inode, DEFAULT.as_bytes()).is_err());
    let sub = d.ok(0, make(dir, "sub", FileKind::Directory, 0o1777, 0o77)).attr.unwrap();
    assert_eq!(sub.mode, 0o1770);
    assert_eq!(d.ns.xattr(sub.inode, DEFAULT.as_bytes()).unwrap(), value(&EXTENDED));
    let link = d.ok(0, make(dir, "l", FileKind::Symlink, 0o777, 0o77)).attr.unwrap();
    assert_eq!((link.mode, link.acl), (0o777, false));

    // A default list without names gives bits only.
    d.ok(0, set(dir, DEFAULT, &[(1, 7, !0), (4, 5, !0), (32, 4, !0)]));
    let file = d.ok(0, make(dir, "g", FileKind::File, 0o666, 0o77)).attr.unwrap();
    assert_eq!((file.mode, file.acl), (0o644, false));
    d.ok(0, unlink(dir, "f"));
    d.ns.check().unwrap();
}
