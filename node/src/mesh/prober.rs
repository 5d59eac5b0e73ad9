//! Asks peers to connect to the addresses at which we may be reachable: AutoNAT v2's client, with what it lacks. The
//! library tests an address once for all time, keeps every address that any peer ever named, and lets a success stand
//! for good; here the candidates are few and chosen, tests are repeated, only peers that are far enough away are asked,
//! and what a result means is decided in `reachability`.
use super::book::ip_of;
use super::limits;
use super::reachability::Scope;
use either::Either;
use libp2p::autonat::v2::client;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr, transport::PortUse};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, NewExternalAddrCandidate};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, swarm::ConnectionHandler};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Instant;

/// What the library's handlers say is public in name and in a private module: it can be named by what it is part of.
pub trait Halves {
    type Left;
}
impl<L, R> Halves for Either<L, R> {
    type Left = L;
}
type Handled = <client::Behaviour as NetworkBehaviour>::ConnectionHandler;
type Said = <<Handled as ConnectionHandler>::ToBehaviour as Halves>::Left;

struct Live {
    peer: PeerId,
    endpoint: ConnectedPoint,
    /// It offers to test us over this connection.
    tests: bool,
}

pub struct Prober {
    inner: client::Behaviour,
    /// As many as there are connections.
    live: HashMap<ConnectionId, Live>,
    candidates: Vec<Multiaddr>,
    /// Those that the library knows since it was made anew.
    given: Vec<Multiaddr>,
    /// Those of them that nobody has answered for.
    open: Vec<Multiaddr>,
    horizon: Scope,
    sought: VecDeque<(IpAddr, Instant)>,
}

impl Default for Prober {
    fn default() -> Self {
        Prober {
            inner: client::Behaviour::default(),
            live: HashMap::new(),
            candidates: Vec::new(),
            given: Vec::new(),
            open: Vec::new(),
            horizon: Scope::Machine,
            sought: VecDeque::new(),
        }
    }
}

impl Prober {
    /// What is to be tested, and how far away a tester must be. What is new is tested at once.
    pub fn consider(&mut self, candidates: Vec<Multiaddr>, horizon: Scope) {
        if horizon != self.horizon {
            self.horizon = horizon;
            self.candidates = candidates;
            return self.retest(|_| true);
        }
        self.candidates = candidates;
        if self.given.len() + self.candidates.len() > limits::MAX_EXTERNAL {
            return self.retest(|_| true);
        }
        self.hand_over();
    }

    /// Those candidates once more.
    pub fn retest(&mut self, wanted: impl Fn(&Multiaddr) -> bool) {
        self.inner = client::Behaviour::default();
        self.given = self.candidates.iter().filter(|addr| !wanted(addr)).cloned().collect();
        self.open.clear();
        let horizon = self.horizon;
        for (connection, live) in &self.live {
            self.inner.on_swarm_event(established(*connection, live.peer, &live.endpoint));
            if live.tests && is_far_enough(&live.endpoint, horizon) {
                let offer = Either::Left(Said::PeerHasServerSupport);
                self.inner.on_connection_handler_event(live.peer, *connection, offer);
            }
        }
        self.hand_over();
    }

    fn hand_over(&mut self) {
        for addr in &self.candidates {
            if !self.given.contains(addr) {
                self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }));
                self.given.push(addr.clone());
                self.open.push(addr.clone());
            }
        }
    }

    /// Have we dialled something there lately?
    pub fn has_sought(&self, now: Instant, ip: IpAddr) -> bool {
        self.sought.iter().any(|(sought, at)| *sought == ip && now.saturating_duration_since(*at) < limits::SOUGHT_KEPT)
    }

    fn seek(&mut self, addr: &Multiaddr) {
        let Some(ip) = ip_of(addr) else { return };
        self.sought.retain(|(known, _)| *known != ip);
        self.sought.push_back((ip, Instant::now()));
        if self.sought.len() > limits::MAX_SOUGHT {
            self.sought.pop_front();
        }
    }
}

fn is_far_enough(endpoint: &ConnectedPoint, horizon: Scope) -> bool {
    !endpoint.is_relayed() && ip_of(endpoint.get_remote_address()).is_some_and(|ip| Scope::of(ip) >= horizon)
}

fn established(connection_id: ConnectionId, peer_id: PeerId, endpoint: &ConnectedPoint) -> FromSwarm<'_> {
    FromSwarm::ConnectionEstablished(ConnectionEstablished {
        peer_id,
        connection_id,
        endpoint,
        failed_addresses: &[],
        other_established: 0,
    })
}

impl NetworkBehaviour for Prober {
    type ConnectionHandler = Handled;
    type ToSwarm = client::Event;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        addresses.iter().for_each(|addr| self.seek(addr));
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.seek(addr);
        self.inner.handle_established_outbound_connection(connection, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(new) => {
                let live = Live { peer: new.peer_id, endpoint: new.endpoint.clone(), tests: false };
                self.live.insert(new.connection_id, live);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.live.remove(connection_id);
            }
            // `consider` names them.
            FromSwarm::NewExternalAddrCandidate(_) => return,
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        if matches!(event, Either::Left(Said::PeerHasServerSupport)) {
            let horizon = self.horizon;
            let Some(live) = self.live.get_mut(&connection) else { return };
            live.tests = true;
            if !is_far_enough(&live.endpoint, horizon) {
                return;
            }
        }
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let tester = |live: &Live| live.tests && is_far_enough(&live.endpoint, self.horizon);
        // The library wakes up every 5 s, whether there is something to test or not.
        while !self.open.is_empty() && self.live.values().any(tester) {
            match self.inner.poll(cx) {
                // One success is one vote.
                Poll::Ready(ToSwarm::ExternalAddrConfirmed(_)) => {}
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    self.open.retain(|addr| *addr != event.tested_addr);
                    return Poll::Ready(ToSwarm::GenerateEvent(event));
                }
                other => return other,
            }
        }
        Poll::Pending
    }
}
