//! Can others reach this node, and where? Pure: it is told what was seen and answers with a state and the reason in
//! words.
//!
//! ```text
//!            a test or a visitor came through                    tests fail, none came through
//!  unknown ───────────────────────────────────▶ public ───────────────────────────────────────▶ private
//!     │  ▲                                        ▲  │ its address is gone                          │
//!     │  └────────────────────────────────────────┼──┘                                             │
//!     └───────────────────────────────────────────┼───────────────────────────────────────────────▶│
//!        no address to be reached at, or           └────────────────────────────────────────────────┘
//!        tests fail                                   the router was opened, and a test came through
//! ```
//! Three things speak for an address: a peer that was asked to connect to it and did (AutoNAT), a peer that came in by
//! itself, and a gateway that says it forwards the port (until a test says otherwise). One thing speaks against it: a
//! peer that was asked and could not.
//!
//! What counts is who is met. An address reaches as far as its kind says: this machine, this site, the world; and the
//! *horizon* is the farthest kind of address that a peer was met at lately. In a laboratory without the internet a
//! private address is as good as a public one, and nodes there serve each other; as soon as somebody from the world is
//! met, only addresses of the world count.
use super::limits;
use super::types::Reachability;
use std::net::IpAddr;
use std::time::Instant;

/// How far an address reaches: this machine, its own network, or everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Machine,
    Site,
    World,
}

impl Scope {
    pub fn of(ip: IpAddr) -> Scope {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Scope::Machine,
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Scope::Site,
            // Shared by a carrier's customers (100.64.0.0/10): nobody outside can use it.
            IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64 => Scope::Site,
            IpAddr::V6(ip) if (ip.segments()[0] & 0xfe00) == 0xfc00 => Scope::Site,
            IpAddr::V6(ip) if (ip.segments()[0] & 0xffc0) == 0xfe80 => Scope::Site,
            _ => Scope::World,
        }
    }
}

/// The network that an address belongs to: what one party can own cheaply is one voice.
pub fn subnet(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & 0xffff_0000).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & (u128::MAX << 96)).into()),
    }
}

/// An address of ours, without our id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub ip: IpAddr,
    pub addr: String,
}

/// Somebody who is connected to us and was not dialled.
#[derive(Clone, Copy)]
pub struct Visit<P> {
    pub by: P,
    pub from: IpAddr,
    /// We have dialled its address lately, which opens some routers for it.
    pub sought: bool,
    /// It has come just now.
    pub fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Unsettled,
    All,
}

/// What the router says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gateway {
    /// It was not asked, or has not answered yet.
    #[default]
    Silent,
    /// None answers UPnP.
    Absent,
    /// It has no public address itself.
    Unroutable,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub state: Reachability,
    pub why: String,
    /// Confirmed, without our id, the best first.
    pub direct: Vec<String>,
}

struct Vote<P> {
    by: P,
    ok: bool,
    at: Instant,
}

struct Candidate<P> {
    place: Place,
    /// A gateway forwards it.
    mapped: bool,
    /// The newest first, one for each peer.
    votes: Vec<Vote<P>>,
    /// What the majority said last; a tie changes nothing.
    stands: Option<bool>,
    /// Networks of those who came in here through a router, by themselves.
    visitors: Vec<IpAddr>,
}

impl<P: Copy + PartialEq> Candidate<P> {
    fn vote(&mut self, now: Instant, by: P, ok: bool) {
        self.votes.retain(|vote| vote.by != by);
        self.votes.insert(0, Vote { by, ok, at: now });
        self.votes.truncate(limits::VERDICTS);
        let good = self.votes.iter().filter(|vote| vote.ok).count();
        match good.cmp(&(self.votes.len() - good)) {
            std::cmp::Ordering::Greater => self.stands = Some(true),
            std::cmp::Ordering::Less => self.stands = Some(false),
            std::cmp::Ordering::Equal => {}
        }
    }
    fn confirmed(&self) -> bool {
        self.stands.unwrap_or(self.mapped)
    }
    fn refuted(&self) -> bool {
        self.stands == Some(false)
    }
    /// More verdicts would not change our mind.
    fn settled(&self) -> bool {
        self.votes.len() >= limits::VERDICTS && self.votes.iter().all(|vote| Some(vote.ok) == self.stands)
    }
}

pub struct Evidence<P> {
    listening: Vec<Place>,
    candidates: Vec<Candidate<P>>,
    horizon: Scope,
    /// When somebody was last met there.
    horizon_at: Option<Instant>,
    gateway: Gateway,
    retest_at: Option<Instant>,
    quick_tests: u32,
}

impl<P: Copy + PartialEq> Default for Evidence<P> {
    fn default() -> Self {
        Evidence {
            listening: Vec::new(),
            candidates: Vec::new(),
            horizon: Scope::Machine,
            horizon_at: None,
            gateway: Gateway::Silent,
            retest_at: None,
            quick_tests: 0,
        }
    }
}

impl<P: Copy + PartialEq> Evidence<P> {
    /// The addresses of this machine at which it listens.
    pub fn listens(&mut self, places: Vec<Place>) {
        if self.listening != places {
            self.listening = places;
            self.quick_tests = 0;
        }
    }

    /// A peer of this network is connected, without a relay.
    pub fn met(&mut self, now: Instant, ip: IpAddr) {
        let scope = Scope::of(ip);
        let faded = self.horizon_at.is_none_or(|at| now.saturating_duration_since(at) >= limits::HORIZON_KEPT);
        if scope > self.horizon || (scope < self.horizon && faded) {
            self.horizon = scope;
            self.quick_tests = 0;
        }
        if scope == self.horizon {
            self.horizon_at = Some(now);
        }
    }

    pub fn horizon(&self) -> Scope {
        self.horizon
    }

    /// A peer was asked to connect to `place`. Who is nearer than the address reaches says nothing: routers treat
    /// their own side differently.
    pub fn tested(&mut self, now: Instant, place: Place, by: P, from: IpAddr, ok: bool) {
        if Scope::of(from) >= Scope::of(place.ip) {
            self.candidate(place).vote(now, by, ok);
        }
    }

    /// A peer came in by itself, and says that it was at `place`. What stands on our own interface needs one witness;
    /// what a router would have to forward needs two of different networks, for the address is only what they say.
    pub fn came_in(&mut self, now: Instant, place: Place, visit: Visit<P>) {
        let far = Scope::of(visit.from) == Scope::World;
        if Scope::of(visit.from) < Scope::of(place.ip) || (far && visit.sought) {
            return;
        }
        let own = self.listening.iter().any(|own| own.ip == place.ip);
        let candidate = self.candidate(place);
        // That an old connection lasts says nothing against somebody who could not make a new one.
        if !visit.fresh && candidate.votes.iter().any(|vote| !vote.ok) {
            return;
        }
        let network = subnet(visit.from);
        if !candidate.visitors.contains(&network) && candidate.visitors.len() < limits::WITNESSES {
            candidate.visitors.push(network);
        }
        if own || candidate.visitors.len() >= limits::WITNESSES {
            candidate.vote(now, visit.by, true);
        }
    }

    pub fn mapped(&mut self, place: Place) {
        self.candidate(place).mapped = true;
    }
    pub fn unmapped(&mut self, addr: &str) {
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.place.addr == addr) {
            candidate.mapped = false;
            candidate.stands = None;
            candidate.votes.clear();
        }
    }
    pub fn gateway(&mut self, gateway: Gateway) {
        self.gateway = gateway;
    }

    fn candidate(&mut self, place: Place) -> &mut Candidate<P> {
        let at = match self.candidates.iter().position(|candidate| candidate.place == place) {
            Some(at) => at,
            None => {
                if self.candidates.len() >= limits::MAX_EXTERNAL {
                    self.make_room();
                }
                self.quick_tests = 0;
                self.candidates.push(Candidate {
                    place,
                    mapped: false,
                    votes: Vec::new(),
                    stands: None,
                    visitors: Vec::new(),
                });
                self.candidates.len() - 1
            }
        };
        &mut self.candidates[at]
    }

    /// What nobody confirmed goes first, then what was looked at longest ago.
    fn make_room(&mut self) {
        let age = |candidate: &Candidate<P>| (candidate.confirmed(), candidate.votes.first().map(|vote| vote.at));
        let least = (0..self.candidates.len()).min_by_key(|at| age(&self.candidates[*at]));
        if let Some(at) = least {
            self.candidates.remove(at);
        }
    }

    /// What to ask again now: soon what opinions differ about or are few, and everything once in a while.
    pub fn test_due(&mut self, now: Instant, jitter: f64) -> Option<Due> {
        let settled = self.here().next().is_some() && self.here().all(Candidate::settled);
        let soon = !settled && self.quick_tests < limits::QUICK_TESTS;
        let soonest = now + limits::RETEST_SOON;
        let planned = self.retest_at.unwrap_or(soonest);
        let due = if soon { planned.min(soonest) } else { planned };
        if due > now {
            self.retest_at = Some(due);
            return None;
        }
        self.quick_tests += u32::from(soon);
        self.retest_at = Some(if soon { soonest } else { now + limits::RETEST.mul_f64(0.75 + jitter / 2.0) });
        Some(if soon { Due::Unsettled } else { Due::All })
    }

    pub fn is_settled(&self, addr: &str) -> bool {
        self.candidates.iter().any(|candidate| candidate.place.addr == addr && candidate.settled())
    }

    /// Forgets what was not looked at for so long that it may belong to another network.
    pub fn forget(&mut self, now: Instant) {
        let old = |vote: &Vote<P>| now.saturating_duration_since(vote.at) >= limits::VERDICT_KEPT;
        for candidate in &mut self.candidates {
            candidate.votes.retain(|vote| !old(vote));
            if candidate.votes.is_empty() {
                candidate.stands = None;
            }
        }
        self.candidates.retain(|candidate| candidate.mapped || !candidate.votes.is_empty());
    }

    /// Candidates that reach as far as those whom we meet.
    fn here(&self) -> impl Iterator<Item = &Candidate<P>> {
        self.candidates.iter().filter(|candidate| Scope::of(candidate.place.ip) >= self.horizon)
    }

    pub fn report(&self) -> Report {
        let confirmed: Vec<&Candidate<P>> = self.here().filter(|candidate| candidate.confirmed()).collect();
        let mut direct: Vec<&Place> = confirmed.iter().map(|candidate| &candidate.place).collect();
        // Everybody has version 4.
        direct.sort_by_key(|place| (place.ip.is_ipv6(), place.addr.len()));
        let direct = direct.into_iter().map(|place| place.addr.clone()).collect();
        let (state, why) = self.judge(&confirmed);
        Report { state, why, direct }
    }

    fn judge(&self, confirmed: &[&Candidate<P>]) -> (Reachability, String) {
        if self.listening.is_empty() {
            return (Reachability::Private, "it listens nowhere, so nobody can connect to it".to_owned());
        }
        // Every machine has 127.0.0.1.
        let usable = self.horizon.min(Scope::Site);
        let has_v4 = self.listening.iter().any(|place| place.ip.is_ipv4() && Scope::of(place.ip) >= usable);
        let best = confirmed.iter().find(|candidate| candidate.place.ip.is_ipv4());
        let best = best.or(confirmed.first().filter(|_| !has_v4));
        if let Some(candidate) = best {
            return (Reachability::Public, self.praise(candidate));
        }
        let refuted: Vec<&Candidate<P>> = self.here().filter(|candidate| candidate.refuted()).collect();
        let over_v4 = refuted.iter().find(|candidate| candidate.place.ip.is_ipv4());
        if let Some(candidate) = over_v4.or(refuted.first().filter(|_| !has_v4)) {
            let mut why = format!("{} could not connect to {}", peers(candidate.votes.len()), candidate.place.addr);
            if !confirmed.is_empty() {
                why.push_str("; over IP version 6 others can, but not everybody has it");
            }
            why.push_str(match self.gateway {
                Gateway::Silent => "",
                Gateway::Absent => "; no router here opens ports on request (UPnP)",
                Gateway::Unroutable => "; the router has no public address itself",
            });
            return (Reachability::Private, why);
        }
        let why = match self.horizon_at {
            None => "it has met no other node yet",
            Some(_) => "no peer has tried to connect to it yet",
        };
        (Reachability::Unknown, why.to_owned())
    }

    fn praise(&self, candidate: &Candidate<P>) -> String {
        let addr = &candidate.place.addr;
        let good = candidate.votes.iter().filter(|vote| vote.ok).count();
        let how = match good {
            0 => format!("the router forwards {addr}; no peer has tried it yet"),
            good => format!("{} connected to {addr}", peers(good)),
        };
        match self.horizon {
            Scope::World => how,
            Scope::Site => format!("{how}; nobody outside this site was met"),
            Scope::Machine => format!("{how}; nobody outside this machine was met"),
        }
    }
}

fn peers(count: usize) -> String {
    if count == 1 { "a peer".to_owned() } else { format!("{count} peers") }
}

#[cfg(test)]
#[path = "reachability_tests.rs"]
mod tests;
