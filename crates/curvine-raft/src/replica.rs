//! The replica: the one handle that the master holds.

use std::path::Path;
use std::sync::Arc;

use curvine_proto::{Command, Outcome};
use curvine_types::{ClusterId, Result};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{LeaderState, NodeFile, Options, StateMachine, Status};

/// One member of the replicated log with its state machine. Clones share it.
pub struct Replica<S> {
    state: Arc<RwLock<S>>,
}

impl<S> Clone for Replica<S> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone() }
    }
}

impl<S: StateMachine> Replica<S> {
    /// Starts the replica in a directory made by `create`: newest good snapshot, then the log. Alone it leads when
    /// this returns.
    pub async fn open(_options: Options, _machine: S) -> Result<Self> {
        todo!()
    }

    /// The state machine, to be read under its lock; keep holds short.
    pub fn state(&self) -> &Arc<RwLock<S>> {
        &self.state
    }

    /// Makes the command durable on a quorum, applies it and returns its outcome. Errors mean that it was not executed, except
    /// `TimedOut`: unknown. `Outcome.error` is the command's own error.
    pub async fn propose(&self, _command: Command) -> Result<Outcome> {
        todo!()
    }

    /// Returns when everything that was acknowledged anywhere before the call is in the local state.
    pub async fn read_barrier(&self) -> Result<()> {
        todo!()
    }

    /// Who leads now.
    pub fn leader(&self) -> LeaderState {
        todo!()
    }

    /// Changes of who leads.
    pub fn leader_changes(&self) -> watch::Receiver<LeaderState> {
        todo!()
    }

    /// The number of the present leadership of this replica, 0 when it does not lead. Rises with every leadership of any replica
    /// and with every start of the process.
    pub fn incarnation(&self) -> u64 {
        todo!()
    }

    /// Gauges and state.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Takes a snapshot now; returns when it is durable.
    pub async fn snapshot_now(&self) -> Result<()> {
        todo!()
    }

    /// Stops: waiting proposals fail, files are closed.
    pub async fn shutdown(&self) {
        todo!()
    }

    /// First initialisation of a directory: a node file with the cluster's id and a new random node id. Refuses a directory that
    /// is not empty.
    pub fn create(_dir: &Path, _cluster: ClusterId) -> Result<NodeFile> {
        todo!()
    }

    /// The identity of a directory; `None` if it holds no replica yet.
    pub fn exists(_dir: &Path) -> Result<Option<NodeFile>> {
        todo!()
    }
}
