//! Addresses: read at the edge, and remembered for the peers that we may want again.
use super::limits;
use super::reachability::Scope;
use super::types::MeshError;
use libp2p::multiaddr::{Multiaddr, Protocol};
use libp2p::{PeerId, kad::PeerInfo};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// An address to dial, with the peer that is said to be there.
pub fn parse(addr: &str) -> Result<(Multiaddr, Option<PeerId>), MeshError> {
    let bad = |why: &str| bad(addr, why);
    if addr.len() > limits::MAX_ADDR_BYTES {
        return Err(bad("too long"));
    }
    let parsed: Multiaddr = addr.parse().map_err(|_| bad("not a multiaddr"))?;
    if !is_dialable(&parsed) {
        return Err(bad("only TCP and QUIC (/udp/PORT/quic-v1) are spoken"));
    }
    let peer = peer_of(&parsed);
    if is_relayed(&parsed) && peer.is_none() {
        return Err(bad("it does not say whom to reach by the relay"));
    }
    if peer.is_some_and(|peer| super::names::from_libp2p(&peer).is_none()) {
        return Err(bad("the peer's key is not ed25519"));
    }
    Ok((parsed, peer))
}

/// What is quoted of it fits on a line.
fn bad(addr: &str, why: &str) -> MeshError {
    MeshError::BadAddress { addr: protocol::text::plain(addr, 100), why: why.to_owned() }
}

/// As `parse`, for an address to listen on: no peer id in it, no name.
pub fn parse_listen(addr: &str) -> Result<Multiaddr, MeshError> {
    let (parsed, peer) = parse(addr)?;
    if peer.is_some() || ip_of(&parsed).is_none() {
        return Err(bad(addr, "a node listens on an IP address, without a peer id"));
    }
    Ok(parsed)
}

/// Is somebody else there? The library would listen beside them: it sets `SO_REUSEPORT`, to dial from the same port.
pub fn is_free(addr: &Multiaddr) -> std::io::Result<()> {
    let Some(ip) = ip_of(addr) else { return Ok(()) };
    match addr.iter().nth(1) {
        Some(Protocol::Tcp(port)) => std::net::TcpListener::bind((ip, port)).map(drop),
        Some(Protocol::Udp(port)) => std::net::UdpSocket::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

pub fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

pub fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

/// A name as resolvers take it; one in another alphabet is written in its `xn--` form.
fn is_host(name: &str) -> bool {
    (1..=253).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

fn is_dialable(addr: &Multiaddr) -> bool {
    let named = |part: &Protocol<'_>| match part {
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => is_host(name),
        _ => true,
    };
    let parts: Vec<Protocol<'_>> = addr.iter().collect();
    if !parts.iter().all(named) {
        return false;
    }
    let rest = match parts.as_slice() {
        [Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_), rest @ ..] => {
            rest
        }
        [Protocol::Dnsaddr(_)] => return true,
        _ => return false,
    };
    let rest = match rest {
        [Protocol::Tcp(_), rest @ ..] | [Protocol::Udp(_), Protocol::QuicV1, rest @ ..] => rest,
        _ => return false,
    };
    matches!(
        rest,
        [] | [Protocol::P2p(_)]
            | [Protocol::P2p(_), Protocol::P2pCircuit]
            | [Protocol::P2p(_), Protocol::P2pCircuit, Protocol::P2p(_)]
    )
}

/// By which relay it leads, if it does.
pub fn relay_of(addr: &Multiaddr) -> Option<PeerId> {
    let parts: Vec<Protocol<'_>> = addr.iter().collect();
    parts.windows(2).find_map(|pair| match pair {
        [Protocol::P2p(relay), Protocol::P2pCircuit] => Some(*relay),
        _ => None,
    })
}

/// One of TCP and QUIC, without a relay.
pub fn is_direct(addr: &Multiaddr) -> bool {
    is_dialable(addr) && !is_relayed(addr)
}

pub fn is_relayed(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::P2pCircuit)
}

/// A relay's address reaches as far as the relay's own.
fn scope(addr: &Multiaddr) -> Scope {
    ip_of(addr).map_or(Scope::World, Scope::of)
}

/// Of the addresses that a peer says it has, those that mean something here: a peer of the wide world has no use for
/// our loopback, and its own is not ours.
pub fn reachable(said: impl IntoIterator<Item = Multiaddr>, connected_by: &Multiaddr) -> Vec<Multiaddr> {
    let least = scope(connected_by);
    let unspecified = |addr: &Multiaddr| ip_of(addr).is_some_and(|ip| ip.is_unspecified());
    said.into_iter()
        .filter(|addr| addr.len() <= limits::MAX_ADDR_BYTES && is_dialable(addr))
        .filter(|addr| !unspecified(addr) && scope(addr) >= least)
        .take(limits::MAX_ADDRS_PER_PEER)
        .collect()
}

#[derive(Default)]
pub struct Book {
    peers: HashMap<PeerId, Vec<Multiaddr>>,
    /// Oldest first: who makes room.
    order: VecDeque<PeerId>,
}

impl Book {
    pub fn add(&mut self, peer: PeerId, addr: Multiaddr) {
        if !is_dialable(&addr) {
            return;
        }
        let Ok(addr) = addr.with_p2p(peer) else { return };
        if addr.len() > limits::MAX_ADDR_BYTES {
            return;
        }
        if !self.peers.contains_key(&peer) {
            self.order.push_back(peer);
            if self.order.len() > limits::MAX_KNOWN_PEERS
                && let Some(oldest) = self.order.pop_front()
            {
                self.peers.remove(&oldest);
            }
        }
        let addrs = self.peers.entry(peer).or_default();
        addrs.retain(|known| *known != addr);
        // The newest first: what was just heard is likelier to be right.
        addrs.insert(0, addr);
        addrs.truncate(limits::MAX_ADDRS_PER_PEER);
    }
    pub fn learn(&mut self, found: &PeerInfo) {
        found.addrs.iter().for_each(|addr| self.add(found.peer_id, addr.clone()));
    }
    pub fn of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers.get(peer).cloned().unwrap_or_default()
    }
    pub fn has_direct(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|addrs| addrs.iter().any(is_direct))
    }
    pub fn forget(&mut self, peer: &PeerId) {
        if self.peers.remove(peer).is_some() {
            self.order.retain(|known| known != peer);
        }
    }
    pub fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.order.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let id = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X";
        for good in [
            "/ip4/127.0.0.1/tcp/4001",
            "/ip6/::1/udp/4001/quic-v1",
            "/dns4/example.org/tcp/1",
            &format!("/ip4/192.0.2.1/udp/9/quic-v1/p2p/{id}"),
        ] {
            let (addr, peer) = parse(good).unwrap();
            assert_eq!(addr.to_string(), good);
            assert_eq!(peer.is_some(), good.contains("p2p"));
        }
        let relayed = format!("/ip4/192.0.2.1/udp/9/quic-v1/p2p/{id}/p2p-circuit/p2p/{id}");
        let (addr, peer) = parse(&relayed).unwrap();
        assert!(is_relayed(&addr) && !is_direct(&addr) && peer.is_some() && relay_of(&addr) == peer);
        assert!(parse_listen(&relayed).is_err());
        let nobody = format!("/ip4/192.0.2.1/tcp/9/p2p/{id}/p2p-circuit");
        let twice = format!("{relayed}/p2p-circuit/p2p/{id}");
        let bare = format!("/p2p/{id}/p2p-circuit/p2p/{id}");
        let long = format!("/dns4/{}/tcp/1", "a".repeat(500));
        for bad in ["", "nonsense", "/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1", "/memory/1", &nobody, &twice, &bare, &long] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse_listen(&format!("/ip4/127.0.0.1/tcp/0/p2p/{id}")).is_err());
        let long_name = parse_listen(&format!("/dns4/{}/tcp/1", "a".repeat(200))).unwrap_err().to_string();
        assert!(long_name.len() < 200, "what is quoted fits on a line: {long_name}");
        for named in ["/dns4/example.org/tcp/0", "/dnsaddr/example.org"] {
            assert!(parse(named).is_ok() && parse_listen(named).is_err(), "{named}");
        }
    }

    #[test]
    fn a_name_that_is_no_hosts_is_not_dialled_kept_or_shown() {
        let mut book = Book::default();
        let peer = PeerId::random();
        for name in ["a\u{1b}[2J", "a\u{9b}2J", "a\u{202e}b", "a b", "ä.example", ""] {
            for kind in ["dns", "dns4", "dns6", "dnsaddr"] {
                let text = format!("/{kind}/{name}{}", if kind == "dnsaddr" { "" } else { "/tcp/1" });
                let error = parse(&text).map(drop).unwrap_err().to_string();
                assert!(error.chars().all(protocol::text::is_plain), "{error:?}");
                if let Ok(addr) = text.parse::<Multiaddr>() {
                    assert!(reachable([addr.clone()], &"/ip4/127.0.0.1/tcp/9".parse().unwrap()).is_empty(), "{text:?}");
                    book.add(peer, addr);
                }
            }
        }
        assert!(book.of(&peer).is_empty());
        book.add(peer, "/dns4/xn--4ca.example_1.org/tcp/1".parse().unwrap());
        assert_eq!(book.of(&peer).len(), 1);
    }

    #[test]
    fn an_address_is_kept_where_it_means_something() {
        let addrs =
            || ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/203.0.113.1/tcp/1"].map(|a| a.parse().unwrap());
        for (by, expected) in
            [("/ip4/127.0.0.1/tcp/9", 3), ("/ip4/192.168.0.9/tcp/9", 2), ("/ip4/198.51.100.1/tcp/9", 1)]
        {
            assert_eq!(reachable(addrs(), &by.parse().unwrap()).len(), expected, "{by}");
        }
        let many = (1..100).map(|port| format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
        assert_eq!(reachable(many, &"/ip4/127.0.0.1/tcp/9".parse().unwrap()).len(), limits::MAX_ADDRS_PER_PEER);
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = Book::default();
        let addr: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let first = PeerId::random();
        book.add(first, addr.clone());
        for port in 1..20u16 {
            book.add(first, format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
        }
        assert_eq!(book.of(&first).len(), limits::MAX_ADDRS_PER_PEER);
        (0..limits::MAX_KNOWN_PEERS).for_each(|_| book.add(PeerId::random(), addr.clone()));
        assert_eq!((book.peers().count(), book.of(&first).len()), (limits::MAX_KNOWN_PEERS, 0));
    }
}
