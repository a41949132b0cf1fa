//! The client against a master and workers that are played in this process, over real connections.

mod data;
mod master;
mod names;
mod play;
mod sessions;
mod succession;
mod worker;
