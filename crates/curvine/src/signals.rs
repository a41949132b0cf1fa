//! SIGTERM and Ctrl-C ask for a clean stop; a second one ends the process as it is.

use curvine_types::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a process that was told twice.
const IMPATIENT: i32 = 130;

/// The two signals.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Catches them from now on.
    pub fn listen() -> Result<Self> {
        let catch =
            |kind| signal(kind).map_err(|source| Error::from_io(source, "cannot catch signals that end the process"));
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Returns at the first signal. From then on the next one ends the process at once.
    pub async fn asked(mut self) {
        self.next().await;
        tracing::info!("stopping");
        tokio::spawn(async move {
            self.next().await;
            eprintln!("stopped without waiting");
            std::process::exit(IMPATIENT);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
