//! By whom a node that nobody can reach has itself called: at two relays of different networks where it can, chosen
//! among its neighbours, replaced when one is lost. Pure.
//!
//! ```text
//!            asked             answered
//!  candidate ─────▶ asked ───────────────▶ held (renewed by the library)
//!      ▲              │ refused, silent      │ refused, gone, ended
//!      └── after a ───┴──────────────────────┘
//!          while
//! ```
use super::limits;
use super::reachability::subnet;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Instant;

/// A neighbour that relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<P> {
    pub relay: P,
    pub ip: IpAddr,
}

struct Held<P, L> {
    relay: P,
    subnet: IpAddr,
    listener: L,
    asked: Instant,
    granted: bool,
    /// Where we are called by it; as many as are announced.
    addrs: Vec<String>,
}

pub struct Relays<P, L> {
    held: Vec<Held<P, L>>,
    avoid: HashMap<P, Instant>,
}

impl<P, L> Default for Relays<P, L> {
    fn default() -> Self {
        Relays { held: Vec::new(), avoid: HashMap::new() }
    }
}

impl<P: Copy + Eq + Hash, L: Copy + Eq> Relays<P, L> {
    /// Whom to ask next, the best first offers first: one whose network we do not use yet, if there is one.
    pub fn choose(&mut self, now: Instant, offers: &[Offer<P>]) -> Option<P> {
        self.avoid.retain(|_, at| now.saturating_duration_since(*at) < limits::RELAY_AVOID);
        if self.held.len() >= limits::RELAYS {
            return None;
        }
        let free = |offer: &&Offer<P>| {
            !self.avoid.contains_key(&offer.relay) && self.held.iter().all(|held| held.relay != offer.relay)
        };
        let elsewhere = |offer: &&Offer<P>| self.held.iter().all(|held| held.subnet != subnet(offer.ip));
        let offers = || offers.iter().filter(free);
        offers().find(elsewhere).or_else(|| offers().next()).map(|offer| offer.relay)
    }

    pub fn asked(&mut self, now: Instant, offer: Offer<P>, listener: L) {
        let (relay, subnet) = (offer.relay, subnet(offer.ip));
        self.held.push(Held { relay, subnet, listener, asked: now, granted: false, addrs: Vec::new() });
    }

    pub fn granted(&mut self, relay: &P) {
        for held in self.held.iter_mut().filter(|held| held.relay == *relay) {
            held.granted = true;
        }
    }

    /// True if it is one of ours.
    pub fn called_at(&mut self, listener: L, addr: String) -> bool {
        let Some(held) = self.held.iter_mut().find(|held| held.listener == listener) else { return false };
        if !held.addrs.contains(&addr) && held.addrs.len() < limits::ANNOUNCED {
            held.addrs.push(addr);
        }
        true
    }

    /// The library has closed the listener: the relay refused, or has gone. It is left alone for a while.
    pub fn ended(&mut self, now: Instant, listener: L) -> Option<P> {
        let at = self.held.iter().position(|held| held.listener == listener)?;
        let relay = self.held.remove(at).relay;
        self.leave_alone(now, relay);
        Some(relay)
    }

    /// Those that do not answer; their listeners are to be closed.
    pub fn silent(&mut self, now: Instant) -> Vec<(P, L)> {
        let late =
            |held: &Held<P, L>| !held.granted && now.saturating_duration_since(held.asked) >= limits::RELAY_ANSWER;
        let silent: Vec<(P, L)> = self.held.iter().filter(|held| late(held)).map(|h| (h.relay, h.listener)).collect();
        self.held.retain(|held| !late(held));
        silent.iter().for_each(|(relay, _)| self.leave_alone(now, *relay));
        silent
    }

    /// We can be reached without them now.
    pub fn drop_all(&mut self) -> Vec<(P, L)> {
        self.held.drain(..).map(|held| (held.relay, held.listener)).collect()
    }

    fn leave_alone(&mut self, now: Instant, relay: P) {
        // At most `RELAYS` are lost at a time, and each stays for `RELAY_AVOID`.
        self.avoid.insert(relay, now);
    }

    /// Those that keep their place among the neighbours.
    pub fn uses(&self, relay: &P) -> bool {
        self.held.iter().any(|held| held.relay == *relay)
    }

    /// Where we are called: one address of each relay, then the next ones.
    pub fn addrs(&self) -> Vec<String> {
        let granted = || self.held.iter().filter(|held| held.granted);
        (0..limits::ANNOUNCED).flat_map(|n| granted().filter_map(move |held| held.addrs.get(n).cloned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(relay: u32, ip: &str) -> Offer<u32> {
        Offer { relay, ip: ip.parse().unwrap() }
    }
    fn take(relays: &mut Relays<u32, u32>, now: Instant, offers: &[Offer<u32>]) -> Option<u32> {
        let relay = relays.choose(now, offers)?;
        relays.asked(now, *offers.iter().find(|offer| offer.relay == relay).unwrap(), relay + 100);
        Some(relay)
    }

    #[test]
    fn two_of_different_networks_where_there_are_any() {
        let (now, mut relays) = (Instant::now(), Relays::default());
        let offers = [offer(1, "192.0.2.1"), offer(2, "192.0.2.2"), offer(3, "198.51.100.1")];
        assert_eq!(take(&mut relays, now, &offers), Some(1));
        assert_eq!(take(&mut relays, now, &offers), Some(3), "2 has the same network as 1");
        assert_eq!(take(&mut relays, now, &offers), None);
        let mut relays = Relays::default();
        assert_eq!(take(&mut relays, now, &offers[..2]), Some(1));
        assert_eq!(take(&mut relays, now, &offers[..2]), Some(2), "better than one alone");
    }

    #[test]
    fn one_that_is_lost_is_replaced_and_left_alone_for_a_while() {
        let (now, mut relays) = (Instant::now(), Relays::default());
        let offers = [offer(1, "192.0.2.1"), offer(2, "198.51.100.1"), offer(3, "203.0.113.1")];
        for relay in [1, 2] {
            assert_eq!(take(&mut relays, now, &offers), Some(relay));
            relays.granted(&relay);
        }
        assert_eq!(relays.ended(now, 101), Some(1));
        assert_eq!(relays.ended(now, 101), None);
        assert_eq!(take(&mut relays, now, &offers), Some(3));
        assert!(!relays.uses(&1) && relays.uses(&3));
        assert_eq!(relays.ended(now, 103), Some(3));
        assert_eq!(take(&mut relays, now, &offers), None, "both are left alone");
        assert_eq!(take(&mut relays, now + limits::RELAY_AVOID, &offers), Some(1));
    }

    #[test]
    fn one_that_does_not_answer_is_given_up_and_addresses_come_with_the_answer() {
        let (now, mut relays) = (Instant::now(), Relays::default());
        let offers = [offer(1, "192.0.2.1"), offer(2, "198.51.100.1")];
        take(&mut relays, now, &offers);
        take(&mut relays, now, &offers);
        for addr in ["a", "b", "b", "c", "d", "e"] {
            assert!(relays.called_at(101, addr.to_owned()));
        }
        assert!(relays.called_at(102, "z".to_owned()) && !relays.called_at(9, "x".to_owned()));
        assert!(relays.addrs().is_empty(), "nothing is granted yet");
        relays.granted(&1);
        assert_eq!(relays.addrs(), ["a", "b", "c", "d"]);
        relays.granted(&2);
        assert_eq!(relays.addrs(), ["a", "z", "b", "c", "d"]);
        assert!(relays.silent(now + limits::RELAY_ANSWER).is_empty());
        let mut relays = Relays::default();
        take(&mut relays, now, &offers);
        assert_eq!(relays.silent(now + limits::RELAY_ANSWER), [(1, 101)]);
        assert!(!relays.uses(&1));
        assert_eq!(take(&mut relays, now + limits::RELAY_ANSWER, &offers), Some(2));
    }
}
