//! `cv pin`, `cv unpin`, `cv pins`.

use std::process::ExitCode;

use curvine_proto::SetPin;
use curvine_types::Result;
use serde_json::json;

use super::output::{say, say_json};
use super::path::clean;
use super::{Context, Failures};

/// Pins paths, or lets them go.
pub async fn set(context: &Context, paths: &[String], remove: bool) -> Result<ExitCode> {
    let mut failures = Failures::default();
    for typed in paths {
        let pinning = async {
            let inode = context.fs.resolve(clean(typed)?.as_bytes()).await?.attr.inode;
            context.fs.set_pin(SetPin { inode, remove }).await
        };
        failures.check(typed, pinning.await);
    }
    Ok(failures.code())
}

/// Prints what is pinned.
pub async fn list(context: &Context) -> Result<ExitCode> {
    let pins = context.fs.pins().await?;
    let path = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    if context.json {
        let pins = pins.iter().map(|pin| json!({ "path": path(&pin.path), "inode": pin.inode }));
        say_json(&json!({ "pins": pins.collect::<Vec<_>>() }))?;
    } else {
        pins.iter().try_for_each(|pin| say(&path(&pin.path)))?;
    }
    Ok(ExitCode::SUCCESS)
}
