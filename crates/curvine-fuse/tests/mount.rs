//! The mount against this machine's kernel, over a file system in memory.
//!
//! Needs root and /dev/fuse, and fails without them unless CURVINE_SKIP_FUSE_TESTS is set.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use curvine_client::CacheEvents;
use curvine_fuse::{FuseOptions, KernelEvents, Mount};
use curvine_proto::DataMode;
use support::MemFs;

const PATIENCE: Duration = Duration::from_secs(10);

struct Test {
    runtime: tokio::runtime::Runtime,
    fs: MemFs,
    events: Arc<KernelEvents>,
    mount: Option<Mount>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Test {
    /// `None` if such tests are not wanted here.
    fn new() -> Option<Self> {
        let options = FuseOptions { drain_timeout: Duration::from_millis(300), ..FuseOptions::default() };
        Self::with(options, MemFs::new())
    }

    fn with(options: FuseOptions, fs: MemFs) -> Option<Self> {
        if std::env::var_os("CURVINE_SKIP_FUSE_TESTS").is_some() {
            return None;
        }
        assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is missing; set CURVINE_SKIP_FUSE_TESTS to skip");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("mnt");
        let events = KernelEvents::new();
        let mount = runtime.block_on(Mount::start_with(options, fs.clone(), events.clone(), &path)).unwrap();
        Some(Self { runtime, fs, events, mount: Some(mount), path, _directory: directory })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    /// Until a call of the file system hangs.
    fn wait_for_hang(&self) {
        let hung = self.fs.0.hung.notified();
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, hung).await }).expect("nothing hangs");
    }

    fn reads(&self) -> u64 {
        self.fs.0.reads.load(SeqCst)
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        self.fs.0.down.send_replace(false);
        if let Some(mount) = self.mount.take() {
            let ended = self.runtime.block_on(mount.unmount());
            assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
        }
    }
}

/// A child that is killed when the test ends early.
struct Killed(Child);

impl Killed {
    fn spawn(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Sends SIGKILL and returns how long it took to die.
    fn kill(mut self) -> Duration {
        let start = Instant::now();
        self.0.kill().unwrap();
        self.exit_code();
        start.elapsed()
    }

    /// Waits until it has ended; `None` if a signal ended it.
    fn exit_code(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "a child process does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_tree_is_made_changed_and_removed() {
    let Some(test) = Test::new() else { return };
    fs::create_dir(test.at("d")).unwrap();
    fs::write(test.at("d/a"), b"content").unwrap();
    assert_eq!(fs::read(test.at("d/a")).unwrap(), b"content");
    fs::hard_link(test.at("d/a"), test.at("b")).unwrap();
    let (a, b) = (fs::metadata(test.at("d/a")).unwrap(), fs::metadata(test.at("b")).unwrap());
    assert_eq!((a.ino(), a.nlink(), a.size()), (b.ino(), 2, 7));
    symlink("d/a", test.at("s")).unwrap();
    assert_eq!(fs::read_link(test.at("s")).unwrap(), Path::new("d/a"));
    assert_eq!(fs::read(test.at("s")).unwrap(), b"content");
    fs::rename(test.at("d/a"), test.at("c")).unwrap();
    assert_eq!(fs::metadata(test.at("d/a")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    fs::set_permissions(test.at("c"), fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(fs::metadata(test.at("c")).unwrap().mode(), 0o104755);
    std::os::unix::fs::chown(test.at("c"), Some(1), None).unwrap();
    assert_eq!(fs::metadata(test.at("c")).unwrap().mode(), 0o100755, "chown drops setuid");
    assert_eq!(fs::remove_dir(&test.path).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    fs::remove_dir(test.at("d")).unwrap();
    for name in ["b", "c", "s"] {
        fs::remove_file(test.at(name)).unwrap();
    }
    assert_eq!(fs::read_dir(&test.path).unwrap().count(), 0);
    assert_eq!(fs::metadata(test.at("x".repeat(256).as_str())).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn data_is_written_read_truncated_and_appended() {
    let Some(test) = Test::new() else { return };
    let data: Vec<u8> = (0..3_000_001u32).map(|number| (number % 251) as u8).collect();
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(test.at("f")).unwrap();
    file.write_all(&data).unwrap();
    file.sync_all().unwrap();
    assert_eq!(test.fs.content("f"), data);
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = Vec::new();
    file.read_to_end(&mut back).unwrap();
    assert!(back == data);
    file.set_len(10).unwrap();
    file.write_all_at(b"xy", 4).unwrap();
    assert_eq!(test.fs.content("f"), b"\0\x01\x02\x03xy\x06\x07\x08\x09");
    let mut appender = OpenOptions::new().append(true).open(test.at("f")).unwrap();
    appender.write_all(b"end").unwrap();
    assert_eq!(test.fs.content("f").len(), 13);
    drop((file, appender));
    fs::write(test.at("f"), b"").unwrap();
    assert_eq!(fs::metadata(test.at("f")).unwrap().len(), 0);
    // Without page cache.
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(test.at("f")).unwrap();
    direct.write_all_at(&data[..8192], 0).unwrap();
    assert!(fs::read(test.at("f")).unwrap() == data[..8192]);
    wait_until("all are released", || test.mount().gauges().open_files == 1);
}

#[test]
fn a_large_directory_is_listed_completely_and_once() {
    let Some(test) = Test::new() else { return };
    let wanted: BTreeSet<String> = (0..2500).map(|number| format!("file-with-a-rather-long-name-{number}")).collect();
    for name in &wanted {
        test.fs.put(name, b"");
    }
    let names: Vec<String> =
        fs::read_dir(&test.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), wanted.len());
    assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), wanted);
    let long = Command::new("ls").args(["-la"]).arg(&test.path).output().unwrap();
    assert!(long.status.success());
    assert_eq!(String::from_utf8(long.stdout).unwrap().lines().count(), wanted.len() + 3);
}

#[test]
fn a_killed_reader_is_gone_at_once_and_others_are_not_disturbed() {
    let Some(test) = Test::new() else { return };
    let inode = test.fs.put("hang", b"some content");
    test.fs.put("fine", b"fine");
    test.fs.0.hanging.lock().unwrap().insert(inode);
    *test.fs.0.mode.lock().unwrap() = Some(DataMode::WriteShared);
    let reader = Killed::spawn(Command::new("cat").arg(test.at("hang")));
    test.wait_for_hang();
    assert_eq!(fs::read(test.at("fine")).unwrap(), b"fine");
    let took = reader.kill();
    assert!(took < Duration::from_secs(1), "took {took:?}");
    wait_until("its request is given up", || test.mount().gauges().requests_in_flight == 0);
    assert!(test.mount().gauges().interrupts > 0);
}

#[test]
fn a_signal_that_does_not_kill_ends_a_hanging_read_after_the_grace() {
    let options = FuseOptions { interrupt_grace: Duration::from_millis(200), ..FuseOptions::default() };
    let Some(test) = Test::with(options, MemFs::new()) else { return };
    let inode = test.fs.put("hang", b"some content");
    test.fs.0.hanging.lock().unwrap().insert(inode);
    *test.fs.0.mode.lock().unwrap() = Some(DataMode::WriteShared);
    let script = format!("trap 'exit 7' USR1; read line < {}; exit 9", test.at("hang").display());
    let mut reader = Killed::spawn(Command::new("sh").args(["-c", &script]));
    test.wait_for_hang();
    let start = Instant::now();
    let pid = rustix::process::Pid::from_child(&reader.0);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert_eq!(reader.exit_code(), Some(7));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(2), "took {took:?}");
}

#[test]
fn a_write_that_was_interrupted_lands_before_the_next_change_of_its_file() {
    let Some(test) = Test::new() else { return };
    test.fs.put("f", b"");
    test.fs.0.held.send_replace(true);
    test.fs.0.hold_write.store(true, SeqCst);
    let writer = Killed::spawn(Command::new("sh").args(["-c", &format!("echo first > {}", test.at("f").display())]));
    test.wait_for_hang();
    let took = writer.kill();
    assert!(took < Duration::from_secs(1), "took {took:?}");
    assert_eq!(test.mount().gauges().requests_orphaned, 1);
    let path = test.at("f");
    let second = std::thread::spawn(move || {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"2nd", 0).unwrap();
    });
    wait_until("it is on its way", || second.is_finished() || test.mount().gauges().requests_in_flight > 1);
    test.fs.0.held.send_replace(false);
    second.join().unwrap();
    assert_eq!(test.fs.content("f"), b"2ndst\n");
}

#[test]
fn an_interrupted_flush_is_answered_while_the_work_goes_on() {
    let Some(test) = Test::new() else { return };
    test.fs.put("f", b"content");
    test.fs.0.flush_hangs.store(true, SeqCst);
    let reader = Killed::spawn(Command::new("cat").arg(test.at("f")));
    test.wait_for_hang();
    let took = reader.kill();
    assert!(took < Duration::from_secs(1), "took {took:?}");
    wait_until("the flush is done all the same", || test.fs.0.flushed.load(SeqCst) > 0);
}

#[test]
fn statfs_and_the_root_are_answered_whatever_happens_to_the_cluster() {
    let options = FuseOptions { root_timeout: Duration::from_millis(100), ..FuseOptions::default() };
    let fs = MemFs::new();
    *fs.0.ttl.lock().unwrap() = Duration::ZERO;
    let Some(test) = Test::with(options, fs) else { return };
    let before = rustix::fs::statfs(&test.path).unwrap();
    assert_eq!((before.f_blocks, before.f_bavail), ((8 << 30) / 4096, (4 << 30) / 4096));
    test.fs.0.down.send_replace(true);
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(rustix::fs::statfs(&test.path).unwrap().f_blocks, before.f_blocks);
        assert!(fs::metadata(&test.path).unwrap().is_dir());
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn names_are_believed_until_they_change() {
    let Some(test) = Test::new() else { return };
    test.fs.put("old", b"content");
    assert!(test.at("old").exists() && !test.at("new").exists());
    let before = test.fs.0.lookups.load(SeqCst);
    assert!(test.at("old").exists() && !test.at("new").exists());
    assert_eq!(test.fs.0.lookups.load(SeqCst), before, "the kernel asks for what it may believe");
    test.fs.rename_behind("old", "new");
    test.events.names_changed(&[1]);
    assert!(!test.at("old").exists() && test.at("new").exists());
}

#[test]
fn attributes_and_pages_are_believed_until_they_change() {
    let Some(test) = Test::new() else { return };
    let inode = test.fs.put("f", b"first content");
    let file = File::open(test.at("f")).unwrap();
    let read = || {
        let mut buffer = [0; 64];
        let length = file.read_at(&mut buffer, 0).unwrap();
        buffer[..length].to_vec()
    };
    // A read from the file makes the kernel ask for the access time once.
    assert_eq!((read(), file.metadata().unwrap().len()), (b"first content".to_vec(), 13));
    let (reads, getattrs) = (test.reads(), test.fs.0.getattrs.load(SeqCst));
    assert_eq!((read(), file.metadata().unwrap().len()), (b"first content".to_vec(), 13));
    assert_eq!((test.reads(), test.fs.0.getattrs.load(SeqCst)), (reads, getattrs), "the kernel asks again");
    test.fs.put("f", b"second, longer content");
    test.events.inodes_changed(&[inode]);
    assert_eq!(read(), b"second, longer content");
    assert_eq!(file.metadata().unwrap().len(), 22);
    assert_eq!(test.mount().gauges().pages_late, 0);
}

#[test]
fn pages_outlive_a_close_only_when_the_client_says_so() {
    let Some(test) = Test::new() else { return };
    test.fs.put("f", b"content");
    for keep in [false, true] {
        test.fs.0.keep_cache.store(keep, SeqCst);
        assert_eq!(fs::read(test.at("f")).unwrap(), b"content");
        let before = test.reads();
        assert_eq!(fs::read(test.at("f")).unwrap(), b"content");
        assert_eq!(test.reads() == before, keep);
    }
}

#[test]
fn what_is_read_before_an_earlier_write_is_done_does_not_stay() {
    let Some(test) = Test::new() else { return };
    let old = vec![b'o'; 3 * 4096];
    test.fs.put("f", &old);
    let writer = OpenOptions::new().write(true).open(test.at("f")).unwrap();
    // Whole pages, which are free while the write is under way, and a part of one, which is not.
    for (from, length) in [(4096, 4096), (4096 + 100, 1000)] {
        let new = vec![b'n'; length];
        test.fs.put("f", &old);
        let _ = fs::read(test.at("f")).unwrap();
        test.fs.0.held.send_replace(true);
        test.fs.0.hold_write.store(true, SeqCst);
        std::thread::scope(|scope| {
            let write = scope.spawn(|| writer.write_all_at(&new, from as u64).unwrap());
            wait_until("the write is under way", || !test.fs.0.hold_write.load(SeqCst));
            // Opened without KEEP_CACHE: the pages that the writer has filled already are dropped.
            assert_eq!(fs::read(test.at("f")).unwrap(), old, "nothing is written yet");
            test.fs.0.held.send_replace(false);
            write.join().unwrap();
        });
        // The kernel drops pages when it sees another mtime, but not one that it has been told by this.
        writer.set_len(old.len() as u64).unwrap();
        test.fs.0.keep_cache.store(true, SeqCst);
        let read = fs::read(test.at("f")).unwrap();
        test.fs.0.keep_cache.store(false, SeqCst);
        assert!(read[from..from + length] == new, "the page cache has what was there before");
        assert!(read[..from] == old[..from] && read[from + length..] == old[from + length..]);
    }
    assert_eq!(test.mount().gauges().writes_overtaken, 2);
    assert_eq!(test.mount().gauges().pages_late, 0);
}

#[test]
fn a_shared_file_is_read_past_the_page_cache_until_its_last_close() {
    let Some(test) = Test::new() else { return };
    test.fs.put("f", b"content");
    *test.fs.0.mode.lock().unwrap() = Some(DataMode::WriteShared);
    let first = File::open(test.at("f")).unwrap();
    *test.fs.0.mode.lock().unwrap() = Some(DataMode::ReadShared);
    let joined = File::open(test.at("f")).unwrap();
    let count_reads = |file: &File| {
        let before = test.reads();
        for _ in 0..3 {
            assert_eq!(file.read_at(&mut [0; 7], 0).unwrap(), 7);
        }
        test.reads() - before
    };
    assert_eq!((count_reads(&first), count_reads(&joined)), (3, 3));
    drop((first, joined));
    wait_until("both are closed", || test.mount().gauges().open_inodes == 0);
    let cached = File::open(test.at("f")).unwrap();
    assert_eq!(count_reads(&cached), 1);
}

#[test]
fn an_append_that_lands_elsewhere_is_read_from_where_it_landed() {
    let Some(test) = Test::new() else { return };
    let inode = test.fs.put("f", b"start");
    let mut file = OpenOptions::new().read(true).append(true).open(test.at("f")).unwrap();
    test.fs.0.append_skew.store(4, SeqCst);
    file.write_all(b"end").unwrap();
    wait_until("the pages are dropped", || test.mount().gauges().pages_waiting == 0);
    test.events.inodes_changed(&[inode]);
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"start....end");
}

#[test]
fn locks_are_taken_at_the_cluster_and_dropped_by_a_close() {
    let Some(test) = Test::new() else { return };
    use rustix::fs::{FlockOperation, fcntl_lock, flock};
    test.fs.put("f", b"");
    let open = || OpenOptions::new().read(true).write(true).open(test.at("f")).unwrap();
    let (first, second) = (open(), open());
    flock(&first, FlockOperation::LockExclusive).unwrap();
    assert_eq!(flock(&second, FlockOperation::NonBlockingLockExclusive), Err(rustix::io::Errno::AGAIN));
    // Somebody who waits for it can be killed.
    let waiter = Killed::spawn(Command::new("flock").arg(test.at("f")).arg("true"));
    test.wait_for_hang();
    let took = waiter.kill();
    assert!(took < Duration::from_secs(1), "took {took:?}");
    drop(first);
    wait_until("the close drops the flock", || test.fs.lock_count("f") == 0);
    flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
    flock(&second, FlockOperation::Unlock).unwrap();

    fcntl_lock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(test.fs.lock_count("f"), 1);
    // POSIX: any close of the file by the process drops its record locks.
    drop(open());
    assert_eq!(test.fs.lock_count("f"), 0);
}

#[test]
fn extended_attributes_are_kept_and_there_is_no_acl_until_one_is_set() {
    let Some(test) = Test::new() else { return };
    test.fs.put("f", b"");
    use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
    setxattr(test.at("f"), "user.a", b"value", XattrFlags::empty()).unwrap();
    let mut buffer = [0; 64];
    let length = getxattr(test.at("f"), "user.a", &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..length], b"value");
    assert_eq!(getxattr(test.at("f"), "user.a", &mut buffer[..2]), Err(rustix::io::Errno::RANGE));
    assert_eq!(getxattr(test.at("f"), "user.b", &mut buffer[..]), Err(rustix::io::Errno::NODATA));
    let length = listxattr(test.at("f"), &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..length], b"user.a\0");
    let acl = getxattr(test.at("f"), "system.posix_acl_access", &mut buffer[..]);
    assert_eq!(acl, Err(rustix::io::Errno::NODATA));
}

#[test]
fn unmounting_ends_files_that_stay_open_and_releases_them() {
    let Some(mut test) = Test::new() else { return };
    test.fs.put("f", b"content");
    let file = File::open(test.at("f")).unwrap();
    let mount = test.mount.take().unwrap();
    test.runtime.block_on(mount.unmount()).unwrap();
    assert!(!test.at("f").exists());
    assert_eq!(file.metadata().unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    assert_eq!((mount.gauges().open_files, test.fs.0.releases.load(SeqCst)), (0, 1));
    // A second time is fine.
    test.runtime.block_on(mount.unmount()).unwrap();
}

#[test]
fn a_working_directory_does_not_hold_up_unmounting() {
    let options = FuseOptions { drain_timeout: Duration::from_secs(60), ..FuseOptions::default() };
    let Some(mut test) = Test::with(options, MemFs::new()) else { return };
    let _inside = Killed::spawn(Command::new("sleep").arg("60").current_dir(&test.path));
    let start = Instant::now();
    let mount = test.mount.take().unwrap();
    test.runtime.block_on(mount.unmount()).unwrap();
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
}

#[test]
fn a_mount_that_somebody_else_unmounts_has_ended() {
    let Some(test) = Test::new() else { return };
    assert!(Command::new("umount").arg(&test.path).status().unwrap().success());
    test.runtime.block_on(async { tokio::time::timeout(PATIENCE, test.mount().wait()).await }).unwrap();
}

#[test]
fn a_directory_can_be_the_root_of_the_mount() {
    let fs = MemFs::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let name = curvine_types::Name::new(b"sub").unwrap();
    let node = curvine_client::NewNode { mode: 0o750, umask: 0, uid: 0, gid: 0 };
    runtime.block_on(curvine_fuse::Backend::mkdir(&fs, 1, &name, node)).unwrap();
    let options = FuseOptions { fs_path: "/sub".into(), ..FuseOptions::default() };
    let Some(test) = Test::with(options, fs) else { return };
    let root = fs::metadata(&test.path).unwrap();
    assert_eq!((root.mode(), root.ino()), (0o40750, 1));
    fs::create_dir(test.at("below")).unwrap();
    fs::rename(test.at("below"), test.at("moved")).unwrap();
    let found = runtime.block_on(curvine_fuse::Backend::resolve(&test.fs, b"/sub/moved")).unwrap();
    assert_eq!(found.attr.inode, fs::metadata(test.at("moved")).unwrap().ino());
    test.events.names_changed(&[root.ino()]);
}
