//! Changes of an object store that speaks S3.
//!
//! Always: an object appears whole; where the store knows conditions, nothing replaces what its caller has not seen; an object
//! carries the token of what it was made from, so that an attempt whose answer was lost is not taken for somebody else's.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;

use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use opendal::options::WriteOptions;

use crate::objects::{is_plain, quoted};
use crate::objects_change::TOKEN;
use crate::s3::S3Ufs;
use crate::s3_multipart::{Guard, Part, Upload};
use crate::{Condition, Object, Source};

/// Objects up to this size are stored with one request.
const WHOLE_MAX: u64 = 8 << 20;
/// Parts of larger ones, unless there would be too many of them.
const PART: u64 = 8 << 20;
const PARTS_MAX: u64 = 9000;
/// Parts of one object on their way at once.
const PARTS_AT_ONCE: usize = 4;

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
        self.objects.settle(key, source, stored).await
    }

    async fn put(&self, key: &str, source: &dyn Source, when: &Condition) -> Result<()> {
        let failed = self.objects.failed(key);
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
            _ => self.objects.compare_now(key, when).await?,
        }
        if source.size() <= WHOLE_MAX {
            let data = source.read(0, source.size()).await?;
            source.check().await?;
            self.objects.operator.write_options(key, data, options).await.map_err(&failed)?;
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
}

/// The MD5 of a part, in hexadecimal digits.
fn digest(data: &[u8]) -> String {
    use md5::Digest;
    md5::Md5::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_unknown_condition(error: &Error) -> bool {
    error.kind() == ErrorKind::NotSupported || error.get("store").is_some_and(|said| said.contains("NotImplemented"))
}
