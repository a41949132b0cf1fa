//! Clients of services that come, go and move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use curvine_proto::{Empty, Method};
use curvine_types::{Error, ErrorKind, Result, Secret};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::test_util::*;
use crate::{Address, Auth, Body, Channel, Connector, Limits, Reply, Server};

async fn ok(_: crate::Call) -> Result<Reply> {
    Ok(Reply::new(&Empty {}))
}

fn connector() -> Connector {
    Connector::new(client_auth(), Limits::default())
}

async fn ping(channel: &Channel, deadline: Instant) -> Result<()> {
    channel.call::<_, Empty>(Method::Stat, &Empty {}, Body::Empty, deadline).await.map(drop)
}

/// An address at which nobody listens.
async fn nobody() -> Address {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    Address::Tcp(listener.local_addr().unwrap().to_string())
}

#[tokio::test]
async fn a_channel_connects_again_when_the_server_has_come_back() {
    let (server, address) = serve(Limits::default(), service(ok)).await;
    let channel = Channel::new(connector(), vec![address.clone()], 1);
    assert_eq!(channel.connections(), 0);
    ping(&channel, far()).await.unwrap();
    assert_eq!(channel.connections(), 1);
    let peer = channel.peer(far()).await.unwrap();
    server.shutdown(Duration::ZERO).await;
    soon(peer.closed()).await;
    let restart = async {
        // The first attempt of the call below has failed by the time that its pause has begun.
        tokio::task::yield_now().await;
        Server::bind(Some(address.to_string()), None, server_auth(), Limits::default(), service(ok)).await.unwrap()
    };
    let (called, _server) = soon(futures::future::join(ping(&channel, far()), restart)).await;
    called.unwrap();
}

#[tokio::test]
async fn nobody_there_is_unavailable_at_the_deadline_and_not_before_long() {
    let channel = Channel::new(connector(), vec![nobody().await, nobody().await], 2);
    let begin = Instant::now();
    let error = ping(&channel, begin + Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(begin.elapsed() >= Duration::from_millis(150), "gave up after {:?}", begin.elapsed());
    let error = ping(&channel.with_patience(Duration::from_millis(20)), far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = ping(&Channel::new(connector(), vec![], 1), far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_channel_passes_over_an_address_that_does_not_answer() {
    let (_server, address) = serve(Limits::default(), service(ok)).await;
    let channel = Channel::new(connector(), vec![nobody().await, address], 1);
    ping(&channel, far()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_secret_is_reported_at_once() {
    let (_server, address) = serve(Limits::default(), service(ok)).await;
    let auth = Auth { secret: Secret::new("another"), ..client_auth() };
    let channel = Channel::new(Connector::new(auth, Limits::default()), vec![address], 1);
    assert_eq!(soon(ping(&channel, far())).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
}

/// A server that is no leader and names one, or nobody; counts what it was asked.
async fn follower(leader: Option<String>) -> (Server, Address, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let handler = {
        let asked = asked.clone();
        move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            let error = Error::new(ErrorKind::NotLeader, "not the leader");
            let error = leader.iter().fold(error, |error, leader| error.with("leader", leader));
            async move { Err(error) }
        }
    };
    let (server, address) = serve(Limits::default(), service(handler)).await;
    (server, address, asked)
}

#[tokio::test]
async fn a_channel_follows_to_the_leader_and_stays_there() {
    let (_leader, leader_address) = serve(Limits::default(), service(ok)).await;
    let (_pointing, pointing, asked) = follower(Some(leader_address.to_string())).await;
    // The leader is found though it is not among the addresses.
    let channel = Channel::new(connector(), vec![pointing], 1);
    ping(&channel, far()).await.unwrap();
    ping(&channel, far()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let (_silent, silent, _) = follower(None).await;
    let channel = Channel::new(connector(), vec![silent, leader_address], 1);
    soon(ping(&channel, far())).await.unwrap();
}

#[tokio::test]
async fn masters_without_a_leader_are_asked_until_the_deadline_not_in_a_storm() {
    let (_a, a, asked_a) = follower(None).await;
    let (_b, b, asked_b) = follower(None).await;
    let channel = Channel::new(connector(), vec![a, b], 1);
    let error = ping(&channel, Instant::now() + Duration::from_millis(300)).await.unwrap_err();
    // The last attempt may have been cut off by the deadline.
    assert!(matches!(error.kind(), ErrorKind::NotLeader | ErrorKind::TimedOut), "{error:?}");
    let asked = asked_a.load(Ordering::SeqCst) + asked_b.load(Ordering::SeqCst);
    assert!((2..20).contains(&asked), "asked {asked} times");
}

#[tokio::test]
async fn what_the_service_refuses_is_not_tried_again() {
    for kind in [ErrorKind::NotFound, ErrorKind::VersionMismatch, ErrorKind::Unavailable, ErrorKind::Overloaded] {
        let asked = Arc::new(AtomicUsize::new(0));
        let handler = {
            let asked = asked.clone();
            move |_| {
                asked.fetch_add(1, Ordering::SeqCst);
                async move { Err(Error::new(kind, "no")) }
            }
        };
        let (_server, address) = serve(Limits::default(), service(handler)).await;
        let channel = Channel::new(connector(), vec![address], 1);
        assert_eq!(ping(&channel, far()).await.unwrap_err().kind(), kind);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_call_cut_off_in_work_is_not_tried_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let handler = {
        let asked = asked.clone();
        move |call: crate::Call| {
            asked.fetch_add(1, Ordering::SeqCst);
            call.peer.close();
            std::future::pending()
        }
    };
    let (_server, address) = serve(Limits::default(), service(handler)).await;
    let channel = Channel::new(connector(), vec![address], 1);
    assert_eq!(ping(&channel, far()).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn busy_connections_are_joined_by_more_up_to_the_limit() {
    let (begin, mut begun) = mpsc::unbounded_channel();
    let handler = move |_| {
        begin.send(()).unwrap();
        std::future::pending()
    };
    let (server, address) = serve(Limits::default(), service(handler)).await;
    let channel = Channel::new(connector(), vec![address], 3);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..9 {
        let channel = channel.clone();
        calls.spawn(async move { ping(&channel, far()).await });
        soon(begun.recv()).await.unwrap();
    }
    assert_eq!((channel.connections(), channel.pending(), server.connections()), (3, 9, 3));
}

#[tokio::test]
async fn new_addresses_take_effect_at_the_next_call() {
    let (_old, old) = serve(Limits::default(), service(ok)).await;
    let (new_server, new) = serve(Limits::default(), service(ok)).await;
    let channel = Channel::new(connector(), vec![old], 1);
    ping(&channel, far()).await.unwrap();
    channel.set_addresses(vec![new]);
    ping(&channel, far()).await.unwrap();
    assert_eq!((new_server.connections(), channel.connections()), (1, 1));
}
