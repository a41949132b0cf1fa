//! Workers going out of service, and contents moving from one worker to another.
//!
//! Always: nothing new is placed on a worker that is not in service; a content moves only while it is sealed, and its old copy is
//! garbage in the same moment.

use std::sync::Arc;

use curvine_proto::{MoveBlocks, Outcome, SetWorkerState, WorkerState};
use curvine_types::{ErrorKind, Result, WorkerId};

use crate::record::*;
use crate::state::{State, fail};
use crate::store::Store;

impl State {
    pub(super) fn set_worker_state(&mut self, command: &SetWorkerState) -> Result<Outcome> {
        let state = WorkerState::try_from(command.state).map_err(|_| {
            fail(ErrorKind::InvalidArgument, "an unknown state of a worker").with("state", command.state)
        })?;
        let worker = self
            .workers
            .get_mut(&command.worker)
            .ok_or_else(|| fail(ErrorKind::NotFound, "no such worker").with("worker", command.worker))?;
        worker.state = state;
        Ok(Outcome { id: command.worker, ..Outcome::default() })
    }

    /// A worker that new content may be placed on.
    pub(super) fn check_takes_content(&self, worker: WorkerId) -> Result<()> {
        match self.workers.get(&worker).map(|record| record.state) {
            Some(WorkerState::InService) => Ok(()),
            Some(_) => Err(fail(ErrorKind::Conflict, "the worker takes no content any more").with("worker", worker)),
            None => Err(fail(ErrorKind::InvalidArgument, "no such worker").with("worker", worker)),
        }
    }

    pub(super) fn move_blocks(&mut self, command: &MoveBlocks) -> Result<Outcome> {
        let MoveBlocks { inode: id, generation, epoch, from, to, version, new_version } = *command;
        let inode = self.file(id)?;
        let changed = |message| fail(ErrorKind::Conflict, message).with("inode", id);
        let placed = self.store.placed(id).filter(|_| inode.has(BLOCKS));
        let Some(Placed::Blocks(blocks)) = placed.as_deref() else {
            return Err(changed("the content is not in blocks"));
        };
        let here = self.grants.get(&id).map_or(0, |grant| grant.epoch);
        if inode.has(LIVE) || inode.content != generation || here != epoch {
            return Err(changed("the content was written since it was copied"));
        }
        let [extent] = blocks.extents.as_slice() else { return Err(changed("the content is in several pieces")) };
        if extent.version != version || extent.workers != [from] {
            return Err(changed("the content has moved already"));
        }
        if from == to || new_version <= version {
            return Err(fail(ErrorKind::InvalidArgument, "a content moves to another worker under a later version")
                .with("worker", to)
                .with("version", new_version));
        }
        self.check_takes_content(to)?;

        let extent = Extent { version: new_version, workers: vec![to], ..extent.clone() };
        let blocks = Blocks { extents: vec![extent], ..blocks.clone() };
        self.store.put_placed(id, Arc::new(Placed::Blocks(blocks)));
        self.garbage.insert((from, id, generation), ());
        // What an earlier move left there has been replaced.
        self.garbage.remove(&(to, id, generation));
        self.edit(id, |inode| inode.change += 1);
        Ok(self.content_outcome(id))
    }
}
