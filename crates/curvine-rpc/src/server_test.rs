//! Listening, limits and shutting down.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use curvine_proto::{Empty, Method};
use curvine_types::{ErrorKind, Result};
use tokio::sync::{Notify, mpsc};

use crate::test_util::*;
use crate::{Address, Body, Connector, Limits, Reply, Server};

async fn ok(_: crate::Call) -> Result<Reply> {
    Ok(Reply::new(&Empty {}))
}

async fn serve_unix(path: &Path) -> Result<Server> {
    Server::bind(None, Some(path.to_path_buf()), server_auth(), Limits::default(), service(ok)).await
}

#[tokio::test]
async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/rpc.sock");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let server = serve_unix(&path).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(serve_unix(&path).await.err().unwrap().kind(), ErrorKind::Busy);
    connect(&Address::Unix(path.clone())).await;
    server.shutdown(Duration::ZERO).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_in_the_place_of_the_unix_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    assert_eq!(serve_unix(&path).await.err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let (server, _) = serve(Limits::default(), service(ok)).await;
    let taken = Some(server.local_addr().unwrap().to_string());
    let error = Server::bind(taken, None, server_auth(), Limits::default(), service(ok)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
}

#[tokio::test]
async fn more_connections_than_the_limit_are_refused_until_one_ends() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let (server, address) = serve(limits, service(ok)).await;
    let first = connect(&address).await;
    let connector = Connector::new(client_auth(), Limits::default());
    assert_eq!(connector.connect(&address, far()).await.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(server.connections(), 1);
    drop(first);
    let again = async {
        while connector.connect(&address, far()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(again).await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_in_work_finish_and_takes_no_new_ones() {
    let gate = Arc::new(Notify::new());
    let (begin, mut begun) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            begin.send(()).unwrap();
            async move {
                gate.notified().await;
                Ok(Reply::new(&Empty {}))
            }
        }
    };
    let (server, address) = serve(Limits::default(), service(handler)).await;
    let peer = connect(&address).await;
    let in_work = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far());
    let stop = async {
        soon(begun.recv()).await.unwrap();
        let late = async {
            let error = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await.unwrap_err();
            gate.notify_one();
            error
        };
        // On this one thread the server's reader sees the late call only after the shutdown has begun.
        let (late, ()) = futures::join!(late, server.shutdown(Duration::from_secs(20)));
        late
    };
    let (done, late) = soon(futures::future::join(in_work, stop)).await;
    done.unwrap();
    assert_eq!(late.kind(), ErrorKind::Unavailable);
    soon(peer.closed()).await;
    let error = Connector::new(client_auth(), Limits::default()).connect(&address, far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_longer_than_its_grace() {
    let (server, address) = serve(Limits::default(), service(|_| std::future::pending())).await;
    let peer = connect(&address).await;
    let call = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far());
    let stop = async {
        while server.inflight() == 0 {
            tokio::task::yield_now().await;
        }
        server.shutdown(Duration::from_millis(50)).await;
    };
    let (outcome, ()) = soon(futures::future::join(call, stop)).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionLost);
}

#[tokio::test]
async fn dropping_a_server_ends_its_connections() {
    let (server, address) = serve(Limits::default(), service(ok)).await;
    let peer = connect(&address).await;
    drop(server);
    soon(peer.closed()).await;
}

#[tokio::test]
async fn dropping_the_last_handle_of_a_dialled_connection_ends_it() {
    let (service, mut events) = service_with_events(ok);
    let (server, address) = serve(Limits::default(), service).await;
    let peer = connect(&address).await;
    let clone = peer.clone();
    drop(peer);
    clone.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await.unwrap();
    drop(clone);
    while !matches!(soon(events.recv()).await.unwrap(), Event::Disconnected(_)) {}
    assert_eq!(server.connections(), 0);
}
