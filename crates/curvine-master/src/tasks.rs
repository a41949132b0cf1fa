//! Loads, exports and frees: who runs them, how far they are, and how they end.
//!
//! Always: a task that the log has and that has not ended is done by whoever leads, from its beginning, since doing any of them twice
//! changes nothing; it is done when the log says so. What is counted in between is soft, and noted now and then for those who look.

mod export;
mod free;
mod glob;
mod load;
mod resync;
mod walk;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::{has_ended, is_task};
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    ControlJob, GetJobReply, GetJobRequest, Job, JobKind, JobState, MutateReply, NoteJob, SubmitJob, TaskFailure,
    TaskProgress, TaskSpec,
};
use curvine_types::limits::TASK_FAILURES_MAX;
use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::change::Numbered;
use crate::leader::Leader;

/// Tasks that are done at once; the others wait in the order of their numbers.
const TASKS_AT_ONCE: usize = 4;
/// How often the log is told how far a task is.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for the log.
const STEP: Duration = Duration::from_secs(30);
/// Pause before the end of a task is noted again.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait of one `GetJob` for the end.
const WAIT: Duration = Duration::from_secs(1);

/// The tasks of this leader.
pub(crate) struct Tasks {
    running: Mutex<HashMap<u64, Arc<Running>>>,
    changed: Notify,
    /// Raised when a task has ended.
    ended: watch::Sender<u64>,
    /// Names that are being looked for, or found and not yet dealt with.
    pub(crate) queued: AtomicUsize,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            changed: Notify::new(),
            ended: watch::Sender::new(0),
            queued: AtomicUsize::new(0),
        }
    }
}

impl Tasks {
    /// Tasks that are under way.
    pub(crate) fn running(&self) -> usize {
        self.running.lock().len()
    }
}

/// A task that is under way.
struct Running {
    run: u32,
    progress: Progress,
    abort: Mutex<Option<AbortHandle>>,
}

/// How far a task is.
#[derive(Default)]
pub(crate) struct Progress(Mutex<TaskProgress>);

impl Progress {
    fn edit(&self, edit: impl FnOnce(&mut TaskProgress)) {
        edit(&mut self.0.lock());
    }

    fn now(&self) -> TaskProgress {
        self.0.lock().clone()
    }

    fn failed(&self, path: &[u8], error: &Error) {
        self.edit(|progress| {
            progress.failed += 1;
            if progress.failures.len() < TASK_FAILURES_MAX {
                let failure = TaskFailure { path: Bytes::copy_from_slice(path), error: error.to_string() };
                progress.failures.push(failure);
            }
        });
    }
}

impl Leader {
    /// Does what the log says, for as long as this leads.
    pub(crate) async fn run_tasks(self: Arc<Self>) {
        let mut running = JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            match self.next_task().filter(|_| running.len() < TASKS_AT_ONCE) {
                Some(job) => {
                    let task =
                        Arc::new(Running { run: job.run, progress: Progress::default(), abort: Mutex::new(None) });
                    self.tasks.running.lock().insert(job.id, task.clone());
                    let handle = running.spawn(self.clone().run_task(job, task.clone()));
                    *task.abort.lock() = Some(handle);
                }
                None => tokio::select! {
                    () = self.tasks.changed.notified() => {}
                    Some(_) = running.join_next() => {}
                },
            }
        }
    }

    fn next_task(&self) -> Option<Job> {
        const PAGE: usize = 100;
        let mut after = 0;
        loop {
            let (tasks, end) = self.replica.state().read().0.tasks(after, PAGE);
            after = tasks.last().map_or(after, |job| job.id);
            let running = self.tasks.running.lock();
            let next = tasks.into_iter().find(|job| !has_ended(job) && !running.contains_key(&job.id));
            if next.is_some() || end {
                return next;
            }
        }
    }

    async fn run_task(self: Arc<Self>, job: Job, running: Arc<Running>) {
        let _leave = Leave { leader: &self, job: job.id };
        if !self.note(&job, JobState::Running, TaskProgress::default()).await {
            return;
        }
        tracing::info!(job = job.id, kind = job.kind().as_str_name(), "a job begins");
        let spec = job.spec.clone().unwrap_or_default();
        let mut noted = tokio::time::interval_at(Instant::now() + NOTE_EVERY, NOTE_EVERY);
        noted.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let work = self.do_task(job.kind(), &spec, &running.progress);
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => break,
                _ = noted.tick() => {
                    if !self.note(&job, JobState::Unknown, running.progress.now()).await {
                        return;
                    }
                }
            }
        }
        let progress = running.progress.now();
        tracing::info!(job = job.id, files = progress.files, failed = progress.failed, "a job has ended");
        let state = if progress.failed == 0 { JobState::Done } else { JobState::Partial };
        self.note(&job, state, progress).await;
    }

    async fn do_task(self: &Arc<Self>, kind: JobKind, spec: &TaskSpec, progress: &Progress) {
        match kind {
            JobKind::Load => self.load_trees(spec, progress).await,
            JobKind::Export => self.export_trees(spec, progress).await,
            JobKind::Free => self.free_trees(spec, progress).await,
            JobKind::Resync => self.resync_trees(spec, progress).await,
            JobKind::Upload | JobKind::Unknown => {}
        }
    }

    /// Tells the log, again until it answers. False: the task is no longer ours to do.
    async fn note(&self, job: &Job, state: JobState, progress: TaskProgress) -> bool {
        let noted = NoteJob { job: job.id, run: job.run, state: state as i32, progress: Some(progress) };
        loop {
            match self.internal(CommandBody::NoteJob(noted.clone()), Instant::now() + STEP).await {
                Ok(_) => return true,
                Err(error) if error.kind() == ErrorKind::Conflict => return false,
                Err(error) => {
                    tracing::warn!(job = job.id, %error, "how far a job is could not be noted, it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    pub(crate) async fn submit_job(&self, numbered: Numbered, submit: SubmitJob) -> Result<MutateReply> {
        let outcome = self.replica.propose(numbered.command(CommandBody::SubmitJob(submit))).await?;
        self.tasks.changed.notify_one();
        Ok(MutateReply { outcome: Some(outcome), ..MutateReply::default() })
    }

    /// Cancels a task, or has it done again. What a cancelled one has begun to move may still arrive.
    pub(crate) async fn control_job(&self, numbered: Numbered, control: ControlJob) -> Result<MutateReply> {
        let outcome = self.replica.propose(numbered.command(CommandBody::ControlJob(control))).await?;
        if outcome.error.is_none() && !control.retry {
            let running = self.tasks.running.lock().get(&control.job).cloned();
            if let Some(handle) = running.and_then(|running| running.abort.lock().take()) {
                handle.abort();
            }
            self.tasks.ended.send_modify(|count| *count += 1);
        }
        self.tasks.changed.notify_one();
        Ok(MutateReply { outcome: Some(outcome), ..MutateReply::default() })
    }

    /// A task as it is now: the log's word, with what is counted here.
    pub(crate) fn with_progress(&self, mut job: Job) -> Job {
        let running = self.tasks.running.lock().get(&job.id).cloned();
        if let Some(running) = running.filter(|running| running.run == job.run && !has_ended(&job)) {
            job.progress = Some(running.progress.now());
        }
        job
    }

    pub(crate) async fn get_job(&self, request: GetJobRequest, deadline: Instant) -> Result<GetJobReply> {
        let until = deadline.min(Instant::now() + WAIT);
        let mut ended = self.tasks.ended.subscribe();
        loop {
            let job = self.replica.state().read().0.job(request.job).filter(is_task).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no such job, see cv job list").with("job", request.job)
            })?;
            let job = self.with_progress(job);
            let is_over = has_ended(&job);
            if is_over || !request.wait || tokio::time::timeout_at(until, ended.changed()).await.is_err() {
                return Ok(GetJobReply { job: Some(job), ended: is_over });
            }
        }
    }
}

/// Takes a task out of the table, also when it is aborted.
struct Leave<'a> {
    leader: &'a Leader,
    job: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.leader.tasks.running.lock().remove(&self.job);
        self.leader.tasks.ended.send_modify(|count| *count += 1);
        self.leader.tasks.changed.notify_one();
    }
}
