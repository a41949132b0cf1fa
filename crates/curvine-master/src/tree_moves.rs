//! Moves of trees in stores are noted in the log, so that a leader who comes in the middle of one knows of it.
//!
//! Always: a move is noted before a worker is told of it, and until no worker can be at it any more. As long as it is noted, the leader
//! has the turn of the old place and of the new one.

use std::sync::Arc;
use std::time::Duration;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{NoteTreeMove, StoreChangeKind, StoreChangeRequest};
use curvine_types::{MountId, Result, WorkerId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::leader::Leader;
use crate::store_keys::TreeTurns;

/// Directories with more objects are not renamed: EXDEV, so that `mv` copies and can be watched.
const RENAME_OBJECTS_MAX: u32 = 10_000;
/// How long after its deadline, or after its worker has left off, an order has ended for sure: a request to the store may be under way.
const SETTLE: Duration = Duration::from_secs(1);
/// The longest move, however much time its caller has: so long a later leader lets others wait.
const MOVE_MAX: Duration = Duration::from_secs(600);
/// This part of the caller's time is not for the move: callers who find a new leader, who begins to count anew, should not be out of
/// time before it lets them in.
const SPARED: u32 = 8;
/// Pause before the end of a move is noted again.
const RETRY: Duration = Duration::from_secs(1);

/// A move that is noted.
pub(crate) struct TreeMove {
    mount: MountId,
    from: String,
    to: String,
    worker: WorkerId,
    /// When the order to the worker has to be carried out.
    deadline: Instant,
    /// Given back when this is dropped.
    _trees: TreeTurns,
}

impl TreeMove {
    fn is_noted(&self, leader: &Leader) -> bool {
        leader.replica.state().read().0.is_tree_moved(self.mount, &self.from)
    }
}

impl Leader {
    /// Notes that a worker is about to be told to move a tree. The caller has the turn of both places and gives it away.
    pub(crate) async fn begin_tree_move(
        &self,
        mount: MountId,
        (from, to): (&str, &str),
        trees: TreeTurns,
        deadline: Instant,
    ) -> Result<TreeMove> {
        let worker = self.any_worker()?;
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let time = (left - left / SPARED).min(MOVE_MAX);
        let (from, to) = (from.to_string(), to.to_string());
        let lasts_ms = (time + SETTLE).as_millis() as u64;
        let note = NoteTreeMove { mount, from: from.clone(), to: to.clone(), lasts_ms, over: false, worker };
        let moved = TreeMove { mount, from, to, worker, deadline: now + time, _trees: trees };
        match self.internal(CommandBody::NoteTreeMove(note), deadline).await {
            Ok(_) => Ok(moved),
            Err(error) => {
                // It may be noted all the same.
                self.end_tree_move_at(moved, now);
                Err(error)
            }
        }
    }

    /// Has the worker move the tree.
    pub(crate) async fn move_tree(&self, moved: &TreeMove) -> Result<()> {
        self.order(moved, StoreChangeKind::MoveDirectory, moved.deadline).await
    }

    async fn order(&self, moved: &TreeMove, kind: StoreChangeKind, deadline: Instant) -> Result<()> {
        let mount = self.mount_now(moved.mount)?;
        let request = StoreChangeRequest {
            mount: mount.id,
            mount_change: mount.change,
            kind: kind as i32,
            key: moved.from.clone(),
            to: moved.to.clone(),
            limit: RENAME_OBJECTS_MAX,
            ..StoreChangeRequest::default()
        };
        self.order_change(moved.worker, request, deadline).await.map(drop)
    }

    /// The worker is not at it any more. A rename that came into the log has ended it there.
    pub(crate) fn end_tree_move(&self, moved: TreeMove) {
        if moved.is_noted(self) {
            self.end_tree_move_at(moved, Instant::now());
        }
    }

    /// Nobody knows whether the worker is still at it, or has yet to read the order: one of the same leader it would obey after any
    /// question, so only the deadline tells.
    pub(crate) fn lose_tree_move(&self, moved: TreeMove) {
        let end = moved.deadline + SETTLE;
        self.end_tree_move_at(moved, end);
    }

    fn end_tree_move_at(&self, moved: TreeMove, end: Instant) {
        if let Some(leader) = self.me.upgrade() {
            tokio::spawn(async move {
                tokio::time::sleep_until(end).await;
                leader.note_end(moved).await;
            });
        }
    }

    /// Takes the turns of all trees that an earlier leader had moved, before anybody is served. They are given back when its workers
    /// can be at it no more.
    pub(crate) fn take_tree_moves_over(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        let noted = self.replica.state().read().0.tree_moves();
        for NoteTreeMove { mount, from, to, lasts_ms, worker, .. } in noted {
            let trees = self.uploads.keys.take_trees(mount, &[&from, &to]);
            let lasts = Duration::from_millis(lasts_ms).min(MOVE_MAX + SETTLE);
            tracing::info!(mount, from, to, ?lasts, "a directory may still be moved by order of an earlier leader");
            let deadline = Instant::now() + lasts;
            let moved = TreeMove { mount, from, to, worker, deadline, _trees: trees };
            let leader = self.clone();
            tasks.spawn(async move {
                leader.wait_for_worker(&moved).await;
                leader.note_end(moved).await;
            });
        }
    }

    /// Waits until the worker says that it is not at it any more, but not beyond the deadline: then it has given up.
    async fn wait_for_worker(&self, moved: &TreeMove) {
        while Instant::now() < moved.deadline {
            // It answers after what it was told before, and obeys no earlier leader from then on.
            let ended = self.order(moved, StoreChangeKind::Wait, moved.deadline).await;
            let pause = if ended.is_ok() { SETTLE } else { RETRY };
            tokio::time::sleep_until(moved.deadline.min(Instant::now() + pause)).await;
            if ended.is_ok() {
                return;
            }
        }
    }

    /// Gives the turns back when the log knows that the move has ended, and has the stores asked again: the tree may be half moved.
    async fn note_end(self: Arc<Self>, moved: TreeMove) {
        let (mount, from) = (moved.mount, moved.from.clone());
        let note = NoteTreeMove { mount, from, over: true, ..NoteTreeMove::default() };
        while let Err(error) = self.propose_for(0, CommandBody::NoteTreeMove(note.clone())).await {
            let now = self.replica.leader();
            if !now.leading || now.incarnation != self.incarnation {
                // The next leader lets others wait, and notes it.
                return;
            }
            tracing::debug!(%error, "the end of a move in a store is not noted yet");
            tokio::time::sleep(RETRY).await;
        }
        self.ufs.forget();
    }
}
