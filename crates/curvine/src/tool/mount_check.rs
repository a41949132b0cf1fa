//! `cv mount check`: the keys of a store that no file of the mount can have as its name.

use std::process::ExitCode;

use serde_json::json;

use super::Context;
use super::output::{say, say_json};
use super::path::clean;
use curvine_types::Result;

/// Keys in one answer, so that something is seen soon.
const PAGE: u32 = 10_000;

/// Goes through all keys below a path. Exit code 1 if there are odd ones.
pub async fn run(context: &Context, path: &str) -> Result<ExitCode> {
    let path = clean(path)?;
    let (mut keys, mut odd) = (0, Vec::new());
    let (mut after, mut files) = (String::new(), Vec::new());
    loop {
        let page = context.fs.check_keys(path.as_bytes(), after, files, PAGE).await?;
        keys += page.keys;
        for key in page.odd {
            if !context.json {
                say(&format!("{:?}: {}", key.key, key.why))?;
            }
            odd.push(json!({ "key": key.key, "why": key.why }));
        }
        if page.next.is_empty() {
            break;
        }
        (after, files) = (page.next, page.files);
    }
    let count = odd.len();
    match context.json {
        true => say_json(&json!({ "path": path, "keys": keys, "odd": odd }))?,
        false => say(&format!("{keys} keys, {count} of them cannot be shown as files"))?,
    }
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
