//! `cv load`: walks a tree and has the home workers fetch what they do not hold.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use curvine_client::FileSystem;
use curvine_proto::FileKind;
use curvine_types::units::format_size;
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::output::{say, say_json};
use super::path::clean;
use super::walk::{Found, Walk};
use super::{Context, Failures};
use crate::args::LoadArgs;

/// A file is filled in parts of this size, so that the bar moves and one deadline need not hold for all of it.
const PART: u64 = 64 << 20;
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What has been done.
#[derive(Default)]
struct Done {
    files: u64,
    bytes: u64,
    fetched: u64,
    /// Files whose bytes Curvine holds itself.
    own: u64,
    failed: u64,
}

/// Loads trees.
pub async fn run(context: &Context, arguments: LoadArgs) -> Result<ExitCode> {
    let begun = Instant::now();
    let parallel = arguments.parallel.unwrap_or(context.conf.cli.parallel).max(1);
    let mut progress = Progress::new(arguments.watch && !context.json);
    let (mut done, mut failures) = (Done::default(), Failures::default());
    for typed in &arguments.paths {
        let outcome = load(&context.fs, typed, parallel, &mut done, &mut failures, &mut progress).await;
        failures.check(typed, outcome);
    }
    progress.end();
    let seconds = begun.elapsed().as_secs_f64();
    if context.json {
        say_json(&json!({
            "files": done.files,
            "bytes": done.bytes,
            "fetched_bytes": done.fetched,
            "own_files": done.own,
            "failures": failures.count(),
            "seconds": seconds,
        }))?;
    } else {
        say(&format!(
            "{} files, {}: {} fetched, the rest was there; {} failed; {seconds:.1} s",
            done.files,
            format_size(done.bytes),
            format_size(done.fetched),
            failures.count()
        ))?;
        if done.own > 0 {
            say(&format!("{} files belong to no under file system, there is nothing to load", done.own))?;
        }
    }
    Ok(failures.code())
}

async fn load(
    fs: &FileSystem,
    typed: &str,
    parallel: usize,
    done: &mut Done,
    failures: &mut Failures,
    progress: &mut Progress,
) -> Result<()> {
    let path = path_of(fs, typed).await?;
    let top = fs.resolve(path.as_bytes()).await?;
    let mut walk = Walk::new(fs, &path, top);
    let mut fills = FuturesUnordered::new();
    let mut walking = true;
    while walking || !fills.is_empty() {
        if walking && fills.len() < parallel {
            let Some(found) = walk.next(failures).await else {
                walking = false;
                continue;
            };
            match (found.attr.kind(), found.attr.mount) {
                (FileKind::File, 0) => done.own += 1,
                (FileKind::File, _) => {
                    progress.found(found.attr.size);
                    fills.push(fill(fs, found, progress.bar.clone()));
                }
                _ => {}
            }
            continue;
        }
        if let Some((found, outcome)) = fills.next().await {
            match outcome {
                Ok(fetched) => {
                    done.files += 1;
                    done.bytes += found.attr.size;
                    done.fetched += fetched;
                }
                Err(error) => {
                    done.failed += 1;
                    progress.bar.suspend(|| failures.note(&found.path, &error));
                }
            }
            progress.file_ended(done);
        }
    }
    Ok(())
}

async fn fill(fs: &FileSystem, found: Found, bar: ProgressBar) -> (Found, Result<u64>) {
    let (mut offset, mut fetched) = (0, 0);
    while offset < found.attr.size {
        let length = PART.min(found.attr.size - offset);
        match fs.fill(found.attr.inode, offset, length).await {
            Ok(bytes) => fetched += bytes,
            Err(error) => return (found, Err(error)),
        }
        bar.inc(length);
        offset += length;
    }
    (found, Ok(fetched))
}

/// A path of Curvine, or a url below a mounted one.
async fn path_of(fs: &FileSystem, typed: &str) -> Result<String> {
    if !typed.contains("://") || typed.starts_with("cv://") || typed.starts_with("curvine://") {
        return clean(typed);
    }
    let typed = typed.trim_end_matches('/');
    let mounts = fs.mount_table().await?.mounts;
    let below = mounts.iter().filter_map(|mount| {
        let rest = typed.strip_prefix(mount.url.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/'))
            .then(|| (rest.len(), format!("{}{rest}", String::from_utf8_lossy(&mount.path))))
    });
    let nearest = below.min_by_key(|(rest, _)| *rest);
    let path = nearest.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the url is below no mounted one, see cv mount").with("url", typed)
    })?;
    clean(&path.1)
}

/// A bar on a terminal, a line now and then elsewhere, nothing if nobody watches.
struct Progress {
    bar: ProgressBar,
    lines: Option<Instant>,
    found_bytes: u64,
    found_files: u64,
}

impl Progress {
    fn new(watch: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if watch && terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = "{bar:30} {percent:>3} % {bytes} of {total_bytes}, {bytes_per_sec}, {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, lines: (watch && !terminal).then(Instant::now), found_bytes: 0, found_files: 0 }
    }

    fn found(&mut self, bytes: u64) {
        self.found_bytes += bytes;
        self.found_files += 1;
        self.bar.set_length(self.found_bytes);
    }

    fn file_ended(&mut self, done: &Done) {
        self.bar.set_message(format!("{} of {} files", done.files + done.failed, self.found_files));
        if self.lines.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            self.lines = Some(Instant::now());
            eprintln!(
                "{} of {} files, {} of {}",
                done.files + done.failed,
                self.found_files,
                format_size(done.bytes),
                format_size(self.found_bytes)
            );
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
