//! What a cluster tells of itself: metrics, `cv stats`, `cv stat`, `cv doctor`.

mod harness;
#[path = "insight/metrics.rs"]
mod metrics;
#[path = "insight/pins.rs"]
mod pins;
#[path = "insight/quota.rs"]
mod quota;
#[allow(dead_code, reason = "this is a part of what the guide's tests need")]
#[path = "guide/store.rs"]
mod store;
#[path = "insight/tools.rs"]
mod tools;

use harness::Cluster;
use store::{ACCESS, SECRET, Store};

/// Mounts a bucket of the store.
fn mount_bucket(cluster: &Cluster, store: &Store, bucket: &str, path: &str) {
    let options = [
        format!("endpoint_url={}", store.endpoint()),
        format!("access={ACCESS}"),
        format!("secret={SECRET}"),
        "region_name=us-east-1".to_string(),
    ];
    let url = format!("s3://{bucket}");
    let mut arguments = vec!["mount", &url, path, "--ttl", "30m"];
    options.iter().for_each(|option| arguments.extend(["-c", option]));
    cluster.cv(&arguments).ok();
}
