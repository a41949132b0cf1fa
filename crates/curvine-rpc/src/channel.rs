//! A client that connects when it must and moves on when it should.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::{Message, Method};
use curvine_types::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::backoff::Backoff;
use crate::calls::Answer;
use crate::route::{Route, Target};
use crate::{Address, Body, Connector, Peer};

/// Redirections that a call follows without a pause; after that somebody may be sending us in circles.
const FREE_MOVES: u32 = 2;

/// A reconnecting client of one service that listens at one or more addresses (as masters do). Clones share it.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
    patience: Option<Duration>,
}

struct Inner {
    connector: Connector,
    route: Mutex<Route>,
    slots: Vec<Slot>,
    next: AtomicUsize,
}

/// Room for one connection.
#[derive(Default)]
struct Slot {
    /// The connection, and the turn of the route that it was made for.
    live: Mutex<Option<(u64, Peer)>>,
    /// Held by who connects; others wait for him, or use another connection.
    connecting: tokio::sync::Mutex<()>,
}

impl Slot {
    /// Its connection, if it is alive and of this turn; another one is given up.
    fn get(&self, turn: u64) -> Option<Peer> {
        let mut live = self.live.lock();
        match live.as_ref() {
            Some((made, peer)) if *made == turn && !peer.is_closed() => Some(peer.clone()),
            _ => {
                let old = live.take();
                drop(live);
                drop(old);
                None
            }
        }
    }

    /// Its connection, made if there is none.
    async fn connect(&self, connector: &Connector, target: &Target, deadline: Instant) -> Result<Peer> {
        let late = |_| Error::new(ErrorKind::Unavailable, "no connection in time").with("peer", &target.address);
        let _connecting = timeout_at(deadline, self.connecting.lock()).await.map_err(late)?;
        if let Some(peer) = self.get(target.turn) {
            return Ok(peer);
        }
        let peer = connector.connect(&target.address, deadline).await?;
        *self.live.lock() = Some((target.turn, peer.clone()));
        Ok(peer)
    }
}

impl Channel {
    /// Up to `connections` (at least 1) to one of `addresses` at a time. Connects at the first call; a further
    /// connection is made when those that exist are in use.
    pub fn new(connector: Connector, addresses: Vec<Address>, connections: usize) -> Self {
        let slots = (0..connections.max(1)).map(|_| Slot::default()).collect();
        let route = Mutex::new(Route::new(addresses));
        Self { inner: Arc::new(Inner { connector, route, slots, next: AtomicUsize::new(0) }), patience: None }
    }

    /// How long a call waits for a connection before it is `Unavailable`; as long as its deadline unless set.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// Replaces the addresses; connections to others are given up.
    pub fn set_addresses(&self, addresses: Vec<Address>) {
        self.inner.route.lock().replace(addresses);
    }

    /// A live connection. `Unavailable` when nothing answers before the deadline; `Unauthenticated`, `Foreign` when those
    /// who answer are not of our cluster.
    pub async fn peer(&self, deadline: Instant) -> Result<Peer> {
        self.connected(deadline).await.map(|(peer, _turn)| peer)
    }

    /// As [`Peer::call`]. What was certainly not executed, because the connection was gone or the master is not the
    /// leader, is tried again, at another address if there is one, until the deadline.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        method: Method,
        request: &Q,
        body: Body,
        deadline: Instant,
    ) -> Result<(R, Bytes)> {
        self.exchange(method, request, body, deadline).await.map(|(reply, answer)| (reply, answer.data))
    }

    /// As `call`, of a method whose reply may come with a descriptor.
    pub async fn call_for_descriptor<Q: Message, R: Message + Default>(
        &self,
        method: Method,
        request: &Q,
        deadline: Instant,
    ) -> Result<(R, Option<OwnedFd>)> {
        self.exchange(method, request, Body::Empty, deadline).await.map(|(reply, answer)| (reply, answer.descriptor))
    }

    async fn exchange<Q: Message, R: Message + Default>(
        &self,
        method: Method,
        request: &Q,
        body: Body,
        deadline: Instant,
    ) -> Result<(R, Answer)> {
        let mut backoff = Backoff::new(self.inner.connector.limits());
        let mut moves = 0;
        loop {
            let (peer, turn) = self.connected(deadline).await?;
            let failure = match peer.try_call(method, request, body.clone(), deadline).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let error = failure.error;
            let moved = {
                let mut route = self.inner.route.lock();
                match (error.kind(), failure.remote) {
                    (ErrorKind::NotLeader, true) => route.redirect(turn, error.get("leader")),
                    // One master may not be ready while another is.
                    (ErrorKind::Unavailable, true) if route.len() > 1 => route.advance(turn),
                    (ErrorKind::Unavailable, false) => false,
                    _ => return Err(error),
                }
            };
            moves += u32::from(moved);
            let free = moved && moves <= FREE_MOVES;
            if !free && !backoff.pause(deadline).await {
                return Err(error);
            }
        }
    }

    /// A live connection and the turn of the route that it belongs to.
    async fn connected(&self, deadline: Instant) -> Result<(Peer, u64)> {
        let give_up = self.patience.map_or(deadline, |patience| deadline.min(Instant::now() + patience));
        let mut backoff = Backoff::new(self.inner.connector.limits());
        let (mut failed, mut refused) = (0, 0);
        loop {
            let (target, choices) = {
                let route = self.inner.route.lock();
                let none = || Error::new(ErrorKind::Unavailable, "no address is known");
                (route.target().ok_or_else(none)?, route.len())
            };
            let error = match self.inner.connection(&target, give_up).await {
                Ok(peer) => return Ok((peer, target.turn)),
                Err(error) => error,
            };
            self.inner.route.lock().advance(target.turn);
            failed += 1;
            refused += usize::from(is_permanent(error.kind()));
            if refused >= choices {
                return Err(error);
            }
            // A pause after each round of the addresses.
            let round_ended = failed % choices == 0;
            if Instant::now() >= give_up || (round_ended && !backoff.pause(give_up).await) {
                return Err(Error::new(ErrorKind::Unavailable, "nobody answers").caused_by(error));
            }
        }
    }

    /// Live connections.
    pub fn connections(&self) -> usize {
        self.live_peers(|peer| usize::from(!peer.is_closed()))
    }

    /// Calls waiting for a reply.
    pub fn pending(&self) -> usize {
        self.live_peers(Peer::pending)
    }

    fn live_peers(&self, count: impl Fn(&Peer) -> usize) -> usize {
        self.inner.slots.iter().filter_map(|slot| slot.live.lock().as_ref().map(|(_, peer)| count(peer))).sum()
    }
}

impl Inner {
    /// The least busy connection to `target`, or a new one if all are busy and there may be more.
    async fn connection(&self, target: &Target, deadline: Instant) -> Result<Peer> {
        let start = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let (after, before) = (self.slots.iter().skip(start), self.slots.iter().take(start));
        let mut best: Option<(usize, Peer)> = None;
        let mut empty = None;
        for slot in after.chain(before) {
            match slot.get(target.turn) {
                None => empty = empty.or(Some(slot)),
                Some(peer) => {
                    let pending = peer.pending();
                    if best.as_ref().is_none_or(|(least, _)| pending < *least) {
                        best = Some((pending, peer));
                    }
                }
            }
        }
        match (best, empty) {
            (Some((0, peer)), _) | (Some((_, peer)), None) => Ok(peer),
            (Some((_, peer)), Some(slot)) => {
                if slot.connecting.try_lock().is_err() {
                    return Ok(peer);
                }
                Ok(slot.connect(&self.connector, target, deadline).await.unwrap_or(peer))
            }
            (None, Some(slot)) => slot.connect(&self.connector, target, deadline).await,
            // There is at least one slot.
            (None, None) => Err(Error::new(ErrorKind::Internal, "a channel without room for a connection")),
        }
    }
}

/// Whether trying again cannot help until somebody changes a configuration.
fn is_permanent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unauthenticated | ErrorKind::Foreign | ErrorKind::PermissionDenied)
}

#[cfg(test)]
#[path = "channel_test.rs"]
mod channel_test;
