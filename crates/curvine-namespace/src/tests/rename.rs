use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind;

use super::driver::*;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

#[test]
fn a_moved_directory_changes_its_parents() {
    let mut d = Driver::new();
    let (a, b) = (d.mkdir(ROOT, "a"), d.mkdir(ROOT, "b"));
    let sub = d.mkdir(a, "sub");
    let outcome = d.ok(0, rename(a, "sub", b, "moved", 0));
    assert_eq!(outcome.parent.unwrap().nlink, 2);
    assert_eq!(outcome.new_parent.unwrap().nlink, 3);
    assert_eq!(seconds(outcome.attr.unwrap().ctime), d.clock);
    assert_eq!(d.ns.parent(sub).unwrap(), b);
    assert_eq!(d.lookup(sub, ".."), Some(b));
    assert_eq!(d.path(sub).unwrap(), "/b/moved");
    assert_eq!(d.lookup(a, "sub"), None);
    for dir in [a, b] {
        assert_eq!((seconds(d.attr(dir).mtime), seconds(d.attr(dir).ctime)), (d.clock, d.clock));
    }
}

#[test]
fn a_replaced_file_loses_a_link() {
    let mut d = Driver::new();
    let (a, b) = (d.make(ROOT, "a"), d.make(ROOT, "b"));
    d.ok(0, link(b, ROOT, "b2"));
    let outcome = d.ok(0, rename(ROOT, "a", ROOT, "b", 0));
    assert_eq!(outcome.target.unwrap().nlink, 1);
    assert_eq!((d.lookup(ROOT, "a"), d.lookup(ROOT, "b"), d.lookup(ROOT, "b2")), (None, Some(a), Some(b)));
    assert_eq!(d.attr(ROOT).size, 2);
    d.ok(0, rename(ROOT, "b", ROOT, "b2", 0));
    assert!(!d.exists(b));
}

#[test]
fn types_of_both_sides_must_match() {
    let mut d = Driver::new();
    d.make(ROOT, "file");
    let dir = d.mkdir(ROOT, "dir");
    let empty = d.mkdir(ROOT, "empty");
    d.make(dir, "in");
    assert_eq!(d.fails(0, rename(ROOT, "file", ROOT, "empty", 0)), ErrorKind::IsADirectory);
    assert_eq!(d.fails(0, rename(ROOT, "dir", ROOT, "file", 0)), ErrorKind::NotADirectory);
    assert_eq!(d.fails(0, rename(ROOT, "empty", ROOT, "dir", 0)), ErrorKind::DirectoryNotEmpty);
    assert_eq!(d.fails(0, rename(ROOT, "none", ROOT, "x", 0)), ErrorKind::NotFound);
    d.ok(0, rename(ROOT, "dir", ROOT, "empty", 0));
    assert!(!d.exists(empty));
    assert_eq!(d.attr(ROOT).nlink, 3);
    assert_eq!(d.names(dir), ["in"]);
}

#[test]
fn a_directory_does_not_move_into_itself() {
    let mut d = Driver::new();
    let a = d.mkdir(ROOT, "a");
    let b = d.mkdir(a, "b");
    let c = d.mkdir(b, "c");
    d.make(ROOT, "x");
    assert_eq!(d.fails(0, rename(ROOT, "a", a, "z", 0)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(ROOT, "a", c, "z", 0)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(ROOT, "x", c, "none", EXCHANGE)), ErrorKind::NotFound);
    assert_eq!(d.fails(0, rename(b, "c", ROOT, "a", EXCHANGE)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(b, "c", ROOT, "a", 0)), ErrorKind::DirectoryNotEmpty);
}

#[test]
fn two_names_of_one_inode_are_left_alone() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "a");
    d.ok(0, link(file, ROOT, "b"));
    let before = d.attr(file);
    d.ok(0, rename(ROOT, "a", ROOT, "b", 0));
    d.ok(0, rename(ROOT, "a", ROOT, "a", 0));
    assert_eq!(d.attr(file), before);
    assert_eq!(d.names(ROOT), ["a", "b"]);
    assert_eq!(d.fails(0, rename(ROOT, "a", ROOT, "b", NOREPLACE)), ErrorKind::AlreadyExists);
    d.ok(0, rename(ROOT, "a", ROOT, "b", EXCHANGE));
    assert_eq!(d.attr(file), before);
}

#[test]
fn flags_decide_about_an_existing_target() {
    let mut d = Driver::new();
    let a = d.mkdir(ROOT, "a");
    let (file, sub) = (d.make(ROOT, "file"), d.mkdir(a, "sub"));
    assert_eq!(d.fails(0, rename(ROOT, "file", a, "sub", NOREPLACE)), ErrorKind::AlreadyExists);
    assert_eq!(d.fails(0, rename(ROOT, "file", a, "sub", NOREPLACE | EXCHANGE)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(ROOT, "file", a, "sub", 8)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(ROOT, "file", a, "sub", WHITEOUT | EXCHANGE)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(ROOT, "file", a, "sub", WHITEOUT | NOREPLACE)), ErrorKind::AlreadyExists);
    let outcome = d.ok(0, rename(ROOT, "file", a, "sub", EXCHANGE));
    assert_eq!(outcome.attr.unwrap().inode, file);
    assert_eq!(outcome.target.unwrap().inode, sub);
    assert_eq!((d.lookup(ROOT, "file"), d.lookup(a, "sub")), (Some(sub), Some(file)));
    assert_eq!((d.attr(ROOT).nlink, d.attr(a).nlink), (4, 2));
    assert_eq!((d.path(sub).unwrap(), d.path(file).unwrap()), ("/file".into(), "/a/sub".into()));
    assert_eq!(d.ns.parent(sub).unwrap(), ROOT);
}

#[test]
fn a_whiteout_takes_the_old_name_in_the_same_step() {
    let mut d = Driver::new();
    let dir = d.mkdir(ROOT, "dir");
    let (file, old) = (d.make(ROOT, "file"), d.make(dir, "file"));
    let body = Rename {
        parent: ROOT,
        name: "file".into(),
        new_parent: dir,
        new_name: "file".into(),
        flags: WHITEOUT,
        uid: 7,
        gid: 8,
        ..Default::default()
    };
    d.ok(0, Body::Rename(body));
    assert_eq!((d.lookup(dir, "file"), d.exists(old)), (Some(file), false));
    let device = d.attr(d.lookup(ROOT, "file").unwrap());
    assert_eq!((device.kind(), device.rdev, device.mode, device.nlink), (FileKind::CharDevice, 0, 0, 1));
    assert_eq!((device.uid, device.gid), (7, 8));
    assert_eq!(d.attr(ROOT).size, 2);
    d.ok(0, unlink(ROOT, "file"));
    assert!(!d.exists(device.inode));
}

#[test]
fn exchanging_hard_links_keeps_every_name_known() {
    let mut d = Driver::new();
    let dir = d.mkdir(ROOT, "dir");
    let (a, b) = (d.make(ROOT, "a1"), d.make(dir, "b1"));
    d.ok(0, link(a, dir, "a2"));
    d.ok(0, link(b, ROOT, "b2"));
    d.ok(0, rename(ROOT, "a1", dir, "b1", EXCHANGE));
    d.ok(0, rename(dir, "a2", ROOT, "b2", EXCHANGE));
    assert_eq!((d.lookup(ROOT, "a1"), d.lookup(dir, "b1")), (Some(b), Some(a)));
    assert_eq!((d.lookup(dir, "a2"), d.lookup(ROOT, "b2")), (Some(b), Some(a)));
}

#[test]
fn names_that_mean_other_inodes_than_looked_up_are_a_conflict() {
    let mut d = Driver::new();
    let (a, b) = (d.make(ROOT, "a"), d.make(ROOT, "b"));
    let with = |source, target| {
        Body::Rename(Rename {
            parent: ROOT,
            name: "a".into(),
            new_parent: ROOT,
            new_name: "b".into(),
            source,
            target,
            ..Default::default()
        })
    };
    assert_eq!(d.fails(0, with(b, b)), ErrorKind::Conflict);
    assert_eq!(d.fails(0, with(a, 0)), ErrorKind::Conflict, "the target came after the look");
    assert_eq!(d.fails(0, with(a, a)), ErrorKind::Conflict);
    d.ok(0, with(a, b));
}

#[test]
fn a_replaced_file_that_is_open_lives_on() {
    let mut d = Driver::new();
    let session = d.session("m");
    let (a, b) = (d.make(ROOT, "a"), d.make(ROOT, "b"));
    d.ok(0, write(b, 0, b"old"));
    let body = Rename {
        parent: ROOT,
        name: "a".into(),
        new_parent: ROOT,
        new_name: "b".into(),
        target: b,
        source: a,
        holders: vec![session, 999],
        ..Default::default()
    };
    let outcome = d.ok(0, Body::Rename(body));
    assert_eq!(outcome.target.unwrap().nlink, 0);
    assert_eq!(d.attr(b).size, 3);
    assert_eq!(d.ns.orphans_of(session), [b]);
    d.ok(0, Body::DropOrphan(DropOrphan { inode: b, session }));
    assert!(!d.exists(b) && d.exists(a));
}
