//! What is answered whatever happens to the cluster: `statfs` and the root's attributes.
//!
//! Always: nobody waits here for the cluster longer than the root timeout, and while the last attempt failed, nobody waits
//! at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curvine_fuse_abi::kernel::StatfsOut;
use curvine_proto::{Attr, FileKind, StatFsReply, Time};
use curvine_types::InodeId;
use curvine_types::limits::NAME_MAX;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::backend::Backend;

/// How long the kernel may believe what we only remember.
const REMEMBERED_TTL: Duration = Duration::from_secs(1);
/// The unit of `statfs`.
const BLOCK: u64 = 4096;

/// The last known answers.
#[derive(Debug)]
pub struct Memory {
    statfs: Mutex<StatFsReply>,
    root: Mutex<Attr>,
    reachable: AtomicBool,
    stale: Notify,
}

impl Memory {
    /// Knows nothing yet: an empty file system with a root that all may look into.
    pub fn new(root: InodeId) -> Self {
        let now = Some(Time::now());
        let made_up = Attr {
            inode: root,
            kind: FileKind::Directory.into(),
            mode: 0o755,
            nlink: 2,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        };
        Self {
            statfs: Mutex::default(),
            root: Mutex::new(made_up),
            reachable: AtomicBool::new(true),
            stale: Notify::new(),
        }
    }

    /// The answer to STATFS, at once.
    pub fn statfs(&self) -> StatfsOut {
        let known = *self.statfs.lock();
        let free_inodes = known.free_files.unwrap_or(u64::from(u32::MAX));
        StatfsOut {
            blocks: known.capacity / BLOCK,
            bfree: known.available / BLOCK,
            bavail: known.available / BLOCK,
            files: known.inodes + free_inodes,
            ffree: free_inodes,
            bsize: BLOCK as u32,
            namelen: NAME_MAX as u32,
            frsize: BLOCK as u32,
            ..StatfsOut::default()
        }
    }

    /// The root's attributes as last known.
    pub fn known_root(&self) -> Attr {
        *self.root.lock()
    }

    /// The root's attributes: from the cache, else from the cluster if it answers soon, else as last known.
    pub async fn root_attr<B: Backend>(&self, backend: &B, root: InodeId, patience: Duration) -> (Attr, Duration) {
        if let Some((attr, ttl)) = backend.try_getattr(root) {
            return (attr, ttl);
        }
        if self.reachable.load(Ordering::Relaxed)
            && let Some(answer) = self.ask_root(backend, root, patience).await
        {
            return answer;
        }
        // Whoever refreshes what is known need not wait for the next time.
        self.stale.notify_one();
        (*self.root.lock(), REMEMBERED_TTL)
    }

    /// Asks the cluster for what should be known, within `patience`. False if it did not answer.
    pub async fn refresh<B: Backend>(&self, backend: &B, root: InodeId, patience: Duration) -> bool {
        let statfs = tokio::time::timeout(patience, backend.statfs(root));
        let (statfs, root) = tokio::join!(statfs, self.ask_root(backend, root, patience));
        if let Ok(Ok(reply)) = statfs {
            *self.statfs.lock() = reply;
        }
        root.is_some()
    }

    /// Returns when somebody was given what may be out of date.
    pub async fn is_stale(&self) {
        self.stale.notified().await;
    }

    async fn ask_root<B: Backend>(&self, backend: &B, root: InodeId, patience: Duration) -> Option<(Attr, Duration)> {
        let answer = tokio::time::timeout(patience, backend.getattr(root)).await;
        self.reachable.store(matches!(answer, Ok(Ok(_))), Ordering::Relaxed);
        let (attr, ttl) = answer.ok()?.ok()?;
        *self.root.lock() = attr;
        Some((attr, ttl))
    }
}
