//! Changes of an HDFS.
//!
//! Always: a file is written under another name and renamed when it is whole. Where nothing may be replaced the NameNode sees to
//! that; where a version is to be replaced, it is compared just before.

use curvine_types::{Error, ErrorKind, Result};

use super::{HdfsUfs, is_apart, is_version};
use crate::{Condition, Expect, Object, Source};

/// Where files are until they are whole.
pub(super) const UPLOADS: &str = ".curvine-uploads";
/// Bytes moved at a time.
const STEP: u64 = 4 << 20;

/// The directory that a key is in.
fn parent(key: &str) -> &str {
    key.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// FNV-1a, so that a key has the same uploads in every process.
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl HdfsUfs {
    fn usable(&self, key: &str) -> Result<()> {
        if key.is_empty() || is_apart(key) || !self.cluster.can_name(key) {
            return Err(Error::new(ErrorKind::InvalidArgument, "this key cannot be changed").with("key", key));
        }
        Ok(())
    }

    pub(super) async fn store_file(&self, key: &str, source: &dyn Source, when: &Condition) -> Result<Object> {
        self.usable(key)?;
        let uploads = self.path(UPLOADS);
        let mine = format!("{:016x}-", hash(key));
        self.remove_earlier(&uploads, &mine).await?;
        let part = format!("{uploads}/{mine}{:016x}", rand::random::<u64>());
        let stored = self.write_and_rename(&part, key, source, when).await;
        if stored.is_err() {
            let _ = self.cluster.remove(&part).await;
        }
        // It goes when nothing is in it.
        let _ = self.cluster.remove(&uploads).await;
        stored
    }

    /// What was begun of the same key before.
    async fn remove_earlier(&self, uploads: &str, mine: &str) -> Result<()> {
        use futures::StreamExt;

        let mut entries = self.cluster.list(uploads);
        while let Some(entry) = entries.next().await {
            match entry {
                Ok(entry) if entry.name.starts_with(mine) => {
                    self.cluster.remove(&format!("{uploads}/{}", entry.name)).await?;
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn write_and_rename(&self, part: &str, key: &str, source: &dyn Source, when: &Condition) -> Result<Object> {
        let mut file = self.cluster.create(part).await?;
        let mut offset = 0;
        while offset < source.size() {
            let data = source.read(offset, STEP.min(source.size() - offset)).await?;
            offset += data.len() as u64;
            file.write(data).await?;
        }
        file.close().await?;
        source.check().await?;
        let lost = || Error::new(ErrorKind::Conflict, "a later upload has taken this one's place").with("key", key);
        let written = self.cluster.status(part).await?.ok_or_else(lost)?;
        if written.size != source.size() {
            return Err(Error::new(ErrorKind::Unavailable, "the store has not taken all of the file")
                .with("key", key)
                .with("have", written.size)
                .with("want", source.size()));
        }
        let written = super::object(key, &written);
        // An attempt before this one may have been the last that was heard of.
        if let Some(earlier) = self.renamed.take(key, source.token())
            && self.stat(key).await?.as_ref() == Some(&earlier)
        {
            let _ = self.cluster.remove(part).await;
            return Ok(earlier);
        }
        let there = self.stat(key).await?;
        let fits = match (when, &there) {
            (_, Some(there)) if there.directory => {
                return Err(Error::new(ErrorKind::IsADirectory, "the store has a directory there").with("key", key));
            }
            (Condition::Any, _) | (Condition::Absent, None) => true,
            (Condition::Is(expect), Some(there)) => is_version(there, expect),
            _ => false,
        };
        let other = || Error::new(ErrorKind::VersionMismatch, "the store has another file there").with("key", key);
        if !fits {
            return Err(other());
        }
        self.cluster.make(&self.path(parent(key))).await?;
        self.renamed.keep(key, source.token(), written.clone());
        // A rename keeps the time.
        match self.cluster.rename(part, &self.path(key), *when != Condition::Absent).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(other()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(lost().caused_by(error)),
            Err(error) => return Err(error),
        }
        self.renamed.take(key, source.token());
        Ok(written)
    }

    pub(super) async fn make(&self, key: &str) -> Result<()> {
        self.usable(key)?;
        self.cluster.make(&self.path(key)).await
    }

    /// A directory, which is empty, if the key ends in `/`; otherwise a file.
    pub(super) async fn remove(&self, key: &str) -> Result<()> {
        self.usable(key)?;
        // A NameNode takes both alike.
        match self.stat(key.trim_end_matches('/')).await? {
            None => Ok(()),
            Some(there) if there.directory == key.ends_with('/') => self.cluster.remove(&self.path(key)).await,
            Some(there) if there.directory => {
                Err(Error::new(ErrorKind::IsADirectory, "the store has a directory there").with("key", key))
            }
            Some(_) => Err(Error::new(ErrorKind::NotADirectory, "the store has a file there").with("key", key)),
        }
    }

    pub(super) async fn rename_file(&self, from: &str, to: &str, expect: &Expect) -> Result<Object> {
        self.usable(from).and_then(|()| self.usable(to))?;
        // As in an attempt whose answer was lost.
        if let Some(earlier) = self.renamed.take(to, from)
            && self.stat(to).await?.as_ref() == Some(&earlier)
            && self.stat(from).await?.is_none()
        {
            return Ok(earlier);
        }
        self.check(from, expect).await?;
        let gone = || Error::new(ErrorKind::NotFound, "not in the under file system").with("key", from);
        let moved = Object { key: to.to_string(), ..self.stat(from).await?.ok_or_else(gone)? };
        self.cluster.make(&self.path(parent(to))).await?;
        self.renamed.keep(to, from, moved.clone());
        self.cluster.rename(&self.path(from), &self.path(to), true).await?;
        self.renamed.take(to, from);
        Ok(moved)
    }

    /// A directory replaces an empty one only.
    pub(super) async fn rename_tree(&self, from: &str, to: &str) -> Result<u64> {
        self.usable(from).and_then(|()| self.usable(to))?;
        if let Some(earlier) = self.renamed.take(to, from)
            && self.stat(from.trim_end_matches('/')).await?.is_none()
            && self.stat(to.trim_end_matches('/')).await?.is_some_and(|there| there.mtime == earlier.mtime)
        {
            return Ok(1);
        }
        let gone = || Error::new(ErrorKind::NotFound, "not in the under file system").with("key", from);
        let there = self.stat(from.trim_end_matches('/')).await?.filter(|there| there.directory).ok_or_else(gone)?;
        self.cluster.make(&self.path(parent(to))).await?;
        self.renamed.keep(to, from, there);
        self.cluster.rename(&self.path(from), &self.path(to), true).await?;
        self.renamed.take(to, from);
        Ok(1)
    }
}
