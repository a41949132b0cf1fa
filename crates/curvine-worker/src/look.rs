//! Looking into stores for the master.

use std::collections::BTreeMap;
use std::time::Duration;

use curvine_proto::{
    CheckStoreRequest, OddKey, SurveyReply, SurveyRequest, UfsListReply, UfsListRequest, UfsStatReply, UfsStatRequest,
};
use curvine_types::limits::OBSERVED_ENTRIES_MAX;
use curvine_types::{Error, ErrorKind, Result, Secret};
use curvine_ufs::{Policy, SurveyMark};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::service::{ufs_object, within};

/// Most keys that one survey looks at.
const SURVEY_MAX: usize = 50_000;
/// Of a store that is tried out: nobody waits for one that fails again and again.
const TRY_RETRIES: u32 = 1;
const TRY_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn list(engine: &Engine, request: UfsListRequest, deadline: Instant) -> Result<UfsListReply> {
    let ufs = engine.sources.mount(request.mount, request.mount_change, deadline).await?;
    let limit = (request.limit as usize).clamp(1, OBSERVED_ENTRIES_MAX);
    let page = within(deadline, ufs.list(&request.prefix, &request.start_after, limit)).await?;
    Ok(UfsListReply {
        entries: page.entries.into_iter().map(ufs_object).collect(),
        next: page.next.unwrap_or_default(),
    })
}

pub(crate) async fn stat(engine: &Engine, request: UfsStatRequest, deadline: Instant) -> Result<UfsStatReply> {
    let ufs = engine.sources.mount(request.mount, request.mount_change, deadline).await?;
    let found = within(deadline, ufs.stat(&request.key)).await?;
    Ok(UfsStatReply { found: found.is_some(), entry: found.map(ufs_object) })
}

/// Lists the root of a store that is not mounted, or not with these options.
pub(crate) async fn check_store(engine: &Engine, request: CheckStoreRequest, deadline: Instant) -> Result<()> {
    let CheckStoreRequest { url, options, secrets } = request;
    let options: BTreeMap<String, String> = options.into_iter().collect();
    let secrets: BTreeMap<String, Secret> =
        secrets.into_iter().map(|(name, value)| (name, Secret::new(value.to_vec()))).collect();
    let policy = Policy { retries: TRY_RETRIES, attempt_timeout: TRY_TIMEOUT, ..engine.sources.policy() };
    let ufs = curvine_ufs::open_with(&url, &options, &secrets, policy)?;
    within(deadline, ufs.list("", "", 1)).await.map(|_| ())
}

/// Looks through keys for those that cannot be shown.
pub(crate) async fn survey(engine: &Engine, request: SurveyRequest, deadline: Instant) -> Result<SurveyReply> {
    let ufs = engine.sources.mount(request.mount, request.mount_change, deadline).await?;
    let limit = (request.limit as usize).clamp(1, SURVEY_MAX);
    let mark = SurveyMark { key: request.after, files: request.files };
    let page = within(deadline, ufs.survey(&request.prefix, &mark, limit)).await?;
    if page.next.as_ref().is_some_and(|next| next.key <= mark.key) {
        return Err(Error::new(ErrorKind::Ufs, "the store does not list its keys in order").with("key", &mark.key));
    }
    let next = page.next.unwrap_or_default();
    let odd = page.odd.into_iter().map(|odd| OddKey { key: odd.key, why: odd.why.to_string() }).collect();
    Ok(SurveyReply { odd, keys: page.keys, next: next.key, files: next.files })
}
