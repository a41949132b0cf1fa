//! What can be typed to bind a store to a path.

use clap::Args;

/// Bind a directory or bucket to a path of Curvine. Without arguments, print the mount table.
///
/// The store is looked into at once; what is wrong with url, options or network is said, and nothing is mounted then.
///
/// `cv mount resync PATH` compares all names that are known below a path with the store, `cv mount check PATH` lists the keys below it
/// that no file can have as its name. `cv mount --update PATH -c key=value` changes options and credentials of a mount in place.
///
/// Examples:
///
///   cv mount s3://bucket/models /models -c endpoint_url=http://minio:9000 -c access=@/run/key -c secret=@/run/secret
///
///   cv mount file:///srv/data /data
#[derive(Args, Debug, Default)]
pub struct UfsMountArgs {
    /// What to bind: file:///path or s3://bucket/prefix
    pub url: Option<String>,
    /// Where: an absolute path of Curvine that is not there or empty
    pub path: Option<String>,
    /// Option of the store; a value @FILE is read from the file, so that no credential is on the command line
    #[arg(short = 'c', long = "config", value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// Change options and settings of the mount at the path: those that are given, an empty value takes an option away
    #[arg(long)]
    pub update: bool,
    /// Only look into the store and say what is wrong, if anything is
    #[arg(long)]
    pub check: bool,
    /// As --check, and print what would be mounted
    #[arg(long)]
    pub dry_run: bool,
    /// Who is the authority: cache_mode, the store (the default); fs_mode, Curvine: the store is looked into once, and gets a copy of
    /// what is written some moments later
    #[arg(long, value_name = "MODE")]
    pub write_type: Option<String>,
    /// When a written file is in its store: through, when close returns (the default); back, some moments later
    #[arg(long, value_name = "WHEN")]
    pub write: Option<String>,
    /// Whether the tree can be changed: read_write (the default) or read_only
    #[arg(long, value_name = "MODE")]
    pub access_mode: Option<String>,
    /// How long a look into the store is believed, such as 30s; 0: not at all; 10s unless given
    #[arg(long, value_name = "DURATION")]
    pub ttl: Option<String>,
    /// What is kept of objects that are removed through the mount: off, nothing; all; or a number: all of what is removed close
    /// together, if it is more than so many objects; 100 unless given
    #[arg(long, value_name = "WHAT")]
    pub trash: Option<String>,
    /// How long it is kept, such as 7d; 24h unless given
    #[arg(long, value_name = "DURATION")]
    pub trash_retention: Option<String>,
    /// Compare size, time or etag with the store when a file is opened
    #[arg(long)]
    pub read_verify_ufs: bool,
    /// Owner of the tree; root unless given
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Group of the tree; root unless given
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Permission bits of its files, in octal; 644 unless given
    #[arg(long, value_name = "MODE")]
    pub file_mode: Option<String>,
    /// Permission bits of its directories, in octal; 755 unless given
    #[arg(long, value_name = "MODE")]
    pub dir_mode: Option<String>,
    /// Unit in which its files are spread over workers, such as 64MB; else the cluster's block size
    #[arg(long, value_name = "SIZE")]
    pub block_size: Option<String>,
    /// Do not look into the store before saying that it is mounted
    #[arg(long)]
    pub no_check: bool,
    /// Accepted for scripts of old: paths are the same on both sides
    #[arg(long, value_name = "BOOL", hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub check_path_consist: Option<String>,
}

impl UfsMountArgs {
    /// Something is to be bound, and nobody says where.
    pub fn lacks_path(&self) -> bool {
        self.url.is_some() && self.path.is_none() && !self.update
    }
}
