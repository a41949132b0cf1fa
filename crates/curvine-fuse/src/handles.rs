//! What the kernel has open: its handle numbers and what they stand for.
//!
//! Always: a number is never used twice in one mount, so that a late request cannot meet another file.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use curvine_client::DirItem;
use curvine_types::InodeId;
use parking_lot::RwLock;

/// An open file of the client, or a listing in progress.
#[derive(Debug)]
pub enum Opened<H> {
    File { inode: InodeId, handle: H },
    Directory(tokio::sync::Mutex<Listing>),
}

/// The part of a directory that was fetched last.
#[derive(Debug, Default)]
pub struct Listing {
    /// The cookie that `items` follow.
    pub after: u64,
    /// In the order of their cookies.
    pub items: Vec<DirItem>,
    /// Nothing follows after `items`.
    pub end: bool,
}

impl Listing {
    /// A part that starts after `cookie` and has not been fetched.
    pub fn starting_after(cookie: u64) -> Self {
        Self { after: cookie, ..Self::default() }
    }

    /// The cookie that the next part follows.
    pub fn last(&self) -> u64 {
        self.items.last().map_or(self.after, |item| item.cookie)
    }

    /// Where in `items` a listing goes on after `cookie`; `None` if that is in another part.
    pub fn position(&self, cookie: u64) -> Option<usize> {
        (self.after..=self.last()).contains(&cookie).then(|| self.items.partition_point(|item| item.cookie <= cookie))
    }
}

const SHARDS: usize = 16;

/// The table of what is open.
#[derive(Debug)]
pub struct Handles<H> {
    limit: usize,
    next: AtomicU64,
    count: AtomicUsize,
    shards: [RwLock<HashMap<u64, Arc<Opened<H>>>>; SHARDS],
}

impl<H> Handles<H> {
    /// At most `limit` at once.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| RwLock::default()),
        }
    }

    fn shard(&self, fh: u64) -> &RwLock<HashMap<u64, Arc<Opened<H>>>> {
        &self.shards[fh as usize % SHARDS]
    }

    /// Whether one more may be opened.
    pub fn has_room(&self) -> bool {
        self.len() < self.limit
    }

    /// Gives a number to what was opened.
    pub fn insert(&self, opened: Opened<H>) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.shard(fh).write().insert(fh, Arc::new(opened));
        fh
    }

    /// What the number stands for.
    pub fn get(&self, fh: u64) -> Option<Arc<Opened<H>>> {
        self.shard(fh).read().get(&fh).cloned()
    }

    /// Takes it out.
    pub fn remove(&self, fh: u64) -> Option<Arc<Opened<H>>> {
        let removed = self.shard(fh).write().remove(&fh);
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// Takes all out, at the end.
    pub fn drain(&self) -> Vec<Arc<Opened<H>>> {
        let all: Vec<_> =
            self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.write()).into_values()).collect();
        self.count.fetch_sub(all.len(), Ordering::Relaxed);
        all
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_used_again() {
        let handles: Handles<u8> = Handles::new(2);
        let first = handles.insert(Opened::File { inode: 5, handle: 1 });
        let second = handles.insert(Opened::Directory(Default::default()));
        assert!(!handles.has_room());
        assert!(matches!(&*handles.get(first).unwrap(), Opened::File { inode: 5, handle: 1 }));
        assert!(handles.remove(first).is_some() && handles.remove(first).is_none());
        let third = handles.insert(Opened::File { inode: 5, handle: 1 });
        assert!(third != first && third != second && handles.get(first).is_none());
        assert_eq!((handles.drain().len(), handles.len()), (2, 0));
    }
}
