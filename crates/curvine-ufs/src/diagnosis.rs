//! What a store's error most likely means for whoever has typed url and options.

/// Words of S3 stores, HTTP clients and TLS, and what to do. The first that is found counts.
const HINTS: [(&[&str], &str); 18] = [
    (&["NoSuchBucket"], "there is no such bucket: check its name and endpoint_url"),
    (&["ContainerNotFound"], "there is no such container: check its name and endpoint_url"),
    (&["InvalidBucketName"], "no bucket can have this name"),
    (&["InvalidAccessKeyId"], "the store does not know this access key: check access and endpoint_url"),
    (&["SignatureDoesNotMatch"], "the secret does not belong to the access key: check secret and region_name"),
    (
        &["ExpiredToken", "TokenRefreshRequired", "InvalidToken"],
        "the session token has expired or is not of this key: renew access, secret and session_token",
    ),
    (
        &["RequestTimeTooSkewed", "RequestExpired"],
        "the clock of this machine and the clock of the store differ too much: set the time",
    ),
    (
        &["PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect", "IllegalLocationConstraint"],
        "the bucket is in another region: set region_name, and endpoint_url if there is one",
    ),
    (
        &["AccessDenied", "AllAccessDisabled", "AccountProblem", "AuthorizationFailure", "AuthenticationFailed"],
        "access denied: these credentials may not do this, see the policy of the bucket",
    ),
    (&["SlowDown", "TooManyRequests", "RequestLimitExceeded"], "the store asks to slow down"),
    (
        &["UnknownIssuer", "invalid peer certificate", "certificate verify failed", "CertificateRequired"],
        "the certificate of the store is not trusted on this machine: add its authority to the system's certificates",
    ),
    (
        &["NotValidForName", "CertExpired", "certificate expired"],
        "the certificate of the store is not valid for its name or time: check endpoint_url and the clock",
    ),
    (
        &["InvalidContentType", "corrupt message", "wrong version number", "InvalidMessage"],
        "the store does not speak TLS there: endpoint_url begins with http://",
    ),
    (
        &["dns error", "failed to lookup address", "Name or service not known", "Temporary failure in name resolution"],
        "the host of the store is not known here: check endpoint_url, and DNS",
    ),
    (&["Connection refused"], "nobody listens there: check endpoint_url and its port, and whether the store runs"),
    (
        &["Network is unreachable", "No route to host"],
        "there is no way to the store from this machine: check network and firewall",
    ),
    (
        &["timed out", "deadline has elapsed", "did not answer in time"],
        "the store does not answer: check endpoint_url, network and firewall",
    ),
    (
        &[
            "no valid credential",
            "failed to load credential",
            "failed to load signing credential",
            "credential is not found",
            "CredentialInvalid",
            "no credential",
        ],
        "no credentials were found: give access and secret, or anonymous=true, or a role to the workers",
    ),
];

/// The way out, if the words are known.
pub(crate) fn hint(said: &str) -> Option<&'static str> {
    HINTS.iter().find(|(words, _)| words.iter().any(|word| said.contains(word))).map(|(_, hint)| *hint)
}
