//! The names of the program and of this machine.

use std::ffi::OsString;
use std::path::Path;

/// The last part of argv[0].
pub fn base_name(argument: Option<&OsString>) -> String {
    let name = argument.and_then(|argument| Path::new(argument).file_name());
    name.map_or_else(|| "curvine".to_string(), |name| name.to_string_lossy().into_owned())
}

/// A name of the mount at `path` that is the same after a restart of the process and another one on every other machine and in
/// every other container: a mount that comes back may expire its predecessor's session, and must never expire a stranger's.
pub fn of_mount(hostname: &str, path: &Path) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.split('-').next().unwrap_or_default().trim().to_string();
    let namespace = std::fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("{hostname}:{} ({boot}.{namespace})", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_mount_stays_the_same_and_tells_paths_apart() {
        assert_eq!(of_mount("a", Path::new("/m")), of_mount("a", Path::new("/m")));
        assert_ne!(of_mount("a", Path::new("/m")), of_mount("a", Path::new("/n")));
        assert!(of_mount("a", Path::new("/m")).starts_with("a:/m ("));
    }

    #[test]
    fn the_name_of_the_program_has_no_path() {
        assert_eq!(base_name(Some(&"/app/curvine/bin/cv".into())), "cv");
        assert_eq!(base_name(None), "curvine");
    }
}
