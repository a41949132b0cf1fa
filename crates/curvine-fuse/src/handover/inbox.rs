//! Requests as they were read, until their answers have left: what a successor goes on with where the kernel does not send them
//! again (before Linux 6.9).
//!
//! Always: a request is here before it is served, because it is read into this memory; its answer is here before it leaves, so that
//! nothing is done again of which the answer may have arrived.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_fuse_abi::kernel::InHeader;
use curvine_fuse_abi::{Device, ReadResult, SharedWords, request};
use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;

/// "CVINBOX1"
const MAGIC: u64 = u64::from_be_bytes(*b"CVINBOX1");
/// A page, so that places begin at pages.
const HEADER_WORDS: usize = 512;
/// Words of the header.
const PLACES: usize = 1;
const PLACE_WORDS: usize = 2;
/// Places below this one have been used.
const HIGH: usize = 3;

/// Words of a place; after them come an answer and the bytes of the request.
const STATE: usize = 0;
const LENGTH: usize = 1;
const ERRNO: usize = 2;
const INTERRUPTED: usize = 3;
const UNIQUE: usize = 4;
const READER: usize = 5;
const ANSWER: usize = 8;
const REQUEST: usize = ANSWER + ANSWER_MAX / 8;

/// Longest answer that is kept: what changes something is answered with less. What only looks can look again.
const ANSWER_MAX: usize = 512;

/// States of a place.
const FREE: u64 = 0;
const READING: u64 = 1;
const TAKEN: u64 = 2;
const ANSWERED: u64 = 3;

/// Free places whose memory is kept for the next request.
const WARM: usize = 8;
/// Most places, so that their number fits.
const PLACES_MAX: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Inbox {
    words: SharedWords,
    places: usize,
    place_words: usize,
    /// The last ones first: their memory is there.
    free: Mutex<Vec<u32>>,
}

/// A place that is in use; free again when it is dropped.
#[derive(Debug)]
pub struct Slot {
    inbox: Arc<Inbox>,
    place: u32,
    /// A predecessor has read what is in it.
    pub inherited: bool,
}

/// What a predecessor left in a place.
#[derive(Debug)]
pub struct Left {
    pub slot: Slot,
    pub unique: u64,
    /// The number of the descriptor that it was read from: only there it can be answered.
    pub reader: usize,
    pub what: Unanswered,
}

/// How far it had come.
#[derive(Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The request has not been answered. `interrupted`: its caller has a signal.
    Request { bytes: Vec<u8>, interrupted: bool },
    /// This answer may have left: an errno, or 0 with a value.
    Answer { errno: i32, value: Vec<u8> },
}

impl Inbox {
    /// Room for so many requests, each of up to what a device with `max_write` reads.
    pub fn create(places: usize, max_write: u32) -> Result<Self> {
        let places = places.clamp(1, PLACES_MAX);
        let place_words = (REQUEST + Device::buffer_size(max_write).div_ceil(8)).next_multiple_of(HEADER_WORDS);
        let words = SharedWords::create("curvine-requests", HEADER_WORDS + places * place_words)?;
        words.words()[PLACES].store(places as u64, Ordering::Relaxed);
        words.words()[PLACE_WORDS].store(place_words as u64, Ordering::Relaxed);
        words.words()[0].store(MAGIC, Ordering::Release);
        Ok(Self { words, places, place_words, free: Mutex::default() })
    }

    /// That of a predecessor. `Corrupt`: it is none, or damaged.
    pub fn open(fd: OwnedFd) -> Result<Self> {
        let words = SharedWords::map(fd)?;
        let get = |at: usize| usize::try_from(words.words()[at].load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let fits = words.len() >= HEADER_WORDS && words.words()[0].load(Ordering::Acquire) == MAGIC && {
            let (places, place_words) = (get(PLACES), get(PLACE_WORDS));
            let total = places.checked_mul(place_words).and_then(|total| total.checked_add(HEADER_WORDS));
            places <= PLACES_MAX && place_words > REQUEST && total == Some(words.len()) && get(HIGH) <= places
        };
        if !fits {
            return Err(Error::new(ErrorKind::Corrupt, "what a predecessor was serving cannot be read"));
        }
        let (places, place_words) = (get(PLACES), get(PLACE_WORDS));
        Ok(Self { words, places, place_words, free: Mutex::default() })
    }

    /// The descriptor, for a successor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }

    /// A place for the next request; `None`: all are in use.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut free = self.free.lock();
        let place = match free.pop() {
            Some(place) => place,
            None => {
                let next = self.high();
                if next as usize >= self.places {
                    return None;
                }
                self.words.words()[HIGH].store(u64::from(next) + 1, Ordering::Release);
                next
            }
        };
        drop(free);
        // As with any buffer that the kernel writes requests to: a page that it has to make while the process is killed fails them.
        self.words.populate(self.start(place), self.place_words);
        Some(Slot { inbox: self.clone(), place, inherited: false })
    }

    /// What a predecessor had read and perhaps not answered, in the order in which the kernel asked. Its places are in use until the
    /// slots are dropped; the others are free.
    pub fn left(self: &Arc<Self>) -> Vec<Left> {
        let mut left = Vec::new();
        for place in (0..self.high()).rev() {
            match self.look(place) {
                Some((unique, what)) => {
                    let slot = Slot { inbox: self.clone(), place, inherited: true };
                    let reader = self.place(place)[READER].load(Ordering::Acquire) as usize;
                    left.push(Left { slot, unique, reader, what });
                }
                None => self.give_back(place),
            }
        }
        left.sort_by_key(|left| left.unique);
        left
    }

    /// The caller of a request has a signal: a successor is to know, too.
    pub fn interrupt(&self, unique: u64) {
        for place in 0..self.high() {
            let words = self.place(place);
            if words[STATE].load(Ordering::Acquire) == TAKEN && words[UNIQUE].load(Ordering::Acquire) == unique {
                words[INTERRUPTED].store(1, Ordering::Release);
            }
        }
    }

    fn look(&self, place: u32) -> Option<(u64, Unanswered)> {
        let words = self.place(place);
        let copy = |at: usize, length: usize| {
            let mut bytes = Vec::new();
            self.words.copy_out(self.start(place) + at, length, &mut bytes);
            bytes
        };
        match words[STATE].load(Ordering::Acquire) {
            READING | TAKEN => {
                // It may have died between the kernel's write and its own.
                // The kernel begins with the length, in half a word.
                let first = words[REQUEST].load(Ordering::Acquire).to_ne_bytes();
                let length = u32::from_ne_bytes([first[0], first[1], first[2], first[3]]) as usize;
                let bytes = copy(REQUEST, length.min(self.room() * 8));
                let unique = request::header(&bytes).ok()?.unique;
                let interrupted = words[INTERRUPTED].load(Ordering::Acquire) != 0;
                Some((unique, Unanswered::Request { bytes, interrupted }))
            }
            ANSWERED => {
                let errno = words[ERRNO].load(Ordering::Acquire) as i32;
                let length = (words[LENGTH].load(Ordering::Acquire) as usize).min(ANSWER_MAX);
                let value = copy(ANSWER, length);
                Some((words[UNIQUE].load(Ordering::Acquire), Unanswered::Answer { errno, value }))
            }
            _ => None,
        }
    }

    /// Places below this one have been used.
    fn high(&self) -> u32 {
        self.words.words()[HIGH].load(Ordering::Acquire) as u32
    }

    /// Words for a request.
    fn room(&self) -> usize {
        self.place_words - REQUEST
    }

    fn start(&self, place: u32) -> usize {
        HEADER_WORDS + place as usize * self.place_words
    }

    fn place(&self, place: u32) -> &[AtomicU64] {
        let start = self.start(place);
        &self.words.words()[start..start + self.place_words]
    }

    fn give_back(&self, place: u32) {
        let words = self.place(place);
        words[STATE].store(FREE, Ordering::Release);
        let mut free = self.free.lock();
        if free.len() >= WARM {
            // The state is zero, as it is afterwards.
            self.words.discard(self.start(place), self.place_words);
            free.insert(0, place);
        } else {
            free.push(place);
        }
    }
}

impl Slot {
    /// Reads a request from descriptor number `reader` into the place, and a copy of it into `buffer`, which is empty.
    pub fn read(&self, device: &Device, reader: usize, buffer: &mut Vec<u8>) -> Result<ReadResult> {
        let inbox = &self.inbox;
        let (words, start) = (inbox.place(self.place), inbox.start(self.place) + REQUEST);
        let header = REQUEST..REQUEST + size_of::<InHeader>().div_ceil(8);
        words[LENGTH..ANSWER].iter().chain(&words[header]).for_each(|word| word.store(0, Ordering::Relaxed));
        words[READER].store(reader as u64, Ordering::Relaxed);
        words[STATE].store(READING, Ordering::Release);
        let (result, length) = device.read_shared(&inbox.words, start, inbox.room())?;
        if result == ReadResult::Request {
            inbox.words.copy_out(start, length, buffer);
            let unique = request::header(buffer).map_or(0, |header| header.unique);
            words[UNIQUE].store(unique, Ordering::Relaxed);
            words[STATE].store(TAKEN, Ordering::Release);
        } else {
            words[STATE].store(FREE, Ordering::Release);
        }
        Ok(result)
    }

    /// The request is about to be answered with this.
    pub fn answer(&self, errno: i32, value: &[u8]) {
        if value.len() > ANSWER_MAX {
            return;
        }
        let words = self.inbox.place(self.place);
        self.inbox.words.copy_in(self.inbox.start(self.place) + ANSWER, value);
        words[ERRNO].store(errno as u64, Ordering::Relaxed);
        words[LENGTH].store(value.len() as u64, Ordering::Relaxed);
        words[STATE].store(ANSWERED, Ordering::Release);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inbox.give_back(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MAX_WRITE: u32 = 16 << 10;

    fn successor(inbox: &Inbox) -> Arc<Inbox> {
        Arc::new(Inbox::open(inbox.descriptor().try_clone_to_owned().unwrap()).unwrap())
    }

    /// What the kernel would send: a header, and `length` bytes after it.
    fn request(unique: u64, length: usize) -> Vec<u8> {
        let header =
            InHeader { len: (size_of::<InHeader>() + length) as u32, opcode: 16, unique, ..InHeader::default() };
        let mut bytes = curvine_fuse_abi::IntoBytes::as_bytes(&header).to_vec();
        bytes.resize(bytes.len() + length, unique as u8);
        bytes
    }

    fn unique_of(bytes: &[u8]) -> u64 {
        request::header(bytes).unwrap().unique
    }

    /// Has the place read this from a pipe in the place of a device.
    fn read(slot: &Slot, bytes: &[u8]) -> Vec<u8> {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(bytes).unwrap();
        let mut buffer = Vec::new();
        assert_eq!(
            slot.read(&Device::from(OwnedFd::from(reader)), unique_of(bytes) as usize * 10, &mut buffer).unwrap(),
            ReadResult::Request
        );
        buffer
    }

    #[test]
    fn what_was_read_and_not_answered_is_found_again_in_the_order_of_the_kernel() {
        let inbox = Arc::new(Inbox::create(4, MAX_WRITE).unwrap());
        let slots: Vec<Slot> = (0..4).map(|_| inbox.take().unwrap()).collect();
        assert!(inbox.take().is_none());
        for (slot, unique) in slots.iter().zip([8, 4, 6, 2]) {
            assert_eq!(read(slot, &request(unique, 10_000)), request(unique, 10_000));
        }
        slots[1].answer(0, b"written");
        slots[3].answer(libc::EINTR, b"");
        inbox.interrupt(8);
        let next = successor(&inbox);
        let left = next.left();
        assert!(left.iter().all(|left| left.reader == left.unique as usize * 10));
        let found: Vec<_> = left.into_iter().map(|left| (left.unique, left.what)).collect();
        let expected = [
            (2, Unanswered::Answer { errno: libc::EINTR, value: vec![] }),
            (4, Unanswered::Answer { errno: 0, value: b"written".to_vec() }),
            (6, Unanswered::Request { bytes: request(6, 10_000), interrupted: false }),
            (8, Unanswered::Request { bytes: request(8, 10_000), interrupted: true }),
        ];
        assert_eq!(found, expected);
        // Their slots are gone: nothing is left, and all places are free.
        assert!(successor(&inbox).left().is_empty());
        let again: Vec<Slot> = std::iter::from_fn(|| next.take()).collect();
        assert_eq!(again.len(), 4);
    }

    #[test]
    fn a_place_is_used_again_and_forgets_what_it_held() {
        let inbox = Arc::new(Inbox::create(WARM + 4, MAX_WRITE).unwrap());
        for round in 1..=3 {
            let slots: Vec<Slot> = std::iter::from_fn(|| inbox.take()).collect();
            assert_eq!(slots.len(), WARM + 4);
            slots.iter().for_each(|slot| drop(read(slot, &request(round, 100))));
            slots[0].answer(5, b"");
            drop(slots);
            assert!(successor(&inbox).left().is_empty());
        }
        let slot = inbox.take().unwrap();
        read(&slot, &request(70, 0));
        let left = successor(&inbox).left();
        assert_eq!(left[0].what, Unanswered::Request { bytes: request(70, 0), interrupted: false });
    }

    #[test]
    fn a_place_whose_reader_died_before_anything_came_is_free() {
        let inbox = Arc::new(Inbox::create(2, MAX_WRITE).unwrap());
        let slot = inbox.take().unwrap();
        inbox.place(slot.place)[STATE].store(READING, Ordering::Release);
        let other = inbox.take().unwrap();
        read(&other, &request(9, 50));
        inbox.place(other.place)[STATE].store(READING, Ordering::Release);
        let left = successor(&inbox).left();
        assert_eq!(left.iter().map(|left| left.unique).collect::<Vec<_>>(), [9]);
        std::mem::forget((slot, other));
    }

    #[test]
    fn what_is_no_inbox_is_refused() {
        let words = SharedWords::create("other", 4096).unwrap();
        let refused = Inbox::open(words.as_fd().try_clone_to_owned().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        let inbox = Inbox::create(2, MAX_WRITE).unwrap();
        inbox.words.words()[PLACES].store(3, Ordering::Release);
        assert!(Inbox::open(inbox.descriptor().try_clone_to_owned().unwrap()).is_err());
    }
}
