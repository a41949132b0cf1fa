//! The way of a change: applied already? open for changes? recall, propose, answer.
//!
//! Always: the marks of a change stay until its command has been applied or can no longer be.
//! Always: leases in the answer were registered before the command was proposed, or their attributes were read after they were.

use std::sync::Arc;

use curvine_namespace::ResultLookup;
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    Attr, Command, Create, DataMode, FileKind, JobKind, Lease, MutateReply, MutateRequest, Outcome, Rename, SetAttr,
    Time, TruncateFileRequest, Unlink,
};
use curvine_raft::Hurry;
use curvine_types::{Error, ErrorKind, InodeId, Result, SessionId};
use tokio::time::Instant;

use crate::coherence::Change;
use crate::leader::Leader;
use crate::permission::{self, Want};
use crate::recall::recall;

/// Attempts of an unlink or rename whose names change under it.
const ATTEMPTS: usize = 16;

/// A numbered command of a client.
pub(crate) struct Numbered {
    pub session: SessionId,
    pub sequence: u64,
    pub lowest_unacked: u64,
}

impl Numbered {
    /// Of the master itself, which nobody sends twice.
    pub(crate) const OWN: Self = Self { session: 0, sequence: 0, lowest_unacked: 0 };

    pub(crate) fn command(&self, body: CommandBody) -> Command {
        let Numbered { session, sequence, lowest_unacked } = *self;
        Command { session, sequence, lowest_unacked, body: Some(body) }
    }
}

impl Leader {
    /// Executes a client's command once and answers with its outcome.
    pub(crate) async fn mutate(self: Arc<Self>, request: MutateRequest, deadline: Instant) -> Result<MutateReply> {
        let session = request.command.as_ref().map_or(0, |command| command.session);
        let mut reply = self.clone().execute(request, deadline).await?;
        self.freshen(session, &mut reply, deadline).await;
        Ok(reply)
    }

    async fn execute(self: Arc<Self>, request: MutateRequest, deadline: Instant) -> Result<MutateReply> {
        let MutateRequest { command, wait, caller } = request;
        let command = command.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "a mutation without a command"))?;
        let Command { session, sequence, lowest_unacked, body } = command;
        let body = body.ok_or_else(|| Error::new(ErrorKind::NotSupported, "this master does not know the command"))?;
        if sequence == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "a client's commands are numbered from 1"));
        }
        self.sessions.check(session)?;
        if matches!(body, CommandBody::SetLock(_)) && !wait {
            self.lock_waits.break_off(session, sequence);
        }
        let _once = self.command_locks.lock((session, sequence), deadline).await?;
        let earlier = self.replica.state().read().0.result(session, sequence);
        match earlier {
            ResultLookup::New => {}
            ResultLookup::Known(outcome) => return self.answer_again(session, &body, outcome, deadline).await,
            ResultLookup::Forgotten => {
                return Err(
                    Error::new(ErrorKind::Stale, "the command's result is no longer kept").with("session", session)
                );
            }
            ResultLookup::NoSession => {
                return Err(Error::new(ErrorKind::SessionExpired, "the session has expired").with("session", session));
            }
        }
        let numbered = Numbered { session, sequence, lowest_unacked };
        let caller = caller.as_ref();
        // What is seldom done is boxed: the future is as large as its largest branch, and is moved with each call.
        match body {
            CommandBody::Create(create) => {
                let parent = self.attr_now(create.parent)?;
                permission::check(&self, session, caller, &parent, Want::CHANGE_NAMES)?;
                self.create_anywhere(&parent, numbered, create, deadline).await
            }
            CommandBody::Link(link) => {
                let parent = self.attr_now(link.parent)?;
                permission::check(&self, session, caller, &parent, Want::CHANGE_NAMES)?;
                let inodes = [link.inode, link.parent];
                self.change(numbered, CommandBody::Link(link), &inodes, deadline).await
            }
            CommandBody::Unlink(unlink) => {
                let parent = self.attr_now(unlink.parent)?;
                permission::check(&self, session, caller, &parent, Want::CHANGE_NAMES)?;
                if let Some(child) = self.name_now(unlink.parent, &unlink.name)? {
                    permission::check_sticky(&self, session, caller, &parent, &child)?;
                }
                self.unlink_anywhere(&parent, numbered, unlink, deadline).await
            }
            CommandBody::Rename(rename) => {
                let checked = |dir, name: &[u8]| {
                    let attr = self.attr_now(dir)?;
                    permission::check(&self, session, caller, &attr, Want::CHANGE_NAMES)?;
                    if let Some(child) = self.name_now(dir, name)? {
                        permission::check_sticky(&self, session, caller, &attr, &child)?;
                    }
                    Ok::<Attr, Error>(attr)
                };
                let from = checked(rename.parent, &rename.name)?;
                let to = checked(rename.new_parent, &rename.new_name)?;
                self.rename_anywhere((from, to), numbered, rename, deadline).await
            }
            CommandBody::SetAttr(set) => {
                let attr = self.attr_now(set.inode)?;
                permission::check_chown(&self, session, caller, &attr, set.uid, set.gid)?;
                if set.uid.is_none() && set.gid.is_none() {
                    permission::check_owner(&self, session, caller, &attr)?;
                }
                self.set_attr(numbered, set, deadline).await
            }
            CommandBody::SetXattr(set) => {
                let attr = self.attr_now(set.inode)?;
                let write = Want { write: true, ..Want::default() };
                permission::check(&self, session, caller, &attr, write)?;
                let inodes = [set.inode];
                self.change(numbered, CommandBody::SetXattr(set), &inodes, deadline).await
            }
            CommandBody::RemoveXattr(remove) => {
                let attr = self.attr_now(remove.inode)?;
                let write = Want { write: true, ..Want::default() };
                permission::check(&self, session, caller, &attr, write)?;
                let inodes = [remove.inode];
                self.change(numbered, CommandBody::RemoveXattr(remove), &inodes, deadline).await
            }
            CommandBody::WriteInline(write) => {
                let inode = write.inode;
                self.ensure_writer(session, inode, deadline).await?;
                let change = self.begin_change(session, &[inode], &[], deadline).await?;
                let _lock = self.content_locks.lock(inode, deadline).await?;
                self.make_change(numbered, CommandBody::WriteInline(write), &[inode], change).await
            }
            CommandBody::SetLock(lock) => self.set_lock(numbered, lock, wait, deadline).await,
            CommandBody::MountUfs(mount) => {
                permission::check_root(&self, session, caller)?;
                Box::pin(self.mount_ufs(numbered, mount, deadline)).await
            }
            CommandBody::UmountUfs(umount) => {
                permission::check_root(&self, session, caller)?;
                Box::pin(self.umount_ufs(numbered, umount, deadline)).await
            }
            CommandBody::SetWorkerState(set) => {
                permission::check_root(&self, session, caller)?;
                let worker = set.worker;
                let reply = self.change(numbered, CommandBody::SetWorkerState(set), &[], deadline).await?;
                self.worker_state_changed(worker);
                Ok(reply)
            }
            CommandBody::SubmitJob(submit) => {
                // What a load brings is as good as what a read brings; the others cost all.
                if submit.kind() != JobKind::Load {
                    permission::check_root(&self, session, caller)?;
                }
                Box::pin(self.submit_job(numbered, submit)).await
            }
            CommandBody::ControlJob(control) => {
                permission::check_root(&self, session, caller)?;
                Box::pin(self.control_job(numbered, control)).await
            }
            body @ (CommandBody::SetPin(_) | CommandBody::SetQuota(_) | CommandBody::SetTtl(_)) => {
                permission::check_root(&self, session, caller)?;
                self.change(numbered, body, &[], deadline).await
            }
            _ => Err(Error::new(ErrorKind::NotPermitted, "only the master issues this command")),
        }
    }

    /// The command was executed before; what it opened may not have been counted by this leader.
    async fn answer_again(
        &self,
        session: SessionId,
        body: &CommandBody,
        outcome: Outcome,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let opened = matches!(body, CommandBody::Create(create) if create.grant_write) && outcome.created;
        let mut mode = DataMode::Unknown;
        if let Some(made) = outcome.attr.as_ref().filter(|_| opened) {
            if !self.coherence.is_open(session, made.inode).writers {
                self.coherence.open(session, made.inode, true, deadline).await?;
            }
            let grant = self.replica.state().read().0.grant(made.inode);
            mode = crate::grants::data_mode(session, made, grant.as_ref());
        }
        Ok(MutateReply { outcome: Some(outcome), mode: mode as i32, ..Default::default() })
    }

    /// The attributes as the log has them.
    pub(crate) fn attr_now(&self, inode: InodeId) -> Result<Attr> {
        self.replica.state().read().0.attr(inode)
    }

    /// What a name stands for now; errors other than of the directory itself are left to the command.
    pub(crate) fn name_now(&self, dir: InodeId, name: &[u8]) -> Result<Option<Attr>> {
        match self.replica.state().read().0.lookup(dir, name) {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == ErrorKind::Stale => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Marks the inodes and takes others' leases on them away.
    pub(crate) async fn begin_change(
        &self,
        session: SessionId,
        inodes: &[InodeId],
        removed: &[InodeId],
        deadline: Instant,
    ) -> Result<Change> {
        self.sessions.wait_until_open_for_changes(deadline).await?;
        let change = self.coherence.begin(session, inodes, removed);
        recall(&self.coherence, &self.sessions, &change, deadline).await?;
        Ok(change)
    }

    /// Proposes under the marks of a change. They outlive a proposal whose fate is unknown.
    async fn propose_marked(&self, command: Command, change: Change) -> Result<(Outcome, Change)> {
        match self.replica.propose(command).await {
            Ok(outcome) => Ok((outcome, change)),
            Err(error) => {
                if error.kind() == ErrorKind::TimedOut {
                    let replica = self.replica.clone();
                    tokio::spawn(async move {
                        while replica.leader().leading && replica.read_barrier().await.is_err() {
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        }
                        drop(change);
                    });
                }
                Err(error)
            }
        }
    }

    /// A command on behalf of a session that the master numbers itself: it is not deduplicated.
    pub(crate) async fn propose_for(&self, session: SessionId, body: CommandBody) -> Result<Outcome> {
        self.propose_in(session, body, Hurry::Now).await
    }

    /// As `propose_for`, when it is wanted.
    pub(crate) async fn propose_in(&self, session: SessionId, body: CommandBody, hurry: Hurry) -> Result<Outcome> {
        let command = Command { session, sequence: 0, lowest_unacked: 0, body: Some(body) };
        let outcome = self.replica.propose_in(command, hurry).await?;
        match outcome.error {
            Some(error) => Err(error.into()),
            None => Ok(outcome),
        }
    }

    /// A command of the master itself; the attributes that it left.
    pub(crate) async fn internal(&self, body: CommandBody, deadline: Instant) -> Result<Option<Attr>> {
        let outcome = tokio::time::timeout_at(deadline, self.propose_for(0, body)).await;
        let outcome = outcome.map_err(|_| Error::new(ErrorKind::TimedOut, "the log does not answer in time"))?;
        Ok(outcome?.attr)
    }

    /// A change of the named inodes, their leases for the session along.
    async fn change(
        &self,
        numbered: Numbered,
        body: CommandBody,
        inodes: &[InodeId],
        deadline: Instant,
    ) -> Result<MutateReply> {
        let change = self.begin_change(numbered.session, inodes, &[], deadline).await?;
        self.make_change(numbered, body, inodes, change).await
    }

    /// A change that has been begun.
    async fn make_change(
        &self,
        numbered: Numbered,
        body: CommandBody,
        inodes: &[InodeId],
        change: Change,
    ) -> Result<MutateReply> {
        let session = numbered.session;
        let leases = self.begin_leases(session, inodes);
        let (outcome, change) = self.propose_marked(numbered.command(body), change).await?;
        let reply = self.answer(session, outcome, leases);
        drop(change);
        Ok(reply)
    }

    /// The master itself, session 0, caches nothing.
    fn begin_leases(&self, session: SessionId, inodes: &[InodeId]) -> Vec<Lease> {
        if session == 0 {
            return Vec::new();
        }
        inodes.iter().filter(|inode| **inode != 0).filter_map(|inode| self.begin_lease(session, *inode)).collect()
    }

    /// Keeps the leases that the state after the command allows.
    fn answer(&self, session: SessionId, outcome: Outcome, leases: Vec<Lease>) -> MutateReply {
        let keep = |lease: Lease| {
            let (attr, grant) = {
                let state = self.replica.state().read();
                (state.0.attr(lease.inode), state.0.grant(lease.inode))
            };
            match attr {
                Ok(attr) => self.keep_lease(session, Some(lease), &attr, grant.as_ref()),
                Err(_) => {
                    self.coherence.revoke(session, &lease);
                    None
                }
            }
        };
        let leases = leases.into_iter().filter_map(keep).collect();
        MutateReply { outcome: Some(outcome), leases, mode: DataMode::Unknown as i32 }
    }

    pub(crate) async fn create(&self, numbered: Numbered, create: Create, deadline: Instant) -> Result<MutateReply> {
        let session = numbered.session;
        let (parent, opens) = (create.parent, create.grant_write && create.kind() == FileKind::File);
        let change = self.begin_change(session, &[parent], &[], deadline).await?;
        let leases = self.begin_leases(session, &[parent]);
        let (outcome, change) = self.propose_marked(numbered.command(CommandBody::Create(create)), change).await?;
        let mut reply = self.answer(session, outcome, leases);
        let made = reply.outcome.as_ref().filter(|outcome| outcome.created).and_then(|outcome| outcome.attr);
        if let Some(made) = made {
            if opens {
                self.coherence.open(session, made.inode, true, deadline).await?;
            }
            // Somebody may have removed it already. It was made all the same: an error would have it made again.
            if let Ok((attr, lease)) = self.leased_attr(session, made.inode) {
                let grant = self.replica.state().read().0.grant(made.inode);
                reply.mode = crate::grants::data_mode(session, &attr, grant.as_ref()) as i32;
                reply.leases.extend(lease);
                if let Some(outcome) = &mut reply.outcome {
                    outcome.attr = Some(attr);
                }
            }
        }
        drop(change);
        Ok(reply)
    }

    pub(crate) async fn unlink(
        &self,
        numbered: Numbered,
        mut unlink: Unlink,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let session = numbered.session;
        // The master itself removes this inode or none.
        let wanted = if session == 0 { unlink.inode } else { 0 };
        for _ in 0..ATTEMPTS {
            unlink.inode = self.name_now(unlink.parent, &unlink.name)?.map_or(0, |child| child.inode);
            if wanted != 0 && unlink.inode != wanted {
                return Err(Error::new(ErrorKind::Stale, "the name has become another inode's").with("want", wanted));
            }
            let change = self.begin_change(session, &[unlink.parent], &[unlink.inode], deadline).await?;
            unlink.holders = self.coherence.openers(unlink.inode);
            let leases = self.begin_leases(session, &[unlink.parent]);
            let command = numbered.command(CommandBody::Unlink(unlink.clone()));
            let (outcome, change) = self.propose_marked(command, change).await?;
            if is_conflict(&outcome) {
                continue;
            }
            let reply = self.answer(session, outcome, leases);
            drop(change);
            return Ok(reply);
        }
        Err(Error::new(ErrorKind::Overloaded, "the name changes too often").with("inode", unlink.parent))
    }

    pub(crate) async fn rename(
        &self,
        numbered: Numbered,
        mut rename: Rename,
        deadline: Instant,
    ) -> Result<MutateReply> {
        let session = numbered.session;
        for _ in 0..ATTEMPTS {
            let inode = |found: Option<Attr>| found.map_or(0, |attr| attr.inode);
            rename.source = inode(self.name_now(rename.parent, &rename.name)?);
            rename.target = inode(self.name_now(rename.new_parent, &rename.new_name)?);
            let dirs = [rename.parent, rename.new_parent];
            let marked = [rename.parent, rename.new_parent, rename.source];
            let change = self.begin_change(session, &marked, &[rename.target], deadline).await?;
            rename.holders = self.coherence.openers(rename.target);
            let leases = self.begin_leases(session, &dirs);
            let command = numbered.command(CommandBody::Rename(rename.clone()));
            let (outcome, change) = self.propose_marked(command, change).await?;
            if is_conflict(&outcome) {
                continue;
            }
            let reply = self.answer(session, outcome, leases);
            drop(change);
            return Ok(reply);
        }
        Err(Error::new(ErrorKind::Overloaded, "the names change too often").with("inode", rename.parent))
    }

    async fn set_attr(&self, numbered: Numbered, set: SetAttr, deadline: Instant) -> Result<MutateReply> {
        if set.size.is_some() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the size of a file is set by TruncateFile"));
        }
        let inode = set.inode;
        let mtime = if set.mtime_now { Some(Time::now()) } else { set.mtime };
        let change = self.begin_change(numbered.session, &[inode], &[], deadline).await?;
        let _lock = match mtime {
            Some(_) => Some(self.content_locks.lock(inode, deadline).await?),
            None => None,
        };
        if let Some(mtime) = mtime {
            self.set_live_mtime(inode, mtime, deadline).await?;
        }
        self.make_change(numbered, CommandBody::SetAttr(set), &[inode], change).await
    }

    /// Sets the size of a file.
    pub(crate) async fn truncate_file(&self, request: TruncateFileRequest, deadline: Instant) -> Result<Attr> {
        let TruncateFileRequest { session, inode, size, kill_privileges, worker, .. } = request;
        self.sessions.check(session)?;
        let attr = self.attr_now(inode)?;
        match attr.kind() {
            FileKind::File => {}
            FileKind::Directory => {
                return Err(Error::new(ErrorKind::IsADirectory, "a directory has no size to set").with("inode", inode));
            }
            _ => {
                return Err(
                    Error::new(ErrorKind::InvalidArgument, "only a file has a size to set").with("inode", inode)
                );
            }
        }
        let write = Want { write: true, ..Want::default() };
        permission::check(self, session, request.caller.as_ref(), &attr, write)?;
        let _pass = self.pass_to_write(inode, deadline).await?;
        let _change = self.begin_change(session, &[inode], &[], deadline).await?;
        self.truncate(inode, size, kill_privileges, worker, deadline).await
    }
}

fn is_conflict(outcome: &Outcome) -> bool {
    outcome.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Conflict.code())
}
