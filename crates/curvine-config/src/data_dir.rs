//! Tier directories: `[KIND:QUOTA]path`, `[KIND]path`, `[QUOTA]path`, `path`; with watermarks `[KIND:QUOTA:HIGH%:LOW%]path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use curvine_types::units::parse_size;

use crate::kind::{Kind, Size};

/// The medium of a tier directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataDirKind {
    Mem,
    Ssd,
    #[default]
    Hdd,
}

impl DataDirKind {
    /// As configured and shown.
    pub fn name(self) -> &'static str {
        match self {
            DataDirKind::Mem => "MEM",
            DataDirKind::Ssd => "SSD",
            DataDirKind::Hdd => "HDD",
        }
    }
}

/// A configured tier directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    pub kind: DataDirKind,
    /// Most bytes that may be used; `None`: what the disk has.
    pub quota: Option<u64>,
    /// Per cent of the quota (or disk) above which clean copies are evicted in the background; `None`: only when room is needed.
    pub high: Option<u8>,
    /// Per cent at which that eviction stops; `None`: at `high`.
    pub low: Option<u8>,
    pub path: PathBuf,
}

impl DataDir {
    /// Without watermarks.
    pub fn new(kind: DataDirKind, quota: Option<u64>, path: PathBuf) -> Self {
        Self { kind, quota, high: None, low: None, path }
    }
}

impl FromStr for DataDir {
    /// What was expected.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (label, path) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| format!("a closing ] in {text:?}"))?,
            None => ("", text),
        };
        if path.is_empty() {
            return Err(format!("a path in {text:?}"));
        }
        let mut parts = label.splitn(3, ':');
        let label = parts.next().unwrap_or_default();
        let quota_part = parts.next();
        let (high, low) = match parts.next().map(|marks| marks.split_once(':').unwrap_or((marks, ""))) {
            Some((high, low)) => (parse_percent(high)?, parse_percent(low)?),
            None => (None, None),
        };
        if low.is_some() && (high.is_none() || low > high) {
            return Err("a low watermark not above the high one".to_string());
        }
        let (kind, quota) = match quota_part.map(|quota| (label, quota)) {
            Some((kind, "")) if high.is_some() => (parse_kind(kind)?, None),
            Some((kind, quota)) => (parse_kind(kind)?, Some(parse_quota(quota)?)),
            None if label.is_empty() => (DataDirKind::default(), None),
            None if label.starts_with(|c: char| c.is_ascii_digit()) => {
                (DataDirKind::default(), Some(parse_quota(label)?))
            }
            None => (parse_kind(label)?, None),
        };
        // A quota of 0 has always meant "no quota".
        Ok(Self { kind, quota: quota.filter(|quota| *quota > 0), high, low, path: PathBuf::from(path) })
    }
}

fn parse_kind(text: &str) -> Result<DataDirKind, String> {
    match text.trim().to_ascii_uppercase().as_str() {
        "MEM" => Ok(DataDirKind::Mem),
        "SSD" => Ok(DataDirKind::Ssd),
        "HDD" | "DISK" => Ok(DataDirKind::Hdd),
        _ => Err(format!("a kind of storage MEM, SSD or HDD, not {:?}", text.trim())),
    }
}

fn parse_percent(text: &str) -> Result<Option<u8>, String> {
    let percent = text
        .trim()
        .strip_suffix('%')
        .and_then(|number| number.parse().ok())
        .filter(|number| (1..=100).contains(number));
    match (text.trim(), percent) {
        ("", _) => Ok(None),
        (_, Some(percent)) => Ok(Some(percent)),
        _ => Err(format!("a watermark such as 80%, not {:?}", text.trim())),
    }
}

fn parse_quota(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|_| format!("a quota such as 10GB, not {:?}", text.trim()))
}

impl fmt::Display for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", self.kind.name())?;
        if self.quota.is_some() || self.high.is_some() {
            write!(f, ":{}", self.quota.map(|quota| Size::write(&quota)).unwrap_or_default().trim_matches('"'))?;
        }
        for mark in [self.high, self.low].into_iter().flatten() {
            write!(f, ":{mark}%")?;
        }
        write!(f, "]{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, kind, quota, path) in [
            ("[MEM:1GB]/dev/shm/curvine", DataDirKind::Mem, Some(1 << 30), "/dev/shm/curvine"),
            ("[SSD:100GB]/data1", DataDirKind::Ssd, Some(100 << 30), "/data1"),
            ("/data2", DataDirKind::Hdd, None, "/data2"),
            ("[ssd]/x", DataDirKind::Ssd, None, "/x"),
            ("[10GB]/y", DataDirKind::Hdd, Some(10 << 30), "/y"),
            ("[DISK:0]/z", DataDirKind::Hdd, None, "/z"),
            ("[SSD:1536]with [brackets]", DataDirKind::Ssd, Some(1536), "with [brackets]"),
        ] {
            let dir: DataDir = text.parse().unwrap();
            assert_eq!((dir.kind, dir.quota, dir.path.to_str().unwrap()), (kind, quota, path), "{text}");
            assert_eq!(dir.to_string().parse::<DataDir>().unwrap(), dir);
        }
    }

    #[test]
    fn watermarks_are_read_and_written_back() {
        for (text, quota, high, low) in [
            ("[SSD:1GB:80%:50%]/a", Some(1 << 30), Some(80), Some(50)),
            ("[SSD:1GB:80%]/a", Some(1 << 30), Some(80), None),
            ("[MEM::95%:70%]/a", None, Some(95), Some(70)),
        ] {
            let dir: DataDir = text.parse().unwrap();
            assert_eq!((dir.quota, dir.high, dir.low), (quota, high, low), "{text}");
            assert_eq!(dir.to_string().parse::<DataDir>().unwrap(), dir);
        }
        for bad in ["[SSD:1GB:80]/a", "[SSD:1GB:0%]/a", "[SSD:1GB:50%:80%]/a", "[SSD:1GB::80%]/a", "[SSD:1GB:101%]/a"] {
            assert!(bad.parse::<DataDir>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_kind_is_an_error_that_names_it() {
        assert!("[SPDK_DISK]/x".parse::<DataDir>().unwrap_err().contains("SPDK_DISK"));
        for bad in ["[SSD:lots]/x", "[SSD/x", "[SSD]", "", "[SSD:]/x"] {
            assert!(bad.parse::<DataDir>().is_err(), "{bad}");
        }
    }
}
