//! `cv doctor`: what is wrong with this machine and its cluster, and what to do about it, in one go.
//!
//! Always: each check has a deadline of its own and they run side by side, so that whatever hangs is one line of the answer. Nothing is
//! changed anywhere.

mod cluster;
mod machine;

use std::process::ExitCode;
use std::time::Duration;

use curvine_config::{ClusterConf, Role};
use curvine_types::Result;
use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::output::{say, say_json};
use crate::args::{Common, Target};
use crate::logs;

/// Longest time of one check.
const PATIENCE: Duration = Duration::from_secs(8);
/// Something is wrong.
const WRONG: u8 = 3;
/// Nothing is wrong, but something could be better.
const WARNED: u8 = 4;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    Warning,
    Wrong,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Wrong => "wrong",
        }
    }
}

/// What a check has found.
#[derive(Clone, Debug)]
struct Finding {
    check: &'static str,
    state: State,
    text: String,
    /// What to do.
    advice: String,
}

fn ok(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { check, state: State::Ok, text: text.into(), advice: String::new() }
}

fn warning(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check, state: State::Warning, text: text.into(), advice: advice.into() }
}

fn wrong(check: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check, state: State::Wrong, text: text.into(), advice: advice.into() }
}

/// Runs all checks.
pub async fn run(common: &Common, target: &Target) -> Result<ExitCode> {
    let conf_file = common.conf.clone().or_else(crate::roles::fluid::conf_of_this_pod);
    let (conf, mut findings) = config(ClusterConf::load(conf_file.as_deref()), target);
    // Its log would stand between the lines of the answer.
    logs::start(common, "error", Default::default(), logs::To::Error)?;
    let mut checks: Vec<(&'static str, BoxFuture<'_, Vec<Finding>>)> = machine::checks(conf.as_ref());
    if let Some(conf) = &conf {
        checks.extend(cluster::checks(conf));
    }
    let late = |check| {
        wrong(
            check,
            format!("no answer within {} s", PATIENCE.as_secs()),
            "something hangs here: a dead mount, a disk or a network",
        )
    };
    let running = checks
        .into_iter()
        .map(|(name, check)| async move { timeout(PATIENCE, check).await.unwrap_or_else(|_| vec![late(name)]) });
    findings.extend(join_all(running).await.into_iter().flatten());
    let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
    if target.json {
        say_json(&json!({ "state": worst.name(), "checks": findings.iter().map(as_json).collect::<Vec<_>>() }))?;
    } else {
        findings.iter().try_for_each(|finding| say(&line(finding)))?;
        let count = |state| findings.iter().filter(|finding| finding.state == state).count();
        say(&format!("{} wrong, {} warnings", count(State::Wrong), count(State::Warning)))?;
    }
    Ok(match worst {
        State::Ok => ExitCode::SUCCESS,
        State::Warning => ExitCode::from(WARNED),
        State::Wrong => ExitCode::from(WRONG),
    })
}

/// The config file; without a usable one, the checks of this machine are all that there is.
fn config(loaded: Result<(ClusterConf, Vec<String>)>, target: &Target) -> (Option<ClusterConf>, Vec<Finding>) {
    const CHECK: &str = "config";
    let (mut conf, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            return (
                None,
                vec![wrong(CHECK, error.to_string(), "mend the file; `curvine config check` reads it alone")],
            );
        }
    };
    if !target.master_addrs.is_empty() {
        conf.client.master_addrs = target.master_addrs.clone();
    }
    let mut findings: Vec<Finding> =
        warnings.into_iter().map(|text| warning(CHECK, text, "take the key out of the file")).collect();
    if let Err(error) = conf.check_role(Role::Client) {
        let advice = "name the cluster's secret in [security] secret_file, readable for its owner alone";
        findings.push(wrong(CHECK, error.to_string(), advice));
    }
    if conf.security.allow_no_secret && conf.security.secret_file.as_os_str().is_empty() {
        let advice = "set [security] secret_file on all machines of the cluster";
        findings.push(warning(CHECK, "no cluster secret: whoever reaches the ports may do everything", advice));
    }
    if findings.is_empty() {
        findings.push(ok(
            CHECK,
            format!("cluster {:?}, masters {}", conf.general.cluster_id, conf.client.master_addrs.join(" ")),
        ));
    }
    (Some(conf), findings)
}

fn line(finding: &Finding) -> String {
    let mut text = format!("{:<8} {:<12} {}", finding.state.name(), finding.check, finding.text);
    if !finding.advice.is_empty() {
        text.push_str(&format!("\n{:22}-> {}", "", finding.advice));
    }
    text
}

fn as_json(finding: &Finding) -> Value {
    json!({ "check": finding.check, "state": finding.state.name(), "text": finding.text, "advice": finding.advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_cannot_be_read_leaves_the_checks_of_the_machine() {
        let error = curvine_types::Error::new(curvine_types::ErrorKind::Config, "no such key");
        let (conf, findings) = config(Err(error), &Target::default());
        assert!(conf.is_none() && findings[0].state == State::Wrong && !findings[0].advice.is_empty());
    }

    #[test]
    fn whatever_is_not_well_says_what_to_do() {
        let conf = ClusterConf {
            security: curvine_config::SecurityConf { allow_no_secret: true, ..Default::default() },
            ..Default::default()
        };
        let (_, findings) = config(Ok((conf, vec!["[job] has no effect".into()])), &Target::default());
        assert_eq!(findings.len(), 2);
        for finding in findings {
            assert!(finding.state == State::Warning && line(&finding).contains("\n") && line(&finding).contains("-> "));
        }
    }
}
