//! From the levels of a tiered store to tier directories.
//!
//! Always: each worker has directories of its own below the volume, named after its pod, so that two workers of one node never
//! meet in one host path and a worker that comes back finds what it had.

use std::path::{Path, PathBuf};

use curvine_config::{DataDir, DataDirKind};
use curvine_types::{Error, ErrorKind, Result};

use crate::identity::Identity;
use crate::quantity;
use crate::runtime::Level;

/// Where file data goes if nobody says.
const FALLBACK: &str = "/var/lib/curvine/worker";

/// The tier directories of the levels; warnings are added to.
pub fn data_dirs(
    levels: &[Level],
    identity: &Identity,
    kind_of: impl Fn(&Path) -> DataDirKind,
    warnings: &mut Vec<String>,
) -> Result<Vec<DataDir>> {
    let mut dirs = Vec::new();
    for (number, level) in levels.iter().enumerate() {
        let (high, low) = (watermark(level, "high", &level.high)?, watermark(level, "low", &level.low)?);
        if level.paths.is_empty() {
            warnings.push(format!(
                "level {number} of the tiered store names no path: this version of Fluid knows emptyDir, hostPath and processMemory"
            ));
        }
        if level.quotas.len() < level.paths.len() {
            warnings.push(format!(
                "level {number} of the tiered store has fewer quotas than paths: the rest may fill its disk"
            ));
        }
        for (position, path) in level.paths.iter().enumerate() {
            let quota =
                level.quotas.get(position).map(|text| quantity::parse(text)).transpose().map_err(|expected| {
                    Error::new(ErrorKind::Config, format!("malformed quota of the tiered store, expected {expected}"))
                        .with("level", number)
                })?;
            let kind = if level.medium == "MEM" { DataDirKind::Mem } else { kind_of(path) };
            let path = path.join(own_name(identity));
            dirs.push(DataDir { high, low, ..DataDir::new(kind, quota.filter(|quota| *quota > 0), path) });
        }
    }
    if dirs.is_empty() {
        dirs = fallback(identity)?;
        let paths: Vec<String> = dirs.iter().map(|dir| dir.path.display().to_string()).collect();
        warnings.push(format!("the runtime names no directory for file data, it goes to {}", paths.join(" ")));
    }
    Ok(dirs)
}

fn fallback(identity: &Identity) -> Result<Vec<DataDir>> {
    if identity.data_dir.is_empty() {
        return Ok(vec![DataDir::new(DataDirKind::Hdd, None, PathBuf::from(FALLBACK).join(own_name(identity)))]);
    }
    let parse = |text: &str| {
        let dir: DataDir = text.parse().map_err(|expected: String| {
            Error::new(ErrorKind::Config, format!("malformed CURVINE_DATA_DIR, expected {expected}"))
        })?;
        Ok(DataDir { path: dir.path.join(own_name(identity)), ..dir })
    };
    identity.data_dir.split(',').map(parse).collect()
}

/// Never two on one node, and the same after a restart.
pub fn own_name(identity: &Identity) -> String {
    let namespace = if identity.namespace.is_empty() { "default" } else { &identity.namespace };
    format!("{namespace}.{}", identity.pod)
}

fn watermark(level: &Level, name: &str, text: &str) -> Result<Option<u8>> {
    if text.is_empty() {
        return Ok(None);
    }
    let share: Option<f64> = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
        None => text.trim().parse().ok(),
    };
    let share = share.filter(|share| *share > 0.0 && *share <= 1.0).ok_or_else(|| {
        Error::new(ErrorKind::Config, "a watermark of the tiered store is a share such as 0.8")
            .with("watermark", name)
            .with("have", text)
    })?;
    let percent = ((share * 100.0).round() as u8).max(1);
    if name == "low" && watermark(level, "high", &level.high)?.is_some_and(|high| percent > high) {
        return Err(Error::new(ErrorKind::Config, "low must not be above high in the tiered store")
            .with("low", &level.low)
            .with("high", &level.high));
    }
    Ok(Some(percent))
}

/// What the directory is on, as the kernel says; Fluid calls every disk HDD.
pub fn kind_of(path: &Path) -> DataDirKind {
    const TMPFS: i64 = 0x0102_1994;
    if rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == TMPFS) {
        return DataDirKind::Mem;
    }
    let Ok(stat) = rustix::fs::stat(path) else { return DataDirKind::Hdd };
    let device = format!("/sys/dev/block/{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let device = std::fs::canonicalize(device).unwrap_or_default();
    // A partition has no queue of its own.
    let rotational = [device.clone(), device.parent().unwrap_or(Path::new("/")).to_path_buf()]
        .iter()
        .find_map(|device| std::fs::read_to_string(device.join("queue/rotational")).ok());
    match rotational.as_deref().map(str::trim) {
        Some("0") => DataDirKind::Ssd,
        _ => DataDirKind::Hdd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Identity {
        Identity { namespace: "default".into(), pod: "d-worker-0".into(), ..Identity::default() }
    }

    fn level(path: &str, quota: &str, high: &str, low: &str) -> Level {
        Level {
            paths: vec![path.into()],
            quotas: vec![quota.into()],
            medium: "HDD".into(),
            high: high.into(),
            low: low.into(),
        }
    }

    fn dirs(levels: &[Level], identity: &Identity) -> (Vec<DataDir>, Vec<String>) {
        let mut warnings = Vec::new();
        (data_dirs(levels, identity, |_| DataDirKind::Ssd, &mut warnings).unwrap(), warnings)
    }

    #[test]
    fn levels_become_directories_with_quota_and_watermarks() {
        let mem = Level { medium: "MEM".into(), ..level("/dev/shm", "1Gi", "0.95", "0.7") };
        let (dirs, warnings) = dirs(&[mem, level("/data", "100G", "0.8", "50%")], &worker());
        assert!(warnings.is_empty());
        assert_eq!((dirs[0].kind, dirs[0].quota), (DataDirKind::Mem, Some(1 << 30)));
        assert_eq!((dirs[1].kind, dirs[1].quota), (DataDirKind::Ssd, Some(100_000_000_000)));
        assert_eq!((dirs[1].high, dirs[1].low), (Some(80), Some(50)));
        assert_eq!(dirs[1].path, Path::new("/data/default.d-worker-0"));
    }

    #[test]
    fn two_workers_of_one_node_do_not_meet_in_a_host_path() {
        let other = Identity { pod: "d-worker-1".into(), ..worker() };
        let levels = [level("/data", "1Gi", "", "")];
        assert_ne!(dirs(&levels, &worker()).0[0].path, dirs(&levels, &other).0[0].path);
    }

    #[test]
    fn a_level_without_paths_goes_to_the_fallback_and_says_so() {
        let pruned = Level { medium: "HDD".into(), high: "0.8".into(), low: "0.5".into(), ..Level::default() };
        let (found, warnings) = dirs(std::slice::from_ref(&pruned), &worker());
        assert!(found[0].path.starts_with(FALLBACK) && warnings.len() == 2, "{warnings:?}");
        let told = Identity { data_dir: "[SSD:5GB]/cache-data".into(), ..worker() };
        let (found, _) = dirs(&[pruned], &told);
        assert_eq!((found[0].quota, found[0].path.to_str()), (Some(5 << 30), Some("/cache-data/default.d-worker-0")));
    }

    #[test]
    fn what_is_no_quota_and_no_watermark_is_an_error() {
        for bad in [level("/d", "lots", "", ""), level("/d", "1Gi", "1.5", ""), level("/d", "1Gi", "0.5", "0.8")] {
            assert!(data_dirs(&[bad], &worker(), |_| DataDirKind::Hdd, &mut Vec::new()).is_err());
        }
    }
}
