//! Puts the entries of an object store's listing in order.
//!
//! A store answers in pages. Every key of a page is below every key of the next one, but within a page the directories come
//! before the files, and where pages end cannot be seen here. A page has at most `page` entries, so the page of an entry is
//! complete once `page` more have been read: all that is not above such an entry may be given out. That bounds what is held
//! to about two pages, whatever the size of the directory.

use std::collections::{BTreeMap, VecDeque};

use curvine_types::Result;
use futures::{Stream, StreamExt};

use crate::Object;

/// An entry as it comes from the store.
pub(crate) struct Listed {
    pub(crate) key: String,
    /// `None`: it counts for the pages, but is not given out.
    pub(crate) object: Option<Object>,
}

/// A listing that is being told.
pub(crate) struct Pages<S> {
    entries: S,
    page: usize,
    /// Read and not given out.
    held: BTreeMap<String, Object>,
    /// Keys of the last `page` entries, as they came.
    recent: VecDeque<String>,
    /// The greatest key whose page is complete.
    complete: Option<String>,
    /// Nothing up to here is given out (again).
    after: String,
    ended: bool,
    /// Whether the store named anything at all.
    any: bool,
}

impl<S: Stream<Item = Result<Listed>> + Unpin> Pages<S> {
    /// `entries` come in pages of at most `page`; keys up to `after` are dropped.
    pub(crate) fn new(entries: S, page: usize, after: &str) -> Self {
        Self {
            entries,
            page: page.max(1),
            held: BTreeMap::new(),
            recent: VecDeque::new(),
            complete: None,
            after: after.to_string(),
            ended: false,
            any: false,
        }
    }

    /// The next entries in order, at most `limit`, and whether there are more.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<(Vec<Object>, bool)> {
        let mut out = Vec::new();
        loop {
            while out.len() < limit && self.first_is_due() {
                let Some((key, object)) = self.held.pop_first() else { break };
                self.after = key;
                out.push(object);
            }
            let told = self.ended && self.held.is_empty();
            if told || out.len() >= limit {
                return Ok((out, !told));
            }
            self.read_some().await?;
        }
    }

    /// Whether the store named anything, were it only a marker of the directory itself.
    pub(crate) fn is_any(&self) -> bool {
        self.any
    }

    fn first_is_due(&self) -> bool {
        let Some((first, _)) = self.held.first_key_value() else { return false };
        self.ended || self.complete.as_ref().is_some_and(|complete| first <= complete)
    }

    /// Reads about one page.
    async fn read_some(&mut self) -> Result<()> {
        for _ in 0..self.page {
            let Some(listed) = self.entries.next().await.transpose()? else {
                self.ended = true;
                return Ok(());
            };
            self.any = true;
            if self.recent.len() >= self.page
                && let Some(key) = self.recent.pop_front()
                && self.complete.as_ref().is_none_or(|complete| *complete < key)
            {
                self.complete = Some(key);
            }
            self.recent.push_back(listed.key.clone());
            if let Some(object) = listed.object
                && listed.key > self.after
            {
                self.held.insert(listed.key, object);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn object(key: &str) -> Object {
        let directory = key.ends_with('/');
        Object { key: key.to_string(), directory, size: 0, mtime: None, etag: String::new() }
    }

    /// The keys as a store tells them: pages of changing lengths, in each the directories first.
    fn told(keys: &[String], page: usize) -> Vec<Result<Listed>> {
        let mut keys: Vec<&String> = keys.iter().collect();
        keys.sort();
        let mut out = Vec::new();
        let mut length = page;
        while !keys.is_empty() {
            length = (length * 7 + 3) % page + 1;
            let (directories, files): (Vec<&String>, Vec<&String>) =
                keys.drain(..length.min(keys.len())).partition(|key| key.ends_with('/'));
            out.extend(
                directories
                    .iter()
                    .chain(&files)
                    .map(|key| Ok(Listed { key: key.to_string(), object: Some(object(key)) })),
            );
        }
        out
    }

    #[tokio::test]
    async fn entries_come_in_order_each_once_whatever_the_pages() {
        for (seed, page, limit) in [(1u64, 1, 1), (2, 3, 2), (3, 10, 7), (4, 10, 25), (5, 50, 10), (6, 1000, 1000)] {
            let mut random = seed;
            let mut keys: Vec<String> = (0..500)
                .map(|number| {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let slash = if random >> 62 == 0 { "/" } else { "" };
                    format!("{:03}{number}{slash}", random >> 54)
                })
                .collect();
            let mut pages = Pages::new(stream::iter(told(&keys, page)), page, "");
            let mut got = Vec::new();
            let mut held_most = 0;
            loop {
                let (part, more) = pages.next(limit).await.unwrap();
                held_most = held_most.max(pages.held.len());
                got.extend(part.into_iter().map(|object| object.key));
                if !more {
                    break;
                }
            }
            keys.sort();
            assert_eq!(got, keys, "page {page} limit {limit}");
            assert!(held_most <= 3 * page + limit, "{held_most} held with page {page} limit {limit}");
        }
    }

    #[tokio::test]
    async fn what_was_told_before_is_not_told_again() {
        let keys: Vec<String> = ["a/", "b", "c/", "d"].map(String::from).to_vec();
        let mut pages = Pages::new(stream::iter(told(&keys, 10)), 10, "b");
        let (part, more) = pages.next(10).await.unwrap();
        assert_eq!((part.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), more), (vec!["c/", "d"], false));
    }
}
