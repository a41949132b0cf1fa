//! Files that were deleted while somebody else had them open: they keep a name and stay charged until they are let go.
//!
//! What always holds: such a file stands in `orphans/` and is counted in `Tier::used`; nobody finds it by its content's key.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use curvine_types::Result;

use crate::disk;
use crate::lease;
use crate::tier::{Tier, adjust};

impl Tier {
    pub(crate) fn orphan_dir(&self) -> PathBuf {
        self.dir().join("orphans")
    }

    /// A name in the directory of orphans that nobody has.
    pub(crate) fn orphan_name(&self, path: &Path) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unique: u32 = rand::random();
        self.orphan_dir().join(format!("{name}.{unique:08x}.{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes the name from a file that somebody has open. It is charged as an orphan; that of its content is the caller's.
    pub(crate) fn orphan(&self, path: &Path) -> Result<()> {
        let name = self.orphan_name(path);
        match std::fs::rename(path, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.fault(error, "cannot set an open file aside", path)),
            Ok(()) => {
                self.adopt_orphan(name);
                Ok(())
            }
        }
    }

    /// Charges a file in the directory of orphans.
    pub(crate) fn adopt_orphan(&self, name: PathBuf) {
        let bytes = std::fs::metadata(&name).map_or(0, |meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512);
        adjust(&self.used, 0, bytes);
        tracing::debug!(file = %name.display(), bytes, "an open file has no content any more");
        self.orphans.lock().insert(name, bytes);
    }

    /// At the start: what an earlier run left.
    pub(crate) fn find_orphans(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.orphan_dir())? {
            self.adopt_orphan(entry?.path());
        }
        Ok(())
    }

    /// Unlinks those that were let go, and charges the others for what they have grown to.
    pub(crate) fn reap_orphans(&self) {
        let names: Vec<PathBuf> = self.orphans.lock().keys().cloned().collect();
        for name in names {
            let now = match File::open(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(_) => continue,
                // A file system that cannot tell keeps it until the machine is started anew.
                Ok(file) if lease::is_alone(&file).unwrap_or(false) => match self.disk.unlink(&name) {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::warn!(file = %name.display(), %error, "cannot delete a file that was let go");
                        continue;
                    }
                },
                Ok(file) => disk::attr_of(&file).ok().map(|attr| attr.blocks * 512),
            };
            let mut orphans = self.orphans.lock();
            let before = match now {
                Some(bytes) => orphans.insert(name, bytes),
                None => orphans.remove(&name),
            };
            adjust(&self.used, before.unwrap_or(0), now.unwrap_or(0));
        }
    }

    /// Bytes that they take.
    pub(crate) fn orphaned(&self) -> u64 {
        self.orphans.lock().values().sum()
    }
}
