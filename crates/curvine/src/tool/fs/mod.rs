//! `cv fs ...`.

mod blocks;
pub mod change;
mod get;
mod list;
mod put;
mod usage;

use std::process::ExitCode;

use curvine_types::Result;

use super::Context;
use crate::args::FsCommand;

/// Runs one of them.
pub async fn run(context: &Context, command: FsCommand) -> Result<ExitCode> {
    match command {
        FsCommand::Ls(arguments) => list::ls(context, arguments).await,
        FsCommand::Stat { paths } => list::stat(context, &paths).await,
        FsCommand::Mkdir { parents, mode, paths } => change::mkdir(context, parents, mode.as_deref(), &paths).await,
        FsCommand::Put(arguments) => put::put(context, arguments).await,
        FsCommand::Get(arguments) => get::get(context, arguments).await,
        FsCommand::Cat { paths } => get::cat(context, &paths).await,
        FsCommand::Touch { paths } => change::touch(context, &paths).await,
        FsCommand::Rm { recursive, force, paths } => change::rm(context, recursive, force, &paths).await,
        FsCommand::Mv { no_clobber, from, to } => change::mv(context, no_clobber, &from, &to).await,
        FsCommand::Du { human, paths } => usage::du(context, human, &paths).await,
        FsCommand::Df { human } => usage::df(context, human).await,
        FsCommand::Count { paths } => usage::count(context, &paths).await,
        FsCommand::Blocks { path, format } => blocks::blocks(context, &path, format == "json").await,
        FsCommand::Chmod { recursive, mode, paths } => change::chmod(context, recursive, &mode, &paths).await,
        FsCommand::Chown { recursive, owner, paths } => change::chown(context, recursive, &owner, &paths).await,
    }
}
