//! Multipart uploads to S3, request by request: their ids are told before the first part is sent, so that somebody else can abort what
//! a process that died has begun.
//!
//! Always: an upload that is not completed is aborted, also when whoever waits for it gives up; only what the process does not live to
//! abort is left to others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result, Secret};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{Method, Request, StatusCode};
use opendal::HttpTransporter;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, OsEnv, ProvideCredentialChain, Signer};
use reqsign_file_read_tokio::TokioFileRead;

use crate::Counters;
use crate::policy::{Policy, time_for};
use crate::retry::Retries;

/// Attempts of one request after the first one; a part of a large object should not cost all of it.
const RETRIES: u32 = 2;
/// Pages of a list of parts.
const PAGES_MAX: usize = 11;
/// Longest part of a store's own message that is passed on.
const MESSAGE_MAX: usize = 300;

/// How the store is reached, and by whom.
pub(crate) struct Access {
    /// With the bucket, by path or by host, and without a `/` at the end.
    pub(crate) base: String,
    /// Of the mount, without `/` around it.
    pub(crate) prefix: String,
    pub(crate) region: String,
    /// Access, secret and token; none: what the environment has.
    pub(crate) keys: Option<(String, String, Option<String>)>,
    pub(crate) anonymous: bool,
}

pub(crate) struct Multipart {
    access: Access,
    client: reqwest::Client,
    signer: Option<Signer<Credential>>,
    timeout: Duration,
    retries: Retries,
    counters: Arc<Counters>,
    secrets: Arc<[Secret]>,
}

/// What the store must have for an upload to be completed.
#[derive(Clone, Debug)]
pub(crate) enum Guard {
    None,
    Absent,
    /// With quotes.
    Etag(String),
}

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) size: u64,
    /// As the store writes it; empty: it does not say.
    pub(crate) etag: String,
}

struct Answer {
    status: StatusCode,
    etag: String,
    text: String,
}

/// In the form of a url.
pub(crate) fn encoded(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b'/' if keep_slash => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
}

/// The parts of one page of a list, by their numbers.
fn parts_in(text: &str) -> impl Iterator<Item = (usize, Part)> {
    text.split("<Part>").skip(1).filter_map(|part| {
        let number = element(part, "PartNumber")?.parse().ok()?;
        let size = element(part, "Size")?.parse().ok()?;
        let etag = element(part, "ETag").map(unescaped).unwrap_or_default();
        Some((number, Part { size, etag }))
    })
}

fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&apos;", "'").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Multipart {
    pub(crate) fn new(
        access: Access,
        client: reqwest::Client,
        transport: HttpTransporter,
        policy: &Policy,
        counters: Arc<Counters>,
        secrets: Arc<[Secret]>,
    ) -> Self {
        let context = Context::new().with_file_read(TokioFileRead).with_env(OsEnv).with_http_send(transport);
        let credentials = match &access.keys {
            Some((access, secret, token)) => {
                let keys = StaticCredentialProvider::new(access, secret);
                let keys = match token {
                    Some(token) => keys.with_session_token(token),
                    None => keys,
                };
                ProvideCredentialChain::new().push(keys)
            }
            None => ProvideCredentialChain::new().push(DefaultCredentialProvider::new()),
        };
        let signer = Signer::new(context, credentials, RequestSigner::new("s3", &access.region));
        let signer = (!access.anonymous).then_some(signer);
        let retries = Retries::new(policy);
        Self { access, client, signer, timeout: policy.attempt_timeout, retries, counters, secrets }
    }

    fn url(&self, key: &str, query: &str) -> String {
        let Access { base, prefix, .. } = &self.access;
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("{base}/{}?{query}", encoded(&format!("{prefix}{slash}{key}"), true))
    }

    /// One request, tried again after failures that may pass.
    async fn ask(
        &self,
        method: &Method,
        key: &str,
        query: &str,
        headers: &[(HeaderName, String)],
        body: &Bytes,
    ) -> Result<Answer> {
        let attempt = || self.ask_once(method, key, query, headers, body);
        self.retries.run(RETRIES, &self.counters, attempt).await.0
    }

    async fn ask_once(
        &self,
        method: &Method,
        key: &str,
        query: &str,
        headers: &[(HeaderName, String)],
        body: &Bytes,
    ) -> Result<Answer> {
        let malformed = |what: String| Error::new(ErrorKind::Internal, "a request cannot be made").with("what", what);
        let mut request = Request::builder().method(method).uri(self.url(key, query));
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|error| malformed(error.to_string()))?;
            request = request.header(name, value);
        }
        let request = request.body(()).map_err(|error| malformed(error.to_string()))?;
        let (mut parts, ()) = request.into_parts();
        if let Some(signer) = &self.signer {
            signer.sign(&mut parts, None).await.map_err(|error| {
                let said = self.scrubbed(&error.to_string());
                Error::new(ErrorKind::PermissionDenied, "no credentials for the under file system").with("store", said)
            })?;
        }
        parts.headers.remove(HOST);
        let request = reqwest::Request::try_from(Request::from_parts(parts, reqwest::Body::from(body.clone())));
        let request = request.map_err(|error| malformed(error.to_string()))?;
        let answer = async {
            let answer = self.client.execute(request).await?;
            let status = answer.status();
            let etag = answer.headers().get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_string();
            let text = String::from_utf8_lossy(&answer.bytes().await?).into_owned();
            Ok::<_, reqwest::Error>(Answer { status, etag, text })
        };
        let limit = self.timeout + time_for(body.len() as u64);
        let answer = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                let said = self.scrubbed(&cause.to_string());
                return Err(failure(ErrorKind::Unavailable, "the under file system fails", &said, key));
            }
            Err(_) => {
                let message = "the under file system did not answer in time";
                return Err(Error::new(ErrorKind::Unavailable, message).with("key", key));
            }
        };
        // Some failures come with 200, after the store has kept the connection alive for a while.
        let code = element(&answer.text, "Code").filter(|_| answer.text.contains("<Error>"));
        if answer.status.is_success() && code.is_none() {
            return Ok(answer);
        }
        let said = self.scrubbed(&format!(
            "{} {} {}",
            answer.status.as_u16(),
            code.unwrap_or_default(),
            element(&answer.text, "Message").unwrap_or_default()
        ));
        let (kind, message) = match (answer.status.as_u16(), code.unwrap_or_default()) {
            (_, "NoSuchUpload") => (ErrorKind::NotFound, "the upload is not there"),
            (412, _) | (_, "PreconditionFailed" | "ConditionalRequestConflict") => {
                (ErrorKind::VersionMismatch, "the object is not the expected version")
            }
            (404, _) => (ErrorKind::NotFound, "not in the under file system"),
            (401 | 403, _) => (ErrorKind::PermissionDenied, "the under file system denies access"),
            (429, _) | (_, "SlowDown") => (ErrorKind::Overloaded, "the under file system asks to slow down"),
            (501, _) | (_, "NotImplemented") => (ErrorKind::NotSupported, "the under file system cannot do this"),
            (500.., _) | (_, "InternalError" | "RequestTimeout") => {
                (ErrorKind::Unavailable, "the under file system fails")
            }
            _ => (ErrorKind::Ufs, "the under file system fails"),
        };
        Err(failure(kind, message, &said, key))
    }

    fn scrubbed(&self, text: &str) -> String {
        let said = crate::error::scrub(text, &self.secrets);
        said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_MAX).collect()
    }

    /// The id of a new upload. `metadata`: a header that the object will have.
    pub(crate) async fn begin(&self, key: &str, metadata: (&str, &str)) -> Result<String> {
        let name = HeaderName::from_bytes(format!("x-amz-meta-{}", metadata.0).as_bytes())
            .map_err(|_| Error::new(ErrorKind::Internal, "no header has this name").with("name", metadata.0))?;
        let headers = [(name, metadata.1.to_string())];
        let answer = self.ask(&Method::POST, key, "uploads=", &headers, &Bytes::new()).await?;
        let id = element(&answer.text, "UploadId").map(unescaped).filter(|id| !id.is_empty());
        id.ok_or_else(|| {
            Error::new(ErrorKind::Ufs, "the under file system began an upload without saying its id").with("key", key)
        })
    }

    /// Sends a part, numbered from 1; its etag.
    pub(crate) async fn part(&self, key: &str, id: &str, number: usize, data: Bytes) -> Result<String> {
        let query = format!("partNumber={number}&uploadId={}", encoded(id, false));
        let answer = self.ask(&Method::PUT, key, &query, &[], &data).await?;
        if answer.etag.is_empty() {
            return Err(
                Error::new(ErrorKind::Ufs, "the under file system took a part without an etag").with("key", key)
            );
        }
        Ok(answer.etag)
    }

    /// The parts that an upload has, by their numbers. `NotFound`: there is no such upload.
    pub(crate) async fn parts(&self, key: &str, id: &str) -> Result<BTreeMap<usize, Part>> {
        let (mut parts, mut after) = (BTreeMap::new(), "0".to_string());
        for _ in 0..PAGES_MAX {
            let id = encoded(id, false);
            let query = format!("max-parts=1000&part-number-marker={}&uploadId={id}", encoded(&after, false));
            let answer = self.ask(&Method::GET, key, &query, &[], &Bytes::new()).await?;
            parts.extend(parts_in(&answer.text));
            match element(&answer.text, "NextPartNumberMarker") {
                Some(next) if element(&answer.text, "IsTruncated") == Some("true") && next != after => {
                    after = next.to_string();
                }
                _ => break,
            }
        }
        Ok(parts)
    }

    pub(crate) async fn complete(&self, key: &str, id: &str, etags: &[String], guard: &Guard) -> Result<()> {
        let parts: String = etags
            .iter()
            .enumerate()
            .map(|(at, etag)| format!("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", at + 1, escaped(etag)))
            .collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let mut headers = vec![(CONTENT_TYPE, "application/xml".to_string())];
        match guard {
            Guard::None => {}
            Guard::Absent => headers.push((IF_NONE_MATCH, "*".to_string())),
            Guard::Etag(etag) => headers.push((IF_MATCH, etag.clone())),
        }
        let query = format!("uploadId={}", encoded(id, false));
        // Asked once: of one whose answer was lost nobody knows whether it was done, which the caller finds out by looking.
        let answer = self.ask_once(&Method::POST, key, &query, &headers, &Bytes::from(body)).await?;
        if answer.text.contains("CompleteMultipartUploadResult") {
            return Ok(());
        }
        Err(failure(ErrorKind::Unavailable, "the under file system does not say that the upload is complete", "", key))
    }

    /// Gives an upload up; one that is not there is fine.
    pub(crate) async fn abort(&self, key: &str, id: &str) -> Result<()> {
        let query = format!("uploadId={}", encoded(id, false));
        match self.ask(&Method::DELETE, key, &query, &[], &Bytes::new()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            aborted => aborted.map(|_| ()),
        }
    }
}

fn failure(kind: ErrorKind, message: &str, said: &str, key: &str) -> Error {
    let message = match crate::diagnosis::hint(said) {
        Some(hint) => format!("{message}: {hint}"),
        None => message.to_string(),
    };
    let error = Error::new(kind, message).with("key", key);
    if said.trim().is_empty() { error } else { error.with("store", said.trim()) }
}

/// An upload that has begun. Aborted when dropped, unless it was completed.
pub(crate) struct Upload {
    multipart: Arc<Multipart>,
    key: String,
    pub(crate) id: String,
    done: bool,
}

impl Upload {
    pub(crate) fn new(multipart: Arc<Multipart>, key: &str, id: String) -> Self {
        Self { multipart, key: key.to_string(), id, done: false }
    }

    pub(crate) async fn complete(mut self, etags: &[String], guard: &Guard) -> Result<()> {
        self.multipart.complete(&self.key, &self.id, etags, guard).await?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.done {
            return;
        }
        let (multipart, key, id) =
            (self.multipart.clone(), std::mem::take(&mut self.key), std::mem::take(&mut self.id));
        runtime.spawn(async move {
            if let Err(error) = multipart.abort(&key, &id).await {
                tracing::warn!(key, %error, "an upload was not aborted; it is when the file is stored again");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_are_put_into_urls_and_answers_taken_apart() {
        assert_eq!(encoded("a b/ü+&?", true), "a%20b/%C3%BC%2B%26%3F");
        assert_eq!(encoded("a/b", false), "a%2Fb");
        let text = "<R><UploadId>a&amp;b&lt;</UploadId><Code>X</Code></R>";
        assert_eq!(element(text, "UploadId").map(unescaped).as_deref(), Some("a&b<"));
        assert_eq!((element(text, "Key"), element(text, "Code")), (None, Some("X")));
        assert_eq!(escaped("\"e&f\""), "&quot;e&amp;f&quot;");
    }

    #[test]
    fn parts_are_read_from_a_list_also_without_their_etags() {
        let text = "<L><PartNumberMarker>0</PartNumberMarker><Part><PartNumber>1</PartNumber><Size>5</Size>\
                    <ETag>&quot;a&quot;</ETag></Part><Part><PartNumber>3</PartNumber><Size>7</Size></Part>\
                    <Part><Size>7</Size></Part></L>";
        let part = |size, etag: &str| Part { size, etag: etag.to_string() };
        assert_eq!(parts_in(text).collect::<Vec<_>>(), [(1, part(5, "\"a\"")), (3, part(7, ""))]);
    }
}
