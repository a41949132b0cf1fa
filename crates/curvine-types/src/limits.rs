//! Limits and sizes that are part of formats and protocols; settable limits live in the config.

/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest symlink target, in bytes, as on other Linux file systems (without the NUL).
pub const SYMLINK_MAX: usize = 4095;
/// Most hard links to one inode.
pub const LINK_MAX: u32 = 65_000;
/// Longest name of an extended attribute, in bytes.
pub const XATTR_NAME_MAX: usize = 255;
/// Largest value of an extended attribute, in bytes.
pub const XATTR_SIZE_MAX: usize = 65_536;
/// Largest total of one inode's extended attributes, names and values, in bytes.
pub const XATTR_TOTAL_MAX: usize = 262_144;
/// Largest file, in bytes: what ext4 with 4 KiB blocks takes as a sparse file, since a file is one on a worker.
pub const FILE_SIZE_MAX: u64 = (1 << 44) - (1 << 12);

/// Unit of the chunk index: known zero, present or absent.
pub const CHUNK_SIZE: u64 = 1 << 20;
/// Unit of the CRC-32C checksums.
pub const PIECE_SIZE: u64 = 64 << 10;
/// Largest file kept inside the metadata.
pub const INLINE_MAX: usize = 16 << 10;
/// Block size of new files unless configured, the unit of placement.
pub const BLOCK_SIZE_DEFAULT: u64 = 128 << 20;
/// Largest data part of one frame, and so of one read or write request.
pub const IO_MAX: usize = 1 << 20;
/// Most bytes that one request copies from file to file on a worker, so that it ends in time.
pub const COPY_MAX: u64 = 64 << 20;
/// Largest metadata part of one frame.
pub const META_MAX: usize = 4 << 20;

/// Most commands in one log entry.
pub const BATCH_COMMANDS_MAX: usize = 4096;
/// Most bytes in one log entry, unless a single command is larger.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Results kept for each session so that a command is applied once (RIFL).
pub const RESULT_WINDOW: usize = 1024;
/// Most entries in one observation of an under file system.
pub const OBSERVED_ENTRIES_MAX: usize = 1000;

/// Most loads, exports and frees that are not done.
pub const TASKS_UNDONE_MAX: usize = 1000;
/// How many of them are remembered when they have ended.
pub const TASKS_ENDED_MAX: usize = 200;
/// Longest sum of the paths of one of them, in bytes.
pub const TASK_PATHS_MAX: usize = 64 << 10;
/// Failures of one of them that are remembered; the others are counted.
pub const TASK_FAILURES_MAX: usize = 100;

/// How long a look into an under file system is believed, in milliseconds, unless its mount says otherwise.
pub const STORE_TTL_DEFAULT_MS: u64 = 10_000;
/// Removals of one mount that are that close together are one, in milliseconds.
pub const TRASH_WINDOW_MS: u64 = 3_000;
/// How many objects such a removal may take for good unless the mount says otherwise.
pub const TRASH_OVER_DEFAULT: u32 = 100;
/// The most that a mount may say there.
pub const TRASH_OVER_MAX: u32 = 10_000;
/// How long what is in the trash is kept, in milliseconds, unless the mount says otherwise.
pub const TRASH_RETENTION_DEFAULT_MS: u64 = 24 * 3600 * 1000;
/// Entries of the trash that one command or order changes.
pub const TRASH_EDITS_MAX: usize = 256;
