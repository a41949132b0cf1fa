use curvine_client::Origin;

use super::*;
use crate::handover::{Limits, Table as HandoverTable};

fn waiting(unique: u64, opcode: Opcode) -> Arc<Waiting> {
    // A device without a session refuses each reply, which is what an answered request looks like, too.
    Waiting::new(Arc::new(Device::open().unwrap()), &header(unique), opcode, [1, 1], None, None)
}

fn header(unique: u64) -> InHeader {
    InHeader { unique, pid: std::process::id(), ..InHeader::default() }
}

fn is_answered(waiting: &Waiting) -> bool {
    waiting.answered.load(Ordering::Acquire)
}

fn skip() -> bool {
    std::env::var_os("CURVINE_SKIP_FUSE_TESTS").is_some()
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_lock_and_a_flush_end_at_once_others_after_the_grace() {
    if skip() {
        return;
    }
    let interrupts = Interrupts::new(Duration::from_secs(1));
    let requests = [(2, Opcode::Setlkw), (4, Opcode::Flush), (6, Opcode::Read)].map(|(unique, opcode)| {
        let waiting = waiting(unique, opcode);
        interrupts.register(&waiting);
        interrupts.interrupt(unique);
        waiting
    });
    assert_eq!(requests.each_ref().map(|request| is_answered(request)), [true, true, false]);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(!is_answered(&requests[2]));
    tokio::time::timeout(Duration::from_secs(1), requests[2].given_up()).await.unwrap();
    assert!(is_answered(&requests[2]));
    // The flush goes on in the background.
    assert!(tokio::time::timeout(Duration::from_secs(60), requests[1].given_up()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_overtakes_its_request_is_not_lost() {
    if skip() {
        return;
    }
    let interrupts = Interrupts::new(Duration::from_secs(1));
    interrupts.interrupt(10);
    let request = waiting(10, Opcode::Setlkw);
    interrupts.register(&request);
    assert!(is_answered(&request));
    interrupts.forget(&request);
    assert_eq!((interrupts.waiting(), interrupts.seen()), (0, 1));
}

#[tokio::test]
async fn early_interrupts_are_limited() {
    let interrupts = Interrupts::new(Duration::from_secs(1));
    for unique in 0..2 * EARLY_MAX as u64 {
        interrupts.interrupt(unique);
    }
    assert_eq!(interrupts.table.lock().early.len(), EARLY_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_answers_in_time_is_not_interrupted() {
    if skip() {
        return;
    }
    let interrupts = Interrupts::new(Duration::from_secs(1));
    let request = waiting(12, Opcode::Read);
    interrupts.register(&request);
    interrupts.interrupt(12);
    assert!(request.take_answer());
    assert!(tokio::time::timeout(Duration::from_secs(60), request.given_up()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_given_up_is_recorded_as_such_before_its_caller_hears_and_until_it_was_given_back() {
    if skip() {
        return;
    }
    let table = Arc::new(HandoverTable::create(Limits { handles: 1, requests: 4, notes: 1 }).unwrap());
    let interrupts = Interrupts::new(Duration::from_secs(1));
    let origin = RequestOrigin::new(&table, 20, Opcode::Setlkw as u32, [5, 5]);
    let request = Waiting::new(
        Arc::new(Device::open().unwrap()),
        &header(20),
        Opcode::Setlkw,
        [5, 5],
        Some(origin.clone()),
        None,
    );
    interrupts.register(&request);
    origin.sending(7, 100, 30, None);
    assert!(!table.take_requests()[0].given_up);
    interrupts.interrupt(20);
    assert!(table.take_requests()[0].given_up && !interrupts.giving_back.is_clear([5, 5]));
    let guard = origin.clone().giving_back();
    interrupts.forget(&request);
    origin.end();
    assert_eq!((table.used().1, interrupts.giving_back.is_clear([5, 5])), (1, false));
    drop(guard);
    assert_eq!((table.used().1, interrupts.giving_back.is_clear([5, 5])), (0, true));
}

#[test]
fn a_pending_kill_is_seen_in_the_status_of_a_thread() {
    assert!(has_pending_kill("Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
    assert!(has_pending_kill("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000102\n"));
    assert!(!has_pending_kill("SigPnd:\t0000000000000002\nShdPnd:\t0000000000000000\nSigCgt:\t0000000000000100\n"));
    assert!(!is_killed(0) && !is_killed(std::process::id()));
    assert!(is_killed(u32::MAX >> 2));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_goes_on_is_remembered_until_it_ends() {
    if skip() {
        return;
    }
    let interrupts = Interrupts::new(Duration::from_secs(1));
    let requests = [(14, Opcode::Write), (16, Opcode::Read)].map(|(unique, opcode)| {
        let waiting = waiting(unique, opcode);
        interrupts.register(&waiting);
        interrupts.interrupt(unique);
        waiting
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(requests.iter().all(|request| is_answered(request)));
    assert_eq!(interrupts.orphans.len(), 1);
    interrupts.forget(&requests[0]);
    assert_eq!(interrupts.orphans.len(), 0);
}
