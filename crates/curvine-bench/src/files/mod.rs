//! Works on the files of a directory, whatever file system it is on.
//!
//! Always: every page of a big file begins with its own offset, and readers look at it.

mod big;
mod mapped;
mod names;
mod threads;

use std::path::{Path, PathBuf};
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};

use crate::{Goal, Measure, Row, Unit};

/// Bytes of a big file that are read or written at once.
const PIECE: usize = 1 << 20;
/// Bytes of a random access.
const PAGE: usize = 4096;

/// Where a work is done, and how much of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory of the benchmark's own.
    pub dir: PathBuf,
    /// Bytes of the big file.
    pub size: u64,
    /// Small files that are made at most, over all threads.
    pub files: usize,
    /// After it a work that could go on ends.
    pub limit: Duration,
}

impl Place {
    fn big(&self) -> PathBuf {
        self.dir.join("big")
    }
}

/// Something that is measured on a directory. Works are run in their order: later ones find the files of earlier ones.
pub struct Work {
    pub row: Row,
    /// What the kernel has in its caches before.
    pub caches: Caches,
    /// Works of one group use the same files.
    pub group: usize,
    /// Makes or removes what the others of its group use: it is run even if nobody asked for its figure.
    pub needed: bool,
    pub run: Run,
}

/// See [`Work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caches {
    /// Whatever the works before have left.
    AsTheyAre,
    /// The big file: it is read once before.
    Warm,
    /// Nothing: they are dropped before.
    Cold,
}

impl Work {
    /// Sees to it that the caches are as they must be.
    pub fn prepare(&self, place: &Place) -> Result<()> {
        match self.caches {
            Caches::AsTheyAre => Ok(()),
            Caches::Warm => big::warm(place),
            Caches::Cold => crate::cold::drop_caches(),
        }
    }
}

/// What a work does, once.
pub type Run = Box<dyn Fn(&Place) -> Result<Measure> + Send + Sync>;

/// All works on files: first the big file's, then the small files' with one thread and with `many`.
pub fn works(many: usize) -> Vec<Work> {
    let mut works = big_works();
    works.extend(small_works(1));
    if many > 1 {
        works.extend(small_works(many));
    }
    works
}

fn big_works() -> Vec<Work> {
    use Caches::{AsTheyAre, Cold, Warm};
    use Unit::{Bytes, Operations};
    let work = |id: &str, what: &str, caches, unit, goal, run: fn(&Place) -> Result<Measure>| Work {
        row: Row { id: id.to_string(), what: what.to_string(), unit, goal: Goal::Ratio(goal) },
        caches,
        group: 0,
        needed: id == "seq_write",
        run: Box::new(run),
    };
    vec![
        work("seq_write", "write a file in 1 MiB pieces, then fsync", AsTheyAre, Bytes, 0.9, big::write),
        work("seq_read_warm", "read it in 1 MiB pieces, from the page cache", Warm, Bytes, 0.95, big::read),
        work("seq_read_cold", "the same with nothing in the page cache", Cold, Bytes, 0.95, big::read),
        work("rand_read_warm", "read 4 KiB at random places, warm", Warm, Operations, 0.95, big::read_random),
        work("rand_read_cold", "the same with nothing in the page cache", Cold, Operations, 0.95, big::read_random),
        work("mmap_read_warm", "read it through a mapping, warm", Warm, Bytes, 0.95, mapped::read),
        work("mmap_read_cold", "the same with nothing in the page cache", Cold, Bytes, 0.95, mapped::read),
        work("rand_write_fsync", "write 4 KiB at a random place, then fsync", Warm, Operations, 0.7, big::write_random),
    ]
}

fn small_works(threads: usize) -> Vec<Work> {
    let one = threads == 1;
    let goal = |alone: Goal, crowd: Goal| if one { alone } else { crowd };
    let work = |id: &str, what: &str, goal, run: fn(&Place, usize) -> Result<Measure>| {
        let (id, what) = match one {
            true => (id.to_string(), what.to_string()),
            false => (format!("{id}/{threads}"), format!("{what}, {threads} threads")),
        };
        let needed = id.starts_with("create_small") || id.starts_with("unlink");
        let row = Row { id, what, unit: Unit::Operations, goal };
        Work { row, caches: Caches::AsTheyAre, group: threads, needed, run: Box::new(move |place| run(place, threads)) }
    };
    let none = Goal::None;
    vec![
        work("create_small", "create, write 4 KiB, close", goal(Goal::Rate(3e3), Goal::Rate(10e3)), names::create),
        work("stat", "stat", Goal::Ratio(0.8), names::stat),
        work("open_close", "open, close", goal(Goal::Rate(10e3), none), names::open_close),
        work("read_small", "open, read 4 KiB, close", goal(none, Goal::Rate(20e3)), names::read),
        work("readdir", "list directories, names only", none, names::list),
        work("readdir_stat", "list directories with attributes, as ls -l", Goal::Ratio(0.5), names::list_long),
        work("rename", "rename within the directory", none, names::rename),
        work("unlink", "unlink", none, names::unlink),
    ]
}

/// Says which file an error is about.
pub(crate) fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::from_io(source, "the benchmark cannot go on").with("path", path.display())
}

/// What was read is not what was written.
pub(crate) fn wrong(path: &Path, offset: u64) -> Error {
    Error::new(ErrorKind::DataLoss, "a wrong byte was read").with("path", path.display()).with("offset", offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_runs_in_its_order_and_leaves_no_small_file() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir: dir.path().to_path_buf(), size: 3 << 20, files: 40, limit: Duration::from_millis(20) };
        for work in works(4) {
            if work.caches != Caches::Cold {
                work.prepare(&place).unwrap();
            }
            let measure = (work.run)(&place).unwrap_or_else(|error| panic!("{}: {error}", work.row.id));
            assert!(measure.amount > 0.0, "{} did nothing", work.row.id);
        }
        assert_eq!(std::fs::metadata(place.big()).unwrap().len(), place.size);
        for folder in ["threads-1/0", "threads-4/3"] {
            assert_eq!(std::fs::read_dir(dir.path().join(folder)).unwrap().count(), 0, "{folder}");
        }
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir: dir.path().to_path_buf(), size: 2 << 20, files: 1, limit: Duration::from_millis(20) };
        big::write(&place).unwrap();
        big::read(&place).unwrap();
        let file = std::fs::File::options().write(true).open(place.big()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 20).unwrap();
        assert_eq!(big::read(&place).unwrap_err().kind(), ErrorKind::DataLoss);
        assert_eq!(mapped::read(&place).unwrap_err().kind(), ErrorKind::DataLoss);
    }
}
