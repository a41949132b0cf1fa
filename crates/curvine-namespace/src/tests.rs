//! What the state machine promises, by topic, through its public face. After each command the invariants are checked.

mod acls;
mod attributes;
mod cluster;
mod content;
mod damage;
mod driver;
mod locks;
mod model;
mod moves;
mod names;
mod pins;
mod quota;
mod rename;
mod rescue;
mod sessions;
mod stored;
mod tasks;
mod trash;
mod tree_moves;
mod ttl;
mod ufs;
