//! `du`, `df`, `count`.

use std::process::ExitCode;

use curvine_proto::FileKind;
use curvine_types::Result;
use serde_json::{Value, json};

use crate::tool::output::{say, say_json, size, table};
use crate::tool::path::clean;
use crate::tool::walk::Walk;
use crate::tool::{Context, Failures};

/// What a tree holds.
#[derive(Default)]
struct Usage {
    directories: u64,
    files: u64,
    bytes: u64,
}

async fn usage(context: &Context, typed: &str, failures: &mut Failures) -> Option<(String, Usage)> {
    let top = async {
        let path = clean(typed)?;
        Ok((context.fs.resolve(path.as_bytes()).await?, path))
    };
    let (entry, path) = failures.check(typed, top.await)?;
    let mut walk = Walk::new(&context.fs, &path, entry);
    let mut usage = Usage::default();
    while let Some(found) = walk.next(failures).await {
        match found.attr.kind() {
            FileKind::Directory => usage.directories += 1,
            kind => {
                usage.files += 1;
                usage.bytes += if kind == FileKind::File { found.attr.size } else { 0 };
            }
        }
    }
    Some((path, usage))
}

/// How much trees hold.
pub async fn du(context: &Context, human: bool, paths: &[String]) -> Result<ExitCode> {
    let mut failures = Failures::default();
    let mut values = Vec::new();
    for typed in paths {
        let Some((path, usage)) = usage(context, typed, &mut failures).await else { continue };
        match context.json {
            true => values.push(json!({ "path": path, "bytes": usage.bytes })),
            false => say(&format!("{}\t{path}", size(usage.bytes, human)))?,
        }
    }
    finish(context, values, &failures)
}

/// How many directories, files and bytes.
pub async fn count(context: &Context, paths: &[String]) -> Result<ExitCode> {
    let mut failures = Failures::default();
    let mut values = Vec::new();
    for typed in paths {
        let Some((path, usage)) = usage(context, typed, &mut failures).await else { continue };
        let Usage { directories, files, bytes } = usage;
        match context.json {
            true => values.push(json!({ "path": path, "directories": directories, "files": files, "bytes": bytes })),
            false => say(&format!("{directories:>12} {files:>12} {bytes:>16} {path}"))?,
        }
    }
    finish(context, values, &failures)
}

fn finish(context: &Context, values: Vec<Value>, failures: &Failures) -> Result<ExitCode> {
    if context.json {
        say_json(&Value::Array(values))?;
    }
    Ok(failures.code())
}

/// How much the workers hold.
pub async fn df(context: &Context, human: bool) -> Result<ExitCode> {
    let statfs = context.fs.statfs(0).await?;
    let used = statfs.capacity.saturating_sub(statfs.available);
    if context.json {
        say_json(&json!({
            "capacity": statfs.capacity,
            "used": used,
            "available": statfs.available,
            "inodes": statfs.inodes,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let percent = if statfs.capacity == 0 { 0 } else { used.saturating_mul(100).div_ceil(statfs.capacity) };
    let row = [
        size(statfs.capacity, human),
        size(used, human),
        size(statfs.available, human),
        format!("{percent}%"),
        statfs.inodes.to_string(),
    ];
    say(&table(["Capacity", "Used", "Available", "Use", "Inodes"], vec![row]))?;
    Ok(ExitCode::SUCCESS)
}
