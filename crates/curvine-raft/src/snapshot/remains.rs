//! Snapshot files as a rescue reads them: whole ones strictly, damaged ones as far as they go. Changes nothing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvine_types::{ClusterId, Error, Result};

use super::file::{CHUNK, Reader};
use super::store::{Restored, parse_file_name};
use crate::disk::{Disk, DiskFile, RealDisk};
use crate::entry::snapshot_meta_from_proto;
use crate::format::PREAMBLE_LEN;

/// A snapshot file that was found: term, index, path.
pub(crate) type Found = (u64, u64, PathBuf);

/// All snapshot files, newest first; also those that were set aside as damaged.
pub(crate) fn list(dir: &Path) -> Result<Vec<Found>> {
    let failed = |source| Error::from_io(source, "cannot list the snapshots").with("path", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().replace(".damaged", ".snap");
        found.extend(parse_file_name(&name).map(|(term, index)| (term, index, path)));
    }
    found.sort();
    found.reverse();
    Ok(found)
}

/// Verifies a whole snapshot and hands it to `restore`.
pub(crate) fn read_whole(
    path: &Path,
    cluster: ClusterId,
    restore: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
) -> Result<Restored> {
    let file = RealDisk
        .open(path)
        .map_err(|source| Error::from_io(source, "cannot open a snapshot").with("file", path.display()))?;
    let (meta, reader) = Reader::open(file.clone(), path, cluster)?;
    reader.verify(path)?;
    let (_, mut reader) = Reader::open(file, path, cluster)?;
    restore(&mut reader).map_err(|error| error.with("file", path.display()))?;
    Ok(Restored { meta: snapshot_meta_from_proto(&meta), now: meta.now })
}

/// The state in a snapshot file without any check: who reads it has checksums of its own.
pub(crate) fn read_unchecked(path: &Path) -> Result<Vec<u8>> {
    let failed = |source: std::io::Error| Error::from_io(source, "cannot read a snapshot").with("file", path.display());
    let file: Arc<dyn DiskFile> = RealDisk.open(path).map_err(failed)?;
    let length = file.len().map_err(failed)?;
    let word = |offset: u64| {
        let mut bytes = [0; 4];
        // What the disk does not give is damage like any other.
        let _ = file.read_exact_at(&mut bytes, offset);
        u32::from_le_bytes(bytes)
    };
    let mut offset = (PREAMBLE_LEN + 4) as u64 + u64::from(word(PREAMBLE_LEN as u64)) + 4;
    let mut state = Vec::new();
    while offset + 8 < length {
        let said = word(offset) as usize;
        let chunk = if (1..=CHUNK).contains(&said) { said } else { CHUNK };
        let chunk = chunk.min((length - offset - 8) as usize);
        let start = state.len();
        state.resize(start + chunk, 0);
        read_sectors(file.as_ref(), &mut state[start..], offset + 8);
        offset += 8 + chunk as u64;
    }
    Ok(state)
}

/// Reads around what the disk cannot read, which stays zero.
fn read_sectors(file: &dyn DiskFile, out: &mut [u8], offset: u64) {
    if file.read_exact_at(out, offset).is_ok() {
        return;
    }
    for (number, sector) in out.chunks_mut(512).enumerate() {
        if file.read_exact_at(sector, offset + number as u64 * 512).is_err() {
            sector.fill(0);
        }
    }
}
