use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId, SessionId};
use proptest::prelude::*;

use super::driver::*;

fn lock(inode: InodeId, kind: LockKind, r#type: LockType, owner: u64, start: u64, end: u64) -> SetLock {
    SetLock { inode, kind: kind as i32, r#type: r#type as i32, start, end, owner, pid: owner as u32 }
}

fn posix(inode: InodeId, r#type: LockType, owner: u64, start: u64, end: u64) -> Body {
    Body::SetLock(lock(inode, LockKind::Posix, r#type, owner, start, end))
}

#[test]
fn a_conflicting_lock_is_refused_and_says_whose_it_is() {
    let mut d = Driver::new();
    let (one, two) = (d.session("a"), d.session("b"));
    let file = d.make(ROOT, "f");
    d.ok(one, posix(file, LockType::Write, 7, 10, 19));
    d.ok(two, posix(file, LockType::Write, 7, 20, u64::MAX));
    let outcome = d.run(two, posix(file, LockType::Read, 7, 0, 10));
    assert_eq!(kind(&outcome), ErrorKind::WouldBlock);
    let holder = outcome.lock.unwrap();
    assert_eq!((holder.session, holder.owner, holder.start, holder.end, holder.pid), (one, 7, 10, 19, 7));
    assert_eq!(holder.r#type(), LockType::Write);
    let asked = lock(file, LockKind::Posix, LockType::Read, 7, 15, 15);
    assert_eq!(d.ns.conflicting_lock(two, &asked).unwrap(), Some(holder));
    assert_eq!(d.ns.conflicting_lock(one, &asked).unwrap(), None);
    assert_eq!(d.fails(one, posix(file, LockType::Read, 7, 5, 4)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, posix(file, LockType::Read, 7, 0, 4)), ErrorKind::InvalidArgument);
}

#[test]
fn flock_is_of_the_whole_file_and_of_nobody_elses_business() {
    let mut d = Driver::new();
    let (one, two) = (d.session("a"), d.session("b"));
    let file = d.make(ROOT, "f");
    let flock = |r#type, owner| Body::SetLock(lock(file, LockKind::Flock, r#type, owner, 5, 6));
    d.ok(one, flock(LockType::Read, 1));
    d.ok(two, flock(LockType::Read, 1));
    d.ok(two, posix(file, LockType::Write, 1, 0, u64::MAX));
    assert_eq!(kind(&d.run(one, flock(LockType::Write, 1))), ErrorKind::WouldBlock);
    d.ok(two, flock(LockType::Unlock, 1));
    d.ok(one, flock(LockType::Write, 1));
    assert_eq!(kind(&d.run(one, flock(LockType::Read, 2))), ErrorKind::WouldBlock, "another open file of one session");
}

#[test]
fn unlocking_never_fails() {
    let mut d = Driver::new();
    let one = d.session("a");
    let file = d.make(ROOT, "f");
    d.ok(one, posix(file, LockType::Unlock, 1, 3, 4));
    d.ok(one, posix(999, LockType::Unlock, 1, 0, u64::MAX));
    assert_eq!(d.fails(one, posix(999, LockType::Read, 1, 0, 1)), ErrorKind::Stale);
}

#[test]
fn locks_end_with_their_session_and_with_their_inode() {
    let mut d = Driver::new();
    let (one, two) = (d.session("a"), d.session("b"));
    let (file, other) = (d.make(ROOT, "f"), d.make(ROOT, "g"));
    for inode in [file, other] {
        d.ok(one, posix(inode, LockType::Read, 1, 0, 9));
        d.ok(two, posix(inode, LockType::Read, 1, 0, 9));
    }
    assert_eq!(kind(&d.run(two, posix(file, LockType::Write, 1, 0, 9))), ErrorKind::WouldBlock);
    d.ok(0, Body::ExpireSession(ExpireSession { session: one }));
    d.ok(two, posix(file, LockType::Write, 1, 0, 9));
    d.ok(0, unlink(ROOT, "f"));
    assert_eq!(d.ns.counts().locked_inodes, 1);
    d.ok(two, posix(other, LockType::Unlock, 1, 0, u64::MAX));
    assert_eq!(d.ns.counts().locked_inodes, 0);
}

#[test]
fn an_inode_takes_a_bounded_number_of_locks() {
    let mut d = Driver::new();
    let one = d.session("a");
    let file = d.make(ROOT, "f");
    let commands = (0..4096).map(|at| Command {
        session: one,
        sequence: 1_000_000 + at,
        lowest_unacked: 1_000_000 + at,
        body: Some(posix(file, LockType::Read, 1, at * 2, at * 2)),
    });
    let outcomes = d.ns.apply(&CommandBatch { now: None, commands: commands.collect() });
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()));
    let send = |d: &mut Driver, number: u64, body| d.send(one, 2_000_000 + number, 2_000_000 + number, body);
    assert_eq!(kind(&send(&mut d, 1, posix(file, LockType::Read, 1, 100_000, 100_000))), ErrorKind::Overloaded);
    assert_eq!(send(&mut d, 2, posix(file, LockType::Read, 1, 0, u64::MAX)).error, None);
    assert_eq!(send(&mut d, 3, posix(file, LockType::Unlock, 1, 50, 60)).error, None);
}

/// Who holds what of each byte, as the obvious array; the last one stands for all that follow.
#[derive(Clone)]
struct Bytes(Vec<Vec<(SessionId, u64, bool)>>);

const LENGTH: u64 = 24;

impl Bytes {
    fn set(&mut self, session: SessionId, lock: &SetLock) -> bool {
        let range = lock.start as usize..=(lock.end.min(LENGTH)) as usize;
        let write = lock.r#type() == LockType::Write;
        let unlock = lock.r#type() == LockType::Unlock;
        let other = |holder: &(SessionId, u64, bool)| (holder.0, holder.1) != (session, lock.owner);
        let stands = |holder: &(SessionId, u64, bool)| other(holder) && (write || holder.2);
        if !unlock && self.0[range.clone()].iter().flatten().any(stands) {
            return false;
        }
        for byte in &mut self.0[range] {
            byte.retain(other);
            if !unlock {
                byte.push((session, lock.owner, write));
            }
        }
        true
    }
}

proptest! {
    #[test]
    fn record_locks_are_those_of_each_byte(
        steps in prop::collection::vec((1u64..3, 0u64..2, 0i32..3, 0..LENGTH, 0..LENGTH, any::<bool>()), 1..60)
    ) {
        let mut d = Driver::new();
        d.session("a");
        d.session("b");
        let file = d.make(ROOT, "f");
        let mut bytes = Bytes(vec![Vec::new(); LENGTH as usize + 1]);
        for (session, owner, r#type, a, b, to_end) in steps {
            let end = if to_end { u64::MAX } else { a.max(b) };
            let r#type = LockType::try_from(r#type).unwrap();
            let asked = lock(file, LockKind::Posix, r#type, owner, a.min(b), end);
            let conflict = d.ns.conflicting_lock(session, &asked).unwrap();
            let outcome = d.run(session, Body::SetLock(asked));
            prop_assert_eq!(&outcome.lock, &conflict);
            prop_assert_eq!(outcome.error.is_none(), bytes.set(session, &asked));
        }
        for byte in 0..=LENGTH {
            for (session, owner) in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)] {
                for (r#type, write) in [(LockType::Read, false), (LockType::Write, true)] {
                    let asked = lock(file, LockKind::Posix, r#type, owner, byte, byte);
                    let stands = d.ns.conflicting_lock(session, &asked).unwrap().is_some();
                    let expected = bytes.0[byte as usize].iter()
                        .any(|holder| (holder.0, holder.1) != (session, owner) && (write || holder.2));
                    prop_assert_eq!(stands, expected);
                }
            }
        }
        for session in [1, 2] {
            for owner in [0, 1] {
                d.ok(session, posix(file, LockType::Unlock, owner, 0, u64::MAX));
            }
        }
        prop_assert_eq!(d.ns.counts().locked_inodes, 0);
    }
}
