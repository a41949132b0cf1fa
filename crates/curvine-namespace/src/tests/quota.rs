//! Quotas: what they count, what they refuse, how they follow moves and what was there before them.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind::*;
use curvine_types::{InodeId, ROOT_INODE};

use super::driver::*;
use crate::QuotaRecord;

fn quota(inode: InodeId, bytes: u64, files: u64) -> Body {
    Body::SetQuota(SetQuota { inode, bytes, files, remove: false })
}

fn unset(inode: InodeId) -> Body {
    Body::SetQuota(SetQuota { inode, remove: true, ..Default::default() })
}

fn count(steps: u32) -> Body {
    Body::CountQuotas(CountQuotas { steps })
}

fn write(inode: InodeId, size: usize) -> Body {
    Body::WriteInline(WriteInline { inode, data: vec![1; size].into(), ..Default::default() })
}

fn name_to(parent: InodeId, name: &str, new_parent: InodeId, new_name: &str, flags: u32) -> Body {
    let (name, new_name) = (name.to_string().into(), new_name.to_string().into());
    Body::Rename(Rename { parent, name, new_parent, new_name, flags, ..Default::default() })
}

fn used(driver: &Driver, dir: InodeId) -> (u64, u64) {
    let found: Vec<QuotaRecord> = driver.ns.quotas().into_iter().filter(|quota| quota.inode == dir).collect();
    (found[0].used_files, found[0].used_bytes)
}

#[test]
fn files_and_bytes_below_a_directory_are_limited_at_every_depth() {
    let mut driver = Driver::new();
    let top = driver.mkdir(ROOT_INODE, "top");
    driver.ok(0, quota(top, 100, 4));
    let sub = driver.mkdir(top, "sub");
    let file = driver.make(sub, "file");
    driver.ok(0, write(file, 60));
    assert_eq!(used(&driver, top), (2, 60));
    // A tighter one inside counts, too.
    driver.ok(0, quota(sub, 70, 0));
    while driver.ok(0, count(1)).id > 0 {}
    assert_eq!(used(&driver, sub), (1, 60));
    assert_eq!(driver.fails(0, write(file, 71)), QuotaExceeded);
    driver.ok(0, write(file, 70));
    let other = driver.make(top, "other");
    assert_eq!(driver.fails(0, write(other, 31)), QuotaExceeded);
    driver.ok(0, write(other, 30));
    driver.make(top, "fourth");
    assert_eq!(driver.fails(0, create(sub, "fifth", FileKind::Directory)), QuotaExceeded);
    assert_eq!(used(&driver, top), (4, 100));
    // What is over its limit can still shrink and go.
    driver.ok(0, quota(top, 10, 1));
    driver.ok(0, Body::SetAttr(SetAttr { inode: file, size: Some(0), ..Default::default() }));
    driver.ok(0, Body::Unlink(Unlink { parent: top, name: "fourth".into(), ..Default::default() }));
    assert_eq!((used(&driver, top), used(&driver, sub)), ((3, 30), (1, 0)));
    assert_eq!(driver.ns.quotas_above(sub).iter().map(|quota| quota.inode).collect::<Vec<_>>(), [sub, top]);
    driver.ok(0, unset(top));
    assert_eq!(driver.fails(0, unset(top)), NotFound);
    driver.make(top, "as many as one likes");
    assert_eq!(driver.copy().bytes(), driver.bytes());
    assert_eq!(driver.fails(0, quota(file, 1, 1)), NotADirectory);
    assert_eq!(driver.fails(0, quota(sub, 0, 0)), InvalidArgument);
}

#[test]
fn hard_links_count_once_and_go_on_counting_where_a_name_is_left() {
    let mut driver = Driver::new();
    let (one, two) = (driver.mkdir(ROOT_INODE, "one"), driver.mkdir(ROOT_INODE, "two"));
    driver.ok(0, quota(one, 1000, 10));
    driver.ok(0, quota(two, 1000, 10));
    let file = driver.make(one, "a");
    driver.ok(0, write(file, 50));
    for (dir, name) in [(one, "b"), (two, "c")] {
        driver.ok(0, Body::Link(Link { inode: file, parent: dir, name: name.into() }));
    }
    assert_eq!((used(&driver, one), used(&driver, two)), ((1, 50), (0, 0)));
    for (dir, name) in [(one, "a"), (one, "b")] {
        driver.ok(0, Body::Unlink(Unlink { parent: dir, name: name.into(), ..Default::default() }));
    }
    assert_eq!((used(&driver, one), used(&driver, two)), ((0, 0), (1, 50)));
}

#[test]
fn moves_are_counted_and_refused_and_trees_do_not_cross_a_border() {
    let mut driver = Driver::new();
    let (one, two) = (driver.mkdir(ROOT_INODE, "one"), driver.mkdir(ROOT_INODE, "two"));
    driver.ok(0, quota(one, 100, 2));
    let (big, small) = (driver.make(two, "big"), driver.make(two, "small"));
    driver.ok(0, write(big, 101));
    driver.ok(0, write(small, 60));
    assert_eq!(driver.fails(0, name_to(two, "big", one, "big", 0)), QuotaExceeded);
    driver.ok(0, name_to(two, "small", one, "small", 0));
    assert_eq!(used(&driver, one), (1, 60));
    let next = driver.make(two, "next");
    driver.ok(0, write(next, 90));
    assert_eq!(driver.fails(0, name_to(two, "next", one, "next", 0)), QuotaExceeded);
    // What is replaced, or goes the other way, makes room.
    driver.ok(0, name_to(two, "next", one, "small", 0));
    assert_eq!(used(&driver, one), (1, 90));
    assert_eq!(driver.fails(0, name_to(two, "big", one, "small", 2)), QuotaExceeded);
    driver.ok(0, write(big, 101));
    let mid = driver.make(two, "mid");
    driver.ok(0, write(mid, 95));
    driver.ok(0, name_to(two, "mid", one, "small", 2));
    assert_eq!(used(&driver, one), (1, 95));
    // An empty directory moves, a full one is for copying.
    let dir = driver.mkdir(two, "dir");
    driver.ok(0, name_to(two, "dir", one, "dir", 0));
    driver.ok(0, name_to(one, "dir", two, "dir", 0));
    driver.make(dir, "inside");
    assert_eq!(driver.fails(0, name_to(two, "dir", one, "dir", 0)), CrossDevice);
    driver.ok(0, name_to(two, "dir", two, "renamed", 0));
}

#[test]
fn growth_on_workers_is_counted_when_it_is_committed_and_not_begun_when_the_quota_is_used_up() {
    let mut driver = Driver::new();
    let top = driver.mkdir(ROOT_INODE, "top");
    driver.ok(0, quota(top, 100_000, 0));
    let worker = driver.worker(1);
    let (first, second) = (driver.make(top, "first"), driver.make(top, "second"));
    let place = |driver: &Driver, inode| {
        let change = driver.attr(inode).change;
        Body::PlaceBlocks(PlaceBlocks { inode, change, worker, block_size: 1 << 20 })
    };
    let body = place(&driver, first);
    let epoch = driver.ok(0, body).epoch;
    let commit = CommitSize { inode: first, generation: 1, epoch, size: 250_000, seal: true, ..Default::default() };
    driver.ok(0, Body::CommitSize(commit));
    assert_eq!(used(&driver, top), (2, 250_000));
    let body = place(&driver, second);
    assert_eq!(driver.fails(0, body), QuotaExceeded);
    assert_eq!(driver.ns.quota_growth(first, 250_001).unwrap_err().kind(), QuotaExceeded);
    assert!(driver.ns.quota_room(first, true).is_err());
    driver.ok(0, Body::SetAttr(SetAttr { inode: first, size: Some(0), ..Default::default() }));
    assert!(driver.ns.quota_room(first, false).is_ok());
    let body = place(&driver, second);
    driver.ok(0, body);
}

#[test]
fn what_was_there_before_is_counted_while_it_changes() {
    let mut driver = Driver::new();
    let top = driver.mkdir(ROOT_INODE, "top");
    let outside = driver.mkdir(ROOT_INODE, "outside");
    let files: Vec<InodeId> = (0..20).map(|number| driver.make(top, &number.to_string())).collect();
    for file in &files {
        driver.ok(0, write(*file, 10));
    }
    driver.ok(0, quota(top, 1000, 100));
    assert!(driver.ns.quotas()[0].counting);
    let mut turn = 0;
    while driver.ok(0, count(3)).id > 0 {
        turn += 1;
        driver.ok(0, write(files[turn % 20], 10 + turn));
        driver.make(top, &format!("new {turn}"));
        if turn == 2 {
            driver.ok(0, name_to(top, "19", outside, "moved", 0));
            driver.ok(0, name_to(top, "0", outside, "also", 0));
            assert_eq!(driver.copy().bytes(), driver.bytes());
        }
    }
    assert!(!driver.ns.quotas()[0].counting && turn > 5);
    let (entries, _) = driver.ns.readdir(top, 0, 1000).unwrap();
    let bytes = entries.iter().map(|entry| entry.attr.unwrap().size).sum();
    assert_eq!(used(&driver, top), (entries.len() as u64, bytes));
}

#[test]
fn whatever_happens_the_sums_are_right() {
    let mut random = 7u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut driver = Driver::new();
    let mut dirs = vec![ROOT_INODE];
    let mut files = Vec::new();
    // Each command is followed by a check of all invariants, which counts anew.
    for _ in 0..1500 {
        let (dir, other) = (dirs[next(dirs.len() as u64) as usize], dirs[next(dirs.len() as u64) as usize]);
        let (name, new_name) = (next(6).to_string(), next(6).to_string());
        let outcome = match next(10) {
            0 => driver.run(0, create(dir, &name, FileKind::Directory)),
            1 | 2 => driver.run(0, create(dir, &name, FileKind::File)),
            3 if !files.is_empty() => {
                let inode = files[next(files.len() as u64) as usize];
                driver.run(0, Body::Link(Link { inode, parent: dir, name: name.into() }))
            }
            4 => {
                let directory = next(3) == 0;
                driver.run(0, Body::Unlink(Unlink { parent: dir, name: name.into(), directory, ..Default::default() }))
            }
            5 | 6 => driver.run(0, name_to(dir, &name, other, &new_name, if next(3) == 0 { 2 } else { 0 })),
            7 if !files.is_empty() => {
                driver.run(0, write(files[next(files.len() as u64) as usize], next(300) as usize))
            }
            8 if next(3) == 0 => driver.run(0, quota(dir, next(2000), 1 + next(40))),
            8 if next(4) == 0 => driver.run(0, unset(dir)),
            _ => driver.run(0, count(1 + next(4) as u32)),
        };
        if let Some(made) = outcome.attr.filter(|_| outcome.created && outcome.error.is_none()) {
            match made.kind() {
                FileKind::Directory if !dirs.contains(&made.inode) => dirs.push(made.inode),
                FileKind::File if !files.contains(&made.inode) => files.push(made.inode),
                _ => {}
            }
        }
    }
    assert!(driver.ns.counts().quotas > 0 && driver.ns.counts().files > 3);
    assert_eq!(driver.copy().bytes(), driver.bytes());
}
