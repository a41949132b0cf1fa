//! Disk space set aside in the file `reserve`, given up when the disk is full so that what is under way can be finished.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;

/// The reserve of one directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> Self {
        Self { disk, path: dir.join("reserve"), bytes, held: false }
    }

    /// Takes the space, if there is twice as much. Whether it is held now.
    pub fn take(&mut self) -> bool {
        if self.held || self.bytes == 0 {
            return true;
        }
        self.held = match self.try_take() {
            Ok(held) => held,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                tracing::warn!(file = %self.path.display(), "this file system cannot set space aside; the log goes without");
                self.bytes = 0;
                true
            }
            Err(error) => {
                tracing::debug!(file = %self.path.display(), %error, "cannot take the reserve");
                let _ = self.disk.remove(&self.path); // a part of a reserve is only in the way
                false
            }
        };
        self.held
    }

    fn try_take(&self) -> std::io::Result<bool> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if let Ok(file) = self.disk.open(&self.path)
            && file.len()? >= self.bytes
        {
            return Ok(true);
        }
        if self.disk.free_bytes(dir)? < self.bytes.saturating_mul(2) {
            return Ok(false);
        }
        self.disk.create(&self.path)?.allocate(self.bytes)?;
        Ok(true)
    }

    /// Gives the space up; false if there was none.
    pub fn release(&mut self) -> bool {
        let released = self.held && self.bytes > 0 && self.disk.remove(&self.path).is_ok();
        self.held = false;
        released
    }
}
