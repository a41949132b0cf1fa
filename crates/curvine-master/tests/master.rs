//! The master as its clients see it, over real connections and a real log.

mod support;

use std::sync::Arc;
use std::time::Duration;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    DataMode, LockKind, LockType, Method, OpenInode, ReportReply, ReportRequest, SetLock, WriteInline,
};
use curvine_types::ErrorKind;
use support::*;
use tempfile::tempdir;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(700);

fn posix() -> SetLock {
    SetLock { kind: LockKind::Posix as i32, r#type: LockType::Write as i32, pid: 1, ..SetLock::default() }
}

fn lock(inode: u64, owner: u64, end: u64) -> CommandBody {
    CommandBody::SetLock(SetLock { inode, start: end, end, owner, ..posix() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_command_is_executed_once() {
    let dir = tempdir().unwrap();
    let master = master(dir.path(), LONG).await;
    let client = Client::connect(&master, "a").await;
    let number = client.number();
    let (first, second) = tokio::join!(
        client.mutate_as(number, create("x", true), false),
        client.mutate_as(number, create("x", true), false)
    );
    let (first, second) = (first.unwrap().outcome.unwrap(), second.unwrap().outcome.unwrap());
    assert!(first.error.is_none() && second.error.is_none(), "{first:?} {second:?}");
    assert_eq!(first.attr.unwrap().inode, second.attr.unwrap().inode);
    let inode = first.attr.unwrap().inode;
    client.close(inode, true).await.unwrap();
    let other = Client::connect(&master, "b").await;
    let mode = other.open(inode, false).await.unwrap().mode();
    assert_eq!(mode, DataMode::ReadShared, "the open was counted twice, or its grant was not released");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_until_the_holders_have_answered_the_recall() {
    let dir = tempdir().unwrap();
    let master = master(dir.path(), LONG).await;
    let writer = Arc::new(Client::connect(&master, "writer").await);
    let reader = Client::connect(&master, "reader").await;
    let seen = reader.lookup("x").await.unwrap();
    assert!(seen.attr.is_none());
    let lease = seen.leases.iter().find(|lease| lease.inode == ROOT).expect("no lease on the directory");
    let creating = tokio::spawn({
        let writer = writer.clone();
        async move { writer.create("x", false).await }
    });
    let recall = reader.recalled().await;
    assert!(recall.request.inodes.contains(&ROOT) && recall.request.number > lease.number);
    let meanwhile = reader.lookup("x").await.unwrap();
    assert!(meanwhile.attr.is_none(), "the change was made before the recall was answered");
    assert!(meanwhile.leases.iter().all(|lease| lease.inode != ROOT), "a lease on a directory that is changing");
    assert!(!creating.is_finished());
    recall.answer.send(()).unwrap();
    let made = creating.await.unwrap().unwrap();
    assert_eq!(reader.lookup("x").await.unwrap().attr.unwrap().inode, made.inode);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_silent_delays_a_change_until_its_session_is_over() {
    let dir = tempdir().unwrap();
    let master = master(dir.path(), SHORT).await;
    let silent = Client::connect(&master, "silent").await;
    silent.lookup("x").await.unwrap();
    let since = Instant::now();
    silent.peer.close();
    let writer = Client::connect(&master, "writer").await;
    let beat = async {
        loop {
            writer.heartbeat().await.unwrap();
            tokio::time::sleep(SHORT / 5).await;
        }
    };
    let made = tokio::select! { made = writer.create("x", false) => made, _ = beat => unreachable!() };
    made.unwrap();
    assert!(since.elapsed() >= SHORT / 2, "the lease of the silent session was not honoured");
    let again = silent.reconnect(&master).await;
    assert_eq!(again.lookup("x").await.unwrap_err().kind(), ErrorKind::SessionExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_mode_follows_the_writers() {
    let dir = tempdir().unwrap();
    let master = master(dir.path(), LONG).await;
    let a = Client::connect(&master, "a").await;
    let b = Client::connect(&master, "b").await;
    let inode = a.create("x", true).await.unwrap().inode;
    assert_eq!(a.open(inode, true).await.unwrap().mode(), DataMode::WriteExclusive);
    let shared = b.open(inode, false).await.unwrap();
    assert_eq!(shared.mode(), DataMode::WriteShared);
    assert!(shared.leases.is_empty(), "a reader beside a writer must not cache");
    a.close(inode, true).await.unwrap();
    a.close(inode, true).await.unwrap();
    let alone = b.open(inode, false).await.unwrap();
    assert_eq!(alone.mode(), DataMode::ReadShared);
    assert!(!alone.leases.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlinked_file_lives_until_its_last_close() {
    let dir = tempdir().unwrap();
    let master = master(dir.path(), LONG).await;
    let a = Client::connect(&master, "a").await;
    let inode = a.create("x", true).await.unwrap().inode;
    a.mutate(CommandBody::WriteInline(WriteInline { inode, data: "hello".into(), ..Default::default() }))
        .await
        .unwrap();
    a.unlink("x").await.unwrap();
    assert!(a.lookup("x").await.unwrap().attr.is_none());
    assert_eq!(a.open(inode, false).await.unwrap().attr.unwrap().size, 5);
    a.close(inode, false).await.unwrap();
    a.close(inode, true).await.unwrap();
    assert_eq!(a.open(inode, false).await.unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_master_has_everything_and_waits_for_declarations() {
    let dir = tempdir().unwrap();
    let first = master(dir.path(), SHORT * 4).await;
    let cluster = first.cluster();
    let a = Client::connect(&first, "a").await;
    let _silent = Client::connect(&first, "silent").await;
    let inode = a.create("x", true).await.unwrap().inode;
    a.unlink("x").await.unwrap();
    a.create("y", false).await.unwrap();
    first.shutdown(Duration::from_secs(1)).await;

    let second = master(dir.path(), SHORT * 4).await;
    let started = Instant::now();
    assert_eq!(second.cluster(), cluster);
    let a = a.reconnect(&second).await;
    let beat = a.heartbeat().await.unwrap();
    assert!(beat.declare && beat.incarnation != a.incarnation);
    assert!(a.lookup("y").await.unwrap().attr.is_some(), "reads go on");
    a.declare(beat.incarnation, vec![OpenInode { inode, write: true }]).await.unwrap();
    let beat = async {
        loop {
            let _ = a.heartbeat().await;
            tokio::time::sleep(SHORT / 5).await;
        }
    };
    let made = tokio::select! { made = a.create("z", false) => made, _ = beat => unreachable!() };
    made.unwrap();
    assert!(started.elapsed() >= SHORT * 3, "a change was made while a session that may hold leases was undeclared");
    assert!(a.open(inode, false).await.is_ok(), "the declared orphan is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_wait_are_granted_and_deadlocks_are_found() {
    let dir = tempdir().unwrap();
    let master = master(dir.path(), LONG).await;
    let a = Arc::new(Client::connect(&master, "a").await);
    let b = Arc::new(Client::connect(&master, "b").await);
    let inode = a.create("x", false).await.unwrap().inode;
    a.mutate(lock(inode, 1, 10)).await.unwrap();
    b.mutate(lock(inode, 1, 20)).await.unwrap();
    assert_eq!(b.mutate(lock(inode, 1, 10)).await.unwrap_err().kind(), ErrorKind::WouldBlock);
    let waiting = tokio::spawn({
        let b = b.clone();
        async move { b.mutate_as(b.number(), lock(inode, 1, 10), true).await }
    });
    loop {
        let report: ReportReply = a.call(Method::Report, &ReportRequest {}).await.unwrap();
        if report.gauges["lock_waits"] == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let deadlock = a.mutate_as(a.number(), lock(inode, 1, 20), true).await.unwrap_err();
    assert_eq!(deadlock.kind(), ErrorKind::Deadlock);
    let unlock = SetLock { inode, r#type: LockType::Unlock as i32, end: u64::MAX, owner: 1, ..posix() };
    a.mutate(CommandBody::SetLock(unlock)).await.unwrap();
    let granted = waiting.await.unwrap().unwrap().outcome.unwrap();
    assert!(granted.error.is_none(), "{granted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_lock_ends_when_its_outcome_is_asked_for() {
    let dir = tempdir().unwrap();
    let master = master(dir.path(), LONG).await;
    let a = Arc::new(Client::connect(&master, "a").await);
    let b = Arc::new(Client::connect(&master, "b").await);
    let inode = a.create("x", false).await.unwrap().inode;
    a.mutate(lock(inode, 1, 10)).await.unwrap();
    let number = b.number();
    let waiting = tokio::spawn({
        let b = b.clone();
        async move { b.mutate_as(number, lock(inode, 1, 10), true).await }
    });
    loop {
        let report: ReportReply = a.call(Method::Report, &ReportRequest {}).await.unwrap();
        if report.gauges["lock_waits"] == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let asked = b.mutate_as(number, lock(inode, 1, 10), false).await.unwrap().outcome.unwrap();
    assert_eq!(asked.error.map(|error| error.kind), Some(ErrorKind::WouldBlock.code()));
    assert!(waiting.await.unwrap().is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    let unlock = SetLock { inode, r#type: LockType::Unlock as i32, end: u64::MAX, owner: 1, ..posix() };
    a.mutate(CommandBody::SetLock(unlock)).await.unwrap();
    let again = b.mutate_as(number, lock(inode, 1, 10), true).await.unwrap().outcome.unwrap();
    assert!(again.error.is_some(), "what was found out stays");
}
