//! The kernel's side of the mount: its structures, the parsing of its requests, `/dev/fuse`, mounting and unmounting.
//!
//! Knows no tokio and nothing of Curvine's file system; what a request means is decided in `curvine-fuse`.

pub mod connection;
pub mod device;
pub mod init;
mod ioctl;
pub mod kernel;
pub mod link;
pub mod mount;
pub mod mountinfo;
pub mod reply;
pub mod request;
pub mod session;
pub mod shared;

pub use connection::Connection;
pub use device::{Device, ReadResult};
pub use init::{InitOptions, Negotiated};
pub use kernel::Opcode;
pub use link::Link;
pub use mount::{MountOptions, MountPoint};
pub use reply::DirBuffer;
pub use request::{Operation, Request, parse};
pub use session::Session;
pub use shared::SharedWords;

// For those who turn replies into bytes.
pub use zerocopy::{Immutable, IntoBytes};
