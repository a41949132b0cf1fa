//! What the errors of an HDFS mean here.

use curvine_types::{Error, ErrorKind};

use crate::diagnosis::hint;

/// Longest part of a server's own message that is passed on.
const MESSAGE_MAX: usize = 300;

/// An error with what the server said, which is the first line: behind it are the frames of a Java stack.
pub(super) fn told(kind: ErrorKind, message: &str, said: &str, path: &str) -> Error {
    let first = said.lines().next().unwrap_or_default();
    let said: String = first.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect();
    let message = match hint(&said) {
        Some(hint) => format!("{message}: {}", hint.replace("endpoint_url", "the url")),
        None => message.to_string(),
    };
    Error::new(kind, message).with("path", path).with("store", said)
}

/// By the class of a server's exception.
pub(super) fn of_class(class: &str) -> (ErrorKind, &'static str) {
    match class.rsplit('.').next().unwrap_or(class) {
        "FileNotFoundException" => (ErrorKind::NotFound, "not in the under file system"),
        "FileAlreadyExistsException" => (ErrorKind::AlreadyExists, "it is in the under file system already"),
        "ParentNotDirectoryException" => {
            (ErrorKind::NotADirectory, "something above it is a file in the under file system")
        }
        "PathIsNotEmptyDirectoryException" => {
            (ErrorKind::DirectoryNotEmpty, "the directory is not empty in the under file system")
        }
        "AccessControlException" | "AuthorizationException" | "InvalidToken" | "SecretManager$InvalidToken" => {
            (ErrorKind::PermissionDenied, "the under file system denies access")
        }
        "NSQuotaExceededException" | "DSQuotaExceededException" | "QuotaByStorageTypeExceededException" => {
            (ErrorKind::QuotaExceeded, "a quota of the under file system is exhausted")
        }
        "SafeModeException" => (ErrorKind::Unavailable, "the under file system is in safe mode"),
        "StandbyException" => (ErrorKind::Unavailable, "the NameNode is not the active one"),
        "RetriableException" | "ServerTooBusyException" | "ObserverRetryOnActiveException" => {
            (ErrorKind::Overloaded, "the under file system asks to come back later")
        }
        "LeaseExpiredException" => (ErrorKind::Conflict, "a later upload has taken this one's place"),
        "UnresolvedPathException" => (ErrorKind::NotSupported, "a symbolic link of HDFS is not followed"),
        "InvalidPathException" => (ErrorKind::InvalidArgument, "the under file system has no such names"),
        "FSLimitException$PathComponentTooLongException" => {
            (ErrorKind::NameTooLong, "the name is too long for the under file system")
        }
        _ => (ErrorKind::Ufs, "the under file system fails"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_told_apart_and_stacks_are_not_passed_on() {
        for (class, want) in [
            ("java.io.FileNotFoundException", ErrorKind::NotFound),
            ("org.apache.hadoop.security.AccessControlException", ErrorKind::PermissionDenied),
            ("org.apache.hadoop.hdfs.server.namenode.SafeModeException", ErrorKind::Unavailable),
            ("org.apache.hadoop.security.token.SecretManager$InvalidToken", ErrorKind::PermissionDenied),
            ("org.apache.hadoop.fs.PathIsNotEmptyDirectoryException", ErrorKind::DirectoryNotEmpty),
            ("NSQuotaExceededException", ErrorKind::QuotaExceeded),
            ("java.lang.NullPointerException", ErrorKind::Ufs),
            ("", ErrorKind::Ufs),
        ] {
            assert_eq!(of_class(class).0, want, "{class}");
        }
        let error = told(ErrorKind::Ufs, "it fails", "what happened\n\tat org.apache.X.y(X.java:1)", "/p").to_string();
        assert!(error.contains("what happened") && !error.contains("X.java"), "{error}");
    }
}
