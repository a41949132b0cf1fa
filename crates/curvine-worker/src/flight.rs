//! Ranges on their way from a store: whoever needs a chunk that is already coming waits for it.
//!
//! What always holds: a chunk is fetched by at most one flight at a time; a flight leaves the table after what it brought is
//! in the block store (or could not be kept), so a chunk that is neither present nor in flight has to be fetched.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use curvine_blockstore::ContentKey;
use curvine_proto::ErrorBody;
use curvine_types::limits::CHUNK_SIZE;
use curvine_types::{Error, ErrorKind, FastMap, Result};
use curvine_ufs::{Collected, Sink};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

/// Chunks `first..first + count` of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub first: u64,
    pub count: u64,
}

impl Run {
    /// The numbers of its chunks.
    pub fn chunks(self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// Its bytes in the content; the last chunk of a content may have fewer.
    pub fn bytes(self) -> Range<u64> {
        self.first * CHUNK_SIZE..(self.first + self.count) * CHUNK_SIZE
    }
}

/// What a flight brought. The permit holds its bytes in the budget until the last reader is done.
#[derive(Clone)]
pub(crate) struct Cargo {
    pub data: Bytes,
    _budget: Arc<OwnedSemaphorePermit>,
}

impl Cargo {
    pub fn new(data: Bytes, budget: OwnedSemaphorePermit) -> Self {
        Self { data, _budget: Arc::new(budget) }
    }
}

#[derive(Clone)]
enum State {
    /// So many bytes have come.
    Coming(u64),
    /// The data is here, and is being put into the block store.
    Landed(Cargo),
    /// `Err`: it was not kept, and why.
    Stored(Cargo, Result<(), ErrorBody>),
    Failed(ErrorBody),
}

pub(crate) struct Flight {
    pub run: Run,
    state: watch::Sender<State>,
    /// What has come so far; nothing any more once it has landed.
    arrived: Collected,
}

impl Sink for Flight {
    fn take(&self, at: u64, part: Bytes) {
        let come = at + part.len() as u64;
        self.arrived.take(at, part);
        self.state.send_replace(State::Coming(come));
    }
}

impl Flight {
    fn new(run: Run) -> Self {
        Self { run, state: watch::Sender::new(State::Coming(0)), arrived: Collected::new(run.count * CHUNK_SIZE) }
    }

    /// All that came, if it is `len` bytes.
    pub fn whole(&self, len: u64) -> Result<Bytes> {
        self.arrived.whole(len)
    }

    pub fn landed(&self, cargo: Cargo) {
        self.state.send_replace(State::Landed(cargo));
    }

    pub fn stored(&self, cargo: Cargo, kept: &Result<()>) {
        let kept = kept.as_ref().copied().map_err(ErrorBody::from);
        self.state.send_replace(State::Stored(cargo, kept));
    }

    pub fn failed(&self, error: &Error) {
        self.state.send_replace(State::Failed(error.into()));
    }

    /// Whoever carried it out is gone: those who wait must hear of it.
    pub fn fail_if_unfinished(&self) {
        self.state.send_if_modified(|state| {
            let unfinished = matches!(state, State::Coming(_) | State::Landed(_));
            if unfinished {
                *state = State::Failed((&gave_up()).into());
            }
            unfinished
        });
    }

    /// Waits for the bytes `range` of the content, which lie in the run; not for what comes after them.
    pub async fn bytes(&self, range: Range<u64>, deadline: Instant) -> Result<(Bytes, Option<Cargo>)> {
        let first = self.run.first * CHUNK_SIZE;
        let (start, end) = (range.start - first, range.end - first);
        loop {
            let reached = |state: &State| !matches!(state, State::Coming(come) if *come < end);
            let cargo = match self.wait(deadline, reached).await? {
                State::Landed(cargo) | State::Stored(cargo, _) => cargo,
                State::Failed(error) => return Err(error.into()),
                State::Coming(_) => match self.arrived.copy(start, end) {
                    Some(bytes) => return Ok((bytes, None)),
                    // It has just landed, or has to begin anew.
                    None => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                },
            };
            if end > cargo.data.len() as u64 {
                return Err(Error::new(ErrorKind::Internal, "a flight did not bring what it should"));
            }
            return Ok((cargo.data.slice(start as usize..end as usize), Some(cargo)));
        }
    }

    /// Waits until what it brought is kept.
    pub async fn kept(&self, deadline: Instant) -> Result<()> {
        match self.wait(deadline, |state| matches!(state, State::Stored(..) | State::Failed(_))).await? {
            State::Stored(_, kept) => kept.map_err(Error::from),
            State::Failed(error) => Err(error.into()),
            State::Coming(_) | State::Landed(_) => Err(gave_up()),
        }
    }

    async fn wait(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> Result<State> {
        let mut state = self.state.subscribe();
        let reached = timeout_at(deadline, state.wait_for(|state| done(state))).await;
        match reached {
            Ok(Ok(state)) => Ok(state.clone()),
            Ok(Err(_)) => Err(gave_up()),
            Err(_) => Err(Error::new(ErrorKind::Ufs, "the under file system did not deliver in time")),
        }
    }
}

fn gave_up() -> Error {
    Error::new(ErrorKind::Internal, "a fetch was given up")
}

/// The flights of all contents, by chunk.
#[derive(Default)]
pub(crate) struct Flights(Mutex<FastMap<(ContentKey, u64), Arc<Flight>>>);

impl Flights {
    /// For each wanted chunk that is still missing: the flight that brings it, if there is one. For the others new flights
    /// are entered, at most `run_max` neighbours each; the caller must carry these out.
    ///
    /// `missing` is asked under the table's lock, because a flight leaves the table only after its chunks are present.
    pub fn join(
        &self,
        key: ContentKey,
        wanted: Range<u64>,
        run_max: u64,
        missing: impl FnOnce(u64, u64) -> Vec<u64>,
    ) -> (Vec<Arc<Flight>>, Vec<Arc<Flight>>) {
        let mut table = self.0.lock();
        let mut joined: Vec<Arc<Flight>> = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        for number in missing(wanted.start, wanted.end) {
            if let Some(flight) = table.get(&(key, number)) {
                if !joined.iter().any(|have| Arc::ptr_eq(have, flight)) {
                    joined.push(flight.clone());
                }
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.first + run.count == number && run.count < run_max => run.count += 1,
                _ => runs.push(Run { first: number, count: 1 }),
            }
        }
        let started: Vec<Arc<Flight>> = runs
            .into_iter()
            .map(|run| {
                let flight = Arc::new(Flight::new(run));
                for number in run.chunks() {
                    table.insert((key, number), flight.clone());
                }
                flight
            })
            .collect();
        (joined, started)
    }

    /// The flight is over; its chunks are in the block store as far as they were kept.
    pub fn leave(&self, key: ContentKey, flight: &Arc<Flight>) {
        let mut table = self.0.lock();
        for number in flight.run.chunks() {
            if table.get(&(key, number)).is_some_and(|have| Arc::ptr_eq(have, flight)) {
                table.remove(&(key, number));
            }
        }
    }

    /// Chunks on their way now.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}
