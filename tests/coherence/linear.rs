//! Linearizability of one object: is there an order that explains every result?
//!
//! Just-in-time linearization (Lowe, "Testing for linearizability", 2017): events are taken in the order of time, and an
//! operation is given its place in the order no earlier than a return makes it necessary. A *configuration* is a state of the
//! object with the set of pending operations that already have their place. An operation whose result is unknown stays
//! pending for ever: it may get a place at any later time, or never.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What the object is and what its operations may do.
pub trait Model {
    type State: Clone + Eq + Hash;
    type Op: Debug;

    fn initial(&self) -> Self::State;

    /// Adds every state that `op`, with the result that it had, can lead to from `state`; none if it had another result here.
    fn step(&self, state: &Self::State, op: &Self::Op, next: &mut Vec<Self::State>);

    /// Whether `op` never changes the state.
    fn observes(&self, op: &Self::Op) -> bool;
}

/// An operation with the times of its call and its return, on one clock.
#[derive(Clone, Debug)]
pub struct Timed<Op> {
    pub op: Op,
    pub invoked: u64,
    /// `None`: nobody knows whether it was done, or when.
    pub returned: Option<u64>,
    /// A step that the operation may have shown on its way, or not: it has its place between the two times, or none.
    pub optional: bool,
    /// The mount that it went through.
    pub mount: usize,
    /// Which thread and which call, for people.
    pub who: usize,
    pub call: &'static str,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Explained,
    /// No order explains the result of this operation together with all that returned before.
    Unexplained(usize),
    /// Too many possibilities to look at all.
    Undecided,
}

/// Configurations in one step beyond which the search gives up.
const LIMIT: usize = 200_000;

/// Looks for an explanation of `history`, in any order.
pub fn check<M: Model>(model: &M, history: &[Timed<M::Op>]) -> Verdict {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (index, timed) in history.iter().enumerate() {
        if timed.returned.is_none() && model.observes(&timed.op) {
            continue;
        }
        events.push((timed.invoked, false, index));
        events.extend(timed.returned.map(|returned| (returned, true, index)));
    }
    // At the same time a call stands before a return: whatever the clock cannot tell apart counts as concurrent.
    events.sort_unstable();

    let mut search = Search { model, history, slots: Vec::new(), configurations: HashSet::new() };
    search.configurations.insert((model.initial(), 0));
    for (_, returned, index) in events {
        let done = if returned { search.returned(index) } else { search.invoked(index) };
        if let Some(verdict) = done {
            return verdict;
        }
    }
    Verdict::Explained
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Timed<M::Op>],
    /// The pending operations; the position is the bit in a configuration.
    slots: Vec<Option<usize>>,
    configurations: HashSet<(M::State, u64)>,
}

impl<M: Model> Search<'_, M> {
    fn invoked(&mut self, index: usize) -> Option<Verdict> {
        let slot = match self.slots.iter().position(|slot| slot.is_none()) {
            Some(free) => free,
            None if self.slots.len() == 64 => return Some(Verdict::Undecided),
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[slot] = Some(index);
        if self.model.observes(&self.history[index].op) {
            let before = std::mem::take(&mut self.configurations);
            self.configurations = before.into_iter().map(|(state, placed)| self.observe(state, placed)).collect();
        }
        None
    }

    fn returned(&mut self, index: usize) -> Option<Verdict> {
        let slot = self.slots.iter().position(|slot| *slot == Some(index))?;
        let bit = 1u64 << slot;
        let mut stack: Vec<_> = std::mem::take(&mut self.configurations).into_iter().collect();
        let mut visited: HashSet<_> = stack.iter().cloned().collect();
        let mut next = Vec::new();
        if self.history[index].optional {
            self.configurations.extend(stack.iter().map(|(state, placed)| (state.clone(), placed & !bit)));
        }
        while let Some((state, placed)) = stack.pop() {
            if placed & bit != 0 {
                self.configurations.insert((state, placed & !bit));
                continue;
            }
            if visited.len() > LIMIT {
                return Some(Verdict::Undecided);
            }
            for (position, pending) in self.slots.iter().enumerate() {
                let Some(pending) = *pending else { continue };
                let op = &self.history[pending].op;
                if placed & (1 << position) != 0 || self.model.observes(op) {
                    continue;
                }
                self.model.step(&state, op, &mut next);
                for state in next.drain(..) {
                    let configuration = self.observe(state, placed | 1 << position);
                    if visited.insert(configuration.clone()) {
                        stack.push(configuration);
                    }
                }
            }
        }
        self.slots[slot] = None;
        self.configurations.is_empty().then_some(Verdict::Unexplained(index))
    }

    /// Gives a place to each pending observation that fits. That is never a mistake: it changes nothing for the others.
    fn observe(&self, state: M::State, mut placed: u64) -> (M::State, u64) {
        let mut next = Vec::new();
        for (position, pending) in self.slots.iter().enumerate() {
            let Some(pending) = *pending else { continue };
            let op = &self.history[pending].op;
            if placed & (1 << position) == 0 && self.model.observes(op) {
                self.model.step(&state, op, &mut next);
                if !next.is_empty() {
                    placed |= 1 << position;
                    next.clear();
                }
            }
        }
        (state, placed)
    }
}
