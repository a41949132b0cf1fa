//! The metadata state machine: commands in, outcomes out.
