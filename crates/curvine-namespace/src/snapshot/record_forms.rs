//! The records of a snapshot as protobuf messages. Tags are part of the format: append only.

use std::collections::BTreeMap;

use curvine_proto::{Message, UfsMountSettings};
use serde::{Deserialize, Serialize};

/// Declares messages, all of whose fields are scalars of the given protobuf types.
macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $tag:literal $kind:ident,)* })*) => {
        $($(#[$doc])* #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name { $(#[prost($kind, tag = $tag)] pub $field: $type,)* })*
    };
}

forms! {
    /// Section End.
    EndForm { records: u64 = 1 uint64, }
    /// Section Meta.
    MetaForm {
        feature_level: u32 = 1 uint32,
        now: u64 = 2 fixed64,
        next_inode: u64 = 3 uint64,
        next_cookie: u64 = 4 uint64,
        next_session: u64 = 5 uint64,
        next_worker: u64 = 6 uint64,
        next_mount: u32 = 7 uint32,
        next_order: u64 = 8 uint64,
        next_job: u64 = 9 uint64,
        stores: u64 = 10 uint64,
        pins_change: u64 = 170 uint64,
        next_trash: u64 = 430 uint64,
    }
    WorkerForm {
        id: u64 = 1 uint64,
        uuid: Vec<u8> = 2 bytes,
        hostname: String = 3 string,
        rpc_port: u32 = 4 uint32,
        socket: String = 5 string,
        state: i32 = 190 int32,
    }
    ResultForm { session: u64 = 1 uint64, sequence: u64 = 2 uint64, order: u64 = 3 uint64, outcome: Vec<u8> = 4 bytes, }
    /// `content` is a file's generation or a directory's table of names.
    InodeForm {
        id: u64 = 1 uint64,
        kind: u32 = 2 uint32,
        mode: u32 = 3 uint32,
        nlink: u32 = 4 uint32,
        uid: u32 = 5 uint32,
        gid: u32 = 6 uint32,
        flags: u32 = 7 uint32,
        size: u64 = 8 uint64,
        content: u64 = 9 uint64,
        change: u64 = 10 uint64,
        atime: u64 = 11 fixed64,
        mtime: u64 = 12 fixed64,
        ctime: u64 = 13 fixed64,
        btime: u64 = 14 fixed64,
        parent: u64 = 15 uint64,
        cookie: u64 = 16 uint64,
    }
    /// `state`: always 0; a dirty file has a job.
    DentryForm {
        table: u64 = 1 uint64,
        cookie: u64 = 2 uint64,
        name: Vec<u8> = 3 bytes,
        child: u64 = 4 uint64,
        state: u32 = 5 uint32,
    }
    LinkForm { inode: u64 = 1 uint64, dir: u64 = 2 uint64, cookie: u64 = 3 uint64, }
    XattrForm { inode: u64 = 1 uint64, name: Vec<u8> = 2 bytes, value: Vec<u8> = 3 bytes, }
    InlineForm { inode: u64 = 1 uint64, data: Vec<u8> = 2 bytes, }
    /// `complete_at`: 0 never, else the time + 1.
    UfsDirForm { inode: u64 = 1 uint64, mount: u32 = 2 uint32, prefix: String = 3 string, complete_at: u64 = 4 uint64, stored: u64 = 5 uint64, }
    OrphanForm { inode: u64 = 1 uint64, session: u64 = 2 uint64, }
    LockForm {
        inode: u64 = 1 uint64,
        flock: bool = 2 bool,
        write: bool = 3 bool,
        start: u64 = 4 uint64,
        end: u64 = 5 uint64,
        session: u64 = 6 uint64,
        owner: u64 = 7 uint64,
        pid: u32 = 8 uint32,
    }
    GarbageForm { worker: u64 = 1 uint64, inode: u64 = 2 uint64, generation: u64 = 3 uint64, }
    DoomedForm { table: u64 = 1 uint64, }
    PinForm { inode: u64 = 1 uint64, }
    QuotaForm {
        inode: u64 = 1 uint64,
        bytes: u64 = 2 uint64,
        files: u64 = 3 uint64,
        used_bytes: u64 = 4 uint64,
        used_files: u64 = 5 uint64,
        counted: u64 = 6 uint64,
    }
    /// `job` is an encoded `Job` of log.proto.
    JobForm { id: u64 = 1 uint64, job: Vec<u8> = 2 bytes, }
    TtlForm { inode: u64 = 1 uint64, millis: u64 = 2 uint64, delete: bool = 3 bool, }
    /// `rename`: empty, or an encoded `Rename`.
    TreeMoveForm {
        mount: u32 = 1 uint32,
        from: String = 2 string,
        to: String = 3 string,
        millis: u64 = 4 uint64,
        worker: u64 = 5 uint64,
        rename: Vec<u8> = 6 bytes,
        session: u64 = 7 uint64,
        sequence: u64 = 8 uint64,
    }
    /// An encoded `TrashEntry`.
    TrashForm { id: u64 = 1 uint64, entry: Vec<u8> = 2 bytes, }
}

/// `spent` holds pairs: first and last number of each range.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionForm {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(int32, tag = "2")]
    pub kind: i32,
    #[prost(string, tag = "3")]
    pub client: String,
    #[prost(string, tag = "4")]
    pub hostname: String,
    #[prost(fixed64, tag = "5")]
    pub opened: u64,
    #[prost(uint64, tag = "6")]
    pub lowest_unacked: u64,
    #[prost(uint64, repeated, tag = "7")]
    pub spent: Vec<u64>,
    #[prost(bool, tag = "8")]
    pub ending: bool,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct MountForm {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(string, tag = "2")]
    pub url: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub options: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub secrets: BTreeMap<String, Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    pub settings: Option<UfsMountSettings>,
    #[prost(uint64, tag = "6")]
    pub change: u64,
    #[prost(uint64, tag = "7")]
    pub root: u64,
    #[prost(fixed64, tag = "430")]
    pub many_removed: u64,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct GrantForm {
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub writers: Vec<u64>,
}

/// One of `blocks` and `ufs` is set.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacedForm {
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    #[prost(message, optional, tag = "2")]
    pub blocks: Option<BlocksForm>,
    #[prost(message, optional, tag = "3")]
    pub ufs: Option<UfsForm>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct BlocksForm {
    #[prost(uint64, tag = "1")]
    pub block_size: u64,
    #[prost(uint64, tag = "2")]
    pub allocated: u64,
    #[prost(message, repeated, tag = "3")]
    pub extents: Vec<curvine_proto::Extent>,
}

#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct UfsForm {
    #[prost(uint32, tag = "1")]
    pub mount: u32,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(string, tag = "3")]
    pub etag: String,
    #[prost(uint64, tag = "4")]
    pub size: u64,
    #[prost(fixed64, tag = "5")]
    pub mtime: u64,
    #[prost(uint64, tag = "6")]
    pub stored: u64,
}
