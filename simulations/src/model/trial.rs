//! What the live engine measures of real nodes, done in the model: an advert that reaches everybody by gossip, and one
//! that is put and looked for. `live::calibrate` lays the two beside each other.
use super::links::{Delays, Links};
use super::member::Nature;
use super::observe::percentile;
use super::{Birth, Id, Model};
use crate::scenario::Scenario as Users;
use protocol::core::Input;
use protocol::core::provider::Offering;
use protocol::names::{Arch, IsolationWanted};
use protocol::spec::Query;
use protocol::units::{MemoryMib, Resources};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Everybody lives in a /16 of its own, from 16.0.0.0 on, as the live nodes do.
const FIRST_SUBNET: u32 = 0x1000;
/// What a provider lets at first, in MiB: more with each change, and always of the largest tier.
const LEAST: u64 = 32 * 1024;
/// All start within this: as fast as one process starts them.
const RAMP: u64 = 2_000;
/// Everybody has met everybody it will meet.
const SETTLED: u64 = 120_000;
/// What a message or a search may take, beyond which it is counted as lost.
const ARRIVES_WITHIN: u64 = 30_000;
/// Each provider puts something new this often while the tree grows, and it has grown within that.
const STIR_EVERY: u64 = 20_000;
const TREE_WITHIN: u64 = 600_000;
/// Acknowledgements after which an advert is to be found by everybody.
const ENOUGH: usize = 2;

/// The setup of a live fleet, as far as the model has a word for it.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub nodes: u32,
    pub providers: u32,
    pub leaf: usize,
    pub delays: Delays,
    pub seed: u64,
}

/// Of adverts said one after the other, the median over them; a second and node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Announced {
    pub t50_ms: f64,
    pub t99_ms: f64,
    pub reached: f64,
    pub copies: f64,
    pub bytes_per_s: f64,
    pub requests_per_s: f64,
}

/// Of adverts put and looked for by everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LookedUp {
    pub made: usize,
    pub found: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub put_p50_ms: f64,
    pub put_p99_ms: f64,
    /// For each lookup, of the whole mesh.
    pub requests: f64,
    pub kib: f64,
    pub depth: u8,
}

/// What everybody has sent up to a time.
#[derive(Clone, Copy)]
struct Mark {
    at: u64,
    bytes: u64,
    requests: u64,
    firsts: u64,
    copies: u64,
}

pub struct Trial {
    model: Model,
    providers: Vec<Id>,
    changes: u64,
}

impl Trial {
    pub fn new(fleet: &Fleet) -> Self {
        let model = Model::new(fleet.seed, Links::new(fleet.delays, 0, 0), fleet.leaf);
        let mut trial = Trial { model, providers: Vec::new(), changes: 0 };
        let many = fleet.providers.min(fleet.nodes);
        // Evenly among the others, so that they join early, late and in between.
        let offering: Vec<u32> = (0..many).map(|index| index * fleet.nodes / many).collect();
        for at in 0..fleet.nodes {
            let provides = offering.contains(&at);
            let ip = IpAddr::V4(Ipv4Addr::from((FIRST_SUBNET + at) << 16 | 1));
            let offer = provides.then(|| Arc::new(offer(0)));
            let birth = Birth { public: true, nature: Nature::Honest, city: 0, ip: Some(ip), offer, clock: 0 };
            let id = trial.model.add(birth, u64::from(at) * RAMP / u64::from(fleet.nodes.max(1)));
            if provides {
                trial.providers.push(id);
            }
        }
        trial
    }

    /// Has a provider's host say that it has something else to let. Returns what it lets from now on.
    fn change(&mut self, provider: Id) -> MemoryMib {
        self.changes += 1;
        let offer = offer(self.changes);
        let lets = offer.total.memory_mib;
        self.model.input(provider, Input::Offer(Offering::Vms(Box::new(offer))));
        lets
    }

    fn mark(&self) -> Mark {
        let tally = self.model.tally;
        let bytes = self.model.nodes.iter().map(|node| node.meter.sent()).sum();
        Mark { at: self.model.now, bytes, requests: tally.requests, firsts: tally.firsts, copies: tally.copies }
    }
    /// Bytes of everybody since then, pings with them.
    fn bytes_since(&self, mark: Mark) -> f64 {
        let now = self.model.now;
        let open = |until: &&(Id, u64)| until.1 > now;
        let connections: usize = self.model.nodes.iter().map(|node| node.connections.iter().filter(open).count()).sum();
        let pings = self.model.wire.ping_per_connection * connections as f64 * self.seconds_since(mark);
        (self.mark().bytes - mark.bytes) as f64 + pings
    }
    fn seconds_since(&self, mark: Mark) -> f64 {
        (self.model.now - mark.at) as f64 / 1000.0
    }

    /// So many adverts, one every `spacing` milliseconds, by each provider in its turn.
    pub fn announce(mut self, messages: usize, spacing: u64) -> Announced {
        self.model.run_until(SETTLED);
        let (mark, nodes) = (self.mark(), self.model.nodes.len());
        let (mut said, mut came) = (Vec::new(), vec![vec![None::<u64>; nodes]; messages]);
        let mut seen = vec![u64::MAX; nodes];
        let begin = self.model.now;
        for message in 0..messages {
            let provider = self.providers[message % self.providers.len()];
            let lets = self.change(provider);
            said.push((provider, lets));
            let last = message + 1 == messages;
            let until = begin + (message as u64 + 1) * spacing + if last { ARRIVES_WITHIN } else { 0 };
            while self.model.step(until) {
                self.look(&said, &mut came, &mut seen);
                if last && came.iter().flatten().all(Option::is_some) {
                    break;
                }
            }
        }
        let pairs = (messages * (nodes - 1)) as f64;
        let took = |(message, row): (usize, &Vec<Option<u64>>)| -> Option<Vec<u64>> {
            let (provider, _) = said[message];
            let own = row[provider as usize]?;
            let others = row.iter().enumerate().filter(|(id, _)| *id != provider as usize);
            Some(others.filter_map(|(_, at)| at.map(|at| at - own)).collect())
        };
        let spreads: Vec<Vec<u64>> = came.iter().enumerate().filter_map(took).collect();
        let median = |percent: usize| {
            let of = |spread: &Vec<u64>| {
                let mut sorted = spread.clone();
                sorted.sort_unstable();
                sorted.get(((nodes - 1) * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(ARRIVES_WITHIN)
            };
            percentile(&mut spreads.iter().map(of).collect::<Vec<u64>>(), 50) as f64
        };
        let (now, seconds) = (self.mark(), self.seconds_since(mark) * nodes as f64);
        Announced {
            t50_ms: median(50),
            t99_ms: median(99),
            reached: spreads.iter().map(Vec::len).sum::<usize>() as f64 / pairs,
            copies: (now.copies - mark.copies) as f64 / (now.firsts - mark.firsts).max(1) as f64,
            bytes_per_s: self.bytes_since(mark) / seconds,
            requests_per_s: (now.requests - mark.requests) as f64 / seconds,
        }
    }

    /// On whose board does what was said stand now?
    fn look(&self, said: &[(Id, MemoryMib)], came: &mut [Vec<Option<u64>>], seen: &mut [u64]) {
        for (id, node) in self.model.nodes.iter().enumerate() {
            let Some(core) = &node.core else { continue };
            if std::mem::replace(&mut seen[id], core.board().revision()) == core.board().revision() {
                continue;
            }
            for (message, (provider, lets)) in said.iter().enumerate() {
                let provider = self.model.nodes[*provider as usize].peer;
                let entry = core.board().get(self.model.clock(id as Id), provider);
                if entry.is_some_and(|entry| entry.advert.terms.largest.memory_mib == *lets) {
                    came[message][id].get_or_insert(self.model.now);
                }
            }
        }
    }

    /// Once nobody gossips, one provider after the other lets more than anybody before it; as soon as two holders have
    /// taken that advert everybody else asks for it, `at_once` at the same time. None if the tree does not grow.
    pub fn look_up(mut self, lookups: usize, at_once: usize) -> Option<LookedUp> {
        self.model.run_until(SETTLED);
        self.grow()?;
        let (mark, nodes) = (self.mark(), self.model.nodes.len() as Id);
        let (mut done, mut puts, mut took) = (LookedUp::default(), Vec::new(), Vec::new());
        let mut round = 0;
        while done.made < lookups {
            let provider = self.providers[round % self.providers.len()];
            round += 1;
            let began = self.model.now;
            let lets = self.change(provider);
            while !self.acknowledged(provider, lets) && self.model.step(began + ARRIVES_WITHIN) {}
            puts.push(self.model.now - began);
            let depths = self.model.nodes[provider as usize].core.iter().flat_map(|core| core.shards().depths());
            done.depth = depths.map(|(_, depth)| depth).max().unwrap_or(0).max(done.depth);
            let askers: VecDeque<Id> = (0..nodes).filter(|id| *id != provider).take(lookups - done.made).collect();
            self.ask(askers, at_once, provider, lets, &mut done, &mut took);
        }
        let now = self.mark();
        let each = done.made.max(1) as f64;
        (done.p50_ms, done.p99_ms) = (percentile(&mut took, 50) as f64, percentile(&mut took, 99) as f64);
        (done.put_p50_ms, done.put_p99_ms) = (percentile(&mut puts, 50) as f64, percentile(&mut puts, 99) as f64);
        done.requests = (now.requests - mark.requests) as f64 / each;
        done.kib = self.bytes_since(mark) / each / 1024.0;
        Some(done)
    }

    fn grow(&mut self) -> Option<()> {
        let gossips = |id: &Id, model: &Model| {
            model.nodes[*id as usize].core.as_ref().is_some_and(|core| core.shards().gossips())
        };
        let end = self.model.now + TREE_WITHIN;
        while self.providers.iter().any(|id| gossips(id, &self.model)) {
            if self.model.now >= end {
                return None;
            }
            for provider in self.providers.clone() {
                self.change(provider);
            }
            self.model.run_until(self.model.now + STIR_EVERY);
        }
        Some(())
    }

    fn acknowledged(&self, provider: Id, lets: MemoryMib) -> bool {
        let node = &self.model.nodes[provider as usize];
        let own = |core: &protocol::core::NodeCore| {
            let entry = core.board().get(self.model.clock(provider), node.peer);
            entry.is_some_and(|entry| entry.advert.terms.largest.memory_mib == lets)
        };
        node.core.as_ref().is_some_and(|core| own(core) && core.shards().acknowledged() >= ENOUGH)
    }

    fn ask(
        &mut self,
        mut askers: VecDeque<Id>,
        at_once: usize,
        provider: Id,
        lets: MemoryMib,
        done: &mut LookedUp,
        took: &mut Vec<u64>,
    ) {
        let want = Resources { memory_mib: lets, ..Resources::default() };
        let query = Query { want, isolation: IsolationWanted::Any, arch: Some(Arch::X86_64), ..Query::default() };
        let (wanted, end) = (self.model.nodes[provider as usize].peer, self.model.now + 10 * ARRIVES_WITHIN);
        let mut asking: Vec<(Id, u64)> = Vec::new();
        while !askers.is_empty() || !asking.is_empty() {
            while asking.len() < at_once.max(1)
                && let Some(asker) = askers.pop_front()
            {
                asking.push((asker, self.model.now));
                self.model.input(asker, Input::Search { query: query.clone(), wanted: 1 });
            }
            let model = &self.model;
            asking.retain(|(asker, began)| {
                let Some(core) = model.nodes[*asker as usize].core.as_ref() else { return false };
                if core.is_searching() {
                    return true;
                }
                let found =
                    core.board().query(model.clock(*asker), &query).any(|entry| entry.advert.provider == wanted);
                done.made += 1;
                done.found += usize::from(found);
                took.push(model.now - began);
                false
            });
            if (asking.len() >= at_once || askers.is_empty()) && !asking.is_empty() && !self.model.step(end) {
                return;
            }
        }
    }
}

fn offer(change: u64) -> protocol::core::provider::Offer {
    Users::offer(Resources::new(64, LEAST + change, 1000), 10, "0.01")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(providers: u32, leaf: usize) -> Trial {
        Trial::new(&Fleet { nodes: 24, providers, leaf, delays: Delays::Uniform { least: 20, most: 50 }, seed: 1 })
    }

    #[test]
    fn what_is_said_reaches_everybody_in_a_few_hops() {
        let figures = fleet(8, 64).announce(8, 1000);
        assert_eq!(figures.reached, 1.0);
        assert!((20.0..300.0).contains(&figures.t50_ms) && figures.t99_ms >= figures.t50_ms, "{figures:?}");
        assert!(figures.copies >= 1.0 && figures.bytes_per_s > 0.0, "{figures:?}");
    }

    #[test]
    fn what_was_put_is_found() {
        let figures = fleet(20, 8).look_up(60, 8).unwrap();
        assert_eq!((figures.made, figures.found), (60, 60), "{figures:?}");
        assert!(figures.depth > 0 && figures.p50_ms > 40.0 && figures.requests > 1.0, "{figures:?}");
    }
}
