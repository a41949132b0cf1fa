use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::limits::INLINE_MAX;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;
use crate::{Grant, Wanted};

const BLOCK: u64 = 1 << 20;

fn place(d: &Driver, inode: InodeId, worker: u64) -> Body {
    Body::PlaceBlocks(PlaceBlocks { inode, change: d.attr(inode).change, worker, block_size: BLOCK })
}

fn commit(inode: InodeId, generation: u64, epoch: u64, size: u64, seal: bool) -> Body {
    Body::CommitSize(CommitSize {
        inode,
        generation,
        epoch,
        size,
        blocks: size.div_ceil(512),
        seal,
        ..Default::default()
    })
}

fn grant(inode: InodeId) -> Body {
    Body::GrantWrite(GrantWrite { inode })
}

fn release(inode: InodeId) -> Body {
    Body::ReleaseWrite(ReleaseWrite { inode })
}

fn data(d: &Driver, inode: InodeId) -> Vec<u8> {
    match d.ns.layout(inode, true).unwrap().kind {
        Some(layout::Kind::Inline(inline)) => inline.data.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn inline_writes_land_where_they_should() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "a");
    d.ok(0, write(file, 3, b"def"));
    d.ok(0, write(file, 0, b"ab"));
    assert_eq!(data(&d, file), b"ab\0def");
    let append = WriteInline { inode: file, offset: 1, data: "gh".into(), append: true, ..Default::default() };
    assert_eq!(d.ok(0, Body::WriteInline(append)).id, 6);
    assert_eq!(data(&d, file), b"ab\0defgh");
    let attr = d.attr(file);
    assert_eq!((attr.size, attr.generation), (8, 1));
    assert_eq!((seconds(attr.mtime), seconds(attr.ctime)), (d.clock, d.clock));
    assert_eq!(d.fails(0, write(file, INLINE_MAX as u64, b"x")), ErrorKind::FileTooLarge);
    assert_eq!(d.fails(0, write(file, u64::MAX, b"x")), ErrorKind::FileTooLarge);
    assert_eq!(d.fails(0, write(ROOT, 0, b"x")), ErrorKind::IsADirectory);
    assert_eq!(d.ns.layout(file, false).unwrap().kind, Some(layout::Kind::Inline(InlineLayout::default())));
}

#[test]
fn each_write_is_seen_in_mtime_even_within_one_batch() {
    let mut d = Driver::new();
    let file = d.make(ROOT, "a");
    let commands = (0..5).map(|_| Command { body: Some(write(file, 0, b"x")), ..Default::default() }).collect();
    let outcomes = d.ns.apply(&CommandBatch { now: Some(Time::new(d.clock, 0)), commands });
    let times: Vec<_> = outcomes.iter().map(|outcome| outcome.attr.as_ref().unwrap().mtime.unwrap().key()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[test]
fn a_file_goes_from_inline_to_blocks_to_sealed_and_back() {
    let mut d = Driver::new();
    let (session, worker) = (d.session("m"), d.worker(1));
    let file = d.make(ROOT, "a");
    assert_eq!(d.ok(session, grant(file)).epoch, 1);
    d.ok(session, write(file, 0, b"inline"));
    let outdated = Body::PlaceBlocks(PlaceBlocks { inode: file, change: 1, worker, block_size: BLOCK });
    assert_eq!(d.fails(0, outdated), ErrorKind::Conflict);
    let unknown = place(&d, file, 99);
    assert_eq!(d.fails(0, unknown), ErrorKind::InvalidArgument);

    let body = place(&d, file, worker);
    let outcome = d.ok(0, body);
    let attr = outcome.attr.unwrap();
    assert_eq!((attr.live, attr.size, attr.generation, outcome.epoch), (true, 6, 1, 1));
    let Some(layout::Kind::Blocks(blocks)) = outcome.layout.unwrap().kind else { panic!("blocks") };
    assert_eq!((blocks.block_size, blocks.live), (BLOCK, true));
    assert_eq!(blocks.extents, [Extent { first_block: 0, block_count: 0, version: 1, workers: vec![worker] }]);
    assert_eq!(d.ns.live_inodes(0, 10), [file]);
    assert_eq!(d.ns.content_wanted(file, 1, worker), Wanted::Authoritative { version: 1 });
    assert_eq!(d.ns.content_wanted(file, 1, 77), Wanted::No);
    assert_eq!(d.ns.content_wanted(file, 2, worker), Wanted::No);
    assert_eq!(d.fails(0, write(file, 0, b"x")), ErrorKind::Conflict);
    assert_eq!(d.fails(0, truncate(file, 5)), ErrorKind::Conflict);

    assert_eq!(d.ok(0, commit(file, 1, 1, 5000, false)).attr.unwrap().size, 5000);
    assert_eq!(d.fails(0, commit(file, 1, 1, 6000, true)), ErrorKind::Conflict, "there is a writer");
    d.ok(session, release(file));
    assert!(d.attr(file).live, "live until it is sealed");
    assert_eq!(d.fails(0, commit(file, 2, 1, 6000, true)), ErrorKind::Conflict);
    assert_eq!(d.fails(0, commit(file, 1, 2, 6000, true)), ErrorKind::Conflict);
    let attr = d.ok(0, commit(file, 1, 1, 6000, true)).attr.unwrap();
    assert_eq!((attr.live, attr.size, attr.blocks), (false, 6000, 12));
    assert_eq!(d.fails(0, commit(file, 1, 1, 7000, false)), ErrorKind::Conflict, "sealed");
    assert!(d.ns.live_inodes(0, 10).is_empty());

    assert!(d.ok(0, Body::SetLive(SetLive { inode: file, fence: false })).attr.unwrap().live);
    let change = d.attr(file).change;
    assert_eq!(d.ok(0, Body::SetLive(SetLive { inode: file, fence: false })).attr.unwrap().change, change);
    assert_eq!(d.ok(0, Body::SetLive(SetLive { inode: file, fence: true })).epoch, 2);

    d.ok(session, grant(file));
    let outcome = d.ok(0, truncate(file, 0));
    let attr = outcome.attr.unwrap();
    assert_eq!((attr.live, attr.size, attr.blocks, attr.generation, outcome.epoch), (false, 0, 0, 2, 3));
    assert_eq!(d.ns.grant(file), Some(Grant { epoch: 3, writers: vec![session] }));
    assert_eq!(d.ns.garbage(10), [Garbage { worker, inode: file, generation: 1 }]);
    assert!(d.ns.is_garbage(file, 1, worker));
    assert_eq!(d.ns.content_wanted(file, 1, worker), Wanted::No);
    d.ok(session, write(file, 0, b"again"));
    assert_eq!(data(&d, file), b"again");
    d.ok(0, Body::ForgetGarbage(ForgetGarbage { items: d.ns.garbage(10) }));
    assert_eq!(d.ns.counts().garbage, 0);
}

#[test]
fn committed_times_never_move_ctime_back() {
    let mut d = Driver::new();
    let worker = d.worker(1);
    let file = d.make(ROOT, "a");
    let body = place(&d, file, worker);
    d.ok(0, body);
    d.ok(0, Body::SetAttr(SetAttr { inode: file, mode: Some(0o600), ..Default::default() }));
    let ctime = d.attr(file).ctime;
    let body = CommitSize {
        inode: file,
        generation: 1,
        epoch: 1,
        size: 1,
        blocks: 8,
        mtime: Some(Time::new(500, 7)),
        ctime: Some(Time::new(500, 7)),
        seal: true,
        ..Default::default()
    };
    let attr = d.ok(0, Body::CommitSize(body)).attr.unwrap();
    assert_eq!((attr.mtime, attr.ctime), (Some(Time::new(500, 7)), ctime));
}

#[test]
fn the_content_of_a_removed_file_is_garbage() {
    let mut d = Driver::new();
    let worker = d.worker(1);
    let file = d.make(ROOT, "a");
    let body = place(&d, file, worker);
    d.ok(0, body);
    d.ok(0, unlink(ROOT, "a"));
    assert_eq!(d.ns.garbage(10), [Garbage { worker, inode: file, generation: 1 }]);
    let counts = d.ns.counts();
    assert_eq!((counts.live, counts.grants, counts.files, counts.bytes), (0, 0, 0, 0));
}

#[test]
fn a_grant_raises_nothing_for_who_has_it() {
    let mut d = Driver::new();
    let (one, two) = (d.session("a"), d.session("b"));
    let file = d.make(ROOT, "a");
    let before = d.attr(file);
    for session in [two, one, two] {
        assert_eq!(d.ok(session, grant(file)).epoch, 1);
    }
    assert_eq!(d.ns.grant(file).unwrap().writers, [one, two]);
    assert_eq!(d.attr(file), before);
    for session in [one, one, two] {
        d.ok(session, release(file));
    }
    assert_eq!(d.ns.grant(file), None);
    assert_eq!(d.fails(one, grant(ROOT)), ErrorKind::IsADirectory);
    assert_eq!(d.fails(0, grant(file)), ErrorKind::InvalidArgument);
}

#[test]
fn create_grants_what_it_makes_and_nothing_else() {
    let mut d = Driver::new();
    let session = d.session("a");
    let body = |exclusive| {
        Body::Create(Create {
            parent: ROOT,
            name: "a".into(),
            kind: FileKind::File as i32,
            grant_write: true,
            exclusive,
            ..Default::default()
        })
    };
    assert_eq!(d.fails(0, body(true)), ErrorKind::InvalidArgument);
    let outcome = d.ok(session, body(true));
    let file = outcome.attr.unwrap().inode;
    assert_eq!((outcome.created, outcome.epoch), (true, 1));
    let other = d.session("b");
    assert_eq!(d.fails(other, body(true)), ErrorKind::AlreadyExists);
    let outcome = d.ok(other, body(false));
    assert_eq!((outcome.created, outcome.epoch), (false, 0));
    assert_eq!(d.ns.grant(file).unwrap().writers, [session], "others may hold leases on what was there before");
}

#[test]
fn writers_keep_an_unlinked_file_alive() {
    let mut d = Driver::new();
    let session = d.session("a");
    let file = d.make(ROOT, "a");
    d.ok(session, grant(file));
    d.ok(0, unlink(ROOT, "a"));
    d.ok(session, write(file, 0, b"still here"));
    assert_eq!((d.attr(file).nlink, d.attr(file).size), (0, 10));
    assert_eq!(d.fails(0, link(file, ROOT, "back")), ErrorKind::NotFound);
    d.ok(session, release(file));
    assert!(!d.exists(file));
}
