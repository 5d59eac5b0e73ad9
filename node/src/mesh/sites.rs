//! Where a connection comes from, as far as it costs something to come from there: ids are free, addresses are not. What
//! a peer may have is bounded for its site as well, at about four times as much, so that many ids on one address gain
//! little. Pure.
//!
//! Who comes by a relay has no address that we could know. Its site is the relay's, but apart from those that are there
//! themselves: strangers must not use up the share of the relay's neighbours, nor these the strangers'. All that comes by
//! the relays of one block counts as one site, for relays' ids are as free as others; and a node is called by `RELAYS`
//! relays at most, which it has chosen itself.
//!
//! Loopback, private and link-local addresses have no site: the nodes of one machine, one laboratory or one household
//! would stand in one another's way, and nobody comes from there who could not do worse.
use super::book::{ip_of, is_relayed};
use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use protocol::shard::{Block, Site};

/// Of where a connection leads to or comes from; of a relayed one, the address that names the relay's.
pub fn of(addr: &Multiaddr) -> Option<Site> {
    let block = Block::of_ip(ip_of(addr)?)?;
    Some(if is_relayed(addr) { Site::Through(block) } else { Site::At(block) })
}
pub fn of_endpoint(endpoint: &ConnectedPoint) -> Option<Site> {
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => of(address),
        ConnectedPoint::Listener { local_addr, send_back_addr } => of_caller(local_addr, send_back_addr),
    }
}
pub fn of_caller(local: &Multiaddr, remote: &Multiaddr) -> Option<Site> {
    of(if is_relayed(local) { local } else { remote })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_a_block_and_what_comes_by_its_relays_another() {
        let relay = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X";
        let of = |addr: &str| super::of(&addr.parse().unwrap());
        let here = of("/ip4/192.0.2.1/tcp/1");
        assert!(here.is_some() && here == of("/ip4/192.0.2.200/udp/9/quic-v1"));
        assert_eq!(here, Site::of_ip("::ffff:192.0.2.7".parse().unwrap()));
        assert_ne!(here, of("/ip4/192.0.3.1/tcp/1"));
        assert_eq!(of("/ip6/2001:db8:1:2::1/tcp/1"), of("/ip6/2001:db8:1:ffff::9/tcp/1"));
        assert_ne!(of("/ip6/2001:db8:1::1/tcp/1"), of("/ip6/2001:db8:2::1/tcp/1"));
        let carried = of(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit"));
        assert!(carried.is_some() && carried != here);
        let (local, remote) = (format!("/ip4/192.0.2.9/tcp/1/p2p/{relay}/p2p-circuit"), format!("/p2p/{relay}"));
        assert_eq!(of_caller(&local.parse().unwrap(), &remote.parse().unwrap()), carried);
        for near in ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/fe80::1/tcp/1"] {
            assert_eq!(of(near), None, "{near}");
        }
    }
}
