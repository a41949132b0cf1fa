//! What the kernel tells a supervisor.

use curvine_types::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Stop,
    ChildEnded,
}

/// The signals that a supervisor does not die of.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).map_err(|source| Error::from_io(source, "cannot catch signals"));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            child: catch(SignalKind::child())?,
        })
    }

    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.child.recv() => Told::ChildEnded,
        }
    }
}
