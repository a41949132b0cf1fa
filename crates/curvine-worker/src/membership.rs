//! Belonging to a cluster: learning which one, registering, telling what is here, staying alive.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use curvine_blockstore::{ContentKey, ContentKind};
use curvine_proto::{
    ContentId, InventoryReply, InventoryRequest, Method, RegisterWorkerReply, RegisterWorkerRequest,
    ReleaseContentRequest, WorkerHeartbeatReply, WorkerHeartbeatRequest,
};
use curvine_rpc::{Body, Channel, ClusterCell};
use curvine_types::{ClusterId, Error, ErrorKind, Result, WorkerId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::boot_time;
use crate::engine::Engine;

/// Contents in one page of the inventory: few, because the master looks each of them up in one hold of its lock.
const PAGE: usize = 1000;
/// Pauses between attempts to reach a master: the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// What a worker tells the master of itself.
pub(crate) struct Announcement {
    pub hostname: String,
    pub rpc_port: u16,
    pub web_port: u16,
    pub socket: String,
    pub node: String,
    pub timeout: Duration,
}

/// Waits until a master says which cluster this is, and remembers it.
pub(crate) async fn learn_cluster(master: &Channel, cell: &ClusterCell, timeout: Duration) -> ClusterId {
    let mut pause = PAUSE_MIN;
    loop {
        if let Some(cluster) = cell.get() {
            return cluster;
        }
        let learnt = match master.peer(Instant::now() + timeout).await {
            Ok(peer) if !peer.hello().cluster.is_empty() => {
                ClusterId::from_slice(&peer.hello().cluster).and_then(|cluster| cell.set(cluster))
            }
            Ok(_) => Err(Error::new(ErrorKind::Unavailable, "the master does not know its cluster yet")),
            Err(error) => Err(error),
        };
        if let Err(error) = learnt {
            tracing::warn!(%error, "cannot learn the cluster from the master, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Registers and stays registered; returns only if that cannot succeed, and why. `registered` is the worker's number while
/// the master knows it.
pub(crate) async fn stay(
    engine: Arc<Engine>,
    master: Channel,
    announcement: Announcement,
    registered: &watch::Sender<WorkerId>,
) -> Error {
    let mut pause = PAUSE_MIN;
    loop {
        match register(&engine, &master, &announcement).await {
            Ok((worker, lease)) => {
                pause = PAUSE_MIN;
                tracing::info!(worker, hostname = announcement.hostname, port = announcement.rpc_port,
                    cluster = %engine.store.cluster(), "worker register success");
                registered.send_replace(worker);
                beat(&engine, &master, worker, lease, announcement.timeout).await;
                registered.send_replace(0);
            }
            // Trying again cannot help: somebody must say where this worker belongs.
            Err(error) if error.kind() == ErrorKind::Foreign => return error,
            Err(error) => {
                tracing::warn!(%error, "cannot register with the master, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn register(engine: &Arc<Engine>, master: &Channel, about: &Announcement) -> Result<(WorkerId, Duration)> {
    let request = RegisterWorkerRequest {
        uuid: engine.store.worker_uuid().to_vec().into(),
        hostname: about.hostname.clone(),
        rpc_port: about.rpc_port.into(),
        socket: about.socket.clone(),
        tiers: engine.tier_infos().await,
        software: env!("CARGO_PKG_VERSION").to_string(),
        web_port: about.web_port.into(),
        node: about.node.clone(),
        leaving: engine.leaving.load(Relaxed),
    };
    let sent = boot_time();
    let deadline = Instant::now() + about.timeout;
    let (reply, _): (RegisterWorkerReply, _) =
        master.call(Method::RegisterWorker, &request, Body::Empty, deadline).await?;
    if reply.cluster[..] != engine.store.cluster().0[..] {
        return Err(Error::new(ErrorKind::Foreign, "the master belongs to another cluster than the data directories")
            .with("have", engine.store.cluster()));
    }
    let lease = lease_of(reply.lease_ms)?;
    engine.lease.renew(sent, lease);
    engine.sources.registered(reply.worker);
    tell_inventory(engine, master, reply.worker, about.timeout).await?;
    Ok((reply.worker, lease))
}

/// Tells the master what is here, page by page, and deletes what it says that nobody needs.
async fn tell_inventory(engine: &Arc<Engine>, master: &Channel, worker: WorkerId, timeout: Duration) -> Result<()> {
    let mut after = None;
    loop {
        let items = engine.store.inventory(after, PAGE);
        let Some(last) = items.last() else { return Ok(()) };
        after = Some(last.key);
        let contents = items
            .iter()
            // A copy without content cannot tell what it was a copy of; the master judges by inode and generation.
            .map(|item| ContentId {
                inode: item.key.inode,
                generation: item.key.generation,
                version: if item.kind == ContentKind::Lost { 0 } else { item.version },
            })
            .collect();
        let request = InventoryRequest { worker, contents };
        let deadline = Instant::now() + timeout;
        let (reply, _): (InventoryReply, _) = master.call(Method::Inventory, &request, Body::Empty, deadline).await?;
        if !reply.release.is_empty() {
            let request = ReleaseContentRequest { contents: reply.release.clone() };
            crate::store_object::release(engine, request, deadline).await?;
        }
        for dirty in &reply.dirty {
            let content = dirty.content.unwrap_or_default();
            engine.dirty.note(ContentKey::new(content.inode, content.generation), dirty.mount);
        }
        let unwanted: Vec<ContentKey> =
            reply.delete.iter().map(|content| ContentKey::new(content.inode, content.generation)).collect();
        if !unwanted.is_empty() {
            tracing::info!(contents = unwanted.len(), "deleting what nobody needs any more");
            let store = engine.store.clone();
            engine.disk.run_slow(deadline, move || store.delete(&unwanted)).await?;
        }
    }
}

/// Heartbeats every third of the lease, until the master asks to register again.
async fn beat(engine: &Arc<Engine>, master: &Channel, worker: WorkerId, mut lease: Duration, timeout: Duration) {
    let mut silent = false;
    loop {
        tokio::time::sleep(if silent { (lease / 10).max(PAUSE_MIN) } else { lease / 3 }).await;
        let request =
            WorkerHeartbeatRequest { worker, tiers: engine.tier_infos().await, stats: Some(engine.worker_stats()) };
        let sent = boot_time();
        // A heartbeat that takes longer than the lease is worth nothing.
        let deadline = Instant::now() + timeout.min(lease);
        let answer: Result<(WorkerHeartbeatReply, _)> =
            master.call(Method::WorkerHeartbeat, &request, Body::Empty, deadline).await;
        match answer.and_then(|(reply, _)| Ok((reply.register, lease_of(reply.lease_ms)?, reply.pins_change))) {
            Ok((true, ..)) => return,
            Ok((false, length, pins_change)) => {
                crate::pins::follow(engine, master, pins_change, timeout);
                if silent {
                    tracing::info!(worker, "the master answers again");
                }
                silent = false;
                lease = length;
                engine.lease.renew(sent, lease);
            }
            Err(error) => {
                if !silent {
                    tracing::warn!(worker, %error, "the master does not answer heartbeats");
                }
                silent = true;
            }
        }
    }
}

fn lease_of(millis: u64) -> Result<Duration> {
    if millis == 0 {
        return Err(Error::new(ErrorKind::Corrupt, "the master granted a lease of no time"));
    }
    Ok(Duration::from_millis(millis))
}
