//! Pins of this worker's cached contents, as the master knows them.
//!
//! Always: a content that is fetched anew learns its pin with its object; when pins have changed, all that is here is compared once. A
//! rename into or out of a pinned directory is followed when pins change the next time, or the worker starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use curvine_blockstore::{BlockStore, ContentKey, ContentKind};
use curvine_proto::{Method, WhichPinnedReply, WhichPinnedRequest};
use curvine_rpc::{Body, Channel};
use curvine_types::Result;
use tokio::time::Instant;

use crate::engine::Engine;

/// Contents that are compared with one question.
const PAGE: usize = 4096;

#[derive(Default)]
pub(crate) struct Pins {
    /// The change of pins that all contents here were compared with.
    seen: AtomicU64,
    comparing: AtomicBool,
}

/// Pins a content, and says so if there is no room for that.
pub(crate) fn pin(store: &BlockStore, key: ContentKey) -> Result<()> {
    if !store.pin(key, true)? {
        tracing::warn!(content = %key, "cannot be pinned: too much is pinned in its tier directory");
    }
    Ok(())
}

/// The master has told which change of pins is the last. If it is a new one, all contents are compared in the background.
pub(crate) fn follow(engine: &Arc<Engine>, master: &Channel, change: u64, timeout: Duration) {
    if engine.pins.seen.load(SeqCst) == change || engine.pins.comparing.swap(true, SeqCst) {
        return;
    }
    let (engine, master) = (engine.clone(), master.clone());
    tokio::spawn(async move {
        // What is fetched from now on asks anew.
        engine.sources.forget_all();
        match compare(&engine, &master, timeout).await {
            Ok(()) => engine.pins.seen.store(change, SeqCst),
            // The next heartbeat tries again.
            Err(error) => tracing::debug!(%error, "pins are not compared yet"),
        }
        engine.pins.comparing.store(false, SeqCst);
    });
}

async fn compare(engine: &Arc<Engine>, master: &Channel, timeout: Duration) -> Result<()> {
    let mut after = None;
    loop {
        let items = engine.store.inventory(after, PAGE);
        let Some(last) = items.last() else { return Ok(()) };
        after = Some(last.key);
        let cached: Vec<ContentKey> =
            items.iter().filter(|item| item.kind == ContentKind::Cached).map(|item| item.key).collect();
        if cached.is_empty() {
            continue;
        }
        let request = WhichPinnedRequest { inodes: cached.iter().map(|key| key.inode).collect() };
        let deadline = Instant::now() + timeout;
        let (reply, _): (WhichPinnedReply, _) =
            master.call(Method::WhichPinned, &request, Body::Empty, deadline).await?;
        let pinned: std::collections::HashSet<u64> = reply.pinned.into_iter().collect();
        let store = engine.store.clone();
        let work = move || {
            for key in cached {
                if pinned.contains(&key.inode) { pin(&store, key)? } else { store.pin(key, false).map(drop)? }
            }
            Ok(())
        };
        engine.disk.run_slow(deadline, work).await?;
    }
}
