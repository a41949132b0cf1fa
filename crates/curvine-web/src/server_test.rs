use std::net::{Ipv4Addr, TcpListener as StdListener};

use super::*;
use crate::PROCESS;

struct Played(Result<(), String>);

impl Source for Played {
    fn role(&self) -> &'static str {
        "played"
    }

    fn page(&self) -> BoxFuture<'_, Page> {
        Box::pin(async { Page::of(&[PROCESS]) })
    }

    fn health(&self) -> Result<(), String> {
        self.0.clone()
    }
}

fn free_port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

async fn start(health: Result<(), String>) -> (WebServer, SocketAddr) {
    let server = WebServer::start("127.0.0.1", free_port(), Arc::new(Played(health))).unwrap();
    let address = server.address().await.unwrap();
    (server, address)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn pages_are_found_and_everything_else_is_told() {
    let (_server, address) = start(Ok(())).await;
    let metrics = ask(address, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("\ncurvine_build_info{role=\"played\",version="), "{metrics}");
    let (head, body) = metrics.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    assert!(ask(address, "GET /healthz HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\nok\n"));
    assert!(ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
    for (request, status) in [
        ("GET /other HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
        (&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_MAX)), "431"),
    ] {
        let answer = ask(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn who_is_not_well_says_why() {
    let (_server, address) = start(Err("no leader".into())).await;
    let answer = ask(address, "GET /healthz HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("no leader\n"), "{answer}");
}

#[tokio::test]
async fn a_port_in_use_is_taken_as_soon_as_it_is_free() {
    tokio::time::pause();
    let first = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = first.local_addr().unwrap().port();
    let server = WebServer::start("127.0.0.1", port, Arc::new(Played(Ok(())))).unwrap();
    // Time stands still until everybody waits: then an attempt was made.
    assert!(timeout(PAUSE / 2, server.address()).await.is_err());
    drop(first);
    assert_eq!(server.address().await.unwrap().port(), port);
    assert!(WebServer::start("127.0.0.1", 0, Arc::new(Played(Ok(())))).is_none());
}
