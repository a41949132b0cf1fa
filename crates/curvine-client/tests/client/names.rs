//! Names and changes: what is believed, what is sent again, what happens when nobody waits any more.

use std::time::Duration;

use curvine_client::{NewFile, NewNode, OpenFlags};
use curvine_proto::{LockKind, LockType, Method, SetAttr, SetLock};
use curvine_types::{ErrorKind, ROOT_INODE};

use crate::master::{Fault, Place};
use crate::play::{Cluster, name};

const NODE: NewNode = NewNode { mode: 0o755, umask: 0, uid: 0, gid: 0 };
const FILE: NewFile = NewFile { mode: 0o644, umask: 0, uid: 0, gid: 0, exclusive: true, open: None };

fn lock(owner: u64, kind: LockType) -> SetLock {
    SetLock { kind: LockKind::Posix as i32, r#type: kind as i32, start: 0, end: u64::MAX, owner, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leased_name_is_found_again_without_asking() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    let found = fs.lookup(ROOT_INODE, &name("x")).await.unwrap().entry.unwrap();
    assert_eq!(found.attr.inode, inode);
    assert!(found.entry_ttl > Duration::from_secs(5) && found.attr_ttl > Duration::from_secs(5));
    assert_eq!(fs.try_lookup(ROOT_INODE, &name("x")).unwrap().entry.unwrap().attr, found.attr);
    assert!(fs.lookup(ROOT_INODE, &name("y")).await.unwrap().entry.is_none());
    assert!(fs.try_lookup(ROOT_INODE, &name("y")).unwrap().entry.is_none());
    fs.lookup(ROOT_INODE, &name("y")).await.unwrap();
    fs.getattr(inode).await.unwrap();
    assert_eq!((cluster.master.calls(Method::Lookup), cluster.master.calls(Method::GetAttr)), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_leases_nothing_may_be_believed() {
    let cluster = Cluster::start(0).await;
    cluster.master.state.lock().grants_leases = false;
    cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    let found = fs.lookup(ROOT_INODE, &name("x")).await.unwrap().entry.unwrap();
    assert_eq!((found.entry_ttl, found.attr_ttl), (Duration::ZERO, Duration::ZERO));
    assert!(fs.try_lookup(ROOT_INODE, &name("x")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_changes_are_seen_in_the_cache_at_once() {
    let cluster = Cluster::start(0).await;
    let (fs, _) = cluster.client().await;
    assert!(fs.lookup(ROOT_INODE, &name("d")).await.unwrap().entry.is_none());
    let made = fs.mkdir(ROOT_INODE, &name("d"), NODE).await.unwrap();
    assert_eq!(fs.try_lookup(ROOT_INODE, &name("d")).unwrap().entry.unwrap().attr, made.attr);
    let change = SetAttr { mode: Some(0o700), ..Default::default() };
    fs.setattr(made.attr.inode, change).await.unwrap();
    assert_eq!(fs.try_getattr(made.attr.inode).unwrap().0.mode, 0o700);
    fs.unlink(ROOT_INODE, &name("d")).await.unwrap();
    assert!(fs.try_lookup(ROOT_INODE, &name("d")).unwrap().entry.is_none());
    assert_eq!(cluster.master.calls(Method::Lookup), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recall_is_answered_after_the_kernel_was_told_and_empties_the_cache_before() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, kernel) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    fs.lookup(ROOT_INODE, &name("x")).await.unwrap();
    kernel.told();

    let blocked = kernel.block();
    let (master, session) = (cluster.master.clone(), cluster.session());
    let recall = tokio::spawn(async move { master.recall(session, &[ROOT_INODE, inode]).await });
    // The names are told first; then the kernel is slow.
    kernel.names_told().await;
    assert!(fs.try_getattr(inode).is_none() && fs.try_lookup(ROOT_INODE, &name("x")).is_none());
    assert!(!recall.is_finished());
    drop(blocked);
    let reply = recall.await.unwrap().unwrap();
    assert_eq!(reply.open_inodes, vec![inode]);
    assert_eq!(kernel.told().1, vec![ROOT_INODE, inode]);
    drop(handle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_a_recall_overtook_is_not_believed() {
    let cluster = Cluster::start(0).await;
    cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    cluster.master.fault(Method::Lookup, Fault::HoldAnswer);
    let asking = tokio::spawn({
        let fs = fs.clone();
        async move { fs.lookup(ROOT_INODE, &name("x")).await }
    });
    cluster.master.until("the lookup was executed", |state| state.lease_number >= 2).await;
    cluster.master.recall(cluster.session(), &[ROOT_INODE]).await.unwrap();
    cluster.master.open_gate();
    let found = asking.await.unwrap().unwrap().entry.unwrap();
    assert_eq!(found.entry_ttl, Duration::ZERO);
    assert!(found.attr_ttl > Duration::ZERO, "the lease on the file was not recalled");
    assert!(fs.try_lookup(ROOT_INODE, &name("x")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_was_lost_keeps_its_number_and_is_made_once() {
    let cluster = Cluster::start(0).await;
    let (fs, _) = cluster.client().await;
    cluster.master.fault(Method::Mutate, Fault::LoseAnswer);
    let made = fs.mkdir(ROOT_INODE, &name("d"), NODE).await.unwrap();
    let state = cluster.master.state.lock();
    assert_eq!(state.sequences, vec![1, 1]);
    assert_eq!(state.inodes.len(), 2);
    assert_eq!(made.attr.inode, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_refused_for_now_is_sent_again_and_others_are_not() {
    let cluster = Cluster::start(0).await;
    let (fs, _) = cluster.client().await;
    for kind in [ErrorKind::Unavailable, ErrorKind::Overloaded, ErrorKind::NotLeader] {
        cluster.master.fault(Method::Mutate, Fault::Refuse(kind));
    }
    fs.mkdir(ROOT_INODE, &name("d"), NODE).await.unwrap();
    assert_eq!(cluster.master.calls(Method::Mutate), 4);
    assert_eq!(cluster.master.state.lock().sequences, vec![1]);

    let refused = fs.mkdir(ROOT_INODE, &name("d"), NODE).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert_eq!(cluster.master.calls(Method::Mutate), 5);
    cluster.master.fault(Method::Mutate, Fault::Refuse(ErrorKind::PermissionDenied));
    assert_eq!(fs.rmdir(ROOT_INODE, &name("d")).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(cluster.master.calls(Method::Mutate), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_in_flight_are_bounded_and_results_are_acknowledged() {
    let cluster = Cluster::start(0).await;
    let (fs, _) = cluster.client_with(|options| options.mutations_in_flight = 4).await;
    let names: Vec<_> = (0..100).map(|number| name(&format!("d{number}"))).collect();
    let making = names.iter().map(|name| fs.mkdir(ROOT_INODE, name, NODE));
    futures::future::try_join_all(making).await.unwrap();
    fs.mkdir(ROOT_INODE, &name("last"), NODE).await.unwrap();
    let state = cluster.master.state.lock();
    assert!((1..=4).contains(&state.mutations_peak), "{}", state.mutations_peak);
    assert_eq!(state.lowest_unacked, 101);
    assert_eq!(fs.gauges().mutations_in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_goes_on_when_its_caller_gives_up_and_the_kernel_is_told() {
    let cluster = Cluster::start(0).await;
    let (fs, kernel) = cluster.client().await;
    assert!(fs.lookup(ROOT_INODE, &name("d")).await.unwrap().entry.is_none());
    cluster.master.fault(Method::Mutate, Fault::HoldAnswer);
    let caller = tokio::spawn({
        let fs = fs.clone();
        async move { fs.mkdir(ROOT_INODE, &name("d"), NODE).await }
    });
    cluster.master.until("the directory was made", |state| state.inodes.len() == 2).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    kernel.told();
    cluster.master.open_gate();
    kernel.names_told().await;
    assert_eq!(kernel.dirs.lock()[..], [ROOT_INODE]);
    assert!(fs.lookup(ROOT_INODE, &name("d")).await.unwrap().entry.is_some());
    assert_eq!(cluster.master.state.lock().sequences, vec![1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_wait_for_a_lock_does_not_hold_up_other_changes() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    fs.setlk(inode, lock(1, LockType::Write), false).await.unwrap();
    assert_eq!(fs.setlk(inode, lock(2, LockType::Write), false).await.unwrap_err().kind(), ErrorKind::WouldBlock);
    let waiting = tokio::spawn({
        let fs = fs.clone();
        async move { fs.setlk(inode, lock(2, LockType::Write), true).await }
    });
    cluster.master.until("the wait began", |state| state.mutations_at_once == 1).await;
    let changes = async {
        for _ in 0..1100 {
            let change = SetAttr { mode: Some(0o600), ..Default::default() };
            fs.setattr(inode, change).await.unwrap();
        }
    };
    // Less than the time that the master is asked to wait at once.
    tokio::time::timeout(Duration::from_secs(8), changes).await.expect("the wait holds nothing up");
    assert!(!waiting.is_finished());
    fs.setlk(inode, lock(1, LockType::Unlock), false).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(cluster.master.state.lock().locked_by, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_nobody_waits_for_any_more_is_given_back() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let (fs, _) = cluster.client().await;
    cluster.master.fault(Method::Mutate, Fault::HoldAnswer);
    let waiting = tokio::spawn({
        let fs = fs.clone();
        async move { fs.setlk(inode, lock(2, LockType::Write), true).await }
    });
    cluster.master.until("the lock was taken", |state| state.locked_by == Some(2)).await;
    waiting.abort();
    cluster.master.until("the lock was given back", |state| state.locked_by.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_followed_name_by_name() {
    let cluster = Cluster::start(0).await;
    let (fs, _) = cluster.client().await;
    let dir = fs.mkdir(ROOT_INODE, &name("d"), NODE).await.unwrap().attr.inode;
    let (file, _) = fs.create(dir, &name("f"), FILE).await.unwrap();
    assert_eq!(fs.resolve(b"/d//./f").await.unwrap().attr.inode, file.attr.inode);
    assert_eq!(fs.resolve(b"/").await.unwrap().attr.inode, ROOT_INODE);
    assert_eq!(fs.resolve(b"/d/none").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs.resolve(b"/d/f/x").await.unwrap_err().kind(), ErrorKind::NotADirectory);
    let (parent, last) = fs.resolve_parent(b"/d/new/").await.unwrap();
    assert_eq!((parent.attr.inode, last), (dir, name("new")));
    assert_eq!(fs.resolve_parent(b"//").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}
