//! What is done below a directory of a bucket while it is renamed, which the store does key by key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::wait::try_until;
use crate::harness::{self, Cluster, Plan, Role, Sh, until};
use crate::store::Store;
use crate::{mount_bucket_with, text};

/// How long what happens in the background may take.
const SOON: Duration = Duration::from_secs(60);
/// How long what would not wait for the rename may take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The files of the bucket and what they hold, sorted.
fn objects(bucket: &Path) -> Vec<(String, String)> {
    let found = Sh::run(r#"cd "$1" && find . -type f -not -path '*/.*' -printf '%P\n' | sort"#, &[&text(bucket)]).ok();
    let content = |name: &str| fs::read_to_string(bucket.join(name)).expect("read an object");
    found.lines().map(|name| (name.to_string(), content(name))).collect()
}

/// A call on a thread of its own.
fn begin(call: impl FnOnce() -> io::Result<()> + Send + 'static) -> std::thread::JoinHandle<io::Result<()>> {
    std::thread::spawn(call)
}

/// Renames `dir` of the bucket while others change what is below it; `trash` is said of the mount.
fn change_what_is_being_renamed(trash: &str) {
    let store = Store::start(&["data"]);
    for number in 0..8 {
        store.put("data", &format!("dir/deep/er/{number}"), number.to_string().as_bytes());
    }
    let cluster = Cluster::start(Plan::default());
    mount_bucket_with(&cluster, &store, "data", "/b", &["--ttl", "30m", "--trash", trash]).ok();
    let views = [cluster.mount(0).join("b"), cluster.mount(1).join("b")];
    for view in &views {
        assert_eq!(fs::read_dir(view.join("dir/deep/er")).expect("list").count(), 8);
    }
    store.hold_object("/data/moved/deep/er/7");
    let renaming = begin({
        let view = views[0].clone();
        move || fs::rename(view.join("dir"), view.join("moved"))
    });
    until("the others are copied", SOON, || {
        (0..7).all(|number| store.path("data", &format!("moved/deep/er/{number}")).exists()).then_some(())
    });
    let below = |name: &str| -> PathBuf { views[1].join("dir/deep/er").join(name) };
    let (unlinked, rewritten, made) = (below("0"), below("2"), below("new"));
    let (from, to) = (below("1"), views[1].join("out"));
    let (dir, gone) = (below("subdir"), below("3"));
    let others = [
        begin(move || fs::remove_file(unlinked)),
        begin(move || fs::rename(from, to)),
        begin(move || fs::write(rewritten, b"rewritten")),
        begin(move || fs::write(made, b"new")),
        begin(move || fs::create_dir(dir)),
        begin(move || fs::rename(&gone, gone.with_file_name("3a"))),
    ];
    let _ = try_until(AT_ONCE, || others.iter().all(|other| other.is_finished()).then_some(()));
    store.hold(false);
    let [unlinked, moved_out, rewritten, made, dir, renamed] =
        others.map(|other| other.join().expect("no panic").is_ok());
    renaming.join().expect("no panic").expect("rename");

    // Whatever came first: each of them was done in one place or in none.
    let mut expected: Vec<(String, String)> = (4..8).map(|n| (format!("moved/deep/er/{n}"), n.to_string())).collect();
    let mut and = |name: &str, content: &str| expected.push((name.to_string(), content.to_string()));
    if !unlinked {
        and("moved/deep/er/0", "0");
    }
    and(if moved_out { "out" } else { "moved/deep/er/1" }, "1");
    and("moved/deep/er/2", if rewritten { "rewritten" } else { "2" });
    and(if renamed { "moved/deep/er/3a" } else { "moved/deep/er/3" }, "3");
    if made {
        and("moved/deep/er/new", "new");
    }
    expected.sort();
    until("the store has each file once", SOON, || (objects(&store.path("data", "")) == expected).then_some(()));
    assert_eq!(objects(&views[0]), expected);
    assert_eq!(objects(&views[1]), expected);
    assert!(!views[1].join("dir").exists());
    assert_eq!(views[0].join("moved/deep/er/subdir").is_dir(), dir);
    // Nothing of it comes back later, nor stays waiting.
    fs::write(views[1].join("moved/deep/er/0"), b"anew").expect("write");
    assert_eq!(fs::read(store.path("data", "moved/deep/er/0")).expect("read"), b"anew");
    cluster.cv(&["mount", "resync", "/b"]).ok();
    assert!(!views[0].join("dir").exists());
    fs::rename(views[1].join("moved"), views[1].join("dir")).expect("rename");
    assert_eq!(fs::read(views[0].join("dir/deep/er/0")).expect("read"), b"anew");
    cluster.finish();
}

#[test]
fn what_is_done_below_a_directory_while_it_is_renamed_is_done_before_or_after() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    change_what_is_being_renamed("off");
}

#[test]
fn what_is_removed_into_the_trash_while_a_directory_above_is_renamed_does_not_come_back() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    change_what_is_being_renamed("all");
}

/// Renames `dir` of a bucket to `moved`, and kills these processes when half of it is copied; they are started again.
fn rename_of_a_directory_is_brought_to_its_end(killed: &[Role]) {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["data"]);
    for number in 0..4 {
        store.put("data", &format!("dir/deep/{number}"), number.to_string().as_bytes());
    }
    let cluster = Cluster::start(Plan { workers: 1, ..Plan::default() });
    mount_bucket_with(&cluster, &store, "data", "/b", &["--ttl", "30m", "--trash", "off"]).ok();
    let views = [cluster.mount(0).join("b"), cluster.mount(1).join("b")];
    for view in &views {
        assert_eq!(fs::read_dir(view.join("dir/deep")).expect("list").count(), 4);
    }
    store.hold_object("/data/moved/deep/3");
    let renaming = begin({
        let view = views[0].clone();
        move || fs::rename(view.join("dir"), view.join("moved"))
    });
    until("the others are copied", SOON, || {
        (0..3).all(|number| store.path("data", &format!("moved/deep/{number}")).exists()).then_some(())
    });
    killed.iter().for_each(|role| cluster.kill(*role));
    killed.iter().for_each(|role| cluster.begin(*role));
    // Nobody else comes in between: what they ask for waits, and then nothing has that name.
    let others = ["dir/deep/0", "dir/deep/new"].map(|name| {
        let path = views[1].join(name);
        begin(move || fs::write(path, b"by another"))
    });
    let _ = try_until(AT_ONCE, || others.iter().all(|other| other.is_finished()).then_some(()));
    store.hold(false);
    renaming.join().expect("no panic").expect("the rename is done");
    for other in others {
        // With any errno: where directories were, this store answers with 500 and not with 404.
        other.join().expect("no panic").expect_err("it is somewhere else by now");
    }
    let expected: Vec<_> = (0..4).map(|number| (format!("moved/deep/{number}"), number.to_string())).collect();
    // Nor does anything of the old place come back.
    for _ in 0..2 {
        for place in views.iter().chain([&store.path("data", "")]) {
            assert_eq!(objects(place), expected);
        }
        assert!(views.iter().all(|view| !view.join("dir").exists()));
        cluster.cv(&["mount", "resync", "/b"]).ok();
    }
    fs::rename(views[1].join("moved"), views[1].join("dir")).expect("nothing is left in the way");
    assert_eq!(fs::read(views[0].join("dir/deep/3")).expect("read"), b"3");
    cluster.finish();
}

#[test]
fn a_new_leader_brings_the_rename_of_a_directory_to_its_end() {
    rename_of_a_directory_is_brought_to_its_end(&[Role::Master]);
}

#[test]
fn the_rename_of_a_directory_is_brought_to_its_end_though_its_leader_and_its_worker_are_killed() {
    rename_of_a_directory_is_brought_to_its_end(&[Role::Master, Role::Worker(0)]);
}
