//! Tiers, sparse cache files, chunk index, checksums and recovery.
