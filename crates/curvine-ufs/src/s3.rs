//! Object stores that speak S3, through OpenDAL.
//!
//! Always: times are cut to whole seconds, because a HEAD tells no more; an etag has no quotes; what was read is compared with
//! what was expected by the answer's own headers, so that a store which ignores If-Match still yields no wrong byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result, Secret};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use opendal::raw::normalize_path;
use opendal::{HttpTransporter, Metadata, OperationContext, Operator, services};
use tracing::debug;

use crate::cursors::Cursors;
use crate::error::from_store;
use crate::options::s3_options;
use crate::policy::Policy;
use crate::s3_multipart::{Access, Multipart};
use crate::s3_pages::{Listed, Pages};
use crate::s3_transport::CheckedTransport;
use crate::survey::Surveyor;
use crate::{Condition, Counters, Expect, ListPage, Object, Source, SurveyMark, SurveyPage, Ufs, entry_name};

/// Most keys in one answer of the store.
const PAGE_MAX: usize = 1000;
/// Region told to a store of one's own that does not care.
const REGION_DEFAULT: &str = "us-east-1";

type Entries = BoxStream<'static, Result<Listed>>;

pub(crate) struct S3Ufs {
    pub(crate) operator: Operator,
    pub(crate) multipart: Arc<Multipart>,
    /// Whether the store knows conditions on writes; assumed until it says that it does not.
    pub(crate) conditional: AtomicBool,
    /// For messages: `bucket/prefix`.
    place: String,
    secrets: Arc<[Secret]>,
    cursors: Cursors<Pages<Entries>>,
    counters: Arc<Counters>,
}

impl S3Ufs {
    /// `place`: `bucket` or `bucket/prefix`.
    pub(crate) fn open(
        place: &str,
        options: &BTreeMap<String, String>,
        secrets: &BTreeMap<String, Secret>,
        policy: &Policy,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let options = S3Options::new(s3_options(options, secrets)?)?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let config = |message: &str| Error::new(ErrorKind::Config, message).with("url", format!("s3://{place}"));
        if bucket.is_empty() {
            return Err(config("an S3 url names a bucket, s3://bucket/prefix"));
        }
        let root = normalize_path(prefix);
        if root.trim_end_matches('/') != prefix.trim_end_matches('/') {
            return Err(config("the prefix must not have empty parts or spaces at its ends"));
        }
        let builder = options.apply(services::S3::default().bucket(bucket).root(&format!("/{root}")), bucket);
        let secrets: Arc<[Secret]> = options.secrets.clone().into();
        let operator = Operator::new(builder).map_err(|error| from_store(&error, "", &secrets).with("url", place))?;
        let client = client(policy)?;
        let transport = HttpTransporter::new(CheckedTransport::new(client.clone()));
        let access = options.access(bucket, &root);
        let multipart = Multipart::new(access, client, transport.clone(), policy, secrets.clone());
        let operator = operator.with_context(OperationContext::new().with_http_transport(transport));
        Ok(Self {
            operator,
            multipart: Arc::new(multipart),
            conditional: AtomicBool::new(true),
            place: place.to_string(),
            secrets,
            cursors: Cursors::new(),
            counters,
        })
    }

    pub(crate) fn failed(&self, key: &str) -> impl Fn(opendal::Error) -> Error + 'static {
        let (place, secrets, key) = (self.place.clone(), self.secrets.clone(), key.to_string());
        move |error| from_store(&error, &key, &secrets).with("url", format!("s3://{place}"))
    }

    /// Whether there is anything below `key/`.
    async fn is_directory(&self, key: &str) -> Result<bool> {
        let failed = self.failed(key);
        let prefix = if key.is_empty() { String::new() } else { format!("{key}/") };
        let mut lister = self.operator.lister_with(&prefix).limit(1).await.map_err(&failed)?;
        Ok(lister.next().await.transpose().map_err(&failed)?.is_some())
    }

    async fn stat(&self, key: &str) -> Result<Option<Object>> {
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
            Ok(metadata) => Ok(Some(file(key, &metadata))),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(key)(error)),
        }
    }

    async fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let gone = || Error::new(ErrorKind::NotFound, "no such directory in the under file system").with("key", prefix);
        if !prefix.is_empty() && !is_plain(prefix) {
            return Err(gone());
        }
        let limit = limit.max(1);
        let mut pages = match self.cursors.take(prefix, start_after) {
            Some(pages) => pages,
            None => self.start_listing(prefix, start_after, limit.min(PAGE_MAX)).await?,
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

    async fn start_listing(&self, prefix: &str, start_after: &str, page: usize) -> Result<Pages<Entries>> {
        let mut lister = self.operator.lister_with(prefix).limit(page);
        if start_after.ends_with('/') {
            // Keys below that directory are above its own; they would name it once more.
            lister = lister.start_after(&format!("{start_after}\u{10ffff}"));
        } else if !start_after.is_empty() {
            lister = lister.start_after(start_after);
        }
        let failed = self.failed(prefix);
        let lister = lister.await.map_err(&failed)?;
        let (prefix, counters) = (prefix.to_string(), self.counters.clone());
        let entries = lister.map(move |entry| {
            let (path, metadata) = entry.map_err(&failed)?.into_parts();
            let key = if path == "/" { String::new() } else { path };
            let object = listed(&prefix, &key, &metadata);
            if object.is_none() && key != prefix {
                counters.skipped.fetch_add(1, Relaxed);
                debug!(key, "a key of the under file system is no name of a directory entry, left out");
            }
            Ok(Listed { key, object })
        });
        Ok(Pages::new(entries.boxed(), page, start_after))
    }

    async fn survey(&self, prefix: &str, from: &SurveyMark, limit: usize) -> Result<SurveyPage> {
        let failed = self.failed(prefix);
        let mut lister = self.operator.lister_with(prefix).recursive(true).limit(PAGE_MAX);
        if !from.key.is_empty() {
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

    async fn read(&self, key: &str, offset: u64, len: u64, expect: &Expect) -> Result<Bytes> {
        let failed = self.failed(key);
        let changed = |what: &str| Error::new(ErrorKind::VersionMismatch, what).with("key", key);
        let end = offset.checked_add(len).filter(|end| *end <= expect.size);
        let end =
            end.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "the range is beyond the end of the object"))?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        if !is_plain(key) {
            return Err(Error::new(ErrorKind::NotFound, "not in the under file system").with("key", key));
        }
        let mut reader = self.operator.reader_with(key);
        if !expect.etag.is_empty() {
            reader = reader.if_match(&quoted(&expect.etag));
        }
        let reader = reader.await.map_err(&failed)?;
        let outcome = reader.read(offset..end).await;
        let seen = match (reader.metadata(), &outcome) {
            (Some(metadata), _) => Some(file(key, metadata)),
            (None, Ok(_)) => Some(file(key, &self.operator.stat(key).await.map_err(&failed)?)),
            (None, Err(_)) => None,
        };
        // An object that became shorter breaks the read off; that it is another one says more than that.
        if let Some(seen) = seen {
            compare(&seen, expect).map_err(|what| changed(what).with("have", &seen.etag).with("want", &expect.etag))?;
        }
        let bytes = outcome.map_err(&failed)?.to_bytes();
        if bytes.len() as u64 != len {
            return Err(changed("the object is shorter than expected").with("have", bytes.len()).with("want", len));
        }
        Ok(bytes)
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

fn listed(prefix: &str, key: &str, metadata: &Metadata) -> Option<Object> {
    entry_name(prefix, key)?;
    if !is_plain(key) {
        return None;
    }
    Some(if metadata.is_dir() || key.ends_with('/') { directory(key.to_string()) } else { file(key, metadata) })
}

fn directory(key: String) -> Object {
    Object { key, directory: true, size: 0, mtime: None, etag: String::new() }
}

pub(crate) fn file(key: &str, metadata: &Metadata) -> Object {
    let etag = metadata.etag().unwrap_or_default();
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

/// Connections of this file system's own; TLS by rustls with the machine's certificates.
fn client(policy: &Policy) -> Result<reqwest::Client> {
    // Another part of the process may have chosen a provider before; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(policy.connect_timeout.min(policy.attempt_timeout))
        .pool_max_idle_per_host(policy.concurrency)
        .build()
        .map_err(|source| {
            Error::new(
                ErrorKind::Internal,
                "cannot make an HTTP client; it needs this machine's CA certificates (package ca-certificates)",
            )
            .caused_by(source)
        })
}

struct S3Options {
    values: BTreeMap<&'static str, String>,
    path_style: Option<bool>,
    anonymous: bool,
    list_v1: bool,
    secrets: Vec<Secret>,
}

impl S3Options {
    fn new(options: BTreeMap<&'static str, Secret>) -> Result<Self> {
        let config = |message: &str| Error::new(ErrorKind::Config, message);
        let secrets =
            ["access", "secret", "session_token"].iter().filter_map(|name| options.get(name)).cloned().collect();
        let mut values = BTreeMap::new();
        for (name, value) in options {
            let text = std::str::from_utf8(value.expose());
            let text =
                text.map_err(|_| config("an option of the under file system is not text").with("option", name))?;
            values.insert(name, text.trim().to_string());
        }
        let flag = |name: &str| match values.get(name).map(String::as_str) {
            None => Ok(None),
            Some("true" | "1" | "yes") => Ok(Some(true)),
            Some("false" | "0" | "no") => Ok(Some(false)),
            Some(_) => Err(config("an option must be true or false").with("option", name)),
        };
        let (path_style, anonymous) = (flag("path_style")?, flag("anonymous")?.unwrap_or(false));
        let list_v1 = match values.get("list_objects_version").map(String::as_str) {
            None | Some("v2" | "2") => false,
            Some("v1" | "1") => true,
            Some(_) => return Err(config("list_objects_version must be v1 or v2")),
        };
        if values.contains_key("access") != values.contains_key("secret") {
            return Err(config("access and secret must be given together"));
        }
        if values.contains_key("session_token") && !values.contains_key("access") {
            return Err(config("a session token needs access and secret"));
        }
        if anonymous && values.contains_key("access") {
            return Err(config("anonymous access takes no credentials"));
        }
        if let Some(endpoint) = values.get("endpoint_url")
            && endpoint.split_once("://").is_some_and(|(scheme, _)| scheme != "http" && scheme != "https")
        {
            return Err(config("endpoint_url must begin with http:// or https://").with("endpoint_url", endpoint));
        }
        Ok(Self { values, path_style, anonymous, list_v1, secrets })
    }

    /// The same for requests that OpenDAL does not make.
    fn access(&self, bucket: &str, root: &str) -> Access {
        let value = |name: &str| self.values.get(name).cloned();
        let endpoint = value("endpoint_url");
        let is_amazon = endpoint.as_deref().is_none_or(|endpoint| endpoint.contains("amazonaws.com"));
        let by_environment = || ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
        let region = value("region_name").or_else(|| is_amazon.then(by_environment).flatten());
        let region = region.unwrap_or_else(|| REGION_DEFAULT.to_string());
        let endpoint = match endpoint {
            Some(endpoint) if endpoint.contains("://") => endpoint,
            Some(endpoint) => format!("https://{endpoint}"),
            None => format!("https://s3.{region}.amazonaws.com"),
        };
        // As OpenDAL takes it.
        let endpoint = endpoint.trim_end_matches('/').replace(&format!("//{bucket}."), "//");
        let endpoint = match endpoint.as_str() {
            "https://s3.amazonaws.com" => format!("https://s3.{region}.amazonaws.com"),
            _ => endpoint,
        };
        let base = match self.path_style.unwrap_or(!is_amazon || bucket.contains('.')) {
            true => format!("{endpoint}/{bucket}"),
            false => endpoint.replacen("://", &format!("://{bucket}."), 1),
        };
        let keys = match (value("access"), value("secret")) {
            (Some(access), Some(secret)) => Some((access, secret, value("session_token"))),
            _ => None,
        };
        Access { base, prefix: root.trim_matches('/').to_string(), region, keys, anonymous: self.anonymous }
    }

    fn apply(&self, mut builder: services::S3, bucket: &str) -> services::S3 {
        let value = |name: &str| self.values.get(name).map(String::as_str);
        let endpoint = value("endpoint_url");
        match (value("region_name"), endpoint) {
            (Some(region), _) => builder = builder.region(region),
            (None, Some(endpoint)) if !endpoint.contains("amazonaws.com") => builder = builder.region(REGION_DEFAULT),
            // Amazon: from the environment or the profile.
            (None, _) => {}
        }
        if let Some(endpoint) = endpoint {
            builder = builder.endpoint(endpoint);
        }
        // A bucket with dots has no certificate of its own.
        let amazon = endpoint.is_none_or(|endpoint| endpoint.contains("amazonaws.com"));
        if !self.path_style.unwrap_or(!amazon || bucket.contains('.')) {
            builder = builder.enable_virtual_host_style();
        }
        if self.list_v1 {
            builder = builder.disable_list_objects_v2();
        }
        if self.anonymous {
            return builder.skip_signature().disable_config_load().disable_ec2_metadata();
        }
        if let (Some(access), Some(secret)) = (value("access"), value("secret")) {
            builder = builder.access_key_id(access).secret_access_key(secret);
            builder = builder.disable_config_load().disable_ec2_metadata();
        }
        match value("session_token") {
            Some(token) => builder.session_token(token),
            None => builder,
        }
    }
}

impl Ufs for S3Ufs {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        self.stat(key).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        self.list(prefix, start_after, limit).boxed()
    }

    fn read<'a>(&'a self, key: &'a str, offset: u64, len: u64, expect: &'a Expect) -> BoxFuture<'a, Result<Bytes>> {
        self.read(key, offset, len, expect).boxed()
    }

    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        self.store_object(key, source, when).boxed()
    }

    fn abort<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        self.multipart.abort(key, upload).boxed()
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.put_marker(key).boxed()
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.remove_marker(key).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.remove(key).boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        self.move_object(from, to, expect).boxed()
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, limit: u64) -> BoxFuture<'a, Result<u64>> {
        self.move_directory(from, to, limit).boxed()
    }

    fn survey<'a>(&'a self, prefix: &'a str, from: &'a SurveyMark, limit: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        self.survey(prefix, from, limit).boxed()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
