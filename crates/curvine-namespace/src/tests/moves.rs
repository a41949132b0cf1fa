use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;
use crate::Wanted;

fn place(d: &Driver, inode: InodeId, worker: u64) -> Body {
    Body::PlaceBlocks(PlaceBlocks { inode, change: d.attr(inode).change, worker, block_size: 1 << 20 })
}

fn commit(d: &Driver, inode: InodeId, seal: bool) -> Body {
    let (generation, epoch) = (d.attr(inode).generation, d.ns.grant(inode).unwrap().epoch);
    Body::CommitSize(CommitSize { inode, generation, epoch, size: 9, seal, ..Default::default() })
}

fn set(worker: u64, state: WorkerState) -> Body {
    Body::SetWorkerState(SetWorkerState { worker, state: state.into() })
}

/// As the master copies it now.
fn moved(d: &Driver, inode: InodeId, from: u64, to: u64) -> MoveBlocks {
    let version = d.ns.placed(inode).unwrap().version;
    let epoch = d.ns.grant(inode).map_or(0, |grant| grant.epoch);
    MoveBlocks { inode, generation: d.attr(inode).generation, epoch, from, to, version, new_version: version + 5 }
}

/// A driver with two workers and a sealed file on the first of them.
fn sealed() -> (Driver, u64, u64, InodeId) {
    let mut d = Driver::new();
    let (first, second) = (d.worker(1), d.worker(2));
    let file = d.make(ROOT, "a");
    let body = place(&d, file, first);
    d.ok(0, body);
    let body = commit(&d, file, true);
    d.ok(0, body);
    (d, first, second, file)
}

#[test]
fn a_worker_out_of_service_takes_nothing_new_and_stays_so_in_snapshots() {
    let mut d = Driver::new();
    let (first, second) = (d.worker(1), d.worker(2));
    let file = d.make(ROOT, "a");
    d.ok(0, set(first, WorkerState::Decommissioned));
    d.ok(0, set(second, WorkerState::Leaving));
    for worker in [first, second] {
        let body = place(&d, file, worker);
        assert_eq!(d.fails(0, body), ErrorKind::Conflict);
    }
    // Registering says where a worker is, and nothing else.
    assert_eq!(d.worker(1), first);
    let copy = d.copy();
    let states: Vec<WorkerState> = copy.ns.workers().iter().map(|worker| worker.state).collect();
    assert_eq!(states, [WorkerState::Decommissioned, WorkerState::Leaving]);
    d.ok(0, set(first, WorkerState::InService));
    let body = place(&d, file, first);
    d.ok(0, body);
    assert_eq!(d.fails(0, set(77, WorkerState::Leaving)), ErrorKind::NotFound);
    let unknown = Body::SetWorkerState(SetWorkerState { worker: first, state: 99 });
    assert_eq!(d.fails(0, unknown), ErrorKind::InvalidArgument);
}

#[test]
fn a_sealed_content_moves_and_its_old_copy_is_garbage() {
    let (mut d, first, second, file) = sealed();
    let step = moved(&d, file, first, second);
    let outcome = d.ok(0, Body::MoveBlocks(step));
    let Some(layout::Kind::Blocks(blocks)) = outcome.layout.unwrap().kind else { panic!("blocks") };
    assert_eq!((blocks.extents[0].version, blocks.extents[0].workers.as_slice()), (6, &[second][..]));
    assert_eq!(d.ns.content_wanted(file, 1, first), Wanted::No);
    assert_eq!(d.ns.content_wanted(file, 1, second), Wanted::Authoritative { version: 6 });
    assert!(d.ns.is_garbage(file, 1, first));
    assert_eq!(d.attr(file).size, 9);
    // Sent again it finds that it is done.
    assert_eq!(d.fails(0, Body::MoveBlocks(step)), ErrorKind::Conflict);
    // Back again: what is there now is no garbage.
    let step = moved(&d, file, second, first);
    d.ok(0, Body::MoveBlocks(step));
    assert!(!d.ns.is_garbage(file, 1, first) && d.ns.is_garbage(file, 1, second));
    d.ok(0, unlink(ROOT, "a"));
    assert!(d.ns.is_garbage(file, 1, first));
}

#[test]
fn what_was_written_or_replaced_since_it_was_copied_does_not_move() {
    let (mut d, first, second, file) = sealed();
    let step = moved(&d, file, first, second);
    d.ok(0, Body::SetLive(SetLive { inode: file, fence: true }));
    assert_eq!(d.fails(0, Body::MoveBlocks(step)), ErrorKind::Conflict);
    let body = commit(&d, file, true);
    d.ok(0, body);
    assert_eq!(d.fails(0, Body::MoveBlocks(step)), ErrorKind::Conflict, "sealed again, with other bytes");
    let step = moved(&d, file, first, second);
    d.ok(0, set(second, WorkerState::Decommissioned));
    assert_eq!(d.fails(0, Body::MoveBlocks(step)), ErrorKind::Conflict);
    d.ok(0, set(second, WorkerState::InService));
    d.ok(0, truncate(file, 0));
    assert_eq!(d.fails(0, Body::MoveBlocks(step)), ErrorKind::Conflict);
}
