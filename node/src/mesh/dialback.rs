//! Connects to peers that want to know whether they can be reached: AutoNAT v2's server, with what it lacks. The
//! library dials whatever it is asked to, as often as it is asked, and leaves the connection open. Here a peer is
//! dialled at the address that it is seen at, or at another one of the world (for which it has to send 30 to 100 KB
//! first, so that we are no amplifier), never into our own network or machine unless it is there itself; and so many
//! times a minute. And it hears soon of a router that swallows what comes: a dial may take as long as the library lets
//! the peer wait for the answer, which then never comes.
use super::book::ip_of;
use super::limits;
use super::reachability::Scope;
use libp2p::PeerId;
use libp2p::autonat::v2::server;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr, transport::PortUse};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::swarm::{DialError, behaviour::DialFailure};
use protocol::shard::Site;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

#[derive(Debug, thiserror::Error)]
#[error("not tested: {0}")]
struct NotTested(&'static str);

/// Who was dialled back within the last minute. Pure.
#[derive(Default)]
struct Pace {
    lately: VecDeque<(PeerId, Option<Site>, Instant)>,
}

impl Pace {
    fn admits(&mut self, now: Instant, peer: PeerId, site: Option<Site>) -> bool {
        const MINUTE: Duration = Duration::from_secs(60);
        while self.lately.front().is_some_and(|(.., at)| now.saturating_duration_since(*at) >= MINUTE) {
            self.lately.pop_front();
        }
        let of_peer = self.lately.iter().filter(|(known, ..)| *known == peer).count();
        let of_site = self.lately.iter().filter(|(_, known, _)| site.is_some() && *known == site).count();
        let room = of_peer < limits::DIALBACKS_PER_PEER
            && of_site < limits::DIALBACKS_PER_SITE
            && self.lately.len() < limits::DIALBACKS;
        if room {
            self.lately.push_back((peer, site, now));
        }
        room
    }
}

struct Dial {
    since: Instant,
    /// It has its answer.
    over: bool,
}

#[derive(Default)]
pub struct DialBack {
    inner: server::Behaviour,
    /// Dials of ours, until they have failed or are closed: bounded by `Pace`.
    dials: HashMap<ConnectionId, Dial>,
    /// Where each connected peer is seen at.
    seen_at: HashMap<PeerId, Vec<(ConnectionId, IpAddr)>>,
    pace: Pace,
}

impl DialBack {
    /// This connection was made to test the peer, and is of no other use.
    pub fn made(&self, connection: ConnectionId) -> bool {
        self.dials.contains_key(&connection)
    }

    /// What takes long has failed, for who waits for it.
    pub fn give_up(&mut self, now: Instant) {
        let late =
            |dial: &&mut Dial| !dial.over && now.saturating_duration_since(dial.since) >= limits::DIALBACK_PATIENCE;
        for (connection_id, dial) in self.dials.iter_mut() {
            let Some(dial) = Some(dial).filter(late) else { continue };
            dial.over = true;
            let failure = DialFailure { peer_id: None, error: &DialError::Aborted, connection_id: *connection_id };
            // Without effect on one that is connected.
            self.inner.on_swarm_event(FromSwarm::DialFailure(failure));
        }
    }

    fn may_dial(&mut self, peer: PeerId, addresses: &[Multiaddr]) -> Result<(), &'static str> {
        let seen: Vec<IpAddr> = self.seen_at.get(&peer).into_iter().flatten().map(|(_, ip)| *ip).collect();
        let fits = |addr: &Multiaddr| {
            let ip = ip_of(addr).filter(|_| super::book::is_direct(addr));
            ip.is_some_and(|ip| seen.contains(&ip) || (Scope::of(ip) == Scope::World && !seen.is_empty()))
        };
        if !addresses.iter().all(fits) {
            return Err("that is no address of its own");
        }
        if !self.pace.admits(Instant::now(), peer, seen.iter().find_map(|ip| Site::of_ip(*ip))) {
            return Err("too many tests in a minute");
        }
        Ok(())
    }
}

impl NetworkBehaviour for DialBack {
    type ConnectionHandler = <server::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = server::Event;

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let Some(peer) = peer.filter(|_| self.dials.contains_key(&connection)) else { return Ok(Vec::new()) };
        let Err(why) = self.may_dial(peer, addresses) else { return Ok(Vec::new()) };
        self.dials.remove(&connection);
        // A handler that is dropped tells the peer that we could not try, and not that it cannot be reached.
        let nowhere = Multiaddr::empty();
        drop(self.inner.handle_established_outbound_connection(
            connection,
            peer,
            &nowhere,
            Endpoint::Dialer,
            PortUse::New,
        ));
        Err(ConnectionDenied::new(NotTested(why)))
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
        self.inner.handle_established_outbound_connection(connection, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(new) => {
                if let (ConnectedPoint::Listener { send_back_addr, .. }, false) =
                    (new.endpoint, new.endpoint.is_relayed())
                    && let Some(ip) = ip_of(send_back_addr)
                {
                    self.seen_at.entry(new.peer_id).or_default().push((new.connection_id, ip));
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.dials.remove(&closed.connection_id);
                if let Some(seen) = self.seen_at.get_mut(&closed.peer_id) {
                    seen.retain(|(connection, _)| *connection != closed.connection_id);
                }
                self.seen_at.retain(|_, seen| !seen.is_empty());
            }
            FromSwarm::DialFailure(failed) => {
                self.dials.remove(&failed.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let next = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &next {
            self.dials.insert(opts.connection_id(), Dial { since: Instant::now(), over: false });
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_minute_for_each_for_its_site_and_for_all() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let (one, site) = (PeerId::random(), Site::of_ip("192.0.2.1".parse().unwrap()));
        assert_eq!((0..100).filter(|_| pace.admits(start, one, site)).count(), limits::DIALBACKS_PER_PEER);
        let beside = (0..1000).filter(|_| pace.admits(start, PeerId::random(), site)).count();
        assert_eq!(beside, limits::DIALBACKS_PER_SITE - limits::DIALBACKS_PER_PEER);
        let others = (0..1000).filter(|_| pace.admits(start, PeerId::random(), None)).count();
        assert_eq!(others, limits::DIALBACKS - limits::DIALBACKS_PER_SITE, "on this network there are no sites");
        assert!(pace.admits(start + Duration::from_secs(60), one, site));
        assert_eq!(pace.lately.len(), 1);
    }

    #[test]
    fn nobody_is_dialled_into_our_own_network() {
        let (mut server, peer) = (DialBack::default(), PeerId::random());
        let mut may = |seen: &str, addr: &str| {
            server.seen_at = [(peer, vec![(ConnectionId::new_unchecked(1), seen.parse().unwrap())])].into();
            server.pace = Pace::default();
            server.may_dial(peer, &[addr.parse().unwrap()]).is_ok()
        };
        assert!(may("192.0.2.1", "/ip4/192.0.2.1/tcp/4001"));
        assert!(may("192.0.2.1", "/ip6/2001:db8::1/udp/4001/quic-v1"), "its other version of IP");
        assert!(may("192.168.1.7", "/ip4/192.168.1.7/tcp/4001"), "it is there itself");
        for addr in [
            "/ip4/192.168.1.7/tcp/22",
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/10.0.0.1/tcp/80",
            "/ip6/fe80::1/tcp/80",
            "/dns4/localhost/tcp/80",
            "/ip4/198.51.100.1/tcp/1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X/p2p-circuit",
        ] {
            assert!(!may("192.0.2.1", addr), "{addr}");
        }
    }
}
