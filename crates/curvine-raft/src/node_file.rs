//! The identity of a replica's directory, in its file `node`: which cluster, and which node it makes of its process.
//!
//! Written once, when the directory is initialised; the node id is random, so that a wiped disk never votes as its former self.

use std::path::Path;

use curvine_types::{ClusterId, Error, ErrorKind, Result};

use crate::disk::{Disk, replace_file};
use crate::format::{Fields, check_preamble, corrupt, crc32c, put_preamble};

const MAGIC: &[u8; 8] = b"CVnode\r\n";
pub(crate) const NAME: &str = "node";
/// There from before a cluster is founded here until its log has begun.
pub(crate) const FOUNDER: &str = "founder";

/// Which cluster a directory belongs to and which node it makes of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFile {
    pub cluster: ClusterId,
    /// Random, made with the directory; never 0.
    pub node: u64,
}

impl NodeFile {
    /// Initialises a directory, which must be empty or absent, and gives it a random node id.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, cluster: ClusterId) -> Result<Self> {
        let failed = |source: std::io::Error| {
            Error::from_io(source, "cannot initialise the directory").with("path", dir.display())
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name == "node.tmp" || name == FOUNDER {
                continue; // an earlier initialisation that did not finish
            }
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "the directory for a new log must be empty; name another one or remove what is there",
            )
            .with("path", dir.display())
            .with("name", name.display()));
        }
        let node = NodeFile { cluster, node: rand::random_range(1..=u64::MAX) };
        let mut content = Vec::new();
        put_preamble(&mut content, MAGIC, cluster);
        content.extend_from_slice(&node.node.to_le_bytes());
        content.extend_from_slice(&crc32c(&[&content]).to_le_bytes());
        replace_file(disk, &dir.join(NAME), &content)?;
        if let Some(parent) = dir.canonicalize().map_err(failed)?.parent() {
            disk.sync_dir(parent).map_err(failed)?; // the directory itself may be new
        }
        Ok(node)
    }

    /// Reads the identity; `None` if the directory does not exist, is empty or holds only an unfinished initialisation.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(NAME);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Self::absent(dir),
            Err(source) => {
                return Err(Error::from_io(source, "cannot read the node file").with("file", path.display()));
            }
        };
        let damaged = || corrupt(&path, 0, "the node file is damaged; restore it from a copy or wipe the directory");
        let mut fields = Fields(&content);
        let cluster = check_preamble(&mut fields, &path, MAGIC, None)?;
        let node = fields.u64().ok_or_else(damaged)?;
        let covered = content.len() - fields.0.len();
        let sum = fields.u32().ok_or_else(damaged)?;
        if sum != crc32c(&[&content[..covered]]) || !fields.0.is_empty() || node == 0 {
            return Err(damaged());
        }
        Ok(Some(NodeFile { cluster, node }))
    }

    /// Without a node file there must be no log either: losing the identity must not look like a new directory.
    fn absent(dir: &Path) -> Result<Option<Self>> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::from_io(source, "cannot read the directory of the log").with("path", dir.display()));
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("log-") || name.starts_with("snap-") || name == "vote" {
                return Err(Error::new(ErrorKind::Corrupt, "the directory holds a log but its node file is missing")
                    .with("path", dir.display())
                    .with("name", name));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn a_directory_keeps_its_identity_and_is_initialised_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(NodeFile::load(&log).unwrap(), None);
        let cluster = ClusterId([7; 16]);
        let made = NodeFile::create(&RealDisk, &log, cluster).unwrap();
        assert_eq!(NodeFile::load(&log).unwrap(), Some(made));
        let error = NodeFile::create(&RealDisk, &log, cluster).unwrap_err();
        assert_eq!((error.kind(), error.get("name")), (ErrorKind::AlreadyExists, Some(NAME)));
    }

    #[test]
    fn a_damaged_or_lost_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        NodeFile::create(&RealDisk, dir.path(), ClusterId([7; 16])).unwrap();
        let path = dir.path().join(NAME);
        let good = std::fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let kind = NodeFile::load(dir.path()).unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Foreign), "byte {position}: {kind:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("log-00000000000000000000.seg"), b"x").unwrap();
        assert_eq!(NodeFile::load(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
