//! Becoming another version of this program, and going back if that cannot serve.
//!
//! Always: the kernel's session, the table and the kept files go along; the old version's executable is kept until the new one has
//! proven itself.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use curvine_fuse_abi::{Connection, MountPoint};
use curvine_types::{Error, ErrorKind};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::carry::{self, Carried};
use super::message::{ToChild, ToSupervisor};
use super::session::{Mounted, spare_of};
use super::upgrade::Request;
use super::{End, Supervisor};
use crate::handover::{Inbox, Table};

/// How long the serving process of a new version must have served before the old one is given up.
const PROVEN: Duration = Duration::from_millis(300);
/// How long a serving process may take to make room.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

impl Supervisor {
    /// A new version that has served for a moment is the version from now on.
    pub(super) fn confirm_upgrade(&mut self) {
        let since = self.child.as_ref().and_then(|child| child.serving_since);
        if since.is_some_and(|since| since.elapsed() >= PROVEN)
            && let Some((link, _)) = self.requester.take()
        {
            let text = format!("version {} serves {} now", env!("CARGO_PKG_VERSION"), self.path.display());
            Request::answer(&link, &Ok(text));
        }
    }

    /// What another version of this program was until now.
    pub(super) fn inherit(&mut self, carried: Carried) {
        let Carried { place, children, conf, table, devices, inbox, kept, requester, failed } = carried;
        self.kept = kept.into_iter().collect();
        let mount_point = MountPoint::from(place);
        (self.path, self.children, self.conf_file) = (mount_point.path().to_path_buf(), children, conf);
        let connection = Connection::of(&mount_point);
        let table = Table::open(table);
        let has_resend =
            table.as_ref().is_ok_and(|table| table.negotiated().is_some_and(|negotiated| negotiated.has_resend()));
        let spare = spare_of(&devices);
        let inbox = inbox.map(Inbox::open).transpose();
        let inbox = inbox.unwrap_or_else(|error| {
            warn!(%error, "should the serving process have left requests, they are lost");
            None
        });
        self.session = Some(Mounted { devices, spare, mount_point, connection, has_resend, inbox });
        match table {
            Ok(table) => self.table = Arc::new(table),
            Err(error) => {
                error!(%error, "open files cannot be taken over; mounting anew");
                self.clean_up();
                self.replace = true;
            }
        }
        self.open_desk();
        match (requester, failed) {
            (Some((link, _)), Some(failed)) => {
                let message = "the serving process of the new version fails; the old version goes on";
                Request::answer(&link, &Err(Error::new(ErrorKind::Unavailable, message).with("why", failed)));
            }
            (requester, _) => self.requester = requester,
        }
        info!(path = %self.path.display(), version = env!("CARGO_PKG_VERSION"), "supervising");
    }

    /// Becomes another version, unless that cannot be.
    pub(super) async fn upgrade(&mut self, request: Request) -> Option<End> {
        let Request { link, executable, version } = request;
        if self.session.is_none() {
            Request::answer(&link, &Err(Error::new(ErrorKind::Busy, "not mounted yet; try again")));
            return None;
        }
        let own = match File::open("/proc/self/exe") {
            Ok(own) => OwnedFd::from(own),
            Err(source) => {
                let error = Error::from_io(source, "cannot open the executable to go back to");
                Request::answer(&link, &Err(error));
                return None;
            }
        };
        info!(from = env!("CARGO_PKG_VERSION"), to = version, "upgrading");
        self.make_room().await;
        self.requester = Some((link, Some(own)));
        let error = self.become_other(&executable, None);
        // Still here: the old version goes on.
        error!(%error, "cannot upgrade");
        if let Some((link, _)) = self.requester.take() {
            Request::answer(&link, &Err(error));
        }
        self.start_successor()
    }

    /// From a process that makes room.
    pub(super) fn hear_last(&mut self, number: u64, message: Option<(ToSupervisor, Vec<OwnedFd>)>) {
        match message {
            Some((ToSupervisor::Keep { id }, descriptors)) => {
                self.kept.extend(descriptors.into_iter().next().map(|file| (id, file)));
            }
            Some((ToSupervisor::Forget { id }, _)) => {
                self.kept.remove(&id);
            }
            Some(_) => {}
            None => self.child.iter_mut().filter(|child| child.number == number).for_each(|child| child.silent = true),
        }
    }

    /// Has the serving process end, and the kernel keep what it leaves.
    pub(super) async fn make_room(&mut self) {
        self.end_stand_in();
        self.tell(&ToChild::HandOver);
        let end = Instant::now() + HAND_OVER_TIMEOUT;
        while let Some(child) = self.child.as_mut()
            && (child.ended().is_none() || !child.silent)
        {
            if Instant::now() >= end {
                child.kill();
            }
            // It may still say which files the kernel has.
            let heard = tokio::time::timeout(Duration::from_millis(10), self.heard.recv()).await;
            if let Ok(Some((number, message))) = heard {
                self.hear_last(number, message);
            }
        }
        (self.child, self.restart_at) = (None, None);
        self.session.iter().for_each(Mounted::resend);
    }

    /// The version that was upgraded to cannot serve: the one before takes over again.
    pub(super) fn go_back(&mut self, why: &str) {
        let Some((_, fallback)) = &mut self.requester else { return };
        let Some(executable) = fallback.take() else { return };
        self.end_stand_in();
        error!(why, "the new version cannot serve; going back to the old one");
        let error = self.become_other(&executable, Some(why.to_string()));
        error!(%error, "cannot go back; trying on");
    }

    pub(super) fn become_other(&mut self, executable: &OwnedFd, failed: Option<String>) -> Error {
        let duplicated = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|source| Error::from_io(source, "cannot duplicate a descriptor"))
        };
        let Some(session) = &mut self.session else { return Error::new(ErrorKind::Internal, "nothing is mounted") };
        let descriptors = duplicated(self.conf_file.as_fd()).and_then(|conf| {
            let inbox = session.inbox.as_ref().map(|inbox| duplicated(inbox.descriptor())).transpose()?;
            Ok((conf, duplicated(self.table.descriptor())?, inbox))
        });
        let (conf, table, inbox) = match descriptors {
            Ok(descriptors) => descriptors,
            Err(error) => return error,
        };
        let carried = Carried {
            place: session.place(),
            children: self.children,
            conf,
            table,
            devices: std::mem::take(&mut session.devices),
            inbox,
            kept: self.kept.drain().collect(),
            requester: self.requester.take(),
            failed,
        };
        let error = carry::become_other(executable, &self.arguments.resume, &carried);
        session.devices = carried.devices;
        self.kept = carried.kept.into_iter().collect();
        self.requester = carried.requester;
        error
    }
}
