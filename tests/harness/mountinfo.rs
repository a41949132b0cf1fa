//! What is mounted where, from `/proc/self/mountinfo`; asks no file system, so it cannot hang.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub device: String,
    pub path: PathBuf,
    pub kind: String,
}

/// Every mount of this namespace, later ones on top.
pub fn all() -> Vec<Entry> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("read /proc/self/mountinfo");
    text.lines().filter_map(parse).collect()
}

/// The mounts exactly at `path`.
pub fn at(path: &Path) -> Vec<Entry> {
    all().into_iter().filter(|entry| entry.path == path).collect()
}

/// The mounts at `path` and below.
pub fn below(path: &Path) -> Vec<Entry> {
    all().into_iter().filter(|entry| entry.path.starts_with(path)).collect()
}

/// Detaches every mount at `path` and below, the topmost first.
pub fn detach_below(path: &Path) {
    for entry in below(path).into_iter().rev() {
        let _ = unmount(&entry.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

fn parse(line: &str) -> Option<Entry> {
    let (front, back) = line.split_once(" - ")?;
    let mut fields = front.split(' ').skip(2);
    let device = fields.next()?.to_string();
    let path = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(1)?)));
    Some(Entry { device, path, kind: back.split(' ').next()?.to_string() })
}

/// Space, tab, newline and backslash are written as `\040` and so on.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| std::str::from_utf8(tail.get(..3)?).ok().and_then(|octal| u8::from_str_radix(octal, 8).ok()));
        match code.flatten() {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}
