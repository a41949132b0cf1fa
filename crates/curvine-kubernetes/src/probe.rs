//! Readiness: whether a component does what it is for, now. Fluid has no other signal.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use curvine_config::ClusterConf;
use curvine_fuse_abi::mountinfo::mounts_on;
use curvine_proto::{ListWorkersReply, ListWorkersRequest, Method, PeerRole};
use curvine_rpc::{Address, Auth, Body, Channel, ClusterCell, Connector, Limits};
use curvine_types::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::configure::address;

/// A master is ready when it leads, or follows a leader that it knows.
pub async fn master(conf: &ClusterConf, patience: Duration) -> Result<()> {
    let host = match conf.general.bind_hostname.as_str() {
        "" => conf.master.hostname.as_str(),
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        other => other,
    };
    let own: Address = address(host, conf.master.rpc_port).parse()?;
    let deadline = Instant::now() + patience;
    let peer = connector(conf)?.connect(&own, deadline).await?;
    let answer: Result<(ListWorkersReply, _)> =
        peer.call(Method::ListWorkers, &ListWorkersRequest {}, Body::Empty, deadline).await;
    match answer {
        Ok(_) => Ok(()),
        Err(error)
            if error.kind() == ErrorKind::NotLeader && error.get("leader").is_some_and(|leader| !leader.is_empty()) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A worker is ready when the master counts it among the living.
pub async fn worker(conf: &ClusterConf, patience: Duration) -> Result<()> {
    let masters = conf.client.master_addrs.iter().map(|text| text.parse()).collect::<Result<Vec<Address>>>()?;
    let channel = Channel::new(connector(conf)?, masters, 1);
    let deadline = Instant::now() + patience;
    let (reply, _): (ListWorkersReply, _) =
        channel.call(Method::ListWorkers, &ListWorkersRequest {}, Body::Empty, deadline).await?;
    let own = |info: &&curvine_proto::WorkerInfo| {
        info.hostname == conf.worker.hostname && info.rpc_port == u32::from(conf.worker.rpc_port)
    };
    match reply.workers.iter().filter(own).any(|info| info.live) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Unavailable, "the master does not count this worker among the living")
            .with("worker", address(&conf.worker.hostname, conf.worker.rpc_port))),
    }
}

/// A client is ready when its mount is there and answers.
pub fn client(path: &Path, patience: Duration) -> Result<()> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let not_ready = |message: &str| Error::new(ErrorKind::Unavailable, message).with("path", path.display());
    let ours = |top: &curvine_fuse_abi::mountinfo::MountedAt| top.kind == curvine_fuse_abi::mount::FILESYSTEM_TYPE;
    if !mounts_on(&path)?.last().is_some_and(ours) {
        return Err(not_ready("nothing of ours is mounted"));
    }
    match statfs_within(&path, patience) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(not_ready("the mount does not answer").caused_by(error)),
        None => Err(not_ready("the mount does not answer in time")),
    }
}

/// Asks the file system behind a path; `None`: no answer in time. The thread that asks may then stay until there is one.
pub fn statfs_within(path: &Path, patience: Duration) -> Option<std::io::Result<()>> {
    let (sender, answer) = mpsc::channel();
    let path = path.to_path_buf();
    let asked = std::thread::Builder::new().name("statfs".into()).spawn(move || {
        let _ = sender.send(rustix::fs::statfs(&path).map(|_| ()).map_err(std::io::Error::from));
    });
    asked.ok()?;
    answer.recv_timeout(patience).ok()
}

fn connector(conf: &ClusterConf) -> Result<Connector> {
    let auth = Auth {
        secret: conf.secret()?,
        role: PeerRole::Client,
        cluster: Arc::new(ClusterCell::default()),
        hostname: conf.client.hostname.clone(),
        id: 0,
    };
    Ok(Connector::new(auth, Limits { connect_timeout: conf.client.conn_timeout_ms, ..Limits::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_mount() {
        let dir = tempfile::tempdir().unwrap();
        let error = client(dir.path(), Duration::from_secs(5)).unwrap_err();
        assert!(error.to_string().contains("nothing of ours is mounted"));
        assert!(statfs_within(dir.path(), Duration::from_secs(60)).unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_master_that_does_not_run_is_not_ready() {
        let mut conf = ClusterConf::default();
        conf.security.allow_no_secret = true;
        conf.general.bind_hostname = "0.0.0.0".into();
        conf.master.rpc_port = 1;
        assert!(master(&conf, Duration::from_millis(300)).await.is_err());
        conf.client.master_addrs = vec!["127.0.0.1:1".into()];
        assert!(worker(&conf, Duration::from_millis(300)).await.is_err());
    }
}
