//! A disk that fails as a file tells it, so that tests of whole processes can see what a master does with a broken disk.
//!
//! Each line of the file is `<write|sync|create|rename> <part of a file's name> <errno>`; while the file is there, such operations
//! fail so. Only a config that says `testing = true` leads here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, RealDisk};

/// The real disk with the faults that `plan` lists at the moment.
#[derive(Clone, Debug)]
pub(crate) struct PlantedDisk {
    plan: Arc<PathBuf>,
}

#[derive(Debug)]
struct PlantedFile {
    disk: PlantedDisk,
    name: String,
    file: Arc<dyn DiskFile>,
}

impl PlantedDisk {
    pub fn new(plan: PathBuf) -> Self {
        tracing::warn!(plan = %plan.display(), "disk faults are planted by a test");
        Self { plan: Arc::new(plan) }
    }

    fn check(&self, operation: &str, name: &str) -> io::Result<()> {
        let Ok(plan) = std::fs::read_to_string(self.plan.as_path()) else { return Ok(()) };
        let fault = plan.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let fits = words.next() == Some(operation) && name.contains(words.next()?);
            words.next()?.parse().ok().filter(|_| fits)
        });
        fault.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(PlantedFile { disk: self.clone(), name: name(path), file })
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Disk for PlantedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.check("create", &name(path))?;
        Ok(self.wrap(path, RealDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(path, RealDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check("rename", &name(to))?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }
}

impl DiskFile for PlantedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.check("write", &self.name)?;
        self.file.write_all_at(bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.check("sync", &self.name)?;
        self.file.sync_data()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
