//! The event loop: takes what happens next, gives it to a core, performs its effects one by one.
use crate::crashes::{self, Hits, Point, When};
use crate::host::{Host, Outcome, Step, Temper};
use crate::network::{CRASH_NOTICED, CUT_NOTICED, Network, RPC_TIMEOUT, Weather};
use crate::node::SimNode;
use crate::rng::Dice;
use crate::room::{WAITS, Waiting};
use protocol::core::provider::{Offer, Offering};
use protocol::core::{Effect, Input, NodeCore, RpcFailure, Verdict};
use protocol::job::{Found, JobId, JobReport};
use protocol::names::Network as NetworkName;
use protocol::units::Timestamp;
use protocol::{Fault, Keypair};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

pub type NodeId = usize;

/// The instant at which every run begins, by a clock that is right: some day in 2023.
pub const BEGINNING: u64 = 1_700_000_000_000;
/// How long after its start a node has asked its host what there is to let.
const SURVEY: u64 = 200;
/// How often the hypervisor's list is held against the ledger, and how often while they differ.
const RECONCILE: u64 = 5_000;
const LOOK_AGAIN: u64 = 1_000;
/// How old such a list may be when it is looked at.
const LISTING: u64 = 300;
/// A core that wakes itself without end is a bug, not a load.
const MOST_STEPS: u64 = 2_000_000;

enum Happening {
    Tick { node: NodeId, epoch: u64 },
    Request { from: NodeId, epoch: u64, rpc: u64, to: NodeId, body: Vec<u8> },
    Response { node: NodeId, epoch: u64, rpc: u64, result: Result<Vec<u8>, RpcFailure> },
    Gossip { from: NodeId, to: NodeId, body: Vec<u8> },
    Link { a: NodeId, b: NodeId },
    Unlink { a: NodeId, b: NodeId },
    Host { node: NodeId, epoch: u64, job: JobId, step: Step },
    Report { node: NodeId, epoch: u64, job: JobId, report: JobReport },
    Survey { node: NodeId, epoch: u64 },
    Reconcile { node: NodeId, epoch: u64 },
    Inventory { node: NodeId, epoch: u64, found: Vec<Found> },
    Restart { node: NodeId },
}

pub struct World {
    /// Milliseconds since the beginning.
    pub now: u64,
    pub nodes: Vec<SimNode>,
    pub network: Network,
    pub dice: Dice,
    pub network_name: NetworkName,
    /// Every line of what happened, when a run is being replayed for somebody to read.
    pub story: Option<Vec<String>>,
    /// Where nodes died that were aimed at.
    pub hits: Hits,
    queue: BTreeMap<(u64, u64), Happening>,
    next_event: u64,
    steps: u64,
    digest: DefaultHasher,
}

impl World {
    pub fn new(seed: u64, weather: Weather) -> Self {
        World {
            now: 0,
            nodes: Vec::new(),
            network: Network::new(weather),
            dice: Dice::new(seed),
            network_name: "simulated".parse().expect("a network's name"),
            story: None,
            hits: Hits::new(),
            queue: BTreeMap::new(),
            next_event: 0,
            steps: 0,
            digest: DefaultHasher::new(),
        }
    }

    pub fn add_node(&mut self, offer: Option<Offer>, temper: Temper, clock: i64) -> NodeId {
        let key = Keypair::from_secret(&self.dice.bytes());
        let id = self.nodes.len();
        self.nodes.push(SimNode::new(key, Host::new(temper), offer, clock));
        self.start(id);
        id
    }

    /// What a node's own clock shows.
    pub fn clock(&self, node: NodeId) -> Timestamp {
        Timestamp((BEGINNING + self.now).saturating_add_signed(self.nodes[node].clock))
    }
    pub fn steps(&self) -> u64 {
        self.steps
    }
    /// Two runs with one digest did the same, effect by effect.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>9} ms  {}", self.now, line()));
        }
    }

    fn at(&mut self, delay: u64, happening: Happening) {
        self.next_event += 1;
        self.queue.insert((self.now + delay, self.next_event), happening);
    }

    /// Takes the next event if it comes before `until`; false when none does, and it is `until` then.
    pub fn step(&mut self, until: u64) -> bool {
        let next = self.queue.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= until);
        let Some(((at, _), happening)) = next.and_then(|_| self.queue.pop_first()) else {
            self.pass_until(until);
            return false;
        };
        self.pass_until(at);
        self.steps += 1;
        assert!(self.steps < MOST_STEPS, "invariant ends: more than {MOST_STEPS} events: something never rests");
        self.happen(happening);
        true
    }

    fn pass_until(&mut self, then: u64) {
        let ms = then.saturating_sub(self.now);
        for node in &mut self.nodes {
            let is_seen = node.core.is_some() && node.waiting.is_none();
            node.host.watch.pass(&node.host.vms, ms, is_seen);
        }
        self.now += ms;
    }

    fn is_running(&self, node: NodeId, epoch: u64) -> bool {
        self.nodes[node].core.is_some() && self.nodes[node].epoch == epoch
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { node, epoch } => {
                if self.is_running(node, epoch) && self.nodes[node].tick_at == Some(self.now) {
                    self.nodes[node].tick_at = None;
                    self.input(node, Input::Tick);
                }
            }
            Happening::Request { from, epoch, rpc, to, body } => self.request_arrives(from, epoch, rpc, to, body),
            Happening::Response { node, epoch, rpc, result } => {
                if self.is_running(node, epoch) {
                    self.input(node, Input::Response { rpc, result });
                }
            }
            Happening::Gossip { from, to, body } => self.gossip_arrives(from, to, body),
            Happening::Link { a, b } => {
                let both = self.nodes[a].core.is_some() && self.nodes[b].core.is_some();
                if both && self.network.can_talk(a, b) && self.network.link(a, b) {
                    self.input(a, Input::PeerConnected(self.nodes[b].peer));
                    self.input(b, Input::PeerConnected(self.nodes[a].peer));
                }
            }
            Happening::Unlink { a, b } => {
                let both = self.nodes[a].core.is_some() && self.nodes[b].core.is_some();
                // The cut healed, or the process came back, before anybody noticed.
                let mended = both && self.network.can_talk(a, b);
                if self.network.unlink(a, b) {
                    self.input(a, Input::PeerDisconnected(self.nodes[b].peer));
                    self.input(b, Input::PeerDisconnected(self.nodes[a].peer));
                    if mended {
                        self.at(100, Happening::Link { a, b });
                    }
                }
            }
            Happening::Host { node, epoch, job, step } => {
                let point = Some(crashes::point_of_step(step));
                if self.is_running(node, epoch) && !self.dies(node, point, When::Before) {
                    let outcome = self.nodes[node].host.step(&mut self.dice, job, step);
                    self.host_outcome(node, outcome);
                    self.dies(node, point, When::After);
                }
            }
            Happening::Report { node, epoch, job, report } => {
                if self.is_running(node, epoch) {
                    self.input(node, Input::Job { job, report });
                }
            }
            Happening::Survey { node, epoch } => {
                if let Some(offer) = self.nodes[node].offer.clone().filter(|_| self.is_running(node, epoch)) {
                    let offering = match self.nodes[node].host.full {
                        true => Offering::NoRoom { reason: "the disk is full".to_owned() },
                        false => Offering::Vms(Box::new(offer)),
                    };
                    self.input(node, Input::Offer(offering));
                }
            }
            Happening::Reconcile { node, epoch } => {
                if self.is_running(node, epoch) {
                    let found = self.nodes[node].host.list();
                    let age = self.dice.within(0..LISTING);
                    self.at(age, Happening::Inventory { node, epoch, found });
                    let unsure = self.nodes[node].core.as_ref().is_some_and(|core| core.provider().is_unsure());
                    self.at(if unsure { LOOK_AGAIN } else { RECONCILE }, Happening::Reconcile { node, epoch });
                }
            }
            Happening::Inventory { node, epoch, found } => {
                if self.is_running(node, epoch) {
                    self.input(node, Input::Inventory(found));
                }
            }
            Happening::Restart { node } => self.start(node),
        }
    }

    /// Gives a core an input and performs what it decides, in its order; a crash may come between any two effects.
    pub fn input(&mut self, node: NodeId, input: Input) {
        if let Some(waiting) = &mut self.nodes[node].waiting {
            waiting.inputs.push_back(input);
            return;
        }
        let now = self.clock(node);
        self.tell_input(node, &input);
        let Some(core) = self.nodes[node].core.as_mut() else { return };
        core.handle(now, input);
        let effects: Vec<Effect> = core.drain_effects().collect();
        if let Some(deadline) = core.next_deadline() {
            assert!(deadline > now, "invariant rests: node {node} wants to be woken at once, again and again");
        }
        self.perform_all(node, effects);
    }

    pub(crate) fn perform_all(&mut self, node: NodeId, effects: Vec<Effect>) {
        let mut effects = effects.into_iter();
        while let Some(effect) = effects.next() {
            if let Some(left) = self.nodes[node].crash_after {
                self.nodes[node].crash_after = left.checked_sub(1);
                if left == 0 {
                    self.crash(node);
                    return;
                }
            }
            let aimed = self.nodes[node].aim.is_some();
            let point = aimed.then(|| crashes::point_of(&effect)).flatten();
            if self.dies(node, point, When::Before) {
                return;
            }
            if self.nodes[node].host.full && matches!(effect, Effect::Persist(_)) {
                if !self.dies(node, Some(WAITS), When::Before) {
                    let effects = std::iter::once(effect).chain(effects).collect();
                    self.nodes[node].waiting = Some(Waiting { effects, ..Waiting::default() });
                }
                return;
            }
            self.perform(node, effect);
            if self.dies(node, point, When::After) {
                return;
            }
        }
        self.schedule_tick(node);
    }

    /// Whether this is where it was to die.
    pub(crate) fn dies(&mut self, node: NodeId, point: Option<Point>, when: When) -> bool {
        let (Some(point), Some(aim)) = (point, &mut self.nodes[node].aim) else { return false };
        if aim.when != when || aim.point.is_some_and(|wanted| wanted != point) {
            return false;
        }
        if aim.skip > 0 {
            aim.skip -= 1;
            return false;
        }
        self.nodes[node].aim = None;
        *self.hits.entry((point, when)).or_default() += 1;
        self.crash(node);
        true
    }

    fn schedule_tick(&mut self, node: NodeId) {
        let now = self.clock(node);
        let sim = &mut self.nodes[node];
        let Some(deadline) = sim.core.as_ref().and_then(NodeCore::next_deadline) else {
            sim.tick_at = None;
            return;
        };
        let at = self.now + (deadline - now).0;
        if sim.tick_at != Some(at) {
            sim.tick_at = Some(at);
            let epoch = sim.epoch;
            self.at(at - self.now, Happening::Tick { node, epoch });
        }
    }

    fn perform(&mut self, node: NodeId, effect: Effect) {
        self.hash_effect(node, &effect);
        match effect {
            Effect::Persist(ops) => self.nodes[node].disk.commit(&ops),
            Effect::Publish(body) => {
                self.nodes[node].heard.insert(mark_of(&body));
                self.flood(node, None, &body);
            }
            Effect::Judge { id, verdict } => {
                if let Some((from, body)) = self.nodes[node].judging.remove(&id)
                    && verdict == Verdict::Accept
                {
                    self.flood(node, Some(from), &body);
                }
            }
            Effect::Send { rpc, to, body } => self.send(node, rpc, to, body),
            Effect::Reply { token, body } => {
                if let Some((asker, epoch, rpc)) = self.nodes[node].tokens.remove(&token) {
                    for delay in self.network.arrivals(&mut self.dice, node, asker) {
                        self.at(delay, Happening::Response { node: asker, epoch, rpc, result: Ok(body.clone()) });
                    }
                }
            }
            Effect::RunJob(order) => {
                let outcome = self.nodes[node].host.run(&mut self.dice, &order);
                self.host_outcome(node, outcome);
            }
            Effect::AbortJob(job) => self.nodes[node].host.abort(job),
            Effect::Answer { ticket, result } => {
                self.nodes[node].answers.insert(ticket, result);
            }
            Effect::Notice { create_id, message } => {
                self.tell(|| format!("node {node} notice: {message}"));
                self.nodes[node].notices.push((create_id, message));
            }
            Effect::Event(event) => {
                self.tell(|| format!("node {node} event: {}", event.message));
                self.nodes[node].events.push(event);
            }
            // Here everybody finds everybody, and nobody serves a routing.
            Effect::FindHolders { .. } | Effect::Learn { .. } | Effect::Rental(_) => {}
            // Nobody is banned here: the cores bear whatever comes.
            Effect::Offence { .. } => {}
        }
    }

    fn send(&mut self, node: NodeId, rpc: u64, to: protocol::PeerId, body: Vec<u8>) {
        let epoch = self.nodes[node].epoch;
        let target = self.nodes.iter().position(|other| other.peer == to);
        let up = target.is_some_and(|to| self.nodes[to].core.is_some() && self.network.can_talk(node, to));
        let Some(to) = target.filter(|_| up) else {
            // A process that is not there refuses at once, a cut swallows.
            let cut = self.network.is_cut(node) || target.is_some_and(|to| self.network.is_cut(to));
            let (delay, failure) = match cut {
                true => (RPC_TIMEOUT, RpcFailure::Timeout),
                false => (20, RpcFailure::Unreachable("connection refused".into())),
            };
            return self.at(delay, Happening::Response { node, epoch, rpc, result: Err(failure) });
        };
        for delay in self.network.arrivals(&mut self.dice, node, to) {
            self.at(delay, Happening::Request { from: node, epoch, rpc, to, body: body.clone() });
        }
        self.at(RPC_TIMEOUT, Happening::Response { node, epoch, rpc, result: Err(RpcFailure::Timeout) });
    }

    fn request_arrives(&mut self, from: NodeId, epoch: u64, rpc: u64, to: NodeId, body: Vec<u8>) {
        if self.nodes[to].core.is_none() || !self.network.can_talk(from, to) {
            return;
        }
        let peer = self.nodes[from].peer;
        let sim = &mut self.nodes[to];
        sim.next_token += 1;
        let token = sim.next_token;
        sim.tokens.insert(token, (from, epoch, rpc));
        self.input(to, Input::Request { token, from: peer, site: None, body });
    }

    fn gossip_arrives(&mut self, from: NodeId, to: NodeId, body: Vec<u8>) {
        let id = mark_of(&body);
        if self.nodes[to].core.is_none() || !self.nodes[to].heard.insert(id) {
            return;
        }
        let peer = self.nodes[from].peer;
        self.nodes[to].judging.insert(id, (from, body.clone()));
        self.input(to, Input::Gossip { id, from: peer, body });
    }

    fn flood(&mut self, node: NodeId, except: Option<NodeId>, body: &[u8]) {
        for to in self.network.neighbours(node).into_iter().filter(|to| Some(*to) != except) {
            for delay in self.network.arrivals(&mut self.dice, node, to) {
                self.at(delay, Happening::Gossip { from: node, to, body: body.to_vec() });
            }
        }
    }

    fn host_outcome(&mut self, node: NodeId, outcome: Outcome) {
        let epoch = self.nodes[node].epoch;
        for (delay, job, step) in outcome.later {
            self.at(delay, Happening::Host { node, epoch, job, step });
        }
        for (job, report) in outcome.reports {
            self.at(0, Happening::Report { node, epoch, job, report });
        }
    }

    /// `kill -9`: what was not persisted is lost, links break, VMs run on.
    pub fn crash(&mut self, node: NodeId) {
        self.tell(|| format!("node {node} is killed"));
        let sim = &mut self.nodes[node];
        (sim.core, sim.crash_after, sim.tick_at, sim.waiting) = (None, None, None, None);
        sim.epoch += 1;
        sim.tokens.clear();
        sim.judging.clear();
        sim.heard.clear();
        sim.host.forget_jobs();
        // Who waited for an answer sees the socket close.
        for ticket in 0..sim.next_ticket {
            sim.answers.entry(ticket).or_insert_with(|| Err(Fault::internal("killed")));
        }
        for other in self.network.neighbours(node) {
            self.at(CRASH_NOTICED, Happening::Unlink { a: node, b: other });
        }
    }

    pub fn restart_after(&mut self, node: NodeId, delay: u64) {
        self.at(delay, Happening::Restart { node });
    }

    fn start(&mut self, node: NodeId) {
        if self.nodes[node].core.is_some() {
            return;
        }
        self.tell(|| format!("node {node} starts"));
        let (now, seed) = (self.clock(node), self.dice.bytes());
        let name = self.network_name.clone();
        let sim = &mut self.nodes[node];
        sim.epoch += 1;
        let epoch = sim.epoch;
        let core = NodeCore::new(now, sim.key.clone(), name, seed, sim.disk.read());
        let mut core = core.expect("what was stored is read again");
        let effects: Vec<Effect> = core.drain_effects().collect();
        sim.core = Some(core);
        self.perform_all(node, effects);
        self.at(SURVEY, Happening::Survey { node, epoch });
        self.at(SURVEY + 1, Happening::Reconcile { node, epoch });
        self.link_up(node);
    }

    fn link_up(&mut self, node: NodeId) {
        for other in 0..self.nodes.len() {
            if other != node {
                let delay = self.dice.within(20..100);
                self.at(delay, Happening::Link { a: node, b: other });
            }
        }
    }

    pub fn cut(&mut self, node: NodeId) {
        self.tell(|| format!("node {node} is cut off"));
        self.network.cut(node);
        for other in self.network.neighbours(node) {
            self.at(CUT_NOTICED, Happening::Unlink { a: node, b: other });
        }
    }
    pub fn heal(&mut self, node: NodeId) {
        self.tell(|| format!("node {node} is heard again"));
        self.network.heal(node);
        self.link_up(node);
    }

    /// Sets a node's clock; it looks at it at once.
    pub fn set_clock(&mut self, node: NodeId, clock: i64) {
        self.tell(|| format!("node {node}'s clock is {clock} ms off now"));
        self.nodes[node].clock = clock;
        self.input(node, Input::Tick);
    }

    /// The node looks at its host anew.
    pub fn survey_after(&mut self, node: NodeId, delay: u64) {
        let epoch = self.nodes[node].epoch;
        self.at(delay, Happening::Survey { node, epoch });
    }

    fn hash_effect(&mut self, node: NodeId, effect: &Effect) {
        (self.now, node).hash(&mut self.digest);
        match effect {
            Effect::Send { rpc, body, .. } => (1, rpc, body).hash(&mut self.digest),
            Effect::Reply { token, body } => (2, token, body).hash(&mut self.digest),
            Effect::Publish(body) => (3, body).hash(&mut self.digest),
            Effect::Persist(ops) => ops.iter().for_each(|op| (4, &op.key, &op.value).hash(&mut self.digest)),
            other => std::mem::discriminant(other).hash(&mut self.digest),
        }
    }

    fn tell_input(&mut self, node: NodeId, input: &Input) {
        if self.story.is_none() {
            return;
        }
        use protocol::message::{Frame, Request, Response};
        let line = match input {
            Input::Tick | Input::Gossip { .. } => return,
            Input::Request { from, body, .. } => {
                let from = self.nodes.iter().position(|other| other.peer == *from);
                format!("{from:?} asks {:?}", Frame::<Request>::decode(body).map(|frame| frame.body))
            }
            Input::Response { rpc, result: Ok(body) } => {
                format!("answer {rpc}: {:?}", Frame::<Response>::decode(body).map(|frame| frame.body))
            }
            Input::Response { rpc, result: Err(failure) } => format!("answer {rpc}: {failure:?}"),
            Input::Offer(_) => "has surveyed its host".to_owned(),
            other => format!("{other:?}"),
        };
        let line: String = line.chars().take(300).collect();
        self.tell(|| format!("node {node}: {line}"));
    }
}

/// What gossip knows a message by.
fn mark_of(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}
