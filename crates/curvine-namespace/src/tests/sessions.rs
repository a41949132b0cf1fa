use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::limits::RESULT_WINDOW;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;
use crate::ResultLookup;

fn open(client: &str, replace: bool) -> Body {
    Body::OpenSession(OpenSession { client: client.into(), replace, ..Default::default() })
}

fn new_file(name: &str) -> Body {
    create(ROOT, name, FileKind::File)
}

#[test]
fn a_repeated_command_has_the_same_outcome_and_changes_nothing() {
    let mut d = Driver::new();
    let session = d.session("m");
    let first = d.send(session, 1, 1, new_file("a"));
    let state = d.ns.counts();
    let attr = d.attr(ROOT);
    assert_eq!(d.send(session, 1, 1, new_file("a")), first);
    assert_eq!(d.send(session, 1, 1, new_file("other")), first, "the number decides");
    assert_eq!((d.ns.counts(), d.attr(ROOT)), (state, attr));
    let refused = d.send(session, 2, 1, new_file("a"));
    assert_eq!(kind(&refused), ErrorKind::AlreadyExists);
    d.ok(0, unlink(ROOT, "a"));
    assert_eq!(d.send(session, 2, 1, new_file("a")), refused, "errors are outcomes too");
    assert_eq!(d.ns.result(session, 1), ResultLookup::Known(first));
    assert_eq!(d.ns.result(session, 3), ResultLookup::New);
}

#[test]
fn acknowledged_results_are_forgotten() {
    let mut d = Driver::new();
    let session = d.session("m");
    for number in 1..=10 {
        d.send(session, number, 1, new_file(&number.to_string()));
    }
    assert_eq!(d.ns.counts().results, 10);
    d.send(session, 11, 8, new_file("11"));
    assert_eq!(d.ns.counts().results, 4);
    assert_eq!(d.ns.result(session, 7), ResultLookup::Forgotten);
    assert!(matches!(d.ns.result(session, 8), ResultLookup::Known(_)));
    assert_eq!(kind(&d.send(session, 7, 1, new_file("x"))), ErrorKind::TimedOut);
    assert_eq!(d.lookup(ROOT, "x"), None);
}

#[test]
fn a_command_that_was_overtaken_by_thousands_is_still_executed_once() {
    let mut d = Driver::new();
    let session = d.session("m");
    let window = RESULT_WINDOW as u64;
    // Number 1 waits for a lock, say; the session cannot acknowledge beyond it.
    let commands = (2..2 + 3 * window).map(|sequence| Command {
        session,
        sequence,
        lowest_unacked: 1,
        body: Some(write(99, 0, b"x")),
    });
    d.ns.apply(&CommandBatch { now: None, commands: commands.collect() });
    assert_eq!(d.ns.counts().results, window);
    assert_eq!(d.ns.result(session, 2), ResultLookup::Forgotten);
    assert_eq!(kind(&d.send(session, 2, 1, new_file("two"))), ErrorKind::TimedOut);
    assert_eq!(d.ns.result(session, 1), ResultLookup::New);
    let first = d.send(session, 1, 1, new_file("one"));
    assert_eq!(first.error, None);
    assert_eq!(d.send(session, 1, 1, new_file("one")), first);
    for number in 0..100 {
        d.send(session, 5 * window + number, 1, new_file(&format!("more{number}")));
    }
    assert_eq!(d.ns.result(session, 1), ResultLookup::Known(first), "the newest thousand are kept, not the highest");
    assert_eq!((d.lookup(ROOT, "two"), d.ns.counts().results), (None, window));
    let copy = crate::Namespace::restore(&mut &d.bytes()[..]).unwrap();
    for sequence in [1, 2, 3 * window, 4 * window, 5 * window] {
        assert_eq!(copy.result(session, sequence), d.ns.result(session, sequence));
    }
    let far = 9 * window;
    d.send(session, far, far, new_file("far"));
    assert_eq!(d.ns.counts().results, 1);
}

#[test]
fn a_session_cannot_grow_its_window_without_bound() {
    let mut d = Driver::new();
    let session = d.session("m");
    let every_other = |count: u64| (1..=count).map(move |number| number * 2);
    let commands = every_other(3 * RESULT_WINDOW as u64).map(|sequence| Command {
        session,
        sequence,
        lowest_unacked: 1,
        body: Some(write(99, 0, b"x")),
    });
    let outcomes = d.ns.apply(&CommandBatch { now: None, commands: commands.collect() });
    assert_eq!(kind(&outcomes[0]), ErrorKind::Stale);
    assert_eq!(kind(outcomes.last().unwrap()), ErrorKind::Overloaded);
    assert_eq!(d.ns.result(session, 6 * RESULT_WINDOW as u64), ResultLookup::New, "refused, not executed");
    assert_eq!(kind(&d.send(session, u64::MAX, 0, new_file("a"))), ErrorKind::InvalidArgument);
}

#[test]
fn a_conflict_may_be_tried_again_under_the_same_number() {
    let mut d = Driver::new();
    let session = d.session("m");
    let file = d.make(ROOT, "a");
    let remove = |inode| Body::Unlink(Unlink { parent: ROOT, name: "a".into(), inode, ..Default::default() });
    assert_eq!(kind(&d.send(session, 1, 1, remove(file + 1))), ErrorKind::Conflict);
    assert_eq!(d.ns.result(session, 1), ResultLookup::New);
    assert_eq!(d.send(session, 1, 1, remove(file)).error, None);
}

#[test]
fn nothing_of_an_ended_session_is_executed() {
    let mut d = Driver::new();
    let session = d.session("m");
    d.send(session, 1, 1, new_file("a"));
    d.ok(0, Body::ExpireSession(ExpireSession { session }));
    for sequence in [1, 2] {
        assert_eq!(kind(&d.send(session, sequence, 1, new_file("b"))), ErrorKind::SessionExpired);
    }
    assert_eq!(d.ns.result(session, 1), ResultLookup::NoSession);
    assert_eq!(d.names(ROOT), ["a"]);
    assert_eq!((d.ns.counts().results, d.ns.session(session)), (0, None));
    assert!(d.session("m") > session);
    d.ok(0, Body::ExpireSession(ExpireSession { session }));
}

#[test]
fn what_the_master_does_for_a_session_has_no_number_but_ends_with_it() {
    let mut d = Driver::new();
    let session = d.session("m");
    let file = d.make(ROOT, "a");
    let grant = Body::GrantWrite(GrantWrite { inode: file });
    for _ in 0..2 {
        assert_eq!(d.send(session, 0, 0, grant.clone()).error, None);
    }
    assert_eq!((d.ns.grant(file).unwrap().writers, d.ns.counts().results), (vec![session], 0));
    d.ok(0, Body::ExpireSession(ExpireSession { session }));
    assert_eq!(kind(&d.send(session, 0, 0, grant)), ErrorKind::SessionExpired);
}

#[test]
fn a_session_can_end_itself() {
    let mut d = Driver::new();
    let session = d.session("m");
    d.ok(session, Body::ExpireSession(ExpireSession { session }));
    assert_eq!((d.ns.sessions(), d.ns.counts().results), (vec![], 0));
}

#[test]
fn a_restarted_client_replaces_its_earlier_sessions_only() {
    let mut d = Driver::new();
    let (old, other) = (d.session("host:/mnt"), d.session("host:/mnt2"));
    let second = d.ok(0, open("host:/mnt", false)).id;
    let new = d.ok(0, open("host:/mnt", true)).id;
    let ids: Vec<_> = d.ns.sessions().iter().map(|session| session.id).collect();
    assert_eq!(ids, [other, new]);
    assert!(d.ns.session(old).is_none() && d.ns.session(second).is_none());
    let record = d.ns.session(new).unwrap();
    assert_eq!((record.client.as_str(), record.opened), ("host:/mnt", Time::new(d.clock, 0)));
}

#[test]
fn orphans_live_until_their_last_holder_is_gone() {
    let mut d = Driver::new();
    let sessions = ["a", "b", "c"].map(|client| d.session(client));
    let file = d.make(ROOT, "f");
    d.ok(0, write(file, 0, b"data"));
    let remove =
        Unlink { parent: ROOT, name: "f".into(), inode: file, holders: sessions.to_vec(), ..Default::default() };
    d.ok(sessions[0], Body::Unlink(remove));
    let drop = |session| Body::DropOrphan(DropOrphan { inode: file, session });
    d.ok(sessions[0], drop(sessions[0]));
    d.ok(sessions[0], drop(sessions[0]));
    d.ok(0, Body::ExpireSession(ExpireSession { session: sessions[1] }));
    assert_eq!((d.attr(file).nlink, d.attr(file).size), (0, 4));
    assert_eq!(d.ns.orphans_of(sessions[2]), [file]);
    d.ok(0, drop(sessions[2]));
    assert!(!d.exists(file));
    assert_eq!(d.ns.counts().orphan_holds, 0);
}

#[test]
fn an_ended_session_writes_no_more_but_its_file_stays_live() {
    let mut d = Driver::new();
    let (session, worker) = (d.session("a"), d.worker(1));
    let grant = |inode: InodeId| Body::GrantWrite(GrantWrite { inode });
    let file = d.make(ROOT, "f");
    d.ok(session, grant(file));
    let change = d.attr(file).change;
    d.ok(0, Body::PlaceBlocks(PlaceBlocks { inode: file, change, worker, block_size: 1 << 20 }));
    let gone = d.make(ROOT, "gone");
    d.ok(session, grant(gone));
    d.ok(0, unlink(ROOT, "gone"));
    assert!(d.exists(gone));
    d.ok(0, Body::ExpireSession(ExpireSession { session }));
    assert!(!d.exists(gone), "the writer was its last holder");
    assert!(d.attr(file).live);
    assert_eq!(d.ns.grant(file), Some(crate::Grant { epoch: 1, writers: vec![] }));
}

#[test]
fn a_session_that_held_much_ends_in_steps_and_nothing_of_it_is_executed_meanwhile() {
    let mut d = Driver::new();
    let (session, other) = (d.session("m"), d.session("n"));
    let lock = |inode: InodeId| SetLock {
        inode,
        kind: LockKind::Flock as i32,
        r#type: LockType::Write as i32,
        ..Default::default()
    };
    let files: Vec<InodeId> = (0..300).map(|number| d.make(ROOT, &number.to_string())).collect();
    for file in &files {
        d.ok(session, Body::SetLock(lock(*file)));
    }
    let orphan = files[0];
    let remove = Unlink { parent: ROOT, name: "0".into(), inode: orphan, holders: vec![session], ..Default::default() };
    d.ok(other, Body::Unlink(remove));

    let expire = Body::ExpireSession(ExpireSession { session });
    assert!(d.ok(0, expire.clone()).more);
    assert_eq!(kind(&d.run(session, new_file("x"))), ErrorKind::SessionExpired);
    assert_eq!(kind(&d.send(session, 0, 0, new_file("x"))), ErrorKind::SessionExpired);
    assert_eq!((d.ns.session(session), d.ns.ending_sessions()), (None, vec![session]));
    let ids: Vec<_> = d.ns.sessions().iter().map(|session| session.id).collect();
    assert_eq!(ids, [other]);
    let late = Unlink { parent: ROOT, name: "1".into(), inode: files[1], holders: vec![session], ..Default::default() };
    d.ok(other, Body::Unlink(late));
    assert!(!d.exists(files[1]), "it holds nothing new");

    // Whoever has the log so far goes on the same.
    let mut copy = d.copy();
    assert_eq!(copy.ns.ending_sessions(), [session]);
    for driver in [&mut d, &mut copy] {
        let mut steps = 1;
        while driver.ok(0, expire.clone()).more {
            steps += 1;
        }
        assert!(steps > 3, "{steps}");
        assert_eq!((driver.ns.ending_sessions(), driver.ns.counts().locked_inodes), (vec![], 0));
        assert!(!driver.exists(orphan));
        assert_eq!(driver.ok(other, Body::SetLock(lock(files[2]))).error, None);
    }
    assert_eq!(d.bytes(), copy.bytes());
}
