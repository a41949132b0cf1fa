//! The open files of the store: at most so many, least recently used closed first. Known by the number of the content in
//! memory, not by its key: a content that is made anew has another file.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use curvine_types::FastMap;
use parking_lot::Mutex;

pub(crate) struct FileCache {
    limit: usize,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    by_id: FastMap<u64, (Arc<File>, u64)>,
    by_use: BTreeMap<u64, u64>,
    clock: u64,
}

impl FileCache {
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), files: Mutex::default() }
    }

    /// The open file of a content.
    pub fn get(&self, id: u64) -> Option<Arc<File>> {
        let mut files = self.files.lock();
        files.clock += 1;
        let now = files.clock;
        let (file, used) = files.by_id.get_mut(&id)?;
        let file = file.clone();
        let before = std::mem::replace(used, now);
        files.by_use.remove(&before);
        files.by_use.insert(now, id);
        Some(file)
    }

    /// Remembers an open file. What it drives out is closed when its last reader is done.
    pub fn insert(&self, id: u64, file: Arc<File>) {
        let mut dropped = Vec::new();
        let mut files = self.files.lock();
        files.clock += 1;
        let now = files.clock;
        if let Some((old, used)) = files.by_id.insert(id, (file, now)) {
            files.by_use.remove(&used);
            dropped.push(old);
        }
        files.by_use.insert(now, id);
        while files.by_id.len() > self.limit {
            let Some((_, oldest)) = files.by_use.pop_first() else { break };
            dropped.extend(files.by_id.remove(&oldest).map(|(file, _)| file));
        }
        drop(files);
        // Closing may take the local file system a while: not under the lock.
        drop(dropped);
    }

    /// Forgets a content's file.
    pub fn remove(&self, id: u64) {
        let mut files = self.files.lock();
        let removed = files.by_id.remove(&id);
        if let Some((_, used)) = &removed {
            files.by_use.remove(used);
        }
        drop(files);
        drop(removed);
    }

    /// Descriptors held now.
    pub fn len(&self) -> usize {
        self.files.lock().by_id.len()
    }
}
