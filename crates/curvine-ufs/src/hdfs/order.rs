//! Brings the entries of an HDFS directory into the order of keys.
//!
//! A NameNode orders names by their bytes, which it takes as signed: what is not ASCII comes before what is. Keys are ordered by
//! their bytes as unsigned, and a directory's ends in `/`. So an entry is held until none can follow that is below it: nothing that
//! follows a name is below the part of it that is ASCII. What is held of a directory of ASCII names is at most 255 entries; other
//! names are held until the listing has passed the ASCII that they begin with.

use std::collections::BTreeMap;

use curvine_types::{Error, ErrorKind, Result};
use futures::{Stream, StreamExt};

use crate::Object;

pub(super) struct InOrder<S> {
    entries: S,
    held: BTreeMap<String, Object>,
    /// All that follows is above this.
    passed: String,
    /// Nothing up to here is given out (again).
    after: String,
    ended: bool,
}

impl<S: Stream<Item = Result<Object>> + Unpin> InOrder<S> {
    /// Keys up to `after` are dropped.
    pub(super) fn new(entries: S, after: &str) -> Self {
        Self { entries, held: BTreeMap::new(), passed: String::new(), after: after.to_string(), ended: false }
    }

    /// The next entries in order, at most `limit`, and whether there are more.
    pub(super) async fn next(&mut self, limit: usize) -> Result<(Vec<Object>, bool)> {
        let mut out = Vec::new();
        loop {
            while out.len() < limit
                && let Some(first) = self.held.first_entry()
                && (self.ended || *first.key() <= self.passed)
            {
                let (key, object) = first.remove_entry();
                self.after = key;
                out.push(object);
            }
            let told = self.ended && self.held.is_empty();
            if told || out.len() >= limit {
                return Ok((out, !told));
            }
            self.read_one().await?;
        }
    }

    async fn read_one(&mut self) -> Result<()> {
        let Some(object) = self.entries.next().await.transpose()? else {
            self.ended = true;
            return Ok(());
        };
        let name = object.key.trim_end_matches('/');
        if name <= self.passed.as_str() && !self.passed.is_empty() {
            return Err(Error::new(ErrorKind::Ufs, "the store does not list its names in order").with("key", name));
        }
        // All keys have the same prefix, so it does not matter that it may have other letters.
        let parent = name.rfind('/').map_or(0, |slash| slash + 1);
        let ascii = name[parent..].bytes().position(|byte| !byte.is_ascii()).map_or(name.len(), |at| parent + at);
        if name[..ascii] > *self.passed {
            self.passed = name[..ascii].to_string();
        }
        if object.key > self.after {
            self.held.insert(object.key.clone(), object);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn objects(prefix: &str, names: &[String]) -> Vec<Result<Object>> {
        let object = |name: &String| Object {
            key: format!("{prefix}{name}"),
            directory: name.ends_with('/'),
            size: 0,
            mtime: None,
            etag: String::new(),
        };
        names.iter().map(|name| Ok(object(name))).collect()
    }

    #[tokio::test]
    async fn entries_come_in_the_order_of_keys_however_the_names_are_compared() {
        let names =
            ["a", "a-b", "a.", "aa", "aé", "aéb", "aéé", "b!", "é", "éa", "日", "日本", "z", "~", "B", "a!", "a!!"];
        for prefix in ["", "ü/"] {
            for directories in 0..64u64 {
                let slash = |at: usize| if (directories * 7919) >> (at % 16) & 1 == 1 { "/" } else { "" };
                let mut keys: Vec<String> =
                    names.iter().enumerate().map(|(at, name)| format!("{name}{}", slash(at))).collect();
                let bare = |key: &String| key.trim_end_matches('/').to_string();
                for signed in [true, false] {
                    keys.sort_by_key(|key| {
                        bare(key).bytes().map(|b| if signed { b as i8 as i16 } else { b.into() }).collect::<Vec<_>>()
                    });
                    let mut want: Vec<String> = keys.iter().map(|key| format!("{prefix}{key}")).collect();
                    want.sort();
                    for limit in [1, 3, 100] {
                        let mut entries = InOrder::new(stream::iter(objects(prefix, &keys)), "");
                        let mut got = Vec::new();
                        loop {
                            let (part, more) = entries.next(limit).await.unwrap();
                            got.extend(part.into_iter().map(|object| object.key));
                            if !more {
                                break;
                            }
                        }
                        assert_eq!(got, want);
                    }
                    let mut rest = InOrder::new(stream::iter(objects(prefix, &keys)), &want[5]);
                    let (part, _) = rest.next(100).await.unwrap();
                    assert_eq!(part.into_iter().map(|object| object.key).collect::<Vec<_>>(), want[6..]);
                }
            }
        }
    }

    #[tokio::test]
    async fn little_is_held_of_a_long_directory() {
        let names: Vec<String> = (0..10_000).map(|number| format!("{number:05}{}", ["", "/"][number % 2])).collect();
        let mut entries = InOrder::new(stream::iter(objects("d/", &names)), "");
        while entries.next(10).await.unwrap().1 {
            assert!(entries.held.len() < 3);
        }
        let wrong = ["b".to_string(), "a".to_string()];
        let mut entries = InOrder::new(stream::iter(objects("", &wrong)), "");
        assert_eq!(entries.next(10).await.unwrap_err().kind(), ErrorKind::Ufs);
    }
}
