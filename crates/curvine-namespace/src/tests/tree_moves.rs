//! Trees that are moved in their stores: noted until that is over, bounded, gone with their mount, and snapshots have them.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;

/// A namespace with mounts on `/m` and `/n`, and the root of the first.
fn mounted() -> (Driver, InodeId) {
    let mut d = Driver::new();
    let roots = ["m", "n"].map(|name| {
        let mount = MountUfs { path: format!("/{name}").into(), url: format!("s3://{name}"), ..Default::default() };
        d.ok(0, Body::MountUfs(mount)).attr.unwrap().inode
    });
    (d, roots[0])
}

fn moved(mount: u32, from: &str, to: &str, lasts_ms: u64) -> NoteTreeMove {
    let (from, to) = (from.to_string(), to.to_string());
    let (name, new_name) = (from.clone().into(), to.clone().into());
    let rename = Rename { parent: 1, name, new_parent: 1, new_name, ..Rename::default() };
    NoteTreeMove { mount, from, to, lasts_ms, over: false, worker: 3, rename: Some(rename), session: 7, sequence: 9 }
}

fn over(mount: u32, from: &str) -> Body {
    Body::NoteTreeMove(NoteTreeMove { mount, from: from.into(), over: true, ..Default::default() })
}

#[test]
fn a_move_of_a_tree_is_known_until_it_is_over_or_its_mount_is_gone() {
    let (mut d, _) = mounted();
    let (first, second) = (moved(1, "a/", "b/", 5_000), moved(2, "a/", "x/y/", 7_000));
    for noted in [moved(1, "a/", "c/", 1), first.clone(), second.clone(), moved(2, "z/", "zz/", 1)] {
        d.ok(0, Body::NoteTreeMove(noted));
    }
    d.ok(0, over(2, "z/"));
    d.ok(0, over(2, "never/noted/"));
    assert_eq!(d.ns.tree_moves(), [first, second.clone()]);
    assert!(d.ns.is_tree_moved(1, "a/") && !d.ns.is_tree_moved(1, "b/"));
    let copy = d.copy();
    assert_eq!((copy.bytes(), copy.ns.tree_moves()), (d.bytes(), d.ns.tree_moves()));
    d.ok(0, Body::UmountUfs(UmountUfs { path: "/m".into(), force: false }));
    assert_eq!(d.ns.tree_moves(), [second]);
    assert_eq!(d.fails(0, Body::NoteTreeMove(moved(1, "a/", "b/", 1))), ErrorKind::Stale);
    assert_eq!(d.fails(0, Body::NoteTreeMove(moved(2, "a", "b/", 1))), ErrorKind::InvalidArgument);
}

#[test]
fn the_rename_of_a_directory_ends_the_move_of_its_tree() {
    let (mut d, root) = mounted();
    let made = create(root, "a", FileKind::Directory);
    d.ok(0, made);
    d.ok(0, Body::NoteTreeMove(moved(1, "a/", "b/", 5_000)));
    let stored = Some(UfsEntry { key: "b/".into(), directory: true, ..Default::default() });
    let rename =
        Rename { parent: root, name: "a".into(), new_parent: root, new_name: "b".into(), stored, ..Default::default() };
    d.ok(0, Body::Rename(rename));
    assert_eq!((d.lookup(root, "b").is_some(), d.ns.tree_moves()), (true, Vec::new()));
}

#[test]
fn no_more_trees_are_moved_at_once_than_a_new_leader_can_wait_for() {
    let (mut d, _) = mounted();
    for number in 0..1024 {
        d.ok(0, Body::NoteTreeMove(moved(1, &format!("{number}/"), "to/", 1)));
    }
    assert_eq!(d.fails(0, Body::NoteTreeMove(moved(1, "more/", "to/", 1))), ErrorKind::Overloaded);
    d.ok(0, Body::NoteTreeMove(moved(1, "7/", "elsewhere/", 1)));
    d.ok(0, over(1, "8/"));
    d.ok(0, Body::NoteTreeMove(moved(1, "more/", "to/", 1)));
}
