//! The types that a key can have: how each is read from TOML, written back, and named in the reference.

use std::path::PathBuf;
use std::time::Duration;

use curvine_types::units::{format_duration, parse_duration, parse_size};
use toml::de::DeValue;

use crate::data_dir::DataDir;

/// A type of value. `read` answers with what was expected, for the end of "expected ...".
pub trait Kind {
    type Value: Clone + PartialEq + std::fmt::Debug;
    /// For the reference.
    const NAME: &'static str;
    fn read(value: &DeValue<'_>) -> Result<Self::Value, String>;
    /// A TOML literal that reads back to the same value.
    fn write(value: &Self::Value) -> String;
}

/// Text as it is.
pub struct Text;
/// `true` or `false`.
pub struct Flag;
/// A TCP port; 0 takes a free one where a server binds it.
pub struct Port;
/// How many, at least 1.
pub struct Count;
/// How many, where 0 has a meaning of its own.
pub struct CountOrZero;
/// How many, at least 1, in 16 bits.
pub struct SmallCount;
/// Bytes.
pub struct Size;
/// A duration with its unit.
pub struct Span;
/// A duration; an integer is milliseconds, as the names of such keys say.
pub struct Millis;
/// Permission bits.
pub struct Mode;
/// A path, which may be empty.
pub struct File;
/// A list of text.
pub struct Texts;
/// A list of `host:port`.
pub struct Addresses;
/// Tier directories.
pub struct DataDirs;
/// The shape of log lines.
pub struct Format;

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// TOML's own escaping.
fn quote(text: &str) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    match value {
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
        // Templates that know only strings write numbers in quotes.
        DeValue::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

impl Kind for Text {
    type Value = String;
    const NAME: &'static str = "text";
    fn read(value: &DeValue<'_>) -> Result<String, String> {
        value.as_str().map(str::to_string).ok_or_else(|| "text in quotes".to_string())
    }
    fn write(value: &String) -> String {
        quote(value)
    }
}

impl Kind for Flag {
    type Value = bool;
    const NAME: &'static str = "true or false";
    fn read(value: &DeValue<'_>) -> Result<bool, String> {
        let text = value.as_str().and_then(|text| text.parse().ok());
        value.as_bool().or(text).ok_or_else(|| "true or false".to_string())
    }
    fn write(value: &bool) -> String {
        value.to_string()
    }
}

impl Kind for Port {
    type Value = u16;
    const NAME: &'static str = "port";
    fn read(value: &DeValue<'_>) -> Result<u16, String> {
        let port = integer(value).and_then(|number| u16::try_from(number).ok());
        port.ok_or_else(|| "a port number from 0 to 65535".to_string())
    }
    fn write(value: &u16) -> String {
        value.to_string()
    }
}

impl Kind for Count {
    type Value = usize;
    const NAME: &'static str = "count";
    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        let count = integer(value).filter(|number| *number > 0).and_then(|number| usize::try_from(number).ok());
        count.ok_or_else(|| "a whole number above 0".to_string())
    }
    fn write(value: &usize) -> String {
        value.to_string()
    }
}

impl Kind for SmallCount {
    type Value = u16;
    const NAME: &'static str = "count";
    fn read(value: &DeValue<'_>) -> Result<u16, String> {
        let count = integer(value).filter(|number| *number > 0).and_then(|number| u16::try_from(number).ok());
        count.ok_or_else(|| "a whole number from 1 to 65535".to_string())
    }
    fn write(value: &u16) -> String {
        value.to_string()
    }
}

impl Kind for CountOrZero {
    type Value = usize;
    const NAME: &'static str = "count or 0";
    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        let count = integer(value).and_then(|number| usize::try_from(number).ok());
        count.ok_or_else(|| "a whole number, 0 or above".to_string())
    }
    fn write(value: &usize) -> String {
        value.to_string()
    }
}

impl Kind for Size {
    type Value = u64;
    const NAME: &'static str = "size";
    fn read(value: &DeValue<'_>) -> Result<u64, String> {
        let number = match value {
            DeValue::Integer(_) => integer(value).and_then(|number| u64::try_from(number).ok()),
            _ => value.as_str().and_then(|text| parse_size(text).ok()),
        };
        number.ok_or_else(|| "a size such as \"128MB\", \"1.5GB\" or 4096 (bytes)".to_string())
    }
    fn write(value: &u64) -> String {
        let units = [("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10)];
        let unit = units.into_iter().find(|(_, shift)| *value > 0 && value.is_multiple_of(1 << shift));
        match unit {
            Some((name, shift)) => format!("\"{}{name}\"", value >> shift),
            None => format!("\"{value}\""),
        }
    }
}

impl Kind for Span {
    type Value = Duration;
    const NAME: &'static str = "duration";
    fn read(value: &DeValue<'_>) -> Result<Duration, String> {
        let duration = value.as_str().and_then(|text| parse_duration(text).ok());
        duration.ok_or_else(|| "a duration with its unit, such as \"300ms\", \"10s\" or \"5m\"".to_string())
    }
    fn write(value: &Duration) -> String {
        format!("\"{}\"", format_duration(*value))
    }
}

impl Kind for Millis {
    type Value = Duration;
    const NAME: &'static str = "milliseconds";
    fn read(value: &DeValue<'_>) -> Result<Duration, String> {
        let whole = integer(value).and_then(|number| u64::try_from(number).ok()).map(Duration::from_millis);
        let duration = whole.or_else(|| value.as_str().and_then(|text| parse_duration(text).ok()));
        duration.ok_or_else(|| "milliseconds as a whole number, or a duration such as \"10s\"".to_string())
    }
    fn write(value: &Duration) -> String {
        value.as_millis().to_string()
    }
}

impl Kind for Mode {
    type Value = u32;
    const NAME: &'static str = "mode";
    fn read(value: &DeValue<'_>) -> Result<u32, String> {
        let bits = match value {
            DeValue::Integer(number) if number.radix() == 8 => integer(value),
            DeValue::Integer(number) if number.as_str() == "0" => Some(0),
            DeValue::String(text) => i128::from_str_radix(text.trim().trim_start_matches("0o"), 8).ok(),
            _ => None,
        };
        let bits = bits.and_then(|bits| u32::try_from(bits).ok()).filter(|bits| *bits <= 0o7777);
        bits.ok_or_else(|| "permission bits in octal, such as 0o755".to_string())
    }
    fn write(value: &u32) -> String {
        format!("0o{value:03o}")
    }
}

impl Kind for File {
    type Value = PathBuf;
    const NAME: &'static str = "path";
    fn read(value: &DeValue<'_>) -> Result<PathBuf, String> {
        value.as_str().map(PathBuf::from).ok_or_else(|| "a path in quotes".to_string())
    }
    fn write(value: &PathBuf) -> String {
        quote(&value.to_string_lossy())
    }
}

impl Kind for Texts {
    type Value = Vec<String>;
    const NAME: &'static str = "list of text";
    fn read(value: &DeValue<'_>) -> Result<Vec<String>, String> {
        let expected = || "a list of texts, such as [\"a\", \"b\"]".to_string();
        let items = value.as_array().ok_or_else(expected)?;
        items.iter().map(|item| item.get_ref().as_str().map(str::to_string).ok_or_else(expected)).collect()
    }
    fn write(value: &Vec<String>) -> String {
        format!("[{}]", value.iter().map(|text| quote(text)).collect::<Vec<_>>().join(", "))
    }
}

impl Kind for Addresses {
    type Value = Vec<String>;
    const NAME: &'static str = "list of host:port";
    fn read(value: &DeValue<'_>) -> Result<Vec<String>, String> {
        let expected = || "a list of \"host:port\" or { hostname = \"host\", port = 8995 }".to_string();
        let items = value.as_array().ok_or_else(expected)?;
        items.iter().map(|item| address(item.get_ref()).ok_or_else(expected)).collect()
    }
    fn write(value: &Vec<String>) -> String {
        Texts::write(value)
    }
}

/// One address; other keys of a table (`id`) say nothing here: replicas have identities of their own. A table without a port is
/// `host:`, to be filled when the ports of the sections are known.
fn address(value: &DeValue<'_>) -> Option<String> {
    if let Some(table) = value.as_table() {
        let host = table.get("hostname")?.get_ref().as_str()?.trim();
        let port = match table.get("port") {
            Some(port) => Port::read(port.get_ref()).ok()?.to_string(),
            None => String::new(),
        };
        return (!host.is_empty()).then(|| format!("{host}:{port}"));
    }
    let text = value.as_str()?.trim();
    let (host, port) = text.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| text.to_string())
}

impl Kind for DataDirs {
    type Value = Vec<DataDir>;
    const NAME: &'static str = "list of tier directories";
    fn read(value: &DeValue<'_>) -> Result<Vec<DataDir>, String> {
        Texts::read(value)?.iter().map(|text| text.parse()).collect()
    }
    fn write(value: &Vec<DataDir>) -> String {
        Texts::write(&value.iter().map(DataDir::to_string).collect())
    }
}

impl Kind for Format {
    type Value = LogFormat;
    const NAME: &'static str = "text or json";
    fn read(value: &DeValue<'_>) -> Result<LogFormat, String> {
        match value.as_str() {
            Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            _ => Err("\"text\" or \"json\"".to_string()),
        }
    }
    fn write(value: &LogFormat) -> String {
        match value {
            LogFormat::Text => "\"text\"".to_string(),
            LogFormat::Json => "\"json\"".to_string(),
        }
    }
}
