//! The mesh: the only place where libp2p's types appear. Outside, a peer is a `protocol::PeerId`, an address a string,
//! a message bytes, and a tunnel a tokio stream.
//!
//! | file | what |
//! |---|---|
//! | `types`, `handle` | the boundary: configuration, events, commands |
//! | `limits` | every bound, with its reason |
//! | `actor` | the loop that owns the swarm; `events`, `announce`, `reach`, `nat`, `paths`, `vicinity`, `upkeep` are parts |
//! | `peer` | what is known of a connected peer |
//! | `neighbours`, `join`, `anchors`, `limiter`, `pace`, `sites`, `book`, `reachability`, `relays` | what it decides; pure |
//! | `transport`, `link`, `metered` | what carries connections: sockets, or memory with simulated links; bytes counted |
//! | `behaviour`, `boxed`, `names`, `codec`, `guard`, `paced`, `tunnels`, `streams` | what libp2p is made of here |
//! | `prober`, `dialback`, `called`, `relaying`, `conduit`, `punch` | the library's AutoNAT, relay, punching, bounded |
//! | `fuzzing` | its decoders, for `tests/fuzz` |
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod actor;
mod anchors;
mod announce;
mod behaviour;
mod book;
mod boxed;
mod called;
mod codec;
mod conduit;
mod dialback;
mod events;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod guard;
mod handle;
mod join;
mod limiter;
pub mod limits;
pub mod link;
mod metered;
mod metrics;
mod names;
mod nat;
mod neighbours;
mod pace;
mod paced;
mod paths;
mod peer;
mod prober;
mod punch;
mod reach;
mod reachability;
mod relaying;
mod relays;
mod sites;
mod streams;
mod transport;
mod tunnels;
mod types;
mod upkeep;
mod vicinity;

pub use handle::MeshHandle;
pub use metered::{Metered, Traffic};
pub use metrics::MetricsSnapshot;
pub use types::*;

use protocol::{ErrorCode, Fault};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Starts a mesh node. An address that cannot be read, or cannot be listened on, is a fault here; one that cannot be
/// joined through is an event later, and is tried again. The mesh ends with `MeshHandle::shutdown`, or when the last
/// handle or the receiver of events is dropped.
pub async fn spawn(config: MeshConfig) -> Result<(MeshHandle, mpsc::Receiver<MeshEvent>), Fault> {
    let join = join_targets(&config)?;
    let names = names::Names::of(&config.network);
    let counters = Arc::new(metrics::Metrics::default());
    let mut swarm = behaviour::swarm(&config, &names, &counters)?;
    let mut listen = Vec::new();
    for addr in &config.listen {
        let parsed = book::parse_listen(addr)
            .map_err(|e| Fault::invalid(e.to_string()).hint("listen on an address like /ip4/0.0.0.0/tcp/4001"))?;
        // All are tried before one is taken, for ours may share a port: TCP and QUIC, or both versions of IP.
        if matches!(config.carriers, Carriers::Sockets) {
            book::is_free(&parsed).map_err(|e| cannot_listen(addr, &e))?;
        }
        listen.push(parsed);
    }
    for (parsed, addr) in listen.into_iter().zip(&config.listen) {
        swarm.listen_on(parsed).map_err(|e| match e {
            libp2p::TransportError::Other(e) => cannot_listen(addr, &e),
            // `parse_listen` lets through what our transports speak.
            libp2p::TransportError::MultiaddrNotSupported(_) => Fault::internal(format!("cannot listen on {addr}")),
        })?;
    }
    let (commands, received) = mpsc::channel(limits::COMMANDS);
    let (events, delivered) = mpsc::channel(limits::EVENTS);
    let handle = MeshHandle::new(config.keypair.peer_id(), commands, counters.clone(), join.bootstrap());
    let mut actor = actor::Actor::new(swarm, &config, join, counters, received, events);
    for (addr, peer) in anchored(&config) {
        actor.book.add(peer, addr);
    }
    for (addr, peer) in remembered(&config) {
        actor.book.add(peer, addr);
    }
    for peer in &config.banned {
        actor.ban(names::to_libp2p(*peer));
    }
    actor.settle(config.listen.len()).await;
    actor.dial_anchors(Instant::now());
    actor.join_again(Instant::now());
    tokio::spawn(actor.run());
    Ok((handle, delivered))
}

fn join_targets(config: &MeshConfig) -> Result<join::Join, Fault> {
    let local = names::to_libp2p(config.keypair.peer_id());
    let mut targets = Vec::new();
    for addr in &config.bootstrap {
        let (addr, peer) = book::parse(addr)?;
        // A node may stand in its own list, when one list is given to all.
        if peer != Some(local) {
            targets.push((addr, peer, false));
        }
    }
    // Those without an id can only be dialled; those with one are candidates for company.
    let nameless = config.remembered.iter().filter_map(|addr| book::parse(addr).ok()).filter(|(_, p)| p.is_none());
    targets.extend(nameless.map(|(addr, peer)| (addr, peer, true)));
    Ok(join::Join::new(Instant::now(), targets))
}

fn remembered(config: &MeshConfig) -> impl Iterator<Item = (libp2p::Multiaddr, libp2p::PeerId)> {
    let local = names::to_libp2p(config.keypair.peer_id());
    let parsed = config.remembered.iter().filter_map(|addr| book::parse(addr).ok());
    parsed.filter_map(move |(addr, peer)| Some((addr, peer.filter(|peer| *peer != local)?)))
}

/// Addresses of anchors, each with who is said to be there.
fn anchored(config: &MeshConfig) -> impl Iterator<Item = (libp2p::Multiaddr, libp2p::PeerId)> {
    let others = config.anchors.iter().filter(|anchor| anchor.peer != config.keypair.peer_id());
    others.flat_map(|anchor| {
        let peer = names::to_libp2p(anchor.peer);
        let parsed = anchor.addrs.iter().filter_map(|addr| book::parse(addr).ok());
        parsed.filter(move |(_, said)| said.is_none_or(|said| said == peer)).map(move |(addr, _)| (addr, peer))
    })
}

fn cannot_listen(addr: &str, error: &std::io::Error) -> Fault {
    let fault = Fault::new(ErrorCode::PortBlocked, format!("cannot listen on {addr}: {error}"));
    fault.hint(match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program uses this port; port 0 takes any that is free",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; take a higher one",
        std::io::ErrorKind::AddrNotAvailable => "no interface of this machine has this address",
        _ => "'golemnode doctor' looks at the network",
    })
}
