//! `cv fsck`: is the namespace sound, and do the workers hold what the log names? Nothing is stopped and nothing is changed.
//!
//! Always: what looks wrong is asked again before it is reported, because files come and go meanwhile; memory does not grow with the
//! number of files, only with what is wrong, up to a limit.

mod compare;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use curvine_client::Observer;
use curvine_config::ClusterConf;
use curvine_proto::{CheckNamespaceReply, CheckNamespaceRequest, Method};
use curvine_types::Result;

use crate::wiring;
use compare::Comparison;
pub use report::{Finding, Findings};

/// A check of ten million inodes takes less.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Before what looks wrong is asked again: longer than a placing, a sealing or a deletion that is under way.
const SETTLE: Duration = Duration::from_secs(3);

/// Something is wrong.
const WRONG: u8 = 3;
/// Nothing wrong was found, but not everything could be checked.
const UNCHECKED: u8 = 4;

/// Checks and prints.
pub async fn run(conf: &ClusterConf, json: bool) -> Result<ExitCode> {
    let observer = Observer::new(&wiring::tool_client(conf)?, TIMEOUT)?;
    let mut findings = Findings::default();
    let checked: CheckNamespaceReply = observer.master(Method::CheckNamespace, &CheckNamespaceRequest {}).await?;
    findings.inodes = checked.inodes;
    if !checked.broken.is_empty() {
        findings.add(Finding::broken(checked.broken));
    }
    let mut comparison = Comparison::start(&observer).await?;
    let mut suspects = comparison.run(&mut findings).await?;
    if !suspects.is_empty() {
        tokio::time::sleep(SETTLE).await;
        suspects = comparison.ask_again(suspects).await?;
    }
    suspects.into_iter().for_each(|finding| findings.add(finding));
    findings.print(json)?;
    Ok(match (findings.is_wrong(), findings.unchecked > 0) {
        (true, _) => ExitCode::from(WRONG),
        (false, true) => ExitCode::from(UNCHECKED),
        (false, false) => ExitCode::SUCCESS,
    })
}
