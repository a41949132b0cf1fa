//! The limits of servers and connections, and the budget of received bytes.

use std::sync::Arc;
use std::time::Duration;

use crate::Buffers;
use curvine_proto::frame::DATA_MAX;
use curvine_types::limits::META_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Limits of a server or a connector. Clones share the budget and the buffers.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that a server keeps; more are refused with `Overloaded`.
    pub max_connections: usize,
    /// Connections in their handshake; more wait in the listen queue.
    pub max_handshakes: usize,
    /// Requests of one peer that are handled at once. It is told to the peer, which keeps to it by waiting.
    pub max_inflight_per_connection: usize,
    /// Calls that wait for a reply on one connection, whatever the peer would take.
    pub max_calls_per_connection: usize,
    /// Bytes of received requests that handlers may hold, in all connections that share this budget.
    pub inflight_bytes: Budget,
    /// Free buffers for large received parts.
    pub buffers: Buffers,
    /// How long a received request may wait for the budget before it is refused with `Overloaded`.
    pub budget_timeout: Duration,
    /// For one address: name resolution and connecting.
    pub connect_timeout: Duration,
    /// For the whole handshake.
    pub handshake_timeout: Duration,
    /// A connection that takes no byte for this long, though there are some to send, is dead.
    pub write_timeout: Duration,
    /// A ping is sent when nothing was received for this long.
    pub ping_interval: Duration,
    /// A connection on which nothing was received for this long is dead.
    pub dead_after: Duration,
    /// Pauses of a channel between rounds of connection attempts: the first, doubled up to the last.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            max_handshakes: 256,
            max_inflight_per_connection: 256,
            max_calls_per_connection: 1024,
            inflight_bytes: Budget::new(256 << 20),
            buffers: Buffers::new(32 << 20),
            budget_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(5),
            dead_after: Duration::from_secs(15),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// A shared budget of bytes. Never below one largest frame, so that every frame can pass.
#[derive(Clone, Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
    limit: usize,
}

impl Budget {
    /// A budget of `bytes`, raised to one largest frame and cut to 2 GiB.
    pub fn new(bytes: usize) -> Self {
        let limit = bytes.clamp(DATA_MAX + META_MAX, 2 << 30);
        Self { permits: Arc::new(Semaphore::new(limit)), limit }
    }

    /// The most that may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.limit - self.permits.available_permits()
    }

    /// Waits for `bytes`, which must not exceed one largest frame.
    pub(crate) async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes.min(self.limit)).unwrap_or(u32::MAX);
        match self.permits.clone().acquire_many_owned(bytes).await {
            Ok(permit) => permit,
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}
