//! Where peers say that they listen. A peer may say anything, as often as it likes: a change is taken once in a while,
//! and what is taken replaces what was there, for Kademlia's own list of a peer's addresses only grows.
use super::actor::Actor;
use super::limits;
use super::types::MeshEvent;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::{Multiaddr, PeerId};
use std::time::Instant;

impl Actor {
    /// Takes what the peer has announced, if that is not too soon; otherwise `take_waiting` does.
    pub(super) fn take_announced(&mut self, now: Instant, peer: PeerId) {
        // Also across connections: a new one does not start anew.
        let wait = match self.heard.get(&peer) {
            Some(at) => now.saturating_duration_since(*at) < limits::ANNOUNCE_EVERY,
            None => self.heard.len() >= limits::MAX_ANNOUNCED,
        };
        let Some(known) = self.peers.get_mut(&peer).filter(|_| !wait) else { return };
        let Some(listen) = known.announced.take() else { return };
        self.heard.insert(peer, now);
        if known.serves_dht && self.server {
            set_addresses(&mut self.swarm.behaviour_mut().kad, &peer, &listen);
        }
        listen.iter().for_each(|addr| self.book.add(peer, addr.clone()));
        known.listen = listen;
        self.tell_where(peer);
    }

    /// Tells the node where a peer that it knows of listens. Visitors go to no disk.
    pub(super) fn tell_where(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer).filter(|known| known.told && !known.listen.is_empty()) else { return };
        let addrs = known.listen.iter().filter_map(|addr| addr.clone().with_p2p(peer).ok());
        let (id, addrs) = (known.id, addrs.map(|addr| addr.to_string()).collect());
        let agent = known.agent.clone().unwrap_or_default();
        self.emit(MeshEvent::PeerIdentified { peer: id, addrs, agent });
    }

    pub(super) fn take_waiting(&mut self, now: Instant) {
        let waiting = self.peers.iter().filter(|(_, known)| known.announced.is_some());
        let waiting: Vec<PeerId> = waiting.map(|(peer, _)| *peer).collect();
        waiting.into_iter().for_each(|peer| self.take_announced(now, peer));
    }
}

/// Makes these the peer's addresses in the routing table, and no others: neither those that it said before, nor those
/// at which it was dialled. The new ones first, for with its last address a peer leaves the table. (An entry that waits
/// for a place is not listed by the library; it keeps what is said within that minute.) None that leads by a relay: who
/// needs one has no place there.
pub(super) fn set_addresses(kad: &mut kad::Behaviour<MemoryStore>, peer: &PeerId, addrs: &[Multiaddr]) {
    let direct = addrs.iter().filter(|addr| super::book::is_direct(addr));
    let wanted: Vec<Multiaddr> = direct.filter_map(|addr| addr.clone().with_p2p(*peer).ok()).collect();
    for addr in &wanted {
        kad.add_address(peer, addr.clone());
    }
    for addr in addresses(kad, peer).iter().filter(|addr| !wanted.contains(addr)) {
        kad.remove_address(peer, addr);
    }
}

pub(super) fn addresses(kad: &mut kad::Behaviour<MemoryStore>, peer: &PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kad.kbucket(*peer) else { return Vec::new() };
    let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer);
    entry.map(|entry| entry.node.value.iter().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::join::Join;
    use super::super::names::{Names, from_libp2p, to_libp2p};
    use super::super::peer::Peer;
    use super::super::types::{Direction, MeshConfig};
    use super::*;
    use std::time::{Duration, SystemTime};
    use tokio::sync::mpsc;

    fn peer(id: protocol::PeerId, now: Instant) -> Peer {
        Peer {
            id,
            links: Vec::new(),
            direction: Direction::Inbound,
            since: SystemTime::now(),
            connected_at: now,
            listen: Vec::new(),
            observed: Vec::new(),
            relays: false,
            announced: None,
            agent: None,
            rtt: None,
            identified: true,
            told: true,
            serves_dht: true,
            subscribed: false,
            tunnels: Default::default(),
            rpcs: 0,
            closing: false,
        }
    }

    #[tokio::test]
    async fn a_peer_that_moves_all_the_time_is_followed_once_in_a_while() {
        let network = "test".parse().unwrap();
        let config = MeshConfig::new(protocol::Keypair::from_secret(&[1; 32]), network);
        let config = MeshConfig { server: true, mdns: false, ..config };
        let swarm = super::super::behaviour::swarm(&config, &Names::of(&config.network), &Default::default()).unwrap();
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let ((_to, commands), (events, _taken)) = (mpsc::channel(1), mpsc::channel(1));
        let join = Join::new(now, Vec::new());
        let mut actor = Actor::new(swarm, &config, join, Default::default(), commands, events);
        let id = protocol::Keypair::from_secret(&[2; 32]).peer_id();
        let key = to_libp2p(id);
        assert_eq!(from_libp2p(&key), Some(id));
        let addr = |port: u32| format!("/ip4/127.0.0.1/tcp/{port}/p2p/{key}").parse::<Multiaddr>().unwrap();
        let mut taken = Vec::new();
        for n in 0..=30 {
            // It comes anew each time, too.
            let known = Peer { announced: Some(vec![addr(1000 + n)]), ..peer(id, now) };
            actor.peers.insert(key, known);
            actor.forget(now + second * n);
            actor.take_waiting(now + second * n);
            taken.extend(actor.peers[&key].listen.first().cloned());
            assert_eq!(addresses(&mut actor.swarm.behaviour_mut().kad, &key).len(), 1);
        }
        assert_eq!(taken, [addr(1000), addr(1010), addr(1020), addr(1030)]);
    }

    #[test]
    fn the_routing_table_has_what_a_peer_said_last_and_no_more() {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let mut kad = kad::Behaviour::new(local, MemoryStore::new(local));
        let addr = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}").parse::<Multiaddr>().unwrap();
        for port in 1..1000 {
            let said = [addr(port), addr(port + 1)];
            set_addresses(&mut kad, &peer, &said);
            assert_eq!(addresses(&mut kad, &peer), said);
        }
        // As a dial would.
        kad.add_address(&peer, addr(7));
        set_addresses(&mut kad, &peer, &[addr(3)]);
        assert_eq!(addresses(&mut kad, &peer), [addr(3)]);
        set_addresses(&mut kad, &peer, &[]);
        assert!(addresses(&mut kad, &peer).is_empty());
    }
}
