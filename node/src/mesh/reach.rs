//! Getting to a peer: what is sent to one that is not connected waits while it is dialled at the addresses we know,
//! and then, once, at those that the DHT knows.
//!
//! ```text
//!  wanted ─▶ connected? ──yes──▶ sent
//!              │no
//!              ▼           failed, or no address            found
//!           dialling ───────────────────────────▶ looked up ─────▶ dialling ─▶ failed: unreachable
//! ```
use super::actor::Actor;
use super::codec::{Oversized, Response};
use super::limits;
use super::metrics::count;
use super::names::{from_libp2p, to_libp2p};
use super::peer::DialFor;
use super::streams::Counted;
use super::tunnels::{OpenError, OpeningId};
use super::types::*;
use libp2p::request_response::{OutboundFailure, OutboundRequestId};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, Stream};
use libp2p::{Multiaddr, PeerId, kad};
use protocol::codec::MAX_MESSAGE;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

struct Rpc {
    to: PeerId,
    body: Vec<u8>,
    /// By now; otherwise it waits for a connection.
    sent: bool,
    /// The connection that it went over was closed, and it may go over another. Once: who answers nothing and closes
    /// is not asked for ever.
    may_go_again: bool,
    deadline: Instant,
    slot: OwnedSemaphorePermit,
}

struct Opening {
    to: PeerId,
    /// Over this connection.
    sent: Option<(ConnectionId, Instant)>,
    deadline: Instant,
    done: oneshot::Sender<Result<BoxedStream, MeshError>>,
}

const SEARCH_FOR: NonZeroUsize = NonZeroUsize::new(limits::SEARCH_FOR).expect("it is above zero");

const HOLDERS_FOUND: NonZeroUsize = NonZeroUsize::new(limits::HOLDERS_FOUND).expect("it is above zero");

/// Why a lookup was started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    Find(PeerId),
    /// The closest to a key; the node asks, by this ticket.
    Holders(u64),
    /// For more neighbours.
    Search,
    /// So that the nodes around us know us.
    Refresh,
}

#[derive(Default)]
pub(super) struct Reach {
    rpcs: HashMap<RpcId, Rpc>,
    by_request: HashMap<OutboundRequestId, RpcId>,
    openings: HashMap<OpeningId, Opening>,
    /// Peers that something waits for, and whether the DHT was asked already.
    waited_for: HashMap<PeerId, bool>,
    pub lookups: HashMap<kad::QueryId, Lookup>,
}

impl Actor {
    pub(super) fn send_request(&mut self, rpc: RpcId, to: protocol::PeerId, body: Vec<u8>, slot: OwnedSemaphorePermit) {
        count(&self.metrics.requests_out);
        let to = to_libp2p(to);
        if to == *self.swarm.local_peer_id() {
            return self.answer(rpc, Err(RpcError::Unreachable("that is this node itself".into())), slot);
        }
        let deadline = Instant::now() + limits::RPC_TIMEOUT;
        self.reach.rpcs.insert(rpc, Rpc { to, body, sent: false, may_go_again: true, deadline, slot });
        self.reach_out(to);
    }

    pub(super) fn open_tunnel(&mut self, to: protocol::PeerId, done: oneshot::Sender<Result<BoxedStream, MeshError>>) {
        let to = to_libp2p(to);
        let refusal = if to == *self.swarm.local_peer_id() {
            Some(MeshError::Unreachable("that is this node itself".into()))
        } else if self.reach.openings.len() >= limits::MAX_OPENING {
            Some(MeshError::Busy(limits::MAX_OPENING))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let _ = done.send(Err(refusal));
            return;
        }
        let opening = self.next_id();
        let deadline = Instant::now() + limits::OPEN_DEADLINE;
        self.reach.openings.insert(opening, Opening { to, sent: None, deadline, done });
        self.reach_out(to);
    }

    fn reach_out(&mut self, peer: PeerId) {
        if self.swarm.is_connected(&peer) {
            return self.flush(peer);
        }
        if self.reach.waited_for.contains_key(&peer) {
            return;
        }
        self.reach.waited_for.insert(peer, false);
        if let Err(why) = self.dial_known(peer) {
            self.not_reached(peer, &why);
        }
    }

    /// Ok also when a dial of somebody else's is under way: its outcome is ours.
    pub(super) fn dial_known(&mut self, peer: PeerId) -> Result<(), String> {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(self.book.of(&peer))
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(opts) {
            Ok(()) => {
                count(&self.metrics.dials);
                Ok(())
            }
            Err(DialError::DialPeerConditionFalse(_)) => Ok(()),
            Err(error) => Err(describe(&error)),
        }
    }

    /// The peer is connected: everything that waited goes.
    pub(super) fn flush(&mut self, peer: PeerId) {
        self.reach.waited_for.remove(&peer);
        let mut sent = 0;
        for (id, rpc) in self.reach.rpcs.iter_mut().filter(|(_, rpc)| rpc.to == peer && !rpc.sent) {
            let request = self.swarm.behaviour_mut().control.send_request(&peer, Ok(rpc.body.clone()));
            self.reach.by_request.insert(request, *id);
            rpc.sent = true;
            sent += 1;
        }
        let best = self.peers.get(&peer).and_then(|known| known.best()).map(|link| link.id);
        let waiting = self.reach.openings.iter_mut().filter(|(_, o)| o.to == peer && o.sent.is_none());
        for (id, opening) in waiting.take(if best.is_some() { usize::MAX } else { 0 }) {
            opening.sent = best.map(|link| (link, Instant::now()));
            best.inspect(|link| self.swarm.behaviour_mut().tunnels.open(peer, *link, *id));
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.rpcs += sent;
        }
    }

    /// A dial failed, or there was nothing to dial.
    pub(super) fn not_reached(&mut self, peer: PeerId, why: &str) {
        let Some(looked_up) = self.reach.waited_for.get(&peer).copied() else { return };
        if self.swarm.is_connected(&peer) {
            return self.flush(peer);
        }
        if !looked_up && self.look_up(Lookup::Find(peer)) {
            self.reach.waited_for.insert(peer, true);
            return;
        }
        self.give_up(peer, why);
    }

    fn give_up(&mut self, peer: PeerId, why: &str) {
        self.reach.waited_for.remove(&peer);
        let rpcs: Vec<RpcId> =
            self.reach.rpcs.iter().filter(|(_, r)| r.to == peer && !r.sent).map(|(id, _)| *id).collect();
        for rpc in rpcs {
            self.end_rpc(rpc, Err(RpcError::Unreachable(why.to_owned())));
        }
        let openings: Vec<OpeningId> =
            self.reach.openings.iter().filter(|(_, o)| o.to == peer && o.sent.is_none()).map(|(id, _)| *id).collect();
        for opening in openings {
            self.end_opening(opening, Err(MeshError::Unreachable(why.to_owned())));
        }
    }

    /// False when there is nobody to ask.
    pub(super) fn look_up(&mut self, purpose: Lookup) -> bool {
        self.look_up_key(purpose, Vec::new())
    }
    pub(super) fn look_up_key(&mut self, purpose: Lookup, key: Vec<u8>) -> bool {
        if self.reach.lookups.len() >= limits::MAX_LOOKUPS {
            return false;
        }
        self.feed_dht();
        let local = *self.swarm.local_peer_id();
        let kad = &mut self.swarm.behaviour_mut().kad;
        if kad.kbuckets().next().is_none() {
            return false;
        }
        let query = match purpose {
            Lookup::Find(peer) => kad.get_closest_peers(peer),
            Lookup::Refresh => kad.get_closest_peers(local),
            Lookup::Holders(_) => kad.get_n_closest_peers(key, HOLDERS_FOUND),
            Lookup::Search => kad.get_n_closest_peers(PeerId::random(), SEARCH_FOR),
        };
        count(&self.metrics.lookups);
        self.reach.lookups.insert(query, purpose);
        true
    }

    /// A client's routing table is filled when it is needed: an entry makes the library start a bootstrap, which a
    /// one-shot command would pay for and not use.
    fn feed_dht(&mut self) {
        for (peer, known) in self.peers.iter().filter(|(_, known)| known.serves_dht) {
            super::announce::set_addresses(&mut self.swarm.behaviour_mut().kad, peer, &known.listen);
        }
    }

    pub(super) fn looked_up(&mut self, query: kad::QueryId, found: Vec<kad::PeerInfo>) {
        let Some(purpose) = self.reach.lookups.remove(&query) else { return };
        let local = *self.swarm.local_peer_id();
        let mut news = 0;
        for peer in found.iter().filter(|peer| peer.peer_id != local) {
            news += usize::from(self.book.of(&peer.peer_id).is_empty());
            self.book.learn(peer);
        }
        if let Lookup::Holders(ticket) = purpose {
            return self.holders_found(ticket, found);
        }
        match purpose {
            Lookup::Find(peer) if self.swarm.is_connected(&peer) => self.flush(peer),
            Lookup::Find(peer) if self.book.of(&peer).is_empty() => {
                self.give_up(peer, "nobody knows where it is; it may be offline")
            }
            Lookup::Find(peer) => {
                if let Err(why) = self.dial_known(peer) {
                    self.give_up(peer, &why);
                }
            }
            Lookup::Search => self.upkeep.searched(Instant::now(), news),
            Lookup::Refresh | Lookup::Holders(_) => {}
        }
    }

    fn end_rpc(&mut self, id: RpcId, result: Result<Vec<u8>, RpcError>) {
        let Some(rpc) = self.reach.rpcs.remove(&id) else { return };
        if let Some(known) = self.peers.get_mut(&rpc.to).filter(|_| rpc.sent) {
            known.rpcs = known.rpcs.saturating_sub(1);
        }
        if result.is_ok() {
            self.hood.useful(Instant::now(), &rpc.to);
        }
        self.answer(id, result, rpc.slot);
    }

    pub(super) fn on_response(&mut self, request: OutboundRequestId, response: Response) {
        let Some(id) = self.reach.by_request.remove(&request) else { return };
        let size = self.reach.rpcs.get(&id).map_or(0, |rpc| rpc.body.len());
        self.end_rpc(
            id,
            match response {
                Response::Body(body) => Ok(body),
                Response::Oversized => Err(RpcError::Oversized { size, limit: MAX_MESSAGE }),
                Response::Refused(_) => Err(RpcError::Dropped("we ask it too often".into())),
                Response::Busy => Err(RpcError::Dropped("it has too many requests to answer".into())),
            },
        );
    }

    pub(super) fn on_request_failed(&mut self, request: OutboundRequestId, failure: OutboundFailure) {
        let Some(id) = self.reach.by_request.remove(&request) else { return };
        if matches!(failure, OutboundFailure::ConnectionClosed) && self.send_again(id) {
            return;
        }
        let error = match failure {
            OutboundFailure::DialFailure => RpcError::Unreachable("the dial failed".into()),
            OutboundFailure::Timeout => RpcError::Timeout(limits::RPC_TIMEOUT),
            OutboundFailure::ConnectionClosed => RpcError::Disconnected,
            OutboundFailure::UnsupportedProtocols => RpcError::Unsupported,
            OutboundFailure::Io(error) => match error.get_ref().and_then(|e| e.downcast_ref::<Oversized>()) {
                Some(Oversized { size, limit }) => RpcError::Oversized { size: *size, limit: *limit },
                None if error.to_string().contains("max sub-streams") => RpcError::Busy(limits::MAX_CONTROL_STREAMS),
                None => RpcError::Dropped(error.to_string()),
            },
        };
        self.end_rpc(id, Err(error));
    }

    /// The connection that it went over is gone, and another is there: of two, either side may close the one that it
    /// takes for superfluous, while the other has just asked over it.
    fn send_again(&mut self, id: RpcId) -> bool {
        let Some(rpc) = self.reach.rpcs.get_mut(&id) else { return false };
        let peer = rpc.to;
        if !rpc.may_go_again || !self.swarm.is_connected(&peer) {
            return false;
        }
        (rpc.sent, rpc.may_go_again) = (false, false);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.rpcs = known.rpcs.saturating_sub(1);
        }
        self.flush(peer);
        true
    }

    fn end_opening(&mut self, id: OpeningId, result: Result<(ConnectionId, Stream), MeshError>) {
        let Some(opening) = self.reach.openings.remove(&id) else { return };
        let result = result.and_then(|(connection, stream)| {
            let closed = || MeshError::Unreachable("the connection closed".into());
            let counts = self.counts(&opening.to, connection).ok_or_else(closed)?;
            count(&self.metrics.tunnels_out);
            Ok(Box::new(Counted::new(stream, counts)) as BoxedStream)
        });
        // Err: the caller has gone, and the stream with it.
        let _ = opening.done.send(result);
    }

    pub(super) fn on_tunnel_opened(&mut self, id: OpeningId, connection: ConnectionId, stream: Stream) {
        self.end_opening(id, Ok((connection, stream)));
    }

    pub(super) fn on_tunnel_failed(&mut self, id: OpeningId, error: OpenError) {
        let error = match error {
            OpenError::Unsupported => MeshError::Refused("it does not speak our tunnel protocol".into()),
            OpenError::Timeout => MeshError::Timeout(limits::OPEN_DEADLINE),
            OpenError::Io(error) => MeshError::Unreachable(error.to_string()),
        };
        self.end_opening(id, Err(error));
    }

    /// One of several connections is gone: what was being opened over it goes over another.
    pub(super) fn reopen(&mut self, peer: PeerId, connection: ConnectionId) {
        for opening in
            self.reach.openings.values_mut().filter(|o| o.to == peer && o.sent.is_some_and(|(by, _)| by == connection))
        {
            opening.sent = None;
        }
        self.flush(peer);
    }

    /// Connections over which a tunnel ought to have opened by now, and has not: a router may have forgotten them, or
    /// the peer has another address. What is open there is left alone, and new tunnels take another way, if there is
    /// one.
    pub(super) fn look_for_other_ways(&mut self, now: Instant) {
        let late = |opening: &Opening| {
            let (connection, at) = opening.sent?;
            let late = now.saturating_duration_since(at) >= limits::REOPEN_AFTER;
            late.then_some((opening.to, connection))
        };
        let mut late: Vec<(PeerId, ConnectionId)> = self.reach.openings.values().filter_map(late).collect();
        late.sort();
        late.dedup();
        for (peer, connection) in late {
            if self.suspect(&peer, connection) {
                self.reopen(peer, connection);
            } else {
                self.dial_anew(peer);
            }
        }
    }

    /// Beside the connection that is there.
    fn dial_anew(&mut self, peer: PeerId) {
        let addrs = self.book.of(&peer);
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::NotDialing).addresses(addrs).build();
        // Err: it is being dialled, or nobody knows where it is; then what is there must do.
        if self.swarm.dial(opts).is_ok() {
            count(&self.metrics.dials);
        }
    }

    /// A connection is new: what waits for one that does not answer goes over it, too.
    pub(super) fn reopen_suspect(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else { return };
        let suspect: Vec<ConnectionId> = known.links.iter().filter(|link| link.suspect).map(|link| link.id).collect();
        if known.best().is_some_and(|link| !link.suspect) {
            suspect.into_iter().for_each(|connection| self.reopen(peer, connection));
        }
    }

    /// The last connection is gone: tunnels that were being opened over it will not open.
    pub(super) fn lost(&mut self, peer: PeerId) {
        let openings: Vec<OpeningId> =
            self.reach.openings.iter().filter(|(_, o)| o.to == peer && o.sent.is_some()).map(|(id, _)| *id).collect();
        for opening in openings {
            self.end_opening(opening, Err(MeshError::Unreachable("the connection closed".into())));
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let rpcs: Vec<RpcId> =
            self.reach.rpcs.iter().filter(|(_, rpc)| rpc.deadline <= now).map(|(id, _)| *id).collect();
        for rpc in rpcs {
            self.end_rpc(rpc, Err(RpcError::Timeout(limits::RPC_TIMEOUT)));
        }
        let gone = |opening: &Opening| opening.deadline <= now || opening.done.is_closed();
        let openings: Vec<OpeningId> =
            self.reach.openings.iter().filter(|(_, opening)| gone(opening)).map(|(id, _)| *id).collect();
        for opening in openings {
            self.end_opening(opening, Err(MeshError::Timeout(limits::OPEN_DEADLINE)));
        }
        let wanted: HashSet<PeerId> = self
            .reach
            .rpcs
            .values()
            .map(|rpc| rpc.to)
            .chain(self.reach.openings.values().map(|opening| opening.to))
            .collect();
        self.reach.waited_for.retain(|peer, _| wanted.contains(peer));
        let rpcs = &self.reach.rpcs;
        self.reach.by_request.retain(|_, rpc| rpcs.contains_key(rpc));
    }

    pub(super) fn dial_for(&mut self, addr: &str, done: oneshot::Sender<Result<protocol::PeerId, MeshError>>) {
        let (addr, peer) = match super::book::parse(addr) {
            Ok(parsed) => parsed,
            Err(error) => {
                let _ = done.send(Err(error));
                return;
            }
        };
        if let Some(id) = peer.filter(|peer| self.swarm.is_connected(peer)).and_then(|peer| from_libp2p(&peer)) {
            let _ = done.send(Ok(id));
            return;
        }
        if let Err((done, why)) = self.dial_addr(addr, peer, DialFor::Command(done))
            && let DialFor::Command(done) = done
        {
            let _ = done.send(Err(MeshError::Unreachable(why)));
        }
    }

    pub(super) fn dial_addr(
        &mut self,
        addr: Multiaddr,
        peer: Option<PeerId>,
        purpose: DialFor,
    ) -> Result<(), (DialFor, String)> {
        let opts = match peer {
            Some(peer) => DialOpts::peer_id(peer).condition(PeerCondition::Disconnected).addresses(vec![addr]).build(),
            None => DialOpts::unknown_peer_id().address(addr).build(),
        };
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                count(&self.metrics.dials);
                self.dials.insert(connection, purpose);
                Ok(())
            }
            Err(error) => Err((purpose, describe(&error))),
        }
    }
}

/// What went wrong, without the library's wrapping: the innermost cause for each address.
pub(super) fn describe(error: &DialError) -> String {
    match error {
        DialError::Transport(errors) => {
            let mut causes: Vec<String> = errors.iter().map(|(_, error)| innermost(error)).collect();
            causes.sort();
            causes.dedup();
            causes.join("; ")
        }
        DialError::Denied { cause } => match cause.downcast_ref::<super::guard::Denied>() {
            Some(denied) => format!("refused here: {}", denied.0.as_str().replace('_', " ")),
            None => innermost(error),
        },
        DialError::LocalPeerId { .. } => "that is this node itself".to_owned(),
        DialError::NoAddresses => "no address is known".to_owned(),
        DialError::WrongPeerId { obtained, .. } => format!("another node answered there: {obtained}"),
        DialError::Aborted => "the dial was given up".to_owned(),
        DialError::DialPeerConditionFalse(_) => "connected already".to_owned(),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
