//! `cv bench`: measures mounts against a local directory, and the library against the cluster.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use curvine_bench::library::{Library, Work};
use curvine_bench::{Figure, Ground, Measure, Options, Outcome, RemoteOptions, Report, median};
use curvine_client::{ClientOptions, FileSystem, NoEvents};
use curvine_config::ClusterConf;
use curvine_types::units::{format_size, parse_duration, parse_size};
use curvine_types::{Error, ErrorKind, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::output::{say, table};
use crate::args::{BenchArgs, BenchCommand, BenchRemoteArgs, BenchShowArgs};
use crate::wiring;

/// Requests in flight through the library.
const IN_FLIGHT: usize = 64;
/// How long closing the sessions may take.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
const HEADER: [&str; 7] = ["row", "on", "baseline", "this", "ratio", "goal", "met"];

/// Measures what was asked for, or shows what was measured before. `conf` is needed for the library only.
pub async fn run(conf: &ClusterConf, mut arguments: BenchArgs, json: bool) -> Result<ExitCode> {
    match arguments.command.take() {
        Some(BenchCommand::Show(arguments)) => show_saved(&arguments, json),
        Some(BenchCommand::Remote(arguments)) => remote(&arguments, json),
        None => here(conf, arguments, json).await,
    }
}

async fn here(conf: &ClusterConf, arguments: BenchArgs, json: bool) -> Result<ExitCode> {
    let options = options(&arguments)?;
    let grounds = arguments.grounds.iter().map(|text| ground(text)).collect::<Result<Vec<_>>>()?;
    if grounds.is_empty() && !arguments.library {
        return Err(Error::new(ErrorKind::Config, "name a directory of a mount to measure, or say --library"));
    }
    let baseline = arguments.baseline.map(|dir| Ground { name: "baseline".to_string(), dir });
    let bar = progress();
    let mut outcome = Outcome::default();
    if !grounds.is_empty() {
        let (options, bar) = (options.clone(), bar.clone());
        let measuring = tokio::task::spawn_blocking(move || {
            curvine_bench::run(baseline.as_ref(), &grounds, &options, &mut |what, part| {
                bar.set_position((part * 1000.0) as u64);
                bar.set_message(what.to_string());
            })
        });
        outcome = measuring.await.map_err(|_| Error::new(ErrorKind::Internal, "the benchmark died"))??;
    }
    if arguments.library {
        outcome.results.extend(library(conf, &options, &bar).await?);
    }
    bar.finish_and_clear();
    let settings = vec![
        ("rounds".to_string(), options.rounds.to_string()),
        ("big file".to_string(), format_size(options.size)),
        ("small files at most".to_string(), options.files.to_string()),
        ("time of a work that could go on".to_string(), format!("{} s", options.limit.as_secs_f64())),
    ];
    let report = Report::new(env!("CARGO_PKG_VERSION"), settings, outcome.notes, outcome.results);
    save(arguments.output.as_ref(), &report)?;
    show(&report, &[], arguments.html.as_ref(), json)
}

/// Measures reads from another host.
fn remote(arguments: &BenchRemoteArgs, json: bool) -> Result<ExitCode> {
    let size = parse_size(&arguments.size)?;
    let bar = progress();
    let options = RemoteOptions {
        ground: ground(&arguments.ground)?,
        host: arguments.iperf.clone(),
        size: size.next_multiple_of(1 << 20),
        streams: arguments.streams.max(2),
        rounds: arguments.rounds.max(1),
        limit: parse_duration(&arguments.time)?,
    };
    let results = curvine_bench::remote(&options, &mut |what| bar.set_message(what.to_string()))?;
    bar.finish_and_clear();
    let settings = vec![("bytes that each remote stream reads".to_string(), format_size(options.size))];
    let report = Report::new(env!("CARGO_PKG_VERSION"), settings, Vec::new(), results);
    save(arguments.output.as_ref(), &report)?;
    show(&report, &[], None, json)
}

/// Shows what was measured before.
fn show_saved(arguments: &BenchShowArgs, json: bool) -> Result<ExitCode> {
    let load = |paths: &[PathBuf]| paths.iter().map(|path| Report::load(path)).collect::<Result<Vec<_>>>();
    let mut parts = load(&arguments.reports)?.into_iter();
    let mut report = parts.next().ok_or_else(|| Error::new(ErrorKind::Config, "name a report"))?;
    parts.for_each(|part| report.merge(part));
    let mut earlier = load(&arguments.earlier)?;
    earlier.sort_by_key(|report| report.taken);
    save(arguments.output.as_ref(), &report)?;
    show(&report, &earlier, arguments.html.as_ref(), json)
}

fn options(arguments: &BenchArgs) -> Result<Options> {
    let size = parse_size(&arguments.size)?;
    if size == 0 || arguments.rounds == 0 || arguments.files == 0 {
        return Err(Error::new(ErrorKind::Config, "--size, --rounds and --files are at least 1"));
    }
    Ok(Options {
        rounds: arguments.rounds,
        // Whole pages, so that random places are within the file.
        size: size.next_multiple_of(4096),
        files: arguments.files,
        limit: parse_duration(&arguments.time)?,
        threads: arguments.threads.max(1),
        only: arguments.only.clone(),
    })
}

/// `NAME=DIR`, or a directory that is its own name.
fn ground(text: &str) -> Result<Ground> {
    let (name, dir) = text.split_once('=').unwrap_or((text, text));
    let dir = std::path::absolute(dir).map_err(|source| Error::from_io(source, "not a path").with("path", dir))?;
    Ok(Ground { name: name.to_string(), dir })
}

async fn library(conf: &ClusterConf, options: &Options, bar: &ProgressBar) -> Result<Vec<Figure>> {
    let wanted: Vec<Work> = Work::ALL.into_iter().filter(|work| options.wants(&work.row(IN_FLIGHT).id)).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let client = wiring::tool_client(conf)?;
    let forgetful = ClientOptions { cached_inodes: 1, cached_names: 1, ..client.clone() };
    let fs = FileSystem::connect(client, Arc::new(NoEvents)).await?;
    let reader = FileSystem::connect(forgetful, Arc::new(NoEvents)).await?;
    let files = options.files as u64 * 5;
    let mut library = Library::prepare(fs.clone(), reader.clone(), IN_FLIGHT, files, options.limit).await?;
    let measured = rounds(&mut library, options.rounds, bar).await;
    let finished = library.finish().await;
    for session in [reader, fs] {
        // What is not closed now expires with its lease.
        let _ = session.close(CLOSE_GRACE).await;
    }
    let rates = measured?;
    finished?;
    let figure = |(work, rounds): (Work, Vec<f64>)| Figure {
        row: work.row(IN_FLIGHT),
        ground: "library".to_string(),
        baseline: None,
        this: median(&rounds).unwrap_or_default(),
        ratio: None,
        rounds,
    };
    Ok(Work::ALL.into_iter().zip(rates).filter(|(work, _)| wanted.contains(work)).map(figure).collect())
}

/// The rates of every work, round by round.
async fn rounds(library: &mut Library, rounds: usize, bar: &ProgressBar) -> Result<Vec<Vec<f64>>> {
    let mut rates = vec![Vec::new(); Work::ALL.len()];
    for _ in 0..rounds {
        for (work, rates) in Work::ALL.into_iter().zip(&mut rates) {
            bar.set_message(work.row(IN_FLIGHT).id);
            rates.push(library.run(work).await.map(|measure: Measure| measure.rate())?);
        }
    }
    Ok(rates)
}

fn save(path: Option<&PathBuf>, report: &Report) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, report.to_json()?)
        .map_err(|source| Error::from_io(source, "cannot write the report").with("path", path.display()))
}

fn show(report: &Report, earlier: &[Report], html: Option<&PathBuf>, json: bool) -> Result<ExitCode> {
    if let Some(path) = html {
        std::fs::write(path, report.to_html(earlier))
            .map_err(|source| Error::from_io(source, "cannot write the page").with("path", path.display()))?;
    }
    if json {
        say(&report.to_json()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&table(HEADER, report.lines()))?;
    for note in &report.notes {
        say(note)?;
    }
    if let Some(path) = html {
        say(&format!("page: {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A bar on a terminal, nothing elsewhere: what is printed there is read by programs.
fn progress() -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(1000) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} % {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ground_may_have_a_name() {
        let named = ground("passthrough=/mnt/a=b").unwrap();
        assert_eq!((named.name.as_str(), named.dir.as_path()), ("passthrough", std::path::Path::new("/mnt/a=b")));
        assert_eq!(ground("/mnt").unwrap().name, "/mnt");
    }
}
