//! The one binary. It looks at argv[0] to know which of its names it was called by.
//!
//! `args` says what can be typed, `roles` runs master, worker, mount and standalone until a signal, `tool` is `cv`. Always: exit code
//! 0 means that it was done, 1 that it failed (one line on standard error says why), 2 that it was typed wrongly.

mod args;
mod logs;
mod names;
mod reference;
mod roles;
mod signals;
mod tool;
mod wiring;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use curvine_types::{Error, ErrorKind, Result};

/// Many small allocations on all threads: measured a third faster than the C library's on small files.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use args::{Common, Curvine, CurvineCommand, Cv, CvCommand, FuseName, ServerName, Service};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let name = names::base_name(arguments.first());
    match run(&name, arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, arguments: Vec<OsString>) -> Result<ExitCode> {
    match name {
        "cv" | "curvine-cli" => {
            let cv = Cv::parse_from(arguments);
            run_cv(&cv.common, cv.target, cv.command)
        }
        "curvine-fuse" => {
            let FuseName { common, mount } = FuseName::parse_from(arguments);
            wait_for(roles::mount::run(&common, mount))
        }
        "curvine-server" => run_server(ServerName::parse_from(arguments)),
        _ => {
            let curvine = Curvine::parse_from(arguments);
            run_curvine(&curvine.common, curvine.target, curvine.command)
        }
    }
}

fn run_curvine(common: &Common, target: args::Target, command: CurvineCommand) -> Result<ExitCode> {
    match command {
        CurvineCommand::Master => wait_for(roles::master::run(common)),
        CurvineCommand::Worker => wait_for(roles::worker::run(common)),
        CurvineCommand::Mount(mount) => wait_for(roles::mount::run(common, mount)),
        CurvineCommand::ServeMount => wait_for(roles::mount::serve(common)),
        CurvineCommand::Standalone(standalone) => wait_for(roles::standalone::run(common, standalone)),
        CurvineCommand::Fluid { command } => block_on(roles::fluid::run(common, command)),
        CurvineCommand::Config { command } => reference::run(common, command),
        CurvineCommand::Cv { command } => run_cv(common, target, command),
        CurvineCommand::Tool(command) => run_cv(common, target, CvCommand::Tool(command)),
        CurvineCommand::Version => tool::version(&target),
        CurvineCommand::Completion { shell } => reference::completion::<Curvine>(shell, "curvine"),
    }
}

fn run_cv(common: &Common, target: args::Target, command: CvCommand) -> Result<ExitCode> {
    match command {
        CvCommand::Version => tool::version(&target),
        CvCommand::Completion { shell } => reference::completion::<Cv>(shell, "cv"),
        CvCommand::Mount(mount) if mount.lacks_path() => {
            let message = "say where it is to be mounted, such as cv mount s3://bucket/prefix /data";
            Cv::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
        }
        CvCommand::Mount(mount) => block_on(tool::run(common, &target, tool::Task::Mount(mount))),
        CvCommand::Tool(command) => block_on(tool::run(common, &target, tool::Task::Tool(command))),
    }
}

fn run_server(server: ServerName) -> Result<ExitCode> {
    match (server.service, server.command) {
        (Some(Service::Master), None) | (None, Some(Service::Master)) => wait_for(roles::master::run(&server.common)),
        (Some(Service::Worker), None) | (None, Some(Service::Worker)) => wait_for(roles::worker::run(&server.common)),
        _ => Err(Error::new(ErrorKind::Config, "say either --service master or --service worker")),
    }
}

/// A role runs until it is told to stop, and then it has done what it should.
fn wait_for(role: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    block_on(async { role.await.map(|()| ExitCode::SUCCESS) })
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::from_io(source, "cannot start the runtime"))?;
    let outcome = runtime.block_on(work);
    // A blocking call that hangs in a dead disk or mount must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}
