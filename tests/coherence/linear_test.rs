//! The search against histories whose answer is known, and against a search that tries every order.

use super::linear::{Model, Timed, Verdict, check};
use crate::harness::Rng;

struct Register;

#[derive(Clone, Debug)]
enum Op {
    Write(u8),
    Read(u8),
}

impl Model for Register {
    type State = u8;
    type Op = Op;

    fn initial(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, op: &Op, next: &mut Vec<u8>) {
        match op {
            Op::Write(value) => next.push(*value),
            Op::Read(value) if value == state => next.push(*state),
            Op::Read(_) => {}
        }
    }

    fn observes(&self, op: &Op) -> bool {
        matches!(op, Op::Read(_))
    }
}

fn op(op: Op, invoked: u64, returned: impl Into<Option<u64>>) -> Timed<Op> {
    Timed { op, invoked, returned: returned.into(), optional: false, mount: 0, who: 0, call: "" }
}

#[test]
fn a_read_after_the_write_returned_must_see_it() {
    let stale = [op(Op::Write(1), 0, 10), op(Op::Read(0), 20, 30)];
    assert_eq!(check(&Register, &stale), Verdict::Unexplained(1));
    let fresh = [op(Op::Write(1), 0, 10), op(Op::Read(1), 20, 30)];
    assert_eq!(check(&Register, &fresh), Verdict::Explained);
}

#[test]
fn a_read_during_the_write_may_see_either() {
    for value in [0, 1] {
        assert_eq!(check(&Register, &[op(Op::Write(1), 0, 30), op(Op::Read(value), 10, 20)]), Verdict::Explained);
    }
    assert_eq!(check(&Register, &[op(Op::Write(1), 0, 30), op(Op::Read(2), 10, 20)]), Verdict::Unexplained(1));
}

#[test]
fn two_reads_cannot_see_a_write_and_then_not() {
    let history = [op(Op::Write(1), 0, 100), op(Op::Read(1), 10, 20), op(Op::Read(0), 30, 40)];
    assert_eq!(check(&Register, &history), Verdict::Unexplained(2));
}

#[test]
fn a_write_of_unknown_outcome_may_be_seen_late_or_never_but_not_undone() {
    let lost = op(Op::Write(1), 0, None);
    assert_eq!(check(&Register, &[lost.clone(), op(Op::Read(0), 50, 60)]), Verdict::Explained);
    assert_eq!(check(&Register, &[lost.clone(), op(Op::Read(0), 50, 60), op(Op::Read(1), 70, 80)]), Verdict::Explained);
    let undone = [lost, op(Op::Read(1), 50, 60), op(Op::Read(0), 70, 80)];
    assert_eq!(check(&Register, &undone), Verdict::Unexplained(2));
}

#[test]
fn an_optional_step_is_seen_during_its_time_or_not_at_all() {
    let step = Timed { optional: true, ..op(Op::Write(1), 10, 50) };
    for value in [0, 1] {
        assert_eq!(check(&Register, &[step.clone(), op(Op::Read(value), 20, 30)]), Verdict::Explained);
        assert_eq!(check(&Register, &[step.clone(), op(Op::Read(value), 60, 70)]), Verdict::Explained);
    }
    let late = [step.clone(), op(Op::Read(0), 60, 70), op(Op::Read(1), 80, 90)];
    assert_eq!(check(&Register, &late), Verdict::Unexplained(2));
    let early = [step, op(Op::Read(1), 0, 5)];
    assert_eq!(check(&Register, &early), Verdict::Unexplained(1));
}

#[test]
fn an_operation_is_not_seen_before_it_was_called() {
    let history = [op(Op::Read(1), 0, 10), op(Op::Write(1), 20, 30)];
    assert_eq!(check(&Register, &history), Verdict::Unexplained(0));
}

/// Tries every order.
fn exhaustive(history: &[Timed<Op>], state: u8, placed: u32) -> bool {
    let waiting = |index: usize| placed & (1 << index) == 0;
    let bound = |index: &usize| !history[*index].optional;
    if (0..history.len()).all(|index| !waiting(index) || history[index].returned.is_none() || history[index].optional) {
        return true;
    }
    let first_return = (0..history.len())
        .filter(|index| waiting(*index))
        .filter(bound)
        .filter_map(|index| history[index].returned)
        .min()
        .unwrap_or(u64::MAX);
    (0..history.len()).any(|index| {
        if !waiting(index) || history[index].invoked > first_return {
            return false;
        }
        let mut next = Vec::new();
        Register.step(&state, &history[index].op, &mut next);
        // An optional step that ended before this one began can have no place any more.
        let over = |other: &usize| {
            history[*other].optional
                && history[*other].returned.is_some_and(|returned| returned < history[index].invoked)
        };
        let dropped = (0..history.len()).filter(over).fold(0, |dropped, other| dropped | 1 << other);
        next.into_iter().any(|state| exhaustive(history, state, placed | dropped | 1 << index))
    })
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut rng = Rng::new(7);
    let mut answers = [0, 0];
    for _ in 0..20_000 {
        let history: Vec<_> = (0..2 + rng.below(6))
            .map(|_| {
                let value = rng.below(3) as u8;
                let kind = if rng.chance(50) { Op::Write(value) } else { Op::Read(value) };
                let invoked = rng.below(20);
                let unknown = rng.chance(10) && matches!(kind, Op::Write(_));
                let returned = (!unknown).then(|| invoked + rng.below(10));
                let optional = rng.chance(20) && matches!(kind, Op::Write(_)) && !unknown;
                Timed { optional, ..op(kind, invoked, returned) }
            })
            .collect();
        let explained = exhaustive(&history, 0, 0);
        answers[usize::from(explained)] += 1;
        assert_eq!(check(&Register, &history) == Verdict::Explained, explained, "{history:?}");
    }
    assert!(answers.iter().all(|count| *count > 1000), "the histories are not varied: {answers:?}");
}
