//! The connection to the master in use, and what its errors say about it.
//!
//! Always: a connection has a term of the cache only after the client has declared itself over it, so leases in earlier replies
//! do not count. Whoever needs the master waits for a connection here; `session.rs` makes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use curvine_rpc::{Address, ClusterCell, Peer};
use curvine_types::{Error, ErrorKind, Result, SessionId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A connection under a session.
pub(crate) struct Conn {
    pub peer: Peer,
    pub session: SessionId,
    pub incarnation: u64,
    /// 0 until the client has declared itself.
    term: AtomicU64,
    /// The session is over; set by whoever notices it first.
    pub expired: AtomicBool,
}

impl Conn {
    pub(crate) fn new(peer: Peer, session: SessionId, incarnation: u64) -> Self {
        Self { peer, session, incarnation, term: AtomicU64::new(0), expired: AtomicBool::new(false) }
    }

    /// Names the connection.
    pub(crate) fn serial(&self) -> u64 {
        self.peer.id()
    }

    pub(crate) fn term(&self) -> u64 {
        self.term.load(Ordering::SeqCst)
    }

    pub(crate) fn set_declared(&self, term: u64) {
        self.term.store(term, Ordering::SeqCst);
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::SeqCst)
    }

    fn is_usable(&self) -> bool {
        !self.peer.is_closed() && !self.is_expired()
    }
}

pub(crate) struct Master {
    current: watch::Sender<Option<Arc<Conn>>>,
    /// Why there is no connection.
    trouble: watch::Sender<Option<(ErrorKind, String)>>,
    addresses: Mutex<Vec<Address>>,
    pub cluster: Arc<ClusterCell>,
    /// The session's task should look.
    pub look: Notify,
    pub closing: watch::Sender<bool>,
}

impl Master {
    pub(crate) fn new(addresses: Vec<Address>, cluster: Arc<ClusterCell>) -> Self {
        Self {
            current: watch::Sender::new(None),
            trouble: watch::Sender::new(None),
            addresses: Mutex::new(addresses),
            cluster,
            look: Notify::new(),
            closing: watch::Sender::new(false),
        }
    }

    /// Addresses, the most promising first.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.addresses.lock().clone()
    }

    /// This address is the best, or (`None`) the first one is the worst.
    pub(crate) fn prefer(&self, address: Option<Address>) {
        let mut addresses = self.addresses.lock();
        match address {
            Some(address) => {
                addresses.retain(|known| *known != address);
                addresses.insert(0, address);
            }
            None => addresses.rotate_left(1),
        }
    }

    pub(crate) fn publish(&self, conn: Option<Arc<Conn>>) {
        self.current.send_replace(conn);
    }

    pub(crate) fn set_trouble(&self, error: &Error) {
        self.trouble.send_replace(Some((error.kind(), error.to_string())));
    }

    pub(crate) fn current(&self) -> Option<Arc<Conn>> {
        self.current.borrow().clone()
    }

    /// A usable connection, declared or not.
    pub(crate) async fn conn(&self, deadline: Instant) -> Result<Arc<Conn>> {
        self.wait_for(deadline, |conn| conn.is_usable()).await
    }

    /// A connection over which the client has declared itself.
    pub(crate) async fn declared(&self, deadline: Instant) -> Result<Arc<Conn>> {
        self.wait_for(deadline, |conn| conn.is_usable() && conn.term() != 0).await
    }

    /// As `declared`, but fails at once when the masters will never have us.
    pub(crate) async fn first_declared(&self, deadline: Instant) -> Result<Arc<Conn>> {
        let mut trouble = self.trouble.subscribe();
        let refused = trouble.wait_for(|trouble| trouble.as_ref().is_some_and(|(kind, _)| is_final(*kind)));
        tokio::select! {
            conn = self.declared(deadline) => conn,
            _ = refused => Err(self.unreachable()),
        }
    }

    async fn wait_for(&self, deadline: Instant, fits: impl Fn(&Conn) -> bool) -> Result<Arc<Conn>> {
        if let Some(conn) = self.current.borrow().as_ref().filter(|conn| fits(conn)) {
            return Ok(conn.clone());
        }
        let mut current = self.current.subscribe();
        let mut closing = self.closing.subscribe();
        let wait = async {
            tokio::select! {
                found = current.wait_for(|conn| conn.as_ref().is_some_and(|conn| fits(conn))) => {
                    found.ok().and_then(|conn| conn.clone())
                }
                _ = closing.wait_for(|closing| *closing) => None,
            }
        };
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(Some(conn)) => Ok(conn),
            Ok(None) => Err(Error::new(ErrorKind::Unavailable, "the client is closing")),
            Err(_) => Err(self.unreachable()),
        }
    }

    fn unreachable(&self) -> Error {
        match &*self.trouble.borrow() {
            Some((kind, text)) if is_final(*kind) => Error::new(*kind, text.clone()),
            Some((_, text)) => Error::new(ErrorKind::TimedOut, format!("no master can be reached: {text}")),
            None => Error::new(ErrorKind::TimedOut, "no master can be reached in time"),
        }
    }

    /// What a failed call says about the connection; whether the same may be tried again.
    pub(crate) fn recovers(&self, conn: &Conn, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::SessionExpired => {
                conn.expired.store(true, Ordering::SeqCst);
                self.look.notify_one();
                true
            }
            ErrorKind::NotLeader => {
                if !conn.peer.is_closed() {
                    self.prefer(error.get("leader").and_then(|leader| leader.parse().ok()));
                }
                conn.peer.close();
                true
            }
            ErrorKind::Unavailable | ErrorKind::ConnectionLost | ErrorKind::Overloaded => true,
            _ => false,
        }
    }
}

/// Trying again does not help.
fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unauthenticated | ErrorKind::Foreign)
}
