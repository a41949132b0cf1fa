//! Comparing all that is known of names in trees with their stores, whenever that was done last.

use curvine_proto::TaskSpec;
use tokio::sync::mpsc;

use super::Progress;
use super::walk::{Found, Look};
use crate::leader::Leader;

/// Files that were found and are to be counted.
const FOUND_MAX: usize = 256;

impl Leader {
    pub(super) async fn resync_trees(&self, spec: &TaskSpec, progress: &Progress) {
        // Single names that were looked up are looked up again.
        self.ufs.forget();
        let (sender, mut files) = mpsc::channel::<Found>(FOUND_MAX);
        let walk = self.walk(spec, Look::Again, progress, sender);
        let count = async {
            while let Some(found) = files.recv().await {
                progress.edit(|now| {
                    now.found_files += 1;
                    now.files += 1;
                    now.found_bytes += found.attr.size;
                    now.bytes += found.attr.size;
                });
            }
        };
        tokio::join!(walk, count);
        progress.edit(|now| now.walked = true);
    }
}
