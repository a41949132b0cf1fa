//! Rounds over all works and grounds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use curvine_types::{Error, Result};

use crate::files::{Caches, Place, Work, works};
use crate::{Figure, cold, median};

/// A directory to measure on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// For people, such as `passthrough`.
    pub name: String,
    pub dir: PathBuf,
}

/// How much is done.
#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    /// Bytes of the big file.
    pub size: u64,
    /// Small files over all threads.
    pub files: usize,
    /// How long a work that could go on goes on.
    pub limit: Duration,
    /// Threads of the crowded rows.
    pub threads: usize,
    /// Only rows whose names contain one of these; empty: all.
    pub only: Vec<String>,
}

impl Options {
    /// Whether a row is wanted.
    pub fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| id.contains(part))
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub results: Vec<Figure>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// Measures every wanted work on the baseline, if there is one, and on every ground. `step` is told what is done next, and
/// which part of all that is.
pub fn run(
    baseline: Option<&Ground>,
    grounds: &[Ground],
    options: &Options,
    step: &mut dyn FnMut(&str, f64),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut works: Vec<Work> = works(options.threads);
    let groups: Vec<usize> = works.iter().filter(|work| options.wants(&work.row.id)).map(|work| work.group).collect();
    works.retain(|work| groups.contains(&work.group) && (work.needed || options.wants(&work.row.id)));
    if works.iter().any(|work| work.caches == Caches::Cold) && !cold::can_drop() {
        works.retain(|work| work.caches != Caches::Cold);
        outcome.notes.push("cold rows are left out: dropping the kernel's caches needs root".to_string());
    }
    let all: Vec<&Ground> = baseline.into_iter().chain(grounds).collect();
    let folders =
        all.iter().enumerate().map(|(number, ground)| Folder::make(&ground.dir, number)).collect::<Result<Vec<_>>>()?;
    // By work, then by ground, the rates of the rounds.
    let mut rates = vec![vec![Vec::new(); all.len()]; works.len()];
    let total = (options.rounds * works.len() * all.len()).max(1) as f64;
    let mut done = 0.0;
    for _ in 0..options.rounds {
        for (work, rates) in works.iter().zip(&mut rates) {
            for ((ground, folder), rates) in all.iter().zip(&folders).zip(rates.iter_mut()) {
                step(&format!("{} on {}", work.row.id, ground.name), done / total);
                let place =
                    Place { dir: folder.0.clone(), size: options.size, files: options.files, limit: options.limit };
                let measure = work.prepare(&place).and_then(|()| (work.run)(&place));
                let measure = measure.map_err(|error| error.with("row", &work.row.id).with("on", &ground.name))?;
                rates.push(measure.rate());
                done += 1.0;
            }
        }
    }
    for (work, rates) in works.iter().zip(&rates).filter(|(work, _)| options.wants(&work.row.id)) {
        let base = baseline.and(rates.first());
        let own = &rates[usize::from(baseline.is_some())..];
        for (ground, rounds) in grounds.iter().zip(own) {
            outcome.results.push(result(work, ground, base, rounds));
        }
    }
    Ok(outcome)
}

fn result(work: &Work, ground: &Ground, base: Option<&Vec<f64>>, rounds: &[f64]) -> Figure {
    let ratios: Option<Vec<f64>> =
        base.map(|base| rounds.iter().zip(base).map(|(this, base)| this / base.max(1e-9)).collect());
    Figure {
        row: work.row.clone(),
        ground: ground.name.clone(),
        baseline: base.and_then(|base| median(base)),
        this: median(rounds).unwrap_or_default(),
        ratio: ratios.and_then(|ratios| median(&ratios)),
        rounds: rounds.to_vec(),
    }
}

/// A directory of the benchmark's own, removed with all that is in it.
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    /// `number`: two mounts may show the same tree.
    pub(crate) fn make(parent: &Path, number: usize) -> Result<Self> {
        let path = parent.join(format!("curvine-bench-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).map_err(|source| {
            Error::from_io(source, "cannot make a directory to measure in").with("path", path.display())
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "what the benchmark made is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[&str]) -> Options {
        Options {
            rounds: 2,
            size: 1 << 20,
            files: 8,
            limit: Duration::from_millis(5),
            threads: 2,
            only: only.iter().map(ToString::to_string).collect(),
        }
    }

    fn ground(name: &str, dir: &Path) -> Ground {
        Ground { name: name.to_string(), dir: dir.to_path_buf() }
    }

    #[test]
    fn every_ground_is_measured_in_every_round_and_nothing_is_left() {
        let (local, mount) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut steps = Vec::new();
        let outcome = run(
            Some(&ground("local", local.path())),
            // The same tree seen twice.
            &[ground("mount", mount.path()), ground("again", mount.path())],
            &options(&["stat", "seq_read_warm"]),
            &mut |what, part| steps.push((what.to_string(), part)),
        )
        .unwrap();
        for name in ["mount", "again"] {
            let on = outcome.results.iter().filter(|result| result.ground == name);
            let ids: Vec<&str> = on.map(|result| result.row.id.as_str()).collect();
            assert_eq!(ids, ["seq_read_warm", "stat", "readdir_stat", "stat/2", "readdir_stat/2"]);
        }
        for result in &outcome.results {
            assert_eq!(result.rounds.len(), 2);
            assert!(result.baseline.unwrap() > 0.0 && result.ratio.unwrap() > 0.0 && result.this > 0.0);
        }
        assert!(steps.iter().any(|(what, _)| what == "create_small on local"), "{steps:?}");
        assert!(steps.iter().all(|(_, part)| (0.0..1.0).contains(part)));
        for dir in [&local, &mount] {
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn without_a_baseline_there_are_figures_and_no_ratios() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = run(None, &[ground("here", dir.path())], &options(&["rand_write"]), &mut |_, _| {}).unwrap();
        assert_eq!(outcome.results.len(), 1);
        assert_eq!((outcome.results[0].baseline, outcome.results[0].ratio), (None, None));
    }

    #[test]
    fn a_failure_names_row_and_ground_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let missing = ground("nowhere", &dir.path().join("missing"));
        let error = run(None, &[missing], &options(&[]), &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
