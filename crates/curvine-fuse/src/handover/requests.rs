//! The records of requests that make numbered changes: under which numbers they were sent.

use std::sync::atomic::{AtomicU64, Ordering};

use curvine_proto::SetLock;
use curvine_types::SessionId;

use super::table::{Field, Table};
use crate::orphans::Nodes;

pub(super) const REQUEST_WORDS: usize = 16;
/// Commands of one request that are remembered; the last ones, should it make more.
pub(super) const NUMBERS: usize = 4;

// The words of a place; the first one is 0 while it is free.
const UNIQUE: usize = 0;
const OPCODE: usize = 1;
const SESSION: usize = 2;
/// Sequence number in the lower 48 bits, kind of the command above; 0: none.
const NUMBER: usize = 3;
/// A lock: inode, start, end, owner, and kind, type and pid in one word; inode 0: none.
const LOCK: usize = NUMBER + NUMBERS;
/// The nodes of the kernel that the request changes.
const NODES: usize = LOCK + 5;
/// Bit of `OPCODE`: the caller was told that it failed, whatever becomes of it.
const GIVEN_UP: u64 = 1 << 32;
const SEQUENCE_BITS: u32 = 48;

/// A command that was perhaps sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub kind: u32,
    pub sequence: u64,
}

/// A request that was not answered, as far as anybody knows.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRecord {
    pub place: u32,
    /// Without the mark of a request that was sent again.
    pub unique: u64,
    pub opcode: u32,
    pub session: SessionId,
    pub sent: Vec<Sent>,
    pub lock: Option<SetLock>,
    pub nodes: Nodes,
    /// The caller was told, or is being told, that it failed; a lock that it asks for must be given back.
    pub given_up: bool,
}

impl Table {
    /// Makes a record of a request that is about to send its first command; `None` if there is no room.
    pub fn begin_request(&self, unique: u64, opcode: u32, nodes: Nodes) -> Option<u32> {
        let place = self.take_place(&self.free_requests, Field::RequestHigh, self.limits.requests)?;
        let words = self.request_words(place);
        words[1..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        words[OPCODE].store(opcode.into(), Ordering::Relaxed);
        nodes.into_iter().enumerate().for_each(|(at, node)| words[NODES + at].store(node, Ordering::Relaxed));
        words[UNIQUE].store(unique, Ordering::Release);
        self.add(Field::RequestsUsed, 1);
        Some(place)
    }

    /// The request sends a command. Its numbers of an earlier session are of no use any more.
    pub fn add_number(&self, place: u32, session: SessionId, sent: Sent, lock: Option<&SetLock>) {
        let words = self.request_words(place);
        let numbers = &words[NUMBER..NUMBER + NUMBERS];
        if words[SESSION].swap(session, Ordering::AcqRel) != session {
            numbers.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        let value = (u64::from(sent.kind) << SEQUENCE_BITS) | (sent.sequence & ((1 << SEQUENCE_BITS) - 1));
        if numbers.iter().any(|word| word.load(Ordering::Relaxed) == value) {
            return;
        }
        if let Some(lock) = lock {
            let small = lock.kind as u8 as u64 | (u64::from(lock.r#type as u8) << 8) | (u64::from(lock.pid) << 16);
            for (at, value) in [lock.start, lock.end, lock.owner, small].into_iter().enumerate() {
                words[LOCK + 1 + at].store(value, Ordering::Relaxed);
            }
            words[LOCK].store(lock.inode, Ordering::Release);
        }
        let free = numbers.iter().find(|word| word.load(Ordering::Relaxed) == 0);
        free.unwrap_or(&numbers[NUMBERS - 1]).store(value, Ordering::Release);
    }

    /// Whether the caller is told that the request failed, whatever becomes of it. Before it is told.
    pub fn set_given_up(&self, place: u32, given_up: bool) {
        let opcode = &self.request_words(place)[OPCODE];
        if given_up {
            opcode.fetch_or(GIVEN_UP, Ordering::AcqRel);
        } else {
            opcode.fetch_and(!GIVEN_UP, Ordering::AcqRel);
        }
    }

    /// Marks the record of a request, if there is one, as one whose caller is told that it failed; for who does not serve.
    pub fn give_up_request(&self, unique: u64) {
        let places = 0..self.get(Field::RequestHigh) as u32;
        let of_request = |place: &u32| self.request_words(*place)[UNIQUE].load(Ordering::Acquire) == unique;
        places.into_iter().filter(of_request).for_each(|place| self.set_given_up(place, true));
    }

    /// A number is not needed any more.
    pub fn drop_number(&self, place: u32, session: SessionId, sequence: u64) {
        let words = self.request_words(place);
        if words[SESSION].load(Ordering::Acquire) != session {
            return;
        }
        for word in &words[NUMBER..NUMBER + NUMBERS] {
            if word.load(Ordering::Relaxed) & ((1 << SEQUENCE_BITS) - 1) == sequence {
                word.store(0, Ordering::Release);
            }
        }
    }

    /// The request has been answered.
    pub fn end_request(&self, place: u32) {
        self.request_words(place)[UNIQUE].store(0, Ordering::Release);
        self.add(Field::RequestsUsed, u64::MAX);
        self.free_requests.lock().push(place);
    }

    /// What a predecessor was serving. From now on free places are used again.
    pub fn take_requests(&self) -> Vec<RequestRecord> {
        let (mut found, mut free) = (Vec::new(), Vec::new());
        for place in (0..self.get(Field::RequestHigh) as u32).rev() {
            let words = self.request_words(place);
            match words[UNIQUE].load(Ordering::Acquire) {
                0 => free.push(place),
                unique => found.push(record(place, unique, words)),
            }
        }
        self.set(Field::RequestsUsed, found.len() as u64);
        *self.free_requests.lock() = free;
        found
    }
}

fn record(place: u32, unique: u64, words: &[AtomicU64]) -> RequestRecord {
    let get = |at: usize| words[at].load(Ordering::Acquire);
    let numbers = (NUMBER..NUMBER + NUMBERS).map(get).filter(|value| *value != 0);
    let sent = numbers
        .map(|value| Sent { kind: (value >> SEQUENCE_BITS) as u32, sequence: value & ((1 << SEQUENCE_BITS) - 1) });
    let small = get(LOCK + 4);
    let lock = SetLock {
        inode: get(LOCK),
        kind: (small & 0xff) as i32,
        r#type: ((small >> 8) & 0xff) as i32,
        start: get(LOCK + 1),
        end: get(LOCK + 2),
        owner: get(LOCK + 3),
        pid: (small >> 16) as u32,
    };
    RequestRecord {
        place,
        unique,
        opcode: get(OPCODE) as u32,
        session: get(SESSION),
        sent: sent.collect(),
        lock: (lock.inode != 0).then_some(lock),
        nodes: [get(NODES), get(NODES + 1)],
        given_up: get(OPCODE) & GIVEN_UP != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Limits;

    fn table() -> Table {
        Table::create(Limits { handles: 1, requests: 2, notes: 1 }).unwrap()
    }

    fn successor(table: &Table) -> Table {
        Table::open(table.descriptor().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn the_numbers_of_a_request_are_found_again_until_it_was_answered() {
        let table = table();
        let place = table.begin_request(10, 12, [5, 6]).unwrap();
        for (kind, sequence) in [(14, 100), (14, 100), (20, 101)] {
            table.add_number(place, 7, Sent { kind, sequence }, None);
        }
        let lock = SetLock { inode: 3, kind: 1, r#type: 2, start: 5, end: u64::MAX, owner: 9, pid: 77 };
        let other = table.begin_request(12, 33, [3, 3]).unwrap();
        table.add_number(other, 7, Sent { kind: 30, sequence: 102 }, Some(&lock));
        assert_eq!((table.begin_request(14, 1, [1, 1]), table.used().1), (None, 2));

        let next = successor(&table);
        let mut found = next.take_requests();
        found.sort_by_key(|record| record.unique);
        let sent = vec![Sent { kind: 14, sequence: 100 }, Sent { kind: 20, sequence: 101 }];
        let nodes = [5, 6];
        let expected =
            RequestRecord { place, unique: 10, opcode: 12, session: 7, sent, lock: None, nodes, given_up: false };
        assert_eq!(found[0], expected);
        assert_eq!((found[1].lock, found[1].sent.len()), (Some(lock), 1));
        next.set_given_up(other, true);
        let given_up = |table: &Table| table.take_requests().iter().filter(|record| record.given_up).count();
        assert_eq!(given_up(&successor(&next)), 1);
        next.set_given_up(other, false);
        assert_eq!(given_up(&successor(&next)), 0);
        next.drop_number(other, 7, 102);
        assert_eq!(successor(&next).take_requests().iter().map(|record| record.sent.len()).sum::<usize>(), 2);
        next.end_request(place);
        next.end_request(other);
        assert_eq!((next.used().1, successor(&next).take_requests()), (0, vec![]));
        assert!(next.begin_request(14, 1, [1, 1]).is_some());
    }

    #[test]
    fn numbers_of_an_earlier_session_are_forgotten_and_the_last_ones_kept() {
        let table = table();
        let place = table.begin_request(10, 12, [5, 6]).unwrap();
        table.add_number(place, 7, Sent { kind: 14, sequence: 100 }, None);
        for sequence in 1..=6 {
            table.add_number(place, 8, Sent { kind: 14, sequence }, None);
        }
        let record = &table.take_requests()[0];
        assert_eq!(record.session, 8);
        assert_eq!(record.sent.iter().map(|sent| sent.sequence).collect::<Vec<_>>(), [1, 2, 3, 6]);
    }
}
