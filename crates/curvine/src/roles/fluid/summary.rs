//! `curvine fluid report-summary`: what Fluid shows of a dataset.

use std::time::Duration;

use curvine_client::FileSystem;
use curvine_config::ClusterConf;
use curvine_kubernetes::summary::{Facts, Summary};
use curvine_proto::FileKind;
use curvine_types::{Error, ErrorKind, Result};

use super::connect;
use crate::tool::Failures;
use crate::tool::output::say;
use crate::tool::walk::Walk;

/// How long closing the session may take.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Asks, counts what the stores hold for as long as `counting`, prints.
pub async fn run(conf: &ClusterConf, counting: Duration) -> Result<()> {
    let fs = connect(conf).await?;
    let outcome = facts(&fs, counting).await;
    if let Err(error) = fs.close(CLOSE_GRACE).await {
        tracing::debug!(%error, "the session is left to expire");
    }
    let summary = serde_json::to_string(&Summary::of(&outcome?));
    say(&summary.map_err(|error| Error::new(ErrorKind::Internal, "cannot write the summary").caused_by(error))?)
}

async fn facts(fs: &FileSystem, counting: Duration) -> Result<Facts> {
    let mounts = fs.mount_table().await?.mounts;
    let counted = async {
        let mut total = 0;
        for mount in &mounts {
            total += bytes_below(fs, &mount.path).await?;
        }
        Some(total)
    };
    let ufs_total = tokio::time::timeout(counting, counted).await.ok().flatten();
    // After the walk, which has made names known.
    let report = fs.report().await?;
    let gauge = |name: &str| report.gauges.get(name).copied().unwrap_or(0);
    Ok(Facts {
        capacity: report.capacity,
        used: report.used,
        clean: gauge("clean_bytes"),
        hits: gauge("cache_hits"),
        misses: gauge("cache_misses"),
        ufs_total,
        has_stores: !mounts.is_empty(),
        files: report.files,
    })
}

/// Bytes of all files below a path; `None`: not all of them could be seen.
async fn bytes_below(fs: &FileSystem, path: &[u8]) -> Option<u64> {
    let top = fs.resolve(path).await.ok()?;
    let mut failures = Failures::default();
    let mut walk = Walk::new(fs, &String::from_utf8_lossy(path), top);
    let mut total = 0;
    while let Some(found) = walk.next(&mut failures).await {
        if found.attr.kind() == FileKind::File {
            total += found.attr.size;
        }
    }
    (failures.count() == 0).then_some(total)
}
