//! What the tests of this crate share: services made of closures, servers on loopback, and a peer that speaks raw frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use curvine_proto::frame::{FrameKind, HEADER_LEN, Header};
use curvine_proto::{Method, PeerRole};
use curvine_types::{ClusterId, Result, Secret};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::inbox::Inbox;
use crate::socket::{WriteHalf, split_tcp};
use crate::{Address, Auth, Call, ClusterCell, Connector, Limits, Peer, Reply, Server, Service, crc32c, handshake};

/// A deadline that no passing test meets.
pub(crate) fn far() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Fails a test that hangs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("should have happened long ago")
}

pub(crate) fn auth(role: PeerRole, hostname: &str) -> Auth {
    Auth {
        secret: Secret::new("the secret"),
        role,
        cluster: Arc::new(ClusterCell::new(ClusterId([7; 16]))),
        hostname: hostname.to_string(),
        id: 5,
    }
}

pub(crate) fn server_auth() -> Auth {
    auth(PeerRole::Worker, "host-a")
}

pub(crate) fn client_auth() -> Auth {
    auth(PeerRole::Client, "host-b")
}

type Handler = dyn Fn(Call) -> BoxFuture<'static, Result<Reply>> + Send + Sync;

/// A service made of a closure; tells of connections by a channel.
pub(crate) struct Closure {
    handler: Box<Handler>,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug)]
pub(crate) enum Event {
    Connected(Peer),
    Disconnected(u64),
}

impl Service for Closure {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        (self.handler)(call)
    }

    fn connected(&self, peer: &Peer) {
        let _ = self.events.send(Event::Connected(peer.clone()));
    }

    fn disconnected(&self, peer: &Peer) {
        let _ = self.events.send(Event::Disconnected(peer.id()));
    }
}

pub(crate) fn service<F>(handler: impl Fn(Call) -> F + Send + Sync + 'static) -> Arc<Closure>
where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    service_with_events(handler).0
}

pub(crate) fn service_with_events<F>(
    handler: impl Fn(Call) -> F + Send + Sync + 'static,
) -> (Arc<Closure>, mpsc::UnboundedReceiver<Event>)
where
    F: Future<Output = Result<Reply>> + Send + 'static,
{
    let (events, receiver) = mpsc::unbounded_channel();
    (Arc::new(Closure { handler: Box::new(move |call| handler(call).boxed()), events }), receiver)
}

pub(crate) async fn serve(limits: Limits, service: Arc<dyn Service>) -> (Server, Address) {
    let server =
        Server::bind(Some("127.0.0.1:0".to_string()), None, server_auth(), limits, service).await.expect("binds");
    let address = Address::Tcp(server.local_addr().expect("listens on tcp").to_string());
    (server, address)
}

pub(crate) async fn connect(address: &Address) -> Peer {
    Connector::new(client_auth(), Limits::default()).connect(address, far()).await.expect("connects")
}

/// A dialer that has passed the handshake and then sends whatever frames a test wants.
pub(crate) struct RawPeer {
    pub(crate) inbox: Inbox,
    pub(crate) write: WriteHalf,
}

impl RawPeer {
    pub(crate) async fn connect(address: &Address) -> Self {
        let stream = TcpStream::connect(address.to_string()).await.expect("connects");
        let (mut read, write) = split_tcp(stream).expect("splits");
        handshake::dial(&mut read, &write, &client_auth(), &Limits::default()).await.expect("shakes hands");
        Self { inbox: Inbox::new(read), write }
    }

    pub(crate) async fn send(&self, header: Header, meta: &[u8], data: &[u8]) {
        self.write.write_all(&frame(header, meta, data)).await.expect("sends");
    }

    /// The next frame; `None` when the other side has ended the connection.
    pub(crate) async fn receive(&mut self) -> Option<(Header, Bytes, BytesMut)> {
        let counter = Default::default();
        let header = self.inbox.header(&counter).await.ok()??;
        let meta = self.inbox.meta(&header, &counter).await.ok()?;
        let data = self.inbox.part(header.data_len as usize, BytesMut::new(), &counter).await.ok()?;
        Some((header, meta, data))
    }
}

/// A request's header with the lengths of nothing; `frame` fills them in.
pub(crate) fn request(method: Method, stream: u32) -> Header {
    Header {
        kind: FrameKind::Request,
        flags: 0,
        method: method as u16,
        stream,
        deadline_ms: 20_000,
        meta_len: 0,
        data_len: 0,
        meta_crc: 0,
    }
}

pub(crate) fn frame(header: Header, meta: &[u8], data: &[u8]) -> Vec<u8> {
    let header = Header { meta_len: meta.len() as u32, data_len: data.len() as u32, meta_crc: crc32c(meta), ..header };
    let mut bytes = Vec::with_capacity(HEADER_LEN + meta.len() + data.len());
    bytes.extend_from_slice(&header.encode(crc32c));
    bytes.extend_from_slice(meta);
    bytes.extend_from_slice(data);
    bytes
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64).map(|at| ((at * 31 + seed * 17) >> 3) as u8 ^ at as u8).collect()
}

/// Tells when it is dropped.
pub(crate) struct DropTells(pub(crate) mpsc::UnboundedSender<()>);

impl Drop for DropTells {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
