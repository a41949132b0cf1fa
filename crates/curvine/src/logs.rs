//! Logs of the process: to standard output for roles, to standard error for tools, whose output is their answer.

use std::io::IsTerminal;

use curvine_config::LogFormat;
use curvine_types::{Error, ErrorKind, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::args::{Common, Format};

/// Libraries that tell more about themselves than anybody wants to know; a filter on the command line goes before.
const QUIET: &str = "openraft=warn,hyper_util=info,reqwest=info,rustls=info";

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Output,
    Error,
}

/// Starts logging. The command line goes before the config.
pub fn start(common: &Common, level: &str, format: LogFormat, to: To) -> Result<()> {
    let level = common.log_level.as_deref().unwrap_or(level);
    let filter = EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|source| {
        Error::new(ErrorKind::Config, "not a log level; write error, warn, info, debug, trace or a filter by module")
            .with("level", level)
            .caused_by(source)
    })?;
    let json = match common.log_format {
        Some(format) => format == Format::Json,
        None => format == LogFormat::Json,
    };
    let (writer, terminal) = match to {
        To::Output => (BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal()),
        To::Error => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal && !json);
    // A second start in one process (there is none but in tests) keeps the first subscriber.
    let _ = if json { subscriber.json().flatten_event(true).try_init() } else { subscriber.try_init() };
    Ok(())
}
