//! The life of the session: connect, open or resume, declare, heartbeat; and again when something breaks.
//!
//! Always: before the client declares itself, it has given up all leases, and the kernel has been told of everything they covered.
//! Always: the session is believed to be alive for one lease time from when a heartbeat was *sent*.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use curvine_proto::{
    CloseSessionRequest, DeclareRequest, Empty, HeartbeatReply, HeartbeatRequest, Method, OpenSession,
    OpenSessionReply, OpenSessionRequest,
};
use curvine_rpc::{Address, Body, Peer};
use curvine_types::{ClusterId, Error, ErrorKind, Result, SessionId};
use tokio::time::Instant;

use crate::clock::boot_time;
use crate::core::Core;
use crate::master::Conn;
use crate::recall::Recalls;

/// Most dropped leases in one heartbeat.
const DROPPED_MAX: usize = 100_000;
/// So many of them are worked on before others have their turn.
const DROPPED_AT_ONCE: usize = 512;
/// Pauses between rounds of connection attempts.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A kernel that takes longer to give up its caches is worth a line in the log.
const SLOW_KERNEL: Duration = Duration::from_secs(5);

/// What outlives a connection.
#[derive(Default)]
pub(crate) struct State {
    session: SessionId,
    lease: Duration,
    /// The leader that a predecessor's leases come from, until this process has declared itself.
    inherited: Option<u64>,
    /// When the kernel believes nothing any more that a predecessor told it.
    inherited_until: Option<Instant>,
}

impl State {
    /// The session of a predecessor, and the leader that it knew.
    pub(crate) fn of(session: SessionId, incarnation: u64) -> Self {
        Self { session, inherited: Some(incarnation), ..Self::default() }
    }
}

/// Keeps a session until the client closes.
pub(crate) async fn run(core: Arc<Core>, mut state: State) {
    let mut closing = core.master.closing.subscribe();
    let live = async {
        let mut pause = PAUSE_MIN;
        loop {
            match establish(&core, &mut state).await {
                Ok(conn) => {
                    pause = PAUSE_MIN;
                    keep(&core, &mut state, &conn).await;
                    conn.peer.close();
                    core.counters.reconnections.add();
                }
                Err(error) => {
                    tracing::debug!(%error, "no session yet");
                    core.master.set_trouble(&error);
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    };
    tokio::select! {
        () = live => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// Connects to the first master that will have us, and declares this client over the connection.
async fn establish(core: &Arc<Core>, state: &mut State) -> Result<Arc<Conn>> {
    let mut last = Error::new(ErrorKind::Unavailable, "no address of a master is known");
    for address in core.master.addresses() {
        match introduce(core, state, &address).await {
            Ok(conn) => {
                core.master.prefer(Some(address));
                return Ok(conn);
            }
            Err(error) => {
                let leader = error.get("leader").and_then(|leader| leader.parse().ok());
                if error.kind() == ErrorKind::NotLeader && leader.is_some() {
                    core.master.prefer(leader);
                }
                last = error.with("peer", &address);
            }
        }
    }
    Err(last)
}

async fn introduce(core: &Arc<Core>, state: &mut State, address: &Address) -> Result<Arc<Conn>> {
    let peer = connect(core, address).await?;
    let deadline = Instant::now() + core.options.connect_timeout;
    if state.session == 0 {
        let conn = open_session(core, state, peer, deadline).await?;
        let (term, dirs, inodes) = core.cache.new_term();
        core.notify(dirs, inodes).await;
        return declare(core, conn, term, false).await;
    }
    let sent = boot_time();
    let request = HeartbeatRequest { session: state.session, incarnation: 0, dropped_leases: Vec::new() };
    let reply: Result<(HeartbeatReply, _)> = peer.call(Method::Heartbeat, &request, Body::Empty, deadline).await;
    let reply = match reply {
        Ok((reply, _)) => reply,
        Err(error) => {
            if error.kind() == ErrorKind::SessionExpired {
                end_session(core, state).await;
            }
            return Err(error);
        }
    };
    renewed(core, state, sent, reply.lease_ms);
    let conn = Arc::new(Conn::new(peer, state.session, reply.incarnation));
    if let Some(incarnation) = state.inherited {
        return take_over(core, state, conn, incarnation).await;
    }
    // Published before the kernel is told: it may have to finish reads and writes first, and they need the master.
    let (term, dirs, inodes) = core.cache.new_term();
    core.master.publish(Some(conn.clone()));
    let mut told = std::pin::pin!(core.notify(dirs, inodes));
    if tokio::time::timeout(SLOW_KERNEL, &mut told).await.is_err() {
        tracing::warn!("the kernel takes long to give up its caches; changes by others wait for it");
        told.await;
    }
    let conn = declare(core, conn, term, false).await?;
    core.inherited.store(false, Ordering::SeqCst);
    state.inherited_until = None;
    if let Some(journal) = &core.journal {
        journal.session(conn.session, cluster(core), conn.incarnation);
    }
    Ok(conn)
}

/// The first connection of a successor. What its kernel caches is not known here: it stays leased, if the leader is still the
/// one that leased it; else nobody recalls it, and it must have run out before the leader may believe us to have no leases.
async fn take_over(core: &Arc<Core>, state: &mut State, conn: Arc<Conn>, incarnation: u64) -> Result<Arc<Conn>> {
    let (term, _, _) = core.cache.new_term();
    core.master.publish(Some(conn.clone()));
    let keeps = conn.incarnation == incarnation;
    let beliefs = core.options.max_ttl.min(state.lease);
    if !keeps {
        tracing::info!("the leader is a new one; waiting until the kernel believes nothing of before");
        let end = Instant::now() + beliefs;
        while Instant::now() < end {
            tokio::time::sleep_until(end.min(Instant::now() + state.lease / 3)).await;
            heartbeat(core, state, &conn).await?;
        }
    }
    let conn = declare(core, conn, term, keeps).await?;
    state.inherited = None;
    state.inherited_until = keeps.then(|| Instant::now() + core.options.max_ttl);
    core.inherited.store(keeps, Ordering::SeqCst);
    if let Some(journal) = &core.journal {
        journal.session(conn.session, cluster(core), conn.incarnation);
    }
    tracing::info!(session = conn.session, keeps, "session resumed");
    Ok(conn)
}

fn cluster(core: &Core) -> ClusterId {
    core.master.cluster.get().unwrap_or_default()
}

async fn connect(core: &Arc<Core>, address: &Address) -> Result<Peer> {
    let service = Arc::new(Recalls::new(core));
    let connector = crate::workers::connector(&core.options, core.master.cluster.clone()).with_service(service);
    connector.connect(address, Instant::now() + core.options.connect_timeout).await
}

async fn open_session(core: &Arc<Core>, state: &mut State, peer: Peer, deadline: Instant) -> Result<Arc<Conn>> {
    let sent = boot_time();
    let session = OpenSession {
        kind: core.options.kind as i32,
        client: core.options.client_name.clone(),
        hostname: core.options.hostname.clone(),
        replace: core.options.replace,
    };
    let request = OpenSessionRequest { session: Some(session) };
    let (reply, _): (OpenSessionReply, _) = peer.call(Method::OpenSession, &request, Body::Empty, deadline).await?;
    if let Ok(cluster) = ClusterId::from_slice(&reply.cluster)
        && !cluster.is_nil()
    {
        core.master.cluster.set(cluster)?;
    }
    state.session = reply.session;
    renewed(core, state, sent, reply.lease_ms);
    core.window.begin(reply.session);
    if let Some(journal) = &core.journal {
        journal.session(reply.session, cluster(core), reply.incarnation);
    }
    core.counters.sessions_opened.add();
    tracing::info!(session = reply.session, "session opened");
    Ok(Arc::new(Conn::new(peer, reply.session, reply.incarnation)))
}

fn renewed(core: &Core, state: &mut State, sent: Duration, lease_ms: u64) {
    state.lease = Duration::from_millis(lease_ms);
    core.cache.set_valid_until(sent + state.lease);
}

/// The session is over: nothing is believed, and what was open for writing is dead.
async fn end_session(core: &Arc<Core>, state: &mut State) {
    tracing::warn!(session = state.session, "session expired; files open for writing fail from now on");
    core.master.publish(None);
    core.cache.set_valid_until(Duration::ZERO);
    core.opens.expire(core);
    (state.session, state.inherited, state.inherited_until) = (0, None, None);
    core.inherited.store(false, Ordering::SeqCst);
    let (_, dirs, inodes) = core.cache.new_term();
    core.notify(dirs, inodes).await;
}

async fn declare(core: &Arc<Core>, conn: Arc<Conn>, term: u64, keep_leases: bool) -> Result<Arc<Conn>> {
    let opens = core.opens.snapshot(conn.serial());
    let request = DeclareRequest { session: conn.session, incarnation: conn.incarnation, opens, keep_leases };
    let deadline = Instant::now() + core.options.rpc_timeout;
    let declared: Result<(Empty, _)> = conn.peer.call(Method::Declare, &request, Body::Empty, deadline).await;
    if let Err(error) = declared {
        conn.peer.close();
        return Err(error);
    }
    conn.set_declared(term);
    core.master.publish(Some(conn.clone()));
    core.opens.wake_closer();
    Ok(conn)
}

/// Sends heartbeats until the connection or the session is of no use any more.
async fn keep(core: &Arc<Core>, state: &mut State, conn: &Arc<Conn>) {
    let mut next = Instant::now() + state.lease / 3;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = conn.peer.closed() => return,
            () = core.master.look.notified() => {}
            () = tokio::time::sleep_until(state.inherited_until.unwrap_or(next)) => {}
        }
        if conn.is_expired() {
            end_session(core, state).await;
            return;
        }
        if state.inherited_until.is_some_and(|until| until <= Instant::now()) {
            // The leases of the predecessor are given up, whatever they were, by declaring anew.
            return;
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + state.lease / 3;
        match heartbeat(core, state, conn).await {
            Ok(reply) if reply.declare || reply.incarnation != conn.incarnation => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "heartbeat failed");
                if error.kind() == ErrorKind::SessionExpired {
                    end_session(core, state).await;
                    return;
                }
                if core.master.recovers(conn, &error) && error.kind() != ErrorKind::Overloaded {
                    return;
                }
                next = Instant::now() + state.lease / 10;
            }
        }
    }
}

async fn heartbeat(core: &Arc<Core>, state: &mut State, conn: &Conn) -> Result<HeartbeatReply> {
    let sent = boot_time();
    let mut dropped_leases = Vec::new();
    while dropped_leases.len() < DROPPED_MAX {
        let more = core.cache.take_dropped(sent, DROPPED_AT_ONCE);
        if more.is_empty() {
            break;
        }
        dropped_leases.extend(more);
        tokio::task::yield_now().await;
    }
    let request = HeartbeatRequest {
        session: conn.session,
        incarnation: conn.incarnation,
        dropped_leases: dropped_leases.clone(),
    };
    let deadline = Instant::now() + state.lease / 3;
    let reply: Result<(HeartbeatReply, _)> = conn.peer.call(Method::Heartbeat, &request, Body::Empty, deadline).await;
    let reply = match reply {
        Ok((reply, _)) => reply,
        // Not known whether the report will still arrive: only a new connection makes that certain.
        Err(error) if !dropped_leases.is_empty() => {
            conn.peer.close();
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    for piece in dropped_leases.chunks(DROPPED_AT_ONCE) {
        core.cache.reported(piece);
        tokio::task::yield_now().await;
    }
    renewed(core, state, sent, reply.lease_ms);
    Ok(reply)
}

/// Says good-bye.
pub(crate) async fn close(core: &Core, deadline: Instant) -> Result<()> {
    let conn = core.master.current().filter(|conn| !conn.peer.is_closed());
    let Some(conn) = conn else {
        return Err(Error::new(ErrorKind::Unavailable, "no master to say good-bye to; the session ends by itself"));
    };
    let request = CloseSessionRequest { session: conn.session };
    let (_, _): (Empty, _) = conn.peer.call(Method::CloseSession, &request, Body::Empty, deadline).await?;
    Ok(())
}
