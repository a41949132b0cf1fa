//! The file `vote`: whom this node has voted for. Replaced as a whole, durable before any vote is given.
//!
//! A vote that made this node itself leader is read back as not yet won: the process must win again, under a new term, because
//! entries of its former leadership that never became durable here may exist elsewhere.

use std::path::Path;

use curvine_types::{ClusterId, Error, Result};

use crate::disk::{Disk, replace_file};
use crate::entry::Vote;
use crate::format::{Fields, check_preamble, corrupt, crc32c, put_preamble};

const MAGIC: &[u8; 8] = b"CVvote\r\n";
const NAME: &str = "vote";

/// Makes the vote durable; blocks.
pub(crate) fn save(disk: &dyn Disk, dir: &Path, cluster: ClusterId, vote: &Vote) -> Result<()> {
    let mut content = Vec::new();
    put_preamble(&mut content, MAGIC, cluster);
    content.extend_from_slice(&u32::from(vote.committed).to_le_bytes());
    content.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    content.extend_from_slice(&vote.leader_id.node_id.to_le_bytes());
    content.extend_from_slice(&crc32c(&[&content]).to_le_bytes());
    replace_file(disk, &dir.join(NAME), &content)
}

/// The saved vote; `None` if this node has never voted.
pub(crate) fn load(dir: &Path, cluster: ClusterId, node: u64) -> Result<Option<Vote>> {
    let path = dir.join(NAME);
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::from_io(source, "cannot read the vote").with("file", path.display())),
    };
    let damaged = || corrupt(&path, 0, "the vote file is damaged; wipe the directory and let the node join again");
    let mut fields = Fields(&content);
    check_preamble(&mut fields, &path, MAGIC, Some(cluster))?;
    let committed = fields.u32().ok_or_else(damaged)?;
    let (term, voted_for) = (fields.u64().ok_or_else(damaged)?, fields.u64().ok_or_else(damaged)?);
    let covered = content.len() - fields.0.len();
    if fields.u32() != Some(crc32c(&[&content[..covered]])) || !fields.0.is_empty() || committed > 1 {
        return Err(damaged());
    }
    let committed = committed == 1 && voted_for != node;
    Ok(Some(if committed { Vote::new_committed(term, voted_for) } else { Vote::new(term, voted_for) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn a_vote_survives_but_not_as_ones_own_leadership() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterId([1; 16]);
        assert_eq!(load(dir.path(), cluster, 5).unwrap(), None);
        save(&RealDisk, dir.path(), cluster, &Vote::new_committed(3, 4)).unwrap();
        assert_eq!(load(dir.path(), cluster, 5).unwrap(), Some(Vote::new_committed(3, 4)));
        assert_eq!(load(dir.path(), cluster, 4).unwrap(), Some(Vote::new(3, 4)));
        assert!(load(dir.path(), ClusterId([2; 16]), 4).is_err());
    }

    #[test]
    fn a_damaged_vote_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterId([1; 16]);
        save(&RealDisk, dir.path(), cluster, &Vote::new(3, 4)).unwrap();
        let path = dir.path().join(NAME);
        let good = std::fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x80;
            std::fs::write(&path, &bad).unwrap();
            assert!(load(dir.path(), cluster, 5).is_err(), "byte {position}");
            std::fs::write(&path, &good[..position]).unwrap();
            assert!(load(dir.path(), cluster, 5).is_err(), "cut at {position}");
        }
    }
}
