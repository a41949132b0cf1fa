//! What can be wrong with this machine.

use std::path::Path;
use std::time::Duration;

use curvine_config::ClusterConf;
use curvine_fuse_abi::mountinfo::{MountedAt, mounts};
use curvine_types::units::format_size;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use tokio::time::timeout;

use super::{Finding, ok, warning, wrong};

/// Files that a busy worker or mount has open.
const DESCRIPTORS: u64 = 65_536;
/// A mount that lives answers statfs from memory.
const MOUNT_PATIENCE: Duration = Duration::from_secs(3);
/// The first kernel with FUSE passthrough.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);
/// Bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;

pub fn checks(conf: Option<&ClusterConf>) -> Vec<(&'static str, BoxFuture<'_, Vec<Finding>>)> {
    let wanted = conf.is_none_or(|conf| conf.fuse.passthrough);
    let mut dirs = Vec::new();
    if let Some(conf) = conf {
        dirs.extend(conf.worker.data_dir.iter().map(|dir| dir.path.clone()));
        dirs.extend(Some(conf.journal.journal_dir.clone()).filter(|dir| !dir.as_os_str().is_empty()));
    }
    vec![
        ("fuse", std::future::ready(vec![fuse(), fuse_conf(), descriptors()]).boxed()),
        ("kernel", std::future::ready(vec![kernel(wanted)]).boxed()),
        ("mounts", local_mounts().boxed()),
        (
            "disks",
            async move {
                let looking = dirs.into_iter().map(|dir| tokio::task::spawn_blocking(move || disk(&dir)));
                join_all(looking).await.into_iter().flatten().flatten().collect()
            }
            .boxed(),
        ),
    ]
}

fn fuse() -> Finding {
    const CHECK: &str = "fuse";
    match std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => ok(CHECK, "/dev/fuse can be opened"),
        Err(error) => {
            let advice = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "load the module (modprobe fuse); in a container, give it the device /dev/fuse"
                }
                _ => "run as root, or in a container with the device /dev/fuse and CAP_SYS_ADMIN",
            };
            warning(CHECK, format!("nothing can be mounted on this machine: /dev/fuse: {error}"), advice)
        }
    }
}

/// Mounts are made by mount(2), which needs the capability; fusermount and its file are asked by no one.
fn fuse_conf() -> Finding {
    const CHECK: &str = "fuse.conf";
    if has_sys_admin() {
        return ok(CHECK, "not needed: mounts are made with CAP_SYS_ADMIN and not by fusermount");
    }
    let text = "mounting needs CAP_SYS_ADMIN, which this user lacks; user_allow_other in /etc/fuse.conf does not help";
    warning(CHECK, text, "mount as root, or in a container with CAP_SYS_ADMIN; cv itself needs none of it")
}

fn descriptors() -> Finding {
    const CHECK: &str = "ulimit";
    match getrlimit(Resource::Nofile).current {
        Some(most) if most < DESCRIPTORS => {
            let advice =
                format!("raise it to {DESCRIPTORS}: ulimit -n, LimitNOFILE of the service, or the container's limits");
            warning(CHECK, format!("{most} open files"), advice)
        }
        most => ok(CHECK, format!("{} open files", most.map_or("any number of".to_string(), |most| most.to_string()))),
    }
}

fn has_sys_admin() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|bits| bits >> SYS_ADMIN & 1 == 1)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(wanted: bool) -> Finding {
    const CHECK: &str = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let slower = "files are read through the page cache of the mount instead, which is right and somewhat slower";
    if !wanted {
        return ok(CHECK, format!("{release}; passthrough is switched off by [fuse] passthrough, {slower}"));
    }
    if version(&release).is_none_or(|version| version < PASSTHROUGH_SINCE) {
        let text = format!("{release} has no FUSE passthrough, {slower}");
        return warning(CHECK, text, "Linux 6.9 or newer has it");
    }
    if !has_sys_admin() {
        return warning(
            CHECK,
            format!("{release}; without CAP_SYS_ADMIN there is no passthrough, {slower}"),
            "run the mount as root",
        );
    }
    ok(CHECK, format!("{release}; passthrough is possible (`cv stat FILE` tells it of an open file)"))
}

/// Whether each mount of Curvine here is alive.
async fn local_mounts() -> Vec<Finding> {
    const CHECK: &str = "mounts";
    let here: Vec<MountedAt> = match mounts() {
        Ok(all) => all.into_iter().filter(|mount| mount.kind == "fuse.curvine").collect(),
        Err(error) => return vec![wrong(CHECK, error.to_string(), "is /proc mounted?")],
    };
    if here.is_empty() {
        return vec![ok(CHECK, "nothing of Curvine is mounted here")];
    }
    join_all(here.into_iter().map(|mount| look_at(CHECK, mount))).await
}

async fn look_at(check: &'static str, mount: MountedAt) -> Finding {
    let (path, shown) = (mount.path.clone(), mount.path.display().to_string());
    let asked = timeout(MOUNT_PATIENCE, tokio::task::spawn_blocking(move || rustix::fs::statvfs(&path))).await;
    let advice = format!("umount -l {shown}; a mount that is started there again takes the dead one off by itself");
    match asked {
        Ok(Ok(Ok(room))) => {
            let bytes = |blocks: u64| format_size(blocks.saturating_mul(room.f_frsize));
            ok(check, format!("{shown} answers, {} of {} available", bytes(room.f_bavail), bytes(room.f_blocks)))
        }
        Ok(Ok(Err(Errno::NOTCONN))) => wrong(check, format!("{shown} is dead: nobody serves it any more"), advice),
        Ok(Ok(Err(error))) => wrong(check, format!("{shown}: {error}"), advice),
        Ok(Err(_)) | Err(_) => {
            let advice = format!("look at the log of its process; {advice}");
            wrong(check, format!("{shown} does not answer within {} s", MOUNT_PATIENCE.as_secs()), advice)
        }
    }
}

/// Room on a disk that the config gives to a role of this machine; `None`: the directory is not here.
fn disk(dir: &Path) -> Option<Finding> {
    const CHECK: &str = "disks";
    let shown = dir.display();
    let room = match rustix::fs::statvfs(dir) {
        Ok(room) => room,
        Err(Errno::NOENT) => return None,
        Err(error) => {
            return Some(wrong(CHECK, format!("{shown}: {error}"), "is its disk mounted and healthy (dmesg)?"));
        }
    };
    let bytes = |blocks: u64| format_size(blocks.saturating_mul(room.f_frsize));
    let text = format!("{shown}: {} of {} free", bytes(room.f_bavail), bytes(room.f_blocks));
    Some(if room.f_bavail.saturating_mul(20) < room.f_blocks {
        warning(
            CHECK,
            text,
            "make room, or give the tier a quota and watermarks; a full log disk makes the master read-only",
        )
    } else {
        ok(CHECK, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels_are_compared_by_their_numbers() {
        assert_eq!(version("6.18.5-cloud"), Some((6, 18)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert!(version("6.10-rc1").is_some_and(|version| version > PASSTHROUGH_SINCE));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn a_directory_of_another_machine_is_none_of_this_ones_business() {
        assert!(disk(Path::new("/no/such/directory")).is_none());
        assert!(disk(Path::new("/")).is_some());
    }
}
