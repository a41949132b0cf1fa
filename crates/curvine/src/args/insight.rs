//! What can be typed to see what a cluster does.

use std::time::Duration;

use clap::{Args, Subcommand};
use curvine_types::units::{parse_duration, parse_size};

/// Show what the workers do now, a line for each interval, until Ctrl-C.
///
/// Reads by passthrough are the kernel's own and are seen by nobody; their opens are.
#[derive(Args, Clone, Debug)]
pub struct StatsArgs {
    /// Time between two lines, such as 500ms or 5s
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Lines to print; 0: without end
    #[arg(long, short = 'n', value_name = "LINES", default_value_t = 0)]
    pub count: u64,
    /// Only what is done for the under file system at this path of Curvine
    #[arg(long, value_name = "PATH")]
    pub mount: Option<String>,
}

/// Limit what may be below directories.
///
/// Counted are the sizes of files and the number of names of every kind, each file once however many names it has. What belongs to an
/// under file system is not counted. At the limit, making and growing files is EDQUOT.
#[derive(Subcommand, Clone, Debug)]
pub enum QuotaCommand {
    /// Limit a directory, or change its limits
    Set {
        /// Directory of Curvine
        path: String,
        /// Most bytes, such as 10GB
        #[arg(long, value_name = "SIZE", value_parser = size, required_unless_present = "files")]
        bytes: Option<u64>,
        /// Most names
        #[arg(long, value_name = "COUNT")]
        files: Option<u64>,
    },
    /// Show the quotas that count for a directory: its own and those above it
    Get { path: String },
    /// Show all quotas
    List,
    /// Lift the limits of a directory
    Unset { path: String },
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}
