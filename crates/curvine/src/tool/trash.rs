//! `cv trash`.

use std::collections::HashSet;
use std::process::ExitCode;

use bytes::Bytes;
use curvine_proto::TrashInfo;
use curvine_types::units::format_size;
use curvine_types::{Result, format_utc};
use serde_json::{Value, json};

use super::output::{say, say_json, table};
use super::path::clean;
use super::{Context, Failures};
use crate::args::TrashCommand;

/// Entries asked for at once.
const PAGE: u32 = 500;
/// Entries changed with one order: what takes their stores some seconds at most.
const ORDER: usize = 64;

/// Shows, restores or empties the trash.
pub async fn run(context: &Context, command: TrashCommand) -> Result<ExitCode> {
    match command {
        TrashCommand::List { path } => list(context, &path).await,
        TrashCommand::Restore { paths } => restore(context, &paths).await,
        TrashCommand::Empty { path } => empty(context, &path).await,
    }
}

async fn entries(context: &Context, path: &str) -> Result<Vec<TrashInfo>> {
    let path = clean(path)?;
    let (mut entries, mut after) = (Vec::new(), 0);
    loop {
        let page = context.fs.trash(path.as_bytes(), after, PAGE).await?;
        entries.extend(page.entries);
        if page.end {
            return Ok(entries);
        }
        after = page.after;
    }
}

async fn list(context: &Context, path: &str) -> Result<ExitCode> {
    let entries = entries(context, path).await?;
    if context.json {
        say_json(&json!({ "trash": entries.iter().map(as_json).collect::<Vec<_>>() }))?;
    } else {
        say(&table(["Path", "Size", "Removed", "Until", "State"], entries.iter().map(row).collect()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn restore(context: &Context, paths: &[String]) -> Result<ExitCode> {
    let (mut done, mut failures) = (0, Failures::default());
    for path in paths {
        let found = entries(context, path).await?;
        if found.is_empty() {
            let nothing =
                curvine_types::Error::new(curvine_types::ErrorKind::NotFound, "nothing of it is in the trash");
            failures.note(path, &nothing);
        }
        // Directories first, from the top; of what was removed from one name several times, the last.
        let mut names: HashSet<&Bytes> = HashSet::new();
        let mut wanted: Vec<&TrashInfo> = found.iter().rev().filter(|entry| names.insert(&entry.path)).collect();
        wanted.sort_by_key(|entry| (!entry.directory, entry.directory.then_some(entry.path.len())));
        for part in wanted.chunk_by(|one, other| one.directory == other.directory) {
            for order in part.chunks(ORDER) {
                let ids: Vec<u64> = order.iter().map(|entry| entry.id).collect();
                let reply = context.fs.restore_trash(&ids).await?;
                done += note(&mut failures, reply);
            }
        }
    }
    tell(context, "restored", done, &failures)
}

async fn empty(context: &Context, path: &str) -> Result<ExitCode> {
    let (mut done, mut failures) = (0, Failures::default());
    // In the order of removal, so that directories are empty when it is their turn.
    for order in entries(context, path).await?.chunk_by(|one, other| one.directory == other.directory) {
        for order in order.chunks(ORDER) {
            let ids: Vec<u64> = order.iter().map(|entry| entry.id).collect();
            let reply = context.fs.empty_trash(&ids).await?;
            done += note(&mut failures, reply);
        }
    }
    tell(context, "deleted", done, &failures)
}

fn note(failures: &mut Failures, reply: curvine_proto::ChangeTrashReply) -> u64 {
    for failure in &reply.failures {
        let error = curvine_types::Error::new(curvine_types::ErrorKind::Ufs, &failure.error);
        failures.note(&String::from_utf8_lossy(&failure.path), &error);
    }
    reply.done.into()
}

fn tell(context: &Context, what: &str, done: u64, failures: &Failures) -> Result<ExitCode> {
    match context.json {
        true => say_json(&json!({ what: done, "failed": failures.count() }))?,
        false => say(&format!("{what} {done}, failed {}", failures.count()))?,
    }
    Ok(failures.code())
}

fn row(entry: &TrashInfo) -> [String; 5] {
    let time = |time: Option<curvine_proto::Time>| format_utc(time.unwrap_or_default().sec);
    [
        String::from_utf8_lossy(&entry.path).into_owned() + if entry.directory { "/" } else { "" },
        if entry.directory { String::new() } else { format_size(entry.size) },
        time(entry.removed),
        time(entry.until),
        if entry.held { "deleted soon, unless more follow" } else { "kept" }.to_string(),
    ]
}

fn as_json(entry: &TrashInfo) -> Value {
    json!({
        "id": entry.id,
        "path": String::from_utf8_lossy(&entry.path),
        "directory": entry.directory,
        "size": entry.size,
        "removed": entry.removed.unwrap_or_default().sec,
        "until": entry.until.unwrap_or_default().sec,
        "held": entry.held,
    })
}
