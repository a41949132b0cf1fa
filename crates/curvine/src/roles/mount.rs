//! `curvine mount`, also called `curvine-fuse`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use curvine_client::{ClientOptions, FileSystem};
use curvine_config::{ClusterConf, Role};
use curvine_fuse::supervisor::{self, Arguments, Supervise};
use curvine_fuse::{FuseOptions, KernelEvents, Mount};
use curvine_types::{Error, ErrorKind, Result};
use curvine_web::WebServer;

use super::{GRACE, prepare};
use crate::args::{Common, MountArgs};
use crate::{logs, names, wiring};

/// Mounts, and runs until a signal or until somebody unmounts; or has a running mount upgraded.
pub async fn run(common: &Common, arguments: MountArgs) -> Result<()> {
    if arguments.resume {
        // What is mounted goes on with the config that it was mounted with, whatever has become of the file.
        let path = arguments.mnt_path.unwrap_or_default();
        let start_log = |conf: &ClusterConf| logs::start(common, &conf.log.level, conf.log.format, logs::To::Output);
        return supervisor::resume(called_again(common, &path), start_log).await;
    }
    if arguments.upgrade {
        return upgrade(common, arguments);
    }
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

fn upgrade(common: &Common, arguments: MountArgs) -> Result<()> {
    let path = match arguments.mnt_path {
        Some(path) => path,
        None => ClusterConf::load(common.conf.as_deref())?.0.fuse.mnt_path,
    };
    println!("{}", supervisor::upgrade(&path)?);
    Ok(())
}

/// Mounts at `[fuse] mnt_path` of this config, in a process of its own that is replaced when it dies; until a signal, or until
/// somebody unmounts. The log must have been started.
pub async fn supervised(conf: ClusterConf, common: &Common) -> Result<()> {
    check_fuse()?;
    let Arguments { child, resume } = called_again(common, &absolute(&conf)?);
    supervisor::run(Supervise { conf, child, resume }).await
}

/// How this program is called to serve, and to go on as a supervisor.
fn called_again(common: &Common, path: &Path) -> Arguments {
    let mut log: Vec<OsString> = Vec::new();
    if let Some(level) = &common.log_level {
        log.extend(["--log-level".into(), level.into()]);
    }
    if let Some(format) = common.log_format.and_then(|format| format.to_possible_value()) {
        log.extend(["--log-format".into(), format.get_name().into()]);
    }
    let with_log = |arguments: &[OsString]| arguments.iter().chain(&log).cloned().collect();
    Arguments {
        child: with_log(&["serve-mount".into()]),
        resume: with_log(&["mount".into(), "--resume".into(), "--mnt-path".into(), path.into()]),
    }
}

/// The process that a supervisor starts.
pub async fn serve(common: &Common) -> Result<()> {
    supervisor::serve(Child { common }).await
}

struct Child<'a> {
    common: &'a Common,
}

impl supervisor::Wiring for Child<'_> {
    fn begin(&self, conf: &ClusterConf) -> Result<()> {
        logs::start(self.common, &conf.log.level, conf.log.format, logs::To::Output)
    }

    fn client(&self, conf: &ClusterConf, replace: bool) -> Result<ClientOptions> {
        let path = absolute(conf)?;
        wiring::mount_client(conf, names::of_mount(&conf.client.hostname, &path), replace)
    }
}

fn absolute(conf: &ClusterConf) -> Result<PathBuf> {
    std::path::absolute(&conf.fuse.mnt_path)
        .map_err(|source| Error::from_io(source, "not a path").with("path", conf.fuse.mnt_path.display()))
}

/// A mount in this very process, with its session.
pub struct Mounted {
    pub mount: Mount,
    fs: FileSystem,
    web: Option<WebServer>,
}

impl Mounted {
    /// Connects and mounts at `[fuse] mnt_path`.
    pub async fn start(conf: &ClusterConf) -> Result<Self> {
        let path = absolute(conf)?;
        let name = names::of_mount(&conf.client.hostname, &path);
        // A living mount on the path is mounted over; only a dead one's session may be ended.
        let replace = !supervisor::is_served(&path).await;
        let events = KernelEvents::new();
        let fs = FileSystem::connect(wiring::mount_client(conf, name, replace)?, events.clone()).await?;
        match Mount::start(FuseOptions::from(conf), fs.clone(), events, &path).await {
            Ok(mount) => {
                tracing::info!(path = %path.display(), "mounted");
                let page = mount.page(FuseOptions::from(conf), fs.clone());
                let web = WebServer::start(&conf.general.web_hostname, conf.fuse.web_port, page);
                Ok(Self { mount, fs, web })
            }
            Err(error) => {
                let _ = fs.close(GRACE).await;
                Err(error)
            }
        }
    }

    /// Unmounts, then closes the session.
    pub async fn end(self) -> Result<()> {
        drop(self.web);
        let unmounted = self.mount.unmount().await;
        if let Err(error) = self.fs.close(GRACE).await {
            tracing::warn!(%error, "the session is left to expire");
        }
        tracing::info!("stopped");
        unmounted
    }
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
