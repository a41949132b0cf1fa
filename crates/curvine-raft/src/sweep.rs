//! Large files go little by little.
//!
//! A file system that gives the blocks of a large file back in one piece, and tells the disk so (`discard`), lets every fdatasync beside it
//! wait: here for up to a second. So such a file loses its name at once and its blocks in steps, in a thread of its own. What a crash
//! leaves of it has the name of a leftover, which the next start removes.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};

/// Blocks that go at once.
const STEP: u64 = 4 << 20;
const PAUSE: Duration = Duration::from_millis(10);
/// What it is called meanwhile; recovery takes it for a leftover.
const EXTENSION: &str = "old.tmp";

/// One at a time, whoever asks.
static SWEEPING: Mutex<()> = Mutex::new(());

/// Takes a file's name away, and the file with it if it is small or still read by somebody; else says what is to be swept. The caller
/// makes the directory durable.
pub(crate) fn set_aside(disk: &dyn Disk, path: &Path, file: &Arc<dyn DiskFile>) -> io::Result<Option<PathBuf>> {
    let is_read = Arc::strong_count(file) > 1;
    if is_read || file.len()? <= STEP {
        return disk.remove(path).map(|()| None);
    }
    let aside = path.with_extension(EXTENSION);
    disk.rename(path, &aside)?;
    Ok(Some(aside))
}

/// Gives the blocks of these files back, in the background. What fails is left to the next start.
pub(crate) fn sweep(files: Vec<PathBuf>) {
    if files.is_empty() {
        return;
    }
    let work = move || {
        let _one = SWEEPING.lock();
        for path in &files {
            if let Err(error) = shrink(path).and_then(|()| std::fs::remove_file(path)) {
                tracing::warn!(file = %path.display(), %error, "an old file stays until the next start");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("log-sweeper".into()).spawn(work) {
        tracing::warn!(%error, "old files of the log stay until the next start: no thread to remove them");
    }
}

fn shrink(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut left = file.metadata()?.len();
    while left > STEP {
        left -= STEP;
        file.set_len(left)?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    fn made(dir: &Path, name: &str, bytes: u64) -> (PathBuf, Arc<dyn DiskFile>) {
        let path = dir.join(name);
        let file = RealDisk.create(&path).unwrap();
        file.set_len(bytes).unwrap();
        (path, file)
    }

    #[test]
    fn a_large_file_has_no_name_at_once_and_is_gone_soon() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = made(dir.path(), "log-1.seg", 3 * STEP + 1);
        let aside = set_aside(&RealDisk, &path, &file).unwrap().unwrap();
        assert!(!path.exists() && aside.exists());
        assert!(aside.file_name().unwrap().to_string_lossy().ends_with(".tmp"), "a start would not remove it");
        let one = SWEEPING.lock();
        sweep(vec![aside.clone()]);
        assert!(aside.exists(), "two at once");
        drop(one);
        let begun = std::time::Instant::now();
        while aside.exists() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::sleep(PAUSE);
        }
    }

    #[test]
    fn what_is_small_or_read_is_removed_at_once_and_readers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (small, file) = made(dir.path(), "log-1.seg", STEP);
        assert_eq!(set_aside(&RealDisk, &small, &file).unwrap(), None);
        let (large, file) = made(dir.path(), "log-2.seg", 3 * STEP);
        let reader = file.clone();
        assert_eq!(set_aside(&RealDisk, &large, &file).unwrap(), None);
        assert!(!small.exists() && !large.exists());
        assert_eq!(reader.len().unwrap(), 3 * STEP);
    }
}
