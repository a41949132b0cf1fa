//! What can be typed after `cv fs`.

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub enum FsCommand {
    /// List directories
    Ls(LsArgs),
    /// Everything that is known about files
    Stat {
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Make directories
    Mkdir {
        /// With their parents, and without complaint if they are there
        #[arg(short, long)]
        parents: bool,
        /// Permission bits in octal; else 777 without the umask
        #[arg(short, long)]
        mode: Option<String>,
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Copy local files and directories into Curvine
    Put(PutArgs),
    /// Copy files and directories out of Curvine
    Get(GetArgs),
    /// Write files to standard output
    Cat {
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Make empty files, or set the times of existing ones to now
    Touch {
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Remove files, or whole trees
    Rm {
        /// Directories with all that is in them
        #[arg(short, long)]
        recursive: bool,
        /// No complaint about what is not there
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Rename, or move into a directory
    Mv {
        /// Never over something that is there
        #[arg(short, long)]
        no_clobber: bool,
        from: String,
        to: String,
    },
    /// How much trees hold
    Du {
        /// Sizes such as 1.5 GiB
        #[arg(short = 'H', long)]
        human: bool,
        #[arg(default_value = "/")]
        paths: Vec<String>,
    },
    /// How much the workers hold, and could
    Df {
        /// Sizes such as 1.5 GiB
        #[arg(short = 'H', long)]
        human: bool,
    },
    /// How many directories, files and bytes trees have
    Count {
        #[arg(default_value = "/")]
        paths: Vec<String>,
    },
    /// Where the bytes of a file are
    Blocks {
        path: String,
        /// table or json
        #[arg(long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
    },
    /// Change permission bits
    Chmod {
        /// Trees
        #[arg(short = 'R', long)]
        recursive: bool,
        /// In octal, such as 644
        mode: String,
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Change owner and group
    Chown {
        /// Trees
        #[arg(short = 'R', long)]
        recursive: bool,
        /// user, user:group or :group, by name or number
        owner: String,
        #[arg(required = true)]
        paths: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub struct LsArgs {
    /// Mode, owner, size and time too
    #[arg(short)]
    pub long: bool,
    /// Sizes such as 1.5 GiB
    #[arg(short = 'H', long)]
    pub human: bool,
    /// With all directories below
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// The directory itself, not what is in it
    #[arg(short, long)]
    pub directory: bool,
    /// Newest first
    #[arg(short = 't')]
    pub by_time: bool,
    /// Largest first
    #[arg(short = 'S')]
    pub by_size: bool,
    /// The other way round
    #[arg(short)]
    pub reverse: bool,
    #[arg(default_value = "/")]
    pub paths: Vec<String>,
}

#[derive(Args, Debug)]
pub struct PutArgs {
    /// Over files that are there
    #[arg(short, long, alias = "overwrite")]
    pub force: bool,
    /// Local files or directories (-: standard input), and last the path of Curvine
    #[arg(required = true, num_args = 2.., value_name = "LOCAL... PATH")]
    pub paths: Vec<String>,
}

#[derive(Args, Debug)]
pub struct GetArgs {
    /// Over files that are there
    #[arg(short, long, alias = "overwrite")]
    pub force: bool,
    /// Paths of Curvine, and last the local file or directory
    #[arg(required = true, num_args = 2.., value_name = "PATH... LOCAL")]
    pub paths: Vec<String>,
}
