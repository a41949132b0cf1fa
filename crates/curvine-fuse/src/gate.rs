//! How much is being served at once: requests and their bytes.
//!
//! Always: one reader goes on reading whatever the load is, because INTERRUPT, FORGET and STATFS come through the same
//! device; so the limits make the other readers wait, and only four times the limits are never exceeded.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Above the limits by this factor, requests are refused.
const HARD: usize = 4;

#[derive(Debug, Default)]
struct State {
    requests: usize,
    bytes: usize,
    waiting: usize,
    closed: bool,
}

/// Counts what is being served.
#[derive(Debug)]
pub struct Gate {
    requests: usize,
    bytes: usize,
    readers: usize,
    state: Mutex<State>,
    room: Condvar,
}

/// One request that is being served; counted until it is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    /// Limits at which all of `readers` but one stop reading.
    pub fn new(requests: usize, bytes: usize, readers: usize) -> Arc<Self> {
        Arc::new(Self { requests, bytes, readers, state: Mutex::default(), room: Condvar::new() })
    }

    /// Counts a request; `None` if it must be refused.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let mut state = self.state.lock();
        if state.requests >= self.requests * HARD || state.bytes + bytes > self.bytes * HARD {
            return None;
        }
        state.requests += 1;
        state.bytes += bytes;
        Some(Permit { gate: self.clone(), bytes })
    }

    /// Called by a reader before it reads on: waits while the limits are reached, unless all others wait already.
    pub fn throttle(&self) {
        let mut state = self.state.lock();
        while self.is_full(&state) && state.waiting + 1 < self.readers && !state.closed {
            state.waiting += 1;
            self.room.wait(&mut state);
            state.waiting -= 1;
        }
    }

    /// Lets all readers go on, for good.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.room.notify_all();
    }

    /// Requests and bytes being served.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.requests, state.bytes)
    }

    fn is_full(&self, state: &State) -> bool {
        state.requests >= self.requests || state.bytes >= self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        state.requests -= 1;
        state.bytes -= self.bytes;
        if state.waiting > 0 && !self.gate.is_full(&state) {
            self.gate.room.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn all_readers_but_one_wait_while_the_gate_is_full() {
        let gate = Gate::new(2, 1000, 2);
        let permits = [gate.admit(10).unwrap(), gate.admit(10).unwrap()];
        let (sender, passed) = mpsc::channel();
        let waiting = std::thread::spawn({
            let gate = gate.clone();
            move || {
                gate.throttle();
                sender.send(()).unwrap();
            }
        });
        while gate.state.lock().waiting == 0 {
            std::thread::yield_now();
        }
        // The last reader is never held up.
        gate.throttle();
        assert!(passed.try_recv().is_err());
        drop(permits);
        passed.recv().unwrap();
        waiting.join().unwrap();
        assert_eq!(gate.load(), (0, 0));
    }

    #[test]
    fn four_times_the_limit_is_never_exceeded() {
        let gate = Gate::new(100, 10, 1);
        let _most = gate.admit(40).unwrap();
        assert!(gate.admit(1).is_none());
        let gate = Gate::new(1, 10, 1);
        let permits: Vec<_> = (0..4).map(|_| gate.admit(0).unwrap()).collect();
        assert!(gate.admit(0).is_none());
        drop(permits);
        assert!(gate.admit(0).is_some());
    }

    #[test]
    fn a_closed_gate_holds_nobody() {
        let gate = Gate::new(1, 1, 2);
        let _full = gate.admit(1).unwrap();
        gate.close();
        gate.throttle();
    }
}
