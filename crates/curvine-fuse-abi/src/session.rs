//! A mounted session: the device, what INIT agreed upon, and the mount point.

use std::path::Path;
use std::time::{Duration, Instant};

use curvine_types::{Error, ErrorKind, Result};
use tracing::debug;

use crate::connection::Connection;
use crate::device::{Device, ReadResult};
use crate::init::{InitOptions, Negotiated, negotiate};
use crate::kernel::{InitOut, MAJOR};
use crate::mount::{MountOptions, MountPoint, mount, prepare};
use crate::request::{Operation, parse};

/// How long the kernel may take to send INIT after it has mounted.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A file system that the kernel sends requests to.
#[derive(Debug)]
pub struct Session {
    pub device: Device,
    pub negotiated: Negotiated,
    pub mount_point: MountPoint,
    pub connection: Connection,
}

impl Session {
    /// Recovers the mount point, mounts and negotiates. Nobody is served until the caller reads the device.
    pub fn mount(path: &Path, options: &MountOptions, init: &InitOptions) -> Result<Self> {
        let path = prepare(path)?;
        let device = Device::open()?;
        let mount_point = mount(&device, &path, options)?;
        let negotiated = match handshake(&device, init) {
            Ok(negotiated) => negotiated,
            Err(error) => {
                let _ = mount_point.force();
                return Err(error.with("path", path.display()));
            }
        };
        let connection = Connection::of(&mount_point);
        debug!(path = %path.display(), minor = negotiated.minor, flags = format!("{:#x}", negotiated.flags), "mounted");
        Ok(Self { device, negotiated, mount_point, connection })
    }
}

fn handshake(device: &Device, options: &InitOptions) -> Result<Negotiated> {
    let end = Instant::now() + INIT_TIMEOUT;
    let mut buffer = Vec::with_capacity(Device::buffer_size(options.max_write));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "the kernel did not send INIT"));
        }
        if !device.wait_readable(left)? {
            continue;
        }
        buffer.clear();
        match device.read(&mut buffer)? {
            ReadResult::Request => {}
            ReadResult::Again => continue,
            ReadResult::Ended => return Err(Error::new(ErrorKind::Unavailable, "unmounted before INIT")),
        }
        let request = parse(&buffer)?;
        let Operation::Init(offer) = request.operation else {
            return Err(Error::new(ErrorKind::Internal, "the kernel's first request is not INIT"));
        };
        if offer.major > MAJOR {
            // It will send INIT again in our version.
            device.reply_with(request.header.unique, &InitOut { major: MAJOR, ..InitOut::default() })?;
            continue;
        }
        let (answer, negotiated) = match negotiate(&offer, options) {
            Ok(agreed) => agreed,
            Err(error) => {
                device.reply_error(request.header.unique, libc::EPROTO)?;
                return Err(error);
            }
        };
        device.reply_with(request.header.unique, &answer)?;
        return Ok(negotiated);
    }
}
