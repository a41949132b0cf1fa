//! Dropping what is cached of trees. Only of objects that their stores have, whole and unchanged: a file that waits for its upload is
//! not touched.

use std::time::Duration;

use bytes::Bytes;
use curvine_proto::layout::Kind;
use curvine_proto::{ContentId, FreeContentsReply, FreeContentsRequest, Method, TaskSpec};
use curvine_types::{Error, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Progress;
use super::walk::{Found, Look};
use crate::leader::Leader;

/// Files whose copies are dropped with one request to each worker.
const FILES_AT_ONCE: usize = 500;
/// Longest wait for a worker.
const STEP: Duration = Duration::from_secs(60);

impl Leader {
    pub(super) async fn free_trees(&self, spec: &TaskSpec, progress: &Progress) {
        let (sender, files) = mpsc::channel(FILES_AT_ONCE);
        let walk = self.walk(spec, Look::Known, progress, sender);
        tokio::join!(walk, self.free_files(files, progress));
        progress.edit(|now| now.walked = true);
    }

    async fn free_files(&self, mut files: mpsc::Receiver<Found>, progress: &Progress) {
        let mut batch = Vec::new();
        while files.recv_many(&mut batch, FILES_AT_ONCE).await > 0 {
            let (mut contents, mut own) = (Vec::new(), 0);
            let mut found = Vec::new();
            for file in batch.drain(..) {
                match &file.layout.kind {
                    Some(Kind::Ufs(_)) => {
                        let (inode, generation) = (file.attr.inode, file.layout.generation);
                        contents.push(ContentId { inode, generation, version: 0 });
                        found.push(file);
                    }
                    _ => own += 1,
                }
            }
            let bytes: u64 = found.iter().map(|file| file.attr.size).sum();
            progress.edit(|now| {
                now.own_files += own;
                now.found_files += found.len() as u64;
                now.found_bytes += bytes;
            });
            match self.free_contents(contents).await {
                Ok(freed) => progress.edit(|now| {
                    now.files += found.len() as u64;
                    now.bytes += bytes;
                    now.moved_bytes += freed;
                }),
                Err(error) => found.iter().for_each(|file| progress.failed(&file.path, &error)),
            }
        }
    }

    /// Copies may be anywhere. A worker that is away keeps its own until it needs the room.
    async fn free_contents(&self, contents: Vec<ContentId>) -> Result<u64> {
        let request = FreeContentsRequest { contents, older_ms: 0 };
        let deadline = Instant::now() + STEP;
        let asked = self.workers.live().into_iter().map(|worker| {
            let request = &request;
            async move {
                let freed: Result<FreeContentsReply> =
                    self.workers.call(worker, Method::FreeContents, request, Bytes::new(), deadline).await;
                freed.map_err(|error: Error| error.with("worker", worker))
            }
        });
        let freed = futures::future::try_join_all(asked).await?;
        Ok(freed.iter().map(|reply| reply.freed).sum())
    }
}
