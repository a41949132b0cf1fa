//! Paths of Curvine as they are typed.

use curvine_client::{Entry, FileSystem};
use curvine_proto::FileKind;
use curvine_types::{Error, ErrorKind, Result};

/// Checks and cleans an absolute path: `cv://` before it, double and trailing slashes and `.` go; `..` is refused, because its
/// meaning would depend on symlinks.
pub fn clean(typed: &str) -> Result<String> {
    let wrong = |message: &str| Error::new(ErrorKind::InvalidArgument, message).with("path", typed);
    let path = typed.strip_prefix("cv://").or_else(|| typed.strip_prefix("curvine://")).unwrap_or(typed);
    if !path.starts_with('/') {
        return Err(wrong("a path of Curvine begins with /"));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(wrong("a path of Curvine has no .. in it"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The path of an entry in a directory.
pub fn join(dir: &str, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    if dir == "/" { format!("/{name}") } else { format!("{dir}/{name}") }
}

/// The last part; empty for the root.
pub fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The entry at a typed path; `None`: there is nothing.
pub async fn find(fs: &FileSystem, path: &str) -> Result<Option<Entry>> {
    match fs.resolve(path.as_bytes()).await {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it is a directory.
pub fn is_directory(entry: &Entry) -> bool {
    entry.attr.kind() == FileKind::Directory
}

/// Permission bits in octal.
pub fn mode(text: &str) -> Result<u32> {
    let bits = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|bits| *bits <= 0o7777);
    bits.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "permission bits are written in octal, such as 644").with("mode", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_paths_are_cleaned() {
        for (typed, path) in
            [("/", "/"), ("//a//b/", "/a/b"), ("/a/./b", "/a/b"), ("cv:///x", "/x"), ("curvine:///", "/")]
        {
            assert_eq!(clean(typed).unwrap(), path);
        }
        for bad in ["", "a", "../a", "/a/../b", "s3://b/x"] {
            assert!(clean(bad).is_err(), "{bad}");
        }
        assert_eq!((join("/", b"a"), join("/a", b"b")), ("/a".to_string(), "/a/b".to_string()));
        assert_eq!((last("/"), last("/a/b")), ("", "b"));
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!((mode("644").unwrap(), mode("0o1777").unwrap()), (0o644, 0o1777));
        assert!(mode("8").is_err() && mode("77777").is_err() && mode("u+x").is_err());
    }
}
