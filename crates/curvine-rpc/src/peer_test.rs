//! Calls over one connection, as callers and services see them.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::frame::{DATA_MAX, FrameKind};
use curvine_proto::{Empty, Method, ReadReply, ReadRequest, WriteReply, WriteRequest};
use curvine_types::{Error, ErrorKind};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

use crate::test_util::*;
use crate::{Address, Body, Budget, Connector, Limits, Reply, Server, crc32c};

/// Answers Read with a pattern of the wanted length, Write with the checksum of the data.
async fn echo(call: crate::Call) -> curvine_types::Result<Reply> {
    match call.method {
        Method::Read => {
            let request: ReadRequest = call.request()?;
            let data = Bytes::from(pattern(request.length as usize, request.offset));
            Ok(Reply::new(&ReadReply { size: call.data.len() as u64, ..Default::default() }).with_body(data))
        }
        Method::Write => Ok(Reply::new(&WriteReply { offset: crc32c(&call.data).into(), ..Default::default() })),
        _ => Err(Error::new(ErrorKind::NotSupported, "not here").with("inode", 9)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_data_of_every_size_arrive_on_tcp_and_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/rpc.sock");
    let tcp = Some("127.0.0.1:0".to_string());
    let server = Server::bind(tcp, Some(path.clone()), server_auth(), Limits::default(), service(echo)).await.unwrap();
    for address in [Address::Tcp(server.local_addr().unwrap().to_string()), Address::Unix(path)] {
        let peer = connect(&address).await;
        assert_eq!((peer.hello().hostname.as_str(), peer.hello().id), ("host-a", 5));
        for length in [0, 1, 4095, 16 << 10, (16 << 10) + 1, 1 << 20, DATA_MAX] {
            let data = Bytes::from(pattern(length, 3));
            let (reply, _): (WriteReply, _) =
                peer.call(Method::Write, &WriteRequest::default(), data.clone().into(), far()).await.unwrap();
            assert_eq!(reply.offset, u64::from(crc32c(&data)), "{address} {length}");
            let request = ReadRequest { offset: 8, length: length as u32, ..Default::default() };
            let (_, back): (ReadReply, _) = peer.call(Method::Read, &request, Body::Empty, far()).await.unwrap();
            assert_eq!(back, pattern(length, 8), "{address} {length}");
        }
    }
}

#[tokio::test]
async fn an_error_keeps_its_kind_and_context_on_the_way() {
    let (_server, address) = serve(Limits::default(), service(echo)).await;
    let peer = connect(&address).await;
    let error = peer.call::<_, Empty>(Method::Stat, &Empty {}, Body::Empty, far()).await.unwrap_err();
    assert_eq!((error.kind(), error.message(), error.get("inode")), (ErrorKind::NotSupported, "not here", Some("9")));
}

#[tokio::test]
async fn a_handler_can_call_its_caller_back() {
    let handler = |call: crate::Call| async move {
        let request: ReadRequest = call.request()?;
        let request = ReadRequest { offset: request.offset + 1, length: 10, ..Default::default() };
        let (_, data): (ReadReply, _) = call.peer.call(Method::Read, &request, Body::Empty, call.deadline).await?;
        Ok(Reply::new(&ReadReply::default()).with_body(data))
    };
    let (_server, address) = serve(Limits::default(), service(handler)).await;
    let connector = Connector::new(client_auth(), Limits::default()).with_service(service(echo));
    let peer = connector.connect(&address, far()).await.unwrap();
    let request = ReadRequest { offset: 4, ..Default::default() };
    let (_, data): (ReadReply, _) = peer.call(Method::Fill, &request, Body::Empty, far()).await.unwrap();
    assert_eq!(data, pattern(10, 5));
}

#[tokio::test]
async fn an_end_without_a_service_refuses_calls() {
    let (service, mut events) = service_with_events(echo);
    let (_server, address) = serve(Limits::default(), service).await;
    let _client = connect(&address).await;
    let Event::Connected(peer) = soon(events.recv()).await.unwrap() else { panic!("not connected first") };
    let error = peer.call::<_, Empty>(Method::Recall, &Empty {}, Body::Empty, far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
}

#[tokio::test]
async fn replies_come_as_they_are_done() {
    let gate = Arc::new(Notify::new());
    let handler = move |call: crate::Call| {
        let gate = gate.clone();
        async move {
            match call.method {
                Method::Read => gate.notified().await,
                _ => gate.notify_one(),
            }
            Ok(Reply::new(&Empty {}))
        }
    };
    let (_server, address) = serve(Limits::default(), service(handler)).await;
    let peer = connect(&address).await;
    let first = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far());
    let second = peer.call::<_, Empty>(Method::Write, &Empty {}, Body::Empty, far());
    // The first can only end because the second is answered before it.
    let (first, second) = futures::join!(first, second);
    first.unwrap();
    second.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_calls_at_once_each_get_their_own_reply() {
    let (server, address) = serve(Limits::default(), service(echo)).await;
    let peer = connect(&address).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..1000u64 {
        let peer = peer.clone();
        calls.spawn(async move {
            let length = (number * 7919 % 50_000) as u32;
            let request = ReadRequest { offset: number, length, ..Default::default() };
            let body = Bytes::from(pattern(number as usize, 0));
            let (reply, data): (ReadReply, _) = peer.call(Method::Read, &request, body.into(), far()).await.unwrap();
            assert_eq!(reply.size, number);
            assert_eq!(data, pattern(length as usize, number));
        });
    }
    while let Some(done) = soon(calls.join_next()).await {
        done.unwrap();
    }
    assert_eq!((peer.pending(), server.connections()), (0, 1));
}

/// A frame that is queued just as the other caller's write ends must not be left behind: nobody would come after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_callers_at_the_same_moment_none_is_forgotten() {
    // No ping, whose frame would take a forgotten one along.
    let hour = Duration::from_secs(3600);
    let limits = Limits { ping_interval: hour, dead_after: hour, ..Limits::default() };
    let (_server, address) = serve(limits.clone(), service(echo)).await;
    let peer = Connector::new(client_auth(), limits).connect(&address, far()).await.unwrap();
    for round in 0..4000 {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let peer = peer.clone();
            callers.spawn(async move {
                peer.call::<_, WriteReply>(Method::Write, &WriteRequest::default(), Body::Empty, far()).await
            });
        }
        while let Some(done) = callers.join_next().await {
            assert!(done.unwrap().is_ok(), "round {round}");
        }
    }
}

#[tokio::test]
async fn a_late_call_times_out_and_its_handler_is_dropped() {
    let (tell, mut dropped) = mpsc::unbounded_channel();
    let handler = move |_| {
        let guard = DropTells(tell.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    };
    let (server, address) = serve(Limits::default(), service(handler)).await;
    let peer = connect(&address).await;
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, deadline).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    soon(dropped.recv()).await.unwrap();
    soon(server_idle(&server)).await;
    assert_eq!(peer.pending(), 0);
}

async fn server_idle(server: &Server) {
    while server.inflight() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_server_keeps_the_deadline_even_if_the_caller_does_not_cancel() {
    let (_server, address) = serve(Limits::default(), service(|_| std::future::pending())).await;
    let mut raw = RawPeer::connect(&address).await;
    let mut header = request(Method::Read, 1);
    header.deadline_ms = 30;
    raw.send(header, &[], &[]).await;
    let (reply, meta, _) = soon(raw.receive()).await.unwrap();
    assert_eq!((reply.kind, reply.stream), (FrameKind::Error, 1));
    assert_eq!(crate::handlers::read_error(meta).kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn dropping_a_call_drops_its_handler() {
    let (tell, mut dropped) = mpsc::unbounded_channel();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let handler = move |_| {
        let guard = DropTells(tell.clone());
        begin.send(()).unwrap();
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    };
    let (server, address) = serve(Limits::default(), service(handler)).await;
    let peer = connect(&address).await;
    {
        let call = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far());
        tokio::select! {
            _ = call => panic!("nobody answers"),
            _ = soon(begun.recv()) => {}
        }
    }
    soon(dropped.recv()).await.unwrap();
    soon(server_idle(&server)).await;
    assert!(!peer.is_closed());
}

/// Counts how many run at once, until the gate opens.
struct Crowd {
    gate: Semaphore,
    now: AtomicUsize,
    most: AtomicUsize,
    arrived: mpsc::UnboundedSender<()>,
}

impl Crowd {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<()>) {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        (Arc::new(Self { gate: Semaphore::new(0), now, most, arrived }), arrivals)
    }

    async fn enter(self: Arc<Self>, _call: crate::Call) -> curvine_types::Result<Reply> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.arrived.send(()).unwrap();
        let _ = self.gate.acquire().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Reply::new(&Empty {}))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_requests_are_handled_at_once_than_the_limit() {
    let (crowd, mut arrivals) = Crowd::new();
    let handler = {
        let crowd = crowd.clone();
        move |call| crowd.clone().enter(call)
    };
    let limits = Limits { max_inflight_per_connection: 4, ..Limits::default() };
    let (server, address) = serve(limits, service(handler)).await;
    let peer = connect(&address).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let peer = peer.clone();
        calls.spawn(async move { peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await });
    }
    for _ in 0..4 {
        soon(arrivals.recv()).await.unwrap();
    }
    assert_eq!((server.inflight(), peer.pending()), (4, 4));
    crowd.gate.close();
    while let Some(done) = soon(calls.join_next()).await {
        done.unwrap().unwrap();
    }
    assert_eq!(crowd.most.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_ignores_its_credit_is_held_back() {
    let (crowd, mut arrivals) = Crowd::new();
    let handler = {
        let crowd = crowd.clone();
        move |call| crowd.clone().enter(call)
    };
    let limits = Limits { max_inflight_per_connection: 4, ..Limits::default() };
    let (_server, address) = serve(limits, service(handler)).await;
    let mut raw = RawPeer::connect(&address).await;
    for number in 0..32 {
        raw.send(request(Method::Read, number * 2 + 1), &[], &[]).await;
    }
    for _ in 0..4 {
        soon(arrivals.recv()).await.unwrap();
    }
    crowd.gate.close();
    for _ in 0..32 {
        assert_eq!(soon(raw.receive()).await.unwrap().0.kind, FrameKind::Reply);
    }
    assert_eq!(crowd.most.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn received_data_stays_inside_the_budget_and_what_does_not_fit_in_time_is_refused() {
    let (hold, mut held) = mpsc::unbounded_channel();
    let handler = move |call: crate::Call| {
        let hold = hold.clone();
        async move {
            hold.send(call.data).unwrap();
            Ok(Reply::new(&Empty {}))
        }
    };
    let budget = Budget::new(0);
    let limits =
        Limits { inflight_bytes: budget.clone(), budget_timeout: Duration::from_millis(50), ..Limits::default() };
    let (_server, address) = serve(limits, service(handler)).await;
    let peer = connect(&address).await;
    let body = Body::Bytes(Bytes::from(vec![1; 1 << 20]));
    let fits = budget.limit() >> 20;
    let mut data = Vec::new();
    for _ in 0..fits {
        peer.call::<_, Empty>(Method::Write, &Empty {}, body.clone(), far()).await.unwrap();
        data.push(soon(held.recv()).await.unwrap());
    }
    assert_eq!(budget.used(), fits << 20);
    let error = peer.call::<_, Empty>(Method::Write, &Empty {}, body.clone(), far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    data.pop();
    peer.call::<_, Empty>(Method::Write, &Empty {}, body, far()).await.unwrap();
    data.push(soon(held.recv()).await.unwrap());
    data.clear();
    // The handler's own share goes with its task.
    while budget.used() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_a_file_arrives_as_its_bytes() {
    let content = Arc::new(pattern(3 << 20, 1));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let file = Arc::new(file);
    let handler = move |call: crate::Call| {
        let file = file.clone();
        async move {
            let request: ReadRequest = call.request()?;
            let body = Body::File { file, offset: request.offset, len: request.length.into() };
            Ok(Reply::new(&ReadReply { offset: request.offset, ..Default::default() }).with_body(body))
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let tcp = Some("127.0.0.1:0".to_string());
    let server =
        Server::bind(tcp, Some(path.clone()), server_auth(), Limits::default(), service(handler)).await.unwrap();
    for address in [Address::Tcp(server.local_addr().unwrap().to_string()), Address::Unix(path)] {
        let peer = connect(&address).await;
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..64u64 {
            let (peer, content) = (peer.clone(), content.clone());
            calls.spawn(async move {
                let (offset, length) = (number * 30_011, [0, 1, 4096, 70_000, 1 << 20][number as usize % 5]);
                let request = ReadRequest { offset, length, ..Default::default() };
                let (reply, data): (ReadReply, _) =
                    peer.call(Method::Read, &request, Body::Empty, far()).await.unwrap();
                assert_eq!(reply.offset, offset);
                assert!(data == content[offset as usize..offset as usize + length as usize], "{offset}+{length}");
            });
        }
        while let Some(done) = soon(calls.join_next()).await {
            done.unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_that_is_shorter_than_promised_ends_the_connection() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 100]).unwrap();
    let file = Arc::new(file);
    let handler = move |_| {
        let file = file.clone();
        async move { Ok(Reply::new(&Empty {}).with_body(Body::File { file, offset: 0, len: 101 })) }
    };
    let (_server, address) = serve(Limits::default(), service(handler)).await;
    let peer = connect(&address).await;
    let error = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    soon(peer.closed()).await;
}

#[tokio::test]
async fn a_panic_in_a_handler_is_an_error_of_that_call_only() {
    let handler = |call: crate::Call| async move {
        assert!(call.method != Method::Read, "planted");
        Ok(Reply::new(&Empty {}))
    };
    let (_server, address) = serve(Limits::default(), service(handler)).await;
    let peer = connect(&address).await;
    let error = peer.call::<_, Empty>(Method::Read, &Empty {}, Body::Empty, far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    peer.call::<_, Empty>(Method::Write, &Empty {}, Body::Empty, far()).await.unwrap();
}

#[tokio::test]
async fn what_no_frame_can_carry_is_refused_at_the_sender() {
    let big = |_| async { Ok(Reply::new(&Empty {}).with_body(Bytes::from(vec![0; DATA_MAX + 1]))) };
    let (_server, address) = serve(Limits::default(), service(big)).await;
    let peer = connect(&address).await;
    let body = Body::Bytes(vec![0; DATA_MAX + 1].into());
    let sent = peer.call::<_, Empty>(Method::Write, &Empty {}, body, far()).await.unwrap_err();
    let received = peer.call::<_, Empty>(Method::Write, &Empty {}, Body::Empty, far()).await.unwrap_err();
    assert_eq!((sent.kind(), received.kind()), (ErrorKind::TooBig, ErrorKind::TooBig));
    assert!(!peer.is_closed());
}
