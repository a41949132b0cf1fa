//! `curvine config ...` and `curvine completion ...`: what is known without any cluster.

use std::process::ExitCode;

use clap::CommandFactory;
use curvine_config::ClusterConf;
use curvine_types::Result;

use crate::args::{Common, ConfigCommand};
use crate::tool::output::say;

/// Prints the reference, or checks a file.
pub fn run(common: &Common, command: ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Reference => say(curvine_config::reference().trim_end())?,
        ConfigCommand::Check => {
            let (conf, warnings) = ClusterConf::load(common.conf.as_deref())?;
            for warning in warnings {
                eprintln!("warning: {warning}");
            }
            say(conf.to_toml().trim_end())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a completion script.
pub fn completion<C: CommandFactory>(shell: clap_complete::Shell, name: &str) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut C::command(), name, &mut script);
    say(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}
