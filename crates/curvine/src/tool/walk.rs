//! Walking trees of Curvine.

use curvine_client::{DirItem, Entry, FileSystem};
use curvine_proto::Attr;
use curvine_types::{InodeId, Result};

use super::Failures;
use super::path::{is_directory, join};

/// Entries asked for at once.
const PAGE: u32 = 1000;

/// All entries of a directory, in its own order.
pub async fn list(fs: &FileSystem, dir: InodeId) -> Result<Vec<DirItem>> {
    let mut items: Vec<DirItem> = Vec::new();
    loop {
        let after = items.last().map_or(0, |last| last.cookie);
        let page = fs.readdir(dir, after, PAGE, true).await?;
        let nothing_new = page.items.is_empty();
        items.extend(page.items.into_iter().filter(|item| !matches!(item.name.as_slice(), b"." | b"..")));
        if page.end || nothing_new {
            return Ok(items);
        }
    }
}

/// Something that a walk came to.
pub struct Found {
    pub path: String,
    pub attr: Attr,
}

/// A walk through a tree, one entry at a time, directories before what is in them. What cannot be listed is noted and left out.
pub struct Walk<'a> {
    fs: &'a FileSystem,
    waiting: Vec<Found>,
}

impl<'a> Walk<'a> {
    pub fn new(fs: &'a FileSystem, path: &str, top: Entry) -> Self {
        Self { fs, waiting: vec![Found { path: path.to_string(), attr: top.attr }] }
    }

    pub async fn next(&mut self, failures: &mut Failures) -> Option<Found> {
        let found = self.waiting.pop()?;
        let entry = Entry { attr: found.attr, entry_ttl: Default::default(), attr_ttl: Default::default() };
        if is_directory(&entry)
            && let Some(items) = failures.check(&found.path, list(self.fs, entry.attr.inode).await)
        {
            let children =
                items.into_iter().map(|item| Found { path: join(&found.path, &item.name), attr: item.entry.attr });
            self.waiting.extend(children);
        }
        Some(Found { path: found.path, attr: entry.attr })
    }
}
