use std::time::Duration;

use curvine_proto::OpenInode;
use tokio::time::Instant;

use super::coherence::{Coherence, Remaining};

const A: u64 = 1;
const B: u64 = 2;
const FILE: u64 = 100;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[test]
fn a_change_recalls_the_leases_of_others_only() {
    let coherence = Coherence::new(10);
    coherence.grant(A, FILE).unwrap();
    let lease = coherence.grant(B, FILE).unwrap();
    let change = coherence.begin(A, &[FILE], &[]);
    let recalls = change.recalls();
    assert_eq!(recalls.holders.into_iter().collect::<Vec<_>>(), [(B, vec![FILE])]);
    assert!(recalls.number > lease.number, "the recall must void the lease");
    coherence.recalled(B, &[FILE], recalls.number);
    assert!(change.recalls().holders.is_empty());
    assert_eq!(coherence.counts_of(A).0, 1);
}

#[test]
fn nobody_else_gets_a_lease_while_a_change_is_under_way() {
    let coherence = Coherence::new(10);
    let change = coherence.begin(A, &[FILE], &[]);
    assert!(coherence.grant(B, FILE).is_none());
    assert!(coherence.grant(A, FILE).is_some());
    let other = coherence.begin(B, &[FILE], &[]);
    assert!(coherence.grant(A, FILE).is_none(), "two sessions change it");
    drop(change);
    assert!(coherence.grant(A, FILE).is_none());
    drop(other);
    assert!(coherence.grant(A, FILE).is_some());
}

#[test]
fn a_recall_does_not_take_a_younger_lease() {
    let coherence = Coherence::new(10);
    coherence.grant(B, FILE).unwrap();
    let number = coherence.begin(A, &[FILE], &[]).recalls().number;
    coherence.grant(B, FILE).unwrap();
    coherence.recalled(B, &[FILE], number);
    assert_eq!(coherence.lease_count(), 1);
}

#[test]
fn a_lease_that_is_taken_back_at_once_leaves_the_one_before_it() {
    let coherence = Coherence::new(10);
    let only = coherence.grant(A, FILE).unwrap();
    coherence.revoke(A, &only);
    assert_eq!(coherence.lease_count(), 0);
    coherence.grant(A, FILE).unwrap();
    let second = coherence.grant(A, FILE).unwrap();
    coherence.revoke(A, &second);
    assert!(coherence.begin(B, &[FILE], &[]).recalls().holders.contains_key(&A), "A still believes in its first one");
}

#[tokio::test]
async fn the_number_of_leases_is_bounded_and_returns_to_zero() {
    let coherence = Coherence::new(3);
    assert_eq!((1..=5).filter(|inode| coherence.grant(A, *inode).is_some()).count(), 3);
    coherence.dropped(A, &[1, 2]).await;
    assert_eq!(coherence.lease_count(), 1);
    coherence.grant(B, 9).unwrap();
    coherence.forget(A);
    coherence.forget(B);
    assert_eq!(coherence.lease_count(), 0);
}

#[tokio::test]
async fn an_open_waits_for_an_unlink_under_way() {
    let coherence = Coherence::new(10);
    let change = coherence.begin(A, &[7], &[FILE]);
    let at_once = Instant::now() + Duration::from_millis(20);
    assert!(coherence.open(B, FILE, false, at_once).await.is_err());
    assert!(coherence.openers(FILE).is_empty());
    let waiting = tokio::spawn({
        let coherence = coherence.clone();
        async move { coherence.open(B, FILE, false, soon()).await }
    });
    tokio::task::yield_now().await;
    drop(change);
    waiting.await.unwrap().unwrap();
    assert_eq!(coherence.openers(FILE), [B]);
}

#[tokio::test]
async fn opens_are_counted_to_the_last_close() {
    let coherence = Coherence::new(10);
    coherence.open(A, FILE, true, soon()).await.unwrap();
    coherence.open(A, FILE, false, soon()).await.unwrap();
    assert_eq!(coherence.close(A, FILE, true), Some(Remaining { any: true, writers: false }));
    assert_eq!(coherence.close(A, FILE, true), None, "there is no second writer");
    assert_eq!(coherence.close(A, FILE, false), Some(Remaining { any: false, writers: false }));
    assert!(coherence.openers(FILE).is_empty());
    coherence.declare(A, &[OpenInode { inode: FILE, write: true }]);
    coherence.declare(A, &[OpenInode { inode: FILE, write: false }]);
    assert!(!coherence.is_open(A, FILE).writers, "a declaration replaces the earlier one");
}
