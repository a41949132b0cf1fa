//! A client that connects when it must and moves on when it should.

use std::time::Duration;

use bytes::Bytes;
use curvine_proto::{Message, Method};
use curvine_types::Result;
use tokio::time::Instant;

use crate::{Address, Body, Connector, Peer};

/// A reconnecting client of one service that listens at one or more addresses (as masters do). Clones share it.
#[derive(Clone)]
pub struct Channel;

impl Channel {
    /// Up to `connections` (at least 1) to one of `addresses` at a time. Connects at the first call.
    pub fn new(_connector: Connector, _addresses: Vec<Address>, _connections: usize) -> Self {
        todo!()
    }

    /// How long a call waits for a connection before it is `Unavailable`; as long as its deadline unless set.
    pub fn with_patience(self, _patience: Duration) -> Self {
        todo!()
    }

    /// Replaces the addresses; connections to others are given up.
    pub fn set_addresses(&self, _addresses: Vec<Address>) {
        todo!()
    }

    /// A live connection. `Unavailable` when nothing answers before the deadline.
    pub async fn peer(&self, _deadline: Instant) -> Result<Peer> {
        todo!()
    }

    /// As [`Peer::call`]. What was certainly not executed because the connection was gone or the master is not the
    /// leader is tried again, at another address if there is one, until the deadline.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        _method: Method,
        _request: &Q,
        _body: Body,
        _deadline: Instant,
    ) -> Result<(R, Bytes)> {
        todo!()
    }

    /// Live connections.
    pub fn connections(&self) -> usize {
        todo!()
    }

    /// Calls waiting for a reply.
    pub fn pending(&self) -> usize {
        todo!()
    }
}
