//! HDFS by WebHDFS, the NameNode's HTTP service, or by a gateway that speaks it (HttpFS, Knox).
//!
//! Always: no message shows an address, because a delegation token is part of it; redirections are followed here, so that data
//! goes to the DataNode and never to the NameNode. A name that servers are known to take for another one is not there.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result, Secret};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::cluster::{Cluster, NewFile, OpenFile, Status};
use super::errors::{of_class, told};
use crate::error::scrub;
use crate::http_client::{builder, made};
use crate::options::Options;
use crate::policy::Policy;
use crate::s3_multipart::encoded;

/// Longest answer that is not content, bytes: a directory is told in one by servers that cannot do it in parts.
const ANSWER_MAX: usize = 512 << 20;
/// Redirections of one request.
const REDIRECTIONS: usize = 4;

#[derive(Clone)]
pub(super) struct Web {
    /// Up to and with `/webhdfs/v1`.
    base: String,
    /// Who asks, as parameters of each request.
    identity: String,
    client: reqwest::Client,
    secrets: Arc<[Secret]>,
}

impl Web {
    pub(super) fn new(url: &str, host: &str, options: &Options, policy: &Policy) -> Result<Self> {
        let scheme = if url.starts_with("swebhdfs://") { "https" } else { "http" };
        let given = options.endpoint()?.map(|endpoint| endpoint.trim_end_matches('/'));
        let address = match given {
            Some(endpoint) if endpoint.contains("://") => endpoint.to_string(),
            Some(endpoint) => format!("{scheme}://{endpoint}"),
            None => format!("{scheme}://{host}"),
        };
        let identity = match (options.get("delegation"), options.get("user")) {
            (Some(token), _) => format!("&delegation={}", encoded(token, false)),
            (None, Some(user)) => format!("&user.name={}", encoded(user, false)),
            (None, None) => {
                let user = std::env::var("HADOOP_USER_NAME").or_else(|_| std::env::var("USER"));
                user.map_or(String::new(), |user| format!("&user.name={}", encoded(&user, false)))
            }
        };
        let client = made(builder(policy).redirect(reqwest::redirect::Policy::none()).build())?;
        Ok(Self { base: format!("{address}/webhdfs/v1"), identity, client, secrets: options.secrets.clone() })
    }

    fn url(&self, path: &str, operation: &str) -> String {
        format!("{}{}?op={operation}{}", self.base, encoded(path, true), self.identity)
    }

    fn broken(&self, error: reqwest::Error, path: &str) -> Error {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let said = scrub(&cause.to_string(), &self.secrets);
        told(ErrorKind::Unavailable, "the under file system fails", &said, path)
    }

    /// One request and the redirections that it is answered with; the last answer, which is a good one.
    async fn ask(&self, method: Method, path: &str, operation: &str) -> Result<Response> {
        let mut url = self.url(path, operation);
        for _ in 0..REDIRECTIONS {
            let answer = self.client.request(method.clone(), &url).send().await;
            let answer = answer.map_err(|error| self.broken(error, path))?;
            match location(&answer) {
                Some(next) => url = next,
                None => return self.good(answer, path).await,
            }
        }
        Err(Error::new(ErrorKind::Ufs, "the under file system redirects without end").with("path", path))
    }

    /// The answer if it is a good one, otherwise what is wrong.
    async fn good(&self, answer: Response, path: &str) -> Result<Response> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = self.text(answer, path).await?;
        let exception: Option<Value> = serde_json::from_slice(&text).ok();
        let exception = exception.as_ref().and_then(|all| all.get("RemoteException"));
        let word = |name: &str| exception.and_then(|all| all.get(name)).and_then(Value::as_str).unwrap_or_default();
        let said = scrub(&format!("{} {}: {}", status.as_u16(), word("exception"), word("message")), &self.secrets);
        let (kind, message) = match (word("exception"), status) {
            ("", StatusCode::NOT_FOUND) => (ErrorKind::Ufs, "there is no WebHDFS at this address: check the url"),
            ("", StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                (ErrorKind::PermissionDenied, "the under file system denies access")
            }
            ("", status) if status.is_server_error() => (ErrorKind::Unavailable, "the under file system fails"),
            ("", _) => (ErrorKind::Ufs, "the under file system fails"),
            ("IllegalArgumentException" | "UnsupportedOperationException", _) => {
                (ErrorKind::NotSupported, "the under file system cannot do this")
            }
            (class, _) => of_class(class),
        };
        Err(told(kind, message, &said, path))
    }

    async fn text(&self, answer: Response, path: &str) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut parts = answer.bytes_stream();
        while let Some(part) = parts.next().await {
            text.extend_from_slice(&part.map_err(|error| self.broken(error, path))?);
            if text.len() > ANSWER_MAX {
                return Err(
                    Error::new(ErrorKind::TooBig, "the answer of the under file system is too long").with("path", path)
                );
            }
        }
        Ok(text)
    }

    async fn json(&self, method: Method, path: &str, operation: &str) -> Result<Value> {
        let answer = self.ask(method, path, operation).await?;
        let text = self.text(answer, path).await?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|_| {
            let message = "the answer is no WebHDFS: something between here and the store may have given it";
            Error::new(ErrorKind::Unavailable, message).with("path", path)
        })
    }

    /// A part of a directory after a name, and whether there is more; all of it if the server knows no parts.
    async fn part(&self, path: &str, after: &str) -> Result<(Vec<Status>, bool)> {
        let malformed = || Error::new(ErrorKind::Unavailable, "the answer is no listing").with("path", path);
        let operation = format!("LISTSTATUS_BATCH&startAfter={}", encoded(after, false));
        let (entries, more) = match self.json(Method::GET, path, &operation).await {
            Ok(all) => {
                let all = all.get("DirectoryListing").ok_or_else(malformed)?;
                let more = all.get("remainingEntries").and_then(Value::as_u64).ok_or_else(malformed)? > 0;
                (all.get("partialListing").cloned().ok_or_else(malformed)?, more)
            }
            Err(error) if error.kind() == ErrorKind::NotSupported => {
                (self.json(Method::GET, path, "LISTSTATUS").await?, false)
            }
            Err(error) => return Err(error),
        };
        let entries = entries.get("FileStatuses").and_then(|all| all.get("FileStatus")).and_then(Value::as_array);
        let entries = entries.ok_or_else(malformed)?.iter();
        let entries = entries.map(|entry| status(entry).ok_or_else(malformed)).collect::<Result<Vec<_>>>()?;
        Ok((entries, more))
    }
}

fn location(answer: &Response) -> Option<String> {
    let to = answer.headers().get(reqwest::header::LOCATION).filter(|_| answer.status().is_redirection());
    to.and_then(|to| to.to_str().ok()).map(str::to_string)
}

fn status(entry: &Value) -> Option<Status> {
    let number = |name: &str| entry.get(name).and_then(Value::as_u64);
    let time = number("modificationTime")?.min(i64::MAX as u64 / 2);
    Some(Status {
        name: entry.get("pathSuffix")?.as_str()?.to_string(),
        directory: entry.get("type")?.as_str()? == "DIRECTORY",
        size: number("length")?,
        mtime: UNIX_EPOCH + Duration::from_millis(time),
    })
}

/// What a server answers to a change that it has not made.
fn done(answer: &Value, path: &str) -> Result<()> {
    match answer.get("boolean").and_then(Value::as_bool) {
        Some(false) => Err(Error::new(ErrorKind::Ufs, "the under file system has not done it").with("path", path)),
        _ => Ok(()),
    }
}

impl Cluster for Web {
    fn can_name(&self, name: &str) -> bool {
        // Hadoop 2.7 decodes escapes twice, others before 3.3 cut at a semicolon or not at a plus (HDFS-13176, HDFS-14423).
        !name.contains(['%', '+', ';'])
    }

    fn status<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<Status>>> {
        async move {
            let malformed = || Error::new(ErrorKind::Unavailable, "the answer is no status").with("path", path);
            match self.json(Method::GET, path, "GETFILESTATUS").await {
                Ok(found) => found.get("FileStatus").and_then(status).map(Some).ok_or_else(malformed),
                // A path below a file is none, too.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn list(&self, path: &str) -> BoxStream<'static, Result<Status>> {
        // None: that was all.
        let start = (self.clone(), path.to_string(), Some(String::new()));
        let step = async |(web, path, after): (Web, String, Option<String>)| {
            let after = after?;
            match web.part(&path, &after).await {
                Ok((entries, more)) => {
                    let last = entries.last().filter(|_| more).map(|entry| entry.name.clone());
                    Some((futures::stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()), (web, path, last)))
                }
                Err(error) => Some((futures::stream::iter(vec![Err(error)]), (web, path, None))),
            }
        };
        futures::stream::unfold(start, step).flatten().boxed()
    }

    fn open<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Box<dyn OpenFile>>> {
        let file = Opened { web: self.clone(), path: path.to_string() };
        std::future::ready(Ok(Box::new(file) as Box<dyn OpenFile>)).boxed()
    }

    fn create<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Box<dyn NewFile>>> {
        async move {
            let url = self.url(path, "CREATE&overwrite=false&permission=644");
            let answer = self.client.put(&url).send().await.map_err(|error| self.broken(error, path))?;
            let Some(to) = location(&answer) else {
                self.good(answer, path).await?;
                let message = "the under file system names no place for the data of a file";
                return Err(Error::new(ErrorKind::Ufs, message).with("path", path));
            };
            let (parts, data) = mpsc::channel::<Part>(1);
            let data = futures::stream::unfold(data, async |mut data| match data.recv().await {
                Some(Part::Data(part)) => Some((Ok(part), data)),
                Some(Part::End) => None,
                // Whoever wrote it has given up.
                None => Some((Err(std::io::Error::other("not all of the file came")), data)),
            });
            let (web, sent_path) = (self.clone(), path.to_string());
            let sending = tokio::spawn(async move {
                let request = web.client.put(&to).header(reqwest::header::CONTENT_TYPE, "application/octet-stream");
                let sent = request.body(reqwest::Body::wrap_stream(data)).send().await;
                let answer = sent.map_err(|error| web.broken(error, &sent_path))?;
                web.good(answer, &sent_path).await.map(|_| ())
            });
            Ok(Box::new(Created { parts: Some(parts), sending, path: path.to_string() }) as Box<dyn NewFile>)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, replace: bool) -> BoxFuture<'a, Result<()>> {
        async move {
            let options = if replace { "OVERWRITE" } else { "NONE" };
            let operation = format!("RENAME&destination={}&renameoptions={options}", encoded(to, false));
            let answer = self.json(Method::PUT, from, &operation).await.map_err(|error| match error.get("store") {
                Some(said) if said.contains("is not empty") => {
                    Error::new(ErrorKind::DirectoryNotEmpty, "the directory is not empty in the under file system")
                        .caused_by(error)
                }
                _ => error,
            })?;
            done(&answer, to)
        }
        .boxed()
    }

    fn make<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move { done(&self.json(Method::PUT, path, "MKDIRS&permission=755").await?, path) }.boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            match self.json(Method::DELETE, path, "DELETE&recursive=false").await {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

struct Opened {
    web: Web,
    path: String,
}

impl OpenFile for Opened {
    fn is_pinned(&self) -> bool {
        false
    }

    fn read<'a>(&'a self, offset: u64, len: u64) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            let answer = self.web.ask(Method::GET, &self.path, &format!("OPEN&offset={offset}&length={len}")).await?;
            let capacity = usize::try_from(len).map_err(|_| Error::new(ErrorKind::TooBig, "the range is too long"))?;
            let mut bytes = Vec::with_capacity(capacity);
            let mut parts = answer.bytes_stream();
            while let Some(part) = parts.next().await {
                bytes.extend_from_slice(&part.map_err(|error| self.web.broken(error, &self.path))?);
                if bytes.len() > capacity {
                    let message = "the store answered with another range than it was asked for";
                    return Err(Error::new(ErrorKind::Unavailable, message).with("path", &self.path));
                }
            }
            Ok(bytes.into())
        }
        .boxed()
    }
}

/// A body that only stops would be taken for a whole file.
enum Part {
    Data(Bytes),
    End,
}

/// Its data goes to a task that has the request.
struct Created {
    parts: Option<mpsc::Sender<Part>>,
    sending: JoinHandle<Result<()>>,
    path: String,
}

impl Created {
    async fn outcome(&mut self) -> Result<()> {
        (&mut self.sending).await.unwrap_or_else(|source| {
            Err(Error::new(ErrorKind::Internal, "an upload broke off").with("path", &self.path).caused_by(source))
        })
    }
}

impl NewFile for Created {
    fn write<'a>(&'a mut self, data: Bytes) -> BoxFuture<'a, Result<()>> {
        async move {
            let broken =
                Error::new(ErrorKind::Unavailable, "the store took no more of a file").with("path", &self.path);
            match &self.parts {
                Some(parts) if parts.send(Part::Data(data)).await.is_ok() => Ok(()),
                Some(_) => {
                    self.parts = None;
                    self.outcome().await.and(Err(broken))
                }
                None => Err(broken),
            }
        }
        .boxed()
    }

    fn close<'a>(&'a mut self) -> BoxFuture<'a, Result<()>> {
        async move {
            if let Some(parts) = self.parts.take() {
                // One that is gone tells why by its outcome.
                let _ = parts.send(Part::End).await;
            }
            self.outcome().await
        }
        .boxed()
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        self.sending.abort();
    }
}
