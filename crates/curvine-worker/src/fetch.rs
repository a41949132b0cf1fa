//! Fetching absent chunks of cached content from their store into the block store.

use std::sync::Arc;
use std::time::Duration;

use curvine_blockstore::{BlockStore, ContentKey};
use curvine_types::limits::CHUNK_SIZE;
use curvine_types::{Error, ErrorKind, Result};
use curvine_ufs::Wanted;
use tokio::time::Instant;

use crate::disk::DiskPool;
use crate::engine::ByteBudget;
use crate::flight::{Cargo, Flight, Flights};
use crate::pins;
use crate::source::{Object, Sources};
use crate::stats::Stats;

/// Most chunks that one request to a store brings. What is fetched ahead comes in whole ranges of so many chunks, aligned to
/// their length: a store is dear per request, and a reader that moves on chunk by chunk must not make it one request each.
pub(crate) const RUN_MAX: u64 = 4;

pub(crate) struct Fetcher {
    store: Arc<BlockStore>,
    disk: Arc<DiskPool>,
    sources: Arc<Sources>,
    stats: Arc<Stats>,
    flights: Flights,
    /// Bytes that are fetched and not yet handed on.
    budget: ByteBudget,
    timeout: Duration,
}

impl Fetcher {
    pub fn new(
        store: Arc<BlockStore>,
        disk: Arc<DiskPool>,
        sources: Arc<Sources>,
        stats: Arc<Stats>,
        budget: ByteBudget,
        timeout: Duration,
    ) -> Self {
        Self { store, disk, sources, stats, flights: Flights::default(), budget, timeout }
    }

    /// The flights that bring what is missing of `wanted`: those under way, and those begun now. They go on even if nobody
    /// waits any more.
    pub fn fetch(
        self: &Arc<Self>,
        key: ContentKey,
        object: &Arc<Object>,
        wanted: std::ops::Range<u64>,
    ) -> (Vec<Arc<Flight>>, Vec<Arc<Flight>>) {
        let missing = |first, end| self.store.missing_chunks(key, first, end);
        let (joined, started) = self.flights.join(key, wanted, RUN_MAX, missing);
        for flight in &started {
            tokio::spawn(self.clone().carry_out(key, object.clone(), flight.clone(), None));
        }
        (joined, started)
    }

    /// Begins to fetch what will be wanted soon, as far as the budget has room that nobody else waits for: each range that
    /// `wanted` reaches into, up to its end.
    pub fn fetch_ahead(self: &Arc<Self>, key: ContentKey, object: &Arc<Object>, wanted: std::ops::Range<u64>) {
        let limit = object.expect.size.div_ceil(CHUNK_SIZE);
        let mut number = wanted.start;
        while number < wanted.end.min(limit) {
            let end = (number + 1).next_multiple_of(RUN_MAX).min(limit);
            let range = number..end;
            number = end;
            let Some(budget) = self.budget.try_take(RUN_MAX * CHUNK_SIZE) else { return };
            let missing = |first, end| self.store.missing_chunks(key, first, end);
            let (_, started) = self.flights.join(key, range, RUN_MAX, missing);
            let mut budget = Some(budget);
            for flight in started {
                // One permit for the run, if it is broken up by chunks that are there, for its first part.
                tokio::spawn(self.clone().carry_out(key, object.clone(), flight, budget.take()));
            }
        }
    }

    /// Chunks on their way now.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Bytes of the budget in use, and its limit.
    pub fn budget_used(&self) -> (u64, u64) {
        self.budget.used()
    }

    async fn carry_out(
        self: Arc<Self>,
        key: ContentKey,
        object: Arc<Object>,
        flight: Arc<Flight>,
        budget: Option<tokio::sync::OwnedSemaphorePermit>,
    ) {
        // Also when this task is dropped or panics: nobody may wait for a flight that nobody carries out.
        let _leave = Leave { fetcher: &self, key, flight: &flight };
        let deadline = Instant::now() + self.timeout;
        let cargo = match self.load(key, &object, &flight, budget, deadline).await {
            Ok(cargo) => cargo,
            Err(error) => {
                flight.failed(&error);
                return;
            }
        };
        flight.landed(cargo.clone());
        let kept = self.keep(key, &object, &flight, &cargo, deadline).await;
        if let Err(error) = &kept {
            Stats::add(&self.stats.not_kept, 1);
            tracing::debug!(content = %key, chunk = flight.run.first, %error, "served without being kept");
        }
        flight.stored(cargo, &kept);
    }

    async fn load(
        &self,
        key: ContentKey,
        object: &Arc<Object>,
        flight: &Flight,
        budget: Option<tokio::sync::OwnedSemaphorePermit>,
        deadline: Instant,
    ) -> Result<Cargo> {
        let offset = flight.run.first * CHUNK_SIZE;
        let len = (flight.run.count * CHUNK_SIZE).min(object.expect.size.saturating_sub(offset));
        let budget = match budget {
            Some(budget) => budget,
            None => self.budget.take(len, deadline).await?,
        };
        let ufs = self.sources.mount(object.mount, object.mount_change, deadline).await?;
        let wanted = Wanted { key: &object.key, offset, len, expect: &object.expect };
        let error = match tokio::time::timeout_at(deadline, ufs.fetch(wanted, flight)).await {
            Ok(fetched) => match fetched.and_then(|()| flight.whole(len)) {
                Ok(data) => return Ok(Cargo::new(data, budget)),
                Err(error) => error,
            },
            Err(_) => Error::new(ErrorKind::Ufs, "the under file system did not answer in time"),
        };
        match error.kind() {
            ErrorKind::VersionMismatch | ErrorKind::NotFound => {
                self.sources.report_changed(key, object, &ufs, Instant::now() + self.timeout).await;
                Err(Error::new(ErrorKind::VersionMismatch, "the object of the under file system has changed")
                    .with("inode", key.inode)
                    .with("generation", key.generation)
                    .with("key", &object.key))
            }
            _ => {
                self.sources.forget(key);
                tracing::warn!(content = %key, object = object.key, %error, "an under file system failed");
                Err(error.with("inode", key.inode).with("mount", object.mount))
            }
        }
    }

    async fn keep(
        &self,
        key: ContentKey,
        object: &Arc<Object>,
        flight: &Flight,
        cargo: &Cargo,
        deadline: Instant,
    ) -> Result<()> {
        let (store, size, data) = (self.store.clone(), object.expect.size, cargo.data.clone());
        let (offset, pinned) = (flight.run.first * CHUNK_SIZE, object.pinned);
        let work = move || {
            store.prepare_cached(key, size)?;
            if pinned {
                pins::pin(&store, key)?;
            }
            store.fill(key, offset, &data)
        };
        self.disk.run(deadline, work).await
    }
}

/// Takes a flight out of the table, and fails it if nobody has said how it ended.
struct Leave<'a> {
    fetcher: &'a Fetcher,
    key: ContentKey,
    flight: &'a Arc<Flight>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.flight.fail_if_unfinished();
        self.fetcher.flights.leave(self.key, self.flight);
    }
}
