//! What can be typed to see what a cluster does.

use std::time::Duration;

use clap::Args;
use curvine_types::units::parse_duration;

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

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}
