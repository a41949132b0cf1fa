//! One live connection, as either end sees it.

use bytes::Bytes;
use curvine_proto::{Hello, Message, Method};
use curvine_types::Result;
use tokio::time::Instant;

use crate::Body;

/// One live connection. Both ends have one and can call the other. A connection that was dialled closes when its last
/// `Peer` is dropped; one that was accepted lives until the other side or the server closes it.
#[derive(Clone)]
pub struct Peer;

impl Peer {
    /// Unique in this process.
    pub fn id(&self) -> u64 {
        todo!()
    }

    /// What the other side said, and proved, of itself.
    pub fn hello(&self) -> &Hello {
        todo!()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        todo!()
    }

    /// Ends the connection now; calls that wait fail.
    pub fn close(&self) {
        todo!()
    }

    /// Calls waiting for a reply.
    pub fn pending(&self) -> usize {
        todo!()
    }

    /// Calls the other side and waits for its reply and data part. Dropping the future cancels the call.
    ///
    /// Errors: what the service answered; `Unavailable`: the request has not left; `ConnectionLost`: it may have been
    /// executed; `TimedOut`: no reply before `deadline`, it may have been executed.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        _method: Method,
        _request: &Q,
        _body: Body,
        _deadline: Instant,
    ) -> Result<(R, Bytes)> {
        todo!()
    }
}
