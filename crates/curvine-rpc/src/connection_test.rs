//! Connections that break, fall silent, or carry what no peer of ours sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::frame::{FrameKind, HEADER_LEN};
use curvine_proto::{Empty, Method};
use curvine_types::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::socket::split_tcp;
use crate::test_util::*;
use crate::{Address, Body, Connector, Limits, Reply, handshake};

async fn ok(_: crate::Call) -> curvine_types::Result<Reply> {
    Ok(Reply::new(&Empty {}))
}

fn impatient() -> Limits {
    Limits {
        ping_interval: Duration::from_millis(30),
        dead_after: Duration::from_millis(150),
        write_timeout: Duration::from_millis(150),
        ..Limits::default()
    }
}

/// Passes bytes on until it is frozen; then it keeps both connections open and is silent.
async fn proxy(to: Address, frozen: Arc<AtomicBool>) -> Address {
    async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, frozen: Arc<AtomicBool>) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if frozen.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = TcpStream::connect(to.to_string()).await.unwrap().into_split();
            tokio::spawn(pump(near_read, far_write, frozen.clone()));
            tokio::spawn(pump(far_read, near_write, frozen.clone()));
        }
    });
    address
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_by_both_ends() {
    let (service, mut events) = service_with_events(|_| std::future::pending());
    let (_server, address) = serve(impatient(), service).await;
    let frozen = Arc::new(AtomicBool::new(false));
    let address = proxy(address, frozen.clone()).await;
    let peer = Connector::new(client_auth(), impatient()).connect(&address, far()).await.unwrap();
    let Event::Connected(accepted) = soon(events.recv()).await.unwrap() else { panic!("not connected first") };
    frozen.store(true, Ordering::SeqCst);
    let error = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    assert!(error.to_string().contains("nothing was heard"), "{error}");
    soon(accepted.closed()).await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive_by_pings() {
    let (_server, address) = serve(impatient(), service(ok)).await;
    let peer = Connector::new(client_auth(), impatient()).connect(&address, far()).await.unwrap();
    let idle = tokio::time::timeout(3 * impatient().dead_after, peer.closed()).await;
    assert!(idle.is_err(), "closed while both ends are alive");
    peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_under_way_when_the_connection_breaks_may_have_been_executed() {
    let (begin, mut begun) = mpsc::unbounded_channel();
    let handler = move |call: crate::Call| {
        begin.send(call.peer.clone()).unwrap();
        std::future::pending()
    };
    let (_server, address) = serve(Limits::default(), service(handler)).await;
    let peer = connect(&address).await;
    let call = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far());
    let kill = async { soon(begun.recv()).await.unwrap().close() };
    let (outcome, ()) = futures::join!(call, kill);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionLost);
    let error = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// An acceptor that shakes hands and then reads nothing.
async fn deaf_acceptor() -> (Address, tokio::task::JoinHandle<(crate::socket::ReadHalf, crate::socket::WriteHalf)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let task = tokio::spawn(async move {
        let (mut read, write) = split_tcp(listener.accept().await.unwrap().0).unwrap();
        let limits = Limits::default();
        handshake::accept(&mut read, &write, &server_auth(), &limits, || Ok(())).await.unwrap();
        (read, write)
    });
    (address, task)
}

#[tokio::test]
async fn requests_that_never_left_are_told_from_those_that_may_have() {
    let (address, acceptor) = deaf_acceptor().await;
    let peer = connect(&address).await;
    let deaf = acceptor.await.unwrap();
    let body = Body::Bytes(Bytes::from(vec![0; 1 << 20]));
    let mut calls = tokio::task::JoinSet::new();
    let count = 200;
    for _ in 0..count {
        let (peer, body) = (peer.clone(), body.clone());
        calls.spawn(async move { peer.call::<_, Empty>(Method::Write, &Empty {}, body, far()).await });
    }
    // Far more than the buffers of the sockets take: the writer is stuck and the rest is queued.
    while peer.pending() < count || peer.conn().outbox.len() == 0 {
        tokio::task::yield_now().await;
    }
    drop(deaf);
    let (mut lost, mut unsent) = (0, 0);
    while let Some(done) = soon(calls.join_next()).await {
        match done.unwrap().unwrap_err().kind() {
            ErrorKind::ConnectionLost => lost += 1,
            ErrorKind::Unavailable => unsent += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 0 && unsent > count / 2, "lost {lost}, unsent {unsent}");
}

#[tokio::test]
async fn a_peer_that_takes_no_bytes_is_given_up() {
    let (address, acceptor) = deaf_acceptor().await;
    let hour = Duration::from_secs(3600);
    let limits = Limits { write_timeout: Duration::from_millis(100), dead_after: hour, ..Limits::default() };
    let peer = Connector::new(client_auth(), limits).connect(&address, far()).await.unwrap();
    let _deaf = acceptor.await.unwrap();
    let body = Body::Bytes(Bytes::from(vec![0; 1 << 20]));
    let calls = (0..64).map(|_| peer.call::<_, Empty>(Method::Write, &Empty {}, body.clone(), far()));
    let outcomes = soon(futures::future::join_all(calls)).await;
    assert!(outcomes.iter().all(|outcome| outcome.is_err()));
    assert!(peer.is_closed());
}

#[tokio::test]
async fn a_call_that_gives_up_before_its_request_left_takes_it_back() {
    let (address, acceptor) = deaf_acceptor().await;
    let peer = connect(&address).await;
    let _deaf = acceptor.await.unwrap();
    let body = Body::Bytes(Bytes::from(vec![0; 1 << 20]));
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (peer, body) = (peer.clone(), body.clone());
            tokio::spawn(async move { peer.call::<_, Empty>(Method::Write, &Empty {}, body, far()).await })
        })
        .collect();
    while peer.pending() < 100 {
        tokio::task::yield_now().await;
    }
    for call in &calls {
        call.abort();
    }
    for call in calls {
        assert!(call.await.unwrap_err().is_cancelled());
    }
    // What is left are the cancellations of those that had begun to leave.
    let queued = peer.conn().outbox.len();
    assert!(queued < 50, "{queued} frames are still queued");
    assert_eq!(peer.pending(), 0);
}

#[tokio::test]
async fn what_no_peer_of_ours_sends_ends_the_connection() {
    let (_server, address) = serve(Limits::default(), service(ok)).await;
    let good = frame(request(Method::Read, 1), b"", &[]);
    let mut flipped = good.clone();
    flipped[9] ^= 1;
    let mut wrong_meta = frame(request(Method::Read, 1), &[8, 1], &[]);
    wrong_meta[HEADER_LEN] ^= 1;
    let mut handshake = request(Method::Read, 1);
    handshake.kind = FrameKind::Handshake;
    let mut foreign_reply = request(Method::Read, 1);
    foreign_reply.kind = FrameKind::Reply;
    let oversized = {
        let mut header = request(Method::Read, 1);
        header.data_len = u32::MAX;
        header.encode(crate::crc32c).to_vec()
    };
    let cases = [
        ("a damaged header", flipped),
        ("a damaged message", wrong_meta),
        ("an oversized frame", oversized),
        ("a second handshake", frame(handshake, &[], &[])),
        ("a reply to nothing of ours", frame(foreign_reply, &[], &[])),
        ("a request on our own stream", frame(request(Method::Read, 2), &[], &[])),
        ("stream zero", frame(request(Method::Read, 0), &[], &[])),
        ("plain garbage", vec![0x55; 4096]),
    ];
    for (what, bytes) in cases {
        let mut raw = RawPeer::connect(&address).await;
        raw.write.write_all(&bytes).await.unwrap();
        assert!(soon(raw.receive()).await.is_none(), "{what} was answered");
    }
    let mut raw = RawPeer::connect(&address).await;
    raw.write.write_all(&good).await.unwrap();
    assert_eq!(soon(raw.receive()).await.unwrap().0.kind, FrameKind::Reply);
}

#[tokio::test]
async fn a_method_of_a_newer_version_is_refused_not_fatal() {
    let (_server, address) = serve(Limits::default(), service(ok)).await;
    let mut raw = RawPeer::connect(&address).await;
    let mut header = request(Method::Read, 1);
    header.method = 65_000;
    raw.send(header, b"", &[1; 100]).await;
    let (reply, meta, _) = soon(raw.receive()).await.unwrap();
    assert_eq!((reply.kind, crate::handlers::read_error(meta).kind()), (FrameKind::Error, ErrorKind::NotSupported));
    raw.send(request(Method::Ping, 3), b"", &[]).await;
    assert_eq!(soon(raw.receive()).await.unwrap().0.kind, FrameKind::Reply);
}

#[tokio::test]
async fn a_frame_may_come_in_the_smallest_pieces() {
    let (_server, address) = serve(Limits::default(), service(ok)).await;
    let mut raw = RawPeer::connect(&address).await;
    for byte in frame(request(Method::Write, 1), &[8, 1], &[5; 40]) {
        raw.write.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(soon(raw.receive()).await.unwrap().0.stream, 1);
}

#[tokio::test]
async fn the_stream_of_a_request_in_work_cannot_be_used_again() {
    let (_server, address) = serve(Limits::default(), service(|_| std::future::pending())).await;
    let mut raw = RawPeer::connect(&address).await;
    raw.send(request(Method::Read, 1), b"", &[]).await;
    raw.send(request(Method::Read, 1), b"", &[]).await;
    assert!(soon(raw.receive()).await.is_none());
}

#[tokio::test]
async fn a_peer_that_asks_and_never_reads_does_not_fill_our_memory() {
    let limits = Limits { max_inflight_per_connection: 1, max_calls_per_connection: 1, ..Limits::default() };
    let (server, address) = serve(limits, service(ok)).await;
    let raw = RawPeer::connect(&address).await;
    let pings: Vec<u8> = (0..1000).flat_map(|n| frame(request(Method::Ping, 2 * n + 1), &[], &[])).collect();
    // Ends when the server has seen that its answers are not taken.
    let flood = async { while raw.write.write_all(&pings).await.is_ok() {} };
    soon(flood).await;
    while server.connections() > 0 {
        tokio::task::yield_now().await;
    }
}
