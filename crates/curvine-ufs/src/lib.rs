//! Under file systems behind one trait.
//!
//! Always: keys are relative to the URL that the file system was opened with; a directory's key ends in `/` (the root's is
//! empty); no error and no log line holds a credential.

mod checked_transport;
mod counters;
mod cursors;
mod diagnosis;
mod error;
#[cfg(any(feature = "hdfs", feature = "webhdfs"))]
mod hdfs;
mod http_client;
mod kinds;
mod limit;
mod local;
mod local_survey;
mod local_write;
mod metered;
mod object_store;
mod objects;
mod objects_change;
mod options;
mod pages;
mod policy;
mod retry;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod s3_multipart;
#[cfg(feature = "s3")]
mod s3_write;
mod services;
mod sink;
mod source;
mod survey;
mod timeout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Name, Result, Secret};
use futures::future::BoxFuture;

pub use counters::{Counters, CountersSnapshot};
pub use options::split_secrets;
pub use policy::{Policy, store_timeout};
pub use sink::{Collected, Sink};
pub use source::{Condition, Source};
pub use survey::{OddKey, SurveyMark, SurveyPage};

/// A file or a directory of an under file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Relative to the URL; a directory's ends in `/`.
    pub key: String,
    pub directory: bool,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Directories of an object store have none.
    pub mtime: Option<SystemTime>,
    /// The store's name for this version of the content, without quotes; empty where the store has none: then size and mtime
    /// tell versions apart.
    pub etag: String,
}

/// Part of a listing, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    pub entries: Vec<Object>,
    /// `start_after` of the next part; `None`: that was all.
    pub next: Option<String>,
}

/// The version that a reader wants; it never gets bytes of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Compared if not empty; otherwise `mtime` is.
    pub etag: String,
    pub size: u64,
    pub mtime: Option<SystemTime>,
}

impl Expect {
    /// The version that `stat` or `list` saw.
    pub fn of(object: &Object) -> Self {
        Self { etag: object.etag.clone(), size: object.size, mtime: object.mtime }
    }
}

/// `len` bytes from `offset` of the version of `key` that is expected.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub key: &'a str,
    pub offset: u64,
    pub len: u64,
    pub expect: &'a Expect,
}

/// A tree of files in somebody else's keeping. Calls are bounded in time, retried where that is safe, and may run at the
/// same time.
pub trait Ufs: Send + Sync {
    /// The file `key`, or the directory `key/`, which wins if there are both; `None`: neither is there. `key` has no
    /// trailing `/`; the empty key is the root.
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>>;

    /// One level below `prefix` (`""` or ending in `/`), at most `limit` entries with keys after `start_after`. Keys whose
    /// last part is no file name are left out. `NotFound`: there is no such directory; of the root that is a `Ufs` error,
    /// because a store that lost its root is broken, not empty.
    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>>;

    /// Gives `sink` exactly the bytes that are wanted, as they come where the store tells the version before them.
    /// `VersionMismatch`: the object is another one now; `NotFound`: it is gone.
    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>>;

    /// `fetch` of all bytes at once.
    fn read<'a>(&'a self, key: &'a str, offset: u64, len: u64, expect: &'a Expect) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let all = Collected::new(len);
            self.fetch(Wanted { key, offset, len, expect }, &all).await?;
            all.whole(len)
        })
    }

    /// Makes `key` the object that `source` holds, whole or not at all, if the store has there what `when` says; what the store has
    /// then. `VersionMismatch`: it has something else. Repeating it is fine: an object that carries the source's token is its own.
    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>>;

    /// Gives up an upload of `key` whose maker told its id (`Source::begun`) and died; one that is not there is fine.
    fn abort<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Makes the directory `key` (ends in `/`) and what is missing above it; one that is there is fine.
    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Removes the directory `key` (ends in `/`); `DirectoryNotEmpty` if anything is below it; one that is not there is fine.
    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Removes the file `key`; one that is not there is fine.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Moves the file `from`, which must be the expected version, to `to`, replacing what is there; the file as it is then.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>>;

    /// Moves all that is below the directory `from` to below `to` (both end in `/`); how many objects. `CrossDevice`, and nothing
    /// is done: there are more than `limit`.
    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, limit: u64) -> BoxFuture<'a, Result<u64>>;

    /// Looks through all keys below `prefix`, in their order after `from`, about `limit` of them, for those that cannot be shown.
    fn survey<'a>(&'a self, prefix: &'a str, from: &'a SurveyMark, limit: usize) -> BoxFuture<'a, Result<SurveyPage>>;

    /// What went to the store and came back.
    fn counters(&self) -> &Counters;
}

/// Opens `file:///path` or `s3://bucket/prefix` with the default policy. Makes no request.
pub fn open(url: &str, options: &BTreeMap<String, String>, secrets: &BTreeMap<String, Secret>) -> Result<Arc<dyn Ufs>> {
    open_with(url, options, secrets, Policy::default())
}

/// Opens with deadlines and limits of the caller's choice.
pub fn open_with(
    url: &str,
    options: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, Secret>,
    policy: Policy,
) -> Result<Arc<dyn Ufs>> {
    let kind = kinds::kind_of(url).ok_or_else(|| unknown_kind(url))?;
    let counters = Arc::new(Counters::default());
    let options = options::Options::new(kind, options, secrets)?;
    let policy = options::policy_of(&options, policy)?;
    let store = open_kind(kind.name(), url, options, &policy, &counters)?;
    Ok(decorated(store, counters, &policy))
}

/// Opens whatever OpenDAL has an adapter for, as a store of objects. `url` names it in messages.
pub fn open_operator(operator: opendal::Operator, url: &str, policy: &Policy) -> Arc<dyn Ufs> {
    let counters = Arc::new(Counters::default());
    let objects = objects::Objects::new(operator, url, Arc::new([]), counters.clone());
    decorated(Arc::new(object_store::ObjectStoreUfs::new(objects)), counters, policy)
}

fn decorated(store: Arc<dyn Ufs>, counters: Arc<Counters>, policy: &Policy) -> Arc<dyn Ufs> {
    let attempts = timeout::TimeoutUfs::new(metered::MeteredUfs::new(store, counters), policy.attempt_timeout);
    let calls = retry::RetryUfs::new(attempts, policy);
    Arc::new(limit::LimitUfs::new(calls, policy))
}

fn open_kind(
    kind: &str,
    url: &str,
    options: options::Options,
    policy: &Policy,
    counters: &Arc<Counters>,
) -> Result<Arc<dyn Ufs>> {
    let counters = counters.clone();
    let store: Arc<dyn Ufs> = match kind {
        "file" => Arc::new(local::LocalUfs::open(url.strip_prefix("file://").unwrap_or(url), counters)?),
        #[cfg(feature = "s3")]
        "s3" => Arc::new(s3::S3Ufs::open(url, options, policy, counters)?),
        #[cfg(feature = "hdfs")]
        "hdfs" => Arc::new(hdfs::HdfsUfs::native(url, &options, counters)?),
        #[cfg(feature = "webhdfs")]
        "webhdfs" => Arc::new(hdfs::HdfsUfs::web(url, &options, policy, counters)?),
        kind => {
            if let Some(store) = services::open(kind, url, &options, policy, counters)? {
                return Ok(store);
            }
            let message = "this build has no such kind of under file system: build it with the cargo feature";
            let feature = kinds::kind_of(url).map_or(kind, |kind| kind.feature);
            return Err(Error::new(ErrorKind::Config, message).with("feature", feature).with("url", url));
        }
    };
    Ok(store)
}

fn unknown_kind(url: &str) -> Error {
    let known = kinds::KINDS.iter().map(|kind| format!("{}://", kind.name())).collect::<Vec<_>>().join(" ");
    Error::new(ErrorKind::Config, "unknown kind of under file system").with("known", known).with("url", url)
}

/// The last part of a key below `prefix`, if a directory entry can have it as its name.
pub(crate) fn entry_name<'a>(prefix: &str, key: &'a str) -> Option<&'a str> {
    let name = key.strip_prefix(prefix)?;
    let name = name.strip_suffix('/').unwrap_or(name);
    Name::new(name.as_bytes()).ok().map(|_| name)
}

#[cfg(test)]
mod decorators_test;
