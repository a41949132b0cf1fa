//! Maps for hot paths: those of the standard library with a quicker hash, seeded anew in each process.

use std::collections::{HashMap, HashSet};

/// A map by ids or names.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
/// A set of ids or names.
pub type FastSet<K> = HashSet<K, foldhash::fast::RandomState>;
