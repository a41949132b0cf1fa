//! Keys that no file can have as its path: found by going through all keys below a prefix, in their order.
//!
//! Always: what is remembered between keys are prefixes of the last one, so that a survey can be continued from a key and a few numbers.

use curvine_types::Name;

use crate::objects::is_plain;

/// Where a survey stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurveyMark {
    /// The last key; empty: the survey begins.
    pub key: String,
    /// Lengths of the prefixes of `key` that are files.
    pub files: Vec<u32>,
}

/// A key that cannot be shown, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OddKey {
    pub key: String,
    pub why: &'static str,
}

/// Part of a survey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurveyPage {
    pub odd: Vec<OddKey>,
    /// Keys that were looked at.
    pub keys: u64,
    /// `None`: that was all.
    pub next: Option<SurveyMark>,
}

/// Looks at one key after the other.
pub(crate) struct Surveyor {
    files: Vec<String>,
    pub(crate) page: SurveyPage,
}

impl Surveyor {
    pub(crate) fn new(mark: &SurveyMark) -> Self {
        let files = mark.files.iter().filter_map(|len| mark.key.get(..*len as usize)).map(str::to_string).collect();
        Self { files, page: SurveyPage::default() }
    }

    pub(crate) fn look(&mut self, key: &str) {
        self.page.keys += 1;
        self.files.retain(|file| key.starts_with(file.as_str()));
        if let Some(why) = odd(key) {
            self.page.odd.push(OddKey { key: key.to_string(), why });
            return;
        }
        let covered = self.files.iter().position(|file| key.as_bytes().get(file.len()) == Some(&b'/'));
        if let Some(position) = covered {
            let key = self.files.remove(position);
            self.page.odd.push(OddKey { key, why: "a directory has the same name and is shown in its place" });
        }
        if !key.ends_with('/') {
            self.files.push(key.to_string());
        }
    }

    /// `last`: the key to go on after.
    pub(crate) fn finish(mut self, last: Option<String>) -> SurveyPage {
        self.page.next = last.map(|key| {
            let files = self.files.iter().filter(|file| key.starts_with(file.as_str())).map(|file| file.len() as u32);
            SurveyMark { files: files.collect(), key }
        });
        self.page
    }
}

fn odd(key: &str) -> Option<&'static str> {
    let bare = key.strip_suffix('/').unwrap_or(key);
    for part in bare.split('/') {
        match part {
            "" => return Some("a part of it is empty"),
            "." | ".." => return Some("a part of it is . or .., which name directories themselves"),
            part if part.contains('\0') => return Some("it has a NUL"),
            part if Name::new(part.as_bytes()).is_err() => return Some("a part of it is longer than 255 bytes"),
            _ => {}
        }
    }
    (!is_plain(key)).then_some("it begins or ends with spaces, or is in no normal form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_keys_are_found_in_one_go_and_in_parts() {
        let long = format!("l/{}", "x".repeat(256));
        let mut keys = vec![
            "a", "a-b", "a.txt", "a/", "a/x", "a/y", "b", "b//c", "c/../d", "d/.", "e", "e/f", "e/f/g", "fine/x", "z",
            &long,
        ];
        keys.sort_unstable();
        let want = ["a", "b//c", "c/../d", "d/.", "e", "e/f", &long];
        for step in [1, 2, 3, 100] {
            let (mut mark, mut found, mut count) = (SurveyMark::default(), Vec::new(), 0);
            let mut rest = &keys[..];
            while !rest.is_empty() {
                let mut surveyor = Surveyor::new(&mark);
                let (part, later) = rest.split_at(step.min(rest.len()));
                part.iter().for_each(|key| surveyor.look(key));
                let page = surveyor.finish(part.last().map(|key| key.to_string()));
                found.extend(page.odd.into_iter().map(|odd| odd.key));
                count += page.keys;
                (mark, rest) = (page.next.unwrap(), later);
            }
            found.sort_unstable();
            assert_eq!((found, count), (want.map(String::from).to_vec(), keys.len() as u64), "step {step}");
        }
    }
}
