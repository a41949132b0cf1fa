//! The life of a session: renewal, reconnection, expiry, the end.

use std::time::Duration;

use bytes::Bytes;
use curvine_client::{FileSystem, NewFile, NoEvents, OpenFlags};
use curvine_proto::Method;
use curvine_types::{ErrorKind, ROOT_INODE, Secret};

use crate::master::{Fault, Place};
use crate::play::{Cluster, name};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_keep_the_session_and_its_leases() {
    let cluster = Cluster::start(0).await;
    cluster.master.lease_ms.store(600, std::sync::atomic::Ordering::SeqCst);
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    fs.getattr(inode).await.unwrap();
    let beats = |count| move |state: &crate::master::State| state.calls.get("Heartbeat") >= Some(&count);
    cluster.master.until("five heartbeats", beats(5)).await;
    assert!(fs.try_getattr(inode).is_some());
    assert!(fs.session_validity() <= Duration::from_millis(600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_not_believed_longer_than_the_session_lives() {
    let mut cluster = Cluster::start(0).await;
    cluster.master.lease_ms.store(300, std::sync::atomic::Ordering::SeqCst);
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client_with(|options| options.rpc_timeout = Duration::from_secs(1)).await;
    fs.getattr(inode).await.unwrap();
    cluster.stop(0).await;
    let ttl = fs.try_getattr(inode).map_or(Duration::ZERO, |(_, ttl)| ttl);
    assert!(ttl <= Duration::from_millis(300));
    // The lease time itself is what must pass.
    tokio::time::sleep(Duration::from_millis(310)).await;
    assert!(fs.try_getattr(inode).is_none());
    assert_eq!(fs.getattr(inode).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reconnection_leases_are_given_up_and_opens_are_declared() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, kernel) = cluster.client().await;
    let read = fs.open(inode, OpenFlags::READ).await.unwrap();
    let write = fs.open(inode, OpenFlags::WRITE).await.unwrap();
    fs.lookup(ROOT_INODE, &name("x")).await.unwrap();
    kernel.told();

    let blocked = kernel.block();
    cluster.master.disconnect();
    // Reads go on while the kernel has not given up its pages, but nothing new is believed.
    kernel.names_told().await;
    assert_eq!(fs.getattr(inode).await.unwrap().1, Duration::ZERO);
    // An open must wait, because the declaration would wipe it out.
    let opening = tokio::spawn({
        let fs = fs.clone();
        async move { fs.open(inode, OpenFlags::READ).await }
    });
    fs.statfs(0).await.unwrap();
    assert_eq!(cluster.master.state.lock().declared.len(), 1);
    drop(blocked);
    cluster.master.until("the second declaration", |state| state.declared.len() == 2).await;

    let (dirs, mut inodes) = kernel.told();
    inodes.sort_unstable();
    assert_eq!((dirs, inodes), (vec![ROOT_INODE], vec![ROOT_INODE, inode]));
    let mut opens = cluster.master.state.lock().declared[1].opens.clone();
    opens.sort_by_key(|open| open.write);
    assert_eq!(opens.iter().map(|open| (open.inode, open.write)).collect::<Vec<_>>(), [(inode, false), (inode, true)]);
    let late = opening.await.unwrap().unwrap();
    assert_eq!(cluster.master.calls(Method::Open), 3);
    assert_eq!(cluster.master.state.lock().opens[&(1, inode)], (2, 1));
    fs.release(late);
    fs.release(read);
    fs.release(write);
    cluster.master.until("no opens", |state| state.opens.values().all(|counts| *counts == (0, 0))).await;
    assert_eq!(cluster.session(), 1);
    assert!(cluster.master.state.lock().violations.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_asks_for_it_gets_a_declaration() {
    let cluster = Cluster::start(0).await;
    cluster.master.lease_ms.store(300, std::sync::atomic::Ordering::SeqCst);
    let (fs, _) = cluster.client().await;
    cluster.master.state.lock().wants_declare = true;
    cluster.master.until("the second declaration", |state| state.declared.len() == 2).await;
    fs.mkdir(ROOT_INODE, &name("d"), curvine_client::NewNode { mode: 0o755, umask: 0, uid: 0, gid: 0 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_whose_answer_was_lost_is_counted_once() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    cluster.master.fault(Method::Open, Fault::LoseAnswer);
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    assert_eq!(cluster.master.state.lock().opens[&(1, inode)], (1, 0));
    fs.release(handle);
    cluster.master.until("the close", |state| state.opens[&(1, inode)] == (0, 0)).await;
    assert!(cluster.master.state.lock().violations.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_that_nobody_waits_for_is_given_back() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    cluster.master.fault(Method::Open, Fault::HoldAnswer);
    let opening = tokio::spawn({
        let fs = fs.clone();
        async move { fs.open(inode, OpenFlags::READ).await }
    });
    cluster.master.until("the open", |state| state.opens.get(&(1, inode)) == Some(&(1, 0))).await;
    opening.abort();
    assert!(opening.await.unwrap_err().is_cancelled());
    cluster.master.open_gate();
    cluster.master.until("the close", |state| state.opens[&(1, inode)] == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_session_expires_writers_are_dead_and_readers_go_on() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(b"content".to_vec()), 7);
    let (fs, kernel) = cluster.client().await;
    let read = fs.open(inode, OpenFlags::READ).await.unwrap();
    let write = fs.open(inode, OpenFlags::WRITE).await.unwrap();
    fs.getattr(inode).await.unwrap();
    cluster.master.expire(1);
    // Whatever is asked next finds out.
    fs.statfs(0).await.unwrap();
    fs.lookup(ROOT_INODE, &name("unknown")).await.unwrap();
    assert_eq!(cluster.session(), 2);
    assert!(kernel.inodes.lock().contains(&inode));
    assert_eq!(fs.read(&read, 0, 100).await.unwrap().concat(), b"content");
    let dead = fs.write(&write, 0, Bytes::from_static(b"lost"), false, false).await.unwrap_err();
    assert_eq!((dead.kind(), dead.errno()), (ErrorKind::SessionExpired, 5));
    assert_eq!(fs.fsync(&write, false).await.unwrap_err().kind(), ErrorKind::SessionExpired);
    // The dead handle is not closed at the master, the living one is.
    assert_eq!(cluster.master.state.lock().opens[&(2, inode)], (1, 0));
    fs.release(write);
    fs.release(read);
    cluster.master.until("the close", |state| state.opens[&(2, inode)] == (0, 0)).await;
    assert!(cluster.master.state.lock().violations.is_empty());
    // Changes are numbered from the start again.
    let flags = NewFile { mode: 0o644, umask: 0, uid: 0, gid: 0, exclusive: true, open: None };
    fs.create(ROOT_INODE, &name("new"), flags).await.unwrap();
    assert_eq!(cluster.master.state.lock().sequences.last(), Some(&1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_master_is_waited_for() {
    let mut cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    cluster.stop(0).await;
    let asking = tokio::spawn({
        let fs = fs.clone();
        async move { fs.open(inode, OpenFlags::READ_WRITE).await }
    });
    cluster.restart_master().await;
    assert_eq!(asking.await.unwrap().unwrap().inode(), inode);
    assert_eq!(cluster.session(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_is_told_as_what_it_is() {
    let cluster = Cluster::start(0).await;
    let mut options = cluster.options();
    options.secret = Secret::new("another secret of the test");
    let started = std::time::Instant::now();
    let error = FileSystem::connect(options, std::sync::Arc::new(NoEvents)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "it did not wait for the deadline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_closes_files_and_session() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    fs.release(handle);
    fs.close(Duration::from_secs(5)).await.unwrap();
    assert_eq!((cluster.master.calls(Method::Close), cluster.master.calls(Method::CloseSession)), (1, 1));
    assert!(cluster.master.state.lock().sessions.is_empty());
    assert_eq!(fs.getattr(inode).await.unwrap_err().kind(), ErrorKind::Unavailable);
}
