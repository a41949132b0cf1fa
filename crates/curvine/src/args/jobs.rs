//! What can be typed of work that the master does.

use clap::{Args, Subcommand};

/// Bring files of an under file system into the cache of their home workers.
///
/// The master has it done; it goes on if this command is interrupted. What is there already is not fetched again, so a load that is
/// repeated costs little. Exit code 1 if any file failed; each is named on standard error.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// Paths of Curvine, or urls below a mounted one; also patterns with * ? [a-z], and ** for any directories
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Show how far it is
    #[arg(long)]
    pub watch: bool,
    /// Read back what is cached and compare it with its checksums
    #[arg(long)]
    pub verify: bool,
    /// Do not wait for the end; see cv job status
    #[arg(long)]
    pub detach: bool,
    /// Cached copies of each block; this version keeps one
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub replicas: u32,
    /// Files at once on each worker; else [cli] parallel
    #[arg(long, value_name = "COUNT")]
    pub parallel: Option<usize>,
}

/// Trees for `cv export` and `cv free`.
#[derive(Args, Debug)]
pub struct TreeArgs {
    /// Paths of Curvine, or urls below a mounted one; also patterns with * ? [a-z], and ** for any directories
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Show how far it is
    #[arg(long)]
    pub watch: bool,
    /// Do not wait for the end; see cv job status
    #[arg(long)]
    pub detach: bool,
    /// Accepted for scripts of old: directories are always taken with all that is in them
    #[arg(short, long, hide = true)]
    pub recursive: bool,
}

#[derive(Subcommand, Debug)]
pub enum JobCommand {
    /// Loads, exports and frees: those that are not done, and the last ones that are
    List {
        /// Also files that wait for their upload
        #[arg(long)]
        uploads: bool,
    },
    /// How far a job is, and what failed
    Status {
        job: u64,
        /// Show how far it is until it ends
        #[arg(long)]
        watch: bool,
    },
    /// Stop a job; what it has done stays done
    Cancel { job: u64 },
    /// Do a job again that has ended
    Retry { job: u64 },
}
