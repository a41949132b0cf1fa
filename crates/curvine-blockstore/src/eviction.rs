//! S3-FIFO over whole cached contents, by bytes: a small queue on probation, a main queue, and a ghost of what left the small one.
//!
//! Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. Differences: the shares of the queues and of the
//! ghost are bytes, since contents differ by orders of magnitude and grow while they are filled; and an access only raises a counter
//! that the entry owns, so that readers take no lock here.
//!
//! Always: `small_bytes` and `main_bytes` are the sums of the weights of what is in the queues, because a weight is only changed here.

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use curvine_types::FastMap;

/// Share of the bytes that may be on probation before the small queue is evicted from.
const SMALL_PERCENT: u128 = 10;
/// Most keys remembered after they left the small queue, whatever their bytes.
const GHOST_MAX: usize = 64 << 10;

const NOWHERE: u8 = 0;
const SMALL: u8 = 1;
const MAIN: u8 = 2;

/// Where an entry stands and what it weighs. Written under the lock of the queues only.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    place: AtomicU8,
    weight: AtomicU64,
}

impl Slot {
    /// In none of the queues, or just being taken out.
    pub fn is_nowhere(&self) -> bool {
        self.place.load(Relaxed) == NOWHERE
    }
}

/// What the queues hold. The entry outlives its eviction; one that is gone is skipped.
pub(crate) trait Evictable {
    type Key: Copy + Eq + Hash;

    fn key(&self) -> Self::Key;

    fn slot(&self) -> &Slot;

    /// Takes away one access; whether there was one.
    fn take_access(&self) -> bool;

    /// It is no candidate any more; forget it.
    fn is_gone(&self) -> bool;
}

pub(crate) struct S3Fifo<T: Evictable> {
    small: VecDeque<T>,
    main: VecDeque<T>,
    small_bytes: u64,
    main_bytes: u64,
    /// Each with a number that tells whether an entry of `ghost` still counts, and its bytes.
    ghosts: FastMap<T::Key, (u64, u64)>,
    ghost: VecDeque<(T::Key, u64)>,
    ghost_bytes: u64,
    next_ghost: u64,
}

impl<T: Evictable> Default for S3Fifo<T> {
    fn default() -> Self {
        Self {
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            main_bytes: 0,
            ghosts: FastMap::default(),
            ghost: VecDeque::new(),
            ghost_bytes: 0,
            next_ghost: 0,
        }
    }
}

impl<T: Evictable> S3Fifo<T> {
    /// A new candidate; one that was evicted lately goes straight to the main queue.
    pub fn insert(&mut self, entry: T) {
        let place = match self.ghosts.remove(&entry.key()) {
            Some((_, bytes)) => {
                self.ghost_bytes -= bytes;
                MAIN
            }
            None => SMALL,
        };
        self.enter(entry, place);
    }

    /// One that could not be evicted goes back to where it does not come up again at once.
    pub fn give_back(&mut self, entry: T) {
        self.enter(entry, MAIN);
    }

    /// The entry that owns this slot weighs something else from now on.
    pub fn reweigh(&mut self, slot: &Slot, weight: u64) {
        let before = slot.weight.swap(weight, Relaxed);
        if let Some(bytes) = self.bytes_of(slot.place.load(Relaxed)) {
            *bytes = bytes.saturating_sub(before) + weight;
        }
    }

    /// Takes the next victim out of the queues; `None` if there is no candidate. The caller that cannot evict it gives it back.
    pub fn victim(&mut self) -> Option<T> {
        // Accesses go on meanwhile: after so many passes a victim is taken whatever they say.
        let mut passes = 4 * self.len() + 16;
        loop {
            let total = u128::from(self.small_bytes) + u128::from(self.main_bytes);
            let on_probation = u128::from(self.small_bytes) * 100 >= total * SMALL_PERCENT;
            let from_small = !self.small.is_empty() && (self.main.is_empty() || on_probation);
            let entry = self.leave(if from_small { SMALL } else { MAIN })?;
            if entry.is_gone() {
                continue;
            }
            passes = passes.saturating_sub(1);
            if passes > 0 && entry.take_access() {
                self.enter(entry, MAIN);
                continue;
            }
            if from_small {
                self.remember(entry.key(), entry.slot().weight.load(Relaxed));
            }
            return Some(entry);
        }
    }

    /// Entries in both queues.
    pub fn len(&self) -> usize {
        self.small.len() + self.main.len()
    }

    /// Drops entries that are gone, when they are many.
    pub fn tidy(&mut self, live: usize) {
        if self.len() <= 2 * live + 1024 {
            return;
        }
        for place in [SMALL, MAIN] {
            for _ in 0..if place == SMALL { self.small.len() } else { self.main.len() } {
                if let Some(entry) = self.leave(place).filter(|entry| !entry.is_gone()) {
                    self.enter(entry, place);
                }
            }
        }
    }

    fn bytes_of(&mut self, place: u8) -> Option<&mut u64> {
        match place {
            SMALL => Some(&mut self.small_bytes),
            MAIN => Some(&mut self.main_bytes),
            _ => None,
        }
    }

    fn enter(&mut self, entry: T, place: u8) {
        entry.slot().place.store(place, Relaxed);
        let weight = entry.slot().weight.load(Relaxed);
        if let Some(bytes) = self.bytes_of(place) {
            *bytes += weight;
        }
        if place == SMALL { self.small.push_back(entry) } else { self.main.push_back(entry) }
    }

    fn leave(&mut self, place: u8) -> Option<T> {
        let entry = if place == SMALL { self.small.pop_front()? } else { self.main.pop_front()? };
        let weight = entry.slot().weight.load(Relaxed);
        if let Some(bytes) = self.bytes_of(place) {
            *bytes = bytes.saturating_sub(weight);
        }
        entry.slot().place.store(NOWHERE, Relaxed);
        Some(entry)
    }

    /// Remembers as many bytes as the main queue holds, the newest.
    fn remember(&mut self, key: T::Key, bytes: u64) {
        self.next_ghost += 1;
        if let Some((_, before)) = self.ghosts.insert(key, (self.next_ghost, bytes)) {
            self.ghost_bytes -= before;
        }
        self.ghost.push_back((key, self.next_ghost));
        self.ghost_bytes += bytes;
        // The newest stays in any case: without a main queue yet there would be no way into it.
        while self.ghost.len() > 1
            && (self.ghost.len() > GHOST_MAX || self.ghost_bytes > self.main_bytes.max(self.small_bytes))
        {
            let Some((old, number)) = self.ghost.pop_front() else { return };
            if let Some((_, bytes)) = self.ghosts.get(&old).copied().filter(|(have, _)| *have == number) {
                self.ghosts.remove(&old);
                self.ghost_bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
#[path = "eviction_trace_test.rs"]
mod trace;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone)]
    struct Entry(u32, Rc<Cell<u8>>, Rc<Slot>);

    impl Evictable for Entry {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
        }

        fn slot(&self) -> &Slot {
            &self.2
        }

        fn take_access(&self) -> bool {
            let had = self.1.get();
            self.1.set(had.saturating_sub(1));
            had > 0
        }

        fn is_gone(&self) -> bool {
            false
        }
    }

    fn entry(number: u32, accesses: u8) -> Entry {
        Entry(number, Rc::new(Cell::new(accesses)), Rc::default())
    }

    #[test]
    fn a_scan_does_not_drive_out_what_is_used_again() {
        let mut queue = S3Fifo::default();
        let hot = entry(0, 0);
        queue.insert(hot.clone());
        let mut evicted = Vec::new();
        for number in 1..1000 {
            queue.insert(entry(number, 0));
            hot.1.set(1);
            if queue.len() > 10 {
                evicted.push(queue.victim().unwrap().key());
            }
        }
        assert!(!evicted.contains(&0));
        assert_eq!(evicted.first(), Some(&1), "what was used once leaves in order of arrival");
    }

    #[test]
    fn what_comes_back_soon_after_eviction_is_kept_longer() {
        let mut queue = S3Fifo::default();
        queue.insert(entry(1, 0));
        assert_eq!(queue.victim().unwrap().key(), 1);
        queue.insert(entry(1, 0));
        queue.insert(entry(2, 0));
        assert_eq!(queue.victim().unwrap().key(), 2);
        assert_eq!(queue.victim().unwrap().key(), 1);
        assert!(queue.victim().is_none());
    }

    #[test]
    fn the_share_on_probation_is_of_bytes_also_of_what_grows_in_its_queue() {
        let mut queue = S3Fifo::default();
        let old = entry(1, 1);
        queue.insert(old.clone());
        queue.reweigh(old.slot(), 1000);
        // Used once: it goes to the main queue, and the newcomer on probation is the victim.
        let young = entry(2, 0);
        queue.insert(young.clone());
        queue.reweigh(young.slot(), 500);
        assert_eq!(queue.victim().unwrap().key(), 2);
        // Below its share, what is on probation is spared.
        let young = entry(3, 0);
        queue.insert(young.clone());
        queue.reweigh(young.slot(), 10);
        assert_eq!((queue.small_bytes, queue.main_bytes), (10, 1000));
        assert_eq!(queue.victim().unwrap().key(), 1);
        queue.give_back(old);
        // It has grown in the queue.
        queue.reweigh(young.slot(), 500);
        assert_eq!(queue.victim().unwrap().key(), 3);
        assert_eq!((queue.small_bytes, queue.main_bytes), (0, 1000));
    }
}
