//! Who this process is to its peers, and to which cluster it belongs.

use std::sync::{Arc, OnceLock};

use curvine_proto::PeerRole;
use curvine_types::{ClusterId, Error, ErrorKind, Result, Secret};

/// What an end of a connection says and proves about itself.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Known to all of a cluster. Both ends may have none; whether that is permitted is for the config to decide.
    pub secret: Secret,
    pub role: PeerRole,
    pub cluster: Arc<ClusterCell>,
    pub hostname: String,
    /// Worker or raft node id; 0: none.
    pub id: u64,
}

/// The cluster that this process belongs to, once it is known. It can be learnt, never changed.
#[derive(Debug, Default)]
pub struct ClusterCell(OnceLock<ClusterId>);

impl ClusterCell {
    /// A cell that knows `cluster` from the start; nil: not known yet.
    pub fn new(cluster: ClusterId) -> Self {
        let cell = Self::default();
        if !cluster.is_nil() {
            let _ = cell.0.set(cluster);
        }
        cell
    }

    /// The cluster, if known.
    pub fn get(&self) -> Option<ClusterId> {
        self.0.get().copied()
    }

    /// Remembers `cluster`; `Foreign` if it is known to be another one, `InvalidArgument` if it is nil.
    pub fn set(&self, cluster: ClusterId) -> Result<()> {
        if cluster.is_nil() {
            return Err(Error::new(ErrorKind::InvalidArgument, "a cluster id must not be nil"));
        }
        let have = *self.0.get_or_init(|| cluster);
        if have != cluster {
            return Err(Error::new(ErrorKind::Foreign, "this process belongs to another cluster")
                .with("have", have)
                .with("want", cluster));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_learnt_once_and_never_changed() {
        let cell = ClusterCell::new(ClusterId::default());
        assert_eq!(cell.get(), None);
        assert_eq!(cell.set(ClusterId::default()).unwrap_err().kind(), ErrorKind::InvalidArgument);
        cell.set(ClusterId([1; 16])).unwrap();
        cell.set(ClusterId([1; 16])).unwrap();
        assert_eq!(cell.set(ClusterId([2; 16])).unwrap_err().kind(), ErrorKind::Foreign);
        assert_eq!(cell.get(), Some(ClusterId([1; 16])));
    }
}
