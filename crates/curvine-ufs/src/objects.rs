//! Stores of objects by keys, seen through OpenDAL: what is the same for all of them.
//!
//! Always: times are cut to whole seconds, because a HEAD tells no more; an etag has no quotes; what was read is compared with
//! what was expected by the answer's own headers, so that a store which ignores conditions still yields no wrong byte.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curvine_types::{Error, ErrorKind, Result, Secret};
use futures::StreamExt;
use futures::stream::BoxStream;
use opendal::raw::normalize_path;
use opendal::{Capability, Metadata, Operator};
use tracing::debug;

use crate::cursors::Cursors;
use crate::error::from_store;
use crate::pages::{Listed, Pages};
use crate::survey::Surveyor;
use crate::{Collected, Counters, Expect, ListPage, Object, Sink, SurveyMark, SurveyPage, Wanted, entry_name};

/// Most keys in one answer of a store that is told how many.
const PAGE_MAX: usize = 1000;
/// Most keys in one answer of any other.
const PAGE_UNKNOWN: usize = 5000;

type Entries = BoxStream<'static, Result<Listed>>;

pub(crate) struct Objects {
    pub(crate) operator: Operator,
    pub(crate) can: Capability,
    /// For messages.
    url: String,
    pub(crate) secrets: Arc<[Secret]>,
    cursors: Cursors<Pages<Entries>>,
    pub(crate) counters: Arc<Counters>,
}

impl Objects {
    pub(crate) fn new(operator: Operator, url: &str, secrets: Arc<[Secret]>, counters: Arc<Counters>) -> Self {
        let can = operator.info().capability();
        Self { operator, can, url: url.to_string(), secrets, cursors: Cursors::new(), counters }
    }

    /// Whether versions are told apart by numbers of the store, which it takes as conditions, and not by etags.
    pub(crate) fn by_generation(&self) -> bool {
        self.can.write_with_if_version_match
    }

    pub(crate) fn file(&self, key: &str, metadata: &Metadata) -> Object {
        file(key, metadata, self.by_generation())
    }

    pub(crate) fn failed(&self, key: &str) -> impl Fn(opendal::Error) -> Error + 'static {
        let (url, secrets, key) = (self.url.clone(), self.secrets.clone(), key.to_string());
        move |error| from_store(&error, &key, &secrets).with("url", &url)
    }

    /// Whether there is anything below `key/`.
    async fn is_directory(&self, key: &str) -> Result<bool> {
        let failed = self.failed(key);
        let prefix = if key.is_empty() { String::new() } else { format!("{key}/") };
        let mut lister = self.lister(&prefix, 1).await.map_err(&failed)?;
        Ok(lister.next().await.transpose().map_err(&failed)?.is_some())
    }

    pub(crate) async fn stat(&self, key: &str) -> Result<Option<Object>> {
        if key.is_empty() {
            // An empty bucket is a directory; one that is not there is an error.
            self.is_directory("").await?;
            return Ok(Some(directory(String::new())));
        }
        if !is_plain(key) {
            return Ok(None);
        }
        let (head, below) = futures::join!(self.operator.stat(key), self.is_directory(key));
        // The listing goes first: a HEAD cannot tell a missing bucket from a missing key.
        if below? {
            return Ok(Some(directory(format!("{key}/"))));
        }
        match head {
            Ok(metadata) => Ok(Some(self.file(key, &metadata))),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(key)(error)),
        }
    }

    pub(crate) async fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let gone = || Error::new(ErrorKind::NotFound, "no such directory in the under file system").with("key", prefix);
        if !prefix.is_empty() && !is_plain(prefix) {
            return Err(gone());
        }
        let limit = limit.max(1);
        let mut pages = match self.cursors.take(prefix, start_after) {
            Some(pages) => pages,
            None => self.start_listing(prefix, start_after, limit).await?,
        };
        let (entries, more) = pages.next(limit).await?;
        if entries.is_empty() && start_after.is_empty() && !prefix.is_empty() && !pages.is_any() {
            return Err(gone());
        }
        let next = entries.last().filter(|_| more).map(|last| last.key.clone());
        if let Some(next) = &next {
            self.cursors.keep(prefix, next, pages);
        }
        Ok(ListPage { entries, next })
    }

    /// One level, in the store's own order.
    pub(crate) async fn lister(&self, prefix: &str, limit: usize) -> opendal::Result<opendal::Lister> {
        let lister = self.operator.lister_with(prefix);
        if self.can.list_with_limit { lister.limit(limit).await } else { lister.await }
    }

    async fn start_listing(&self, prefix: &str, start_after: &str, limit: usize) -> Result<Pages<Entries>> {
        let page = if self.can.list_with_limit { limit.min(PAGE_MAX) } else { PAGE_UNKNOWN };
        let mut lister = self.operator.lister_with(prefix);
        if self.can.list_with_limit {
            lister = lister.limit(page);
        }
        if !self.can.list_with_start_after {
            // From its beginning; what was told before is passed over.
        } else if start_after.ends_with('/') {
            // Keys below that directory are above its own; they would name it once more.
            lister = lister.start_after(&format!("{start_after}\u{10ffff}"));
        } else if !start_after.is_empty() {
            lister = lister.start_after(start_after);
        }
        let failed = self.failed(prefix);
        let lister = lister.await.map_err(&failed)?;
        let (prefix, counters, by_generation) = (prefix.to_string(), self.counters.clone(), self.by_generation());
        let entries = lister.map(move |entry| {
            let (path, metadata) = entry.map_err(&failed)?.into_parts();
            let key = if path == "/" { String::new() } else { path };
            let object = listed(&prefix, &key, &metadata, by_generation);
            if object.is_none() && key != prefix {
                counters.skipped.fetch_add(1, Relaxed);
                debug!(key, "a key of the under file system is no name of a directory entry, left out");
            }
            Ok(Listed { key, object })
        });
        Ok(Pages::new(entries.boxed(), page, start_after))
    }

    pub(crate) async fn survey(&self, prefix: &str, from: &SurveyMark, limit: usize) -> Result<SurveyPage> {
        let failed = self.failed(prefix);
        let mut lister = self.operator.lister_with(prefix).recursive(true);
        if self.can.list_with_limit {
            lister = lister.limit(PAGE_MAX);
        }
        if self.can.list_with_start_after && !from.key.is_empty() {
            lister = lister.start_after(&from.key);
        }
        let mut entries = lister.await.map_err(&failed)?;
        let mut surveyor = Surveyor::new(from);
        while let Some(entry) = entries.next().await.transpose().map_err(&failed)? {
            let key = entry.path();
            // The directory itself, and what some stores tell once more.
            if key == "/" || key == prefix || (!from.key.is_empty() && key <= from.key.as_str()) {
                continue;
            }
            surveyor.look(key);
            if surveyor.page.keys >= limit.max(1) as u64 {
                let last = key.to_string();
                return Ok(surveyor.finish(Some(last)));
            }
        }
        Ok(surveyor.finish(None))
    }

    pub(crate) async fn fetch(&self, wanted: Wanted<'_>, sink: &dyn Sink) -> Result<()> {
        let Wanted { key, offset, len, expect } = wanted;
        let failed = self.failed(key);
        let changed = |what: &str| Error::new(ErrorKind::VersionMismatch, what).with("key", key);
        let end = offset.checked_add(len).filter(|end| *end <= expect.size);
        let end =
            end.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the range is beyond the end of the object"))?;
        if len == 0 {
            return Ok(());
        }
        if !is_plain(key) {
            return Err(Error::new(ErrorKind::NotFound, "not in the under file system").with("key", key));
        }
        let mut reader = self.operator.reader_with(key);
        if self.by_generation() && !expect.etag.is_empty() {
            reader = reader.if_version_match(&expect.etag);
        } else if self.can.read_with_if_match && !expect.etag.is_empty() {
            reader = reader.if_match(&quoted(&expect.etag));
        }
        let reader = reader.await.map_err(&failed)?;
        let mut parts = reader.clone().into_stream(offset..end).await.map_err(&failed)?;
        let opened = parts.metadata().await;
        // Without a word of the store on it, what comes is of no known version before the end.
        let unknown = opened.as_ref().is_err_and(|error| error.kind() == opendal::ErrorKind::Unsupported);
        match opened {
            Ok(metadata) => self.check(key, &metadata, expect)?,
            Err(_) if unknown => {}
            // Some stores say of what is gone that it is not the version that was asked for.
            Err(error) if error.kind() == opendal::ErrorKind::ConditionNotMatch => {
                self.operator.stat(key).await.map_err(&failed)?;
                return Err(failed(error));
            }
            Err(error) => return Err(failed(error)),
        }
        let held = Collected::new(len);
        let taker: &dyn Sink = if unknown { &held } else { sink };
        let mut come = 0;
        let other_length =
            |have: u64| changed("the object is not as long as expected").with("have", have).with("want", len);
        while let Some(buffer) = parts.next().await {
            // Its pieces, as they lie in memory.
            for part in buffer.map_err(&failed)? {
                let at = come;
                come += part.len() as u64;
                if come > len {
                    return Err(other_length(come));
                }
                taker.take(at, part);
            }
        }
        if come != len {
            return Err(other_length(come));
        }
        if unknown {
            self.check(key, &self.operator.stat(key).await.map_err(&failed)?, expect)?;
            sink.take(0, held.whole(len)?);
        }
        Ok(())
    }

    /// `VersionMismatch` unless the store means what is expected.
    fn check(&self, key: &str, metadata: &Metadata, expect: &Expect) -> Result<()> {
        let seen = self.file(key, metadata);
        compare(&seen, expect).map_err(|what| {
            let error = Error::new(ErrorKind::VersionMismatch, what).with("key", key);
            error.with("have", &seen.etag).with("want", &expect.etag)
        })
    }
}

/// Whether what the store answered with is what was expected.
pub(crate) fn compare(seen: &Object, expect: &Expect) -> Result<(), &'static str> {
    if !expect.etag.is_empty() && !seen.etag.is_empty() {
        return if seen.etag == expect.etag { Ok(()) } else { Err("the object has another etag than expected") };
    }
    if seen.size != expect.size {
        return Err("the object has another size than expected");
    }
    match (expect.mtime.map(whole_seconds), seen.mtime) {
        (Some(want), Some(have)) if want != have => Err("the object has another time than expected"),
        _ => Ok(()),
    }
}

/// OpenDAL puts paths into a normal form; a key that is not in it cannot be asked for.
pub(crate) fn is_plain(key: &str) -> bool {
    normalize_path(key) == key
}

fn listed(prefix: &str, key: &str, metadata: &Metadata, by_generation: bool) -> Option<Object> {
    entry_name(prefix, key)?;
    if !is_plain(key) {
        return None;
    }
    Some(if metadata.is_dir() || key.ends_with('/') {
        directory(key.to_string())
    } else {
        file(key, metadata, by_generation)
    })
}

fn directory(key: String) -> Object {
    Object { key, directory: true, size: 0, mtime: None, etag: String::new() }
}

fn file(key: &str, metadata: &Metadata, by_generation: bool) -> Object {
    let etag = if by_generation { metadata.version() } else { metadata.etag() };
    let etag = etag.unwrap_or_default();
    let bare = etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag);
    Object {
        key: key.to_string(),
        directory: false,
        size: metadata.content_length(),
        mtime: metadata.last_modified().map(|time| whole_seconds(time.into())),
        etag: bare.to_string(),
    }
}

pub(crate) fn quoted(etag: &str) -> String {
    if etag.starts_with("W/") { etag.to_string() } else { format!("\"{etag}\"") }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    UNIX_EPOCH + Duration::from_secs(seconds)
}
