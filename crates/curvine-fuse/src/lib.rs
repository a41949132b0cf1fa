//! The mount: kernel requests to the client.
