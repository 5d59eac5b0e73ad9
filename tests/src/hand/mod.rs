//! A peer driven by hand: real connections, and on their streams whatever bytes one likes. For the tests of what a
//! node does with frames that ours would never send.
pub mod attack;
pub mod frames;
pub mod honest;
pub mod liar;
mod streams;

pub use streams::{Asked, Opened};

use futures::StreamExt;
use libp2p::core::upgrade::Version;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use std::io;
use std::time::Duration;
use streams::{Streams, StreamsEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// The connection, and each stream: a node on the same machine that takes longer than this has refused.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Streams that are being opened, and those that the node has opened to us and nobody has looked at.
const QUEUE: usize = 64;

/// What the protocols of a network are called.
#[derive(Clone)]
pub struct Names {
    pub control: String,
    pub gossip: String,
    pub tunnel: String,
    pub kad: String,
    pub topic: String,
    identify: String,
}

impl Names {
    pub fn of(network: &str) -> Self {
        let name = |what: &str| format!("/golemnode/{network}/{what}");
        Names {
            control: name("control/1"),
            gossip: name("gossip/1.2.0"),
            tunnel: name("tunnel/1"),
            kad: name("kad/1"),
            topic: name("board/1/0"),
            identify: name("1"),
        }
    }
}

pub const IDENTIFY: &str = "/ipfs/id/1.0.0";
pub const IDENTIFY_PUSH: &str = "/ipfs/id/push/1.0.0";

#[derive(NetworkBehaviour)]
struct Body {
    identify: Toggle<identify::Behaviour>,
    streams: Streams,
}

/// A connection to a node, under a key of its own.
pub struct Hand {
    opening: mpsc::Sender<(StreamProtocol, oneshot::Sender<io::Result<libp2p::Stream>>)>,
    /// Streams that the node has opened to us.
    pub asked: mpsc::Receiver<Asked>,
    pub key: libp2p::identity::Keypair,
}

impl Hand {
    /// Says who it is as one of ours would, or leaves that question to its owner, in `asked`, with all the others.
    pub async fn connect(addr: &str, names: &Names, introduces_itself: bool) -> io::Result<Hand> {
        Self::connect_as(libp2p::identity::Keypair::generate_ed25519(), addr, names, introduces_itself).await
    }

    pub async fn connect_as(
        key: libp2p::identity::Keypair,
        addr: &str,
        names: &Names,
        introduces_itself: bool,
    ) -> io::Result<Hand> {
        let mut swarm = swarm(&key, names, introduces_itself)?;
        let addr: Multiaddr = addr.parse().map_err(io::Error::other)?;
        swarm.dial(DialOpts::unknown_peer_id().address(addr).build()).map_err(io::Error::other)?;
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                    SwarmEvent::OutgoingConnectionError { error, .. } => return Err(io::Error::other(error)),
                    _ => {}
                }
            }
        };
        let peer = timeout(PATIENCE, connected).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let (opening, wanted) = mpsc::channel(QUEUE);
        let (hand_over, asked) = mpsc::channel(QUEUE);
        tokio::spawn(drive(swarm, peer, wanted, hand_over));
        Ok(Hand { opening, asked, key })
    }

    /// A stream of this protocol. It is not yet known whether the node speaks it.
    pub async fn open(&self, protocol: &str) -> io::Result<libp2p::Stream> {
        let protocol = StreamProtocol::try_from_owned(protocol.to_owned()).map_err(io::Error::other)?;
        let (done, opened) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        self.opening.send((protocol, done)).await.map_err(|_| gone())?;
        timeout(PATIENCE, opened).await.map_err(|_| io::ErrorKind::TimedOut)?.map_err(|_| gone())?
    }
}

fn swarm(key: &libp2p::identity::Keypair, names: &Names, introduces_itself: bool) -> io::Result<Swarm<Body>> {
    let named = |name: &str| StreamProtocol::try_from_owned(name.to_owned()).map_err(io::Error::other);
    let mut spoken = vec![named(&names.control)?, named(&names.gossip)?, named(&names.kad)?, named(&names.tunnel)?];
    let identify = introduces_itself.then(|| {
        let config = identify::Config::new(names.identify.clone(), key.public()).with_agent_version("hand/1".into());
        identify::Behaviour::new(config)
    });
    if !introduces_itself {
        spoken.push(named(IDENTIFY)?);
    }
    let body = Body { identify: identify.into(), streams: Streams::new(spoken) };
    let swarm = SwarmBuilder::with_existing_identity(key.clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(io::Error::other)?
        .with_behaviour(|_| body)
        .map_err(io::Error::other)?
        // The first bytes go out with the protocol's name: nobody waits for a yes.
        .with_swarm_config(|config| config.with_substream_upgrade_protocol_override(Version::V1Lazy))
        .build();
    Ok(swarm)
}

/// Until the connection ends, or its owner has gone.
async fn drive(
    mut swarm: Swarm<Body>,
    peer: libp2p::PeerId,
    mut wanted: mpsc::Receiver<(StreamProtocol, oneshot::Sender<io::Result<libp2p::Stream>>)>,
    hand_over: mpsc::Sender<Asked>,
) {
    loop {
        tokio::select! {
            next = wanted.recv() => match next {
                Some((protocol, done)) => swarm.behaviour_mut().streams.open(peer, Opened { protocol, done }),
                None => return,
            },
            event = swarm.select_next_some() => match event {
                // Those for which there is no room are dropped.
                SwarmEvent::Behaviour(BodyEvent::Streams(StreamsEvent(asked))) => drop(hand_over.try_send(asked)),
                SwarmEvent::ConnectionClosed { .. } => return,
                _ => {}
            },
        }
    }
}
