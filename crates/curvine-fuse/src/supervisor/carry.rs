//! A supervisor that becomes another version of itself: it keeps its process and everything it owns, and leaves word of it on the
//! standard input of what it becomes.
//!
//! Always: nothing is lost if that fails; the caller goes on as before.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use curvine_fuse_abi::{Device, Link};
use curvine_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::message::{Place, read, send};

/// Descriptors in one message.
const AT_ONCE: usize = 128;
/// Most files that are carried over in one message; a node has fewer open by passthrough at once.
const KEPT_MAX: usize = 8000;
/// What was left on standard input is there already.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is carried over.
#[derive(Debug)]
pub struct Carried {
    pub place: Place,
    pub children: u64,
    pub conf: OwnedFd,
    pub table: OwnedFd,
    pub devices: Vec<Device>,
    /// Requests that are kept.
    pub inbox: Option<OwnedFd>,
    /// Files that the kernel has, by the numbers of their registrations.
    pub kept: Vec<(i32, OwnedFd)>,
    /// Who waits for the end of the upgrade, and the executable to go back to should it fail.
    pub requester: Option<(Link, Option<OwnedFd>)>,
    /// Why the version that was tried in between failed.
    pub failed: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    place: Place,
    children: u64,
    requester: bool,
    fallback: bool,
    failed: Option<String>,
    devices: usize,
    kept: Vec<i32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct More {}

/// Becomes `executable`, called with `arguments`. Returns only if that fails.
pub fn become_other(executable: &OwnedFd, arguments: &[OsString], carried: &Carried) -> Error {
    match prepare(carried) {
        Ok(input) => {
            let path = format!("/proc/self/fd/{}", executable.as_raw_fd());
            let failed = Command::new(path).arg0("curvine").args(arguments).stdin(Stdio::from(input)).exec();
            Error::from_io(failed, "cannot start the other version")
        }
        Err(error) => error,
    }
}

fn prepare(carried: &Carried) -> Result<OwnedFd> {
    let (ours, theirs) = Link::pair()?;
    let fallback = carried.requester.as_ref().and_then(|(_, fallback)| fallback.as_ref());
    let state = State {
        place: carried.place.clone(),
        children: carried.children,
        requester: carried.requester.is_some(),
        fallback: fallback.is_some(),
        failed: carried.failed.clone(),
        devices: carried.devices.len(),
        kept: carried.kept.iter().map(|(id, _)| *id).take(KEPT_MAX).collect(),
    };
    let mut descriptors = vec![carried.conf.as_fd(), carried.table.as_fd()];
    descriptors.extend(carried.requester.iter().map(|(link, _)| link.as_fd()));
    descriptors.extend(fallback.map(AsFd::as_fd));
    send(&ours, &state, &descriptors)?;
    let devices = carried.devices.iter().map(AsFd::as_fd);
    let kept = carried.kept.iter().map(|(_, file)| file.as_fd()).take(KEPT_MAX);
    // The last one: a version that does not know it passes it by.
    let all: Vec<BorrowedFd<'_>> = devices.chain(kept).chain(carried.inbox.iter().map(AsFd::as_fd)).collect();
    for part in all.chunks(AT_ONCE) {
        send(&ours, &More {}, part)?;
    }
    Ok(theirs.into())
}

/// What the version before has left on standard input.
pub fn take() -> Result<Carried> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    receive(&Link::from(stdin.map_err(|source| Error::from_io(source, "nothing was carried over"))?))
}

fn receive(link: &Link) -> Result<Carried> {
    let missing = || Error::new(ErrorKind::InvalidArgument, "nothing was carried over; --resume is for upgrades only");
    let next = || -> Result<_> {
        if !link.wait_readable(PATIENCE)? {
            return Err(missing());
        }
        link.receive()?.ok_or_else(missing)
    };
    let first = next()?;
    let state: State = read(&first.bytes)?;
    let mut descriptors = first.descriptors.into_iter();
    let mut one = || descriptors.next().ok_or_else(missing);
    let (conf, table) = (one()?, one()?);
    let requester = match state.requester {
        true => Some((Link::from(one()?), if state.fallback { Some(one()?) } else { None })),
        false => None,
    };
    let count = state.devices + state.kept.len() + usize::from(state.place.has_inbox());
    let mut all = Vec::with_capacity(count.min(4096));
    while all.len() < count {
        let more = next()?;
        read::<More>(&more.bytes)?;
        all.extend(more.descriptors);
    }
    let inbox = if state.place.has_inbox() { all.pop() } else { None };
    let files = all.split_off(state.devices);
    let devices = all.into_iter().map(Device::from).collect();
    let kept = state.kept.into_iter().zip(files).collect();
    let State { place, children, failed, .. } = state;
    Ok(Carried { place, children, conf, table, devices, inbox, kept, requester, failed })
}

#[cfg(test)]
mod tests {
    use curvine_fuse_abi::MountPoint;

    use super::*;

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn everything_arrives_on_the_other_side() {
        let (requester, _other) = Link::pair().unwrap();
        let carried = Carried {
            place: Place::new(&MountPoint::of("/mnt/x".into(), 5), true),
            children: 3,
            conf: file(),
            table: file(),
            devices: (0..30).map(|_| Device::from(file())).collect(),
            inbox: Some(file()),
            kept: (0..300).map(|id| (id, file())).collect(),
            requester: Some((requester, Some(file()))),
            failed: Some("why".into()),
        };
        let arrived = receive(&Link::from(prepare(&carried).unwrap())).unwrap();
        assert_eq!((arrived.place, arrived.children, arrived.devices.len()), (carried.place, 3, 30));
        assert!(arrived.inbox.is_some());
        assert!(arrived.kept.iter().map(|(id, _)| *id).eq(0..300));
        assert!(arrived.requester.is_some_and(|(_, fallback)| fallback.is_some()));
        assert_eq!(arrived.failed.as_deref(), Some("why"));
    }

    #[test]
    fn a_standard_input_without_anything_is_an_error() {
        let (one, other) = Link::pair().unwrap();
        drop(one);
        assert_eq!(receive(&other).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
