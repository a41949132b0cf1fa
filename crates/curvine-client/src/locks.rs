//! Advisory locks. They are in the log and belong to the session; waiting is done at the master.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use curvine_proto::command::Body as CommandBody;
use curvine_proto::{GetLockReply, GetLockRequest, LockHolder, LockKind, LockType, Method, SetLock};
use curvine_types::{Error, ErrorKind, InodeId, Result, SessionId};
use tokio::time::Instant;

use crate::core::{Core, Pause};
use crate::mutation::{Attempt, Done, Number, Touched, Window, hold};
use crate::{FileSystem, Origin, origin};

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

    /// Nobody will ask for the outcome of a command that a predecessor sent under this number: its caller was answered, or is gone.
    /// When this returns the command has been executed or never will be, if the master answers in time.
    ///
    /// `give_back`: the lock that it asks for, if its caller was told that he does not have it. Other locks stay: their callers have
    /// them, and close what they were taken through when they end.
    pub async fn abandon(&self, session: SessionId, sequence: u64, give_back: Option<SetLock>) {
        let core = &self.core;
        match (Window::adopt(core, session, sequence, core.deadline()).await, give_back) {
            (Ok(Some(number)), Some(lock)) => core.give_back(&number, lock).await,
            (Ok(Some(number)), None) => core.spend(&number).await,
            _ => core.window.abandon(session, sequence),
        }
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
    origin: Option<Arc<dyn Origin>>,
    number: Option<Number>,
}

impl Drop for Waiting {
    /// The caller has gone in the middle: a lock that was granted meanwhile is given back.
    fn drop(&mut self) {
        let Some(number) = self.number.take() else { return };
        let (core, lock) = (self.core.clone(), self.lock);
        let remembered = self.origin.take().map(Origin::giving_back);
        tokio::spawn(async move {
            core.give_back(&number, lock).await;
            drop(remembered);
        });
    }
}

impl Core {
    /// Asks under one number after another, because a number that is long in use holds up all later ones.
    async fn wait_for_lock(self: &Arc<Self>, lock: SetLock) -> Result<()> {
        let origin = origin::current();
        let mut waiting = Waiting { core: self.clone(), lock, origin: origin.clone(), number: None };
        let mut pause = Pause::new(self.deadline());
        let mut session = None;
        let kind = origin::kind_of(&CommandBody::SetLock(lock));
        if let Some((of, sequence)) = origin.as_ref().and_then(|origin| origin.earlier(kind)) {
            session = Some(of);
            // The wait of a predecessor: it may have ended with the lock.
            if let Some(number) = Window::adopt(self, of, sequence, self.deadline()).await? {
                let held = self.settle_lock(&*waiting.number.insert(number), &lock).await;
                if !matches!(held, Ok(false)) {
                    waiting.number.take().into_iter().for_each(|number| hold(&origin, number));
                    return held.map(|_| ());
                }
                origin.iter().for_each(|origin| origin.superseded(of, sequence));
                waiting.number = None;
            }
        }
        loop {
            let conn = self.master.conn(self.deadline()).await?;
            if *session.get_or_insert(conn.session) != conn.session {
                return Err(Error::new(ErrorKind::SessionExpired, "the session expired while it waited for a lock"));
            }
            let number = Window::take(self, conn.session, self.deadline()).await?;
            let number = &*waiting.number.insert(number);
            if let Some(origin) = &origin {
                origin.sending(number.session, number.sequence, kind, Some(&lock));
            }
            let until = Instant::now() + WAIT;
            let attempt = tokio::select! {
                attempt = self.attempt(&conn, number, CommandBody::SetLock(lock), true, until) => Some(attempt),
                () = self.window.pressure.notified() => None,
            };
            let granted = match attempt {
                Some(Attempt::Done(reply, ticket, serial)) => {
                    let (session, sequence) = (number.session, number.sequence);
                    let number = waiting.number.take();
                    match self.done(*reply, (ticket, ticket), serial, session) {
                        // It became free and another one was faster: waited for again, under a new number.
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            if let Some(origin) = &origin {
                                origin.superseded(session, sequence);
                            }
                            Ok(false)
                        }
                        outcome => {
                            number.into_iter().for_each(|number| hold(&origin, number));
                            return outcome.map(|_| ());
                        }
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
            if let (Some(origin), Some(number), Ok(false)) = (&origin, &waiting.number, &granted) {
                origin.superseded(number.session, number.sequence);
            }
            let number = waiting.number.take();
            if !matches!(granted, Ok(false)) {
                number.into_iter().for_each(|number| hold(&origin, number));
            }
            match granted {
                Ok(true) => return Ok(()),
                Ok(false) => pause = Pause::new(self.deadline()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Unlocks if the command that has this number took the lock, or still does.
    async fn give_back(self: &Arc<Self>, number: &Number, lock: SetLock) {
        if let Ok(true) = self.settle_lock(number, &lock).await {
            let unlock = SetLock { r#type: LockType::Unlock as i32, ..lock };
            let deadline = self.deadline();
            let unlocked = self.mutate(CommandBody::SetLock(unlock), Touched::default(), deadline, |_, _| {}).await;
            if let Err(error) = unlocked {
                tracing::warn!(%error, "a lock that nobody waits for any more was not given back");
            }
        }
    }

    /// Uses the number up: if the command that has it was not executed, this one, which changes nothing, takes its place.
    async fn spend(&self, number: &Number) {
        let nothing = SetLock { kind: LockKind::Posix as i32, r#type: LockType::Unlock as i32, ..SetLock::default() };
        let mut pause = Pause::new(self.deadline());
        loop {
            let Ok(conn) = self.master.conn(self.deadline()).await else { return };
            if conn.session != number.session {
                return;
            }
            let spent = self.attempt(&conn, number, CommandBody::SetLock(nothing), false, self.deadline()).await;
            let (Attempt::NotYet(error) | Attempt::Unknown(error)) = spent else { return };
            if pause.wait(error).await.is_err() {
                return;
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
