//! The routing, as the sharded board needs it: who serves around this node, and who lies closest to a key.
use super::actor::Actor;
use super::limits;
use super::names::{from_libp2p, to_libp2p};
use super::reach::Lookup;
use super::types::{MeshEvent, RoutingServer};
use libp2p::multiaddr::{Multiaddr, Protocol};
use libp2p::{PeerId, kad};
use std::time::Instant;

/// What was told last.
#[derive(Default)]
pub(super) struct Vicinity {
    told: Option<(bool, Vec<PeerId>)>,
    look_at: Option<Instant>,
}

fn server(peer: &PeerId, addrs: impl Iterator<Item = Multiaddr>) -> Option<RoutingServer> {
    let bare = |addr: Multiaddr| -> String {
        // A relay's own id stands before `p2p-circuit`; only the node's at the end is left out.
        let own = addr.iter().last() == Some(Protocol::P2p(*peer));
        let parts = addr.iter().count() - usize::from(own);
        addr.iter().take(parts).collect::<Multiaddr>().to_string()
    };
    Some(RoutingServer { peer: from_libp2p(peer)?, addrs: addrs.take(limits::MAX_ADDRS_PER_PEER).map(bare).collect() })
}

impl Actor {
    /// Tells the node when the servers around it, or its own part in it, have changed.
    pub(super) fn tell_vicinity(&mut self, now: Instant) {
        if self.vicinity.look_at.is_some_and(|at| at > now) {
            return;
        }
        self.vicinity.look_at = Some(now + limits::LOOK_AROUND);
        let local = *self.swarm.local_peer_id();
        let serves = self.server && self.swarm.behaviour().kad.mode() == kad::Mode::Server;
        let servers: Vec<RoutingServer> = if serves {
            let kad = &mut self.swarm.behaviour_mut().kad;
            let near: Vec<PeerId> = kad
                .get_closest_local_peers(&kad::KBucketKey::from(local))
                .take(limits::VICINITY)
                .map(|key| *key.preimage())
                .collect();
            near.iter().filter_map(|peer| server(peer, super::announce::addresses(kad, peer).into_iter())).collect()
        } else {
            let serving = self.peers.iter().filter(|(_, known)| known.serves_dht && known.identified);
            serving
                .filter_map(|(peer, known)| server(peer, known.listen.iter().cloned()))
                .take(limits::VICINITY)
                .collect()
        };
        let mut who: Vec<PeerId> = servers.iter().map(|server| to_libp2p(server.peer)).collect();
        who.sort_unstable();
        if self.vicinity.told.as_ref().is_some_and(|told| *told == (serves, who.clone())) {
            return;
        }
        self.vicinity.told = Some((serves, who));
        let own = serves.then(|| {
            let addrs = self.swarm.external_addresses().cloned().chain(self.swarm.listeners().cloned());
            server(&local, addrs)
        });
        self.emit(MeshEvent::Vicinity { own: own.flatten(), servers });
    }

    pub(super) fn find_holders(&mut self, ticket: u64, key: Vec<u8>) {
        if !self.look_up_key(Lookup::Holders(ticket), key) {
            self.emit(MeshEvent::Holders { ticket, servers: Vec::new() });
        }
    }

    pub(super) fn holders_found(&mut self, ticket: u64, found: Vec<kad::PeerInfo>) {
        let servers = found.into_iter().filter_map(|peer| server(&peer.peer_id, peer.addrs.into_iter())).collect();
        self.emit(MeshEvent::Holders { ticket, servers });
    }
}
