//! Short histories of each object, good ones and bad ones.

use super::linear::{Model, Timed, Verdict, check};
use super::models::*;

/// Operations one after the other, each returned before the next is called.
fn in_turn<M: Model>(model: &M, ops: Vec<M::Op>) -> Verdict {
    let times = (0u64..).step_by(10);
    let history: Vec<_> = ops
        .into_iter()
        .zip(times)
        .map(|(op, at)| Timed { op, invoked: at, returned: Some(at + 5), optional: false, mount: 0, who: 0, call: "" })
        .collect();
    check(model, &history)
}

fn names() -> Names {
    Names { foundlings: Vec::new() }
}

fn create(name: usize, inode: u64) -> NameOp {
    NameOp::Create { name, inode: Some(inode), exclusive: true }
}

fn see(name: usize, sight: Sight) -> NameOp {
    NameOp::See { name, sight }
}

#[test]
fn a_renamed_file_is_under_its_new_name_and_only_there() {
    let moved = NameOp::Rename { from: 0, to: 1, replace: true };
    let good = vec![create(0, 7), moved.clone(), see(0, Sight::Absent), see(1, Sight::File(7))];
    assert_eq!(in_turn(&names(), good), Verdict::Explained);
    assert_eq!(in_turn(&names(), vec![create(0, 7), moved.clone(), see(0, Sight::File(7))]), Verdict::Unexplained(2));
    assert_eq!(in_turn(&names(), vec![create(0, 7), moved.clone(), see(1, Sight::Absent)]), Verdict::Unexplained(2));
}

#[test]
fn an_inode_is_made_once_and_a_name_taken_once() {
    let unlink = NameOp::Unlink { name: 0 };
    assert_eq!(in_turn(&names(), vec![create(0, 7), unlink.clone(), create(0, 7)]), Verdict::Unexplained(2));
    assert_eq!(in_turn(&names(), vec![create(0, 7), create(0, 8)]), Verdict::Unexplained(1));
    assert_eq!(in_turn(&names(), vec![create(0, 7), unlink, create(0, 8)]), Verdict::Explained);
}

#[test]
fn kinds_are_kept_apart() {
    assert_eq!(in_turn(&names(), vec![NameOp::Mkdir { name: 2 }, NameOp::Unlink { name: 2 }]), Verdict::Unexplained(1));
    let onto_directory =
        vec![create(0, 7), NameOp::Mkdir { name: 1 }, NameOp::Rename { from: 0, to: 1, replace: true }];
    assert_eq!(in_turn(&names(), onto_directory), Verdict::Unexplained(2));
    let exchange = vec![
        create(0, 7),
        NameOp::Mkdir { name: 1 },
        NameOp::Exchange { one: 0, other: 1 },
        see(0, Sight::Directory),
        see(1, Sight::File(7)),
    ];
    assert_eq!(in_turn(&names(), exchange), Verdict::Explained);
}

#[test]
fn a_file_of_an_unknown_create_may_turn_up_once() {
    let unknown = Timed {
        op: NameOp::Create { name: 0, inode: None, exclusive: true },
        invoked: 0,
        returned: None,
        optional: false,
        mount: 0,
        who: 0,
        call: "",
    };
    let seen = |at: u64, sight| Timed {
        op: see(0, sight),
        invoked: at,
        returned: Some(at + 1),
        optional: false,
        mount: 1,
        who: 1,
        call: "",
    };
    let model = Names { foundlings: vec![9] };
    let late = [unknown.clone(), seen(10, Sight::Absent), seen(20, Sight::File(9))];
    assert_eq!(check(&model, &late), Verdict::Explained);
    let vanished = [unknown, seen(10, Sight::File(9)), seen(20, Sight::Absent)];
    assert_eq!(check(&model, &vanished), Verdict::Unexplained(2));
}

#[test]
fn content_is_what_was_written_last_and_a_cut_leaves_zeroes_behind() {
    use CellOp::*;
    assert_eq!(in_turn(&Cell, vec![Write(5), See(Some(5)), Cut, See(None), Cover, See(Some(0))]), Verdict::Explained);
    assert_eq!(in_turn(&Cell, vec![Write(5), Cut, Cover, See(Some(5))]), Verdict::Unexplained(3));
    assert_eq!(in_turn(&Cell, vec![Write(5), Write(6), See(Some(5))]), Verdict::Unexplained(2));
    assert_eq!(in_turn(&Cell, vec![Write(5), Cover, See(Some(0))]), Verdict::Unexplained(2));
}

#[test]
fn sizes_and_modes_follow_their_changes() {
    use SizeOp::*;
    assert_eq!(
        in_turn(&Size, vec![Reach { from: 0, to: 10 }, Reach { from: 0, to: 5 }, See(10), Set(3), See(3)]),
        Verdict::Explained
    );
    assert_eq!(in_turn(&Size, vec![Reach { from: 0, to: 10 }, Set(3), See(10)]), Verdict::Unexplained(2));
    assert_eq!(
        in_turn(&Mode(0o644), vec![ModeOp::See(0o644), ModeOp::Set(0o600), ModeOp::See(0o600)]),
        Verdict::Explained
    );
    assert_eq!(in_turn(&Mode(0o644), vec![ModeOp::Set(0o600), ModeOp::See(0o644)]), Verdict::Unexplained(1));
}

#[test]
fn an_acknowledged_record_stays_and_keeps_its_place() {
    use LogOp::*;
    let log = |order: &[u64]| Log { order: order.to_vec() };
    assert_eq!(in_turn(&log(&[1, 2]), vec![Append(1), See(1), Append(2), See(2)]), Verdict::Explained);
    assert_eq!(in_turn(&log(&[2]), vec![Append(1), Append(2)]), Verdict::Unexplained(0));
    assert_eq!(in_turn(&log(&[2, 1]), vec![Append(1), Append(2)]), Verdict::Unexplained(0));
    assert_eq!(in_turn(&log(&[1, 2]), vec![Append(1), Append(2), See(1)]), Verdict::Unexplained(2));
}
