//! Snapshots: a frozen state, and its form as bytes.
//!
//! ```text
//! file   = header block* end
//! header = magic "CVNSNAP\n" | version u32 | cluster 16 bytes | CRC-32C of these 28 bytes u32
//! block  = section u32 | number of the block u32 | records u32 | payload length u32 | CRC-32C of the payload u32
//!          | CRC-32C of these 20 bytes u32 | payload: records, each a protobuf message behind its length
//! end    = a block of section 0 whose payload is one record: the number of records before it
//! ```
//!
//! All numbers are little endian. Sections come in ascending order, records within them by their keys, so that equal
//! states have equal bytes. A reader believes no length before a checksum has confirmed it.

mod lenient;
mod portable;
mod reader;
mod record_forms;
mod writer;

use crate::state::State;

pub(crate) use lenient::restore_lenient;
pub use portable::{Head, snapshot_of_portable};
pub(crate) use reader::restore;

const MAGIC: [u8; 8] = *b"CVNSNAP\n";
/// Raised when an older reader would misunderstand; new fields of records do not need it.
const VERSION: u32 = 1;
const HEADER_LEN: usize = 32;
const BLOCK_HEADER_LEN: usize = 24;
/// A block is closed when its payload has this size.
const BLOCK_TARGET: usize = 64 << 10;
/// No payload is larger: the target and the largest record.
const BLOCK_MAX: usize = 16 << 20;

/// A frozen state, to be written out while the original goes on changing.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) state: State,
}

/// What a block holds. Part of the format: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
enum Section {
    End = 0,
    Meta = 1,
    Sessions = 2,
    Results = 3,
    Workers = 4,
    Mounts = 5,
    Inodes = 6,
    Dentries = 7,
    Links = 8,
    Xattrs = 9,
    Inline = 10,
    Placed = 11,
    UfsDirs = 12,
    Grants = 13,
    Orphans = 14,
    Locks = 15,
    Garbage = 16,
    Doomed = 17,
    Jobs = 18,
    Quotas = 19,
    Pins = 20,
    Trash = 21,
    Ttls = 22,
    TreeMoves = 23,
}

impl Section {
    const ALL: [Section; 24] = {
        use Section::*;
        [
            End, Meta, Sessions, Results, Workers, Mounts, Inodes, Dentries, Links, Xattrs, Inline, Placed, UfsDirs,
            Grants, Orphans, Locks, Garbage, Doomed, Jobs, Quotas, Pins, Trash, Ttls, TreeMoves,
        ]
    };

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|section| *section as u32 == number)
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
#[path = "snapshot/snapshot_test.rs"]
mod snapshot_test;
