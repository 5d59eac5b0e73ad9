//! What nodes of the model send: connections, requests, gossip, lookups, each with its bytes and its time.
use super::member::{Nature, Token};
use super::meter::Kind;
use super::routing;
use super::{Event, Id, Model, RPC_TIMEOUT};
use protocol::PeerId;
use protocol::core::{Input, RpcFailure};
use protocol::shard::{Position, Site};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A lookup ends with what it has.
const LOOKUP_TIMEOUT: u64 = 10_000;
/// Neighbours and visitors; whoever's time is over first makes room.
const CONNECTIONS: usize = 40;
/// Who holds our adverts or our shards stays connected: it is turned to again within this. Whoever was only asked
/// something is closed soon.
const KEPT: u64 = 150_000;
const VISIT: u64 = 10_000;
/// What a node lets one /24 (IPv6: /48) make of handshakes: so many at once, then so many a second, as the live node's
/// guard; and a door that stays shut: three segments there, two back.
const KNOCKS: f64 = 80.0;
const KNOCKS_PER_SECOND: f64 = 0.5;
const SHUT: usize = 180;
/// The hash of a run is of everything that is sent, in its order.
const HASHED_BYTES: usize = 64;

impl Model {
    /// Bytes and round trips of a connection, unless there is one. Answers with what it adds to the way.
    pub(super) fn connect(&mut self, a: Id, b: Id, kind: Kind) -> u64 {
        let visits = matches!(kind, Kind::Lookup | Kind::Ask);
        let (now, until) = (self.now, self.now + if visits { VISIT } else { KEPT });
        let there = self.are_connected(a, b);
        let bytes = if there { 0 } else { self.wire.handshake };
        for (one, other) in [(a, b), (b, a)] {
            let node = &mut self.nodes[one as usize];
            if there {
                let known = node.connections.iter_mut().find(|(peer, _)| *peer == other);
                known.into_iter().for_each(|(_, end)| *end = until.max(*end));
                continue;
            }
            node.meter.send(Kind::Handshake, bytes);
            node.meter.receive(Kind::Handshake, bytes);
            node.connections.retain(|(peer, end)| *peer != other && *end > now);
            if node.connections.len() >= CONNECTIONS
                && let Some(first) = (0..node.connections.len()).min_by_key(|n| node.connections[*n].1)
            {
                node.connections.swap_remove(first);
            }
            node.connections.push((other, until));
        }
        // TCP, noise and the agreement on yamux take two round trips before the first stream.
        if there { 0 } else { 4 * self.links.usual(self.link(a), self.link(b)) }
    }

    fn are_connected(&self, a: Id, b: Id) -> bool {
        let has = |one: Id, other: Id| {
            self.nodes[one as usize].connections.iter().any(|(peer, end)| *peer == other && *end > self.now)
        };
        has(a, b) && has(b, a)
    }

    /// Whose advert is not taken is not kept.
    fn end_visit(&mut self, a: Id, b: Id) {
        let until = self.now + VISIT;
        for (one, other) in [(a, b), (b, a)] {
            let known = self.nodes[one as usize].connections.iter_mut().find(|(peer, _)| *peer == other);
            known.into_iter().for_each(|(_, end)| *end = until.min(*end));
        }
    }

    /// Whether there is a connection, or one will be let in.
    fn is_let_in(&mut self, to: Id, from: Id) -> bool {
        let Some(block) = self.nodes[from as usize].block.filter(|_| !self.are_connected(from, to)) else {
            return true;
        };
        let now = self.now;
        let refilled = |knocks: f64, at: u64| (knocks + (now - at) as f64 / 1000.0 * KNOCKS_PER_SECOND).min(KNOCKS);
        let doors = &mut self.nodes[to as usize].doors;
        doors.retain(|(_, knocks, at)| refilled(*knocks, *at) < KNOCKS);
        let known = doors.iter().position(|(known, ..)| *known == block).unwrap_or_else(|| {
            doors.push((block, KNOCKS, now));
            doors.len() - 1
        });
        let (_, knocks, at) = &mut doors[known];
        (*knocks, *at) = (refilled(*knocks, *at), now);
        let is_in = *knocks >= 1.0;
        *knocks -= f64::from(u8::from(is_in));
        is_in
    }

    pub(super) fn fail(&mut self, node: Id, epoch: u32, rpc: u64, kind: Kind, after: u64, why: RpcFailure) {
        self.queue.push(self.now + after, Event::Response { node, epoch, rpc, kind, result: Err(why) });
    }

    pub(super) fn send(&mut self, id: Id, rpc: u64, to: PeerId, body: Vec<u8>) {
        self.hash(id, &body);
        let kind = kind_of(&body);
        self.check_request(id, kind, &body);
        self.tally.requests += 1;
        let epoch = self.nodes[id as usize].epoch;
        let target = self.by_peer.get(&to).copied();
        let Some(to) = target.filter(|to| self.nodes[*to as usize].is_up() && self.can_talk(id, *to)) else {
            return self.fail(id, epoch, rpc, kind, RPC_TIMEOUT, RpcFailure::Timeout);
        };
        if !self.is_let_in(to, id) {
            for one in [id, to] {
                self.nodes[one as usize].meter.send(Kind::Handshake, SHUT);
                self.nodes[one as usize].meter.receive(Kind::Handshake, SHUT);
            }
            let after = 2 * self.delay(id, to);
            return self.fail(id, epoch, rpc, kind, after, RpcFailure::Unreachable("refused".into()));
        }
        let bytes = body.len() + self.wire.request;
        self.nodes[id as usize].meter.send(kind, bytes);
        let set_up = self.connect(id, to, kind);
        let after = self.delay(id, to) + set_up;
        self.queue.push(self.now + after, Event::Request { to, from: id, epoch, rpc, kind, body });
    }

    pub(super) fn request_arrives(&mut self, to: Id, from: Id, epoch: u32, rpc: u64, kind: Kind, body: Vec<u8>) {
        let bytes = body.len() + self.wire.request;
        let (peer, block) = (self.nodes[from as usize].peer, self.nodes[from as usize].block);
        let node = &mut self.nodes[to as usize];
        node.meter.receive(kind, bytes);
        if node.core.is_none() {
            // Gone meanwhile, or one that takes everything and says nothing of use.
            return match node.nature {
                Nature::Silent | Nature::FalseRouter if node.epoch > 0 => {
                    self.say_nothing(to, from, epoch, rpc, kind, &body)
                }
                _ => self.fail(from, epoch, rpc, kind, RPC_TIMEOUT, RpcFailure::Timeout),
            };
        }
        node.next_token += 1;
        let token = node.next_token;
        node.tokens.push(Token { token, from, epoch, rpc, kind });
        self.input(to, Input::Request { token, from: peer, site: block.map(Site::At), body });
    }

    /// As a liar answers: that it has taken what it got, and that it has nothing.
    fn say_nothing(&mut self, liar: Id, to: Id, epoch: u32, rpc: u64, kind: Kind, body: &[u8]) {
        use protocol::message::{Frame, Request, Response};
        use protocol::shard::{Go, PutAnswer, ShardRequest, ShardResponse, Shelf, Standing};
        let Ok(frame) = Frame::<Request>::decode(body) else { return };
        let Request::Shard(request) = frame.body else {
            return self.fail(to, epoch, rpc, kind, RPC_TIMEOUT, RpcFailure::Timeout);
        };
        let answer = match request {
            ShardRequest::Put { .. } => {
                let put =
                    PutAnswer { kept: true, go: Go::Stay, adverts: 40, total: Some(1_000_000), closer: Vec::new() };
                ShardResponse::Put(put)
            }
            ShardRequest::Ask { .. } => ShardResponse::Shelf(Shelf {
                items: Vec::new(),
                sample: None,
                next: None,
                adverts: 0,
                standing: Standing::Leaf,
            }),
            ShardRequest::Count(_) => {
                ShardResponse::Counted { merged: false, total: Some(1_000_000), closer: Vec::new() }
            }
            ShardRequest::Snapshot { .. }
            | ShardRequest::Share { .. }
            | ShardRequest::Invite(_)
            | ShardRequest::Relieve(_) => ShardResponse::Noted,
        };
        let body = Frame::encode(self.clock(liar), Response::Shard(answer));
        let after = self.delay(liar, to);
        self.queue.push(self.now + after, Event::Response { node: to, epoch, rpc, kind, result: Ok(body) });
    }

    pub(super) fn reply(&mut self, id: Id, token: u64, body: Vec<u8>) {
        let tokens = &mut self.nodes[id as usize].tokens;
        let Some(n) = tokens.iter().position(|waiting| waiting.token == token) else { return };
        let Token { from, epoch, rpc, kind, .. } = tokens.swap_remove(n);
        self.hash(id, &body);
        self.check_answer(id, kind, &body);
        let bytes = body.len() + self.wire.request;
        self.nodes[id as usize].meter.send(kind, bytes);
        if kind == Kind::Put && has(&body, b"Refused") {
            self.end_visit(id, from);
        }
        let after = self.delay(id, from);
        self.queue.push(self.now + after, Event::Response { node: from, epoch, rpc, kind, result: Ok(body) });
    }

    /// True when it is new.
    pub(super) fn hear(&mut self, id: Id, mark: u64) -> bool {
        /// Gossip's own memory is 300 s long; here it is so many messages.
        const HEARD: usize = 512;
        let heard = &mut self.nodes[id as usize].heard;
        if heard.contains(&mark) {
            return false;
        }
        if heard.len() >= HEARD {
            heard.drain(..HEARD / 2);
        }
        heard.push(mark);
        true
    }

    pub(super) fn flood(&mut self, id: Id, except: Option<Id>, mark: u64, body: Arc<[u8]>) {
        let neighbours = self.nodes[id as usize].neighbours.iter();
        let told: Vec<Id> = neighbours.filter(|to| Some(**to) != except && self.can_talk(id, **to)).copied().collect();
        for to in told {
            let bytes = body.len() + self.wire.gossip;
            self.nodes[id as usize].meter.send(Kind::Gossip, bytes);
            let after = self.delay(id, to);
            self.queue.push(self.now + after, Event::Gossip { to, from: id, mark, body: body.clone() });
        }
    }

    pub(super) fn gossip_arrives(&mut self, to: Id, from: Id, mark: u64, body: Arc<[u8]>) {
        let bytes = body.len() + self.wire.gossip;
        self.nodes[to as usize].meter.receive(Kind::Gossip, bytes);
        self.tally.copies += 1;
        if self.nodes[to as usize].core.is_none() || !self.hear(to, mark) {
            return;
        }
        self.tally.firsts += 1;
        let peer = self.nodes[from as usize].peer;
        self.nodes[to as usize].judging.push((mark, from, body.clone()));
        self.input(to, Input::Gossip { id: mark, from: peer, body: body.to_vec() });
    }

    /// A lookup of holders; its answer comes when it has come to its end.
    pub(super) fn find(&mut self, id: Id, ticket: u64, place: Position) {
        let epoch = self.nodes[id as usize].epoch;
        let (found, took) = self.walk(id, place);
        self.rounds.push(found.rounds.len() as u8);
        let closest = self.routing.closest(place, protocol::shard::HOLDERS);
        let honest = |id: Id| self.nodes[id as usize].nature == Nature::Honest;
        let right = closest.iter().filter(|(_, id)| honest(*id)).any(|(_, id)| found.found.contains(id));
        self.failed_lookups += u64::from(!right);
        let found = found.found.into_iter().filter(|other| *other != id).collect();
        self.queue.push(self.now + took.clamp(1, LOOKUP_TIMEOUT), Event::Holders { node: id, epoch, ticket, found });
    }

    /// From table to table: what it finds, its bytes, and its time.
    pub(super) fn walk(&mut self, id: Id, place: Position) -> (routing::Walk, u64) {
        let at = self.nodes[id as usize].at;
        let (nodes, partitioned, side) = (&self.nodes, self.partitioned, self.nodes[id as usize].side);
        let answers = |other: Id| {
            let other = &nodes[other as usize];
            other.is_up() && !(partitioned && other.side != side)
        };
        let false_routers = &self.false_routers;
        let lies = |other: Id| {
            (nodes[other as usize].nature == Nature::FalseRouter).then(|| {
                let mut own: Vec<(Position, Id)> = false_routers.clone();
                own.sort_by_key(|(at, _)| at.distance(place));
                own.truncate(routing::FOUND);
                own
            })
        };
        let walk = self.routing.walk(at, place, answers, lies);
        let mut took = 0;
        for round in &walk.rounds {
            let mut slowest = 0;
            for other in round {
                let (asked, answered) = (self.wire.lookup_request, self.wire.lookup_answer);
                self.nodes[id as usize].meter.send(Kind::Lookup, asked);
                if !self.nodes[*other as usize].is_up() {
                    continue;
                }
                let set_up = self.connect(id, *other, Kind::Lookup);
                slowest = slowest.max(2 * self.links.usual(self.link(id), self.link(*other)) + set_up);
                self.nodes[id as usize].meter.receive(Kind::Lookup, answered);
                let meter = &mut self.nodes[*other as usize].meter;
                meter.receive(Kind::Lookup, asked);
                meter.send(Kind::Lookup, answered);
            }
            took += if slowest == 0 { RPC_TIMEOUT } else { slowest };
        }
        (walk, took)
    }

    fn hash(&mut self, id: Id, body: &[u8]) {
        (self.now, id, body.len()).hash(&mut self.digest);
        // The end of a message: its times, numbers and signatures.
        body[body.len().saturating_sub(HASHED_BYTES)..].hash(&mut self.digest);
    }
}

pub(super) fn mark_of(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// By the variant's name, which CBOR writes out; nothing else is looked at.
fn kind_of(body: &[u8]) -> Kind {
    if !has(body, b"Shard") {
        return if has(body, b"Board") || has(body, b"Post") { Kind::Gossip } else { Kind::Rent };
    }
    if has(body, b"Put") {
        Kind::Put
    } else if has(body, b"Ask") {
        Kind::Ask
    } else {
        Kind::Hold
    }
}

/// Names of variants stand at the beginning.
fn has(body: &[u8], word: &[u8]) -> bool {
    body[..body.len().min(96)].windows(word.len()).any(|window| window == word)
}
