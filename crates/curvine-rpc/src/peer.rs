//! One live connection, as either end sees it.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use curvine_proto::{Hello, Message, Method};
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::Body;
use crate::calls::{Answer, Failure};
use crate::connection::Conn;
use crate::service::{check_meta, encode};

/// One live connection. Both ends have one and can call the other. A connection that was dialled closes when its last
/// `Peer` is dropped; one that was accepted lives until the other side or the server closes it.
#[derive(Clone)]
pub struct Peer {
    handle: Arc<Handle>,
}

/// Closes the connection when the last `Peer` is dropped.
pub(crate) struct Handle {
    conn: Arc<Conn>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.conn.close("closed by this end");
    }
}

impl Peer {
    pub(crate) fn new(conn: Arc<Conn>) -> Self {
        Self { handle: Arc::new(Handle { conn }) }
    }

    pub(crate) fn from_handle(handle: &Weak<Handle>) -> Option<Self> {
        Some(Self { handle: handle.upgrade()? })
    }

    pub(crate) fn downgrade(&self) -> Weak<Handle> {
        Arc::downgrade(&self.handle)
    }

    pub(crate) fn conn(&self) -> &Arc<Conn> {
        &self.handle.conn
    }

    /// Unique in this process.
    pub fn id(&self) -> u64 {
        self.conn().id
    }

    /// What the other side said of itself; it has proved that it knows the cluster secret.
    pub fn hello(&self) -> &Hello {
        &self.conn().hello
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.conn().is_closed()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.conn().closed().await;
    }

    /// Ends the connection now; calls that wait fail.
    pub fn close(&self) {
        self.conn().close("closed by this end");
    }

    /// Calls waiting for a reply.
    pub fn pending(&self) -> usize {
        self.conn().calls.waiting()
    }

    /// Requests of the other side in work here.
    pub fn inflight(&self) -> usize {
        self.conn().handlers.running()
    }

    /// Calls the other side and waits for its reply and data part. Dropping the future cancels the call.
    ///
    /// Errors: what the service answered; `Unavailable`, `Overloaded`: the request has not left; `ConnectionLost`: it may
    /// have been executed; `TimedOut`: no reply before `deadline`, it may have been executed.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        method: Method,
        request: &Q,
        body: Body,
        deadline: Instant,
    ) -> Result<(R, Bytes)> {
        self.try_call(method, request, body, deadline)
            .await
            .map(|(reply, answer)| (reply, answer.data))
            .map_err(|failure| failure.error)
    }

    /// Whether the other side is on this machine, reached over a Unix socket.
    pub fn is_local(&self) -> bool {
        self.conn().is_unix()
    }

    pub(crate) async fn try_call<Q: Message, R: Message + Default>(
        &self,
        method: Method,
        request: &Q,
        body: Body,
        deadline: Instant,
    ) -> Result<(R, Answer), Failure> {
        let bytes = encode(request);
        check_meta(&bytes)?;
        body.check()?;
        let answer = self.conn().call(method, bytes, body, deadline).await?;
        let reply = R::decode(answer.meta.clone()).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "malformed reply").with("method", method.name()).caused_by(error)
        })?;
        Ok((reply, answer))
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peer({} {})", self.id(), self.conn().name)
    }
}

#[cfg(test)]
#[path = "peer_test.rs"]
mod peer_test;
