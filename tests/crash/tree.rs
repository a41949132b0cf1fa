//! What a writer must find: a tree of names and contents, and how each call changes it.
//!
//! Always: `apply` is what POSIX says of a call that succeeded; it is asked only for calls that can succeed on this tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::harness::Rng;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The number of the file; hard links share it.
    File(u64),
    Directory,
    Symlink(String),
}

/// A regular file.
#[derive(Clone, Debug)]
pub struct File {
    pub content: Arc<Vec<u8>>,
    pub mode: u32,
    /// Its last change was followed by an fsync that was acknowledged.
    pub synced: bool,
}

/// Names, relative to the root of the mount, and the files behind them.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub names: BTreeMap<String, Node>,
    pub files: BTreeMap<u64, File>,
    next: u64,
}

/// Bytes that can be made again from their seed.
#[derive(Clone, Debug)]
pub struct Bytes {
    pub seed: u64,
    pub length: usize,
}

impl Bytes {
    pub fn make(&self) -> Vec<u8> {
        Rng::new(self.seed).bytes(self.length)
    }
}

/// One system call, or a write with the fsync that belongs to it.
#[derive(Clone, Debug)]
pub enum Op {
    Create { path: String },
    Write { path: String, offset: usize, bytes: Bytes, sync: bool },
    Append { path: String, bytes: Bytes, sync: bool },
    Truncate { path: String, length: usize },
    Rename { from: String, to: String },
    Exchange { one: String, other: String },
    Link { from: String, to: String },
    Unlink { path: String },
    Mkdir { path: String },
    Rmdir { path: String },
    Symlink { target: String, path: String },
    Chmod { path: String, mode: u32 },
}

impl Op {
    /// The file whose bytes it changes, if that is what it does.
    pub fn changes_bytes_of(&self) -> Option<&str> {
        match self {
            Op::Write { path, .. } | Op::Append { path, .. } | Op::Truncate { path, .. } => Some(path),
            _ => None,
        }
    }
}

impl Tree {
    pub fn file(&self, path: &str) -> Option<&File> {
        match self.names.get(path)? {
            Node::File(number) => self.files.get(number),
            _ => None,
        }
    }

    fn file_mut(&mut self, path: &str) -> &mut File {
        match self.names.get(path) {
            Some(Node::File(number)) => self.files.get_mut(number).expect("a file behind each name"),
            other => panic!("the test asked for {path} as a file: {other:?}"),
        }
    }

    /// The names below a directory.
    pub fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        self.names
            .range(prefix.clone()..)
            .map(|(name, _)| name.clone())
            .take_while(|n| n.starts_with(&prefix))
            .collect()
    }

    pub fn links(&self, number: u64) -> usize {
        self.names.values().filter(|node| **node == Node::File(number)).count()
    }

    /// What the call leaves, if it succeeds.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { path } => {
                self.next += 1;
                self.files.insert(self.next, File { content: Arc::default(), mode: 0o644, synced: false });
                self.names.insert(path.clone(), Node::File(self.next));
            }
            Op::Write { path, offset, bytes, sync } => self.write(path, *offset, bytes, *sync),
            Op::Append { path, bytes, sync } => {
                let end = self.file_mut(path).content.len();
                self.write(path, end, bytes, *sync);
            }
            Op::Truncate { path, length } => {
                let file = self.file_mut(path);
                Arc::make_mut(&mut file.content).resize(*length, 0);
                file.synced = false;
            }
            Op::Rename { from, to } => self.rename(from, to),
            Op::Exchange { one, other } => {
                let aside = ".aside".to_string();
                self.rename(one, &aside);
                self.rename(other, one);
                self.rename(&aside, other);
            }
            Op::Link { from, to } => {
                let node = self.names[from].clone();
                self.names.insert(to.clone(), node);
            }
            Op::Unlink { path } | Op::Rmdir { path } => self.remove(path),
            Op::Mkdir { path } => {
                self.names.insert(path.clone(), Node::Directory);
            }
            Op::Symlink { target, path } => {
                self.names.insert(path.clone(), Node::Symlink(target.clone()));
            }
            Op::Chmod { path, mode } => self.file_mut(path).mode = *mode,
        }
    }

    fn write(&mut self, path: &str, offset: usize, bytes: &Bytes, sync: bool) {
        let file = self.file_mut(path);
        let content = Arc::make_mut(&mut file.content);
        let end = offset + bytes.length;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset..end].copy_from_slice(&bytes.make());
        file.synced = sync;
    }

    fn remove(&mut self, path: &str) {
        if let Some(Node::File(number)) = self.names.remove(path)
            && self.links(number) == 0
        {
            self.files.remove(&number);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let moved = self.names[from].clone();
        if matches!(moved, Node::File(_)) && self.names.get(to) == Some(&moved) {
            return; // two names of one file: POSIX does nothing
        }
        self.remove(to);
        self.names.remove(from);
        self.names.insert(to.to_string(), moved);
        for child in self.children(from) {
            let node = self.names.remove(&child).expect("it was listed");
            self.names.insert(format!("{to}{}", &child[from.len()..]), node);
        }
    }
}
