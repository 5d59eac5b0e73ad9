//! Whom to keep. Left alone, libp2p nodes end connected to everybody; here each keeps a bounded set and closes the
//! rest. Pure: it is told what happens and answers whom to close.
//!
//! ```text
//!              room, or wanted                  closed by either side
//!  connected ────────────────────▶ neighbour ──────────────────────────▶ gone
//!      │ no room, or a lookup's      ▲    │ evicted for an inbound visitor
//!      ▼                  room again │    ▼ (few a minute, never a busy one)
//!   visitor ─────────────────────────┘   gone, and avoided for a while
//!      │ its visit is over and it is not in use
//!      ▼
//!     gone
//! ```
//! Everybody looks for a third of what it would take, so most nodes have room for newcomers.
use super::limits;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Pinned or a bootstrap peer: kept beyond the bound.
    Exempt,
    Neighbour,
    Visitor {
        until: Instant,
    },
}

struct Member {
    since: Instant,
    inbound: bool,
    /// We dialled it for company, or were told to.
    wanted: bool,
    relayed: bool,
    standing: Standing,
    /// When it last did something for us: asked, answered, passed on a good message.
    useful: Option<Instant>,
}

/// What only the swarm knows about a peer at the moment.
#[derive(Clone, Copy, Default)]
pub struct Use {
    /// It has tunnels or requests under way.
    pub busy: bool,
    pub in_gossip_mesh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It came when there was no room.
    Surplus,
    /// It made room for a newcomer.
    Evicted,
}

pub struct Neighbourhood<P> {
    max: usize,
    wanted: usize,
    members: HashMap<P, Member>,
    avoid: HashMap<P, Instant>,
    evictions: VecDeque<Instant>,
}

impl<P: Copy + Eq + Hash + Ord> Neighbourhood<P> {
    pub fn new(max: usize, wanted: usize) -> Self {
        let (members, avoid) = (HashMap::new(), HashMap::new());
        Neighbourhood { max, wanted: wanted.min(max), members, avoid, evictions: VecDeque::new() }
    }

    /// Neighbours and exempt peers: those that we can count on to stay.
    pub fn kept(&self) -> usize {
        self.members.values().filter(|m| !matches!(m.standing, Standing::Visitor { .. })).count()
    }
    /// Neighbour or exempt, not a visitor.
    pub fn keeps(&self, peer: &P) -> bool {
        self.members.get(peer).is_some_and(|member| !matches!(member.standing, Standing::Visitor { .. }))
    }
    fn neighbours(&self) -> usize {
        self.members.values().filter(|m| m.standing == Standing::Neighbour).count()
    }
    /// How many more to look for.
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.kept())
    }

    /// `wanted`: we dialled it for company. Lookups and requests connect too, but only for a visit.
    pub fn connected(&mut self, now: Instant, peer: P, inbound: bool, wanted: bool, exempt: bool) {
        let standing = if exempt {
            Standing::Exempt
        } else if self.neighbours() < self.max && (inbound || wanted || self.missing() > 0) {
            Standing::Neighbour
        } else {
            Standing::Visitor { until: now + if inbound { limits::VISIT } else { limits::CALL } }
        };
        self.members.entry(peer).or_insert(Member {
            since: now,
            inbound,
            wanted,
            relayed: false,
            standing,
            useful: None,
        });
    }

    /// Who closes on us although we asked for its company, and soon, has no room. Visits end without ill feelings, and
    /// who was with us for longer was only cut off.
    pub fn disconnected(&mut self, now: Instant, peer: &P, by_us: bool) {
        let Some(member) = self.members.remove(peer) else { return };
        if !by_us && member.wanted && now.saturating_duration_since(member.since) < limits::MIN_STAY {
            self.avoid(now, *peer);
        }
    }

    /// Not to be dialled for company for a while.
    pub fn avoid(&mut self, now: Instant, peer: P) {
        if self.avoid.len() >= limits::MAX_KNOWN_PEERS {
            self.avoid.retain(|_, at| now.saturating_duration_since(*at) < limits::AVOID);
        }
        if self.avoid.len() < limits::MAX_KNOWN_PEERS {
            self.avoid.insert(peer, now);
        }
    }
    /// Who is all alone cannot be choosy.
    pub fn is_avoided(&self, now: Instant, peer: &P) -> bool {
        let time = if self.kept() == 0 { limits::BOOTSTRAP_LAST } else { limits::AVOID };
        self.avoid.get(peer).is_some_and(|at| now.saturating_duration_since(*at) < time)
    }

    pub fn useful(&mut self, now: Instant, peer: &P) {
        if let Some(member) = self.members.get_mut(peer) {
            member.useful = Some(now);
        }
    }

    /// It is connected by a relay only, or no longer so. Such a peer is a visitor, however welcome: what is said to it
    /// is carried by somebody who has better things to do.
    pub fn set_relayed(&mut self, now: Instant, peer: &P, relayed: bool) {
        let Some(member) = self.members.get_mut(peer) else { return };
        member.relayed = relayed;
        if relayed && member.standing == Standing::Neighbour {
            member.standing = Standing::Visitor { until: now + limits::VISIT };
        }
    }

    /// A pin given or taken back, while the peer may be connected.
    pub fn set_exempt(&mut self, now: Instant, peer: &P, exempt: bool) {
        let has_room = self.neighbours() < self.max;
        let Some(member) = self.members.get_mut(peer) else { return };
        member.standing = match (exempt, member.standing) {
            (true, _) => Standing::Exempt,
            (false, Standing::Exempt) if has_room && !member.relayed => Standing::Neighbour,
            (false, Standing::Exempt) => Standing::Visitor { until: now + limits::VISIT },
            (false, as_it_was) => as_it_was,
        };
    }

    /// Whom to close now.
    pub fn review(&mut self, now: Instant, use_of: impl Fn(&P) -> Use) -> Vec<(P, Closing)> {
        let mut due: Vec<(Instant, P)> = self
            .members
            .iter()
            .filter(|(_, m)| matches!(m.standing, Standing::Visitor { until } if until <= now))
            .map(|(peer, m)| (m.since, *peer))
            .collect();
        // First come, first served: the order of the map must not decide.
        due.sort();
        let mut closing = Vec::new();
        for (_, visitor) in due {
            closing.extend(self.end_visit(now, visitor, &use_of));
        }
        for (peer, _) in &closing {
            self.members.remove(peer);
        }
        closing
    }

    fn end_visit(&mut self, now: Instant, visitor: P, use_of: &impl Fn(&P) -> Use) -> Option<(P, Closing)> {
        let Member { inbound, relayed, useful, .. } = self.members[&visitor];
        let lately = useful.is_some_and(|at| now.saturating_duration_since(at) < limits::IN_USE);
        if lately || use_of(&visitor).busy {
            self.stand(&visitor, Standing::Visitor { until: now + limits::VISIT });
            return None;
        }
        if relayed {
            return Some((visitor, Closing::Surplus));
        }
        if self.neighbours() < self.max && (inbound || self.missing() > 0) {
            self.stand(&visitor, Standing::Neighbour);
            return None;
        }
        let victim = if inbound { self.victim(now, use_of) } else { None };
        let Some(victim) = victim else { return Some((visitor, Closing::Surplus)) };
        self.evictions.push_back(now);
        self.stand(&visitor, Standing::Neighbour);
        // Out of the count at once, so that the next visitor does not find the same one.
        self.stand(&victim, Standing::Visitor { until: now + limits::VISIT });
        Some((victim, Closing::Evicted))
    }

    fn stand(&mut self, peer: &P, standing: Standing) {
        if let Some(member) = self.members.get_mut(peer) {
            member.standing = standing;
        }
    }

    /// The neighbour that we miss least: not busy, outside the gossip mesh, longest of no use, youngest.
    fn victim(&mut self, now: Instant, use_of: &impl Fn(&P) -> Use) -> Option<P> {
        while self.evictions.front().is_some_and(|at| now.saturating_duration_since(*at).as_secs() >= 60) {
            self.evictions.pop_front();
        }
        if self.evictions.len() >= limits::EVICTIONS_PER_MINUTE {
            return None;
        }
        self.members
            .iter()
            .filter(|(_, m)| m.standing == Standing::Neighbour)
            .filter(|(_, m)| now.saturating_duration_since(m.since) >= limits::MIN_STAY)
            .map(|(peer, m)| (use_of(peer), m, *peer))
            .filter(|(used, _, _)| !used.busy)
            .min_by_key(|(used, m, peer)| (used.in_gossip_mesh, m.useful, std::cmp::Reverse(m.since), *peer))
            .map(|(_, _, peer)| peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const IDLE: fn(&u32) -> Use = |_| Use { busy: false, in_gossip_mesh: false };

    fn full(start: Instant) -> Neighbourhood<u32> {
        let mut hood = Neighbourhood::new(4, 2);
        (0..4).for_each(|peer| hood.connected(start, peer, true, false, false));
        hood
    }

    #[test]
    fn surplus_visitors_go_when_the_visit_is_over() {
        let start = Instant::now();
        let mut hood = full(start);
        hood.connected(start, 9, true, false, false);
        assert!(hood.review(start, IDLE).is_empty(), "a visitor may stay for a while");
        let later = start + limits::VISIT;
        assert_eq!(hood.review(later, IDLE), [(9, Closing::Surplus)], "nobody has stayed for a minute yet");
        assert_eq!(hood.kept(), 4);
    }

    #[test]
    fn lookups_only_visit_and_room_is_for_those_who_come() {
        let start = Instant::now();
        let mut hood = Neighbourhood::new(4, 2);
        hood.connected(start, 1, false, true, false);
        hood.connected(start, 2, false, false, false);
        assert_eq!((hood.kept(), hood.missing()), (2, 0), "a lookup's connection is kept while we want company");
        hood.connected(start, 3, false, false, false);
        hood.connected(start, 4, true, false, false);
        assert_eq!(hood.kept(), 3);
        assert_eq!(hood.review(start + limits::VISIT, IDLE), [(3, Closing::Surplus)]);
    }

    #[test]
    fn a_visitor_that_asks_to_the_end_may_stay_until_it_is_done() {
        let start = Instant::now();
        let mut hood = full(start);
        [8, 9].into_iter().for_each(|peer| hood.connected(start, peer, true, false, false));
        hood.useful(start, &8);
        hood.useful(start + limits::VISIT - limits::IN_USE / 2, &9);
        assert_eq!(hood.review(start + limits::VISIT, IDLE), [(8, Closing::Surplus)]);
        assert_eq!(hood.review(start + limits::VISIT * 2, IDLE), [(9, Closing::Surplus)]);
    }

    #[test]
    fn busy_peers_are_never_closed() {
        let start = Instant::now();
        let mut hood = full(start);
        hood.connected(start, 9, true, false, false);
        let busy = |_: &u32| Use { busy: true, in_gossip_mesh: false };
        assert!(hood.review(start + Duration::from_secs(3600), busy).is_empty());
        assert_eq!(hood.kept(), 4);
    }

    #[test]
    fn evictions_are_few_and_take_the_least_useful() {
        let start = Instant::now();
        let mut hood = full(start);
        hood.useful(start, &0);
        hood.useful(start + Duration::from_secs(1), &1);
        let late = start + limits::MIN_STAY;
        (10..20).for_each(|peer| hood.connected(late, peer, true, false, false));
        let mesh = |peer: &u32| Use { busy: false, in_gossip_mesh: *peer == 2 };
        let closed = hood.review(late + limits::VISIT, mesh);
        let evicted: Vec<u32> = closed.iter().filter(|(_, why)| *why == Closing::Evicted).map(|(p, _)| *p).collect();
        assert_eq!(evicted, [3, 0], "3 was of no use, 0 before 1; 2 is in the gossip mesh");
        assert_eq!((closed.len(), hood.kept()), (10, 4));
    }

    #[test]
    fn exempt_peers_do_not_count_and_pins_can_be_taken_back() {
        let start = Instant::now();
        let mut hood = full(start);
        hood.connected(start, 9, true, false, false);
        hood.set_exempt(start, &9, true);
        assert!(hood.review(start + limits::VISIT, IDLE).is_empty());
        assert_eq!(hood.kept(), 5);
        hood.set_exempt(start, &9, false);
        assert_eq!(hood.review(start + limits::VISIT, IDLE), [(9, Closing::Surplus)]);
    }

    #[test]
    fn who_is_carried_by_a_relay_only_visits() {
        let start = Instant::now();
        let mut hood = Neighbourhood::new(4, 2);
        (1..4).for_each(|peer| hood.connected(start, peer, true, true, peer == 3));
        (1..4).for_each(|peer| hood.set_relayed(start, &peer, true));
        assert_eq!((hood.kept(), hood.missing()), (1, 1), "a leased peer stays");
        hood.set_relayed(start, &2, false);
        assert_eq!(hood.review(start + limits::VISIT, IDLE), [(1, Closing::Surplus)], "2 has a hole punched meanwhile");
        assert_eq!(hood.kept(), 2);
    }

    #[test]
    fn who_refuses_our_company_is_avoided() {
        let start = Instant::now();
        let mut hood = Neighbourhood::new(4, 2);
        (1..4).for_each(|peer| hood.connected(start, peer, false, true, false));
        hood.connected(start, 9, true, false, false);
        let soon = start + Duration::from_secs(10);
        hood.disconnected(soon, &1, false);
        hood.disconnected(soon, &2, true);
        hood.disconnected(start + limits::MIN_STAY, &3, false);
        assert!([2, 3].iter().all(|peer| !hood.is_avoided(soon, peer)));
        let late = soon + Duration::from_secs(500);
        assert!(hood.is_avoided(late, &1) && !hood.is_avoided(soon + limits::AVOID, &1));
        hood.disconnected(late, &9, false);
        assert!(!hood.is_avoided(late, &9), "a visitor of ours only went home");
        assert!(!hood.is_avoided(late, &1), "nobody is left, so the one that refused is asked again");
    }
}
