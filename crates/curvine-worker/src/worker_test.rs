//! A worker between a master, stores and clients, all over real connections.

use std::sync::atomic::Ordering;
use std::time::Duration;

use curvine_proto::*;
use curvine_types::{ClusterId, ErrorKind};
use futures::future::join_all;

use crate::test_util::*;
use crate::{Worker, WorkerOptions};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_back_live_sealed_and_after_a_restart() {
    let cluster = Cluster::start().await;
    let (client, master) = (cluster.client().await, cluster.as_master().await);
    let data = pattern(1, 5 * MIB / 2);
    master.place(9, &data[..1000]).await.unwrap();
    for (at, part) in (0..).step_by(MIB as usize).zip(data.chunks(MIB as usize)) {
        let reply = client.write(9, at, part).await.unwrap();
        assert_eq!(reply.attr.unwrap().size, (at + part.len() as u64).max(1000));
    }
    let far_away = client.write(9, 10 * MIB, b"tail").await.unwrap();
    let attr = far_away.attr.unwrap();
    let stat: LiveAttrReply = client.call(Method::Stat, &StatRequest { content: content(9, 1) }, b"").await.unwrap();
    assert_eq!(stat.attr, Some(attr));
    client.call::<Empty>(Method::Fsync, &FsyncRequest { content: content(9, 1) }, b"").await.unwrap();

    let check = async |client: &Client| {
        assert!(client.read_at(9, 1, 0, MIB).await.unwrap() == data[..MIB as usize]);
        let odd = client.read_at(9, 1, MIB - 3, 100_000).await.unwrap();
        assert!(odd == data[MIB as usize - 3..MIB as usize - 3 + 100_000]);
        assert_eq!(client.read_at(9, 1, 5 * MIB, 1000).await.unwrap(), [0; 1000]);
        assert_eq!(client.read_at(9, 1, 10 * MIB - 2, 100).await.unwrap(), b"\0\0tail");
        assert_eq!(client.read_at(9, 1, 11 * MIB, 100).await.unwrap(), b"");
        let seek = SeekRequest { content: content(9, 1), offset: 3 * MIB, hole: false };
        assert_eq!(client.call::<SeekReply>(Method::Seek, &seek, b"").await.unwrap().offset / MIB, 10);
    };
    check(&client).await;
    let seal = SealRequest { content: content(9, 1), epoch: 1, ..Default::default() };
    let sealed: LiveAttrReply = master.call(Method::Seal, &seal, b"").await.unwrap();
    assert_eq!(sealed.attr.unwrap().mtime, attr.mtime);
    check(&client).await;
    assert_eq!(client.write(9, 0, b"x").await.unwrap_err().kind(), ErrorKind::VersionMismatch);
    drop((client, master));

    let cluster = cluster.restart().await;
    let client = cluster.client().await;
    check(&client).await;
    let map = client.map(9, 1).await.unwrap();
    assert_eq!(map.states[..], [1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 1]);
    assert_eq!(map.tier, "SSD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_read_makes_no_request_to_the_store() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let data = pattern(2, 3 * MIB + 777);
    cluster.object(5, "object", &data);
    let read_all = async || {
        for offset in (0..data.len() as u64).step_by(300_000) {
            let len = 300_000.min(data.len() as u64 - offset);
            let part = client.read_at(5, 0, offset, len).await.unwrap();
            assert!(part == data[offset as usize..(offset + len) as usize]);
        }
    };
    read_all().await;
    let requests = cluster.worker.gauges().ufs_requests;
    assert!(requests > 0);
    let resolved = cluster.table.resolved.load(Ordering::SeqCst);
    read_all().await;
    let gauges = cluster.worker.gauges();
    assert_eq!(gauges.ufs_requests, requests);
    assert!(gauges.ufs_bytes >= data.len() as u64 && gauges.cache_hits > 0);
    // Neither the store nor the master is needed for what is here.
    std::fs::rename(cluster.store(), cluster.dir.path().join("gone")).unwrap();
    cluster.table.contents.lock().clear();
    read_all().await;
    assert_eq!(cluster.table.resolved.load(Ordering::SeqCst), resolved);
    drop(client);
    let cluster = cluster.restart().await;
    let part = cluster.client().await.read_at(5, 0, 3 * MIB, MIB).await.unwrap();
    assert!(part == data[3 * MIB as usize..]);
    assert_eq!(cluster.worker.gauges().ufs_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_range_make_one_request() {
    let cluster = Cluster::start().await;
    let data = pattern(3, 2 * MIB);
    cluster.object(5, "object", &data);
    let client = cluster.client().await;
    let reads = (0..32u64).map(|reader| client.read_at(5, 0, MIB + reader * 1000, 1000));
    for (reader, read) in join_all(reads).await.into_iter().enumerate() {
        let at = MIB as usize + reader * 1000;
        assert!(read.unwrap() == data[at..at + 1000]);
    }
    let gauges = cluster.worker.gauges();
    assert_eq!(gauges.ufs_bytes, MIB, "its one chunk was read once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_store_fails_only_what_is_not_here_and_in_time() {
    let cluster = Cluster::start_with(|options| options.ufs_timeout = Duration::from_secs(2)).await;
    let client = cluster.client().await;
    let data = pattern(4, 2 * MIB);
    cluster.object(5, "object", &data);
    assert!(client.read_at(5, 0, 0, 10).await.unwrap() == data[..10]);
    // Not a file system any more: every request fails.
    std::fs::remove_dir_all(cluster.store()).unwrap();
    std::fs::write(cluster.store(), b"in the way").unwrap();
    assert!(client.read_at(5, 0, MIB - 10, 10).await.unwrap() == data[MIB as usize - 10..MIB as usize]);
    let began = std::time::Instant::now();
    let error = client.read_at(5, 0, MIB, 10).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Ufs | ErrorKind::VersionMismatch | ErrorKind::Io), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_of_an_object_never_mix() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    cluster.object(5, "object", &pattern(5, 2 * MIB));
    assert!(client.read_at(5, 0, 0, 10).await.unwrap() == pattern(5, 10));
    let new = pattern(6, 2 * MIB + 5);
    std::fs::write(cluster.store().join("object"), &new).unwrap();
    let error = client.read_at(5, 0, MIB, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionMismatch);
    let changed = cluster.table.changed.lock().clone();
    let report = changed.last().expect("the master was told");
    assert_eq!((report.inode, report.generation, report.gone), (5, 1, false));
    assert_eq!(report.entry.as_ref().unwrap().size, new.len() as u64);
    // The master gives the new object a new generation; the old one stays what it was.
    cluster.bind(5, 2, "object", &cluster.store().join("object"));
    let content = Some(ContentId { inode: 5, generation: 2, version: 0 });
    let request = ReadRequest { content, offset: MIB, length: 1000, ..ReadRequest::default() };
    assert!(client.read(request).await.unwrap() == new[MIB as usize..MIB as usize + 1000]);
    assert!(client.read_at(5, 0, 0, 10).await.unwrap() == pattern(5, 10));
    std::fs::remove_file(cluster.store().join("object")).unwrap();
    client.read_at(5, 0, MIB, 10).await.unwrap_err();
    assert!(cluster.table.changed.lock().last().unwrap().gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_served_without_being_kept() {
    let cluster = Cluster::start_with(|options| options.tiers[0].quota = Some(2 * MIB)).await;
    let client = cluster.client().await;
    let data = pattern(7, 6 * MIB);
    cluster.object(5, "object", &data);
    for _ in 0..2 {
        for chunk in 0..6 {
            let part = client.read_at(5, 0, chunk * MIB, MIB).await.unwrap();
            assert!(part == data[(chunk * MIB) as usize..((chunk + 1) * MIB) as usize]);
        }
    }
    assert!(client.map(5, 0).await.unwrap().present_bytes <= 2 * MIB);
    let fill = FillRequest { content: content(5, 0), offset: 0, length: 6 * MIB };
    assert_eq!(client.call::<FillReply>(Method::Fill, &fill, b"").await.unwrap_err().kind(), ErrorKind::NoSpace);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_brings_exactly_what_is_missing() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let data = pattern(8, 40 * MIB + 5);
    cluster.object(5, "object", &data);
    let unread = client.map(5, 0).await.unwrap();
    assert_eq!((unread.size, unread.present_bytes, unread.states.len()), (data.len() as u64, 0, 41));
    let first = FillRequest { content: content(5, 0), offset: 7 * MIB + 10, length: 1 };
    assert_eq!(client.call::<FillReply>(Method::Fill, &first, b"").await.unwrap().fetched, MIB);
    let fill = FillRequest { content: content(5, 0), offset: 0, length: u64::MAX };
    let filled: FillReply = client.call(Method::Fill, &fill, b"").await.unwrap();
    assert_eq!(filled.fetched, data.len() as u64 - MIB);
    assert!(client.map(5, 0).await.unwrap().states.iter().all(|state| *state == 1));
    let again: FillReply = client.call(Method::Fill, &fill, b"").await.unwrap();
    assert_eq!(again.fetched, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_on_finds_the_next_range_on_its_way() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    cluster.object(5, "object", &pattern(9, 16 * MIB));
    let read_ahead = 8 * MIB as u32;
    let request = ReadRequest { content: content(5, 0), length: 1000, read_ahead, ..ReadRequest::default() };
    client.read(request).await.unwrap();
    let ahead = async {
        while client.map(5, 0).await.unwrap().present_bytes < 12 * MIB {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ahead).await.expect("it is fetched ahead");
    assert_eq!(
        client.map(5, 0).await.unwrap().states[12..],
        [0; 4],
        "to the end of the range that it reaches, no further"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_piece_by_piece_is_fetched_in_large_ranges() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let data = pattern(9, 64 * MIB);
    cluster.object(5, "object", &data);
    for number in 0..64 {
        let (offset, length) = (number * MIB, MIB as u32);
        let request = ReadRequest {
            content: content(5, 0),
            offset,
            length,
            read_ahead: 8 * MIB as u32,
            ..ReadRequest::default()
        };
        let part = client.read(request).await.unwrap();
        assert!(part == data[offset as usize..(offset + MIB) as usize]);
    }
    let stats = client.call::<WorkerReportReply>(Method::WorkerReport, &Empty {}, b"").await.unwrap().stats.unwrap();
    // The first piece, the rest of its range, and fifteen ranges of 4 MiB.
    assert_eq!((stats.ufs_bytes, stats.ufs_requests), (64 * MIB, 17));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_lease_serves_copies_and_nothing_else() {
    let cluster = Cluster::start().await;
    let (client, master) = (cluster.client().await, cluster.as_master().await);
    cluster.object(5, "object", b"of the store");
    master.place(9, b"of ours").await.unwrap();
    assert_eq!(client.read_at(5, 0, 0, 100).await.unwrap(), b"of the store");
    // The lease gets short with a new registration, then the master falls silent.
    drop((client, master));
    cluster.table.lease_ms.store(600, Ordering::SeqCst);
    let cluster = cluster.restart().await;
    let client = cluster.client().await;
    assert_eq!(client.read_at(9, 1, 0, 100).await.unwrap(), b"of ours");
    cluster.table.silent.store(true, Ordering::SeqCst);
    let refused = async {
        loop {
            match client.read_at(9, 1, 0, 100).await {
                Ok(data) => assert_eq!(data, b"of ours"),
                Err(error) => return error,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(client.write(9, 0, b"x").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(client.read_at(5, 0, 0, 100).await.unwrap(), b"of the store");
    cluster.table.silent.store(false, Ordering::SeqCst);
    let back = async { while client.read_at(9, 1, 0, 100).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("the lease comes back with the master");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_forgot_is_told_everything_again() {
    let cluster = Cluster::start().await;
    let master = cluster.as_master().await;
    for inode in 1..4 {
        master.place(inode, b"x").await.unwrap();
    }
    *cluster.table.unwanted.lock() = vec![ContentId { inode: 2, generation: 1, version: 1 }];
    cluster.table.inventory.lock().clear();
    let before = cluster.table.registrations.load(Ordering::SeqCst);
    drop(master);
    cluster.table.lease_ms.store(300, Ordering::SeqCst);
    let cluster = cluster.restart().await;
    let told: Vec<u64> = cluster.table.inventory.lock().iter().map(|content| content.inode).collect();
    assert_eq!(told, [1, 2, 3]);
    let client = cluster.client().await;
    assert_eq!(client.read_at(2, 1, 0, 1).await.unwrap_err().kind(), ErrorKind::VersionMismatch, "nobody needed it");
    assert_eq!(client.read_at(3, 1, 0, 1).await.unwrap(), b"x");
    cluster.table.forgot.store(true, Ordering::SeqCst);
    let again = async {
        while cluster.table.registrations.load(Ordering::SeqCst) < before + 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("it registers again");
    cluster.worker.registered(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_do_what_is_the_masters() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    assert_eq!(client.place(9, b"x").await.unwrap_err().kind(), ErrorKind::NotSupported);
    let delete = DeleteContentRequest { contents: vec![ContentId { inode: 1, generation: 1, version: 1 }] };
    let error = client.call::<Empty>(Method::DeleteContent, &delete, b"").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSupported);
    let error = client.call::<WriteReply>(Method::Write, &WriteRequest::default(), b"").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    cluster.object(5, "object", b"x");
    let write = WriteRequest { content: content(5, 0), ..WriteRequest::default() };
    let error = client.call::<WriteReply>(Method::Write, &write, b"").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_listed_for_the_master_with_the_newest_options() {
    let cluster = Cluster::start().await;
    let master = cluster.as_master().await;
    for name in ["a", "b", "c"] {
        std::fs::write(cluster.store().join(name), name).unwrap();
    }
    let mut request = UfsListRequest { mount: 1, mount_change: 1, limit: 2, ..UfsListRequest::default() };
    let mut names = Vec::new();
    loop {
        let page: UfsListReply = master.call(Method::UfsList, &request, b"").await.unwrap();
        names.extend(page.entries.into_iter().map(|entry| entry.key));
        if page.next.is_empty() {
            break;
        }
        request.start_after = page.next;
    }
    assert_eq!(names, ["a", "b", "c"]);
    let other = cluster.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("d"), "d").unwrap();
    let url = format!("file://{}", other.display());
    cluster.table.mounts.lock().insert(1, MountInfo { id: 1, url, change: 2, ..MountInfo::default() });
    for (change, name, found) in [(1, "a", true), (2, "d", true), (1, "a", false)] {
        let request = UfsStatRequest { mount: 1, mount_change: change, key: name.to_string() };
        let reply: UfsStatReply = master.call(Method::UfsStat, &request, b"").await.unwrap();
        assert_eq!(reply.found, found, "{change} {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_fetched_anew_and_damaged_data_is_an_error() {
    let cluster = Cluster::start().await;
    let (client, master) = (cluster.client().await, cluster.as_master().await);
    let data = pattern(10, MIB);
    cluster.object(5, "object", &data);
    client.read_at(5, 0, 0, 10).await.unwrap();
    master.place(9, &data[..100_000]).await.unwrap();
    master
        .call::<LiveAttrReply>(
            Method::Seal,
            &SealRequest { content: content(9, 1), epoch: 1, ..Default::default() },
            b"",
        )
        .await
        .unwrap();
    for (inode, version) in [(5, 0), (9, 1)] {
        let path = client.map(inode, version).await.unwrap().path;
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0], 70_000).unwrap();
        let request = ReadRequest { content: content(inode, version), length: 100_000, ..ReadRequest::default() };
        let error = client.read(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "the receiver notices");
        let again = client.read(ReadRequest { verify: true, ..request }).await;
        match version {
            0 => assert!(again.unwrap() == data[..100_000]),
            _ => assert_eq!(again.unwrap_err().kind(), ErrorKind::DataLoss),
        }
    }
    assert_eq!(cluster.worker.gauges().checksum_errors, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_beyond_the_memory_budget_wait_their_turn() {
    let cluster = Cluster::start_with(|options| options.memory_limit = 16 * MIB).await;
    let client = cluster.client().await;
    let data = pattern(11, 64 * MIB);
    cluster.object(5, "object", &data);
    let reads = (0..64u64).map(|chunk| client.read_at(5, 0, chunk * MIB + 5, MIB / 2));
    let watch = async {
        loop {
            let gauges = cluster.worker.gauges();
            assert!(gauges.fetch_bytes <= 8 * MIB && gauges.reply_bytes <= 4 * MIB, "{gauges:?}");
            tokio::task::yield_now().await;
        }
    };
    let reads = tokio::select! {
        reads = join_all(reads) => reads,
        () = watch => unreachable!(),
    };
    for (chunk, read) in (0u64..).zip(reads) {
        let at = (chunk * MIB + 5) as usize;
        assert!(read.unwrap() == data[at..at + MIB as usize / 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_another_cluster_are_refused_by_directories_that_know_theirs() {
    let cluster = Cluster::start().await;
    let other = ClusterId(*b"another clusters");
    assert_eq!(cluster.peer(PeerRole::Client, other).await.unwrap_err().kind(), ErrorKind::Foreign);
    let Cluster { dir: _dir, table, worker, options, .. } = cluster;
    worker.shutdown(Duration::from_secs(5)).await;
    let foreign = serve(&table, other).await;
    let before = table.registrations.load(Ordering::SeqCst);
    let masters = vec![foreign.local_addr().unwrap().to_string()];
    let worker = Worker::start(WorkerOptions { masters, ..options }).await.unwrap();
    let error = worker.registered(Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    assert_eq!(worker.failure().await.kind(), ErrorKind::Foreign);
    assert_eq!(table.registrations.load(Ordering::SeqCst), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_travel_with_the_heartbeat() {
    let cluster = Cluster::start().await;
    cluster.object(5, "object", &pattern(12, 1000));
    drop(cluster.client().await.read_at(5, 0, 0, 1000).await.unwrap());
    cluster.table.lease_ms.store(300, Ordering::SeqCst);
    let cluster = cluster.restart().await;
    let client = cluster.client().await;
    client.read_at(5, 0, 0, 1000).await.unwrap();
    let told = async {
        while cluster.table.stats.lock().cache_hits < 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("the master hears of the hit");
    assert_eq!(cluster.table.stats.lock().bytes_read, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_loaded_checked_and_freed_each_with_its_own_result() {
    let cluster = Cluster::start().await;
    let (client, master) = (cluster.client().await, cluster.as_master().await);
    cluster.object(5, "five", &pattern(5, 3 * MIB + 5));
    cluster.object(6, "six", &pattern(6, 10));
    let item = |inode, offset, length| LoadItem { inode, generation: 1, offset, length };
    let items = vec![item(5, 0, 3 * MIB + 5), item(77, 0, 1), item(6, 0, 10)];
    let load = LoadRequest { items: items.clone(), ..LoadRequest::default() };
    assert_eq!(client.call::<LoadReply>(Method::Load, &load, b"").await.unwrap_err().kind(), ErrorKind::NotSupported);
    let check = LoadRequest { check: true, verify: true, ..load.clone() };
    let missing: LoadReply = master.call(Method::Load, &check, b"").await.unwrap();
    assert_eq!(missing.results.iter().map(|result| result.missing).collect::<Vec<_>>(), [3 * MIB + 5, 1, 10]);
    let loaded: LoadReply = master.call(Method::Load, &load, b"").await.unwrap();
    assert_eq!(loaded.results.iter().map(|result| result.fetched).collect::<Vec<_>>(), [3 * MIB + 5, 0, 10]);
    assert!(loaded.results[1].error.is_some() && loaded.results[0].error.is_none());
    let there: LoadReply = master.call(Method::Load, &check, b"").await.unwrap();
    assert_eq!(there.results.iter().map(|result| result.missing).collect::<Vec<_>>(), [0, 1, 0]);

    // A damaged chunk is not there, once it is looked at.
    let path = client.map(5, 0).await.unwrap().path;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 9], 2 * MIB).unwrap();
    let damaged: LoadReply = master.call(Method::Load, &check, b"").await.unwrap();
    assert_eq!(damaged.results[0].missing, MIB);

    let contents = vec![content(5, 0).unwrap(), content(6, 0).unwrap(), content(77, 0).unwrap()];
    let free = FreeContentsRequest { contents, older_ms: 0 };
    let freed: FreeContentsReply = master.call(Method::FreeContents, &free, b"").await.unwrap();
    // As they were charged, in blocks of 4 KiB.
    assert_eq!(freed.freed, 2 * MIB + 2 * 4096);
    let gone: LoadReply = master.call(Method::Load, &check, b"").await.unwrap();
    assert_eq!(gone.results[0].missing, 3 * MIB + 5);
}
