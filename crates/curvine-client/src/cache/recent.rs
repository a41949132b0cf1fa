//! What happened lately, in bounded memory: a map whose forgotten entries leave a floor behind.
//!
//! Always: an event is either in the map or not above the floor, so "nothing known and above the floor" means "did not happen".

use std::collections::VecDeque;

use curvine_types::{FastMap, InodeId};

pub(super) struct Recent<V> {
    known: FastMap<InodeId, (u64, V)>,
    order: VecDeque<(InodeId, u64)>,
    floor: u64,
    limit: usize,
}

/// What is known about an inode since a moment.
#[derive(Debug, PartialEq)]
pub(super) enum Since<'a, V> {
    Nothing,
    Event(&'a V),
    /// Too long ago to be sure.
    Unknown,
}

impl<V> Recent<V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { known: FastMap::default(), order: VecDeque::new(), floor: 0, limit }
    }

    /// Records an event of `inode` at `number`, unless a later one is known.
    pub(super) fn record(&mut self, inode: InodeId, number: u64, event: V) {
        if self.known.get(&inode).is_some_and(|(newest, _)| *newest > number) {
            return;
        }
        self.known.insert(inode, (number, event));
        self.order.push_back((inode, number));
        while self.order.len() > self.limit {
            let Some((oldest, at)) = self.order.pop_front() else { break };
            if self.known.get(&oldest).is_some_and(|(newest, _)| *newest == at) {
                self.known.remove(&oldest);
                self.floor = self.floor.max(at);
            }
        }
    }

    /// The newest event of `inode` with a number of at least `from`.
    pub(super) fn since(&self, inode: InodeId, from: u64) -> Since<'_, V> {
        match self.known.get(&inode) {
            Some((number, event)) if *number >= from => Since::Event(event),
            Some(_) => Since::Nothing,
            None if from <= self.floor => Since::Unknown,
            None => Since::Nothing,
        }
    }

    /// The newest event of `inode`, however old.
    pub(super) fn newest(&self, inode: InodeId) -> Option<&V> {
        self.known.get(&inode).map(|(_, event)| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_counts_as_unknown_not_as_nothing() {
        let mut recent = Recent::new(2);
        recent.record(1, 10, "one");
        recent.record(2, 11, "two");
        assert_eq!(recent.since(1, 10), Since::Event(&"one"));
        assert_eq!(recent.since(1, 11), Since::Nothing);
        assert_eq!(recent.since(9, 1), Since::Nothing);
        recent.record(3, 12, "three");
        assert_eq!(recent.since(1, 10), Since::Unknown);
        assert_eq!(recent.since(9, 10), Since::Unknown);
        assert_eq!(recent.since(9, 11), Since::Nothing);
        assert_eq!(recent.since(2, 11), Since::Event(&"two"));
    }

    #[test]
    fn an_inode_that_is_recorded_again_is_not_forgotten_with_its_old_event() {
        let mut recent = Recent::new(2);
        recent.record(1, 10, "old");
        recent.record(1, 11, "new");
        recent.record(2, 12, "other");
        assert_eq!(recent.since(1, 11), Since::Event(&"new"));
        assert_eq!(recent.newest(1), Some(&"new"));
    }
}
