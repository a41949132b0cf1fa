//! Work that the log remembers: above all the uploads that dirty files wait for.
//!
//! Always: a file has `DIRTY` if and only if there is one upload of its inode, and only while it has a name; `uploads` and
//! `job_keys` name each job that is in `jobs`, and no other.

use std::sync::Arc;

use curvine_proto::{Job, JobKind, JobState, Outcome, SetJob, UfsEntry};
use curvine_types::{ErrorKind, InodeId, MountId, Result};

use crate::record::*;
use crate::state::{State, fail};
use crate::store::Store;

/// Longest text of an error that is kept.
const ERROR_MAX: usize = 500;

impl State {
    /// Remembers a job that is not there yet, as it is or as a snapshot has it.
    pub fn insert_job(&mut self, job: Job) -> bool {
        let id = job.id;
        if job.kind() == JobKind::Upload {
            self.uploads.insert(job.inode, id);
        }
        self.job_keys.insert((job.mount, job.key.as_str().into(), id), ());
        self.jobs.insert(id, Arc::new(job)).is_none()
    }

    pub(super) fn remove_job(&mut self, id: u64) -> Option<Arc<Job>> {
        let job = self.jobs.remove(&id)?;
        self.job_keys.remove(&(job.mount, job.key.as_str().into(), id));
        if job.kind() == JobKind::Upload {
            self.uploads.remove(&job.inode);
        }
        Some(job)
    }

    /// Changes a job; its key may change too.
    pub(super) fn edit_job(&mut self, id: u64, edit: impl FnOnce(&mut Job)) {
        let Some(job) = self.remove_job(id) else { return };
        let mut job = Job::clone(&job);
        edit(&mut job);
        job.updated = Some(self.meta.now.into());
        self.insert_job(job);
    }

    /// The upload that a dirty inode waits for.
    pub fn upload_of(&self, inode: InodeId) -> Option<&Arc<Job>> {
        self.jobs.get(self.uploads.get(&inode)?)
    }

    /// A file has become dirty; `base` is what the store has under its key.
    pub(super) fn begin_upload(&mut self, inode: InodeId, mount: MountId, key: String, base: Option<UfsEntry>) {
        let id = self.meta.next_job;
        self.meta.next_job += 1;
        let now = Some(self.meta.now.into());
        self.insert_job(Job {
            id,
            kind: JobKind::Upload as i32,
            mount,
            key,
            inode,
            state: JobState::Waiting as i32,
            created: now,
            updated: now,
            base,
            ..Default::default()
        });
    }

    /// As `begin_upload`, of a file that is an object. One without a name is from now on no file of its mount.
    pub(super) fn begin_upload_over(&mut self, id: InodeId, inode: &Inode) {
        let has_name = inode.nlink > 0;
        if has_name && let Some(Placed::Ufs(object)) = self.store.placed(id).as_deref() {
            let (mount, key, base) = (object.mount, object.key.to_string(), entry_of(object));
            self.begin_upload(id, mount, key, Some(base));
        }
        self.edit(id, |inode| {
            inode.set(UFS, has_name);
            inode.set(DIRTY, has_name);
        });
    }

    /// The file needs no upload any more. Its flag is the caller's business.
    pub fn end_upload(&mut self, inode: InodeId) {
        if let Some(id) = self.uploads.get(&inode).copied() {
            self.remove_job(id);
        }
    }

    /// A dirty file has lost its last name: it is no longer of its mount, and lives on as any other file for those who have it open.
    pub fn detach(&mut self, id: InodeId, inode: &Inode) {
        if inode.has(DIRTY) {
            self.end_upload(id);
            self.edit(id, |inode| inode.set(UFS | DIRTY, false));
        }
    }

    /// The jobs of a mount.
    pub fn jobs_of(&self, mount: MountId) -> impl Iterator<Item = u64> {
        let all = self.job_keys.range(&(mount, "".into(), 0));
        all.take_while(move |((have, ..), ())| *have == mount).map(|((.., id), ())| *id)
    }

    /// Whether any job writes to a key that begins so.
    pub fn has_jobs_below(&self, mount: MountId, prefix: &str) -> bool {
        let first = self.job_keys.first_from(&(mount, prefix.into(), 0));
        first.is_some_and(|((have, key, _), ())| *have == mount && key.starts_with(prefix))
    }

    /// The number of the next change of a store.
    pub(super) fn next_store(&mut self) -> u64 {
        self.meta.stores += 1;
        self.meta.stores
    }

    pub(super) fn set_job(&mut self, command: &SetJob) -> Result<Outcome> {
        if !self.jobs.contains(&command.job) {
            return Err(no_such_job(command.job));
        }
        let state = command.state();
        self.edit_job(command.job, |job| {
            if state != JobState::Unknown {
                job.state = state as i32;
            }
            if let Some(upload) = &command.upload {
                job.upload = upload.clone();
                job.upload_token = command.upload_token.clone();
            }
            if !command.error.is_empty() {
                job.attempts = job.attempts.saturating_add(1);
                job.error = command.error.chars().take(ERROR_MAX).collect();
            }
        });
        Ok(Outcome { id: command.job, ..Outcome::default() })
    }
}

pub(super) fn no_such_job(id: u64) -> curvine_types::Error {
    fail(ErrorKind::Conflict, "there is no such job any more").with("have", id)
}

/// An object as it is told.
pub(super) fn entry_of(object: &UfsObject) -> UfsEntry {
    UfsEntry {
        size: object.size,
        mtime: Some(object.mtime.into()),
        etag: object.etag.to_string(),
        key: object.key.to_string(),
        ..Default::default()
    }
}
