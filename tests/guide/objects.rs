//! A store for measuring: one bucket of objects in memory, served range by range with next to no work, and as slowly as wanted.
//! There are no folders in it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream;
use s3s::dto::{
    ETag, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, Object, StreamingBlob, Timestamp,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tokio::time::{Instant, sleep_until};

/// Bytes that are sent at once.
const STEP: usize = 256 << 10;

/// How a store far away answers.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From a request for content to its first byte.
    pub latency: Duration,
    /// Bytes a second of one request; 0: as many as can be.
    pub rate: usize,
    /// Of a page of a listing.
    pub page: Duration,
}

impl Pace {
    pub const NONE: Pace = Pace { latency: Duration::ZERO, rate: 0, page: Duration::ZERO };

    /// When that many bytes of an answer that began so may have been sent.
    fn due(self, began: Instant, sent: usize) -> Instant {
        let sending = if self.rate == 0 { 0.0 } else { sent as f64 / self.rate as f64 };
        began + self.latency + Duration::from_secs_f64(sending)
    }
}

/// The objects of the only bucket, by key.
#[derive(Clone)]
pub struct Objects {
    pub bucket: &'static str,
    pub contents: BTreeMap<String, Bytes>,
    pub stored: SystemTime,
    pub pace: Pace,
}

impl Objects {
    fn content(&self, bucket: &str, key: &str) -> S3Result<Bytes> {
        if bucket != self.bucket {
            return Err(s3_error!(NoSuchBucket));
        }
        self.contents.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn etag(key: &str, content: &Bytes) -> ETag {
        ETag::Strong(format!("{}-{key}", content.len()))
    }
}

/// The content, cut into steps that come when they are due.
fn paced(content: Bytes, pace: Pace) -> StreamingBlob {
    let began = Instant::now();
    let body = stream::unfold((content, 0), move |(mut rest, sent)| async move {
        if rest.is_empty() {
            return None;
        }
        let step = rest.split_to(rest.len().min(STEP));
        let due = pace.due(began, sent);
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let sent = sent + step.len();
        Some((Ok::<_, std::io::Error>(step), (rest, sent)))
    });
    StreamingBlob::wrap(body)
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        if request.input.bucket != self.bucket {
            return Err(s3_error!(NoSuchBucket));
        }
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { bucket, prefix, start_after, continuation_token, max_keys, .. } = request.input;
        tokio::time::sleep(self.pace.page).await;
        let (prefix, limit) = (prefix.unwrap_or_default(), max_keys.map_or(1000, |keys| keys.clamp(1, 1000) as usize));
        let after = continuation_token.or(start_after).unwrap_or_default();
        let mut rest =
            self.contents.range((Bound::Excluded(after), Bound::Unbounded)).filter(|(key, _)| key.starts_with(&prefix));
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let next = rest.next().and_then(|_| page.last().map(|(key, _)| key.to_string()));
        let contents: Vec<Object> = page
            .into_iter()
            .map(|(key, content)| Object {
                key: Some(key.clone()),
                size: Some(content.len() as i64),
                last_modified: Some(Timestamp::from(self.stored)),
                e_tag: Some(Self::etag(key, content)),
                ..Object::default()
            })
            .collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(bucket),
            prefix: Some(prefix),
            key_count: Some(contents.len() as i32),
            max_keys: Some(limit as i32),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let content = self.content(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(content.len() as i64),
            last_modified: Some(Timestamp::from(self.stored)),
            e_tag: Some(Self::etag(&request.input.key, &content)),
            ..HeadObjectOutput::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let content = self.content(&input.bucket, &input.key)?;
        let whole = content.len() as u64;
        let (part, content_range) = match input.range {
            None => (content.clone(), None),
            Some(range) => {
                let range = range.check(whole)?;
                let named = format!("bytes {}-{}/{whole}", range.start, range.end - 1);
                (content.slice(range.start as usize..range.end as usize), Some(named))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(part.len() as i64),
            content_range,
            last_modified: Some(Timestamp::from(self.stored)),
            e_tag: Some(Self::etag(&input.key, &content)),
            body: Some(paced(part, self.pace)),
            ..GetObjectOutput::default()
        }))
    }
}
