//! `stress-ng`: many processes at once do everything that file systems are asked for, and check what they got.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Cluster, Run};

/// Its stressors of files. Left out are those that are not about the file system they run on (binderfs, dup, eventfd, procfs,
/// ioprio) and those that need what FUSE has not: inode flags (chattr, inode-flags), fs-verity (verity).
const STRESSORS: [&str; 35] = [
    "access",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "fallocate",
    "fcntl",
    "fiemap",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inotify",
    "io",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "rename",
    "symlink",
    "sync-file",
    "utime",
    "xattr",
];
/// And those that work on mapped files and on both ends of a descriptor.
const MORE: [&str; 6] = ["touch", "seek", "readahead", "msync", "mmapmany", "sendfile"];

/// Runs a stressor with checks for some seconds; what it complained about.
fn stress(cluster: &Cluster, name: &str, seconds: u64) -> Option<String> {
    let place = cluster.mount(0).join(format!("stress-{name}"));
    std::fs::create_dir(&place).expect("make a directory");
    let mut command = Command::new("stress-ng");
    command.args([&format!("--{name}"), "2", "--timeout", &format!("{seconds}s")]);
    command.args(["--verify", "--oomable", "--metrics-brief", "--temp-path"]).arg(&place);
    let run = Run::of(&mut command, Duration::from_secs(seconds + 120));
    let text = run.text() + &run.stderr;
    let complaints = text.lines().any(|line| line.contains("fail:") || line.contains("unsuccessful run completed"));
    println!("{name}: {:?} after {:?}", run.code(), run.took);
    // 3: it may not run here (a kernel without the call); 4: not implemented.
    let ran = matches!(run.code(), Some(0 | 3 | 4));
    if !ran || complaints {
        return Some(format!("{run}"));
    }
    None
}

fn stress_all<'a>(names: impl IntoIterator<Item = &'a str>, seconds: u64, limit: Duration) {
    let Some((_alone, cluster)) = crate::cluster(limit) else { return };
    let failures: Vec<String> = names.into_iter().filter_map(|name| stress(&cluster, name, seconds)).collect();
    assert!(failures.is_empty(), "{} stressors failed:\n{}", failures.len(), failures.join("\n\n"));
    cluster.finish();
}

#[test]
fn stressors_of_files_find_no_failure() {
    let short = ["dentry", "fallocate", "getdent", "hdd", "link", "lockofd", "rename", "xattr"];
    stress_all(short, 1, Duration::from_secs(400));
}

#[test]
#[ignore = "takes some minutes: make test-posix"]
fn all_stressors_of_files_find_no_failure() {
    let seconds = crate::harness::number("CURVINE_STRESS_SECONDS", 5);
    stress_all(STRESSORS.into_iter().chain(MORE), seconds, Duration::from_secs(3600));
}
