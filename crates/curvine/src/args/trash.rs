//! What can be typed of what goes by itself, and of what was removed.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use curvine_types::units::parse_duration;

/// What was removed through mounts of stores, and can be had back.
///
/// Many objects that are removed close together stay in their store for a time (`cv mount --trash`, `--trash-retention`). Restored
/// files have the size and the time that their store says; what was set on them in Curvine, such as owner and mode, is not restored.
#[derive(Subcommand, Clone, Debug)]
pub enum TrashCommand {
    /// Show what was removed, in the order of removal
    List {
        /// Only this path of Curvine, and what was below it
        #[arg(default_value = "/")]
        path: String,
    },
    /// Give what was removed from a path, and from below it, its names back
    ///
    /// What has been made anew under such a name is left as it is, and the removed one stays in the trash. Of several that were removed
    /// from one name the last comes back. Exit code 1 if any could not be restored; each is named on standard error.
    Restore {
        /// Paths of Curvine
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Have the stores delete what was removed, now
    ///
    /// Exit code 1 if any could not be deleted; it stays in the trash.
    Empty {
        /// Only this path of Curvine, and what was below it
        #[arg(default_value = "/")]
        path: String,
    },
}

/// How long files, or what is cached of them, live.
///
/// The nearest time to live of a file and of the directories above it counts. It is looked for several times within it, at least every
/// ten minutes. Files that are being written are left alone, and directories stay.
#[derive(Subcommand, Clone, Debug)]
pub enum TtlCommand {
    /// Set it for a file, or for all below a directory
    Set {
        /// Path of Curvine
        path: String,
        /// Such as 12h or 7d
        #[arg(value_parser = duration)]
        ttl: Duration,
        /// What happens at its end
        #[arg(long, value_enum, default_value = "free")]
        action: TtlActionName,
    },
    /// Show what counts for a path: its own and those above it, the nearest first
    Get { path: String },
    /// Show all
    List,
    /// Lift the one that a path has of its own
    Clear { path: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TtlActionName {
    /// Cached copies of objects are dropped, so long after they were begun
    Free,
    /// Files are removed, so long after their last change, as if by rm
    Delete,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}
