//! A directory of this machine, or one that is mounted on every worker, as an under file system.
//!
//! Always: nothing outside of the root is reached, whatever symbolic links say (a link that leads out of it, or is absolute,
//! is not there); special files are not there; a name that is not UTF-8 is left out and counted.

use std::io::ErrorKind as Os;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tracing::debug;

use crate::cursors::Cursors;
use crate::local_write::UPLOADS;
use crate::{Condition, Counters, Expect, ListPage, Object, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted};

pub(crate) struct LocalUfs {
    tree: Arc<Tree>,
    cursors: Arc<Cursors<Names>>,
    counters: Arc<Counters>,
}

/// Names of a directory that stand for no object: those of itself and its parent, and in the root that of what is being stored.
pub(crate) fn is_apart(dir: &str, name: &[u8]) -> bool {
    matches!(name, b"." | b"..") || dir.is_empty() && name == UPLOADS.as_bytes()
}

/// What blocking calls need.
pub(crate) struct Tree {
    root: PathBuf,
    counters: Arc<Counters>,
}

/// The keys of a directory that have not been told, the greatest first.
type Names = Vec<String>;

impl LocalUfs {
    /// `path` must be absolute.
    pub(crate) fn open(path: &str, counters: Arc<Counters>) -> Result<Self> {
        if !path.starts_with('/') {
            return Err(Error::new(ErrorKind::Config, "a file url has an absolute path, file:///path")
                .with("url", format!("file://{path}")));
        }
        let tree = Arc::new(Tree { root: PathBuf::from(path), counters: counters.clone() });
        Ok(Self { tree, cursors: Arc::new(Cursors::new()), counters })
    }

    /// Runs a blocking call where it blocks nobody.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let tree = self.tree.clone();
        let run = tokio::task::spawn_blocking(move || call(&tree));
        run.await.unwrap_or_else(|source| {
            Err(Error::new(ErrorKind::Internal, "a call to the under file system broke off").caused_by(source))
        })
    }

    async fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let (prefix, start_after) = (prefix.to_string(), start_after.to_string());
        let kept = self.cursors.take(&prefix, &start_after);
        let cursors = self.cursors.clone();
        self.blocking(move |tree| {
            let mut names = match kept {
                Some(names) => names,
                None => tree.names(&prefix, &start_after)?,
            };
            let (mut entries, mut last) = (Vec::new(), None);
            while entries.len() < limit.max(1)
                && let Some(key) = names.pop()
            {
                // One that has gone since the names were read is not told.
                entries.extend(tree.stat(key.trim_end_matches('/'))?);
                last = Some(key);
            }
            let next = last.filter(|_| !names.is_empty());
            if let Some(next) = &next {
                cursors.keep(&prefix, next, names);
            }
            Ok(ListPage { entries, next })
        })
        .await
    }
}

impl Tree {
    /// Opens below the root; `None`: not there, or the way leads out of the root.
    pub(crate) fn open(&self, key: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        let failed = |errno: Errno| {
            Error::from_io(errno.into(), "cannot open in the under file system")
                .with("key", key)
                .with("url", self.url())
        };
        // A FIFO must not make anybody wait; with PATH nothing is opened, and NONBLOCK would be refused.
        let patience = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK };
        let flags = flags | OFlags::CLOEXEC | patience;
        // An unreadable root is an error, not an empty tree.
        let root =
            rustix::fs::openat(CWD, &self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(|errno| {
            Error::new(ErrorKind::Ufs, "the root of the under file system cannot be opened")
                .with("url", self.url())
                .caused_by(std::io::Error::from(errno))
        })?;
        let path = if key.is_empty() { "." } else { key };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            return match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
                Ok(fd) => Ok(Some(fd)),
                // A rename went on beside; the kernel asks to try again.
                Err(Errno::AGAIN) if tries < 64 => {
                    tries += 1;
                    continue;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NXIO | Errno::NAMETOOLONG) => {
                    Ok(None)
                }
                Err(errno) => Err(failed(errno)),
            };
        }
    }

    fn url(&self) -> String {
        format!("file://{}", self.root.display())
    }

    pub(crate) fn stat(&self, key: &str) -> Result<Option<Object>> {
        if key == UPLOADS {
            return Ok(None);
        }
        let Some(fd) = self.open(key, OFlags::PATH)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&fd)
            .map_err(|errno| Error::from_io(errno.into(), "cannot stat in the under file system").with("key", key))?;
        let object = object(key, &stat);
        if object.is_none() {
            self.counters.skipped.fetch_add(1, Relaxed);
            debug!(key, "a special file of the under file system is left out");
        }
        Ok(object)
    }

    /// The keys of a directory after `start_after`, the greatest first.
    fn names(&self, prefix: &str, start_after: &str) -> Result<Names> {
        let key = prefix.trim_end_matches('/');
        let gone = || Error::new(ErrorKind::NotFound, "no such directory in the under file system").with("key", prefix);
        let failed =
            |errno: Errno| Error::from_io(errno.into(), "cannot list in the under file system").with("key", prefix);
        let Some(fd) = self.open(key, OFlags::RDONLY)? else { return Err(gone()) };
        if !rustix::fs::fstat(&fd).map_err(failed)?.is_dir() {
            return Err(gone());
        }
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(fd.as_fd()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if is_apart(key, name) {
                continue;
            }
            let Ok(name) = std::str::from_utf8(name) else {
                self.counters.skipped.fetch_add(1, Relaxed);
                debug!(name = %String::from_utf8_lossy(name), "a name that is not UTF-8 is left out");
                continue;
            };
            let mut key = format!("{prefix}{name}");
            // A link sorts as what it leads to.
            let directory = match entry.file_type() {
                FileType::Directory => true,
                FileType::Symlink | FileType::Unknown => self.stat(&key)?.is_some_and(|object| object.directory),
                _ => false,
            };
            if directory {
                key.push('/');
            }
            if key.as_str() > start_after {
                names.push(key);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    fn read(&self, key: &str, offset: u64, len: u64, expect: &Expect) -> Result<Bytes> {
        let failed = |source| Error::from_io(source, "cannot read in the under file system").with("key", key);
        let gone = || Error::new(ErrorKind::NotFound, "not in the under file system").with("key", key);
        if offset.checked_add(len).is_none_or(|end| end > expect.size) {
            return Err(Error::new(ErrorKind::InvalidArgument, "the range is beyond the end of the object"));
        }
        let file = std::fs::File::from(self.open(key, OFlags::RDONLY)?.ok_or_else(gone)?);
        check(key, &file, expect)?;
        let length = usize::try_from(len).map_err(|_| Error::new(ErrorKind::TooBig, "the range is too long"))?;
        let mut bytes = vec![0; length];
        match file.read_exact_at(&mut bytes, offset) {
            Err(source) if source.kind() == Os::UnexpectedEof => {}
            outcome => outcome.map_err(failed)?,
        }
        // Whoever wrote in between has moved size or time.
        check(key, &file, expect)?;
        Ok(bytes.into())
    }
}

/// `VersionMismatch` unless the open file is what was expected.
pub(crate) fn check(key: &str, file: &std::fs::File, expect: &Expect) -> Result<()> {
    let metadata = file.metadata();
    let metadata =
        metadata.map_err(|source| Error::from_io(source, "cannot stat in the under file system").with("key", key))?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::NotFound, "no longer a file in the under file system").with("key", key));
    }
    let time = time(metadata.mtime(), metadata.mtime_nsec());
    if metadata.len() != expect.size || expect.mtime.is_some_and(|want| want != time) {
        return Err(Error::new(ErrorKind::VersionMismatch, "the file is not the expected version")
            .with("key", key)
            .with("have", metadata.len())
            .with("want", expect.size));
    }
    Ok(())
}

fn object(key: &str, stat: &Stat) -> Option<Object> {
    let mtime = Some(time(stat.st_mtime, stat.st_mtime_nsec as i64));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let key = if key.is_empty() { String::new() } else { format!("{key}/") };
            Some(Object { key, directory: true, size: 0, mtime, etag: String::new() })
        }
        FileType::RegularFile => {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            Some(Object { key: key.to_string(), directory: false, size, mtime, etag: String::new() })
        }
        _ => None,
    }
}

trait IsDir {
    fn is_dir(&self) -> bool;
}

impl IsDir for Stat {
    fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.st_mode) == FileType::Directory
    }
}

fn time(seconds: i64, nanos: i64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
    let nanos = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    base.and_then(|base| base.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

impl Ufs for LocalUfs {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        let key = key.to_string();
        self.blocking(move |tree| tree.stat(&key)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        self.list(prefix, start_after, limit).boxed()
    }

    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        let Wanted { key, offset, len, expect } = wanted;
        let (key, expect) = (key.to_string(), expect.clone());
        async move {
            sink.take(0, self.blocking(move |tree| tree.read(&key, offset, len, &expect)).await?);
            Ok(())
        }
        .boxed()
    }

    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        self.store_file(key, source, when).boxed()
    }

    fn abort<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<()>> {
        // What is left of an upload goes when the same file is stored again.
        std::future::ready(Ok(())).boxed()
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        let key = key.to_string();
        self.blocking(move |tree| tree.make_directory(&key)).boxed()
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        let key = key.to_string();
        self.blocking(move |tree| tree.remove(&key, AtFlags::REMOVEDIR)).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        let key = key.to_string();
        self.blocking(move |tree| tree.remove(&key, AtFlags::empty())).boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        let (from, to, expect) = (from.to_string(), to.to_string(), expect.clone());
        self.blocking(move |tree| tree.rename_file(&from, &to, &expect)).boxed()
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, _limit: u64) -> BoxFuture<'a, Result<u64>> {
        let (from, to) = (from.to_string(), to.to_string());
        self.blocking(move |tree| tree.rename(&from, &to).map(|()| 1)).boxed()
    }

    fn survey<'a>(&'a self, prefix: &'a str, _: &'a SurveyMark, _: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        // Names of a local directory are names; what is left out are those that are no text, and what is neither file nor directory.
        let prefix = prefix.to_string();
        self.blocking(move |tree| tree.survey(&prefix)).boxed()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
