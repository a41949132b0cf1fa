//! The format of a snapshot file: a header, the state in verified chunks, an end.
//!
//! ```text
//! header  0 magic "CVsnap\r\n"   8 version u32   12 cluster [16]   28 meta length u32   32 RaftSnapshotMeta   .. CRC-32C u32
//! chunk   len u32 (above 0)   CRC-32C u32 of the chunk's number (u64), len and bytes   bytes
//! end     0 u32               CRC-32C u32 of the number of chunks (u64) and 0
//! ```

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use curvine_proto::{Message, RaftSnapshotMeta};
use curvine_types::{ClusterId, Error, Result};

use crate::disk::DiskFile;
use crate::format::{Fields, PREAMBLE_LEN, check_preamble, corrupt, crc32c, put_preamble};

const MAGIC: &[u8; 8] = b"CVsnap\r\n";
pub(super) const CHUNK: usize = 256 << 10;
const META_LEN_MAX: usize = 1 << 20;
/// Bytes after which what was written is made durable: the log waits for the same disk, and must not wait for all of a snapshot.
const STEP: u64 = 1 << 20;

fn chunk_sum(number: u64, bytes: &[u8]) -> u32 {
    crc32c(&[&number.to_le_bytes(), &(bytes.len() as u32).to_le_bytes(), bytes])
}

/// Writes a snapshot file from its start.
pub(super) struct Writer<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    /// Up to here it is durable.
    synced: u64,
    number: u64,
    chunk: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn start(file: &'a dyn DiskFile, cluster: ClusterId, meta: &RaftSnapshotMeta) -> io::Result<Self> {
        let mut header = Vec::new();
        put_preamble(&mut header, MAGIC, cluster);
        header.extend_from_slice(&(meta.encoded_len() as u32).to_le_bytes());
        header.extend_from_slice(&meta.encode_to_vec());
        header.extend_from_slice(&crc32c(&[&header]).to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Self { file, offset: header.len() as u64, synced: 0, number: 0, chunk: Vec::with_capacity(CHUNK) })
    }

    fn put_chunk(&mut self) -> io::Result<()> {
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(self.chunk.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&chunk_sum(self.number, &self.chunk).to_le_bytes());
        self.file.write_all_at(&head, self.offset)?;
        self.file.write_all_at(&self.chunk, self.offset + 8)?;
        self.offset += 8 + self.chunk.len() as u64;
        self.number += 1;
        self.chunk.clear();
        if self.offset - self.synced >= STEP {
            self.file.sync_data()?;
            self.synced = self.offset;
        }
        Ok(())
    }

    /// Ends the file and makes it durable; its length.
    pub fn finish(mut self) -> io::Result<u64> {
        if !self.chunk.is_empty() {
            self.put_chunk()?;
        }
        self.put_chunk()?;
        self.file.sync_data()?;
        Ok(self.offset)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.put_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the state out of a snapshot file; each byte it gives has been verified, and the end is reported only at a good end.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<dyn DiskFile>,
    offset: u64,
    length: u64,
    number: u64,
    chunk: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Reader {
    /// Checks the header.
    pub fn open(file: Arc<dyn DiskFile>, path: &Path, cluster: ClusterId) -> Result<(RaftSnapshotMeta, Self)> {
        let failed = |source: io::Error| Error::from_io(source, "cannot read a snapshot").with("file", path.display());
        let short = || corrupt(path, 0, "the snapshot is too short for its header");
        let length = file.len().map_err(failed)?;
        let mut start = vec![0; (length as usize).min(PREAMBLE_LEN + 4)];
        file.read_exact_at(&mut start, 0).map_err(failed)?;
        let mut fields = Fields(&start);
        check_preamble(&mut fields, path, MAGIC, Some(cluster))?;
        let meta_len = fields.u32().ok_or_else(short)? as usize;
        let offset = (start.len() + meta_len + 4) as u64;
        if meta_len > META_LEN_MAX || offset > length {
            return Err(short());
        }
        let mut meta = vec![0; meta_len];
        let mut sum = [0; 4];
        file.read_exact_at(&mut meta, start.len() as u64).map_err(failed)?;
        file.read_exact_at(&mut sum, (start.len() + meta_len) as u64).map_err(failed)?;
        if u32::from_le_bytes(sum) != crc32c(&[&start, &meta]) {
            return Err(corrupt(path, 0, "checksum of the snapshot's header differs"));
        }
        let meta = RaftSnapshotMeta::decode(meta.as_slice())
            .map_err(|source| corrupt(path, 0, "cannot decode the snapshot's header").caused_by(source))?;
        Ok((meta, Self { file, offset, length, number: 0, chunk: Vec::new(), taken: 0, ended: false }))
    }

    /// Reads all that is left, to see whether it is good.
    pub fn verify(mut self, path: &Path) -> Result<()> {
        while !self.ended {
            let offset = self.offset;
            self.next_chunk().map_err(|source| {
                let kind = source.kind();
                let error = Error::from_io(source, "cannot read a snapshot").with("file", path.display());
                match kind {
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                        corrupt(path, offset, "the snapshot is damaged").caused_by(error)
                    }
                    _ => error.with("offset", offset),
                }
            })?;
        }
        Ok(())
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut head = [0; 8];
        self.file.read_exact_at(&mut head, self.offset)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let sum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > CHUNK {
            return Err(invalid("a chunk has an impossible length"));
        }
        self.chunk.resize(length, 0);
        self.taken = 0;
        self.file.read_exact_at(&mut self.chunk, self.offset + 8)?;
        if sum != chunk_sum(self.number, &self.chunk) {
            return Err(invalid("checksum of a chunk differs"));
        }
        self.offset += 8 + length as u64;
        self.number += 1;
        self.ended = length == 0;
        if self.ended && self.offset != self.length {
            return Err(invalid("there is something behind the end"));
        }
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.chunk.len() && !self.ended {
            self.next_chunk()?;
        }
        let length = out.len().min(self.chunk.len() - self.taken);
        out[..length].copy_from_slice(&self.chunk[self.taken..self.taken + length]);
        self.taken += length;
        Ok(length)
    }
}
