//! The rules of the cache, one by one, with replies that overtake recalls, own changes and each other.

use std::time::Duration;

use curvine_proto::{Attr, FileKind, Lease, LiveAttr, Time};

use super::*;

const DIR: u64 = 100;
const FILE: u64 = 101;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

fn cache() -> Cache {
    let cache =
        Cache::new(CacheLimits { inodes: 16_000, names: 16_000, recent: 16 * 1024, max_ttl: Duration::from_secs(10) });
    cache.set_valid_until(at(30));
    cache
}

fn term(cache: &Cache) -> u64 {
    cache.term.load(Ordering::SeqCst)
}

fn ticket(cache: &Cache) -> Ticket {
    cache.ticket(term(cache), at(0))
}

/// For a change that is made just now.
fn now(cache: &Cache) -> Ticket {
    ticket(cache)
}

fn lease(inode: u64, number: u64) -> Lease {
    Lease { inode, number, valid_ms: 0 }
}

fn attr(inode: u64, change: u64) -> Attr {
    Attr { inode, kind: FileKind::File as i32, change, size: change * 10, ..Default::default() }
}

fn dir(change: u64) -> Attr {
    with_entries(change, 1000)
}

fn with_entries(change: u64, entries: u64) -> Attr {
    Attr { inode: DIR, kind: FileKind::Directory as i32, change, size: entries, ..Default::default() }
}

fn live(change: u64, size: u64, mtime: i64) -> Attr {
    Attr { live: true, size, mtime: Some(Time::new(mtime, 0)), ..attr(FILE, change) }
}

#[test]
fn nothing_is_believed_without_a_lease() {
    let cache = cache();
    let ticket = ticket(&cache);
    assert_eq!(cache.settle_attr(&ticket, attr(FILE, 1), at(0)).1, Duration::ZERO);
    assert_eq!(cache.attr(FILE, at(0)), None);
    assert_eq!(cache.settle_name(&ticket, &dir(1), b"x", FILE, at(0)), Duration::ZERO);
    assert_eq!(cache.name(DIR, b"x", at(0)), None);
}

#[test]
fn what_is_leased_is_believed_as_long_as_session_and_cap_allow() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(FILE, 1)], at(0));
    assert_eq!(cache.settle_attr(&ticket, attr(FILE, 1), at(0)).1, Duration::from_secs(10));
    assert_eq!(cache.attr(FILE, at(25)).unwrap().1, Duration::from_secs(5));
    assert_eq!(cache.attr(FILE, at(30)), None);
    cache.set_valid_until(at(60));
    assert!(cache.attr(FILE, at(30)).is_some(), "the session went on, so did the lease");
}

#[test]
fn a_lease_that_ends_by_itself_counts_from_the_sending_of_the_request() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[Lease { inode: FILE, number: 1, valid_ms: 4000 }], at(1));
    assert_eq!(cache.settle_attr(&ticket, attr(FILE, 1), at(1)).1, Duration::from_secs(3));
    assert_eq!(cache.attr(FILE, at(4)), None);
    assert_eq!(cache.tenure(FILE, at(4)), None);
}

#[test]
fn a_reply_whose_lease_was_recalled_before_it_arrived_is_not_cached() {
    let cache = cache();
    let early = ticket(&cache);
    cache.recall(7, &[FILE]);
    cache.grant(&early, &[lease(FILE, 7)], at(0));
    assert_eq!(cache.settle_attr(&early, attr(FILE, 1), at(0)).1, Duration::ZERO);
    assert_eq!(cache.attr(FILE, at(0)), None);
    let late = ticket(&cache);
    cache.grant(&late, &[lease(FILE, 8)], at(0));
    assert_ne!(cache.settle_attr(&late, attr(FILE, 2), at(0)).1, Duration::ZERO);
}

#[test]
fn recalls_that_were_forgotten_leave_a_floor() {
    let cache = Cache::new(CacheLimits { inodes: 1600, names: 1600, recent: 16, max_ttl: Duration::from_secs(10) });
    cache.set_valid_until(at(30));
    // One shard remembers one recall: the second pushes out the first.
    let (first, second) = (16, 32);
    cache.recall(7, &[first]);
    cache.recall(8, &[second]);
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(first, 7), lease(48, 6), lease(64, 9)], at(0));
    assert_eq!(cache.tenure(first, at(0)), None);
    assert_eq!(cache.tenure(48, at(0)), None, "perhaps it was recalled, too");
    assert!(cache.tenure(64, at(0)).is_some());
}

#[test]
fn a_recall_empties_the_cache_at_once() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(DIR, 1), lease(FILE, 2)], at(0));
    cache.settle_attr(&ticket, attr(FILE, 1), at(0));
    cache.settle_name(&ticket, &dir(1), b"x", FILE, at(0));
    cache.recall(3, &[DIR, FILE]);
    assert_eq!(cache.attr(FILE, at(0)), None);
    assert_eq!(cache.name(DIR, b"x", at(0)), None);
    assert_eq!(cache.sizes().1, 0);
}

#[test]
fn a_late_duplicate_of_a_recall_does_not_void_a_newer_lease() {
    let cache = cache();
    cache.recall(3, &[FILE]);
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(FILE, 4)], at(0));
    cache.settle_attr(&ticket, attr(FILE, 5), at(0));
    cache.recall(3, &[FILE]);
    assert_eq!(cache.attr(FILE, at(0)).unwrap().0.change, 5);
    assert_ne!(cache.settle_attr(&ticket, attr(FILE, 6), at(0)).1, Duration::ZERO, "nor what is on its way under it");
}

#[test]
fn what_was_learnt_before_a_recall_is_not_believed_under_a_later_lease() {
    let cache = cache();
    let early = ticket(&cache);
    cache.recall(3, &[FILE, DIR]);
    let late = ticket(&cache);
    cache.grant(&late, &[lease(FILE, 4), lease(DIR, 5)], at(0));
    // Both a reply and an own change that were on their way when the recall came.
    assert_eq!(cache.settle_attr(&early, attr(FILE, 5), at(0)).1, Duration::ZERO);
    assert_eq!(cache.changed_attr(&early, attr(FILE, 5), at(0)).1, Duration::ZERO);
    assert_eq!(cache.attr(FILE, at(0)), None);
    assert_eq!(cache.settle_name(&early, &dir(6), b"x", 0, at(0)), Duration::ZERO);
    assert_eq!(cache.changed_name(&early, &dir(6), b"x", 0, at(0)), Duration::ZERO);
    assert_eq!(cache.name(DIR, b"x", at(0)), None);
    assert_ne!(cache.settle_attr(&late, attr(FILE, 6), at(0)).1, Duration::ZERO);
    assert_ne!(cache.settle_name(&late, &dir(7), b"x", FILE, at(0)), Duration::ZERO);
}

#[test]
fn a_reply_that_brought_no_lease_is_not_believed_under_one_that_came_while_it_was_on_its_way() {
    let cache = cache();
    // Asked while others change the directory, so it gets no lease; the next answer does.
    let (without, with) = (ticket(&cache), ticket(&cache));
    cache.grant(&with, &[lease(DIR, 1), lease(FILE, 2)], at(0));
    assert_eq!(cache.settle_name(&without, &dir(5), b"x", 0, at(0)), Duration::ZERO);
    assert_eq!(cache.settle_attr(&without, attr(FILE, 5), at(0)).1, Duration::ZERO);
    assert_eq!((cache.name(DIR, b"x", at(0)), cache.attr(FILE, at(0))), (None, None));
    assert_ne!(cache.settle_name(&with, &dir(6), b"y", FILE, at(0)), Duration::ZERO);
    // What is asked for while the lease is held needs none of its own.
    let later = ticket(&cache);
    assert_ne!(cache.settle_name(&later, &dir(6), b"x", FILE, at(0)), Duration::ZERO);
    assert_ne!(cache.settle_attr(&later, attr(FILE, 6), at(0)).1, Duration::ZERO);
}

#[test]
fn an_own_change_that_is_not_covered_voids_what_it_made_old() {
    let cache = cache();
    let early = ticket(&cache);
    let granting = ticket(&cache);
    cache.grant(&granting, &[lease(DIR, 1), lease(FILE, 2)], at(0));
    cache.settle_attr(&granting, attr(FILE, 5), at(0));
    cache.settle_name(&granting, &dir(5), b"x", FILE, at(0));
    cache.changed_attr(&early, attr(FILE, 6), at(0));
    cache.changed_name(&early, &dir(6), b"x", 0, at(0));
    assert_eq!((cache.name(DIR, b"x", at(0)), cache.attr(FILE, at(0))), (None, None));
}

#[test]
fn older_attributes_never_replace_newer_ones() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(FILE, 1)], at(0));
    cache.settle_attr(&ticket, attr(FILE, 5), at(0));
    let (known, ttl) = cache.settle_attr(&ticket, attr(FILE, 4), at(0));
    assert_eq!(known.change, 5, "the reply was overtaken: what is known is the answer");
    assert!(!ttl.is_zero());
}

#[test]
fn a_reply_that_an_own_change_overtook_is_not_cached() {
    let cache = cache();
    let early = ticket(&cache);
    // The change ends while there is no lease, so only the memory of own changes knows of it.
    cache.changed_attr(&now(&cache), attr(FILE, 6), at(0));
    cache.grant(&early, &[lease(FILE, 1)], at(0));
    assert_eq!(cache.settle_attr(&early, attr(FILE, 5), at(0)).1, Duration::ZERO);
    assert_eq!(cache.attr(FILE, at(0)), None);
    assert_ne!(cache.settle_attr(&early, attr(FILE, 6), at(0)).1, Duration::ZERO);
}

#[test]
fn a_lookup_that_an_own_create_overtook_does_not_bring_the_absence_back() {
    let cache = cache();
    let early = ticket(&cache);
    cache.grant(&early, &[lease(DIR, 1)], at(0));
    cache.changed_name(&now(&cache), &dir(6), b"x", FILE, at(0));
    assert_eq!(cache.settle_name(&early, &dir(5), b"x", 0, at(0)), Duration::ZERO);
    assert_eq!(cache.name(DIR, b"x", at(0)).unwrap().0, FILE);
}

#[test]
fn a_lookup_of_an_older_state_of_the_directory_is_not_cached() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(DIR, 1)], at(0));
    assert_ne!(cache.settle_name(&ticket, &dir(6), b"x", FILE, at(0)), Duration::ZERO);
    assert_eq!(cache.settle_name(&ticket, &dir(5), b"y", 0, at(0)), Duration::ZERO);
    assert_eq!(cache.name(DIR, b"y", at(0)), None);
}

#[test]
fn own_changes_of_one_name_count_in_the_order_of_the_log() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(DIR, 1)], at(0));
    cache.changed_name(&now(&cache), &dir(8), b"x", 0, at(0));
    cache.changed_name(&now(&cache), &dir(7), b"x", FILE, at(0));
    assert_eq!(cache.name(DIR, b"x", at(0)).unwrap().0, 0);
    // Of another name nothing is known that an older change could contradict, but something may have been forgotten.
    assert_eq!(cache.changed_name(&now(&cache), &dir(7), b"y", FILE, at(0)), Duration::ZERO);
    assert_eq!(cache.name(DIR, b"y", at(0)), None);
}

#[test]
fn a_write_keeps_the_attributes_of_a_live_file_up_to_date() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(FILE, 1)], at(0));
    cache.settle_attr(&ticket, live(3, 10, 50), at(0));
    cache.wrote(FILE, &LiveAttr { size: 30, mtime: Some(Time::new(52, 0)), blocks: 8 }, at(0));
    cache.wrote(FILE, &LiveAttr { size: 20, mtime: Some(Time::new(51, 0)), blocks: 8 }, at(0));
    assert_eq!(cache.attr(FILE, at(0)).unwrap().0.size, 30, "the later reply is of the earlier write");
    let (known, _) = cache.settle_attr(&ticket, live(3, 10, 50), at(0));
    assert_eq!(known.size, 30, "an answer from before the writes");
    let (known, _) = cache.settle_attr(&ticket, live(3, 40, 53), at(0));
    assert_eq!(known.size, 40);
}

#[test]
fn an_answer_from_before_a_write_is_not_cached_after_it() {
    let cache = cache();
    let early = ticket(&cache);
    cache.wrote(FILE, &LiveAttr { size: 30, mtime: Some(Time::new(52, 0)), blocks: 8 }, at(0));
    cache.grant(&early, &[lease(FILE, 1)], at(0));
    assert_eq!(cache.settle_attr(&early, live(3, 10, 50), at(0)).1, Duration::ZERO);
    let late = ticket(&cache);
    cache.grant(&late, &[lease(FILE, 2)], at(0));
    assert_ne!(cache.settle_attr(&late, live(3, 30, 52), at(0)).1, Duration::ZERO);
}

#[test]
fn a_new_term_voids_all_leases_and_all_replies_that_are_on_their_way() {
    let cache = cache();
    let early = ticket(&cache);
    cache.grant(&early, &[lease(DIR, 1), lease(FILE, 2)], at(0));
    cache.settle_attr(&early, attr(FILE, 1), at(0));
    cache.settle_name(&early, &dir(1), b"x", FILE, at(0));
    let (_, dirs, mut inodes) = cache.new_term();
    inodes.sort_unstable();
    assert_eq!((dirs, inodes), (vec![DIR], vec![DIR, FILE]));
    cache.grant(&early, &[lease(FILE, 3)], at(0));
    assert_eq!(cache.settle_attr(&early, attr(FILE, 1), at(0)).1, Duration::ZERO);
    assert_eq!(cache.sizes(), (0, 0, 0));
}

#[test]
fn an_undeclared_connection_brings_no_leases() {
    let cache = cache();
    let undeclared = cache.ticket(0, at(0));
    cache.grant(&undeclared, &[lease(FILE, 1)], at(0));
    assert_eq!(cache.tenure(FILE, at(0)), None);
}

#[test]
fn open_inodes_stay_and_evicted_ones_are_reported_when_the_kernel_has_forgotten_them() {
    let cache = Cache::new(CacheLimits { inodes: 160, names: 160, recent: 1600, max_ttl: Duration::from_secs(10) });
    cache.set_valid_until(at(30));
    let ticket = ticket(&cache);
    let open = 16 * 7;
    cache.pin(open);
    let all: Vec<u64> = (1..=40).map(|n| n * 16).collect();
    for inode in &all {
        cache.grant(&ticket, &[lease(*inode, *inode)], at(0));
    }
    let (inodes, _, leases) = cache.sizes();
    assert!(inodes <= 10 && leases <= 10, "{inodes} inodes, {leases} leases");
    assert!(cache.tenure(open, at(0)).is_some());
    assert!(cache.take_dropped(at(9), 1000).is_empty());
    let dropped = cache.take_dropped(at(10), 1000);
    assert_eq!(dropped.len(), 40 - leases);
    assert!(!dropped.contains(&open));
}

#[test]
fn a_lease_that_crosses_with_the_report_of_its_drop_is_not_believed() {
    let cache = Cache::new(CacheLimits { inodes: 16, names: 160, recent: 1600, max_ttl: Duration::from_secs(10) });
    cache.set_valid_until(at(60));
    let early = ticket(&cache);
    for inode in [16, 32, 48] {
        cache.grant(&early, &[lease(inode, inode)], at(0));
    }
    let dropped = cache.take_dropped(at(10), 1000);
    let gone = dropped[0];
    // Granted by the master just before it reads the report.
    cache.grant(&early, &[lease(gone, 1000)], at(10));
    assert_eq!(cache.tenure(gone, at(10)), None);
    let between = ticket(&cache);
    cache.reported(&dropped);
    cache.grant(&between, &[lease(gone, 1001)], at(11));
    assert_eq!(cache.tenure(gone, at(11)), None, "asked for before the report was answered");
    let late = ticket(&cache);
    cache.grant(&late, &[lease(gone, 1002)], at(12));
    assert!(cache.tenure(gone, at(12)).is_some());
}

#[test]
fn names_are_bounded() {
    let cache = Cache::new(CacheLimits { inodes: 1600, names: 1600, recent: 1600, max_ttl: Duration::from_secs(10) });
    cache.set_valid_until(at(30));
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(DIR, 1)], at(0));
    for number in 0..1000 {
        let name = format!("name {number}");
        assert_ne!(cache.settle_name(&ticket, &dir(1), name.as_bytes(), 500 + number, at(0)), Duration::ZERO);
        assert!(cache.sizes().1 <= 100);
    }
    assert_eq!(cache.name(DIR, b"name 999", at(0)).unwrap().0, 1499);
}

#[test]
fn pages_are_kept_over_opens_under_one_unbroken_lease() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(FILE, 1)], at(0));
    assert!(!cache.keep_pages(FILE, 1, at(0)), "the first open has no pages to keep");
    cache.grant(&ticket, &[lease(FILE, 2)], at(1));
    assert!(cache.keep_pages(FILE, 1, at(1)));
    assert!(!cache.keep_pages(FILE, 2, at(1)), "other content");
    assert!(cache.keep_pages(FILE, 2, at(1)));
    cache.recall(3, &[FILE]);
    cache.grant(&ticket, &[lease(FILE, 4)], at(2));
    assert!(!cache.keep_pages(FILE, 2, at(2)));
}

#[test]
fn a_directory_of_which_all_names_are_known_has_no_others() {
    let cache = cache();
    let asked = ticket(&cache);
    cache.grant(&asked, &[lease(DIR, 1)], at(0));
    let known = |name: &[u8]| cache.name(DIR, name, at(0)).map(|(inode, _)| inode);
    assert_eq!(known(b"x"), None, "nothing is known of it");
    cache.settle_attr(&asked, with_entries(1, 0), at(0));
    assert_eq!(known(b"x"), Some(0), "it is empty");

    let made = now(&cache);
    cache.changed_attr(&made, with_entries(2, 1), at(0));
    assert_eq!(known(b"y"), None, "which name was made is not known yet");
    cache.changed_name(&made, &with_entries(2, 1), b"x", FILE, at(0));
    assert_eq!((known(b"x"), known(b"y")), (Some(FILE), Some(0)));

    // One made, another one removed, and the replies cross.
    let (made, removed) = (now(&cache), now(&cache));
    cache.changed_attr(&removed, with_entries(4, 1), at(0));
    assert_eq!(known(b"y"), None, "as many entries as names, but not the same ones");
    cache.changed_name(&removed, &with_entries(4, 1), b"x", 0, at(0));
    assert_eq!(known(b"y"), None);
    cache.changed_attr(&made, with_entries(3, 2), at(0));
    cache.changed_name(&made, &with_entries(3, 2), b"y", FILE, at(0));
    assert_ne!(known(b"y"), Some(0), "it was made");

    cache.recall(2, &[DIR]);
    assert_eq!(known(b"z"), None);
}

#[test]
fn a_directory_of_an_under_file_system_has_names_that_nobody_has_seen() {
    let cache = cache();
    let ticket = ticket(&cache);
    cache.grant(&ticket, &[lease(DIR, 1)], at(0));
    cache.settle_attr(&ticket, Attr { mount: 3, ..with_entries(1, 0) }, at(0));
    assert_eq!(cache.name(DIR, b"x", at(0)), None);
}
