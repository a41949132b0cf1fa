//! What was measured, where and when, kept as JSON and shown as a table or a page.

mod html;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use curvine_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::Figure;
use crate::row::show_ratio;

/// One run of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// Seconds since 1970.
    pub taken: u64,
    /// Version of the program that was measured.
    pub software: String,
    pub host: Host,
    /// What the run was told, by name.
    pub settings: Vec<(String, String)>,
    /// What was left out, and why; what a reader must know.
    pub notes: Vec<String>,
    pub results: Vec<Figure>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
}

impl Host {
    /// This one.
    pub fn here() -> Self {
        let info = rustix::system::sysinfo();
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            memory_bytes: (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

impl Report {
    const FORMAT: u32 = 1;

    /// A report of this moment and machine.
    pub fn new(software: &str, settings: Vec<(String, String)>, notes: Vec<String>, results: Vec<Figure>) -> Self {
        let taken = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            format: Self::FORMAT,
            taken,
            software: software.to_string(),
            host: Host::here(),
            settings,
            notes,
            results,
        }
    }

    /// Reads one.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|source| {
            Error::from_io(source, "cannot read the report of a benchmark").with("path", path.display())
        })?;
        let unreadable =
            || Error::new(ErrorKind::InvalidArgument, "not the report of a benchmark").with("path", path.display());
        let report: Self = serde_json::from_slice(&text).map_err(|source| unreadable().caused_by(source))?;
        if report.format != Self::FORMAT {
            return Err(unreadable().with("format", report.format));
        }
        Ok(report)
    }

    /// As JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|source| Error::new(ErrorKind::Internal, "cannot write the report").caused_by(source))
    }

    /// Adds what another run measured on the same machine.
    pub fn merge(&mut self, other: Report) {
        self.results.extend(other.results);
        extend_new(&mut self.settings, other.settings);
        extend_new(&mut self.notes, other.notes);
    }

    /// Lines for a table: row, ground, baseline, this, ratio, goal, met.
    pub fn lines(&self) -> Vec<[String; 7]> {
        let line = |result: &Figure| {
            let unit = result.row.unit;
            let verdict = match result.is_met() {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "",
            };
            [
                result.row.id.clone(),
                result.ground.clone(),
                result.baseline.map_or("-".to_string(), |rate| unit.show(rate)),
                unit.show(result.this),
                result.ratio.map_or("-".to_string(), show_ratio),
                result.row.goal.show(unit),
                verdict.to_string(),
            ]
        };
        self.results.iter().map(line).collect()
    }

    /// A page that stands alone. `earlier`: reports of before, oldest first, for the lines over time.
    pub fn to_html(&self, earlier: &[Report]) -> String {
        html::page(self, earlier)
    }
}

fn extend_new<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Goal, Row, Unit};

    pub(super) fn sample(this: f64, ratio: f64) -> Report {
        let row = |id: &str, unit, goal| Row { id: id.to_string(), what: format!("what <{id}> is"), unit, goal };
        let result = |row, baseline: Option<f64>| Figure {
            row,
            ground: "passthrough".to_string(),
            baseline,
            this,
            ratio: baseline.map(|_| ratio),
            rounds: vec![this; 3],
        };
        let results = vec![
            result(row("seq_read_warm", Unit::Bytes, Goal::Ratio(0.95)), Some(this / ratio)),
            result(row("library_create", Unit::Operations, Goal::Rate(30e3)), None),
        ];
        Report::new("0.1.0", vec![("size".into(), "1 GiB".into())], vec!["a & b".into()], results)
    }

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        let report = sample(40e3, 0.97);
        std::fs::write(&path, report.to_json().unwrap()).unwrap();
        assert_eq!(Report::load(&path).unwrap(), report);
        std::fs::write(&path, "{}").unwrap();
        assert!(Report::load(&path).unwrap_err().to_string().contains("report.json"));
        let newer = report.to_json().unwrap().replace("\"format\": 1", "\"format\": 2");
        std::fs::write(&path, newer).unwrap();
        assert!(Report::load(&path).unwrap_err().to_string().contains("format=2"));
    }

    #[test]
    fn a_missed_goal_catches_the_eye() {
        let lines = sample(20e3, 0.97).lines();
        assert_eq!(lines[0][6], "yes");
        assert_eq!((lines[1][2].as_str(), lines[1][6].as_str()), ("-", "NO"));
    }
}
