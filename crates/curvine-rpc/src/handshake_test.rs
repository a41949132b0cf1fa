//! Who gets in, who does not, and what both ends are told.

use std::sync::Arc;
use std::time::Duration;

use curvine_proto::frame::FrameKind;
use curvine_proto::{Empty, Hello, Method, PeerRole};
use curvine_types::{ClusterId, ErrorKind, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{ACCEPTOR, DIALER, prove, verify};
use crate::socket::split_tcp;
use crate::test_util::*;
use crate::{Address, Auth, Body, ClusterCell, Connector, Limits, Reply, handshake};
use hmac::Mac;

/// Both ends of a loopback connection, and how the handshake ended for each.
async fn shake(dialer: &Auth, acceptor: &Auth) -> (curvine_types::Result<()>, curvine_types::Result<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits::default();
    let dial = async {
        let (mut read, write) = split_tcp(TcpStream::connect(address).await.unwrap()).unwrap();
        handshake::dial(&mut read, &write, dialer, &limits).await
    };
    let accept = async {
        let (mut read, write) = split_tcp(listener.accept().await.unwrap().0).unwrap();
        handshake::accept(&mut read, &write, acceptor, &limits, || Ok(())).await
    };
    let (dialed, accepted) = soon(futures::future::join(dial, accept)).await;
    (dialed.map(drop), accepted.map(drop))
}

#[tokio::test]
async fn a_wrong_secret_is_told_to_both_ends() {
    let dialer = Auth { secret: Secret::new("another"), ..client_auth() };
    let (dialed, accepted) = shake(&dialer, &server_auth()).await;
    for error in [dialed.unwrap_err(), accepted.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        let text = error.to_string();
        assert!(text.contains("compare the cluster secret"), "{text}");
        assert!(text.contains("worker host-a"), "{text}");
    }
}

#[tokio::test]
async fn no_secret_is_not_the_same_as_a_secret() {
    let none = |auth: Auth| Auth { secret: Secret::default(), ..auth };
    let (dialed, accepted) = shake(&none(client_auth()), &server_auth()).await;
    assert_eq!(dialed.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(accepted.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let (dialed, accepted) = shake(&none(client_auth()), &none(server_auth())).await;
    dialed.unwrap();
    accepted.unwrap();
}

#[tokio::test]
async fn another_cluster_is_foreign_and_an_unknown_one_is_not() {
    let of = |auth: Auth, cluster| Auth { cluster: Arc::new(ClusterCell::new(ClusterId([cluster; 16]))), ..auth };
    let (dialed, accepted) = shake(&of(client_auth(), 1), &of(server_auth(), 2)).await;
    for error in [dialed.unwrap_err(), accepted.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Foreign);
        assert!(error.to_string().contains("different clusters"), "{error}");
    }
    for (dialer, acceptor) in [(0, 2), (2, 0), (0, 0), (3, 3)] {
        let (dialed, accepted) = shake(&of(client_auth(), dialer), &of(server_auth(), acceptor)).await;
        dialed.unwrap();
        accepted.unwrap();
    }
}

#[test]
fn a_proof_holds_for_its_role_and_its_hellos_only() {
    let auth = server_auth();
    let theirs = Hello::default();
    let proof = prove(&auth, DIALER, b"dialer's", b"acceptor's").unwrap().finalize().into_bytes();
    let check = |role, dialer: &[u8], acceptor: &[u8]| verify(&auth, role, dialer, acceptor, &proof, &theirs);
    check(DIALER, b"dialer's", b"acceptor's").unwrap();
    let others: [(&[u8], &[u8], &[u8]); 4] = [
        (ACCEPTOR, b"dialer's", b"acceptor's"),
        (DIALER, b"acceptor's", b"dialer's"),
        (DIALER, b"dialer'sa", b"cceptor's"),
        (DIALER, b"dialer's", b"acceptor's again"),
    ];
    for (role, dialer, acceptor) in others {
        assert_eq!(check(role, dialer, acceptor).unwrap_err().kind(), ErrorKind::Unauthenticated);
    }
}

#[tokio::test]
async fn a_proof_of_an_earlier_connection_is_worth_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let connector = Connector::new(client_auth(), Limits::default());
    // A true acceptor's words, recorded by whoever stands between.
    let (_server, real) = serve(Limits::default(), service(|_| async { Ok(Reply::new(&Empty {})) })).await;
    let record = async {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(real.to_string()).await.unwrap();
        let mut hello = vec![0; 8192];
        let count = near.read(&mut hello).await.unwrap();
        far.write_all(&hello[..count]).await.unwrap();
        let mut challenge = vec![0; 8192];
        let count = far.read(&mut challenge).await.unwrap();
        challenge.truncate(count);
        challenge
    };
    let (_, challenge) = soon(futures::future::join(connector.connect(&address, far()), record)).await;
    let replay = async {
        let (mut near, _) = listener.accept().await.unwrap();
        near.write_all(&challenge).await.unwrap();
        let _ = near.read_to_end(&mut Vec::new()).await;
    };
    let (connected, ()) = soon(futures::future::join(connector.connect(&address, far()), replay)).await;
    assert_eq!(connected.unwrap_err().kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn garbage_gets_no_answer_and_the_server_stays() {
    let (server, address) = serve(Limits::default(), service(|_| async { Ok(Reply::new(&Empty {})) })).await;
    let oversized = {
        let mut header = request(Method::Ping, 0);
        header.kind = FrameKind::Handshake;
        frame(header, &[0; 5000], &[])
    };
    let early = frame(request(Method::Ping, 1), &[], &[]);
    let unparsable = {
        let mut header = request(Method::Ping, 0);
        header.kind = FrameKind::Handshake;
        frame(header, &[0xff; 50], &[])
    };
    let http = b"GET / HTTP/1.1\r\nHost: curvine\r\nUser-Agent: probe\r\n\r\n".to_vec();
    for bytes in [http, vec![0; 4096], oversized, early, unparsable] {
        let mut stream = TcpStream::connect(address.to_string()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        // Ends, by an end of stream or by a reset, and says nothing but why it refuses.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.len() < 1024);
    }
    let peer = connect(&address).await;
    peer.call::<_, Empty>(Method::Stat, &Empty {}, Body::Empty, far()).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_silent_peer_does_not_hold_its_place_for_long() {
    let limits = Limits { handshake_timeout: Duration::from_millis(50), max_handshakes: 1, ..Limits::default() };
    let (_server, address) = serve(limits, service(|_| async { Ok(Reply::new(&Empty {})) })).await;
    let _silent = TcpStream::connect(address.to_string()).await.unwrap();
    // Gets its turn only after the silent one has lost it.
    connect(&address).await;
}

#[tokio::test]
async fn a_dialer_does_not_wait_for_a_silent_acceptor() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let error = Connector::new(client_auth(), limits).connect(&address, far()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_peer_is_what_its_hello_says() {
    let (service, mut events) = service_with_events(|_| async { Ok(Reply::new(&Empty {})) });
    let (_server, address) = serve(Limits::default(), service).await;
    let peer = connect(&address).await;
    let Event::Connected(accepted) = soon(events.recv()).await.unwrap() else { panic!("not connected first") };
    assert_eq!((accepted.hello().role(), accepted.hello().hostname.as_str()), (PeerRole::Client, "host-b"));
    assert_eq!(peer.hello().role(), PeerRole::Worker);
    drop(peer);
    let Event::Disconnected(id) = soon(events.recv()).await.unwrap() else { panic!("connected twice") };
    assert_eq!(id, accepted.id());
}
