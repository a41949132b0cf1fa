//! Copying from content to content without the bytes leaving the worker.
//!
//! A step reads and then writes, never under both locks at once: a change of the source meanwhile is seen or not, as with two
//! system calls. What is read is verified where checksums are kept, and what is a hole as a whole stays one.

use curvine_types::limits::{IO_MAX, PIECE_SIZE};
use curvine_types::{Error, ErrorKind, Result};

use crate::disk::crc32c;
use crate::store::BlockStore;
use crate::types::*;

/// A range of a content that is read.
#[derive(Clone, Copy, Debug)]
pub struct CopyFrom {
    pub key: ContentKey,
    pub version: u64,
    pub offset: u64,
}

/// Where the copy goes: a live content, under a write grant.
#[derive(Clone, Copy, Debug)]
pub struct CopyTo {
    pub key: ContentKey,
    pub version: u64,
    pub epoch: u64,
    pub offset: u64,
}

impl BlockStore {
    /// Copies at most `IO_MAX` bytes. How many they were, 0 only at the end of the source; and how `to` is afterwards, if it was
    /// changed. `DataLoss` for bytes that are not here.
    pub fn copy_step(&self, from: CopyFrom, to: CopyTo, length: u64) -> Result<(u64, Option<LiveAttr>)> {
        let plan = self.read(from.key, from.version, from.offset, length.min(IO_MAX as u64))?;
        let end = plan.size.min(from.offset.saturating_add(length.min(IO_MAX as u64)));
        let (mut at, mut attr) = (from.offset, None);
        for segment in &plan.segments {
            let (start, planned) = segment.range();
            let stop = (start + planned).min(end);
            if start > at || stop <= at {
                // Something before it was cut off meanwhile, or it is only there because plans are widened to whole pieces.
                continue;
            }
            let target = to.offset + (at - from.offset);
            match segment {
                Segment::Hole { .. } => {
                    let zero = Fallocate::ZeroRange { keep_size: false };
                    attr = Some(self.fallocate(to.key, to.version, to.epoch, target, stop - at, zero)?);
                    at = stop;
                }
                Segment::Data { .. } => {
                    let data = self.load(from.key, segment)?;
                    let wanted = data.get((at - start) as usize..data.len().min((stop - start) as usize));
                    let wanted = wanted.unwrap_or_default();
                    if wanted.is_empty() {
                        break;
                    }
                    let crcs: Vec<u32> = wanted.chunks(PIECE_SIZE as usize).map(crc32c).collect();
                    attr = Some(self.write(to.key, to.version, to.epoch, WriteAt::At(target), wanted, &crcs)?.attr);
                    at += wanted.len() as u64;
                }
                Segment::Absent { .. } => {
                    let message = "data of a file is missing and there is no other source";
                    return Err(Error::new(ErrorKind::DataLoss, message)
                        .with("inode", from.key.inode)
                        .with("offset", at));
                }
            }
        }
        Ok((at - from.offset, attr))
    }
}

#[cfg(test)]
#[path = "copy_test.rs"]
mod tests;
