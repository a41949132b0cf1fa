//! The namespace as the state machine of the replicated log.

use std::io::{Read, Write};

use curvine_namespace::Namespace;
use curvine_proto::{Command, Outcome, Time};
use curvine_raft::{SnapshotSource, StateMachine};
use curvine_types::{ClusterId, Result};

/// What the log is applied to.
pub struct MetaState(pub Namespace);

struct Frozen(curvine_namespace::Snapshot);

impl SnapshotSource for Frozen {
    fn write_to(&self, writer: &mut dyn Write) -> std::io::Result<()> {
        self.0.write_to(writer)
    }
}

impl Default for MetaState {
    fn default() -> Self {
        Self(Namespace::new())
    }
}

impl curvine_raft::Salvage for MetaState {
    fn restore_remains(&mut self, reader: &mut dyn Read, cluster: ClusterId) -> Result<Vec<String>> {
        let (namespace, lost) = Namespace::restore_remains(reader, cluster)?;
        self.0 = namespace;
        Ok(lost)
    }

    fn repair(&mut self, lossy: bool) -> Vec<String> {
        self.0.repair(lossy)
    }
}

impl StateMachine for MetaState {
    fn apply(&mut self, now: Option<Time>, command: &Command) -> Outcome {
        self.0.apply_one(now, command)
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(Frozen(self.0.snapshot()))
    }

    fn restored(reader: &mut dyn Read) -> Result<Self> {
        Namespace::restore(reader).map(Self)
    }
}
