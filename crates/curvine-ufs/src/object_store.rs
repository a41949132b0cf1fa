//! Any store of objects that OpenDAL has an adapter for.
//!
//! Always: an object appears whole. Which conditions a store takes on writes is asked of its adapter; where it takes none, versions
//! are compared just before, and who writes in that moment loses.

use std::collections::HashMap;

use bytes::Bytes;
use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use opendal::options::WriteOptions;

use crate::objects::{Objects, is_plain, quoted};
use crate::objects_change::TOKEN_OF_LETTERS;
use crate::{Condition, Counters, Expect, ListPage, Object, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted};

/// Bytes sent with one request.
const PART: u64 = 8 << 20;
const PARTS_MAX: u64 = 9000;
/// Parts of one object on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Largest object of a store that takes no parts; all of it is held in memory.
const WHOLE_MAX: u64 = 256 << 20;

pub(crate) struct ObjectStoreUfs(Objects);

impl ObjectStoreUfs {
    pub(crate) fn new(objects: Objects) -> Self {
        Self(objects)
    }

    async fn store_object(&self, key: &str, source: &dyn Source, when: &Condition) -> Result<Object> {
        if !is_plain(key) || key.is_empty() || key.ends_with('/') {
            return Err(Error::new(ErrorKind::InvalidArgument, "this key cannot be stored").with("key", key));
        }
        let stored = self.put(key, source, when).await;
        self.0.settle(key, source, stored).await
    }

    async fn put(&self, key: &str, source: &dyn Source, when: &Condition) -> Result<()> {
        let can = &self.0.can;
        let mut options = WriteOptions::default();
        match when {
            Condition::Any => {}
            Condition::Absent if can.write_with_if_not_exists => options.if_not_exists = true,
            Condition::Is(expect) if !expect.etag.is_empty() && self.0.by_generation() => {
                options.if_version_match = Some(expect.etag.clone());
            }
            Condition::Is(expect) if !expect.etag.is_empty() && can.write_with_if_match => {
                options.if_match = Some(quoted(&expect.etag));
            }
            _ => self.0.compare_now(key, when).await?,
        }
        if can.write_with_user_metadata {
            options.user_metadata = Some(HashMap::from([(TOKEN_OF_LETTERS.to_string(), source.token().to_string())]));
        }
        if source.size() <= PART {
            let data = source.read(0, source.size()).await?;
            source.check().await?;
            return self.0.operator.write_options(key, data, options).await.map(|_| ()).map_err(self.0.failed(key));
        }
        if can.write_can_multi {
            self.put_in_parts(key, source, options).await
        } else {
            self.put_whole(key, source, options).await
        }
    }

    async fn put_whole(&self, key: &str, source: &dyn Source, options: WriteOptions) -> Result<()> {
        if source.size() > WHOLE_MAX {
            return Err(Error::new(ErrorKind::FileTooLarge, "this kind of store takes no files that are larger")
                .with("key", key)
                .with("limit", WHOLE_MAX));
        }
        let mut parts: Vec<Bytes> = Vec::new();
        let mut offset = 0;
        while offset < source.size() {
            let part = source.read(offset, PART.min(source.size() - offset)).await?;
            offset += part.len() as u64;
            parts.push(part);
        }
        source.check().await?;
        let whole = opendal::Buffer::from(parts);
        self.0.operator.write_options(key, whole, options).await.map(|_| ()).map_err(self.0.failed(key))
    }

    /// What is sent of an object that is not completed is given up, unless the process dies or stops waiting.
    async fn put_in_parts(&self, key: &str, source: &dyn Source, options: WriteOptions) -> Result<()> {
        let failed = self.0.failed(key);
        let part = PART.max(source.size().div_ceil(PARTS_MAX)).next_multiple_of(1 << 20);
        let chunk = usize::try_from(part).map_err(|_| Error::new(ErrorKind::TooBig, "the parts are too long"))?;
        let options = WriteOptions { chunk: Some(chunk), concurrent: PARTS_AT_ONCE, ..options };
        let mut writer = self.0.operator.writer_options(key, options).await.map_err(&failed)?;
        let sent = async {
            let mut offset = 0;
            while offset < source.size() {
                let data = source.read(offset, part.min(source.size() - offset)).await?;
                offset += data.len() as u64;
                writer.write(data).await.map_err(&failed)?;
            }
            source.check().await?;
            writer.close().await.map(|_| ()).map_err(&failed)
        };
        let sent = sent.await;
        if sent.is_err() {
            let _ = writer.abort().await;
        }
        sent
    }
}

impl Ufs for ObjectStoreUfs {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        self.0.stat(key).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        self.0.list(prefix, start_after, limit).boxed()
    }

    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        self.0.fetch(wanted, sink).boxed()
    }

    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        self.store_object(key, source, when).boxed()
    }

    fn abort<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<()>> {
        // No id of an upload is ever told.
        std::future::ready(Ok(())).boxed()
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.0.put_marker(key).boxed()
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.0.remove_marker(key).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.0.remove(key).boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        self.0.move_object(from, to, expect).boxed()
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, limit: u64) -> BoxFuture<'a, Result<u64>> {
        self.0.move_directory(from, to, limit).boxed()
    }

    fn survey<'a>(&'a self, prefix: &'a str, from: &'a SurveyMark, limit: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        self.0.survey(prefix, from, limit).boxed()
    }

    fn counters(&self) -> &Counters {
        &self.0.counters
    }
}
