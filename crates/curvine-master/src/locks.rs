//! Waiting for advisory locks. The locks themselves are in the log; who waits for whom is soft.
//!
//! Always: an owner that waits is in `waiting` with those who block it, so that a cycle is found before it closes (EDEADLK).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{GetLockReply, GetLockRequest, LockKind, LockType, MutateReply, SetLock};
use curvine_types::{Error, ErrorKind, InodeId, Result, SessionId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::change::Numbered;
use crate::leader::Leader;

/// Who holds or wants a lock: the session and its kernel's owner number.
type Owner = (SessionId, u64);

/// A numbered command: its session and number.
type Numbers = (SessionId, u64);

/// Owners that wait, and the signal that a lock was dropped.
#[derive(Default)]
pub struct LockWaits {
    waiting: Mutex<HashMap<Owner, (InodeId, Owner)>>,
    dropped: Notify,
    /// The commands that wait, and what breaks their waits off.
    commands: Mutex<HashMap<Numbers, Arc<Notify>>>,
}

/// A command that may wait, until it is dropped.
pub struct WaitingCommand<'a> {
    waits: &'a LockWaits,
    number: Numbers,
    broken_off: Arc<Notify>,
}

impl Drop for WaitingCommand<'_> {
    fn drop(&mut self) {
        let mut commands = self.waits.commands.lock();
        if commands.get(&self.number).is_some_and(|known| Arc::ptr_eq(known, &self.broken_off)) {
            commands.remove(&self.number);
        }
    }
}

struct Waiting<'a> {
    waits: &'a LockWaits,
    owner: Owner,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waits.waiting.lock().remove(&self.owner);
    }
}

impl LockWaits {
    /// A lock may have become free: unlock, or the end of a session.
    pub fn something_dropped(&self) {
        self.dropped.notify_waiters();
    }

    /// A command is about to wait under this number.
    pub fn command(&self, session: SessionId, sequence: u64) -> WaitingCommand<'_> {
        let (number, broken_off) = ((session, sequence), Arc::new(Notify::new()));
        self.commands.lock().insert(number, broken_off.clone());
        WaitingCommand { waits: self, number, broken_off }
    }

    /// Somebody wants to know now how the command of this number ended: it waits no longer.
    pub fn break_off(&self, session: SessionId, sequence: u64) {
        if let Some(broken_off) = self.commands.lock().get(&(session, sequence)) {
            broken_off.notify_one();
        }
    }

    /// How many owners wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Records that `owner` waits for `holder`; `Deadlock` if the holder waits, over any chain, for the owner.
    fn wait_for(&self, owner: Owner, inode: InodeId, holder: Owner) -> Result<Waiting<'_>> {
        let mut waiting = self.waiting.lock();
        let mut seen = HashSet::new();
        let mut next = holder;
        while seen.insert(next) {
            if next == owner {
                return Err(
                    Error::new(ErrorKind::Deadlock, "waiting for this lock would be a deadlock").with("inode", inode)
                );
            }
            match waiting.get(&next) {
                Some((_, blocks)) => next = *blocks,
                None => break,
            }
        }
        waiting.insert(owner, (inode, holder));
        Ok(Waiting { waits: self, owner })
    }
}

impl Leader {
    /// Takes, converts or drops a lock; with `wait` when it has become free, until the deadline (then WouldBlock).
    pub(crate) async fn set_lock(
        &self,
        numbered: Numbered,
        lock: SetLock,
        wait: bool,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let (session, owner) = (numbered.session, (numbered.session, lock.owner));
        self.sessions.wait_until_open_for_changes(deadline).await?;
        let unlocks = lock.r#type() == LockType::Unlock;
        if wait && !unlocks {
            let command = self.lock_waits.command(session, numbered.sequence);
            self.wait_for_lock(owner, &lock, &command.broken_off, deadline).await?;
        }
        let command = curvine_proto::Command {
            session,
            sequence: numbered.sequence,
            lowest_unacked: numbered.lowest_unacked,
            body: Some(CommandBody::SetLock(lock)),
        };
        let outcome = self.replica.propose(command).await?;
        if outcome.error.is_none() {
            // A downgrade or a replaced range may free something, too.
            self.lock_waits.something_dropped();
        }
        Ok(MutateReply { outcome: Some(outcome), ..Default::default() })
    }

    async fn wait_for_lock(&self, owner: Owner, lock: &SetLock, broken_off: &Notify, deadline: Instant) -> Result<()> {
        loop {
            let dropped = self.lock_waits.dropped.notified();
            let conflict = self.replica.state().read().0.conflicting_lock(owner.0, lock)?;
            let Some(holder) = conflict else { return Ok(()) };
            let _waiting = match lock.kind() {
                LockKind::Posix => Some(self.lock_waits.wait_for(owner, lock.inode, (holder.session, holder.owner))?),
                _ => None,
            };
            let free = tokio::select! {
                () = dropped => true,
                () = broken_off.notified() => false,
                () = tokio::time::sleep_until(deadline) => false,
            };
            if !free {
                return Err(Error::new(ErrorKind::WouldBlock, "the lock is held by another").with("inode", lock.inode));
            }
            self.sessions.check(owner.0)?;
        }
    }

    /// Who would block this lock.
    pub(crate) fn get_lock(&self, request: GetLockRequest) -> Result<GetLockReply> {
        self.sessions.check(request.session)?;
        let lock = request.lock.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "no lock was described"))?;
        let conflict = self.replica.state().read().0.conflicting_lock(request.session, &lock)?;
        Ok(GetLockReply { conflict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_of_waiting_owners_is_a_deadlock() {
        let waits = LockWaits::default();
        let (a, b, c) = ((1, 1), (2, 1), (3, 1));
        let first = waits.wait_for(a, 10, b).unwrap();
        let _second = waits.wait_for(b, 11, c).unwrap();
        assert_eq!(waits.wait_for(c, 12, a).err().map(|error| error.kind()), Some(ErrorKind::Deadlock));
        drop(first);
        assert!(waits.wait_for(c, 12, a).is_ok(), "a no longer waits");
        assert_eq!(waits.len(), 1);
    }
}
