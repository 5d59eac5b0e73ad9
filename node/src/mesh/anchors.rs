//! The few peers that we go back to first: long with us, each in another network, and not given up for a newcomer. Who
//! fills the routing and everybody's books while we are away does not own all our connections when we are back. Pure.
//!
//! ```text
//!           10 min connected, serves, and              a day of dials in vain,
//!  (a peer) ─ its network has no anchor ─▶ anchor ──── or banned ────────────────▶ (a peer)
//! ```
//! Peers that we dialled ourselves come first: who dials us has chosen us, and may have chosen us for a reason.
use super::limits;
use super::reachability::subnet;
use libp2p::Multiaddr;
use std::net::IpAddr;
use std::time::Instant;

/// A peer that could become one.
#[derive(Clone)]
pub struct Candidate<P> {
    pub peer: P,
    /// Where it is.
    pub ip: IpAddr,
    pub outbound: bool,
    pub since: Instant,
    /// There, and nowhere else: a network is one that the peer has been seen in.
    pub addrs: Vec<Multiaddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<P> {
    pub peer: P,
    pub addrs: Vec<Multiaddr>,
    /// Dials in vain, one after the other, while others could be reached.
    pub failures: u32,
}

struct Anchor<P> {
    held: Held<P>,
    subnet: IpAddr,
    next: Instant,
}

pub struct Anchors<P> {
    anchors: Vec<Anchor<P>>,
    /// They are not what was told last.
    changed: bool,
    look_at: Instant,
}

impl<P: Copy + Eq + Ord> Anchors<P> {
    /// Those of an earlier run.
    pub fn new(now: Instant, held: impl IntoIterator<Item = Held<P>>) -> Self {
        let anchor = |held: Held<P>| {
            let subnet = subnet(held.addrs.iter().find_map(super::book::ip_of)?);
            Some(Anchor { held, subnet, next: now })
        };
        let mut anchors: Vec<Anchor<P>> = Vec::new();
        for anchor in held.into_iter().filter_map(anchor) {
            if anchors.len() < limits::ANCHORS && anchors.iter().all(|other| other.subnet != anchor.subnet) {
                anchors.push(anchor);
            }
        }
        Anchors { anchors, changed: false, look_at: now }
    }

    pub fn is_one(&self, peer: &P) -> bool {
        self.anchors.iter().any(|anchor| anchor.held.peer == *peer)
    }

    /// Those to dial now. `alone`: nobody is connected, so it is not known whom this says something about.
    pub fn due(&mut self, now: Instant, alone: bool, connected: impl Fn(&P) -> bool) -> Vec<(P, Vec<Multiaddr>)> {
        let wait = if alone { limits::BOOTSTRAP_LAST } else { limits::ANCHOR_RETRY };
        let due = self.anchors.iter_mut().filter(|anchor| anchor.next <= now && !connected(&anchor.held.peer));
        due.map(|anchor| {
            anchor.next = now + wait;
            (anchor.held.peer, anchor.held.addrs.clone())
        })
        .collect()
    }

    pub fn reached(&mut self, peer: &P) {
        for anchor in self.anchors.iter_mut().filter(|anchor| anchor.held.peer == *peer) {
            self.changed |= std::mem::take(&mut anchor.held.failures) > 0;
        }
    }

    /// True if it is given up now. While we are alone it may be our own network that is down.
    pub fn failed(&mut self, peer: &P, alone: bool) -> bool {
        let Some(anchor) = self.anchors.iter_mut().find(|anchor| anchor.held.peer == *peer && !alone) else {
            return false;
        };
        anchor.held.failures += 1;
        self.changed = true;
        anchor.held.failures >= limits::ANCHOR_FAILURES && self.give_up(peer)
    }

    /// True if it was one.
    pub fn give_up(&mut self, peer: &P) -> bool {
        let before = self.anchors.len();
        self.anchors.retain(|anchor| anchor.held.peer != *peer);
        self.changed |= self.anchors.len() < before;
        self.anchors.len() < before
    }

    /// Whether it is time to look for more.
    pub fn lacks(&mut self, now: Instant) -> bool {
        let looks = self.anchors.len() < limits::ANCHORS && self.look_at <= now;
        if looks {
            self.look_at = now + limits::ANCHOR_LOOK;
        }
        looks
    }

    /// New ones: of those that have been here for long, whom we dialled before who dialled us, and the oldest first.
    pub fn choose(&mut self, now: Instant, mut candidates: Vec<Candidate<P>>) -> Vec<P> {
        let long = |since: Instant| now.saturating_duration_since(since) >= limits::ANCHOR_AFTER;
        candidates.retain(|candidate| long(candidate.since) && !candidate.addrs.is_empty());
        candidates.sort_by_key(|candidate| (!candidate.outbound, candidate.since, candidate.peer));
        let mut chosen = Vec::new();
        for Candidate { peer, ip, addrs, .. } in candidates {
            let subnet = subnet(ip);
            let taken = self.anchors.iter().any(|anchor| anchor.subnet == subnet || anchor.held.peer == peer);
            if taken || self.anchors.len() >= limits::ANCHORS {
                continue;
            }
            let held = Held { peer, addrs, failures: 0 };
            self.anchors.push(Anchor { held, subnet, next: now });
            chosen.push(peer);
        }
        self.changed |= !chosen.is_empty();
        chosen
    }

    /// All of them, if they are not what was told last.
    pub fn news(&mut self) -> Option<Vec<Held<P>>> {
        std::mem::take(&mut self.changed).then(|| self.anchors.iter().map(|anchor| anchor.held.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn addr(ip: &str) -> Multiaddr {
        format!("/ip4/{ip}/tcp/4001").parse().unwrap()
    }
    fn candidate(peer: u32, ip: &str, outbound: bool, since: Instant) -> Candidate<u32> {
        Candidate { peer, ip: ip.parse().unwrap(), outbound, since, addrs: vec![addr(ip)] }
    }
    fn held(peer: u32, ip: &str) -> Held<u32> {
        Held { peer, addrs: vec![addr(ip)], failures: 0 }
    }
    fn peers(anchors: &Anchors<u32>) -> Vec<u32> {
        anchors.anchors.iter().map(|anchor| anchor.held.peer).collect()
    }

    #[test]
    fn four_that_stayed_each_in_another_network_and_ours_before_theirs() {
        let start = Instant::now();
        let now = start + limits::ANCHOR_AFTER;
        let at = |s: u64| start + Duration::from_secs(s);
        let mut anchors = Anchors::new(start, []);
        let mut there = vec![
            candidate(1, "198.51.100.1", false, at(0)),
            candidate(2, "192.0.2.1", true, at(0)),
            candidate(3, "192.0.99.1", true, at(0)),
            candidate(4, "203.0.113.1", true, at(1)),
        ];
        assert!(anchors.lacks(start) && anchors.choose(start, there.clone()).is_empty(), "none has been here for long");
        assert!(!anchors.lacks(start) && anchors.lacks(now));
        assert_eq!(anchors.choose(now, there.clone()), [2, 1], "3 is in 2's network, 4 came a second too late");
        there.extend((5..9).map(|n| candidate(n, &format!("10.{n}.0.1"), true, at(0))));
        assert_eq!(anchors.choose(now, there.clone()), [5, 6], "four are enough");
        assert_eq!(anchors.news().unwrap().len(), 4);
        assert!(anchors.news().is_none() && !anchors.lacks(now + limits::ANCHOR_LOOK));
        let later = now + Duration::from_secs(86_400);
        assert!(anchors.choose(later, there).is_empty(), "older or not, nobody takes an anchor's place");
        assert_eq!(peers(&anchors), [2, 1, 5, 6]);
    }

    #[test]
    fn what_was_stored_is_dialled_at_once_and_is_no_more_diverse_than_it_says() {
        let start = Instant::now();
        let stored = [held(1, "192.0.2.1"), held(2, "192.0.3.1"), held(3, "203.0.113.1")];
        let nowhere = Held { peer: 4, addrs: vec![], failures: 0 };
        let mut anchors = Anchors::new(start, stored.into_iter().chain([nowhere]));
        assert_eq!(anchors.due(start, true, |peer| *peer == 3), [(1, vec![addr("192.0.2.1")])]);
        assert!(anchors.due(start, true, |_| false).iter().all(|(peer, _)| *peer == 3), "one dial at a time");
        assert!(anchors.due(start + limits::BOOTSTRAP_LAST, false, |_| false).len() == 2, "alone we try again soon");
        assert!(anchors.due(start + limits::BOOTSTRAP_LAST * 2, false, |_| false).is_empty(), "and otherwise rarely");
    }

    #[test]
    fn an_anchor_is_given_up_after_a_day_in_vain_that_is_not_our_own_fault() {
        let start = Instant::now();
        let mut anchors = Anchors::new(start, [held(1, "192.0.2.1")]);
        assert!((0..2 * limits::ANCHOR_FAILURES).all(|_| !anchors.failed(&1, true)), "we were alone");
        assert!((1..limits::ANCHOR_FAILURES).all(|_| !anchors.failed(&1, false)));
        anchors.reached(&1);
        assert_eq!(anchors.news().unwrap()[0].failures, 0);
        // What was counted is counted on in the next run.
        assert!((1..limits::ANCHOR_FAILURES).all(|_| !anchors.failed(&1, false)));
        let mut anchors = Anchors::new(start, anchors.news().unwrap());
        assert!(anchors.failed(&1, false) && !anchors.is_one(&1) && !anchors.failed(&1, false));
        assert_eq!(anchors.news(), Some(vec![]));
        let next = candidate(2, "192.0.2.9", false, start);
        assert_eq!(anchors.choose(start + limits::ANCHOR_AFTER, vec![next]), [2], "its network is free again");
        assert!(anchors.give_up(&2) && !anchors.give_up(&2));
    }
}
