//! `curvine standalone`: everything in one process, kept in one directory.
//!
//! Always: whatever is started is stopped in the reverse order, also when a later step fails; a directory that another process
//! uses is refused; the config file that is written says how tools reach this cluster.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curvine_client::{FileSystem, NoEvents};
use curvine_config::{ClusterConf, DataDir, DataDirKind, generate_secret_file};
use curvine_master::Master;
use curvine_types::units::parse_size;
use curvine_types::{Error, ErrorKind, Result};
use curvine_web::WebServer;
use curvine_worker::Worker;
use rustix::fs::FlockOperation;

use super::GRACE;
use super::mount::{Mounted, check_fuse};
use crate::args::{Common, StandaloneArgs, UfsMountArgs};
use crate::signals::Stop;
use crate::tool::mounts;
use crate::{logs, wiring};

/// The config file in the data directory.
const CONF_FILE: &str = "curvine-cluster.toml";
/// Host name of everything here.
const HOST: &str = "localhost";
/// How long the worker may take to register.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs until a signal or until somebody unmounts.
pub async fn run(common: &Common, arguments: StandaloneArgs) -> Result<()> {
    let mut conf = ClusterConf::default();
    conf.log.level = "warn".to_string();
    logs::start(common, &conf.log.level, conf.log.format, logs::To::Output)?;
    if arguments.mount.is_some() {
        check_fuse()?;
    }
    let wanted = arguments.ufs.iter().map(|text| ufs_argument(text, &arguments.options)).collect::<Result<Vec<_>>>()?;
    let data = make_directory(&arguments.data)?;
    let _lock = lock(&data)?;
    configure(&mut conf, &data, &arguments)?;
    let conf_file = data.join(CONF_FILE);
    let stop = Stop::listen()?;

    let master = Master::start(wiring::master(&conf)?).await?;
    let outcome = async {
        let page = |port, page| WebServer::start(&conf.general.web_hostname, port, page);
        let _web = page(conf.master.web_port, master.page());
        let worker = Worker::start(wiring::worker(&conf)?).await?;
        let _web_of_worker = page(conf.worker.web_port, worker.page());
        let outcome = with_worker(&conf, &master, &worker, &conf_file, &wanted, arguments.mount.is_some(), stop).await;
        worker.shutdown(GRACE).await;
        outcome
    };
    let outcome = outcome.await;
    master.shutdown(GRACE).await;
    if outcome.is_ok() {
        println!("Stopped. All is kept in {}.", data.display());
    }
    outcome
}

/// Waits until one of them cannot go on, and says why.
async fn failure(master: &Master, worker: &Worker) -> Error {
    tokio::select! {
        error = master.failed() => error,
        error = worker.failure() => error,
    }
}

async fn with_worker(
    conf: &ClusterConf,
    master: &Master,
    worker: &Worker,
    conf_file: &Path,
    wanted: &[UfsMountArgs],
    mount: bool,
    stop: Stop,
) -> Result<()> {
    worker.registered(REGISTER_TIMEOUT).await?;
    write_conf(conf_file, conf)?;
    mount_all(conf, wanted).await?;
    if !mount {
        welcome(conf, conf_file, None, wanted);
        tokio::select! {
            () = stop.asked() => return Ok(()),
            error = failure(master, worker) => return Err(error),
        }
    }
    let mounted = Mounted::start(conf).await?;
    welcome(conf, conf_file, Some(mounted.mount.path()), wanted);
    let failure = tokio::select! {
        () = stop.asked() => None,
        () = mounted.mount.wait() => None,
        error = failure(master, worker) => Some(error),
    };
    let ended = mounted.end().await;
    failure.map_or(ended, Err)
}

/// `URL=/path`; a url without a scheme is a local directory.
fn ufs_argument(text: &str, options: &[String]) -> Result<UfsMountArgs> {
    let wrong = || {
        Error::new(ErrorKind::Config, "write --ufs URL=/PATH, such as s3://bucket/prefix=/data or ./folder=/data")
            .with("ufs", text)
    };
    let (url, path) = text.rsplit_once('=').ok_or_else(wrong)?;
    if url.is_empty() || !path.starts_with('/') {
        return Err(wrong());
    }
    let url = match url.contains("://") {
        true => url.to_string(),
        false => {
            let folder = std::fs::canonicalize(url)
                .map_err(|source| Error::from_io(source, "no such directory for --ufs").with("path", url))?;
            format!("file://{}", folder.display())
        }
    };
    // A local directory takes no options; they are meant for the stores beside it.
    let config = if url.starts_with("file://") { Vec::new() } else { options.to_vec() };
    Ok(UfsMountArgs { url: Some(url), path: Some(path.to_string()), config, ..UfsMountArgs::default() })
}

fn make_directory(path: &Path) -> Result<PathBuf> {
    let failed = |source| Error::from_io(source, "cannot make the data directory").with("path", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    std::fs::canonicalize(path).map_err(failed)
}

/// Held until the process ends.
fn lock(data: &Path) -> Result<File> {
    let path = data.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file =
        file.map_err(|source| Error::from_io(source, "cannot make the lock file").with("path", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::new(ErrorKind::Busy, "another process runs on this data directory").with("path", data.display())
    })?;
    Ok(file)
}

fn configure(conf: &mut ClusterConf, data: &Path, arguments: &StandaloneArgs) -> Result<()> {
    // The ports of the last time, if they are free, so that mounts and shells of before go on.
    let before = std::fs::read_to_string(data.join(CONF_FILE)).ok();
    let before = before.and_then(|text| ClusterConf::parse(&text, CONF_FILE).ok()).map(|(conf, _)| conf);
    let web = before.as_ref().map_or_else(|| web_ports(conf), web_ports);
    let before = before.map_or([None; 2], |conf| [Some(conf.master.rpc_port), Some(conf.worker.rpc_port)]);
    let secret_file = data.join("secret");
    generate_secret_file(&secret_file)?;
    conf.security.secret_file = secret_file;
    conf.general.bind_hostname = Ipv4Addr::LOCALHOST.to_string();
    conf.master.hostname = HOST.to_string();
    conf.master.rpc_port = port(arguments.master_port, before[0])?;
    conf.worker.hostname = HOST.to_string();
    conf.worker.rpc_port = port(arguments.worker_port, before[1].filter(|port| *port != conf.master.rpc_port))?;
    [conf.master.web_port, conf.worker.web_port, conf.fuse.web_port] =
        [port(None, Some(web[0]))?, port(None, Some(web[1]))?, port(None, Some(web[2]))?];
    conf.journal.journal_dir = data.join("journal");
    let quota = arguments.quota.as_deref().map(parse_size).transpose()?;
    conf.worker.data_dir = vec![DataDir::new(DataDirKind::Ssd, quota, data.join("data"))];
    conf.client.hostname = HOST.to_string();
    conf.client.master_addrs = vec![format!("{}:{}", Ipv4Addr::LOCALHOST, conf.master.rpc_port)];
    if let Some(mount) = &arguments.mount {
        conf.fuse.mnt_path = std::path::absolute(mount)
            .map_err(|source| Error::from_io(source, "not a path").with("path", mount.display()))?;
        if conf.fuse.mnt_path.starts_with(data) || data.starts_with(&conf.fuse.mnt_path) {
            let message = "the mount must not lie in the data directory, nor the other way round";
            return Err(Error::new(ErrorKind::Config, message).with("path", mount.display()));
        }
    }
    conf.validate()
}

fn web_ports(conf: &ClusterConf) -> [u16; 3] {
    [conf.master.web_port, conf.worker.web_port, conf.fuse.web_port]
}

/// The port that was asked for, or else the one of before if it is free, or else a free one.
fn port(asked: Option<u16>, before: Option<u16>) -> Result<u16> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    if let Some(port) = asked {
        return Ok(port);
    }
    if let Some(Ok(address)) = before.map(bind) {
        return Ok(address.port());
    }
    let free = bind(0).map_err(|source| Error::from_io(source, "cannot find a free port"))?;
    Ok(free.port())
}

/// Written whole, so that a tool never reads half of it.
fn write_conf(path: &Path, conf: &ClusterConf) -> Result<()> {
    let failed = |source| Error::from_io(source, "cannot write the config file").with("path", path.display());
    let text = format!("# Written by `curvine standalone`, anew at each start.\n\n{}", conf.to_toml());
    let draft = path.with_extension("toml.tmp");
    std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, path)).map_err(failed)
}

/// Mounts the under file systems that are not in the table yet.
async fn mount_all(conf: &ClusterConf, wanted: &[UfsMountArgs]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let fs = FileSystem::connect(wiring::tool_client(conf)?, std::sync::Arc::new(NoEvents)).await?;
    let outcome = async {
        for mount in wanted {
            mounts::mount_unless_there(&fs, mount).await?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    let _ = fs.close(GRACE).await;
    outcome
}

/// Where the metrics are.
fn web_pages(conf: &ClusterConf, mount: bool) -> String {
    let ports = web_ports(conf);
    let pages = ports.iter().take(if mount { 3 } else { 2 });
    let pages: Vec<String> = pages.map(|port| format!("http://{}:{port}/metrics", conf.general.web_hostname)).collect();
    pages.join(" ")
}

/// What to try next.
fn welcome(conf: &ClusterConf, conf_file: &Path, mount: Option<&Path>, wanted: &[UfsMountArgs]) {
    let program = std::env::current_exe().map_or_else(|_| "curvine".to_string(), |path| path.display().to_string());
    println!("Curvine is running.\n");
    if let Some(mount) = mount {
        println!("  mount        {}", mount.display());
    }
    for (url, path) in wanted.iter().filter_map(|mount| Some((mount.url.as_ref()?, mount.path.as_ref()?))) {
        println!("  {url}\n               at {path}, read through and cached");
    }
    println!("  master       {}", conf.client.master_addrs.join(", "));
    println!("  metrics      {}", web_pages(conf, mount.is_some()));
    println!("  config file  {}\n", conf_file.display());
    println!("Try in another shell:\n");
    if let Some(mount) = mount {
        let mount = mount.display();
        println!("  echo hello > {mount}/hello.txt && cat {mount}/hello.txt");
        if let Some(path) = wanted.iter().find_map(|mount| mount.path.as_ref()) {
            println!("  ls -lR {mount}{path}");
        }
    }
    println!("  export CURVINE_CONF_FILE={}", conf_file.display());
    println!("  {program} report");
    println!("  {program} fs ls -l /");
    if let Some(path) = wanted.iter().find_map(|mount| mount.path.as_ref()) {
        println!("  {program} load {path} --watch");
    }
    println!("  {program} help\n");
    match mount {
        Some(_) => println!("Ctrl-C unmounts and stops."),
        None => println!("Ctrl-C stops."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(data: &Path) -> StandaloneArgs {
        StandaloneArgs {
            data: data.to_path_buf(),
            mount: None,
            ufs: Vec::new(),
            options: Vec::new(),
            quota: None,
            master_port: None,
            worker_port: None,
        }
    }

    #[test]
    fn the_config_that_is_written_reads_back_and_keeps_its_ports() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = ClusterConf::default();
        configure(&mut first, dir.path(), &arguments(dir.path())).unwrap();
        write_conf(&dir.path().join(CONF_FILE), &first).unwrap();
        let (read, warnings) = ClusterConf::load(Some(&dir.path().join(CONF_FILE))).unwrap();
        assert_eq!((read.client.master_addrs, warnings.len()), (first.client.master_addrs.clone(), 0));
        assert_eq!(read.security.secret_file, dir.path().join("secret"));
        let mut second = ClusterConf::default();
        configure(&mut second, dir.path(), &arguments(dir.path())).unwrap();
        assert_eq!((second.master.rpc_port, second.worker.rpc_port), (first.master.rpc_port, first.worker.rpc_port));
    }

    #[test]
    fn a_data_directory_serves_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert_eq!(lock(dir.path()).unwrap_err().kind(), ErrorKind::Busy);
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_url_may_hold_an_equals_sign_and_a_folder_needs_no_scheme() {
        let options = ["endpoint_url=http://x".to_string()];
        let s3 = ufs_argument("s3://b/a=b/c=/data", &options).unwrap();
        assert_eq!((s3.url.as_deref(), s3.path.as_deref()), (Some("s3://b/a=b/c"), Some("/data")));
        assert_eq!(s3.config, options);
        let dir = tempfile::tempdir().unwrap();
        let local = ufs_argument(&format!("{}=/d", dir.path().display()), &options).unwrap();
        assert!(local.url.unwrap().starts_with("file:///") && local.config.is_empty());
        for bad in ["s3://bucket", "s3://bucket=data", "=/data", "./no/such/folder=/data"] {
            assert!(ufs_argument(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mount_inside_the_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inside = StandaloneArgs { mount: Some(dir.path().join("mnt")), ..arguments(dir.path()) };
        assert!(configure(&mut ClusterConf::default(), dir.path(), &inside).is_err());
    }
}
