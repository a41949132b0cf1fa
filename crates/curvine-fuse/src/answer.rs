//! What an operation answers, and how its failure becomes an errno.

use bytes::Bytes;
use curvine_fuse_abi::{Immutable, IntoBytes};
use curvine_proto::SetLock;
use curvine_types::{Error, InodeId};

/// A successful answer.
#[derive(Debug)]
pub enum Answer {
    /// Success without a value.
    Done,
    /// A structure of the kernel, or a listing, a target, an attribute.
    Value(Vec<u8>),
    /// File data, written to the kernel from where it was received.
    Data(Vec<Bytes>),
    /// The reply to OPEN, CREATE or OPENDIR; the handle is dropped again if nobody takes it.
    Opened { fh: u64, value: Vec<u8> },
    /// A lock was taken; `undo` gives it back if nobody takes the answer.
    Locked { inode: InodeId, undo: SetLock },
}

impl Answer {
    /// A structure.
    pub fn value<T: IntoBytes + Immutable>(value: &T) -> Self {
        Answer::Value(value.as_bytes().to_vec())
    }
}

/// A refusal: an errno of this layer, or an error of the client.
#[derive(Debug)]
pub enum Failure {
    Errno(i32),
    Error(Error),
}

impl Failure {
    /// What the application sees.
    pub fn errno(&self) -> i32 {
        match self {
            Failure::Errno(errno) => *errno,
            Failure::Error(error) => error.errno(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// What an operation ends with.
pub type Outcome = Result<Answer, Failure>;
