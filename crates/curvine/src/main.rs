//! The one binary. It looks at argv[0] to know which of its names it was called by.

fn main() {}
