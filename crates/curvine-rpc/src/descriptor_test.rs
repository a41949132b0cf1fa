//! Descriptors with replies over a real Unix socket.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use curvine_proto::{Empty, Method, ReadReply, ReadRequest};
use curvine_types::ErrorKind;
use futures::StreamExt;
use futures::stream;

use crate::test_util::*;
use crate::{Address, Body, Channel, Connector, Limits, Reply, Server};

/// Answers Stat with a file that holds the number that was asked for; Read with bytes.
async fn files(call: crate::Call) -> curvine_types::Result<Reply> {
    let request: ReadRequest = call.request()?;
    if call.method == Method::Read {
        return Ok(Reply::new(&ReadReply::default()).with_body(bytes::Bytes::from(pattern(request.length as usize, 1))));
    }
    let mut file = tempfile::tempfile().unwrap();
    write!(file, "{}", request.offset).unwrap();
    Ok(Reply::new(&ReadReply { offset: request.offset, ..Default::default() }).with_descriptor(OwnedFd::from(file)))
}

async fn bound() -> (tempfile::TempDir, Server, Address, Address) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rpc.sock");
    let tcp = Some("127.0.0.1:0".to_string());
    let server = Server::bind(tcp, Some(path.clone()), server_auth(), Limits::default(), service(files)).await.unwrap();
    let tcp = Address::Tcp(server.local_addr().unwrap().to_string());
    (dir, server, Address::Unix(path), tcp)
}

fn channel(address: Address) -> Channel {
    Channel::new(Connector::new(client_auth(), Limits::default()), vec![address], 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reply_brings_its_own_descriptor_between_any_others() {
    let (_dir, _server, unix, _) = bound().await;
    let channel = Arc::new(channel(unix));
    let calls = (0..300u64).map(|number| {
        let channel = channel.clone();
        async move {
            if number % 3 == 0 {
                let request = ReadRequest { length: 40_000 * (number as u32 % 5), ..Default::default() };
                let (_, data): (ReadReply, _) = channel.call(Method::Read, &request, Body::Empty, far()).await.unwrap();
                assert_eq!(data, pattern(request.length as usize, 1));
                return;
            }
            let request = ReadRequest { offset: number, ..Default::default() };
            let (reply, file): (ReadReply, _) =
                channel.call_for_descriptor(Method::Stat, &request, far()).await.unwrap();
            let mut file = File::from(file.expect("a descriptor"));
            let mut text = String::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!((reply.offset, text), (number, number.to_string()));
        }
    });
    stream::iter(calls).buffer_unordered(32).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn over_tcp_a_descriptor_is_an_error_and_a_caller_that_wants_none_is_not_disturbed() {
    let (_dir, _server, unix, tcp) = bound().await;
    let request = ReadRequest { offset: 7, ..Default::default() };
    let refused = channel(tcp).call_for_descriptor::<_, Empty>(Method::Stat, &request, far()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotSupported);
    let peer = connect(&unix).await;
    assert!(peer.is_local());
    for _ in 0..40 {
        let (reply, _): (ReadReply, _) = peer.call(Method::Stat, &request, Body::Empty, far()).await.unwrap();
        assert_eq!(reply.offset, 7);
    }
}
