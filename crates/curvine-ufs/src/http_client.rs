//! Connections to the HTTP services of stores.

use curvine_types::{Error, ErrorKind, Result};

use crate::policy::Policy;

/// Connections of this file system's own; TLS by rustls with the machine's certificates.
pub(crate) fn client(policy: &Policy) -> Result<reqwest::Client> {
    made(builder(policy).build())
}

/// The same, to be changed before it is made.
pub(crate) fn builder(policy: &Policy) -> reqwest::ClientBuilder {
    // Another part of the process may have chosen a provider before; either will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(policy.connect_timeout.min(policy.attempt_timeout))
        .pool_max_idle_per_host(policy.concurrency)
}

pub(crate) fn made(client: reqwest::Result<reqwest::Client>) -> Result<reqwest::Client> {
    client.map_err(|source| {
        Error::new(
            ErrorKind::Internal,
            "cannot make an HTTP client; it needs this machine's CA certificates (package ca-certificates)",
        )
        .caused_by(source)
    })
}
