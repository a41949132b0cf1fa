//! The replicated log: openraft behind a batch interface, segmented storage, snapshots.
