//! Bringing dirty files of trees into their stores now.

use std::time::Duration;

use curvine_proto::TaskSpec;
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use tokio::sync::mpsc;

use super::Progress;
use super::walk::{Found, Look};
use crate::leader::Leader;

/// Files that are uploaded at once.
const UPLOADS_AT_ONCE: usize = 16;
/// Files that were found and wait for their turn.
const FOUND_MAX: usize = 256;
/// Longest wait for one file, and the slowest upload that is waited for, bytes a second.
const STEP: Duration = Duration::from_secs(120);
const SLOWEST: u64 = 128 << 10;

impl Leader {
    pub(super) async fn export_trees(self: &Arc<Self>, spec: &TaskSpec, progress: &Progress) {
        let (sender, files) = mpsc::channel(FOUND_MAX);
        let walk = self.walk(spec, Look::Known, progress, sender);
        tokio::join!(walk, self.export_files(files, progress));
        progress.edit(|now| now.walked = true);
    }

    async fn export_files(self: &Arc<Self>, mut files: mpsc::Receiver<Found>, progress: &Progress) {
        let mut uploads = FuturesUnordered::new();
        let mut open = true;
        while open || !uploads.is_empty() {
            tokio::select! {
                Some((found, uploaded)) = uploads.next() => settle(progress, &found, uploaded),
                found = files.recv(), if open && uploads.len() < UPLOADS_AT_ONCE => match found {
                    Some(found) => {
                        if found.attr.mount == 0 {
                            progress.edit(|now| now.own_files += 1);
                            continue;
                        }
                        progress.edit(|now| {
                            now.found_files += 1;
                            now.found_bytes += found.attr.size;
                        });
                        uploads.push(async { let done = self.export_file(&found).await; (found, done) });
                    }
                    None => open = false,
                },
            }
        }
    }

    /// Bytes that had to be uploaded.
    async fn export_file(self: &Arc<Self>, found: &Found) -> Result<u64> {
        let inode = found.attr.inode;
        if self.replica.state().read().0.upload_of(inode).is_none() {
            return Ok(0);
        }
        let patience = STEP + Duration::from_secs(found.attr.size / SLOWEST);
        let late = |_| Err(Error::new(ErrorKind::TimedOut, "the file is not in its store yet; its upload goes on"));
        tokio::time::timeout(patience, self.store_now(inode)).await.unwrap_or_else(late)?;
        if self.replica.state().read().0.upload_of(inode).is_some() {
            return Err(Error::new(ErrorKind::Busy, "the file is being written; it is stored when it is closed"));
        }
        match self.replica.state().read().0.attr(inode) {
            // As large as it is now: it may have been written meanwhile.
            Ok(attr) => Ok(attr.size),
            Err(_) => Ok(found.attr.size),
        }
    }
}

fn settle(progress: &Progress, found: &Found, uploaded: Result<u64>) {
    match uploaded {
        Ok(bytes) => progress.edit(|now| {
            now.files += 1;
            now.bytes += found.attr.size;
            now.moved_bytes += bytes;
        }),
        // Removed meanwhile.
        Err(error) if error.kind() == ErrorKind::Stale => progress.edit(|now| now.files += 1),
        Err(error) => progress.failed(&found.path, &error),
    }
}
