//! `curvine mount`, also called `curvine-fuse`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use curvine_client::FileSystem;
use curvine_config::{ClusterConf, Role};
use curvine_fuse::{FuseOptions, KernelEvents, Mount};
use curvine_types::{Error, ErrorKind, Result};

use super::{GRACE, prepare};
use crate::args::{Common, MountArgs};
use crate::signals::Stop;
use crate::{names, wiring};

/// How long a mount that is on the path may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Mounts, and runs until a signal or until somebody unmounts.
pub async fn run(common: &Common, arguments: MountArgs) -> Result<()> {
    let mut conf = prepare(common, Role::Client)?;
    if let Some(path) = arguments.mnt_path {
        conf.fuse.mnt_path = path;
    }
    if let Some(path) = arguments.fs_path {
        conf.fuse.fs_path = path;
    }
    conf.fuse.fuse_opts.extend(arguments.options);
    conf.fuse.passthrough &= !arguments.no_passthrough;
    conf.validate()?;
    supervised(conf, common).await
}

/// Mounts at `[fuse] mnt_path` with a config that is there already, and runs until a signal or until somebody unmounts.
pub async fn supervised(conf: ClusterConf, _common: &Common) -> Result<()> {
    let stop = Stop::listen()?;
    let mounted = Mounted::start(&conf).await?;
    tokio::select! {
        () = stop.asked() => {}
        () = mounted.mount.wait() => tracing::info!("somebody has unmounted"),
    }
    mounted.end().await
}

/// A mount with its session.
pub struct Mounted {
    pub mount: Mount,
    fs: FileSystem,
}

impl Mounted {
    /// Connects and mounts at `[fuse] mnt_path`.
    pub async fn start(conf: &ClusterConf) -> Result<Self> {
        let path = std::path::absolute(&conf.fuse.mnt_path)
            .map_err(|source| Error::from_io(source, "not a path").with("path", conf.fuse.mnt_path.display()))?;
        let name = names::of_mount(&conf.client.hostname, &path);
        // A living mount on the path is mounted over; only a dead one's session may be ended.
        let replace = !is_served(path.clone()).await;
        let events = KernelEvents::new();
        let fs = FileSystem::connect(wiring::mount_client(conf, name, replace)?, events.clone()).await?;
        match Mount::start(FuseOptions::from(conf), fs.clone(), events, &path).await {
            Ok(mount) => {
                tracing::info!(path = %path.display(), "mounted");
                Ok(Self { mount, fs })
            }
            Err(error) => {
                let _ = fs.close(GRACE).await;
                Err(error)
            }
        }
    }

    /// Unmounts, then closes the session.
    pub async fn end(self) -> Result<()> {
        let unmounted = self.mount.unmount().await;
        if let Err(error) = self.fs.close(GRACE).await {
            tracing::warn!(%error, "the session is left to expire");
        }
        tracing::info!("stopped");
        unmounted
    }
}

/// Whether a mount of ours on the path answers.
async fn is_served(path: PathBuf) -> bool {
    if !is_mounted(&path) {
        return false;
    }
    let probe = tokio::task::spawn_blocking(move || rustix::fs::statfs(&path).is_ok());
    matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(true)))
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let on_path =
        |line: &&str| line.split(' ').nth(4).is_some_and(|at| unescape(at) == path.as_os_str().as_encoded_bytes());
    mounts.lines().filter(on_path).any(|line| line.contains(" - fuse.curvine "))
}

/// Space, tab, newline and backslash are written as `\040` and so on.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}

/// What a mount cannot be without.
pub fn check_fuse() -> Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").map(|_| ()).map_err(|source| {
        Error::new(
            ErrorKind::Config,
            "cannot open /dev/fuse; mounting needs the kernel's fuse module and the right to use it",
        )
        .caused_by(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_mount_table_are_read_as_they_are_written() {
        assert_eq!(unescape("/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape("/plain\\0"), b"/plain\\0");
    }

    #[tokio::test]
    async fn a_directory_is_not_a_served_mount() {
        assert!(!is_served(std::env::temp_dir()).await);
    }
}
