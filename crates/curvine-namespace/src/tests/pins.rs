//! Pins: whom they hold, and that whoever asks can see that they changed.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind::*;
use curvine_types::{InodeId, ROOT_INODE};

use super::driver::*;

fn pin(inode: InodeId, remove: bool) -> Body {
    Body::SetPin(SetPin { inode, remove })
}

#[test]
fn a_pin_holds_all_that_is_below_and_ends_with_its_directory() {
    let mut driver = Driver::new();
    let top = driver.mkdir(ROOT_INODE, "top");
    let sub = driver.mkdir(top, "sub");
    let (file, other) = (driver.make(sub, "file"), driver.make(ROOT_INODE, "other"));
    assert_eq!((driver.ns.pins_change(), driver.ns.is_pinned(file)), (0, false));
    driver.ok(0, pin(top, false));
    assert!(driver.ns.is_pinned(file) && driver.ns.is_pinned(top) && !driver.ns.is_pinned(other));
    let seen = driver.ns.pins_change();
    driver.ok(0, pin(top, false));
    assert_eq!(driver.ns.pins_change(), seen, "nothing changed");
    driver.ok(0, pin(other, false));
    assert_eq!(driver.ns.pins().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [top, other]);
    let copy = driver.copy();
    assert_eq!((copy.bytes(), copy.ns.pins_change()), (driver.bytes(), seen + 1));
    driver.ok(0, pin(top, true));
    assert!(!driver.ns.is_pinned(file) && driver.ns.pins_change() == seen + 2);
    assert_eq!(driver.fails(0, pin(top, true)), NotFound);
    driver.ok(0, Body::Unlink(Unlink { parent: ROOT_INODE, name: "other".into(), ..Default::default() }));
    assert!(driver.ns.pins().is_empty());
    assert_eq!(driver.fails(0, pin(other, false)), Stale);
}
