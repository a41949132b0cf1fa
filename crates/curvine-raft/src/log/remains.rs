//! The log as a rescue reads it: in order, up to the first damage. Changes nothing.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use curvine_types::{ClusterId, Error, Result};

use super::segment::{self, HEADER_LEN, Header};
use crate::entry::{Entry, LogId};

/// How far the reading came.
#[derive(Default)]
pub(crate) struct Remains {
    /// The last entry that was given.
    pub last: Option<LogId>,
    /// The highest index of an entry that is there, given or not.
    pub highest: u64,
    /// What could not be given, in words.
    pub lost: Vec<String>,
}

/// Gives the entries above index `after` (`None`: all) to `take`, as long as none is missing.
pub(crate) fn read(
    dir: &Path,
    cluster: ClusterId,
    after: Option<u64>,
    take: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<Remains> {
    let mut remains = Remains::default();
    let mut next = after.map_or(0, |after| after + 1);
    let found = segments(dir, cluster)?;
    // A log that was cut behind a snapshot does not tell what was before.
    let mut broken = after.is_none()
        && found
            .first()
            .is_some_and(|(first, _, header)| *first > 0 || header.as_ref().is_ok_and(|h| h.previous.is_some()));
    let headless = broken;
    for (first, path, header) in found {
        let bytes = std::fs::read(&path)
            .map_err(|source| Error::from_io(source, "cannot read the log").with("file", path.display()));
        let (bytes, header) = match (bytes, header) {
            (Ok(bytes), Ok(header)) if header.first == first => (bytes, header),
            (Err(error), _) | (_, Err(error)) => {
                remains.lost.push(format!("the log from index {first} on: {error}"));
                broken = true;
                continue;
            }
            _ => {
                remains.lost.push(format!("the log from index {first} on: {} is another segment", path.display()));
                broken = true;
                continue;
            }
        };
        let scan = segment::scan(&bytes, header.first);
        let end = header.first + scan.ends.len() as u64;
        remains.highest = remains.highest.max(end.saturating_sub(1));
        if broken || end <= next && scan.bad.is_none() {
            continue;
        }
        if header.first > next {
            remains.lost.push(format!("the log entries {next} to {}: their file is missing", header.first - 1));
            broken = true;
            continue;
        }
        let mut start = HEADER_LEN;
        for (number, stop) in scan.ends.iter().map(|end| *end as usize).enumerate() {
            if header.first + number as u64 >= next {
                let record = Bytes::copy_from_slice(&bytes[start..stop]);
                let entry = segment::read_record(&record, &path, start as u64)?;
                remains.last = Some(entry.log_id);
                take(entry)?;
            }
            start = stop;
        }
        next = next.max(end);
        if let Some((offset, what)) = scan.bad {
            // A torn tail was never acknowledged; only what comes after it, if anything does, tells.
            broken = true;
            if segment::proof_of_damage(&bytes, offset, next).is_some() {
                remains
                    .lost
                    .push(format!("the log from index {next} on: {what}, {} at offset {offset}", path.display()));
            }
        }
    }
    if broken && !headless && remains.lost.is_empty() && remains.highest >= next {
        remains.lost.push(format!("the log entries {next} to {}", remains.highest));
    }
    Ok(remains)
}

/// The segment files from where the log begins, in order, each with its header.
fn segments(dir: &Path, cluster: ClusterId) -> Result<Vec<(u64, PathBuf, Result<Header>)>> {
    let failed = |source| Error::from_io(source, "cannot list the log").with("path", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(first) = segment::parse_file_name(&name) {
            let header = read_header(&path, cluster);
            found.push((first, path, header));
        }
    }
    found.sort_by_key(|(first, ..)| *first);
    let begin = found.iter().rposition(|(.., header)| header.as_ref().is_ok_and(|header| header.begins)).unwrap_or(0);
    Ok(found.split_off(begin))
}

fn read_header(path: &Path, cluster: ClusterId) -> Result<Header> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(HEADER_LEN as u64).read_to_end(&mut bytes))
        .map_err(|source| Error::from_io(source, "cannot read the log").with("file", path.display()))?;
    Header::decode(&bytes, path, cluster)
}
