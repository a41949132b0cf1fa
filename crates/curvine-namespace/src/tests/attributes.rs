use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind;
use curvine_types::limits::*;

use super::driver::*;

fn set(attributes: SetAttr) -> Body {
    Body::SetAttr(attributes)
}

#[test]
fn mode_owner_and_times_are_set_and_ctime_moves() {
    let mut d = Driver::new();
    let inode = d.make(ROOT, "a");
    let before = d.attr(inode);
    let attr = d
        .ok(
            0,
            set(SetAttr {
                inode,
                mode: Some(0o100751),
                uid: Some(1),
                gid: Some(2),
                atime: Some(Time::new(-5, 1)),
                mtime: Some(Time::new(4_294_967_296, 2)),
                ..Default::default()
            }),
        )
        .attr
        .unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o751, 1, 2));
    assert_eq!((attr.atime, attr.mtime), (Some(Time::new(-5, 1)), Some(Time::new(4_294_967_296, 2))));
    assert_eq!(seconds(attr.ctime), d.clock);
    assert_eq!(attr.btime, before.btime);
    assert_eq!(attr.change, before.change + 1);
    let attr = d.ok(0, set(SetAttr { inode, atime_now: true, mtime_now: true, ..Default::default() })).attr.unwrap();
    assert_eq!((seconds(attr.atime), seconds(attr.mtime)), (d.clock, d.clock));
    assert_eq!(d.fails(0, set(SetAttr { inode: 99, ..Default::default() })), ErrorKind::Stale);
}

#[test]
fn privileges_are_dropped_as_asked() {
    let mut d = Driver::new();
    let inode = d.make(ROOT, "a");
    let dir = d.mkdir(ROOT, "dir");
    let mode_after = |d: &mut Driver, inode, mode, change: SetAttr| {
        d.ok(0, set(SetAttr { inode, mode: Some(mode), ..Default::default() }));
        d.ok(0, set(SetAttr { inode, ..change })).attr.unwrap().mode
    };
    let chown = |kill_privileges| SetAttr { uid: Some(5), kill_privileges, ..Default::default() };
    let cut = |kill_privileges| SetAttr { size: Some(0), kill_privileges, ..Default::default() };
    assert_eq!(mode_after(&mut d, inode, 0o6755, chown(true)), 0o755);
    assert_eq!(mode_after(&mut d, inode, 0o6744, chown(true)), 0o2744);
    assert_eq!(mode_after(&mut d, inode, 0o6755, chown(false)), 0o6755);
    assert_eq!(mode_after(&mut d, dir, 0o6755, chown(true)), 0o6755);
    assert_eq!(mode_after(&mut d, inode, 0o6755, cut(true)), 0o755);
    assert_eq!(mode_after(&mut d, inode, 0o6744, cut(true)), 0o2744);
    assert_eq!(mode_after(&mut d, inode, 0o6755, cut(false)), 0o6755);
    // Data that is with a worker was changed there; only this is left to do here.
    let written = SetAttr { kill_privileges: true, ..Default::default() };
    assert_eq!(mode_after(&mut d, inode, 0o6755, written), 0o755);
    assert_eq!(mode_after(&mut d, inode, 0o6744, written), 0o2744);
    d.ok(0, set(SetAttr { inode, mode: Some(0o6755), ..Default::default() }));
    let write = WriteInline { inode, data: "x".into(), kill_privileges: true, ..Default::default() };
    assert_eq!(d.ok(0, Body::WriteInline(write)).attr.unwrap().mode, 0o755);
}

#[test]
fn small_sizes_are_set_and_what_is_new_is_zero() {
    let mut d = Driver::new();
    let inode = d.make(ROOT, "a");
    d.ok(0, write(inode, 0, b"hello"));
    d.ok(0, truncate(inode, 2));
    let attr = d.ok(0, truncate(inode, 4)).attr.unwrap();
    assert_eq!((attr.size, attr.blocks, seconds(attr.mtime), seconds(attr.ctime)), (4, 1, d.clock, d.clock));
    let Some(layout::Kind::Inline(inline)) = d.ns.layout(inode, true).unwrap().kind else { panic!("inline") };
    assert_eq!(&inline.data[..], b"he\0\0");
    assert_eq!(d.fails(0, truncate(inode, INLINE_MAX as u64 + 1)), ErrorKind::FileTooLarge);
    assert_eq!(d.fails(0, truncate(inode, FILE_SIZE_MAX + 1)), ErrorKind::FileTooLarge);
    assert_eq!(d.fails(0, truncate(inode, u64::MAX)), ErrorKind::FileTooLarge);
    assert_eq!(d.fails(0, truncate(ROOT, 0)), ErrorKind::IsADirectory);
    let fifo = d.ok(0, create(ROOT, "fifo", FileKind::Fifo)).attr.unwrap().inode;
    assert_eq!(d.fails(0, truncate(fifo, 0)), ErrorKind::InvalidArgument);
    assert_eq!(d.ns.counts().bytes, 4);
}

#[test]
fn extended_attributes_follow_their_flags_and_limits() {
    let mut d = Driver::new();
    let inode = d.make(ROOT, "a");
    let put = |name: &str, value: &[u8], flags| {
        Body::SetXattr(SetXattr {
            inode,
            name: name.to_string().into(),
            value: value.to_vec().into(),
            flags,
            kill_setgid: false,
        })
    };
    let remove = |name: &str| Body::RemoveXattr(RemoveXattr { inode, name: name.to_string().into() });
    assert_eq!(d.fails(0, put("user.a", b"1", 2)), ErrorKind::NoAttribute);
    d.ok(0, put("user.a", b"1", 1));
    assert_eq!(d.fails(0, put("user.a", b"2", 1)), ErrorKind::AlreadyExists);
    d.ok(0, put("user.a", b"2", 2));
    d.ok(0, put("trusted.empty", b"", 0));
    assert_eq!(d.ns.xattr(inode, b"user.a").unwrap(), "2");
    assert_eq!(d.ns.xattr_names(inode).unwrap(), ["trusted.empty", "user.a"]);
    assert_eq!(seconds(d.attr(inode).ctime), d.clock);
    for (body, error) in [
        (put("user.a", b"", 4), ErrorKind::InvalidArgument),
        (put("user.", b"", 0), ErrorKind::InvalidArgument),
        (put("", b"", 0), ErrorKind::OutOfRange),
        (put(&format!("user.{}", "x".repeat(251)), b"", 0), ErrorKind::OutOfRange),
        (put("system.other", b"", 0), ErrorKind::NotSupported),
        (put("system.posix_acl_access", b"", 0), ErrorKind::InvalidArgument),
        (put("system.posix_acl_default", b"", 0), ErrorKind::PermissionDenied),
        (put("user.big", &[0; XATTR_SIZE_MAX + 1], 0), ErrorKind::TooBig),
        (remove("user.none"), ErrorKind::NoAttribute),
    ] {
        assert_eq!(d.fails(0, body), error);
    }
    for number in 0..3 {
        d.ok(0, put(&format!("user.{number}"), &[0; XATTR_SIZE_MAX], 0));
    }
    assert_eq!(d.fails(0, put("user.4", &[0; XATTR_SIZE_MAX], 0)), ErrorKind::NoSpace);
    d.ok(0, put("user.0", &[1; XATTR_SIZE_MAX], 0));
    d.ok(0, remove("user.a"));
    assert_eq!(d.ns.xattr(inode, b"user.a").unwrap_err().kind(), ErrorKind::NoAttribute);
    d.ok(0, unlink(ROOT, "a"));
    assert_eq!(d.ns.counts().xattrs, 0);
}
