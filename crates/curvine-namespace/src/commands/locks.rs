//! POSIX record locks and flock, held by (session, owner). A command never waits.
//!
//! Always: the POSIX locks of one owner on an inode do not overlap, and those of the same type do not touch; of flock
//! there is at most one, of the whole file.

use std::sync::Arc;

use curvine_proto::{ErrorBody, LockHolder, LockKind, LockType, Outcome, SetLock};
use curvine_types::{ErrorKind, InodeId, Result, SessionId};

use super::need_session;
use crate::record::{Held, Lock};
use crate::state::{State, fail};

/// Most locks on one inode.
const LOCKS_MAX: usize = 4096;

impl State {
    pub(super) fn set_lock(&mut self, session: SessionId, command: &SetLock) -> Result<Outcome> {
        need_session(session)?;
        let unlock = command.r#type() == LockType::Unlock;
        let asked = asked_lock(session, command)?;
        if self.inode(command.inode).is_err() && unlock {
            return Ok(Outcome::default());
        }
        self.inode(command.inode)?;
        let locks = self.locks.get(&command.inode).cloned().unwrap_or_default();
        if !unlock && let Some(conflict) = find_conflict(&locks, &asked) {
            let error = fail(ErrorKind::WouldBlock, "the lock is held by another")
                .with("inode", command.inode)
                .with("session", conflict.session);
            let error = Some(ErrorBody::from(&error));
            return Ok(Outcome { error, lock: Some(holder(&conflict)), ..Outcome::default() });
        }
        let locks = with_lock(&locks, &asked, unlock);
        if !unlock && locks.len() > LOCKS_MAX {
            return Err(fail(ErrorKind::Overloaded, "the inode has too many locks").with("limit", LOCKS_MAX));
        }
        self.put_locks(session, command.inode, locks);
        Ok(Outcome { attr: self.attr(command.inode), ..Outcome::default() })
    }

    /// The lock that stands against one, if any: the one that begins first.
    pub fn conflicting_lock(&self, session: SessionId, command: &SetLock) -> Result<Option<LockHolder>> {
        self.inode(command.inode)?;
        let asked = asked_lock(session, command)?;
        let locks = self.locks.get(&command.inode);
        let conflict = locks.and_then(|locks| find_conflict(locks, &asked));
        Ok(conflict.filter(|_| command.r#type() != LockType::Unlock).map(|lock| holder(&lock)))
    }

    /// Drops all locks of a session on an inode.
    pub(super) fn drop_locks(&mut self, session: SessionId, id: InodeId) {
        let Some(locks) = self.locks.get(&id) else { return };
        let left = locks.iter().filter(|lock| lock.session != session).copied().collect();
        self.put_locks(session, id, left);
    }

    /// Stores an inode's locks, those of one session having changed.
    fn put_locks(&mut self, session: SessionId, id: InodeId, locks: Vec<Lock>) {
        if locks.iter().any(|lock| lock.session == session) {
            self.held.insert((session, Held::Lock, id), ());
        } else {
            self.held.remove(&(session, Held::Lock, id));
        }
        if locks.is_empty() {
            self.locks.remove(&id);
        } else {
            self.locks.insert(id, Arc::new(locks));
        }
    }
}

fn asked_lock(session: SessionId, command: &SetLock) -> Result<Lock> {
    let flock = match command.kind() {
        LockKind::Posix => false,
        LockKind::Flock => true,
        LockKind::Unknown => return Err(fail(ErrorKind::InvalidArgument, "unknown kind of lock")),
    };
    let (start, end) = if flock { (0, u64::MAX) } else { (command.start, command.end) };
    if start > end {
        return Err(fail(ErrorKind::InvalidArgument, "a lock's end is before its start").with("offset", start));
    }
    let write = command.r#type() == LockType::Write;
    Ok(Lock { flock, write, start, end, session, owner: command.owner, pid: command.pid })
}

fn is_same_owner(a: &Lock, b: &Lock) -> bool {
    (a.flock, a.session, a.owner) == (b.flock, b.session, b.owner)
}

fn find_conflict(locks: &[Lock], asked: &Lock) -> Option<Lock> {
    let conflicts = locks.iter().filter(|have| {
        have.flock == asked.flock
            && !is_same_owner(have, asked)
            && (have.write || asked.write)
            && have.start <= asked.end
            && asked.start <= have.end
    });
    conflicts.min_by_key(|lock| lock.start).copied()
}

/// The locks after `asked` took the place of what its owner had in its range.
fn with_lock(locks: &[Lock], asked: &Lock, unlock: bool) -> Vec<Lock> {
    let mut result = Vec::with_capacity(locks.len() + 2);
    let mut joined = *asked;
    for have in locks {
        if !is_same_owner(have, asked) {
            result.push(*have);
            continue;
        }
        let touches = have.start <= asked.end.saturating_add(1) && asked.start <= have.end.saturating_add(1);
        if !unlock && touches && have.write == asked.write {
            joined.start = joined.start.min(have.start);
            joined.end = joined.end.max(have.end);
            continue;
        }
        if have.start > asked.end || have.end < asked.start {
            result.push(*have);
            continue;
        }
        if have.start < asked.start {
            result.push(Lock { end: asked.start - 1, ..*have });
        }
        if have.end > asked.end {
            result.push(Lock { start: asked.end + 1, ..*have });
        }
    }
    if !unlock {
        result.push(joined);
    }
    result.sort_unstable_by_key(|lock| (lock.flock, lock.session, lock.owner, lock.start));
    result
}

fn holder(lock: &Lock) -> LockHolder {
    let kind = if lock.write { LockType::Write } else { LockType::Read };
    LockHolder {
        r#type: kind as i32,
        start: lock.start,
        end: lock.end,
        pid: lock.pid,
        session: lock.session,
        owner: lock.owner,
    }
}
