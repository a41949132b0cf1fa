//! What all files of a replica have in common: a magic, a format version, the cluster's id and CRC-32C checksums.
//!
//! All numbers are little endian. A file of another cluster or of an unknown version is `Foreign`, anything else that is not as it
//! must be is `Corrupt`; both name the file.

use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use curvine_types::{ClusterId, Error, ErrorKind, Result};

/// Version of every file format of this crate.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// What to do about a directory that is refused.
pub(crate) const WAY_OUT: &str = "with other masters: wipe the directory and let it rejoin; else restore it from a copy, or rescue what can be \
     read with `cv meta dump` and `cv meta load`, see docs/OPERATIONS.md";

/// CRC-32C of the concatenation.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

/// Something in a file is not as it must be.
pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what).with("file", path.display()).with("offset", offset)
}

/// Reads numbers from the front of a slice; running out of bytes is `None`.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Starts a file: magic, version, cluster id.
pub(crate) fn put_preamble(out: &mut Vec<u8>, magic: &[u8; 8], cluster: ClusterId) {
    out.extend_from_slice(magic);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&cluster.0);
}

/// Bytes of a preamble.
pub(crate) const PREAMBLE_LEN: usize = 8 + 4 + 16;

/// Checks the start of a file. `cluster`: `None` accepts any. Returns the cluster id found.
pub(crate) fn check_preamble(
    fields: &mut Fields<'_>,
    path: &Path,
    magic: &[u8; 8],
    cluster: Option<ClusterId>,
) -> Result<ClusterId> {
    let short = || corrupt(path, 0, "the file is too short for its header");
    if fields.bytes(8).ok_or_else(short)? != magic {
        return Err(corrupt(path, 0, "the file does not start as its kind of file must"));
    }
    let version = fields.u32().ok_or_else(short)?;
    if version != FORMAT_VERSION {
        return Err(Error::new(ErrorKind::Foreign, "the file has a format that this version cannot read")
            .with("file", path.display())
            .with("have", version)
            .with("want", FORMAT_VERSION));
    }
    let found = ClusterId(fields.array().ok_or_else(short)?);
    match cluster {
        Some(expected) if expected != found => {
            Err(Error::new(ErrorKind::Foreign, "the file belongs to another cluster")
                .with("file", path.display())
                .with("have", found)
                .with("want", expected))
        }
        _ => Ok(found),
    }
}
