//! Reading entries back: planned under the log's lock, run outside it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use curvine_types::{Error, Result};

use super::segment;
use crate::disk::DiskFile;
use crate::entry::Entry;

/// What to read: entries of files first, then those from the cache.
pub(crate) struct ReadPlan {
    pub files: Vec<FileRead>,
    pub cached: Vec<Entry>,
}

/// A run of neighbouring records of one file.
pub(crate) struct FileRead {
    pub path: Arc<Path>,
    pub file: Arc<dyn DiskFile>,
    pub start: u64,
    /// End of each record.
    pub ends: Vec<u64>,
}

impl ReadPlan {
    /// Reads the files of the plan; blocks.
    pub fn run(self) -> Result<Vec<Entry>> {
        let from_files: usize = self.files.iter().map(|read| read.ends.len()).sum();
        let mut entries = Vec::with_capacity(from_files + self.cached.len());
        for read in &self.files {
            read.read_into(&mut entries)?;
        }
        entries.extend(self.cached);
        Ok(entries)
    }
}

impl FileRead {
    fn read_into(&self, entries: &mut Vec<Entry>) -> Result<()> {
        let end = self.ends.last().copied().unwrap_or(self.start);
        let mut bytes = vec![0; (end - self.start) as usize];
        self.file
            .read_exact_at(&mut bytes, self.start)
            .map_err(|source| Error::from_io(source, "cannot read the log").with("file", self.path.display()))?;
        let bytes = Bytes::from(bytes);
        let mut start = self.start;
        for end in &self.ends {
            let record = bytes.slice((start - self.start) as usize..(end - self.start) as usize);
            entries.push(segment::read_record(&record, &self.path, start)?);
            start = *end;
        }
        Ok(())
    }
}
