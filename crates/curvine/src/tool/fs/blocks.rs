//! `blocks`: where the bytes of a file are.

use std::process::ExitCode;

use curvine_proto::{ContentMapReply, Layout, layout};
use curvine_types::units::format_size;
use curvine_types::{Result, WorkerId};
use serde_json::{Value, json};

use crate::tool::Context;
use crate::tool::output::{say, say_json, table};
use crate::tool::path::clean;

/// Prints the layout of a file, and what each worker holds of it.
pub async fn blocks(context: &Context, typed: &str, json: bool) -> Result<ExitCode> {
    let path = clean(typed)?;
    let inode = context.fs.resolve(path.as_bytes()).await?.attr.inode;
    let reply = context.fs.layout(inode).await?;
    let attr = reply.attr.unwrap_or_default();
    let layout = reply.layout.unwrap_or_default();
    let maps = context.fs.content_map(inode).await?;
    if json || context.json {
        let workers: Vec<Value> = maps.iter().map(map_json).collect();
        say_json(&json!({
            "path": path,
            "inode": inode,
            "size": attr.size,
            "generation": layout.generation,
            "layout": layout_json(&layout),
            "workers": workers,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "{path}: inode {inode}, {} bytes, generation {}, {}",
        attr.size,
        layout.generation,
        layout_text(&layout)
    ))?;
    if maps.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let rows = maps.iter().map(|(worker, map)| {
        let [absent, present, hole, dirty] = counts(map);
        [
            worker.to_string(),
            map.tier.clone(),
            format_size(map.present_bytes),
            format!("{present} present, {hole} hole, {dirty} dirty, {absent} absent"),
            map.path.clone(),
        ]
    });
    say(&table(["Worker", "Tier", "Held", "Chunks", "Local file"], rows.collect()))?;
    Ok(ExitCode::SUCCESS)
}

/// Chunks by their state: absent, present, hole, dirty.
fn counts(map: &ContentMapReply) -> [usize; 4] {
    [0, 1, 2, 3].map(|state| map.states.iter().filter(|have| **have == state).count())
}

fn layout_text(layout: &Layout) -> String {
    match &layout.kind {
        Some(layout::Kind::Inline(_)) => "kept in the metadata".to_string(),
        Some(layout::Kind::Blocks(blocks)) => {
            let state = if blocks.live { "live" } else { "sealed" };
            format!("{state} blocks of {}", format_size(blocks.block_size))
        }
        Some(layout::Kind::Ufs(ufs)) => format!("object {} of mount {}, etag {:?}", ufs.key, ufs.mount, ufs.etag),
        None => "no layout".to_string(),
    }
}

fn layout_json(layout: &Layout) -> Value {
    match &layout.kind {
        Some(layout::Kind::Inline(_)) => json!({ "kind": "inline" }),
        Some(layout::Kind::Blocks(blocks)) => {
            let extents: Vec<Value> = blocks
                .extents
                .iter()
                .map(|extent| {
                    json!({
                        "first_block": extent.first_block,
                        "block_count": extent.block_count,
                        "version": extent.version,
                        "workers": extent.workers,
                    })
                })
                .collect();
            json!({ "kind": "blocks", "live": blocks.live, "block_size": blocks.block_size, "extents": extents })
        }
        Some(layout::Kind::Ufs(ufs)) => {
            json!({ "kind": "ufs", "mount": ufs.mount, "key": ufs.key, "etag": ufs.etag, "block_size": ufs.block_size })
        }
        None => Value::Null,
    }
}

fn map_json((worker, map): &(WorkerId, ContentMapReply)) -> Value {
    let [absent, present, hole, dirty] = counts(map);
    json!({
        "worker": worker,
        "tier": map.tier,
        "file": map.path,
        "size": map.size,
        "chunk_size": map.chunk_size,
        "present_bytes": map.present_bytes,
        "present": present,
        "hole": hole,
        "dirty": dirty,
        "absent": absent,
    })
}
