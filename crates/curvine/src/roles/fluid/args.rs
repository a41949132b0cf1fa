//! What can be typed after `curvine fluid`.

use std::path::PathBuf;

use clap::Subcommand;
use curvine_kubernetes::Component;

/// Entry points for Fluid's CacheRuntime. They learn what they need from the environment and the file that Fluid gives them.
#[derive(Subcommand, Debug)]
pub enum FluidCommand {
    /// Run the master of a runtime
    Master,
    /// Run a worker of a runtime
    Worker,
    /// Mount a runtime's file system where Fluid wants it, until SIGTERM
    Client,
    /// Make the mount table what the dataset says, and print it as Fluid wants to read it
    MountUfs {
        /// Give up after this long; Fluid gives up by itself and leaves the command running
        #[arg(long, value_name = "DURATION", default_value = "18s")]
        timeout: String,
    },
    /// Print the columns of the dataset as Fluid wants to read them
    ReportSummary {
        /// Give up after this long; what is not counted by two thirds of it is reported as not known yet
        #[arg(long, value_name = "DURATION", default_value = "18s")]
        timeout: String,
    },
    /// Do what a DataLoad asks for in its environment
    DataLoad,
    /// Succeed if this component is ready
    Probe {
        /// Which component; else FLUID_RUNTIME_COMPONENT_TYPE
        #[arg(long, value_name = "NAME", value_parser = component)]
        component: Option<Component>,
        /// Give up after this long
        #[arg(long, value_name = "DURATION", default_value = "2s")]
        timeout: String,
    },
    /// Take the client's mount off its path; one that stays busy is detached
    Unmount {
        /// The path; else FLUID_RUNTIME_MOUNT_PATH
        path: Option<PathBuf>,
        /// How long a busy mount is waited for
        #[arg(long, value_name = "DURATION", default_value = "10s")]
        timeout: String,
    },
    /// Take dead mounts of clients off their paths, on this node, until SIGTERM
    Janitor {
        /// Where clients mount
        #[arg(long, value_name = "DIR", default_value = "/runtime-mnt/cache")]
        root: PathBuf,
        /// Between two rounds; a mount goes when it is dead in two of them
        #[arg(long, value_name = "DURATION", default_value = "5s")]
        interval: String,
    },
}

fn component(name: &str) -> Result<Component, String> {
    Component::from_name(name).ok_or_else(|| "one of master, worker, client".to_string())
}
