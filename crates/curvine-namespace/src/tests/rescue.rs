//! The portable form brings back the same state, and of a damaged snapshot everything that its damage did not touch.

use curvine_proto::*;
use curvine_types::{ClusterId, ErrorKind};

use super::damage::full;
use super::driver::*;
use crate::{Namespace, snapshot_of_portable};

fn portable(d: &Driver) -> Vec<u8> {
    let mut out = Vec::new();
    d.ns.snapshot().write_portable(&[("index", 7.into())], &mut out).unwrap();
    out
}

#[test]
fn the_portable_form_brings_back_the_same_state() {
    let d = full();
    let text = portable(&d);
    assert!(std::str::from_utf8(&text).unwrap().lines().count() > 1000);
    let mut bytes = Vec::new();
    let head = snapshot_of_portable(&mut &text[..], &mut bytes).unwrap();
    assert_eq!(head.cluster, d.ns.cluster().unwrap());
    assert_eq!(head.fields["index"], 7);
    assert!(bytes == d.bytes(), "every byte of the state");
}

#[test]
fn names_that_are_no_text_survive_the_portable_form() {
    let mut d = Driver::new();
    for name in [&b"\xff\xfe"[..], b"\\backslash", b"\n", "日本".as_bytes()] {
        let create =
            Create { parent: ROOT, name: name.to_vec().into(), kind: FileKind::File as i32, ..Default::default() };
        d.ok(0, command::Body::Create(create));
    }
    let mut bytes = Vec::new();
    snapshot_of_portable(&mut &portable(&d)[..], &mut bytes).unwrap();
    assert!(bytes == d.bytes());
}

#[test]
fn a_portable_form_that_was_cut_or_changed_is_refused_by_line() {
    let text = String::from_utf8(portable(&full())).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let read = |lines: &[&str]| snapshot_of_portable(&mut lines.join("\n").as_bytes(), &mut Vec::new()).unwrap_err();
    assert_eq!(read(&lines[..lines.len() - 1]).kind(), ErrorKind::Corrupt, "it ends early");
    let without_one: Vec<&str> = lines[..5].iter().chain(&lines[6..]).copied().collect();
    assert_eq!(read(&without_one).kind(), ErrorKind::Corrupt, "a line is missing");
    let mut bad = lines.clone();
    bad[3] = "{\"section\":\"Nonsense\"}";
    assert_eq!(read(&bad).get("line"), Some("4"));
    bad[3] = "no json";
    assert_eq!(read(&bad).get("line"), Some("4"));
    assert_eq!(read(&["{}"]).kind(), ErrorKind::Foreign);
    assert_eq!(read(&[]).kind(), ErrorKind::Corrupt);
}

/// Whatever is damaged, what comes out is sound, and says so if anything is missing.
#[test]
fn a_damaged_snapshot_gives_a_sound_state_with_all_that_was_not_touched() {
    let d = full();
    let bytes = d.bytes();
    let whole = d.ns.counts();
    let cluster = ClusterId(*b"0123456789abcdef");
    let mut most = 0;
    for position in (0..bytes.len()).step_by(bytes.len() / 97) {
        let mut bad = bytes.clone();
        bad[position] ^= 0x40;
        let (mut rescued, lost) = Namespace::restore_remains(&mut &bad[..], cluster).unwrap();
        let repairs = rescued.repair(true);
        rescued.check().unwrap_or_else(|error| panic!("byte {position}: {error}\n{lost:?}\n{repairs:?}"));
        assert!(!lost.is_empty(), "byte {position} is damaged and nothing is said to be lost");
        assert_eq!(rescued.cluster(), Some(cluster));
        most = most.max(rescued.counts().files);
        // It works: new files get numbers that nothing had.
        let command = Command { body: Some(create(ROOT, "after the rescue", FileKind::File)), ..Default::default() };
        let outcome = rescued.apply(&CommandBatch { now: None, commands: vec![command] }).remove(0);
        assert_eq!(outcome.error, None);
        assert!(outcome.attr.unwrap().inode >= d.ns.state.meta.next_inode);
        rescued.check().unwrap();
    }
    assert!(most >= whole.files / 2, "{most} files of {} is the best that was rescued", whole.files);
}

#[test]
fn a_snapshot_that_was_cut_gives_what_is_before_the_cut() {
    let bytes = full().bytes();
    for length in (0..bytes.len()).step_by(bytes.len() / 41) {
        let (mut rescued, lost) =
            Namespace::restore_remains(&mut &bytes[..length], ClusterId(*b"0123456789abcdef")).unwrap();
        assert!(!lost.is_empty());
        rescued.repair(true);
        rescued.check().unwrap_or_else(|error| panic!("cut at {length}: {error}"));
    }
}

#[test]
fn a_file_that_lost_its_name_is_found_and_one_that_lost_its_bytes_is_named() {
    let mut d = Driver::new();
    let dir = d.mkdir(ROOT, "dir");
    let file = d.make(dir, "file");
    d.ok(0, write(file, 0, b"content"));
    let (table, cookie) = (dir, d.ns.readdir(dir, 0, 1).unwrap().0[0].cookie);
    crate::store::Store::remove_dentry(&mut d.ns.state.store, table, cookie);
    assert!(d.ns.check().is_err());
    let notes = d.ns.repair(true);
    d.ns.check().unwrap();
    assert_eq!(d.path(file), Some(format!("/lost+found/#{file}")));
    assert!(notes.iter().any(|note| note.contains("lost+found")), "{notes:?}");

    crate::store::Store::remove_inline(&mut d.ns.state.store, file);
    let notes = d.ns.repair(true);
    d.ns.check().unwrap();
    assert!(!d.exists(file), "it is not shown as empty");
    assert!(notes.iter().any(|note| note.contains(&format!("/lost+found/#{file}"))), "{notes:?}");
}

#[test]
fn a_sound_state_is_not_repaired() {
    let mut d = full();
    let before = d.bytes();
    assert!(d.ns.repair(false).is_empty());
    assert!(d.bytes() == before);
}
