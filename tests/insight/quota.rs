//! Quotas as an application on a mount of the directory meets them.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use crate::harness::{self, Cluster, Plan, Rng, Role, until};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

fn quota(cluster: &Cluster) -> Value {
    let text = cluster.cv(&["quota", "get", "/team", "--json"]).ok();
    serde_json::from_str::<Value>(&text).expect("JSON")["quotas"][0].clone()
}

#[track_caller]
fn exceeded<T>(outcome: std::io::Result<T>) {
    let errno = outcome.err().and_then(|error| Errno::from_io_error(&error));
    assert_eq!(errno, Some(Errno::DQUOT));
}

#[test]
fn a_directory_with_a_quota_takes_so_much_and_df_of_its_mount_says_so() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let plan = Plan { workers: 1, mounts: 1, ..Plan::default() };
    let cluster = Cluster::prepare(plan.set("fuse", "fs_path", "\"/team\""));
    cluster.begin(Role::Master);
    cluster.begin(Role::Worker(0));
    cluster.cv(&["fs", "mkdir", "-p", "/team/before"]).ok();
    cluster.cv(&["quota", "set", "/team", "--bytes", "8MB", "--files", "5"]).ok();
    cluster.begin(Role::Mount(0));
    let mount = cluster.mount(0);
    until("what was there is counted", LIMIT, || (quota(&cluster)["counting"] == false).then_some(()));
    assert_eq!(quota(&cluster)["used_files"], 1);
    until("df shows the quota", LIMIT, || {
        let room = rustix::fs::statvfs(&mount).expect("statvfs");
        (room.f_blocks * room.f_frsize == 8 * MIB).then_some(())
    });

    // Names, of any kind, at any depth.
    std::fs::create_dir(mount.join("before/dir")).expect("mkdir");
    std::fs::write(mount.join("before/dir/small"), Rng::new(1).bytes(9000)).expect("write");
    std::os::unix::fs::symlink("x", mount.join("link")).expect("symlink");
    let mut large = File::create(mount.join("large")).expect("the fifth name");
    exceeded(File::create(mount.join("sixth")));
    exceeded(std::fs::create_dir(mount.join("before/sixth")));
    assert_eq!(quota(&cluster)["used_files"], 5);

    // Bytes: who is at it goes on, and is counted while he does; nobody begins anew.
    large.write_all(&Rng::new(2).bytes(9 << 20)).expect("write");
    until("what grows is counted while it is open", LIMIT, || {
        (quota(&cluster)["used_bytes"].as_u64() > Some(9 * MIB)).then_some(())
    });
    drop(large);
    exceeded(std::fs::write(mount.join("before/dir/small"), Rng::new(3).bytes(100_000)));
    exceeded(
        File::options().append(true).open(mount.join("before/dir/small")).and_then(|mut file| file.write_all(b"x")),
    );
    assert!(cluster.cv(&["quota", "list"]).ok().contains("used up"));

    // It is in the log, and what goes makes room.
    cluster.kill(Role::Master);
    cluster.begin(Role::Master);
    // The small one was emptied before its writer was refused.
    assert!(quota(&cluster)["used_bytes"].as_u64() >= Some(9 * MIB));
    std::fs::remove_file(mount.join("large")).expect("unlink");
    std::fs::write(mount.join("before/dir/small"), Rng::new(3).bytes(100_000)).expect("there is room again");
    cluster.cv(&["quota", "unset", "/team"]).ok();
    std::fs::write(mount.join("as"), b"many").expect("write");
    std::fs::write(mount.join("as one"), b"likes").expect("write");
    cluster.cv(&["quota", "set", "/team"]).fails();
    cluster.finish();
}
