//! A small HTTP/1.1 server: GET and HEAD of two paths, one request a connection.
//!
//! Always: at most `CONNECTIONS` at once, `HEAD_MAX` bytes and `PATIENCE` for each; what is more is closed. Who cannot have the port
//! says so once and tries again, so that a successor gets it when its predecessor has gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{Page, process};

/// Connections at once.
const CONNECTIONS: usize = 32;
/// Largest request line with its headers.
const HEAD_MAX: usize = 8 << 10;
/// How long one connection may take from its beginning to its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a look-up of the address may take.
const LOOKUP: Duration = Duration::from_secs(5);
/// Between two attempts to get the port.
const PAUSE: Duration = Duration::from_secs(3);
/// Pause when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pending connections in the kernel.
const BACKLOG: u32 = 64;

/// What is told. An implementation holds nothing alive that has to end with its role.
pub trait Source: Send + Sync + 'static {
    /// `master`, `worker` or `mount`.
    fn role(&self) -> &'static str;
    /// The values now; must not wait for long.
    fn page(&self) -> BoxFuture<'_, Page>;
    /// Whether the role can do its work, and if not, why.
    fn health(&self) -> Result<(), String>;
}

/// The page of a role. It ends when this is dropped.
pub struct WebServer {
    address: watch::Receiver<Option<SocketAddr>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WebServer {
    /// Serves on `host:port`, at once or as soon as the port is free; `None` if the port is 0.
    pub fn start(host: &str, port: u16, source: Arc<dyn Source>) -> Option<Self> {
        process::begin();
        if port == 0 {
            return None;
        }
        let (known, address) = watch::channel(None);
        let host = host.to_string();
        let task = tokio::spawn(async move {
            let listener = listen(&host, port, source.role()).await;
            known.send_replace(listener.local_addr().ok());
            serve(listener, source).await;
        });
        Some(Self { address, task })
    }

    /// Where it listens, as soon as it does.
    pub async fn address(&self) -> Option<SocketAddr> {
        let mut address = self.address.clone();
        let known = address.wait_for(Option::is_some).await;
        known.ok().and_then(|known| *known)
    }
}

/// Until it has the port.
async fn listen(host: &str, port: u16, role: &str) -> TcpListener {
    let mut told = false;
    loop {
        match bind(host, port).await {
            Ok(listener) => {
                tracing::info!(role, host, port, "metrics at /metrics");
                return listener;
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(role, host, port, %error,
                    "no metrics for now: this address of the web page cannot be had; another web_port, or 0 for none, helps");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn bind(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let found = timeout(LOOKUP, lookup_host((host, port))).await.map_err(std::io::Error::from)??;
    let mut last = std::io::Error::other("no such host");
    for address in found {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let listening = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        });
        match listening {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn serve(listener: TcpListener, source: Arc<dyn Source>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut answering = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while answering.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                answering.spawn(async move {
                    let _place = place;
                    // Who is too slow, or leaves, gets nothing.
                    let _ = timeout(PATIENCE, answer(stream, source.as_ref())).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, source: &dyn Source) -> std::io::Result<()> {
    let reply = match head(&mut stream).await? {
        Some(head) => respond(&head, source).await,
        None => reply("431 Request Header Fields Too Large", "text/plain", "too large\n", true),
    };
    stream.write_all(&reply).await?;
    stream.shutdown().await
}

/// The request up to the empty line; `None` if it is too long.
async fn head(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() >= HEAD_MAX {
            return Ok(None);
        }
        match stream.read(&mut piece).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    Ok(Some(head))
}

async fn respond(head: &[u8], source: &dyn Source) -> Vec<u8> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
        return reply("400 Bad Request", TEXT, "this is an HTTP/1.1 server\n", true);
    }
    if method != "GET" && method != "HEAD" {
        return reply("405 Method Not Allowed", TEXT, "only GET and HEAD\n", true);
    }
    let body = method == "GET";
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => {
            let mut page = source.page().await;
            process::tell(&mut page, source.role());
            reply("200 OK", "text/plain; version=0.0.4; charset=utf-8", &page.text(), body)
        }
        "/healthz" => match source.health() {
            Ok(()) => reply("200 OK", TEXT, "ok\n", body),
            Err(why) => reply("503 Service Unavailable", TEXT, &format!("{why}\n"), body),
        },
        "/" => reply("200 OK", TEXT, "/metrics\n/healthz\n", body),
        _ => reply("404 Not Found", TEXT, "there are /metrics and /healthz\n", body),
    }
}

fn reply(status: &str, kind: &str, text: &str, body: bool) -> Vec<u8> {
    let length = text.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    if body { [head.as_bytes(), text.as_bytes()].concat() } else { head.into_bytes() }
}

#[cfg(test)]
#[path = "server_test.rs"]
mod server_test;
