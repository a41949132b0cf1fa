//! Makes connections.

use std::io;
use std::sync::Arc;

use curvine_types::{Error, ErrorKind, Result};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::connection::{Parts, Shared, read_loop, start};
use crate::socket::{ReadHalf, WriteHalf, split_tcp, split_unix};
use crate::{Address, Auth, Limits, Peer, Service, handshake};

/// Makes connections, each authenticated before anybody sees it.
#[derive(Clone)]
pub struct Connector {
    auth: Auth,
    limits: Limits,
    service: Option<Arc<dyn Service>>,
}

impl Connector {
    /// A connector whose peers are not allowed to call back.
    pub fn new(auth: Auth, limits: Limits) -> Self {
        Self { auth, limits, service: None }
    }

    /// Answers the calls that come back over its connections by `service`.
    pub fn with_service(self, service: Arc<dyn Service>) -> Self {
        Self { service: Some(service), ..self }
    }

    /// The limits that its connections have.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Connects. `Unavailable`: not reachable in time; `Overloaded`: no more connections there; `Unauthenticated`:
    /// another secret; `Foreign`: another cluster or no common protocol version.
    pub async fn connect(&self, address: &Address, deadline: Instant) -> Result<Peer> {
        let late = |message: &str| Error::new(ErrorKind::Unavailable, message).with("peer", address);
        let connect_by = deadline.min(Instant::now() + self.limits.connect_timeout);
        let (mut read, write) = match timeout_at(connect_by, open(address, connect_by)).await {
            Ok(opened) => opened.map_err(|error| error.with("peer", address))?,
            Err(_elapsed) => return Err(late("cannot connect in time")),
        };
        let settle_by = deadline.min(Instant::now() + self.limits.handshake_timeout);
        let dialling = handshake::dial(&mut read, &write, &self.auth, &self.limits);
        let hello = match timeout_at(settle_by, dialling).await {
            Ok(settled) => settled.map_err(|error| error.with("address", address))?,
            Err(_elapsed) => return Err(late("the handshake took too long")),
        };
        let name = format!("{} at {address}", handshake::describe(&hello));
        let (peer, inbox) = start(Parts {
            read,
            write,
            hello,
            name,
            dialer: true,
            limits: self.limits.clone(),
            service: self.service.clone(),
            shared: Arc::<Shared>::default(),
        });
        if let Some(service) = &self.service {
            service.connected(&peer);
        }
        let (conn, handle, service) = (peer.conn().clone(), peer.downgrade(), self.service.clone());
        tokio::spawn(async move {
            read_loop(conn.clone(), handle, inbox).await;
            if let Some(service) = service {
                service.disconnected(&Peer::new(conn));
            }
        });
        tracing::debug!(?peer, "connected");
        Ok(peer)
    }
}

/// Opens a socket. All that goes wrong is `Unavailable`, but for a lack of permission.
async fn open(address: &Address, deadline: Instant) -> Result<(ReadHalf, WriteHalf)> {
    match address {
        Address::Unix(path) => Ok(split_unix(UnixStream::connect(path).await.map_err(unreachable)?)),
        Address::Tcp(host) => split_tcp(open_tcp(host, deadline).await?),
    }
}

/// Tries all addresses of a host, each for an equal share of the time left.
async fn open_tcp(host: &str, deadline: Instant) -> Result<TcpStream> {
    let addresses: Vec<_> = lookup_host(host).await.map_err(unreachable)?.collect();
    let mut last = Error::new(ErrorKind::Unavailable, "the host name has no address");
    for (position, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = unreachable(error),
            Err(_elapsed) => last = Error::new(ErrorKind::Unavailable, "cannot connect in time"),
        }
    }
    Err(last)
}

fn unreachable(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "cannot connect").caused_by(error)
}
