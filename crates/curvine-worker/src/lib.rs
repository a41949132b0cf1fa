//! The worker: serves, fills and deletes file data.
