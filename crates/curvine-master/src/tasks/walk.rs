//! Finding the files of a task's trees.
//!
//! Always: what cannot be looked at is a failure of the task with its path, and the walk goes on. Memory is bounded by the depth of the
//! trees times their directories' directories, not by their files.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use curvine_proto::{Attr, FileKind, Layout, TaskSpec};
use curvine_types::{Error, ErrorKind, ROOT_INODE, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Progress;
use super::glob::{fits, is_pattern};
use crate::leader::Leader;

/// Directories looked at at once.
const DIRECTORIES_AT_ONCE: usize = 16;
/// Names read from the namespace at once.
const PAGE: usize = 1000;
/// Longest look into one directory of a store.
const LOOK: Duration = Duration::from_secs(1800);
/// Directories that one pattern may match.
const MATCHES_MAX: usize = 100_000;

/// A file that a walk came to, as the log had it then.
pub(super) struct Found {
    pub path: Vec<u8>,
    pub attr: Attr,
    pub layout: Layout,
}

/// Where the walk is to go.
struct Place {
    path: Vec<u8>,
    attr: Attr,
}

/// How a walk looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Only at what is known.
    Known,
    /// Into the stores, unless that was done lately.
    Stores,
    /// Into the stores, again, wherever something is known.
    Again,
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.strip_suffix(b"/").unwrap_or(dir).to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

impl Leader {
    /// Sends every file of the trees; ends when all are sent or nobody takes them any more.
    pub(super) async fn walk(&self, spec: &TaskSpec, look: Look, progress: &Progress, files: mpsc::Sender<Found>) {
        let mut waiting: Vec<Place> = Vec::new();
        for typed in &spec.paths {
            match self.places(typed, look).await {
                Ok(places) => waiting.extend(places.into_iter().rev()),
                Err(error) => progress.failed(typed, &error),
            }
        }
        let mut looking = FuturesUnordered::new();
        loop {
            while looking.len() < DIRECTORIES_AT_ONCE
                && let Some(place) = waiting.pop()
            {
                looking.push(self.visit(place, look, &files));
            }
            self.tasks.queued.store(waiting.len() + looking.len(), Relaxed);
            let Some((path, visited)) = looking.next().await else { break };
            match visited {
                Ok(below) => waiting.extend(below),
                Err(error) => progress.failed(&path, &error),
            }
            if files.is_closed() {
                return;
            }
        }
    }

    /// Sends a file, or the files of a directory; the directories in it.
    async fn visit(&self, place: Place, look: Look, files: &mpsc::Sender<Found>) -> (Vec<u8>, Result<Vec<Place>>) {
        let Place { path, attr } = place;
        let visited = match attr.kind() {
            FileKind::File => self.send(path.clone(), attr, files).await.map(|()| Vec::new()),
            FileKind::Directory => self.visit_directory(&path, &attr, look, files).await,
            _ => Ok(Vec::new()),
        };
        (path, visited)
    }

    async fn send(&self, path: Vec<u8>, attr: Attr, files: &mpsc::Sender<Found>) -> Result<()> {
        let layout = match self.replica.state().read().0.layout(attr.inode, false) {
            Ok(layout) => layout,
            // Removed since.
            Err(error) if error.kind() == ErrorKind::Stale => return Ok(()),
            Err(error) => return Err(error),
        };
        // Nobody takes it: the task is over.
        let _ = files.send(Found { path, attr, layout }).await;
        Ok(())
    }

    async fn visit_directory(
        &self,
        path: &[u8],
        attr: &Attr,
        look: Look,
        files: &mpsc::Sender<Found>,
    ) -> Result<Vec<Place>> {
        let mut below = Vec::new();
        let mut after = 0;
        self.look_into(attr, look).await?;
        loop {
            let (entries, end) = self.replica.state().read().0.readdir(attr.inode, after, PAGE)?;
            for entry in entries {
                after = entry.cookie;
                let Some(child) = entry.attr else { continue };
                let path = joined(path, &entry.name);
                match child.kind() {
                    FileKind::Directory => below.push(Place { path, attr: child }),
                    FileKind::File => self.send(path, child, files).await?,
                    _ => {}
                }
            }
            if end {
                return Ok(below);
            }
        }
    }

    async fn look_into(&self, dir: &Attr, look: Look) -> Result<()> {
        if dir.mount == 0 {
            return Ok(());
        }
        let deadline = Instant::now() + LOOK;
        match look {
            Look::Known => Ok(()),
            Look::Stores => self.fault_in_listing(dir, deadline).await,
            Look::Again => {
                let known = {
                    let state = self.replica.state().read();
                    let listed = state.0.ufs_dir(dir.inode).is_some_and(|dir| dir.complete_at.is_some());
                    listed || !state.0.ufs_names(dir.inode, 0, 1)?.0.is_empty()
                };
                if known { self.list_again(dir.inode, deadline).await } else { Ok(()) }
            }
        }
    }

    /// What a typed path names: itself if it is there, else all that fit it as a pattern; nothing is an error.
    async fn places(&self, typed: &[u8], look: Look) -> Result<Vec<Place>> {
        let parts: Vec<&[u8]> = typed.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let root = Place { path: b"/".to_vec(), attr: self.attr_now(ROOT_INODE)? };
        let missing =
            |message| Err(Error::new(ErrorKind::NotFound, message).with("path", String::from_utf8_lossy(typed)));
        if let Some(place) = self.descend(&root, &parts, look).await? {
            return Ok(vec![place]);
        }
        if !parts.iter().any(|part| is_pattern(part)) {
            return missing("there is no such file or directory");
        }
        let places = self.matches(root, &parts, look).await?;
        if places.is_empty() { missing("nothing fits the pattern") } else { Ok(places) }
    }

    async fn child(&self, dir: &Place, name: &[u8], look: Look) -> Result<Option<Place>> {
        if dir.attr.kind() != FileKind::Directory {
            return Ok(None);
        }
        if dir.attr.mount != 0 && look != Look::Known {
            self.fault_in_name(&dir.attr, &Bytes::copy_from_slice(name), Instant::now() + LOOK).await?;
        }
        let found = self.name_now(dir.attr.inode, name)?;
        Ok(found.map(|attr| Place { path: joined(&dir.path, name), attr }))
    }

    async fn descend(&self, from: &Place, parts: &[&[u8]], look: Look) -> Result<Option<Place>> {
        let mut place = Place { path: from.path.clone(), attr: from.attr };
        for part in parts {
            match self.child(&place, part, look).await? {
                Some(child) => place = child,
                None => return Ok(None),
            }
        }
        Ok(Some(place))
    }

    /// All that fits; `**` stands for any directories, also none.
    async fn matches(&self, root: Place, parts: &[&[u8]], look: Look) -> Result<Vec<Place>> {
        let mut here = vec![root];
        for (position, part) in parts.iter().enumerate() {
            let is_last = position + 1 == parts.len();
            let mut next = Vec::new();
            while let Some(dir) = here.pop() {
                if *part == b"**" {
                    for child in self.children(&dir, look).await? {
                        match child.attr.kind() {
                            FileKind::Directory => here.push(child),
                            _ if is_last => next.push(child),
                            _ => {}
                        }
                    }
                    // As the last part it stands for the files, which are those that were just found.
                    if !is_last {
                        next.push(dir);
                    }
                } else if is_pattern(part) {
                    let children = self.children(&dir, look).await?;
                    let name = |place: &Place| place.path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
                    next.extend(children.into_iter().filter(|child| name(child).is_some_and(|name| fits(part, &name))));
                } else if let Some(child) = self.child(&dir, part, look).await? {
                    next.push(child);
                }
                if next.len() + here.len() > MATCHES_MAX {
                    return Err(Error::new(ErrorKind::TooBig, "the pattern fits too much, name the directory above")
                        .with("limit", MATCHES_MAX));
                }
            }
            here = next;
        }
        Ok(here)
    }

    async fn children(&self, dir: &Place, look: Look) -> Result<Vec<Place>> {
        if dir.attr.kind() != FileKind::Directory {
            return Ok(Vec::new());
        }
        self.look_into(&dir.attr, look).await?;
        let (mut children, mut after) = (Vec::new(), 0);
        loop {
            let (entries, end) = self.replica.state().read().0.readdir(dir.attr.inode, after, PAGE)?;
            for entry in entries {
                after = entry.cookie;
                let path = joined(&dir.path, &entry.name);
                children.extend(entry.attr.map(|attr| Place { path, attr }));
            }
            if end {
                return Ok(children);
            }
        }
    }
}
