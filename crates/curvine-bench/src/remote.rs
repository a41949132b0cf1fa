//! Reads from a worker on another host, against iperf3 between the same two hosts in the same round.
//!
//! Always: every read is cold here, so that its bytes cross the network.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use curvine_types::{Error, ErrorKind, Result};

use crate::files::{failed, wrong};
use crate::run::Folder;
use crate::{Figure, Goal, Ground, Measure, Row, Unit, cold, median};

/// Bytes of a sequential and of a random read.
const PIECE: usize = 1 << 20;
const RANDOM: usize = 256 << 10;

/// What is measured.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    pub ground: Ground,
    /// Where `iperf3 -s` listens.
    pub host: String,
    /// Bytes that each stream reads; a multiple of 1 MiB.
    pub size: u64,
    pub streams: usize,
    pub rounds: usize,
    /// Of one run of iperf3, and of the random reads.
    pub limit: Duration,
}

/// One stream and several, each against iperf3 with as many; and random reads against the one stream.
pub fn remote(options: &RemoteOptions, step: &mut dyn FnMut(&str)) -> Result<Vec<Figure>> {
    if !cold::can_drop() {
        return Err(Error::new(
            ErrorKind::NotPermitted,
            "remote reads must be cold, and dropping the kernel's caches needs root",
        ));
    }
    let folder = Folder::make(&options.ground.dir, 0)?;
    step("writing");
    let files: Vec<PathBuf> = (0..options.streams).map(|number| folder.0.join(format!("remote-{number}"))).collect();
    files.iter().try_for_each(|path| write(path, options.size))?;
    let mut rates: [Rounds; 3] = Default::default();
    for _ in 0..options.rounds {
        for (rounds, streams) in rates.iter_mut().zip([1, options.streams]) {
            step(&format!("iperf3, {streams} streams"));
            rounds.baseline.push(iperf(&options.host, streams, options.limit)?);
            step(&format!("reading, {streams} streams"));
            cold::drop_caches()?;
            rounds.this.push(streamed(&files[..streams], options.size)?.rate());
        }
        step("reading at random");
        cold::drop_caches()?;
        let sequential = rates[0].this.last().copied().unwrap_or_default();
        rates[2].baseline.push(sequential);
        rates[2].this.push(random(&files[0], options)?.rate());
    }
    let many = options.streams;
    let rows = [
        ("remote_read".to_string(), "read 1 MiB pieces from another host, against iperf3".to_string(), 0.9),
        (format!("remote_read/{many}"), format!("the same, {many} streams"), 0.9),
        (
            "remote_rand_256k".to_string(),
            "read 256 KiB at random places, one at a time, against remote_read".to_string(),
            0.5,
        ),
    ];
    let figure = |((id, what, goal), rounds): ((String, String, f64), Rounds)| Figure {
        row: Row { id, what, unit: Unit::Bytes, goal: Goal::Ratio(goal) },
        ground: options.ground.name.clone(),
        baseline: median(&rounds.baseline),
        this: median(&rounds.this).unwrap_or_default(),
        ratio: median(&rounds.ratios()),
        rounds: rounds.this,
    };
    Ok(rows.into_iter().zip(rates).map(figure).collect())
}

#[derive(Default)]
struct Rounds {
    baseline: Vec<f64>,
    this: Vec<f64>,
}

impl Rounds {
    fn ratios(&self) -> Vec<f64> {
        self.this.iter().zip(&self.baseline).map(|(this, base)| this / base.max(1e-9)).collect()
    }
}

fn write(path: &Path, size: u64) -> Result<()> {
    let mut piece = vec![0x5a; PIECE];
    let file = File::create(path).map_err(failed(path))?;
    for offset in (0..size).step_by(PIECE) {
        piece[..8].copy_from_slice(&offset.to_le_bytes());
        file.write_all_at(&piece, offset).map_err(failed(path))?;
    }
    file.sync_all().map_err(failed(path))
}

/// Each file from its beginning to its end by a thread of its own.
fn streamed(files: &[PathBuf], size: u64) -> Result<Measure> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = files.iter().map(|path| scope.spawn(move || read(path, size))).collect();
        readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a thread of the benchmark died")))
        })
    })?;
    Ok(Measure::since(begun, size * files.len() as u64))
}

fn read(path: &Path, size: u64) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let file = File::open(path).map_err(failed(path))?;
    for offset in (0..size).step_by(PIECE) {
        file.read_exact_at(&mut piece, offset).map_err(failed(path))?;
        check(path, &piece, offset)?;
    }
    Ok(())
}

fn check(path: &Path, piece: &[u8], offset: u64) -> Result<()> {
    if piece[..8] == offset.to_le_bytes() { Ok(()) } else { Err(wrong(path, offset)) }
}

/// One read at a time, each place once at most, so that no page is read twice.
fn random(path: &Path, options: &RemoteOptions) -> Result<Measure> {
    let file = File::open(path).map_err(failed(path))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)
        .map_err(|errno| failed(path)(std::io::Error::from(errno)))?;
    let mut places: Vec<u64> = (0..options.size / PIECE as u64).map(|number| number * PIECE as u64).collect();
    let mut piece = vec![0; RANDOM];
    let begun = Instant::now();
    let mut total = 0;
    while !places.is_empty() && begun.elapsed() < options.limit {
        let offset = places.swap_remove(rand::random_range(0..places.len()));
        file.read_exact_at(&mut piece, offset).map_err(failed(path))?;
        check(path, &piece, offset)?;
        total += RANDOM as u64;
    }
    Ok(Measure::since(begun, total))
}

/// Bytes per second that iperf3's client received from the server.
fn iperf(host: &str, streams: usize, limit: Duration) -> Result<f64> {
    let seconds = limit.as_secs().max(1).to_string();
    let failed = |message: &str| Error::new(ErrorKind::Unavailable, message).with("host", host);
    let output = Command::new("iperf3")
        .args(["--client", host, "--reverse", "--json", "--connect-timeout", "5000"])
        .args(["--parallel", &streams.to_string(), "--time", &seconds])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| failed("cannot run iperf3; install it").caused_by(source))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|source| failed("iperf3 says nothing that can be read").caused_by(source))?;
    if let Some(error) = report["error"].as_str() {
        return Err(failed("iperf3 failed; does iperf3 -s run there?").with("says", error));
    }
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.filter(|bits| *bits > 0.0).map(|bits| bits / 8.0).ok_or_else(|| failed("iperf3 names no rate"))
}
