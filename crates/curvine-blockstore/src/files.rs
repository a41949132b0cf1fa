//! The open files of the store: at most so many, least recently used closed first.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::ContentKey;

pub(crate) struct FileCache {
    limit: usize,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    by_key: HashMap<ContentKey, (Arc<File>, u64)>,
    by_use: BTreeMap<u64, ContentKey>,
    clock: u64,
}

impl FileCache {
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), files: Mutex::default() }
    }

    /// The open file of a content.
    pub fn get(&self, key: ContentKey) -> Option<Arc<File>> {
        let mut files = self.files.lock();
        files.clock += 1;
        let now = files.clock;
        let (file, used) = files.by_key.get_mut(&key)?;
        let file = file.clone();
        let before = std::mem::replace(used, now);
        files.by_use.remove(&before);
        files.by_use.insert(now, key);
        Some(file)
    }

    /// Remembers an open file. What it drives out is closed when its last reader is done.
    pub fn insert(&self, key: ContentKey, file: Arc<File>) {
        let mut dropped = Vec::new();
        let mut files = self.files.lock();
        files.clock += 1;
        let now = files.clock;
        if let Some((old, used)) = files.by_key.insert(key, (file, now)) {
            files.by_use.remove(&used);
            dropped.push(old);
        }
        files.by_use.insert(now, key);
        while files.by_key.len() > self.limit {
            let Some((_, oldest)) = files.by_use.pop_first() else { break };
            dropped.extend(files.by_key.remove(&oldest).map(|(file, _)| file));
        }
        drop(files);
        // Closing may take the local file system a while: not under the lock.
        drop(dropped);
    }

    /// Forgets a content's file.
    pub fn remove(&self, key: ContentKey) {
        let mut files = self.files.lock();
        let removed = files.by_key.remove(&key);
        if let Some((_, used)) = &removed {
            files.by_use.remove(used);
        }
        drop(files);
        drop(removed);
    }

    /// Descriptors held now.
    pub fn len(&self) -> usize {
        self.files.lock().by_key.len()
    }
}
