//! Accepts connections and keeps them.
//!
//! Always: a connection is in `peers` from before its first request until it has ended.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Parts, Shared, read_loop, start};
use crate::gauge::Gauge;
use crate::listener::{Listener, SocketFile};
use crate::socket::{ReadHalf, WriteHalf};
use crate::{Auth, Limits, Peer, Service, handshake};

/// How long peers get to close their side after the last reply, so that they certainly read it.
const FAREWELL: Duration = Duration::from_millis(500);
/// Pause after a failed accept, which is most often a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening server. Dropping it closes the listeners and all connections at once.
pub struct Server {
    inner: Arc<Inner>,
    local_addr: Option<SocketAddr>,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    tasks: Vec<AbortHandle>,
    _socket_file: Option<SocketFile>,
}

struct Inner {
    auth: Auth,
    limits: Limits,
    service: Arc<dyn Service>,
    shared: Arc<Shared>,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    peers: Mutex<Peers>,
    /// Tasks of connections that are past their handshake.
    open: Gauge,
}

#[derive(Default)]
struct Peers {
    by_id: HashMap<u64, Peer>,
    closed: bool,
}

impl Server {
    /// Listens on `tcp` (`host:port`, port 0 for any) and on the Unix socket `unix` (mode 0600; its directory is made;
    /// a stale one is replaced). `Busy` if somebody else listens there.
    pub async fn bind(
        tcp: Option<String>,
        unix: Option<PathBuf>,
        auth: Auth,
        limits: Limits,
        service: Arc<dyn Service>,
    ) -> Result<Self> {
        let permits = |limit: usize| Arc::new(Semaphore::new(limit.clamp(1, Semaphore::MAX_PERMITS)));
        let inner = Arc::new(Inner {
            handshakes: permits(limits.max_handshakes),
            connections: permits(limits.max_connections),
            auth,
            limits,
            service,
            shared: Arc::default(),
            peers: Mutex::default(),
            open: Gauge::default(),
        });
        let mut local_addr = None;
        let mut sockets = Vec::new();
        let mut socket_file = None;
        if let Some(address) = tcp {
            let listener = Listener::tcp(&address).await?;
            local_addr = listener.local_addr().ok();
            sockets.push(Listener::Tcp(listener));
        }
        if let Some(path) = unix {
            let (listener, file) = SocketFile::listen(&path).await?;
            socket_file = Some(file);
            sockets.push(Listener::Unix(listener, path));
        }
        let tasks = sockets.into_iter().map(|socket| tokio::spawn(accept(inner.clone(), socket)).abort_handle());
        let listeners = Mutex::new(Listeners { tasks: tasks.collect(), _socket_file: socket_file });
        Ok(Self { inner, local_addr, listeners })
    }

    /// Its values, for somebody who outlives it.
    pub fn watch(&self) -> ServerWatch {
        ServerWatch(Arc::downgrade(&self.inner))
    }

    /// The TCP address, with its real port.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.inner.peers.lock().by_id.len()
    }

    /// Requests in work, and replies that have not left yet.
    pub fn inflight(&self) -> usize {
        self.inner.shared.inflight.get()
    }

    /// Stops listening, refuses new requests with `Unavailable`, waits up to `grace` for those in work, closes.
    pub async fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.inner.shared.draining.store(true, Ordering::Release);
        self.stop_listening();
        let drained = timeout_at(deadline, self.inner.shared.inflight.idle()).await.is_ok();
        if drained {
            for peer in self.inner.turn_away() {
                peer.conn().outbox.half.finish();
            }
            let _ = timeout_at(deadline.min(Instant::now() + FAREWELL), self.inner.open.idle()).await;
        }
        self.close_all();
    }

    fn stop_listening(&self) {
        let listeners = std::mem::take(&mut *self.listeners.lock());
        for task in listeners.tasks {
            task.abort();
        }
    }

    fn close_all(&self) {
        for peer in self.inner.turn_away() {
            peer.close();
        }
    }
}

/// The values of a server that may be gone.
#[derive(Clone)]
pub struct ServerWatch(Weak<Inner>);

/// What a server has, and may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerGauges {
    pub connections: usize,
    pub connections_limit: usize,
    /// Requests in work, and replies that have not left yet.
    pub requests: usize,
    /// Bytes of received requests.
    pub request_bytes: usize,
    pub request_bytes_limit: usize,
}

impl ServerWatch {
    /// The values now; zeroes of a server that is gone.
    pub fn gauges(&self) -> ServerGauges {
        let Some(inner) = self.0.upgrade() else { return ServerGauges::default() };
        ServerGauges {
            connections: inner.peers.lock().by_id.len(),
            connections_limit: inner.limits.max_connections,
            requests: inner.shared.inflight.get(),
            request_bytes: inner.limits.inflight_bytes.used(),
            request_bytes_limit: inner.limits.inflight_bytes.limit(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_listening();
        self.close_all();
    }
}

impl Inner {
    /// Turns away whoever comes from now on; gives those who are there.
    fn turn_away(&self) -> Vec<Peer> {
        let mut peers = self.peers.lock();
        peers.closed = true;
        peers.by_id.values().cloned().collect()
    }
}

async fn accept(inner: Arc<Inner>, listener: Listener) {
    loop {
        // Never closed.
        let Ok(handshake) = inner.handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((read, write, from)) => {
                tokio::spawn(serve(inner.clone(), read, write, from, handshake));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections for now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from its handshake to its end.
async fn serve(inner: Arc<Inner>, mut read: ReadHalf, write: WriteHalf, from: String, handshake: OwnedSemaphorePermit) {
    let mut place = None;
    let admit = || {
        let full = |_| {
            Error::new(ErrorKind::Overloaded, "the server has as many connections as it may")
                .with("limit", inner.limits.max_connections)
        };
        place = Some(inner.connections.clone().try_acquire_owned().map_err(full)?);
        Ok(())
    };
    let limits = &inner.limits;
    let accepting = handshake::accept(&mut read, &write, &inner.auth, limits, admit);
    let hello = match timeout(limits.handshake_timeout, accepting).await {
        Ok(Ok(hello)) => hello,
        // Probes of a port connect and leave without a word.
        Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => {
            return tracing::debug!(from, %error, "no handshake");
        }
        Ok(Err(error)) => return tracing::warn!(from, %error, "refused a connection"),
        Err(_elapsed) => return tracing::warn!(from, "a handshake took too long"),
    };
    drop(handshake);
    let name = format!("{} at {from}", handshake::describe(&hello));
    let (peer, inbox) = start(Parts {
        read,
        write,
        hello,
        name,
        dialer: false,
        limits: inner.limits.clone(),
        service: Some(inner.service.clone()),
        shared: inner.shared.clone(),
    });
    let registered = Registered::new(&inner, peer.clone());
    if registered.is_none() {
        return peer.close();
    }
    inner.service.connected(&peer);
    tracing::debug!(peer = ?peer, "connection accepted");
    read_loop(peer.conn().clone(), peer.downgrade(), inbox).await;
    drop(registered);
    inner.service.disconnected(&peer);
    drop(place);
}

/// The entry of a connection among the server's peers.
struct Registered<'a> {
    inner: &'a Inner,
    id: u64,
}

impl<'a> Registered<'a> {
    /// `None` if the server is closing.
    fn new(inner: &'a Inner, peer: Peer) -> Option<Self> {
        let mut peers = inner.peers.lock();
        if peers.closed {
            return None;
        }
        let id = peer.id();
        peers.by_id.insert(id, peer);
        inner.open.add();
        Some(Self { inner, id })
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.inner.peers.lock().by_id.remove(&self.id);
        self.inner.open.sub();
    }
}

#[cfg(test)]
#[path = "server_test.rs"]
mod server_test;
