//! What is known of a connected peer, and what a dial is for.
use super::streams::Count;
use super::types::{Direction, MeshError};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// A connected peer.
pub(super) struct Peer {
    pub id: protocol::PeerId,
    pub connections: Vec<(ConnectionId, Multiaddr)>,
    pub direction: Direction,
    pub since: SystemTime,
    pub connected_at: Instant,
    pub listen: Vec<Multiaddr>,
    /// What it has said since, until it is taken.
    pub announced: Option<Vec<Multiaddr>>,
    pub agent: Option<String>,
    pub rtt: Option<Duration>,
    /// It said that it speaks this network's protocols; the node hears of it from then on.
    pub identified: bool,
    pub serves_dht: bool,
    pub subscribed: bool,
    pub tunnels: Count,
    /// Requests of ours under way.
    pub rpcs: usize,
    /// We decided to close it.
    pub closing: bool,
}

/// What a dial is for.
pub(super) enum DialFor {
    Join(usize),
    Company(PeerId),
    Command(oneshot::Sender<Result<protocol::PeerId, MeshError>>),
}
