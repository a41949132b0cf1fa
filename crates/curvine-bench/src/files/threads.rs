//! The same work in several threads, each with a directory of its own.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use curvine_types::{Error, ErrorKind, Result};

use super::{Place, failed};
use crate::Measure;

/// What one thread works on.
pub(super) struct Share {
    pub dir: PathBuf,
    /// Files that this thread makes at most.
    pub files: usize,
    /// The work that could go on ends then.
    pub until: Instant,
}

/// Lets `threads` threads begin together; the amount is the sum of what they return.
pub(super) fn run(place: &Place, threads: usize, work: fn(&Share) -> Result<u64>) -> Result<Measure> {
    let dirs: Vec<PathBuf> = (0..threads).map(|thread| place.dir.join(format!("threads-{threads}/{thread}"))).collect();
    for dir in &dirs {
        std::fs::create_dir_all(dir).map_err(failed(dir))?;
    }
    let files = (place.files / threads).max(1);
    let start = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let running: Vec<_> = dirs
            .into_iter()
            .map(|dir| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    work(&Share { dir, files, until: Instant::now() + place.limit })
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        let mut amount = 0;
        for thread in running {
            let done = thread.join().map_err(|_| Error::new(ErrorKind::Internal, "a thread of the benchmark died"))?;
            amount += done?;
        }
        Ok(Measure::since(begun, amount))
    })
}
