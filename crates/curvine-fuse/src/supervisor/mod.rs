//! The supervisor of a mount: it owns the session with the kernel and the memory that serving processes leave behind, and replaces
//! one that dies.
//!
//! Always: it holds every descriptor of the session and none on the mount itself; the kernel is asked to send unanswered requests
//! again once for each process that died, after it died; what an application has open lives as long as the supervisor.

mod carry;
mod child;
mod message;
mod restarts;
mod serve;
mod upgrade;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curvine_config::ClusterConf;
use curvine_fuse_abi::mount::FILESYSTEM_TYPE;
use curvine_fuse_abi::{Connection, Device, Link, MountPoint, Session, mountinfo};
use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::MemfdFlags;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use self::carry::Carried;
use self::child::{Child, FromChild};
use self::message::{Place, ToChild, ToSupervisor, send};
use self::restarts::Restarts;
use self::upgrade::Request;
use crate::FuseOptions;
use crate::handover::Table;
use crate::mount::{init_options, mount_options};
use crate::stage::{readers_of, table_limits};

pub use self::serve::{Wiring, serve};
pub use self::upgrade::upgrade;

/// How long a mount that is on the path may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the serving process is looked at, besides when the kernel says that one ended.
const LOOK: Duration = Duration::from_millis(100);
/// How often the serving process of a new version may fail before the old one takes over again.
const UPGRADE_ATTEMPTS: u32 = 3;
/// How long the serving process of a new version must have served before the old one is given up.
const PROVEN: Duration = Duration::from_millis(300);
/// How long a serving process may take to make room.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Descriptors in one message.
const KEPT_AT_ONCE: usize = 128;
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
    /// Files that the kernel has, by the numbers of their registrations.
    kept: HashMap<i32, OwnedFd>,
    /// Who waits for the end of an upgrade, and the executable to go back to.
    requester: Option<(Link, Option<OwnedFd>)>,
    desk: mpsc::UnboundedSender<Request>,
    requests: mpsc::UnboundedReceiver<Request>,
    events: mpsc::UnboundedSender<FromChild>,
    heard: mpsc::UnboundedReceiver<FromChild>,
}

/// The session with the kernel.
struct Mounted {
    devices: Vec<Device>,
    mount_point: MountPoint,
    connection: Connection,
    has_resend: bool,
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

    /// Starts the process that connects first; then it is mounted.
    fn start_child(&mut self) -> Result<()> {
        self.children += 1;
        let child = Child::start(self.children, &self.arguments.child, &self.events)?;
        let mounted = self.session.as_ref().map(|session| Place::from(&session.mount_point));
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

    fn send_kept(&self, child: &Child) -> Result<()> {
        let kept: Vec<(i32, BorrowedFd<'_>)> = self.kept.iter().map(|(id, file)| (*id, file.as_fd())).collect();
        kept.chunks(KEPT_AT_ONCE).try_for_each(|part| {
            let (ids, files): (Vec<i32>, Vec<BorrowedFd<'_>>) = part.iter().copied().unzip();
            send(&child.link, &ToChild::Kept { ids }, &files)
        })
    }

    fn start_successor(&mut self) -> Option<End> {
        if let Err(error) = self.start_child() {
            error!(%error, "cannot replace the serving process; trying again");
            self.schedule(None);
        }
        None
    }

    async fn hear(&mut self, number: u64, message: Option<(ToSupervisor, Vec<OwnedFd>)>) -> Option<End> {
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
    fn look(&mut self) -> Option<End> {
        self.confirm_upgrade();
        child::reap_orphans(self.child.as_ref().map(|child| child.pid));
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
        if !session.has_resend {
            return self.begin_anew("this kernel cannot send requests again that a dead process had read");
        }
        // It is gone: whatever it had read is nobody's. Until a successor reads them, requests can be killed, too.
        if let Err(error) = session.devices[0].resend() {
            warn!(%error, "the kernel does not send unanswered requests again");
        }
        if let Some(failure) = &failure {
            warn!(error = %failure, "why it ended");
        }
        self.schedule(child.serving_since);
        if self.restarts.failures() >= UPGRADE_ATTEMPTS {
            self.go_back(&failure.map_or(how, |failure| failure.to_string()));
        }
        None
    }

    /// A new version that has served for a moment is the version from now on.
    fn confirm_upgrade(&mut self) {
        let since = self.child.as_ref().and_then(|child| child.serving_since);
        if since.is_some_and(|since| since.elapsed() >= PROVEN)
            && let Some((link, _)) = self.requester.take()
        {
            let text = format!("version {} serves {} now", env!("CARGO_PKG_VERSION"), self.path.display());
            Request::answer(&link, &Ok(text));
        }
    }

    fn schedule(&mut self, served: Option<std::time::Instant>) {
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
    }

    /// What is open cannot be taken over: those who have it open get errors, and the path is served anew.
    fn begin_anew(&mut self, why: &str) -> Option<End> {
        error!(why, "open files cannot be taken over; mounting anew");
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

    async fn mount(&mut self) -> Result<()> {
        let (path, mount, init) = (self.path.clone(), mount_options(&self.options), init_options(&self.options));
        // Looking at a mount point that somebody hangs on takes time.
        let mounting = tokio::task::spawn_blocking(move || Session::mount(&path, &mount, &init));
        let session =
            mounting.await.map_err(|error| Error::new(ErrorKind::Internal, "mounting panicked").caused_by(error))??;
        let Session { device, negotiated, mount_point, connection } = session;
        self.table.set_negotiated(&negotiated);
        let place = Place::from(&mount_point);
        let devices = match readers_of(device, &connection, &self.options) {
            Ok(devices) => devices,
            Err(error) => {
                let _ = mount_point.force();
                return Err(error);
            }
        };
        let has_resend = negotiated.has_resend();
        self.session = Some(Mounted { devices, mount_point, connection, has_resend });
        self.open_desk();
        let Some(session) = &self.session else { return Ok(()) };
        let Some(child) = &self.child else { return Ok(()) };
        if let Err(error) = send(&child.link, &ToChild::Serve(place), &session.descriptors()) {
            // It died; its successor takes the mount over.
            warn!(%error, "the serving process does not hear that it is mounted");
        }
        Ok(())
    }

    /// Without it the mount works, but cannot be upgraded.
    fn open_desk(&self) {
        let Some(session) = &self.session else { return };
        let minor = session.mount_point.device_minor();
        if let Err(error) = upgrade::open_desk(minor, &self.conf_file, self.desk.clone()) {
            warn!(%error, "this mount cannot be upgraded while it runs");
        }
    }

    /// What another version of this program was until now.
    fn inherit(&mut self, carried: Carried) {
        let Carried { place, children, conf, table, devices, kept, requester, failed } = carried;
        self.kept = kept.into_iter().collect();
        let mount_point = MountPoint::from(place);
        (self.path, self.children, self.conf_file) = (mount_point.path().to_path_buf(), children, conf);
        let connection = Connection::of(&mount_point);
        let table = Table::open(table);
        let has_resend =
            table.as_ref().is_ok_and(|table| table.negotiated().is_some_and(|negotiated| negotiated.has_resend()));
        self.session = Some(Mounted { devices, mount_point, connection, has_resend });
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
    async fn upgrade(&mut self, request: Request) -> Option<End> {
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
    fn hear_last(&mut self, number: u64, message: Option<(ToSupervisor, Vec<OwnedFd>)>) {
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
    async fn make_room(&mut self) {
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
        if let Some(session) = self.session.as_ref().filter(|session| session.has_resend)
            && let Err(error) = session.devices[0].resend()
        {
            warn!(%error, "the kernel does not send unanswered requests again");
        }
    }

    /// The version that was upgraded to cannot serve: the one before takes over again.
    fn go_back(&mut self, why: &str) {
        let Some((_, fallback)) = &mut self.requester else { return };
        let Some(executable) = fallback.take() else { return };
        error!(why, "the new version cannot serve; going back to the old one");
        let error = self.become_other(&executable, Some(why.to_string()));
        error!(%error, "cannot go back; trying on");
    }

    fn become_other(&mut self, executable: &OwnedFd, failed: Option<String>) -> Error {
        let duplicated = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|source| Error::from_io(source, "cannot duplicate a descriptor"))
        };
        let Some(session) = &mut self.session else { return Error::new(ErrorKind::Internal, "nothing is mounted") };
        let descriptors =
            duplicated(self.conf_file.as_fd()).and_then(|conf| Ok((conf, duplicated(self.table.descriptor())?)));
        let (conf, table) = match descriptors {
            Ok(descriptors) => descriptors,
            Err(error) => return error,
        };
        let carried = Carried {
            place: Place::from(&session.mount_point),
            children: self.children,
            conf,
            table,
            devices: std::mem::take(&mut session.devices),
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

    fn tell(&self, message: &ToChild) {
        if let Some(child) = &self.child
            && let Err(error) = send(&child.link, message, &[])
        {
            warn!(%error, "cannot tell the serving process");
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

    /// Nothing of the session is left.
    fn clean_up(&mut self) {
        let Some(session) = self.session.take() else { return };
        if let Err(error) = session.mount_point.detach() {
            warn!(%error, "cannot unmount");
        }
        // Whoever still waits for an answer gets an error; without the right to do so it ends with the descriptors.
        session.connection.abort();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            child.kill();
        }
    }
}

impl Mounted {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.devices.iter().map(AsFd::as_fd).collect()
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Stop,
    ChildEnded,
}

/// What the kernel tells a supervisor.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).map_err(|source| Error::from_io(source, "cannot catch signals"));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            child: catch(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.child.recv() => Told::ChildEnded,
        }
    }
}
