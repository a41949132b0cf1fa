//! Linearizable reads: one round of asking the followers serves all reads that came before it began.

use std::sync::Arc;
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::LeaderState;
use crate::entry::Raft;
use crate::health::Health;
use crate::leadership::not_leader;
use crate::proposer::{failed, stopped};

type Waiter = oneshot::Sender<std::result::Result<(), Refused>>;

/// Why a round confirmed nothing; told to each of its reads.
#[derive(Clone, Debug)]
enum Refused {
    NotLeader(LeaderState),
    NoQuorum,
    Stopped(String),
}

/// Where reads wait for a round.
#[derive(Clone)]
pub(crate) struct Barrier {
    waiters: mpsc::Sender<Waiter>,
    raft: Raft,
    leader: watch::Receiver<LeaderState>,
    health: Arc<Health>,
    limit: Duration,
}

impl Barrier {
    /// Starts the task that runs the rounds, until closed. At most `queue` reads wait.
    pub fn start(
        raft: Raft,
        leader: watch::Receiver<LeaderState>,
        health: Arc<Health>,
        limit: Duration,
        queue: usize,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let (waiters, receiver) = mpsc::channel(queue.max(1));
        tokio::spawn(run_rounds(raft.clone(), receiver, limit, closing));
        Self { waiters, raft, leader, health, limit }
    }

    /// Returns when everything acknowledged before the call is in the local state.
    pub async fn pass(&self) -> Result<()> {
        {
            let leader = self.leader.borrow();
            if self.health.is_failed() {
                return Err(failed("no read can be confirmed"));
            }
            if !leader.leading {
                return Err(not_leader(&leader));
            }
        }
        if self.alone() {
            // Nobody else can lead, and what this replica acknowledged it has applied.
            return Ok(());
        }
        let (waiter, confirmed) = oneshot::channel();
        self.waiters.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::new(ErrorKind::Overloaded, "too many reads wait to be confirmed")
            }
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        match tokio::time::timeout(self.limit, confirmed).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(Refused::NotLeader(leader)))) => Err(not_leader(&leader)),
            Ok(Ok(Err(Refused::NoQuorum))) => {
                Err(Error::new(ErrorKind::Unavailable, "no majority of the masters can be reached"))
            }
            Ok(Ok(Err(Refused::Stopped(reason)))) => Err(failed(&reason)),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the masters did not confirm the read in time")),
        }
    }

    fn alone(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let mut voters = metrics.membership_config.voter_ids();
        metrics.running_state.is_ok() && voters.next() == Some(metrics.id) && voters.next().is_none()
    }
}

async fn run_rounds(
    raft: Raft,
    mut waiters: mpsc::Receiver<Waiter>,
    limit: Duration,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let first = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            first = waiters.recv() => match first {
                Some(first) => first,
                None => return,
            },
        };
        let mut round = vec![first];
        while let Ok(next) = waiters.try_recv() {
            round.push(next);
        }
        let result = match tokio::time::timeout(limit, raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                let address = forward.leader_node.map(|node| node.addr).unwrap_or_default();
                Err(Refused::NotLeader(LeaderState {
                    leader: forward.leader_id.unwrap_or(0),
                    address,
                    ..Default::default()
                }))
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) | Err(_) => Err(Refused::NoQuorum),
            Ok(Err(RaftError::Fatal(fatal))) => Err(Refused::Stopped(fatal.to_string())),
        };
        for waiter in round {
            let _ = waiter.send(result.clone()); // the reader may have given up
        }
    }
}
