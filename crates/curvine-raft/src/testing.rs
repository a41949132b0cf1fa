//! What the tests of this crate share: a state machine that remembers everything, and a disk that fails when told to.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use curvine_proto::{Command, Outcome, Time, WriteInline, command::Body};
use curvine_types::{ClusterId, Error, Result};
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::machine::{SnapshotSource, StateMachine};
use crate::{Options, Replica};

pub(crate) const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");

/// Remembers (session, sequence, now in ns) of every command, in order; the outcome's id is the command's number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Journal {
    pub commands: Vec<(u64, u64, u64)>,
}

impl Journal {
    pub fn sequences(&self) -> Vec<u64> {
        self.commands.iter().map(|command| command.1).collect()
    }
}

impl StateMachine for Journal {
    fn apply(&mut self, now: Option<Time>, command: &Command) -> Outcome {
        let now = now.map_or(0, |time| time.sec as u64 * 1_000_000_000 + u64::from(time.nsec));
        self.commands.push((command.session, command.sequence, now));
        Outcome { id: self.commands.len() as u64, epoch: command.sequence, ..Default::default() }
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(self.clone())
    }

    fn restored(reader: &mut dyn Read) -> Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|source| Error::from_io(source, "cannot read the journal"))?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let commands = (0..bytes.len() / 24).map(|n| (word(n * 24), word(n * 24 + 8), word(n * 24 + 16))).collect();
        Ok(Self { commands })
    }
}

impl SnapshotSource for Journal {
    fn write_to(&self, writer: &mut dyn Write) -> io::Result<()> {
        for (session, sequence, now) in &self.commands {
            writer.write_all(&session.to_le_bytes())?;
            writer.write_all(&sequence.to_le_bytes())?;
            writer.write_all(&now.to_le_bytes())?;
        }
        Ok(())
    }
}

/// A command that is told by its number, `size` bytes large.
pub(crate) fn command(sequence: u64, size: usize) -> Command {
    let body =
        Body::WriteInline(WriteInline { inode: 7, data: vec![sequence as u8; size].into(), ..Default::default() });
    Command { session: 1, sequence, lowest_unacked: 1, body: Some(body) }
}

/// Small limits, so that tests meet them.
pub(crate) fn options(dir: &Path) -> Options {
    Options { disk_reserve: 1 << 20, ..Options::new(dir) }
}

pub(crate) async fn open(options: &Options) -> Result<Replica<Journal>> {
    Replica::open(options.clone(), Journal::default()).await
}

/// Initialises the directory and opens it.
pub(crate) async fn create(options: &Options) -> Replica<Journal> {
    Replica::<Journal>::create(&options.dir, CLUSTER).unwrap();
    open(options).await.unwrap()
}

pub(crate) async fn propose_all(replica: &Replica<Journal>, sequences: std::ops::Range<u64>, size: usize) {
    for sequence in sequences {
        replica.propose(command(sequence, size)).await.unwrap();
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "reserve" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// The files of a directory with this extension, in order.
pub(crate) fn files(dir: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    paths
}

/// What a [`FaultDisk`] can fail at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Half of the bytes are written, then the error comes.
    Write,
    Sync,
    Create,
    Rename,
    Allocate,
}

/// The real disk, failing at chosen operations on files whose name contains a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultDisk {
    rules: Arc<Mutex<Vec<Rule>>>,
}

#[derive(Debug)]
struct Rule {
    at: At,
    name: &'static str,
    errno: i32,
    /// Operations that fail; then the rule is used up.
    times: usize,
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    name: String,
    file: Arc<dyn DiskFile>,
}

impl FaultDisk {
    pub fn fail(&self, at: At, name: &'static str, errno: rustix::io::Errno, times: usize) {
        self.rules.lock().push(Rule { at, name, errno: errno.raw_os_error(), times });
    }

    pub fn heal(&self) {
        self.rules.lock().clear();
    }

    fn check(&self, at: At, name: &str) -> io::Result<()> {
        let mut rules = self.rules.lock();
        match rules.iter_mut().find(|rule| rule.at == at && name.contains(rule.name) && rule.times > 0) {
            Some(rule) => {
                rule.times -= 1;
                Err(io::Error::from_raw_os_error(rule.errno))
            }
            None => Ok(()),
        }
    }

    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Arc::new(FaultFile { disk: self.clone(), name, file })
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

impl Disk for FaultDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.check(At::Create, &name(path))?;
        Ok(self.wrap(path, RealDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, RealDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(At::Rename, &name(to))?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }
}

impl DiskFile for FaultFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.disk.check(At::Write, &self.name) {
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_all_at(bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.check(At::Sync, &self.name)?;
        self.file.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.disk.check(At::Allocate, &self.name)?;
        self.file.allocate(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
