//! The cluster secret and its file.
//!
//! Always: the file is its owner's alone, and the bytes never appear in a message.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use curvine_types::{Error, ErrorKind, Result, Secret};

use crate::conf::ClusterConf;

/// Shortest secret that is accepted, in bytes.
const SECRET_MIN: usize = 16;
/// Longest; a larger file is no secret.
const SECRET_MAX: u64 = 64 << 10;

impl ClusterConf {
    /// The cluster secret; empty only if the config says `allow_no_secret`.
    pub fn secret(&self) -> Result<Secret> {
        if !self.security.secret_file.as_os_str().is_empty() {
            return read_secret_file(&self.security.secret_file);
        }
        if self.security.allow_no_secret {
            return Ok(Secret::default());
        }
        Err(Error::new(
            ErrorKind::Config,
            "no cluster secret: set secret_file in [security], or allow_no_secret = true for a trial on one machine",
        ))
    }
}

/// Reads a secret; white space at its end does not count. Refuses a file that others than its owner may read.
pub fn read_secret_file(path: &Path) -> Result<Secret> {
    let named = |error: Error| error.with("file", path.display());
    let failed = |source| named(Error::new(ErrorKind::Config, "cannot read the secret file").caused_by(source));
    let refused = |message: &str| named(Error::new(ErrorKind::Config, message));
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > SECRET_MAX {
        return Err(refused("the secret file must be a regular file of at most 64 KB"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        let message = "others can read the secret file, run chmod 600 on it";
        return Err(refused(message).with("mode", format!("{:04o}", metadata.mode() & 0o7777)));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let secret = bytes.trim_ascii_end();
    if secret.len() < SECRET_MIN {
        return Err(refused("the secret must have at least 16 bytes").with("length", secret.len()));
    }
    Ok(Secret::new(secret))
}

/// Makes a secret of 32 random bytes, in hexadecimal, in a new file of mode 0600; an existing one is read and kept.
pub fn generate_secret_file(path: &Path) -> Result<Secret> {
    let failed = |source| {
        Error::new(ErrorKind::Config, "cannot make the secret file").with("file", path.display()).caused_by(source)
    };
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).map_err(failed)?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // Written beside and linked into place: a start that dies half way leaves no short secret, and one that races keeps the first.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    let linked = std::fs::hard_link(&draft, path);
    let removed = std::fs::remove_file(&draft);
    match linked {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(source)),
        _ => removed.map_err(failed)?,
    }
    read_secret_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_is_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let first = generate_secret_file(&path).unwrap();
        assert_eq!(first.expose().len(), 64);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(generate_secret_file(&path).unwrap(), first);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_secret_file(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && !error.contains("0123"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read_secret_file(&path).unwrap().expose(), b"0123456789abcdef");
    }

    #[test]
    fn a_short_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "short\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_secret_file(&path).unwrap_err().to_string().contains("16 bytes"));
    }

    #[test]
    fn running_without_a_secret_must_be_asked_for() {
        let mut conf = ClusterConf::default();
        assert_eq!(conf.secret().unwrap_err().kind(), ErrorKind::Config);
        conf.security.allow_no_secret = true;
        assert!(conf.secret().unwrap().is_empty());
    }
}
