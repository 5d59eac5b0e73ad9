//! What is put together from libp2p, with every default that matters set, and the transports under it.
use super::boxed::Boxed;
use super::called::Called;
use super::codec::Codec;
use super::dialback::DialBack;
use super::guard::Guard;
use super::limits;
use super::metrics::{Metrics, count};
use super::names::{Names, keypair};
use super::paced::Pacer;
use super::prober::Prober;
use super::punch::Punch;
use super::relaying::Relaying;
use super::transport::carriers;
use super::tunnels::Tunnels;
use super::types::{Carriers, MeshConfig};
use libp2p::kad::{self, store::MemoryStore, store::MemoryStoreConfig};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{self, NetworkBehaviour};
use libp2p::{PeerId, Swarm, gossipsub, identify, identity, mdns, memory_connection_limits, noise, ping, yamux};
use libp2p::{SwarmBuilder, relay, request_response, upnp};
use protocol::Fault;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    /// First: a connection that it denies is seen by nobody else.
    pub guard: Guard,
    memory: memory_connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub kad: kad::Behaviour<MemoryStore>,
    pub gossip: gossipsub::Behaviour<Copies>,
    pub control: request_response::Behaviour<Codec>,
    pub tunnels: Tunnels,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub prober: Prober,
    /// Full nodes test others; one-shot ones have gone before the answer.
    pub dialback: Toggle<DialBack>,
    upnp: Toggle<upnp::tokio::Behaviour>,
    pub relaying: Toggle<Relaying>,
    called: Called,
    pub punch: Punch,
}

/// No more connections while the process holds this much: ten times what a full neighbourhood, its visitors and a
/// large board need, so something else is wrong by then.
const MAX_PROCESS_BYTES: usize = 1 << 30;
/// Beside the control, gossip and DHT streams a peer may have `MAX_TUNNELS_PER_PEER` tunnels each way; yamux and QUIC
/// both stop at this, and yamux reserves nothing for a stream before it is used (256 KiB of window at first).
pub const MAX_STREAMS: u32 = 256;
/// Identify tells who listens where: at once, then rarely. It is also how a changed address is learnt.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(600);
/// A message seen is not taken again within this: the TTL of adverts. The board stops later replays by their sequence.
const DUPLICATES: Duration = Duration::from_secs(300);
/// Scores are refreshed this often; nobody's fate hangs on a second.
const SCORE_INTERVAL: Duration = Duration::from_secs(3);
/// Peers behind one address that are no offence: a site behind NAT. Addresses of this machine never are.
const PEERS_PER_IP: f64 = 16.0;

pub fn swarm(config: &MeshConfig, names: &Names, metrics: &Arc<Metrics>) -> Result<Swarm<Boxed<Behaviour>>, Fault> {
    let key = keypair(&config.keypair);
    let local = key.public().to_peer_id();
    let pacer = match config.carriers {
        Carriers::Sockets => Pacer::new(),
        Carriers::Memory(_) => Pacer::boundless(),
    };
    let behaviour = behaviour(config, names, &key, metrics, pacer.clone())?;
    let carriers = carriers(config, &key, &metrics.traffic)?;
    let broken = |what: &str, e: &dyn std::fmt::Display| Fault::internal(format!("{what}: {e}"));
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|_| carriers)
        .map_err(|e| broken("transport", &e))?
        .with_relay_client(noise::Config::new, yamux_config)
        .map_err(|e| broken("noise", &e))?
        .with_behaviour(|_, called| Boxed(behaviour(called)))
        .map_err(|e| broken("behaviour", &e))?
        .with_swarm_config(|_| {
            swarm::Config::with_executor(pacer).with_idle_connection_timeout(limits::IDLE_CONNECTION)
        })
        .build();
    debug_assert_eq!(*swarm.local_peer_id(), local);
    Ok(swarm)
}

pub fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS as usize);
    config
}

/// All of it, once the transport has made its half of the relay's client.
fn behaviour(
    config: &MeshConfig,
    names: &Names,
    key: &identity::Keypair,
    metrics: &Arc<Metrics>,
    pacer: Pacer,
) -> Result<impl FnOnce(relay::client::Behaviour) -> Behaviour + use<>, Fault> {
    let local = key.public().to_peer_id();
    let identify = identify::Config::new(names.identify.clone(), key.public())
        .with_agent_version(config.agent.clone())
        .with_interval(IDENTIFY_INTERVAL)
        .with_push_listen_addr_updates(true)
        // The address book does this, bounded and with its own rules.
        .with_cache_size(0);
    let ping = ping::Config::new().with_interval(limits::PING_INTERVAL).with_timeout(limits::PING_TIMEOUT);
    let control = request_response::Config::default()
        .with_request_timeout(limits::CONTROL_STREAM_TIMEOUT)
        .with_max_concurrent_streams(limits::MAX_CONTROL_STREAMS);
    let protocols = [(names.control.clone(), request_response::ProtocolSupport::Full)];
    let guard = Guard::new(config.max_neighbours, pacer);
    let (kad, gossip, mdns) =
        (kademlia(config, names, local), gossip(names, Copies(metrics.clone()))?, multicast(config.mdns, local));
    let (identify, ping) = (identify::Behaviour::new(identify), ping::Behaviour::new(ping));
    let control = request_response::Behaviour::with_codec(Codec, protocols, control);
    let tunnels = Tunnels::new(names.tunnel.clone());
    let dialback = config.server.then(DialBack::default);
    let relaying = config.relay.filter(|_| config.server).map(|limits| Relaying::new(local, limits));
    let upnp = forwards_ports(config).then(upnp::tokio::Behaviour::default);
    let max_bytes = match config.carriers {
        Carriers::Sockets => MAX_PROCESS_BYTES,
        // Hundreds of nodes share this process: what it takes says nothing about one of them.
        Carriers::Memory(_) => usize::MAX,
    };
    Ok(move |called| Behaviour {
        guard,
        memory: memory_connection_limits::Behaviour::with_max_bytes(max_bytes),
        identify,
        ping,
        kad,
        gossip,
        control,
        tunnels,
        mdns: mdns.into(),
        prober: Prober::default(),
        dialback: dialback.into(),
        upnp: upnp.into(),
        relaying: relaying.into(),
        called: Called::new(called),
        punch: Punch::new(local),
    })
}

/// A router cannot forward to a loopback address; and it is asked by multicast, which a test must not send.
fn forwards_ports(config: &MeshConfig) -> bool {
    let near = |addr: &String| ["/ip4/127.", "/ip6/::1/"].iter().any(|start| addr.starts_with(start));
    config.upnp && config.server && !config.listen.iter().all(near)
}

/// A machine without a usable interface still has its bootstrap addresses.
fn multicast(wanted: bool, local: PeerId) -> Option<mdns::tokio::Behaviour> {
    if !wanted {
        return None;
    }
    mdns::tokio::Behaviour::new(mdns::Config::default(), local)
        .inspect_err(|e| tracing::warn!("peers on this network will not be found by mDNS: {e}"))
        .ok()
}

/// Routing only: records and providers cannot carry a board (20 a key, unsigned), so nothing is ever stored.
fn kademlia(config: &MeshConfig, names: &Names, local: PeerId) -> kad::Behaviour<MemoryStore> {
    let mut kad = kad::Config::new(names.kad.clone());
    kad.set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_record_ttl(Some(Duration::from_secs(300)))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_record_ttl(Some(Duration::from_secs(300)))
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        // Only who identified itself as one of ours, by an address that means something here.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // The costliest default there is; `actor` refreshes hourly, and ends those that start by themselves.
        .set_periodic_bootstrap_interval(None)
        // Three ways that share no peer: who lies on one of them does not lead the others astray.
        .disjoint_query_paths(true)
        .set_query_timeout(limits::OPEN_DEADLINE)
        .set_substreams_timeout(limits::RPC_TIMEOUT)
        .set_max_packet_size(16 * 1024);
    let store =
        MemoryStoreConfig { max_records: 0, max_value_bytes: 0, max_providers_per_key: 0, max_provided_keys: 0 };
    let mut kad = kad::Behaviour::with_config(local, MemoryStore::with_config(local, store), kad);
    kad.set_mode(Some(if config.server { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}

/// Counts every copy of a message that comes, also those that gossipsub drops because it has one already.
#[derive(Clone)]
pub struct Copies(Arc<Metrics>);

impl gossipsub::DataTransform for Copies {
    fn inbound_transform(&self, raw: gossipsub::RawMessage) -> std::io::Result<gossipsub::Message> {
        count(&self.0.gossip_copies);
        gossipsub::IdentityTransform.inbound_transform(raw)
    }
    fn outbound_transform(&self, topic: &gossipsub::TopicHash, data: Vec<u8>) -> std::io::Result<Vec<u8>> {
        gossipsub::IdentityTransform.outbound_transform(topic, data)
    }
}

fn gossip(names: &Names, copies: Copies) -> Result<gossipsub::Behaviour<Copies>, Fault> {
    let broken = |e: &dyn std::fmt::Display| Fault::internal(format!("gossip: {e}"));
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(names.gossip_prefix.clone())
        // Adverts are signed themselves; a second signature with the forwarder's sequence number adds only bytes.
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        // The default id is source and number: the same advert published twice would travel twice.
        .message_id_fn(|message| {
            let digest = Sha256::new_with_prefix(message.topic.as_str()).chain_update(&message.data).finalize();
            gossipsub::MessageId::new(&digest[..20])
        })
        .max_transmit_size(limits::MAX_GOSSIP + 512)
        .duplicate_cache_time(DUPLICATES)
        .connection_handler_queue_len(limits::GOSSIP_QUEUE)
        .heartbeat_initial_delay(Duration::from_secs(1))
        .heartbeat_interval(Duration::from_secs(1))
        .max_publish_messages(64)
        .max_control_messages_sent(256)
        .max_ihave_messages_heartbeat(10)
        .build()
        .map_err(|e| broken(&e))?;
    let anonymous = gossipsub::MessageAuthenticity::Anonymous;
    let mut gossip = gossipsub::Behaviour::new_with_transform(anonymous, config, copies).map_err(|e| broken(&e))?;
    let topic = names.board_topic(0);
    let mut params = gossipsub::PeerScoreParams {
        ip_colocation_factor_threshold: PEERS_PER_IP,
        ip_colocation_factor_whitelist: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].into(),
        retain_score: DUPLICATES,
        decay_interval: SCORE_INTERVAL,
        ..Default::default()
    };
    params.topics.insert(topic.hash(), topic_score());
    gossip.with_peer_score(params, gossipsub::PeerScoreThresholds::default()).map_err(|e| broken(&e))?;
    gossip.subscribe(&topic).map_err(|e| broken(&e))?;
    Ok(gossip)
}

/// A point for a second in the mesh up to 20, a point for a new message up to 20, and the square of invalid ones
/// against it: a stranger gets no gossip after four within a few seconds (−10) and is not heard after nine (−80), an
/// old neighbour after eight and eleven.
fn topic_score() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 1.0,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 20.0,
        first_message_deliveries_weight: 1.0,
        first_message_deliveries_decay: 0.7,
        first_message_deliveries_cap: 20.0,
        // Off: a board is quiet for minutes, and silence is no offence.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -1.0,
        invalid_message_deliveries_decay: 0.9,
        ..Default::default()
    }
}
