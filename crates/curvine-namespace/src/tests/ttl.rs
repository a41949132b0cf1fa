//! Times to live: the nearest counts, they go with their inodes, and snapshots have them.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId, ROOT_INODE};

use super::driver::*;

fn set(inode: InodeId, ttl_ms: u64, action: TtlAction) -> Body {
    Body::SetTtl(SetTtl { inode, ttl_ms, action: action as i32, remove: false })
}

fn clear(inode: InodeId) -> Body {
    Body::SetTtl(SetTtl { inode, remove: true, ..Default::default() })
}

#[test]
fn the_nearest_time_to_live_counts_and_goes_with_its_inode() {
    let mut d = Driver::new();
    let top = d.mkdir(ROOT_INODE, "top");
    let sub = d.mkdir(top, "sub");
    let file = d.make(sub, "file");
    assert!(d.ok(0, set(top, 60_000, TtlAction::Delete)).created);
    assert!(d.ok(0, set(sub, 5_000, TtlAction::Free)).created);
    assert!(!d.ok(0, set(sub, 7_000, TtlAction::Delete)).created);
    let above: Vec<(Vec<u8>, u64, bool)> =
        d.ns.ttls_above(file).into_iter().map(|ttl| (ttl.path, ttl.millis, ttl.delete)).collect();
    assert_eq!(above, [(b"/top/sub".to_vec(), 7_000, true), (b"/top".to_vec(), 60_000, true)]);
    assert_eq!(d.ns.place_of(file), Some((sub, b"file".to_vec())));
    assert_eq!(d.copy().bytes(), d.bytes());
    assert_eq!(d.fails(0, set(top, 10, TtlAction::Free)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, set(top, 10_000, TtlAction::Unknown)), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, clear(file)), ErrorKind::NotFound);
    d.ok(0, clear(top));
    d.ok(0, Body::Unlink(Unlink { parent: sub, name: "file".into(), ..Default::default() }));
    d.ok(0, Body::Unlink(Unlink { parent: top, name: "sub".into(), directory: true, ..Default::default() }));
    assert!(d.ns.ttls().is_empty());
}
