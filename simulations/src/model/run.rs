//! Runs a scenario: makes its nodes, lets happen what it says, and looks every minute at what there is.
use super::checks::Violation;
use super::expect::Failure;
use super::links::Links;
use super::member::Nature;
use super::observe::{Minute, Seen, Summary};
use super::scenario::{Attack, Scenario};
use super::story::Story;
use super::{Birth, Id, Model};
use crate::scenario::Scenario as Users;
use protocol::shard::Shard;
use protocol::units::Resources;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub const MINUTE: u64 = 60_000;
/// A rush: everybody within this.
const FLASH: u64 = 10_000;

pub struct Run {
    pub scenario: Scenario,
    pub model: Model,
    pub minutes: Vec<Minute>,
    pub(super) seen: Seen,
    /// Every honest node there ever was.
    pub(super) honest: Vec<Id>,
    /// What is eclipsed.
    pub(super) target: Option<Shard>,
}

/// How a run ended.
pub struct Ended {
    pub summary: Summary,
    pub violation: Option<Violation>,
    pub failures: Vec<Failure>,
    /// The last events, if they were asked for.
    pub story: Vec<String>,
}

impl Ended {
    pub fn is_well(&self) -> bool {
        self.violation.is_none() && self.failures.is_empty()
    }
    /// What went wrong first, by its name.
    pub fn first_failure(&self) -> Option<&str> {
        let broken = self.violation.as_ref().map(|violation| violation.invariant);
        broken.or_else(|| self.failures.first().map(|failure| failure.what))
    }
}

impl Run {
    pub fn new(scenario: Scenario) -> Self {
        let links = Links::new(scenario.links.delays, scenario.links.jitter, scenario.links.loss);
        let model = Model::new(scenario.seed, links, scenario.leaf);
        let mut run =
            Run { scenario, model, minutes: Vec::new(), seen: Seen::default(), honest: Vec::new(), target: None };
        run.populate();
        run
    }

    /// Keeps the last events for who replays it.
    pub fn telling(mut self) -> Self {
        self.model.story = Some(Story::default());
        self
    }

    /// Public unicast space, less what is private or reserved in it.
    pub(super) fn anywhere(&mut self) -> Ipv4Addr {
        loop {
            let ip = Ipv4Addr::from(self.model.dice.within(0x0100_0000..0xdf00_0000) as u32);
            if protocol::shard::Net::of_ip(ip.into()).is_some() {
                return ip;
            }
        }
    }

    pub(super) fn birth(&mut self, public: bool, provides: bool, nature: Nature) -> Birth {
        let (vms, skew) = (self.scenario.nodes.vms, self.scenario.nodes.skew_s * 1000);
        let clock = if skew == 0 { 0 } else { self.model.dice.within(0..2 * skew) as i64 - skew as i64 };
        let city = self.model.dice.index(Links::cities()) as u16;
        let cents = self.model.dice.within(1..20);
        let small = Resources::SMALL;
        let total = Resources::new(vms, small.memory_mib.0 * u64::from(vms), small.disk_gib.0 * u64::from(vms));
        let mut offer = Users::offer(total, vms, &format!("0.{cents:02}"));
        offer.country = Links::country(city).parse().ok();
        let ip = Some(IpAddr::V4(self.anywhere()));
        Birth { public, nature, city, ip, offer: provides.then(|| Arc::new(offer)), clock }
    }

    fn populate(&mut self) {
        let (nodes, attack) = (self.scenario.nodes.clone(), self.scenario.attack);
        let (false_routers, silent) = match attack {
            Some(Attack::FalseRouters { percent }) => (percent, 0),
            Some(Attack::SilentHolders { percent }) => (0, percent),
            _ => (0, 0),
        };
        for n in 0..nodes.providers + nodes.requestors {
            let provides = n < nodes.providers;
            // Spread evenly, so that a small run has its share too.
            let public = provides && (n + 1) * nodes.public / 100 > n * nodes.public / 100;
            let drawn = self.model.dice.within(0..100) as u32;
            let nature = match () {
                () if public && drawn < false_routers => Nature::FalseRouter,
                () if public && drawn < false_routers + silent => Nature::Silent,
                () => Nature::Honest,
            };
            let birth = self.birth(public, provides && nature == Nature::Honest, nature);
            let at = self.model.dice.within(0..(nodes.ramp_s * 1000).max(1));
            let id = self.model.add(birth, at);
            if nature == Nature::Honest {
                self.honest.push(id);
            }
        }
    }

    /// To the end, or to this time; `look` is shown every minute as it ends.
    pub fn run(&mut self, until: Option<u64>, mut look: impl FnMut(&Minute)) -> Ended {
        let end = until.unwrap_or(u64::MAX).min(self.scenario.minutes * MINUTE);
        for minute in 0..end.div_ceil(MINUTE) {
            self.act(minute);
            self.model.run_until(((minute + 1) * MINUTE).min(end));
            self.model.check_all();
            if self.model.violation.is_some() || self.model.now < (minute + 1) * MINUTE {
                break;
            }
            let seen = self.observe(minute + 1);
            look(&seen);
            self.minutes.push(seen);
        }
        let summary = self.summary();
        let whole = self.minutes.len() as u64 == self.scenario.minutes;
        let failures = if whole { self.scenario.expect.failures(&summary) } else { Vec::new() };
        let story = self.model.story.iter().flat_map(Story::lines).map(str::to_owned).collect();
        Ended { summary, violation: self.model.violation.clone(), failures, story }
    }

    /// What the scenario lets happen in this minute.
    fn act(&mut self, minute: u64) {
        if let Some(churn) = self.scenario.churn.filter(|churn| churn.from_minute <= minute) {
            self.churn(churn.percent_per_minute, churn.silent);
        }
        if let Some(partition) = self.scenario.partition {
            if minute == partition.from_minute {
                let percent = u64::from(partition.percent);
                // A hash of the number, so that neither role nor age decides the side.
                let side = |id: Id| (u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 100 < percent;
                self.model.partition(|id| u8::from(side(id)));
            } else if minute == partition.from_minute + partition.minutes {
                self.model.heal();
            }
        }
        match self.scenario.attack {
            Some(Attack::SybilAdverts { ratio, blocks, from_minute }) if from_minute == minute => {
                self.sybil_adverts(ratio, blocks);
            }
            Some(Attack::Eclipse { ids, nets, from_minute }) if from_minute == minute => self.eclipse(ids, nets),
            Some(Attack::Forgers { per_minute, from_minute }) if from_minute <= minute => self.forgers(per_minute),
            _ => {}
        }
        self.requests(minute);
    }

    /// Each node that leaves is followed by another of its kind, somewhere in the same minute.
    fn churn(&mut self, percent: f64, silent: u32) {
        let up: Vec<Id> = self.honest.iter().copied().filter(|id| self.model.node(*id).core.is_some()).collect();
        self.honest.clone_from(&up);
        for id in up {
            if self.model.dice.within(0..1_000_000) as f64 >= percent * 10_000.0 {
                continue;
            }
            let goodbye = !self.model.dice.percent(silent);
            let (public, provides) = (self.model.node(id).public, self.model.node(id).offer.is_some());
            let (leaves, comes) = (self.model.dice.within(0..MINUTE), self.model.dice.within(0..MINUTE));
            self.model.stop_at(id, self.model.now + leaves, goodbye);
            let birth = self.birth(public, provides, Nature::Honest);
            let id = self.model.add(birth, self.model.now + comes);
            self.honest.push(id);
        }
    }

    /// Creates arrive independently of each other: the time between two is exponential.
    fn requests(&mut self, minute: u64) {
        let wanted = self.scenario.requests;
        let (begin, mut at) = (self.model.now, 0.0);
        if wanted.per_minute > 0.0 && minute >= wanted.from_minute {
            let mean = MINUTE as f64 / wanted.per_minute;
            loop {
                at += self.exponential(mean);
                if at >= MINUTE as f64 {
                    break;
                }
                self.request(begin + at as u64);
            }
        }
        if minute == wanted.flash_minute {
            for _ in 0..wanted.flash {
                let at = begin + self.model.dice.within(0..FLASH);
                self.request(at);
            }
        }
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        let unit = (self.model.dice.within(0..1 << 53) as f64 + 1.0) / (1u64 << 53) as f64;
        -unit.ln() * mean
    }

    /// Of a requestor that is there when the minute begins.
    fn request(&mut self, at: u64) {
        let wanted = self.scenario.requests;
        let there = |id: &Id| self.model.node(*id).core.is_some() && self.model.node(*id).offer.is_none();
        let requestors: Vec<Id> = self.honest.iter().copied().filter(there).collect();
        if requestors.is_empty() {
            return;
        }
        let node = requestors[self.model.dice.index(requestors.len())];
        let abandoned = self.model.dice.percent(wanted.abandoned);
        let lifetime = self.exponential(wanted.lifetime_s as f64 * 1000.0) as u64;
        self.model.create_at(node, at, (!abandoned).then_some(lifetime), wanted.lease_s * 1000);
    }
}
