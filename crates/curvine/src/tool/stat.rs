//! `cv stat`: where a file's bytes are, how old what is known of it is, and how the kernel reads it here.
//!
//! Always: a worker that does not answer is told and holds up nothing else; the file is not opened, so nothing is fetched.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use curvine_fuse_abi::mountinfo::{MountedAt, mounts};
use curvine_proto::{Attr, ContentMapReply, GetLayoutReply, Layout, UfsLayout, WorkerInfo, layout};
use curvine_types::units::format_size;
use curvine_types::{Error, ErrorKind, InodeId, Result, WorkerId};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Context;
use super::output::{age_text, attr_json, kind_word, mode_text, say, say_json};
use super::path::clean;

/// How long a mount of this machine may take for an answer.
const MOUNT_PATIENCE: Duration = Duration::from_secs(5);
/// Some of the bytes cannot be had.
const MISSING: u8 = 3;
/// Longest answer of a mount.
const STATUS_MAX: usize = 4096;

/// What was typed.
struct Subject {
    shown: String,
    inode: InodeId,
    /// What the mount says of it, if it was named by a path on one.
    here: Option<String>,
}

/// What a worker has of it.
struct Held {
    worker: WorkerId,
    info: Option<WorkerInfo>,
    map: Result<ContentMapReply>,
}

/// Prints what is known of a file.
pub async fn run(context: &Context, typed: &str) -> Result<ExitCode> {
    let subject = find(context, typed).await?;
    let reply = context.fs.layout(subject.inode).await?;
    let attr = reply.attr.unwrap_or_default();
    let layout = reply.layout.clone().unwrap_or_default();
    let infos = context.fs.workers().await?.workers;
    let held: Vec<Held> = context
        .fs
        .content_maps(subject.inode)
        .await?
        .into_iter()
        .map(|(worker, map)| Held { worker, info: infos.iter().find(|info| info.id == worker).cloned(), map })
        .collect();
    let missing = missing(&layout, &held);
    let ttl = context.fs.ttls(subject.inode).await?.into_iter().next();
    if context.json {
        let mut value = as_json(&subject, &attr, &layout, &reply, &held, missing.as_deref());
        value["ttl"] = ttl.as_ref().map_or(Value::Null, super::ttl::as_json);
        say_json(&value)?;
    } else {
        let mut lines = vec![subject.shown.clone()];
        lines.extend(lines_of(&subject, &attr, &layout, &reply, &held));
        lines.extend(ttl.iter().map(|ttl| format!("  ttl         {}", super::ttl::text(ttl))));
        lines.push(verdict(&layout, &held, missing.as_deref()));
        say(&lines.join("\n"))?;
    }
    Ok(if missing.is_some() { ExitCode::from(MISSING) } else { ExitCode::SUCCESS })
}

/// A path on a mount of this machine, if there is such a file, else a path of Curvine.
async fn find(context: &Context, typed: &str) -> Result<Subject> {
    if !typed.contains("://") {
        let path = PathBuf::from(typed);
        // A mount that hangs must not take this with it.
        let looking = tokio::task::spawn_blocking(move || on_a_mount(&path));
        match timeout(MOUNT_PATIENCE, looking).await {
            Ok(Ok(Ok(Some((inode, here))))) => {
                return Ok(Subject { shown: typed.to_string(), inode, here: Some(here) });
            }
            Ok(Ok(Ok(None))) | Ok(Err(_)) => {}
            Ok(Ok(Err(error))) => return Err(error.with("path", typed)),
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "the mount does not answer; `cv doctor` tells why, and cv://PATH asks the cluster without it",
                )
                .with("path", typed));
            }
        }
    }
    let path = clean(typed)?;
    let inode = context.fs.resolve(path.as_bytes()).await.map_err(|error| error.with("path", &path))?.attr.inode;
    Ok(Subject { shown: path, inode, here: None })
}

/// The inode and what the mount says, if the path is on a mount of Curvine; `None`: it is not.
fn on_a_mount(path: &Path) -> Result<Option<(InodeId, String)>> {
    let Ok(full) = std::path::absolute(path) else { return Ok(None) };
    if mount_of(&full, &mounts()?).is_none() {
        return Ok(None);
    }
    let failed = |error: rustix::io::Errno| Error::from_io(error.into(), "cannot look at the file");
    let found = rustix::fs::stat(&full).map_err(failed)?;
    let mut status = vec![0; STATUS_MAX];
    // On another file system, which a symlink led to, there is no such attribute.
    match rustix::fs::getxattr(&full, "curvine.status", &mut status[..]) {
        Ok(length) => Ok(Some((found.st_ino, String::from_utf8_lossy(&status[..length]).into_owned()))),
        Err(_) => Ok(None),
    }
}

/// The mount that a path is on, if it is one of Curvine.
fn mount_of<'a>(path: &Path, mounts: &'a [MountedAt]) -> Option<&'a MountedAt> {
    // Of two on one path the later one covers the other.
    let on = mounts.iter().filter(|mount| path.starts_with(&mount.path));
    on.max_by_key(|mount| mount.path.as_os_str().len()).filter(|mount| mount.kind == "fuse.curvine")
}

/// Chunks by their state: absent, present, hole, dirty.
fn counts(map: &ContentMapReply) -> [usize; 4] {
    [0, 1, 2, 3].map(|state| map.states.iter().filter(|have| **have == state).count())
}

/// Why some of the bytes cannot be had; `None`: all can.
fn missing(layout: &Layout, held: &[Held]) -> Option<String> {
    let Some(layout::Kind::Blocks(_)) = &layout.kind else { return None };
    held.iter().find_map(|held| match &held.map {
        Err(error) => Some(format!("worker {}, which alone has them, does not give them: {error}", held.worker)),
        Ok(map) => match counts(map) {
            [0, ..] => None,
            [absent, ..] => Some(format!("worker {} has lost {absent} of its chunks", held.worker)),
        },
    })
}

fn lines_of(subject: &Subject, attr: &Attr, layout: &Layout, reply: &GetLayoutReply, held: &[Held]) -> Vec<String> {
    let mut lines = vec![
        format!("  inode       {}, generation {}, {}", attr.inode, layout.generation, kind_word(attr.kind())),
        format!("  attributes  {} {}:{}, {} bytes", mode_text(attr), attr.uid, attr.gid, attr.size),
        format!("  content     {}", content_text(layout)),
    ];
    if let Some(layout::Kind::Ufs(ufs)) = &layout.kind {
        lines.push(format!("  object      {}", object_text(ufs)));
        let age = match reply.observed_age_ms {
            Some(age) => format!("the store was looked at {} ago", age_text(age)),
            None => "the store is looked at when the file is opened".to_string(),
        };
        lines.push(format!("  age         {age}"));
    } else if attr.mount != 0 {
        lines.push("  store       not there yet: the file waits to be uploaded".to_string());
    }
    for held in held {
        lines.push(format!("  held        {}", held_text(held)));
    }
    if !held.is_empty() {
        let maps: Vec<&ContentMapReply> = held.iter().filter_map(|held| held.map.as_ref().ok()).collect();
        let whole = maps.iter().filter(|map| counts(map)[0] == 0).count();
        let parts = maps.iter().filter(|map| counts(map)[0] > 0 && map.present_bytes > 0).count();
        lines.push(format!("  copies      {whole} whole, {parts} in part"));
    }
    if let Some(here) = &subject.here {
        lines.push(format!("  this mount  {here}"));
    }
    lines
}

fn content_text(layout: &Layout) -> String {
    match &layout.kind {
        Some(layout::Kind::Inline(_)) => "kept in the metadata, on all masters".to_string(),
        Some(layout::Kind::Blocks(blocks)) if blocks.live => "on workers, and may be being written".to_string(),
        Some(layout::Kind::Blocks(_)) => "on workers, sealed".to_string(),
        Some(layout::Kind::Ufs(_)) => "in the store; workers cache it".to_string(),
        None => "none".to_string(),
    }
}

fn object_text(ufs: &UfsLayout) -> String {
    format!("{} of mount {}, etag {:?}, {} bytes", ufs.key, ufs.mount, ufs.etag, ufs.size)
}

fn held_text(held: &Held) -> String {
    let address = held.info.as_ref().map_or("unknown to the master", |info| info.address.as_str());
    let map = match &held.map {
        Ok(map) => map,
        Err(error) => return format!("worker {} ({address}): {error}", held.worker),
    };
    let [absent, present, hole, dirty] = counts(map);
    let tier = if map.tier.is_empty() { "nothing".to_string() } else { format!("{} {}", map.tier, map.path) };
    let pinned = if map.pinned { ", pinned" } else { "" };
    format!(
        "worker {} ({address}): {} of {}; chunks: {present} present, {hole} hole, {dirty} dirty, {absent} absent; {tier}{pinned}",
        held.worker,
        format_size(map.present_bytes),
        format_size(map.size),
    )
}

fn verdict(layout: &Layout, held: &[Held], missing: Option<&str>) -> String {
    if let Some(why) = missing {
        return format!("  READING     FAILS for some of the bytes: {why}");
    }
    let whole = held.iter().filter_map(|held| held.map.as_ref().ok()).any(|map| counts(map)[0] == 0);
    let text = match &layout.kind {
        Some(layout::Kind::Ufs(_)) if whole => "needs nothing from the store",
        Some(layout::Kind::Ufs(_)) => "fetches from the store what no worker has",
        Some(_) => "needs nothing from a store",
        None => "is not possible: this is no file",
    };
    format!("  reading     {text}")
}

fn as_json(
    subject: &Subject,
    attr: &Attr,
    layout: &Layout,
    reply: &GetLayoutReply,
    held: &[Held],
    missing: Option<&str>,
) -> Value {
    let kind = match &layout.kind {
        Some(layout::Kind::Inline(_)) => "inline",
        Some(layout::Kind::Blocks(_)) => "blocks",
        Some(layout::Kind::Ufs(_)) => "ufs",
        None => "none",
    };
    let object = match &layout.kind {
        Some(layout::Kind::Ufs(ufs)) => {
            json!({ "mount": ufs.mount, "key": ufs.key, "etag": ufs.etag, "size": ufs.size, "observed_age_ms": reply.observed_age_ms })
        }
        _ => Value::Null,
    };
    let held = held.iter().map(|held| {
        let mut value = json!({
            "worker": held.worker,
            "address": held.info.as_ref().map(|info| info.address.as_str()),
            "live": held.info.as_ref().is_some_and(|info| info.live),
        });
        match &held.map {
            Ok(map) => {
                let [absent, present, hole, dirty] = counts(map);
                value["tier"] = json!(map.tier);
                value["file"] = json!(map.path);
                value["pinned"] = json!(map.pinned);
                value["present_bytes"] = json!(map.present_bytes);
                value["chunks"] = json!({ "absent": absent, "present": present, "hole": hole, "dirty": dirty });
            }
            Err(error) => value["error"] = json!(error.to_string()),
        }
        value
    });
    let mut attributes = attr_json(&subject.shown, attr);
    attributes["content"] = json!(kind);
    attributes["object"] = object;
    attributes["waits_for_upload"] = json!(attr.mount != 0 && kind != "ufs" && kind != "none");
    attributes["held"] = held.collect();
    attributes["this_mount"] = json!(subject.here);
    attributes["missing"] = json!(missing);
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_innermost_mount() {
        let at = |path: &str, kind: &str| MountedAt {
            id: 1,
            parent: 0,
            major: 0,
            minor: 0,
            path: path.into(),
            kind: kind.into(),
            source: String::new(),
        };
        let mounts = [
            at("/", "ext4"),
            at("/mnt", "fuse.curvine"),
            at("/mnt/x", "tmpfs"),
            at("/over", "fuse.curvine"),
            at("/over", "ext4"),
        ];
        let found = |path: &str| mount_of(Path::new(path), &mounts).map(|mount| mount.path.display().to_string());
        assert_eq!(found("/mnt/a"), Some("/mnt".to_string()));
        assert_eq!((found("/mnt/x/a"), found("/a"), found("/mntx"), found("/over/a")), (None, None, None, None));
    }

    #[test]
    fn only_content_without_another_source_can_be_missing() {
        let map = |states: &[u8]| ContentMapReply { states: states.to_vec().into(), ..Default::default() };
        let held = |map| [Held { worker: 1, info: None, map }];
        let blocks = Layout { kind: Some(layout::Kind::Blocks(Default::default())), ..Default::default() };
        let ufs = Layout { kind: Some(layout::Kind::Ufs(Default::default())), ..Default::default() };
        assert!(missing(&blocks, &held(Ok(map(&[1, 2, 3])))).is_none());
        assert!(missing(&blocks, &held(Ok(map(&[1, 0])))).is_some_and(|why| why.contains("1 of its chunks")));
        let gone = || Err(Error::new(ErrorKind::Unavailable, "the worker is lost"));
        assert!(missing(&blocks, &held(gone())).is_some());
        assert!(missing(&ufs, &held(gone())).is_none());
    }
}
