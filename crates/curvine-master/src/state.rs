//! The namespace as the state machine of the replicated log.

use std::io::{Read, Write};

use curvine_namespace::Namespace;
use curvine_proto::{CommandBatch, Outcome};
use curvine_raft::{SnapshotSource, StateMachine};
use curvine_types::Result;

/// What the log is applied to.
pub struct MetaState(pub Namespace);

struct Frozen(curvine_namespace::Snapshot);

impl SnapshotSource for Frozen {
    fn write_to(&self, writer: &mut dyn Write) -> std::io::Result<()> {
        self.0.write_to(writer)
    }
}

impl StateMachine for MetaState {
    fn apply(&mut self, batch: &CommandBatch) -> Vec<Outcome> {
        self.0.apply(batch)
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(Frozen(self.0.snapshot()))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> Result<()> {
        self.0 = Namespace::restore(reader)?;
        Ok(())
    }
}
