//! Punches holes: two nodes that are connected by a relay dial each other at the same moment (DCUtR), so that each
//! one's router takes the other's packets for answers. The library, with what it lacks: it dials whatever addresses
//! the peer names, as often as the peer asks, and remembers every attempt for ever. Here only addresses are dialled
//! that reach as far as the relay's own, few of them, so many times a minute; and the list is thrown away now and then.
use super::book;
use super::limits;
use super::prober::Halves;
use super::reachability::Scope;
use super::sites;
use either::Either;
use libp2p::PeerId;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr, transport::PortUse};
use libp2p::dcutr;
use libp2p::swarm::behaviour::NewExternalAddrCandidate;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use protocol::shard::Site;
use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

type Handled = <dcutr::Behaviour as NetworkBehaviour>::ConnectionHandler;
type Said = <<Handled as ConnectionHandler>::ToBehaviour as Halves>::Left;
type Asked = <<Handled as ConnectionHandler>::FromBehaviour as Halves>::Left;

struct Live {
    peer: PeerId,
    endpoint: ConnectedPoint,
    /// When it was last tried, and how often again, for a relayed one.
    tried: Instant,
    again: usize,
}

impl Live {
    fn is_due(&self, now: Instant) -> bool {
        let pause = limits::PUNCH_AGAIN[self.again.min(limits::PUNCH_AGAIN.len() - 1)];
        now.saturating_duration_since(self.tried) >= pause
    }
}

pub struct Punch {
    local: PeerId,
    inner: dcutr::Behaviour,
    /// As many as there are connections.
    live: HashMap<ConnectionId, Live>,
    /// Where routers let us out; what the library was told since it was made.
    candidates: Vec<Multiaddr>,
    lately: VecDeque<(PeerId, Option<Site>, Instant)>,
    attempts: usize,
    /// Connections over which the peer is to be asked again: at most as many as there are.
    again: Vec<(PeerId, ConnectionId)>,
}

impl Punch {
    pub fn new(local: PeerId) -> Self {
        Punch {
            local,
            inner: dcutr::Behaviour::new(local),
            live: HashMap::new(),
            candidates: Vec::new(),
            lately: VecDeque::new(),
            attempts: 0,
            again: Vec::new(),
        }
    }

    /// By the protocol it is the one who was called that asks.
    pub fn try_again(&mut self, now: Instant) {
        let direct = |peer: PeerId, live: &Live| live.peer == peer && !live.endpoint.is_relayed();
        let due: Vec<(PeerId, ConnectionId)> = self
            .live
            .iter()
            .filter(|(_, live)| live.endpoint.is_relayed() && live.endpoint.is_listener())
            .filter(|(_, live)| live.is_due(now))
            .filter(|(_, live)| !self.live.values().any(|other| direct(live.peer, other)))
            .map(|(connection, live)| (live.peer, *connection))
            .collect();
        for (peer, connection) in due {
            if let Some(live) = self.live.get_mut(&connection) {
                live.tried = now;
                live.again += 1;
                self.again.push((peer, connection));
            }
        }
    }

    /// The addresses that peers are told to dial.
    pub fn candidates(&mut self, candidates: Vec<Multiaddr>) {
        if self.candidates.iter().any(|old| !candidates.contains(old)) {
            self.candidates = candidates;
            return self.renew();
        }
        for addr in candidates {
            if !self.candidates.contains(&addr) {
                self.tell(&addr);
                self.candidates.push(addr);
            }
        }
    }

    fn tell(&mut self, addr: &Multiaddr) {
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }));
    }

    /// Without the past. It must know the direct connections, which it will be told the end of.
    fn renew(&mut self) {
        self.inner = dcutr::Behaviour::new(self.local);
        self.attempts = 0;
        for (connection, live) in self.live.iter().filter(|(_, live)| !live.endpoint.is_relayed()) {
            let (local, remote) = (Multiaddr::empty(), live.endpoint.get_remote_address());
            // The handler is there already, and does nothing.
            drop(self.inner.handle_established_inbound_connection(*connection, live.peer, &local, remote));
        }
        for addr in std::mem::take(&mut self.candidates) {
            self.tell(&addr);
            self.candidates.push(addr);
        }
    }

    /// A hole towards this peer was begun just now: who comes in from it comes through that.
    pub fn is_punching(&self, now: Instant, peer: &PeerId) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < limits::PUNCH_TAKES;
        self.lately.iter().any(|(known, _, at)| known == peer && lately(*at))
    }

    fn admits(&mut self, now: Instant, peer: PeerId, site: Option<Site>) -> bool {
        const MINUTE: Duration = Duration::from_secs(60);
        while self.lately.front().is_some_and(|(.., at)| now.saturating_duration_since(*at) >= MINUTE) {
            self.lately.pop_front();
        }
        let of_peer = self.lately.iter().filter(|(known, ..)| *known == peer).count();
        let of_site = self.lately.iter().filter(|(_, known, _)| site.is_some() && *known == site).count();
        let room = of_peer < limits::PUNCHES_PER_PEER
            && of_site < limits::PUNCHES_PER_SITE
            && self.lately.len() < limits::PUNCHES;
        if room {
            self.lately.push_back((peer, site, now));
        }
        room
    }

    /// False when nothing is left to dial.
    fn check(&mut self, peer: PeerId, connection: ConnectionId, addrs: &mut Vec<Multiaddr>) -> bool {
        let Some(live) = self.live.get(&connection) else { return false };
        *addrs = worth_dialling(std::mem::take(addrs), &live.endpoint);
        let site = sites::of_endpoint(&live.endpoint);
        if addrs.is_empty() || !self.admits(Instant::now(), peer, site) {
            return false;
        }
        self.attempts += 1;
        if self.attempts > limits::MAX_PUNCHES_KEPT {
            self.renew();
        }
        true
    }
}

/// A peer met by a relay of the world has no business to name addresses of our own network.
fn worth_dialling(addrs: Vec<Multiaddr>, by: &ConnectedPoint) -> Vec<Multiaddr> {
    let relay = match by {
        ConnectedPoint::Dialer { address, .. } => address,
        ConnectedPoint::Listener { local_addr, .. } => local_addr,
    };
    let least = book::ip_of(relay).map_or(Scope::World, Scope::of);
    let fits = |addr: &Multiaddr| {
        let ip = book::ip_of(addr).filter(|_| book::is_direct(addr));
        ip.is_some_and(|ip| Scope::of(ip) >= least && !ip.is_unspecified())
    };
    addrs.into_iter().filter(fits).take(limits::PUNCH_ADDRS).collect()
}

impl NetworkBehaviour for Punch {
    type ConnectionHandler = Handled;
    type ToSwarm = dcutr::Event;

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
        self.inner.handle_established_outbound_connection(connection, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(new) => {
                let live = Live { peer: new.peer_id, endpoint: new.endpoint.clone(), tried: Instant::now(), again: 0 };
                self.live.insert(new.connection_id, live);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.live.remove(&closed.connection_id);
            }
            // `candidates` names them.
            FromSwarm::NewExternalAddrCandidate(_) => return,
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        mut event: THandlerOutEvent<Self>,
    ) {
        if let Either::Left(
            Said::InboundConnectNegotiated { remote_addrs } | Said::OutboundConnectNegotiated { remote_addrs },
        ) = &mut event
            && !self.check(peer, connection, remote_addrs)
        {
            return tracing::debug!(%peer, "no hole is punched");
        }
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.again.pop() {
            let (handler, event) = (NotifyHandler::One(connection), Either::Left(Asked::Connect));
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_reach_as_far_as_the_relay_are_dialled() {
        let relay = PeerId::random();
        let by = |relay_addr: &str| ConnectedPoint::Listener {
            local_addr: format!("{relay_addr}/p2p/{relay}/p2p-circuit").parse().unwrap(),
            send_back_addr: Multiaddr::empty(),
        };
        let named: Vec<Multiaddr> = [
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip4/0.0.0.0/tcp/80",
            "/dns4/localhost/tcp/80",
            "/ip4/192.0.2.9/tcp/4001",
            "/ip4/192.0.2.9/udp/4001/quic-v1",
        ]
        .map(|addr| addr.parse().unwrap())
        .to_vec();
        for (relay_addr, expected) in
            [("/ip4/198.51.100.1/tcp/1", 2), ("/ip4/10.0.0.1/tcp/1", 3), ("/ip4/127.0.0.1/tcp/1", 4)]
        {
            assert_eq!(worth_dialling(named.clone(), &by(relay_addr)).len(), expected, "{relay_addr}");
        }
        let many = (1..100).map(|port| format!("/ip4/192.0.2.9/tcp/{port}").parse().unwrap()).collect();
        assert_eq!(worth_dialling(many, &by("/ip4/198.51.100.1/tcp/1")).len(), limits::PUNCH_ADDRS);
    }

    #[test]
    fn while_a_relayed_connection_lasts_it_is_tried_again() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let relayed = |listener: bool| {
            let addr: Multiaddr = format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}/p2p-circuit").parse().unwrap();
            match listener {
                true => ConnectedPoint::Listener { local_addr: addr, send_back_addr: Multiaddr::empty() },
                false => {
                    ConnectedPoint::Dialer { address: addr, role_override: Endpoint::Dialer, port_use: PortUse::New }
                }
            }
        };
        let mut punch = Punch::new(PeerId::random());
        for (id, listener) in [(1, true), (2, false)] {
            let live = Live { peer, endpoint: relayed(listener), tried: now, again: 0 };
            punch.live.insert(ConnectionId::new_unchecked(id), live);
        }
        let mut later = now;
        let pauses = limits::PUNCH_AGAIN.into_iter().chain([limits::PUNCH_AGAIN[2]; 2]);
        for pause in pauses {
            later += pause;
            punch.try_again(later - Duration::from_secs(1));
            assert!(punch.again.is_empty());
            punch.try_again(later);
            punch.try_again(later);
            assert_eq!(punch.again, [(peer, ConnectionId::new_unchecked(1))], "once, by the one who was called");
            punch.again.clear();
        }
        let addr: Multiaddr = "/ip4/192.0.2.9/tcp/1".parse().unwrap();
        let endpoint = ConnectedPoint::Listener { local_addr: addr.clone(), send_back_addr: addr };
        punch.live.insert(ConnectionId::new_unchecked(3), Live { peer, endpoint, tried: now, again: 0 });
        punch.try_again(later + limits::PUNCH_AGAIN[2]);
        assert!(punch.again.is_empty(), "there is a direct one");
    }

    #[test]
    fn attempts_are_few_and_the_past_is_thrown_away() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut punch = Punch::new(PeerId::random());
        assert!(!punch.is_punching(now, &peer));
        let site = Site::of_ip("192.0.2.1".parse().unwrap());
        assert_eq!((0..100).filter(|_| punch.admits(now, peer, site)).count(), limits::PUNCHES_PER_PEER);
        assert!(punch.is_punching(now, &peer) && !punch.is_punching(now + limits::PUNCH_TAKES, &peer));
        let beside = (0..1000).filter(|_| punch.admits(now, PeerId::random(), site)).count();
        assert_eq!(beside, limits::PUNCHES_PER_SITE - limits::PUNCHES_PER_PEER);
        let others = (0..1000).filter(|_| punch.admits(now, PeerId::random(), None)).count();
        assert_eq!(others, limits::PUNCHES - limits::PUNCHES_PER_SITE);
        assert!(punch.admits(now + Duration::from_secs(60), peer, site));
        // A direct connection that was there before the renewal may close after it.
        let direct = ConnectionId::new_unchecked(1);
        let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        drop(punch.handle_established_inbound_connection(direct, peer, &addr, &addr));
        let endpoint = ConnectedPoint::Listener { local_addr: addr.clone(), send_back_addr: addr };
        punch.on_swarm_event(FromSwarm::ConnectionEstablished(libp2p::swarm::behaviour::ConnectionEstablished {
            peer_id: peer,
            connection_id: direct,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
        punch.attempts = limits::MAX_PUNCHES_KEPT;
        punch.renew();
        assert_eq!(punch.attempts, 0);
        assert!(punch.again.is_empty());
        punch.on_swarm_event(FromSwarm::ConnectionClosed(libp2p::swarm::behaviour::ConnectionClosed {
            peer_id: peer,
            connection_id: direct,
            endpoint: &endpoint,
            cause: None,
            remaining_established: 0,
        }));
        assert!(punch.live.is_empty());
    }
}
