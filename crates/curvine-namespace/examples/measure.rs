//! Measures the state machine: `cargo run --release -p curvine-namespace --example measure [FILES]`.
//!
//! Memory is the growth of the process (resident set) by files with 16-byte names, spread over directories of 10,000 and
//! then in one directory.

use std::time::{Duration, Instant};

use curvine_namespace::Namespace;
use curvine_proto::command::Body;
use curvine_proto::{
    Command, CommandBatch, Create, FileKind, InitCluster, OpenSession, Outcome, Rename, SetAttr, Time, Unlink,
};

const BATCH: u64 = 1000;

fn main() {
    let files = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    println!("{files} files, batches of {BATCH}");
    run(files, 10_000);
    run(files, files);
}

struct Bench {
    ns: Namespace,
    session: u64,
    sequence: u64,
}

impl Bench {
    fn apply(&mut self, bodies: impl Iterator<Item = Body>) -> Vec<Outcome> {
        let commands = bodies.map(|body| {
            self.sequence += 1;
            // As a busy client: some results are not acknowledged yet.
            let lowest_unacked = self.sequence.saturating_sub(64);
            Command { session: self.session, sequence: self.sequence, lowest_unacked, body: Some(body) }
        });
        let commands = commands.collect();
        let now = Some(Time::new(1_700_000_000 + self.sequence as i64, 0));
        let batch = CommandBatch { now, commands };
        let outcomes = self.ns.apply(&batch);
        assert!(outcomes.iter().all(|outcome| outcome.error.is_none()));
        outcomes
    }

    /// Applies `body(number)` for all numbers and says how fast.
    fn rate(&mut self, what: &str, files: u64, body: impl Fn(u64) -> Body) {
        let start = Instant::now();
        for first in (0..files).step_by(BATCH as usize) {
            self.apply((first..files.min(first + BATCH)).map(&body));
        }
        report(what, files, start.elapsed());
    }
}

fn report(what: &str, count: u64, time: Duration) {
    let nanos = time.as_nanos() as f64 / count as f64;
    println!("  {what:28} {:9.0} /s  {:7.2} us each", 1e9 / nanos, nanos / 1e3);
}

fn run(files: u64, per_directory: u64) {
    println!("{per_directory} files in a directory");
    let mut bench = Bench { ns: Namespace::new(), session: 0, sequence: 0 };
    let cluster = (0..16).collect::<Vec<u8>>().into();
    bench.apply([Body::InitCluster(InitCluster { cluster, ..Default::default() })].into_iter());
    bench.session = bench.apply([Body::OpenSession(OpenSession::default())].into_iter())[0].id;
    let directories: Vec<u64> = (0..files.div_ceil(per_directory))
        .map(|number| {
            let outcome = bench.apply([create(1, format!("dir{number}"), FileKind::Directory)].into_iter());
            outcome[0].attr.as_ref().map_or(0, |attr| attr.inode)
        })
        .collect();
    let directory = |number: u64| directories[(number / per_directory) as usize];

    let before = resident();
    bench.rate("create", files, |number| create(directory(number), name(number), FileKind::File));
    println!("  {:28} {:9} bytes a file", "memory", (resident() - before) / files);

    let start = Instant::now();
    for number in 0..files {
        let number = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % files;
        assert!(bench.ns.lookup(directory(number), name(number).as_bytes()).is_ok_and(|attr| attr.is_some()));
    }
    report("lookup, random", files, start.elapsed());

    let start = Instant::now();
    for dir in &directories {
        let mut cookie = 0;
        while let Ok((entries, false)) = bench.ns.readdir(*dir, cookie, 1000) {
            cookie = entries.last().map_or(u64::MAX, |entry| entry.cookie);
        }
    }
    report("readdir with attributes", files, start.elapsed());
    snapshot(&mut bench, files);
    bench.rate("chmod", files, |number| {
        Body::SetAttr(SetAttr { inode: directories.len() as u64 + 2 + number, mode: Some(0o600), ..Default::default() })
    });
    bench.rate("rename", files, |number| {
        Body::Rename(Rename {
            parent: directory(number),
            name: name(number).into(),
            new_parent: directory(number),
            new_name: format!("r{}", name(number)).into(),
            ..Default::default()
        })
    });
    bench.rate("unlink", files, |number| {
        Body::Unlink(Unlink {
            parent: directory(number),
            name: format!("r{}", name(number)).into(),
            ..Default::default()
        })
    });
}

fn snapshot(bench: &mut Bench, files: u64) {
    let start = Instant::now();
    let snapshot = bench.ns.snapshot();
    println!("  {:28} {:9.1} us", "snapshot taken", start.elapsed().as_nanos() as f64 / 1e3);
    let mut slowest = Duration::ZERO;
    let before = resident();
    for inode in (3..files).step_by(64) {
        let start = Instant::now();
        bench.apply([Body::SetAttr(SetAttr { inode, mode: Some(0o640), ..Default::default() })].into_iter());
        slowest = slowest.max(start.elapsed());
    }
    println!("  {:28} {:9.1} us", "slowest change beside it", slowest.as_nanos() as f64 / 1e3);
    println!("  {:28} {:9} MiB", "copies of all pages", (resident() - before) >> 20);
    let start = Instant::now();
    let mut bytes = Vec::new();
    snapshot.write_to(&mut bytes).expect("memory takes all");
    report("snapshot written", files, start.elapsed());
    println!("  {:28} {:9} bytes a file", "size of the snapshot", bytes.len() as u64 / files);
    drop(snapshot);
    let start = Instant::now();
    let copy = Namespace::restore(&mut &bytes[..]).expect("it was just written");
    report("snapshot restored", files, start.elapsed());
    assert_eq!(copy.counts().inodes, bench.ns.counts().inodes);
}

/// 16 bytes.
fn name(number: u64) -> String {
    format!("{number:012}.jpg")
}

fn create(parent: u64, name: String, kind: FileKind) -> Body {
    Body::Create(Create {
        parent,
        name: name.into(),
        kind: kind as i32,
        mode: 0o644,
        exclusive: true,
        ..Default::default()
    })
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}
