//! What crosses the mesh's boundary: plain types of std, tokio and `protocol`, none of libp2p's.
use super::limits;
use super::link::Links;
use protocol::names::Network;
use protocol::shard::Site;
use protocol::{ErrorCode, Fault, Keypair, PeerId};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// What the connections run over.
#[derive(Clone, Default)]
pub enum Carriers {
    /// TCP and QUIC.
    #[default]
    Sockets,
    /// Channels between the nodes of one process. They listen on addresses `/ip4/…/tcp/…` of their own choice, which
    /// nobody outside the process can reach.
    Memory(Links),
}

/// Everything that the mesh is told when it starts.
#[derive(Clone)]
pub struct MeshConfig {
    pub keypair: Keypair,
    pub network: Network,
    pub carriers: Carriers,
    /// Multiaddrs to listen on, such as `/ip4/0.0.0.0/tcp/0` and `/ip4/0.0.0.0/udp/0/quic-v1`. May be empty.
    pub listen: Vec<String>,
    /// Multiaddrs to join through, with or without `/p2p/…`: redialled for as long as company is wanted.
    pub bootstrap: Vec<String>,
    /// Peers of an earlier run: dialled like bootstrap addresses, but given up quietly and never kept at a premium.
    pub remembered: Vec<String>,
    /// Dialled before anybody else; as `MeshEvent::Anchors` told them in an earlier run.
    pub anchors: Vec<Anchor>,
    /// Kept out from the start, the oldest first.
    pub banned: Vec<PeerId>,
    /// Find peers on the local network by multicast DNS.
    pub mdns: bool,
    /// A full node serves the DHT; a one-shot command only asks it, and keeps few neighbours.
    pub server: bool,
    /// Carry others' connections while this node is publicly reachable; within these bounds.
    pub relay: Option<RelayLimits>,
    /// Ask the router to forward our ports (UPnP). Never done by a node that listens on loopback only.
    pub upnp: bool,
    /// Believed instead of being found out; only tests of what follows from it want this.
    pub assume: Option<Reachability>,
    /// How many neighbours are kept beyond pinned and bootstrap peers.
    pub max_neighbours: usize,
    /// Shown to other nodes, e.g. `golemnode/0.1.0`.
    pub agent: String,
    /// How often the swarm is polled although nothing happened: gossipsub loses its own timer (see `actor`).
    /// `None` turns the cure off, which only its test wants.
    pub tick: Option<Duration>,
}

impl MeshConfig {
    pub fn new(keypair: Keypair, network: Network) -> Self {
        MeshConfig {
            keypair,
            network,
            carriers: Carriers::default(),
            listen: Vec::new(),
            bootstrap: Vec::new(),
            remembered: Vec::new(),
            anchors: Vec::new(),
            banned: Vec::new(),
            mdns: false,
            server: true,
            relay: Some(RelayLimits::default()),
            // Off like mDNS: it speaks to the local network, which is for the caller to want.
            upnp: false,
            assume: None,
            max_neighbours: limits::MAX_NEIGHBOURS,
            agent: concat!("golemnode/", env!("CARGO_PKG_VERSION")).to_owned(),
            tick: Some(limits::TICK),
        }
    }
}

/// What a relay gives, at most. The defaults are in `limits`, with their reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    pub reservations: usize,
    pub reservations_per_ip: usize,
    pub circuits: usize,
    pub circuits_per_peer: usize,
    pub circuits_per_holder: usize,
    pub circuit_life: Duration,
    pub circuit_bytes: u64,
    /// Of one holder of a reservation, both ways together, in each `window`.
    pub budget: u64,
    pub window: Duration,
}

impl Default for RelayLimits {
    fn default() -> Self {
        RelayLimits {
            reservations: limits::RELAY_RESERVATIONS,
            reservations_per_ip: limits::RELAY_RESERVATIONS_PER_IP,
            circuits: limits::RELAY_CIRCUITS,
            circuits_per_peer: limits::RELAY_CIRCUITS_PER_PEER,
            circuits_per_holder: limits::RELAY_CIRCUITS_PER_HOLDER,
            circuit_life: limits::RELAY_CIRCUIT_LIFE,
            circuit_bytes: limits::RELAY_CIRCUIT_BYTES,
            budget: limits::RELAY_BUDGET,
            window: limits::RELAY_WINDOW,
        }
    }
}

/// A peer that is gone back to first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub peer: PeerId,
    pub addrs: Vec<String>,
    /// Dials in vain since it was last reached.
    pub failures: u32,
}

/// A request that waits for `MeshHandle::reply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestToken(pub u64);

/// A request of ours that waits for `MeshEvent::Response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RpcId(pub u64);

/// A gossip message that waits for `MeshHandle::judge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GossipId(pub u64);

/// What becomes of a gossip message, and of the score of who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it.
    Accept,
    /// Drop it, and hold it against the sender.
    Reject,
    /// Drop it; nobody is to blame (an old sequence number, an advert known already).
    Ignore,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// Nothing is known about whether the peer acted on the request.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The request was not delivered.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The connection went down while the answer was awaited; the peer may have acted.
    #[error("the connection closed before the answer came")]
    Disconnected,
    #[error("the peer does not speak our control protocol")]
    Unsupported,
    #[error("message of {size} bytes, more than the {limit} allowed")]
    Oversized { size: usize, limit: usize },
    /// The peer ended the stream without an answer: it is overloaded, over its limit for us, or refuses us.
    #[error("the peer dropped the request: {0}")]
    Dropped(String),
    #[error("{0} requests are under way already")]
    Busy(usize),
}

impl From<RpcError> for Fault {
    fn from(error: RpcError) -> Fault {
        let code = match &error {
            RpcError::Timeout(_) => ErrorCode::Timeout,
            RpcError::Unreachable(_) | RpcError::Disconnected | RpcError::Dropped(_) => ErrorCode::Unreachable,
            RpcError::Unsupported => ErrorCode::UnknownVersion,
            RpcError::Oversized { .. } => ErrorCode::InvalidRequest,
            RpcError::Busy(_) => ErrorCode::TooManyRequests,
        };
        Fault::new(code, error.to_string())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    #[error("the mesh has stopped")]
    Stopped,
    #[error("no neighbour takes part in gossip yet")]
    NoNeighbours,
    #[error("message of {size} bytes, more than the {limit} allowed")]
    Oversized { size: usize, limit: usize },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("the peer takes no tunnels: {0}")]
    Refused(String),
    #[error("{0} are under way already")]
    Busy(usize),
    #[error("'{addr}' is not an address to dial: {why}")]
    BadAddress { addr: String, why: String },
}

impl From<MeshError> for Fault {
    fn from(error: MeshError) -> Fault {
        let (code, hint) = match &error {
            MeshError::Stopped => (ErrorCode::Unavailable, Some("run the command again")),
            MeshError::NoNeighbours => (ErrorCode::Unavailable, Some("give an address to join through: --bootstrap")),
            MeshError::Oversized { .. } => (ErrorCode::InvalidRequest, None),
            MeshError::Timeout(_) => (ErrorCode::Timeout, None),
            MeshError::Unreachable(_) => (ErrorCode::Unreachable, None),
            MeshError::Refused(_) => (ErrorCode::Unreachable, None),
            MeshError::Busy(_) => (ErrorCode::TooManyRequests, None),
            MeshError::BadAddress { .. } => {
                (ErrorCode::InvalidRequest, Some("an address looks like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…"))
            }
        };
        let fault = Fault::new(code, error.to_string());
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

/// A byte stream through the mesh.
pub trait Tunnel: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Tunnel for T {}
pub type BoxedStream = Box<dyn Tunnel>;

pub enum MeshEvent {
    /// Answered by `MeshHandle::reply`; dropped by `MeshHandle::drop_request`, or by itself after the time-out.
    Request {
        token: RequestToken,
        from: PeerId,
        /// None of who is here, or on a network of its own.
        site: Option<Site>,
        body: Vec<u8>,
    },
    /// Exactly one for each `MeshHandle::send`.
    Response {
        rpc: RpcId,
        result: Result<Vec<u8>, RpcError>,
    },
    /// The servers closest to this node; `own` is this node, while it serves the routing.
    Vicinity {
        own: Option<RoutingServer>,
        servers: Vec<RoutingServer>,
    },
    /// What `MeshHandle::find_holders` found; nothing when there is nobody to ask.
    Holders {
        ticket: u64,
        servers: Vec<RoutingServer>,
    },
    /// `from` is the neighbour that passed it on. Judge it within 4 s, or it is never forwarded.
    Gossip {
        id: GossipId,
        from: PeerId,
        body: Vec<u8>,
    },
    /// A peer has identified itself as one of this network, and is here to stay: a neighbour or one that is pinned.
    /// A request of it may have come before; visitors may ask without ever being told of.
    PeerConnected(PeerId),
    PeerDisconnected(PeerId),
    /// The peer speaks our protocols and listens at these addresses (each ending in `/p2p/ID`): worth remembering.
    PeerIdentified {
        peer: PeerId,
        addrs: Vec<String>,
        agent: String,
    },
    /// What is published from now on reaches this peer: publish once more what matters, and ask for its board.
    PeerSubscribed(PeerId),
    /// Somebody opened a tunnel to us.
    Stream {
        from: PeerId,
        stream: BoxedStream,
    },
    /// Whether others can reach us, the reason in words, and where: at most `limits::ANNOUNCED` addresses, each ending
    /// in `/p2p/ID` and of at most `limits::ANNOUNCED_BYTES`, confirmed direct ones before those of relays. Told whenever
    /// one of the three has changed.
    Reachability {
        state: Reachability,
        why: String,
        addrs: Vec<String>,
    },
    Listening(String),
    /// An address that we listened on is gone.
    ListenClosed(String),
    /// All of them, whenever one has come or gone, or could not be reached: to be remembered.
    Anchors(Vec<Anchor>),
    /// Once for each address and reason; it is tried again all the same.
    BootstrapFailed {
        addr: String,
        why: String,
    },
    /// A peer was refused or cut off; `why` is what the books count.
    Refused {
        peer: PeerId,
        why: Refused,
    },
}

/// A node that serves the routing, and where it can be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingServer {
    pub peer: PeerId,
    pub addrs: Vec<String>,
}

/// Why something of a peer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refused {
    /// More requests than its share.
    RequestRate,
    /// More tunnels than its share, or than we take in all.
    Tunnels,
    /// More than its site's share: of requests, tunnels or connections.
    Site,
    /// It speaks none of this network's protocols.
    OtherNetwork,
    /// Banned by `MeshHandle::ban`.
    Banned,
    /// The node has all the connections it takes.
    ConnectionLimit,
    /// Its key is not ed25519.
    KeyType,
    /// A message over the size limit.
    Oversized,
    /// More of our relay than its share, or than we give in all.
    Relay,
}

impl Refused {
    pub const ALL: [Refused; 9] = [
        Refused::RequestRate,
        Refused::Tunnels,
        Refused::Site,
        Refused::OtherNetwork,
        Refused::Banned,
        Refused::ConnectionLimit,
        Refused::KeyType,
        Refused::Oversized,
        Refused::Relay,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::RequestRate => "request_rate",
            Refused::Tunnels => "tunnels",
            Refused::Site => "site",
            Refused::OtherNetwork => "other_network",
            Refused::Banned => "banned",
            Refused::ConnectionLimit => "connection_limit",
            Refused::KeyType => "key_type",
            Refused::Oversized => "oversized",
            Refused::Relay => "relay",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// Can others connect to this node?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reachability {
    Public,
    Private,
    #[default]
    Unknown,
}

impl Reachability {
    pub fn as_str(self) -> &'static str {
        match self {
            Reachability::Public => "public",
            Reachability::Private => "private",
            Reachability::Unknown => "unknown",
        }
    }
}

/// How what is said to a peer gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Direct,
    /// Another node carries it, which reads nothing of it.
    Relayed {
        relay: PeerId,
    },
    /// Direct, through two routers that let nobody in.
    HolePunched,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Direct => f.write_str("direct"),
            Path::Relayed { relay } => write!(f, "relayed by {relay}"),
            Path::HolePunched => f.write_str("hole-punched"),
        }
    }
}

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub peer: PeerId,
    /// Where it is connected from or to, then where it says it listens.
    pub addrs: Vec<String>,
    pub connections: usize,
    /// The way that new tunnels take.
    pub path: Path,
    pub rtt_ms: Option<u64>,
    pub direction: Direction,
    pub agent: Option<String>,
    pub connected_since: std::time::SystemTime,
    pub pinned: bool,
    /// It is gone back to first after a restart.
    pub anchor: bool,
    /// It is one of the few that gossip is pushed to.
    pub in_gossip_mesh: bool,
    /// Gossipsub's opinion of it.
    pub gossip_score: Option<f64>,
}
