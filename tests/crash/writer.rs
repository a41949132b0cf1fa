//! A writer: makes calls on a mount at random and remembers, in this process that nobody kills, which were acknowledged.
//!
//! Always: it goes on after a kill as long as its calls are answered; the first one without an answer ends its round and stays as the
//! one call that may or may not have been made. An answer that is wrong (ENOENT for a file that is there) is a failure of the test.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::tree::{Bytes, Node, Op, Tree};
use crate::harness::Rng;

/// Around the limit of inline content, and over several requests.
const LENGTHS: [usize; 8] = [1, 100, 5_000, 16_384, 16_385, 70_000, 300_000, 1_200_000];
/// Bytes of one file, names of one writer.
const CONTENT_MAX: usize = 2 << 20;
const NAMES_MAX: usize = 40;

/// One writer with all that it knows. Its directory is `w<number>`; it also has names of its own in the shared directories.
pub struct Writer {
    pub number: usize,
    pub tree: Tree,
    /// The call that had no answer.
    pub pending: Option<Op>,
    pub acknowledged: Arc<AtomicUsize>,
    pub synced: AtomicUsize,
    /// Answers that cannot be right.
    pub wrong: Option<String>,
    /// The calls of this round, for people.
    pub calls: Vec<String>,
    rng: Rng,
    names: usize,
}

/// The root of a mount, held open: after the mount was killed it gives errors and never shows what is below the mount point.
pub struct Root {
    dir: File,
}

impl Root {
    pub fn open(mount: &Path) -> Root {
        Root { dir: File::open(mount).expect("open the root of a mount") }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        format!("/proc/self/fd/{}/{path}", self.dir.as_raw_fd()).into()
    }
}

impl Writer {
    pub fn new(number: usize, rng: Rng) -> Self {
        let mut tree = Tree::default();
        tree.names.insert(format!("w{number}"), Node::Directory);
        Self {
            number,
            tree,
            pending: None,
            acknowledged: Arc::default(),
            synced: AtomicUsize::new(0),
            wrong: None,
            calls: Vec::new(),
            rng,
            names: 0,
        }
    }

    /// Whether a path is one of this writer's.
    pub fn owns(&self, path: &str) -> bool {
        let own = format!("w{}", self.number);
        let shared = format!("t{}-", self.number);
        path.split('/').next() == Some(own.as_str())
            || (path.starts_with("shared/") && path.split('/').nth(2).is_some_and(|name| name.starts_with(&shared)))
    }

    /// Makes calls until `over`, or until one has no answer.
    pub fn run(&mut self, mount: &Path, over: &AtomicBool) {
        let root = Root::open(mount);
        self.calls.clear();
        let mut journal = self.open_journal(&root);
        while !over.load(Ordering::SeqCst) && self.pending.is_none() && self.wrong.is_none() {
            if self.rng.chance(20) && journal.is_some() {
                self.append_to_journal(&mut journal);
            } else if self.rng.chance(12) {
                self.read_back(&root);
            } else if let Some(op) = self.choose() {
                let done = perform(&root, &op);
                self.note(op, done);
            }
        }
    }

    /// A file that stays open over kills of the servers.
    fn open_journal(&mut self, root: &Root) -> Option<File> {
        let path = format!("w{}/journal", self.number);
        if self.tree.file(&path).is_none() {
            let op = Op::Create { path: path.clone() };
            let done = perform(root, &op);
            self.note(op, done);
        }
        if self.pending.is_some() {
            return None;
        }
        File::options().append(true).open(root.at(&path)).ok()
    }

    fn append_to_journal(&mut self, journal: &mut Option<File>) {
        let path = format!("w{}/journal", self.number);
        let Some(file) = journal else { return };
        let bytes = Bytes { seed: self.rng.next(), length: 1 + self.rng.below(9_000) as usize };
        let op = Op::Append { path: path.clone(), bytes: bytes.clone(), sync: self.rng.chance(25) };
        let sync = matches!(op, Op::Append { sync: true, .. });
        let done = write_whole(|| (&*file).write(&bytes.make()), bytes.length)
            .and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        self.note(op, done);
        if self.pending.is_none() && self.tree.file(&path).is_some_and(|file| file.content.len() > CONTENT_MAX) {
            let done = file.set_len(0);
            self.note(Op::Truncate { path, length: 0 }, done);
        }
    }

    fn note(&mut self, op: Op, done: std::io::Result<()>) {
        self.calls.push(format!("{op:?} -> {done:?}"));
        match done {
            Ok(()) => {
                self.tree.apply(&op);
                self.acknowledged.fetch_add(1, Ordering::SeqCst);
                if matches!(op, Op::Write { sync: true, .. } | Op::Append { sync: true, .. }) {
                    self.synced.fetch_add(1, Ordering::SeqCst);
                }
            }
            Err(error) if is_no_answer(&error) => self.pending = Some(op),
            Err(error) => self.wrong = Some(format!("{op:?} was answered with {error}")),
        }
    }

    /// Whatever was acknowledged is what a read sees, also between the kills.
    fn read_back(&mut self, root: &Root) {
        let Some(path) = self.pick(|node| matches!(node, Node::File(_))) else { return };
        let want = self.tree.file(&path).expect("a file").content.clone();
        match std::fs::read(root.at(&path)) {
            Ok(have) if have == *want => {}
            Ok(have) => {
                let place = have.iter().zip(&*want).position(|(have, want)| have != want);
                let (have, want) = (have.len(), want.len());
                self.wrong = Some(format!("{path} was read as {have} bytes of {want}, differing from {place:?}"));
            }
            Err(error) if is_no_answer(&error) => {}
            Err(error) => self.wrong = Some(format!("reading {path} gave {error}")),
        }
    }

    fn pick(&mut self, like: impl Fn(&Node) -> bool) -> Option<String> {
        let names = self.tree.names.iter().filter(|(path, node)| like(node) && path.contains('/'));
        let paths: Vec<&String> = names.map(|(path, _)| path).collect();
        match paths.is_empty() {
            true => None,
            false => Some((*self.rng.pick(&paths)).clone()),
        }
    }

    /// Without the file that is held open.
    fn pick_file(&mut self) -> Option<String> {
        self.pick(|node| matches!(node, Node::File(_))).filter(|path| !path.ends_with("/journal"))
    }

    /// A name that is not there: in the writer's directory, in one of its subdirectories, or in a shared one.
    fn fresh(&mut self) -> String {
        self.names += 1;
        let (own, count) = (format!("w{}", self.number), self.names);
        match self.rng.below(10) {
            0..3 => format!("shared/{}/t{}-{count}", self.rng.pick(&["a", "b"]), self.number),
            3..6 => match self.pick(|node| *node == Node::Directory) {
                Some(dir) if dir.matches('/').count() < 4 => format!("{dir}/n{count}"),
                _ => format!("{own}/n{count}"),
            },
            _ => format!("{own}/n{count}"),
        }
    }

    fn bytes(&mut self) -> Bytes {
        Bytes { seed: self.rng.next(), length: *self.rng.pick(&LENGTHS) }
    }

    fn choose(&mut self) -> Option<Op> {
        let crowded = self.tree.names.len() > NAMES_MAX;
        let op = match self.rng.below(100) {
            0..12 if !crowded => Op::Create { path: self.fresh() },
            0..35 => {
                let path = self.pick_file()?;
                let (length, bytes) = (self.tree.file(&path)?.content.len(), self.bytes());
                let offset = self.rng.below(length.min(CONTENT_MAX) as u64 + 1) as usize;
                // Sometimes past the end, which leaves a hole.
                let offset = if self.rng.chance(10) { length + 10_000 } else { offset };
                Op::Write { path, offset, bytes, sync: self.rng.chance(30) }
            }
            35..45 => {
                let path = self.pick_file()?;
                Op::Append { path, bytes: self.bytes(), sync: self.rng.chance(30) }
            }
            45..51 => {
                let path = self.pick_file()?;
                let length = self.tree.file(&path)?.content.len() as u64;
                let length = if self.rng.chance(30) { 0 } else { self.rng.below(length + length / 4 + 2) };
                Op::Truncate { path, length: length as usize }
            }
            51..66 => {
                let from = self.pick_file()?;
                let to = if self.rng.chance(40) { self.pick_file()? } else { self.fresh() };
                if from == to {
                    return None;
                }
                Op::Rename { from, to }
            }
            66..70 => {
                let (one, other) = (self.pick_file()?, self.pick_file()?);
                if one == other {
                    return None;
                }
                Op::Exchange { one, other }
            }
            70..75 => Op::Link { from: self.pick_file()?, to: self.fresh() },
            75..84 => Op::Unlink { path: self.pick_file()? },
            84..88 if !crowded => Op::Mkdir { path: self.fresh() },
            84..92 => {
                let dir = self.pick(|node| *node == Node::Directory)?;
                if self.tree.children(&dir).is_empty() {
                    return Some(Op::Rmdir { path: dir });
                }
                let to = self.fresh();
                if to.starts_with(&format!("{dir}/")) {
                    return None;
                }
                Op::Rename { from: dir, to }
            }
            92..95 if !crowded => Op::Symlink { target: format!("to/{}", self.rng.next()), path: self.fresh() },
            92..96 => Op::Unlink { path: self.pick(|node| matches!(node, Node::Symlink(_)))? },
            _ => Op::Chmod { path: self.pick_file()?, mode: *self.rng.pick(&[0o600, 0o640, 0o755, 0o444]) },
        };
        let too_long = |file: &super::tree::File| file.content.len() > CONTENT_MAX;
        if let Some(path) = op.changes_bytes_of()
            && self.tree.file(path).is_some_and(too_long)
        {
            return Some(Op::Truncate { path: path.to_string(), length: 0 });
        }
        Some(op)
    }
}

/// Errors that say that there was no answer; any other is an answer.
fn is_no_answer(error: &std::io::Error) -> bool {
    use ErrorKind::*;
    error.raw_os_error() == Some(5)
        || matches!(error.kind(), TimedOut | Interrupted | NotConnected | ConnectionAborted | StaleNetworkFileHandle)
}

/// A write that takes a part only would make what is acknowledged unclear; regular files take all or fail.
fn write_whole(mut write: impl FnMut() -> std::io::Result<usize>, length: usize) -> std::io::Result<()> {
    match write()? {
        count if count == length => Ok(()),
        // The rest met the kill: as good as no answer.
        _ => Err(ErrorKind::TimedOut.into()),
    }
}

fn perform(root: &Root, op: &Op) -> std::io::Result<()> {
    let at = |path: &str| root.at(path);
    match op {
        Op::Create { path } => {
            let file = File::options().write(true).create_new(true).mode(0o644).open(at(path))?;
            drop(file);
            Ok(())
        }
        Op::Write { path, offset, bytes, sync } => {
            let file = File::options().write(true).open(at(path))?;
            write_whole(|| file.write_at(&bytes.make(), *offset as u64), bytes.length)?;
            if *sync { file.sync_all() } else { Ok(()) }
        }
        Op::Append { path, bytes, sync } => {
            let file = File::options().append(true).open(at(path))?;
            write_whole(|| (&file).write(&bytes.make()), bytes.length)?;
            if *sync { file.sync_data() } else { Ok(()) }
        }
        Op::Truncate { path, length } => File::options().write(true).open(at(path))?.set_len(*length as u64),
        Op::Rename { from, to } => std::fs::rename(at(from), at(to)),
        Op::Exchange { one, other } => Ok(renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE)?),
        Op::Link { from, to } => std::fs::hard_link(at(from), at(to)),
        Op::Unlink { path } => std::fs::remove_file(at(path)),
        Op::Mkdir { path } => std::fs::create_dir(at(path)),
        Op::Rmdir { path } => std::fs::remove_dir(at(path)),
        Op::Symlink { target, path } => std::os::unix::fs::symlink(target, at(path)),
        Op::Chmod { path, mode } => std::fs::set_permissions(at(path), Permissions::from_mode(*mode)),
    }
}
