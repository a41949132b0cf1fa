//! Random system calls on few names, from threads on different mounts.
//!
//! Each round has a directory of its own, so that its history is short and what an interrupted call may still do cannot
//! reach the next one. Calls that are not atomic for the kernel are told apart into what is: `stat` looks a name up and then
//! asks for attributes, so it is an observation of the name and another of the inode.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::history::{Clock, History, LogCall, STAMP, Span, word};
use super::models::{ModeOp, NAMES, NameOp, Sight};
use super::verdict::NEW_MODE;
use crate::harness::Rng;

/// The sizes of the records of the two logs: within the inline content for long, and soon beyond it across pages.
const RECORDS: [usize; 2] = [64, 5000];
const SPANS: [(u64, u64); 9] = [
    (0, 8),
    (8, 4096),
    (0, 4096),
    (4096, 16_384),
    (0, 16_384),
    (16_384, 65_536),
    (0, 262_144),
    (65_536, 262_144),
    (131_072, 131_080),
];
const SIZES: [u64; 7] = [0, 8, 4096, 16_384, 65_536, 100_000, 262_144];
/// Open files that a thread keeps.
const HANDLES: usize = 3;

/// How one round runs.
#[derive(Clone)]
pub struct Round {
    /// The same directory, seen through each mount.
    pub views: Vec<PathBuf>,
    pub threads_per_mount: usize,
    pub calls_per_thread: usize,
    /// No new calls after it.
    pub time: Duration,
    /// Whether files are opened with `O_DIRECT` now and then.
    pub direct: bool,
    /// Whether calls may fail because something is being killed.
    pub faults: bool,
    /// How long the looks at the end may be retried.
    pub patience: Duration,
}

/// Runs a round; the directory must exist. Ends with a look at everything through every mount.
pub fn run(round: &Round, clock: Clock, rng: &mut Rng) -> History {
    let threads = round.views.len() * round.threads_per_mount;
    let barrier = Barrier::new(threads);
    let mut whole = History::default();
    std::thread::scope(|scope| {
        let runners: Vec<_> = (0..threads)
            .map(|who| {
                let mut caller = Caller {
                    dir: round.views[who % round.views.len()].clone(),
                    mount: who % round.views.len(),
                    who,
                    clock,
                    rng: rng.split(),
                    history: History::default(),
                    handles: Vec::new(),
                    stamps: 0,
                    direct: round.direct,
                    faults: round.faults,
                };
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let end = Instant::now() + round.time;
                    for _ in 0..round.calls_per_thread {
                        if Instant::now() < end {
                            caller.call();
                        }
                    }
                    caller.handles.clear();
                    barrier.wait();
                    if who < round.views.len() {
                        caller.look_at_everything(round.patience);
                    }
                    caller.history
                })
            })
            .collect();
        for runner in runners {
            match runner.join() {
                Ok(history) => whole.merge(history),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    whole
}

/// The names of a round's logs.
pub fn log_name(log: usize) -> String {
    format!("log-{log}")
}

/// Makes what a round needs.
pub fn prepare(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir(dir)?;
    for log in 0..RECORDS.len() {
        std::fs::File::create_new(dir.join(log_name(log)))?;
    }
    Ok(())
}

struct Handle {
    file: OwnedFd,
    inode: u64,
}

struct Caller {
    dir: PathBuf,
    mount: usize,
    who: usize,
    clock: Clock,
    rng: Rng,
    history: History,
    handles: Vec<Handle>,
    stamps: u64,
    direct: bool,
    faults: bool,
}

/// What a call came to: its result, or nobody knows.
type Outcome<T> = Option<Result<T, Errno>>;

impl Caller {
    fn call(&mut self) {
        match self.rng.below(100) {
            0..14 => self.create(),
            14..20 => self.unlink(),
            20..28 => self.rename(),
            28..31 => self.mkdir(),
            31..34 => self.rmdir(),
            34..42 => self.stat_any(),
            42..47 => drop(self.list()),
            47..54 => self.open_any(),
            54..68 => self.write(),
            68..80 => self.read(),
            80..84 => self.truncate(),
            84..87 => self.chmod(),
            87..91 => self.fstat(),
            91..92 => self.fsync(),
            92..96 => self.append(),
            96..98 => drop(self.read_log(None)),
            98..99 => self.log_size(),
            _ => self.close(),
        }
    }

    /// Runs one call and sorts its errors: what is no answer is an unknown outcome, which only a fault excuses.
    fn time<T>(&mut self, what: &'static str, call: impl FnOnce() -> Result<T, Errno>) -> (Span, Outcome<T>) {
        let invoked = self.clock.now();
        let result = call();
        let returned = self.clock.now();
        self.history.calls += 1;
        let span = |returned| Span { invoked, returned, mount: self.mount, who: self.who, call: what };
        match result {
            Err(errno) if is_no_answer(errno) => {
                self.history.unknown += 1;
                if !self.faults {
                    let complaint = format!("{what} of thread {} failed without a fault: {errno}", self.who);
                    self.history.complaints.push(complaint);
                }
                (span(None), None)
            }
            answer => (span(Some(returned)), Some(answer)),
        }
    }

    fn unexpected(&mut self, what: &str, errno: Errno) {
        self.history.complaints.push(format!("{what} of thread {}: {errno} is no possible answer", self.who));
    }

    fn name(&mut self) -> usize {
        self.rng.below(NAMES as u64) as usize
    }

    fn two_names(&mut self) -> (usize, usize) {
        let one = self.name();
        (one, (one + 1 + self.rng.below(NAMES as u64 - 1) as usize) % NAMES)
    }

    fn path(&self, name: usize) -> PathBuf {
        self.dir.join(format!("n{name}"))
    }

    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        STAMP | (self.who as u64) << 32 | self.stamps
    }

    fn see(&mut self, span: Span, name: usize, sight: Sight) {
        self.history.name(span, NameOp::See { name, sight });
    }

    fn keep(&mut self, file: OwnedFd, inode: u64) {
        if self.handles.len() == HANDLES {
            let victim = self.rng.below(HANDLES as u64) as usize;
            self.handles.swap_remove(victim);
        }
        self.handles.push(Handle { file, inode });
    }

    // ---- names ----

    fn create(&mut self) {
        let name = self.name();
        let (exclusive, cut) = (self.rng.chance(50), self.rng.chance(30));
        let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        flags.set(OFlags::EXCL, exclusive);
        flags.set(OFlags::TRUNC, cut && !exclusive);
        let path = self.path(name);
        let (span, outcome) = self.time("create", || {
            let file = fs::open(&path, flags, Mode::from_raw_mode(NEW_MODE))?;
            let inode = fs::fstat(&file)?.st_ino;
            Ok((file, inode))
        });
        match outcome {
            Some(Ok((file, inode))) => {
                self.history.name(span, NameOp::Create { name, inode: Some(inode), exclusive });
                if flags.contains(OFlags::TRUNC) {
                    self.history.truncate(span, inode, 0);
                }
                self.keep(file, inode);
            }
            Some(Err(Errno::EXIST)) if exclusive => self.see(span, name, Sight::Present),
            Some(Err(Errno::ISDIR)) => self.see(span, name, Sight::Directory),
            Some(Err(errno)) => self.unexpected("create", errno),
            None => {
                self.history.name(span, NameOp::Create { name, inode: None, exclusive });
                if flags.contains(OFlags::TRUNC) {
                    self.history.cuts.push(span);
                }
            }
        }
    }

    fn unlink(&mut self) {
        let name = self.name();
        let path = self.path(name);
        let (span, outcome) = self.time("unlink", || fs::unlink(&path));
        match outcome {
            Some(Ok(())) | None => self.history.name(span, NameOp::Unlink { name }),
            Some(Err(Errno::NOENT)) => self.see(span, name, Sight::Absent),
            Some(Err(Errno::ISDIR)) => self.see(span, name, Sight::Directory),
            Some(Err(errno)) => self.unexpected("unlink", errno),
        }
    }

    fn rename(&mut self) {
        let (from, to) = self.two_names();
        let flags = *self.rng.pick(&[
            RenameFlags::empty(),
            RenameFlags::empty(),
            RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE,
        ]);
        let (source, target) = (self.path(from), self.path(to));
        let (span, outcome) = self.time("rename", || fs::renameat_with(CWD, &source, CWD, &target, flags));
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        match outcome {
            Some(Ok(())) | None if exchange => self.history.name(span, NameOp::Exchange { one: from, other: to }),
            Some(Ok(())) | None => {
                self.history.name(span, NameOp::Rename { from, to, replace: !flags.contains(RenameFlags::NOREPLACE) });
            }
            Some(Err(Errno::NOENT)) if exchange => self.history.name(span, NameOp::OneAbsent { one: from, other: to }),
            Some(Err(Errno::NOENT)) => self.see(span, from, Sight::Absent),
            Some(Err(Errno::EXIST)) if flags.contains(RenameFlags::NOREPLACE) => self.see(span, to, Sight::Present),
            Some(Err(Errno::ISDIR)) if flags.is_empty() => {
                self.see(span, from, Sight::AnyFile);
                self.see(span, to, Sight::Directory);
            }
            Some(Err(Errno::NOTDIR)) if flags.is_empty() => {
                self.see(span, from, Sight::Directory);
                self.see(span, to, Sight::AnyFile);
            }
            Some(Err(errno)) => self.unexpected("rename", errno),
        }
    }

    fn mkdir(&mut self) {
        let name = self.name();
        let path = self.path(name);
        let (span, outcome) = self.time("mkdir", || fs::mkdir(&path, Mode::from_raw_mode(0o755)));
        match outcome {
            Some(Ok(())) | None => self.history.name(span, NameOp::Mkdir { name }),
            Some(Err(Errno::EXIST)) => self.see(span, name, Sight::Present),
            Some(Err(errno)) => self.unexpected("mkdir", errno),
        }
    }

    fn rmdir(&mut self) {
        let name = self.name();
        let path = self.path(name);
        let (span, outcome) = self.time("rmdir", || fs::rmdir(&path));
        match outcome {
            Some(Ok(())) | None => self.history.name(span, NameOp::Rmdir { name }),
            Some(Err(Errno::NOENT)) => self.see(span, name, Sight::Absent),
            Some(Err(Errno::NOTDIR)) => self.see(span, name, Sight::AnyFile),
            Some(Err(errno)) => self.unexpected("rmdir", errno),
        }
    }

    fn stat_any(&mut self) {
        let name = self.name();
        self.stat(name);
    }

    fn stat(&mut self, name: usize) -> bool {
        let path = self.path(name);
        let (span, outcome) = self.time("stat", || fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW));
        match outcome {
            Some(Ok(stat)) if fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory => {
                self.see(span, name, Sight::Directory);
            }
            Some(Ok(stat)) => {
                self.see(span, name, Sight::File(stat.st_ino));
                self.attributes(span, &stat);
            }
            Some(Err(Errno::NOENT)) => self.see(span, name, Sight::Absent),
            Some(Err(errno)) => self.unexpected("stat", errno),
            None => return false,
        }
        true
    }

    fn attributes(&mut self, span: Span, stat: &fs::Stat) {
        self.history.saw_size(span, stat.st_ino, stat.st_size as u64);
        self.history.mode(span, stat.st_ino, ModeOp::See(stat.st_mode & 0o7777));
    }

    /// Each name that was there during the whole call must be listed, each that was absent must not.
    fn list(&mut self) -> bool {
        let dir = self.dir.clone();
        let (span, outcome) = self.time("list", || list(&dir));
        let entries = match outcome {
            Some(Ok(entries)) => entries,
            Some(Err(errno)) => {
                self.unexpected("list", errno);
                return true;
            }
            None => return false,
        };
        for log in (0..RECORDS.len()).map(log_name) {
            if !entries.iter().any(|(name, ..)| *name == log) {
                self.history.complaints.push(format!("a list of thread {} misses {log}", self.who));
            }
        }
        for name in 0..NAMES {
            let label = format!("n{name}");
            let mut found = entries.iter().filter(|(entry, ..)| *entry == label).peekable();
            if found.peek().is_none() {
                self.see(span, name, Sight::Absent);
            }
            for (_, inode, directory) in found {
                self.see(span, name, if *directory { Sight::Directory } else { Sight::File(*inode) });
            }
        }
        true
    }

    fn open_any(&mut self) {
        let name = self.name();
        self.open(name);
    }

    /// False: nobody knows.
    fn open(&mut self, name: usize) -> bool {
        let path = self.path(name);
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
        flags.set(OFlags::DIRECT, self.direct && self.rng.chance(15));
        let (span, outcome) = self.time("open", || {
            let file = fs::open(&path, flags, Mode::empty())?;
            let inode = fs::fstat(&file)?.st_ino;
            Ok((file, inode))
        });
        match outcome {
            Some(Ok((file, inode))) => {
                self.see(span, name, Sight::File(inode));
                self.keep(file, inode);
            }
            Some(Err(Errno::NOENT)) => self.see(span, name, Sight::Absent),
            Some(Err(Errno::ISDIR)) => self.see(span, name, Sight::Directory),
            Some(Err(errno)) => self.unexpected("open", errno),
            None => return false,
        }
        true
    }

    // ---- open files ----

    /// Takes one of the open files for a call; it is given back unless its outcome is unknown.
    fn with_handle<T>(
        &mut self,
        what: &'static str,
        call: impl FnOnce(&OwnedFd) -> Result<T, Errno>,
    ) -> Option<(Span, u64, Option<T>)> {
        if self.handles.is_empty() {
            self.open_any();
            return None;
        }
        let position = self.rng.below(self.handles.len() as u64) as usize;
        let handle = self.handles.swap_remove(position);
        let (span, outcome) = self.time(what, || call(&handle.file));
        let inode = handle.inode;
        match outcome {
            Some(Ok(value)) => {
                self.handles.push(handle);
                Some((span, inode, Some(value)))
            }
            Some(Err(errno)) => {
                self.unexpected(what, errno);
                None
            }
            None => Some((span, inode, None)),
        }
    }

    fn write(&mut self) {
        let (from, to) = *self.rng.pick(&SPANS);
        let stamp = self.stamp();
        let content = stamp.to_le_bytes().repeat((to - from) as usize / 8);
        let Some((span, inode, written)) = self.with_handle("write", |file| rustix::io::pwrite(file, &content, from))
        else {
            return;
        };
        if written.is_some_and(|written| written < content.len()) && !self.faults {
            self.history.complaints.push(format!("a write of {} bytes took {written:?}", content.len()));
        }
        let done = written.unwrap_or(content.len());
        self.history.write(span, inode, from, from + done as u64 / 8 * 8, stamp);
    }

    fn read(&mut self) {
        let (from, to) = if self.rng.chance(40) { (0, 300_000) } else { *self.rng.pick(&SPANS) };
        let mut buffer = vec![0; (to - from) as usize];
        if let Some((span, inode, Some(count))) =
            self.with_handle("read", |file| rustix::io::pread(file, buffer.as_mut_slice(), from))
        {
            self.history.read(span, inode, from, to, &buffer[..count]);
        }
    }

    fn truncate(&mut self) {
        let size = *self.rng.pick(&SIZES);
        if let Some((span, inode, _)) = self.with_handle("truncate", |file| fs::ftruncate(file, size)) {
            self.history.truncate(span, inode, size);
        }
    }

    fn chmod(&mut self) {
        let mode = 0o400 | self.rng.below(0o400) as u32;
        if let Some((span, inode, _)) = self.with_handle("chmod", |file| fs::fchmod(file, Mode::from_raw_mode(mode))) {
            self.history.mode(span, inode, ModeOp::Set(mode));
        }
    }

    fn fstat(&mut self) {
        if let Some((span, _, Some(stat))) = self.with_handle("fstat", |file| fs::fstat(file)) {
            self.attributes(span, &stat);
        }
    }

    fn fsync(&mut self) {
        let _ = self.with_handle("fsync", |file| fs::fsync(file));
    }

    fn close(&mut self) {
        self.handles.pop();
    }

    // ---- logs ----

    fn log_path(&mut self) -> (usize, PathBuf) {
        let log = self.rng.below(RECORDS.len() as u64) as usize;
        (log, self.dir.join(log_name(log)))
    }

    fn append(&mut self) {
        let (log, path) = self.log_path();
        let stamp = self.stamp();
        let record = stamp.to_le_bytes().repeat(RECORDS[log] / 8);
        let mut opened = false;
        let (span, outcome) = self.time("append", || {
            let file = fs::open(&path, OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC, Mode::empty())?;
            opened = true;
            rustix::io::write(&file, &record)
        });
        match outcome {
            Some(Ok(count)) if count == record.len() => self.history.log(span, log, LogCall::Append(stamp)),
            Some(Ok(count)) => {
                self.history.complaints.push(format!("an append of {} bytes took {count}", record.len()))
            }
            Some(Err(errno)) => self.unexpected("append", errno),
            None if opened => self.history.log(span, log, LogCall::Append(stamp)),
            None => {}
        }
    }

    fn read_log(&mut self, which: Option<usize>) -> bool {
        let (any, _) = self.log_path();
        let log = which.unwrap_or(any);
        let path = self.dir.join(log_name(log));
        let (span, outcome) = self.time("read of a log", || read_all(&path));
        let bytes = match outcome {
            Some(Ok(bytes)) => bytes,
            Some(Err(errno)) => {
                self.unexpected("read of a log", errno);
                return true;
            }
            None => return false,
        };
        let mut records = Vec::new();
        for record in bytes.chunks(RECORDS[log]) {
            let stamp = word(record, 0).unwrap_or(0);
            // On Linux a record may be seen growing while it is appended: then it does not count yet.
            let whole = stamp.to_le_bytes().repeat(RECORDS[log] / 8);
            if record.len() < whole.len() && whole.starts_with(record) {
                break;
            }
            if stamp >> 48 != STAMP >> 48 || record != whole {
                let (count, length) = (records.len(), bytes.len());
                self.history.complaints.push(format!(
                    "thread {} read log {log} with a torn record {count} (starts with {stamp:#x}; {length} bytes in all)",
                    self.who
                ));
                return true;
            }
            records.push(stamp);
        }
        self.history.log(span, log, LogCall::Read(records));
        true
    }

    fn log_size(&mut self) {
        let (log, path) = self.log_path();
        let (span, outcome) = self.time("stat of a log", || fs::stat(&path));
        match outcome {
            Some(Ok(stat)) => self.history.log(span, log, LogCall::Count(stat.st_size as usize / RECORDS[log])),
            Some(Err(errno)) => self.unexpected("stat of a log", errno),
            None => {}
        }
    }

    // ---- the end of a round ----

    /// Looks until each look had an answer; what is not answered in time is a complaint.
    fn look_at_everything(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        let faults = std::mem::replace(&mut self.faults, patience > Duration::ZERO);
        let mut looks: Vec<Look> = vec![Look::List];
        looks.extend((0..RECORDS.len()).map(Look::Log));
        looks.extend((0..NAMES).flat_map(|name| [Look::Stat(name), Look::Content(name)]));
        while let Some(look) = looks.pop() {
            if self.look(look) {
                continue;
            }
            if Instant::now() > end {
                self.history.complaints.push(format!("thread {}: {look:?} had no answer for {patience:?}", self.who));
                break;
            }
            looks.push(look);
        }
        self.faults = faults;
    }

    fn look(&mut self, look: Look) -> bool {
        match look {
            Look::List => self.list(),
            Look::Log(log) => self.read_log(Some(log)),
            Look::Stat(name) => self.stat(name),
            Look::Content(name) => {
                self.handles.clear();
                if !self.open(name) {
                    return false;
                }
                let mut buffer = vec![0; 300_000];
                if self.handles.is_empty() {
                    return true;
                }
                match self.with_handle("read", |file| rustix::io::pread(file, buffer.as_mut_slice(), 0)) {
                    Some((span, inode, Some(count))) => {
                        self.history.read(span, inode, 0, 300_000, &buffer[..count]);
                        true
                    }
                    Some((_, _, None)) => false,
                    None => true,
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Look {
    List,
    Log(usize),
    Stat(usize),
    Content(usize),
}

/// Errors that do not say whether the call was done.
fn is_no_answer(errno: Errno) -> bool {
    [Errno::IO, Errno::TIMEDOUT, Errno::INTR, Errno::STALE, Errno::NOTCONN, Errno::CONNABORTED, Errno::AGAIN]
        .contains(&errno)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Names, inodes, and whether they are directories.
fn list(dir: &Path) -> Result<Vec<(String, u64, bool)>, Errno> {
    use std::os::unix::fs::DirEntryExt;
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        let directory = entry.file_type().map_err(errno)?.is_dir();
        entries.push((entry.file_name().to_string_lossy().into_owned(), entry.ino(), directory));
    }
    Ok(entries)
}

/// One `read` of everything.
fn read_all(path: &Path) -> Result<Vec<u8>, Errno> {
    let file = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let count = rustix::io::read(&file, &mut bytes[length..])?;
        if count == 0 {
            bytes.truncate(length);
            return Ok(bytes);
        }
        length += count;
        if length == bytes.len() {
            bytes.resize(2 * length, 0);
        }
    }
}
