//! Moves of trees in stores are noted in the log, so that a leader who comes in the middle of one brings it to its end.
//!
//! Always: a move is noted before a worker is told of it, and until no worker can be at it any more. As long as it is noted, the leader
//! has the turn of the old place and of the new one. No worker is told to go on with one as long as another may be at it.

use std::sync::Arc;
use std::time::Duration;

use curvine_namespace::ResultLookup;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{NoteTreeMove, Rename, StoreChangeKind, StoreChangeRequest};
use curvine_types::{Error, ErrorKind, InodeId, Result, WorkerId};
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::change::Numbered;
use crate::keyed::Passage;
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
    note: NoteTreeMove,
    /// When the order to the worker has to be carried out.
    deadline: Instant,
    /// Given back when this is dropped.
    _trees: TreeTurns,
}

impl TreeMove {
    fn is_noted(&self, leader: &Leader) -> bool {
        leader.replica.state().read().0.is_tree_moved(self.note.mount, &self.note.from)
    }

    /// How long it may take, whoever has it done.
    fn lasts(&self) -> Duration {
        Duration::from_millis(self.note.lasts_ms).min(MOVE_MAX + SETTLE)
    }
}

/// Nobody knows whether the worker is still at what it was told.
fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionLost | ErrorKind::TimedOut)
}

impl Leader {
    /// Notes that a worker, which is chosen here, is about to be told to move a tree, and for what. The caller has the turn of both
    /// places and gives it away.
    pub(crate) async fn begin_tree_move(
        &self,
        mut note: NoteTreeMove,
        trees: TreeTurns,
        deadline: Instant,
    ) -> Result<TreeMove> {
        note.worker = self.any_worker()?;
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let time = (left - left / SPARED).min(MOVE_MAX);
        note.lasts_ms = (time + SETTLE).as_millis() as u64;
        let moved = TreeMove { note: note.clone(), deadline: now + time, _trees: trees };
        match self.internal(CommandBody::NoteTreeMove(note), deadline).await {
            Ok(_) => Ok(moved),
            Err(error) => {
                // It may be noted all the same.
                self.end_tree_move_soon(moved);
                Err(error)
            }
        }
    }

    /// Has the worker move the tree.
    pub(crate) async fn move_tree(&self, moved: TreeMove) -> Result<TreeMove> {
        match self.order(&moved, StoreChangeKind::MoveDirectory, moved.deadline).await {
            Ok(()) => Ok(moved),
            Err(error) => {
                if is_lost(&error) {
                    self.lose_tree_move(moved);
                } else {
                    self.end_tree_move_soon(moved);
                }
                Err(error)
            }
        }
    }

    async fn order(&self, moved: &TreeMove, kind: StoreChangeKind, deadline: Instant) -> Result<()> {
        let mount = self.mount_now(moved.note.mount)?;
        let request = StoreChangeRequest {
            mount: mount.id,
            mount_change: mount.change,
            kind: kind as i32,
            key: moved.note.from.clone(),
            to: moved.note.to.clone(),
            limit: RENAME_OBJECTS_MAX,
            ..StoreChangeRequest::default()
        };
        self.order_change(moved.note.worker, request, deadline).await.map(drop)
    }

    /// The worker is not at it any more. A rename that came into the log has ended it there.
    pub(crate) fn end_tree_move(&self, moved: TreeMove) {
        if moved.is_noted(self) {
            self.end_tree_move_soon(moved);
        }
    }

    fn end_tree_move_soon(&self, moved: TreeMove) {
        if let Some(leader) = self.me.upgrade() {
            tokio::spawn(leader.note_end(moved));
        }
    }

    /// Whoever asked has been told that it failed. The worker may still be at it, or has yet to read the order, which it would obey after
    /// any question: only the deadline tells. Then the rest is moved: no tree is left in two places.
    fn lose_tree_move(&self, moved: TreeMove) {
        if let Some(leader) = self.me.upgrade() {
            tokio::spawn(async move {
                tokio::time::sleep_until(moved.deadline + SETTLE).await;
                leader.clone().bring_to_end(moved).await;
                // Others may have looked at the store meanwhile.
                leader.ufs.forget();
            });
        }
    }

    /// Takes the turns of all trees that an earlier leader had moved, and the gates of their directories, before anybody is served. They
    /// are given back when the renames are in the log, or cannot be brought to their end.
    pub(crate) fn take_tree_moves_over(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        let noted = self.replica.state().read().0.tree_moves();
        for note in noted {
            let trees = self.uploads.keys.take_trees(note.mount, &[&note.from, &note.to]);
            tracing::info!(note.mount, note.from, note.to, "a directory was being moved by order of an earlier leader");
            let mut moved = TreeMove { note, deadline: Instant::now(), _trees: trees };
            moved.deadline += moved.lasts();
            let mut taking = Box::pin(self.clone().take_tree_move_over(moved));
            // As far as it goes without waiting: what it needs is nobody's as yet.
            if taking.as_mut().now_or_never().is_none() {
                tasks.spawn(taking);
            }
        }
    }

    async fn take_tree_move_over(self: Arc<Self>, moved: TreeMove) {
        let _gates = match &moved.note.rename {
            Some(rename) => self.gates_of_rename(rename, moved.deadline).await.unwrap_or_default(),
            None => Vec::new(),
        };
        // Who asks for it again is answered when it is done.
        let _once = self.command_locks.lock((moved.note.session, moved.note.sequence), moved.deadline).await;
        self.wait_for_worker(&moved).await;
        self.clone().bring_to_end(moved).await;
    }

    /// Nobody lists any directory that a rename changes.
    async fn gates_of_rename(&self, rename: &Rename, deadline: Instant) -> Result<Vec<Passage<'_, InodeId>>> {
        let mut dirs = vec![rename.parent, rename.new_parent];
        for (dir, name) in [(rename.parent, &rename.name), (rename.new_parent, &rename.new_name)] {
            dirs.extend(self.name_now(dir, name)?.map(|found| found.inode));
        }
        self.gates(dirs, deadline).await
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

    /// Has the rest of a tree moved, which nobody is at, and the rename brought into the log.
    async fn bring_to_end(self: Arc<Self>, mut moved: TreeMove) {
        match self.go_on(&mut moved).await {
            Ok(()) => self.end_tree_move(moved),
            Err(error) => {
                let (from, to) = (&moved.note.from, &moved.note.to);
                tracing::warn!(%error, from, to, "the rename of a directory is left half done");
                if is_lost(&error) {
                    tokio::time::sleep_until(moved.deadline + SETTLE).await;
                }
                self.note_end(moved).await;
            }
        }
    }

    async fn go_on(&self, moved: &mut TreeMove) -> Result<()> {
        let Some(rename) = moved.note.rename.clone() else {
            return Err(Error::new(ErrorKind::NotSupported, "the leader that began it did not say what it is for"));
        };
        moved.deadline = Instant::now() + moved.lasts().saturating_sub(SETTLE);
        moved.note.worker = self.any_worker_by(moved.deadline).await?;
        match self.order(moved, StoreChangeKind::MoveDirectory, moved.deadline).await {
            // All of it had been moved.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            ordered => ordered?,
        }
        let NoteTreeMove { session, sequence, .. } = moved.note;
        let earlier = self.replica.state().read().0.result(session, sequence);
        let numbered = match earlier {
            ResultLookup::New => Numbered { session, sequence, lowest_unacked: 0 },
            // Nobody waits for it any more.
            _ => Numbered::OWN,
        };
        let reply = self.rename(numbered, rename, moved.deadline).await?;
        let outcome = reply.outcome.unwrap_or_default();
        if let Some(error) = outcome.error {
            return Err(error.into());
        }
        outcome.attr.iter().for_each(|dir| self.ufs.forget_listing(dir.inode));
        Ok(())
    }

    async fn any_worker_by(&self, deadline: Instant) -> Result<WorkerId> {
        loop {
            match self.any_worker() {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
                found => return found,
            }
        }
    }

    /// Gives the turns back when the log knows that the move has ended, and has the stores asked again: the tree may be half moved.
    async fn note_end(self: Arc<Self>, moved: TreeMove) {
        let (mount, from) = (moved.note.mount, moved.note.from.clone());
        let note = NoteTreeMove { mount, from, over: true, ..NoteTreeMove::default() };
        while let Err(error) = self.propose_for(0, CommandBody::NoteTreeMove(note.clone())).await {
            let now = self.replica.leader();
            if !now.leading || now.incarnation != self.incarnation {
                // The next leader goes on with it.
                return;
            }
            tracing::debug!(%error, "the end of a move in a store is not noted yet");
            tokio::time::sleep(RETRY).await;
        }
        self.ufs.forget();
    }
}
