//! The look afterwards: reads everything back and compares it with what the writers were told.
//!
//! Always: of the one call that had no answer, everything or nothing is there; only a write may be there in part, and then each
//! byte is the old or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::tree::{Node, Op, Tree};

/// One name as it was found.
pub struct Seen {
    kind: Kind,
    inode: u64,
    links: u64,
    mode: u32,
}

enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    Other,
}

/// Everything below a directory, with contents.
pub type Found = BTreeMap<String, Seen>;

/// Reads a whole tree; any error is one of the cluster, because nothing is being killed any more.
pub fn scan(root: &Path) -> Result<Found, String> {
    let mut found = Found::new();
    let mut left = vec![String::new()];
    while let Some(dir) = left.pop() {
        let failed = |what: &str, error: std::io::Error| format!("cannot {what} {dir:?}: {error}");
        for entry in std::fs::read_dir(root.join(&dir)).map_err(|error| failed("list", error))? {
            let name = entry.map_err(|error| failed("list", error))?.file_name().to_string_lossy().into_owned();
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let seen = look(&root.join(&path)).map_err(|error| format!("cannot read {path:?}: {error}"))?;
            if matches!(seen.kind, Kind::Directory) {
                left.push(path.clone());
            }
            if found.insert(path.clone(), seen).is_some() {
                return Err(format!("{path:?} is listed twice"));
            }
        }
    }
    Ok(found)
}

fn look(path: &Path) -> std::io::Result<Seen> {
    let meta = std::fs::symlink_metadata(path)?;
    let kind = if meta.is_dir() {
        Kind::Directory
    } else if meta.is_symlink() {
        Kind::Symlink(std::fs::read_link(path)?.to_string_lossy().into_owned())
    } else if meta.is_file() {
        let content = std::fs::read(path)?;
        if content.len() as u64 != meta.len() {
            let wrong = format!("{} bytes by its attributes, {} by reading it", meta.len(), content.len());
            return Err(std::io::Error::other(wrong));
        }
        Kind::File(content)
    } else {
        Kind::Other
    };
    Ok(Seen { kind, inode: meta.ino(), links: meta.nlink(), mode: meta.mode() & 0o7777 })
}

/// Which of the possible outcomes is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was uncertain.
    Certain,
    /// The call without an answer was not made.
    NotMade,
    Made,
    /// A write that is there in part.
    PartlyMade,
}

/// Compares, and makes of `tree` what is there.
pub fn settle(tree: &mut Tree, pending: Option<&Op>, found: &BTreeMap<&str, &Seen>) -> Result<Outcome, String> {
    let Some(op) = pending else {
        return compare(tree, found).map(|()| Outcome::Certain);
    };
    let without = compare(tree, found);
    if without.is_ok() {
        return Ok(Outcome::NotMade);
    }
    let mut made = tree.clone();
    made.apply(op);
    let with = compare(&made, found);
    if with.is_ok() {
        *tree = made;
        return Ok(Outcome::Made);
    }
    if let Some(path) = op.changes_bytes_of() {
        let mixed = mixture(tree, &made, path, found)?;
        set_content(&mut made, path, mixed);
        compare(&made, found)?;
        *tree = made;
        return Ok(Outcome::PartlyMade);
    }
    Err(format!(
        "a call without an answer is half made: {op:?}\n  if it was not made: {}\n  if it was: {}",
        without.unwrap_err(),
        with.unwrap_err()
    ))
}

fn set_content(tree: &mut Tree, path: &str, content: Vec<u8>) {
    if let Some(Node::File(number)) = tree.names.get(path)
        && let Some(file) = tree.files.get_mut(number)
    {
        file.content = Arc::new(content);
    }
}

/// What is there of a write that had no answer, if that is a mixture of old and new bytes.
fn mixture(old: &Tree, new: &Tree, path: &str, found: &BTreeMap<&str, &Seen>) -> Result<Vec<u8>, String> {
    let content = |tree: &Tree| tree.file(path).map(|file| file.content.clone()).ok_or(format!("{path} is no file"));
    let (old, new) = (content(old)?, content(new)?);
    let Some(Seen { kind: Kind::File(there), .. }) = found.get(path) else { return Err(format!("{path} is lost")) };
    let lengths = old.len().min(new.len())..=old.len().max(new.len());
    if !lengths.contains(&there.len()) {
        return Err(format!("{path} has {} bytes; expected: {lengths:?}", there.len()));
    }
    let foreign = there.iter().enumerate().position(|(place, byte)| {
        // Between the old end and a later piece that arrived first are zeroes.
        let before = old.get(place).or_else(|| new.get(place).map(|_| &0));
        Some(byte) != before && Some(byte) != new.get(place)
    });
    match foreign {
        Some(place) => Err(format!("byte {place} of {path} is neither the old nor the new one")),
        None => Ok(there.clone()),
    }
}

fn compare(tree: &Tree, found: &BTreeMap<&str, &Seen>) -> Result<(), String> {
    let wanted: BTreeSet<&str> = tree.names.keys().map(String::as_str).collect();
    let there: BTreeSet<&str> = found.keys().copied().collect();
    if let Some(lost) = wanted.difference(&there).next() {
        return Err(format!("{lost} is lost ({:?})", tree.names[*lost]));
    }
    if let Some(extra) = there.difference(&wanted).next() {
        return Err(format!("{extra} is there and should not be"));
    }
    let mut inodes: BTreeMap<u64, u64> = BTreeMap::new();
    for (path, node) in &tree.names {
        let seen = found[path.as_str()];
        match (node, &seen.kind) {
            (Node::Directory, Kind::Directory) => {}
            (Node::Symlink(target), Kind::Symlink(seen)) if target == seen => {}
            (Node::File(number), Kind::File(content)) => {
                let file = &tree.files[number];
                if content != &*file.content {
                    return Err(difference(path, &file.content, content, file.synced));
                }
                if (seen.mode, seen.links) != (file.mode, tree.links(*number) as u64) {
                    let want = (file.mode, tree.links(*number));
                    return Err(format!("{path}: mode and links are {:?}, not {want:?}", (seen.mode, seen.links)));
                }
                if *inodes.entry(*number).or_insert(seen.inode) != seen.inode {
                    return Err(format!("{path} is no hard link any more"));
                }
            }
            (node, _) => return Err(format!("{path} is something else than {node:?}")),
        }
    }
    let distinct: BTreeSet<u64> = inodes.values().copied().collect();
    if distinct.len() != inodes.len() {
        return Err("two files have one inode number".to_string());
    }
    Ok(())
}

fn difference(path: &str, want: &[u8], have: &[u8], synced: bool) -> String {
    let first = want.iter().zip(have).position(|(want, have)| want != have).unwrap_or(want.len().min(have.len()));
    let last = if synced { "fsynced" } else { "acknowledged" };
    let zero = have.get(first) == Some(&0);
    format!(
        "{path}: {last} bytes are lost: {} of {} bytes are there, they differ from byte {first} on (zero: {zero})",
        have.len(),
        want.len()
    )
}
