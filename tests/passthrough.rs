//! Files that the kernel reads and writes by itself, on two nodes with a worker and a mount each: each rule of it is a step here.

mod harness;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use harness::{Cluster, Plan, Rng, Role, until};
use rustix::fs::{FallocateFlags, SeekFrom};

const PATIENCE: Duration = Duration::from_secs(60);

fn plan() -> Plan {
    Plan::default().set("fuse", "passthrough_min_size", "\"1\"").set("fuse", "passthrough_writes", "\"always\"")
}

/// How the mount serves the open file.
fn status(path: &Path) -> String {
    let mut value = [0; 512];
    let length = rustix::fs::getxattr(path, "curvine.status", &mut value).expect("ask how a file is served");
    String::from_utf8_lossy(&value[..length]).into_owned()
}

/// Opens until the kernel reads the file by itself: while a file is being sealed it is served otherwise.
fn open_passthrough(path: &Path, options: &OpenOptions) -> File {
    until("an open by passthrough", PATIENCE, || {
        let file = options.open(path).expect("open");
        status(path).contains("io=passthrough").then_some(file)
    })
}

fn reader() -> OpenOptions {
    OpenOptions::new().read(true).clone()
}

fn read_all(file: &File, at_most: usize) -> Vec<u8> {
    let mut bytes = vec![0; at_most];
    let mut got = 0;
    while got < at_most {
        match file.read_at(&mut bytes[got..], got as u64).expect("read") {
            0 => break,
            more => got += more,
        }
    }
    bytes.truncate(got);
    bytes
}

/// A shared mapping of the start of a file.
struct Mapping(*mut u8, usize);

impl Mapping {
    #[allow(unsafe_code)]
    fn of(file: &File, length: usize, protection: i32) -> Self {
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(file);
        // SAFETY: a fresh mapping at a place that the kernel chooses; it is touched below only inside the file.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, descriptor, 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self(start.cast(), length)
    }

    #[allow(unsafe_code)]
    fn byte(&self, at: usize) -> u8 {
        assert!(at < self.1);
        // SAFETY: inside the mapping, which is readable.
        unsafe { self.0.add(at).read_volatile() }
    }

    #[allow(unsafe_code)]
    fn store(&self, at: usize, byte: u8) {
        assert!(at < self.1);
        // SAFETY: inside the mapping, which the caller made writable.
        unsafe { self.0.add(at).write_volatile(byte) }
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and nothing refers to it.
        let unmapped = unsafe { libc::munmap(self.0.cast(), self.1) };
        assert_eq!(unmapped, 0);
    }
}

#[test]
fn what_another_node_does_is_seen_by_those_who_have_the_file_open_by_passthrough() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan());
    let (here, there) = (cluster.mount(0).join("file"), cluster.mount(1).join("file"));
    let mut expected = Rng::new(1).bytes(2 << 20);
    std::fs::write(&here, &expected).expect("write");
    let file = open_passthrough(&here, &reader());
    let mapping = Mapping::of(&file, 4096, libc::PROT_READ);
    assert!(read_all(&file, 4 << 20) == expected);

    let other = OpenOptions::new().read(true).write(true).open(&there).expect("open");
    other.write_all_at(b"written over there", 100).expect("write");
    expected[100..118].copy_from_slice(b"written over there");
    assert!(read_all(&file, 4 << 20) == expected);
    assert_eq!((mapping.byte(100), mapping.byte(117)), (b'w', b'e'));
    other.write_all_at(&[7; 50_000], expected.len() as u64).expect("write");
    expected.extend([7; 50_000]);
    assert!(read_all(&file, 4 << 20) == expected);
    assert_eq!(std::fs::metadata(&here).expect("stat").len(), expected.len() as u64);
    other.set_len(5000).expect("truncate");
    assert!(read_all(&file, 4 << 20) == expected[..5000]);
    drop(other);

    // Emptied and written anew, from there and from here.
    for (turn, path) in [&there, &here, &there].into_iter().enumerate() {
        let content = Rng::new(10 + turn as u64).bytes(300_000 * (turn + 1));
        std::fs::write(path, &content).expect("write");
        assert!(read_all(&file, 4 << 20) == content, "turn {turn}");
        assert_eq!(mapping.byte(9), content[9]);
        expected = content;
    }
    std::fs::remove_file(&there).expect("unlink");
    std::fs::write(&there, b"another one").expect("write");
    assert!(read_all(&file, 4 << 20) == expected);
    assert_eq!(std::fs::read(&here).expect("read"), b"another one");
    drop((file, mapping));
    cluster.finish();
}

#[test]
fn a_new_file_is_written_by_the_kernel_itself_and_everything_that_is_not_a_write_still_counts() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan());
    let (here, there) = (cluster.mount(0).join("file"), cluster.mount(1).join("file"));
    let mut rng = Rng::new(2);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&here).expect("create");
    assert!(status(&here).contains("io=passthrough") && status(&here).contains("written"), "{}", status(&here));
    let mut expected = rng.bytes(3 << 20);
    file.write_all_at(&expected, 0).expect("write");
    let everywhere = |expected: &[u8], what: &str| {
        for path in [&there, &here] {
            assert_eq!(std::fs::metadata(path).expect("stat").len(), expected.len() as u64, "size after {what}");
            assert!(std::fs::read(path).expect("read") == expected, "{} after {what}", path.display());
        }
    };
    everywhere(&expected, "writes");

    let other = OpenOptions::new().read(true).write(true).open(&there).expect("open there");
    assert!(!status(&there).contains("io=passthrough"));
    other.write_all_at(&[9; 70_000], 1_000_000).expect("write there");
    expected[1_000_000..1_070_000].fill(9);
    everywhere(&expected, "a write from there");
    let appenders = [&here, &there].map(|path| OpenOptions::new().append(true).open(path).expect("open to append"));
    for turn in 0..20u8 {
        let record = [turn; 777];
        std::io::Write::write_all(&mut &appenders[usize::from(turn) % 2], &record).expect("append");
        expected.extend(record);
    }
    everywhere(&expected, "appends");
    file.set_len(2_500_000).expect("truncate");
    expected.truncate(2_500_000);
    everywhere(&expected, "a truncation");
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20)
        .expect("punch");
    expected[1 << 20..2 << 20].fill(0);
    rustix::fs::fallocate(&other, FallocateFlags::empty(), 2_500_000, 4096).expect("allocate from there");
    expected.resize(2_504_096, 0);
    everywhere(&expected, "fallocate");
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(1 << 20)).expect("seek"), 2 << 20);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::End(0)).expect("seek"), expected.len() as u64);
    let mapping = Mapping::of(&file, 8192, libc::PROT_READ | libc::PROT_WRITE);
    for at in (0..8192).step_by(100) {
        mapping.store(at, 1);
        expected[at] = 1;
    }
    everywhere(&expected, "stores into a mapping");
    file.sync_all().expect("fsync");

    // The kernel needs no worker to go on, and the worker finds out.
    cluster.kill(Role::Worker(0));
    file.write_all_at(&[3; 10_000], 50_000).expect("write without a worker");
    mapping.store(7, 77);
    expected[50_000..60_000].fill(3);
    expected[7] = 77;
    cluster.begin(Role::Worker(0));
    cluster.ready(Role::Worker(0));
    everywhere(&expected, "a restart of the worker");
    file.sync_all().expect("fsync");

    drop((file, other, appenders));
    mapping.store(8, 78);
    expected[8] = 78;
    everywhere(&expected, "a store after the last close");
    drop(mapping);
    // Sealed by now or soon; nothing changes any more.
    let file = open_passthrough(&here, &reader());
    assert!(read_all(&file, 4 << 20) == expected);
    let times = [&here, &there].map(|path| {
        let meta = std::fs::metadata(path).expect("stat");
        (meta.mtime(), meta.mtime_nsec(), meta.len())
    });
    assert_eq!(times[0], times[1]);
    drop(file);
    cluster.finish();
}

#[test]
fn a_file_that_was_closed_is_rewritten_by_the_kernel_itself_up_to_a_size() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan().set("fuse", "passthrough_rewrite_max", "\"3MB\""));
    let (here, there) = (cluster.mount(0).join("file"), cluster.mount(1).join("file"));
    let mut expected = Rng::new(5).bytes(2 << 20);
    std::fs::write(&here, &expected).expect("write");
    let both = OpenOptions::new().read(true).write(true).clone();
    let everywhere = |expected: &[u8], what: &str| {
        for path in [&there, &here] {
            assert!(std::fs::read(path).expect("read") == expected, "{} after {what}", path.display());
        }
    };
    drop(open_passthrough(&here, &both));
    everywhere(&expected, "an open that wrote nothing");

    let file = open_passthrough(&here, &both);
    assert!(status(&here).contains("written"), "{}", status(&here));
    file.write_all_at(&[1; 5000], 1 << 20).expect("write");
    file.sync_all().expect("fsync");
    // What the worker has written down of the file is enough for this.
    cluster.kill(Role::Worker(0));
    file.write_all_at(&[2; 5000], 70_000).expect("write without a worker");
    file.sync_data().expect("fsync without a worker");
    cluster.begin(Role::Worker(0));
    cluster.ready(Role::Worker(0));
    file.write_all_at(&[3; 5000], 2 << 20).expect("write behind the end");
    file.sync_all().expect("fsync of a longer file");
    expected[1 << 20..(1 << 20) + 5000].fill(1);
    expected[70_000..75_000].fill(2);
    expected.extend([3; 5000]);
    everywhere(&expected, "writes in between");
    drop(file);
    everywhere(&expected, "the close");

    let file = open_passthrough(&here, &both);
    file.set_len(0).expect("truncate");
    assert!(status(&here).contains("io=passthrough"), "{}", status(&here));
    expected = Rng::new(6).bytes(4 << 20);
    file.write_all_at(&expected, 0).expect("write anew");
    file.sync_all().expect("fsync");
    everywhere(&expected, "all of it was replaced");
    drop(file);
    let file = until("the seal", PATIENCE, || {
        let file = both.open(&here).expect("open");
        status(&here).contains("not by passthrough: files of this size").then_some(file)
    });
    file.write_all_at(&[4; 5000], 0).expect("write through the mount");
    expected[..5000].fill(4);
    everywhere(&expected, "a write through the mount");
    drop(file);
    cluster.finish();
}

#[test]
fn opens_of_every_kind_join_whatever_came_first() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan());
    let options = |read: bool, write: bool, append: bool, flags: i32| {
        let mut options = OpenOptions::new();
        options.read(read).write(write).append(append).custom_flags(flags);
        options
    };
    let kinds = [
        ("read", options(true, false, false, 0)),
        ("direct", options(true, false, false, libc::O_DIRECT)),
        ("write", options(false, true, false, 0)),
        ("both", options(true, true, false, 0)),
        ("append", options(true, false, true, 0)),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (number, (first_name, first)) in kinds.iter().enumerate() {
        for new in [false, true] {
            let path = cluster.mount(0).join(format!("file-{number}-{new}"));
            let far = cluster.mount(1).join(format!("file-{number}-{new}"));
            let mut expected = Rng::new(number as u64).bytes(1 << 20);
            // Of a new file the writer is still there, so that all others join it.
            let writer = File::create(&path).expect("create");
            writer.write_all_at(&expected, 0).expect("write");
            let held = new.then_some(writer);
            let opened = if held.is_none() && *first_name == "read" {
                open_passthrough(&path, first)
            } else {
                first.open(&path).expect("open first")
            };
            for (name, next) in &kinds {
                let what = format!("{name} after {first_name}, new {new}, {}", status(&path));
                seen.insert(status(&path).split(' ').next().unwrap_or("").to_string());
                let file = next.open(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
                match *name {
                    "write" | "both" => {
                        file.write_all_at(&[number as u8; 5000], 4096 * number as u64)
                            .unwrap_or_else(|error| panic!("{what}: {error}"));
                        expected[4096 * number..4096 * number + 5000].fill(number as u8);
                    }
                    "append" => {
                        std::io::Write::write_all(&mut &file, &[5; 4096])
                            .unwrap_or_else(|error| panic!("{what}: {error}"));
                        expected.extend([5; 4096]);
                    }
                    _ => {}
                }
                assert!(std::fs::read(&path).expect("read") == expected, "{what}");
                assert!(std::fs::read(&far).expect("read there") == expected, "there, {what}");
            }
            drop((opened, held));
        }
    }
    assert!(seen.contains("io=passthrough") && seen.contains("io=cached"), "{seen:?}");
    cluster.finish();
}

#[test]
fn a_writer_whose_session_is_over_changes_nothing_any_more_and_is_told() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan());
    let (here, there) = (cluster.mount(0).join("file"), cluster.mount(1).join("file"));
    let file = File::create(&here).expect("create");
    assert!(status(&here).contains("io=passthrough"));
    file.write_all_at(&[1; 1 << 20], 0).expect("write");
    cluster.freeze(Role::Mount(0), true);
    file.write_all_at(&[2; 4096], 0).expect("write while the mount is silent");
    let other = OpenOptions::new().read(true).write(true).open(&there).expect("open there");
    let mut expected = vec![1; 1 << 20];
    expected[..4096].fill(2);
    until("the silent session to be over", PATIENCE, || {
        other.write_all_at(&[3; 100], 5000).expect("write there");
        file.write_all_at(&[4; 4096], 8192).expect("write");
        let mut seen = [0; 1];
        other.read_at(&mut seen, 8192).expect("read");
        // Its last writes count up to some moment, and then no more.
        other.write_all_at(&[5], 8192).expect("write there");
        file.write_all_at(&[6], 8192).expect("write");
        other.read_at(&mut seen, 8192).expect("read");
        (seen == [5]).then_some(())
    });
    file.write_all_at(&[7; 1 << 20], 0).expect("write into nothing");
    let seen = read_all(&other, 2 << 20);
    assert!(seen.len() == 1 << 20 && !seen.contains(&7));
    assert_eq!((seen[0], seen[5050], seen[8192], seen[500_000]), (2, 3, 5, 1));
    cluster.freeze(Role::Mount(0), false);
    until("the writer to be told", PATIENCE, || file.sync_all().is_err().then_some(()));
    drop(file);
    assert!(std::fs::read(&here).expect("read") == seen);
    drop(other);
    cluster.finish();
}

#[test]
fn under_pressure_files_that_are_open_keep_their_bytes_and_make_way_when_they_are_closed() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let scratch = tempfile::tempdir().expect("make a directory");
    let data_dir = format!("[\"[SSD:16MB]{}\"]", scratch.path().join("tier").display());
    let cluster = Cluster::start(Plan { workers: 1, mounts: 1, ..plan() }.set("worker", "data_dir", data_dir));
    let store = scratch.path().join("store");
    std::fs::create_dir(&store).expect("make a store");
    let contents: Vec<Vec<u8>> = (0..8).map(|number| Rng::new(number).bytes((5 << 20) + number as usize)).collect();
    for (number, content) in contents.iter().enumerate() {
        std::fs::write(store.join(number.to_string()), content).expect("fill the store");
    }
    cluster.cv(&["mount", &format!("file://{}", store.display()), "/data", "--ttl", "300s"]).ok();
    let path = |number: usize| cluster.mount(0).join("data").join(number.to_string());
    let hold = |number: usize| {
        let file = until("an open by passthrough", PATIENCE, || {
            assert!(std::fs::read(path(number)).expect("read") == contents[number]);
            let file = File::open(path(number)).expect("open");
            let status = status(&path(number));
            status.contains("io=passthrough").then_some(file)
        });
        let mapping = Mapping::of(&file, 5 << 20, libc::PROT_READ);
        (file, mapping)
    };
    let held = [hold(0), hold(1)];
    for number in [2, 3, 4, 5, 2, 3] {
        assert!(std::fs::read(path(number)).expect("read") == contents[number]);
        for ((file, mapping), content) in held.iter().zip(&contents) {
            assert!(read_all(file, 8 << 20) == *content);
            assert!((0..5 << 20).step_by(4096).all(|at| mapping.byte(at) == content[at]));
        }
    }
    drop(held);
    // Nobody has read these yet, so that they come into the cache by being read.
    drop([hold(6), hold(7)]);
    cluster.finish();
}

#[test]
fn without_passthrough_files_say_why_and_are_the_same() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(plan().set("fuse", "passthrough", "false"));
    let (here, there) = (cluster.mount(0).join("file"), cluster.mount(1).join("file"));
    let content = Rng::new(5).bytes(2 << 20);
    std::fs::write(&here, &content).expect("write");
    let file = File::open(&here).expect("open");
    let status = status(&here);
    assert!(!status.contains("io=passthrough") && status.contains("--no-passthrough"), "{status}");
    assert!(read_all(&file, 4 << 20) == content && std::fs::read(&there).expect("read") == content);
    cluster.finish();
}
