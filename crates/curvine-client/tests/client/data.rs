//! Reading and writing: inline, blocks, under file systems; damage, old layouts, read-ahead.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use curvine_client::{FileSystem, Handle, NewFile, OpenFlags, home};
use curvine_proto::{DataMode, Method, UfsLayout};
use curvine_types::limits::INLINE_MAX;
use curvine_types::{ErrorKind, ROOT_INODE};

use crate::master::Place;
use crate::play::{Cluster, name, pattern};

const NEW: NewFile =
    NewFile { mode: 0o644, umask: 0, uid: 0, gid: 0, exclusive: true, open: Some(OpenFlags::READ_WRITE) };

fn sealed() -> Place {
    Place::Blocks { worker: 1, version: 1, epoch: 1, live: false }
}

async fn read_all(fs: &FileSystem, handle: &Handle) -> Vec<u8> {
    fs.read(handle, 0, 64 << 20).await.unwrap().concat()
}

async fn write(fs: &FileSystem, handle: &Handle, offset: u64, data: &[u8]) {
    let done = fs.write(handle, offset, Bytes::copy_from_slice(data), false, false).await.unwrap();
    assert_eq!((done.offset, done.length), (offset, data.len() as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_lives_in_the_metadata() {
    let cluster = Cluster::start(1).await;
    let (fs, _) = cluster.client().await;
    let (entry, handle) = fs.create(ROOT_INODE, &name("f"), NEW).await.unwrap();
    let handle = handle.unwrap();
    assert_eq!(handle.mode(), DataMode::WriteExclusive);
    write(&fs, &handle, 0, b"hello").await;
    write(&fs, &handle, 3, b"p!").await;
    assert_eq!(read_all(&fs, &handle).await, b"help!");
    assert_eq!(fs.try_getattr(entry.attr.inode).unwrap().0.size, 5);
    fs.fsync(&handle, false).await.unwrap();
    assert_eq!(cluster.workers[0].writes.load(Ordering::SeqCst), 0);
    assert_eq!(cluster.master.calls(Method::Open), 0, "the create opened it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inline_data_is_read_without_asking_only_under_a_lease() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("f", Place::Inline(b"old".to_vec()), 3);
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    assert_eq!(read_all(&fs, &handle).await, b"old");
    assert_eq!(cluster.master.calls(Method::GetLayout), 0);
    cluster.master.recall(1, &[inode]).await.unwrap();
    cluster.master.state.lock().inode(inode).unwrap().place = Place::Inline(b"newer".to_vec());
    cluster.master.state.lock().grants_leases = false;
    for asked in 1..=2 {
        assert_eq!(read_all(&fs, &handle).await, b"newer");
        assert_eq!(cluster.master.calls(Method::GetLayout), asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_outgrows_the_metadata_moves_to_a_worker_with_all_its_bytes() {
    let cluster = Cluster::start(1).await;
    let (fs, _) = cluster.client().await;
    let (entry, handle) = fs.create(ROOT_INODE, &name("f"), NEW).await.unwrap();
    let handle = handle.unwrap();
    let data = pattern(3 << 20);
    write(&fs, &handle, 0, &data[..10_000]).await;
    write(&fs, &handle, 10_000, &data[10_000..INLINE_MAX + 1]).await;
    write(&fs, &handle, INLINE_MAX as u64 + 1, &data[INLINE_MAX + 1..]).await;
    assert_eq!(read_all(&fs, &handle).await, data);
    assert_eq!(cluster.master.calls(Method::PlaceForWrite), 1);
    assert_eq!(cluster.workers[0].contents.lock()[&(entry.attr.inode, 1)].data, data);
    let asked = cluster.master.calls(Method::GetAttr);
    assert_eq!(fs.getattr(entry.attr.inode).await.unwrap().0.size, data.len() as u64);
    assert_eq!(cluster.master.calls(Method::GetAttr), asked, "the only writer knows the size");
    fs.fsync(&handle, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_appends_do_not_fill_the_log() {
    let cluster = Cluster::start(1).await;
    let (fs, _) = cluster.client().await;
    let (_, handle) = fs.create(ROOT_INODE, &name("f"), NEW).await.unwrap();
    let handle = handle.unwrap();
    for number in 0..20u64 {
        let done = fs.write(&handle, 0, Bytes::from(vec![number as u8; 10]), true, false).await.unwrap();
        assert_eq!(done.offset, number * 10);
    }
    assert_eq!(cluster.master.calls(Method::Mutate), 1 + 4);
    assert_eq!(cluster.workers[0].writes.load(Ordering::SeqCst), 16);
    let expected: Vec<u8> = (0..20).flat_map(|number| [number; 10]).collect();
    assert_eq!(read_all(&fs, &handle).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_answer_is_asked_for_again_and_never_handed_out() {
    let cluster = Cluster::start(1).await;
    let data = pattern(300_000);
    let inode = cluster.master.add_file("f", sealed(), data.len() as u64);
    cluster.workers[0].put(inode, 1, data.clone());
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    cluster.workers[0].damaged.store(1, Ordering::SeqCst);
    assert_eq!(fs.read(&handle, 100, 5000).await.unwrap().concat(), data[100..5100]);
    assert_eq!(fs.gauges().checksum_errors, 1);
    assert!(cluster.workers[0].reads.lock().last().unwrap().verify);

    cluster.workers[0].damaged.store(2, Ordering::SeqCst);
    assert_eq!(fs.read(&handle, 100, 5000).await.unwrap_err().kind(), ErrorKind::DataLoss);
    assert_eq!(fs.gauges().checksum_errors, 3);
    assert_eq!(fs.gauges().memory_used, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_epoch_is_renewed_through_the_master() {
    let cluster = Cluster::start(1).await;
    let data = pattern(100_000);
    let inode = cluster.master.add_file("f", sealed(), data.len() as u64);
    cluster.workers[0].put(inode, 1, data.clone());
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ_WRITE).await.unwrap();
    write(&fs, &handle, 10, b"first").await;
    cluster.workers[0].contents.lock().get_mut(&(inode, 1)).unwrap().epoch = 3;
    write(&fs, &handle, 20, b"second").await;
    let mut expected = data;
    expected[10..15].copy_from_slice(b"first");
    expected[20..26].copy_from_slice(b"second");
    assert_eq!(read_all(&fs, &handle).await, expected);
    assert!(cluster.master.calls(Method::PlaceForWrite) >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_an_old_generation_go_on_with_the_new_one() {
    let cluster = Cluster::start(1).await;
    let inode = cluster.master.add_file("f", sealed(), 1000);
    cluster.workers[0].put(inode, 1, vec![1; 1000]);
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    assert_eq!(read_all(&fs, &handle).await, vec![1; 1000]);
    {
        let mut state = cluster.master.state.lock();
        let changed = state.inode(inode).unwrap();
        changed.attr.generation = 2;
        changed.attr.change += 1;
        changed.attr.size = 500;
    }
    let mut contents = std::mem::take(&mut *cluster.workers[0].contents.lock());
    contents.remove(&(inode, 1));
    cluster.workers[0].put(inode, 2, vec![2; 500]);
    // No recall: the worker's refusal is enough.
    assert_eq!(read_all(&fs, &handle).await, vec![2; 500]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_sealed_content_is_confirmed_before_it_is_read() {
    let cluster = Cluster::start(1).await;
    let inode = cluster.master.add_file("f", sealed(), 1000);
    cluster.workers[0].put(inode, 1, vec![1; 1000]);
    cluster.workers[0].put(inode, 2, vec![2; 500]);
    cluster.master.state.lock().grants_leases = false;
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    assert_eq!(read_all(&fs, &handle).await, vec![1; 1000]);
    // The worker still has the old generation, but it is not the file's any more.
    {
        let mut state = cluster.master.state.lock();
        let changed = state.inode(inode).unwrap();
        changed.attr.generation = 2;
        changed.attr.change += 1;
    }
    assert_eq!(read_all(&fs, &handle).await, vec![2; 500]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_reads_are_served_from_what_was_read_ahead_and_are_right() {
    let cluster = Cluster::start(1).await;
    let data = pattern(20 << 20);
    let inode = cluster.master.add_file("f", sealed(), data.len() as u64 - 777);
    let data = &data[..data.len() - 777];
    cluster.workers[0].put(inode, 1, data.to_vec());
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    let step = 128 << 10;
    let mut got = Vec::new();
    for offset in (0..data.len() as u64).step_by(step) {
        got.extend(fs.read(&handle, offset, step).await.unwrap().concat());
    }
    assert!(got == data, "sequential data differs");
    let requests = cluster.workers[0].reads.lock().len();
    assert!(requests < 40, "{requests} requests for {} reads", data.len() / step);
    // Backwards and at random: still right.
    for (offset, length) in [(19 << 20, 1 << 20), (5, 10), (7 << 20, 3 << 20), ((4 << 20) - 3, 6)] {
        let end = (offset + length).min(data.len());
        assert!(fs.read(&handle, offset as u64, length).await.unwrap().concat() == data[offset..end]);
    }
    drop(handle);
    let freed = async {
        while fs.gauges().memory_used > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.expect("memory of read-ahead is given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_write_and_a_recall_void_what_was_read_ahead() {
    let cluster = Cluster::start(1).await;
    let mut data = pattern(8 << 20);
    let inode = cluster.master.add_file("f", sealed(), data.len() as u64);
    cluster.workers[0].put(inode, 1, data.clone());
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ_WRITE).await.unwrap();
    let step = 256 << 10;
    for offset in (0..2 << 20).step_by(step) {
        assert!(fs.read(&handle, offset as u64, step).await.unwrap().concat() == data[offset..offset + step]);
    }
    let at = 3 << 20;
    write(&fs, &handle, at as u64, &[9; 1000]).await;
    data[at..at + 1000].fill(9);
    for offset in (2 << 20..4 << 20).step_by(step) {
        assert!(fs.read(&handle, offset as u64, step).await.unwrap().concat() == data[offset..offset + step]);
    }
    // Another client changes what was read ahead, after the lease was recalled.
    cluster.master.recall(1, &[inode]).await.unwrap();
    cluster.workers[0].contents.lock().get_mut(&(inode, 1)).unwrap().data[at + (2 << 20)..].fill(4);
    data[at + (2 << 20)..].fill(4);
    for offset in (4 << 20..8 << 20).step_by(step) {
        assert!(fs.read(&handle, offset as u64, step).await.unwrap().concat() == data[offset..offset + step]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_a_store_are_read_from_their_homes_and_from_the_next_when_one_is_gone() {
    let mut cluster = Cluster::start(3).await;
    let data = pattern(10 << 20);
    let layout = UfsLayout { size: data.len() as u64, block_size: 1 << 20, ..Default::default() };
    let inode = cluster.master.add_file("f", Place::Ufs(layout), data.len() as u64);
    for worker in &cluster.workers {
        worker.put(inode, 1, data.clone());
    }
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    assert!(read_all(&fs, &handle).await == data);
    for (index, worker) in cluster.workers.iter().enumerate() {
        for request in worker.reads.lock().iter() {
            let homes = home::ranked([1, 2, 3], inode, request.offset >> 20);
            assert_eq!(homes[0], index as u64 + 1);
        }
    }
    assert_eq!(fs.fill(inode, 0, 10 << 20).await.unwrap(), 10 << 20);
    let gone = home::ranked([1, 2, 3], inode, 0)[0];
    cluster.stop(gone as usize).await;
    let (fs, _) = cluster.client_with(|options| options.connect_timeout = Duration::from_millis(300)).await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    assert!(read_all(&fs, &handle).await == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_at_the_end_is_short_and_after_it_empty() {
    let cluster = Cluster::start(1).await;
    let inode = cluster.master.add_file("f", sealed(), 70_000);
    cluster.workers[0].put(inode, 1, pattern(70_000));
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ).await.unwrap();
    assert_eq!(fs.read(&handle, 69_990, 100).await.unwrap().concat(), pattern(70_000)[69_990..]);
    assert!(fs.read(&handle, 70_000, 100).await.unwrap().concat().is_empty());
    assert!(fs.read(&handle, u64::MAX, 100).await.unwrap().concat().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptying_a_file_makes_it_small_again() {
    let cluster = Cluster::start(1).await;
    let inode = cluster.master.add_file("f", sealed(), 1000);
    cluster.workers[0].put(inode, 1, vec![1; 1000]);
    let (fs, _) = cluster.client().await;
    let flags = OpenFlags { truncate: true, ..OpenFlags::READ_WRITE };
    let handle = fs.open(inode, flags).await.unwrap();
    assert_eq!(fs.getattr(inode).await.unwrap().0.size, 0);
    assert!(read_all(&fs, &handle).await.is_empty());
    write(&fs, &handle, 0, b"small").await;
    assert_eq!(read_all(&fs, &handle).await, b"small");
    assert_eq!(cluster.workers[0].writes.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_worker_is_told_to_the_writer() {
    let cluster = Cluster::start(1).await;
    let inode = cluster.master.add_file("f", sealed(), 1000);
    cluster.workers[0].put(inode, 1, vec![1; 1000]);
    let (fs, _) = cluster.client().await;
    let handle = fs.open(inode, OpenFlags::READ_WRITE).await.unwrap();
    cluster.workers[0].refusals.lock().push_back((Method::Write, ErrorKind::NoSpace));
    let error = fs.write(&handle, 0, Bytes::from_static(b"x"), false, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    cluster.workers[0].refusals.lock().push_back((Method::Write, ErrorKind::Overloaded));
    write(&fs, &handle, 0, b"y").await;
    assert_eq!(fs.gauges().memory_used, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_allows_what_it_was_opened_for() {
    let cluster = Cluster::start(0).await;
    let inode = cluster.master.add_file("f", Place::Inline(b"x".to_vec()), 1);
    let (fs, _) = cluster.client().await;
    let read = fs.open(inode, OpenFlags::READ).await.unwrap();
    let write = fs.open(inode, OpenFlags::WRITE).await.unwrap();
    assert!(fs.write(&read, 0, Bytes::from_static(b"y"), false, false).await.is_err());
    assert!(fs.read(&write, 0, 1).await.is_err());
    assert_eq!(fs.read(&read, 0, 1).await.unwrap().concat(), b"x");
}
