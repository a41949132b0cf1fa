//! HDFS as an under file system.
//!
//! `cluster` is the seam: what a NameNode and its DataNodes do for a client. `native` speaks their own protocol, `web` WebHDFS. Above the seam,
//! `order` brings listings into the order of keys, `write` stores and renames, and this file does the rest.
//!
//! Always: a version is length and modification time, in milliseconds, as the NameNode tells them; files appear whole, by a rename
//! that is atomic; unfinished ones lie in a directory of their own, which no listing shows.

mod cluster;
mod errors;
#[cfg(feature = "hdfs")]
mod native;
mod order;
#[cfg(feature = "webhdfs")]
mod web;
mod write;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tracing::debug;

use crate::cursors::Cursors;
use crate::options::Options;
use crate::{
    Condition, Counters, Expect, ListPage, Object, OddKey, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted,
    entry_name,
};

use cluster::{Cluster, Status};
use order::InOrder;
use write::UPLOADS;

/// Odd names that are told; beyond them something else is wrong.
const ODD_MAX: usize = 10_000;

pub(crate) struct HdfsUfs {
    cluster: Arc<dyn Cluster>,
    /// Absolute, without a `/` at the end; empty: all of it.
    root: String,
    cursors: Cursors<InOrder<BoxStream<'static, Result<Object>>>>,
    /// Files that were about to be renamed to their keys: one whose answer was lost is recognised.
    renamed: Cursors<Object>,
    counters: Arc<Counters>,
}

impl HdfsUfs {
    /// By the protocol of NameNode and DataNodes.
    #[cfg(feature = "hdfs")]
    pub(crate) fn native(url: &str, options: &Options, counters: Arc<Counters>) -> Result<Self> {
        let (authority, root) = place(url, options)?;
        Ok(Self::over(Arc::new(native::Native::new(url, authority, options)?), root, counters))
    }

    /// By WebHDFS.
    #[cfg(feature = "webhdfs")]
    pub(crate) fn web(url: &str, options: &Options, policy: &crate::Policy, counters: Arc<Counters>) -> Result<Self> {
        let (host, root) = place(url, options)?;
        let cluster = web::Web::new(url, &host, options, policy)?;
        if !cluster.can_name(&root) {
            return Err(Error::new(
                ErrorKind::Config,
                "WebHDFS has no sure way to name this path: mount it by hdfs://",
            )
            .with("url", url));
        }
        Ok(Self::over(Arc::new(cluster), root, counters))
    }

    fn over(cluster: Arc<dyn Cluster>, root: String, counters: Arc<Counters>) -> Self {
        Self { cluster, root, cursors: Cursors::new(), renamed: Cursors::new(), counters }
    }

    /// The path of a key.
    fn path(&self, key: &str) -> String {
        let key = key.trim_end_matches('/');
        match (self.root.as_str(), key) {
            ("", "") => "/".to_string(),
            (root, "") => root.to_string(),
            (root, key) => format!("{root}/{key}"),
        }
    }

    async fn stat(&self, key: &str) -> Result<Option<Object>> {
        if is_apart(key) || !self.cluster.can_name(key) {
            return Ok(None);
        }
        let status = self.cluster.status(&self.path(key)).await?;
        if key.is_empty() && !status.as_ref().is_some_and(|status| status.directory) {
            return Err(Error::new(
                ErrorKind::Ufs,
                "the root of the under file system is no directory: check the url's path",
            )
            .with("path", self.path("")));
        }
        Ok(status.map(|status| object(key, &status)))
    }

    async fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let mut entries = match self.cursors.take(prefix, start_after) {
            Some(entries) => entries,
            None => self.start_listing(prefix, start_after).await?,
        };
        let (found, more) = entries.next(limit.max(1)).await?;
        let next = found.last().filter(|_| more).map(|last| last.key.clone());
        if let Some(next) = &next {
            self.cursors.keep(prefix, next, entries);
        }
        Ok(ListPage { entries: found, next })
    }

    async fn start_listing(
        &self,
        prefix: &str,
        start_after: &str,
    ) -> Result<InOrder<BoxStream<'static, Result<Object>>>> {
        // A NameNode lists a file as itself.
        if is_apart(prefix) || !self.stat(prefix.trim_end_matches('/')).await?.is_some_and(|there| there.directory) {
            return Err(
                Error::new(ErrorKind::NotFound, "no such directory in the under file system").with("key", prefix)
            );
        }
        let (prefix, counters, cluster) = (prefix.to_string(), self.counters.clone(), self.cluster.clone());
        let entries = self.cluster.list(&self.path(&prefix)).filter_map(move |status| {
            let listed = status.map(|status| {
                let key = format!("{prefix}{}", status.name);
                if entry_name(&prefix, &key).is_none() || !cluster.can_name(&status.name) {
                    counters.skipped.fetch_add(1, Relaxed);
                    debug!(key, "a name of the under file system cannot be shown, left out");
                    return None;
                }
                (!is_apart(&key)).then(|| object(&key, &status))
            });
            std::future::ready(listed.transpose())
        });
        Ok(InOrder::new(entries.boxed(), start_after))
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Bytes> {
        let Wanted { key, offset, len, expect } = wanted;
        if offset.checked_add(len).is_none_or(|end| end > expect.size) {
            return Err(Error::new(ErrorKind::InvalidArgument, "the range is beyond the end of the object"));
        }
        let path = self.path(key);
        // What is open stays what it is; that it is what was expected is asked after it was opened.
        let file = match self.cluster.open(&path).await {
            Ok(file) => file,
            Err(error) => return Err(self.check(key, expect).await.err().unwrap_or(error)),
        };
        self.check(key, expect).await?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let bytes = match file.read(offset, len).await {
            Ok(bytes) => bytes,
            // Its blocks may have gone with it.
            Err(error) => return Err(self.check(key, expect).await.err().unwrap_or(error)),
        };
        if !file.is_pinned() {
            self.check(key, expect).await?;
        }
        if bytes.len() as u64 != len {
            return Err(Error::new(ErrorKind::VersionMismatch, "the file is shorter than expected")
                .with("key", key)
                .with("have", bytes.len())
                .with("want", len));
        }
        Ok(bytes)
    }

    /// `VersionMismatch` unless the key's file is the expected one.
    async fn check(&self, key: &str, expect: &Expect) -> Result<()> {
        let gone = || Error::new(ErrorKind::NotFound, "not in the under file system").with("key", key);
        let there = self.stat(key).await?.filter(|there| !there.directory).ok_or_else(gone)?;
        if is_version(&there, expect) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::VersionMismatch, "the file is not the expected version")
            .with("key", key)
            .with("have", there.size)
            .with("want", expect.size))
    }

    /// All of it in one go: there is no order in which a walk could be continued.
    async fn survey(&self, prefix: &str) -> Result<SurveyPage> {
        let mut page = SurveyPage::default();
        let mut waiting = vec![prefix.to_string()];
        while let Some(prefix) = waiting.pop() {
            let mut entries = self.cluster.list(&self.path(&prefix));
            while let Some(status) = entries.next().await {
                let status = match status {
                    // It has gone meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    status => status?,
                };
                let key = format!("{prefix}{}", status.name);
                if is_apart(&key) {
                    continue;
                }
                page.keys += 1;
                if entry_name(&prefix, &key).is_none() {
                    page.odd.push(OddKey { key, why: "it is no file name, or longer than 255 bytes" });
                    if page.odd.len() >= ODD_MAX {
                        let message = "too many names cannot be shown, look at one directory";
                        return Err(Error::new(ErrorKind::TooBig, message).with("limit", ODD_MAX));
                    }
                } else if !self.cluster.can_name(&status.name) {
                    page.odd.push(OddKey {
                        key,
                        why: "it has a % or + or ;, which WebHDFS has no sure way to name: mount it by hdfs://",
                    });
                } else if status.directory {
                    waiting.push(format!("{key}/"));
                }
            }
        }
        Ok(page)
    }
}

/// Host and path of `hdfs://host:port/path`; the host is empty if the options name it.
fn place(url: &str, options: &Options) -> Result<(String, String)> {
    let config = |message: &str| Err(Error::new(ErrorKind::Config, message).with("url", url));
    let (_, place) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let root = path.trim_end_matches('/');
    if root.split('/').any(|part| matches!(part, "." | "..")) || root.contains("//") {
        return config("the path of an HDFS url must not have empty parts, . or ..");
    }
    let root = if root.is_empty() { String::new() } else { format!("/{}", root.trim_start_matches('/')) };
    if options.get("root").is_some_and(|other| other.trim_end_matches('/') != root) {
        return config("the option root says another path than the url: leave it away");
    }
    let named = options.get("namenode").map(|node| node.split_once("://").map_or(node, |(_, node)| node));
    let host = named.map_or(host, |node| node.trim_end_matches('/'));
    if host.is_empty() {
        return config("an HDFS url names a NameNode or a name service, such as hdfs://namenode:8020/path");
    }
    Ok((host.to_string(), root))
}

/// Whether it is not to be seen.
fn is_apart(key: &str) -> bool {
    key.split('/').next() == Some(UPLOADS)
}

fn is_version(there: &Object, expect: &Expect) -> bool {
    there.size == expect.size && expect.mtime.is_none_or(|mtime| there.mtime == Some(mtime))
}

fn object(key: &str, status: &Status) -> Object {
    let slash = if status.directory && !key.is_empty() { "/" } else { "" };
    Object {
        key: format!("{key}{slash}"),
        directory: status.directory,
        size: if status.directory { 0 } else { status.size },
        mtime: Some(status.mtime),
        etag: String::new(),
    }
}

impl Ufs for HdfsUfs {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        self.stat(key).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        self.list(prefix, start_after, limit).boxed()
    }

    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        async move {
            sink.take(0, self.read(wanted).await?);
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
        self.make(key).boxed()
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.remove(key).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.remove(key).boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        self.rename_file(from, to, expect).boxed()
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, _: u64) -> BoxFuture<'a, Result<u64>> {
        self.rename_tree(from, to).boxed()
    }

    fn survey<'a>(&'a self, prefix: &'a str, _: &'a SurveyMark, _: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        self.survey(prefix).boxed()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
