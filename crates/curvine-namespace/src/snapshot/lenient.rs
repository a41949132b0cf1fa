//! Reads what can be read of a damaged snapshot. For rescues only: what it gives has holes, which `repair` has to close.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use curvine_types::{ClusterId, Error, Result};

use super::reader::{Input, take_record, word};
use super::{BLOCK_HEADER_LEN, BLOCK_MAX, HEADER_LEN, MAGIC, Section, VERSION, crc32c};
use crate::memory::Memory;
use crate::state::State;

/// What is left of a snapshot, and in words what is not.
pub(crate) struct Remains {
    pub state: State,
    pub lost: Vec<String>,
}

/// Reads as much as is good. `cluster` is believed where the header is not.
pub(crate) fn restore_lenient(reader: &mut dyn Read, cluster: ClusterId) -> Result<Remains> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|source| Error::from_io(source, "cannot read the snapshot"))?;
    let mut lost = Vec::new();
    let header = bytes.get(..HEADER_LEN).unwrap_or_default();
    let header_good = header.len() == HEADER_LEN
        && header[..8] == MAGIC
        && word(&header[8..12]) == VERSION
        && word(&header[28..]) == crc32c(&header[..28]);
    let cluster = match header_good {
        true => ClusterId::from_slice(&header[12..28])?,
        false => {
            lost.push("the header of the snapshot".to_string());
            cluster
        }
    };
    let mut state = State { store: Memory::new(cluster.0), ..State::default() };
    state.meta.cluster = (!cluster.is_nil()).then_some(cluster);
    let mut locks = BTreeMap::new();
    let mut blocks = Blocks { bytes: &bytes, offset: HEADER_LEN.min(bytes.len()), lost: &mut lost };
    let mut complete = false;
    while let Some((section, records, payload)) = blocks.next() {
        if section == Section::End {
            complete = true;
            break;
        }
        let mut empty: &[u8] = &[];
        let input = Input { reader: &mut empty, offset: blocks.offset as u64, section };
        let mut rest = payload;
        for number in 0..records {
            // A record that is refused leaves `rest` behind it, unless it could not even be delimited.
            let before = rest.len();
            if let Err(error) = take_record(&mut state, &mut locks, &input, section, &mut rest) {
                blocks.lost.push(format!("a record of the section {section:?}: {error}"));
                if rest.len() == before {
                    blocks.lost.push(format!("{} more records of the section {section:?}", records - number - 1));
                    break;
                }
            }
        }
    }
    if !complete {
        lost.push("the end of the snapshot".to_string());
    }
    state.store.index_names();
    for (inode, list) in locks {
        state.locks.insert(inode, Arc::new(list));
    }
    Ok(Remains { state, lost })
}

/// The good blocks of a damaged snapshot.
struct Blocks<'a> {
    bytes: &'a [u8],
    offset: usize,
    lost: &'a mut Vec<String>,
}

impl<'a> Blocks<'a> {
    fn next(&mut self) -> Option<(Section, u32, &'a [u8])> {
        loop {
            let (start, section, records, length, sum) = self.next_header()?;
            let payload = &self.bytes[start + BLOCK_HEADER_LEN..start + BLOCK_HEADER_LEN + length];
            self.offset = start + BLOCK_HEADER_LEN + length;
            if crc32c(payload) == sum {
                return Some((section, records, payload));
            }
            self.lost.push(format!("{records} records of the section {section:?} at offset {start}"));
            // Its length was confirmed, but the damage may have moved what follows: look from behind its header.
            if self.header_at(self.offset).is_none() {
                self.offset = start + BLOCK_HEADER_LEN;
            }
        }
    }

    /// The next good header of a block that is wholly here, from the present offset on.
    fn next_header(&mut self) -> Option<(usize, Section, u32, usize, u32)> {
        let from = self.offset;
        let found = (from..self.bytes.len()).find_map(|start| self.header_at(start));
        let until = found.map_or(self.bytes.len(), |(start, ..)| start);
        if until > from {
            self.lost.push(format!("what was in the {} bytes from offset {from} on", until - from));
        }
        found
    }

    fn header_at(&self, start: usize) -> Option<(usize, Section, u32, usize, u32)> {
        let header = self.bytes.get(start..start + BLOCK_HEADER_LEN)?;
        let field = |index: usize| word(&header[index * 4..]);
        let section = Section::from_number(field(0))?;
        let length = field(3) as usize;
        let whole = length <= BLOCK_MAX && start + BLOCK_HEADER_LEN + length <= self.bytes.len();
        let good = whole && field(5) == crc32c(&header[..BLOCK_HEADER_LEN - 4]);
        good.then(|| (start, section, field(2), length, field(4)))
    }
}
