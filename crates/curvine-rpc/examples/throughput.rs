//! Measures the RPC on loopback: serial small calls, and 1 MiB replies and requests over TCP and Unix sockets.
//!
//! `cargo run --release -p curvine-rpc --example throughput [seconds a row]`

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curvine_proto::{Empty, Method, PeerRole, ReadRequest};
use curvine_rpc::{Address, Auth, Body, Call, Channel, ClusterCell, Connector, Limits, Reply, Server, Service};
use curvine_types::{ClusterId, Result, Secret};
use futures::FutureExt;
use futures::future::BoxFuture;

const SIZE: usize = 1 << 20;

struct Bench {
    data: Bytes,
    file: Arc<std::fs::File>,
}

impl Service for Bench {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        async move {
            let reply = Reply::new(&Empty {});
            Ok(match call.method {
                Method::Read => reply.with_body(self.data.clone()),
                Method::ContentMap => {
                    reply.with_body(Body::File { file: self.file.clone(), offset: 0, len: SIZE as u64 })
                }
                _ => reply,
            })
        }
        .boxed()
    }
}

fn auth(role: PeerRole) -> Auth {
    let cluster = Arc::new(ClusterCell::new(ClusterId([1; 16])));
    Auth { secret: Secret::new("bench"), role, cluster, hostname: "localhost".to_string(), id: 0 }
}

/// `tasks` callers for `span`; gives calls a second.
async fn run(channel: &Channel, tasks: usize, span: Duration, method: Method, body: Body) -> Result<f64> {
    let begin = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (channel, body) = (channel.clone(), body.clone());
        callers.spawn(async move {
            let mut calls = 0u64;
            let request = ReadRequest { offset: 1, length: SIZE as u32, ..Default::default() };
            while begin.elapsed() < span {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
                channel.call::<_, Empty>(method, &request, body.clone(), deadline).await?;
                calls += 1;
            }
            Ok::<_, curvine_types::Error>(calls)
        });
    }
    let mut calls = 0;
    while let Some(done) = callers.join_next().await {
        calls += done.unwrap_or(Ok(0))?;
    }
    Ok(calls as f64 / begin.elapsed().as_secs_f64())
}

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let span = Duration::from_secs_f64(seconds);
    let io = |error| curvine_types::Error::from_io(error, "cannot prepare");
    let dir = tempfile::tempdir().map_err(io)?;
    let mut file = tempfile::tempfile().map_err(io)?;
    file.write_all(&vec![7; SIZE]).map_err(io)?;
    let data = Bytes::from(vec![7; SIZE]);
    let service = Arc::new(Bench { data: data.clone(), file: Arc::new(file) });
    let path = dir.path().join("rpc.sock");
    let tcp = Some("127.0.0.1:0".to_string());
    let server = Server::bind(tcp, Some(path.clone()), auth(PeerRole::Worker), Limits::default(), service).await?;
    let tcp = server.local_addr().map(|address| Address::Tcp(address.to_string()));
    for address in [tcp, Some(Address::Unix(path))].into_iter().flatten() {
        println!("{address}");
        let connector = Connector::new(auth(PeerRole::Client), Limits::default());
        for (connections, tasks) in [(1, 1), (1, 64), (4, 64)] {
            let channel = Channel::new(connector.clone(), vec![address.clone()], connections);
            let rate = run(&channel, tasks, span, Method::Stat, Body::Empty).await?;
            let each = 1e6 / rate * tasks as f64;
            println!("  empty calls      {connections} connections {tasks:3} callers {rate:9.0}/s {each:8.1} us");
        }
        let rows = [
            ("1 MiB replies", Method::Read, Body::Empty),
            ("1 MiB from file", Method::ContentMap, Body::Empty),
            ("1 MiB requests", Method::Write, Body::Bytes(data.clone())),
        ];
        for (name, method, body) in rows {
            for (connections, tasks) in [(1, 1), (1, 8), (4, 16)] {
                let channel = Channel::new(connector.clone(), vec![address.clone()], connections);
                let rate = run(&channel, tasks, span, method, body.clone()).await?;
                let speed = rate * SIZE as f64 / 1e9;
                println!("  {name:16} {connections} connections {tasks:3} callers {rate:9.0}/s {speed:8.2} GB/s");
            }
        }
    }
    server.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
