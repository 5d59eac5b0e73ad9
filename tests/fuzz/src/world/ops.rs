//! What can happen, by the number that stands for it in an input.
use super::{Flight, WIRE, World, key, network, offer, read, resigned, shards, sign, sign_as, tenants_seed};
use crate::{Bytes, must_be_plain};
use protocol::PeerId;
use protocol::advert::{Advert, Withdrawal};
use protocol::board::{Page, PageItem, Posting};
use protocol::codec;
use protocol::core::provider::Offering;
use protocol::core::requestor::CreateRequest;
use protocol::core::{Effect, Input, RpcFailure};
use protocol::envelope::Sealed;
use protocol::job::{Found, FoundState, JobId, JobReport};
use protocol::lease::Quote;
use protocol::message::{Frame, PowerAction, ProvisionStep, QuoteReq, Request, Response, VmPhase};
use protocol::names::{ActId, CreateId, IsolationWanted, LeaseId, QuoteId};
use protocol::shard::Site;
use protocol::spec::{Query, VmSpec};
use protocol::units::{Millis, Resources, Timestamp};
use protocol::{ErrorCode, Fault};

/// A core that is due again and again at the same moment never lets its node sleep.
const TICKS_AT_ONCE: usize = 64;
/// Deadlines of the longest wait, watches and retries among them.
const TICKS: usize = 4096;

pub const DELIVER: u8 = 0;
pub const FLIP: u8 = 1;
pub const RESIGN: u8 = 2;
pub const CUT: u8 = 3;
pub const REPLACE: u8 = 4;
pub const LOSE: u8 = 5;
pub const TWICE: u8 = 6;
pub const WAIT: u8 = 7;
pub const CREATE: u8 = 8;
pub const DESTROY: u8 = 9;
pub const POWER: u8 = 10;
pub const REPORT: u8 = 11;
pub const GOSSIP: u8 = 12;
pub const ASK: u8 = 13;
pub const ASK_WELL: u8 = 14;
pub const RESTART: u8 = 15;
pub const MEET: u8 = 16;
pub const PART: u8 = 17;
pub const SET_BACK: u8 = 18;
pub const OFFER: u8 = 19;
pub const DRAIN: u8 = 20;
pub const REFRESH: u8 = 21;
pub const POST: u8 = 22;
pub const TUNNEL: u8 = 23;
pub const SIGNED: u8 = 24;
pub const ANSWER: u8 = 25;
pub const ADDRESSES: u8 = 26;
pub const SHARD: u8 = 27;
pub const SHARD_ANSWER: u8 = 28;
pub const ROUTING: u8 = 29;
pub const SEARCH: u8 = 30;
const OPS: u8 = 31;
/// What follows from one thing that happens is a handful: a page of the board brings its adverts, a wait its retries.
const EFFECTS: usize = 1024;

impl World {
    pub(super) fn step(&mut self, input: &mut Bytes) {
        match input.u8() % OPS {
            DELIVER => self.deliver(input, |_, _, _| {}),
            FLIP => self.deliver(input, |flight, _, input| flip(flight.body(), input)),
            RESIGN => self.deliver(input, |flight, world, input| {
                let (at, mask) = (input.u16(), input.u8());
                let sender = world.nodes.iter().find(|node| node.id() == flight.from()).map(|node| node.key.clone());
                let changed = resigned(flight.body(), &sender.unwrap_or_else(|| key(3)), at, mask);
                changed.into_iter().for_each(|body| *flight.body() = body);
            }),
            CUT => self.deliver(input, |flight, _, input| {
                let keep = usize::from(input.u16());
                flight.body().truncate(keep);
            }),
            REPLACE => self.deliver(input, |flight, _, input| *flight.body() = input.chunk().to_vec()),
            LOSE => self.lose(input),
            TWICE => {
                if let Some(flight) = self.pick(input).map(|at| self.wire[at].clone()) {
                    self.put(flight);
                }
            }
            WAIT => {
                let until = self.now + Millis(u64::from(input.u16()) * 20);
                self.wait(until);
            }
            CREATE => self.create(input),
            DESTROY => {
                let (node, create_id) = (self.node(input), CreateId([input.u8() % 8; 16]));
                self.input(node, Input::Destroy { ticket: 2, create_id });
            }
            POWER => {
                let (node, create_id) = (self.node(input), CreateId([input.u8() % 8; 16]));
                let action = action(input);
                self.input(node, Input::Power { ticket: 3, create_id, action });
            }
            REPORT => {
                let node = self.node(input);
                let lease_id = self.lease(node, input);
                let jobs = self.nodes[node].core.provider().jobs();
                let job = jobs.running(lease_id).unwrap_or(JobId(u64::from(input.u8())));
                let what = report(input);
                let input = match what {
                    Said::Report(report) => Input::Job { job, report },
                    Said::Found(state) => Input::Inventory(vec![Found { lease_id, state }]),
                    Said::Cancelled => Input::CancelJob(job),
                };
                self.input(node, input);
            }
            GOSSIP => {
                let (node, from) = (self.node(input), stranger(input));
                self.gossip(node, from, input.chunk().to_vec());
            }
            ASK => {
                let (node, from) = (self.node(input), stranger(input));
                self.ask(node, from, input.chunk().to_vec());
            }
            ASK_WELL => self.ask_well(input),
            RESTART => {
                let node = self.node(input);
                self.restart(node);
            }
            MEET => self.meet(input),
            PART => {
                let node = self.node(input);
                let peer = self.peer(input);
                self.input(node, Input::PeerDisconnected(peer));
            }
            SET_BACK => self.now = self.now.set_back(Millis(u64::from(input.u16()) * 20)),
            OFFER => {
                let node = self.node(input);
                self.offer(node, u32::from(input.u8() % 5));
            }
            DRAIN => {
                let node = self.node(input);
                self.input(node, Input::Drain);
            }
            REFRESH => {
                let (node, create_id) = (self.node(input), CreateId([input.u8() % 8; 16]));
                self.input(node, Input::Refresh(create_id));
            }
            POST => self.post(input),
            TUNNEL => {
                let node = self.node(input);
                let (from, lease_id) = (self.peer(input), self.lease(node, input));
                let now = self.now;
                if let Err(refusal) = self.nodes[node].core.authorise_tunnel(now, from, lease_id) {
                    must_be_plain(&refusal.to_string(), 1024);
                }
                self.take_effects(node);
            }
            SIGNED => self.post_signed(input),
            ANSWER => self.answer(input),
            SHARD => {
                let (node, from) = (self.node(input), stranger(input));
                let request = self.shard_request(input);
                let body = Frame::encode(self.now, request);
                let (token, block) = (self.nodes[node].token(None), shards::block(input));
                self.input(node, Input::Request { token, from, site: block.map(Site::At), body });
            }
            SHARD_ANSWER => {
                let (node, at) = (self.node(input), usize::from(input.u8()));
                let response = self.shard_response(input);
                if let Some(at) = at.checked_rem(self.nodes[node].unanswered.len()) {
                    let rpc = self.nodes[node].unanswered.remove(at);
                    let body = Frame::encode(self.now, response);
                    self.input(node, Input::Response { rpc, result: Ok(body) });
                }
            }
            ROUTING => self.routing(input),
            SEARCH => self.search(input),
            _ => {
                let (node, text) = (self.node(input), String::from_utf8_lossy(input.chunk()));
                let addrs = text.split(' ').filter_map(|addr| addr.parse().ok()).collect();
                self.input(node, Input::Addresses(addrs));
            }
        }
    }

    pub(super) fn node(&self, input: &mut Bytes) -> usize {
        usize::from(input.u8() & 1)
    }
    fn peer(&self, input: &mut Bytes) -> PeerId {
        match input.u8() & 7 {
            number @ 0..=1 => self.nodes[usize::from(number)].id(),
            number => key(number + 1).peer_id(),
        }
    }
    fn lease(&self, node: usize, input: &mut Bytes) -> LeaseId {
        let at = usize::from(input.u8());
        let known: Vec<LeaseId> = self.nodes[node].core.provider().ledger().leases().map(|row| row.lease_id).collect();
        known.get(at % known.len().max(1)).copied().unwrap_or(LeaseId([at as u8; 16]))
    }

    pub(super) fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].core.handle(self.now, input);
        self.take_effects(node);
    }

    fn pick(&self, input: &mut Bytes) -> Option<usize> {
        usize::from(input.u8()).checked_rem(self.wire.len())
    }
    pub(super) fn put(&mut self, flight: Flight) {
        if self.wire.len() >= WIRE {
            self.wire.remove(0);
        }
        self.wire.push(flight);
    }
    fn deliver(&mut self, input: &mut Bytes, change: impl FnOnce(&mut Flight, &World, &mut Bytes)) {
        let Some(at) = self.pick(input) else { return };
        let mut flight = self.wire.remove(at);
        change(&mut flight, self, input);
        match flight {
            Flight::Request { from, asker, rpc, to, body } => {
                let token = self.nodes[to].token(asker.map(|asker| (asker, rpc)));
                self.input(to, Input::Request { token, from, site: None, body });
            }
            Flight::Response { rpc, to, body, .. } => self.input(to, Input::Response { rpc, result: Ok(body) }),
            Flight::Gossip { from, to, body } => self.gossip(to, from, body),
        }
    }
    fn lose(&mut self, input: &mut Bytes) {
        let Some(at) = self.pick(input) else { return };
        let why = match input.u8() & 1 {
            0 => RpcFailure::Timeout,
            _ => RpcFailure::Unreachable("\u{1b}[2J it \u{202e}said\n".into()),
        };
        match self.wire.remove(at) {
            Flight::Request { asker: Some(to), rpc, .. } | Flight::Response { rpc, to, .. } => {
                self.input(to, Input::Response { rpc, result: Err(why) });
            }
            _ => {}
        }
    }

    fn create(&mut self, input: &mut Bytes) {
        let (node, number) = (self.node(input), input.u8() % 8);
        let spec = spec(input.u8());
        let query = Query { want: spec.resources, isolation: spec.isolation, ..Query::default() };
        let request = CreateRequest {
            create_id: CreateId([number; 16]),
            name: read(&format!("vm{}", self.creates)),
            spec,
            query,
            provider: None,
            seed: tenants_seed(),
            timeout: Millis::secs(120),
            identity_file: None,
            allow_smaller: false,
            project: None,
        };
        self.creates = self.creates.wrapping_add(1);
        self.input(node, Input::Create { ticket: 1, request: Box::new(request) });
    }

    fn gossip(&mut self, node: usize, from: PeerId, body: Vec<u8>) {
        let id = self.nodes[node].judged + 1;
        self.input(node, Input::Gossip { id, from, body });
        assert_eq!(self.nodes[node].judged, id, "every message is judged once");
    }
    fn ask(&mut self, node: usize, from: PeerId, body: Vec<u8>) {
        let token = self.nodes[node].token(None);
        self.input(node, Input::Request { token, from, site: None, body });
    }

    /// What a stranger, or the other node out of turn, may ask in good form.
    fn ask_well(&mut self, input: &mut Bytes) {
        let (node, kind) = (self.node(input), input.u8());
        let (from, lease_id) = (self.peer(input), self.lease(node, input));
        let request = match kind % 8 {
            0 => Request::Quote(QuoteReq { create_id: CreateId([input.u8(); 16]), spec: spec(input.u8()) }),
            1 => Request::Decline(QuoteId([input.u8(); 16])),
            2 => Request::Release(lease_id),
            3 => Request::Status(lease_id),
            4 => Request::Watch { lease_id, seen: u64::from(input.u8()) },
            5 => Request::Power { lease_id, act: ActId([input.u8(); 16]), action: action(input) },
            6 => Request::RenewQuote { lease_id, duration: Millis(input.u64() >> 24) },
            _ => {
                let after = (input.u8() & 1 == 1).then_some(from);
                Request::Board { after, limit: input.u16(), own: input.u8() & 1 == 1 }
            }
        };
        let sent = self.now + Millis(input.u64() >> 20);
        self.ask(node, from, Frame::encode(sent, request));
    }

    fn meet(&mut self, input: &mut Bytes) {
        let node = self.node(input);
        let peer = self.peer(input);
        if peer != self.nodes[node].id() {
            self.input(node, Input::PeerConnected(peer));
        }
    }

    pub(super) fn offer(&mut self, node: usize, vms: u32) {
        let offering = match vms {
            0 => Offering::Nothing { reason: "busy".into() },
            vms => Offering::Vms(Box::new(offer(vms))),
        };
        self.nodes[node].offered = self.nodes[node].offered.max(vms);
        self.input(node, Input::Offer(offering));
    }

    /// A stranger's advert or withdrawal, by gossip or handed over.
    fn post(&mut self, input: &mut Bytes) {
        let (node, how) = (self.node(input), input.u8());
        let by = key(3 + input.u8() % 4);
        let (seq, late) = (input.u64(), Millis(u64::from(input.u16()) * 10));
        let issued = (self.now + Millis::secs(61)).set_back(late);
        let (network, provider) = (network(), by.peer_id());
        let posting = match how & 1 {
            0 => {
                let advert = Advert { seq, issued, ..super::advert(&by) };
                Posting::Advert(Sealed::seal(advert, &by).signed().clone())
            }
            _ => {
                let withdrawal = Withdrawal { network, provider, seq, issued };
                Posting::Withdrawal(Sealed::seal(withdrawal, &by).signed().clone())
            }
        };
        self.hand_over(node, how, by.peer_id(), posting);
    }
    /// The same, with a body of which nothing is known. Now and then it claims to be of the node itself.
    fn post_signed(&mut self, input: &mut Bytes) {
        let (node, how) = (self.node(input), input.u8());
        let by = key(3 + input.u8() % 4);
        let posting = match how & 1 {
            0 => Posting::Advert(sign::<Advert>(&by, input.chunk())),
            _ => Posting::Withdrawal(sign_as(&by, "golemnode/withdraw/1", input.chunk().to_vec())),
        };
        self.hand_over(node, how, by.peer_id(), posting);
    }
    fn hand_over(&mut self, node: usize, how: u8, from: PeerId, posting: Posting) {
        if how & 2 == 0 {
            self.gossip(node, from, codec::encode(&posting));
        } else {
            self.ask(node, from, Frame::encode(self.now, Request::Post(posting)));
        }
    }

    /// What a stranger answers to a question of ours.
    fn answer(&mut self, input: &mut Bytes) {
        let (node, at, how) = (self.node(input), usize::from(input.u8()), input.u8());
        let Some(at) = at.checked_rem(self.nodes[node].unanswered.len()) else { return };
        let rpc = self.nodes[node].unanswered.remove(at);
        let by = key(3 + input.u8() % 4);
        let response = match how & 3 {
            0 => return self.input(node, Input::Response { rpc, result: Ok(input.chunk().to_vec()) }),
            1 => return self.input(node, Input::Response { rpc, result: Err(RpcFailure::Timeout) }),
            2 => Response::Quote(sign::<Quote>(&by, input.chunk())),
            _ => {
                let (seq, life) = (input.u64(), Millis(u64::from(input.u16()) * 10));
                let advert = |seq| Advert { seq, issued: self.now, ..super::advert(&by) };
                let item = |seq| PageItem { advert: Sealed::seal(advert(seq), &by).signed().clone(), life };
                let items = (0..u64::from(how >> 4)).map(|more| item(seq.wrapping_add(more))).collect();
                Response::Board(Page {
                    items,
                    next: (how & 4 != 0).then(|| by.peer_id()),
                    total: (how & 8 != 0).then_some(seq as u32),
                    revoked: Vec::new(),
                    depths: (how & 64 != 0).then(|| shards::depth(input)).into_iter().collect(),
                })
            }
        };
        let body = Frame::encode(self.now, response);
        self.input(node, Input::Response { rpc, result: Ok(body) });
    }

    pub(super) fn restart(&mut self, node: usize) {
        let now = self.now;
        // Its connections end with it, and with them the answers that it waits for.
        let id = self.nodes[node].id();
        self.wire.retain(|flight| match flight {
            Flight::Request { from, .. } => *from != id,
            Flight::Response { to, .. } => *to != node,
            Flight::Gossip { .. } => true,
        });
        self.nodes[1 - node].forget_asker(node);
        self.nodes[node].restart(now);
        self.take_effects(node);
        let vms = self.nodes[node].offered;
        if vms > 0 {
            self.offer(node, vms);
        }
    }

    /// Time passes, and each node wakes when it said that it must.
    fn wait(&mut self, until: Timestamp) {
        for _ in 0..TICKS {
            let due = self.nodes.iter().filter_map(|node| node.core.next_deadline()).min();
            let Some(due) = due.filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            self.settle();
        }
        self.now = self.now.max(until);
    }

    /// What is due is done; after that nothing is due now.
    pub(super) fn settle(&mut self) {
        for node in 0..self.nodes.len() {
            let mut ticks = 0;
            while self.nodes[node].core.next_deadline().is_some_and(|due| due <= self.now) {
                ticks += 1;
                assert!(ticks <= TICKS_AT_ONCE, "node {node} is never done");
                self.input(node, Input::Tick);
            }
            self.nodes[node].check(self.now);
        }
    }

    pub(super) fn take_effects(&mut self, node: usize) {
        let effects: Vec<Effect> = self.nodes[node].core.drain_effects().collect();
        assert!(effects.len() <= EFFECTS, "{} effects of one input", effects.len());
        for effect in effects {
            let from = self.nodes[node].id();
            let other = 1 - node;
            match self.nodes[node].perform(effect) {
                Some(Effect::Send { rpc, to, body }) if to == self.nodes[other].id() => {
                    self.put(Flight::Request { from, asker: Some(node), rpc, to: other, body });
                }
                // Nobody else answers: a stranger's silence.
                Some(Effect::Send { rpc, .. }) => self.nodes[node].unanswered.push(rpc),
                Some(Effect::FindHolders { ticket, .. }) => self.nodes[node].tickets.push(ticket),
                Some(Effect::Publish(body)) => self.put(Flight::Gossip { from, to: other, body }),
                Some(Effect::Reply { token, body }) => {
                    if let Some((to, rpc)) = self.nodes[node].replied(token) {
                        self.put(Flight::Response { from, rpc, to, body });
                    }
                }
                _ => {}
            }
        }
    }
}

fn flip(body: &mut [u8], input: &mut Bytes) {
    let (at, mask) = (usize::from(input.u16()), input.u8());
    let length = body.len().max(1);
    if let Some(byte) = body.get_mut(at % length) {
        *byte ^= mask;
    }
}

fn stranger(input: &mut Bytes) -> PeerId {
    key(3 + input.u8() % 8).peer_id()
}

fn spec(shape: u8) -> VmSpec {
    VmSpec {
        resources: Resources::new(u32::from(shape & 3), 1024 * u64::from(shape >> 2 & 3), 10),
        image: if shape & 16 == 0 { read("tiny") } else { read("other") },
        isolation: IsolationWanted::Vm,
        arch: None,
        backend: (shape & 32 != 0).then(|| read("memory")),
        ports: vec![80; usize::from(shape >> 6) * 6],
        duration: Millis::secs(3600),
        or_less: false,
    }
}

fn action(input: &mut Bytes) -> PowerAction {
    match input.u8() % 8 {
        6 => PowerAction::Scale(Resources::MEDIUM),
        7 => PowerAction::Scale(Resources::SMALL),
        0 => PowerAction::Start,
        1 => PowerAction::Restart,
        2 => PowerAction::Suspend,
        3 => PowerAction::Resume,
        force => PowerAction::Stop { force: force == 5 },
    }
}

enum Said {
    Report(JobReport),
    Found(FoundState),
    Cancelled,
}

fn report(input: &mut Bytes) -> Said {
    let which = input.u8();
    let phase = match which % 16 {
        0 => VmPhase::Waiting,
        1 => VmPhase::Provisioning(ProvisionStep::Image),
        2 => VmPhase::Provisioning(ProvisionStep::Define),
        3 => VmPhase::Booting,
        4 => VmPhase::Running,
        5 => VmPhase::Stopping,
        6 => VmPhase::Stopped,
        7 => VmPhase::Suspended,
        8 => VmPhase::Failed,
        9 => VmPhase::Destroying,
        10 | 11 => VmPhase::Gone,
        12 => {
            let fault = Fault::new(ErrorCode::Unavailable, "it died");
            return Said::Report(JobReport::Failed { phase: VmPhase::Failed, fault });
        }
        13 => {
            let fault = Fault::new(ErrorCode::WrongState, "\u{1b}[31mno");
            // Of a scale, too, and with a size that nobody asked for.
            let has = Resources::new(2, 1024, 20);
            return Said::Report(match which >> 4 & 1 {
                0 => JobReport::Failed { phase: VmPhase::Running, fault },
                _ => JobReport::NotScaled { phase: VmPhase::Running, fault, has },
            });
        }
        14 => {
            let states = [FoundState::On, FoundState::Off, FoundState::Suspended, FoundState::Broken];
            return Said::Found(states[usize::from(which >> 4) % 4]);
        }
        _ => return Said::Cancelled,
    };
    // A third is only on the way.
    Said::Report(if which < 85 { JobReport::Phase(phase) } else { JobReport::Done(phase) })
}
