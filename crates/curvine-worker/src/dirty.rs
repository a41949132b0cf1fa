//! How much was written here for each mount and is not in its store yet. It cannot be evicted, so it is bounded.
//!
//! Always: what is counted is what the block store had at the last look, and what was let in since. A content that is larger than the
//! limit alone may grow on: nothing else would ever finish it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use curvine_blockstore::{BlockStore, ContentKey};
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

#[derive(Default)]
struct Known {
    /// By content: its mount, and its bytes.
    contents: HashMap<ContentKey, (MountId, u64)>,
    /// Their sums.
    sums: BTreeMap<MountId, u64>,
}

impl Known {
    fn is_full(&self, limit: u64, mount: MountId, key: Option<ContentKey>) -> bool {
        let all = self.sums.get(&mount).copied().unwrap_or(0);
        let own = key.and_then(|key| self.contents.get(&key)).map_or(0, |(_, bytes)| *bytes);
        all.saturating_sub(own) > limit
    }

    fn add(&mut self, mount: MountId, key: ContentKey, bytes: u64) {
        if let Some((_, own)) = self.contents.get_mut(&key) {
            *own = own.saturating_add(bytes);
        }
        let sum = self.sums.entry(mount).or_default();
        *sum = sum.saturating_add(bytes);
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
            self.known.lock().contents.entry(key).or_insert((mount, 0));
        }
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
        let found: Vec<(ContentKey, Option<u64>)> = keys.into_iter().map(|key| (key, store.own_bytes(key))).collect();
        let mut known = self.known.lock();
        for (key, own) in found {
            match own {
                Some(own) => drop(known.contents.get_mut(&key).map(|(_, bytes)| *bytes = own)),
                None => drop(known.contents.remove(&key)),
            }
        }
        let mut sums = BTreeMap::new();
        for (mount, bytes) in known.contents.values() {
            *sums.entry(*mount).or_default() += *bytes;
        }
        known.sums = sums;
    }

    /// Whether a content may not grow now.
    pub fn is_full(&self, key: ContentKey) -> bool {
        let known = self.known.lock();
        known.contents.get(&key).is_some_and(|(mount, _)| known.is_full(self.limit, *mount, Some(key)))
    }

    /// Waits until a content may grow by so many bytes. `NoSpace` if it still may not after a while.
    pub async fn grow(&self, key: ContentKey, bytes: u64, deadline: Instant) -> Result<()> {
        let mount = self.known.lock().contents.get(&key).map(|(mount, _)| *mount);
        match mount {
            Some(mount) => {
                self.wait_for_room(mount, Some(key), deadline).await?;
                self.known.lock().add(mount, key, bytes);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Waits until a new content of a mount may begin; 0: of none. As `grow`.
    pub async fn begin(&self, mount: MountId, deadline: Instant) -> Result<()> {
        if mount == 0 { Ok(()) } else { self.wait_for_room(mount, None, deadline).await }
    }

    async fn wait_for_room(&self, mount: MountId, key: Option<ContentKey>, deadline: Instant) -> Result<()> {
        let until = deadline.checked_sub(MARGIN).unwrap_or(deadline).min(Instant::now() + self.wait);
        while self.known.lock().is_full(self.limit, mount, key) {
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

    #[tokio::test(start_paused = true)]
    async fn others_wait_for_room_and_a_large_file_alone_does_not() {
        let dirty = Dirty::new(100, Duration::from_secs(5));
        let (large, small, free) = (ContentKey::new(1, 1), ContentKey::new(2, 1), ContentKey::new(3, 1));
        let deadline = || Instant::now() + Duration::from_secs(60);
        dirty.note(large, 7);
        dirty.note(small, 7);
        dirty.note(free, 0);
        for _ in 0..5 {
            dirty.grow(large, 50, deadline()).await.unwrap();
        }
        assert!(dirty.is_full(small) && !dirty.is_full(large) && !dirty.is_full(free));
        assert_eq!(dirty.bytes(), BTreeMap::from([(7, 250)]));
        let began = Instant::now();
        let refused = dirty.grow(small, 1, deadline()).await.unwrap_err();
        assert_eq!((refused.kind(), began.elapsed() >= Duration::from_secs(5)), (ErrorKind::NoSpace, true));
        // Never beyond the caller's deadline.
        let began = Instant::now();
        assert!(dirty.begin(7, Instant::now() + Duration::from_secs(3)).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(3));
        dirty.begin(8, deadline()).await.unwrap();
        dirty.grow(free, 1000, deadline()).await.unwrap();
    }
}
