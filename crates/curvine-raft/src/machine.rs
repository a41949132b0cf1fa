//! What a state machine owes the log: the trait that `curvine-master` implements for the namespace.

use std::io::{Read, Write};

use curvine_proto::{CommandBatch, Outcome};
use curvine_types::Result;

/// A deterministic machine that the log drives. No clock, no randomness and no I/O in [`apply`](Self::apply).
///
/// The replica keeps it in a `RwLock`: `apply` and `restore` write, everything else reads.
pub trait StateMachine: Send + Sync + 'static {
    /// Executes committed commands in their order; one outcome for each, by position. A command that fails says so in its
    /// outcome. Large log entries come in several calls with the same `now`, so that the lock is held shortly.
    fn apply(&mut self, batch: &CommandBatch) -> Vec<Outcome>;

    /// A view of the state as it is now, which later changes do not touch. Called under the lock: must be cheap.
    fn snapshot(&self) -> Box<dyn SnapshotSource>;

    /// Replaces the whole state by a written snapshot. The bytes have been verified; an error leaves the state undefined,
    /// and the replica then does not use it.
    fn restore(&mut self, reader: &mut dyn Read) -> Result<()>;
}

/// A view of the state that can be written outside the lock, on another thread.
pub trait SnapshotSource: Send {
    /// Writes all of it; the replica adds framing and checksums.
    fn write_to(&self, writer: &mut dyn Write) -> std::io::Result<()>;
}
