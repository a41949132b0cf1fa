//! The names under which options of a store are known.

use std::collections::BTreeMap;

use curvine_types::Secret;

/// Parts options into those that may be shown and those that may not.
pub fn split_secrets(_options: BTreeMap<String, String>) -> (BTreeMap<String, String>, BTreeMap<String, Secret>) {
    todo!("options")
}
