//! libp2p without us: what our node is measured against. The only place outside the mesh where libp2p's types appear,
//! for there is nothing between it and them. The defaults are the library's; the transport, the links and the counting
//! of bytes are the node's, and so is the tick without which gossipsub's heartbeat stops.
use super::arrivals::Arrivals;
use super::{Counted, Fleet, Kind, Setup};
use crate::rng::Dice;
use futures::StreamExt;
use libp2p::core::Transport;
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, gossipsub, identify, identity, noise, yamux};
use node::mesh::link::{self, Links};
use node::mesh::{Metered, Traffic};
use protocol::{Fault, Keypair};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Nodes that the others are told of, where Kademlia finds the rest.
const BOOTSTRAP: usize = 3;
/// Earlier nodes that each node connects to where there is no Kademlia: twice as many on average, as gossip wants.
const DIALS: usize = 3;
/// An advert's size.
const MESSAGE_BYTES: usize = 400;
/// As our node has it: long enough for a full handshake over slow links on a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(500);
/// A node takes what it is told at once; more than one thing is never waiting.
const COMMANDS: usize = 4;
const TOPIC: &str = "board";

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossip: gossipsub::Behaviour<Copies>,
    identify: identify::Behaviour,
    kad: Toggle<kad::Behaviour<MemoryStore>>,
}

/// Counts every copy of a message.
struct Copies(Arc<Counts>);

impl gossipsub::DataTransform for Copies {
    fn inbound_transform(&self, raw: gossipsub::RawMessage) -> std::io::Result<gossipsub::Message> {
        self.0.copies.fetch_add(1, Ordering::Relaxed);
        gossipsub::IdentityTransform.inbound_transform(raw)
    }
    fn outbound_transform(&self, topic: &gossipsub::TopicHash, data: Vec<u8>) -> std::io::Result<Vec<u8>> {
        gossipsub::IdentityTransform.outbound_transform(topic, data)
    }
}

/// Of all nodes together.
#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    firsts: AtomicU64,
    copies: AtomicU64,
    traffic: Arc<Traffic>,
}

enum Command {
    Say(usize),
    Connections(oneshot::Sender<usize>),
}

pub struct Bare {
    nodes: Vec<mpsc::Sender<Command>>,
    counts: Arc<Counts>,
}

impl Fleet for Bare {
    async fn start(setup: &Setup, arrivals: &Arrivals) -> Result<Self, Fault> {
        let counts = Arc::new(Counts::default());
        let mut dice = Dice::new(setup.seed);
        let (mut nodes, mut known) = (Vec::new(), Vec::new());
        for at in 0..setup.nodes {
            let key = Keypair::from_secret(&dice.bytes());
            let mut swarm = swarm(&key, setup.kind == Kind::Bare, setup.links(), &counts)?;
            let addr = listen(&mut swarm).await?;
            let contacts = match setup.kind {
                Kind::GossipOnly => some_of(&mut dice, &known),
                _ => known.iter().take(BOOTSTRAP).cloned().collect(),
            };
            join(&mut swarm, &contacts)?;
            known.push((*swarm.local_peer_id(), addr));
            let (commands, received) = mpsc::channel(COMMANDS);
            tokio::spawn(drive(swarm, at, received, arrivals.clone(), counts.clone()));
            nodes.push(commands);
        }
        Ok(Bare { nodes, counts })
    }

    fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            opened: read(&self.counts.opened),
            bytes_in: read(&self.counts.traffic.bytes_in),
            bytes_out: read(&self.counts.traffic.bytes_out),
            // It has no requests of its own: Kademlia asks by itself.
            requests: 0,
            firsts: read(&self.counts.firsts),
            copies: read(&self.counts.copies),
        }
    }

    async fn connections(&self) -> Result<Vec<usize>, Fault> {
        let mut connections = Vec::new();
        for node in &self.nodes {
            let (answer, answered) = oneshot::channel();
            node.send(Command::Connections(answer)).await.map_err(gone)?;
            connections.push(answered.await.map_err(gone)?);
        }
        Ok(connections)
    }

    async fn publish(&self, message: usize) -> Result<(), Fault> {
        self.nodes[message * 7919 % self.nodes.len()].send(Command::Say(message)).await.map_err(gone)
    }

    async fn stop(self) -> Result<(), Fault> {
        // A node ends when nobody can tell it anything any more.
        drop(self.nodes);
        Ok(())
    }
}

fn gone<E>(_: E) -> Fault {
    Fault::internal("a bare node has ended")
}

fn broken(what: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::internal(format!("a bare node's {what}: {error}"))
}

/// `DIALS` of those before, none twice.
fn some_of(dice: &mut Dice, known: &[(PeerId, Multiaddr)]) -> Vec<(PeerId, Multiaddr)> {
    let mut left = known.to_vec();
    (0..DIALS.min(left.len())).map(|_| left.swap_remove(dice.index(left.len()))).collect()
}

fn swarm(key: &Keypair, with_kad: bool, links: Links, counts: &Arc<Counts>) -> Result<Swarm<Behaviour>, Fault> {
    let (local, traffic) = (key.peer_id(), counts.traffic.clone());
    let key = identity::Keypair::ed25519_from_bytes(&mut key.secret()).map_err(|e| broken("key", &e))?;
    let peer = key.public().to_peer_id();
    let transport = MemoryTransport::default()
        .and_then(move |channel, point| link::meet(channel, local, point.is_dialer(), links))
        .map(move |stream, _| Metered::new(stream, traffic))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).map_err(|e| broken("noise", &e))?)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE)
        .boxed();
    // Nothing is signed and nothing verified: the least that gossip can cost.
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Permissive)
        .build()
        .map_err(|e| broken("gossip", &e))?;
    let author = gossipsub::MessageAuthenticity::Author(peer);
    let mut gossip = gossipsub::Behaviour::new_with_transform(author, config, Copies(counts.clone()))
        .map_err(|e| broken("gossip", &e))?;
    gossip.subscribe(&gossipsub::IdentTopic::new(TOPIC)).map_err(|e| broken("topic", &e))?;
    let kad = with_kad.then(|| {
        let mut kad = kad::Behaviour::new(peer, MemoryStore::new(peer));
        kad.set_mode(Some(kad::Mode::Server));
        kad
    });
    let identify = identify::Behaviour::new(identify::Config::new("/bare/1".to_owned(), key.public()));
    let behaviour = Behaviour { gossip, identify, kad: kad.into() };
    Ok(Swarm::new(transport, behaviour, peer, libp2p::swarm::Config::with_tokio_executor()))
}

async fn listen(swarm: &mut Swarm<Behaviour>) -> Result<Multiaddr, Fault> {
    swarm.listen_on(Protocol::Memory(0).into()).map_err(|e| broken("listener", &e))?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return Ok(address);
        }
    }
}

fn join(swarm: &mut Swarm<Behaviour>, contacts: &[(PeerId, Multiaddr)]) -> Result<(), Fault> {
    for (peer, addr) in contacts {
        match swarm.behaviour_mut().kad.as_mut() {
            Some(kad) => {
                kad.add_address(peer, addr.clone());
            }
            None => swarm.dial(addr.clone().with(Protocol::P2p(*peer))).map_err(|e| broken("first dial", &e))?,
        }
    }
    if let Some(kad) = swarm.behaviour_mut().kad.as_mut().filter(|_| !contacts.is_empty()) {
        kad.bootstrap().map_err(|e| broken("bootstrap", &e))?;
    }
    Ok(())
}

async fn drive(
    mut swarm: Swarm<Behaviour>,
    me: usize,
    mut commands: mpsc::Receiver<Command>,
    arrivals: Arrivals,
    counts: Arc<Counts>,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Say(message)) => say(&mut swarm, me, message, &arrivals),
                Some(Command::Connections(answer)) => {
                    // Who asked may have given up.
                    let _ = answer.send(swarm.connected_peers().count());
                }
                None => return,
            },
            event = swarm.select_next_some() => on_event(&mut swarm, event, me, &arrivals, &counts),
            _ = tick.tick() => {}
        }
    }
}

fn say(swarm: &mut Swarm<Behaviour>, me: usize, message: usize, arrivals: &Arrivals) {
    let mut body = vec![0; MESSAGE_BYTES];
    body[..8].copy_from_slice(&(message as u64).to_be_bytes());
    arrivals.said(message, me, Instant::now());
    // Who has no neighbours reaches nobody, and that is what the figures will say.
    let _ = swarm.behaviour_mut().gossip.publish(gossipsub::IdentTopic::new(TOPIC), body);
}

fn on_event(
    swarm: &mut Swarm<Behaviour>,
    event: SwarmEvent<BehaviourEvent>,
    me: usize,
    arrivals: &Arrivals,
    counts: &Counts,
) {
    match event {
        SwarmEvent::ConnectionEstablished { .. } => {
            counts.opened.fetch_add(1, Ordering::Relaxed);
        }
        SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message { message, .. })) => {
            counts.firsts.fetch_add(1, Ordering::Relaxed);
            let number = message.data.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes) as usize);
            if let Some(number) = number {
                arrivals.came(number, me, Instant::now());
            }
        }
        // As the library's documentation has it: identify tells Kademlia who listens where.
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
            if let Some(kad) = swarm.behaviour_mut().kad.as_mut() {
                for addr in info.listen_addrs {
                    kad.add_address(&peer_id, addr);
                }
            }
        }
        _ => {}
    }
}
