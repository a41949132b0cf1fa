//! The portable form of the metadata: JSON lines, to be kept, moved, looked at and loaded again by any version.
//!
//! ```text
//! first line   {"format":"curvine-metadata","version":1,"cluster":"<uuid>", ...}   what else the caller puts there
//! then         {"section":"<name>", <fields of the record>}                          in the order of a snapshot's sections
//! last line    {"section":"End","records":<number of the lines between>}
//! ```
//!
//! The fields are those of `record_forms`. Integers go up to 2^64-1. Bytes (names, values, inline data) are text if they are UTF-8
//! and begin with no backslash, else a backslash and hexadecimal digits. Times are those of a snapshot: seconds since
//! 1901-12-13T20:45:52Z in the upper 34 bits, nanoseconds in the lower 30.

use std::io::{self, BufRead, Write};

use curvine_proto::Message;
use curvine_types::{ClusterId, Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::record_forms::*;
use super::writer::{Blocks, Sink, write_state};
use super::{Section, Snapshot};

pub(crate) const FORMAT: &str = "curvine-metadata";
const VERSION: u64 = 1;
/// Longest line that is believed: inline content in hexadecimal, twice.
const LINE_MAX: usize = 64 << 20;
/// Fields that are bytes.
const BYTES: [&str; 6] = ["name", "value", "data", "outcome", "uuid", "job"];
/// Fields that are maps from text to bytes.
const BYTE_MAPS: [&str; 1] = ["secrets"];

impl Snapshot {
    /// Writes the portable form; `about` goes into its first line.
    pub fn write_portable(&self, about: &[(&str, Value)], writer: &mut dyn Write) -> io::Result<u64> {
        let cluster = self.state.meta.cluster.unwrap_or_default();
        let mut head = Map::new();
        head.insert("format".into(), json!(FORMAT));
        head.insert("version".into(), json!(VERSION));
        head.insert("cluster".into(), json!(cluster.to_string()));
        head.extend(about.iter().map(|(key, value)| (key.to_string(), value.clone())));
        serde_json::to_writer(&mut *writer, &head)?;
        writer.write_all(b"\n")?;
        let mut lines = Lines { writer, records: 0 };
        write_state(&self.state, &mut lines)?;
        let records = lines.records;
        lines.put(Section::End, &EndForm { records })?;
        Ok(records)
    }
}

struct Lines<'a> {
    writer: &'a mut dyn Write,
    records: u64,
}

impl Sink for Lines<'_> {
    fn put<M: Message + Serialize>(&mut self, section: Section, record: &M) -> io::Result<()> {
        let mut value = serde_json::to_value(record)?;
        if let Value::Object(fields) = &mut value {
            bytes_to_text(fields);
            fields.insert("section".into(), json!(format!("{section:?}")));
        }
        serde_json::to_writer(&mut *self.writer, &value)?;
        self.writer.write_all(b"\n")?;
        self.records += 1;
        Ok(())
    }
}

/// The first line of a portable form.
#[derive(Clone, Debug)]
pub struct Head {
    pub cluster: ClusterId,
    /// All of it.
    pub fields: Map<String, Value>,
}

/// Turns the portable form into the bytes of a snapshot, which `Namespace::restore` reads. `Corrupt` names the line.
pub fn snapshot_of_portable(reader: &mut dyn BufRead, writer: &mut dyn Write) -> Result<Head> {
    let mut number = 0;
    let mut line = Vec::new();
    let head = read_line(reader, &mut line, &mut number)?.ok_or_else(|| wrong(0, "the file is empty"))?;
    if head.get("format").and_then(Value::as_str) != Some(FORMAT) {
        return Err(Error::new(ErrorKind::Foreign, "this is not metadata that `cv meta dump` wrote"));
    }
    if head.get("version").and_then(Value::as_u64) != Some(VERSION) {
        return Err(
            Error::new(ErrorKind::Foreign, "the file has a format that this version cannot read").with("want", VERSION)
        );
    }
    let text = head.get("cluster").and_then(Value::as_str).unwrap_or_default();
    let cluster: ClusterId =
        text.parse().map_err(|error: Error| wrong(1, "not the id of a cluster").caused_by(error))?;
    let mut blocks = Blocks::begin(writer, cluster).map_err(failed)?;
    let mut records = 0;
    while let Some(mut fields) = read_line(reader, &mut line, &mut number)? {
        let name = fields.remove("section").and_then(|name| name.as_str().map(str::to_string)).unwrap_or_default();
        let section = Section::ALL.into_iter().find(|section| format!("{section:?}") == name);
        let section = section.ok_or_else(|| wrong(number, "an unknown section").with("section", &name))?;
        if section == Section::End {
            if fields.get("records").and_then(Value::as_u64) != Some(records) {
                return Err(wrong(number, "lines are missing"));
            }
            blocks.finish().map_err(failed)?;
            return Ok(Head { cluster, fields: head });
        }
        if section < blocks.section() {
            return Err(wrong(number, "the sections are out of order").with("section", &name));
        }
        text_to_bytes(&mut fields).ok_or_else(|| wrong(number, "a field is not text or hexadecimal digits"))?;
        put_fields(&mut blocks, section, Value::Object(fields))
            .map_err(|error| wrong(number, "not a record").caused_by(error))?;
        records += 1;
    }
    Err(wrong(number, "the file ends early"))
}

fn put_fields(blocks: &mut Blocks, section: Section, fields: Value) -> io::Result<()> {
    match section {
        Section::End => Ok(()),
        Section::Meta => put_as::<MetaForm>(blocks, section, fields),
        Section::Sessions => put_as::<SessionForm>(blocks, section, fields),
        Section::Results => put_as::<ResultForm>(blocks, section, fields),
        Section::Workers => put_as::<WorkerForm>(blocks, section, fields),
        Section::Mounts => put_as::<MountForm>(blocks, section, fields),
        Section::Inodes => put_as::<InodeForm>(blocks, section, fields),
        Section::Dentries => put_as::<DentryForm>(blocks, section, fields),
        Section::Links => put_as::<LinkForm>(blocks, section, fields),
        Section::Xattrs => put_as::<XattrForm>(blocks, section, fields),
        Section::Inline => put_as::<InlineForm>(blocks, section, fields),
        Section::Placed => put_as::<PlacedForm>(blocks, section, fields),
        Section::UfsDirs => put_as::<UfsDirForm>(blocks, section, fields),
        Section::Grants => put_as::<GrantForm>(blocks, section, fields),
        Section::Orphans => put_as::<OrphanForm>(blocks, section, fields),
        Section::Locks => put_as::<LockForm>(blocks, section, fields),
        Section::Garbage => put_as::<GarbageForm>(blocks, section, fields),
        Section::Doomed => put_as::<DoomedForm>(blocks, section, fields),
        Section::Jobs => put_as::<JobForm>(blocks, section, fields),
        Section::Pins => put_as::<PinForm>(blocks, section, fields),
        Section::Quotas => put_as::<QuotaForm>(blocks, section, fields),
        Section::Ttls => put_as::<TtlForm>(blocks, section, fields),
        Section::TreeMoves => put_as::<TreeMoveForm>(blocks, section, fields),
        Section::Trash => put_as::<TrashForm>(blocks, section, fields),
    }
}

fn put_as<F: Message + Serialize + DeserializeOwned>(
    blocks: &mut Blocks,
    section: Section,
    fields: Value,
) -> io::Result<()> {
    let form: F = serde_json::from_value(fields)?;
    blocks.put(section, &form)
}

fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>, number: &mut u64) -> Result<Option<Map<String, Value>>> {
    line.clear();
    *number += 1;
    let mut limited = io::Read::take(&mut *reader, LINE_MAX as u64);
    let length =
        limited.read_until(b'\n', line).map_err(|source| Error::from_io(source, "cannot read the metadata"))?;
    if length == 0 {
        return Ok(None);
    }
    match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => Ok(Some(fields)),
        Ok(_) => Err(wrong(*number, "not a JSON object")),
        Err(error) => Err(wrong(*number, "not a line of JSON").caused_by(error)),
    }
}

fn wrong(line: u64, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, what).with("line", line)
}

fn failed(source: io::Error) -> Error {
    Error::from_io(source, "cannot write the metadata")
}

fn bytes_to_text(fields: &mut Map<String, Value>) {
    for (key, value) in fields.iter_mut() {
        if BYTES.contains(&key.as_str()) {
            as_text(value);
        } else if BYTE_MAPS.contains(&key.as_str())
            && let Value::Object(map) = value
        {
            map.values_mut().for_each(as_text);
        }
    }
}

fn as_text(value: &mut Value) {
    let Value::Array(numbers) = value else { return };
    let bytes: Vec<u8> = numbers.iter().filter_map(|number| number.as_u64().map(|number| number as u8)).collect();
    let text = match String::from_utf8(bytes) {
        Ok(text) if !text.starts_with('\\') => text,
        Ok(text) => hex(text.as_bytes()),
        Err(error) => hex(error.as_bytes()),
    };
    *value = Value::String(text);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\".to_string(), |text, byte| text + &format!("{byte:02x}"))
}

fn text_to_bytes(fields: &mut Map<String, Value>) -> Option<()> {
    for (key, value) in fields.iter_mut() {
        if BYTES.contains(&key.as_str()) {
            as_bytes(value)?;
        } else if BYTE_MAPS.contains(&key.as_str())
            && let Value::Object(map) = value
        {
            map.values_mut().try_for_each(as_bytes)?;
        }
    }
    Some(())
}

fn as_bytes(value: &mut Value) -> Option<()> {
    let Value::String(text) = &*value else { return Some(()) };
    let bytes = match text.strip_prefix('\\') {
        None => text.as_bytes().to_vec(),
        Some(digits) => {
            let digits = digits.as_bytes();
            let pairs = digits.chunks(2).map(|pair| {
                let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
                u8::from_str_radix(text, 16).ok()
            });
            pairs.collect::<Option<Vec<u8>>>()?
        }
    };
    *value = Value::from(bytes);
    Some(())
}
