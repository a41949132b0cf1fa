//! What the kernel has open: its handle numbers and what they stand for.
//!
//! Always: a number is never used twice in one mount, so that a late request cannot meet another file; what is open is in the
//! hand-over table before anybody learns its number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use curvine_client::DirItem;
use curvine_types::{FastMap, InodeId};
use parking_lot::RwLock;

use crate::handover::{HandleRecord, Table};

/// An open file of the client, or a listing in progress.
#[derive(Debug)]
pub enum Opened<H> {
    /// `paged`: it is read through the page cache, or perhaps is.
    File {
        inode: InodeId,
        handle: H,
        paged: bool,
    },
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
    table: Arc<Table>,
    count: AtomicUsize,
    shards: [RwLock<FastMap<u64, Arc<Opened<H>>>>; SHARDS],
}

impl<H> Handles<H> {
    /// At most `limit` at once, recorded in `table`.
    pub fn new(limit: usize, table: Arc<Table>) -> Self {
        Self { limit, table, count: AtomicUsize::new(0), shards: std::array::from_fn(|_| RwLock::default()) }
    }

    fn shard(&self, fh: u64) -> &RwLock<FastMap<u64, Arc<Opened<H>>>> {
        &self.shards[fh as usize % SHARDS]
    }

    /// Whether one more may be opened.
    pub fn has_room(&self) -> bool {
        self.len() < self.limit
    }

    /// Gives a number to what was opened; gives it back if there is no room.
    pub fn insert(&self, opened: Opened<H>, record: &HandleRecord) -> Result<u64, Opened<H>> {
        let Some(fh) = self.table.open_handle(record) else { return Err(opened) };
        self.restore(fh, opened);
        Ok(fh)
    }

    /// What a predecessor had open under this number.
    pub fn restore(&self, fh: u64, opened: Opened<H>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.shard(fh).write().insert(fh, Arc::new(opened));
    }

    /// What the number stands for.
    pub fn get(&self, fh: u64) -> Option<Arc<Opened<H>>> {
        self.shard(fh).read().get(&fh).cloned()
    }

    /// Takes it out.
    pub fn remove(&self, fh: u64) -> Option<Arc<Opened<H>>> {
        let removed = self.shard(fh).write().remove(&fh);
        if removed.is_some() {
            self.table.close_handle(fh);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// Takes all out, at the end.
    pub fn drain(&self) -> Vec<Arc<Opened<H>>> {
        let all: Vec<_> = self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.write())).collect();
        self.count.fetch_sub(all.len(), Ordering::Relaxed);
        all.iter().for_each(|(fh, _)| self.table.close_handle(*fh));
        all.into_iter().map(|(_, opened)| opened).collect()
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
        let table = Arc::new(Table::create(crate::handover::Limits { handles: 2, requests: 1, notes: 1 }).unwrap());
        let handles: Handles<u8> = Handles::new(2, table.clone());
        let record = HandleRecord { inode: 5, request: 2, kind: crate::handover::Kind::Directory };
        let insert = |opened| handles.insert(opened, &record).unwrap();
        let first = insert(Opened::File { inode: 5, handle: 1, paged: true });
        let second = insert(Opened::Directory(Default::default()));
        assert!(!handles.has_room());
        assert!(handles.insert(Opened::File { inode: 6, handle: 1, paged: true }, &record).is_err());
        assert!(matches!(&*handles.get(first).unwrap(), Opened::File { inode: 5, handle: 1, paged: true }));
        assert!(handles.remove(first).is_some() && handles.remove(first).is_none());
        let third = insert(Opened::File { inode: 5, handle: 1, paged: true });
        assert!(third != first && third != second && handles.get(first).is_none());
        assert_eq!((handles.drain().len(), handles.len(), table.used().0), (2, 0, 0));
    }
}
