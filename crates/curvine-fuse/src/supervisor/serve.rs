//! The serving process: it is told what to serve over its standard input, and serves until it is told to stop, to make room for a
//! successor, or until its supervisor is gone.
//!
//! Always: it ends without unmounting only when a successor is certain; when the supervisor is gone it unmounts, because nobody
//! would take over.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use curvine_client::{ClientOptions, FileSystem, Handle, Succession};
use curvine_config::ClusterConf;
use curvine_fuse_abi::kernel::{AttrOut, StatfsOut, StatxOut};
use curvine_fuse_abi::{Device, IntoBytes, Link, MountPoint};
use curvine_types::{Error, ErrorKind, Result};
use curvine_web::WebServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::message::{Known, Place, ToChild, ToSupervisor, read, send};
use crate::backing::{Keeper, Kept};
use crate::handover::{HandleRecord, Inbox, Table, TableJournal, predecessor};
use crate::mount::{Mount, subtree};
use crate::stage::{Inheritance, Mounted, Stage};
use crate::{FuseOptions, KernelEvents};

/// How long the session may take to be closed.
const GRACE: Duration = Duration::from_secs(10);
/// How long requests in flight may take when a successor waits. What is left is sent to it again.
const DRAIN: Duration = Duration::from_secs(1);
/// Largest config that is passed on.
const CONF_MAX: u64 = 1 << 20;

/// What the binary adds.
pub trait Wiring {
    /// Called with the config before anything else, to start the log.
    fn begin(&self, conf: &ClusterConf) -> Result<()>;
    /// The settings of the client. `replace`: an earlier session of the same name is known to be dead.
    fn client(&self, conf: &ClusterConf, replace: bool) -> Result<ClientOptions>;
}

/// Serves; returns when this process should end.
pub async fn serve(wiring: impl Wiring) -> Result<()> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let link = stdin.map_err(|source| Error::from_io(source, "no supervisor on standard input"))?;
    let link = Arc::new(Link::from(link));
    let outcome = begin(&wiring, &link).await;
    if let Err(error) = &outcome {
        let message = match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotSupported if error.get("table").is_some() => {
                ToSupervisor::Damaged { text: error.to_string() }
            }
            kind => ToSupervisor::Failed { kind: kind.code(), text: error.to_string() },
        };
        // The supervisor may be the one that is gone.
        let _ = send(&link, &message, &[]);
    }
    outcome
}

async fn begin(wiring: &impl Wiring, link: &Arc<Link>) -> Result<()> {
    // Who stops the whole group means the supervisor, which then tells us.
    let _terminate = signal(SignalKind::terminate());
    let _interrupt = signal(SignalKind::interrupt());
    let mut messages = listen(link.clone());
    let first = messages.recv().await;
    let Some((ToChild::Begin { replace, mounted, kept }, descriptors)) = first else {
        return Err(Error::new(ErrorKind::InvalidArgument, "this command is for the supervisor of a mount only"));
    };
    let mut descriptors = descriptors.into_iter();
    let (Some(conf), Some(table)) = (descriptors.next(), descriptors.next()) else {
        return Err(Error::new(ErrorKind::Internal, "the supervisor sent no descriptors"));
    };
    let conf = read_conf(conf)?;
    wiring.begin(&conf)?;
    let table = Arc::new(Table::open(table).map_err(|error| error.with("table", "unusable"))?);
    let options = wiring.client(&conf, replace)?;
    let keeper = Kept(Some(Arc::new(Keeping(link.clone()))));
    let serving = Serving { conf, options, table, keeper, instance: 0 };
    let serving = Serving { instance: serving.table.begin_instance(), ..serving };
    let started = match mounted {
        Some(place) => {
            let files = kept_files(&mut messages, kept).await?;
            serving.resume(place, descriptors.collect(), files).await?
        }
        None => match serving.mount(link, &mut messages).await? {
            Some(started) => started,
            None => return Ok(()),
        },
    };
    send(link, &ToSupervisor::Serving, &[])?;
    started.until_told(link, &mut messages).await
}

/// The files that the kernel has, by the numbers of their registrations.
async fn kept_files(messages: &mut Messages, count: usize) -> Result<HashMap<i32, OwnedFd>> {
    let mut files = HashMap::with_capacity(count.min(4096));
    while files.len() < count {
        match messages.recv().await {
            Some((ToChild::Kept { ids }, descriptors)) if ids.len() == descriptors.len() => {
                files.extend(ids.into_iter().zip(descriptors));
            }
            _ => return Err(Error::new(ErrorKind::Internal, "the supervisor did not send the files that it keeps")),
        }
    }
    Ok(files)
}

/// Has the supervisor hold what outlives this process.
struct Keeping(Arc<Link>);

impl Keeper for Keeping {
    fn keep(&self, id: i32, file: BorrowedFd<'_>) {
        if let Err(error) = send(&self.0, &ToSupervisor::Keep { id }, &[file]) {
            warn!(%error, "a file that the kernel has is not kept for a successor");
        }
    }

    fn forget(&self, id: i32) {
        if let Err(error) = send(&self.0, &ToSupervisor::Forget { id }, &[]) {
            tracing::debug!(%error, "the supervisor is not told that a file is not needed any more");
        }
    }

    fn remember(&self, statfs: &StatfsOut, root: &AttrOut, root_statx: &StatxOut) {
        let known = Known {
            statfs: statfs.as_bytes().to_vec(),
            root: root.as_bytes().to_vec(),
            root_statx: root_statx.as_bytes().to_vec(),
        };
        if let Err(error) = send(&self.0, &ToSupervisor::Known(known), &[]) {
            tracing::debug!(%error, "the supervisor does not learn what may be answered without us");
        }
    }
}

fn listen(link: Arc<Link>) -> mpsc::UnboundedReceiver<(ToChild, Vec<OwnedFd>)> {
    let (sender, messages) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(Some(received)) = link.receive() {
            match read(&received.bytes) {
                Ok(message) => {
                    if sender.send((message, received.descriptors)).is_err() {
                        return;
                    }
                }
                Err(error) => warn!(%error, "not understood"),
            }
        }
    });
    messages
}

/// The config, as the supervisor wrote it into a file without a name.
pub(super) fn read_conf(fd: OwnedFd) -> Result<ClusterConf> {
    let failed = |source| Error::from_io(source, "cannot read the config that the supervisor passed on");
    let file = File::from(fd);
    let length = file.metadata().map_err(failed)?.len().min(CONF_MAX) as usize;
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, 0).map_err(failed)?;
    let text = String::from_utf8(text)
        .map_err(|source| Error::new(ErrorKind::Config, "the config is no text").caused_by(source))?;
    ClusterConf::parse(&text, "the supervisor").map(|(conf, _)| conf)
}

type Messages = mpsc::UnboundedReceiver<(ToChild, Vec<OwnedFd>)>;

/// A process that is about to serve.
struct Serving {
    conf: ClusterConf,
    options: ClientOptions,
    table: Arc<Table>,
    keeper: Kept,
    instance: u64,
}

impl Serving {
    fn devices(&self, place: Place, mut descriptors: Vec<OwnedFd>) -> Result<Mounted> {
        let negotiated = self.table.negotiated();
        let negotiated = negotiated.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the hand-over table does not say what the kernel was told")
                .with("table", "unusable")
        })?;
        let inbox = if place.has_inbox() { descriptors.pop().map(Inbox::open).transpose()? } else { None };
        let devices = descriptors.into_iter().map(Device::from).collect();
        Ok(Mounted { devices, negotiated, mount_point: MountPoint::from(place), inbox })
    }

    /// The first process of a mount: it connects, has the supervisor mount, and serves. `None`: it was told to stop before.
    async fn mount(self, link: &Link, messages: &mut Messages) -> Result<Option<Started>> {
        let (events, options) = (KernelEvents::new(), FuseOptions::from(&self.conf));
        let journal = Arc::new(TableJournal(self.table.clone()));
        let succession = Succession { journal, instance: self.instance, predecessor: None };
        let (fs, _) = FileSystem::succeed(self.options.clone(), events.clone(), succession).await?;
        let mounted = async {
            self.table.set_root(subtree(&fs, &options.fs_path).await?);
            send(link, &ToSupervisor::Connected, &[])?;
            match messages.recv().await {
                Some((ToChild::Serve(place), descriptors)) => Ok(Some(self.devices(place, descriptors)?)),
                _ => Ok(None),
            }
        };
        let mounted = match mounted.await {
            Ok(Some(mounted)) => mounted,
            other => {
                let _ = fs.close(GRACE).await;
                return other.map(|_| None);
            }
        };
        let stage = Stage::new(&options, mounted, self.table.clone(), &events, self.keeper.clone())?;
        let mount = stage.serve(options, fs.clone(), Inheritance::default(), events).await?;
        Ok(Some(Started::new(&self.conf, mount, fs)))
    }

    /// The successor of a process that died: it takes what that had open and in flight.
    async fn resume(self, place: Place, descriptors: Vec<OwnedFd>, files: HashMap<i32, OwnedFd>) -> Result<Started> {
        let (events, options) = (KernelEvents::new(), FuseOptions::from(&self.conf));
        let mounted = self.devices(place, descriptors)?;
        let handles = self.table.take_handles().map_err(|error| error.with("table", "unusable"))?;
        let requests = self.table.take_requests();
        let stage = Stage::new(&options, mounted, self.table.clone(), &events, self.keeper.clone())?;
        stage.rejoin(&handles, files).map_err(|error| error.with("table", "unusable"))?;
        let opens = handles.iter().filter_map(|(_, record)| record.inherited()).collect();
        let journal = Arc::new(TableJournal(self.table.clone()));
        let predecessor = predecessor(&self.table, opens, &requests);
        let succession = Succession { journal, instance: self.instance, predecessor };
        let (fs, opened) = FileSystem::succeed(self.options.clone(), events.clone(), succession).await?;
        let inheritance = Inheritance { handles: join(handles, opened), requests, resumes: true };
        let mount = stage.serve(options, fs.clone(), inheritance, events).await?;
        Ok(Started::new(&self.conf, mount, fs))
    }
}

/// Files and the client's handles stand in the same order.
fn join(handles: Vec<(u64, HandleRecord)>, opened: Vec<Handle>) -> Vec<(u64, HandleRecord, Option<Handle>)> {
    let mut opened = opened.into_iter();
    let join = |(fh, record): (u64, HandleRecord)| {
        let handle = record.inherited().and_then(|_| opened.next());
        (fh, record, handle)
    };
    handles.into_iter().map(join).collect()
}

/// A process that serves.
struct Started {
    mount: Mount,
    fs: FileSystem,
    /// Until its predecessor is gone, a successor waits for the port in the background.
    _web: Option<WebServer>,
}

impl Started {
    fn new(conf: &ClusterConf, mount: Mount, fs: FileSystem) -> Self {
        let page = mount.page(FuseOptions::from(conf), fs.clone());
        let _web = WebServer::start(&conf.general.web_hostname, conf.fuse.web_port, page);
        Self { mount, fs, _web }
    }

    async fn until_told(self, link: &Link, messages: &mut Messages) -> Result<()> {
        loop {
            let message = tokio::select! {
                message = messages.recv() => message.map(|(message, _)| message),
                () = self.mount.wait() => {
                    info!("somebody has unmounted");
                    Some(ToChild::Stop)
                }
            };
            match message {
                Some(ToChild::HandOver) => {
                    let drained = self.mount.hand_over(DRAIN).await;
                    info!(drained, "making room for a successor");
                    // Nothing is given back or taken leave of: all of it is the successor's.
                    std::process::exit(0);
                }
                Some(ToChild::Stop) => break,
                None => {
                    warn!("the supervisor is gone; unmounting");
                    break;
                }
                Some(other) => warn!(?other, "not expected now"),
            }
        }
        let unmounted = self.mount.unmount().await;
        if let Err(error) = self.fs.close(GRACE).await {
            warn!(%error, "the session is left to expire");
        }
        let _ = send(link, &ToSupervisor::Stopped, &[]);
        unmounted
    }
}
