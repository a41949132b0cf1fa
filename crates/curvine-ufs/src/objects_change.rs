//! Changes of a store of objects that need nothing but what all of them have.
//!
//! Always: an object appears whole; it carries the token of what it was made from where the store keeps metadata, so that an attempt
//! whose answer was lost is not taken for somebody else's.

use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use opendal::options::DeleteOptions;

use crate::objects::{Objects, compare, is_plain};
use crate::{Collected, Condition, Expect, Object, Source, Wanted};

/// Objects of a directory copied or deleted at once.
const MOVES_AT_ONCE: usize = 16;
/// The object's metadata that holds the token.
pub(crate) const TOKEN: &str = "curvine-content";
/// The same for stores that take letters only, as Azure does.
pub(crate) const TOKEN_OF_LETTERS: &str = "curvinecontent";
/// Bytes moved at a time by a copy that the store does not make itself.
const STEP: u64 = 8 << 20;

impl Objects {
    /// What the store has after an attempt to put the source there.
    pub(crate) async fn settle(&self, key: &str, source: &dyn Source, stored: Result<()>) -> Result<Object> {
        match stored {
            Ok(()) => {}
            // Perhaps by an attempt of ours.
            Err(error) if error.kind() == ErrorKind::VersionMismatch => {
                return match self.head(key).await? {
                    Some((object, Some(token))) if token == source.token() && object.size == source.size() => {
                        Ok(object)
                    }
                    _ => Err(error),
                };
            }
            Err(error) => return Err(error),
        }
        let seen = self.head(key).await?;
        match seen {
            Some((object, token))
                if object.size == source.size() && token.as_deref().is_none_or(|token| token == source.token()) =>
            {
                Ok(object)
            }
            Some((object, _)) => {
                Err(Error::new(ErrorKind::VersionMismatch, "the store shows another object than was stored")
                    .with("key", key)
                    .with("have", object.size)
                    .with("want", source.size()))
            }
            None => {
                Err(Error::new(ErrorKind::VersionMismatch, "the store does not show what was stored").with("key", key))
            }
        }
    }

    /// For stores without conditions.
    pub(crate) async fn compare_now(&self, key: &str, when: &Condition) -> Result<()> {
        let there = self.head(key).await?.map(|(object, _)| object);
        let fits = match (when, &there) {
            (Condition::Any, _) | (Condition::Absent, None) => true,
            (Condition::Is(expect), Some(there)) => compare(there, expect).is_ok(),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::new(ErrorKind::VersionMismatch, "the store has another object there").with("key", key))
    }

    /// An object and its token.
    async fn head(&self, key: &str) -> Result<Option<(Object, Option<String>)>> {
        match self.operator.stat(key).await {
            Ok(metadata) => {
                let token = metadata
                    .user_metadata()
                    .and_then(|all| all.get(TOKEN).or(all.get(TOKEN_OF_LETTERS)).map(str::to_string));
                Ok(Some((self.file(key, &metadata), token)))
            }
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(key)(error)),
        }
    }

    pub(crate) async fn put_marker(&self, key: &str) -> Result<()> {
        if !is_plain(key) || !key.ends_with('/') {
            return Err(Error::new(ErrorKind::InvalidArgument, "this key cannot be a directory").with("key", key));
        }
        self.operator.create_dir(key).await.map_err(self.failed(key))
    }

    pub(crate) async fn remove_marker(&self, key: &str) -> Result<()> {
        let failed = self.failed(key);
        let mut below = self.lister(key, 2).await.map_err(&failed)?;
        while let Some(entry) = below.next().await.transpose().map_err(&failed)? {
            if entry.path() != key {
                return Err(Error::new(ErrorKind::DirectoryNotEmpty, "the store has objects below the directory")
                    .with("key", key));
            }
        }
        self.remove(key).await
    }

    pub(crate) async fn remove(&self, key: &str) -> Result<()> {
        if !is_plain(key) || key.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "this key cannot be removed").with("key", key));
        }
        match self.operator.delete_options(key, DeleteOptions::default()).await {
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(()),
            deleted => deleted.map_err(self.failed(key)),
        }
    }

    pub(crate) async fn move_object(&self, from: &str, to: &str, expect: &Expect) -> Result<Object> {
        let object = self.copy(from, to, Some(expect)).await?;
        self.remove(from).await?;
        Ok(object)
    }

    async fn copy(&self, from: &str, to: &str, expect: Option<&Expect>) -> Result<Object> {
        let gone = || Error::new(ErrorKind::NotFound, "not in the under file system").with("key", from);
        let (seen, _) = self.head(from).await?.ok_or_else(gone)?;
        if let Some(expect) = expect {
            compare(&seen, expect).map_err(|what| Error::new(ErrorKind::VersionMismatch, what).with("key", from))?;
        }
        if self.can.copy {
            self.operator.copy(from, to).await.map_err(self.failed(from))?;
        } else {
            self.copy_through(from, to, &Expect::of(&seen)).await?;
        }
        let lost = || Error::new(ErrorKind::Unavailable, "the store does not show what was copied").with("key", to);
        let (copied, _) = self.head(to).await?.ok_or_else(lost)?;
        if copied.size != seen.size {
            return Err(
                Error::new(ErrorKind::VersionMismatch, "the object changed while it was copied").with("key", from)
            );
        }
        Ok(copied)
    }

    /// Reads and writes the object, for stores that do not copy.
    async fn copy_through(&self, from: &str, to: &str, expect: &Expect) -> Result<()> {
        let mut parts = Vec::new();
        let mut offset = 0;
        while offset < expect.size {
            let len = STEP.min(expect.size - offset);
            let part = Collected::new(len);
            self.fetch(Wanted { key: from, offset, len, expect }, &part).await?;
            let part = part.whole(len)?;
            offset += part.len() as u64;
            parts.push(part);
        }
        let whole = opendal::Buffer::from(parts);
        self.operator.write(to, whole).await.map(|_| ()).map_err(self.failed(to))
    }

    /// Copies what is below `from` to the same place below `to`.
    async fn copy_below(&self, key: &str, from: &str, to: &str) -> Result<()> {
        let new = format!("{to}{}", key.strip_prefix(from).unwrap_or_default());
        if key.ends_with('/') { self.put_marker(&new).await } else { self.copy(key, &new, None).await.map(|_| ()) }
    }

    pub(crate) async fn move_directory(&self, from: &str, to: &str, limit: u64) -> Result<u64> {
        let failed = self.failed(from);
        let mut keys = Vec::new();
        let mut below = self.operator.lister_with(from).recursive(true).await.map_err(&failed)?;
        while let Some(entry) = below.next().await.transpose().map_err(&failed)? {
            let key = entry.path().to_string();
            if !is_plain(&key) || !key.starts_with(from) {
                return Err(
                    Error::new(ErrorKind::NotSupported, "a key below the directory is no file name").with("key", key)
                );
            }
            keys.push(key);
            if keys.len() as u64 > limit {
                return Err(Error::new(ErrorKind::CrossDevice, "too many objects below the directory to rename it")
                    .with("key", from)
                    .with("limit", limit));
            }
        }
        let below = || keys.iter().filter(|key| *key != from);
        let copies: Vec<BoxFuture<'_, Result<()>>> =
            below().map(|key| self.copy_below(key, from, to).boxed()).collect();
        all_of(copies).await?;
        self.put_marker(to).await?;
        // The directory's own marker last, so that what is left after a failure is still a directory.
        let deletes: Vec<BoxFuture<'_, Result<()>>> = below().map(|key| self.remove(key).boxed()).collect();
        all_of(deletes).await?;
        self.remove(from).await?;
        Ok(keys.len() as u64)
    }
}

/// Some at a time; the first error ends it.
async fn all_of(work: Vec<BoxFuture<'_, Result<()>>>) -> Result<()> {
    let mut work = futures::stream::iter(work).buffer_unordered(MOVES_AT_ONCE);
    while let Some(done) = work.next().await {
        done?;
    }
    Ok(())
}
