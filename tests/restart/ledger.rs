//! Writers that remember what was acknowledged to them, and the look afterwards.
//!
//! A call that returned without an error is acknowledged; after one that failed, what it would have changed is not looked at,
//! beyond that it is one of the two.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Rng, until};

/// What must be there under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// This content.
    Content {
        seed: u64,
        length: usize,
    },
    Directory,
    Absent,
    /// One of two: a call had no answer.
    Unsure,
}

/// What one writer was told.
#[derive(Default)]
pub struct Ledger {
    entries: BTreeMap<PathBuf, Known>,
    pub acknowledged: usize,
    pub failed: usize,
}

fn content(seed: u64, length: usize) -> Vec<u8> {
    Rng::new(seed).bytes(length)
}

/// Sizes around the limit of inline content and over several requests.
const LENGTHS: [usize; 6] = [0, 100, 16_384, 16_385, 200_000, 1_500_000];

/// Writes below `dir` of the mount `root` until `over`, at most `limit` calls.
pub fn write(root: &Path, dir: &str, rng: &mut Rng, over: &AtomicBool, limit: usize) -> Ledger {
    let mut ledger = Ledger::default();
    for number in 0..limit {
        if over.load(Ordering::SeqCst) {
            break;
        }
        ledger.step(root, dir, number, rng);
    }
    ledger
}

impl Ledger {
    fn step(&mut self, root: &Path, dir: &str, number: usize, rng: &mut Rng) {
        let fresh = Path::new(dir).join(format!("f{number}"));
        match rng.below(100) {
            0..55 => {
                let (seed, length) = (rng.next(), *rng.pick(&LENGTHS));
                let done = put(&root.join(&fresh), &content(seed, length), rng.chance(30));
                self.note(&fresh, done, Known::Content { seed, length });
            }
            55..65 => {
                let path = Path::new(dir).join(format!("d{number}"));
                let done = std::fs::create_dir(root.join(&path));
                self.note(&path, done, Known::Directory);
            }
            65..80 => {
                // Replaces a file as editors do.
                let Some((target, _)) = self.some_file(rng) else { return };
                let (seed, length) = (rng.next(), *rng.pick(&LENGTHS));
                let made = put(&root.join(&fresh), &content(seed, length), false);
                let written = made.is_ok();
                self.note(&fresh, made, Known::Content { seed, length });
                if written {
                    let moved = std::fs::rename(root.join(&fresh), root.join(&target));
                    match moved {
                        Ok(()) => {
                            self.note(&fresh, Ok(()), Known::Absent);
                            self.note(&target, Ok(()), Known::Content { seed, length });
                        }
                        Err(error) => {
                            self.note(&target, Err(error), Known::Unsure);
                            self.entries.insert(fresh, Known::Unsure);
                        }
                    }
                }
            }
            80..90 => {
                let Some((victim, _)) = self.some_file(rng) else { return };
                let done = std::fs::remove_file(root.join(&victim));
                self.note(&victim, done, Known::Absent);
            }
            _ => {
                // Reads back; an error is not held against anybody while things are being killed.
                let Some((path, Known::Content { seed, length })) = self.some_file(rng) else { return };
                if let Ok(read) = std::fs::read(root.join(&path)) {
                    assert!(
                        read == content(seed, length),
                        "{} read back as {} bytes of {length}",
                        path.display(),
                        read.len()
                    );
                }
            }
        }
    }

    fn some_file(&self, rng: &mut Rng) -> Option<(PathBuf, Known)> {
        let files: Vec<_> = self.entries.iter().filter(|(_, known)| matches!(known, Known::Content { .. })).collect();
        if files.is_empty() {
            return None;
        }
        let (path, known) = rng.pick(&files);
        Some(((*path).clone(), (*known).clone()))
    }

    fn note(&mut self, path: &Path, done: std::io::Result<()>, known: Known) {
        match done {
            Ok(()) => {
                self.acknowledged += 1;
                self.entries.insert(path.to_path_buf(), known);
            }
            Err(_) => {
                self.failed += 1;
                self.entries.insert(path.to_path_buf(), Known::Unsure);
            }
        }
    }

    /// Panics unless everything is as it was acknowledged, seen through `root`.
    pub fn verify(&self, root: &Path) {
        let patience = Instant::now() + Duration::from_secs(60);
        for (path, known) in &self.entries {
            let full = root.join(path);
            match known {
                Known::Unsure => {}
                Known::Absent => {
                    let error = answered(patience, || std::fs::symlink_metadata(&full)).err();
                    let kind = error.map(|error| error.kind());
                    assert_eq!(kind, Some(std::io::ErrorKind::NotFound), "{} was removed and is back", path.display());
                }
                Known::Directory => {
                    let found = answered(patience, || std::fs::metadata(&full));
                    assert!(
                        found.as_ref().is_ok_and(|meta| meta.is_dir()),
                        "the directory {} is lost: {found:?}",
                        path.display()
                    );
                }
                Known::Content { seed, length } => match answered(patience, || std::fs::read(&full)) {
                    Ok(read) => {
                        let same = read == content(*seed, *length);
                        assert!(same, "{} has {} other bytes instead of its {length}", path.display(), read.len());
                    }
                    Err(error) => panic!("{} with {length} bytes is lost: {error}", path.display()),
                },
            }
        }
        // Nothing comes twice, and a listing agrees with the names.
        let listed = |path: &PathBuf| root.join(path).parent().map(Path::to_path_buf);
        let Some(dir) = self.entries.keys().find_map(listed) else { return };
        let names = until("a listing", Duration::from_secs(60), || {
            std::fs::read_dir(&dir)
                .ok()?
                .map(|entry| entry.ok().map(|entry| entry.file_name()))
                .collect::<Option<Vec<_>>>()
        });
        for (path, known) in &self.entries {
            let times = names.iter().filter(|name| path.file_name() == Some(name)).count();
            match known {
                Known::Unsure => assert!(times <= 1, "{} is listed {times} times", path.display()),
                Known::Absent => assert_eq!(times, 0, "{} is listed though it was removed", path.display()),
                _ => assert_eq!(times, 1, "{} is listed {times} times", path.display()),
            }
        }
    }
}

/// Asks again while there is no answer.
fn answered<T>(patience: Instant, ask: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        let result = ask();
        let no_answer = result.as_ref().is_err_and(|error| {
            use std::io::ErrorKind::*;
            error.raw_os_error() == Some(5)
                || matches!(error.kind(), TimedOut | Interrupted | NotConnected | StaleNetworkFileHandle)
        });
        if !no_answer || Instant::now() > patience {
            return result;
        }
    }
}

/// Acknowledged is what `close` did not refuse either: an error of it comes with `sync` or not at all, as on any file system
/// whose writes are through to the server.
fn put(path: &Path, content: &[u8], sync: bool) -> std::io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(content)?;
    if sync {
        file.sync_all()?;
    }
    Ok(())
}
