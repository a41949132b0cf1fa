//! A snapshot is read back as it was, or refused.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind;

use super::driver::*;
use crate::Namespace;

/// A state with something in every section.
pub fn full() -> Driver {
    let mut d = Driver::new();
    let (session, worker) = (d.session("host:/mnt"), d.worker(1));
    let dir = d.mkdir(ROOT, "dir");
    for number in 0..200 {
        d.make(dir, &format!("a file with quite a long name {number}"));
    }
    let file = d.make(ROOT, "file");
    d.ok(session, link(file, dir, "hard"));
    d.ok(session, Body::GrantWrite(GrantWrite { inode: file }));
    d.ok(session, write(file, 0, b"content"));
    d.ok(0, create(ROOT, "symlink", FileKind::Symlink));
    let xattr =
        SetXattr { inode: file, name: "user.a".into(), value: vec![7; 3000].into(), flags: 0, kill_setgid: false };
    d.ok(session, Body::SetXattr(xattr));
    let blocks = d.make(ROOT, "blocks");
    for _ in 0..2 {
        let change = d.attr(blocks).change;
        d.ok(0, Body::PlaceBlocks(PlaceBlocks { inode: blocks, change, worker, block_size: 1 << 20 }));
        if d.ns.counts().garbage == 0 {
            d.ok(0, truncate(blocks, 0));
        }
    }
    let orphan = d.make(ROOT, "orphan");
    let remove = Unlink { parent: ROOT, name: "orphan".into(), holders: vec![session], ..Default::default() };
    d.ok(session, Body::Unlink(remove));
    let lock = SetLock { inode: orphan, kind: 1, r#type: 2, start: 3, end: 9, owner: 4, pid: 5 };
    d.ok(session, Body::SetLock(lock));
    for url in ["s3://kept", "s3://gone"] {
        let path = url.replace("s3:/", "");
        let mount = MountUfs {
            path: path.clone().into(),
            url: url.into(),
            options: (0..20).map(|number| (format!("o{number}"), "v".to_string())).collect(),
            secrets: (0..20).map(|number| (format!("s{number}"), "v".into())).collect(),
            ..Default::default()
        };
        let root = d.ok(0, Body::MountUfs(mount)).attr.unwrap();
        let mut change = root.change;
        for part in 0..5 {
            let names = (0..1000).map(|number| format!("{part}-{number}"));
            let entries = names.map(|name| UfsEntry { name: name.into(), etag: "e".into(), ..Default::default() });
            let entries = if path == "/gone" || part == 0 { entries.collect() } else { vec![] };
            let observed =
                UfsObserved { dir: root.inode, observed_change: change, entries, complete: true, ..Default::default() };
            change = d.ok(0, Body::UfsObserved(observed)).attr.unwrap().change;
        }
    }
    d.ok(0, Body::UmountUfs(UmountUfs { path: "/gone".into(), force: false }));
    let rename = Some(Rename { parent: 1, name: "from".into(), ..Rename::default() });
    let (from, to) = ("from/".into(), "to/".into());
    let moved = NoteTreeMove { mount: 1, from, to, lasts_ms: 5, rename, session: 1, sequence: 1, ..Default::default() };
    d.ok(0, Body::NoteTreeMove(moved));
    let counts = d.ns.counts();
    for (what, count) in [
        ("xattrs", counts.xattrs),
        ("sessions", counts.sessions),
        ("results", counts.results),
        ("locks", counts.locked_inodes),
        ("grants", counts.grants),
        ("live", counts.live),
        ("orphans", counts.orphan_holds),
        ("workers", counts.workers),
        ("mounts", counts.mounts),
        ("garbage", counts.garbage),
        ("doomed", counts.doomed),
    ] {
        assert!(count > 0, "no {what}");
    }
    d
}

#[test]
fn a_restored_state_is_the_same_and_goes_on_the_same() {
    let mut d = full();
    let bytes = d.bytes();
    let mut copy = d.copy();
    copy.ns.check().unwrap();
    assert_eq!(copy.bytes(), bytes);
    assert_eq!(copy.ns.counts(), d.ns.counts());
    assert_eq!(copy.ns.sessions(), d.ns.sessions());
    assert_eq!(copy.ns.mounts(), d.ns.mounts());
    let commands = |session| {
        [Body::ExpireSession(ExpireSession { session }), create(ROOT, "new", FileKind::File), unlink(ROOT, "blocks")]
            .map(|body| Command { body: Some(body), ..Default::default() })
            .to_vec()
    };
    let batch = CommandBatch { now: Some(Time::new(9999, 0)), commands: commands(1) };
    assert_eq!(d.ns.apply(&batch), copy.ns.apply(&batch));
    assert_eq!(d.bytes(), copy.bytes());
}

#[test]
fn an_empty_state_survives() {
    let mut bytes = Vec::new();
    Namespace::new().snapshot().write_to(&mut bytes).unwrap();
    let copy = Namespace::restore(&mut &bytes[..]).unwrap();
    assert_eq!((copy.cluster(), copy.now()), (None, Time::new(0, 0)));
}

#[test]
fn a_snapshot_does_not_see_later_changes() {
    let mut d = full();
    let (snapshot, bytes) = (d.ns.snapshot(), d.bytes());
    for number in 0..300 {
        d.make(ROOT, &format!("later {number}"));
    }
    let written = std::thread::spawn(move || {
        let mut written = Vec::new();
        snapshot.write_to(&mut written).map(|()| written)
    });
    assert_eq!(written.join().unwrap().unwrap(), bytes);
    assert_ne!(d.bytes(), bytes);
}

#[test]
fn every_damaged_byte_is_noticed() {
    let bytes = full().bytes();
    // All of the beginning and the end, and a sample of what is between.
    let positions = (0..300).chain((300..bytes.len()).step_by(61)).chain(bytes.len() - 200..bytes.len());
    for position in positions {
        for bit in [0, 5] {
            let mut bad = bytes.clone();
            bad[position] ^= 1 << bit;
            let error = Namespace::restore(&mut &bad[..]).err().unwrap_or_else(|| panic!("byte {position}"));
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Foreign), "{error:?}");
            assert!(error.get("offset").is_some() && error.get("section").is_some(), "{error:?}");
        }
    }
}

#[test]
fn a_snapshot_that_ends_early_is_refused() {
    let bytes = full().bytes();
    for length in (0..bytes.len()).step_by(997).chain(bytes.len() - 60..bytes.len()) {
        let error = Namespace::restore(&mut &bytes[..length]).err().unwrap_or_else(|| panic!("length {length}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_snapshot_of_a_newer_format_is_foreign() {
    let mut bytes = full().bytes();
    bytes[8] += 1;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..28]) as u32;
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    let error = Namespace::restore(&mut &bytes[..]).err().unwrap();
    assert_eq!((error.kind(), error.get("version")), (ErrorKind::Foreign, Some("2")));
}

#[test]
fn bytes_that_are_no_snapshot_are_foreign() {
    let error = Namespace::restore(&mut &[b'x'; 100][..]).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Foreign);
}

#[test]
fn a_snapshot_can_be_written_by_another_thread_and_a_namespace_shared_by_readers() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<crate::Snapshot>();
    is_shared::<Namespace>();
}
