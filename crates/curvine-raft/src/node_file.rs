//! The identity of a replica's directory.

use curvine_types::ClusterId;

/// Which cluster a directory belongs to and which node it makes of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFile {
    pub cluster: ClusterId,
    /// Random, made with the directory; never 0.
    pub node: u64,
}
