//! Names of a local directory that cannot be shown: those that are no text, and what is neither file nor directory.

use std::os::fd::AsFd;

use curvine_types::{Error, ErrorKind, Result};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::local::{Tree, is_apart};
use crate::{OddKey, SurveyPage};

/// Odd names that are told; beyond them something else is wrong.
const ODD_MAX: usize = 10_000;

impl Tree {
    /// All of it in one go: there is no order in which a walk could be continued.
    pub(crate) fn survey(&self, prefix: &str) -> Result<SurveyPage> {
        let mut page = SurveyPage::default();
        let mut waiting = vec![prefix.trim_end_matches('/').to_string()];
        while let Some(key) = waiting.pop() {
            let failed =
                |errno: Errno| Error::from_io(errno.into(), "cannot list in the under file system").with("key", &key);
            // One that has gone meanwhile.
            let Some(fd) = self.open(&key, OFlags::RDONLY)? else { continue };
            for entry in rustix::fs::Dir::read_from(fd.as_fd()).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().to_bytes();
                if is_apart(&key, name) {
                    continue;
                }
                page.keys += 1;
                let slash = if key.is_empty() { "" } else { "/" };
                let below = format!("{key}{slash}{}", String::from_utf8_lossy(name));
                let why = match entry.file_type() {
                    _ if std::str::from_utf8(name).is_err() => "the name is not UTF-8",
                    FileType::Directory => {
                        waiting.push(below);
                        continue;
                    }
                    FileType::RegularFile | FileType::Symlink | FileType::Unknown => continue,
                    _ => "it is neither a file nor a directory",
                };
                page.odd.push(OddKey { key: below, why });
                if page.odd.len() >= ODD_MAX {
                    return Err(Error::new(ErrorKind::TooBig, "too many names cannot be shown, look at one directory")
                        .with("key", prefix)
                        .with("limit", ODD_MAX));
                }
            }
        }
        Ok(page)
    }
}
