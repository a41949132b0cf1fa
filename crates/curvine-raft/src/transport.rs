//! How replicas reach each other: the seam between consensus and network, and its implementation over `curvine-rpc`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use curvine_proto::{
    Message, Method, RaftAppendReply, RaftAppendRequest, RaftSnapshotReply, RaftSnapshotRequest, RaftVoteReply,
    RaftVoteRequest,
};
use curvine_rpc::{Address, Body, Channel, Connector};
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Carries requests to another replica, whose side answers them with [`RaftService`](crate::RaftService).
///
/// An address is resolved at each connect: names move between machines. Every call ends by its deadline. A request may arrive
/// late, twice or not at all; what must not happen is that it arrives changed.
pub trait RaftTransport: Send + Sync + 'static {
    /// Entries, or a heartbeat.
    fn append(
        &self,
        address: &str,
        request: RaftAppendRequest,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<RaftAppendReply>>;

    /// A request for a vote.
    fn vote(
        &self,
        address: &str,
        request: RaftVoteRequest,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<RaftVoteReply>>;

    /// One part of a snapshot.
    fn snapshot(
        &self,
        address: &str,
        request: RaftSnapshotRequest,
        data: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<RaftSnapshotReply>>;
}

/// For a replica that is alone: nobody can be reached.
pub(crate) struct NoTransport;

impl NoTransport {
    fn refuse<R: Send + 'static>(&self, address: &str) -> BoxFuture<'static, Result<R>> {
        let error = Error::new(ErrorKind::Unavailable, "this master was started without a network for its log")
            .with("peer", address);
        Box::pin(std::future::ready(Err(error)))
    }
}

impl RaftTransport for NoTransport {
    fn append(&self, address: &str, _: RaftAppendRequest, _: Instant) -> BoxFuture<'static, Result<RaftAppendReply>> {
        self.refuse(address)
    }

    fn vote(&self, address: &str, _: RaftVoteRequest, _: Instant) -> BoxFuture<'static, Result<RaftVoteReply>> {
        self.refuse(address)
    }

    fn snapshot(
        &self,
        address: &str,
        _: RaftSnapshotRequest,
        _: Bytes,
        _: Instant,
    ) -> BoxFuture<'static, Result<RaftSnapshotReply>> {
        self.refuse(address)
    }
}

/// Replicas over `curvine-rpc`: one channel for each address.
pub struct RpcTransport {
    connector: Connector,
    channels: Mutex<HashMap<String, Channel>>,
}

/// Addresses remembered; a replica set is far smaller, and forgetting one only costs a new connection.
const CHANNELS_MAX: usize = 64;

impl RpcTransport {
    /// Connects with `connector`, whose authentication says that this is a master.
    pub fn new(connector: Connector) -> Self {
        Self { connector, channels: Mutex::default() }
    }

    fn channel(&self, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let parsed: Address = address.parse()?;
        let channel = Channel::new(self.connector.clone(), vec![parsed], 1);
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_string(), channel.clone());
        Ok(channel)
    }

    fn call<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        address: &str,
        method: Method,
        request: Q,
        body: Body,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<R>> {
        match self.channel(address) {
            Ok(channel) => Box::pin(async move {
                let (reply, _) = channel.call(method, &request, body, deadline).await?;
                Ok(reply)
            }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl RaftTransport for RpcTransport {
    fn append(
        &self,
        address: &str,
        request: RaftAppendRequest,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<RaftAppendReply>> {
        self.call(address, Method::RaftAppend, request, Body::Empty, deadline)
    }

    fn vote(
        &self,
        address: &str,
        request: RaftVoteRequest,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<RaftVoteReply>> {
        self.call(address, Method::RaftVote, request, Body::Empty, deadline)
    }

    fn snapshot(
        &self,
        address: &str,
        request: RaftSnapshotRequest,
        data: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<RaftSnapshotReply>> {
        self.call(address, Method::RaftSnapshot, request, data.into(), deadline)
    }
}

/// Makes an `Arc` of any transport, or of none.
pub(crate) fn or_none(transport: Option<Arc<dyn RaftTransport>>) -> Arc<dyn RaftTransport> {
    transport.unwrap_or_else(|| Arc::new(NoTransport))
}
