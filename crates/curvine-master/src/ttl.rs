//! What has lived long enough is removed, or its copies are dropped: the trees that have a time to live are walked again and again.
//!
//! Always: a walk goes page by page and keeps one position for each level; what is being written, or has changed since, lives on; a
//! removal goes the way of a client's, also through the trash.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::TtlRecord;
use curvine_proto::layout::Kind;
use curvine_proto::{
    Attr, ContentId, FileKind, FreeContentsReply, FreeContentsRequest, ListTtlsReply, ListTtlsRequest, Method, Time,
    TtlAction, TtlInfo, Unlink,
};
use curvine_types::{ErrorKind, InodeId, Result};
use tokio::time::Instant;

use crate::change::Numbered;
use crate::leader::Leader;
use crate::trash::millis;

/// How often it is looked whether a tree is to be walked.
const TICK: Duration = Duration::from_secs(1);
/// A tree is walked so often within its time to live.
const WALKS: u32 = 8;
/// Longest pause between two walks of a tree.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Names looked at in one hold of the lock.
const PAGE: usize = 500;
/// Longest wait for one file, or for the workers.
const STEP: Duration = Duration::from_secs(30);
/// Levels of directories that are walked.
const DEPTH_MAX: usize = 1000;

/// Files of one page whose time may be over.
#[derive(Default)]
struct Page {
    files: Vec<(Bytes, Attr)>,
    dirs: Vec<InodeId>,
    next: Option<u64>,
}

impl Leader {
    pub(crate) fn list_ttls(&self, request: &ListTtlsRequest) -> ListTtlsReply {
        let state = self.replica.state().read();
        let found = match request.inode {
            0 => state.0.ttls(),
            inode => state.0.ttls_above(inode),
        };
        let info = |ttl: TtlRecord| TtlInfo {
            inode: ttl.inode,
            path: ttl.path.into(),
            ttl_ms: ttl.millis,
            action: if ttl.delete { TtlAction::Delete } else { TtlAction::Free }.into(),
        };
        ListTtlsReply { ttls: found.into_iter().map(info).collect() }
    }

    /// Walks each tree that has a time to live some times within it.
    pub(crate) async fn keep_ttls(self: Arc<Self>) {
        let mut walked: HashMap<InodeId, Instant> = HashMap::new();
        loop {
            tokio::time::sleep(TICK).await;
            let ttls = self.replica.state().read().0.ttls();
            walked.retain(|inode, _| ttls.iter().any(|ttl| ttl.inode == *inode));
            for ttl in ttls {
                let pause = (Duration::from_millis(ttl.millis) / WALKS).clamp(TICK, PAUSE_MAX);
                if walked.get(&ttl.inode).is_some_and(|last| last.elapsed() < pause) {
                    continue;
                }
                if let Err(error) = self.walk_mortal(&ttl).await {
                    let path = String::from_utf8_lossy(&ttl.path);
                    tracing::debug!(%path, %error, "what has lived long enough is looked for later");
                }
                walked.insert(ttl.inode, Instant::now());
            }
        }
    }

    async fn walk_mortal(&self, ttl: &TtlRecord) -> Result<()> {
        let attr = self.attr_now(ttl.inode)?;
        if attr.kind() != FileKind::Directory {
            let place = self.replica.state().read().0.place_of(ttl.inode);
            let Some((parent, name)) = place else { return Ok(()) };
            return self.end_files(ttl, parent, vec![(name.into(), attr)]).await;
        }
        // The position in each directory from the top down, and what is to be visited below it.
        let mut way: Vec<(InodeId, Option<u64>, Vec<InodeId>)> = vec![(ttl.inode, Some(0), Vec::new())];
        while let Some((dir, after, below)) = way.last_mut() {
            if let Some(next) = below.pop() {
                if way.len() < DEPTH_MAX {
                    way.push((next, Some(0), Vec::new()));
                }
                continue;
            }
            let (dir, Some(from)) = (*dir, *after) else {
                way.pop();
                continue;
            };
            let page = self.mortal_page(dir, from);
            (*after, *below) = (page.next, page.dirs);
            self.end_files(ttl, dir, page.files).await?;
        }
        Ok(())
    }

    /// What a directory holds that has no time to live of its own; nothing, if it is gone.
    fn mortal_page(&self, dir: InodeId, after: u64) -> Page {
        let state = self.replica.state().read();
        let Ok((entries, end)) = state.0.readdir(dir, after, PAGE) else { return Page::default() };
        let mut page = Page { next: entries.last().map(|last| last.cookie).filter(|_| !end), ..Page::default() };
        for entry in entries {
            let Some(attr) = entry.attr else { continue };
            match attr.kind() {
                _ if state.0.has_ttl(attr.inode) => {}
                FileKind::Directory => page.dirs.push(attr.inode),
                FileKind::File => page.files.push((entry.name, attr)),
                _ => {}
            }
        }
        page
    }

    async fn end_files(&self, ttl: &TtlRecord, parent: InodeId, files: Vec<(Bytes, Attr)>) -> Result<()> {
        if !ttl.delete {
            return self.free_old(ttl, &files).await;
        }
        let limit = millis(Some(Time::now())).saturating_sub_unsigned(ttl.millis);
        for (name, attr) in files.into_iter().filter(|(_, attr)| millis(attr.mtime) <= limit && !attr.live) {
            let has_writers =
                self.replica.state().read().0.grant(attr.inode).is_some_and(|grant| !grant.writers.is_empty());
            if has_writers {
                continue;
            }
            let unlink = Unlink { parent, name, inode: attr.inode, ..Unlink::default() };
            let dir = self.attr_now(parent)?;
            match self.unlink_anywhere(&dir, Numbered::OWN, unlink, Instant::now() + STEP).await {
                Ok(reply) => {
                    if let Some(error) = reply.outcome.and_then(|outcome| outcome.error) {
                        tracing::warn!(inode = attr.inode, error = error.message, "not removed at the end of its time");
                    }
                }
                // Removed or replaced meanwhile.
                Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => {}
                Err(error) => {
                    tracing::warn!(inode = attr.inode, %error, "not removed at the end of its time, it is tried again")
                }
            }
        }
        Ok(())
    }

    /// Has the workers drop copies of objects that they have had for so long. What is pinned stays.
    async fn free_old(&self, ttl: &TtlRecord, files: &[(Bytes, Attr)]) -> Result<()> {
        let contents: Vec<ContentId> = {
            let state = self.replica.state().read();
            let object = |attr: &Attr| {
                let layout = state.0.layout(attr.inode, false).ok()?;
                let is_object = matches!(layout.kind, Some(Kind::Ufs(_))) && !state.0.is_pinned(attr.inode);
                is_object.then_some(ContentId { inode: attr.inode, generation: layout.generation, version: 0 })
            };
            files.iter().filter_map(|(_, attr)| object(attr)).collect()
        };
        if contents.is_empty() {
            return Ok(());
        }
        let request = FreeContentsRequest { contents, older_ms: ttl.millis };
        for worker in self.workers.live() {
            let freed: Result<FreeContentsReply> =
                self.workers.call(worker, Method::FreeContents, &request, Bytes::new(), Instant::now() + STEP).await;
            if let Err(error) = freed {
                tracing::debug!(worker, %error, "copies at the end of their time are dropped later");
            }
        }
        Ok(())
    }
}
