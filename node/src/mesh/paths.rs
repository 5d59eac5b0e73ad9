//! The connections to one peer. Two nodes that meet by a relay may have a direct connection a moment later, by a hole
//! that was punched: then new tunnels take that one, and the relayed one is closed as soon as nothing uses it. What is
//! open stays where it is: a stream cannot move.
use super::actor::Actor;
use super::book;
use super::limits;
use super::metrics::count;
use super::names::from_libp2p;
use super::peer::{Link, Peer};
use super::streams::{Count, Counts};
use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::time::Instant;

impl Actor {
    pub(super) fn linked(&mut self, now: Instant, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let (addr, local) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (address, None),
            // Of who comes by a relay no address is known but the relay's.
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => (local_addr, Some(local_addr)),
            ConnectedPoint::Listener { local_addr, send_back_addr } => (send_back_addr, Some(local_addr)),
        };
        let relay = if endpoint.is_relayed() { self.carrier(addr) } else { None };
        let spare = self.swarm.behaviour().dialback.as_ref().is_some_and(|dialback| dialback.made(id));
        // Both sides dial, and either dial may be the one that gets through.
        let came_through = endpoint.is_listener() && self.swarm.behaviour().punch.is_punching(now, &peer);
        let link = Link {
            id,
            addr: addr.clone(),
            inbound: endpoint.is_listener(),
            local: local.cloned(),
            relay,
            punched: came_through,
            spare,
            suspect: false,
            answered: None,
            tunnels: Count::default(),
            since: now,
        };
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.links.push(link);
        let relayed = known.is_relayed();
        self.hood.set_relayed(now, &peer, relayed);
    }

    /// Others are left.
    pub(super) fn unlinked(&mut self, now: Instant, peer: PeerId, id: ConnectionId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.links.retain(|link| link.id != id);
        let relayed = known.is_relayed();
        self.hood.set_relayed(now, &peer, relayed);
        self.reopen(peer, id);
    }

    /// It did not answer. True if another one is left.
    pub(super) fn suspect(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(known) = self.peers.get_mut(peer) else { return false };
        for link in known.links.iter_mut().filter(|link| link.id == id) {
            link.suspect = true;
        }
        let relayed = known.is_relayed();
        let another = known.best().is_some_and(|link| !link.suspect);
        self.hood.set_relayed(Instant::now(), peer, relayed);
        another
    }

    /// It answers, or does so after all.
    pub(super) fn trust(&mut self, now: Instant, peer: &PeerId, id: ConnectionId) {
        let links = self.peers.get_mut(peer).map(|known| &mut known.links);
        for link in links.into_iter().flatten().filter(|link| link.id == id) {
            link.suspect = false;
            link.answered = Some(now);
        }
    }

    /// Which relay carries what comes by this address. One that has dialled us is not named in it.
    fn carrier(&self, addr: &Multiaddr) -> Option<protocol::PeerId> {
        let bare: Multiaddr = addr.iter().take_while(|part| *part != libp2p::multiaddr::Protocol::P2pCircuit).collect();
        let dialled_us = || {
            let there = |known: &Peer| known.links.iter().any(|link| link.inbound && link.addr == bare);
            self.peers.iter().find(|(_, known)| there(known)).map(|(relay, _)| *relay)
        };
        book::relay_of(addr).or_else(dialled_us).and_then(|relay| from_libp2p(&relay))
    }

    pub(super) fn counts(&mut self, peer: &PeerId, connection: ConnectionId) -> Option<Counts> {
        let known = self.peers.get(peer)?;
        let link = known.link(connection)?;
        let of_site = link.site().map(|site| self.site_tunnels.entry(site).or_default().clone());
        let (of_link, of_peer) = (link.tunnels.clone(), known.tunnels.clone());
        Some(Counts { of_link, of_peer, of_site, of_all: self.tunnels.clone() })
    }

    /// Closes what a better connection has made superfluous, when nothing is under way. Against a relayed one it must have
    /// answered since that was made: who made it may have done so because the better one is dead.
    pub(super) fn close_spare(&mut self, now: Instant) {
        let old = |since: Instant| now.saturating_duration_since(since) >= limits::SPARE_KEPT;
        let mut superfluous = Vec::new();
        for (peer, known) in self.peers.iter().filter(|(_, known)| known.links.len() > 1) {
            let good = |link: &&Link| link.relay.is_none() && !link.spare && !link.suspect && old(link.since);
            let proven = known.links.iter().filter(good).filter_map(|link| link.answered).max();
            let settled = known.links.iter().any(|link| good(&link));
            let asked = self.requests.values().any(|(from, _)| from == peer);
            if !settled || asked || known.rpcs > 0 {
                continue;
            }
            let outlived = |link: &Link| link.spare || (link.relay.is_some() && proven >= Some(link.since));
            let idle = |link: &&Link| outlived(link) && old(link.since) && link.tunnels.get() == 0;
            superfluous.extend(known.links.iter().filter(idle).map(|link| (link.id, link.relay.is_some())));
        }
        for (connection, relayed) in superfluous {
            if relayed {
                count(&self.metrics.relayed_closed);
            }
            self.swarm.close_connection(connection);
        }
    }
}
