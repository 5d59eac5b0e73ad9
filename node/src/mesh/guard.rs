//! Who may connect at all: the hard outer bound, before any other protocol sees the connection. Written by hand,
//! because the library's limits keep an entry for every peer that ever connected.
use super::limiter::{Allowance, Limiter};
use super::limits;
use super::names::from_libp2p;
use super::pace::Payer;
use super::paced::{Pacer, Seat};
use super::sites;
use super::types::Refused;
use libp2p::core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{PeerId, core::ConnectedPoint};
use protocol::shard::Site;
use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

#[derive(Debug, thiserror::Error)]
#[error("{}", .0.as_str())]
pub struct Denied(pub Refused);

pub struct Guard {
    max_established: usize,
    pacer: Pacer,
    /// Of each connection, with whose it is.
    seats: HashMap<ConnectionId, (PeerId, Arc<Seat>)>,
    pending_in: HashSet<ConnectionId>,
    pending_out: HashSet<ConnectionId>,
    established: HashMap<PeerId, usize>,
    inbound: usize,
    outbound: usize,
    /// Inbound ones of each site that has some.
    of_site: HashMap<Site, usize>,
    handshakes: Limiter<Site>,
    /// Pinned and bootstrap peers: not counted out.
    exempt: HashSet<PeerId>,
    /// Where those that are connected, or exempt, came from last.
    came_from: HashMap<PeerId, Site>,
    banned: HashSet<PeerId>,
    /// Oldest first.
    banned_order: VecDeque<PeerId>,
    /// Let in although they may be banned: a lease runs. As many as are pinned.
    spared: HashSet<PeerId>,
}

impl Guard {
    pub fn new(max_neighbours: usize, pacer: Pacer) -> Self {
        Guard {
            max_established: max_neighbours + limits::MAX_VISITORS,
            pacer,
            seats: HashMap::new(),
            pending_in: HashSet::new(),
            pending_out: HashSet::new(),
            established: HashMap::new(),
            inbound: 0,
            outbound: 0,
            of_site: HashMap::new(),
            handshakes: Limiter::new(Allowance::HANDSHAKES_OF_SITE),
            exempt: HashSet::new(),
            came_from: HashMap::new(),
            banned: HashSet::new(),
            banned_order: VecDeque::new(),
            spared: HashSet::new(),
        }
    }
    pub fn exempt(&mut self, peer: PeerId) {
        self.exempt.insert(peer);
        self.set_free(&peer, true);
    }
    pub fn unexempt(&mut self, peer: &PeerId) {
        self.exempt.remove(peer);
        self.set_free(peer, false);
        if !self.established.contains_key(peer) {
            self.came_from.remove(peer);
        }
    }
    pub fn ban(&mut self, peer: PeerId) {
        if !self.banned.insert(peer) {
            return;
        }
        self.banned_order.push_back(peer);
        if self.banned_order.len() > limits::MAX_BANNED
            && let Some(oldest) = self.banned_order.pop_front()
        {
            self.banned.remove(&oldest);
        }
    }
    pub fn unban(&mut self, peer: &PeerId) {
        if self.banned.remove(peer) {
            self.banned_order.retain(|banned| banned != peer);
        }
    }
    pub fn spare(&mut self, peer: PeerId) {
        self.spared.insert(peer);
    }
    pub fn spare_no_longer(&mut self, peer: &PeerId) {
        self.spared.remove(peer);
    }
    pub fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.contains(peer) && !self.spared.contains(peer)
    }

    pub fn forget_full(&mut self, now: Instant) {
        self.handshakes.forget_full(now);
    }

    /// Before it is known who it is. What comes from where an exempt peer is may be that peer.
    fn admit_handshake(&mut self, now: Instant, site: Option<Site>) -> Result<(), Denied> {
        if self.pending_in.len() >= limits::MAX_PENDING_INBOUND {
            return Err(Denied(Refused::ConnectionLimit));
        }
        let is_home =
            |site: &Site| self.came_from.iter().any(|(peer, from)| from == site && self.exempt.contains(peer));
        match site.filter(|site| matches!(site, Site::At(_)) && !is_home(site)) {
            Some(site) if !self.handshakes.admits(now, site) => Err(Denied(Refused::Site)),
            _ => Ok(()),
        }
    }

    fn admit(&self, peer: &PeerId, direction_count: usize) -> Result<(), Denied> {
        if from_libp2p(peer).is_none() {
            return Err(Denied(Refused::KeyType));
        }
        if self.is_banned(peer) {
            return Err(Denied(Refused::Banned));
        }
        let of_peer = self.established.get(peer).copied().unwrap_or(0);
        if of_peer >= limits::MAX_CONNECTIONS_PER_PEER {
            return Err(Denied(Refused::ConnectionLimit));
        }
        if direction_count >= self.max_established && !self.exempt.contains(peer) {
            return Err(Denied(Refused::ConnectionLimit));
        }
        Ok(())
    }

    /// For the task that the library makes next.
    fn seat(&mut self, connection: ConnectionId, peer: PeerId, site: Option<Site>) {
        let payer = site.map_or(Payer::Connection(connection), Payer::Site);
        if let Some(seat) = self.pacer.expect(payer) {
            seat.set_free(self.exempt.contains(&peer));
            self.seats.insert(connection, (peer, seat));
        }
    }

    fn set_free(&self, peer: &PeerId, free: bool) {
        self.seats.values().filter(|(of, _)| of == peer).for_each(|(_, seat)| seat.set_free(free));
    }

    fn admit_from(&self, peer: &PeerId, site: Option<Site>) -> Result<(), Denied> {
        self.admit(peer, self.inbound)?;
        let of_site = site.and_then(|site| self.of_site.get(&site)).copied().unwrap_or(0);
        if of_site >= limits::MAX_CONNECTIONS_PER_SITE && !self.exempt.contains(peer) {
            return Err(Denied(Refused::Site));
        }
        Ok(())
    }

    /// The site of who has connected to us. How many come by a relay is bounded there (`RELAY_CIRCUITS_PER_HOLDER`).
    fn site_of(endpoint: &ConnectedPoint) -> Option<Site> {
        sites::of_endpoint(endpoint).filter(|site| endpoint.is_listener() && matches!(site, Site::At(_)))
    }

    fn count_site(&mut self, endpoint: &ConnectedPoint, change: impl FnOnce(usize) -> usize) {
        let Some(site) = Guard::site_of(endpoint) else { return };
        let changed = change(self.of_site.get(&site).copied().unwrap_or(0));
        match changed {
            0 => self.of_site.remove(&site),
            _ => self.of_site.insert(site, changed),
        };
    }

    fn count(&mut self, endpoint: &ConnectedPoint, change: impl FnOnce(&mut usize)) {
        change(if endpoint.is_dialer() { &mut self.outbound } else { &mut self.inbound });
    }
}

impl NetworkBehaviour for Guard {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.admit_handshake(Instant::now(), sites::of_caller(local, remote)).map_err(ConnectionDenied::new)?;
        self.pending_in.insert(connection);
        self.pacer.expect(Payer::Callers);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending_in.remove(&connection);
        let site = sites::of_caller(local, remote);
        self.pacer.expect_none();
        self.admit_from(&peer, site).map_err(ConnectionDenied::new)?;
        self.seat(connection, peer, site);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if peer.is_some_and(|peer| self.is_banned(&peer)) {
            return Err(ConnectionDenied::new(Denied(Refused::Banned)));
        }
        if self.pending_out.len() >= limits::MAX_PENDING_OUTBOUND {
            return Err(ConnectionDenied::new(Denied(Refused::ConnectionLimit)));
        }
        self.pending_out.insert(connection);
        // We have chosen to call.
        self.pacer.expect_none();
        Ok(vec![])
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending_out.remove(&connection);
        self.pacer.expect_none();
        self.admit(&peer, self.outbound).map_err(ConnectionDenied::new)?;
        self.seat(connection, peer, sites::of(addr));
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                *self.established.entry(event.peer_id).or_default() += 1;
                self.count(event.endpoint, |n| *n += 1);
                self.count_site(event.endpoint, |n| n + 1);
                if let Some(site) = Guard::site_of(event.endpoint) {
                    self.came_from.insert(event.peer_id, site);
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                self.seats.remove(&event.connection_id);
                self.count(event.endpoint, |n| *n = n.saturating_sub(1));
                self.count_site(event.endpoint, |n| n.saturating_sub(1));
                if event.remaining_established == 0 {
                    self.established.remove(&event.peer_id);
                    if !self.exempt.contains(&event.peer_id) {
                        self.came_from.remove(&event.peer_id);
                    }
                } else {
                    self.established.insert(event.peer_id, event.remaining_established);
                }
            }
            FromSwarm::DialFailure(event) => {
                self.pending_out.remove(&event.connection_id);
                self.seats.remove(&event.connection_id);
            }
            FromSwarm::ListenFailure(event) => {
                self.pending_in.remove(&event.connection_id);
                self.seats.remove(&event.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn someone() -> PeerId {
        libp2p::identity::Keypair::generate_ed25519().public().to_peer_id()
    }

    #[test]
    fn limits_bans_and_keys() {
        let mut guard = Guard::new(24, Pacer::boundless());
        let (peer, full) = (someone(), 24 + limits::MAX_VISITORS);
        let why = |result: Result<(), Denied>| result.err().map(|denied| denied.0);
        assert_eq!(why(guard.admit(&peer, full - 1)), None);
        assert_eq!(why(guard.admit(&peer, full)), Some(Refused::ConnectionLimit));
        guard.exempt(peer);
        assert_eq!(why(guard.admit(&peer, full)), None);
        guard.established.insert(peer, limits::MAX_CONNECTIONS_PER_PEER);
        assert_eq!(why(guard.admit(&peer, 0)), Some(Refused::ConnectionLimit), "one peer, even a pinned one");
        // The hash of a large (RSA) key, and an identity multihash of something that is not an ed25519 key.
        let hashed = PeerId::from_bytes(&[&[0x12, 0x20][..], &[7; 32]].concat()).unwrap();
        assert_eq!(why(guard.admit(&hashed, 0)), Some(Refused::KeyType));
    }

    #[test]
    fn many_ids_of_one_site_take_its_places_only() {
        let mut guard = Guard::new(24, Pacer::boundless());
        let from = |addr: &str| ConnectedPoint::Listener {
            local_addr: "/ip4/198.51.100.1/tcp/1".parse().unwrap(),
            send_back_addr: addr.parse().unwrap(),
        };
        let (site, friend) = (Site::of_ip("192.0.2.1".parse().unwrap()), someone());
        for n in 0..limits::MAX_CONNECTIONS_PER_SITE {
            assert!(guard.admit_from(&someone(), site).is_ok());
            guard.count_site(&from(&format!("/ip4/192.0.2.{n}/tcp/9")), |n| n + 1);
        }
        let why = guard.admit_from(&friend, site).err().map(|denied| denied.0);
        assert_eq!(why, Some(Refused::Site));
        guard.exempt(friend);
        assert!(guard.admit_from(&friend, site).is_ok(), "a leased peer");
        assert!(guard.admit_from(&someone(), Site::of_ip("192.0.3.1".parse().unwrap())).is_ok());
        assert!(guard.admit_from(&someone(), None).is_ok(), "on this network there are no sites");
        (0..limits::MAX_CONNECTIONS_PER_SITE).for_each(|_| guard.count_site(&from("/ip4/192.0.2.7/tcp/9"), |n| n - 1));
        guard.count_site(&from("/ip4/127.0.0.1/tcp/9"), |n| n + 1);
        assert!(guard.of_site.is_empty());
    }

    #[test]
    fn a_site_may_knock_so_often_unless_a_leased_peer_is_there() {
        let (mut guard, start) = (Guard::new(24, Pacer::boundless()), Instant::now());
        let site = |ip: &str| Site::of_ip(ip.parse().unwrap());
        let knocks =
            |guard: &mut Guard, now, ip| (0..1000).filter(|_| guard.admit_handshake(now, site(ip)).is_ok()).count();
        assert_eq!(knocks(&mut guard, start, "192.0.2.1"), 80);
        assert_eq!(knocks(&mut guard, start, "192.0.2.9"), 0, "the same site");
        assert_eq!(knocks(&mut guard, start, "192.0.3.1"), 80);
        assert_eq!(knocks(&mut guard, start, "192.168.1.1"), 1000, "nobody comes from there who could not do worse");
        assert_eq!(knocks(&mut guard, start + Duration::from_secs(60), "192.0.2.1"), 30);
        let leased = someone();
        guard.exempt(leased);
        guard.came_from.insert(leased, site("192.0.2.1").unwrap());
        assert_eq!(knocks(&mut guard, start, "192.0.2.1"), 1000);
        guard.unexempt(&leased);
        assert_eq!(knocks(&mut guard, start, "192.0.2.1"), 0);
    }

    #[test]
    fn bans_are_bounded_and_the_oldest_is_forgotten() {
        let mut guard = Guard::new(24, Pacer::boundless());
        let peers: Vec<PeerId> = (0..limits::MAX_BANNED + 1).map(|_| PeerId::random()).collect();
        peers.iter().for_each(|peer| guard.ban(*peer));
        guard.ban(peers[1]);
        assert!(!guard.is_banned(&peers[0]) && guard.is_banned(&peers[1]));
        guard.spare(peers[1]);
        assert!(!guard.is_banned(&peers[1]), "while a lease runs");
        guard.spare_no_longer(&peers[1]);
        assert!(guard.is_banned(&peers[1]), "and no longer");
        guard.unban(&peers[1]);
        assert!(!guard.is_banned(&peers[1]));
        assert_eq!((guard.banned.len(), guard.banned_order.len()), (limits::MAX_BANNED - 1, limits::MAX_BANNED - 1));
    }
}
