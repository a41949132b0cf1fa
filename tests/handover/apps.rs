//! Applications that know what they have done and check that it is so; any error is one too many.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::harness::Rng;

/// Where an application works.
pub struct Place<'a> {
    /// The mount whose process dies.
    pub here: &'a Path,
    /// Another mount of the same cluster.
    pub there: &'a Path,
    pub over: &'a AtomicBool,
    /// How often the application has begun anew.
    pub begun: &'a AtomicU64,
}

impl Place<'_> {
    fn goes_on(&self) -> bool {
        self.begun.fetch_add(1, Ordering::SeqCst);
        !self.over.load(Ordering::SeqCst)
    }
}

type App = fn(&Place<'_>, Rng) -> u64;

/// By name; each returns how many rounds it made.
pub const ALL: &[(&str, App)] = &[
    ("reader", read_and_compare),
    ("writer", write_sync_and_compare),
    ("appender", append),
    ("names", change_names),
    ("holder", hold_locks),
    ("counter", count_under_a_lock),
    ("lister", list_slowly),
    ("unlinked", use_an_unlinked_file),
    ("fresh", write_new_files),
];

const BIG: usize = 6 << 20;
const LISTED: usize = 400;

fn listed(number: usize) -> String {
    format!("{number:05}-{}", "long".repeat(45))
}

/// What the applications find.
pub fn prepare(root: &Path, rng: &mut Rng) {
    std::fs::write(root.join("small"), b"small").expect("write");
    std::fs::write(root.join("big"), rng.bytes(BIG)).expect("write");
    for dir in ["names", "list"] {
        std::fs::create_dir(root.join(dir)).expect("make a directory");
    }
    for number in 0..LISTED {
        std::fs::create_dir(root.join("list").join(listed(number))).expect("make a directory");
    }
    for name in ["locked", "counter", "counter-there", "appended"] {
        std::fs::write(root.join(name), b"").expect("write");
    }
}

/// What must be there when all have ended, seen through another mount.
pub fn verify(root: &Path) {
    let appended = std::fs::read(root.join("appended")).expect("read");
    let mut expected = Vec::with_capacity(appended.len());
    let mut number = 0;
    while expected.len() < appended.len() {
        expected.extend(record(number));
        number += 1;
    }
    assert!(appended == expected, "{number} records: some are there twice, or are missing");
    assert_eq!(std::fs::read_dir(root.join("names")).expect("list").count(), 0, "names are left over");
}

fn read_and_compare(place: &Place<'_>, mut rng: Rng) -> u64 {
    let path = place.here.join("big");
    let content = std::fs::read(&path).expect("read");
    assert_eq!(content.len(), BIG);
    let mut file = File::open(&path).expect("open");
    let mut rounds = 0;
    while place.goes_on() {
        let offset = rng.below(BIG as u64) as usize;
        let length = (1 + rng.below(300_000) as usize).min(BIG - offset);
        let mut seen = vec![0; length];
        file.read_exact_at(&mut seen, offset as u64).expect("read");
        assert!(seen == content[offset..offset + length], "other bytes at {offset}");
        if rng.chance(30) {
            file = File::open(&path).expect("open again");
            assert_eq!(file.metadata().expect("stat").len(), BIG as u64);
        }
        rounds += 1;
    }
    rounds
}

fn write_sync_and_compare(place: &Place<'_>, mut rng: Rng) -> u64 {
    let path = place.here.join("written");
    let file = File::options().create_new(true).read(true).write(true).open(&path).expect("create");
    let mut content: Vec<u8> = Vec::new();
    let mut rounds = 0;
    while place.goes_on() {
        let offset = rng.below(1 << 20) as usize;
        let length = 1 + rng.below(100_000) as usize;
        let data = rng.bytes(length);
        file.write_all_at(&data, offset as u64).expect("write");
        content.resize(content.len().max(offset + length), 0);
        content[offset..offset + length].copy_from_slice(&data);
        if rng.chance(20) {
            file.sync_all().expect("fsync");
        }
        if rng.chance(10) {
            let size = rng.below(content.len() as u64);
            file.set_len(size).expect("truncate");
            content.truncate(size as usize);
        }
        let mut seen = vec![0; content.len()];
        file.read_exact_at(&mut seen, 0).expect("read");
        assert!(seen == content, "the file is not what was written");
        rounds += 1;
    }
    drop(file);
    assert!(
        std::fs::read(place.there.join("written")).expect("read") == content,
        "the other mount sees something else"
    );
    rounds
}

fn record(number: u64) -> Vec<u8> {
    let length = 16 + (number * 37 % 3000) as usize;
    let mut record = format!("{number:014}: ").into_bytes();
    record.resize(length, b'a' + (number % 26) as u8);
    record
}

fn append(place: &Place<'_>, mut rng: Rng) -> u64 {
    let path = place.here.join("appended");
    let open = || File::options().append(true).open(&path).expect("open");
    let (mut file, mut number) = (open(), 0);
    while place.goes_on() {
        let record = record(number);
        let written = file.write(&record).expect("append");
        assert_eq!(written, record.len(), "a short append");
        number += 1;
        if rng.chance(10) {
            file = open();
        }
    }
    number
}

fn change_names(place: &Place<'_>, mut rng: Rng) -> u64 {
    let dir = place.here.join("names");
    let (first, second, linked) = (dir.join("first"), dir.join("second"), dir.join("linked"));
    let mut rounds = 0;
    while place.goes_on() {
        // Each of these fails if it is done a second time.
        let file = File::create_new(&first).expect("an exclusive create");
        std::fs::rename(&first, &second).expect("rename");
        assert!(!first.exists() && second.exists(), "renamed");
        std::fs::hard_link(&second, &linked).expect("link");
        std::fs::remove_file(&second).expect("unlink");
        drop(file);
        std::fs::create_dir(&first).expect("mkdir");
        std::os::unix::fs::symlink("target", &second).expect("symlink");
        std::fs::remove_dir(&first).expect("rmdir");
        std::fs::remove_file(&second).expect("unlink a symlink");
        if rng.chance(50) {
            let mut file = File::options().write(true).truncate(true).open(&linked).expect("open to truncate");
            file.write_all(b"content").expect("write");
        }
        std::fs::remove_file(&linked).expect("unlink the last name");
        rounds += 1;
    }
    rounds
}

fn record_lock(file: &File) -> std::io::Result<()> {
    Ok(rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// Holds both kinds of locks here; nobody gets them there.
fn hold_locks(place: &Place<'_>, _: Rng) -> u64 {
    let open = |root: &Path| File::options().read(true).write(true).open(root.join("locked")).expect("open");
    let (here, there) = (open(place.here), open(place.there));
    flock(&here, FlockOperation::NonBlockingLockExclusive).expect("flock");
    record_lock(&here).expect("a record lock");
    let mut rounds = 0;
    while place.goes_on() {
        let refused = flock(&there, FlockOperation::NonBlockingLockExclusive).expect_err("it is held here");
        assert_eq!(refused, rustix::io::Errno::WOULDBLOCK);
        record_lock(&there).expect_err("it is held here");
        rounds += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(here);
    flock(&there, FlockOperation::LockExclusive).expect("it is free now");
    record_lock(&there).expect("it is free now");
    rounds
}

/// Two that take turns by a lock that both wait for: no turn is lost, and none is taken twice.
fn count_under_a_lock(place: &Place<'_>, _: Rng) -> u64 {
    let count = |root: &Path| {
        let file = File::options().read(true).write(true).open(root.join("counter")).expect("open");
        let mut turns: u64 = 0;
        while place.goes_on() {
            flock(&file, FlockOperation::LockExclusive).expect("wait for the lock");
            let mut bytes = [0; 8];
            let known = file.read_at(&mut bytes, 0).expect("read");
            let value = if known == 8 { u64::from_le_bytes(bytes) } else { 0 };
            file.write_all_at(&(value + 1).to_le_bytes(), 0).expect("write");
            flock(&file, FlockOperation::Unlock).expect("unlock");
            turns += 1;
        }
        turns
    };
    let (here, there) = std::thread::scope(|scope| {
        let there = scope.spawn(|| count(place.there));
        (count(place.here), there.join().expect("the one over there"))
    });
    let bytes: [u8; 8] = std::fs::read(place.here.join("counter")).expect("read").try_into().expect("8 bytes");
    assert_eq!(u64::from_le_bytes(bytes), here + there, "{here} turns here, {there} there");
    here
}

/// Directories that stay open while they are read.
fn list_slowly(place: &Place<'_>, mut rng: Rng) -> u64 {
    let mut rounds = 0;
    let mut expected: Vec<String> = (0..LISTED).map(listed).collect();
    expected.sort();
    while place.goes_on() {
        let mut seen = Vec::with_capacity(LISTED);
        for entry in std::fs::read_dir(place.here.join("list")).expect("open a directory") {
            seen.push(entry.expect("read a directory").file_name().into_string().expect("text"));
            if rng.chance(2) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        seen.sort();
        assert!(seen == expected, "{} names instead of {LISTED}", seen.len());
        rounds += 1;
    }
    rounds
}

fn use_an_unlinked_file(place: &Place<'_>, mut rng: Rng) -> u64 {
    let path = place.here.join("unlinked");
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).expect("create");
    let content = rng.bytes(200_000);
    file.write_all(&content).expect("write");
    std::fs::remove_file(&path).expect("unlink");
    let mut rounds = 0;
    while place.goes_on() {
        let mut seen = vec![0; content.len()];
        file.read_exact_at(&mut seen, 0).expect("read");
        assert!(seen == content, "the unlinked file has changed");
        assert_eq!(file.metadata().expect("stat").len(), content.len() as u64);
        rounds += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("read on");
    assert!(rest.is_empty() && !path.exists());
    rounds
}

/// New files that become large: where the kernel writes local files by itself, these are the ones.
fn write_new_files(place: &Place<'_>, mut rng: Rng) -> u64 {
    let dir = place.here.join("fresh");
    std::fs::create_dir(&dir).expect("make a directory");
    let mut rounds = 0;
    while place.goes_on() {
        let path = dir.join("file");
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).expect("create");
        let content = rng.bytes(2 << 20);
        for (number, part) in content.chunks(256 << 10).enumerate() {
            file.write_all(part).expect("write");
            let expected = ((number + 1) * (256 << 10)) as u64;
            assert_eq!(file.metadata().expect("stat of an open file").len(), expected);
            assert_eq!(std::fs::metadata(&path).expect("stat by name").len(), expected);
        }
        let mut seen = vec![0; content.len()];
        file.read_exact_at(&mut seen, 0).expect("read");
        assert!(seen == content, "the new file is not what was written");
        drop(file);
        assert!(std::fs::read(&path).expect("read again") == content, "the closed file is not what was written");
        std::fs::remove_file(&path).expect("unlink");
        rounds += 1;
    }
    rounds
}
