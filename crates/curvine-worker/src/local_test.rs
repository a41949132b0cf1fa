//! Descriptors over a real Unix socket.

use std::fs::File;
use std::os::unix::fs::FileExt;

use curvine_proto::*;
use curvine_types::ErrorKind;

use crate::test_util::*;

async fn cluster() -> Cluster {
    Cluster::start_with(|options| options.socket = Some(options.tiers[0].dir.join("worker.sock"))).await
}

async fn expose(cluster: &Cluster, request: ExposeRequest) -> curvine_types::Result<(ExposeReply, Option<File>)> {
    let (reply, file) = cluster.local_channel().call_for_descriptor(Method::Expose, &request, far()).await?;
    Ok((reply, file.map(File::from)))
}

fn reading(inode: u64, version: u64) -> ExposeRequest {
    ExposeRequest { content: content(inode, version), ..Default::default() }
}

fn bytes_of(file: &File, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_this_machine_get_a_read_only_descriptor_and_others_an_error() {
    let cluster = cluster().await;
    let (client, master) = (cluster.client().await, cluster.as_master().await);
    let data = pattern(1, MIB);
    master.place(9, b"").await.unwrap();
    client.write(9, 0, &data).await.unwrap();
    let over_tcp = client.call::<ExposeReply>(Method::Expose, &reading(9, 1), b"").await.unwrap_err();
    assert_eq!(over_tcp.kind(), ErrorKind::NotSupported);

    let (reply, file) = expose(&cluster, reading(9, 1)).await.unwrap();
    let file = file.unwrap();
    assert_eq!((reply.refusal, reply.live, reply.attr.unwrap().size), (0, true, MIB));
    assert_eq!(bytes_of(&file, MIB), data);
    assert!(file.write_at(b"x", 0).is_err());
    client.write(9, 0, b"seen at once").await.unwrap();
    assert_eq!(bytes_of(&file, 12), b"seen at once");
    assert_eq!(expose(&cluster, reading(9, 2)).await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    let fenced = ExposeRequest { write: true, epoch: 5, session: 3, ..reading(9, 1) };
    let (reply, file) = expose(&cluster, fenced).await.unwrap();
    assert_eq!((reply.refusal, file.is_none()), (4, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_given_when_all_of_it_is_here() {
    let cluster = cluster().await;
    let data = pattern(2, 3 * MIB + 5);
    cluster.object(5, "object", &data);
    let (reply, _) = expose(&cluster, reading(5, 0)).await.unwrap();
    assert_eq!(reply.refusal, 1);
    let client = cluster.client().await;
    let fill = FillRequest { content: content(5, 0), offset: 0, length: data.len() as u64 };
    client.call::<FillReply>(Method::Fill, &fill, b"").await.unwrap();
    let file = expose(&cluster, reading(5, 0)).await.unwrap().1.unwrap();
    assert_eq!(bytes_of(&file, data.len() as u64), data);
    // Whoever has a copy and may write to it keeps it for himself.
    let writing = ExposeRequest { write: true, ..reading(5, 0) };
    assert_eq!(expose(&cluster, writing).await.unwrap().0.refusal, 3);
    assert_eq!(bytes_of(&file, data.len() as u64), data);
    assert_eq!(expose(&cluster, reading(5, 0)).await.unwrap().0.refusal, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_store_is_given_to_nobody_for_writing() {
    let cluster = cluster().await;
    let master = cluster.as_master().await;
    let place = PlaceRequest { content: content(9, 1), epoch: 1, mount: 7, ..Default::default() };
    master.call::<Empty>(Method::Place, &place, b"waits").await.unwrap();
    let writing = ExposeRequest { write: true, epoch: 1, session: 3, ..reading(9, 1) };
    let (reply, file) = expose(&cluster, writing).await.unwrap();
    assert_eq!((reply.refusal, file.is_none()), (3, true));
    let (_, file) = expose(&cluster, reading(9, 1)).await.unwrap();
    assert_eq!(bytes_of(&file.unwrap(), 5), b"waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_learns_who_uses_a_file_and_a_session_that_is_over_loses_it() {
    let cluster = cluster().await;
    let master = cluster.as_master().await;
    master.place(9, b"").await.unwrap();
    let probe = async || master.call::<ProbeReply>(Method::Probe, &ProbeRequest { content: content(9, 1) }, b"").await;
    let writing = ExposeRequest { write: true, epoch: 1, session: 3, ..reading(9, 1) };
    let (_, file) = expose(&cluster, writing).await.unwrap();
    assert!(probe().await.unwrap().in_use);
    let path = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file.as_ref().unwrap())));
    let writer = File::options().write(true).open(path.unwrap()).unwrap();
    writer.write_at(b"in time", 0).unwrap();
    drop(file);
    let seal = SealRequest { content: content(9, 1), epoch: 1, revoked: 0 };
    let busy = master.call::<LiveAttrReply>(Method::Seal, &seal, b"").await.unwrap_err();
    assert_eq!((busy.kind(), busy.get("session")), (ErrorKind::Busy, Some("3")));
    let seal = SealRequest { revoked: 3, ..seal };
    assert_eq!(master.call::<LiveAttrReply>(Method::Seal, &seal, b"").await.unwrap().attr.unwrap().size, 7);
    writer.write_at(b"too late", 0).unwrap();
    let client = cluster.client().await;
    assert_eq!(client.read_at(9, 1, 0, 100).await.unwrap(), b"in time");
    assert!(!probe().await.unwrap().in_use);
    assert_eq!(expose(&cluster, reading(9, 1)).await.unwrap().0.refusal, 6, "the master is about to drop it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_copied_whole_at_its_second_open_if_it_is_not_too_large() {
    let adjust = |options: &mut crate::WorkerOptions| {
        options.socket = Some(options.tiers[0].dir.join("worker.sock"));
        options.copy_max_size = 4 * MIB;
    };
    let cluster = Cluster::start_with(adjust).await;
    let (large, small) = (pattern(3, 5 * MIB), pattern(4, 3 * MIB + 7));
    cluster.object(5, "large", &large);
    cluster.object(6, "small", &small);
    for _ in 0..3 {
        assert_eq!(expose(&cluster, reading(5, 0)).await.unwrap().0.refusal, 1);
    }
    assert_eq!(expose(&cluster, reading(6, 0)).await.unwrap().0.refusal, 1);
    let client = cluster.client().await;
    assert_eq!(client.map(6, 0).await.unwrap().present_bytes, 0, "one open is no reason");
    let end = far();
    let file = loop {
        if let (_, Some(file)) = expose(&cluster, reading(6, 0)).await.unwrap() {
            break file;
        }
        assert!(tokio::time::Instant::now() < end, "the copy is not made");
        tokio::task::yield_now().await;
    };
    assert_eq!(bytes_of(&file, small.len() as u64), small);
    assert_eq!(client.map(5, 0).await.unwrap().present_bytes, 0);
}
