//! The records of open files and directories.
//!
//! A handle's number holds the place of its record in the lower 24 bits and a count above: it is never used twice, and what it
//! stands for is found without searching.

use std::sync::atomic::{AtomicU64, Ordering};

use curvine_client::{Inherited, LocalContent, OpenFlags};
use curvine_types::{Error, ErrorKind, Generation, InodeId, Result, SessionId, WorkerId};

use super::table::{Field, Table};
use crate::io_mode::IoMode;

pub(super) const HANDLE_WORDS: usize = 10;
const PLACE_BITS: u32 = 24;

// The words of a place; the first one is 0 while it is free.
const FH: usize = 0;
const INODE: usize = 1;
const BITS: usize = 2;
const SESSION: usize = 3;
const GENERATION: usize = 4;
const BACKING: usize = 5;
const WORKER: usize = 6;
const LOCAL_GENERATION: usize = 7;
const LOCAL_VERSION: usize = 8;
const REQUEST: usize = 9;

/// In place of the request: it was answered with an error, and the handle must be closed.
pub const NOBODY: u64 = u64::MAX;

// Bits of `BITS`.
const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const APPEND: u64 = 1 << 2;
const DIRECT: u64 = 1 << 3;
const DIRECTORY: u64 = 1 << 4;
const MODE_SHIFT: u32 = 8;

/// What a handle stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File { flags: OpenFlags, session: SessionId, generation: Generation, way: RecordedWay },
    Directory,
}

/// How the kernel does the I/O of an open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedWay {
    Plain(IoMode),
    /// By the registered file of this number.
    Passthrough {
        id: i32,
        content: LocalContent,
        worker: WorkerId,
    },
}

impl RecordedWay {
    fn mode(&self) -> IoMode {
        match self {
            RecordedWay::Plain(mode) => *mode,
            RecordedWay::Passthrough { .. } => IoMode::Passthrough,
        }
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleRecord {
    pub inode: InodeId,
    /// The kernel's number of the request that it answers: if the kernel sends that again, nobody has learnt of this handle; nor if it is
    /// [`NOBODY`].
    pub request: u64,
    pub kind: Kind,
}

impl HandleRecord {
    /// As the client's successor wants it; `None` for a directory.
    pub fn inherited(&self) -> Option<Inherited> {
        match self.kind {
            Kind::File { flags, session, generation, .. } => {
                Some(Inherited { inode: self.inode, flags, session, generation })
            }
            Kind::Directory => None,
        }
    }

    fn bits(&self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        match self.kind {
            Kind::Directory => DIRECTORY,
            Kind::File { flags, way, .. } => {
                bit(flags.read, READ)
                    | bit(flags.write, WRITE)
                    | bit(flags.append, APPEND)
                    | bit(flags.direct, DIRECT)
                    | (u64::from(way.mode().code()) << MODE_SHIFT)
            }
        }
    }
}

impl Table {
    /// Records a handle and gives it its number; `None` if there is no room.
    pub fn open_handle(&self, record: &HandleRecord) -> Option<u64> {
        let place = self.take_place(&self.free_handles, Field::HandleHigh, self.limits.handles)?;
        let fh = (self.add(Field::NextHandle, 1) << PLACE_BITS) | u64::from(place);
        let words = self.handle_words(place);
        let set = |at: usize, value: u64| words[at].store(value, Ordering::Relaxed);
        set(INODE, record.inode);
        set(REQUEST, record.request);
        set(BITS, record.bits());
        if let Kind::File { session, generation, way, .. } = record.kind {
            set(SESSION, session);
            set(GENERATION, generation);
            if let RecordedWay::Passthrough { id, content, worker } = way {
                set(BACKING, (id as u32).into());
                set(WORKER, worker);
                set(LOCAL_GENERATION, content.generation);
                set(LOCAL_VERSION, content.version);
            }
        }
        words[FH].store(fh, Ordering::Release);
        self.add(Field::HandlesUsed, 1);
        Some(fh)
    }

    /// The handle was released.
    pub fn close_handle(&self, fh: u64) {
        let place = (fh & ((1 << PLACE_BITS) - 1)) as u32;
        if place as usize >= self.limits.handles {
            return;
        }
        let words = self.handle_words(place);
        if words[FH].compare_exchange(fh, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.add(Field::HandlesUsed, u64::MAX);
            self.free_handles.lock().push(place);
        }
    }

    /// The request is answered with an error, whatever a process that died had opened for it: nobody will release that.
    pub fn give_up_handles(&self, request: u64) {
        for place in 0..self.get(Field::HandleHigh) as u32 {
            let words = self.handle_words(place);
            if words[FH].load(Ordering::Acquire) != 0 && words[REQUEST].load(Ordering::Relaxed) == request {
                words[REQUEST].store(NOBODY, Ordering::Release);
            }
        }
    }

    /// What a predecessor had open, with the numbers. From now on free places are used again.
    pub fn take_handles(&self) -> Result<Vec<(u64, HandleRecord)>> {
        let (mut found, mut free) = (Vec::new(), Vec::new());
        for place in (0..self.get(Field::HandleHigh) as u32).rev() {
            let words = self.handle_words(place);
            match words[FH].load(Ordering::Acquire) {
                0 => free.push(place),
                fh => found.push((fh, record(place, fh, words)?)),
            }
        }
        self.set(Field::HandlesUsed, found.len() as u64);
        *self.free_handles.lock() = free;
        Ok(found)
    }
}

fn record(place: u32, fh: u64, words: &[AtomicU64]) -> Result<HandleRecord> {
    let get = |at: usize| words[at].load(Ordering::Relaxed);
    let (inode, request, bits) = (get(INODE), get(REQUEST), get(BITS));
    let damaged = || {
        Error::new(ErrorKind::Corrupt, "the hand-over table is damaged: the record of a handle makes no sense")
            .with("place", place)
            .with("handle", fh)
    };
    if inode == 0 || fh & ((1 << PLACE_BITS) - 1) != u64::from(place) {
        return Err(damaged());
    }
    if bits & DIRECTORY != 0 {
        return Ok(HandleRecord { inode, request, kind: Kind::Directory });
    }
    let mode = IoMode::from_code((bits >> MODE_SHIFT) as u8).ok_or_else(damaged)?;
    let has = |bit: u64| bits & bit != 0;
    let flags =
        OpenFlags { read: has(READ), write: has(WRITE), truncate: false, append: has(APPEND), direct: has(DIRECT) };
    let way = match mode {
        IoMode::Passthrough => RecordedWay::Passthrough {
            id: get(BACKING) as u32 as i32,
            content: LocalContent { generation: get(LOCAL_GENERATION), version: get(LOCAL_VERSION) },
            worker: get(WORKER),
        },
        plain => RecordedWay::Plain(plain),
    };
    let kind = Kind::File { flags, session: get(SESSION), generation: get(GENERATION), way };
    Ok(HandleRecord { inode, request, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Limits;

    fn file(inode: InodeId, flags: OpenFlags) -> HandleRecord {
        let content = LocalContent { generation: 5, version: 6 };
        let way = match flags.write {
            true => RecordedWay::Plain(IoMode::Direct),
            false => RecordedWay::Passthrough { id: 70, content, worker: 8 },
        };
        let kind = Kind::File { flags, session: 4, generation: 5, way };
        HandleRecord { inode, request: 40 + inode, kind }
    }

    fn successor(table: &Table) -> Table {
        Table::open(table.descriptor().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn open_handles_are_found_again_and_numbers_are_never_used_twice() {
        let table = Table::create(Limits { handles: 3, requests: 1, notes: 1 }).unwrap();
        let append = OpenFlags { append: true, direct: true, ..OpenFlags::READ_WRITE };
        let first = table.open_handle(&file(7, append)).unwrap();
        let second = table.open_handle(&HandleRecord { inode: 8, request: 12, kind: Kind::Directory }).unwrap();
        let third = table.open_handle(&file(9, OpenFlags::READ)).unwrap();
        assert_eq!(table.open_handle(&file(9, OpenFlags::READ)), None, "it is full");
        table.close_handle(second);
        table.close_handle(second);
        assert_eq!(table.used().0, 2);

        let next = successor(&table);
        let mut found = next.take_handles().unwrap();
        found.sort_by_key(|(fh, _)| *fh);
        assert_eq!(found, [(first, file(7, append)), (third, file(9, OpenFlags::READ))]);
        assert!(found[0].1.inherited().is_some());
        let fourth = next.open_handle(&HandleRecord { inode: 8, request: 12, kind: Kind::Directory }).unwrap();
        assert!(![first, second, third].contains(&fourth));
        assert_eq!(next.open_handle(&file(9, OpenFlags::READ)), None);
        for fh in [first, third, fourth] {
            next.close_handle(fh);
        }
        assert_eq!((next.used().0, successor(&next).take_handles().unwrap()), (0, vec![]));
    }

    #[test]
    fn what_was_opened_for_a_request_that_failed_is_marked() {
        let table = Table::create(Limits { handles: 3, requests: 1, notes: 1 }).unwrap();
        let opened = |request| HandleRecord { inode: 8, request, kind: Kind::Directory };
        let (failed, other) = (table.open_handle(&opened(12)).unwrap(), table.open_handle(&opened(14)).unwrap());
        table.give_up_handles(12);
        table.give_up_handles(99);
        let mut found = successor(&table).take_handles().unwrap();
        found.sort_by_key(|(fh, _)| *fh);
        assert_eq!(found, [(failed, opened(NOBODY)), (other, opened(14))]);
    }

    #[test]
    fn a_record_that_makes_no_sense_is_damage() {
        for (word, value) in [(INODE, 0), (BITS, 99 << MODE_SHIFT), (FH, (1 << PLACE_BITS) | 1)] {
            let table = Table::create(Limits { handles: 3, requests: 1, notes: 1 }).unwrap();
            table.open_handle(&file(7, OpenFlags::READ)).unwrap();
            table.handle_words(0)[word].store(value, Ordering::Relaxed);
            let error = successor(&table).take_handles().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}
