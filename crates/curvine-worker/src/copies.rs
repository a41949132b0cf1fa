//! Copies of whole files whose home is another worker, made when somebody on this node opens them for the second time.
//!
//! What always holds: the bytes come from the home, which fetches them from the store once for the whole cluster; copies take no
//! more than their share of the tiers, and make way before anything else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvine_blockstore::ContentKey;
use curvine_proto::{ContentId, ListWorkersReply, ListWorkersRequest, Method, WorkerInfo, WorkerState};
use curvine_rpc::{Address, Body, Channel, Connector};
use curvine_types::limits::CHUNK_SIZE;
use curvine_types::{Result, WorkerId, home};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cached;
use crate::engine::Engine;
use crate::read_part::read_part;

/// Contents whose opens are counted; beyond it all are counted anew.
const COUNTED: usize = 64 << 10;
/// Copies made at once.
const AT_ONCE: usize = 2;
/// The open at which a copy is made.
const OPENS: u32 = 2;
/// How long a list of workers is used.
const LIST_TTL: Duration = Duration::from_secs(5);

pub(crate) struct Copies {
    master: Channel,
    connector: Connector,
    /// Largest file that is copied.
    max_size: u64,
    /// Percent of the tiers that copies may take.
    percent: u64,
    timeout: Duration,
    seen: Mutex<Seen>,
    running: Semaphore,
    workers: tokio::sync::Mutex<Option<(Instant, Vec<WorkerInfo>)>>,
    channels: Mutex<HashMap<WorkerId, (String, Channel)>>,
}

#[derive(Default)]
struct Seen {
    opens: HashMap<ContentKey, u32>,
    running: HashSet<ContentKey>,
}

impl Copies {
    /// Copies nothing if `max_size` or `percent` is 0.
    pub fn new(master: Channel, connector: Connector, max_size: u64, percent: u64, timeout: Duration) -> Self {
        Self {
            master,
            connector,
            max_size,
            percent,
            timeout,
            seen: Mutex::default(),
            running: Semaphore::new(AT_ONCE),
            workers: tokio::sync::Mutex::default(),
            channels: Mutex::default(),
        }
    }

    /// Somebody on this node opened a content that is not wholly here.
    pub fn opened(&self, engine: &Arc<Engine>, key: ContentKey) {
        if self.max_size == 0 || self.percent == 0 {
            return;
        }
        {
            let mut seen = self.seen.lock();
            if seen.opens.len() >= COUNTED && !seen.opens.contains_key(&key) {
                seen.opens.clear();
            }
            let opens = seen.opens.entry(key).or_default();
            *opens = opens.saturating_add(1);
            if *opens < OPENS || !seen.running.insert(key) {
                return;
            }
        }
        let engine = engine.clone();
        tokio::spawn(async move {
            let copies = &engine.copies;
            let _end = End(copies, key);
            let Ok(_turn) = copies.running.acquire().await else { return };
            match copies.make(&engine, key).await {
                Ok(true) => tracing::info!(content = %key, "a file that is used here was copied"),
                Ok(false) => {}
                Err(error) => tracing::debug!(content = %key, %error, "a file that is used here was not copied"),
            }
        });
    }

    /// Whether a copy was made.
    async fn make(&self, engine: &Arc<Engine>, key: ContentKey) -> Result<bool> {
        let object = engine.sources.object(key, Instant::now() + self.timeout).await?;
        let size = object.expect.size;
        if size > self.max_size || !self.has_room(engine, size).await? {
            return Ok(false);
        }
        let store = engine.store.clone();
        engine.disk.run(Instant::now() + self.timeout, move || store.prepare_copy(key, size)).await?;
        for number in engine.store.missing_chunks(key, 0, size.div_ceil(CHUNK_SIZE)) {
            let deadline = Instant::now() + self.timeout;
            let offset = number * CHUNK_SIZE;
            let workers = self.live_workers(deadline).await?;
            let block = offset / object.block_size.max(1);
            let home = home::ranked(workers.iter().map(|worker| worker.id), key.inode, block).first().copied();
            let length = CHUNK_SIZE.min(size - offset);
            match workers.iter().find(|worker| Some(worker.id) == home) {
                Some(home) if home.id != engine.sources.worker() => {
                    let data = self.read(home, key, offset, length, deadline).await?;
                    let store = engine.store.clone();
                    engine.disk.run(deadline, move || store.fill(key, offset, &data)).await?;
                }
                _ => {
                    let request = curvine_proto::FillRequest { content: None, offset, length };
                    cached::fill(engine, key, &request, deadline).await?;
                }
            }
        }
        Ok(true)
    }

    async fn has_room(&self, engine: &Arc<Engine>, size: u64) -> Result<bool> {
        let (store, percent) = (engine.store.clone(), self.percent);
        let work = move || {
            let capacity: u64 = store.tiers().iter().map(|tier| tier.capacity).sum();
            Ok(store.copied_bytes().saturating_add(size) <= capacity / 100 * percent)
        };
        engine.disk.run(Instant::now() + self.timeout, work).await
    }

    async fn live_workers(&self, deadline: Instant) -> Result<Vec<WorkerInfo>> {
        let mut known = self.workers.lock().await;
        if let Some((asked, workers)) = known.as_ref()
            && asked.elapsed() < LIST_TTL
        {
            return Ok(workers.clone());
        }
        let (reply, _): (ListWorkersReply, _) =
            self.master.call(Method::ListWorkers, &ListWorkersRequest {}, Body::Empty, deadline).await?;
        let workers = homes(reply.workers);
        *known = Some((Instant::now(), workers.clone()));
        Ok(workers)
    }

    /// A part of a content from its home, checked.
    async fn read(
        &self,
        home: &WorkerInfo,
        key: ContentKey,
        offset: u64,
        length: u64,
        deadline: Instant,
    ) -> Result<Bytes> {
        let channel = self.channel(home)?;
        let content = ContentId { inode: key.inode, generation: key.generation, version: 0 };
        let part = read_part(&channel, content, offset, length, deadline).await;
        let part = part.map_err(|error| error.with("worker", home.id))?;
        Ok(part.map_or_else(|| Bytes::from(vec![0; length as usize]), |(data, _)| data))
    }

    fn channel(&self, worker: &WorkerInfo) -> Result<Channel> {
        match worker.address.as_str() {
            "" => self.channel_to(worker.id, &format!("{}:{}", worker.hostname, worker.rpc_port)),
            address => self.channel_to(worker.id, address),
        }
    }

    /// The connection to another worker.
    pub fn channel_to(&self, worker: WorkerId, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some((known, channel)) = channels.get(&worker)
            && *known == address
        {
            return Ok(channel.clone());
        }
        let parsed: Address = address.parse()?;
        let channel = Channel::new(self.connector.clone(), vec![parsed], 1);
        channels.insert(worker, (address.to_string(), channel.clone()));
        Ok(channel)
    }
}

/// The workers that blocks may have their homes on, as clients choose them.
fn homes(workers: Vec<WorkerInfo>) -> Vec<WorkerInfo> {
    let live: Vec<WorkerInfo> = workers.into_iter().filter(|worker| worker.live).collect();
    let stays = |worker: &&WorkerInfo| worker.state() == WorkerState::InService;
    let staying: Vec<WorkerInfo> = live.iter().filter(stays).cloned().collect();
    if staying.is_empty() { live } else { staying }
}

/// A copy is not being made any more.
struct End<'a>(&'a Copies, ContentKey);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.seen.lock().running.remove(&self.1);
    }
}
