//! The master: sessions, grants, leases, placement and mounts over the replicated namespace.
