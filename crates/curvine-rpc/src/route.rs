//! Which of a channel's addresses is the one to use now.
//!
//! Always: `turn` rises with every change of the target, so that of many callers who saw the same failure only the first
//! moves on.

use crate::Address;

/// Where to connect, as of a turn.
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) turn: u64,
}

pub(crate) struct Route {
    addresses: Vec<Address>,
    current: usize,
    /// A leader that was named to us and is not among the addresses.
    hint: Option<Address>,
    turn: u64,
}

impl Route {
    pub(crate) fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, current: 0, hint: None, turn: 0 }
    }

    /// Takes new addresses; stays with the present target if it is among them.
    pub(crate) fn replace(&mut self, addresses: Vec<Address>) {
        let present = self.target().map(|target| target.address);
        match addresses.iter().position(|address| Some(address) == present.as_ref()) {
            Some(position) => self.current = position,
            None => {
                self.current = 0;
                self.turn += 1;
            }
        }
        self.hint = None;
        self.addresses = addresses;
    }

    /// The present target; `None` without any address.
    pub(crate) fn target(&self) -> Option<Target> {
        let address = self.hint.as_ref().or_else(|| self.addresses.get(self.current))?;
        Some(Target { address: address.clone(), turn: self.turn })
    }

    /// How many targets there are to try.
    pub(crate) fn len(&self) -> usize {
        self.addresses.len() + usize::from(self.hint.is_some())
    }

    /// The target of `turn` is of no use: moves on to the next address. False: there is no other.
    pub(crate) fn advance(&mut self, turn: u64) -> bool {
        if turn != self.turn {
            return true;
        }
        if self.len() < 2 {
            return false;
        }
        self.hint = None;
        self.current = (self.current + 1) % self.addresses.len().max(1);
        self.turn += 1;
        true
    }

    /// The target of `turn` is not the leader: moves on to the one it named, if any. False: it knew none.
    pub(crate) fn redirect(&mut self, turn: u64, leader: Option<&str>) -> bool {
        if turn != self.turn {
            return true;
        }
        let present = self.target().map(|target| target.address);
        let leader: Option<Address> = leader.and_then(|text| text.parse().ok());
        match leader {
            Some(leader) if Some(&leader) != present.as_ref() => {
                match self.addresses.iter().position(|address| *address == leader) {
                    Some(position) => (self.current, self.hint) = (position, None),
                    None => self.hint = Some(leader),
                }
                self.turn += 1;
                true
            }
            _ => {
                self.advance(turn);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(addresses: &[&str]) -> Route {
        Route::new(addresses.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn now(route: &Route) -> String {
        route.target().unwrap().address.to_string()
    }

    #[test]
    fn only_the_first_of_those_who_saw_a_failure_moves_on() {
        let mut route = route(&["a:1", "b:1", "c:1"]);
        let turn = route.target().unwrap().turn;
        assert!(route.advance(turn) && route.advance(turn));
        assert_eq!(now(&route), "b:1");
    }

    #[test]
    fn a_named_leader_is_followed_and_forgotten_when_it_fails() {
        let mut route = route(&["a:1", "b:1"]);
        assert!(route.redirect(0, Some("b:1")));
        assert_eq!(now(&route), "b:1");
        assert!(route.redirect(1, Some("elsewhere:1")));
        assert_eq!(now(&route), "elsewhere:1");
        assert!(route.advance(2));
        assert_eq!(now(&route), "a:1");
    }

    #[test]
    fn a_leader_that_names_itself_or_nobody_is_passed_over() {
        let mut route = route(&["a:1", "b:1"]);
        assert!(!route.redirect(0, Some("a:1")));
        assert_eq!(now(&route), "b:1");
        assert!(!route.redirect(1, None));
        assert_eq!(now(&route), "a:1");
        assert!(!route.redirect(2, Some("no address")));
    }

    #[test]
    fn a_single_address_is_kept() {
        let mut route = route(&["a:1"]);
        assert!(!route.advance(0));
        assert_eq!(now(&route), "a:1");
    }

    #[test]
    fn new_addresses_keep_the_present_target_if_they_can() {
        let mut route = route(&["a:1", "b:1"]);
        route.advance(0);
        let turn = route.target().unwrap().turn;
        route.replace(vec!["b:1".parse().unwrap(), "c:1".parse().unwrap()]);
        assert_eq!((now(&route), route.target().unwrap().turn), ("b:1".to_string(), turn));
        route.replace(vec!["d:1".parse().unwrap()]);
        assert_eq!(now(&route), "d:1");
        assert!(route.target().unwrap().turn > turn);
    }
}
