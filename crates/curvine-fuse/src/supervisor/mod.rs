//! The supervisor of a mount: it owns the session with the kernel and the memory that serving processes leave behind, and replaces
//! one that dies.
//!
//! Always: it holds every descriptor of the session and none on the mount itself; the kernel is asked to send unanswered requests
//! again once for each reader that is gone (a process that died, or the stand-in), after it is gone; what an application has open lives as long as the supervisor.

mod becoming;
mod carry;
mod child;
mod children;
mod message;
mod restarts;
mod serve;
mod session;
mod signals;
mod stand_in;
mod upgrade;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curvine_config::ClusterConf;
use curvine_fuse_abi::mount::FILESYSTEM_TYPE;
use curvine_fuse_abi::{Link, mountinfo};
use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::MemfdFlags;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use self::child::{Child, FromChild};
use self::message::{Known, ToChild};
use self::restarts::Restarts;
use self::session::Mounted;
use self::signals::{Signals, Told};
use self::stand_in::{Since, StandIn};
use self::upgrade::Request;
use crate::FuseOptions;
use crate::handover::Table;
use crate::stage::table_limits;

pub use self::serve::{Wiring, serve};
pub use self::upgrade::upgrade;

/// How long a mount that is on the path may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the serving process is looked at, besides when the kernel says that one ended.
const LOOK: Duration = Duration::from_millis(100);
/// Beyond the drain timeout, what a serving process may take to end.
const STOP_MARGIN: Duration = Duration::from_secs(25);

/// What to supervise.
#[derive(Clone, Debug)]
pub struct Supervise {
    /// `[fuse] mnt_path` is where it is mounted.
    pub conf: ClusterConf,
    /// Arguments with which this very program calls [`serve`].
    pub child: Vec<OsString>,
    /// Arguments with which this program, and other versions of it, call [`resume`].
    pub resume: Vec<OsString>,
}

/// Mounts, and returns when it has been unmounted: after SIGTERM or SIGINT, or because somebody else did it. Must be called within
/// a tokio runtime.
pub async fn run(supervise: Supervise) -> Result<()> {
    let mut supervisor = Supervisor::new(supervise)?;
    let outcome = supervisor.run().await;
    supervisor.clean_up();
    outcome
}

/// Goes on as the supervisor that another version of this program was until now, with the config that it had; as [`run`].
/// `start_log` is called with the config, before anything is done.
pub async fn resume(arguments: Arguments, start_log: impl FnOnce(&ClusterConf) -> Result<()>) -> Result<()> {
    let carried = carry::take()?;
    let conf = serve::read_conf(
        carried.conf.try_clone().map_err(|source| Error::from_io(source, "cannot duplicate a descriptor"))?,
    )?;
    start_log(&conf)?;
    let mut supervisor = Supervisor::new(Supervise { conf, child: arguments.child, resume: arguments.resume })?;
    supervisor.inherit(carried);
    let outcome = supervisor.run().await;
    supervisor.clean_up();
    outcome
}

/// How this program is called again; see [`Supervise`].
#[derive(Clone, Debug)]
pub struct Arguments {
    pub child: Vec<OsString>,
    pub resume: Vec<OsString>,
}

/// Whether a mount of ours on the path answers.
pub async fn is_served(path: &Path) -> bool {
    let mounted = mountinfo::mounts_on(path).is_ok_and(|mounts| mounts.iter().any(|at| at.kind == FILESYSTEM_TYPE));
    if !mounted {
        return false;
    }
    let path = path.to_path_buf();
    let probe = tokio::task::spawn_blocking(move || rustix::fs::statfs(&path).is_ok());
    matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(true)))
}

struct Supervisor {
    conf: ClusterConf,
    options: FuseOptions,
    arguments: Arguments,
    path: PathBuf,
    conf_file: OwnedFd,
    table: Arc<Table>,
    session: Option<Mounted>,
    child: Option<Child>,
    children: u64,
    /// An earlier session of this path is known to be dead.
    replace: bool,
    restarts: Restarts,
    restart_at: Option<Instant>,
    failure: Option<Error>,
    /// Answers while no process serves.
    stand_in: Option<StandIn>,
    /// What it has not answered, by the kernel's numbers.
    since: Since,
    known: Option<Known>,
    /// Files that the kernel has, by the numbers of their registrations.
    kept: HashMap<i32, OwnedFd>,
    /// Who waits for the end of an upgrade, and the executable to go back to.
    requester: Option<(Link, Option<OwnedFd>)>,
    desk: mpsc::UnboundedSender<Request>,
    requests: mpsc::UnboundedReceiver<Request>,
    events: mpsc::UnboundedSender<FromChild>,
    heard: mpsc::UnboundedReceiver<FromChild>,
}

/// What ends a supervisor.
enum End {
    /// The serving process has unmounted.
    Stopped,
    Failed(Error),
}

impl Supervisor {
    fn new(supervise: Supervise) -> Result<Self> {
        let Supervise { conf, child, resume } = supervise;
        let options = FuseOptions::from(&conf);
        let path = std::path::absolute(&conf.fuse.mnt_path)
            .map_err(|source| Error::from_io(source, "not a path").with("path", conf.fuse.mnt_path.display()))?;
        let (events, heard) = mpsc::unbounded_channel();
        let (desk, requests) = mpsc::unbounded_channel();
        Ok(Self {
            conf_file: pass_on(&conf)?,
            table: Arc::new(Table::create(table_limits(&options))?),
            conf,
            options,
            arguments: Arguments { child, resume },
            path,
            session: None,
            child: None,
            children: 0,
            replace: false,
            restarts: Restarts::default(),
            restart_at: None,
            failure: None,
            stand_in: None,
            since: Since::new(),
            known: None,
            kept: HashMap::new(),
            requester: None,
            desk,
            requests,
            events,
            heard,
        })
    }

    async fn run(&mut self) -> Result<()> {
        let mut signals = Signals::catch()?;
        if self.session.is_none() {
            // A living mount on the path is mounted over; only a dead one's session may be ended.
            self.replace = !is_served(&self.path).await;
        }
        self.start_child()?;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let restart = self.restart_at;
            let end = tokio::select! {
                Some((number, message)) = self.heard.recv() => self.hear(number, message).await,
                told = signals.next() => match told {
                    Told::Stop => return self.stop(&mut signals).await,
                    Told::ChildEnded => self.look(),
                },
                _ = look.tick() => self.look(),
                Some(request) = self.requests.recv() => self.upgrade(request).await,
                () = tokio::time::sleep_until(restart.unwrap_or_else(Instant::now)), if restart.is_some() => {
                    self.restart_at = None;
                    self.start_successor()
                }
            };
            match end {
                None => {}
                Some(End::Stopped) => return self.wait_for_end(&mut signals).await,
                Some(End::Failed(error)) => {
                    // It may still take leave of the master.
                    let _ = self.wait_for_end(&mut signals).await;
                    return Err(error);
                }
            }
        }
    }

    async fn stop(&mut self, signals: &mut Signals) -> Result<()> {
        info!("stopping");
        self.tell(&ToChild::Stop);
        self.wait_for_end(signals).await
    }

    /// Until the serving process has ended; it is killed when it takes too long, or at a second signal.
    async fn wait_for_end(&mut self, signals: &mut Signals) -> Result<()> {
        let limit = Instant::now() + self.conf.fuse.drain_timeout + STOP_MARGIN;
        while let Some(child) = self.child.as_mut() {
            if child.ended().is_some() {
                self.child = None;
                break;
            }
            tokio::select! {
                told = signals.next() => if told == Told::Stop {
                    child.kill();
                    self.clean_up();
                    return Err(Error::new(ErrorKind::Interrupted, "stopped without waiting"));
                },
                () = tokio::time::sleep(LOOK) => {}
                () = tokio::time::sleep_until(limit) => {
                    warn!("the serving process does not end; killing it");
                    child.kill();
                    self.child = None;
                }
            }
        }
        info!("stopped");
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            child.kill();
        }
    }
}

/// The config as text in a file without a name.
fn pass_on(conf: &ClusterConf) -> Result<OwnedFd> {
    let failed = |source| Error::from_io(source, "cannot pass the config on");
    let fd = rustix::fs::memfd_create("curvine-conf", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut file = File::from(fd);
    file.write_all(conf.to_toml().as_bytes()).map_err(failed)?;
    Ok(file.into())
}
