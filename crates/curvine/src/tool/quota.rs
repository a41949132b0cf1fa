//! `cv quota`.

use std::process::ExitCode;

use curvine_proto::{QuotaInfo, SetQuota};
use curvine_types::units::format_size;
use curvine_types::{InodeId, Result};
use serde_json::{Value, json};

use super::Context;
use super::output::{say, say_json, table};
use super::path::clean;
use crate::args::QuotaCommand;

/// Shows or changes quotas.
pub async fn run(context: &Context, command: QuotaCommand) -> Result<ExitCode> {
    let quotas = match command {
        QuotaCommand::Set { path, bytes, files } => {
            let inode = inode_of(context, &path).await?;
            let known = context.fs.quotas(inode).await?.into_iter().find(|quota| quota.inode == inode);
            // What is not named stays as it is.
            let (known_bytes, known_files) = known.map_or((0, 0), |quota| (quota.bytes, quota.files));
            let (bytes, files) = (bytes.unwrap_or(known_bytes), files.unwrap_or(known_files));
            context.fs.set_quota(SetQuota { inode, bytes, files, remove: false }).await?;
            let all = context.fs.quotas(inode).await?;
            all.into_iter().filter(|quota| quota.inode == inode).collect()
        }
        QuotaCommand::Unset { path } => {
            let inode = inode_of(context, &path).await?;
            context.fs.set_quota(SetQuota { inode, remove: true, ..SetQuota::default() }).await?;
            return Ok(ExitCode::SUCCESS);
        }
        QuotaCommand::Get { path } => context.fs.quotas(inode_of(context, &path).await?).await?,
        QuotaCommand::List => context.fs.quotas(0).await?,
    };
    if context.json {
        say_json(&json!({ "quotas": quotas.iter().map(as_json).collect::<Vec<_>>() }))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&table(["Path", "Bytes", "Limit", "Files", "Limit", "State"], quotas.iter().map(row).collect()))?;
    Ok(ExitCode::SUCCESS)
}

async fn inode_of(context: &Context, typed: &str) -> Result<InodeId> {
    let path = clean(typed)?;
    Ok(context.fs.resolve(path.as_bytes()).await.map_err(|error| error.with("path", &path))?.attr.inode)
}

fn row(quota: &QuotaInfo) -> [String; 6] {
    let limit = |limit: u64, text: String| if limit == 0 { "none".to_string() } else { text };
    let over = quota.bytes > 0 && quota.used_bytes >= quota.bytes || quota.files > 0 && quota.used_files >= quota.files;
    [
        String::from_utf8_lossy(&quota.path).into_owned(),
        format_size(quota.used_bytes),
        limit(quota.bytes, format_size(quota.bytes)),
        quota.used_files.to_string(),
        limit(quota.files, quota.files.to_string()),
        match (quota.counting, over) {
            (true, _) => "being counted",
            (false, true) => "used up",
            (false, false) => "ok",
        }
        .to_string(),
    ]
}

fn as_json(quota: &QuotaInfo) -> Value {
    json!({
        "path": String::from_utf8_lossy(&quota.path),
        "inode": quota.inode,
        "bytes": (quota.bytes > 0).then_some(quota.bytes),
        "files": (quota.files > 0).then_some(quota.files),
        "used_bytes": quota.used_bytes,
        "used_files": quota.used_files,
        "counting": quota.counting,
    })
}
