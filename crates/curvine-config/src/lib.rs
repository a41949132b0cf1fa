//! The config file, its validation and its generated reference.
//!
//! One typed catalogue (`conf.rs`) says of each key its section, name, type, default and meaning; reading, writing, the
//! sample and `docs/CONFIGURATION.md` all follow from it. Always: a key is known, retired with a stated reason, or an error
//! that names file, line, key and the nearest known one.

mod amend;
mod catalogue;
mod conf;
mod data_dir;
mod environment;
mod file;
mod kind;
mod reference;
mod retired;
mod secret;
mod validate;

pub use amend::{SetText, runs_under_fluid};
pub use catalogue::KeyInfo;
pub use conf::{
    CliConf, ClientConf, ClusterConf, FuseConf, GeneralConf, JournalConf, LogConf, MasterConf, SecurityConf, WorkerConf,
};
pub use data_dir::{DataDir, DataDirKind};
pub use environment::CONF_FILE_VARIABLE;
pub use kind::LogFormat;
pub use reference::reference;
pub use secret::{generate_secret_file, read_secret_file};
pub use validate::Role;

#[cfg(test)]
mod file_test;
