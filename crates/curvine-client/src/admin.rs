//! What operators ask: workers, reports, the mount table, where a file's bytes are, filling the cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    CheckKeysRequest, CheckMountReply, CheckMountRequest, ContentId, ContentMapReply, ContentMapRequest, ControlJob,
    FillReply, FillRequest, GetJobReply, GetJobRequest, GetLayoutReply, GetLayoutRequest, JobKind, ListJobsReply,
    ListJobsRequest, ListPinsReply, ListPinsRequest, ListQuotasReply, ListQuotasRequest, ListTtlsReply,
    ListTtlsRequest, ListWorkersReply, ListWorkersRequest, Method, MountTableReply, MountTableRequest, MountUfs,
    Outcome, PinInfo, QuotaInfo, ReportReply, ReportRequest, SetPin, SetQuota, SetTtl, SetWorkerState, SubmitJob,
    SurveyReply, TaskSpec, TtlInfo, UmountUfs, WorkerState, layout,
};
use curvine_types::{Error, ErrorKind, InodeId, ROOT_INODE, Result, WorkerId};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::core::{Core, Pause};
use crate::mutation::{Done, Touched};
use crate::workers::may_pass;
use crate::{FileSystem, home};

/// Blocks that one call has filled at once.
const FILLS_AT_ONCE: usize = 4;

impl FileSystem {
    /// The layout of a file as the master has it, inline data included.
    pub async fn layout(&self, inode: InodeId) -> Result<GetLayoutReply> {
        let request = |session| GetLayoutRequest { session, inode };
        let (reply, _) = self.core.ask(Method::GetLayout, request, self.core.deadline()).await?;
        Ok(reply)
    }

    /// What each worker holds of a file, with the worker's number; none for inline content.
    pub async fn content_map(&self, inode: InodeId) -> Result<Vec<(WorkerId, ContentMapReply)>> {
        self.content_maps(inode).await?.into_iter().map(|(worker, map)| Ok((worker, map?))).collect()
    }

    /// The same, where a worker that does not answer is an error of its own.
    pub async fn content_maps(&self, inode: InodeId) -> Result<Vec<(WorkerId, Result<ContentMapReply>)>> {
        let reply = self.layout(inode).await?;
        let Some(placed) = reply.layout else { return Ok(Vec::new()) };
        let mut holders: BTreeMap<WorkerId, ContentId> = BTreeMap::new();
        let deadline = self.core.deadline();
        let content = |version| ContentId { inode, generation: placed.generation, version };
        match &placed.kind {
            Some(layout::Kind::Blocks(blocks)) => {
                for extent in &blocks.extents {
                    holders.extend(extent.workers.iter().map(|worker| (*worker, content(extent.version))));
                }
            }
            Some(layout::Kind::Ufs(_)) => {
                let workers = self.core.workers.list(&self.core, deadline).await?;
                holders.extend(workers.iter().filter(|info| info.live).map(|info| (info.id, content(0))));
            }
            _ => {}
        }
        let asks = holders.into_iter().map(|(worker, content)| async move {
            let request = ContentMapRequest { content: Some(content) };
            (worker, self.core.workers.call(&self.core, worker, Method::ContentMap, &request, deadline).await)
        });
        let mut maps = futures::future::join_all(asks).await;
        // Who has another version, or a copy of none, holds nothing of it.
        maps.retain(|(_, map): &(WorkerId, Result<ContentMapReply>)| {
            !map.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::VersionMismatch | ErrorKind::NotFound))
        });
        Ok(maps)
    }

    /// The workers that the master knows.
    pub async fn workers(&self) -> Result<ListWorkersReply> {
        let (reply, _) = self.core.ask(Method::ListWorkers, |_| ListWorkersRequest {}, self.core.deadline()).await?;
        Ok(reply)
    }

    /// The state of the cluster.
    pub async fn report(&self) -> Result<ReportReply> {
        let (reply, _) = self.core.ask(Method::Report, |_| ReportRequest {}, self.core.deadline()).await?;
        Ok(reply)
    }

    /// The under file systems that are mounted.
    pub async fn mount_table(&self) -> Result<MountTableReply> {
        let (reply, _) = self.core.ask(Method::MountTable, |_| MountTableRequest {}, self.core.deadline()).await?;
        Ok(reply)
    }

    /// A change that no name or attribute shows.
    async fn order(&self, body: CommandBody) -> Result<Outcome> {
        let settle = |_: &Arc<Core>, done: Done| done.outcome;
        self.core.mutate(body, Touched::default(), self.core.deadline(), settle).await
    }

    /// Mounts an under file system; the number of the mount.
    pub async fn mount_ufs(&self, mount: MountUfs) -> Result<u64> {
        let core = &self.core;
        let settle = |core: &Arc<Core>, done: Done| {
            core.cache.doubt(&[ROOT_INODE]);
            done.outcome.id
        };
        core.mutate(CommandBody::MountUfs(mount), Touched::dirs([ROOT_INODE]), core.data_deadline(), settle).await
    }

    /// Has a worker look into a store as if it were mounted, or with the changes of an `update`.
    pub async fn check_mount(&self, mount: MountUfs) -> Result<()> {
        let request = |session| CheckMountRequest { session, mount: Some(mount.clone()) };
        let asked = self.core.ask::<_, CheckMountReply>(Method::CheckMount, request, self.core.data_deadline()).await;
        asked.map(|_| ())
    }

    /// Part of a search for keys that cannot be shown, below a directory of a mount; `after` and `files` are those of the part before.
    pub async fn check_keys(&self, path: &[u8], after: String, files: Vec<u32>, limit: u32) -> Result<SurveyReply> {
        let request = |session| CheckKeysRequest {
            session,
            path: bytes::Bytes::copy_from_slice(path),
            after: after.clone(),
            files: files.clone(),
            limit,
        };
        let (reply, _) = self.core.ask(Method::CheckKeys, request, self.core.data_deadline()).await?;
        Ok(reply)
    }

    /// Work that the log remembers, by numbers above `after`, of all mounts; with `tasks` only loads, exports and frees.
    pub async fn list_jobs(&self, after: u64, limit: u32, tasks: bool) -> Result<ListJobsReply> {
        let request = |_| ListJobsRequest { mount: 0, after, limit, tasks };
        let (reply, _) = self.core.ask(Method::ListJobs, request, self.core.deadline()).await?;
        Ok(reply)
    }

    /// Begins a load, export or free; its number, and whether it was not under way already.
    pub async fn submit_job(&self, kind: JobKind, spec: TaskSpec) -> Result<(u64, bool)> {
        let submit = SubmitJob { kind: kind as i32, spec: Some(spec) };
        let outcome = self.order(CommandBody::SubmitJob(submit)).await?;
        Ok((outcome.id, outcome.created))
    }

    /// How far a load, export or free is. `wait`: for its end, up to about a second.
    pub async fn job(&self, job: u64, wait: bool) -> Result<GetJobReply> {
        let request = |_| GetJobRequest { job, wait };
        let (reply, _) = self.core.ask(Method::GetJob, request, self.core.deadline()).await?;
        Ok(reply)
    }

    /// Cancels a load, export or free, or (`retry`) does one again that has ended.
    pub async fn control_job(&self, job: u64, retry: bool) -> Result<()> {
        self.order(CommandBody::ControlJob(ControlJob { job, retry })).await.map(drop)
    }

    /// Limits what may be below a directory, or lifts the limits.
    pub async fn set_quota(&self, quota: SetQuota) -> Result<()> {
        self.order(CommandBody::SetQuota(quota)).await.map(drop)
    }

    /// Sets how long what is below a directory, or a file, lives, or lifts that.
    pub async fn set_ttl(&self, ttl: SetTtl) -> Result<()> {
        self.order(CommandBody::SetTtl(ttl)).await.map(drop)
    }

    /// All times to live, or those of an inode and of what is above it, the nearest first: that one counts.
    pub async fn ttls(&self, inode: InodeId) -> Result<Vec<TtlInfo>> {
        let request = |_| ListTtlsRequest { inode };
        let (reply, _) = self.core.ask::<_, ListTtlsReply>(Method::ListTtls, request, self.core.deadline()).await?;
        Ok(reply.ttls)
    }

    /// Pins what workers have cached of a file, or of all below a directory, or lets it go.
    pub async fn set_pin(&self, pin: SetPin) -> Result<()> {
        self.order(CommandBody::SetPin(pin)).await.map(drop)
    }

    /// What is pinned.
    pub async fn pins(&self) -> Result<Vec<PinInfo>> {
        let (reply, _) =
            self.core.ask::<_, ListPinsReply>(Method::ListPins, |_| ListPinsRequest {}, self.core.deadline()).await?;
        Ok(reply.pins)
    }

    /// All quotas, or those of a directory and of what is above it, the nearest first.
    pub async fn quotas(&self, dir: InodeId) -> Result<Vec<QuotaInfo>> {
        let request = |_| ListQuotasRequest { inode: dir };
        let (reply, _) = self.core.ask::<_, ListQuotasReply>(Method::ListQuotas, request, self.core.deadline()).await?;
        Ok(reply.quotas)
    }

    /// Unmounts the under file system at a path.
    /// `force`: also while files wait to be uploaded, which are lost then.
    pub async fn umount_ufs(&self, path: &[u8], force: bool) -> Result<()> {
        let core = &self.core;
        let umount = UmountUfs { path: bytes::Bytes::copy_from_slice(path), force };
        let settle = |core: &Arc<Core>, _: Done| core.cache.doubt(&[ROOT_INODE]);
        core.mutate(CommandBody::UmountUfs(umount), Touched::dirs([ROOT_INODE]), core.data_deadline(), settle).await
    }

    /// Takes a worker out of service, or back into it. What only it has is moved away in the background.
    pub async fn set_worker_state(&self, worker: WorkerId, state: WorkerState) -> Result<()> {
        let set = SetWorkerState { worker, state: state.into() };
        self.order(CommandBody::SetWorkerState(set)).await.map(drop)
    }

    /// Fills a range of an under file system's object into the cache of its home workers; bytes that came from the store.
    /// 0 for files whose bytes Curvine holds itself.
    pub async fn fill(&self, inode: InodeId, offset: u64, length: u64) -> Result<u64> {
        let reply = self.layout(inode).await?;
        let Some(placed) = reply.layout else { return Ok(0) };
        let Some(layout::Kind::Ufs(ufs)) = &placed.kind else { return Ok(0) };
        let content = ContentId { inode, generation: placed.generation, version: 0 };
        let end = offset.saturating_add(length).min(ufs.size);
        let block_size = ufs.block_size.max(1);
        let blocks = (offset / block_size..end.div_ceil(block_size)).filter(|_| offset < end);
        let fills = stream::iter(blocks).map(|block| {
            let from = offset.max(block * block_size);
            let until = end.min((block + 1) * block_size);
            self.fill_block(content, block, from, until - from)
        });
        fills.buffer_unordered(FILLS_AT_ONCE).try_fold(0, |sum, fetched| async move { Ok(sum + fetched) }).await
    }

    async fn fill_block(&self, content: ContentId, block: u64, offset: u64, length: u64) -> Result<u64> {
        let core = &self.core;
        let deadline = core.data_deadline();
        let mut pause = Pause::new(deadline);
        loop {
            let workers = core.workers.list(core, deadline).await?;
            let home = home::ranked(crate::workers::homes(&workers), content.inode, block).first().copied();
            let error = match home {
                Some(home) => {
                    let request = FillRequest { content: Some(content), offset, length };
                    match core.workers.call::<_, FillReply>(core, home, Method::Fill, &request, deadline).await {
                        Ok(reply) => return Ok(reply.fetched),
                        Err(error) => error,
                    }
                }
                None => Error::new(ErrorKind::Unavailable, "no worker is alive"),
            };
            if error.kind() == ErrorKind::VersionMismatch || !may_pass(&error) {
                return Err(error);
            }
            pause.wait(error).await?;
        }
    }
}
