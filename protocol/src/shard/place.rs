//! Positions in the key space that servers and shards share, and who holds what lies there.
use crate::identity::PeerId;
use crate::names::PeerAddr;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Servers of one subnet that count among a shard's holders: whoever wants them all needs addresses in four networks.
pub const HOLDERS_PER_NET: usize = 2;

/// The first 128 bits of a SHA-256, as Kademlia compares them. The rest would only tell positions apart that agree in
/// all of these, which nobody can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u128);

impl Position {
    /// Kademlia hashes whatever it is asked for, ids and keys alike.
    pub fn of_key(bytes: &[u8]) -> Position {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Position(u128::from_be_bytes(first))
    }
    pub fn of_peer(peer: PeerId) -> Position {
        Position::of_key(&peer.to_multihash())
    }
    /// By exclusive or, as in Kademlia: symmetric, and for each distance there is one position.
    pub fn distance(self, other: Position) -> u128 {
        self.0 ^ other.0
    }
    /// The first so many bits, at most 32.
    pub fn bits(self, count: u8) -> u32 {
        if count == 0 { 0 } else { (self.0 >> (128 - u32::from(count))) as u32 }
    }
}

/// Addresses that one owner is likely to have together: a /16 of IPv4, a /32 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Net {
    V4([u8; 2]),
    V6([u8; 4]),
}

impl Net {
    /// None for addresses that mean something on one site only: there everybody shares a subnet.
    pub fn of_ip(ip: IpAddr) -> Option<Net> {
        match ip {
            IpAddr::V4(ip) if is_local_v4(ip) => None,
            IpAddr::V4(ip) => Some(Net::V4([ip.octets()[0], ip.octets()[1]])),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(mapped) => Net::of_ip(IpAddr::V4(mapped)),
                None if is_local_v6(ip) => None,
                None => ip.octets().first_chunk().map(|first| Net::V6(*first)),
            },
        }
    }
    /// Of the first address that has one. A relay's address is the relay's, not the node's.
    pub fn of_addrs(addrs: &[PeerAddr]) -> Option<Net> {
        let direct = addrs.iter().filter(|addr| !addr.as_str().contains("/p2p-circuit"));
        direct.filter_map(ip_of).find_map(Net::of_ip)
    }
}

/// Addresses that one site has: a /24 of IPv4, a /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Block {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Block {
    pub fn of_ip(ip: IpAddr) -> Option<Block> {
        Net::of_ip(ip)?;
        match ip {
            IpAddr::V4(ip) => ip.octets().first_chunk().map(|first| Block::V4(*first)),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(mapped) => Block::of_ip(IpAddr::V4(mapped)),
                None => ip.octets().first_chunk().map(|first| Block::V6(*first)),
            },
        }
    }
}

/// Where somebody is, as far as it costs something to be there. Who comes by a relay has no address that we could know:
/// its site is the relay's, but apart from those that are there themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Site {
    At(Block),
    Through(Block),
}

impl Site {
    pub fn of_ip(ip: IpAddr) -> Option<Site> {
        Block::of_ip(ip).map(Site::At)
    }
    /// Of the addresses that its own is one of.
    pub fn block(self) -> Option<Block> {
        match self {
            Site::At(block) => Some(block),
            Site::Through(_) => None,
        }
    }
}

fn ip_of(addr: &PeerAddr) -> Option<IpAddr> {
    let mut parts = addr.as_str().split('/').skip(1);
    match (parts.next()?, parts.next()?) {
        ("ip4", ip) => ip.parse().ok().map(IpAddr::V4),
        ("ip6", ip) => ip.parse().ok().map(IpAddr::V6),
        _ => None,
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    // 100.64/10: carrier-grade NAT, RFC 6598.
    let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || shared
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local()
}

/// A node that serves the routing, and may hold shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub peer: PeerId,
    pub at: Position,
    pub net: Option<Net>,
    pub addrs: Vec<PeerAddr>,
}

impl Server {
    pub fn new(peer: PeerId, addrs: Vec<PeerAddr>) -> Arc<Server> {
        Arc::new(Server { peer, at: Position::of_peer(peer), net: Net::of_addrs(&addrs), addrs })
    }
}

/// As it travels: position and subnet follow from the rest.
impl Serialize for Server {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.peer, &self.addrs).serialize(serializer)
    }
}
impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (peer, mut addrs) = <(PeerId, Vec<PeerAddr>)>::deserialize(deserializer)?;
        addrs.truncate(crate::advert::MAX_ADDRS);
        Ok(Server { peer, at: Position::of_peer(peer), net: Net::of_addrs(&addrs), addrs })
    }
}

/// The `count` closest to a place, of one subnet no more than two: ids can be ground to lie anywhere, addresses in
/// many networks cost money.
pub fn spread(mut servers: Vec<Arc<Server>>, place: Position, count: usize) -> Vec<Arc<Server>> {
    servers.sort_by_key(|server| server.at.distance(place));
    servers.dedup_by_key(|server| server.peer);
    let mut chosen: Vec<Arc<Server>> = Vec::with_capacity(count);
    for server in servers {
        let same = |other: &&Arc<Server>| server.net.is_some() && other.net == server.net;
        if chosen.iter().filter(same).count() < HOLDERS_PER_NET {
            chosen.push(server);
        }
        if chosen.len() >= count {
            break;
        }
    }
    chosen
}
