//! What a store's error means here.

use curvine_types::{Error, ErrorKind, Secret};
use opendal::ErrorKind as Kind;

/// Longest part of a store's own message that is passed on.
const MESSAGE_MAX: usize = 300;

/// Turns an error of OpenDAL into ours: the kind, the store's message without credentials, and no source, because that one
/// prints requests in full.
pub(crate) fn from_store(error: &opendal::Error, key: &str, secrets: &[Secret]) -> Error {
    let (kind, message) = match error.kind() {
        Kind::NotFound => (ErrorKind::NotFound, "not in the under file system"),
        Kind::PermissionDenied => (ErrorKind::PermissionDenied, "the under file system denies access"),
        Kind::ConditionNotMatch => (ErrorKind::VersionMismatch, "the object is not the expected version"),
        Kind::RangeNotSatisfied => (ErrorKind::VersionMismatch, "the object is shorter than expected"),
        Kind::RateLimited => (ErrorKind::Overloaded, "the under file system asks to slow down"),
        Kind::Unsupported => (ErrorKind::NotSupported, "the under file system cannot do this"),
        Kind::ConfigInvalid => (ErrorKind::Config, "the under file system does not accept url or options"),
        _ if error.is_temporary() => (ErrorKind::Unavailable, "the under file system fails"),
        _ => (ErrorKind::Ufs, "the under file system fails"),
    };
    let mut said = scrub(error.message(), secrets);
    if let Some(source) = std::error::Error::source(error) {
        said = format!("{said}: {}", scrub(&innermost(source), secrets));
    }
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_MAX).collect();
    let said = said.trim();
    let message = match crate::diagnosis::hint(said) {
        Some(hint) => format!("{message}: {hint}"),
        None => message.to_string(),
    };
    let ours = Error::new(kind, message).with("key", key);
    if said.is_empty() { ours } else { ours.with("store", said) }
}

/// The cause of causes, such as "connection refused", which names no request.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

pub(crate) fn scrub(text: &str, secrets: &[Secret]) -> String {
    secrets
        .iter()
        .filter_map(|secret| std::str::from_utf8(secret.expose()).ok())
        .filter(|secret| !secret.is_empty())
        .fold(text.to_string(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_a_stores_message_are_not_passed_on() {
        let secrets = [Secret::new("AKIA123"), Secret::new("s3cr3t"), Secret::default()];
        let error = opendal::Error::new(Kind::PermissionDenied, "key AKIA123 with s3cr3t\nis wrong");
        let ours = from_store(&error, "a/b", &secrets);
        assert_eq!(ours.kind(), ErrorKind::PermissionDenied);
        let text = format!("{ours} {ours:?}");
        assert!(!text.contains("AKIA123") && !text.contains("s3cr3t"), "{text}");
        assert!(text.contains("key *** with *** is wrong"), "{text}");
    }

    #[test]
    fn failures_that_may_pass_are_told_from_those_that_do_not() {
        let fails = opendal::Error::new(Kind::Unexpected, "500");
        assert_eq!(from_store(&fails, "", &[]).kind(), ErrorKind::Ufs);
        assert_eq!(from_store(&fails.set_temporary(), "", &[]).kind(), ErrorKind::Unavailable);
    }
}
