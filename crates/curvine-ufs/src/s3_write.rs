//! Changes of an object store that speaks S3.
//!
//! Always: an object appears whole; where the store knows conditions, nothing replaces what its caller has not seen; an object
//! carries the token of what it was made from, so that an attempt whose answer was lost is not taken for somebody else's.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;

use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use opendal::options::{DeleteOptions, WriteOptions};

use crate::s3::{S3Ufs, compare, file, is_plain, quoted};
use crate::s3_multipart::{Guard, Part, Upload};
use crate::{Condition, Expect, Object, Source};

/// Objects up to this size are stored with one request.
const WHOLE_MAX: u64 = 8 << 20;
/// Parts of larger ones, unless there would be too many of them.
const PART: u64 = 8 << 20;
const PARTS_MAX: u64 = 9000;
/// Parts of one object on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Objects of a directory copied or deleted at once.
const MOVES_AT_ONCE: usize = 16;
/// The object's metadata that holds the token.
const TOKEN: &str = "curvine-content";

impl S3Ufs {
    pub(crate) async fn store_object(&self, key: &str, source: &dyn Source, when: &Condition) -> Result<Object> {
        if !is_plain(key) || key.ends_with('/') {
            return Err(Error::new(ErrorKind::InvalidArgument, "this key cannot be stored").with("key", key));
        }
        let mut stored = self.put(key, source, when).await;
        if let Err(error) = &stored
            && is_unknown_condition(error)
            && self.conditional.swap(false, Relaxed)
        {
            tracing::warn!(%error, "the store knows no conditions on writes: versions are compared before instead");
            stored = self.put(key, source, when).await;
        }
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

    async fn put(&self, key: &str, source: &dyn Source, when: &Condition) -> Result<()> {
        let failed = self.failed(key);
        let conditional = self.conditional.load(Relaxed);
        let mut options = WriteOptions {
            user_metadata: Some(HashMap::from([(TOKEN.to_string(), source.token().to_string())])),
            ..WriteOptions::default()
        };
        match when {
            Condition::Absent if conditional => options.if_not_exists = true,
            Condition::Is(expect) if conditional && !expect.etag.is_empty() => {
                options.if_match = Some(quoted(&expect.etag));
            }
            Condition::Any => {}
            _ => self.compare_now(key, when).await?,
        }
        if source.size() <= WHOLE_MAX {
            let data = source.read(0, source.size()).await?;
            source.check().await?;
            self.operator.write_options(key, data, options).await.map_err(&failed)?;
            return Ok(());
        }
        let guard = match (&options.if_match, options.if_not_exists) {
            (Some(etag), _) => Guard::Etag(etag.clone()),
            (None, true) => Guard::Absent,
            (None, false) => Guard::None,
        };
        self.put_in_parts(key, source, &guard).await
    }

    async fn put_in_parts(&self, key: &str, source: &dyn Source, guard: &Guard) -> Result<()> {
        let size = source.size();
        let part = PART.max(size.div_ceil(PARTS_MAX)).next_multiple_of(1 << 20);
        let (upload, there) = self.begin_or_resume(key, source).await?;
        let send = |number: u64| {
            let (id, there) = (&upload.id, there.get(&(number as usize + 1)));
            async move {
                let offset = number * part;
                let length = part.min(size - offset);
                if let Some(there) = there.filter(|there| there.size == length && !there.etag.is_empty()) {
                    return Ok(there.etag.clone());
                }
                let data = source.read(offset, length).await?;
                if there.is_some_and(|there| there.size == length) {
                    // Of a store that does not say it, it is what nearly all stores make it of.
                    return Ok(format!("\"{}\"", digest(&data)));
                }
                self.multipart.part(key, id, number as usize + 1, data).await
            }
        };
        let mut sent = futures::stream::iter(0..size.div_ceil(part)).map(send).buffered(PARTS_AT_ONCE);
        let mut etags = Vec::new();
        while let Some(etag) = sent.next().await {
            etags.push(etag?);
        }
        drop(sent);
        source.check().await?;
        upload.complete(&etags, guard).await
    }

    /// A new upload, or one of the same bytes that was interrupted, with the parts that it has.
    async fn begin_or_resume(&self, key: &str, source: &dyn Source) -> Result<(Upload, BTreeMap<usize, Part>)> {
        if let Some(id) = source.resume() {
            match self.multipart.parts(key, id).await {
                Ok(parts) if !parts.is_empty() => {
                    tracing::info!(key, parts = parts.len(), "an upload that was interrupted goes on");
                    return Ok((Upload::new(self.multipart.clone(), key, id.to_string()), parts));
                }
                Ok(_) => self.multipart.abort(key, id).await?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if matches!(error.kind(), ErrorKind::NotSupported | ErrorKind::PermissionDenied) => {
                    tracing::warn!(key, %error, "the store does not say what an upload has; it is begun anew");
                    self.multipart.abort(key, id).await?;
                }
                Err(error) => return Err(error),
            }
        }
        let id = self.multipart.begin(key, (TOKEN, source.token())).await?;
        let upload = Upload::new(self.multipart.clone(), key, id);
        source.begun(&upload.id).await?;
        Ok((upload, BTreeMap::new()))
    }

    /// For stores without conditions.
    async fn compare_now(&self, key: &str, when: &Condition) -> Result<()> {
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
                let token = metadata.user_metadata().and_then(|all| all.get(TOKEN).map(str::to_string));
                Ok(Some((file(key, &metadata), token)))
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
        let mut below = self.operator.lister_with(key).limit(2).await.map_err(&failed)?;
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
        self.operator.copy(from, to).await.map_err(self.failed(from))?;
        let lost = || Error::new(ErrorKind::Unavailable, "the store does not show what was copied").with("key", to);
        let (copied, _) = self.head(to).await?.ok_or_else(lost)?;
        if copied.size != seen.size {
            return Err(
                Error::new(ErrorKind::VersionMismatch, "the object changed while it was copied").with("key", from)
            );
        }
        Ok(copied)
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

/// The MD5 of a part, in hexadecimal digits.
fn digest(data: &[u8]) -> String {
    use md5::Digest;
    md5::Md5::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Some at a time; the first error ends it.
async fn all_of(work: Vec<BoxFuture<'_, Result<()>>>) -> Result<()> {
    let mut work = futures::stream::iter(work).buffer_unordered(MOVES_AT_ONCE);
    while let Some(done) = work.next().await {
        done?;
    }
    Ok(())
}

fn is_unknown_condition(error: &Error) -> bool {
    error.kind() == ErrorKind::NotSupported || error.get("store").is_some_and(|said| said.contains("NotImplemented"))
}
