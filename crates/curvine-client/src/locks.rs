//! Advisory locks. They are in the log and belong to the session; waiting is done at the master.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{GetLockReply, GetLockRequest, LockHolder, LockKind, LockType, Method, SetLock};
use curvine_types::{Error, ErrorKind, InodeId, Result};
use tokio::time::Instant;

use crate::FileSystem;
use crate::core::{Core, Pause};
use crate::mutation::{Attempt, Done, Number, Touched, Window};

/// How long the master is asked to wait at once.
const WAIT: Duration = Duration::from_secs(10);

impl FileSystem {
    /// The lock in the way; `lock.inode` is set from `inode`.
    pub async fn getlk(&self, inode: InodeId, mut lock: SetLock) -> Result<Option<LockHolder>> {
        lock.inode = inode;
        let request = |session| GetLockRequest { session, lock: Some(lock) };
        let (reply, _) = self.core.ask::<_, GetLockReply>(Method::GetLock, request, self.core.deadline()).await?;
        Ok(reply.conflict)
    }

    /// Takes, converts or drops a lock. `wait`: until it is granted or the future is dropped.
    pub async fn setlk(&self, inode: InodeId, mut lock: SetLock, wait: bool) -> Result<()> {
        lock.inode = inode;
        if let Some(file) = self.core.opens.get(inode) {
            file.locked.store(true, Ordering::SeqCst);
        }
        if !wait || lock.r#type() == LockType::Unlock {
            let settle = |_: &Arc<Core>, _: Done| {};
            return self
                .core
                .mutate(CommandBody::SetLock(lock), Touched::default(), self.core.deadline(), settle)
                .await;
        }
        self.core.wait_for_lock(lock).await
    }

    /// Drops the POSIX locks of an owner that closed a descriptor.
    pub async fn release_owner(&self, inode: InodeId, owner: u64) -> Result<()> {
        if !self.has_locks(inode) {
            return Ok(());
        }
        let lock = SetLock {
            inode,
            kind: LockKind::Posix as i32,
            r#type: LockType::Unlock as i32,
            start: 0,
            end: u64::MAX,
            owner,
            pid: 0,
        };
        self.setlk(inode, lock, false).await
    }
}

/// A wait for a lock that may have been granted without anybody knowing.
struct Waiting {
    core: Arc<Core>,
    lock: SetLock,
    number: Option<Number>,
}

impl Drop for Waiting {
    /// The caller has gone in the middle: a lock that was granted meanwhile is given back.
    fn drop(&mut self) {
        let Some(number) = self.number.take() else { return };
        let (core, lock) = (self.core.clone(), self.lock);
        tokio::spawn(async move {
            if let Ok(true) = core.settle_lock(&number, &lock).await {
                let unlock = SetLock { r#type: LockType::Unlock as i32, ..lock };
                let deadline = core.deadline();
                let unlocked = core.mutate(CommandBody::SetLock(unlock), Touched::default(), deadline, |_, _| {}).await;
                if let Err(error) = unlocked {
                    tracing::warn!(%error, "a lock that nobody waits for any more was not given back");
                }
            }
        });
    }
}

impl Core {
    /// Asks under one number after another, because a number that is long in use holds up all later ones.
    async fn wait_for_lock(self: &Arc<Self>, lock: SetLock) -> Result<()> {
        let mut waiting = Waiting { core: self.clone(), lock, number: None };
        let mut pause = Pause::new(self.deadline());
        let mut session = None;
        loop {
            let conn = self.master.conn(self.deadline()).await?;
            if *session.get_or_insert(conn.session) != conn.session {
                return Err(Error::new(ErrorKind::SessionExpired, "the session expired while it waited for a lock"));
            }
            let number = Window::take(self, conn.session, self.deadline()).await?;
            let number = &*waiting.number.insert(number);
            let until = Instant::now() + WAIT;
            let attempt = tokio::select! {
                attempt = self.attempt(&conn, number, CommandBody::SetLock(lock), true, until) => Some(attempt),
                () = self.window.pressure.notified() => None,
            };
            let granted = match attempt {
                Some(Attempt::Done(reply, ticket, serial)) => {
                    let session = number.session;
                    waiting.number = None;
                    match self.done(*reply, (ticket, ticket), serial, session) {
                        // It became free and another one was faster: waited for again, under a new number.
                        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                        outcome => return outcome.map(|_| ()),
                    }
                }
                Some(Attempt::Failed(error)) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                Some(Attempt::Failed(error)) => Err(error),
                Some(Attempt::NotYet(error)) => {
                    pause.wait(error).await?;
                    Ok(false)
                }
                // The wait was broken off, or nobody knows how it ended.
                Some(Attempt::Unknown(_)) | None => self.settle_lock(number, &lock).await,
            };
            waiting.number = None;
            match granted {
                Ok(true) => return Ok(()),
                Ok(false) => pause = Pause::new(self.deadline()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Learns how a command to take a lock ended, without waiting for the lock. Whether it is held now.
    async fn settle_lock(self: &Arc<Self>, number: &Number, lock: &SetLock) -> Result<bool> {
        let mut pause = Pause::new(self.deadline());
        loop {
            let conn = self.master.conn(self.deadline()).await?;
            if conn.session != number.session {
                return Err(Error::new(ErrorKind::SessionExpired, "the session expired while it waited for a lock"));
            }
            let body = CommandBody::SetLock(*lock);
            match self.attempt(&conn, number, body, false, self.deadline()).await {
                Attempt::Done(reply, ticket, serial) => {
                    return match self.done(*reply, (ticket, ticket), serial, number.session) {
                        Ok(_) => Ok(true),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
                        Err(error) => Err(error),
                    };
                }
                Attempt::Failed(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Attempt::Failed(error) => return Err(error),
                Attempt::NotYet(error) | Attempt::Unknown(error) => pause.wait(error).await?,
            }
        }
    }
}
