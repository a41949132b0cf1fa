//! Listens on TCP and Unix sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use curvine_types::Result;

use crate::{Auth, Limits, Service};

/// A listening server. Dropping it closes the listeners and all connections at once.
pub struct Server;

impl Server {
    /// Listens on `tcp` (`host:port`, port 0 for any) and on the Unix socket `unix` (mode 0600; its directory is made;
    /// a stale one is replaced). `Busy` if somebody else listens there.
    pub async fn bind(
        _tcp: Option<String>,
        _unix: Option<PathBuf>,
        _auth: Auth,
        _limits: Limits,
        _service: Arc<dyn Service>,
    ) -> Result<Self> {
        todo!()
    }

    /// The TCP address, with its real port.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        todo!()
    }

    /// Requests being handled.
    pub fn inflight(&self) -> usize {
        todo!()
    }

    /// Stops listening, refuses new requests with `Unavailable`, waits up to `grace` for those in work, closes.
    pub async fn shutdown(&self, _grace: Duration) {
        todo!()
    }
}
