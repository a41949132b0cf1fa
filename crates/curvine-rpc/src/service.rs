//! What a process answers: calls come in, replies go out.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use curvine_proto::frame::{DATA_MAX, HEADER_LEN};
use curvine_proto::{Message, Method};
use curvine_types::limits::META_MAX;
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::Peer;

/// Answers the calls of peers.
///
/// A call's future is dropped when its deadline passes, when the caller no longer waits, and when the connection ends.
/// What must be finished once it was begun runs in a task of its own. A handler may call back over `Call::peer`.
pub trait Service: Send + Sync + 'static {
    /// Answers one call. `NotSupported` is the answer to a method that this service does not have.
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>>;

    /// A peer has authenticated itself; comes before its first call.
    fn connected(&self, _peer: &Peer) {}

    /// The connection of a peer has ended; comes once, after `connected`. No new call comes after it, but futures of
    /// earlier ones may still be about to be dropped.
    fn disconnected(&self, _peer: &Peer) {}
}

/// A received request.
pub struct Call {
    pub method: Method,
    /// The request message, encoded; its checksum was checked.
    pub meta: Bytes,
    /// The data part. What it takes of the budget is given back when its last clone is dropped.
    pub data: Bytes,
    /// When the caller gives up, by this machine's clock.
    pub deadline: Instant,
    pub peer: Peer,
}

impl Call {
    /// Decodes the request message.
    pub fn request<M: Message + Default>(&self) -> Result<M> {
        M::decode(self.meta.clone()).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "malformed request")
                .with("method", self.method.name())
                .caused_by(error)
        })
    }
}

/// The data part of a request or reply.
#[derive(Clone, Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    Bytes(Bytes),
    /// A range of a file, sent by the kernel. If the file turns out shorter, the connection is closed.
    File {
        file: Arc<File>,
        offset: u64,
        len: u64,
    },
}

impl Body {
    /// Bytes on the wire.
    pub fn len(&self) -> u64 {
        match self {
            Body::Empty => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { len, .. } => *len,
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `TooBig` above the protocol's largest data part.
    pub(crate) fn check(&self) -> Result<()> {
        if self.len() > DATA_MAX as u64 {
            return Err(Error::new(ErrorKind::TooBig, "a data part is larger than the protocol allows")
                .with("length", self.len())
                .with("limit", DATA_MAX));
        }
        Ok(())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Bytes(bytes)
    }
}

/// The answer to a call: a message and perhaps a data part.
#[derive(Debug)]
pub struct Reply {
    pub(crate) meta: BytesMut,
    pub(crate) body: Body,
    pub(crate) descriptor: Option<Arc<OwnedFd>>,
}

impl Reply {
    /// A reply without data part.
    pub fn new(message: &impl Message) -> Self {
        Self { meta: encode(message), body: Body::Empty, descriptor: None }
    }

    /// Adds the data part.
    pub fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a descriptor, which the caller gets a copy of. Only for callers of this machine ([`Peer::is_local`]).
    pub fn with_descriptor(mut self, descriptor: impl Into<Arc<OwnedFd>>) -> Self {
        self.descriptor = Some(descriptor.into());
        self
    }

    /// `NotSupported` for a descriptor that the connection cannot carry.
    pub(crate) fn fit(self, unix: bool) -> Result<Self> {
        if self.descriptor.is_some() && !unix {
            return Err(Error::new(ErrorKind::NotSupported, "descriptors are given only over a unix socket"));
        }
        Ok(self)
    }

    /// `TooBig` for what no frame can carry.
    pub(crate) fn check(&self) -> Result<()> {
        check_meta(&self.meta)?;
        self.body.check()
    }
}

/// The encoded message behind room for a frame header, so that both leave in one piece.
pub(crate) fn encode(message: &impl Message) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(HEADER_LEN + message.encoded_len());
    bytes.put_bytes(0, HEADER_LEN);
    // Cannot fail: a BytesMut grows as needed.
    let _ = message.encode(&mut bytes);
    bytes
}

/// `TooBig` if what `encode` made has a message larger than the protocol allows.
pub(crate) fn check_meta(encoded: &BytesMut) -> Result<()> {
    let length = encoded.len() - HEADER_LEN;
    if length > META_MAX {
        return Err(Error::new(ErrorKind::TooBig, "a message is larger than the protocol allows")
            .with("length", length)
            .with("limit", META_MAX));
    }
    Ok(())
}
