//! A process dies and another one goes on with its session: what becomes of requests that were answered, given up or lost.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_client::{FileSystem, Journal, NoEvents, Origin, Predecessor, Succession, on_behalf};
use curvine_proto::{LockKind, LockType, SetLock};
use curvine_types::{ClusterId, SessionId};
use parking_lot::Mutex;

use crate::master::Place;
use crate::play::Cluster;

/// What outlives a process.
#[derive(Default)]
struct Memory {
    session: Mutex<(SessionId, u64)>,
    next: AtomicU64,
    sent: Mutex<Vec<u64>>,
}

impl Journal for Memory {
    fn session(&self, session: SessionId, _: ClusterId, incarnation: u64) {
        *self.session.lock() = (session, incarnation);
    }

    fn numbered(&self, next: u64) {
        self.next.store(next, Ordering::SeqCst);
    }
}

/// A request whose numbers are remembered.
struct Request(Arc<Memory>);

impl Origin for Request {
    fn token(&self) -> u64 {
        8
    }

    fn earlier(&self, _: u32) -> Option<(SessionId, u64)> {
        None
    }

    fn sending(&self, _: SessionId, sequence: u64, _: u32, lock: Option<&SetLock>) {
        assert!(lock.is_some(), "a successor must know which lock it was");
        self.0.sent.lock().push(sequence);
    }

    fn hold(&self, number: Box<dyn Any + Send>) {
        // The process dies before it can let go of it.
        std::mem::forget(number);
    }

    fn superseded(&self, _: SessionId, sequence: u64) {
        self.0.sent.lock().retain(|sent| *sent != sequence);
    }

    fn giving_back(self: Arc<Self>) -> Box<dyn Any + Send> {
        Box::new(())
    }
}

async fn first(cluster: &Cluster, memory: &Arc<Memory>) -> FileSystem {
    let succession = Succession { journal: memory.clone(), instance: 1, predecessor: None };
    FileSystem::succeed(cluster.options(), Arc::new(NoEvents), succession).await.unwrap().0
}

async fn second(cluster: &Cluster, memory: &Arc<Memory>, unacked: Vec<u64>) -> FileSystem {
    let (session, incarnation) = *memory.session.lock();
    let next = memory.next.load(Ordering::SeqCst).max(unacked.iter().max().map_or(0, |last| last + 1));
    let predecessor = Some(Predecessor { session, incarnation, next, unacked, ..Predecessor::default() });
    let succession = Succession { journal: memory.clone(), instance: 2, predecessor };
    FileSystem::succeed(cluster.options(), Arc::new(NoEvents), succession).await.unwrap().0
}

fn lock(owner: u64) -> SetLock {
    let (kind, r#type) = (LockKind::Flock as i32, LockType::Write as i32);
    SetLock { kind, r#type, start: 0, end: u64::MAX, owner, ..Default::default() }
}

/// A process takes a lock for a caller and dies with its record there; `told`: the caller was told that it failed.
async fn lock_after_a_death(wait: bool, told: bool) -> Option<u64> {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let memory = Arc::new(Memory::default());
    let process = first(&cluster, &memory).await;
    on_behalf(Arc::new(Request(memory.clone())), process.setlk(inode, lock(7), wait)).await.unwrap();
    drop(process);
    let sent = memory.sent.lock().clone();
    assert_eq!((sent.len(), cluster.master.state.lock().locked_by), (1, Some(7)));
    let successor = second(&cluster, &memory, sent.clone()).await;
    let give_back = told.then(|| SetLock { inode, ..lock(7) });
    successor.abandon(successor.session(), sent[0], give_back).await;
    cluster.master.state.lock().locked_by
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_its_caller_got_just_before_the_process_died_stays() {
    assert_eq!(lock_after_a_death(true, false).await, Some(7));
    assert_eq!(lock_after_a_death(false, false).await, Some(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_caller_was_told_that_he_does_not_have_it_is_given_back_by_the_successor() {
    assert_eq!(lock_after_a_death(true, true).await, None);
    assert_eq!(lock_after_a_death(false, true).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_process_had_under_way_is_never_made_once_it_was_given_up() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("x", Place::Inline(vec![]), 0);
    let memory = Arc::new(Memory::default());
    drop(first(&cluster, &memory).await);
    let successor = second(&cluster, &memory, vec![1]).await;
    let session = successor.session();
    successor.abandon(session, 1, None).await;
    assert!(cluster.master.state.lock().results.contains_key(&(session, 1)), "the number is not used up");
    successor.setlk(inode, lock(9), false).await.unwrap();
    let state = cluster.master.state.lock();
    assert_eq!((state.locked_by, state.lowest_unacked), (Some(9), 2));
}
