//! The live workers: when each was last heard, what room it has, and the connection to it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use curvine_namespace::WorkerRecord;
use curvine_proto::{Message, Method, TierInfo, WorkerInfo, WorkerStats};
use curvine_rpc::{Address, Body, Channel, Connector};
use curvine_types::{Error, ErrorKind, Result, WorkerId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::sessions::boot_clock;

/// How long a call waits for a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a worker says of itself that is not in the log.
pub struct Announcement {
    pub tiers: Vec<TierInfo>,
    pub software: String,
    pub web_port: u32,
    pub node: String,
}

struct Live {
    record: WorkerRecord,
    heard: Duration,
    announced: Announcement,
    stats: WorkerStats,
    channel: Channel,
}

/// The workers that have registered with this leader.
pub struct Workers {
    inner: Mutex<HashMap<WorkerId, Live>>,
    connector: Connector,
    lease: Duration,
}

impl Workers {
    /// A worker is live for `lease` after each sign of life.
    pub fn new(connector: Connector, lease: Duration) -> Self {
        Self { inner: Mutex::default(), connector, lease }
    }

    /// How long a worker is believed without being heard.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// A worker that is in the log has registered with this leader.
    pub fn registered(&self, record: WorkerRecord, announced: Announcement) {
        let address = Address::Tcp(format!("{}:{}", record.hostname, record.rpc_port));
        let channel = Channel::new(self.connector.clone(), vec![address], 1).with_patience(PATIENCE);
        let live = Live { heard: boot_clock(), stats: WorkerStats::default(), announced, channel, record };
        self.inner.lock().insert(live.record.id, live);
    }

    /// Renews; false if this leader does not know the worker yet.
    pub fn heard(&self, worker: WorkerId, tiers: Vec<TierInfo>, stats: Option<WorkerStats>) -> bool {
        let mut inner = self.inner.lock();
        let Some(live) = inner.get_mut(&worker) else { return false };
        live.heard = boot_clock();
        live.announced.tiers = tiers;
        live.stats = stats.unwrap_or_default();
        true
    }

    /// Whether the worker was heard lately: then it may serve authoritative content.
    pub fn is_live(&self, worker: WorkerId) -> bool {
        let oldest = boot_clock().saturating_sub(self.lease);
        self.inner.lock().get(&worker).is_some_and(|live| live.heard >= oldest)
    }

    /// Calls a worker; `Unavailable` at once if it was not heard lately.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        worker: WorkerId,
        method: Method,
        request: &Q,
        data: Bytes,
        deadline: Instant,
    ) -> Result<R> {
        let oldest = boot_clock().saturating_sub(self.lease);
        let lost = |message| Error::new(ErrorKind::Unavailable, message).with("worker", worker);
        let channel = match self.inner.lock().get(&worker) {
            Some(live) if live.heard >= oldest => live.channel.clone(),
            Some(_) => return Err(lost("the worker is lost")),
            None => return Err(lost("the worker has not registered since the master started")),
        };
        let body = if data.is_empty() { Body::Empty } else { Body::Bytes(data) };
        let (reply, _) = channel.call(method, request, body, deadline).await?;
        Ok(reply)
    }

    /// Where new content goes: the preferred worker if it is live and has room, else the one with the most room, of those that
    /// take something.
    pub fn choose(&self, preferred: WorkerId, takes: &HashSet<WorkerId>) -> Result<WorkerId> {
        const ROOM: u64 = 1 << 20;
        let inner = self.inner.lock();
        let oldest = boot_clock().saturating_sub(self.lease);
        let room = |live: &Live| live.announced.tiers.iter().map(|tier| tier.available).sum::<u64>();
        let alive = || inner.values().filter(|live| live.heard >= oldest);
        if alive().next().is_none() {
            return Err(Error::new(ErrorKind::Unavailable, "no worker is registered; start one with `curvine worker`"));
        }
        let live = || alive().filter(|live| takes.contains(&live.record.id));
        if live().next().is_none() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "all workers are leaving; start one, or take one back with `cv node recommission`",
            ));
        }
        if live().any(|live| live.record.id == preferred && room(live) >= ROOM) {
            return Ok(preferred);
        }
        live()
            .filter(|live| room(live) >= ROOM)
            .max_by_key(|live| (room(live), live.record.id))
            .map(|live| live.record.id)
            .ok_or_else(|| {
                Error::new(ErrorKind::NoSpace, "no worker has room; add a data_dir or a worker, or free something")
            })
    }

    /// A live worker of those that take something that has one tier directory with room for a content.
    pub fn choose_for(&self, size: u64, takes: &HashSet<WorkerId>) -> Result<WorkerId> {
        let inner = self.inner.lock();
        let oldest = boot_clock().saturating_sub(self.lease);
        let room = |live: &Live| live.announced.tiers.iter().map(|tier| tier.available).max().unwrap_or_default();
        let live =
            inner.values().filter(|live| live.heard >= oldest && takes.contains(&live.record.id) && room(live) > size);
        live.max_by_key(|live| (room(live), live.record.id))
            .map(|live| live.record.id)
            .ok_or_else(|| Error::new(ErrorKind::NoSpace, "no worker has room for it").with("length", size))
    }

    /// Where another worker reaches a live one.
    pub fn address(&self, worker: WorkerId) -> Result<String> {
        let inner = self.inner.lock();
        let live = inner.get(&worker).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "the worker has not registered since the master started")
                .with("worker", worker)
        })?;
        Ok(format!("{}:{}", live.record.hostname, live.record.rpc_port))
    }

    /// The workers that were heard lately.
    pub fn live(&self) -> Vec<WorkerId> {
        let inner = self.inner.lock();
        let oldest = boot_clock().saturating_sub(self.lease);
        inner.values().filter(|live| live.heard >= oldest).map(|live| live.record.id).collect()
    }

    /// All workers of the log, with what is known of them now.
    pub fn list(&self, records: Vec<WorkerRecord>) -> Vec<WorkerInfo> {
        let inner = self.inner.lock();
        let now = boot_clock();
        let info = |record: WorkerRecord| {
            let live = inner.get(&record.id);
            let age = live.map(|live| now.saturating_sub(live.heard));
            WorkerInfo {
                id: record.id,
                address: format!("{}:{}", record.hostname, record.rpc_port),
                hostname: record.hostname,
                rpc_port: record.rpc_port,
                socket: record.socket,
                live: age.is_some_and(|age| age <= self.lease),
                tiers: live.map(|live| live.announced.tiers.clone()).unwrap_or_default(),
                software: live.map(|live| live.announced.software.clone()).unwrap_or_default(),
                last_seen_ms: age.map_or(u64::MAX, |age| age.as_millis() as u64),
                web_port: live.map_or(0, |live| live.announced.web_port),
                node: live.map(|live| live.announced.node.clone()).unwrap_or_default(),
                state: record.state.into(),
                ..Default::default()
            }
        };
        records.into_iter().map(info).collect()
    }

    /// What all workers that are known have done since they started.
    pub fn stats(&self) -> WorkerStats {
        let inner = self.inner.lock();
        let mut sum = WorkerStats::default();
        inner.values().for_each(|live| sum.add(&live.stats));
        sum
    }

    /// Bytes over all live workers: capacity and available.
    pub fn capacity(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        let oldest = boot_clock().saturating_sub(self.lease);
        let tiers = inner.values().filter(|live| live.heard >= oldest).flat_map(|live| &live.announced.tiers);
        tiers.fold((0, 0), |(capacity, available), tier| (capacity + tier.capacity, available + tier.available))
    }
}
