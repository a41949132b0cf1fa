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
        ConfigCommand::Metrics => say(metrics().trim_end())?,
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

const METRICS_HEAD: &str = "# Metrics

Generated from the code; write it anew with `curvine config metrics`.

Each role has a web page of its own at `web_hostname` and its `web_port`: `/metrics` in the text format of Prometheus, and `/healthz`, which answers
200, or 503 with one line that says why. A label `mount` is the path of a mount in Curvine's tree. Counters begin at 0 with the process.
";

/// `docs/METRICS.md`.
pub fn metrics() -> String {
    let parts = [
        ("Every role", "What a process tells of itself.", curvine_web::PROCESS),
        ("Master", "Port 9001. Healthy: the log takes changes and somebody leads.", curvine_master::metrics::METRICS),
        (
            "Worker",
            "Port 9002. Healthy: the master takes it for alive and a tier directory works.",
            curvine_worker::metrics::METRICS,
        ),
        ("Mount", "Port 9003. Healthy: its session with the master lives.", curvine_fuse::metrics::METRICS),
    ];
    curvine_web::reference(METRICS_HEAD, &parts)
}

/// Prints a completion script.
pub fn completion<C: CommandFactory>(shell: clap_complete::Shell, name: &str) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut C::command(), name, &mut script);
    say(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// With `CURVINE_REWRITE_DOCS=1` the page is written anew instead.
    #[test]
    fn the_page_of_metrics_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
        if std::env::var_os("CURVINE_REWRITE_DOCS").is_some() {
            std::fs::write(&path, metrics()).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == metrics(),
            "docs/METRICS.md differs from the code, run CURVINE_REWRITE_DOCS=1 cargo test -p curvine"
        );
    }

    #[test]
    fn names_follow_the_rules_and_no_two_are_alike() {
        let lists = [
            curvine_web::PROCESS,
            curvine_master::metrics::METRICS,
            curvine_worker::metrics::METRICS,
            curvine_fuse::metrics::METRICS,
        ];
        let mut seen = BTreeSet::new();
        for metric in lists.into_iter().flatten() {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("curvine_") && metric.help.ends_with('.'), "{}", metric.name);
            let counts = metric.name.ends_with("_total") || metric.name.ends_with("_index");
            assert_eq!(metric.kind == curvine_web::Kind::Counter, counts, "{}", metric.name);
        }
    }
}
