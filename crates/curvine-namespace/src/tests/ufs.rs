use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;
use crate::{EntryState, Wanted};

fn mount(path: &str, url: &str) -> Body {
    let settings = UfsMountSettings { uid: 5, gid: 6, file_mode: 0o440, read_only: true, ..Default::default() };
    Body::MountUfs(MountUfs {
        path: path.to_string().into(),
        url: url.into(),
        options: [("region".to_string(), "r".to_string())].into(),
        secrets: [("key".to_string(), "s".into())].into(),
        settings: Some(settings),
        update: false,
    })
}

fn umount(path: &str) -> Body {
    Body::UmountUfs(UmountUfs { path: path.to_string().into(), force: false })
}

fn file(name: &str, etag: &str, size: u64) -> UfsEntry {
    UfsEntry {
        name: name.to_string().into(),
        size,
        etag: etag.into(),
        mtime: Some(Time::new(500, 0)),
        ..Default::default()
    }
}

fn subdir(name: &str) -> UfsEntry {
    UfsEntry { name: name.to_string().into(), directory: true, ..Default::default() }
}

/// A namespace with a mount on `/m`, and its root.
fn mounted() -> (Driver, InodeId) {
    let mut d = Driver::new();
    let root = d.ok(0, mount("/m", "s3://b/p")).attr.unwrap().inode;
    (d, root)
}

fn observed(d: &Driver, dir: InodeId, entries: Vec<UfsEntry>, complete: bool) -> UfsObserved {
    let observed_change = d.attr(dir).change;
    UfsObserved { dir, observed_change, entries, complete, ..Default::default() }
}

fn observe(d: &mut Driver, dir: InodeId, entries: Vec<UfsEntry>, complete: bool) -> Attr {
    let body = observed(d, dir, entries, complete);
    d.ok(0, Body::UfsObserved(body)).attr.unwrap()
}

fn absent(d: &mut Driver, dir: InodeId, names: &[&str]) -> Attr {
    let absent = names.iter().map(|name| name.to_string().into()).collect();
    let body = UfsObserved { absent, ..observed(d, dir, vec![], false) };
    d.ok(0, Body::UfsObserved(body)).attr.unwrap()
}

#[test]
fn mounting_makes_the_directory_and_binds_it() {
    let mut d = Driver::new();
    let outcome = d.ok(0, mount("/data//train/", "s3://b/p"));
    let attr = outcome.attr.unwrap();
    let id = outcome.id as u32;
    assert_eq!((attr.mount, attr.mode, attr.uid, attr.gid), (id, 0o755, 5, 6));
    let info = d.ns.mount(id).unwrap();
    assert_eq!((&info.path[..], info.url.as_str(), info.root_inode), (&b"/data/train"[..], "s3://b/p", attr.inode));
    assert_eq!((info.options["region"].as_str(), &info.secrets["key"][..]), ("r", &b"s"[..]));
    let settings = info.settings.unwrap();
    assert_eq!((settings.file_mode, settings.dir_mode, settings.write_type.as_str()), (0o440, 0o755, "cache_mode"));
    assert!(settings.block_size > 0);
    let dir = d.ns.ufs_dir(attr.inode).unwrap();
    assert_eq!((dir.mount, dir.prefix.as_str(), dir.complete_at), (id, "", None));
    d.ok(0, rename(ROOT, "data", ROOT, "moved", 0));
    assert_eq!(&d.ns.mounts()[0].path[..], b"/moved/train");
}

#[test]
fn a_mount_needs_an_empty_place_of_its_own() {
    let (mut d, root) = mounted();
    let full = d.mkdir(ROOT, "full");
    d.make(full, "file");
    observe(&mut d, root, vec![subdir("sub")], false);
    for (body, error) in [
        (mount("/full", "u"), ErrorKind::DirectoryNotEmpty),
        (mount("/full/file", "u"), ErrorKind::NotADirectory),
        (mount("/full/file/x", "u"), ErrorKind::NotADirectory),
        (mount("/m/new", "u"), ErrorKind::Busy),
        (mount("/m/sub", "u"), ErrorKind::Busy),
        (mount("/m", "other"), ErrorKind::AlreadyExists),
        (mount("/", "u"), ErrorKind::DirectoryNotEmpty),
        (mount("relative", "u"), ErrorKind::InvalidArgument),
        (mount("/a/../b", "u"), ErrorKind::InvalidArgument),
        (mount("/a", ""), ErrorKind::InvalidArgument),
        (umount("/full"), ErrorKind::NotFound),
        (umount("/none/x"), ErrorKind::NotFound),
        (umount("/m/sub"), ErrorKind::NotFound),
    ] {
        assert_eq!(d.fails(0, body.clone()), error, "{body:?}");
    }
    d.ok(0, mount("/m", "s3://b/p"));
    assert_eq!(d.ns.mounts()[0].change, 2, "the same again: new options");
}

#[test]
fn observed_names_appear_with_the_mounts_owner() {
    let (mut d, root) = mounted();
    let before = d.attr(root).change;
    let dir = observe(&mut d, root, vec![file("f", "e1", 700), subdir("sub")], true);
    assert!(dir.change > before);
    assert_eq!((dir.nlink, dir.size), (3, 2));
    let f = d.ns.lookup(root, b"f").unwrap().unwrap();
    assert_eq!((f.kind(), f.mode, f.uid, f.size, f.blocks, f.generation), (FileKind::File, 0o440, 5, 700, 2, 1));
    assert_eq!((f.mtime, f.mount), (Some(Time::new(500, 0)), dir.mount));
    let Some(layout::Kind::Ufs(layout)) = d.ns.layout(f.inode, true).unwrap().kind else { panic!("ufs") };
    assert_eq!((layout.key.as_str(), layout.etag.as_str(), layout.size), ("f", "e1", 700));
    assert_eq!(d.ns.ufs_dir(root).unwrap().complete_at, Some(Time::new(d.clock, 0)));
    assert_eq!(d.ns.content_wanted(f.inode, 1, 9), Wanted::Cached);

    let sub = d.lookup(root, "sub").unwrap();
    assert_eq!(d.ns.ufs_dir(sub).unwrap().prefix, "sub/");
    observe(&mut d, sub, vec![UfsEntry { key: "sub/odd//x".into(), ..file("x", "", 1) }, file("y", "", 2)], false);
    let (names, end) = d.ns.ufs_names(sub, 0, 10).unwrap();
    assert!(end && names.iter().all(|name| name.state == EntryState::Clean && !name.directory));
    assert_eq!(names.iter().map(|name| name.key.as_str()).collect::<Vec<_>>(), ["sub/odd//x", "sub/y"]);
    assert_eq!(d.path(names[0].inode).unwrap(), "/m/sub/x");
    assert_eq!(d.ns.ufs_names(ROOT, 0, 1).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn an_outdated_observation_does_nothing() {
    let (mut d, root) = mounted();
    let outdated = observed(&d, root, vec![file("late", "e", 1)], true);
    observe(&mut d, root, vec![file("f", "e", 1)], false);
    assert_eq!(d.fails(0, Body::UfsObserved(outdated)), ErrorKind::Conflict);
    let elsewhere = observed(&d, ROOT, vec![file("f", "e", 1)], false);
    assert_eq!(d.fails(0, Body::UfsObserved(elsewhere)), ErrorKind::Stale);
    let many = observed(&d, root, (0..1001).map(|number| file(&number.to_string(), "", 1)).collect(), false);
    assert_eq!(d.fails(0, Body::UfsObserved(many)), ErrorKind::TooBig);
}

#[test]
fn a_changed_object_gets_a_new_generation_and_an_unchanged_one_stays() {
    let (mut d, root) = mounted();
    let dir = observe(&mut d, root, vec![file("f", "e1", 10), file("plain", "", 10)], false);
    let (f, plain) = (d.lookup(root, "f").unwrap(), d.lookup(root, "plain").unwrap());
    let before = (d.attr(f), d.attr(plain));
    let later = |entry: UfsEntry| UfsEntry { mtime: Some(Time::new(501, 0)), ..entry };
    // Another precision of the time does not matter where there are etags.
    observe(&mut d, root, vec![later(file("f", "e1", 10)), file("plain", "", 10)], false);
    assert_eq!((d.attr(f), d.attr(plain)), before);
    let after = observe(&mut d, root, vec![file("f", "e2", 11), later(file("plain", "", 10))], false);
    assert_eq!(after.change, dir.change, "no name came or went");
    assert_eq!((d.attr(f).generation, d.attr(f).size, seconds(d.attr(f).ctime)), (2, 11, d.clock));
    assert_eq!((d.attr(plain).generation, seconds(d.attr(plain).mtime)), (2, 501));
    assert_eq!(d.ns.content_wanted(f, 1, 9), Wanted::No);
    // A look that learns the etag of an unchanged object keeps it.
    observe(&mut d, root, vec![later(file("plain", "e9", 10))], false);
    assert_eq!(d.attr(plain).generation, 2);
    let (names, _) = d.ns.ufs_names(root, 0, 10).unwrap();
    assert_eq!((names[1].etag.as_str(), names[1].generation), ("e9", 2));
}

#[test]
fn absent_names_go_with_all_that_is_below() {
    let (mut d, root) = mounted();
    observe(&mut d, root, vec![file("f", "e", 1), subdir("sub")], false);
    let sub = d.lookup(root, "sub").unwrap();
    observe(&mut d, sub, vec![subdir("deep"), file("x", "e", 1)], false);
    let deep = d.lookup(sub, "deep").unwrap();
    observe(&mut d, deep, vec![file("y", "e", 1)], false);
    let change = d.attr(root).change;
    assert_eq!(absent(&mut d, root, &["none"]).change, change);
    let dir = absent(&mut d, root, &["f", "sub", "none"]);
    assert!(dir.change > change);
    assert_eq!((dir.size, dir.nlink), (0, 2));
    assert!(!d.exists(sub));
    d.reap();
    assert!(!d.exists(deep));
    let counts = d.ns.counts();
    assert_eq!((counts.inodes, counts.dentries, counts.bytes, counts.doomed), (2, 1, 0, 0));
}

#[test]
fn the_directory_wins_over_the_object_of_the_same_name() {
    let (mut d, root) = mounted();
    observe(&mut d, root, vec![file("a", "e", 1), subdir("a"), file("b", "e", 1)], false);
    let a = d.lookup(root, "a").unwrap();
    assert_eq!(d.attr(a).kind(), FileKind::Directory);
    // `a/` may come in the next part, so the file alone does not replace it.
    observe(&mut d, root, vec![file("a", "e", 1), file("b", "e", 1)], false);
    assert_eq!(d.lookup(root, "a"), Some(a));
}

#[test]
fn a_name_that_changes_its_kind_becomes_another_inode() {
    let (mut d, root) = mounted();
    observe(&mut d, root, vec![file("a", "e", 1), subdir("b")], false);
    let (a, b) = (d.lookup(root, "a").unwrap(), d.lookup(root, "b").unwrap());
    observe(&mut d, b, vec![file("x", "e", 1)], false);
    let dir = observe(&mut d, root, vec![subdir("a"), file("b", "e", 1)], true);
    assert!(!d.exists(a) && !d.exists(b));
    assert_eq!((dir.nlink, dir.size), (3, 2));
    assert_eq!(d.attr(d.lookup(root, "a").unwrap()).kind(), FileKind::Directory);
    assert_eq!(d.attr(d.lookup(root, "b").unwrap()).kind(), FileKind::File);
    observe(&mut d, root, vec![file("a", "e", 1)], false);
    assert_eq!(d.attr(d.lookup(root, "a").unwrap()).kind(), FileKind::File, "a look at this one name");
    d.reap();
    assert_eq!(d.ns.counts().dentries, 3);
}

#[test]
fn keys_that_are_no_names_are_left_out() {
    let (mut d, root) = mounted();
    let long = "x".repeat(256);
    let entries = ["", ".", "..", "a/b", &long, "good"].map(|name| file(name, "e", 1));
    observe(&mut d, root, entries.to_vec(), true);
    assert_eq!(d.names(root), ["good"]);
}

#[test]
fn a_change_found_by_a_reader_is_checked_against_the_generation() {
    let (mut d, root) = mounted();
    observe(&mut d, root, vec![file("f", "e1", 1)], false);
    let f = d.lookup(root, "f").unwrap();
    let changed = |generation, gone, entry| Body::UfsChanged(UfsChanged { inode: f, generation, gone, entry });
    assert_eq!(d.fails(0, changed(2, true, None)), ErrorKind::Conflict);
    assert_eq!(d.fails(0, changed(1, false, None)), ErrorKind::InvalidArgument);
    let outcome = d.ok(0, changed(1, false, Some(file("", "e2", 5))));
    assert_eq!((outcome.attr.unwrap().generation, outcome.layout.unwrap().generation), (2, 2));
    let Some(layout::Kind::Ufs(layout)) = d.ns.layout(f, false).unwrap().kind else { panic!("ufs") };
    assert_eq!((layout.key.as_str(), layout.etag.as_str()), ("f", "e2"), "the key stays");
    let change = d.attr(root).change;
    let outcome = d.ok(0, changed(2, true, None));
    assert_eq!(outcome.target.unwrap().nlink, 0);
    assert!(outcome.parent.unwrap().change > change);
    assert!(!d.exists(f) && d.names(root).is_empty());
}

#[test]
fn nothing_in_a_read_only_mount_is_changed() {
    let (mut d, root) = mounted();
    observe(&mut d, root, vec![file("f", "e", 1), subdir("sub")], false);
    let (f, sub) = (d.lookup(root, "f").unwrap(), d.lookup(root, "sub").unwrap());
    d.make(ROOT, "own");
    let session = d.session("m");
    for body in [
        create(root, "new", FileKind::File),
        create(sub, "new", FileKind::Directory),
        unlink(root, "f"),
        rmdir(root, "sub"),
        rename(root, "f", ROOT, "out", 0),
        rename(ROOT, "own", root, "in", 0),
        rename(root, "f", root, "g", 0),
        truncate(f, 0),
        write(f, 0, b"x"),
        Body::SetAttr(SetAttr { inode: root, mode: Some(0), ..Default::default() }),
        Body::SetXattr(SetXattr { inode: f, name: "user.a".into(), ..Default::default() }),
        Body::GrantWrite(GrantWrite { inode: f }),
        Body::PlaceBlocks(PlaceBlocks { inode: f, change: 1, worker: 1, block_size: 1 }),
    ] {
        assert_eq!(d.fails(session, body.clone()), ErrorKind::ReadOnly, "{body:?}");
    }
    assert_eq!(d.fails(0, create(root, "f", FileKind::File)), ErrorKind::AlreadyExists);
    assert_eq!(d.fails(0, link(f, ROOT, "hard")), ErrorKind::NotPermitted);
    assert_eq!(d.fails(0, rmdir(ROOT, "m")), ErrorKind::Busy);
    assert_eq!(d.fails(0, rename(ROOT, "m", ROOT, "n", 0)), ErrorKind::Busy);
    d.mkdir(ROOT, "dir");
    assert_eq!(d.fails(0, rename(ROOT, "dir", ROOT, "m", 0)), ErrorKind::Busy);
    assert_eq!(d.fails(0, rename(ROOT, "dir", ROOT, "m", 2)), ErrorKind::Busy);
    let lock = SetLock { inode: f, kind: LockKind::Flock as i32, r#type: LockType::Read as i32, ..Default::default() };
    d.ok(session, Body::SetLock(lock));
}

#[test]
fn unmounting_leaves_an_empty_directory_and_frees_the_rest_step_by_step() {
    let (mut d, root) = mounted();
    observe(&mut d, root, vec![subdir("sub"), file("f", "e", 1)], false);
    let sub = d.lookup(root, "sub").unwrap();
    for part in 0..10 {
        let entries = (0..1000).map(|number| file(&format!("{part}-{number}"), "e", 1)).collect();
        observe(&mut d, sub, entries, false);
    }
    let attr = d.ok(0, umount("/m")).attr.unwrap();
    assert_eq!((attr.inode, attr.size, attr.nlink, attr.mount), (root, 0, 2, 0));
    assert!(d.names(root).is_empty() && d.ns.mounts().is_empty() && d.ns.ufs_dir(root).is_none());
    let waiting = d.ns.counts();
    assert!(waiting.doomed > 0 && waiting.inodes > 5000, "{waiting:?}");
    d.make(root, "own");
    let mut copy = d.copy();
    for driver in [&mut d, &mut copy] {
        let mut commands = 0;
        while driver.ok(0, Body::Reap(Reap { steps: 64 })).more {
            commands += 1;
        }
        assert!(commands > 150, "{commands}");
        let counts = driver.ns.counts();
        assert_eq!((counts.doomed, counts.inodes, counts.dentries), (0, 3, 2));
        assert_eq!(driver.names(root), ["own"]);
    }
    assert_eq!(d.bytes(), copy.bytes());
    d.ok(0, unlink(root, "own"));
    d.ok(0, mount("/m", "s3://again"));
}

#[test]
fn the_root_can_be_a_mount_too() {
    let mut d = Driver::new();
    d.ok(0, mount("/", "s3://b"));
    observe(&mut d, ROOT, vec![file("f", "e", 1)], true);
    assert_eq!(d.fails(0, create(ROOT, "x", FileKind::File)), ErrorKind::ReadOnly);
    assert_eq!(&d.ns.mounts()[0].path[..], b"/");
    d.ok(0, umount("/"));
    d.make(ROOT, "x");
    d.reap();
    assert_eq!(d.ns.counts().inodes, 2);
}
