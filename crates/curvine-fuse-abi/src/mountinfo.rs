//! What is mounted, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use curvine_types::{Error, Result};

/// One line of mountinfo, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedAt {
    /// Unique while mounted.
    pub id: u32,
    /// The mount that it is in.
    pub parent: u32,
    /// Of the device that the super block has; for FUSE the major number is 0.
    pub major: u32,
    pub minor: u32,
    pub path: PathBuf,
    /// For example `fuse.curvine`.
    pub kind: String,
    pub source: String,
}

/// The mounts on exactly this path, the one that is visible last.
pub fn mounts_on(path: &Path) -> Result<Vec<MountedAt>> {
    Ok(mounts()?.into_iter().filter(|mount| mount.path == path).collect())
}

/// All mounts of this mount namespace.
pub fn mounts() -> Result<Vec<MountedAt>> {
    let text =
        std::fs::read("/proc/self/mountinfo").map_err(|error| Error::from_io(error, "cannot read the mount table"))?;
    Ok(parse(&text))
}

/// All mounts; lines of an unknown shape are left out.
fn parse(text: &[u8]) -> Vec<MountedAt> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `id parent major:minor root path options [tags...] - type source superoptions`
fn parse_line(line: &[u8]) -> Option<MountedAt> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let (major, minor) = (number(device.next()?)?, number(device.next()?)?);
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    Some(MountedAt { id, parent, major, minor, path, kind, source })
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Spaces, tabs, newlines and backslashes are written as `\040` and the like.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'\\').then(|| tail.first_chunk::<3>()).flatten();
        let code = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_tags_and_escapes_is_understood() {
        let text = b"36 35 0:57 / /mnt/a\\040b\\134 rw,noatime shared:1 master:2 - fuse.curvine curvine rw,user_id=0\n\
            broken line\n22 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].path, Path::new("/mnt/a b\\"));
        assert_eq!((mounts[0].id, mounts[0].parent, mounts[0].major, mounts[0].minor), (36, 35, 0, 57));
        assert_eq!((mounts[0].kind.as_str(), mounts[0].source.as_str()), ("fuse.curvine", "curvine"));
        assert_eq!(mounts[1].kind, "ext4");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(!mounts_on(Path::new("/")).unwrap().is_empty());
        assert!(mounts_on(Path::new("/no/such/mount")).unwrap().is_empty());
    }
}
