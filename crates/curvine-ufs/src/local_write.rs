//! Changes of a directory that is an under file system.
//!
//! Always: a file appears whole, by renaming, and is on the disk by then; half ones lie in a directory of their own, which no
//! listing shows, and go when the same file is stored again.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::local::{LocalUfs, Tree, check};
use crate::{Condition, Expect, Object, Source};

/// Where files are until they are whole.
pub(crate) const UPLOADS: &str = ".curvine-uploads";
/// Bytes moved at a time.
const STEP: u64 = 4 << 20;
/// Attempts to make something below a directory that others remove when it is empty.
const ATTEMPTS: usize = 16;

fn failed(what: &'static str, key: &str) -> impl Fn(Errno) -> Error {
    let key = key.to_string();
    move |errno| match errno {
        Errno::NOTEMPTY | Errno::EXIST => {
            Error::new(ErrorKind::DirectoryNotEmpty, "the directory is not empty in the under file system")
                .with("key", &key)
        }
        errno => Error::from_io(errno.into(), what).with("key", &key),
    }
}

/// Directory and last part of a key.
fn parts(key: &str) -> (&str, &str) {
    let key = key.strip_suffix('/').unwrap_or(key);
    key.rsplit_once('/').unwrap_or(("", key))
}

/// FNV-1a, so that a key has the same uploads in every process.
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl LocalUfs {
    pub(crate) async fn store_file(&self, key: &str, source: &dyn Source, when: &Condition) -> Result<Object> {
        let part = format!("{:016x}-{:016x}", hash(key), rand::random::<u64>());
        let file = {
            let (key, part) = (key.to_string(), part.clone());
            Arc::new(self.blocking(move |tree| tree.begin(&key, &part)).await?)
        };
        let mut offset = 0;
        while offset < source.size() {
            let data = source.read(offset, STEP.min(source.size() - offset)).await?;
            let (file, at, key) = (file.clone(), offset, key.to_string());
            offset += data.len() as u64;
            self.blocking(move |_| {
                file.write_all_at(&data, at)
                    .map_err(|source| Error::from_io(source, "cannot write in the under file system").with("key", key))
            })
            .await?;
        }
        source.check().await?;
        let (key, when) = (key.to_string(), when.clone());
        self.blocking(move |tree| tree.finish(&key, &part, &file, &when)).await
    }
}

impl Tree {
    /// A new file for an upload; earlier ones of the same key go.
    fn begin(&self, key: &str, part: &str) -> Result<std::fs::File> {
        let failed = failed("cannot begin a file of the under file system", key);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        for _ in 0..ATTEMPTS {
            self.make_directory(&format!("{UPLOADS}/"))?;
            let Some(dir) = self.open(UPLOADS, OFlags::RDONLY | OFlags::DIRECTORY)? else { continue };
            let earlier = format!("{:016x}-", hash(key));
            for entry in rustix::fs::Dir::read_from(dir.as_fd()).map_err(&failed)? {
                let entry = entry.map_err(&failed)?;
                if entry.file_name().to_bytes().starts_with(earlier.as_bytes()) {
                    let _ = rustix::fs::unlinkat(&dir, entry.file_name(), AtFlags::empty());
                }
            }
            match rustix::fs::openat(&dir, part, flags, Mode::from_raw_mode(0o644)) {
                Ok(fd) => return Ok(fd.into()),
                // Somebody else found it empty just now.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed(errno)),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "the directory for unfinished files comes and goes").with("key", key))
    }

    /// The file becomes the key's, if that is now as it must be.
    fn finish(&self, key: &str, part: &str, file: &std::fs::File, when: &Condition) -> Result<Object> {
        let failed = failed("cannot finish a file of the under file system", key);
        file.sync_all()
            .map_err(|source| Error::from_io(source, "cannot sync in the under file system").with("key", key))?;
        let (dir_key, name) = parts(key);
        let dir = self.directory(dir_key)?;
        let there = self.stat(key)?;
        let fits = match (when, &there) {
            (_, Some(there)) if there.directory => {
                return Err(Error::new(ErrorKind::IsADirectory, "the store has a directory there").with("key", key));
            }
            (Condition::Any, _) | (Condition::Absent, None) => true,
            (Condition::Is(expect), Some(there)) => Expect::of(there) == *expect,
            _ => false,
        };
        if !fits {
            return Err(Error::new(ErrorKind::VersionMismatch, "the store has another file there").with("key", key));
        }
        let uploads = self.open(UPLOADS, OFlags::PATH | OFlags::DIRECTORY)?;
        let gone = || Error::new(ErrorKind::Conflict, "a later upload has taken this one's place").with("key", key);
        let uploads = uploads.ok_or_else(gone)?;
        rustix::fs::renameat(&uploads, part, &dir, name).map_err(|errno| match errno {
            Errno::NOENT => gone(),
            errno => failed(errno),
        })?;
        rustix::fs::fsync(&dir).map_err(&failed)?;
        self.tidy();
        self.stat(key)?.ok_or_else(gone)
    }

    /// The directory for uploads goes when nothing is in it.
    fn tidy(&self) {
        if let Ok(Some(root)) = self.open("", OFlags::PATH | OFlags::DIRECTORY) {
            let _ = rustix::fs::unlinkat(&root, UPLOADS, AtFlags::REMOVEDIR);
        }
    }

    /// A directory that can be synced, made if it is not there.
    fn directory(&self, key: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if let Some(dir) = self.open(key, flags)? {
            return Ok(dir);
        }
        self.make_directory(&format!("{key}/"))?;
        let gone = || Error::new(ErrorKind::NotFound, "no such directory in the under file system").with("key", key);
        self.open(key, flags)?.ok_or_else(gone)
    }

    pub(crate) fn make_directory(&self, key: &str) -> Result<()> {
        let key = key.strip_suffix('/').unwrap_or(key);
        if key.is_empty() || self.open(key, OFlags::PATH | OFlags::DIRECTORY)?.is_some() {
            return Ok(());
        }
        let (parent, name) = parts(key);
        let dir = self.directory(parent)?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => rustix::fs::fsync(&dir).map_err(failed("cannot sync a directory of the under file system", key)),
            Err(Errno::EXIST) if self.stat(key)?.is_some_and(|there| there.directory) => Ok(()),
            Err(errno) => Err(failed("cannot make a directory in the under file system", key)(errno)),
        }
    }

    pub(crate) fn remove(&self, key: &str, flags: AtFlags) -> Result<()> {
        let (parent, name) = parts(key);
        let Some(dir) = self.open(parent, OFlags::RDONLY | OFlags::DIRECTORY)? else { return Ok(()) };
        match rustix::fs::unlinkat(&dir, name, flags) {
            Ok(()) => rustix::fs::fsync(&dir).map_err(failed("cannot sync a directory of the under file system", key)),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("cannot remove from the under file system", key)(errno)),
        }
    }

    pub(crate) fn rename_file(&self, from: &str, to: &str, expect: &Expect) -> Result<Object> {
        let gone = || Error::new(ErrorKind::NotFound, "not in the under file system").with("key", from);
        let file = std::fs::File::from(self.open(from, OFlags::RDONLY)?.ok_or_else(gone)?);
        check(from, &file, expect)?;
        self.rename(from, to)?;
        self.stat(to)?.ok_or_else(gone)
    }

    /// Renames a file or directory; a directory replaces an empty one only.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let failed = failed("cannot rename in the under file system", from);
        let gone = || Error::new(ErrorKind::NotFound, "not in the under file system").with("key", from);
        let ((from_dir, from_name), (to_dir, to_name)) = (parts(from), parts(to));
        let from_fd = self.open(from_dir, OFlags::RDONLY | OFlags::DIRECTORY)?.ok_or_else(gone)?;
        let to_fd = self.directory(to_dir)?;
        rustix::fs::renameat_with(&from_fd, from_name, &to_fd, to_name, RenameFlags::empty()).map_err(&failed)?;
        rustix::fs::fsync(&from_fd).and_then(|()| rustix::fs::fsync(&to_fd)).map_err(&failed)
    }
}
