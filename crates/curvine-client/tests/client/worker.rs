//! A worker that is played: contents in memory, damaged or unreachable on demand.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use curvine_proto::*;
use curvine_rpc::{Body, Call, Reply, Service, crc32c};
use curvine_types::limits::PIECE_SIZE;
use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

#[derive(Default)]
pub struct Worker {
    pub contents: Mutex<HashMap<(u64, u64), Content>>,
    pub reads: Mutex<Vec<ReadRequest>>,
    pub writes: AtomicU64,
    /// Replies to reads that are damaged on their way.
    pub damaged: AtomicU64,
    /// Errors that the next calls get.
    pub refusals: Mutex<VecDeque<(Method, ErrorKind)>>,
    pub mtime: AtomicU64,
}

#[derive(Clone, Default)]
pub struct Content {
    pub data: Vec<u8>,
    pub epoch: u64,
}

impl Worker {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn put(&self, inode: u64, generation: u64, data: Vec<u8>) {
        self.contents.lock().insert((inode, generation), Content { data, epoch: 1 });
    }

    fn content<T>(&self, id: &Option<ContentId>, work: impl FnOnce(&mut Content) -> Result<T>) -> Result<T> {
        let id = id.unwrap();
        let mut contents = self.contents.lock();
        let content = contents.get_mut(&(id.inode, id.generation));
        work(content.ok_or_else(|| Error::new(ErrorKind::VersionMismatch, "not here"))?)
    }

    fn live(&self, size: usize) -> Option<LiveAttr> {
        let mtime = Time::new(1000 + self.mtime.fetch_add(1, Ordering::SeqCst) as i64, 0);
        Some(LiveAttr { size: size as u64, mtime: Some(mtime), blocks: (size as u64).div_ceil(512) })
    }

    fn read(&self, request: ReadRequest) -> Result<Reply> {
        self.reads.lock().push(request);
        self.content(&request.content, |content| {
            let piece = PIECE_SIZE as usize;
            let start = request.offset as usize / piece * piece;
            let end = (request.offset as usize + request.length as usize).div_ceil(piece) * piece;
            let end = end.min(content.data.len());
            let mut data = content.data.get(start..end.max(start)).unwrap_or_default().to_vec();
            let crcs = data.chunks(piece).map(crc32c).collect();
            if self.damaged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                data[0] ^= 0x40;
            }
            let reply = ReadReply { offset: start as u64, crcs, size: content.data.len() as u64, hole: 0 };
            Ok(Reply::new(&reply).with_body(Body::Bytes(data.into())))
        })
    }

    fn write(&self, request: WriteRequest, data: Bytes) -> Result<Reply> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        let crcs: Vec<u32> = data.chunks(PIECE_SIZE as usize).map(crc32c).collect();
        assert_eq!(crcs, request.crcs);
        let (offset, size) = self.content(&request.content, |content| {
            if request.epoch < content.epoch {
                return Err(Error::new(ErrorKind::VersionMismatch, "an old epoch"));
            }
            let offset = if request.append { content.data.len() } else { request.offset as usize };
            let end = offset + data.len();
            let length = content.data.len().max(end);
            content.data.resize(length, 0);
            content.data[offset..end].copy_from_slice(&data);
            Ok((offset, length))
        })?;
        Ok(Reply::new(&WriteReply { offset: offset as u64, attr: self.live(size) }))
    }

    async fn answer(self: Arc<Self>, call: Call) -> Result<Reply> {
        {
            let mut refusals = self.refusals.lock();
            if refusals.front().is_some_and(|(method, _)| *method == call.method)
                && let Some((_, kind)) = refusals.pop_front()
            {
                return Err(Error::new(kind, "refused by the test"));
            }
        }
        match call.method {
            Method::Read => self.read(call.request()?),
            Method::Write => self.write(call.request()?, call.data),
            Method::Fsync => Ok(Reply::new(&Empty {})),
            Method::Place => {
                let request: PlaceRequest = call.request()?;
                let id = request.content.unwrap();
                let content = Content { data: call.data.to_vec(), epoch: request.epoch };
                self.contents.lock().insert((id.inode, id.generation), content);
                Ok(Reply::new(&Empty {}))
            }
            Method::OpenContent => {
                let request: OpenContentRequest = call.request()?;
                self.content(&request.content, |content| {
                    content.epoch = request.epoch;
                    Ok(Reply::new(&Empty {}))
                })
            }
            Method::Fill => {
                let request: FillRequest = call.request()?;
                self.content(&request.content, |_| Ok(Reply::new(&FillReply { fetched: request.length })))
            }
            Method::ContentMap => {
                let request: ContentMapRequest = call.request()?;
                self.content(&request.content, |content| {
                    let size = content.data.len() as u64;
                    Ok(Reply::new(&ContentMapReply { size, present_bytes: size, ..Default::default() }))
                })
            }
            _ => Err(Error::new(ErrorKind::NotSupported, "not played")),
        }
    }
}

impl Service for Worker {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        self.answer(call).boxed()
    }
}
