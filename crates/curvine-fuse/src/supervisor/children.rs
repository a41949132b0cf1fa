//! Serving processes: starting them, hearing them, and noticing that one has died.
//!
//! Always: a successor is started only after its predecessor is gone; what that said last has been heard by then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::child::{self, Child};
use super::message::{ToChild, ToSupervisor, send};
use super::session::Mounted;
use super::stand_in::{Duty, StandIn};
use super::{End, Supervisor};
use crate::handover::Table;
use crate::stage::table_limits;

/// How often the serving process of a new version may fail before the old one takes over again.
const UPGRADE_ATTEMPTS: u32 = 3;
/// The least time that a successor is given to begin; as long as applications wait, if that is longer.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Descriptors in one message.
const KEPT_AT_ONCE: usize = 128;

impl Supervisor {
    /// Starts the process that connects first; then it is mounted.
    pub(super) fn start_child(&mut self) -> Result<()> {
        self.children += 1;
        let child = Child::start(self.children, &self.arguments.child, &self.events)?;
        let mounted = self.session.as_ref().map(Mounted::place);
        let mut descriptors = vec![self.conf_file.as_fd(), self.table.descriptor()];
        descriptors.extend(self.session.iter().flat_map(|session| session.descriptors()));
        let begin = ToChild::Begin { replace: self.replace, mounted, kept: self.kept.len() };
        let told = send(&child.link, &begin, &descriptors).and_then(|()| self.send_kept(&child));
        if let Err(error) = told {
            // It has died already, which is noticed like any other death.
            warn!(%error, "cannot tell the new serving process what to do");
        }
        self.child = Some(child);
        Ok(())
    }

    pub(super) fn send_kept(&self, child: &Child) -> Result<()> {
        let kept: Vec<(i32, BorrowedFd<'_>)> = self.kept.iter().map(|(id, file)| (*id, file.as_fd())).collect();
        kept.chunks(KEPT_AT_ONCE).try_for_each(|part| {
            let (ids, files): (Vec<i32>, Vec<BorrowedFd<'_>>) = part.iter().copied().unzip();
            send(&child.link, &ToChild::Kept { ids }, &files)
        })
    }

    pub(super) fn start_successor(&mut self) -> Option<End> {
        self.end_stand_in();
        if let Err(error) = self.start_child() {
            error!(%error, "cannot replace the serving process; trying again");
            self.schedule(None);
        }
        None
    }

    pub(super) async fn hear(&mut self, number: u64, message: Option<(ToSupervisor, Vec<OwnedFd>)>) -> Option<End> {
        let child = self.child.as_mut().filter(|child| child.number == number)?;
        let (message, descriptors) = match message {
            Some((message, descriptors)) => (Some(message), descriptors),
            None => {
                child.silent = true;
                (None, Vec::new())
            }
        };
        match message {
            Some(ToSupervisor::Keep { id }) => {
                self.kept.extend(descriptors.into_iter().next().map(|file| (id, file)));
                None
            }
            Some(ToSupervisor::Forget { id }) => {
                self.kept.remove(&id);
                None
            }
            Some(ToSupervisor::Known(known)) => {
                self.known = Some(known);
                None
            }
            Some(ToSupervisor::Connected) => match self.mount().await {
                Ok(()) => None,
                Err(error) => {
                    self.tell(&ToChild::Stop);
                    Some(End::Failed(error))
                }
            },
            Some(ToSupervisor::Serving) => {
                let child = self.child.as_mut()?;
                child.serving_since = Some(std::time::Instant::now());
                self.since.clear();
                let took = child.started.elapsed();
                info!(path = %self.path.display(), process = %child.pid.as_raw_nonzero(), ?took, "mounted");
                None
            }
            Some(ToSupervisor::Failed { kind, text }) => {
                self.failure = Some(Error::new(ErrorKind::from_code(kind), text));
                None
            }
            Some(ToSupervisor::Damaged { text }) => self.begin_anew(&text),
            Some(ToSupervisor::Stopped) => Some(End::Stopped),
            None => self.look(),
        }
    }

    /// Notices that the serving process has died, and has it replaced.
    pub(super) fn look(&mut self) -> Option<End> {
        self.confirm_upgrade();
        child::reap_orphans(self.child.as_ref().map(|child| child.pid));
        let limit = self.patience().max(START_LIMIT);
        if let Some(child) = self.child.as_mut().filter(|child| child.serving_since.is_none())
            && self.session.is_some()
            && child.started.elapsed() >= limit
            && child.ended().is_none()
        {
            error!(?limit, "the serving process does not begin to serve; killing it");
            child.kill();
        }
        let how = self.child.as_mut()?.ended()?;
        // What it said last counts: which files the kernel has.
        let child = self.child.take_if(|child| child.silent)?;
        let failure = self.failure.take();
        let Some(session) = &self.session else {
            return Some(End::Failed(failure.unwrap_or_else(|| {
                Error::new(ErrorKind::Internal, "the serving process died before anything was mounted").with("end", how)
            })));
        };
        let (handles, requests) = self.table.used();
        warn!(process = %child.pid.as_raw_nonzero(), %how, handles, requests, "the serving process has died");
        if !session.keeps_requests() {
            // Nobody can answer what it had read.
            return self.begin_anew("nobody knows the requests that the dead process had read");
        }
        // It is gone: whatever it had read is nobody's. Until a successor reads them, requests can be killed, too.
        session.resend();
        if let Some(failure) = &failure {
            warn!(error = %failure, "why it ended");
        }
        self.schedule(child.serving_since);
        if self.restarts.failures() >= UPGRADE_ATTEMPTS {
            self.go_back(&failure.map_or(how, |failure| failure.to_string()));
        }
        None
    }

    pub(super) fn schedule(&mut self, served: Option<std::time::Instant>) {
        let verdict = self.restarts.died(served);
        if let Some(failures) = verdict.hopeless_after {
            let pause = verdict.pause;
            error!(
                failures,
                ?pause,
                "serving processes die as soon as they start; applications wait. See the log above for why"
            );
        }
        self.restart_at = Some(Instant::now() + verdict.pause);
        if !verdict.pause.is_zero() {
            self.begin_stand_in();
        }
    }

    /// How long applications wait for a serving process.
    fn patience(&self) -> Duration {
        self.conf.client.rpc_timeout_ms
    }

    /// Somebody answers until the next process comes.
    fn begin_stand_in(&mut self) {
        if self.stand_in.is_some() {
            return;
        }
        // What it reads must come again for the successor.
        let session = self.session.as_ref().filter(|session| session.has_resend);
        let Some(device) = session.and_then(|session| session.spare.clone()) else { return };
        let duty = Duty {
            device,
            table: self.table.clone(),
            max_write: self.table.negotiated().map_or(self.options.max_write, |negotiated| negotiated.max_write),
            limit: self.patience(),
            grace: self.options.interrupt_grace,
            most: table_limits(&self.options).requests,
            known: self.known.clone(),
            since: std::mem::take(&mut self.since),
        };
        match StandIn::start(duty) {
            Ok(stand_in) => self.stand_in = Some(stand_in),
            Err(error) => warn!(%error, "applications wait for the next serving process without a limit"),
        }
    }

    /// Nobody answers any more, and what was not answered comes again.
    pub(super) fn end_stand_in(&mut self) {
        let Some(stand_in) = self.stand_in.take() else { return };
        self.since = stand_in.end();
        self.session.iter().for_each(Mounted::resend);
    }

    /// What is open cannot be taken over: those who have it open get errors, and the path is served anew.
    pub(super) fn begin_anew(&mut self, why: &str) -> Option<End> {
        error!(why, "open files cannot be taken over; mounting anew");
        self.end_stand_in();
        if let Some(child) = self.child.take() {
            child.kill();
        }
        self.clean_up();
        self.kept.clear();
        let anew = Table::create(table_limits(&self.options)).and_then(|table| {
            self.table = Arc::new(table);
            self.replace = true;
            self.start_child()
        });
        anew.err().map(End::Failed)
    }

    pub(super) fn tell(&self, message: &ToChild) {
        if let Some(child) = &self.child
            && let Err(error) = send(&child.link, message, &[])
        {
            warn!(%error, "cannot tell the serving process");
        }
    }
}
