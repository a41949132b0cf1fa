//! How much was written here for each mount and is not in its store yet. It cannot be evicted, so it is bounded.
//!
//! Always: what is counted is what the block store had at the last look, and what was let in since.
//! Always: above the limit one content of a mount grows at a time, in turns, for nothing else would ever finish it. One that is finished
//! keeps the turn until its store has it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use curvine_blockstore::{BlockStore, ContentKey, OwnBytes};
use curvine_types::{Error, ErrorKind, MountId, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How often the block store is asked, and waiting writers look.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long before the caller's deadline a writer is answered.
const MARGIN: Duration = Duration::from_secs(2);

pub(crate) struct Dirty {
    /// Bytes of one mount.
    limit: u64,
    /// How long a writer waits for room.
    wait: Duration,
    known: Mutex<Known>,
}

struct Content {
    mount: MountId,
    bytes: u64,
    /// It may still grow.
    live: bool,
}

/// Who may grow above the limit.
struct Turn {
    key: ContentKey,
    since: Instant,
}

#[derive(Default)]
struct Known {
    contents: HashMap<ContentKey, Content>,
    /// Their bytes, by mount.
    sums: BTreeMap<MountId, u64>,
    turns: HashMap<MountId, Turn>,
    /// Who waits, in the order in which they came.
    waiting: BTreeMap<u64, (MountId, ContentKey)>,
    last_waiting: u64,
}

/// A writer that wants something, until dropped.
struct Wanted<'a> {
    dirty: &'a Dirty,
    number: u64,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.dirty.known.lock().waiting.remove(&self.number);
    }
}

impl Known {
    fn sum(&self, mount: MountId) -> u64 {
        self.sums.get(&mount).copied().unwrap_or(0)
    }

    /// Whether whoever has the turn of a mount keeps it, while so many contents wait.
    fn keeps(&self, turn: &Turn, waiting: usize, wait: Duration) -> bool {
        // Each of them has it long before its wait is over.
        let share = (wait / 2 / (waiting as u32 + 1)).max(LOOK_EVERY);
        self.contents.get(&turn.key).is_some_and(|content| !content.live || turn.since.elapsed() < share)
    }

    /// Lets a content grow by so many bytes if there is room, or if it has the turn or gets it.
    fn let_in(&mut self, number: u64, limit: u64, wait: Duration, bytes: u64) -> bool {
        let Some((mount, key)) = self.waiting.get(&number).copied() else { return false };
        let has_room = self.sum(mount).saturating_add(bytes) <= limit;
        if !has_room && self.turns.get(&mount).is_none_or(|turn| turn.key != key) {
            let others = self.waiting.values().filter(|(of, other)| *of == mount && *other != key);
            let waiting = others.map(|(_, other)| *other).collect::<HashSet<_>>().len() + 1;
            let first = self.waiting.values().find(|(of, _)| *of == mount);
            let is_first = first.is_some_and(|(_, first)| *first == key);
            if !is_first || self.turns.get(&mount).is_some_and(|turn| self.keeps(turn, waiting, wait)) {
                return false;
            }
            self.turns.insert(mount, Turn { key, since: Instant::now() });
        }
        let content = self.contents.entry(key).or_insert(Content { mount, bytes: 0, live: true });
        content.bytes = content.bytes.saturating_add(bytes);
        let sum = self.sums.entry(mount).or_default();
        *sum = sum.saturating_add(bytes);
        true
    }

    fn update(&mut self, limit: u64, found: Vec<(ContentKey, Option<OwnBytes>)>) {
        for (key, own) in found {
            match own {
                Some(own) => {
                    if let Some(content) = self.contents.get_mut(&key) {
                        (content.bytes, content.live) = (own.bytes, own.live);
                    }
                }
                None => drop(self.contents.remove(&key)),
            }
        }
        self.sums.clear();
        for content in self.contents.values() {
            *self.sums.entry(content.mount).or_default() += content.bytes;
        }
        let sums = &self.sums;
        self.turns.retain(|mount, _| sums.get(mount).is_some_and(|sum| *sum > limit));
    }
}

impl Dirty {
    pub fn new(limit: u64, wait: Duration) -> Self {
        Self { limit, wait, known: Mutex::default() }
    }

    /// The limit, in bytes of one mount.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The content is written for a mount; 0: for none.
    pub fn note(&self, key: ContentKey, mount: MountId) {
        if mount != 0 {
            self.known.lock().contents.entry(key).or_insert(Content { mount, bytes: 0, live: true });
        }
    }

    /// Whether the content is written for a mount.
    pub fn is_noted(&self, key: ContentKey) -> bool {
        self.known.lock().contents.contains_key(&key)
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.known.lock().contents.is_empty()
    }

    /// Bytes of each mount that has any.
    pub fn bytes(&self) -> BTreeMap<MountId, u64> {
        self.known.lock().sums.clone()
    }

    /// Asks the block store what there is now; it may have to wait for contents that are being sealed.
    pub fn look(&self, store: &BlockStore) {
        let keys: Vec<ContentKey> = self.known.lock().contents.keys().copied().collect();
        let found = keys.into_iter().map(|key| (key, store.own_bytes(key))).collect();
        self.known.lock().update(self.limit, found);
    }

    /// Waits until a content may grow by so many bytes. `NoSpace` if it still may not after a while.
    pub async fn grow(&self, key: ContentKey, bytes: u64, deadline: Instant) -> Result<()> {
        let mount = self.known.lock().contents.get(&key).map(|content| content.mount);
        match mount {
            Some(mount) => self.wait_for_room(mount, key, bytes, deadline).await,
            None => Ok(()),
        }
    }

    /// Waits until a new content of a mount may begin, and notes it; 0: of none. As `grow`.
    pub async fn begin(&self, mount: MountId, key: ContentKey, deadline: Instant) -> Result<()> {
        if mount == 0 { Ok(()) } else { self.wait_for_room(mount, key, 0, deadline).await }
    }

    async fn wait_for_room(&self, mount: MountId, key: ContentKey, bytes: u64, deadline: Instant) -> Result<()> {
        let until = deadline.checked_sub(MARGIN).unwrap_or(deadline).min(Instant::now() + self.wait);
        let wanted = {
            let mut known = self.known.lock();
            known.last_waiting += 1;
            let number = known.last_waiting;
            known.waiting.insert(number, (mount, key));
            Wanted { dirty: self, number }
        };
        while !self.known.lock().let_in(wanted.number, self.limit, self.wait, bytes) {
            if Instant::now() >= until {
                let message = "too much that was written waits for its upload; is the store slow or away?";
                return Err(Error::new(ErrorKind::NoSpace, message).with("mount", mount).with("limit", self.limit));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: ContentKey = ContentKey::new(1, 1);
    const OTHER: ContentKey = ContentKey::new(2, 1);
    const SMALL: ContentKey = ContentKey::new(3, 1);
    const FREE: ContentKey = ContentKey::new(4, 1);

    fn deadline() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// With a limit of 100 bytes, of which each content may be noted for mount 7.
    fn dirty(noted: &[ContentKey]) -> Dirty {
        let dirty = Dirty::new(100, Duration::from_secs(5));
        noted.iter().for_each(|key| dirty.note(*key, 7));
        dirty
    }

    fn own(bytes: u64, live: bool) -> Option<OwnBytes> {
        Some(OwnBytes { bytes, live })
    }

    #[tokio::test(start_paused = true)]
    async fn a_finished_file_above_the_limit_holds_others_back_until_it_is_stored() {
        let dirty = dirty(&[LARGE, SMALL]);
        dirty.note(FREE, 0);
        for _ in 0..5 {
            dirty.grow(LARGE, 50, deadline()).await.unwrap();
        }
        assert_eq!(dirty.bytes(), BTreeMap::from([(7, 250)]));
        dirty.known.lock().update(100, vec![(LARGE, own(240, false))]);
        assert_eq!(dirty.bytes(), BTreeMap::from([(7, 240)]));
        let began = Instant::now();
        let refused = dirty.grow(SMALL, 1, deadline()).await.unwrap_err();
        assert_eq!((refused.kind(), began.elapsed() >= Duration::from_secs(5)), (ErrorKind::NoSpace, true));
        // Never beyond the caller's deadline.
        let began = Instant::now();
        assert!(dirty.begin(7, OTHER, Instant::now() + Duration::from_secs(3)).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(3));
        dirty.begin(8, OTHER, deadline()).await.unwrap();
        dirty.grow(FREE, 1000, deadline()).await.unwrap();
        assert!(dirty.is_noted(SMALL) && dirty.is_noted(OTHER) && !dirty.is_noted(FREE));

        dirty.known.lock().update(100, vec![(LARGE, None)]);
        dirty.grow(SMALL, 1, deadline()).await.unwrap();
        let known = dirty.known.lock();
        assert!(known.waiting.is_empty() && known.turns.is_empty() && !known.contents.contains_key(&LARGE));
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_are_each_larger_than_the_limit_are_all_written() {
        let dirty = dirty(&[LARGE, OTHER, SMALL]);
        let write = async |key, pause| {
            for _ in 0..60 {
                dirty.grow(key, 10, deadline()).await.unwrap_or_else(|error| panic!("{key}: {error}"));
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        };
        let largest = tokio::join!(write(LARGE, 20), write(OTHER, 70), async {
            let mut larger: Vec<u64> = Vec::new();
            for _ in 0..30 {
                tokio::time::sleep(Duration::from_millis(130)).await;
                let known = dirty.known.lock();
                assert!(known.turns.len() <= 1);
                larger.push(known.sum(7));
            }
            larger
        })
        .2;
        assert!(largest.is_sorted() && *largest.last().unwrap() > 100);
        assert_eq!(dirty.bytes(), BTreeMap::from([(7, 1200)]));
        // One that nobody goes on with does not keep the turn.
        dirty.grow(SMALL, 10, deadline()).await.unwrap();
        dirty.known.lock().update(100, vec![(LARGE, None), (OTHER, own(50, true)), (SMALL, own(10, true))]);
        assert!(dirty.known.lock().turns.is_empty(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn above_the_limit_one_grows_at_a_time() {
        let dirty = dirty(&[LARGE, OTHER]);
        dirty.grow(LARGE, 200, deadline()).await.unwrap();
        let waits = dirty.grow(OTHER, 10, deadline());
        let soon = tokio::time::timeout(Duration::from_millis(500), waits).await;
        assert!(soon.is_err(), "it is not its turn yet");
        dirty.grow(LARGE, 10, deadline()).await.unwrap();
        let began = Instant::now();
        dirty.grow(OTHER, 10, deadline()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3));
        // Now it is the other way round.
        let soon = tokio::time::timeout(Duration::from_millis(500), dirty.grow(LARGE, 10, deadline())).await;
        assert!(soon.is_err());
        assert!(dirty.known.lock().waiting.is_empty());
    }
}
