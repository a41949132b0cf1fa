//! The config file, its validation and its generated reference.
