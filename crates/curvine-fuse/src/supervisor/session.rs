//! The session with the kernel: its beginning, its descriptors, its end.
//!
//! Always: it lives as long as its supervisor, whichever process serves it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use curvine_fuse_abi::{Connection, Device, MountPoint, Session};
use curvine_types::{Error, ErrorKind, Result};
use tracing::warn;

use super::message::{Place, ToChild, send};
use super::{Supervisor, upgrade};
use crate::FuseOptions;
use crate::handover::Inbox;
use crate::mount::{init_options, mount_options};
use crate::stage::{readers_of, table_limits};

/// A session, mounted.
pub(super) struct Mounted {
    pub devices: Vec<Device>,
    /// The first of them once more, for who answers while no process serves: then there may be no room for another descriptor.
    pub spare: Option<Arc<Device>>,
    pub mount_point: MountPoint,
    pub connection: Connection,
    pub has_resend: bool,
    /// Where serving processes keep what they have read, if the kernel does not send it again.
    pub inbox: Option<Inbox>,
}

pub(super) fn spare_of(devices: &[Device]) -> Option<Arc<Device>> {
    match devices.first()?.as_fd().try_clone_to_owned() {
        Ok(spare) => Some(Arc::new(Device::from(spare))),
        Err(error) => {
            warn!(%error, "while no process serves, nobody will answer");
            None
        }
    }
}

/// Room for all that may be in flight, and for what the readers hold.
fn new_inbox(options: &FuseOptions, max_write: u32) -> Option<Inbox> {
    let places = table_limits(options).requests + options.threads.max(1);
    let inbox = Inbox::create(places, max_write);
    inbox.inspect_err(|error| warn!(%error, "should the serving process die, open files end with it")).ok()
}

impl Mounted {
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.devices.iter().map(AsFd::as_fd).chain(self.inbox.iter().map(Inbox::descriptor)).collect()
    }

    pub(super) fn place(&self) -> Place {
        Place::new(&self.mount_point, self.inbox.is_some())
    }

    /// Whether a successor learns of what a dead process had read.
    pub(super) fn keeps_requests(&self) -> bool {
        self.has_resend || self.inbox.is_some()
    }

    /// Has the kernel send again what nobody has answered, if it does that.
    pub(super) fn resend(&self) {
        if self.has_resend
            && let Err(error) = self.devices[0].resend()
        {
            warn!(%error, "the kernel does not send unanswered requests again");
        }
    }
}

impl Supervisor {
    pub(super) async fn mount(&mut self) -> Result<()> {
        let (path, mount, init) = (self.path.clone(), mount_options(&self.options), init_options(&self.options));
        // Looking at a mount point that somebody hangs on takes time.
        let mounting = tokio::task::spawn_blocking(move || Session::mount(&path, &mount, &init));
        let session =
            mounting.await.map_err(|error| Error::new(ErrorKind::Internal, "mounting panicked").caused_by(error))??;
        let Session { device, negotiated, mount_point, connection } = session;
        self.table.set_negotiated(&negotiated);
        let devices = match readers_of(device, &connection, &self.options) {
            Ok(devices) => devices,
            Err(error) => {
                let _ = mount_point.force();
                return Err(error);
            }
        };
        let has_resend = negotiated.has_resend();
        let spare = spare_of(&devices);
        let inbox = if has_resend { None } else { new_inbox(&self.options, negotiated.max_write) };
        self.session = Some(Mounted { devices, spare, mount_point, connection, has_resend, inbox });
        self.open_desk();
        let Some(session) = &self.session else { return Ok(()) };
        let Some(child) = &self.child else { return Ok(()) };
        if let Err(error) = send(&child.link, &ToChild::Serve(session.place()), &session.descriptors()) {
            // It died; its successor takes the mount over.
            warn!(%error, "the serving process does not hear that it is mounted");
        }
        Ok(())
    }

    /// Without it the mount works, but cannot be upgraded.
    pub(super) fn open_desk(&self) {
        let Some(session) = &self.session else { return };
        let minor = session.mount_point.device_minor();
        if let Err(error) = upgrade::open_desk(minor, &self.conf_file, self.desk.clone()) {
            warn!(%error, "this mount cannot be upgraded while it runs");
        }
    }

    /// Nothing of the session is left.
    pub(super) fn clean_up(&mut self) {
        self.end_stand_in();
        let Some(session) = self.session.take() else { return };
        if let Err(error) = session.mount_point.detach() {
            warn!(%error, "cannot unmount");
        }
        // Whoever still waits for an answer gets an error; without the right to do so it ends with the descriptors.
        session.connection.abort();
    }
}
