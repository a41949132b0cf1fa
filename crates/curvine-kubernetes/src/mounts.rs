//! The mounts of a dataset, and how the mount table comes to be exactly them.
//!
//! Always: paths are compared as they are cleaned and reported byte for byte as Fluid wrote them; a path is never taken for
//! another that begins alike.

use std::collections::BTreeSet;

use curvine_types::{Error, ErrorKind, Result};

use crate::runtime::{DatasetMount, Runtime};

/// What a mount of the dataset asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Curvine's own tree.
    Own,
    /// A volume that Fluid mounts by itself and does not count.
    Fluid,
    /// An under file system.
    Store,
}

/// By the scheme of the mount point.
pub fn source(mount_point: &str) -> Source {
    match mount_point.split_once("://").map(|(scheme, _)| scheme) {
        Some("curvine" | "curvinefs" | "cv") => Source::Own,
        Some("local" | "pvc") => Source::Fluid,
        _ => Source::Store,
    }
}

/// Whether it needs no store and no credentials.
pub fn is_native(mount_point: &str) -> bool {
    source(mount_point) != Source::Store
}

/// Slashes that mean nothing go; `..` is refused, as its meaning would depend on symlinks.
pub fn clean(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !path.starts_with('/') || parts.contains(&"..") {
        return Err(
            Error::new(ErrorKind::Config, "the path of a mount must be absolute and without ..").with("path", path)
        );
    }
    Ok(format!("/{}", parts.join("/")))
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Cleaned paths of the table that the dataset does not list, or lists with another store.
    pub unmount: Vec<String>,
    /// Cleaned paths of Curvine's own tree.
    pub directories: Vec<String>,
    /// Stores, with their cleaned paths: new ones, and those whose options and credentials are replaced.
    pub mount: Vec<(String, DatasetMount)>,
    /// Every path as Fluid wrote it.
    pub report: Vec<String>,
}

/// From what is mounted (path and url) to what the dataset lists.
pub fn steps(runtime: &Runtime, table: &[(String, String)]) -> Result<Steps> {
    let mut steps = Steps::default();
    let mut seen = BTreeSet::new();
    let mut stores = Vec::new();
    for mount in &runtime.mounts {
        let path = clean(&mount.path)?;
        if !seen.insert(path.clone()) {
            return Err(
                Error::new(ErrorKind::Config, "two mounts of the dataset have the same path").with("path", path)
            );
        }
        match source(&mount.mount_point) {
            Source::Fluid => continue,
            Source::Own => steps.directories.push(path),
            Source::Store => stores.push((path, mount.clone())),
        }
        steps.report.push(mount.path.clone());
    }
    let url = |mount: &DatasetMount| mount.mount_point.trim_end_matches('/').to_string();
    for (path, mounted) in table {
        let wanted = stores.iter().find(|(wanted, _)| wanted == path).map(|(_, mount)| url(mount));
        if wanted.as_deref() != Some(mounted.trim_end_matches('/')) {
            steps.unmount.push(path.clone());
        }
    }
    // Outer paths first, inner ones off first.
    steps.unmount.sort_by(|a, b| b.cmp(a));
    stores.sort_by(|a, b| a.0.cmp(&b.0));
    steps.mount = stores;
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(mounts: &[(&str, &str)]) -> Runtime {
        let mounts = mounts.iter().map(|(url, path)| DatasetMount {
            mount_point: url.to_string(),
            path: path.to_string(),
            ..DatasetMount::default()
        });
        Runtime { mounts: mounts.collect(), ..Runtime::default() }
    }

    fn table(entries: &[(&str, &str)]) -> Vec<(String, String)> {
        entries.iter().map(|(path, url)| (path.to_string(), url.to_string())).collect()
    }

    #[test]
    fn what_is_not_listed_goes_and_what_is_listed_comes() {
        let runtime = runtime(&[("s3://b/", "/data"), ("curvine:///", "/demo"), ("local:///x", "/x")]);
        let steps = steps(&runtime, &table(&[("/data2", "s3://b"), ("/old", "s3://c")])).unwrap();
        assert_eq!(steps.unmount, ["/old", "/data2"]);
        assert_eq!(steps.mount[0].0, "/data");
        assert_eq!(
            (&steps.directories[..], &steps.report[..]),
            (&["/demo".to_string()][..], &["/data".into(), "/demo".into()][..])
        );
    }

    #[test]
    fn a_path_that_begins_alike_is_another_one() {
        let steps =
            steps(&runtime(&[("s3://b", "/data")]), &table(&[("/data2", "s3://b2"), ("/", "s3://root")])).unwrap();
        assert_eq!((steps.mount.len(), steps.unmount.len()), (1, 2));
    }

    #[test]
    fn another_store_at_the_same_path_replaces_the_first_and_the_same_one_is_updated() {
        let runtime = runtime(&[("s3://new", "/a"), ("s3://same/", "/b")]);
        let steps = steps(&runtime, &table(&[("/a", "s3://old"), ("/b", "s3://same")])).unwrap();
        assert_eq!(steps.unmount, ["/a"]);
        assert_eq!(steps.mount.len(), 2);
    }

    #[test]
    fn paths_are_reported_byte_for_byte() {
        let steps = steps(&runtime(&[("s3://b", "/a//b/")]), &[]).unwrap();
        assert_eq!((steps.report[0].as_str(), steps.mount[0].0.as_str()), ("/a//b/", "/a/b"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(steps(&runtime(&[("s3://b", "/a"), ("s3://c", "/a/")]), &[]).is_err());
        assert!(steps(&runtime(&[("s3://b", "/a/../b")]), &[]).is_err());
    }

    #[test]
    fn only_stores_need_a_store() {
        for native in ["curvine:///", "curvinefs://x", "local:///a", "pvc://p"] {
            assert!(is_native(native), "{native}");
        }
        assert!(!is_native("s3://curvine") && !is_native("file:///curvine://"));
    }
}
