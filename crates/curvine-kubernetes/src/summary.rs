//! The summary that Fluid shows as the columns of a dataset.

use serde::Serialize;

/// What Fluid shows while a total is not known yet.
const CALCULATING: &str = "[Calculating]";

/// Facts, in bytes and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub capacity: u64,
    /// All that the workers hold.
    pub used: u64,
    /// Of that, copies of what under file systems have.
    pub clean: u64,
    pub hits: u64,
    pub misses: u64,
    /// Bytes of the under file systems; `None`: not all of them were seen in time.
    pub ufs_total: Option<u64>,
    /// Whether there is any under file system.
    pub has_stores: bool,
    pub files: u64,
}

/// All values are texts: Fluid copies them as they are.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub cached: String,
    pub cached_percentage: String,
    pub cache_capacity: String,
    pub cache_hit_ratio: String,
    pub ufs_total: String,
    pub file_num: String,
}

impl Summary {
    pub fn of(facts: &Facts) -> Self {
        let cached_percentage = match (facts.has_stores, facts.ufs_total) {
            (true, None) => CALCULATING.to_string(),
            (true, Some(total)) => percent(facts.clean.min(total), total),
            // Without a store what is here is all there is.
            (false, _) => percent(facts.used, facts.used),
        };
        Self {
            cached: size(facts.used),
            cached_percentage,
            cache_capacity: size(facts.capacity),
            cache_hit_ratio: percent(facts.hits, facts.hits.saturating_add(facts.misses)),
            ufs_total: facts.ufs_total.map_or_else(|| CALCULATING.to_string(), size),
            file_num: facts.files.to_string(),
        }
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "0.0%".to_string() } else { format!("{:.1}%", part as f64 * 100.0 / whole as f64) }
}

/// As Fluid's other runtimes write it: `1.00GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.2}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_texts_with_fluids_names() {
        let facts = Facts {
            capacity: 10 << 30,
            used: 3 << 29,
            clean: 1 << 30,
            hits: 3,
            misses: 1,
            ufs_total: Some(8 << 30),
            has_stores: true,
            files: 123,
        };
        assert_eq!(
            serde_json::to_string(&Summary::of(&facts)).unwrap(),
            r#"{"cached":"1.50GiB","cachedPercentage":"12.5%","cacheCapacity":"10.00GiB","cacheHitRatio":"75.0%","ufsTotal":"8.00GiB","fileNum":"123"}"#
        );
    }

    #[test]
    fn nothing_yet_and_not_known_yet_are_told_apart() {
        let empty = Summary::of(&Facts { ufs_total: Some(0), ..Facts::default() });
        assert_eq!(
            (empty.cached.as_str(), empty.cached_percentage.as_str(), empty.cache_hit_ratio.as_str()),
            ("0.00B", "0.0%", "0.0%")
        );
        let unknown = Summary::of(&Facts { has_stores: true, ..Facts::default() });
        assert_eq!((unknown.ufs_total.as_str(), unknown.cached_percentage.as_str()), (CALCULATING, CALCULATING));
    }
}
