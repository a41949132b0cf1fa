//! The file system: the public face of the client. Its operations are in the files named after what they are about.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::core::Core;
use crate::handle::Open;
use crate::{CacheEvents, ClientOptions, Gauges, Handle, Inherited, Succession, opens, session};

/// A connected client. Clones share the session.
#[derive(Clone)]
pub struct FileSystem {
    pub(crate) core: Arc<Core>,
    _life: Arc<Life>,
}

/// Ends the background tasks when the last clone goes.
struct Life {
    core: Arc<Core>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.core.master.closing.send_replace(true);
        self.core.master.publish(None);
    }
}

impl FileSystem {
    /// Opens a session and starts its heartbeats. Fails if no master answers within `rpc_timeout`, at once if
    /// they refuse the secret or are another cluster's.
    pub async fn connect(options: ClientOptions, events: Arc<dyn CacheEvents>) -> Result<FileSystem> {
        let core = Arc::new(Core::new(options, events, None, 0)?);
        let fs = Self::run(&core, session::State::default());
        core.master.first_declared(core.deadline()).await?;
        Ok(fs)
    }

    /// Follows another process. With a predecessor it returns at once, with the handles of what that had open: a master that does
    /// not answer is waited for by whoever needs it. `events` must reach the kernel already.
    pub async fn succeed(
        options: ClientOptions,
        events: Arc<dyn CacheEvents>,
        succession: Succession,
    ) -> Result<(FileSystem, Vec<Handle>)> {
        let Succession { journal, instance, predecessor } = succession;
        let core = Arc::new(Core::new(options, events, Some(journal), instance)?);
        let Some(predecessor) = predecessor else {
            let fs = Self::run(&core, session::State::default());
            core.master.first_declared(core.deadline()).await?;
            return Ok((fs, Vec::new()));
        };
        core.inherited.store(true, Ordering::SeqCst);
        core.window.resume(predecessor.session, predecessor.next, &predecessor.unacked);
        if !predecessor.cluster.is_nil() {
            core.master.cluster.set(predecessor.cluster)?;
        }
        let inherit = |inherited: &Inherited| Handle(Arc::new(Open::inherit(&core, inherited)));
        let handles = predecessor.opens.iter().map(inherit).collect();
        let fs = Self::run(&core, session::State::of(predecessor.session, predecessor.incarnation));
        Ok((fs, handles))
    }

    fn run(core: &Arc<Core>, state: session::State) -> Self {
        let fs = FileSystem { core: core.clone(), _life: Arc::new(Life { core: core.clone() }) };
        tokio::spawn(session::run(core.clone(), state));
        tokio::spawn(opens::run_closer(core.clone()));
        fs
    }

    /// Tells the master of all that was closed, and closes the session. Files that are still open are dead afterwards.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        let deadline = Instant::now() + grace;
        let closes_sent = async {
            while !self.core.opens.all_closed() && self.core.master.current().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout_at(deadline, closes_sent).await.is_err() {
            tracing::debug!("the session is closed before all files were");
        }
        let closed = tokio::time::timeout_at(deadline, session::close(&self.core, deadline)).await;
        self.core.master.closing.send_replace(true);
        self.core.cache.set_valid_until(Duration::ZERO);
        if let Some(conn) = self.core.master.current() {
            conn.peer.close();
        }
        self.core.master.publish(None);
        closed.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "the master did not close the session in time")))
    }

    /// The settings.
    pub fn options(&self) -> &ClientOptions {
        &self.core.options
    }

    /// How long the session is certainly alive.
    pub fn session_validity(&self) -> Duration {
        self.core.cache.session_left(crate::clock::boot_time())
    }

    /// Current values of what is limited, and counts of what should be rare.
    pub fn gauges(&self) -> Gauges {
        let core = &self.core;
        let (cached_inodes, cached_names, leases) = core.cache.sizes();
        Gauges {
            cached_inodes,
            cached_names,
            leases,
            open_handles: core.opens.handles(),
            mutations_in_flight: core.window.in_flight(),
            memory_used: core.memory_used(),
            notifications_in_flight: core.notifications_in_flight(),
            checksum_errors: core.counters.checksum_errors.get(),
            mutation_retries: core.counters.mutation_retries.get(),
            read_retries: core.counters.read_retries.get(),
            sessions_opened: core.counters.sessions_opened.get(),
            reconnections: core.counters.reconnections.get(),
        }
    }
}
