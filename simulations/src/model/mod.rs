//! The model: the very core that the node runs, a hundred thousand times, over links and a routing that are models of
//! the real ones. What it gives up against `world` is the crash between any two effects, the loss and the doubling of
//! single messages, and the store: here nodes come and go whole. What it gains is size.
//!
//! | file | what |
//! |---|---|
//! | `mod`, `wires` | the event loop; what is sent |
//! | `member`, `queue`, `memo` | a node; what happens when; signatures checked once for all |
//! | `links`, `routing` | how long a message takes; what a lookup costs and finds |
//! | `meter`, `recall` | bytes, by kind; who would be found |
//! | `plans`, `attack` | what users do; what liars do |
//! | `checks`, `story` | what must hold, always; the last events, for a replay |
//! | `scenario`, `run`, `observe`, `expect`, `shrink` | a file, its run, what was seen, what was promised, the smallest run that fails |
//! | `plot` | the same as pictures |
//! | `trial` | what the live engine measures, measured here |
mod attack;
pub mod checks;
pub mod expect;
pub mod links;
pub mod member;
mod memo;
pub mod meter;
pub mod observe;
mod plans;
pub mod plot;
mod queue;
mod recall;
pub mod routing;
pub mod run;
pub mod scenario;
pub mod shrink;
mod story;
pub mod trial;
mod wires;

use crate::rng::Dice;
use checks::Violation;
use links::Links;
use member::{Create, Nature, Node};
use memo::Memo;
use meter::{Kind, Wire};
use plans::Plan;
use protocol::core::provider::{Offer, Offering};
use protocol::core::{Effect, Input, NodeCore, RpcFailure, Verdict, Work};
use protocol::job::{JobId, JobReport};
use protocol::message::{PowerAction, VmPhase};
use protocol::names::{CreateId, LeaseId, Network};
use protocol::shard::{Block, Net, Position, Server};
use protocol::units::Timestamp;
use protocol::{Keypair, PeerId};
use queue::Queue;
use routing::Routing;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use story::Story;
use wires::mark_of;

pub type Id = u32;

/// The instant at which every run begins, by a clock that is right.
pub const BEGINNING: u64 = 1_700_000_000_000;
/// A mesh request ends after this, whatever it waits for.
const RPC_TIMEOUT: u64 = 5_000;
/// A new server has looked itself up, and those around it know it.
const JOINED_AFTER: u64 = 1_500;
/// One that ended without a word is missed by those around it: a ping's interval and its time-out.
const MISSED_AFTER: u64 = 70_000;
/// Servers that are told to a core.
const VICINITY: usize = 32;
/// Servers that a client knows of.
const KNOWN_TO_CLIENT: usize = 3;
/// Neighbours in gossip's mesh.
const GOSSIP_DEGREE: usize = 6;
/// A server looks itself up this often, as the node does.
const ROUTING_REFRESH: u64 = 3_600_000;
/// Between what a host has been asked and what it has done.
const BOOT: std::ops::Range<u64> = 5_000..20_000;

enum Event {
    Tick { node: Id, epoch: u32 },
    Request { to: Id, from: Id, epoch: u32, rpc: u64, kind: Kind, body: Vec<u8> },
    Response { node: Id, epoch: u32, rpc: u64, kind: Kind, result: Result<Vec<u8>, RpcFailure> },
    Gossip { to: Id, from: Id, mark: u64, body: Arc<[u8]> },
    Holders { node: Id, epoch: u32, ticket: u64, found: Vec<Id> },
    Vicinity { node: Id },
    Gone { at: Position },
    Survey { node: Id, epoch: u32 },
    Vm { node: Id, epoch: u32, job: JobId, lease_id: LeaseId, phase: VmPhase },
    Start { node: Id },
    Refresh { node: Id, epoch: u32 },
    Plan { node: Id, plan: Plan },
}

/// How a node is to be.
#[derive(Clone)]
pub struct Birth {
    pub public: bool,
    pub nature: Nature,
    pub city: u16,
    pub ip: Option<std::net::IpAddr>,
    pub offer: Option<Arc<Offer>>,
    pub clock: i64,
}

/// What everybody has sent, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    /// Gossip that came to anybody: for the first time, and in all.
    pub firsts: u64,
    pub copies: u64,
}

pub struct Model {
    /// Milliseconds since the beginning.
    pub now: u64,
    pub nodes: Vec<Node>,
    pub routing: Routing,
    pub dice: Dice,
    pub wire: Wire,
    pub leaf: usize,
    /// Lookups: rounds of each, and those that found none of the eight closest.
    pub rounds: Vec<u8>,
    pub failed_lookups: u64,
    pub events: u64,
    pub tally: Tally,
    /// Creates of all users, in the order of their asking.
    pub creates: Vec<Create>,
    /// The first invariant that did not hold; nothing happens after it.
    pub violation: Option<Violation>,
    pub story: Option<Story>,
    links: Links,
    network: Network,
    by_peer: HashMap<PeerId, Id>,
    queue: Queue<Event>,
    memo: Arc<Memo>,
    effects: Vec<Effect>,
    digest: DefaultHasher,
    swept: u64,
    false_routers: Vec<(Position, Id)>,
    partitioned: bool,
    create_of: HashMap<CreateId, usize>,
    looked: u64,
}

impl Model {
    pub fn new(seed: u64, links: Links, leaf: usize) -> Self {
        Model {
            now: 0,
            nodes: Vec::new(),
            routing: Routing::default(),
            dice: Dice::new(seed),
            wire: Wire::default(),
            leaf,
            rounds: Vec::new(),
            failed_lookups: 0,
            events: 0,
            tally: Tally::default(),
            creates: Vec::new(),
            violation: None,
            story: None,
            links,
            network: "simulated".parse().expect("a network's name"),
            by_peer: HashMap::new(),
            queue: Queue::default(),
            memo: Arc::new(Memo::default()),
            effects: Vec::new(),
            digest: DefaultHasher::new(),
            swept: 0,
            false_routers: Vec::new(),
            partitioned: false,
            create_of: HashMap::new(),
            looked: 0,
        }
    }

    /// A node that will start at this time.
    pub fn add(&mut self, birth: Birth, at: u64) -> Id {
        let key = Keypair::from_secret(&self.dice.bytes());
        self.add_with(key, birth, at)
    }
    pub fn add_with(&mut self, key: Keypair, birth: Birth, at: u64) -> Id {
        let id = self.nodes.len() as Id;
        let (peer, net) = (key.peer_id(), birth.ip.and_then(Net::of_ip));
        let place = Position::of_peer(peer);
        self.by_peer.insert(peer, id);
        self.nodes.push(Node {
            key,
            peer,
            at: place,
            core: None,
            public: birth.public,
            nature: birth.nature,
            city: birth.city,
            block: birth.ip.and_then(Block::of_ip),
            server: Arc::new(Server { peer, at: place, net, addrs: Vec::new() }),
            offer: birth.offer,
            clock: birth.clock,
            epoch: 0,
            tick_at: u64::MAX,
            tokens: Vec::new(),
            next_token: 0,
            neighbours: Vec::new(),
            heard: Vec::new(),
            judging: Vec::new(),
            connections: Vec::new(),
            doors: Vec::new(),
            vicinity_due: false,
            vms: Default::default(),
            started: at,
            meter: Default::default(),
            side: 0,
        });
        self.queue.push(at, Event::Start { node: id });
        id
    }

    pub fn network(&self) -> &Network {
        &self.network
    }
    pub fn id_of(&self, peer: PeerId) -> Option<Id> {
        self.by_peer.get(&peer).copied()
    }
    pub fn clock(&self, node: Id) -> Timestamp {
        Timestamp((BEGINNING + self.now).saturating_add_signed(self.nodes[node as usize].clock))
    }
    /// Two runs with one digest sent the same, in the same order.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn link(&self, id: Id) -> (u32, u16) {
        (id, self.nodes[id as usize].city)
    }
    fn delay(&mut self, from: Id, to: Id) -> u64 {
        let (a, b) = (self.link(from), self.link(to));
        self.links.delay(&mut self.dice, a, b).max(1)
    }
    fn can_talk(&self, a: Id, b: Id) -> bool {
        !self.partitioned || self.nodes[a as usize].side == self.nodes[b as usize].side
    }

    /// Takes events until this time has come.
    pub fn run_until(&mut self, until: u64) {
        while self.step(until) {}
    }
    /// False when nothing more happens before `until`, and when an invariant is broken.
    pub fn step(&mut self, until: u64) -> bool {
        if self.violation.is_some() {
            return false;
        }
        let Some((at, event)) = self.queue.pop(until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = at;
        self.events += 1;
        if self.now >= self.swept + 60_000 {
            self.swept = self.now;
            self.memo.sweep();
        }
        if self.story.is_some() {
            self.tell(&event);
        }
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, epoch } => {
                let due = self.nodes[node as usize].tick_at == self.now;
                if due && self.runs(node, epoch) {
                    self.nodes[node as usize].tick_at = u64::MAX;
                    self.input(node, Input::Tick);
                }
            }
            Event::Request { to, from, epoch, rpc, kind, body } => {
                self.request_arrives(to, from, epoch, rpc, kind, body)
            }
            Event::Response { node, epoch, rpc, kind, result } => {
                if self.runs(node, epoch) {
                    let bytes = result.as_ref().map_or(0, |body| body.len() + self.wire.request);
                    self.nodes[node as usize].meter.receive(kind, bytes);
                    self.input(node, Input::Response { rpc, result });
                }
            }
            Event::Gossip { to, from, mark, body } => self.gossip_arrives(to, from, mark, body),
            Event::Holders { node, epoch, ticket, found } => {
                if self.runs(node, epoch) {
                    let servers = found.iter().map(|id| self.nodes[*id as usize].server.clone()).collect();
                    self.input(node, Input::Holders { ticket, servers });
                }
            }
            Event::Vicinity { node } => self.look_around(node),
            Event::Gone { at } => {
                self.routing.leave(at);
                self.tell_neighbourhood(at, 0);
            }
            Event::Survey { node, epoch } => {
                let offer = self.nodes[node as usize].offer.clone().filter(|_| self.runs(node, epoch));
                if let Some(offer) = offer {
                    self.input(node, Input::Offer(Offering::Vms(Box::new((*offer).clone()))));
                }
            }
            Event::Vm { node, epoch, job, lease_id, phase } => {
                if self.runs(node, epoch) {
                    if phase == VmPhase::Gone {
                        self.nodes[node as usize].vms.remove(&lease_id);
                    }
                    self.input(node, Input::Job { job, report: JobReport::Done(phase) });
                }
            }
            Event::Start { node } => self.start(node),
            Event::Refresh { node, epoch } => {
                if self.runs(node, epoch) {
                    self.walk(node, self.nodes[node as usize].at);
                    self.queue.push(self.now + ROUTING_REFRESH, Event::Refresh { node, epoch });
                }
            }
            Event::Plan { node, plan } => self.carry_out(node, plan),
        }
    }

    fn runs(&self, node: Id, epoch: u32) -> bool {
        let node = &self.nodes[node as usize];
        node.core.is_some() && node.epoch == epoch
    }

    fn start(&mut self, id: Id) {
        let now = self.clock(id);
        let seed = self.dice.bytes();
        let node = &mut self.nodes[id as usize];
        if node.is_up() {
            return;
        }
        node.epoch += 1;
        node.started = self.now;
        let (epoch, at, public) = (node.epoch, node.at, node.public);
        if node.nature == Nature::Honest {
            let core = NodeCore::new(now, node.key.clone(), self.network.clone(), seed, Vec::new());
            let core = core.expect("nothing was stored").tuned(self.leaf, self.memo.clone());
            node.core = Some(Box::new(core));
        }
        if public {
            self.routing.join(at, id);
            if self.nodes[id as usize].nature == Nature::FalseRouter {
                self.false_routers.push((at, id));
            }
            self.tell_neighbourhood(at, JOINED_AFTER);
            let first = self.dice.within(0..ROUTING_REFRESH);
            self.queue.push(self.now + first, Event::Refresh { node: id, epoch });
        } else {
            self.queue.push(self.now + JOINED_AFTER, Event::Vicinity { node: id });
        }
        self.meet(id);
        self.queue.push(self.now + JOINED_AFTER + 200, Event::Survey { node: id, epoch });
    }

    /// A few others to gossip with, as they come.
    fn meet(&mut self, id: Id) {
        for _ in 0..GOSSIP_DEGREE * 2 {
            let other = self.dice.index(self.nodes.len()) as Id;
            let (mine, theirs) = (&self.nodes[id as usize], &self.nodes[other as usize]);
            let room = mine.neighbours.len() < GOSSIP_DEGREE && theirs.neighbours.len() < GOSSIP_DEGREE * 2;
            if other != id && room && theirs.core.is_some() && mine.core.is_some() && !mine.neighbours.contains(&other)
            {
                self.nodes[id as usize].neighbours.push(other);
                self.nodes[other as usize].neighbours.push(id);
                let (a, b) = (self.nodes[id as usize].peer, self.nodes[other as usize].peer);
                self.connect(id, other, Kind::Gossip);
                self.input(id, Input::PeerConnected(b));
                self.input(other, Input::PeerConnected(a));
            }
        }
    }

    /// The servers around a place look around soon.
    fn tell_neighbourhood(&mut self, at: Position, after: u64) {
        for (_, id) in self.routing.closest(at, VICINITY + 1) {
            let node = &mut self.nodes[id as usize];
            if !node.vicinity_due && node.core.is_some() {
                node.vicinity_due = true;
                let later = self.dice.within(0..1_000);
                self.queue.push(self.now + after + later, Event::Vicinity { node: id });
            }
        }
    }

    fn look_around(&mut self, id: Id) {
        let node = &mut self.nodes[id as usize];
        node.vicinity_due = false;
        if node.core.is_none() {
            return;
        }
        let (at, own) = (node.at, node.public.then(|| node.server.clone()));
        let count = if own.is_some() { VICINITY + 1 } else { KNOWN_TO_CLIENT };
        let near = self.routing.closest(at, count);
        let others = near.into_iter().filter(|(_, other)| *other != id && self.can_talk(id, *other));
        let servers: Vec<Arc<Server>> = others.map(|(_, other)| self.nodes[other as usize].server.clone()).collect();
        if servers.is_empty() {
            // The first of all; whoever comes is met.
            self.nodes[id as usize].vicinity_due = true;
            self.queue.push(self.now + JOINED_AFTER, Event::Vicinity { node: id });
        }
        self.input(id, Input::Vicinity { own, servers });
    }

    /// It ends: with a goodbye (its advert is withdrawn), or without.
    pub fn stop(&mut self, id: Id, goodbye: bool) {
        if goodbye && self.nodes[id as usize].core.is_some() {
            self.input(id, Input::Drain);
        }
        let node = &mut self.nodes[id as usize];
        if !node.is_up() {
            return;
        }
        node.core = None;
        node.epoch += 1;
        node.tick_at = u64::MAX;
        node.heard = Vec::new();
        node.judging = Vec::new();
        let (at, peer, public) = (node.at, node.peer, node.public);
        // Whoever asked it waits until the time-out.
        for token in std::mem::take(&mut node.tokens) {
            self.fail(token.from, token.epoch, token.rpc, token.kind, RPC_TIMEOUT, RpcFailure::Timeout);
        }
        let neighbours = std::mem::take(&mut self.nodes[id as usize].neighbours);
        self.nodes[id as usize].connections = Vec::new();
        for other in neighbours {
            self.nodes[other as usize].neighbours.retain(|neighbour| *neighbour != id);
            if self.nodes[other as usize].core.is_some() {
                self.input(other, Input::PeerDisconnected(peer));
            }
        }
        if public {
            let after = if goodbye { 100 } else { MISSED_AFTER };
            self.queue.push(self.now + after, Event::Gone { at });
        }
    }
    pub fn start_at(&mut self, id: Id, at: u64) {
        self.queue.push(at, Event::Start { node: id });
    }

    /// Nodes of different sides hear nothing of each other from now on.
    pub fn partition(&mut self, side: impl Fn(Id) -> u8) {
        self.partitioned = true;
        for id in 0..self.nodes.len() {
            self.nodes[id].side = side(id as Id);
        }
        self.everybody_looks(MISSED_AFTER);
    }
    pub fn heal(&mut self) {
        self.partitioned = false;
        self.everybody_looks(JOINED_AFTER * 4);
    }
    fn everybody_looks(&mut self, within: u64) {
        for id in 0..self.nodes.len() {
            if self.nodes[id].core.is_some() && !self.nodes[id].vicinity_due {
                self.nodes[id].vicinity_due = true;
                let later = self.dice.within(0..within);
                self.queue.push(self.now + later, Event::Vicinity { node: id as Id });
            }
        }
    }

    /// Gives a core an input and performs what it decides.
    pub fn input(&mut self, id: Id, input: Input) {
        let now = self.clock(id);
        let Some(core) = self.nodes[id as usize].core.as_mut() else { return };
        core.handle(now, input);
        let mut effects = std::mem::take(&mut self.effects);
        effects.extend(core.drain_effects());
        for effect in effects.drain(..) {
            self.perform(id, effect);
        }
        self.effects = effects;
        self.schedule(id, now);
        self.check_node(id);
    }

    fn schedule(&mut self, id: Id, now: Timestamp) {
        let node = &mut self.nodes[id as usize];
        let Some(deadline) = node.core.as_ref().and_then(|core| core.next_deadline()) else { return };
        if deadline <= now {
            return self.violated(checks::RESTS, format!("node {id} wants to be woken at once, again and again"));
        }
        let at = self.now + (deadline - now).0;
        if node.tick_at != at {
            node.tick_at = at;
            self.queue.push(at, Event::Tick { node: id, epoch: node.epoch });
        }
    }

    fn perform(&mut self, id: Id, effect: Effect) {
        match effect {
            Effect::Send { rpc, to, body } => self.send(id, rpc, to, body),
            Effect::Reply { token, body } => self.reply(id, token, body),
            Effect::Publish(body) => {
                let mark = mark_of(&body);
                self.hear(id, mark);
                self.flood(id, None, mark, body.into());
            }
            Effect::Judge { id: mark, verdict } => {
                let judging = &mut self.nodes[id as usize].judging;
                let Some(n) = judging.iter().position(|(waiting, ..)| *waiting == mark) else { return };
                let (_, from, body) = judging.swap_remove(n);
                if verdict == Verdict::Accept {
                    self.check_gossip(id, &body);
                    self.flood(id, Some(from), mark, body);
                }
            }
            Effect::FindHolders { ticket, key } => self.find(id, ticket, Position::of_key(&key)),
            Effect::RunJob(order) => {
                let (phase, after) = match order.work {
                    Work::Provision(vm) => {
                        self.nodes[id as usize].vms.insert(vm.lease_id, vm.spec.resources);
                        (VmPhase::Running, self.dice.within(BOOT))
                    }
                    Work::Power { action: PowerAction::Stop { .. }, .. } => (VmPhase::Stopped, 2_000),
                    Work::Power { .. } | Work::Scale(_) => (VmPhase::Running, 2_000),
                    Work::Remove => (VmPhase::Gone, 500),
                };
                self.vm_after(id, order.job, order.lease_id, phase, after);
            }
            // What would be said of it comes too late to be heard.
            Effect::AbortJob(_) => {}
            Effect::Rental(create_id) => self.note_rental(id, create_id),
            Effect::Persist(_)
            | Effect::Learn { .. }
            | Effect::Answer { .. }
            | Effect::Notice { .. }
            | Effect::Event(_)
            | Effect::Offence { .. } => {}
        }
    }

    fn vm_after(&mut self, node: Id, job: JobId, lease_id: LeaseId, phase: VmPhase, after: u64) {
        let epoch = self.nodes[node as usize].epoch;
        self.queue.push(self.now + after, Event::Vm { node, epoch, job, lease_id, phase });
    }
}
