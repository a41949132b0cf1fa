//! Whole histories: what is wrong is found, and said.

use super::history::{History, LogCall, STAMP, Span};
use super::models::{ModeOp, NameOp, Sight};
use super::verdict::judge;

fn at(invoked: u64, returned: u64) -> Span {
    Span { invoked, returned: Some(returned), mount: 0, who: 0, call: "" }
}

#[test]
fn a_sound_history_has_no_violation() {
    let mut history = History::default();
    history.name(at(0, 5), NameOp::Create { name: 0, inode: Some(3), exclusive: true });
    history.write(at(10, 15), 3, 4096, 16_384, STAMP | 1);
    let mut content = vec![0; 4096];
    content.extend((STAMP | 1).to_le_bytes().repeat(1536));
    history.read(at(20, 25), 3, 0, 65_536, &content);
    history.saw_size(at(20, 25), 3, 16_384);
    history.mode(at(20, 25), 3, ModeOp::See(0o644));
    history.name(at(30, 35), NameOp::See { name: 0, sight: Sight::File(3) });
    let findings = judge(history);
    assert!(findings.violations.is_empty(), "{findings:?}");
    assert!(findings.objects > 8 && findings.undecided == 0, "{findings:?}");
}

#[test]
fn a_stale_read_is_told_with_what_contradicts_it() {
    let mut history = History::default();
    history.write(at(0, 5), 3, 0, 8, STAMP | 1);
    history.write(at(10, 15), 3, 0, 8, STAMP | 2);
    history.read(at(20, 25), 3, 0, 8, &(STAMP | 1).to_le_bytes());
    let findings = judge(history);
    assert_eq!(findings.violations.len(), 1, "{findings:?}");
    let text = &findings.violations[0];
    assert!(text.starts_with("the content of inode 3 at 0: nothing explains See"), "{text}");
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn a_short_file_and_a_stale_size_are_violations() {
    let mut history = History::default();
    history.write(at(0, 5), 3, 0, 4096, STAMP | 1);
    history.read(at(10, 15), 3, 0, 4096, &[]);
    history.saw_size(at(10, 15), 3, 0);
    assert_eq!(judge(history).violations.len(), 4, "three samples and the size");
}

#[test]
fn zeroes_are_seen_in_the_place_of_what_is_being_cut_but_not_after_it_was() {
    let seen = |invoked, returned| {
        let mut history = History::default();
        history.write(at(0, 5), 3, 0, 16_384, STAMP | 1);
        history.truncate(at(10, 30), 3, 8);
        let bytes: Vec<u8> = (STAMP | 1).to_le_bytes().into_iter().chain([0; 4088]).collect();
        history.read(at(invoked, returned), 3, 0, 4096, &bytes);
        judge(history).violations
    };
    assert_eq!(seen(15, 20), [""; 0]);
    assert_eq!(seen(29, 40), [""; 0]);
    assert_eq!(seen(35, 40).len(), 2, "both samples are beyond the end by then");
}

fn through(mount: usize, who: usize, invoked: u64, returned: u64) -> Span {
    Span { invoked, returned: Some(returned), mount, who, call: "" }
}

#[test]
fn a_write_may_be_seen_before_a_cut_and_after_it_while_both_go_on() {
    let ends = |last_read: u64| {
        let mut history = History::default();
        history.write(through(0, 0, 10, 50), 3, 0, 8, STAMP | 1);
        history.read(through(0, 2, 15, 20), 3, 0, 8, &(STAMP | 1).to_le_bytes());
        history.truncate(through(1, 1, 12, 40), 3, 0);
        history.read(through(1, 1, 42, 45), 3, 0, 8, &[]);
        history.read(through(1, 1, last_read, last_read + 5), 3, 0, 8, &(STAMP | 1).to_le_bytes());
        history.read(through(1, 1, 70, 75), 3, 0, 8, &(STAMP | 1).to_le_bytes());
        judge(history).violations.len()
    };
    assert_eq!(ends(60), 0);
    let mut undone = History::default();
    undone.write(through(0, 0, 10, 50), 3, 0, 8, STAMP | 1);
    undone.truncate(through(1, 1, 12, 40), 3, 0);
    undone.read(through(1, 1, 60, 65), 3, 0, 8, &(STAMP | 1).to_le_bytes());
    undone.read(through(1, 1, 70, 75), 3, 0, 8, &[]);
    assert_eq!(judge(undone).violations.len(), 1, "nothing is undone after the calls");
}

#[test]
fn a_read_may_be_late_only_while_the_file_is_opened_or_changed() {
    let violations = |invoked, returned| {
        let mut history = History::default();
        history.write(through(1, 1, 0, 5), 3, 0, 65_536, STAMP | 1);
        history.write(through(0, 0, 20, 30), 3, 0, 8, STAMP | 2);
        history.read(through(0, 2, invoked, returned), 3, 4096, 65_536, &[]);
        judge(history).violations.len()
    };
    assert_eq!(violations(25, 40), 0);
    assert_eq!(violations(35, 40), 4);
}

#[test]
fn a_mount_may_learn_of_its_own_change_later_than_others_but_not_after_the_call() {
    let violations = |mount, invoked, returned| {
        let mut history = History::default();
        history.name(through(0, 0, 0, 5), NameOp::Create { name: 0, inode: Some(3), exclusive: true });
        history.name(through(0, 0, 10, 40), NameOp::Unlink { name: 0 });
        history.name(through(1, 1, 20, 25), NameOp::See { name: 0, sight: Sight::Absent });
        history.name(through(mount, 2, invoked, returned), NameOp::See { name: 0, sight: Sight::File(3) });
        judge(history).violations.len()
    };
    assert_eq!(violations(0, 30, 35), 0);
    assert_eq!(violations(0, 45, 50), 1);
    assert_eq!(violations(2, 30, 35), 1, "another mount has nothing to wait for");
}

#[test]
fn a_rename_may_do_nothing_only_while_others_move_the_file() {
    let both = |second: Span| {
        let mut history = History::default();
        let rename = || NameOp::Rename { from: 0, to: 1, replace: true };
        history.name(through(0, 0, 0, 5), NameOp::Create { name: 0, inode: Some(3), exclusive: true });
        history.name(through(0, 0, 10, 20), rename());
        history.name(second, rename());
        judge(history).violations.len()
    };
    assert_eq!(both(through(1, 1, 15, 30)), 0);
    assert_eq!(both(through(1, 1, 25, 30)), 1);
}

#[test]
fn bytes_that_nobody_wrote_are_a_violation() {
    let mut history = History::default();
    history.read(at(0, 5), 3, 24, 40, &[1; 16]);
    assert_eq!(judge(history).violations.len(), 1);
}

#[test]
fn logs_that_lose_repeat_or_swap_records_are_violations() {
    let log = |calls: &[LogCall]| {
        let mut history = History::default();
        for (call, turn) in calls.iter().zip((0..).step_by(10)) {
            history.log(at(turn, turn + 5), 0, call.clone());
        }
        judge(history).violations.len()
    };
    use LogCall::*;
    assert_eq!(log(&[Append(1), Append(2), Read(vec![1, 2]), Count(2)]), 0);
    assert_eq!(log(&[Append(1), Append(2), Read(vec![2])]), 1);
    assert_eq!(log(&[Append(1), Append(2), Read(vec![2, 1])]), 1);
    assert_eq!(log(&[Append(1), Read(vec![1, 1])]), 1);
    assert_eq!(log(&[Append(1), Append(2), Read(vec![1, 2]), Read(vec![1])]), 1);
    assert_eq!(log(&[Append(1), Count(0)]), 1);
}
