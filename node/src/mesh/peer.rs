//! What is known of a connected peer, and what a dial is for.
use super::sites;
use super::streams::Count;
use super::types::{Direction, MeshError, Path};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use protocol::shard::Site;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// One connection to a peer.
pub(super) struct Link {
    pub id: ConnectionId,
    /// Where it leads to, or comes from.
    pub addr: Multiaddr,
    pub inbound: bool,
    /// Where it came in.
    pub local: Option<Multiaddr>,
    /// Who carries it.
    pub relay: Option<protocol::PeerId>,
    /// It goes through two routers that let nobody in.
    pub punched: bool,
    /// It was made to test an address; nothing is to be said over it.
    pub spare: bool,
    /// A tunnel did not open over it in time.
    pub suspect: bool,
    /// When a ping was last answered.
    pub answered: Option<Instant>,
    pub tunnels: Count,
    pub since: Instant,
}

impl Link {
    pub fn direct_ip(&self) -> Option<IpAddr> {
        super::book::ip_of(&self.addr).filter(|_| self.relay.is_none())
    }
    pub fn site(&self) -> Option<Site> {
        sites::of(&self.addr)
    }
    pub fn path(&self) -> Path {
        match (self.relay, self.punched) {
            (Some(relay), _) => Path::Relayed { relay },
            (None, true) => Path::HolePunched,
            (None, false) => Path::Direct,
        }
    }
}

/// A connected peer.
pub(super) struct Peer {
    pub id: protocol::PeerId,
    /// The oldest first.
    pub links: Vec<Link>,
    pub direction: Direction,
    pub since: SystemTime,
    pub connected_at: Instant,
    pub listen: Vec<Multiaddr>,
    /// Where it sees us, at most once for TCP and once for QUIC; and whether it has dialled us there.
    pub observed: Vec<(Multiaddr, bool)>,
    /// It offers to relay.
    pub relays: bool,
    /// What it has said since, until it is taken.
    pub announced: Option<Vec<Multiaddr>>,
    pub agent: Option<String>,
    pub rtt: Option<Duration>,
    /// It said that it speaks this network's protocols.
    pub identified: bool,
    /// The node was told of it: it is one of ours, and no visitor.
    pub told: bool,
    pub serves_dht: bool,
    pub subscribed: bool,
    pub tunnels: Count,
    /// Requests of ours under way.
    pub rpcs: usize,
    /// We decided to close it.
    pub closing: bool,
}

impl Peer {
    /// The link that new tunnels take: the oldest one without a relay, of those that answer.
    pub fn best(&self) -> Option<&Link> {
        self.links.iter().min_by_key(|link| (link.suspect, link.relay.is_some(), link.spare))
    }
    pub fn link(&self, id: ConnectionId) -> Option<&Link> {
        self.links.iter().find(|link| link.id == id)
    }
    /// Its own, where one of its links shows it.
    pub fn site(&self) -> Option<Site> {
        self.links.iter().min_by_key(|link| link.relay.is_some())?.site()
    }
    pub fn is_relayed(&self) -> bool {
        self.best().is_some_and(|link| link.relay.is_some())
    }
    /// The latest of each transport.
    pub fn sees_us_at(&mut self, addr: Multiaddr, dialled: bool) {
        let kind = |addr: &Multiaddr| addr.iter().nth(1).map(|part| part.tag());
        self.observed.retain(|(known, _)| kind(known) != kind(&addr));
        self.observed.push((addr, dialled));
    }
}

/// What a dial is for.
pub(super) enum DialFor {
    Join(usize),
    Company(PeerId),
    Anchor(PeerId),
    Command(oneshot::Sender<Result<protocol::PeerId, MeshError>>),
}
