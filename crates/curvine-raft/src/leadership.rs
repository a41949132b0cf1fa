//! Who leads, and since when.
//!
//! What must hold: `leading` is true only after the first entry of this very leadership has been committed and applied here, so
//! everything acknowledged before is in the state. That entry's index is the incarnation: it differs for every leadership of any
//! replica, and a started process always has to win a new one.

use std::sync::Arc;

use curvine_types::{Error, ErrorKind};
use openraft::ServerState;
use tokio::sync::watch;

use crate::applier::Applier;
use crate::entry::Raft;
use crate::health::Health;
use crate::machine::StateMachine;
use crate::{LeaderState, MemberAddress};

/// The error for those who need the leader.
pub(crate) fn not_leader(leader: &LeaderState) -> Error {
    let error = Error::new(ErrorKind::NotLeader, "this master does not lead");
    if leader.address.is_empty() || leader.leading { error } else { error.with("leader", &leader.address) }
}

/// Keeps `current` up to date until closed.
pub(crate) async fn watch_leadership<S: StateMachine>(
    raft: Raft,
    applier: Applier<S>,
    health: Arc<Health>,
    current: watch::Sender<LeaderState>,
    mut closing: watch::Receiver<bool>,
) {
    let mut metrics = raft.metrics();
    let mut mode = health.subscribe();
    let _closed = Resign(&current);
    loop {
        let (next, stopped) = {
            let metrics = metrics.borrow_and_update();
            let stopped = metrics.running_state.as_ref().err().map(|fatal| fatal.to_string());
            let won = applier.progress().leadership.filter(|since| {
                let vote = &metrics.vote;
                vote.committed && (since.leader_id.term, since.leader_id.node_id) == (vote.leader_id.term, metrics.id)
            });
            let leads = metrics.state == ServerState::Leader && stopped.is_none() && !health.is_failed();
            let leader = metrics.current_leader.filter(|_| stopped.is_none()).unwrap_or(0);
            let address = metrics
                .membership_config
                .membership()
                .get_node(&leader)
                .map(|node| MemberAddress::parse(&node.addr).rpc)
                .unwrap_or_default();
            let since = won.filter(|_| leads && leader == metrics.id);
            let next =
                LeaderState { leading: since.is_some(), leader, address, incarnation: since.map_or(0, |id| id.index) };
            (next, stopped)
        };
        current.send_if_modified(|state| {
            let changed = *state != next;
            if changed {
                tracing::info!(
                    leader = next.leader,
                    leading = next.leading,
                    incarnation = next.incarnation,
                    "leadership changed"
                );
                *state = next;
            }
            changed
        });
        if let Some(reason) = stopped {
            if !*closing.borrow() {
                health.fail(reason);
            }
            return;
        }
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            changed = metrics.changed() => if changed.is_err() { return },
            changed = mode.changed() => if changed.is_err() { return },
        }
    }
}

/// Whatever ends the watching, this replica is not said to lead any more.
struct Resign<'a>(&'a watch::Sender<LeaderState>);

impl Drop for Resign<'_> {
    fn drop(&mut self) {
        self.0.send_replace(LeaderState::default());
    }
}
