//! The state machine's public face: commands go in here, and readers start here.
//!
//! Always: the same batches in the same order lead to the same state and the same outcomes, on every machine and in every
//! build that reads the log; no input makes it panic.

use std::io::Read;

use curvine_proto::{Command, CommandBatch, ErrorBody, Outcome, Time};
use curvine_types::{ClusterId, Error, ErrorKind, Result};

use curvine_proto::command::Body;

use crate::api::{Counts, ResultLookup};
use crate::snapshot::Snapshot;
use crate::stamp::Stamp;
use crate::state::{State, fail};
use crate::store::Store;

/// The metadata of one cluster.
#[derive(Default)]
pub struct Namespace {
    pub(crate) state: State,
}

impl Namespace {
    /// The state before the first command of a log: only `InitCluster` succeeds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one log entry; one outcome for each command, in order.
    ///
    /// A command of a session (not 0) is applied once: again, it has the outcome that is kept. A `Conflict` is not kept: the
    /// master has looked things up that were outdated, and tries again under the same number. Number 0 stands for what the
    /// master does on its own for a session.
    pub fn apply(&mut self, batch: &CommandBatch) -> Vec<Outcome> {
        batch.commands.iter().map(|command| self.apply_one(batch.now, command)).collect()
    }

    /// Applies one command of a log entry that has this time. No command takes long, whatever it is about.
    pub fn apply_one(&mut self, now: Option<Time>, command: &Command) -> Outcome {
        if let Some(now) = now {
            self.state.meta.now = self.state.meta.now.max(Stamp::from(now));
        }
        let is_first = matches!(command.body, Some(Body::InitCluster(_)));
        if self.state.meta.cluster.is_none() && !is_first {
            return refused(fail(ErrorKind::Unavailable, "the cluster is not initialised"));
        }
        let (session, sequence) = (command.session, command.sequence);
        if session == 0 {
            return self.execute(command);
        }
        if sequence == 0 {
            return match self.state.is_alive(session) {
                true => self.execute(command),
                false => refused(fail(ErrorKind::SessionExpired, "the session has ended").with("session", session)),
            };
        }
        match self.state.advance_window(session, sequence, command.lowest_unacked) {
            Ok(ResultLookup::New) => {}
            Ok(ResultLookup::Known(outcome)) => return outcome,
            Ok(ResultLookup::Forgotten) => {
                let error = fail(ErrorKind::TimedOut, "the outcome of this command is no longer kept");
                return refused(error.with("session", session));
            }
            Ok(ResultLookup::NoSession) => {
                return refused(fail(ErrorKind::SessionExpired, "the session has ended").with("session", session));
            }
            Err(error) => return refused(error),
        }
        let outcome = self.execute(command);
        let is_conflict = outcome.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Conflict.code());
        if !is_conflict {
            self.state.keep_result(session, sequence, &outcome);
        }
        outcome
    }

    fn execute(&mut self, command: &Command) -> Outcome {
        let result = match &command.body {
            Some(body) => self.state.execute(command.session, body),
            None => Err(fail(ErrorKind::NotSupported, "a command of a newer version")),
        };
        result.unwrap_or_else(refused)
    }

    /// The cluster's identity; `None` before the first command.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.state.meta.cluster
    }

    /// Which formats and commands all members know.
    pub fn feature_level(&self) -> u32 {
        self.state.meta.feature_level
    }

    /// The time of the last batch.
    pub fn now(&self) -> Time {
        self.state.meta.now.into()
    }

    /// What is known about a command of a session.
    pub fn result(&self, session: u64, sequence: u64) -> ResultLookup {
        self.state.result(session, sequence)
    }

    /// A copy that later commands do not change, in constant time.
    pub fn frozen(&self) -> Namespace {
        Namespace { state: self.state.clone() }
    }

    /// Freezes the state, in constant time.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { state: self.state.clone() }
    }

    /// Reads what [`Snapshot::write_to`] wrote. `Corrupt` (damaged) and `Foreign` (not ours, or newer) name section and offset.
    pub fn restore(reader: &mut dyn Read) -> Result<Namespace> {
        Ok(Namespace { state: crate::snapshot::restore(reader)? })
    }

    /// Reads what is left of a damaged snapshot, with a list in words of what is missing. To be followed by [`repair`](Self::repair).
    pub fn restore_remains(reader: &mut dyn Read, cluster: ClusterId) -> Result<(Namespace, Vec<String>)> {
        let remains = crate::snapshot::restore_lenient(reader, cluster)?;
        Ok((Namespace { state: remains.state }, remains.lost))
    }

    /// Makes a state with holes whole again, so that [`check`](Self::check) holds; what was done, in words.
    /// `lossy`: commands or records are missing.
    pub fn repair(&mut self, lossy: bool) -> Vec<String> {
        if !lossy && self.check().is_ok() {
            return Vec::new();
        }
        self.state.repair(lossy)
    }

    /// Verifies every invariant of the state, by walking all of it; for tests and for a doubting operator.
    pub fn check(&self) -> Result<()> {
        self.state.check()
    }

    /// Numbers for reports and gauges, in constant time.
    pub fn counts(&self) -> Counts {
        let state = &self.state;
        let tally = state.meta.tally;
        Counts {
            inodes: state.store.inode_count() as u64,
            files: tally.files,
            directories: tally.directories,
            symlinks: tally.symlinks,
            specials: tally.specials,
            bytes: tally.bytes,
            inline_bytes: tally.inline_bytes,
            dentries: state.store.dentry_count() as u64,
            xattrs: state.store.xattr_count() as u64,
            sessions: state.sessions.len() as u64,
            sessions_ending: state.ending.len() as u64,
            results: state.results.len() as u64,
            locked_inodes: state.locks.len() as u64,
            grants: state.grants.len() as u64,
            live: state.live.len() as u64,
            orphan_holds: state.orphans.len() as u64,
            workers: state.workers.len() as u64,
            mounts: state.mounts.len() as u64,
            garbage: state.garbage.len() as u64,
            doomed: state.doomed.len() as u64,
            jobs: state.jobs.len() as u64,
            quotas: state.quotas.len() as u64,
            trash: state.trash.len() as u64,
        }
    }
}

fn refused(error: Error) -> Outcome {
    Outcome { error: Some(ErrorBody::from(&error)), ..Outcome::default() }
}
