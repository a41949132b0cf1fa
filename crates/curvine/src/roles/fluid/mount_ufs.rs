//! `curvine fluid mount-ufs`: makes the mount table what the dataset says.
//!
//! Always: standard output is one JSON object; running it twice does no more than running it once; credentials go from their
//! files to the master and nowhere else.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant};

use curvine_client::{FileSystem, NewNode};
use curvine_config::ClusterConf;
use curvine_kubernetes::mounts::steps;
use curvine_kubernetes::runtime::DatasetMount;
use curvine_kubernetes::{Identity, Runtime, watch};
use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use serde_json::json;

use super::connect;
use crate::args::UfsMountArgs;
use crate::tool::fs::change::make_all_in;
use crate::tool::mounts::{is_of_the_store, look_into, request};
use crate::tool::output::say;

/// How long closing the session may take.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Between two looks whether it is one's turn.
const TURN_POLL: Duration = Duration::from_millis(50);
/// Permission bits of what a mount makes in Curvine's own tree; the first one to write there need not be root.
const DIR_MODE: u32 = 0o777;
/// How long a look into the store is believed.
const TTL: &str = "10s";

/// Reads the file as it is now, converges, prints.
pub async fn run(conf: &ClusterConf, identity: &Identity, patience: Duration) -> Result<()> {
    let mounted = converge(conf, identity, patience).await?;
    say(&json!({ "mounted": mounted }).to_string())
}

/// Makes the mount table what the dataset says; its paths, as Fluid wrote them. The file is read when it is this one's turn, so
/// that nobody undoes what another one has done for a newer file.
pub async fn converge(conf: &ClusterConf, identity: &Identity, patience: Duration) -> Result<Vec<String>> {
    let path = identity.config_path.as_deref().ok_or_else(|| {
        Error::new(ErrorKind::Config, "FLUID_RUNTIME_CONFIG_PATH is not set: Fluid sets it where this is to run")
    })?;
    let _turn = turn(&identity.run_dir, patience).await?;
    let runtime = watch::wait(path, patience / 2).await?.ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "Fluid has not described the runtime yet").with("file", path.display())
    })?;
    let fs = connect(conf).await?;
    let outcome = converge_with(conf, &fs, &runtime).await;
    if let Err(error) = fs.close(CLOSE_GRACE).await {
        tracing::debug!(%error, "the session is left to expire");
    }
    outcome
}

/// One at a time changes the mount table in this pod. Held until it is dropped, or its process ends.
async fn turn(run_dir: &Path, patience: Duration) -> Result<Option<File>> {
    let path = run_dir.join("mounts.lock");
    let Ok(file) = File::options().create(true).truncate(false).write(true).open(&path) else {
        // No role has left its config here, so none follows the file either.
        return Ok(None);
    };
    let deadline = Instant::now() + patience;
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Busy, "another command is still changing the mount table")
                .with("file", path.display()));
        }
        tokio::time::sleep(TURN_POLL).await;
    }
    Ok(Some(file))
}

async fn converge_with(conf: &ClusterConf, fs: &FileSystem, runtime: &Runtime) -> Result<Vec<String>> {
    let table = fs.mount_table().await?.mounts;
    let table: Vec<(String, String)> =
        table.into_iter().map(|mount| (String::from_utf8_lossy(&mount.path).into_owned(), mount.url)).collect();
    let steps = steps(runtime, &table)?;
    for path in &steps.unmount {
        fs.umount_ufs(path.as_bytes(), false).await.map_err(|error| error.with("path", path))?;
        tracing::info!(path, "unmounted, the dataset does not list it");
    }
    for path in &steps.directories {
        let node = NewNode { mode: DIR_MODE, umask: 0, uid: 0, gid: 0 };
        make_all_in(fs, path, node, node).await.map_err(|error| error.with("path", path))?;
    }
    for (path, mount) in &steps.mount {
        let is_new = !table.iter().any(|(there, _)| there == path) || steps.unmount.contains(path);
        mount_store(conf, fs, path, mount, is_new).await.map_err(|error| error.with("path", path))?;
    }
    Ok(steps.report)
}

/// As `cv mount` takes it; credentials are named by their files.
fn arguments(path: &str, mount: &DatasetMount) -> UfsMountArgs {
    let plain = mount.options.iter().filter(|(name, _)| !mount.encrypt_options.contains_key(*name));
    let plain = plain.map(|(name, value)| format!("{name}={value}"));
    let encrypted = mount.encrypt_options.iter().map(|(name, file)| format!("{name}=@{}", file.display()));
    UfsMountArgs {
        url: Some(mount.mount_point.clone()),
        path: Some(path.to_string()),
        config: plain.chain(encrypted).collect(),
        ttl: Some(TTL.to_string()),
        // Whoever runs in a pod of the dataset may use it, as with Fluid's other runtimes.
        file_mode: Some("666".to_string()),
        dir_mode: Some("777".to_string()),
        ..UfsMountArgs::default()
    }
}

/// Mounts a store, or gives its mount the options and credentials of now. What a store refuses is not left in the table.
async fn mount_store(
    conf: &ClusterConf,
    fs: &FileSystem,
    path: &str,
    mount: &DatasetMount,
    is_new: bool,
) -> Result<()> {
    let mut request = request(&arguments(path, mount), conf.master.block_size)?;
    if let Some(settings) = &mut request.settings {
        settings.read_only |= mount.read_only;
    }
    fs.mount_ufs(request).await?;
    match look_into(fs, path.as_bytes()).await {
        Ok(()) => Ok(()),
        Err(error) if is_of_the_store(error.kind()) => {
            if is_new {
                fs.umount_ufs(path.as_bytes(), false).await?;
            }
            Err(error.with("mount", &mount.mount_point))
        }
        Err(error) => {
            tracing::warn!(path, %error, "it is mounted, but nobody could look into it yet");
            Ok(())
        }
    }
}

/// A number for what is in the files of credentials, which changes when they do.
pub fn credentials(runtime: &Runtime) -> BTreeMap<std::path::PathBuf, u64> {
    let files = runtime.mounts.iter().flat_map(|mount| mount.encrypt_options.values());
    let number = |file: &std::path::PathBuf| {
        let mut hasher = DefaultHasher::new();
        std::fs::read(file).ok().hash(&mut hasher);
        (file.clone(), hasher.finish())
    };
    files.map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_named_by_their_files_and_changes_of_them_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret-key");
        std::fs::write(&file, "one").unwrap();
        let mount = DatasetMount {
            mount_point: "s3://b".into(),
            options: [("endpoint_url".to_string(), "http://x".to_string()), ("secret".into(), "ignored".into())].into(),
            encrypt_options: [("secret".to_string(), file.clone())].into(),
            path: "/b".into(),
            read_only: true,
        };
        let arguments = arguments("/b", &mount);
        assert_eq!(arguments.config, ["endpoint_url=http://x".to_string(), format!("secret=@{}", file.display())]);
        let runtime = Runtime { mounts: vec![mount], ..Runtime::default() };
        let before = credentials(&runtime);
        assert_eq!(before, credentials(&runtime));
        std::fs::write(&file, "two").unwrap();
        assert_ne!(before, credentials(&runtime));
    }
}
