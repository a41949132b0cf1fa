//! READs that overtake a WRITE of the same bytes.
//!
//! A `write(2)` through the page cache puts its bytes into the pages first and sends them afterwards; the pages are free meanwhile.
//! Whoever has them dropped in that moment (an open, a recall) has the next reader ask for them again, and if that READ is served
//! first, what was there before the write stays in the page cache for good: the kernel takes it for what was written.
//!
//! Always: a WRITE that ends drops what READs were answered that the kernel asked for after it (its numbers tell), before it is
//! answered itself; such a READ that is not answered yet is done again. Those pages are never the ones that the WRITE holds, or the
//! kernel would not have asked for them: dropping them does not wait for its answer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_types::InodeId;
use parking_lot::Mutex;

const SHARDS: usize = 16;
/// READs that are remembered in each shard.
const MOST: usize = 1024;

#[derive(Debug)]
struct Read {
    inode: InodeId,
    range: Range<u64>,
    /// Certainly for the page cache: an O_DIRECT reader may have asked for himself, while the pages are the WRITE's.
    into_pages: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Being served, or it ended without an answer and fills no page.
    Served,
    /// The same, and a WRITE ended since it began.
    Old,
    Answered,
}

#[derive(Debug, Default)]
struct Shard {
    /// By the kernel's number.
    reads: BTreeMap<u64, Read>,
    /// No number above this was forgotten.
    forgotten: u64,
}

/// What a WRITE that ended must have dropped from the page cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// Before it is answered.
    pub now: Vec<Range<u64>>,
    /// All that it wrote, after it was answered: nobody knows for certain who read it meanwhile, or whose the pages are.
    pub later: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Overtakes {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicU64,
}

impl Overtakes {
    fn shard(&self, inode: InodeId) -> &Mutex<Shard> {
        &self.shards[inode as usize % SHARDS]
    }

    /// A READ begins that may be for the page cache, or certainly is; `request`: the kernel's number.
    pub fn read_begins(&self, request: u64, inode: InodeId, range: Range<u64>, into_pages: bool) {
        let mut shard = self.shard(inode).lock();
        shard.reads.insert(request, Read { inode, range, into_pages, state: State::Served });
        if shard.reads.len() > MOST
            && let Some((oldest, _)) = shard.reads.pop_first()
        {
            shard.forgotten = oldest.max(shard.forgotten);
        }
    }

    /// Whether the READ may be answered. False: a WRITE ended meanwhile, and it must be done again.
    pub fn read_ends(&self, request: u64, inode: InodeId) -> bool {
        let mut shard = self.shard(inode).lock();
        let Some(read) = shard.reads.get_mut(&request) else { return true };
        let old = read.state == State::Old;
        read.state = if old { State::Served } else { State::Answered };
        !old
    }

    /// A WRITE has ended, well or not.
    pub fn write_ends(&self, request: u64, inode: InodeId, range: &Range<u64>) -> Stale {
        let mut stale = Stale::default();
        let mut shard = self.shard(inode).lock();
        stale.later = request <= shard.forgotten;
        for (_, read) in shard.reads.range_mut(request..) {
            let overlap = read.range.start.max(range.start)..read.range.end.min(range.end);
            if read.inode != inode || overlap.is_empty() {
                continue;
            }
            match read.state {
                State::Served | State::Old => read.state = State::Old,
                State::Answered if read.into_pages => stale.now.push(overlap),
                State::Answered => stale.later = true,
            }
        }
        drop(shard);
        if stale != Stale::default() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        stale
    }

    /// WRITEs after which pages were dropped.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = 7;

    fn answered(overtakes: &Overtakes, request: u64, inode: InodeId, range: Range<u64>) {
        overtakes.read_begins(request, inode, range, true);
        assert!(overtakes.read_ends(request, inode));
    }

    #[test]
    fn a_write_drops_what_was_read_after_it_was_asked_for() {
        let overtakes = Overtakes::default();
        answered(&overtakes, 8, FILE, 0..100);
        answered(&overtakes, 12, FILE, 0..100);
        answered(&overtakes, 14, FILE, 200..300);
        answered(&overtakes, 16, FILE + SHARDS as u64, 0..100);
        let overlap = 50..100;
        assert_eq!(overtakes.write_ends(10, FILE, &(50..150)), Stale { now: vec![overlap], later: false });
        assert_eq!(overtakes.write_ends(18, FILE, &(50..150)), Stale::default(), "it was asked for last");
        assert_eq!(overtakes.count(), 1);
        overtakes.read_begins(32, FILE, 0..100, false);
        assert!(overtakes.read_ends(32, FILE));
        assert_eq!(overtakes.write_ends(30, FILE, &(50..150)), Stale { now: vec![], later: true }, "by O_DIRECT");
    }

    #[test]
    fn a_read_under_way_is_done_again() {
        let overtakes = Overtakes::default();
        overtakes.read_begins(12, FILE, 0..100, true);
        assert_eq!(overtakes.write_ends(10, FILE, &(0..10)), Stale::default());
        assert!(!overtakes.read_ends(12, FILE));
        assert!(overtakes.read_ends(12, FILE));
        overtakes.read_begins(22, FILE, 0..100, true);
        assert_eq!(overtakes.write_ends(20, FILE, &(0..10)), Stale::default());
    }

    #[test]
    fn a_write_that_is_older_than_what_is_remembered_drops_all_that_it_wrote() {
        let overtakes = Overtakes::default();
        for request in 0..=MOST as u64 {
            answered(&overtakes, 100 + 2 * request, FILE, 0..1);
        }
        assert_eq!(overtakes.write_ends(90, FILE, &(10..20)), Stale { now: vec![], later: true });
        assert_eq!(overtakes.write_ends(102, FILE, &(10..20)), Stale::default());
    }
}
