//! The layer against this machine's kernel: a tiny file system is really mounted.
//!
//! Needs root and /dev/fuse, and fails without them unless CURVINE_SKIP_FUSE_TESTS is set.

use std::fs;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use curvine_fuse_abi::kernel::{Attr, OpenOut, StatfsOut};
use curvine_fuse_abi::mountinfo::mounts_on;
use curvine_fuse_abi::reply::{attr_out, entry_out, negative_entry_out};
use curvine_fuse_abi::{
    Device, DirBuffer, InitOptions, IntoBytes, MountOptions, Operation, ReadResult, Session, mount, parse,
};

const CONTENT: &[u8] = b"the content of a small file\n";
const FILE: u64 = 2;
const HANG: u64 = 3;
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The root holds `file` and `hang`, whose READ is answered only when it is interrupted.
#[derive(Default)]
struct Tiny {
    lookups: AtomicU64,
    renamed: AtomicBool,
}

impl Tiny {
    fn attr(&self, inode: u64) -> Attr {
        let mode = if inode == 1 { 0o40755 } else { 0o100644 };
        Attr { ino: inode, mode, nlink: 1, size: CONTENT.len() as u64, blksize: 4096, ..Attr::default() }
    }

    fn find(&self, name: &[u8]) -> Option<u64> {
        self.lookups.fetch_add(1, SeqCst);
        match (name, self.renamed.load(SeqCst)) {
            (b"file", false) | (b"other", true) => Some(FILE),
            (b"hang", _) => Some(HANG),
            _ => None,
        }
    }

    /// Serves until the session ends.
    fn serve(&self, device: &Device, reading: &mpsc::Sender<u64>) {
        const LONG: Duration = Duration::from_secs(3600);
        let mut buffer = Vec::with_capacity(Device::buffer_size(1 << 20));
        let mut hanging = Vec::new();
        loop {
            buffer.clear();
            match device.read(&mut buffer).unwrap() {
                ReadResult::Request => {}
                ReadResult::Again => continue,
                ReadResult::Ended => return,
            }
            let request = parse(&buffer).unwrap();
            let (unique, node) = (request.header.unique, request.header.nodeid);
            let answered = match request.operation {
                Operation::Lookup { name } => match self.find(name) {
                    Some(inode) => device.reply_with(unique, &entry_out(&self.attr(inode), LONG, LONG)),
                    None => device.reply_with(unique, &negative_entry_out(LONG)),
                },
                Operation::Getattr { .. } => device.reply_with(unique, &attr_out(&self.attr(node), LONG)),
                Operation::Open { .. } if node == HANG => {
                    device.reply_with(unique, &OpenOut { open_flags: 1, ..OpenOut::default() })
                }
                Operation::Open { .. } | Operation::Opendir { .. } => device.reply_with(unique, &OpenOut::default()),
                Operation::Read(_) if node == HANG => {
                    hanging.push(unique);
                    reading.send(unique).unwrap();
                    Ok(true)
                }
                Operation::Read(args) => {
                    let rest = CONTENT.get(args.offset as usize..).unwrap_or_default();
                    let (first, second) = rest.split_at(rest.len() / 2);
                    device.reply(unique, &[IoSlice::new(first), IoSlice::new(b""), IoSlice::new(second)])
                }
                Operation::Readdir(args) => {
                    let mut listing = DirBuffer::new(args.size as usize);
                    if args.offset == 0 {
                        assert!(listing.push(FILE, 1, 8, b"file") && listing.push(HANG, 2, 8, b"hang"));
                    }
                    device.reply(unique, &[IoSlice::new(&listing.into_bytes())])
                }
                Operation::Readdirplus(args) => {
                    let mut listing = DirBuffer::new(args.size as usize);
                    if args.offset == 0 {
                        let entry = |inode| entry_out(&self.attr(inode), LONG, LONG);
                        assert!(listing.push_plus(&entry(FILE), FILE, 1, 8, b"file"));
                        assert!(listing.push_plus(&Default::default(), HANG, 2, 8, b"hang"));
                    }
                    device.reply(unique, &[IoSlice::new(&listing.into_bytes())])
                }
                Operation::Interrupt { unique: target } => {
                    if let Some(at) = hanging.iter().position(|unique| *unique == target) {
                        hanging.remove(at);
                        device.reply_error(target, libc::EINTR).unwrap();
                    }
                    Ok(true)
                }
                Operation::Statfs => device.reply_with(unique, &StatfsOut { bsize: 4096, ..StatfsOut::default() }),
                Operation::Forget { .. } | Operation::BatchForget { .. } => Ok(true),
                Operation::Release(_) | Operation::Releasedir(_) | Operation::Flush { .. } => {
                    device.reply_error(unique, 0)
                }
                _ => device.reply_error(unique, libc::ENOSYS),
            };
            answered.unwrap();
        }
    }
}

/// A mounted `Tiny` that is served by one thread.
struct Mounted {
    session: Arc<Session>,
    fs: Arc<Tiny>,
    reading: mpsc::Receiver<u64>,
    server: Option<JoinHandle<()>>,
}

impl Mounted {
    fn on(path: &Path) -> Self {
        let init = InitOptions { locks: false, ..InitOptions::default() };
        let session = Arc::new(Session::mount(path, &MountOptions::default(), &init).unwrap());
        let fs = Arc::new(Tiny::default());
        let (sender, reading) = mpsc::channel();
        let server = std::thread::spawn({
            let (session, fs) = (session.clone(), fs.clone());
            // A cloned descriptor serves as well as the first one.
            move || fs.serve(&session.device.clone_reader().unwrap(), &sender)
        });
        Self { session, fs, reading, server: Some(server) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.session.mount_point.force();
        if let Some(server) = self.server.take() {
            let served = server.join();
            assert!(std::thread::panicking() || served.is_ok());
        }
    }
}

fn skip() -> bool {
    let skip = std::env::var_os("CURVINE_SKIP_FUSE_TESTS").is_some();
    assert!(skip || Path::new("/dev/fuse").exists(), "/dev/fuse is missing; set CURVINE_SKIP_FUSE_TESTS to skip");
    skip
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap().join("mnt");
    (directory, path)
}

#[test]
fn a_file_is_listed_and_read_through_the_kernel() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    let mounted = Mounted::on(&path);
    assert_eq!(fs::read(path.join("file")).unwrap(), CONTENT);
    assert_eq!(fs::read(path.join("absent")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "hang"]);
    let here = mounts_on(&path).unwrap();
    assert_eq!((here.len(), here[0].kind.as_str(), here[0].source.as_str()), (1, "fuse.curvine", "curvine"));
    drop(mounted);
    assert!(mounts_on(&path).unwrap().is_empty());
}

#[test]
fn a_directory_with_files_is_mounted_over_and_keeps_them() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("precious"), b"data").unwrap();
    let first = Mounted::on(&path);
    assert!(!path.join("precious").exists());
    // A mount that lives is mounted over too.
    let second = Mounted::on(&path);
    assert_eq!(mounts_on(&path).unwrap().len(), 2);
    // The lower one must not take the upper one off.
    assert!(first.session.mount_point.detach().is_err());
    drop(second);
    assert_eq!(fs::read(path.join("file")).unwrap(), CONTENT);
    drop(first);
    assert_eq!(fs::read(path.join("precious")).unwrap(), b"data");
}

/// The child of the next test: mounts on the path in the environment and serves until it is killed.
#[test]
fn child_that_is_killed() {
    let Some(path) = std::env::var_os("CURVINE_FUSE_TEST_CHILD") else {
        return;
    };
    let mounted = Mounted::on(Path::new(&path));
    fs::write(Path::new(&path).with_extension("ready"), b"").unwrap();
    mounted.reading.recv().unwrap();
}

#[test]
fn dead_mounts_of_killed_processes_are_taken_off() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    for round in 1..=2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed"])
            .env("CURVINE_FUSE_TEST_CHILD", &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let ready = path.with_extension("ready");
        wait_until("the child has mounted", || ready.exists());
        fs::remove_file(&ready).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        // The next round's child has recovered from the previous one's death.
        assert_eq!(mounts_on(&path).unwrap().len(), 1, "round {round}");
    }
    let mounted = Mounted::on(&path);
    assert_eq!(mounts_on(&path).unwrap().len(), 1);
    assert_eq!(fs::read(path.join("file")).unwrap(), CONTENT);
    drop(mounted);
    fs::remove_dir(&path).unwrap();
}

#[test]
fn a_reader_that_is_killed_while_it_waits_is_gone_within_a_second() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    let mounted = Mounted::on(&path);
    let mut reader = Command::new("cat").arg(path.join("hang")).stdout(Stdio::null()).spawn().unwrap();
    mounted.reading.recv_timeout(PATIENCE).unwrap();
    let killed = Instant::now();
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(1), "took {:?}", killed.elapsed());
}

#[test]
fn one_notification_makes_every_name_be_looked_up_again() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    let mounted = Mounted::on(&path);
    assert!(mounted.session.negotiated.has_inc_epoch(), "this kernel is older than 7.44");
    assert!(path.join("file").exists());
    let before = mounted.fs.lookups.load(SeqCst);
    mounted.fs.renamed.store(true, SeqCst);
    assert!(path.join("file").exists(), "the kernel believes the name");
    assert_eq!(mounted.fs.lookups.load(SeqCst), before);
    mounted.session.device.increment_epoch().unwrap();
    assert!(!path.join("file").exists());
    assert!(path.join("other").exists());
    assert_eq!(mounted.fs.lookups.load(SeqCst), before + 2);
}

#[test]
fn nodes_are_invalidated_and_unknown_ones_are_no_error() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    let mounted = Mounted::on(&path);
    let device = &mounted.session.device;
    let _open = fs::File::open(path.join("file")).unwrap();
    assert!(device.invalidate_inode(FILE, false).unwrap());
    assert!(device.invalidate_inode(FILE, true).unwrap());
    assert!(!device.invalidate_inode(4711, false).unwrap());
    assert!(device.invalidate_entry(1, b"file").unwrap());
    assert!(!device.reply_error(987_654, 0).unwrap(), "nobody waits for this one");
}

#[test]
fn the_connection_is_counted_tuned_and_aborted() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    let mounted = Mounted::on(&path);
    let connection = &mounted.session.connection;
    assert_eq!(connection.waiting(), Some(0));
    connection.set_read_ahead(2 << 20).unwrap();
    assert_eq!(connection.read_ahead(), Some(2 << 20));
    let mut reader = Command::new("cat").arg(path.join("hang")).stderr(Stdio::null()).spawn().unwrap();
    mounted.reading.recv_timeout(PATIENCE).unwrap();
    assert_eq!(connection.waiting(), Some(1));
    assert!(!connection.wait_idle(Duration::from_millis(20)));
    assert!(connection.abort());
    assert!(!reader.wait().unwrap().success());
    wait_until("the server has ended", || mounted.server.as_ref().unwrap().is_finished());
}

#[test]
fn a_mount_point_that_is_a_file_is_refused() {
    if skip() {
        return;
    }
    let (_directory, path) = directory();
    fs::write(&path, b"a file").unwrap();
    assert!(mount::prepare(&path).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"a file");
}

/// Polls for what another process or the kernel does, which cannot notify.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn structures_have_the_sizes_of_the_kernel() {
    // The sizes are asserted at compile time; this pins the one that replies depend on.
    assert_eq!(entry_out(&Attr::default(), Duration::ZERO, Duration::ZERO).as_bytes().len(), 128);
}
