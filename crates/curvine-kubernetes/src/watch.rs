//! Waiting for the file of the runtime, and noticing when it becomes another one.
//!
//! The kubelet swaps a symlink beside the file, so the file is always read anew by its path and never held open.

use std::path::Path;
use std::time::Duration;

use curvine_types::Result;
use tokio::time::Instant;

use crate::runtime::{self, Runtime};

/// How often the file is read; it is small and in memory.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reads the file, again and again until it says something. `None`: it has not until the deadline.
pub async fn wait(path: &Path, patience: Duration) -> Result<Option<Runtime>> {
    wait_every(INTERVAL, path, patience).await
}

async fn wait_every(interval: Duration, path: &Path, patience: Duration) -> Result<Option<Runtime>> {
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        // While it is being replaced it may be half of itself.
        match runtime::read(path) {
            Ok(Some(runtime)) => return Ok(Some(runtime)),
            Ok(None) if Instant::now() >= deadline => return Ok(None),
            Err(error) if Instant::now() >= deadline => return Err(error),
            waiting => {
                if !told {
                    let why = waiting.err().map(|error| error.to_string()).unwrap_or_default();
                    tracing::info!(file = %path.display(), why, "waiting for Fluid to describe the runtime");
                    told = true;
                }
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// Waits until the file says something else than `known`. What cannot be read is waited over.
pub async fn changed(path: &Path, known: Option<&Runtime>) -> Runtime {
    changed_every(INTERVAL, path, known).await
}

async fn changed_every(interval: Duration, path: &Path, known: Option<&Runtime>) -> Runtime {
    let mut broken = false;
    loop {
        tokio::time::sleep(interval).await;
        match runtime::read(path) {
            Ok(Some(found)) if Some(&found) != known => return found,
            Ok(_) => broken = false,
            Err(error) => {
                if !broken {
                    tracing::warn!(%error, "the runtime's file cannot be read, it stays as it was");
                }
                broken = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"targetPath":"/one"}"#;

    /// As the kubelet does it: a new directory, and a symlink that is swapped to it.
    fn publish(dir: &Path, version: &str, text: &str) {
        let data = dir.join(format!("..{version}"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("runtime.json"), text).unwrap();
        let draft = dir.join("..data_tmp");
        std::os::unix::fs::symlink(format!("..{version}"), &draft).unwrap();
        std::fs::rename(&draft, dir.join("..data")).unwrap();
        let _ = std::os::unix::fs::symlink("..data/runtime.json", dir.join("runtime.json"));
    }

    const SOON: Duration = Duration::from_millis(2);
    const LONG: Duration = Duration::from_secs(120);

    #[tokio::test]
    async fn a_file_that_says_nothing_yet_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runtime.json");
        assert_eq!(wait_every(SOON, &file, SOON).await.unwrap(), None);
        publish(dir.path(), "v1", "\"\"");
        assert_eq!(wait_every(SOON, &file, SOON).await.unwrap(), None);
        let waiting = tokio::spawn({
            let file = file.clone();
            async move { wait_every(SOON, &file, LONG).await }
        });
        tokio::task::yield_now().await;
        publish(dir.path(), "v2", ONE);
        assert!(waiting.await.unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_swap_of_the_symlink_is_noticed_and_rubbish_is_waited_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runtime.json");
        publish(dir.path(), "v1", ONE);
        let known = wait_every(SOON, &file, Duration::ZERO).await.unwrap();
        publish(dir.path(), "v2", "{ half");
        let watching = tokio::spawn({
            let file = file.clone();
            async move { changed_every(SOON, &file, known.as_ref()).await }
        });
        tokio::task::yield_now().await;
        publish(dir.path(), "v3", r#"{"targetPath":"/two"}"#);
        assert_eq!(watching.await.unwrap().target_path.unwrap(), Path::new("/two"));
    }

    #[tokio::test]
    async fn a_file_that_stays_rubbish_is_an_error_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        publish(dir.path(), "v1", "{ half");
        assert!(wait_every(SOON, &dir.path().join("runtime.json"), SOON).await.is_err());
    }
}
