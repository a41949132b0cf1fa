use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind;
use curvine_types::limits::LINK_MAX;

use super::driver::*;

#[test]
fn a_created_file_is_found_with_its_attributes() {
    let mut d = Driver::new();
    let before = d.attr(ROOT);
    let body = Body::Create(Create {
        parent: ROOT,
        name: "a".into(),
        kind: FileKind::File as i32,
        mode: 0o100640,
        uid: 7,
        gid: 8,
        ..Default::default()
    });
    let outcome = d.ok(0, body);
    let attr = outcome.attr.unwrap();
    assert!(outcome.created);
    assert_eq!((attr.kind(), attr.mode, attr.nlink, attr.uid, attr.gid), (FileKind::File, 0o640, 1, 7, 8));
    assert_eq!((attr.size, attr.generation, seconds(attr.btime)), (0, 1, d.clock));
    assert_eq!(d.ns.lookup(ROOT, b"a").unwrap(), Some(attr));
    let parent = outcome.parent.unwrap();
    assert_eq!((parent.size, parent.nlink), (1, 2));
    assert_eq!((seconds(parent.mtime), seconds(parent.ctime)), (d.clock, d.clock));
    assert!(parent.change > before.change);
    assert_eq!(d.ns.readdir(ROOT, 0, 10).unwrap().0[0].cookie, outcome.child_cookie);
}

#[test]
fn subdirectories_count_as_links_of_their_parent() {
    let mut d = Driver::new();
    let sub = d.mkdir(ROOT, "sub");
    assert_eq!((d.attr(ROOT).nlink, d.attr(sub).nlink), (3, 2));
    assert_eq!(d.lookup(sub, ".."), Some(ROOT));
    assert_eq!(d.lookup(sub, "."), Some(sub));
    assert_eq!(d.ns.parent(sub).unwrap(), ROOT);
    let outcome = d.ok(0, rmdir(ROOT, "sub"));
    assert_eq!(outcome.target.unwrap().nlink, 0);
    assert_eq!(outcome.parent.unwrap().nlink, 2);
    assert!(!d.exists(sub));
}

#[test]
fn a_setgid_directory_hands_down_its_group() {
    let mut d = Driver::new();
    let dir = d.mkdir(ROOT, "dir");
    d.ok(0, Body::SetAttr(SetAttr { inode: dir, mode: Some(0o2775), gid: Some(42), ..Default::default() }));
    let (file, sub) = (d.make(dir, "file"), d.mkdir(dir, "sub"));
    assert_eq!((d.attr(file).gid, d.attr(file).mode), (42, 0o644));
    assert_eq!((d.attr(sub).gid, d.attr(sub).mode), (42, 0o2644));
}

#[test]
fn errors_of_create_name_what_stands_in_the_way() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "file");
    let dir = d.mkdir(ROOT, "dir");
    let long = "x".repeat(256);
    for (body, error) in [
        (create(ROOT, "file", FileKind::File), ErrorKind::AlreadyExists),
        (create(ROOT, "dir", FileKind::Directory), ErrorKind::AlreadyExists),
        (create(file, "a", FileKind::File), ErrorKind::NotADirectory),
        (create(999, "a", FileKind::File), ErrorKind::Stale),
        (create(ROOT, &long, FileKind::File), ErrorKind::NameTooLong),
        (create(ROOT, "a/b", FileKind::File), ErrorKind::InvalidArgument),
        (create(ROOT, "..", FileKind::Directory), ErrorKind::InvalidArgument),
        (create(ROOT, "a", FileKind::Unknown), ErrorKind::InvalidArgument),
        (unlink(ROOT, "none"), ErrorKind::NotFound),
        (unlink(ROOT, "dir"), ErrorKind::IsADirectory),
        (rmdir(ROOT, "file"), ErrorKind::NotADirectory),
        (link(dir, ROOT, "hard"), ErrorKind::NotPermitted),
        (link(file, ROOT, "dir"), ErrorKind::AlreadyExists),
    ] {
        assert_eq!(d.fails(0, body.clone()), error, "{body:?}");
    }
    d.make(dir, "in");
    assert_eq!(d.fails(0, rmdir(ROOT, "dir")), ErrorKind::DirectoryNotEmpty);
    assert_eq!(d.ns.lookup(file, b"x").unwrap_err().kind(), ErrorKind::NotADirectory);
    assert_eq!(d.ns.lookup(ROOT, long.as_bytes()).unwrap_err().kind(), ErrorKind::NameTooLong);
}

#[test]
fn an_open_without_exclusion_takes_the_file_that_is_there() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "file");
    d.mkdir(ROOT, "dir");
    let open = |name: &str| {
        Body::Create(Create {
            parent: ROOT,
            name: name.to_string().into(),
            kind: FileKind::File as i32,
            ..Default::default()
        })
    };
    let before = d.bytes();
    let outcome = d.ok(0, open("file"));
    assert!(!outcome.created);
    assert_eq!(outcome.attr.unwrap(), d.attr(file));
    assert_eq!(d.fails(0, open("dir")), ErrorKind::IsADirectory);
    assert_ne!(before, d.bytes(), "the clock went on");
}

#[test]
fn hard_links_share_one_inode_until_the_last_is_gone() {
    let mut d = Driver::new();
    let sub = d.mkdir(ROOT, "sub");
    let file = d.make(ROOT, "a");
    let outcome = d.ok(0, link(file, sub, "b"));
    let attr = outcome.attr.unwrap();
    assert_eq!((attr.inode, attr.nlink, seconds(attr.ctime)), (file, 2, d.clock));
    assert_eq!(outcome.new_parent.unwrap().inode, sub);
    assert_eq!(d.path(file).unwrap(), "/a");
    let target = d.ok(0, unlink(ROOT, "a")).target.unwrap();
    assert_eq!((target.nlink, seconds(target.ctime)), (1, d.clock));
    assert_eq!(d.path(file).unwrap(), "/sub/b");
    assert_eq!(d.ok(0, unlink(sub, "b")).target.unwrap().nlink, 0);
    assert!(!d.exists(file));
}

#[test]
fn a_file_has_at_most_link_max_names() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "a");
    let names =
        (1..LINK_MAX).map(|number| Command { body: Some(link(file, ROOT, &number.to_string())), ..Default::default() });
    let outcomes = d.ns.apply(&CommandBatch { now: None, commands: names.collect() });
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()));
    assert_eq!(d.attr(file).nlink, LINK_MAX);
    assert_eq!(d.fails(0, link(file, ROOT, "more")), ErrorKind::TooManyLinks);
}

#[test]
fn special_files_and_symlinks_keep_what_they_are_made_of() {
    let mut d = Driver::new();
    let device = Create {
        parent: ROOT,
        name: "dev".into(),
        kind: FileKind::CharDevice as i32,
        rdev: 0x0501,
        ..Default::default()
    };
    let attr = d.ok(0, Body::Create(device)).attr.unwrap();
    assert_eq!((attr.kind(), attr.rdev, attr.size), (FileKind::CharDevice, 0x0501, 0));
    let attr = d.ok(0, create(ROOT, "link", FileKind::Symlink)).attr.unwrap();
    assert_eq!((attr.mode, attr.size), (0o777, 6));
    assert_eq!(d.ns.readlink(attr.inode).unwrap(), "target");
    assert_eq!(d.ns.readlink(ROOT).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let with_target = |target: Vec<u8>| {
        let (name, kind) = ("bad".into(), FileKind::Symlink as i32);
        Body::Create(Create { parent: ROOT, name, kind, symlink_target: target.into(), ..Default::default() })
    };
    assert_eq!(d.fails(0, with_target(vec![])), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, with_target(vec![b'x'; 4096])), ErrorKind::NameTooLong);
    assert_eq!(d.fails(0, with_target(b"a\0".to_vec())), ErrorKind::InvalidArgument);
    let counts = d.ns.counts();
    assert_eq!((counts.symlinks, counts.specials, counts.inline_bytes), (1, 1, 6));
}

#[test]
fn listing_goes_on_where_it_stopped_whatever_happens_in_between() {
    let mut d = Driver::new();
    for number in 0..100 {
        d.make(ROOT, &format!("f{number}"));
    }
    let mut seen = Vec::new();
    let mut cookie = 0;
    loop {
        let (entries, end) = d.ns.readdir(ROOT, cookie, 7).unwrap();
        assert!(entries.iter().all(|entry| entry.cookie > 2 && entry.attr.is_some()));
        cookie = entries.last().map_or(cookie, |entry| entry.cookie);
        seen.extend(entries.into_iter().map(|entry| String::from_utf8(entry.name.to_vec()).unwrap()));
        if end {
            break;
        }
        // What was just read goes, what will be read comes: neither moves the others.
        let gone = seen.last().unwrap().clone();
        d.ok(0, unlink(ROOT, &gone));
        if seen.len() < 50 {
            d.make(ROOT, &format!("late{}", seen.len()));
        }
    }
    let old: Vec<_> = seen.iter().filter(|name| name.starts_with('f')).collect();
    assert_eq!(old.len(), 100);
    assert_eq!(seen.len(), seen.iter().collect::<std::collections::HashSet<_>>().len());
}

#[test]
fn a_removed_directory_takes_no_names() {
    let mut d = Driver::new();
    let session = d.session("m");
    let dir = d.mkdir(ROOT, "dir");
    let file = d.make(ROOT, "file");
    d.ok(
        0,
        Body::Unlink(Unlink {
            parent: ROOT,
            name: "dir".into(),
            directory: true,
            inode: dir,
            holders: vec![session],
            trash: false,
        }),
    );
    assert_eq!(d.attr(dir).nlink, 0);
    assert_eq!(d.path(dir), None);
    assert_eq!(d.fails(0, create(dir, "a", FileKind::File)), ErrorKind::NotFound);
    assert_eq!(d.fails(0, rename(ROOT, "file", dir, "a", 0)), ErrorKind::NotFound);
    assert_eq!(d.fails(0, link(file, dir, "a")), ErrorKind::NotFound);
    assert_eq!(d.names(dir), Vec::<String>::new());
    d.ok(session, Body::DropOrphan(DropOrphan { inode: dir, session }));
    assert!(!d.exists(dir));
}

#[test]
fn unlinking_what_the_name_does_not_mean_any_more_is_a_conflict() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "a");
    let with_inode = |inode| Body::Unlink(Unlink { parent: ROOT, name: "a".into(), inode, ..Default::default() });
    assert_eq!(d.fails(0, with_inode(file + 1)), ErrorKind::Conflict);
    d.ok(0, with_inode(file));
}

#[test]
fn inode_numbers_are_never_used_again() {
    let mut d = Driver::new();
    let first = d.make(ROOT, "a");
    d.ok(0, unlink(ROOT, "a"));
    assert!(d.make(ROOT, "a") > first);
}

fn unnamed(parent: u64, exclusive: bool) -> Create {
    let kind = FileKind::File as i32;
    Create { parent, kind, mode: 0o640, uid: 7, gid: 8, unnamed: true, exclusive, ..Default::default() }
}

#[test]
fn a_file_made_without_a_name_lives_as_long_as_its_session_holds_it() {
    let mut d = Driver::new();
    let (session, other) = (d.session("m"), d.session("n"));
    let outcome = d.ok(session, Body::Create(Create { grant_write: true, ..unnamed(ROOT, false) }));
    let attr = outcome.attr.unwrap();
    assert!(outcome.created && outcome.child_cookie == 0);
    assert_eq!((attr.nlink, attr.mode, attr.uid, attr.gid, d.attr(ROOT).size), (0, 0o640, 7, 8, 0));
    d.ok(0, write(attr.inode, 0, b"data"));
    let copy = d.copy();
    assert_eq!((copy.attr(attr.inode).size, copy.ns.orphans_of(session)), (4, vec![attr.inode]));
    d.ok(session, Body::ReleaseWrite(ReleaseWrite { inode: attr.inode }));
    assert!(d.exists(attr.inode));
    d.ok(0, Body::DropOrphan(DropOrphan { inode: attr.inode, session }));
    assert!(!d.exists(attr.inode));

    let left = d.ok(other, Body::Create(unnamed(ROOT, false))).attr.unwrap().inode;
    d.ok(0, Body::ExpireSession(ExpireSession { session: other }));
    assert!(!d.exists(left));
    assert_eq!(d.fails(0, Body::Create(unnamed(ROOT, false))), ErrorKind::InvalidArgument, "nobody would hold it");
}

#[test]
fn a_file_made_without_a_name_can_be_given_its_first_one_unless_that_was_excluded() {
    let mut d = Driver::new();
    let session = d.session("m");
    let file = d.ok(session, Body::Create(unnamed(ROOT, false))).attr.unwrap().inode;
    d.ok(0, link(file, ROOT, "a"));
    assert_eq!((d.attr(file).nlink, d.lookup(ROOT, "a")), (1, Some(file)));
    assert!(d.ns.orphans_of(session).is_empty());
    // From now on it is as any other file.
    let body = Unlink { parent: ROOT, name: "a".into(), holders: vec![session], ..Default::default() };
    d.ok(0, Body::Unlink(body));
    assert_eq!(d.fails(0, link(file, ROOT, "b")), ErrorKind::NotFound);

    let never = d.ok(session, Body::Create(unnamed(ROOT, true))).attr.unwrap().inode;
    assert_eq!(d.fails(0, link(never, ROOT, "c")), ErrorKind::NotFound);
}

/// Makes, lists, moves and removes this many names in one directory.
fn large_directory(count: u64) {
    let mut d = Driver::new();
    let (dir, other) = (d.mkdir(ROOT, "dir"), d.mkdir(ROOT, "other"));
    let apply = |d: &mut Driver, body: &dyn Fn(u64) -> Body, numbers: &[u64]| {
        for numbers in numbers.chunks(4096) {
            d.clock += 1;
            let commands = numbers.iter().map(|number| Command { body: Some(body(*number)), ..Default::default() });
            let batch = CommandBatch { now: Some(Time::new(d.clock, 0)), commands: commands.collect() };
            assert!(d.ns.apply(&batch).iter().all(|outcome| outcome.error.is_none()));
        }
    };
    let list = |d: &Driver, dir: u64| {
        let (mut after, mut names) = (0, 0);
        loop {
            let (entries, end) = d.ns.readdir(dir, after, 1000).unwrap();
            assert!(entries.iter().all(|entry| entry.cookie > after));
            names += entries.len() as u64;
            after = entries.last().map_or(after, |entry| entry.cookie);
            if end {
                return names;
            }
        }
    };
    let all: Vec<u64> = (0..count).collect();
    apply(&mut d, &|number| create(dir, &format!("name-{number}"), FileKind::File), &all);
    assert_eq!((d.attr(dir).size, list(&d, dir)), (count, count));
    for number in [0, count / 2, count - 1] {
        assert!(d.lookup(dir, &format!("name-{number}")).is_some());
    }
    let even: Vec<u64> = (0..count).step_by(2).collect();
    apply(&mut d, &|number| rename(dir, &format!("name-{number}"), other, &format!("moved-{number}"), 0), &even);
    assert_eq!((list(&d, dir), list(&d, other)), (count - even.len() as u64, even.len() as u64));
    d.ns.check().unwrap();
    let odd: Vec<u64> = (1..count).step_by(2).collect();
    apply(&mut d, &|number| unlink(dir, &format!("name-{number}")), &odd);
    apply(&mut d, &|number| unlink(other, &format!("moved-{number}")), &even);
    d.ok(0, rmdir(ROOT, "dir"));
    d.ok(0, rmdir(ROOT, "other"));
    assert_eq!(d.ns.counts().inodes, 1);
}

#[test]
fn a_directory_holds_many_names() {
    large_directory(50_000);
}

#[test]
#[ignore = "takes a minute without optimization: make test-posix"]
fn a_directory_holds_a_million_names() {
    large_directory(1_000_000);
}
