//! S3-FIFO over whole cached contents: a small queue on probation, a main queue, and a ghost of what left the small one.
//!
//! Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. Differences: contents count
//! alike whatever their size (it changes while they are filled), and an access only raises a counter that the entry owns, so
//! that readers take no lock here.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// Share of the entries that may be on probation before the small queue is evicted from.
const SMALL_PERCENT: u64 = 10;
/// Most keys remembered after they left the small queue.
const GHOST_MAX: usize = 64 << 10;

/// What the queues hold. The entry outlives its eviction; one that is gone is skipped.
pub(crate) trait Evictable {
    type Key: Copy + Eq + Hash;

    fn key(&self) -> Self::Key;

    /// Takes away one access; whether there was one.
    fn take_access(&self) -> bool;

    /// It is no candidate any more; forget it.
    fn is_gone(&self) -> bool;
}

pub(crate) struct S3Fifo<T: Evictable> {
    small: VecDeque<T>,
    main: VecDeque<T>,
    ghost: VecDeque<T::Key>,
    ghost_set: HashSet<T::Key>,
}

impl<T: Evictable> Default for S3Fifo<T> {
    fn default() -> Self {
        Self { small: VecDeque::new(), main: VecDeque::new(), ghost: VecDeque::new(), ghost_set: HashSet::new() }
    }
}

impl<T: Evictable> S3Fifo<T> {
    /// A new candidate; one that was evicted lately goes straight to the main queue.
    pub fn insert(&mut self, entry: T) {
        if self.ghost_set.remove(&entry.key()) { self.main.push_back(entry) } else { self.small.push_back(entry) }
    }

    /// Takes the next victim out of the queues; `None` if there is no candidate. The caller that cannot evict it gives it
    /// back with `insert`.
    pub fn victim(&mut self) -> Option<T> {
        // Accesses go on meanwhile: after so many passes a victim is taken whatever they say.
        let mut passes = 4 * self.len() + 16;
        loop {
            let on_probation = self.small.len() as u64 * 100 >= self.len() as u64 * SMALL_PERCENT;
            let from_small = !self.small.is_empty() && (self.main.is_empty() || on_probation);
            let entry = if from_small { self.small.pop_front()? } else { self.main.pop_front()? };
            if entry.is_gone() {
                continue;
            }
            passes = passes.saturating_sub(1);
            if passes > 0 && entry.take_access() {
                self.main.push_back(entry);
                continue;
            }
            if from_small {
                self.remember(entry.key());
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
        if self.len() > 2 * live + 1024 {
            self.small.retain(|entry| !entry.is_gone());
            self.main.retain(|entry| !entry.is_gone());
        }
    }

    fn remember(&mut self, key: T::Key) {
        if self.ghost_set.insert(key) {
            self.ghost.push_back(key);
        }
        while self.ghost.len() > GHOST_MAX {
            if let Some(old) = self.ghost.pop_front() {
                self.ghost_set.remove(&old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone)]
    struct Entry(u32, Rc<Cell<u8>>);

    impl Evictable for Entry {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
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
        Entry(number, Rc::new(Cell::new(accesses)))
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
}
