//! What is removed through a mount is noted, is not seen again, and makes way for what is new.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId};

use super::driver::*;

fn mounted(mode: TrashMode) -> (Driver, InodeId) {
    let mut d = Driver::new();
    let settings = UfsMountSettings { trash: mode as i32, ..Default::default() };
    let mount = MountUfs { path: "/m".into(), url: "s3://b".into(), settings: Some(settings), ..Default::default() };
    let root = d.ok(0, Body::MountUfs(mount)).attr.unwrap().inode;
    (d, root)
}

fn seen(name: &str, etag: &str, directory: bool) -> UfsEntry {
    UfsEntry { name: name.to_string().into(), size: 3, etag: etag.into(), directory, ..Default::default() }
}

fn observe(d: &mut Driver, dir: InodeId, entries: Vec<UfsEntry>) {
    let (observed_change, began) = (d.attr(dir).change, d.ns.stores());
    d.ok(0, Body::UfsObserved(UfsObserved { dir, observed_change, entries, began, ..Default::default() }));
}

fn remove(d: &mut Driver, parent: InodeId, name: &str, directory: bool) {
    let name = name.to_string().into();
    d.ok(0, Body::Unlink(Unlink { parent, name, directory, trash: true, ..Default::default() }));
}

fn edit(d: &mut Driver, edit: EditTrash) {
    d.ok(0, Body::EditTrash(edit));
}

#[test]
fn what_was_removed_is_not_seen_again_until_it_is_forgotten() {
    let (mut d, root) = mounted(TrashMode::All);
    observe(&mut d, root, vec![seen("a", "1", false), seen("dir", "", true)]);
    let dir = d.lookup(root, "dir").unwrap();
    observe(&mut d, dir, vec![seen("x", "2", false)]);
    remove(&mut d, dir, "x", false);
    remove(&mut d, root, "dir", true);
    remove(&mut d, root, "a", false);
    let (entries, end) = d.ns.trash(0, 9);
    let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((keys, end), (vec!["dir/x", "dir/", "a"], true));
    assert!(entries.iter().all(|entry| !entry.held));
    assert_eq!(d.ns.trash_below(1, "dir/", 9).len(), 2);

    observe(&mut d, root, vec![seen("a", "1", false), seen("dir", "", true)]);
    assert!(d.names(root).is_empty());
    let mut copy = d.copy();
    assert_eq!(copy.bytes(), d.bytes());
    for d in [&mut d, &mut copy] {
        // Made anew, it hides only what was removed from it.
        let dir = d.mkdir(root, "dir");
        observe(d, dir, vec![seen("x", "2", false), seen("y", "3", false)]);
        assert_eq!(d.names(dir), ["y"]);
        assert_eq!(d.ns.counts().trash, 2);
        // Another version is somebody else's.
        observe(d, root, vec![seen("a", "other", false), seen("dir", "", true)]);
        assert!(d.lookup(root, "a").is_some());
        edit(d, EditTrash { forget: vec![entries[0].id, entries[2].id, 99], ..Default::default() });
        observe(d, dir, vec![seen("x", "2", false)]);
        assert_eq!((d.lookup(dir, "x").is_some(), d.ns.counts().trash), (true, 0));
    }
    assert_eq!(copy.bytes(), d.bytes());
}

#[test]
fn what_is_held_is_kept_when_it_was_one_of_many_and_what_moves_leaves_its_key() {
    let (mut d, root) = mounted(TrashMode::Many);
    observe(&mut d, root, vec![seen("a", "1", false), seen("b", "2", false)]);
    remove(&mut d, root, "a", false);
    remove(&mut d, root, "b", false);
    assert_eq!((d.ns.held_trash(1, 9), d.ns.mounts_with_trash()), (2, vec![1]));
    let held = d.ns.oldest_trash(1, true, 9);
    edit(&mut d, EditTrash { keep: held.iter().map(|entry| entry.id).collect(), ..Default::default() });
    assert_eq!((d.ns.held_trash(1, 9), d.ns.oldest_trash(1, false, 1)[0].key.as_str()), (0, "a"));
    assert_eq!(d.ns.many_removed(1), held[1].removed);

    let to = format!(".trash/{}", crate::moved_name("some/where/a"));
    assert_eq!(to, ".trash/a");
    edit(&mut d, EditTrash { moving: held[0].id, moved_to: to.clone(), ..Default::default() });
    assert_eq!(d.ns.trash_at(1, "a").unwrap().moved_to, to);
    edit(&mut d, EditTrash { moved: held[0].id, ..Default::default() });
    assert_eq!(d.ns.trash_at(1, "a"), None);
    assert_eq!(d.copy().bytes(), d.bytes());
    let umount = |force| Body::UmountUfs(UmountUfs { path: "/m".into(), force });
    assert_eq!(d.fails(0, umount(false)), ErrorKind::Busy);
    d.ok(0, umount(true));
    assert_eq!(d.ns.mounts_with_trash(), [1]);
    edit(&mut d, EditTrash { forget: held.iter().map(|entry| entry.id).collect(), ..Default::default() });
    assert_eq!(d.ns.counts().trash, 0);
}

#[test]
fn after_a_loss_nothing_is_deleted_on_the_word_of_the_trash() {
    let (mut d, root) = mounted(TrashMode::All);
    observe(&mut d, root, vec![seen("a", "1", false)]);
    remove(&mut d, root, "a", false);
    assert_eq!((d.ns.repair(false).len(), d.ns.counts().trash), (0, 1));
    let notes = d.ns.repair(true);
    assert!(notes.iter().any(|note| note.contains("1 removed objects")), "{notes:?}");
    d.ns.check().unwrap();
    observe(&mut d, root, vec![seen("a", "1", false)]);
    assert!(d.lookup(root, "a").is_some());
}
