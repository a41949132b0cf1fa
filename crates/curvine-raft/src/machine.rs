//! What a state machine owes the log: the trait that `curvine-master` implements for the namespace.

use std::io::{Read, Write};

use curvine_proto::{Command, Outcome, Time};
use curvine_types::Result;

/// A deterministic machine that the log drives. No clock, no randomness and no I/O in [`apply`](Self::apply).
///
/// The replica keeps it in a `RwLock`: `apply` writes, everything else reads.
pub trait StateMachine: Send + Sync + Sized + 'static {
    /// Executes a committed command of an entry with the time `now`. One that fails says so in its outcome. It must take a
    /// bounded time, whatever it is about: the lock is held meanwhile.
    fn apply(&mut self, now: Option<Time>, command: &Command) -> Outcome;

    /// A view of the state as it is now, which later changes do not touch. Called under the lock: must be cheap.
    fn snapshot(&self) -> Box<dyn SnapshotSource>;

    /// The state that a written snapshot holds. The bytes have been verified. Takes as long as it takes: no lock is held.
    fn restored(reader: &mut dyn Read) -> Result<Self>;
}

/// A view of the state that can be written outside the lock, on another thread.
pub trait SnapshotSource: Send {
    /// Writes all of it; the replica adds framing and checksums.
    fn write_to(&self, writer: &mut dyn Write) -> std::io::Result<()>;
}
