//! The objects of the file system as state machines: what a call with the result that it had may do.

use super::linear::Model;

/// The names of one directory that holds files, told apart by their inodes, and empty directories, which are not.
pub struct Names {
    /// Inodes that were seen though no call is known to have made them: a call of unknown outcome did.
    pub foundlings: Vec<u64>,
}

/// Below this, names are numbered.
pub const NAMES: usize = 4;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    Absent,
    Directory,
    File(u64),
    /// Made by a call of unknown outcome and never seen.
    Unseen,
}

/// What a call said about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Absent,
    Present,
    AnyFile,
    Directory,
    File(u64),
}

/// A successful call, or what a failed one said. In a call of unknown outcome the inode is not known either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameOp {
    /// `open(O_CREAT)`, with or without `O_EXCL`.
    Create {
        name: usize,
        inode: Option<u64>,
        exclusive: bool,
    },
    Mkdir {
        name: usize,
    },
    Unlink {
        name: usize,
    },
    Rmdir {
        name: usize,
    },
    /// `replace`: without RENAME_NOREPLACE.
    Rename {
        from: usize,
        to: usize,
        replace: bool,
    },
    Exchange {
        one: usize,
        other: usize,
    },
    See {
        name: usize,
        sight: Sight,
    },
    /// A successful rename or exchange (`whole`) that may have found both names to be of one file and done nothing.
    PerhapsMove {
        from: usize,
        to: usize,
        whole: Box<NameOp>,
    },
    /// An exchange that said ENOENT.
    OneAbsent {
        one: usize,
        other: usize,
    },
}

/// The names, and the inodes that were made so far, ascending: each is made once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tree {
    pub names: [Option<Node>; NAMES],
    pub born: Vec<u64>,
}

impl Tree {
    fn at(&self, name: usize) -> Node {
        self.names[name].unwrap_or(Node::Absent)
    }

    fn with(&self, changes: &[(usize, Node)]) -> Tree {
        let mut tree = self.clone();
        for (name, node) in changes {
            tree.names[*name] = (*node != Node::Absent).then_some(*node);
        }
        tree
    }

    fn create(&self, name: usize, inode: u64) -> Option<Tree> {
        let place = self.born.binary_search(&inode).err()?;
        let mut tree = self.with(&[(name, Node::File(inode))]);
        tree.born.insert(place, inode);
        Some(tree)
    }
}

impl Sight {
    fn fits(self, node: Node) -> bool {
        match self {
            Sight::Absent => node == Node::Absent,
            Sight::Present => node != Node::Absent,
            Sight::AnyFile => matches!(node, Node::File(_) | Node::Unseen),
            Sight::Directory => node == Node::Directory,
            Sight::File(inode) => node == Node::File(inode),
        }
    }
}

impl Names {
    /// Whether the call may have changed names.
    pub fn changes(op: &NameOp) -> bool {
        !matches!(op, NameOp::See { .. } | NameOp::OneAbsent { .. })
    }
}

impl Model for Names {
    type State = Tree;
    type Op = NameOp;

    fn initial(&self) -> Tree {
        Tree::default()
    }

    fn step(&self, tree: &Tree, op: &NameOp, next: &mut Vec<Tree>) {
        match *op {
            NameOp::Create { name, inode: Some(inode), exclusive } => {
                if tree.at(name) == Node::Absent {
                    next.extend(tree.create(name, inode));
                } else if !exclusive && tree.at(name) == Node::File(inode) {
                    next.push(tree.clone());
                }
            }
            NameOp::Create { name, inode: None, .. } => {
                if tree.at(name) == Node::Absent {
                    next.push(tree.with(&[(name, Node::Unseen)]));
                    next.extend(self.foundlings.iter().filter_map(|inode| tree.create(name, *inode)));
                }
            }
            NameOp::Mkdir { name } => {
                if tree.at(name) == Node::Absent {
                    next.push(tree.with(&[(name, Node::Directory)]));
                }
            }
            NameOp::Unlink { name } => {
                if Sight::AnyFile.fits(tree.at(name)) {
                    next.push(tree.with(&[(name, Node::Absent)]));
                }
            }
            NameOp::Rmdir { name } => {
                if tree.at(name) == Node::Directory {
                    next.push(tree.with(&[(name, Node::Absent)]));
                }
            }
            NameOp::Rename { from, to, replace } => {
                let (source, target) = (tree.at(from), tree.at(to));
                let same_kind = (source == Node::Directory) == (target == Node::Directory);
                if source != Node::Absent && (target == Node::Absent || replace && same_kind) {
                    next.push(tree.with(&[(from, Node::Absent), (to, source)]));
                }
            }
            NameOp::Exchange { one, other } => {
                let (first, second) = (tree.at(one), tree.at(other));
                if first != Node::Absent && second != Node::Absent {
                    next.push(tree.with(&[(one, second), (other, first)]));
                }
            }
            NameOp::See { name, sight } => {
                if sight.fits(tree.at(name)) {
                    next.push(tree.clone());
                }
            }
            NameOp::PerhapsMove { from, to, ref whole } => {
                self.step(tree, whole, next);
                if tree.at(from) != Node::Absent || tree.at(to) != Node::Absent {
                    next.push(tree.clone());
                }
            }
            NameOp::OneAbsent { one, other } => {
                if tree.at(one) == Node::Absent || tree.at(other) == Node::Absent {
                    next.push(tree.clone());
                }
            }
        }
    }

    fn observes(&self, op: &NameOp) -> bool {
        !Names::changes(op)
    }
}

/// Eight bytes of a file at a fixed offset. `None`: beyond the end; 0: a hole.
pub struct Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellOp {
    Write(u64),
    /// The file came to reach beyond these bytes without their being written.
    Cover,
    Cut,
    /// What is being cut is seen as zeroes first.
    Blank,
    See(Option<u64>),
}

impl Model for Cell {
    type State = Option<u64>;
    type Op = CellOp;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, op: &CellOp, next: &mut Vec<Option<u64>>) {
        match op {
            CellOp::Write(stamp) => next.push(Some(*stamp)),
            CellOp::Cover => next.push(Some(state.unwrap_or(0))),
            CellOp::Cut => next.push(None),
            CellOp::Blank => next.extend(state.map(|_| Some(0))),
            CellOp::See(seen) if seen == state => next.push(*state),
            CellOp::See(_) => {}
        }
    }

    fn observes(&self, op: &CellOp) -> bool {
        matches!(op, CellOp::See(_))
    }
}

/// The size of a file.
pub struct Size;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeOp {
    /// A write of these bytes.
    Reach {
        from: u64,
        to: u64,
    },
    Set(u64),
    See(u64),
}

impl Model for Size {
    type State = u64;
    type Op = SizeOp;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, op: &SizeOp, next: &mut Vec<u64>) {
        match op {
            SizeOp::Reach { to, .. } => next.push(*state.max(to)),
            SizeOp::Set(size) => next.push(*size),
            SizeOp::See(size) if size == state => next.push(*state),
            SizeOp::See(_) => {}
        }
    }

    fn observes(&self, op: &SizeOp) -> bool {
        matches!(op, SizeOp::See(_))
    }
}

/// The permission bits of a file, of which those of a new one are known.
pub struct Mode(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeOp {
    Set(u32),
    See(u32),
}

impl Model for Mode {
    type State = u32;
    type Op = ModeOp;

    fn initial(&self) -> u32 {
        self.0
    }

    fn step(&self, state: &u32, op: &ModeOp, next: &mut Vec<u32>) {
        match op {
            ModeOp::Set(mode) => next.push(*mode),
            ModeOp::See(mode) if mode == state => next.push(*state),
            ModeOp::See(_) => {}
        }
    }

    fn observes(&self, op: &ModeOp) -> bool {
        matches!(op, ModeOp::See(_))
    }
}

/// A file that is only appended to, in records of one size. Its state is the number of records; which ones, says `order`: the
/// longest content that was ever read.
pub struct Log {
    pub order: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    Append(u64),
    /// Of so many records; that they are the first ones of `order` has been checked.
    See(usize),
}

impl Model for Log {
    type State = usize;
    type Op = LogOp;

    fn initial(&self) -> usize {
        0
    }

    fn step(&self, state: &usize, op: &LogOp, next: &mut Vec<usize>) {
        match op {
            LogOp::Append(stamp) if self.order.get(*state) == Some(stamp) => next.push(state + 1),
            LogOp::See(count) if count == state => next.push(*state),
            _ => {}
        }
    }

    fn observes(&self, op: &LogOp) -> bool {
        matches!(op, LogOp::See(_))
    }
}
