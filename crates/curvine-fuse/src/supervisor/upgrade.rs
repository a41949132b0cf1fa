//! The replacement of a running mount by another version of this program.
//!
//! The new version comes to the desk of the supervisor, a socket that is named after the connection with the kernel, so that it is
//! found from the path of the mount alone. It is shown the config and the format of the table, and only if it can use both does it
//! hand in its own executable. Always: only root and the user of the supervisor are heard.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use curvine_config::ClusterConf;
use curvine_fuse_abi::mount::FILESYSTEM_TYPE;
use curvine_fuse_abi::{Link, mountinfo};
use curvine_types::{Error, ErrorKind, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::warn;

use super::message::{read, send};
use super::serve::read_conf;
use crate::handover::{VERSION, check_version};

/// How long the other side may take to say the next thing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an upgrade may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests that wait for the supervisor.
const BACKLOG: i32 = 4;

/// From the supervisor, with the config.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    /// Of the table.
    format: u64,
    version: String,
}

/// From the new version, with its executable.
#[derive(Debug, Serialize, Deserialize)]
struct Go {
    version: String,
}

/// The last word.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    done: bool,
    text: String,
}

/// Somebody who wants to replace us.
#[derive(Debug)]
pub struct Request {
    pub link: Link,
    pub executable: OwnedFd,
    pub version: String,
}

fn name(minor: u32) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new_abstract_name(format!("curvine-mount-{minor}").as_bytes())
        .map_err(|errno| Error::from_io(errno.into(), "cannot name the socket of the supervisor"))
}

/// Opens the desk of the connection with this number. Requests come through `requests`; the desk closes with the process.
pub fn open_desk(minor: u32, conf: &OwnedFd, requests: mpsc::UnboundedSender<Request>) -> Result<()> {
    let failed = |errno: rustix::io::Errno| {
        Error::from_io(errno.into(), "cannot open the socket through which this mount can be upgraded")
    };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(failed)?;
    rustix::net::bind(&socket, &name(minor)?).map_err(failed)?;
    rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
    let conf = conf.try_clone().map_err(|source| Error::from_io(source, "cannot duplicate a descriptor"))?;
    std::thread::spawn(move || {
        while let Ok(visitor) = rustix::net::accept_with(&socket, SocketFlags::CLOEXEC) {
            match receive(Link::from(visitor), &conf) {
                Ok(request) => {
                    if requests.send(request).is_err() {
                        return;
                    }
                }
                Err(error) => warn!(%error, "an upgrade was asked for and not begun"),
            }
        }
    });
    Ok(())
}

fn receive(link: Link, conf: &OwnedFd) -> Result<Request> {
    check_peer(&link)?;
    send(&link, &Offer { format: VERSION, version: env!("CARGO_PKG_VERSION").into() }, &[conf.as_fd()])?;
    let (Go { version }, mut descriptors) = next(&link, PATIENCE)?;
    let executable = descriptors.pop().ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "no executable came"))?;
    Ok(Request { link, executable, version })
}

impl Request {
    /// The last word to the new version.
    pub fn answer(link: &Link, outcome: &Result<String>) {
        let answer = match outcome {
            Ok(text) => Answer { done: true, text: text.clone() },
            Err(error) => Answer { done: false, text: error.to_string() },
        };
        if let Err(error) = send(link, &answer, &[]) {
            warn!(%error, "whoever asked for the upgrade has not waited");
        }
    }
}

/// Has the supervisor of the mount on this path replaced by the program that calls this. What the supervisor said when it was done.
pub fn upgrade(path: &Path) -> Result<String> {
    let here = |error: Error| error.with("path", path.display());
    let path = std::path::absolute(path).map_err(|source| here(Error::from_io(source, "not a path")))?;
    let path = path.canonicalize().unwrap_or(path);
    let mount = mountinfo::mounts_on(&path)?.into_iter().rfind(|mount| mount.kind == FILESYSTEM_TYPE);
    let mount = mount.ok_or_else(|| here(Error::new(ErrorKind::NotFound, "nothing of ours is mounted there")))?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::from_io(errno.into(), "cannot make a socket"))?;
    rustix::net::connect(&socket, &name(mount.minor)?).map_err(|errno| {
        here(Error::from_io(errno.into(), "no supervisor answers for this mount; was it mounted in another container?"))
    })?;
    let link = Link::from(socket);
    check_peer(&link)?;
    let (Offer { format, version }, descriptors) = next(&link, PATIENCE)?;
    check_version(format).map_err(|error| error.with("mounted_by", &version))?;
    let conf: Option<ClusterConf> = descriptors.into_iter().next().map(read_conf).transpose().map_err(|error| {
        Error::new(
            ErrorKind::Config,
            "this version does not understand the config of the mount; unmount and mount again",
        )
        .with("mounted_by", &version)
        .caused_by(error)
    })?;
    if conf.is_none() {
        return Err(Error::new(ErrorKind::Internal, "the supervisor did not show its config"));
    }
    let executable = std::fs::File::open("/proc/self/exe")
        .map_err(|source| Error::from_io(source, "cannot open the executable of this program"))?;
    send(&link, &Go { version: env!("CARGO_PKG_VERSION").into() }, &[executable.as_fd()])?;
    let (Answer { done, text }, _) = next(&link, UPGRADE_TIMEOUT)?;
    if done { Ok(text) } else { Err(here(Error::new(ErrorKind::Unavailable, text))) }
}

fn check_peer(link: &Link) -> Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(link.as_fd())
        .map_err(|errno| Error::from_io(errno.into(), "cannot tell who is at the other end"))?;
    let allowed = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    if allowed {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotPermitted, "only root and the user of the mount may upgrade it")
        .with("uid", peer.uid.as_raw()))
}

fn next<M: serde::de::DeserializeOwned>(link: &Link, patience: Duration) -> Result<(M, Vec<OwnedFd>)> {
    let end = std::time::Instant::now() + patience;
    while !link.wait_readable(end.saturating_duration_since(std::time::Instant::now()))? {
        if std::time::Instant::now() >= end {
            return Err(Error::new(ErrorKind::TimedOut, "the other side did not answer in time"));
        }
    }
    let received = link.receive()?;
    let received = received.ok_or_else(|| Error::new(ErrorKind::ConnectionLost, "the other side has hung up"))?;
    Ok((read(&received.bytes)?, received.descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_to_the_desk_is_shown_the_config_and_hands_in_its_executable() {
        // No connection has such a number: device numbers are small.
        let minor = 1 << 24 | std::process::id();
        let conf = super::super::pass_on(&ClusterConf::default()).unwrap();
        let (sender, mut requests) = mpsc::unbounded_channel();
        open_desk(minor, &conf, sender).unwrap();
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::connect(&socket, &name(minor).unwrap()).unwrap();
        let link = Link::from(socket);
        let (offer, descriptors) = next::<Offer>(&link, PATIENCE).unwrap();
        assert_eq!(offer.format, VERSION);
        read_conf(descriptors.into_iter().next().unwrap()).unwrap();
        send(&link, &Go { version: "next".into() }, &[conf.as_fd()]).unwrap();
        let request = requests.blocking_recv().unwrap();
        assert_eq!(request.version, "next");
        Request::answer(&request.link, &Err(Error::new(ErrorKind::Busy, "not now")));
        let (answer, _) = next::<Answer>(&link, PATIENCE).unwrap();
        assert!(!answer.done && answer.text.contains("not now"));
    }
}
