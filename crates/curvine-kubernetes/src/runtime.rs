//! The file that Fluid writes for the components of a runtime: one model of both schemas.
//!
//! Fluid's master writes `runtime.json`: service, replicas and tiers in each component. The older branch writes `config.json`: an
//! empty text until the runtime is set up, then the components with a topology of ready pods beside them. Unknown fields are
//! for newer versions to use and are ignored; a field of the wrong type is an error that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use curvine_types::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value;

/// The largest file that is believed; a ConfigMap has at most 1 MiB.
const FILE_MAX: u64 = 4 << 20;

/// What is in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    pub mounts: Vec<DatasetMount>,
    pub access_modes: Vec<String>,
    pub target_path: Option<PathBuf>,
    pub master: Option<Part>,
    pub worker: Option<Part>,
    pub client: Option<Part>,
}

/// A component of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Of its workload; empty in the older schema.
    pub name: String,
    pub options: BTreeMap<String, String>,
    /// As many pods as there shall be; 0: not said.
    pub replicas: u32,
    /// The headless service; empty: there is none.
    pub service: String,
    pub levels: Vec<Level>,
    /// Ready pods, in the older schema.
    pub pods: Vec<String>,
}

/// A level of the tiered store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub paths: Vec<PathBuf>,
    /// Quantities of Kubernetes, one for each path.
    pub quotas: Vec<String>,
    pub medium: String,
    pub high: String,
    pub low: String,
}

/// A mount of the dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetMount {
    pub mount_point: String,
    pub options: BTreeMap<String, String>,
    /// Options whose values are in files.
    pub encrypt_options: BTreeMap<String, PathBuf>,
    /// The absolute path in the dataset.
    pub path: String,
    pub read_only: bool,
}

/// Reads the file. `None`: Fluid has not written it yet.
pub fn read(path: &Path) -> Result<Option<Runtime>> {
    let failed = |source: std::io::Error| {
        Error::new(ErrorKind::Config, "cannot read the file of the runtime")
            .with("file", path.display())
            .caused_by(source)
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.len() > FILE_MAX => {
            return Err(
                Error::new(ErrorKind::Config, "the file of the runtime is too large").with("file", path.display())
            );
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|error| error.with("file", path.display()))
}

/// Reads the text. `None`: it says nothing yet.
pub fn parse(text: &str) -> Result<Option<Runtime>> {
    let text = text.trim();
    if matches!(text, "" | "\"\"" | "null") {
        return Ok(None);
    }
    // The text may hold credentials: of an error only the place is told.
    let wrong = |error: serde_json::Error| {
        Error::new(ErrorKind::Config, "the file of the runtime is not what Fluid writes")
            .with("line", error.line())
            .with("column", error.column())
            .with("reason", reason(&error))
    };
    let file: File = serde_json::from_str(text).map_err(wrong)?;
    Ok(Some(file.into_runtime()))
}

/// What serde says, without the value that it may quote.
fn reason(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => "a field has another type than it should".to_string(),
        serde_json::error::Category::Eof => "it ends in the middle".to_string(),
        _ => "it is no JSON".to_string(),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    mounts: Option<Vec<FileMount>>,
    access_modes: Option<Vec<String>>,
    target_path: String,
    master: Option<FilePart>,
    worker: Option<FilePart>,
    client: Option<FilePart>,
    topology: Option<BTreeMap<String, Topology>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FilePart {
    name: String,
    options: Option<BTreeMap<String, Value>>,
    replicas: u32,
    service: Option<Service>,
    tiered_store_levels: Option<Vec<FileLevel>>,
    // The older schema.
    target_path: String,
    tiered_store: Option<Vec<OlderLevel>>,
    encrypt_option: Option<BTreeMap<String, PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Service {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FileLevel {
    mount_paths: Option<Vec<PathBuf>>,
    medium_type: String,
    quotas: Option<Vec<String>>,
    high: String,
    low: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OlderLevel {
    cache_dir: String,
    cache_capacity: String,
    low: String,
    high: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Topology {
    pod_configs: Option<Vec<Pod>>,
    service: Option<Service>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pod {
    pod_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FileMount {
    mount_point: String,
    options: Option<BTreeMap<String, Value>>,
    encrypt_options: Option<Encrypted>,
    name: String,
    path: String,
    read_only: bool,
}

/// A map of names to files, or a list of both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Encrypted {
    Map(BTreeMap<String, PathBuf>),
    List(Vec<EncryptedItem>),
}

#[derive(Deserialize)]
struct EncryptedItem {
    name: String,
    #[serde(alias = "value", alias = "file")]
    path: PathBuf,
}

impl File {
    fn into_runtime(self) -> Runtime {
        let mut topology = self.topology.unwrap_or_default();
        let encrypted = |part: &Option<FilePart>| part.as_ref().and_then(|part| part.encrypt_option.clone());
        // The older schema has one set of files for all mounts.
        let shared = encrypted(&self.master).or_else(|| encrypted(&self.worker)).unwrap_or_default();
        let target = self.client.as_ref().map(|client| client.target_path.clone()).unwrap_or_default();
        let target = if self.target_path.is_empty() { target } else { self.target_path };
        let mut part = |name: &str, part: Option<FilePart>| part.map(|part| part.into_part(topology.remove(name)));
        Runtime {
            master: part("master", self.master),
            worker: part("worker", self.worker),
            client: part("client", self.client),
            mounts: self.mounts.unwrap_or_default().into_iter().map(|mount| mount.into_mount(&shared)).collect(),
            access_modes: self.access_modes.unwrap_or_default(),
            target_path: (!target.is_empty()).then(|| target.into()),
        }
    }
}

impl FilePart {
    fn into_part(self, topology: Option<Topology>) -> Part {
        let topology = topology.unwrap_or_default();
        let levels = self.tiered_store_levels.unwrap_or_default().into_iter().map(|level| Level {
            paths: level.mount_paths.unwrap_or_default(),
            quotas: level.quotas.unwrap_or_default(),
            medium: level.medium_type,
            high: level.high,
            low: level.low,
        });
        let older = self.tiered_store.unwrap_or_default().into_iter().map(|level| Level {
            paths: if level.cache_dir.is_empty() { Vec::new() } else { vec![level.cache_dir.into()] },
            quotas: if level.cache_capacity.is_empty() { Vec::new() } else { vec![level.cache_capacity] },
            medium: String::new(),
            high: level.high,
            low: level.low,
        });
        let service = self.service.or(topology.service).unwrap_or_default().name;
        Part {
            name: self.name,
            options: texts(self.options),
            replicas: self.replicas,
            service,
            levels: levels.chain(older).collect(),
            pods: topology.pod_configs.unwrap_or_default().into_iter().map(|pod| pod.pod_name).collect(),
        }
    }
}

impl FileMount {
    fn into_mount(self, shared: &BTreeMap<String, PathBuf>) -> DatasetMount {
        let mut encrypt_options = match self.encrypt_options {
            Some(Encrypted::Map(map)) => map,
            Some(Encrypted::List(items)) => items.into_iter().map(|item| (item.name, item.path)).collect(),
            None => BTreeMap::new(),
        };
        if !crate::mounts::is_native(&self.mount_point) {
            for (name, file) in shared {
                encrypt_options.entry(name.clone()).or_insert_with(|| file.clone());
            }
        }
        let path = if self.path.starts_with('/') { self.path } else { format!("/{}", self.name) };
        DatasetMount {
            mount_point: self.mount_point,
            options: texts(self.options),
            encrypt_options,
            path,
            read_only: self.read_only,
        }
    }
}

/// Values are texts; numbers and truth values are taken as they would be written.
fn texts(options: Option<BTreeMap<String, Value>>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    options.unwrap_or_default().into_iter().map(|(name, value)| (name, text(value))).collect()
}

#[cfg(test)]
#[path = "runtime_test.rs"]
mod tests;
