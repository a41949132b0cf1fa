//! Files of a writable mount: dirty, stored, written again, renamed, removed.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;
use crate::EntryState;

/// A namespace with a writable mount on `/m`, its root, a session and a worker.
fn mounted() -> (Driver, InodeId, u64, u64) {
    let mut d = Driver::new();
    let settings = UfsMountSettings { uid: 5, file_mode: 0o640, ..Default::default() };
    let mount = MountUfs { path: "/m".into(), url: "s3://b".into(), settings: Some(settings), ..Default::default() };
    let root = d.ok(0, Body::MountUfs(mount)).attr.unwrap().inode;
    let session = d.session("client");
    let worker = d.worker(1);
    (d, root, session, worker)
}

fn seen(name: &str, etag: &str, size: u64) -> UfsEntry {
    UfsEntry { name: name.to_string().into(), size, etag: etag.into(), ..Default::default() }
}

fn observe(d: &mut Driver, dir: InodeId, began: u64, entries: Vec<UfsEntry>, absent: &[&str]) {
    let observed_change = d.attr(dir).change;
    let absent = absent.iter().map(|name| name.to_string().into()).collect();
    let body = UfsObserved { dir, observed_change, entries, absent, began, ..Default::default() };
    d.ok(0, Body::UfsObserved(body));
}

fn stored(d: &Driver, inode: InodeId, data: &[u8], etag: &str) -> Body {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32;
    Body::UfsStored(UfsStored {
        job: d.ns.upload_of(inode).unwrap().id,
        generation: d.attr(inode).generation,
        epoch: d.ns.grant(inode).map_or(0, |grant| grant.epoch),
        inline_crc: crc,
        entry: Some(seen("", etag, data.len() as u64)),
    })
}

fn object(d: &Driver, inode: InodeId) -> Option<UfsLayout> {
    match d.ns.layout(inode, false).unwrap().kind {
        Some(layout::Kind::Ufs(ufs)) => Some(ufs),
        _ => None,
    }
}

fn adopt(inode: InodeId, generation: u64, worker: u64) -> Body {
    Body::UfsAdopt(UfsAdopt { inode, generation, worker, block_size: 1 << 20, size: 3, blocks: 8 })
}

#[test]
fn a_new_file_is_dirty_until_the_store_has_what_it_consists_of() {
    let (mut d, root, ..) = mounted();
    let f = d.make(root, "f");
    assert_eq!((d.attr(f).mount, d.ns.ufs_names(root, 0, 9).unwrap().0[0].state), (1, EntryState::Dirty));
    let job = d.ns.upload_of(f).unwrap();
    assert_eq!((job.key.as_str(), job.kind(), job.base), ("f", JobKind::Upload, None));
    d.ok(0, write(f, 0, b"one"));

    // Written again while the first version was on its way.
    let first = stored(&d, f, b"one", "e1");
    d.ok(0, write(f, 3, b"two"));
    let outcome = d.ok(0, first);
    assert!(!outcome.created && object(&d, f).is_none());
    assert_eq!(d.ns.upload_of(f).unwrap().base.unwrap().etag, "e1");

    let mut copy = d.copy();
    for d in [&mut d, &mut copy] {
        let mtime = d.attr(f).mtime;
        let last = stored(d, f, b"onetwo", "e2");
        assert!(d.ok(0, last.clone()).created);
        assert_eq!((object(d, f).unwrap().etag.as_str(), d.attr(f).size, d.attr(f).mtime), ("e2", 6, mtime));
        assert_eq!(d.ns.counts().jobs, 0);
        assert_eq!(d.fails(0, last), ErrorKind::Conflict);
        assert_eq!(d.ns.ufs_names(root, 0, 9).unwrap().0[0].state, EntryState::Clean);
    }
    assert_eq!(d.bytes(), copy.bytes());
}

#[test]
fn a_look_that_began_before_says_nothing_of_what_was_stored_since() {
    let (mut d, root, ..) = mounted();
    let sub = d.mkdir(root, "sub");
    let f = d.make(sub, "f");
    let before = d.ns.stores();
    observe(&mut d, root, before, vec![], &["sub"]);
    assert!(d.exists(sub), "something dirty is below it");
    observe(&mut d, sub, before, vec![seen("f", "other", 9)], &[]);
    let body = stored(&d, f, b"", "e1");
    d.ok(0, body);
    observe(&mut d, sub, before, vec![], &["f"]);
    observe(&mut d, sub, before, vec![seen("f", "old", 9)], &[]);
    assert_eq!((d.exists(f), object(&d, f).unwrap().etag), (true, "e1".to_string()));
    observe(&mut d, root, 0, vec![], &["sub"]);
    assert!(d.exists(sub), "it was made after that look began");

    let now = d.ns.stores();
    observe(&mut d, sub, now, vec![seen("f", "new", 9)], &[]);
    assert_eq!((object(&d, f).unwrap().etag, d.attr(f).generation), ("new".to_string(), 2));
    observe(&mut d, root, now, vec![], &["sub"]);
    assert!(!d.exists(sub));
}

#[test]
fn what_was_set_on_a_file_goes_with_the_object_that_it_was_set_on() {
    let (mut d, root, ..) = mounted();
    observe(&mut d, root, 0, vec![seen("f", "e1", 3)], &[]);
    let f = d.lookup(root, "f").unwrap();
    d.ok(0, Body::SetAttr(SetAttr { inode: f, mode: Some(0o777), uid: Some(9), ..Default::default() }));
    d.ok(
        0,
        Body::SetXattr(SetXattr { inode: f, name: "user.a".into(), value: "v".into(), flags: 0, kill_setgid: false }),
    );
    observe(&mut d, root, 0, vec![seen("f", "e1", 3)], &[]);
    assert_eq!((d.attr(f).mode, d.attr(f).uid, d.ns.xattr_names(f).unwrap().len()), (0o777, 9, 1));
    observe(&mut d, root, 0, vec![seen("f", "e2", 3)], &[]);
    assert_eq!((d.attr(f).mode, d.attr(f).uid, d.ns.xattr_names(f).unwrap().len()), (0o640, 5, 0));
}

#[test]
fn an_object_that_is_written_becomes_a_live_file_of_a_new_generation_and_an_object_again() {
    let (mut d, root, session, worker) = mounted();
    observe(&mut d, root, 0, vec![seen("f", "e1", 3)], &[]);
    let f = d.lookup(root, "f").unwrap();
    d.ok(session, Body::GrantWrite(GrantWrite { inode: f }));
    assert_eq!(d.fails(0, write(f, 0, b"x")), ErrorKind::Conflict);
    assert_eq!(d.fails(0, adopt(f, 2, worker)), ErrorKind::Conflict);
    d.ok(0, adopt(f, 1, worker));
    assert_eq!(d.fails(0, adopt(f, 2, worker)), ErrorKind::Conflict);
    assert_eq!((d.attr(f).generation, d.attr(f).live, d.attr(f).size), (2, true, 3));
    assert_eq!(d.ns.upload_of(f).unwrap().base.unwrap().etag, "e1");
    assert!(
        !{
            let body = stored(&d, f, b"abc", "e2");
            d.ok(0, body)
        }
        .created,
        "it is live"
    );

    let seal = |with_writers| {
        Body::CommitSize(CommitSize {
            inode: f,
            generation: 2,
            epoch: 1,
            size: 5,
            seal: true,
            with_writers,
            ..Default::default()
        })
    };
    assert_eq!(d.fails(0, seal(false)), ErrorKind::Conflict);
    d.ok(0, seal(true));
    let body = stored(&d, f, b"abcde", "e3");
    assert!(d.ok(0, body).created);
    assert_eq!((object(&d, f).unwrap().etag, d.attr(f).size, d.ns.counts().garbage), ("e3".to_string(), 5, 0));

    // Emptied: a new generation again.
    d.ok(0, truncate(f, 0));
    assert_eq!(
        (d.attr(f).generation, d.attr(f).mount, d.ns.upload_of(f).unwrap().base.unwrap().etag.as_str()),
        (3, 1, "e3")
    );
    d.ok(session, Body::ReleaseWrite(ReleaseWrite { inode: f }));
}

#[test]
fn a_dirty_file_without_a_name_is_no_longer_of_its_mount() {
    let (mut d, root, session, _) = mounted();
    let f = d.make(root, "f");
    d.ok(0, write(f, 0, b"kept"));
    let body = Body::Unlink(Unlink {
        parent: root,
        name: "f".into(),
        inode: f,
        holders: vec![session],
        directory: false,
        trash: false,
    });
    d.ok(0, body);
    assert_eq!((d.attr(f).mount, d.attr(f).nlink, d.ns.counts().jobs), (0, 0, 0));
    d.ok(0, write(f, 4, b" on"));
    d.ok(session, Body::DropOrphan(DropOrphan { inode: f, session: 0 }));
    assert!(!d.exists(f));
}

#[test]
fn what_is_written_to_an_object_without_a_name_is_not_stored() {
    let (mut d, root, session, worker) = mounted();
    observe(&mut d, root, 0, vec![seen("f", "e1", 3), seen("g", "e1", 3)], &[]);
    let unlink = |d: &mut Driver, name: &str| {
        let inode = d.lookup(root, name).unwrap();
        let unlink = Unlink { parent: root, name: name.to_string().into(), inode, ..Default::default() };
        d.ok(0, Body::Unlink(Unlink { holders: vec![session], trash: true, ..unlink }));
        inode
    };
    let (written, emptied) = (unlink(&mut d, "f"), unlink(&mut d, "g"));
    d.ok(0, adopt(written, 1, worker));
    d.ok(0, truncate(emptied, 0));
    d.ok(0, write(emptied, 0, b"on"));
    for inode in [written, emptied] {
        assert_eq!((d.attr(inode).mount, d.attr(inode).generation, d.ns.counts().jobs), (0, 2, 0));
        d.ok(session, Body::DropOrphan(DropOrphan { inode, session: 0 }));
        assert!(!d.exists(inode));
    }
}

#[test]
fn a_rename_inside_a_mount_needs_the_store_and_across_its_edge_there_is_none() {
    let (mut d, root, ..) = mounted();
    observe(&mut d, root, 0, vec![seen("f", "e1", 3), seen("old", "e0", 1)], &[]);
    let f = d.lookup(root, "f").unwrap();
    let own = d.make(ROOT, "own");
    assert_eq!(d.fails(0, link(own, root, "hard")), ErrorKind::NotPermitted);
    assert_eq!(d.fails(0, rename(root, "f", root, "g", 4)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(root, "f", ROOT, "out", 0)), ErrorKind::CrossDevice);
    assert_eq!(d.fails(0, rename(ROOT, "own", root, "in", 0)), ErrorKind::CrossDevice);
    assert_eq!(d.fails(0, rename(root, "f", root, "old", 2)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, rename(root, "f", root, "g", 0)), ErrorKind::Conflict);
    assert_eq!(d.fails(0, link(f, root, "hard")), ErrorKind::NotPermitted);
    assert_eq!(d.fails(0, create(root, "sym", FileKind::Symlink)), ErrorKind::NotPermitted);
    assert_eq!(d.fails(0, create(root, " spaces", FileKind::File)), ErrorKind::InvalidArgument);

    let moved = |etag: &str, generation| {
        let Body::Rename(rename) = rename(root, "f", root, "g", 0) else { panic!("a rename") };
        let stored = Some(UfsEntry { key: "g".into(), ..seen("", etag, 3) });
        Body::Rename(Rename { stored, stored_generation: generation, ..rename })
    };
    assert_eq!(d.fails(0, moved("e1", 7)), ErrorKind::Conflict);
    d.ok(0, moved("e1", 1));
    assert_eq!((object(&d, f).unwrap().key, d.attr(f).generation), ("g".to_string(), 1));

    // A dirty file takes the place of an object: that is what its upload replaces.
    let new = d.make(root, "new");
    d.ok(0, rename(root, "new", root, "old", 0));
    let job = d.ns.upload_of(new).unwrap();
    assert_eq!((job.key.as_str(), job.base.unwrap().etag.as_str()), ("old", "e0"));
}

#[test]
fn a_directory_moves_with_its_objects_and_its_names_are_looked_up_anew() {
    let (mut d, root, ..) = mounted();
    let sub = d.mkdir(root, "sub");
    let f = d.make(sub, "f");
    let moved = |d: &Driver| {
        let Body::Rename(rename) = rename(root, "sub", root, "moved", 0) else { panic!("a rename") };
        let _ = d;
        let stored = Some(UfsEntry { key: "moved/".into(), directory: true, ..Default::default() });
        Body::Rename(Rename { stored, ..rename })
    };
    assert_eq!(d.fails(0, moved(&d)), ErrorKind::Busy);
    let body = stored(&d, f, b"", "e");
    d.ok(0, body);
    let inner = d.mkdir(sub, "inner");
    assert!([f, inner, sub].iter().all(|inode| d.ns.is_attached(*inode)));
    d.ok(0, moved(&d));
    assert!(d.ns.is_attached(sub) && ![f, inner].iter().any(|inode| d.ns.is_attached(*inode)));
    d.reap();
    assert!(!d.ns.is_attached(f));
    assert_eq!((d.ns.ufs_dir(sub).unwrap().prefix.as_str(), d.names(sub).len()), ("moved/", 0));
    assert!(!d.exists(f), "its inode was of the old key");
    let now = d.ns.stores();
    observe(&mut d, sub, now, vec![seen("f", "e", 0)], &[]);
    assert_eq!(object(&d, d.lookup(sub, "f").unwrap()).unwrap().key, "moved/f");
}

#[test]
fn a_mount_with_files_that_wait_is_taken_off_by_force_only() {
    let (mut d, root, ..) = mounted();
    let f = d.make(root, "f");
    let job = d.ns.upload_of(f).unwrap().id;
    let failed = SetJob { job, state: JobState::Failed as i32, error: "denied".into(), ..Default::default() };
    d.ok(0, Body::SetJob(failed.clone()));
    let job = d.ns.upload_of(f).unwrap();
    assert_eq!((job.attempts, job.error.as_str()), (1, "denied"));
    let umount = |force| Body::UmountUfs(UmountUfs { path: "/m".into(), force });
    assert_eq!(d.fails(0, umount(false)), ErrorKind::Busy);
    d.ok(0, umount(true));
    d.reap();
    assert_eq!((d.ns.counts().jobs, d.ns.counts().inodes), (0, 2));
    assert_eq!(d.fails(0, Body::SetJob(failed)), ErrorKind::Conflict);
}

#[test]
fn a_rename_that_the_names_refuse_is_refused_without_the_store() {
    let (mut d, root, ..) = mounted();
    let [a, b] = ["a", "b"].map(|name| d.ok(0, create(root, name, FileKind::Directory)).attr.unwrap().inode);
    let (inside, f) = (d.make(b, "inside"), d.make(root, "f"));
    let rename = |name: &str, new_name: &str, flags| {
        let (name, new_name) = (name.to_string().into(), new_name.to_string().into());
        Body::Rename(Rename { parent: root, name, new_parent: root, new_name, flags, ..Default::default() })
    };
    let with = |body, source, target| match body {
        Body::Rename(rename) => Body::Rename(Rename { source, target, ..rename }),
        other => other,
    };
    assert_eq!(d.fails(0, with(rename("a", "b", 0), a, b)), ErrorKind::DirectoryNotEmpty);
    assert_eq!(d.fails(0, with(rename("b", "a", 1), b, a)), ErrorKind::AlreadyExists);
    assert_eq!(d.fails(0, with(rename("f", "a", 0), f, a)), ErrorKind::IsADirectory);
    assert_eq!(d.fails(0, with(rename("a", "f", 0), a, f)), ErrorKind::NotADirectory);
    assert_eq!(d.fails(0, with(rename("b", "a", 0), b, a)), ErrorKind::Conflict, "this one the store has to move");
    assert_eq!(d.lookup(b, "inside"), Some(inside));
}
