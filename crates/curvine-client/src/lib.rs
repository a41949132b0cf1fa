//! The file system as a library.

mod fs;
mod options;
mod types;

pub use fs::{FileSystem, Handle};
pub use options::{ClientOptions, local_hostname};
pub use types::*;
