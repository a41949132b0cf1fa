//! `cv ttl`.

use std::process::ExitCode;

use curvine_proto::{SetTtl, TtlAction, TtlInfo};
use curvine_types::{InodeId, Result};
use serde_json::{Value, json};

use super::Context;
use super::output::{age_text, say, say_json, table};
use super::path::clean;
use crate::args::{TtlActionName, TtlCommand};

/// Shows or changes times to live.
pub async fn run(context: &Context, command: TtlCommand) -> Result<ExitCode> {
    let ttls = match command {
        TtlCommand::Set { path, ttl, action } => {
            let inode = inode_of(context, &path).await?;
            let action = match action {
                TtlActionName::Free => TtlAction::Free,
                TtlActionName::Delete => TtlAction::Delete,
            };
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            context.fs.set_ttl(SetTtl { inode, ttl_ms, action: action.into(), remove: false }).await?;
            context.fs.ttls(inode).await?.into_iter().filter(|ttl| ttl.inode == inode).collect()
        }
        TtlCommand::Clear { path } => {
            let inode = inode_of(context, &path).await?;
            context.fs.set_ttl(SetTtl { inode, remove: true, ..SetTtl::default() }).await?;
            return Ok(ExitCode::SUCCESS);
        }
        TtlCommand::Get { path } => context.fs.ttls(inode_of(context, &path).await?).await?,
        TtlCommand::List => context.fs.ttls(0).await?,
    };
    if context.json {
        say_json(&json!({ "ttls": ttls.iter().map(as_json).collect::<Vec<_>>() }))?;
    } else {
        say(&table(["Path", "Time to live", "Then"], ttls.iter().map(row).collect()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn inode_of(context: &Context, typed: &str) -> Result<InodeId> {
    let path = clean(typed)?;
    Ok(context.fs.resolve(path.as_bytes()).await.map_err(|error| error.with("path", &path))?.attr.inode)
}

fn row(ttl: &TtlInfo) -> [String; 3] {
    let then = match ttl.action() {
        TtlAction::Delete => "files are removed, counted from their last change",
        _ => "cached copies are dropped, counted from when they were begun",
    };
    [String::from_utf8_lossy(&ttl.path).into_owned(), age_text(ttl.ttl_ms), then.to_string()]
}

/// One that counts, in a line.
pub fn text(ttl: &TtlInfo) -> String {
    let path = String::from_utf8_lossy(&ttl.path);
    let age = age_text(ttl.ttl_ms);
    match ttl.action() {
        TtlAction::Delete => format!("removed {age} after the last change (set on {path})"),
        _ => format!("cached copies are dropped after {age} (set on {path})"),
    }
}

/// For scripts.
pub fn as_json(ttl: &TtlInfo) -> Value {
    json!({
        "path": String::from_utf8_lossy(&ttl.path),
        "ttl_ms": ttl.ttl_ms,
        "action": if ttl.action() == TtlAction::Delete { "delete" } else { "free" },
    })
}
