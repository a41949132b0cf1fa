//! The master's part of `cv fsck`: whether the namespace is sound, and what it says that workers have.
//!
//! Always: works on a frozen copy of the state, which is made in constant time, so that nothing else waits for it.

use curvine_namespace::{Namespace, PlacedRecord};
use curvine_proto::{CheckNamespaceReply, ListPlacedReply, ListPlacedRequest, PlacedContent};
use curvine_types::{Error, ErrorKind, Result};

use crate::leader::Leader;

/// Most contents in one reply.
const PAGE_MAX: usize = 4096;

impl Leader {
    fn frozen(&self) -> Namespace {
        self.replica.state().read().0.frozen()
    }

    /// Walks the whole namespace; one such walk at a time.
    pub(crate) async fn check_namespace(&self) -> Result<CheckNamespaceReply> {
        let _one = self
            .checks
            .try_acquire()
            .map_err(|_| Error::new(ErrorKind::Busy, "the namespace is being checked already; wait for that to end"))?;
        let frozen = self.frozen();
        let inodes = frozen.counts().inodes;
        let checking = tokio::task::spawn_blocking(move || frozen.check());
        let checked = checking
            .await
            .map_err(|error| Error::new(ErrorKind::Internal, "the check was stopped").caused_by(error))?;
        let broken = checked.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(CheckNamespaceReply { broken, inodes })
    }

    pub(crate) fn list_placed(&self, request: ListPlacedRequest) -> ListPlacedReply {
        let frozen = self.frozen();
        if request.inode != 0 {
            let garbage = request.garbage.unwrap_or_default();
            return ListPlacedReply {
                contents: frozen.placed(request.inode).map(content).into_iter().collect(),
                end: true,
                is_garbage: frozen.is_garbage(garbage.inode, garbage.generation, garbage.worker),
            };
        }
        let limit = (request.limit as usize).clamp(1, PAGE_MAX);
        let records = frozen.placed_after(request.after, limit);
        let end = records.len() < limit;
        ListPlacedReply { contents: records.into_iter().map(content).collect(), end, is_garbage: false }
    }
}

fn content(record: PlacedRecord) -> PlacedContent {
    PlacedContent {
        inode: record.inode,
        generation: record.generation,
        version: record.version,
        workers: record.workers,
        size: record.size,
        live: record.live,
        path: record.path.unwrap_or_default().into(),
    }
}
