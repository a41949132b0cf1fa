//! `cv load`, `cv export`, `cv free`, `cv job`: work that the master does, and that goes on when nobody looks.

use std::process::ExitCode;
use std::time::Instant;

use curvine_client::FileSystem;
use curvine_proto::{Job, JobKind, JobState, TaskProgress, TaskSpec};
use curvine_types::units::format_size;
use curvine_types::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::Context;
use super::output::{age_text, say, say_json, table, time_text};
use super::path::clean;
use super::progress::Watch;
use crate::args::{JobCommand, LoadArgs, TreeArgs};

/// Jobs asked for at once.
const PAGE: u32 = 500;

/// What is typed of a task.
struct Typed<'a> {
    kind: JobKind,
    paths: &'a [String],
    watch: bool,
    detach: bool,
}

/// Brings trees into the cache.
pub async fn load(context: &Context, arguments: LoadArgs) -> Result<ExitCode> {
    if arguments.replicas != 1 {
        let message = "this version keeps one cached copy of a block, and further ones only where files are read; --replicas is 1";
        return Err(Error::new(ErrorKind::NotSupported, message).with("have", arguments.replicas));
    }
    let parallel = arguments.parallel.unwrap_or(context.conf.cli.parallel);
    let LoadArgs { paths, watch, verify, detach, .. } = arguments;
    let spec = TaskSpec { verify, parallel: u32::try_from(parallel).unwrap_or(u32::MAX), ..TaskSpec::default() };
    run(context, Typed { kind: JobKind::Load, paths: &paths, watch, detach }, spec).await
}

/// Brings what waits in trees into its stores.
pub async fn export(context: &Context, arguments: TreeArgs) -> Result<ExitCode> {
    let TreeArgs { paths, watch, detach, .. } = arguments;
    run(context, Typed { kind: JobKind::Export, paths: &paths, watch, detach }, TaskSpec::default()).await
}

/// Drops what is cached of trees.
pub async fn free(context: &Context, arguments: TreeArgs) -> Result<ExitCode> {
    let TreeArgs { paths, watch, detach, .. } = arguments;
    run(context, Typed { kind: JobKind::Free, paths: &paths, watch, detach }, TaskSpec::default()).await
}

/// Compares what is known of trees with their stores.
pub async fn resync(context: &Context, path: &str) -> Result<ExitCode> {
    let paths = [path.to_string()];
    run(context, Typed { kind: JobKind::Resync, paths: &paths, watch: false, detach: false }, TaskSpec::default()).await
}

async fn run(context: &Context, typed: Typed<'_>, mut spec: TaskSpec) -> Result<ExitCode> {
    for path in typed.paths {
        spec.paths.push(path_of(&context.fs, path).await?.into());
    }
    let (id, made) = context.fs.submit_job(typed.kind, spec).await?;
    if !made {
        eprintln!("job {id} does the same and is not done yet");
    }
    if typed.detach {
        match context.json {
            true => say_json(&json!({ "job": id, "created": made }))?,
            false => say(&format!("job {id}, see cv job status {id}"))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    follow(context, id, typed.watch).await
}

/// Waits for the end of a job and tells how it was.
async fn follow(context: &Context, id: u64, watch: bool) -> Result<ExitCode> {
    let begun = Instant::now();
    let mut shown = Watch::new(watch && !context.json);
    let job = loop {
        let reply = context.fs.job(id, true).await?;
        let job = reply.job.unwrap_or_default();
        shown.show(job.progress.as_ref());
        if reply.ended {
            break job;
        }
    };
    shown.end();
    tell(context, &job, begun.elapsed().as_secs_f64())?;
    Ok(code_of(&job))
}

fn code_of(job: &Job) -> ExitCode {
    match job.state() {
        JobState::Partial | JobState::Cancelled => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// What a job has done with the bytes that it moved.
fn moved_word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Export => "uploaded",
        JobKind::Free => "freed",
        _ => "fetched",
    }
}

fn rest_words(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Export => "the rest was stored",
        JobKind::Free => "the rest was not cached",
        _ => "the rest was there",
    }
}

fn tell(context: &Context, job: &Job, seconds: f64) -> Result<()> {
    let progress = job.progress.clone().unwrap_or_default();
    name_failures(&progress);
    if context.json {
        let mut value = job_json(job);
        value["seconds"] = json!(seconds);
        return say_json(&value);
    }
    if job.state() == JobState::Cancelled {
        say(&format!("job {} was cancelled", job.id))?;
    }
    let TaskProgress { files, bytes, moved_bytes, failed, own_files, .. } = progress;
    if job.kind() == JobKind::Resync {
        return say(&format!("{files} files are as the store has them; {failed} failed; {seconds:.1} s"));
    }
    let (moved, rest) = (format_size(moved_bytes), rest_words(job.kind()));
    let word = moved_word(job.kind());
    say(&format!("{files} files, {}: {moved} {word}, {rest}; {failed} failed; {seconds:.1} s", format_size(bytes)))?;
    match job.kind() {
        JobKind::Export if own_files > 0 => {
            say(&format!("{own_files} files belong to no under file system, there is nowhere to export them to"))
        }
        _ if own_files > 0 => say(&format!(
            "{own_files} files belong to no under file system, or wait for their upload: Curvine holds them itself"
        )),
        _ => Ok(()),
    }
}

fn name_failures(progress: &TaskProgress) {
    for failure in &progress.failures {
        eprintln!("{}: {}", String::from_utf8_lossy(&failure.path), failure.error);
    }
    let unnamed = progress.failed.saturating_sub(progress.failures.len() as u64);
    if unnamed > 0 {
        eprintln!("and {unnamed} more");
    }
}

fn kind_word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Upload => "upload",
        JobKind::Load => "load",
        JobKind::Export => "export",
        JobKind::Free => "free",
        JobKind::Resync => "resync",
        JobKind::Unknown => "unknown",
    }
}

fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Failed => "failed",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Partial => "partial",
        JobState::Cancelled => "cancelled",
        JobState::Unknown => "unknown",
    }
}

fn job_json(job: &Job) -> Value {
    let seconds = |time: &Option<curvine_proto::Time>| time.map(|time| time.sec as f64 + f64::from(time.nsec) / 1e9);
    let common = json!({
        "job": job.id,
        "kind": kind_word(job.kind()),
        "state": state_word(job.state()),
        "created": seconds(&job.created),
        "updated": seconds(&job.updated),
    });
    let own = if job.kind() == JobKind::Upload {
        json!({ "mount": job.mount, "key": job.key, "inode": job.inode, "attempts": job.attempts, "error": job.error })
    } else {
        let progress = job.progress.clone().unwrap_or_default();
        let spec = job.spec.clone().unwrap_or_default();
        let moved = format!("{}_bytes", moved_word(job.kind()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let failed: Vec<Value> = progress
            .failures
            .iter()
            .map(|failure| json!({ "path": text(&failure.path), "error": failure.error }))
            .collect();
        json!({
            "paths": spec.paths.iter().map(|path| text(path)).collect::<Vec<_>>(),
            "retries": job.run,
            "found_files": progress.found_files,
            "found_bytes": progress.found_bytes,
            "files": progress.files,
            "bytes": progress.bytes,
            (moved): progress.moved_bytes,
            "own_files": progress.own_files,
            "failures": progress.failed,
            "failed": failed,
        })
    };
    let mut value = common;
    if let (Some(value), Value::Object(own)) = (value.as_object_mut(), own) {
        value.extend(own);
    }
    value
}

/// `cv job`.
pub async fn job(context: &Context, command: JobCommand) -> Result<ExitCode> {
    match command {
        JobCommand::List { uploads } => list(context, uploads).await,
        JobCommand::Status { job, watch: true } => follow(context, job, true).await,
        JobCommand::Status { job, watch: false } => {
            let job = context.fs.job(job, false).await?.job.unwrap_or_default();
            match context.json {
                true => say_json(&job_json(&job))?,
                false => status(&job)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        JobCommand::Cancel { job } => {
            context.fs.control_job(job, false).await?;
            done(context, job, "cancelled")
        }
        JobCommand::Retry { job } => {
            context.fs.control_job(job, true).await?;
            done(context, job, "begun again")
        }
    }
}

fn done(context: &Context, job: u64, what: &str) -> Result<ExitCode> {
    match context.json {
        true => say_json(&json!({ "job": job }))?,
        false => say(&format!("job {job} {what}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn status(job: &Job) -> Result<()> {
    let progress = job.progress.clone().unwrap_or_default();
    let spec = job.spec.clone().unwrap_or_default();
    let paths: Vec<_> = spec.paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
    say(&format!("job {}: {} of {}", job.id, kind_word(job.kind()), paths.join(" ")))?;
    say(&format!("state    {}", state_word(job.state())))?;
    say(&format!("created  {}", time_text(job.created.as_ref())))?;
    say(&format!("updated  {}", time_text(job.updated.as_ref())))?;
    let found = if progress.walked { "" } else { " found so far" };
    say(&format!("files    {} of {}{found}, {} failed", progress.files, progress.found_files, progress.failed))?;
    say(&format!(
        "bytes    {} of {}{found}, {} {}",
        format_size(progress.bytes),
        format_size(progress.found_bytes),
        format_size(progress.moved_bytes),
        moved_word(job.kind())
    ))?;
    for failure in &progress.failures {
        say(&format!("failed   {}: {}", String::from_utf8_lossy(&failure.path), failure.error))?;
    }
    Ok(())
}

async fn list(context: &Context, uploads: bool) -> Result<ExitCode> {
    let mut jobs: Vec<Job> = Vec::new();
    loop {
        let after = jobs.last().map_or(0, |job| job.id);
        let page = context.fs.list_jobs(after, PAGE, !uploads).await?;
        let nothing_new = page.jobs.is_empty();
        jobs.extend(page.jobs);
        if page.end || nothing_new {
            break;
        }
    }
    if context.json {
        say_json(&json!({ "jobs": jobs.iter().map(job_json).collect::<Vec<_>>() }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |job: &Job| {
        let progress = job.progress.clone().unwrap_or_default();
        let paths = job.spec.as_ref().map(|spec| spec.paths.clone()).unwrap_or_default();
        let what = match job.kind() {
            JobKind::Upload => job.key.clone(),
            _ => paths.iter().map(|path| String::from_utf8_lossy(path)).collect::<Vec<_>>().join(" "),
        };
        let files = match job.kind() {
            JobKind::Upload => String::new(),
            _ => format!("{} of {}", progress.files, progress.found_files),
        };
        let failed = if job.kind() == JobKind::Upload { u64::from(job.attempts) } else { progress.failed };
        let age = job.updated.map_or(u64::MAX, |time| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |now| (now.as_secs() as i64 - time.sec).max(0) as u64 * 1000)
        });
        [
            job.id.to_string(),
            kind_word(job.kind()).to_string(),
            state_word(job.state()).to_string(),
            files,
            failed.to_string(),
            age_text(age),
            what,
        ]
    };
    say(&table(["ID", "Kind", "State", "Files", "Failed", "Updated", "What"], jobs.iter().map(row).collect()))?;
    Ok(ExitCode::SUCCESS)
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
