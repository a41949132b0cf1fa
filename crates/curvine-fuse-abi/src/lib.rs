//! Kernel structures, request parsing and the /dev/fuse transport.
