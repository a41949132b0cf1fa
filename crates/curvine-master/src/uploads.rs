//! Dirty files on their way into their stores.
//!
//! Always: one upload of a key at a time; what is uploaded is sealed, or inline; a file is clean only after the log says so. An
//! upload that fails is tried again until it succeeds or the file is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::layout::Kind;
use curvine_proto::{
    Attr, ContentId, Empty, FlushToStoreReply, FlushToStoreRequest, Job, JobKind, JobState, ListJobsReply,
    ListJobsRequest, Method, MountInfo, NoteUploadRequest, ReleaseContentRequest, SetJob, StoreObjectReply,
    StoreObjectRequest, UfsCondition, UfsEntry, UfsObject, UfsStored,
};
use curvine_types::{Error, ErrorKind, InodeId, Result, WorkerId, home};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::mounts::ttl_of;
use crate::store_keys::StoreKeys;
use crate::trash::has_directories;

/// Uploads at once.
const UPLOADS_AT_ONCE: usize = 16;
/// Pause before a failed upload is tried again, doubled with each failure.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a turn at a key, and for steps that move no data.
const STEP: Duration = Duration::from_secs(60);
/// Slowest upload that is waited for, bytes a second.
const SLOWEST: u64 = 256 << 10;
/// Versions that the store is found to have instead of the expected one, in a row, before an upload fails.
const SURPRISES: usize = 4;
/// Attempts to store a file that is written meanwhile.
const ATTEMPTS: usize = 3;
/// How long before the deadline a caller is told to ask again.
const MARGIN: Duration = Duration::from_secs(1);
/// After a worker that may have sent a request was lost.
const SETTLE: Duration = Duration::from_secs(2);

type Flight = Shared<BoxFuture<'static, std::result::Result<(), curvine_proto::ErrorBody>>>;

/// What waits and what runs. Bounded by the number of dirty files.
#[derive(Default)]
pub(crate) struct Uploads {
    /// When each may be tried.
    waiting: Mutex<HashMap<InodeId, Instant>>,
    added: Notify,
    /// One change of a key of a store at a time, and none in a tree that is moved.
    pub(crate) keys: StoreKeys,
    /// What closes wait for.
    flights: Mutex<HashMap<InodeId, Flight>>,
    running: AtomicUsize,
}

impl Uploads {
    /// Uploads that are under way.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Relaxed)
    }

    fn add(&self, inode: InodeId, when: Instant) {
        self.waiting.lock().entry(inode).and_modify(|have| *have = (*have).min(when)).or_insert(when);
        self.added.notify_one();
    }
}

pub(crate) fn object_of(entry: &UfsEntry) -> UfsObject {
    let UfsEntry { key, directory, size, mtime, etag, .. } = entry.clone();
    UfsObject { key, directory, size, mtime, etag }
}

fn entry_of(object: UfsObject) -> UfsEntry {
    let UfsObject { key, directory, size, mtime, etag } = object;
    UfsEntry { name: Bytes::new(), directory, size, mtime, etag, key }
}

impl Leader {
    /// The file may be ready to be uploaded.
    pub(crate) fn upload_later(&self, inode: InodeId) {
        if self.replica.state().read().0.upload_of(inode).is_some() {
            self.uploads.add(inode, Instant::now());
        }
    }

    /// How long a lease on a dirty file may last.
    pub(crate) fn dirty_valid_ms(&self, attr: &Attr) -> Option<u64> {
        let state = self.replica.state().read();
        state.0.upload_of(attr.inode)?;
        let mount = state.0.mount(attr.mount)?;
        Some(ttl_of(&mount).as_millis() as u64).filter(|millis| *millis > 0)
    }

    /// Uploads what is ready, for as long as this leads.
    pub(crate) async fn upload_files(self: Arc<Self>) {
        const PAGE: usize = 1000;
        let mut after = 0;
        loop {
            let (jobs, end) = self.replica.state().read().0.jobs(0, after, PAGE);
            let uploads = jobs.iter().filter(|job| job.kind() == JobKind::Upload);
            uploads.for_each(|job| self.uploads.add(job.inode, Instant::now()));
            after = jobs.last().map_or(after, |job| job.id);
            if end {
                break;
            }
        }
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() >= UPLOADS_AT_ONCE {
                tasks.join_next().await;
            }
            while tasks.try_join_next().is_some() {}
            let (ready, next) = {
                let waiting = self.uploads.waiting.lock();
                let now = Instant::now();
                let ready = waiting.iter().find(|(_, when)| **when <= now).map(|(inode, _)| *inode);
                (ready, waiting.values().min().copied())
            };
            match ready {
                Some(inode) => {
                    self.uploads.waiting.lock().remove(&inode);
                    let leader = self.clone();
                    tasks.spawn(async move { leader.upload_now(inode).await });
                }
                None => {
                    let until = next.unwrap_or_else(|| Instant::now() + RETRY_MAX);
                    let _ = tokio::time::timeout_at(until, self.uploads.added.notified()).await;
                }
            }
        }
    }

    /// One attempt in the background, of a file that nobody writes.
    async fn upload_now(self: Arc<Self>, inode: InodeId) {
        let (live, writers) = {
            let state = self.replica.state().read();
            if state.0.upload_of(inode).is_none() {
                return;
            }
            let live = state.0.attr(inode).is_ok_and(|attr| attr.live);
            (live, state.0.grant(inode).is_some_and(|grant| !grant.writers.is_empty()))
        };
        if writers {
            // Its last close comes back here.
            return;
        }
        if live {
            return self.seal_later(inode);
        }
        match self.store_file(inode).await {
            Ok(true) => {}
            Ok(false) => self.seal_later(inode),
            Err(error) => {
                let attempts = self.replica.state().read().0.upload_of(inode).map_or(0, |job| job.attempts);
                let pause = RETRY.saturating_mul(1 << attempts.min(10)).min(RETRY_MAX);
                tracing::warn!(inode, %error, pause = pause.as_secs(), "file not uploaded, it is tried again");
                self.uploads.add(inode, Instant::now() + pause);
            }
        }
    }

    /// Has the store take a file as it is. `Ok(true)`: the store has it; `Ok(false)`: it is being written.
    pub(crate) async fn store_file(&self, inode: InodeId) -> Result<bool> {
        self.uploads.running.fetch_add(1, Relaxed);
        let stored = self.store_file_counted(inode).await;
        self.uploads.running.fetch_sub(1, Relaxed);
        if let Err(error) = &stored {
            let job = self.replica.state().read().0.upload_of(inode);
            if let Some(job) = job {
                let state = JobState::Failed as i32;
                let failed = SetJob { job: job.id, state, error: error.to_string(), ..SetJob::default() };
                // Only for those who look; the file is dirty all the same.
                let _ = self.internal(CommandBody::SetJob(failed), Instant::now() + STEP).await;
            }
        }
        stored
    }

    async fn store_file_counted(&self, inode: InodeId) -> Result<bool> {
        let mut surprise: Option<Option<UfsEntry>> = None;
        for _ in 0..SURPRISES {
            let Some(job) = self.replica.state().read().0.upload_of(inode) else { return Ok(true) };
            let mount = self.replica.state().read().0.mount(job.mount);
            if let Some(mount) = mount.filter(has_directories) {
                self.clear_below(&mount, &format!("{}/", job.key), Instant::now() + STEP).await?;
            }
            let _turn = self.uploads.keys.turn(job.mount, &job.key, Instant::now() + STEP).await?;
            let (job, attr, layout, grant, mount) = {
                let state = self.replica.state().read();
                let Some(now) = state.0.upload_of(inode).filter(|now| now.key == job.key) else { continue };
                let mount = state.0.mount(now.mount);
                (now, state.0.attr(inode)?, state.0.layout(inode, true)?, state.0.grant(inode), mount)
            };
            let mount = mount.ok_or_else(|| Error::new(ErrorKind::Stale, "unmounted").with("mount", job.mount))?;
            if attr.live {
                return Ok(false);
            }
            self.clear_key(&mount, &job.key, Instant::now() + STEP).await?;
            let (epoch, version, data) = match layout.kind {
                Some(Kind::Blocks(_)) => (grant.map_or(1, |grant| grant.epoch.max(1)), 1, Bytes::new()),
                Some(Kind::Inline(inline)) => (0, 0, inline.data),
                _ => return Ok(true),
            };
            let crc = curvine_rpc::crc32c(&data);
            let worker = self.uploader_of(inode, layout.generation, version)?;
            let base = surprise.take().unwrap_or_else(|| job.base.clone());
            let content = ContentId { inode, generation: layout.generation, version: worker.1 };
            let cluster = self.replica.state().read().0.cluster().unwrap_or_default();
            let token = format!("{cluster}-{inode}-{}-{epoch}-{crc:08x}", layout.generation);
            // Of these very bytes, what has arrived need not be sent again.
            let is_same = job.upload_token == token;
            let (resume, abort) =
                if is_same { (job.upload.clone(), String::new()) } else { (String::new(), job.upload.clone()) };
            let request = StoreObjectRequest {
                mount: mount.id,
                mount_change: mount.change,
                key: job.key.clone(),
                content: Some(content),
                epoch,
                size: attr.size,
                condition: Some(UfsCondition { absent: base.is_none(), present: base.as_ref().map(object_of) }),
                token,
                incarnation: self.incarnation,
                job: job.id,
                abort,
                resume,
            };
            let deadline = Instant::now() + STEP + Duration::from_secs(attr.size / SLOWEST);
            let sent: Result<StoreObjectReply> =
                self.workers.call(worker.0, Method::StoreObject, &request, data, deadline).await;
            let object = match sent {
                Ok(reply) => {
                    reply.entry.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a worker did not say what it stored"))?
                }
                Err(error) if error.kind() == ErrorKind::Conflict => return Ok(false),
                Err(error) if error.kind() == ErrorKind::VersionMismatch => {
                    surprise = Some(self.surprise(&mount, &job, error).await?);
                    continue;
                }
                Err(error) => {
                    if error.kind() == ErrorKind::ConnectionLost {
                        tokio::time::sleep(SETTLE).await;
                    }
                    return Err(error);
                }
            };
            let stored = UfsStored {
                job: job.id,
                generation: layout.generation,
                epoch,
                inline_crc: crc,
                entry: Some(entry_of(object)),
            };
            return self.note_stored(inode, &mount, stored, (worker.0, content)).await;
        }
        Err(Error::new(ErrorKind::Ufs, "the object changes in the store again and again").with("inode", inode))
    }

    /// A worker has begun an upload in parts: from now on whoever stores the file next gives it up first.
    pub(crate) async fn note_upload(&self, request: NoteUploadRequest, deadline: Instant) -> Result<()> {
        let NoteUploadRequest { job, incarnation, upload, token } = request;
        if incarnation != self.incarnation {
            return Err(Error::new(ErrorKind::Conflict, "the upload was ordered by an earlier leader"));
        }
        let noted = SetJob { job, upload: Some(upload), upload_token: token, ..SetJob::default() };
        self.internal(CommandBody::SetJob(noted), deadline).await.map(|_| ())
    }

    async fn note_stored(
        &self,
        inode: InodeId,
        mount: &MountInfo,
        stored: UfsStored,
        (worker, content): (WorkerId, ContentId),
    ) -> Result<bool> {
        let mut places = Vec::new();
        if content.version != 0 {
            places.push((worker, content));
            let now = self.uploader_of(inode, content.generation, content.version).ok();
            // It may have left the worker that has uploaded it.
            let elsewhere = now.filter(|(now, _)| *now != worker);
            places.extend(elsewhere.map(|(now, version)| (now, ContentId { version, ..content })));
        }
        let logged = tokio::time::timeout(STEP, self.propose_for(0, CommandBody::UfsStored(stored))).await;
        let logged = logged.map_err(|_| Error::new(ErrorKind::TimedOut, "the log does not answer in time"))?;
        let is_clean = match logged {
            Ok(outcome) => outcome.created,
            // Unlinked meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Stale) => return Ok(true),
            Err(error) => return Err(error),
        };
        if is_clean {
            self.ufs.stored(inode, mount);
            for (worker, content) in places {
                let request = ReleaseContentRequest { contents: vec![content] };
                let released: Result<Empty> = self
                    .workers
                    .call(worker, Method::ReleaseContent, &request, Bytes::new(), Instant::now() + STEP)
                    .await;
                if let Err(error) = released {
                    tracing::debug!(inode, worker, %error, "a stored content is released when the worker registers again");
                }
            }
        }
        Ok(is_clean)
    }

    /// Who uploads a file, and the version of its content there: the worker that has its blocks, or the home of what is inline.
    fn uploader_of(&self, inode: InodeId, generation: u64, version: u64) -> Result<(WorkerId, u64)> {
        if version == 0 {
            let home = home::ranked(self.lasting_workers(), inode, 0).first().copied();
            return home.map(|home| (home, 0)).ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "no worker is registered; start one with `curvine worker`")
            });
        }
        let layout = self.replica.state().read().0.layout(inode, false)?;
        let Some(Kind::Blocks(blocks)) = layout.kind.filter(|_| layout.generation == generation) else {
            return Err(Error::new(ErrorKind::Conflict, "the file has changed").with("inode", inode));
        };
        let extent = blocks.extents.first();
        let worker = extent.and_then(|extent| Some((*extent.workers.first()?, extent.version)));
        worker.ok_or_else(|| Error::new(ErrorKind::Internal, "a layout of blocks has no worker").with("inode", inode))
    }

    /// The store has something else than was known here: the last writer wins, and that is this file.
    async fn surprise(&self, mount: &MountInfo, job: &Job, error: Error) -> Result<Option<UfsEntry>> {
        let found = self.stat_in_store(mount, job.key.clone(), Instant::now() + STEP).await?;
        if found.as_ref().is_some_and(|found| found.directory) {
            return Err(Error::new(ErrorKind::IsADirectory, "the store has a directory where the file goes")
                .with("key", &job.key)
                .caused_by(error));
        }
        tracing::warn!(
            mount = mount.id,
            key = job.key,
            "the store has a version that nobody here has seen; it is replaced"
        );
        Ok(found.map(entry_of))
    }

    /// A descriptor of a file of a mount was closed.
    pub(crate) async fn flush_to_store(
        self: &Arc<Self>,
        request: FlushToStoreRequest,
        deadline: Instant,
    ) -> Result<FlushToStoreReply> {
        let FlushToStoreRequest { session, inode } = request;
        self.sessions.check(session)?;
        const DONE: FlushToStoreReply = FlushToStoreReply { done: true };
        let until = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        let (mine, flight) = loop {
            let waits = {
                let state = self.replica.state().read();
                let Some(job) = state.0.upload_of(inode) else { return Ok(DONE) };
                let others =
                    state.0.grant(inode).is_some_and(|grant| grant.writers.iter().any(|writer| *writer != session));
                let write_back =
                    state.0.mount(job.mount).and_then(|mount| mount.settings).is_some_and(|mount| mount.write_back);
                let attr = state.0.attr(inode)?;
                // An empty file is often one that is about to be written through another descriptor.
                !others && !write_back && (attr.live || attr.size > 0)
            };
            if !waits {
                return Ok(DONE);
            }
            let (mine, flight) = self.flight(inode);
            if mine {
                break (mine, flight);
            }
            // One that began before may have missed what was written since. The caller's own, if it has asked before, was left to
            // finish: its end is looked at here.
            match tokio::time::timeout_at(until, flight.clone()).await {
                Err(_) => return Ok(FlushToStoreReply { done: false }),
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(())) => {}
            }
        };
        debug_assert!(mine, "only an own flight says that all is stored");
        match tokio::time::timeout_at(until, flight).await {
            Err(_) => Ok(FlushToStoreReply { done: false }),
            Ok(Ok(())) => Ok(DONE),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// The flight of a file, and whether it begins only now.
    fn flight(self: &Arc<Self>, inode: InodeId) -> (bool, Flight) {
        let mut flights = self.uploads.flights.lock();
        if let Some(flight) = flights.get(&inode) {
            return (false, flight.clone());
        }
        let leader = self.clone();
        let task = tokio::spawn(async move {
            let flown = leader.flush_now(inode).await;
            leader.uploads.flights.lock().remove(&inode);
            flown.map_err(|error| curvine_proto::ErrorBody::from(&error))
        });
        let crashed = || Error::new(ErrorKind::Internal, "a task of the master failed");
        let flight = async move { task.await.unwrap_or_else(|_| Err((&crashed()).into())) }.boxed().shared();
        flights.insert(inode, flight.clone());
        (true, flight)
    }

    /// Has the store take a file now, with what was written until now.
    pub(crate) async fn store_now(self: &Arc<Self>, inode: InodeId) -> Result<()> {
        loop {
            let (mine, flight) = self.flight(inode);
            let flown = flight.await;
            if mine || self.replica.state().read().0.upload_of(inode).is_none() {
                return flown.map_err(Into::into);
            }
        }
    }

    async fn flush_now(&self, inode: InodeId) -> Result<()> {
        for _ in 0..ATTEMPTS {
            self.seal_if(inode, true, Instant::now() + STEP).await?;
            match self.store_file(inode).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    self.uploads.add(inode, Instant::now() + RETRY);
                    return Err(error);
                }
            }
        }
        // Whoever goes on writing closes it later.
        Ok(())
    }

    pub(crate) fn list_jobs(&self, request: ListJobsRequest) -> ListJobsReply {
        const MOST: u32 = 1000;
        let limit = request.limit.clamp(1, MOST) as usize;
        if request.tasks {
            let (tasks, end) = self.replica.state().read().0.tasks(request.after, limit);
            return ListJobsReply { jobs: tasks.into_iter().map(|job| self.with_progress(job)).collect(), end };
        }
        let (jobs, end) = self.replica.state().read().0.jobs(request.mount, request.after, limit);
        ListJobsReply { jobs, end }
    }
}
