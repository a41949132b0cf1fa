//! What can be typed after `cv bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Measure mounts against a local directory, and the library against the cluster.
///
/// Each row is measured on the baseline and on every mount within the same round, so that a noisy machine disturbs all of them;
/// the ratio counts, not the figure. What is made in the directories is removed. Cold rows need root.
///
/// Examples:
///
///   cv bench /mnt/curvine --baseline /var/tmp
///
///   cv bench fast=/mnt/a plain=/mnt/b --baseline /var/tmp --library --html bench.html
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Directories of mounts, as DIR or NAME=DIR
    #[arg(value_name = "[NAME=]DIR")]
    pub grounds: Vec<String>,
    /// Directory of a local file system to compare with; best on the disk that the workers use
    #[arg(long, value_name = "DIR")]
    pub baseline: Option<PathBuf>,
    /// Also measure metadata straight through the client library
    #[arg(long)]
    pub library: bool,
    /// Bytes of the big file
    #[arg(long, value_name = "SIZE", default_value = "1GB")]
    pub size: String,
    /// Small files that are made at most
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    pub files: usize,
    /// How long a work that could go on goes on
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub time: String,
    /// Threads of the crowded rows
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub threads: usize,
    /// Rounds; the median of them counts
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub rounds: usize,
    /// Only rows whose names contain this; may be given several times
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Keep the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// Read from a worker on another host, against iperf3 between the same hosts
    Remote(BenchRemoteArgs),
    /// Show what was kept with --output, several parts as one
    Show(BenchShowArgs),
}

#[derive(Args, Debug)]
pub struct BenchShowArgs {
    /// Reports of one run
    #[arg(required = true)]
    pub reports: Vec<PathBuf>,
    /// Reports of runs before, for the lines over time
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub earlier: Vec<PathBuf>,
    /// Keep them as one
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Read from a worker on another host, against iperf3 between the same hosts.
///
/// Start `iperf3 -s` on the worker's host first.
#[derive(Args, Debug)]
pub struct BenchRemoteArgs {
    /// Directory of a mount whose host has no worker, as DIR or NAME=DIR
    #[arg(value_name = "[NAME=]DIR")]
    pub ground: String,
    /// Host of the worker, where iperf3 listens
    #[arg(long, value_name = "HOST")]
    pub iperf: String,
    /// Bytes that each stream reads
    #[arg(long, value_name = "SIZE", default_value = "1GB")]
    pub size: String,
    /// How long iperf3 runs, and random reads go on
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    pub time: String,
    /// Streams of the crowded row
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pub streams: usize,
    /// Rounds; the median of them counts
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub rounds: usize,
    /// Keep the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
