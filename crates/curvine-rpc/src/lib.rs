//! Framed, multiplexed, authenticated RPC over TCP and Unix sockets.
//!
//! A connection carries requests both ways: each end may call the other (`Peer::call`) and answers through its `Service`.
//!
//! Always:
//! * nothing but a handshake of a few KiB is read from a peer that has not proved the cluster secret;
//! * every wait ends by a deadline, and every queue is bounded by [`Limits`];
//! * a caller learns whether a failed request can have been executed: [`Unavailable`] and [`Overloaded`] mean no,
//!   [`ConnectionLost`] and [`TimedOut`] mean perhaps.
//!
//! The way of a request: `peer` -> `outbox` (queue and writer) -> socket -> `inbox` (frames) -> `connection` (dispatch) ->
//! [`Service::call`] -> back by the same way.
//!
//! [`Unavailable`]: curvine_types::ErrorKind::Unavailable
//! [`Overloaded`]: curvine_types::ErrorKind::Overloaded
//! [`ConnectionLost`]: curvine_types::ErrorKind::ConnectionLost
//! [`TimedOut`]: curvine_types::ErrorKind::TimedOut

mod address;
mod auth;
mod backoff;
mod batch;
mod buffers;
mod calls;
mod channel;
mod connection;
mod connector;
mod crc;
#[cfg(test)]
mod descriptor_test;
mod eager;
mod gauge;
mod handlers;
mod handshake;
mod inbox;
mod limits;
mod listener;
mod outbox;
mod peer;
mod route;
mod server;
mod service;
mod socket;
#[cfg(test)]
mod test_util;

pub use address::Address;
pub use auth::{Auth, ClusterCell};
pub use buffers::Buffers;
pub use channel::Channel;
pub use connector::Connector;
pub use crc::crc32c;
pub use eager::{Begun, begin, detached};
pub use limits::{Budget, Limits};
pub use peer::Peer;
pub use server::{Server, ServerGauges, ServerWatch};
pub use service::{Body, Call, Reply, Service};
