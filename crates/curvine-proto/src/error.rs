//! Errors as they travel and as they stay in a result window.

use curvine_types::{Error, ErrorKind};

use crate::v1::{ErrorBody, ErrorContext};

/// Context keys that survive the wire; others are dropped because keys are static strings.
const KEYS: [&str; 20] = [
    "inode",
    "name",
    "path",
    "file",
    "offset",
    "session",
    "worker",
    "generation",
    "version",
    "epoch",
    "leader",
    "key",
    "url",
    "mount",
    "length",
    "limit",
    "have",
    "want",
    "peer",
    "method",
];

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        let context = KEYS
            .iter()
            .filter_map(|key| Some(ErrorContext { key: key.to_string(), value: error.get(key)?.to_string() }))
            .collect();
        let mut message = error.message().to_string();
        if let Some(source) = std::error::Error::source(error) {
            message = format!("{message}: {source}");
        }
        ErrorBody { kind: error.kind().code(), message, context }
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Self {
        let mut error = Error::new(ErrorKind::from_code(body.kind), body.message);
        for item in body.context {
            if let Some(key) = KEYS.iter().find(|key| **key == item.key) {
                error = error.with(key, item.value);
            }
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_context() {
        let error = Error::new(ErrorKind::Stale, "the file is gone").with("inode", 7);
        let back = Error::from(ErrorBody::from(&error));
        assert_eq!(back.kind(), ErrorKind::Stale);
        assert_eq!(back.get("inode"), Some("7"));
        assert_eq!(back.to_string(), error.to_string());
    }
}
