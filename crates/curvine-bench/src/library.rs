//! Metadata straight through the client library, many requests in flight. Every change is durable when it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use curvine_client::{FileSystem, NewFile, NewNode, OpenFlags};
use curvine_types::{Error, ErrorKind, InodeId, Name, ROOT_INODE, Result};
use futures::future::try_join_all;

use crate::{Goal, Measure, Row, Unit};

/// What is measured. Each finds the files of the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Create,
    Stat,
    Open,
    Rename,
    Delete,
}

impl Work {
    pub const ALL: [Work; 5] = [Work::Create, Work::Stat, Work::Open, Work::Rename, Work::Delete];

    /// Its row.
    pub fn row(self, in_flight: usize) -> Row {
        let (id, what, goal) = match self {
            Work::Create => ("create", "create an empty file", 30e3),
            Work::Stat => ("stat", "look a name up at the master", 100e3),
            Work::Open => ("open", "open and close", 100e3),
            Work::Rename => ("rename", "rename within the directory", 30e3),
            Work::Delete => ("delete", "unlink", 30e3),
        };
        Row {
            id: format!("library_{id}"),
            what: format!("{what}, {in_flight} in flight, through the library"),
            unit: Unit::Operations,
            goal: Goal::Rate(goal),
        }
    }
}

/// A directory of its own at the root of the file system, removed by `finish`.
pub struct Library {
    fs: FileSystem,
    /// A session that caches nothing, so that every question reaches the master.
    reader: FileSystem,
    name: Name,
    dir: InodeId,
    in_flight: usize,
    files: u64,
    limit: Duration,
    made: u64,
}

impl Library {
    /// Makes the directory. `fs` and `reader` are two sessions of the same cluster.
    pub async fn prepare(
        fs: FileSystem,
        reader: FileSystem,
        in_flight: usize,
        files: u64,
        limit: Duration,
    ) -> Result<Self> {
        let name = Name::new(format!("curvine-bench-library-{}", std::process::id()).as_bytes())?;
        let entry = fs.mkdir(ROOT_INODE, &name, NewNode { mode: 0o700, umask: 0, uid: 0, gid: 0 }).await?;
        Ok(Self { fs, reader, name, dir: entry.attr.inode, in_flight, files, limit, made: 0 })
    }

    /// Runs one work.
    pub async fn run(&mut self, work: Work) -> Result<Measure> {
        let most = if work == Work::Create { self.files } else { self.made };
        if most == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "there are no files to work on; create comes first"));
        }
        let next = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let until = begun + self.limit;
        let lanes =
            (0..self.in_flight).map(|_| {
                let (fs, reader, next, dir) = (self.fs.clone(), self.reader.clone(), next.clone(), self.dir);
                let lane = async move {
                    let mut done = 0u64;
                    // Looked at before a number is taken, so that the numbers that were made have no gap. What was made is
                    // renamed and deleted to the last file, however long it takes.
                    while matches!(work, Work::Rename | Work::Delete) || Instant::now() < until {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= most && !matches!(work, Work::Stat | Work::Open) {
                            break;
                        }
                        one(&fs, &reader, dir, work, number % most).await?;
                        done += 1;
                    }
                    Ok::<u64, Error>(done)
                };
                async move {
                    tokio::spawn(lane).await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a lane died")))
                }
            });
        let done: u64 = try_join_all(lanes).await?.into_iter().sum();
        match work {
            Work::Create => self.made = done,
            Work::Delete => self.made = 0,
            Work::Stat | Work::Open | Work::Rename => {}
        }
        Ok(Measure::since(begun, done))
    }

    /// Removes what is left, also after a work that failed.
    pub async fn finish(self) -> Result<()> {
        for number in 0..self.made {
            for name in [plain(number)?, renamed(number)?] {
                match self.fs.unlink(self.dir, &name).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        self.fs.rmdir(ROOT_INODE, &self.name).await
    }
}

fn plain(number: u64) -> Result<Name> {
    Name::new(format!("f{number}").as_bytes())
}

fn renamed(number: u64) -> Result<Name> {
    Name::new(format!("r{number}").as_bytes())
}

async fn one(fs: &FileSystem, reader: &FileSystem, dir: InodeId, work: Work, number: u64) -> Result<()> {
    match work {
        Work::Create => {
            let new = NewFile { mode: 0o600, umask: 0, uid: 0, gid: 0, exclusive: true, open: None };
            fs.create(dir, &plain(number)?, new).await?;
        }
        Work::Stat => {
            found(reader.lookup(dir, &plain(number)?).await?)?;
        }
        Work::Open => {
            let inode = found(fs.lookup(dir, &plain(number)?).await?)?;
            let handle = fs.open(inode, OpenFlags::READ).await?;
            fs.release(handle);
        }
        Work::Rename => fs.rename(dir, &plain(number)?, dir, &renamed(number)?, 0).await?,
        Work::Delete => fs.unlink(dir, &renamed(number)?).await?,
    }
    Ok(())
}

fn found(lookup: curvine_client::Lookup) -> Result<InodeId> {
    let entry = lookup.entry.ok_or_else(|| Error::new(ErrorKind::NotFound, "a file of the benchmark is gone"))?;
    Ok(entry.attr.inode)
}
