//! Loads, exports and frees: work that an operator asks for and that the log remembers, also for a while after its end.
//!
//! Always: two undone tasks never have the same kind and spec; a task that has ended changes only by being done again.

use curvine_proto::{ControlJob, Job, JobKind, JobState, NoteJob, Outcome, SubmitJob, TaskProgress};
use curvine_types::limits::{TASK_FAILURES_MAX, TASK_PATHS_MAX, TASKS_ENDED_MAX, TASKS_UNDONE_MAX};
use curvine_types::{ErrorKind, Result};

use super::jobs::no_such_job;
use crate::state::{State, fail};

/// Longest text of a failure that is kept.
const FAILURE_MAX: usize = 500;

/// Whether a job is one that an operator asked for.
pub fn is_task(job: &Job) -> bool {
    matches!(job.kind(), JobKind::Load | JobKind::Export | JobKind::Free | JobKind::Resync)
}

/// Whether nothing more will be done for a task.
pub fn has_ended(job: &Job) -> bool {
    matches!(job.state(), JobState::Done | JobState::Partial | JobState::Cancelled)
}

impl State {
    /// The tasks, by their numbers. They write to no key of a store, so all are found under the empty one of no mount.
    pub fn tasks_after(&self, after: u64) -> impl Iterator<Item = &Job> {
        let all = self.job_keys.range(&(0, "".into(), after.saturating_add(1)));
        let all = all.take_while(|((mount, key, _), ())| *mount == 0 && key.is_empty());
        all.filter_map(|((.., id), ())| self.jobs.get(id).map(|job| &**job))
    }

    pub(super) fn submit_job(&mut self, command: &SubmitJob) -> Result<Outcome> {
        let spec = command.spec.clone().unwrap_or_default();
        let job = Job { kind: command.kind, spec: Some(spec), state: JobState::Waiting as i32, ..Job::default() };
        let paths = job.spec.as_ref().map(|spec| spec.paths.as_slice()).unwrap_or_default();
        if !is_task(&job) || paths.is_empty() || paths.iter().any(|path| path.first() != Some(&b'/')) {
            return Err(fail(ErrorKind::InvalidArgument, "a load, export, free or resync of absolute paths is wanted"));
        }
        let length = paths.iter().map(|path| path.len()).sum::<usize>();
        if length > TASK_PATHS_MAX {
            return Err(fail(ErrorKind::TooBig, "too many paths for one job, name directories above them")
                .with("have", length)
                .with("limit", TASK_PATHS_MAX));
        }
        let (mut undone, mut ended) = (0, Vec::new());
        for have in self.tasks_after(0) {
            if has_ended(have) {
                ended.push(have.id);
                continue;
            }
            if have.kind == job.kind && have.spec == job.spec {
                return Ok(Outcome { id: have.id, ..Outcome::default() });
            }
            undone += 1;
        }
        if undone >= TASKS_UNDONE_MAX {
            return Err(fail(ErrorKind::Overloaded, "too many jobs wait; see cv job list, and cv job cancel")
                .with("limit", TASKS_UNDONE_MAX));
        }
        let surplus = (ended.len() + 1).saturating_sub(TASKS_ENDED_MAX);
        for id in ended.into_iter().take(surplus) {
            self.remove_job(id);
        }
        let id = self.meta.next_job;
        self.meta.next_job += 1;
        let now = Some(self.meta.now.into());
        self.insert_job(Job { id, created: now, updated: now, ..job });
        Ok(Outcome { id, created: true, ..Outcome::default() })
    }

    fn task(&self, id: u64) -> Result<&Job> {
        self.jobs.get(&id).map(|job| &**job).filter(|job| is_task(job)).ok_or_else(|| no_such_job(id))
    }

    pub(super) fn note_job(&mut self, command: &NoteJob) -> Result<Outcome> {
        let job = self.task(command.job)?;
        if has_ended(job) || job.run != command.run {
            return Err(fail(ErrorKind::Conflict, "the job has ended").with("job", command.job));
        }
        self.edit_job(command.job, |job| {
            if command.state() != JobState::Unknown {
                job.state = command.state;
            }
            if let Some(progress) = &command.progress {
                job.progress = Some(bounded(progress.clone()));
            }
        });
        Ok(Outcome { id: command.job, ..Outcome::default() })
    }

    pub(super) fn control_job(&mut self, command: &ControlJob) -> Result<Outcome> {
        let job = self.task(command.job)?;
        match (command.retry, has_ended(job)) {
            (false, true) => return Err(fail(ErrorKind::Conflict, "the job has ended").with("job", command.job)),
            (true, false) => {
                return Err(fail(ErrorKind::Conflict, "the job has not ended yet").with("job", command.job));
            }
            _ => {}
        }
        if command.retry
            && let Some(same) =
                self.tasks_after(0).find(|have| !has_ended(have) && have.kind == job.kind && have.spec == job.spec)
        {
            return Err(fail(ErrorKind::Conflict, "another job does the same").with("job", same.id));
        }
        self.edit_job(command.job, |job| match command.retry {
            true => {
                job.state = JobState::Waiting as i32;
                job.run += 1;
                job.progress = None;
            }
            false => job.state = JobState::Cancelled as i32,
        });
        Ok(Outcome { id: command.job, ..Outcome::default() })
    }
}

fn bounded(mut progress: TaskProgress) -> TaskProgress {
    progress.failures.truncate(TASK_FAILURES_MAX);
    for failure in &mut progress.failures {
        if failure.error.len() > FAILURE_MAX {
            failure.error = failure.error.chars().take(FAILURE_MAX).collect();
        }
    }
    progress
}
