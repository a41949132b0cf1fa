//! The leader's soft knowledge of the sessions in the log: when each was last heard, where to call it back, whether it has declared itself.
//!
//! Time is CLOCK_BOOTTIME, counted from the receipt of a heartbeat; the client counts from its sending, so it stops first.

use std::time::Duration;

use curvine_rpc::Peer;
use curvine_types::{Error, ErrorKind, FastMap, Result, SessionId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often something that ends by time is looked at.
const TICK: Duration = Duration::from_millis(100);

/// The live sessions of a leadership.
pub struct Sessions {
    inner: Mutex<FastMap<SessionId, Soft>>,
    /// A session came, went, declared itself or has a new connection.
    moved: Notify,
    lease: Duration,
    started: Duration,
}

struct Soft {
    heard: Duration,
    peers: Vec<Peer>,
    declared: bool,
    /// Rises when the session has given up all leases.
    renounced: u64,
}

impl Soft {
    /// How long its leases are still valid. Once this is zero it stays so: others may have counted on it.
    fn left(&self, lease: Duration) -> Duration {
        (self.heard + lease).saturating_sub(boot_clock())
    }
}

/// Where a session stands, for a recall.
pub enum Standing {
    /// Gone, or its lease time has passed: its leases are void.
    Over,
    /// It can be called.
    Reachable(Peer, Duration),
    /// It has no connection; its leases end after this time.
    Silent(Duration),
}

/// Time since boot, suspension included.
pub fn boot_clock() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

impl Sessions {
    /// `known`: the sessions in the log when the leadership began; none has declared itself yet.
    pub fn new(lease: Duration, known: impl IntoIterator<Item = SessionId>) -> Self {
        let started = boot_clock();
        let soft = || Soft { heard: started, peers: Vec::new(), declared: false, renounced: 0 };
        let inner = known.into_iter().map(|session| (session, soft())).collect();
        Self { inner: Mutex::new(inner), moved: Notify::new(), lease, started }
    }

    /// How long a session lives without being heard.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// A session that was opened under this leader.
    pub fn opened(&self, session: SessionId, peer: Peer) {
        let soft = Soft { heard: boot_clock(), peers: vec![peer], declared: true, renounced: 0 };
        self.inner.lock().insert(session, soft);
        self.moved.notify_waiters();
    }

    /// Renews the session; `SessionExpired` if it is over. Says whether it has declared itself.
    pub fn heard(&self, session: SessionId, peer: &Peer) -> Result<bool> {
        let mut inner = self.inner.lock();
        let alive = inner.get_mut(&session).filter(|soft| soft.left(self.lease) > Duration::ZERO);
        let soft = alive.ok_or_else(|| expired(session))?;
        soft.heard = boot_clock();
        if !soft.peers.iter().any(|known| known.id() == peer.id()) {
            soft.peers.retain(|known| !known.is_closed());
            soft.peers.push(peer.clone());
            self.moved.notify_waiters();
        }
        Ok(soft.declared)
    }

    /// Fails with `SessionExpired` if the session is over.
    pub fn check(&self, session: SessionId) -> Result<()> {
        let inner = self.inner.lock();
        let alive = inner.get(&session).is_some_and(|soft| soft.left(self.lease) > Duration::ZERO);
        if alive { Ok(()) } else { Err(expired(session)) }
    }

    /// Whether the session may be granted leases: it has declared itself to this leader.
    pub fn may_lease(&self, session: SessionId) -> bool {
        self.inner.lock().get(&session).is_some_and(|soft| soft.declared)
    }

    /// The session has said what it has open and, if it `renounced` them, given up its leases.
    pub fn declared(&self, session: SessionId, renounced: bool) {
        if let Some(soft) = self.inner.lock().get_mut(&session) {
            soft.declared = true;
            soft.renounced += u64::from(renounced);
        }
        self.moved.notify_waiters();
    }

    /// The session is over.
    pub fn remove(&self, session: SessionId) {
        self.inner.lock().remove(&session);
        self.moved.notify_waiters();
    }

    /// A connection is gone.
    pub fn disconnected(&self, peer: &Peer) {
        for soft in self.inner.lock().values_mut() {
            soft.peers.retain(|known| known.id() != peer.id());
        }
    }

    /// Sessions whose time is over.
    pub fn overdue(&self) -> Vec<SessionId> {
        let inner = self.inner.lock();
        inner.iter().filter(|(_, soft)| soft.left(self.lease).is_zero()).map(|(session, _)| *session).collect()
    }

    /// Where the session stands and how often it has renounced its leases.
    pub fn standing(&self, session: SessionId) -> (Standing, u64) {
        let inner = self.inner.lock();
        let Some(soft) = inner.get(&session) else { return (Standing::Over, 0) };
        let left = soft.left(self.lease);
        let peer = soft.peers.iter().rev().find(|peer| !peer.is_closed());
        let standing = match peer {
            _ if left.is_zero() => Standing::Over,
            Some(peer) => Standing::Reachable(peer.clone(), left),
            None => Standing::Silent(left),
        };
        (standing, soft.renounced)
    }

    /// Waits for a movement of any session, at most `limit`.
    pub async fn wait_for_movement(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit.min(TICK), self.moved.notified()).await;
    }

    /// No change may be made before every session that the log knew at the start has declared itself, or its lease has run out.
    pub async fn wait_until_open_for_changes(&self, deadline: Instant) -> Result<()> {
        loop {
            let moved = self.moved.notified();
            let now = boot_clock();
            let waiting = now < self.started + self.lease && self.inner.lock().values().any(|soft| !soft.declared);
            if !waiting {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "the master has just started and waits for earlier clients to declare themselves or expire",
                ));
            }
            let _ = tokio::time::timeout(TICK, moved).await;
        }
    }

    /// Age of the last sign of life.
    pub fn last_heard(&self, session: SessionId) -> Option<Duration> {
        self.inner.lock().get(&session).map(|soft| boot_clock().saturating_sub(soft.heard))
    }
}

fn expired(session: SessionId) -> Error {
    Error::new(ErrorKind::SessionExpired, "the session has expired").with("session", session)
}
