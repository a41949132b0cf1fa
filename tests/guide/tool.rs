//! `cv`, as scripts and people use it.
