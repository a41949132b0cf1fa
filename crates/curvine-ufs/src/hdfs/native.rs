//! HDFS by its own protocol (`hdfs-native`).
//!
//! Always: nothing is asked before the first call, so that a mount can be typed where no Hadoop is configured; a panic of the
//! protocol's code, whatever an answer was, is an error of that call.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use hdfs_native::client::{FileStatus, ListStatusIterator};
use hdfs_native::file::{FileReader, FileWriter};
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use tokio::sync::OnceCell;

use super::cluster::{Cluster, NewFile, OpenFile, Status};
use super::errors::{of_class, told};
use crate::options::Options;

/// Modes of what is made.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// Where a NameNode listens that is named without a port.
const PORT_DEFAULT: u16 = 8020;
/// Failovers of one call, and the pauses between them, in milliseconds: what is beyond that is tried again by the caller, who
/// knows how long there is time.
const FAILOVER: [(&str, &str); 3] = [
    ("dfs.client.failover.max.attempts", "4"),
    ("dfs.client.failover.sleep.base.millis", "50"),
    ("dfs.client.failover.sleep.max.millis", "500"),
];

pub(super) struct Native(Arc<Connection>);

struct Connection {
    url: String,
    settings: Settings,
    client: OnceCell<Client>,
}

struct Settings {
    /// For the client: `hdfs://host:port` or `hdfs://nameservice`.
    authority: String,
    config: Vec<(String, String)>,
    config_dir: Option<String>,
    user: Option<String>,
    principal: Option<String>,
    keytab: Option<String>,
    cache: Option<String>,
}

impl Native {
    /// `host`: with a port it is one NameNode, without one a name service that the configuration knows, or a NameNode at the
    /// usual port.
    pub(super) fn new(url: &str, host: String, options: &Options) -> Result<Self> {
        let config = |message: &str| Err(Error::new(ErrorKind::Config, message).with("url", url));
        let given = |name: &str| options.get(name).map(str::to_string);
        if given("kerberos.krb5_conf").is_some_and(|path| std::env::var("KRB5_CONFIG").as_deref() != Ok(path.as_str()))
        {
            return config(
                "a krb5.conf cannot be chosen for one mount: set KRB5_CONFIG in the environment of workers and tools",
            );
        }
        let principal = given("kerberos.principal");
        if principal.is_none() && given("kerberos.keytab").is_some() {
            return config("a keytab needs kerberos.principal, whose key in it is to be used");
        }
        if principal.is_none()
            && given("kerberos.ccache").is_some_and(|path| std::env::var("KRB5CCNAME").as_deref() != Ok(path.as_str()))
        {
            return config("a credential cache needs kerberos.principal, or KRB5CCNAME in the environment of workers");
        }
        let scheme = if url.starts_with("viewfs://") { "viewfs" } else { "hdfs" };
        let mut all: Vec<(String, String)> = options.passed.clone().into_iter().collect();
        let is_given = |name: &str| options.passed.contains_key(name);
        all.extend(
            FAILOVER
                .iter()
                .filter(|(name, _)| !is_given(name))
                .map(|(name, value)| (name.to_string(), value.to_string())),
        );
        let cache = given("kerberos.ccache").filter(|_| principal.is_some());
        Ok(Self(Arc::new(Connection {
            url: url.to_string(),
            settings: Settings {
                authority: format!("{scheme}://{host}"),
                config: all,
                config_dir: given("conf_dir"),
                user: given("user"),
                keytab: given("kerberos.keytab"),
                principal,
                cache,
            },
            client: OnceCell::new(),
        })))
    }
}

impl Connection {
    async fn client(&self, path: &str) -> Result<&Client> {
        let client = self.client.get_or_try_init(async || self.settings.connect()).await;
        client.map_err(|error| self.failed(path, &error))
    }

    /// Runs one call of the client.
    async fn call<T>(&self, path: &str, call: impl AsyncFnOnce(&Client) -> hdfs_native::Result<T>) -> Result<T> {
        let run = async { call(self.client(path).await?).await.map_err(|error| self.failed(path, &error)) };
        guarded(run).await
    }

    fn failed(&self, path: &str, error: &HdfsError) -> Error {
        let ours = failed(error, path).with("url", &self.url);
        let is_named_service = self.settings.authority.matches(':').count() == 1;
        match ours.kind() {
            ErrorKind::Unavailable if is_named_service => {
                ours.with("hint", "a name service needs its dfs.* options, or HADOOP_CONF_DIR where the workers run")
            }
            _ => ours,
        }
    }
}

impl Settings {
    /// Reads the configuration; no request is made yet.
    fn connect(&self) -> hdfs_native::Result<Client> {
        let build = |url: &str| {
            let mut builder = ClientBuilder::new().with_url(url).with_config(self.config.clone());
            if let Some(dir) = &self.config_dir {
                builder = builder.with_config_dir(dir);
            }
            if let Some(user) = &self.user {
                builder = builder.with_user(user);
            }
            if let Some(principal) = &self.principal {
                builder = builder.with_kerberos_principal(principal);
            }
            if let Some(keytab) = &self.keytab {
                builder = builder.with_kerberos_keytab(keytab);
            }
            if let Some(cache) = &self.cache {
                builder = builder.with_kerberos_cache(cache);
            }
            builder.build()
        };
        match build(&self.authority) {
            // As Hadoop takes it: what is no name service is a host.
            Err(HdfsError::InvalidArgument(said)) if said.contains("No NameNode hosts") => {
                build(&format!("{}:{PORT_DEFAULT}", self.authority))
            }
            built => built,
        }
    }
}

/// A panic of the call as its error.
async fn guarded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Ufs, "the client of the under file system broke off over an answer"))
    })
}

/// What a NameNode's or DataNode's error means here.
fn failed(error: &HdfsError, path: &str) -> Error {
    use HdfsError::{
        AlreadyExists, BlocksNotFound, ChecksumError, DataTransferError, FatalRPCError, FileNotFound, GSSAPIError,
        IOError, InvalidArgument, InvalidPath, IsADirectoryError, NoSASLMechanism, RPCError, SASLError,
        UnsupportedErasureCodingPolicy, UnsupportedFeature, UrlParseError, XmlParseError,
    };
    let (kind, message) = match error {
        FileNotFound(_) => (ErrorKind::NotFound, "not in the under file system"),
        AlreadyExists(_) => (ErrorKind::AlreadyExists, "it is in the under file system already"),
        IsADirectoryError(_) => (ErrorKind::IsADirectory, "it is a directory in the under file system"),
        RPCError(class, _) | FatalRPCError(class, _) => of_class(class),
        SASLError(_) | GSSAPIError(..) | NoSASLMechanism => (
            ErrorKind::PermissionDenied,
            "the under file system does not believe who this is: check the Kerberos settings",
        ),
        IOError(_) | DataTransferError(_) | ChecksumError | BlocksNotFound(_) => {
            (ErrorKind::Unavailable, "the under file system fails")
        }
        InvalidArgument(_) | InvalidPath(_) | UrlParseError(_) | XmlParseError(_) => {
            (ErrorKind::Config, "the under file system does not accept url, options or configuration")
        }
        UnsupportedErasureCodingPolicy(_) | UnsupportedFeature(_) => {
            (ErrorKind::NotSupported, "the under file system has something that this version does not know")
        }
        _ => (ErrorKind::Ufs, "the under file system fails"),
    };
    told(kind, message, &error.to_string(), path)
}

fn status(found: FileStatus) -> Status {
    Status {
        name: found.path.rsplit('/').next().unwrap_or_default().to_string(),
        directory: found.isdir,
        size: found.length as u64,
        mtime: UNIX_EPOCH + Duration::from_millis(found.modification_time.min(i64::MAX as u64 / 2)),
    }
}

enum Listing {
    New,
    Begun(ListStatusIterator),
    Ended,
}

impl Cluster for Native {
    fn status<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<Status>>> {
        async move {
            match self.0.call(path, async |client| client.get_file_info(path).await).await {
                Ok(found) => Ok(Some(status(found))),
                // A path below a file is none, too.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn list(&self, path: &str) -> BoxStream<'static, Result<Status>> {
        let start = (path.to_string(), self.0.clone(), Listing::New);
        let step = async |(path, connection, listing): (String, Arc<Connection>, Listing)| {
            let next = guarded(async {
                let entries = match listing {
                    Listing::New => connection.client(&path).await?.list_status_iter(&path, false),
                    Listing::Begun(entries) => entries,
                    Listing::Ended => return Ok(None),
                };
                let found = entries.next().await.transpose().map_err(|error| connection.failed(&path, &error))?;
                Ok(found.map(|found| (status(found), entries)))
            });
            match next.await {
                Ok(None) => None,
                Ok(Some((found, entries))) => Some((Ok(found), (path, connection, Listing::Begun(entries)))),
                Err(error) => Some((Err(error), (path, connection, Listing::Ended))),
            }
        };
        futures::stream::unfold(start, step).boxed()
    }

    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Box<dyn OpenFile>>> {
        async move {
            let reader = self.0.call(path, async |client| client.read(path).await).await?;
            Ok(Box::new(Opened { reader, path: path.to_string(), url: self.0.url.clone() }) as Box<dyn OpenFile>)
        }
        .boxed()
    }

    fn create<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Box<dyn NewFile>>> {
        async move {
            let options = WriteOptions::default().permission(FILE_MODE);
            let writer = self.0.call(path, async |client| client.create(path, &options).await).await?;
            Ok(Box::new(Created { writer, path: path.to_string(), url: self.0.url.clone() }) as Box<dyn NewFile>)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, replace: bool) -> BoxFuture<'a, Result<()>> {
        async move {
            let renamed = self.0.call(to, async |client| client.rename(from, to, replace).await).await;
            renamed.map_err(|error| match error.get("store") {
                Some(said) if said.contains("is not empty") => {
                    Error::new(ErrorKind::DirectoryNotEmpty, "the directory is not empty in the under file system")
                        .caused_by(error)
                }
                _ => error,
            })
        }
        .boxed()
    }

    fn make<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        self.0.call(path, async |client| client.mkdirs(path, DIRECTORY_MODE, true).await).boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            match self.0.call(path, async |client| client.delete(path, false).await).await {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

struct Opened {
    reader: FileReader,
    path: String,
    url: String,
}

impl OpenFile for Opened {
    fn is_pinned(&self) -> bool {
        // Its blocks were named when it was opened, and blocks do not change.
        true
    }

    fn read<'a>(&'a self, offset: u64, len: u64) -> BoxFuture<'a, Result<Bytes>> {
        let beyond =
            || Error::new(ErrorKind::VersionMismatch, "the file is shorter than expected").with("path", &self.path);
        let range = (usize::try_from(offset), usize::try_from(len));
        guarded(async move {
            let (Ok(offset), Ok(len)) = range else { return Err(beyond()) };
            if offset.checked_add(len).is_none_or(|end| end > self.reader.file_length()) {
                return Err(beyond());
            }
            let read = self.reader.read_range(offset, len).await;
            read.map_err(|error| failed(&error, &self.path).with("url", &self.url))
        })
        .boxed()
    }
}

struct Created {
    writer: FileWriter,
    path: String,
    url: String,
}

impl NewFile for Created {
    fn write<'a>(&'a mut self, data: Bytes) -> BoxFuture<'a, Result<()>> {
        let Self { writer, path, url } = self;
        guarded(async move {
            writer.write_bytes(data).await.map(|_| ()).map_err(|error| failed(&error, path).with("url", &*url))
        })
        .boxed()
    }

    fn close<'a>(&'a mut self) -> BoxFuture<'a, Result<()>> {
        let Self { writer, path, url } = self;
        guarded(async move { writer.close().await.map_err(|error| failed(&error, path).with("url", &*url)) }).boxed()
    }
}
