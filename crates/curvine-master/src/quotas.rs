//! Quotas in the background of a leader: counting what was below directories before they got one, and keeping the sizes of files that are
//! being written below them young.
//!
//! Always: the log says what is used; a file that grows on a worker is in it at the latest `ACCOUNT_EVERY` after it grew, as long as
//! its worker answers.

use std::time::Duration;

use curvine_namespace::QuotaRecord;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{CommitSize, CountQuotas, ListQuotasReply, ListQuotasRequest, QuotaInfo};
use curvine_types::{InodeId, Result};
use tokio::time::Instant;

use crate::leader::Leader;

/// Between two looks at what is still to be counted.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Inodes that one command counts.
const STEPS: u32 = 512;
/// Between two looks at live files.
const ACCOUNT_EVERY: Duration = Duration::from_secs(2);
/// Live files looked at in one round; the next round goes on behind them.
const ACCOUNTED: usize = 1000;
/// Longest wait of one step, in which the file that is looked at does not change hands.
const STEP: Duration = Duration::from_secs(2);

impl Leader {
    pub(crate) fn list_quotas(&self, request: &ListQuotasRequest) -> ListQuotasReply {
        let state = self.replica.state().read();
        let found = match request.inode {
            0 => state.0.quotas(),
            inode => state.0.quotas_above(inode),
        };
        ListQuotasReply { quotas: found.into_iter().map(info).collect() }
    }

    pub(crate) async fn keep_quotas(self: std::sync::Arc<Self>) {
        let (mut accounted, mut after) = (Instant::now(), 0);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (quotas, counting) = {
                let state = self.replica.state().read();
                (state.0.counts().quotas, state.0.uncounted_quotas())
            };
            if quotas == 0 {
                continue;
            }
            if counting > 0 {
                self.count_all().await;
            }
            if accounted.elapsed() >= ACCOUNT_EVERY {
                accounted = Instant::now();
                after = self.account_live(after).await;
            }
        }
    }

    async fn count_all(&self) {
        loop {
            let count = CommandBody::CountQuotas(CountQuotas { steps: STEPS });
            let counted = tokio::time::timeout(STEP, self.propose_for(0, count)).await;
            match counted {
                Ok(Ok(outcome)) if outcome.id > 0 => {}
                Ok(Ok(_)) => return,
                Ok(Err(error)) => return tracing::debug!(%error, "quotas are counted later"),
                Err(_) => return,
            }
        }
    }

    /// Commits the sizes of live files below quotas; the last one that was looked at, 0 at the end.
    async fn account_live(&self, after: InodeId) -> InodeId {
        let (page, grown) = {
            let state = self.replica.state().read();
            let page = state.0.live_inodes(after, ACCOUNTED);
            let counts = |inode: &InodeId| state.0.is_below_quota(*inode);
            let grown: Vec<InodeId> = page.iter().copied().filter(counts).collect();
            (page, grown)
        };
        for inode in grown {
            if let Err(error) = self.commit_live_size(inode, Instant::now() + STEP).await {
                tracing::debug!(inode, %error, "the size of a live file is not accounted yet");
            }
        }
        if page.len() < ACCOUNTED { 0 } else { page.last().copied().unwrap_or(0) }
    }
}

impl Leader {
    async fn commit_live_size(&self, inode: InodeId, deadline: Instant) -> Result<()> {
        let _lock = self.content_locks.lock(inode, deadline).await?;
        let (attr, grant) = {
            let state = self.replica.state().read();
            (state.0.attr(inode)?, state.0.grant(inode))
        };
        let fresh = self.fresh_attr(attr, deadline).await?;
        if !attr.live || !fresh.live || fresh.size == attr.size {
            return Ok(());
        }
        let commit = CommitSize {
            inode,
            generation: attr.generation,
            epoch: grant.map_or(0, |grant| grant.epoch),
            size: fresh.size,
            blocks: fresh.blocks,
            mtime: fresh.mtime,
            ctime: fresh.ctime,
            seal: false,
            with_writers: false,
        };
        self.internal(CommandBody::CommitSize(commit), deadline).await.map(drop)
    }
}

fn info(quota: QuotaRecord) -> QuotaInfo {
    QuotaInfo {
        inode: quota.inode,
        path: quota.path.into(),
        bytes: quota.bytes,
        files: quota.files,
        used_bytes: quota.used_bytes,
        used_files: quota.used_files,
        counting: quota.counting,
    }
}
